"""How good a detector is on pictures whose objects are known."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from retrieval.detection.average_precision import (
    SIZES,
    AveragePrecision,
    Precision,
    mean_where_known,
)
from retrieval.detection.boxed_pictures import BoxedPictures, Objects
from retrieval.detection.detections import Detections
from retrieval.detection.detector import Detector, detect_pictures
from retrieval.errors import DataError

TOGETHER = 8
"""Pictures that are read and asked about at a time."""


@dataclasses.dataclass(frozen=True)
class ClassFigures:
    """How well objects of one class are found; None where the pictures show none."""

    name: str
    objects: int
    map: float | None
    map_50: float | None
    recall_50: float | None


@dataclasses.dataclass(frozen=True)
class DetectionReport:
    """Means over the classes of which there are objects; None where there are none.

    ``map_50`` counts detections as right that overlap an object by an IoU of 0.5 or more, ``map_75``
    by 0.75, ``map`` is the mean over 0.5, 0.55, … 0.95, ``map_by_size`` the same for objects of these
    areas alone; ``recall`` is the share of objects found among 100 detections of a class in each
    picture, averaged over the same thresholds.
    """

    dataset: str
    overlap_of: str
    pictures: int
    objects: int
    map: float | None
    map_50: float | None
    map_75: float | None
    recall: float | None
    recall_50: float | None
    map_by_size: dict[str, float | None]
    classes: list[ClassFigures]

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON types."""
        return dataclasses.asdict(self)

    def table(self) -> str:
        """What people read."""
        lines = [
            f"{self.dataset}: {self.pictures:,} pictures, {self.objects:,} objects, overlap of "
            f"{self.overlap_of}",
            f"mAP@0.5           {_shown(self.map_50)}",
            f"mAP@0.75          {_shown(self.map_75)}",
            f"mAP@[.5:.95]      {_shown(self.map)}",
            *(f"  {size:<15} {_shown(value)}" for size, value in self.map_by_size.items()),
            f"recall@0.5        {_shown(self.recall_50)}",
            f"recall@[.5:.95]   {_shown(self.recall)}",
            "",
        ]
        width = max(len("class"), *(len(c.name) for c in self.classes))
        lines.append(f"{'class':<{width}}  objects  mAP@0.5  mAP@[.5:.95]  recall@0.5")
        lines += [
            f"{c.name:<{width}}  {c.objects:>7,}  {_shown(c.map_50):>7}  {_shown(c.map):>12}  "
            f"{_shown(c.recall_50):>10}"
            for c in self.classes
        ]
        return "\n".join(lines)


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def evaluate_detector(
    detector: Detector,
    data: BoxedPictures,
    *,
    masks: bool = False,
    on_picture: Callable[[int, int], None] = lambda done, total: None,
) -> DetectionReport:
    """What the detector finds in these pictures, compared with what they show; classes by name.

    With ``masks`` by the overlap of masks, otherwise of boxes. Raises DataError where there is no
    picture, one cannot be read, or shows objects of a class that the detector does not know; where
    masks are wanted and the detector or the data has none.
    """
    if not len(data):
        raise DataError(f"{data.name} has no pictures to measure a detector with")
    classes = detector.spec.classes
    truth = _objects_by_class(data, classes)
    judge = AveragePrecision(len(classes), masks=masks)
    for row, found in enumerate(detections_of(detector, data, masks)):
        if masks and (found.masks is None or truth[row].masks is None):
            who = f"--model {detector.spec.model}" if found.masks is None else data.name
            raise DataError(f"masks are to be compared, and {who} has none; leave out --masks")
        judge.add(found, truth[row])
        on_picture(row + 1, len(data))
    overlap = "masks" if masks else "boxes"
    return _report(judge.result(), data.name, overlap, len(data), classes)


def detections_of(detector: Detector, data: BoxedPictures, masks: bool) -> Iterator[Detections]:
    """What is found in each picture, in order, with masks where they are wanted.

    Raises DataError where a picture cannot be read.
    """
    for start in range(0, len(data), TOGETHER):
        rows = range(start, min(start + TOGETHER, len(data)))
        pictures = [data.read(row) for row in rows]
        yield from detect_pictures(detector, pictures, masks=masks)


def _objects_by_class(data: BoxedPictures, classes: tuple[str, ...]) -> list[Objects]:
    """The known objects, labelled by the detector's classes."""
    used = {data.classes[label] for objects in data.objects for label in np.unique(objects.labels)}
    unknown = sorted(used - set(classes))
    if unknown:
        raise DataError(
            f"{data.name} shows objects of class {unknown[0]!r}, which the model does not know; it "
            f"knows: {', '.join(classes)}"
        )
    places = np.array([classes.index(n) if n in classes else -1 for n in data.classes], np.int64)
    return [dataclasses.replace(o, labels=places[o.labels]) for o in data.objects]


def _report(
    found: Precision, dataset: str, overlap: str, pictures: int, classes: tuple[str, ...]
) -> DetectionReport:
    precision, recall = found.precision[:, 0], found.recall[:, 0]
    mean = mean_where_known
    return DetectionReport(
        dataset=dataset,
        overlap_of=overlap,
        pictures=pictures,
        objects=int(found.objects[:, 0].sum()),
        map=mean(precision),
        map_50=mean(precision[:, 0]),
        map_75=mean(precision[:, 5]),
        recall=mean(recall),
        recall_50=mean(recall[:, 0]),
        map_by_size={s: mean(found.precision[:, a]) for a, s in enumerate(SIZES) if s != "all"},
        classes=[
            ClassFigures(
                name, int(found.objects[row, 0]), mean(precision[row]),
                mean(precision[row, :1]), mean(recall[row, :1]),
            )
            for row, name in enumerate(classes)
        ],
    )  # fmt: skip
