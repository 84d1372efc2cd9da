"""Network in network: convolutions followed by 1×1 convolutions."""

from functools import partial

from torch import Tensor, nn

from retrieval.layers import convolution, initialise
from retrieval.specs import NetworkSpec


class NiN(nn.Module):
    """(B,1 or 3,H,W) → (B,C,h,w): C 192 at stride 4 (small), C 1024 at stride 32 (stock).

    Small is the paper's network for CIFAR-10: three blocks, 966,986 parameters with a linear head for
    ten classes. Stock is the four blocks that its authors trained on ImageNet. The last 1×1
    convolution is the head's: linear after averaging is the same as averaging after a linear 1×1
    convolution; only its activation is left out. Source: Lin, Chen and Yan, "Network In Network".
    """

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        convolve = partial(
            convolution, batch_norm=spec.batch_norm, activation=spec.activation or "relu"
        )
        dropout = 0.5 if spec.dropout is None else spec.dropout

        def block(first: list[nn.Module], before: int, *widths: int) -> nn.Module:
            """A convolution, followed by 1×1 convolutions."""
            layers = first
            for width in map(c, widths):
                layers += convolve(before, width, 1)
                before = width
            return nn.Sequential(*layers)

        c = spec.scaled
        largest = partial(nn.MaxPool2d, 3, 2, ceil_mode=True)
        entry = spec.channels
        if spec.stem == "small":
            self.stages = nn.Sequential(
                block(convolve(entry, c(192), 5, padding=2), c(192), 160, 96),
                largest(),
                nn.Dropout(dropout),
                block(convolve(c(96), c(192), 5, padding=2), c(192), 192, 192),
                nn.AvgPool2d(3, 2, ceil_mode=True),
                nn.Dropout(dropout),
                block(convolve(c(192), c(192), 3, padding=1), c(192), 192),
            )
        else:
            self.stages = nn.Sequential(
                block(convolve(entry, c(96), 11, stride=4), c(96), 96, 96),
                largest(),
                block(convolve(c(96), c(256), 5, padding=2), c(256), 256, 256),
                largest(),
                block(convolve(c(256), c(384), 3, padding=1), c(384), 384, 384),
                largest(),
                nn.Dropout(dropout),
                block(convolve(c(384), c(1024), 3, padding=1), c(1024), 1024),
            )
        self.out_channels = spec.scaled(192 if spec.stem == "small" else 1024)
        self.stride, self.smallest = (4, 8) if spec.stem == "small" else (32, 71)
        initialise(self, "kaiming")

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.stages(images)
        return features
