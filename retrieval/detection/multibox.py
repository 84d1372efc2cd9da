"""Detectors that tell of each of many anchor boxes what it holds, and how to shift it there."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, smooth_l1_loss

from retrieval.detection.anchor_boxes import BACKGROUND, assign_boxes
from retrieval.detection.detections import Detections
from retrieval.detection.detector import Batch, Detector, Target
from retrieval.detection.hard_negatives import hard_negatives
from retrieval.detection.offsets import decode, encode
from retrieval.detection.suppression import best_objects


class MultiBox(Detector):
    """Learns and finds as SSD does (Liu et al., "SSD: Single Shot MultiBox Detector", §2.2).

    Subclasses have ``anchors`` float32 (A,4) in pixels, and ``predict``.
    """

    anchors: Tensor

    def predict(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits float32 (B,A,1+L), of background first, and offsets float32 (B,A,4)."""
        raise NotImplementedError

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy of object boxes and of three times as many of the hardest background boxes,
        and smooth L1 of the offsets of object boxes; both divided by the number of object boxes."""
        logits, offsets = self.predict(batch.images)
        labels, goals = self.answers(batch.targets)
        positive = labels > 0
        count = positive.sum().clamp(min=1)
        each = cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
        each = each.view_as(labels)
        taken = positive | hard_negatives(each.detach(), positive)
        boxes = smooth_l1_loss(offsets[positive], goals[positive], reduction="sum")
        return {"class": each[taken].sum() / count, "box": boxes / count}

    def answers(self, targets: list[Target]) -> tuple[Tensor, Tensor]:
        """What would be right for each anchor box: int64 (B,A), 0 background, else 1 + the class; and
        offsets float32 (B,A,4), 0 at background."""
        labels = torch.zeros(
            len(targets), len(self.anchors), dtype=torch.int64, device=self.anchors.device
        )
        goals = self.anchors.new_zeros(len(targets), len(self.anchors), 4)
        for row, target in enumerate(targets):
            assigned = assign_boxes(target.boxes, self.anchors)
            positive = assigned != BACKGROUND
            objects = assigned[positive]
            labels[row, positive] = 1 + target.labels[objects]
            goals[row, positive] = encode(target.boxes[objects], self.anchors[positive])
        return labels, goals

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
    labels, goals = detector.answers(batch.targets)
    wrong = logits.argmax(2) != labels
    errors = (offsets - goals).abs() * (labels > 0).unsqueeze(2)
    return float(wrong.float().mean()), float(errors.mean())
