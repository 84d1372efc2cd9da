"""What was found, as COCO JSON: a data set whose annotations have scores.

Format: https://cocodataset.org/#format-data. Pictures and classes are numbered from 1.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from index.atomic import write_atomically
from retrieval.detection.detections import Detections
from retrieval.detection.segmentations import runs_of


class CocoDetections:
    """Takes the objects of one picture after another, and writes them all to a file.

    Masks are kept as run lengths, a small part of their size.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.categories = [{"id": row, "name": name} for row, name in enumerate(classes, 1)]
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []

    def add(self, file: str, shape: tuple[int, int], found: Detections) -> None:
        """The objects of the picture called ``file``, of this height and width."""
        height, width = shape
        image = len(self.images) + 1
        self.images.append({"id": image, "file_name": file, "width": width, "height": height})
        for row in range(len(found)):
            left, top, right, bottom = (round(float(x), 2) for x in found.boxes[row])
            sides = round(right - left, 2), round(bottom - top, 2)
            annotation = {
                "id": len(self.annotations) + 1,
                "image_id": image,
                "category_id": int(found.labels[row]) + 1,
                "bbox": [left, top, *sides],
                "area": round(sides[0] * sides[1], 2),
                "iscrowd": 0,
                "score": round(float(found.scores[row]), 4),
            }
            if found.masks is not None:
                annotation["segmentation"] = runs_of(found.masks[row])
                annotation["area"] = int(found.masks[row].sum())
            self.annotations.append(annotation)

    def write(self, file: Path) -> None:
        """All of them as one JSON file, atomically."""
        parts = {"images": self.images, "annotations": self.annotations}
        text = json.dumps({**parts, "categories": self.categories})
        write_atomically(file, (text + "\n").encode())
