"""What the detectors have in common that classify regions of a map: torchvision's heads on our maps."""

import torch
from torch import Tensor
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.roi_heads import RoIHeads

from retrieval.detection.detections import Detections
from retrieval.detection.detector import Batch, Detector
from retrieval.detection.region_maps import RegionMaps
from retrieval.detection.region_pool import RegionPool
from retrieval.detection.suppression import best_objects
from retrieval.device import in_float32
from retrieval.specs import DetectorSpec

WIDTH = 128
"""Channels of the maps, times the width factor."""
HIDDEN = 256
"""Numbers that a region is described with, times the width factor."""
REGION_SIDE = 7
REGIONS = 64
"""Regions of each picture that a training step looks at, of which at most a quarter hold an object:
as in Girshick 2015, "Fast R-CNN", §2.3."""
OBJECT_SHARE = 0.25
OBJECT_IOU = 0.5
LOSS_NAMES = {
    "loss_objectness": "objectness",
    "loss_rpn_box_reg": "proposals",
    "loss_classifier": "classes",
    "loss_box_reg": "boxes",
    "loss_mask": "masks",
}
"""What torchvision calls the loss terms, and what they are called here."""


class RegionDetector(Detector):
    """A backbone, its maps, and torchvision's ``RoIHeads`` on the regions that ``regions`` gives."""

    def __init__(self, spec: DetectorSpec, weights: str | None = None) -> None:
        super().__init__(spec, weights)
        spec = self.spec  # which names its backbone
        self.width = spec.scaled(WIDTH)
        self.maps = RegionMaps(self.backbone, spec, self.width)
        hidden = spec.scaled(HIDDEN)
        self.heads = RoIHeads(
            box_roi_pool=RegionPool(spec.region_pool, REGION_SIDE, self.maps.strides),
            box_head=TwoMLPHead(self.width * REGION_SIDE**2, hidden),
            box_predictor=FastRCNNPredictor(hidden, len(spec.classes) + 1),
            fg_iou_thresh=OBJECT_IOU,
            bg_iou_thresh=OBJECT_IOU,
            batch_size_per_image=REGIONS,
            positive_fraction=OBJECT_SHARE,
            bbox_reg_weights=None,
            # What comes after scoring is done by best_objects, as for all detectors.
            score_thresh=spec.least_score,
            nms_thresh=spec.nms_iou,
            detections_per_img=spec.most,
        )

    def regions(
        self, images: Tensor, maps: dict[str, Tensor], batch: Batch | None
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Boxes float32 (P,4) of each picture that may hold objects, P ≥ 1, and loss terms of these.

        ``batch`` is there in training.
        """
        raise NotImplementedError

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        maps = self.maps(self.backbone, batch.images)
        with in_float32(batch.images):
            boxes, losses = self.regions(batch.images, maps, batch)
            _, more = self.heads(maps, boxes, shapes_of(batch.images), as_torchvision(batch))
        return {LOSS_NAMES[name]: loss for name, loss in (losses | more).items()}

    @torch.no_grad()
    def find(self, images: Tensor) -> list[Detections]:
        maps = self.maps(self.backbone, images)
        with in_float32(images):
            return self.find_on(maps, images)

    def find_on(self, maps: dict[str, Tensor], images: Tensor) -> list[Detections]:
        """The objects of pictures whose maps these are."""
        regions, _ = self.regions(images, maps, None)
        heads = self.heads
        pooled = heads.box_roi_pool(maps, regions, shapes_of(images))
        logits, offsets = heads.box_predictor(heads.box_head(pooled))
        boxes = heads.box_coder.decode(offsets, regions)[:, 1:]  # the first class is the background
        scores = logits.softmax(1)[:, 1:]
        counts = [len(some) for some in regions]
        parts = zip(boxes.split(counts), scores.split(counts), strict=True)
        return [best_of_classes(*part, self.spec) for part in parts]


def best_of_classes(boxes: Tensor, scores: Tensor, spec: DetectorSpec) -> Detections:
    """The objects among regions, each of which has a box (P,L,4) and a score (P,L) for each class."""
    count, classes = scores.shape
    # A box is of one class: in the others it has less than any score.
    apart = scores.new_full((count, classes, classes), -1.0)
    apart.diagonal(dim1=1, dim2=2).copy_(scores)
    return best_objects(boxes.reshape(-1, 4), apart.reshape(-1, classes), spec)


def as_torchvision(batch: Batch) -> list[dict[str, Tensor]]:
    """The targets as torchvision has them, whose class 0 is the background.

    Boxes without area are left out: no anchor box overlaps them, so that all would be their best.
    """
    found = []
    for boxes, labels, masks in batch.targets:
        there = (boxes[:, 2:] > boxes[:, :2]).all(1)
        target = {"boxes": boxes[there].float(), "labels": labels[there] + 1}
        found.append(target if masks is None else target | {"masks": masks[there]})
    return found


def whole_picture(images: Tensor) -> Tensor:
    """The box float32 (1,4) of all of the picture."""
    height, width = images.shape[2:]
    return images.new_tensor([[0, 0, width, height]], dtype=torch.float32)


def shapes_of(images: Tensor) -> list[tuple[int, int]]:
    """(height, width) of each picture, as torchvision asks for it."""
    return [(images.shape[2], images.shape[3])] * len(images)
