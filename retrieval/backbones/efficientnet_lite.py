"""EfficientNet-Lite0: what EfficientNet-B0 becomes without attention over channels and with ReLU6."""

from torch import Tensor, nn

from retrieval.layers import initialise
from retrieval.specs import NetworkSpec

STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
"""Blocks, side of the filters, stride of the first, expansion, channels (table 1 of the paper)."""


class EfficientNetLite(nn.Module):
    """(B,1 or 3,H,W) → (B,320,⌈H/s⌉,⌈W/s⌉), s 32 (stock) or 16 (small, whose entry has stride 1).

    The map is that of the last block; the convolution to 1,280 channels that classifiers have behind
    it is left out. Source: Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural
    Networks" (2019), and the Lite form that its authors published for mobile devices.
    """

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        small = spec.stem == "small"
        before = spec.scaled(32)
        self.stem = nn.Sequential(*_convolution(spec.channels, before, 3, 1 if small else 2))
        self.stages = nn.Sequential()
        for count, side, stride, expansion, channels in STAGES:
            after = spec.scaled(channels)
            stage = nn.Sequential(InvertedResidual(before, after, side, stride, expansion))
            for _ in range(count - 1):
                stage.append(InvertedResidual(after, after, side, 1, expansion))
            self.stages.append(stage)
            before = after
        self.out_channels: int = before
        self.stride, self.smallest = (16, 17) if small else (32, 33)
        initialise(self, "kaiming")

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.stages(self.stem(images))
        return features


class InvertedResidual(nn.Module):
    """Channels are widened, filtered one by one, and narrowed; added to what came in where they fit."""

    def __init__(self, before: int, after: int, side: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = before * expansion
        self.layers = nn.Sequential(
            *(_convolution(before, wide, 1) if expansion > 1 else []),
            *_convolution(wide, wide, side, stride, groups=wide),
            *_convolution(wide, after, 1)[:2],
        )
        self.adds = stride == 1 and before == after

    def forward(self, features: Tensor) -> Tensor:
        narrowed: Tensor = self.layers(features)
        return features + narrowed if self.adds else narrowed


class SamePadding(nn.Conv2d):
    """A convolution to a map of ⌈side / stride⌉, where an odd border's greater part is after the map.

    So TensorFlow lays it, in which the published weights were learnt.
    """

    def forward(self, input: Tensor) -> Tensor:
        borders = []
        for length, side, stride in zip(
            input.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True
        ):
            border = max((-(-length // stride) - 1) * stride + side - length, 0)
            borders += [border // 2, border - border // 2]
        return super().forward(nn.functional.pad(input, borders) if any(borders) else input)


def _convolution(
    before: int, after: int, side: int, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    return [
        SamePadding(before, after, side, stride, groups=groups, bias=False),
        nn.BatchNorm2d(after, eps=1e-3),
        nn.ReLU6(inplace=True),
    ]
