"""The trunk of the course's small detector: three blocks that halve the picture."""

from itertools import pairwise

from torch import Tensor, nn

from retrieval.layers import convolution, initialise
from retrieval.specs import NetworkSpec

CHANNELS = (16, 32, 64)


def halving_block(in_channels: int, out_channels: int) -> nn.Sequential:
    """Two 3×3 convolutions, each normalised and activated, and a maximum: (H,W) → (⌈H/2⌉,⌈W/2⌉)."""
    return nn.Sequential(
        *convolution(in_channels, out_channels, 3, padding=1, batch_norm=True),
        *convolution(out_channels, out_channels, 3, padding=1, batch_norm=True),
        nn.MaxPool2d(2, ceil_mode=True),
    )


class Tiny(nn.Module):
    """(B,1 or 3,H,W) → (B,64,⌈H/8⌉,⌈W/8⌉), with channels 16, 32, 64.

    There is one form; ``stem`` does not change it. Source: Zhang, Lipton, Li and Smola, "Dive into Deep
    Learning", §14.7, which calls it the base network.
    """

    stride, smallest = 8, 9

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        widths = [spec.channels, *map(spec.scaled, CHANNELS)]
        self.blocks = nn.Sequential(*(halving_block(a, b) for a, b in pairwise(widths)))
        self.out_channels = widths[-1]
        initialise(self, "kaiming")

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.blocks(images)
        return features
