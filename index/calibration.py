"""The distance within which pairs of pictures have the same label, as a rule; in bounded memory."""

import dataclasses
from collections.abc import Iterator

import faiss
import numpy as np

SHIFT = 12
"""Bits of a float32 that are left out: bins are at most a 2048th of their distance wide."""
BINS = int(np.float32(np.inf).view(np.uint32)) >> SHIFT


@dataclasses.dataclass(frozen=True)
class Threshold:
    """A distance; how many pairs are at most so far apart, and how many of these have one label.

    ``recall`` is the share of all pairs of one label that are within.
    """

    distance: float
    pairs: int
    same: int
    recall: float

    @property
    def precision(self) -> float:
        """The share of pairs of one label among the pairs within."""
        return self.same / self.pairs


class PairHistogram:
    """How many pairs of one label, and of two, have which distance: 8 MiB, however many they are.

    The bits of numbers from 0 up, read as whole numbers, stand in the order of the numbers. So the
    first bits are a bin: fine near 0, coarse far off, and no range need be known beforehand.
    """

    def __init__(self) -> None:
        self.same, self.other = np.zeros((2, BINS), np.int64)

    def add(
        self, a: np.ndarray, b: np.ndarray, same: np.ndarray, counted: np.ndarray, metric: str
    ) -> None:
        """Add the pairs of rows of a and b that are ``counted``, with whether they have one label.

        a: float32 (A,D), b: float32 (B,D), for cosine of length 1; same, counted: bool (A,B).
        """
        bins = distances(a, b, metric).view(np.uint32) >> np.uint32(SHIFT)
        self.same += np.bincount(bins[counted & same], minlength=BINS)
        self.other += np.bincount(bins[counted & ~same], minlength=BINS)

    def thresholds(self) -> Iterator[Threshold]:
        """One for the upper edge of each bin that holds pairs, the largest distance first."""
        same, pairs = self.same.cumsum(), (self.same + self.other).cumsum()
        for place in np.flatnonzero(self.same + self.other)[::-1].tolist():
            edge = np.uint32(((place + 1) << SHIFT) - 1).view(np.float32)
            recall = int(same[place]) / max(int(same[-1]), 1)
            yield Threshold(float(edge), int(pairs[place]), int(same[place]), recall)

    def farthest(self, precision: float) -> Threshold | None:
        """The largest distance within which at least this share of the pairs has one label."""
        return next((one for one in self.thresholds() if one.precision >= precision), None)


def distances(a: np.ndarray, b: np.ndarray, metric: str) -> np.ndarray:
    """All distances float32 (A,B), finite, from rows float32 (A,D) and (B,D).

    Computed in float64 as products, so that they are off by about 1e-8 of the lengths of the vectors.
    """
    if metric == "l1":
        found: np.ndarray = faiss.pairwise_distances(a, b, faiss.METRIC_L1)
    else:
        wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
        found = wide_a @ wide_b.T
        if metric == "cosine":
            found = np.maximum(1 - found, 0)
        else:
            found *= -2
            found += np.square(wide_a).sum(1)[:, None]
            found += np.square(wide_b).sum(1)
            found = np.sqrt(np.maximum(found, 0, out=found), out=found)
    return np.minimum(found, np.finfo(np.float32).max).astype(np.float32)
