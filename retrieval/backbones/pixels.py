"""No trunk at all: baselines whose head sees the pixels themselves."""

from torch import Tensor, nn

from retrieval.specs import NetworkSpec


class Pixels(nn.Module):
    """(B,1 or 3,H,W) → the same. For softmax (linear), logistic (two classes) and mlp."""

    stride, smallest = 1, 2

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.out_channels = spec.channels

    def forward(self, images: Tensor) -> Tensor:
        return images
