"""Detectors that tell of each of many anchor boxes what it holds, and how to shift it there."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, smooth_l1_loss

from retrieval.detection.anchor_boxes import BACKGROUND, assign_boxes
from retrieval.detection.detections import Detections
from retrieval.detection.detector import Batch, Detector, Target
from retrieval.detection.hard_negatives import hard_negatives
from retrieval.detection.offsets import decode, encode
from retrieval.detection.suppression import best_objects

COURSE_IOU = 0.5
"""From which overlap on the course says that an anchor box holds an object."""


class Answers(NamedTuple):
    """What would be right for each anchor box of B pictures.

    ``labels`` int64 (B,A): 0 background, else 1 + the class; ``offsets`` float32 (B,A,4), and
    ``shares`` float32 (B,A): 1 by the number of boxes that hold the same object; both 0 at background.
    """

    labels: Tensor
    offsets: Tensor
    shares: Tensor


class MultiBox(Detector):
    """Learns and finds as SSD does (Liu et al., "SSD: Single Shot MultiBox Detector", §2.2).

    Subclasses have ``anchors`` float32 (A,4) in pixels, and ``predict``. They may choose the
    ``least_iou`` by which an anchor box holds an object, and that ``objects_alike`` count in the
    losses: otherwise each box does, and a large object has many times as many as a small one.
    """

    anchors: Tensor
    least_iou = 0.5
    objects_alike = False

    def predict(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits float32 (B,A,1+L), of background first, and offsets float32 (B,A,4)."""
        raise NotImplementedError

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy of object boxes and of three times as many of the hardest background boxes,
        and smooth L1 of the offsets of object boxes; both divided by the number of object boxes."""
        logits, offsets = self.predict(batch.images)
        labels, goals, shares = self.answers(batch.targets, self.least_iou)
        positive = labels > 0
        count = positive.sum().clamp(min=1)
        each = cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
        each = each.view_as(labels)
        negative = hard_negatives(each.detach(), positive)
        shifts = smooth_l1_loss(offsets[positive], goals[positive], reduction="none").sum(1)
        weights = torch.ones_like(shifts)
        if self.objects_alike:
            # Their sum stays the number of boxes, which background is weighed by.
            weights = shares[positive] * count / shares.sum().clamp(min=1)
        classes = (weights * each[positive]).sum() + each[negative].sum()
        return {"class": classes / count, "box": (weights * shifts).sum() / count}

    def answers(self, targets: list[Target], least_iou: float) -> Answers:
        """What would be right for each anchor box, which ``least_iou`` gives to an object."""
        shape = (len(targets), len(self.anchors))
        labels = torch.zeros(shape, dtype=torch.int64, device=self.anchors.device)
        goals = self.anchors.new_zeros(*shape, 4)
        shares = self.anchors.new_zeros(shape)
        for row, target in enumerate(targets):
            assigned = assign_boxes(target.boxes, self.anchors, least_iou)
            positive = assigned != BACKGROUND
            objects = assigned[positive]
            labels[row, positive] = 1 + target.labels[objects]
            goals[row, positive] = encode(target.boxes[objects], self.anchors[positive])
            shares[row, positive] = 1 / objects.bincount()[objects]
        return Answers(labels, goals, shares)

    @torch.no_grad()
    def find(self, images: Tensor) -> list[Detections]:
        """The objects of standardised pictures (B,3,S,S); see ``best_objects``."""
        return [
            best_objects(decode(offsets, self.anchors), logits.softmax(1)[:, 1:], self.spec)
            for logits, offsets in zip(*self.predict(images), strict=True)
        ]


@torch.no_grad()
def anchor_errors(detector: MultiBox, batch: Batch) -> tuple[float, float]:
    """The two figures of the course: class error, and mean absolute error of offsets.

    Both are means over all anchor boxes, nearly all of which are background that is easily told,
    with an offset error of 0: they look good of a detector that finds nothing. Average precision
    says what detectors are worth. Source: "Dive into Deep Learning", §14.7.
    """
    logits, offsets = detector.predict(batch.images)
    labels, goals, _ = detector.answers(batch.targets, COURSE_IOU)
    wrong = logits.argmax(2) != labels
    errors = (offsets - goals).abs() * (labels > 0).unsqueeze(2)
    return float(wrong.float().mean()), float(errors.mean())
