"""Groups of vectors that lie close together, by pairs within a distance: exact, in bounded memory."""

from collections.abc import Callable, Iterable

import numpy as np

from index.neighbors import pair_distances
from index.within import check_distance, maybe_within

OUTER_ROWS, INNER_ROWS = 4096, 8192
"""Vectors that are compared with each other at a time."""
SAMPLE = 10_000
Vectors = Callable[[np.ndarray], np.ndarray]


class Groups:
    """A union of what belongs together, over places 0 … n−1 (disjoint sets, as arrays)."""

    def __init__(self, n: int) -> None:
        self.parents = np.arange(n)

    def roots(self, places: np.ndarray) -> np.ndarray:
        """The smallest place of the group of each, int64 (n,)."""
        roots = self.parents[places]
        while True:
            above = self.parents[roots]
            if np.array_equal(above, roots):
                break
            roots = above
        self.parents[places] = roots
        return roots

    def join(self, a: np.ndarray, b: np.ndarray) -> None:
        """Put a[i] and b[i] into one group, for all i."""
        while len(a):
            a, b = self.roots(a), self.roots(b)
            apart = a != b
            a, b = a[apart], b[apart]
            np.minimum.at(self.parents, np.maximum(a, b), np.minimum(a, b))

    def members(self) -> list[np.ndarray]:
        """The groups of two or more: places int64, ascending; by their first place."""
        roots = self.roots(np.arange(len(self.parents)))
        order = np.argsort(roots, kind="stable")
        starts = np.flatnonzero(np.diff(roots[order], prepend=-1))
        return [part for part in np.split(order, starts[1:]) if len(part) > 1]


def close_groups(
    ids: np.ndarray,
    vectors_of: Vectors,
    metric: str,
    distance: float,
    *,
    same: Iterable[np.ndarray] = (),
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[np.ndarray]:
    """Groups of ids int64, ascending: whoever is at most ``distance`` from a member is one too.

    ids: int64 (n,), ascending; ``vectors_of`` gives their vectors; ``same`` lists ids that belong
    together whatever their vectors. A group may be wider than the distance: a chain holds it together.
    Vectors are sorted along the direction in which they differ most, and only those are compared that
    are no farther apart along it: n² / 2 comparisons at worst. ``on_progress`` is told how many of all
    vectors have met their neighbours. Memory: 40 bytes for each id, and a block of OUTER_ROWS ×
    INNER_ROWS pairs in tiles. Raises VectorError for a distance that cannot be.
    """
    radius = check_distance(distance)
    groups = Groups(len(ids))
    alone = np.ones(len(ids), bool)
    for copies in same:
        places = np.searchsorted(ids, copies)
        groups.join(places[:-1], places[1:])
        # One stands for all where their vectors agree too, as those of copies do.
        twins = places[1:][(vectors_of(copies[1:]) == vectors_of(copies[:1])).all(axis=1)]
        alone[twins] = False
    compared = np.flatnonzero(alone)
    along, widest = _projections(ids[compared], vectors_of)
    order = np.argsort(along, kind="stable")
    compared, along = compared[order], along[order]
    reach = _reach(float(radius), metric, widest)
    for start in range(0, len(compared), OUTER_ROWS):
        outer = compared[start : start + OUTER_ROWS]
        last = along[start + len(outer) - 1] + reach
        end = int(np.searchsorted(along, last, side="right"))
        _join_block(groups, outer, compared[start:end], ids, vectors_of, radius, metric)
        on_progress(start + len(outer), len(compared))
    return [ids[members] for members in groups.members()]


def _join_block(
    groups: Groups,
    outer: np.ndarray,
    inner: np.ndarray,
    ids: np.ndarray,
    vectors_of: Vectors,
    radius: np.float32,
    metric: str,
) -> None:
    """Join places of ``outer`` with those of ``inner`` that are within the radius."""
    a = vectors_of(ids[outer])
    for left in range(0, len(inner), INNER_ROWS):
        places = inner[left : left + INNER_ROWS]
        b = vectors_of(ids[places])
        for rows, columns in maybe_within(a, b, radius, metric):
            # Whoever is in one group already needs no distance: copies by the thousand cost little.
            apart = groups.roots(outer[rows]) != groups.roots(places[columns])
            rows, columns = rows[apart], columns[apart]
            near = pair_distances(a[rows], b[columns], metric) <= radius
            groups.join(outer[rows[near]], places[columns[near]])


def _projections(ids: np.ndarray, vectors_of: Vectors) -> tuple[np.ndarray, float]:
    """Where each vector lies along the direction of greatest spread, float64 (n,); the longest length.

    The direction is the first principal component of an even sample.
    """
    if len(ids) == 0:
        return np.empty(0), 0.0
    sample = vectors_of(ids[:: max(len(ids) // SAMPLE, 1)]).astype(np.float64)
    centred = sample - sample.mean(axis=0)
    direction = np.linalg.eigh(centred.T @ centred)[1][:, -1]
    along, longest = np.empty(len(ids)), 0.0
    for start in range(0, len(ids), INNER_ROWS):
        vectors = vectors_of(ids[start : start + INNER_ROWS]).astype(np.float64)
        along[start : start + len(vectors)] = vectors @ direction
        longest = max(longest, float(np.linalg.norm(vectors, axis=1).max()))
    return along, longest


def _reach(radius: float, metric: str, longest: float) -> float:
    """How far apart along any direction two vectors within the radius can be.

    No farther than their L2 distance, which is at most their L1 distance; and a cosine distance c
    of vectors no longer than s means |a − b|² = |a|² + |b|² − 2ab ≤ 2s² − 2(1 − c).
    """
    rounding = 1e-6 * (radius + longest)
    if metric == "cosine":
        return float(np.sqrt(max(2 * longest**2 - 2 * (1 - radius), 0) + rounding) + rounding)
    return radius + rounding
