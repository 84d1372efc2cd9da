"""Asking a detector: photos in, the objects that they show out."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from retrieval.detection.detections import Detections
from retrieval.detection.detector import Detector, detect_pictures
from retrieval.errors import ImageError
from retrieval.images import read_image
from retrieval.network_files import load_detector


@dataclasses.dataclass(frozen=True)
class Finding:
    """What was found in one photo, whose pixels are ``picture`` uint8 (H,W,3)."""

    photo: Path
    picture: np.ndarray
    objects: Detections
    classes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON types: the photo, its size, and of each object class, score and box."""
        height, width = self.picture.shape[:2]
        found = self.objects
        objects = [
            {
                "class": self.classes[found.labels[row]],
                "score": round(float(found.scores[row]), 4),
                "box": [round(float(x), 2) for x in found.boxes[row]],
            }
            for row in range(len(found))
        ]
        return {"photo": str(self.photo), "width": width, "height": height, "objects": objects}


class ObjectFinder:
    """A detector, and how sure it is to be of what it tells."""

    def __init__(self, detector: Detector, score: float = 0.5) -> None:
        self.detector, self.score = detector, score

    @classmethod
    def open(cls, model: Path, *, score: float = 0.5, device: torch.device | None = None) -> Self:
        """The detector in this run folder or file; raises as ``load_detector`` does."""
        return cls(load_detector(model).to(device or torch.device("cpu")), score)

    @property
    def classes(self) -> tuple[str, ...]:
        """What it knows, by label."""
        return self.detector.spec.classes

    def find(
        self, photos: Iterable[Path], on_unreadable: Callable[[Path, str], None]
    ) -> Iterator[Finding]:
        """The objects of each photo, in order; photos that cannot be read are told of instead."""
        for photo in photos:
            try:
                picture = read_image(photo)
            except ImageError as error:
                on_unreadable(photo, str(error))
                continue
            (found,) = detect_pictures(self.detector, [picture], least_score=self.score)
            yield Finding(photo, picture, found, self.classes)
