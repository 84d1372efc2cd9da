"""ResNets made of torchvision's blocks, with their own entry or one for small pictures."""

from typing import ClassVar

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from retrieval.layers import initialise
from retrieval.specs import NetworkSpec

FORMS: dict[str, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, ...]]] = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
    "resnet101": (Bottleneck, (3, 4, 23, 3)),
    "resnet152": (Bottleneck, (3, 8, 36, 3)),
}


class ResNet(nn.Module):
    """(B,1 or 3,H,W) → (B,C,⌈H/s⌉,⌈W/s⌉), C 512 or 2048, stride s 32 with the stock stem.

    Stock is torchvision's, weights included. The small stem replaces the 7×7 stride-2 convolution by a
    3×3 of stride 1 and leaves out the max-pooling, so that the stride is 8 and a picture of 32 pixels
    ends in a 4×4 map (He et al., "Deep Residual Learning for Image Recognition", §4.2, do likewise for
    CIFAR-10, with other widths and three stages).
    """

    published_names: ClassVar = {"conv1.": "stem.0.", "bn1.": "stem.1."}
    """How torchvision calls what is called otherwise here."""

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        block, counts = FORMS[spec.backbone]
        width = spec.scaled(64)
        small = spec.stem == "small"
        place = (3, 1, 1) if small else (7, 2, 3)
        conv = nn.Conv2d(spec.channels, width, *place, bias=False)
        self.stem = nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True))
        if not small:
            self.stem.append(nn.MaxPool2d(3, 2, 1))
        self.layer1 = _layer(block, width, width, counts[0], 1)
        self.layer2 = _layer(block, width * block.expansion, 2 * width, counts[1], 2)
        self.layer3 = _layer(block, 2 * width * block.expansion, 4 * width, counts[2], 2)
        self.layer4 = _layer(block, 4 * width * block.expansion, 8 * width, counts[3], 2)
        self.out_channels: int = 8 * width * block.expansion
        self.stride, self.smallest = (8, 9) if small else (32, 33)
        initialise(self, "kaiming")

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.stem(images)
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            features = layer(features)
        return features


def _layer(
    block: type[BasicBlock] | type[Bottleneck], before: int, width: int, count: int, stride: int
) -> nn.Sequential:
    """``count`` blocks, the first of which changes resolution and channels."""
    after = width * block.expansion
    shortcut = None
    if stride != 1 or before != after:
        shortcut = nn.Sequential(
            nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after)
        )
    first = block(before, width, stride, shortcut)
    return nn.Sequential(first, *(block(after, width) for _ in range(count - 1)))
