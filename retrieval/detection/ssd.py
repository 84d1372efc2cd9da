"""SSD, of torchvision's parts, on our backbones."""

import torch
from torch import Tensor
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.ssd import SSDHead

from retrieval.detection.multibox import MultiBox
from retrieval.detection.pyramid import Pyramid
from retrieval.specs import DetectorSpec

LEAST_SIZE, LARGEST_SIZE = 0.1, 0.9
"""Of the default boxes of the finest and of the coarsest map, as shares of the side."""
COARSER = 5


class SSD(MultiBox):
    """torchvision's head and default boxes on maps of 8, 16, … pixels a position, down to one.

    Maps that the backbone does not have are learnt above it; with ``spec.pyramid`` its own are fused
    first. Losses are those of torchvision's SSD, but for pictures without objects, of which it learns
    nothing, and for the assignment, by which no two objects claim one box (see ``assign_boxes``).
    The default boxes have ratios 1, 2 and ½, and 3 and ⅓ on all but the finest and the two coarsest
    maps. Source: Liu et al., "SSD: Single Shot MultiBox Detector".
    """

    def __init__(self, spec: DetectorSpec, weights: str | None = None) -> None:
        super().__init__(spec, weights)
        self.pyramid = Pyramid(
            self.backbone, self.spec, finest=8, coarser=COARSER, fused=spec.pyramid, width=256
        )
        sides = self.pyramid.sides
        ratios = [[2, 3] if 0 < i < len(sides) - 2 else [2] for i in range(len(sides))]
        boxes = DefaultBoxGenerator(ratios, min_ratio=LEAST_SIZE, max_ratio=LARGEST_SIZE)
        self.head = SSDHead(
            list(self.pyramid.channels), boxes.num_anchors_per_location(), 1 + len(spec.classes)
        )
        size = spec.image_size
        pictures = ImageList(torch.empty(1, 3, size, size), [(size, size)])
        grids = [torch.empty(1, 1, side, side) for side in sides]
        self.register_buffer("anchors", boxes(pictures, grids)[0], persistent=False)

    def predict(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits float32 (B,A,1+L), of background first, and offsets float32 (B,A,4)."""
        out = self.head(self.pyramid(self.backbone, images))
        return out["cls_logits"].float(), out["bbox_regression"].float()
