"""AlexNet's trunk."""

from functools import partial

from torch import Tensor, nn

from retrieval.layers import convolution
from retrieval.specs import NetworkSpec


class AlexNet(nn.Module):
    """(B,1 or 3,H,W) → (B,256,h,w): 224 pixels end in 6×6 (stock), 32 pixels in 3×3 (small).

    The stock form is torchvision's, weights included: one column and no response normalisation
    (Krizhevsky, "One weird trick for parallelizing convolutional neural networks"), whose channels
    differ from those of 2012. The small form begins with 5×5 filters of stride 1 instead of 11×11 of
    stride 4. With batch normalisation convolutions have no biases.
    """

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        c = [spec.scaled(n) for n in (64, 192, 384, 256, 256)]
        convolve = partial(
            convolution, batch_norm=spec.batch_norm, activation=spec.activation or "relu"
        )
        small = spec.stem == "small"
        self.stride, self.smallest = (8, 23) if small else (32, 95)
        if small:
            first = convolve(spec.channels, c[0], 5, padding=2)
        else:
            first = convolve(spec.channels, c[0], 11, stride=4, padding=2)
        self.out_channels = c[-1]
        self.features = nn.Sequential(
            *first,
            nn.MaxPool2d(3, 2),
            *convolve(c[0], c[1], 5, padding=2),
            nn.MaxPool2d(3, 2),
            *convolve(c[1], c[2], 3, padding=1),
            *convolve(c[2], c[3], 3, padding=1),
            *convolve(c[3], c[4], 3, padding=1),
            nn.MaxPool2d(3, 2),
        )

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.features(images)
        return features
