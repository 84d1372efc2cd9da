"""How good a classifier is: accuracy, precision, recall and F1 by class, confusion, calibration."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from retrieval.errors import DataError

BINS = 15


@dataclasses.dataclass(frozen=True)
class ClassificationReport:
    """What ``evaluate_classification`` found; fractions in [0, 1]."""

    pictures: int
    accuracy: float
    top5_accuracy: float
    cross_entropy: float
    calibration_error: float
    """Mean distance of confidence from accuracy over 15 bins of confidence, weighted by pictures."""
    per_class: dict[str, dict[str, float]]
    """By class: pictures, precision, recall, f1; 0 where nothing was predicted or present."""
    class_average: dict[str, float]
    """Precision, recall and f1 averaged over the classes that have pictures."""
    confusion: list[list[int]]
    """Pictures by class (row) and by what was predicted (column)."""

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON types."""
        return dataclasses.asdict(self)

    def table(self) -> str:
        """The report as text: figures, classes, and the confusion of up to 20 classes."""
        lines = [
            f"{self.pictures:,} pictures",
            "",
            f"accuracy           {self.accuracy:.4f}",
            f"top-5 accuracy     {self.top5_accuracy:.4f}",
            f"cross-entropy      {self.cross_entropy:.4f}",
            f"calibration error  {self.calibration_error:.4f}",
            "",
        ]
        width = max([5, *map(len, self.per_class)])
        columns = ("precision", "recall", "f1")
        lines.append(f"{'class':<{width}} {'pictures':>8} " + " ".join(f"{c:>9}" for c in columns))
        for name, row in self.per_class.items():
            cells = " ".join(f"{row[c]:>9.4f}" for c in columns)
            lines.append(f"{name:<{width}} {row['pictures']:>8.0f} {cells}")
        cells = " ".join(f"{self.class_average[c]:>9.4f}" for c in columns)
        lines.append(f"{'mean':<{width}} {self.pictures:>8} {cells}")
        if len(self.per_class) <= 20:
            lines += ["", "confusion: a row for each class, a column for each prediction", ""]
            lines += self._confusion_lines(width)
        return "\n".join(lines)

    def _confusion_lines(self, width: int) -> list[str]:
        numbers = range(1, len(self.confusion) + 1)
        cell = max(len(str(n)) for n in (*numbers, *(n for row in self.confusion for n in row))) + 1
        lines = [" " * (width + 4) + "".join(f"{n:>{cell}}" for n in numbers)]
        for number, name, row in zip(numbers, self.per_class, self.confusion, strict=True):
            lines.append(f"{number:>3} {name:<{width}}" + "".join(f"{n:>{cell}}" for n in row))
        return lines


def evaluate_classification(
    probabilities: np.ndarray, labels: np.ndarray, classes: Sequence[str]
) -> ClassificationReport:
    """Score probabilities (N,L) by labels int64 (N,), positions in ``classes``.

    The prediction is the most probable class, of equals the first. The calibration error is that of
    Guo et al., "On Calibration of Modern Neural Networks", eq. 3, with 15 bins of equal width.
    Raises DataError for other shapes, values that are not finite, or labels that are no class.
    """
    _check(probabilities, labels, classes)
    count = len(classes)
    predicted = probabilities.argmax(1)
    confusion = np.bincount(labels * count + predicted, minlength=count**2).reshape(count, count)
    right, present, guessed = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    precision, recall = _ratio(right, guessed), _ratio(right, present)
    f1 = _ratio(2 * right, guessed + present)
    figures = {"precision": precision, "recall": recall, "f1": f1}
    of_truth = probabilities[np.arange(len(labels)), labels]
    # A class stands before those of equal probability with a higher number, as argmax has it.
    places = np.arange(count)
    before = (probabilities > of_truth[:, None]) | (
        (probabilities == of_truth[:, None]) & (places < labels[:, None])
    )
    return ClassificationReport(
        pictures=len(labels),
        accuracy=float((predicted == labels).mean()),
        top5_accuracy=float((before.sum(1) < 5).mean()),
        cross_entropy=float(-np.log(of_truth.clip(min=1e-12)).mean()),
        calibration_error=calibration_error(probabilities.max(1), predicted == labels),
        per_class={
            name: {"pictures": float(present[i])} | {k: float(v[i]) for k, v in figures.items()}
            for i, name in enumerate(classes)
        },
        class_average={name: float(v[present > 0].mean()) for name, v in figures.items()},
        confusion=confusion.tolist(),
    )


def calibration_error(confidence: np.ndarray, right: np.ndarray, bins: int = BINS) -> float:
    """Σ over bins of (pictures in it / all) · |accuracy − mean confidence|; (N,) and (N,)."""
    place = np.clip(np.ceil(confidence.astype(np.float64) * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(place, weights=right - confidence.astype(np.float64), minlength=bins)
    return float(np.abs(gaps).sum() / len(confidence))


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.where(whole > 0, part / np.maximum(whole, 1), 0.0)


def _check(probabilities: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> None:
    if probabilities.shape != (len(labels), len(classes)) or len(labels) == 0:
        raise DataError(
            f"probabilities are {probabilities.shape}; expected ({len(labels)},{len(classes)}), one "
            "row for each label and one column for each class, and at least one row"
        )
    if not np.isfinite(probabilities).all():
        raise DataError("there are probabilities that are not finite; train again at a lower --lr")
    if labels.min() < 0 or labels.max() >= len(classes):
        raise DataError(
            f"labels reach from {labels.min()} to {labels.max()}, and there are {len(classes)} classes"
        )
