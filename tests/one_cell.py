"""A detector of almost nothing, for tests of what goes on around detectors."""

import sys
from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from retrieval.backbones import as_backbone
from retrieval.detection import catalogue
from retrieval.detection.boxed_pictures import BoxedPictures
from retrieval.detection.detections import Detections
from retrieval.detection.detector import Batch, Detector
from retrieval.specs import DetectorSpec


class OneCell(Detector):
    """Finds one box in a picture, and whether it is of each class. Knows after ``complete`` how many
    pictures it was shown."""

    def __init__(self, spec: DetectorSpec, weights: str | None = None) -> None:
        super().__init__(spec, weights)
        self.head = nn.Linear(as_backbone(self.backbone).out_channels, 4 + len(spec.classes))
        self.register_buffer("shown", torch.zeros((), dtype=torch.int64))

    def _answers(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes (B,4) as centre and size in shares of the side, and logits (B,L)."""
        found = self.head(self.backbone(images).mean((2, 3)))
        return found[:, :4].sigmoid(), found[:, 4:]

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        boxes, logits = self._answers(batch.images)
        there = torch.zeros_like(logits)
        wanted = boxes.detach().clone()
        size = self.spec.image_size
        for row, target in enumerate(batch.targets):
            there[row, target.labels] = 1
            if len(target.boxes):
                left, top, right, bottom = target.boxes[0] / size
                wanted[row] = torch.stack(
                    [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]
                )
        terms = nn.functional
        return {
            "class": terms.binary_cross_entropy_with_logits(logits.float(), there.float()),
            "box": terms.l1_loss(boxes.float(), wanted.float()),
        }

    @torch.no_grad()
    def find(self, images: Tensor) -> list[Detections]:
        boxes, logits = self._answers(images)
        middle, half = boxes[:, :2], boxes[:, 2:] / 2
        corners = torch.cat([middle - half, middle + half], 1).clamp(0, 1) * self.spec.image_size
        found = []
        for box, scores in zip(corners.cpu().numpy(), logits.sigmoid().cpu().numpy(), strict=True):
            order = np.argsort(-scores, kind="stable")
            order = order[scores[order] >= self.spec.least_score][: self.spec.most]
            found.append(Detections(np.tile(box, (len(order), 1)), order, scores[order]))
        return found

    def complete(
        self, data: BoxedPictures, on_picture: Callable[[int, int], None] = lambda done, total: None
    ) -> None:
        self.shown.fill_(len(data))


@pytest.fixture
def one_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    """--model tiny-ssd is ``OneCell`` for the time of the test."""
    register(monkeypatch)


def register(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("retrieval.detection.one_cell")
    module.OneCell = OneCell  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(catalogue.CLASSES, "tiny-ssd", "one_cell.OneCell")
