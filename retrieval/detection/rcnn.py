"""R-CNN: each region by selective search is cut out, warped to a square, and classified on its own.

Source: Girshick et al. 2014, "Rich feature hierarchies for accurate object detection and semantic
segmentation".
"""

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.ops import box_iou, roi_align

from retrieval.backbones import as_backbone
from retrieval.detection.boxed_pictures import BoxedPictures, Objects
from retrieval.detection.detections import Detections
from retrieval.detection.detector import Batch, Detector, letterbox
from retrieval.detection.linear_scorer import LinearScorer, Regions
from retrieval.detection.region_detector import best_of_classes, whole_picture
from retrieval.detection.selective_search import search_batch, selective_search
from retrieval.device import in_float32
from retrieval.errors import DataError
from retrieval.specs import DetectorSpec

WARPED_SIDE = 48
"""Pixels to a side of a warped region, at least; backbones of large strides get more."""
CELLS = 3
"""Cells to a side of the map that is left of a region."""
CONTEXT = 227 / 195
"""A region is warped together with what lies around it, by the numbers of the paper."""
WIDTH, HIDDEN = 128, 256
"""Channels of that map, and numbers that a region is classified by, times the width factor."""
REGIONS, OBJECT_SHARE, OBJECT_IOU = 32, 0.25, 0.5
"""Regions of each picture that a training step looks at, of which at most a quarter overlap an object
by half: the paper's shares."""
PICTURES = 1000
"""Pictures, at most, that the SVMs and the regressors learn from."""
STEEPNESS = 4.0
"""Of the sigmoid that turns margins into scores: 0.5 is where the SVM decides, 0.98 and 0.02 are the
margins of 1 and −1 that it asks of its examples. These are no probabilities."""
AT_ONCE = 128
"""Regions that go through the backbone together, which bounds the memory."""


class RCNN(Detector):
    """Loss term: classes, by which the backbone learns to classify warped regions.

    ``complete`` then learns a linear SVM and a box regressor for each class. Until it has, ``find``
    scores regions by the softmax that the backbone was trained with, and leaves the boxes as they are.
    """

    propose = staticmethod(selective_search)

    def __init__(self, spec: DetectorSpec, weights: str | None = None) -> None:
        super().__init__(spec, weights)
        spec = self.spec  # which names its backbone
        trunk = as_backbone(self.backbone)
        self.side = max(WARPED_SIDE, CELLS * trunk.stride, trunk.smallest)
        width, hidden, classes = spec.scaled(WIDTH), spec.scaled(HIDDEN), len(spec.classes)
        self.pooled = nn.Sequential(
            nn.Conv2d(trunk.out_channels, width, 1), nn.ReLU(),
            nn.AdaptiveAvgPool2d(CELLS), nn.Flatten(),
        )  # fmt: skip
        self.hidden = nn.Sequential(nn.Linear(width * CELLS**2, hidden), nn.ReLU())
        self.output = nn.Linear(hidden, classes + 1)
        self.scorer = LinearScorer(classes, width * CELLS**2, hidden)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        proposals = batch.proposals or search_batch(batch.images, self.mean, self.std)
        whole = whole_picture(batch.images)
        regions, labels = [], []
        for boxes, target in zip(proposals, batch.targets, strict=True):
            candidates = torch.cat([whole, boxes.float(), target.boxes.float()])
            rows, classes = sample_regions(candidates, target.boxes, target.labels)
            regions.append(candidates[rows])
            labels.append(classes)
        _, hidden = self.describe(batch.images, regions)
        with in_float32(hidden):
            logits = self.output(hidden.float())
            return {"classes": nn.functional.cross_entropy(logits, torch.cat(labels))}

    def describe(self, images: Tensor, regions: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Features of all regions (P,4) of the pictures: pooled (R,D), and hidden (R,H)."""
        with in_float32(images):
            warped = warp_regions(images.float(), regions, self.side)
        pooled: Tensor = self.pooled(self.backbone(warped))
        hidden: Tensor = self.hidden(pooled)
        return pooled, hidden

    @torch.no_grad()
    def find(self, images: Tensor) -> list[Detections]:
        proposals = search_batch(images, self.mean, self.std)
        return [self._find_one(images[i : i + 1], boxes) for i, boxes in enumerate(proposals)]

    def _find_one(self, image: Tensor, boxes: Tensor) -> Detections:
        pooled, hidden = self._describe_many(image, boxes)
        if self.scorer.learnt:
            margins, corrected = self.scorer(boxes, pooled, hidden)
            return best_of_classes(corrected, (STEEPNESS * margins).sigmoid(), self.spec)
        scores = self.output(hidden).softmax(1)[:, 1:]
        same = boxes[:, None].expand(-1, scores.shape[1], -1)
        return best_of_classes(same, scores, self.spec)

    def _describe_many(self, image: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        parts = [self.describe(image, [part]) for part in boxes.split(AT_ONCE)]
        return torch.cat([p for p, _ in parts]).float(), torch.cat([h for _, h in parts]).float()

    @torch.no_grad()
    def complete(
        self, data: BoxedPictures, on_picture: Callable[[int, int], None] = lambda done, total: None
    ) -> None:
        """Learn the SVMs and the box regressors from these pictures, at most 1,000 spread over them.

        Classes without an object in them are never found. Raises DataError where there is no object.
        """
        rows = np.linspace(0, len(data) - 1, min(len(data), PICTURES)).astype(int)
        data = data.subset(rows)
        data = dataclasses.replace(data, objects=tuple(map(_learnable, data.objects)))
        if not any(map(len, data.objects)):
            raise DataError(
                f"{data.name} has no objects in {len(data)} pictures, and --model rcnn learns an SVM "
                "for each class from them; give pictures with boxes"
            )
        was_training = self.training
        self.eval()
        try:
            searched = self._regions(data, search=True, on_picture=on_picture)
            self.scorer.learn(self._regions(data, search=False), searched)
        finally:
            self.train(was_training)

    def _regions(
        self,
        data: BoxedPictures,
        search: bool,
        on_picture: Callable[[int, int], None] = lambda done, total: None,
    ) -> Iterator[Regions]:
        """The objects of each picture as its regions; with ``search`` those that may be objects too."""
        device = self.mean.device
        for row in range(len(data)):
            square, scale = letterbox(data.read(row), self.spec.image_size)
            image = self.standardise(torch.from_numpy(square).to(device).permute(2, 0, 1)[None])
            objects = torch.from_numpy(data.objects[row].boxes * np.float32(scale)).to(device)
            labels = torch.from_numpy(data.objects[row].labels).to(device)
            boxes = objects
            if search:
                boxes = torch.cat([torch.from_numpy(selective_search(square)).to(device), objects])
            if len(boxes):
                yield Regions(boxes, *self._describe_many(image, boxes), objects, labels)
            on_picture(row + 1, len(data))


def _learnable(objects: Objects) -> Objects:
    """Those that are no crowd and have an area."""
    return objects.subset(~objects.crowd & (objects.boxes[:, 2:] > objects.boxes[:, :2]).all(1))


def warp_regions(images: Tensor, regions: list[Tensor], side: int) -> Tensor:
    """Float32 (R,C,side,side): each region (P,4) of the pictures (B,C,S,S), and what lies around it.

    Width and height are scaled each on their own; beyond the picture there is 0, its mean colour.
    """
    rows = []
    for picture, boxes in enumerate(regions):
        centres, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) * CONTEXT
        corners = torch.cat([centres - sides / 2, centres + sides / 2], 1)
        rows.append(torch.cat([torch.full_like(boxes[:, :1], picture), corners], 1))
    warped: Tensor = roi_align(images, torch.cat(rows), side, sampling_ratio=-1, aligned=True)
    return warped


def sample_regions(boxes: Tensor, objects: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Rows int64 (N,) of ``boxes`` (P,4) drawn for a training step, and the class of each, 0 for none.

    N is at most ``REGIONS``; at most a quarter of these show an object (R,4), and the rest none: of
    each kind as many as there are. Draws come from torch's generator.
    """
    classes = labels.new_zeros(len(boxes))
    if len(objects):
        best, which = box_iou(boxes, objects.float()).max(1)
        classes = torch.where(best >= OBJECT_IOU, labels[which] + 1, classes)
    order = torch.randperm(len(boxes), device="cpu").to(boxes.device)
    shows = classes[order] > 0
    positive = order[shows][: round(REGIONS * OBJECT_SHARE)]
    rows = torch.cat([positive, order[~shows][: REGIONS - len(positive)]])
    return rows, classes[rows]
