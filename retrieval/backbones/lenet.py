"""LeNet-5's trunk: two convolutions, each followed by averaging."""

from functools import partial

from torch import Tensor, nn

from retrieval.layers import convolution, initialise
from retrieval.specs import NetworkSpec


class LeNet(nn.Module):
    """(B,1 or 3,H,W) → (B,16,h,w), h = (H//2 − 4)//2: pictures of 28 pixels end in 5×5.

    Source: LeCun et al., "Gradient-Based Learning Applied to Document Recognition", §II.B. Differences:
    the second convolution sees all six maps, averages have no weights, tanh is not scaled, and
    pictures of 28 pixels get two pixels of zeros around, as in the common form of today. With
    hidden layers of 120 and 84 on the flattened map it has 61,706 parameters at 28 pixels, grey.
    """

    stride, smallest = 4, 16

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        first, second = spec.scaled(6), spec.scaled(16)
        convolve = partial(
            convolution, batch_norm=spec.batch_norm, activation=spec.activation or "tanh"
        )
        self.out_channels = second
        self.features = nn.Sequential(
            *convolve(spec.channels, first, 5, padding=2),
            nn.AvgPool2d(2),
            *convolve(first, second, 5),
            nn.AvgPool2d(2),
        )
        initialise(self, "xavier")

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.features(images)
        return features
