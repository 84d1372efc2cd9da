"""How good detections are: average precision, as COCO defines it.

Source: Lin et al., "Microsoft COCO: Common Objects in Context"; the details (ties, crowds, 101 points
of recall) are those of pycocotools, which the tests compare with.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from retrieval.detection.boxed_pictures import Objects
from retrieval.detection.detections import Detections

THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""Overlaps (IoU) from which a detection may count as right."""
RECALLS = np.linspace(0, 1, 101)
"""Shares of the objects found at which precision is read."""
SIZES = {"all": (0.0, 1e10), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2),
         "large": (96.0**2, 1e10)}  # fmt: skip
"""Areas in square pixels: of objects that are asked for, and of detections that are blamed."""
MOST = 100
"""Detections of a class in a picture that count: the surest ones."""
_LOW, _HIGH = np.array(list(SIZES.values())).T[:, :, None]


@dataclasses.dataclass(frozen=True)
class Precision:
    """Average precision and recall of each class; NaN where there is no object of the kind.

    ``precision`` float64 (L,A,T): of class l, objects of size a (in the order of SIZES) and threshold
    t; ``recall`` likewise; ``objects`` int64 (L,A): how many are to be found.
    """

    precision: np.ndarray
    recall: np.ndarray
    objects: np.ndarray


@dataclasses.dataclass(frozen=True)
class _Judged:
    """Detections of one class in one picture, the surest first, and the number of objects (A,).

    ``right`` and ``ignored`` are bool (A,T,D): matched with an object; neither right nor wrong.
    """

    scores: np.ndarray
    right: np.ndarray
    ignored: np.ndarray
    objects: np.ndarray


class AveragePrecision:
    """Takes pictures one at a time, with what was found and what is there; then says how good that is.

    With ``masks`` the overlap is that of masks, not of boxes. Objects are as large as their mask then,
    otherwise as their box.
    """

    def __init__(self, classes: int, *, masks: bool = False) -> None:
        self.classes, self.masks = classes, masks
        self._judged: list[list[_Judged]] = [[] for _ in range(classes)]

    def add(self, found: Detections, objects: Objects) -> None:
        """One more picture. Of equally sure detections those that came earlier rank first.

        Raises ValueError where a label is no class, or masks are wanted and missing.
        """
        for labels in (found.labels, objects.labels):
            if len(labels) and not 0 <= labels.min() <= labels.max() < self.classes:
                raise ValueError(f"labels {labels} are not all below {self.classes} and from 0 up")
        for label in np.union1d(found.labels, objects.labels):
            those = np.flatnonzero(found.labels == label)
            order = np.argsort(-found.scores[those], kind="stable")[:MOST]
            mine = found.subset(those[order])
            there = objects.subset(np.flatnonzero(objects.labels == label))
            overlaps, areas, sizes = self._compare(mine, there)
            self._judged[label].append(
                _judge(mine.scores.astype(np.float64), overlaps, areas, sizes, there.crowd)
            )

    def _compare(
        self, found: Detections, objects: Objects
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Overlaps (D,G), and the areas of detections (D,) and of objects (G,)."""
        if not self.masks:
            return _box_overlaps(found.boxes, objects.boxes, objects.crowd)
        if found.masks is None or objects.masks is None:
            raise ValueError("masks are to be compared, and some have boxes alone")
        return _mask_overlaps(found.masks, objects.masks, objects.crowd)

    def result(self) -> Precision:
        """Average precision and recall of all pictures so far."""
        shape = (self.classes, len(SIZES), len(THRESHOLDS))
        precision, recall = np.full(shape, np.nan), np.full(shape, np.nan)
        objects = np.zeros(shape[:2], np.int64)
        for label, pictures in enumerate(self._judged):
            if pictures:
                objects[label] = sum(picture.objects for picture in pictures)
                precision[label], recall[label] = _curves(pictures, objects[label])
        return Precision(precision, recall, objects)


def mean_where_known(values: np.ndarray) -> float | None:
    """The mean of the numbers that are not NaN, or None where there are none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None


def _box_overlaps(
    boxes: np.ndarray, others: np.ndarray, crowd: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As ``_compare``: intersection over union; over the first box alone where the other is a crowd."""
    one, other = boxes.astype(np.float64)[:, None], others.astype(np.float64)[None]
    sides = np.minimum(one[..., 2:], other[..., 2:]) - np.maximum(one[..., :2], other[..., :2])
    areas, sizes = (np.prod(b[..., 2:] - b[..., :2], axis=-1) for b in (one, other))
    shared = np.prod(sides.clip(min=0), axis=-1)
    return _shares(shared, areas[:, 0], sizes[0], crowd), areas[:, 0], sizes[0]


def _mask_overlaps(
    masks: np.ndarray, others: np.ndarray, crowd: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As ``_compare``, of masks (D,H,W) and (G,H,W)."""
    areas, sizes = (np.count_nonzero(m, axis=(1, 2)).astype(np.float64) for m in (masks, others))
    shared = np.zeros((len(masks), len(others)))
    for row, mask in enumerate(masks):  # together they would fill the memory
        shared[row] = np.count_nonzero(others & mask, axis=(1, 2))
    return _shares(shared, areas, sizes, crowd), areas, sizes


def _shares(
    shared: np.ndarray, areas: np.ndarray, sizes: np.ndarray, crowd: np.ndarray
) -> np.ndarray:
    union = np.where(crowd, areas[:, None], areas[:, None] + sizes - shared)
    return np.divide(shared, union, out=np.zeros_like(shared), where=shared > 0)


def _judge(
    scores: np.ndarray,
    overlaps: np.ndarray,
    areas: np.ndarray,
    sizes: np.ndarray,
    crowd: np.ndarray,
) -> _Judged:
    """Match detections with objects: the surest first, each with the object that it covers best.

    An object is taken once, a crowd by any number. Crowds and objects of other sizes are left for
    detections that cover no object which counts; what is matched with them is ignored, and so is what
    is not matched and of another size.
    """
    passed_over = crowd | (sizes < _LOW) | (sizes > _HIGH)  # (A,G)
    shape = (len(SIZES), len(THRESHOLDS))
    right = np.zeros((*shape, len(scores)), bool)
    ignored = np.zeros_like(right)
    taken = np.zeros((*shape, len(sizes)), bool)
    enough = np.minimum(THRESHOLDS, 1 - 1e-10)[:, None]
    outside = ((areas < _LOW) | (areas > _HIGH))[:, None]  # (A,1,D)
    # What overlaps nothing is right nowhere; that is most of what detectors find.
    for row in np.flatnonzero((overlaps >= enough.min()).any(1)):
        free = (overlaps[row] >= enough) & ~(taken & ~crowd)
        counting = free & ~passed_over[:, None]
        counts = counting.any(2)
        candidates = np.where(counts[..., None], counting, free)
        best = _last_largest(np.where(candidates, overlaps[row], -1.0))
        hit = candidates.any(2)
        a, t = np.nonzero(hit)
        taken[a, t, best[a, t]] = True
        right[..., row] = hit & counts
        ignored[..., row] = hit & ~counts
    ignored |= ~right & ~ignored & outside
    return _Judged(scores, right, ignored, (~passed_over).sum(1))


def _last_largest(values: np.ndarray) -> np.ndarray:
    """Where the largest number of each row stands: of equal ones, the last."""
    return values.shape[-1] - 1 - values[..., ::-1].argmax(-1)


def _curves(pictures: Sequence[_Judged], objects: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Average precision and recall (A,T) of one class, from all its pictures."""
    scores = np.concatenate([p.scores for p in pictures])
    order = np.argsort(-scores, kind="stable")
    right = np.concatenate([p.right for p in pictures], axis=2)[..., order]
    ignored = np.concatenate([p.ignored for p in pictures], axis=2)[..., order]
    precision = np.full(right.shape[:2], np.nan)
    recall = precision.copy()
    for place in np.ndindex(right.shape[:2]):
        if objects[place[0]]:
            counted = right[place][~ignored[place]]
            precision[place], recall[place] = _average(counted, int(objects[place[0]]))
    return precision, recall


def _average(right: np.ndarray, objects: int) -> tuple[float, float]:
    """Average precision and recall of detections (D,), the surest first, of this many objects."""
    hits = right.cumsum()
    precision = hits / np.arange(1, len(right) + 1)
    # The best precision at this recall or a higher one.
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    recalls = hits / objects
    places = np.searchsorted(recalls, RECALLS, side="left")
    read = np.concatenate([precision, [0.0]])[np.minimum(places, len(right))]
    return float(read.mean()), float(recalls[-1]) if len(right) else 0.0
