"""Faster R-CNN: a network on the maps proposes the regions that another one classifies.

Source: Ren et al. 2015, "Faster R-CNN: Towards Real-Time Object Detection with Region Proposal
Networks"; torchvision's parts on our maps.
"""

import math

import torch
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead

from retrieval.detection.detector import Batch
from retrieval.detection.region_detector import (
    RegionDetector,
    as_torchvision,
    shapes_of,
    whole_picture,
)
from retrieval.specs import DetectorSpec

SIZES = 5
"""Sizes of anchor boxes, at least, over all maps together."""
SMALLEST, LARGEST = 1 / 16, 0.8
"""The smallest and the largest of them, of the side of the picture."""
RATIOS = (0.5, 1.0, 2.0)
"""Height by width."""
BEFORE_SUPPRESSION, AFTER_SUPPRESSION = 1000, 300
"""Regions proposed, of each map and of each picture."""


class Anchors(AnchorGenerator):
    """torchvision's anchor boxes, with the strides of our maps.

    torchvision divides sides of pictures and maps instead, and is wrong where the division leaves
    a rest.
    """

    def __init__(self, image_size: int, strides: tuple[int, ...]) -> None:
        sizes = anchor_sizes(image_size, len(strides))
        super().__init__(sizes, (RATIOS,) * len(sizes))
        self.strides = strides

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        """Boxes float32 (A,4) for each picture, the same for all."""
        self.set_cell_anchors(torch.float32, feature_maps[0].device)
        grids = [list(features.shape[2:]) for features in feature_maps]
        boxes = torch.cat(self.grid_anchors(grids, [[s, s] for s in self.strides]))
        return [boxes] * len(image_list.image_sizes)


def anchor_sizes(image_size: int, maps: int) -> tuple[tuple[float, ...], ...]:
    """Sides in pixels of the square anchor boxes of each map, small ones on fine maps.

    They grow by one factor from a sixteenth to four fifths of the picture; each map has as many.
    """
    each = math.ceil(SIZES / maps)
    growth = (LARGEST / SMALLEST) ** (1 / max(each * maps - 1, 1))
    sizes = [image_size * SMALLEST * growth**i for i in range(each * maps)]
    return tuple(tuple(sizes[i * each : (i + 1) * each]) for i in range(maps))


class FasterRCNN(RegionDetector):
    """Loss terms: objectness and proposals (of the regions), classes and boxes (of the objects)."""

    def __init__(self, spec: DetectorSpec, weights: str | None = None) -> None:
        super().__init__(spec, weights)
        anchors = Anchors(spec.image_size, self.maps.strides)
        before = {"training": BEFORE_SUPPRESSION, "testing": BEFORE_SUPPRESSION}
        after = {"training": AFTER_SUPPRESSION, "testing": AFTER_SUPPRESSION}
        self.proposals = RegionProposalNetwork(
            anchors,
            RPNHead(self.width, anchors.num_anchors_per_location()[0]),
            fg_iou_thresh=0.7,
            bg_iou_thresh=0.3,
            batch_size_per_image=256,
            positive_fraction=0.5,
            pre_nms_top_n=before,
            post_nms_top_n=after,
            nms_thresh=0.7,
        )

    def regions(
        self, images: Tensor, maps: dict[str, Tensor], batch: Batch | None
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        targets = None if batch is None else as_torchvision(batch)
        boxes, losses = self.proposals(ImageList(images, shapes_of(images)), maps, targets)
        return [some if len(some) else whole_picture(images) for some in boxes], losses
