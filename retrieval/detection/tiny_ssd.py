"""The course's small single-shot detector."""

import math

import torch
from torch import Tensor, nn

from retrieval.backbones.tiny import halving_block
from retrieval.detection.anchor_boxes import anchor_boxes
from retrieval.detection.multibox import MultiBox
from retrieval.detection.pyramid import Pyramid
from retrieval.layers import initialise
from retrieval.specs import DetectorSpec

SIZES = ((0.2, 0.272), (0.37, 0.447), (0.54, 0.619), (0.71, 0.79), (0.88, 0.961))
RATIOS = (1.0, 2.0, 0.5)
PER_CELL = len(SIZES[0]) + len(RATIOS) - 1
WIDTH = 128
"""Channels of the blocks above the backbone."""
BACKGROUND_FIRST = 0.99
"""What each anchor box is at first said to be background by: nearly all are."""


class TinySSD(MultiBox):
    """Maps of five scales, 32², 16², 8², 4² and 1 at 256 pixels, four anchor boxes at each position.

    On the backbone ``tiny`` it is the course's: only the first map is the backbone's. Of deeper
    ones up to four maps are, from 8 pixels a position on. 3×3 convolutions on each map give classes
    and offsets. Other than the course's, class losses are those of SSD (see ``MultiBox``), each object
    counts alike, boxes hold one from an overlap of 0.4 on, and all begins with nearly all being
    background. Source: Zhang, Lipton, Li and Smola, "Dive into Deep
    Learning", §14.7.
    """

    least_iou = 0.4
    objects_alike = True

    def __init__(self, spec: DetectorSpec, weights: str | None = None) -> None:
        super().__init__(spec, weights)
        self.pyramid = Pyramid(self.backbone, self.spec, finest=8)
        channels, sides = list(self.pyramid.channels[:4]), list(self.pyramid.sides[:4])
        self.blocks = nn.ModuleList()
        while len(sides) < 4:
            self.blocks.append(halving_block(channels[-1], WIDTH))
            channels.append(WIDTH)
            sides.append((sides[-1] + 1) // 2)
        channels.append(channels[-1])  # the maximum of the whole map
        sides.append(1)
        logits = PER_CELL * (1 + len(spec.classes))
        self.class_heads = nn.ModuleList(nn.Conv2d(c, logits, 3, padding=1) for c in channels)
        self.box_heads = nn.ModuleList(nn.Conv2d(c, PER_CELL * 4, 3, padding=1) for c in channels)
        for part in (self.blocks, self.class_heads, self.box_heads):
            initialise(part, "xavier")
        odds = BACKGROUND_FIRST / (1 - BACKGROUND_FIRST) * len(spec.classes)
        with torch.no_grad():
            for head in self.class_heads:
                assert isinstance(head.bias, Tensor)
                head.bias.view(PER_CELL, -1)[:, 0] = math.log(odds)
        grids = [
            anchor_boxes(side, side, sizes, RATIOS)
            for side, sizes in zip(sides, SIZES, strict=True)
        ]
        self.register_buffer("anchors", torch.cat(grids) * spec.image_size, persistent=False)

    def predict(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits float32 (B,A,1+L), of background first, and offsets float32 (B,A,4)."""
        maps = self.pyramid(self.backbone, images)[:4]
        for block in self.blocks:
            maps.append(block(maps[-1]))
        maps.append(maps[-1].amax((2, 3), keepdim=True))
        return (
            _by_anchor(maps, self.class_heads, 1 + len(self.spec.classes)),
            _by_anchor(maps, self.box_heads, 4),
        )


def _by_anchor(maps: list[Tensor], heads: nn.ModuleList, numbers: int) -> Tensor:
    """What heads give for maps, in the order of the anchor boxes: float32 (B,A,numbers)."""
    parts = [head(features) for features, head in zip(maps, heads, strict=True)]
    return torch.cat(
        [part.permute(0, 2, 3, 1).reshape(len(part), -1, numbers).float() for part in parts], 1
    )
