"""What a detector has found in one picture."""

import dataclasses
from typing import Self

import numpy as np


@dataclasses.dataclass(frozen=True)
class Detections:
    """R objects found in one picture, the surest first.

    ``boxes`` float32 (R,4): left, top, right, bottom in pixels, within the picture; ``labels`` int64
    (R,), positions among the detector's classes; ``scores`` float32 (R,) in [0,1], descending;
    ``masks`` bool (R,H,W), or None of detectors that find boxes alone.
    """

    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    masks: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, rows: np.ndarray) -> Self:
        """Those of these rows (positions or a mask of bool), in their order."""
        masks = None if self.masks is None else self.masks[rows]
        return dataclasses.replace(
            self,
            boxes=self.boxes[rows],
            labels=self.labels[rows],
            scores=self.scores[rows],
            masks=masks,
        )
