"""Mask R-CNN: Faster R-CNN that says for each pixel of a found box whether it is the object's.

Source: He et al. 2017, "Mask R-CNN"; torchvision's parts on our maps.
"""

import dataclasses

import torch
from torch import Tensor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import maskrcnn_inference, paste_masks_in_image

from retrieval.detection.detections import Detections
from retrieval.detection.detector import Batch
from retrieval.detection.faster_rcnn import FasterRCNN
from retrieval.detection.region_detector import shapes_of
from retrieval.detection.region_pool import RegionPool
from retrieval.errors import DataError
from retrieval.specs import DetectorSpec

MASK_SIDE = 14
"""Cells that a region is pooled to; its mask has twice as many to a side."""
LAYERS = 2
"""3×3 convolutions before the mask; the paper has 4."""
THRESHOLD = 0.5


class MaskRCNN(FasterRCNN):
    """Loss terms: those of Faster R-CNN, and masks. Raises DataError where objects have no masks."""

    def __init__(self, spec: DetectorSpec, weights: str | None = None) -> None:
        super().__init__(spec, weights)
        width = self.width
        self.heads.mask_roi_pool = RegionPool(spec.region_pool, MASK_SIDE, self.maps.strides)
        self.heads.mask_head = MaskRCNNHeads(width, (width,) * LAYERS, dilation=1)
        self.heads.mask_predictor = MaskRCNNPredictor(width, width, len(spec.classes) + 1)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        side = self.spec.image_size
        targets = []
        for target in batch.targets:
            if target.masks is None and len(target.labels):
                raise DataError(
                    "--model mask-rcnn learns from masks, and these pictures have boxes alone; take "
                    "--model faster-rcnn, or data with masks (scenes, or COCO JSON with segmentation)"
                )
            masks = target.masks
            if masks is None:
                masks = torch.zeros(0, side, side, dtype=torch.uint8, device=target.boxes.device)
            targets.append(target._replace(masks=masks))
        return super().forward(batch._replace(targets=targets))

    def find_on(self, maps: dict[str, Tensor], images: Tensor) -> list[Detections]:
        found = super().find_on(maps, images)
        heads, shapes = self.heads, shapes_of(images)
        boxes = [torch.from_numpy(one.boxes).to(images.device) for one in found]
        labels = [torch.from_numpy(one.labels).to(images.device) + 1 for one in found]
        pooled = heads.mask_roi_pool(maps, boxes, shapes)
        logits = heads.mask_predictor(heads.mask_head(pooled))
        cut = maskrcnn_inference(logits, labels)
        pasted = [paste_masks_in_image(*part) for part in zip(cut, boxes, shapes, strict=True)]
        return [
            dataclasses.replace(one, masks=(masks[:, 0] > THRESHOLD).cpu().numpy())
            for one, masks in zip(found, pasted, strict=True)
        ]
