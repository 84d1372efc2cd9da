"""GoogLeNet's trunk, made of torchvision's Inception blocks."""

from functools import partial

from torch import Tensor, nn
from torchvision.models.googlenet import BasicConv2d, Inception

from retrieval.specs import NetworkSpec

BLOCKS = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}
"""1×1; 3×3 reduced, 3×3; 5×5 reduced, 5×5; after pooling (Szegedy et al., table 1)."""


class GoogLeNet(nn.Module):
    """(B,1 or 3,H,W) → (B,1024,h,w): 224 pixels end in 7×7 (stock), 32 in 4×4 (small).

    Stock is torchvision's, weights included, which differs from the paper (Szegedy et al., "Going
    Deeper with Convolutions", table 1) by batch normalisation and by 3×3 filters where the paper has
    5×5. Auxiliary classifiers are left out. The small form begins with 3×3 filters of stride 1 and
    leaves the first maximum out.
    """

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        c = spec.scaled
        small = spec.stem == "small"
        first = {"kernel_size": 3, "padding": 1} if small else {
            "kernel_size": 7, "stride": 2, "padding": 3}  # fmt: skip
        self.conv1 = BasicConv2d(spec.channels, c(64), **first)
        halve = partial(nn.MaxPool2d, stride=2, ceil_mode=True)
        self.maxpool1 = nn.Identity() if small else halve(3)
        self.conv2 = BasicConv2d(c(64), c(64), kernel_size=1)
        self.conv3 = BasicConv2d(c(64), c(192), kernel_size=3, padding=1)
        self.maxpool2 = halve(3)
        before = c(192)
        for name, widths in BLOCKS.items():
            if name == "4a":
                self.maxpool3 = halve(3)
            if name == "5a":
                self.maxpool4 = halve(2)
            one, three_in, three, five_in, five, pooled = map(c, widths)
            self.add_module(
                f"inception{name}", Inception(before, one, three_in, three, five_in, five, pooled)
            )
            before = one + three + five + pooled
        self.out_channels = before
        self.stride, self.smallest = (8, 12) if small else (32, 47)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.trunc_normal_(layer.weight, std=0.01, a=-2, b=2)

    def forward(self, images: Tensor) -> Tensor:
        features = images
        for layer in self.children():
            features = layer(features)
        return features
