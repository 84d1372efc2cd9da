"""A linear SVM and a box regressor for each class, on the features of regions.

Source: Girshick et al. 2014, "Rich feature hierarchies for accurate object detection and semantic
segmentation", §2.3 and appendices B and C.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.ops import box_iou

from retrieval.detection.mined_svm import MinedSVM
from retrieval.detection.offsets import decode, encode

if TYPE_CHECKING:
    from sklearn.linear_model import Ridge
    from sklearn.svm import LinearSVC

NEGATIVE_IOU, NEAR_IOU = 0.3, 0.6
"""A region that overlaps no object of a class by the first is none to the SVM; one that overlaps one by
the second teaches the box regressor."""
LENGTH = 20.0
"""Mean length that features are scaled to, which the published weights of penalties are meant for."""
RIDGE = 1000.0
UNIT = (1.0, 1.0, 1.0, 1.0)


class Regions(NamedTuple):
    """Regions of one picture with their features, and what the picture shows: all float32.

    ``boxes`` (P,4); ``pooled`` (P,D) and ``hidden`` (P,H), the features that boxes are corrected by
    and those that are scored; ``objects`` (R,4) with ``labels`` int64 (R,).
    """

    boxes: Tensor
    pooled: Tensor
    hidden: Tensor
    objects: Tensor
    labels: Tensor


class LinearScorer(nn.Module):
    """Scores and corrected boxes of regions, by buffers that scikit-learn's estimators fill."""

    svm_weight: Tensor
    svm_bias: Tensor
    box_weight: Tensor
    box_bias: Tensor
    learnt: Tensor

    def __init__(self, classes: int, pooled: int, hidden: int) -> None:
        super().__init__()
        self.classes = classes
        self.register_buffer("svm_weight", torch.zeros(classes, hidden))
        self.register_buffer("svm_bias", torch.zeros(classes))
        self.register_buffer("box_weight", torch.zeros(classes, 4, pooled))
        self.register_buffer("box_bias", torch.zeros(classes, 4))
        self.register_buffer("learnt", torch.zeros(()))

    def forward(self, boxes: Tensor, pooled: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Margins (P,L) of L classes, and a box (P,L,4) for each, of regions (P,4)."""
        margins = nn.functional.linear(hidden, self.svm_weight, self.svm_bias)
        offsets = torch.einsum("pd,lkd->plk", pooled, self.box_weight) + self.box_bias
        regions = boxes[:, None].expand(-1, self.classes, -1).reshape(-1, 4)
        corrected = decode(offsets.reshape(-1, 4), regions, deviations=UNIT)
        return margins, corrected.reshape(-1, self.classes, 4)

    def learn(self, objects: Iterable[Regions], regions: Iterable[Regions]) -> None:
        """Learn from the objects of all pictures, as regions of their own, and then from all regions.

        ``objects`` are kept in memory; of ``regions``, which come one picture after another, the hard
        negatives and those near an object. A class without objects, or to which all is an object,
        gets a margin of −10, or 10, everywhere; one without regions near its objects corrects none.
        """
        known = list(objects)
        labels = torch.cat([part.labels for part in known]).cpu().numpy()
        hidden = torch.cat([part.hidden for part in known]).cpu().numpy()
        pooled_scale = _scale_of(torch.cat([part.pooled for part in known]).cpu().numpy())
        hidden_scale = _scale_of(hidden)
        hidden = hidden * hidden_scale
        svms = [MinedSVM(hidden[labels == label]) for label in range(self.classes)]
        near: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in range(self.classes)]
        for part in regions:
            overlaps = box_iou(part.boxes, part.objects)
            scaled = part.hidden.cpu().numpy() * hidden_scale
            for label in range(self.classes):
                own = torch.where(part.labels == label)[0]
                best, which = _best(overlaps[:, own])
                if len(svms[label].positives):
                    svms[label].add(scaled[(best < NEGATIVE_IOU).cpu().numpy()])
                rows = torch.where(best >= NEAR_IOU)[0]
                goals = encode(part.objects[own][which[rows]], part.boxes[rows], deviations=UNIT)
                numbers = part.pooled[rows].cpu().numpy() * pooled_scale
                near[label].append((numbers, goals.cpu().numpy()))
        for label in range(self.classes):
            self._fill_svm(label, svms[label], hidden_scale)
            self._fill_regressor(label, near[label], pooled_scale)
        self.learnt.fill_(1)

    def _fill_svm(self, label: int, mined: MinedSVM, scale: float) -> None:
        self.svm_weight[label] = 0
        self.svm_bias[label] = 10 if len(mined.positives) else -10
        if len(mined.positives) and len(mined.negatives):
            weight, bias = linear_of(mined.fit(), scale)
            self.svm_weight[label], self.svm_bias[label] = weight[0], bias[0]

    def _fill_regressor(
        self, label: int, near: list[tuple[np.ndarray, np.ndarray]], scale: float
    ) -> None:
        from sklearn.linear_model import Ridge  # slow to import, and only learning needs it

        self.box_weight[label] = 0
        self.box_bias[label] = 0
        numbers = np.concatenate([n for n, _ in near])
        if len(numbers):
            goals = np.concatenate([g for _, g in near])
            weight, bias = linear_of(Ridge(alpha=RIDGE).fit(numbers, goals), scale)
            self.box_weight[label], self.box_bias[label] = weight, bias


def linear_of(estimator: "LinearSVC | Ridge", scale: float) -> tuple[Tensor, Tensor]:
    """Weight (K,D), bias (K,) float32: what the estimator gives of features times ``scale``."""
    weight = torch.from_numpy(np.atleast_2d(estimator.coef_) * scale)
    return weight.float(), torch.from_numpy(np.atleast_1d(estimator.intercept_)).float()


def _scale_of(features: np.ndarray) -> float:
    """The number that brings these features (N,D) to the mean length."""
    return LENGTH / max(float(np.linalg.norm(features, axis=1).mean()), 1e-6)


def _best(overlaps: Tensor) -> tuple[Tensor, Tensor]:
    """The largest overlap (P,) of each region with objects (P,R), and with which; 0 without objects."""
    if not overlaps.shape[1]:
        return overlaps.new_zeros(len(overlaps)), overlaps.new_zeros(
            len(overlaps), dtype=torch.long
        )
    best, which = overlaps.max(1)
    return best, which
