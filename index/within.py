"""All vectors within a distance: exact, block by block, in bounded memory."""

import dataclasses
from collections.abc import Iterator

import faiss
import numpy as np

from index.errors import VectorError
from index.exact_search import Blocks
from index.neighbors import pair_distances

TILE = 2**22
"""Pairs that are looked at together: 16 MiB of distances."""
TILE_ROWS = 512
SCORED_PAIRS = 2**15
"""Pairs whose true distance is computed together."""
ROUNDING = 2.0**-24
"""Of one float32 operation, relative."""


@dataclasses.dataclass(frozen=True)
class Within:
    """What lies within a distance of one query: distances float32 (n,) ascending, ids int64 (n,).

    Equal distances stand in the order of ids. ``total`` is how many there are: more than n where a
    limit has cut the farthest off.
    """

    distances: np.ndarray
    ids: np.ndarray
    total: int


def check_distance(distance: float) -> np.float32:
    """The distance in the precision that distances have.

    Raises VectorError for one that is negative or not a number.
    """
    if not 0 <= distance <= float(np.finfo(np.float32).max):
        raise VectorError(f"the distance is {distance}; give a number from 0 up")
    return np.float32(distance)


def within(
    queries: np.ndarray,
    distance: float,
    blocks: Blocks,
    metric: str,
    *,
    limit: int | None = None,
    own_ids: np.ndarray | None = None,
) -> list[Within]:
    """For each query (Q,D) all rows of ``blocks()`` at most ``distance`` away; the ``limit`` nearest.

    ``blocks`` gives (vectors (n,D), ids int64 (n,)). True distances decide, in float32 as they are
    shown: a row at exactly ``distance`` is within. ``own_ids`` int64 (Q,) says which row each query is
    itself, and so does not find. Memory: a tile of pairs, and what is found.
    Raises VectorError for a distance or a limit that cannot be.
    """
    radius = check_distance(distance)
    if limit is not None and limit < 1:
        raise VectorError(f"the limit is {limit}; ask for at least 1 picture")
    found = [_Found(limit) for _ in queries]
    own_ids = np.full(len(queries), -1) if own_ids is None else own_ids
    for vectors, ids in blocks():
        vectors = np.asarray(vectors, np.float32)
        for rows, columns in maybe_within(queries, vectors, radius, metric):
            distances = pair_distances(queries[rows], vectors[columns], metric)
            near = (distances <= radius) & (ids[columns] != own_ids[rows])
            rows, columns, distances = rows[near], columns[near], distances[near]
            for row in np.unique(rows):
                here = rows == row
                found[row].take(distances[here], ids[columns[here]])
    return [one.result() for one in found]


class _Found:
    """What was found for one query so far; with a limit never much more than that is kept."""

    def __init__(self, limit: int | None) -> None:
        self.limit, self.total, self.kept = limit, 0, 0
        self.parts: list[tuple[np.ndarray, np.ndarray]] = []

    def take(self, distances: np.ndarray, ids: np.ndarray) -> None:
        self.parts.append((distances, ids))
        self.total += len(ids)
        self.kept += len(ids)
        if self.limit is not None and self.kept > 2 * self.limit + SCORED_PAIRS:
            best = self.result()
            self.parts, self.kept = [(best.distances, best.ids)], len(best.ids)

    def result(self) -> Within:
        distances = np.concatenate([np.empty(0, np.float32), *(p[0] for p in self.parts)])
        ids = np.concatenate([np.empty(0, np.int64), *(p[1] for p in self.parts)])
        order = np.lexsort((ids, distances))[: self.limit]
        return Within(distances[order], ids[order], self.total)


def maybe_within(
    a: np.ndarray, b: np.ndarray, radius: np.float32, metric: str
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs (rows of ``a``, rows of ``b``), SCORED_PAIRS at a time: among them all that are within.

    A matrix product in float32 finds them; pairs that its rounding leaves in doubt are given too, so
    that their true distances can decide. a (A,D), b (B,D): float32; for cosine of length 1 (or 0).
    """
    if len(a) == 0 or len(b) == 0:
        return
    height = min(len(a), TILE_ROWS)
    width = TILE // height
    for left in range(0, len(b), width):
        columns = np.ascontiguousarray(b[left : left + width])
        for top in range(0, len(a), height):
            near = np.flatnonzero(_near(a[top : top + height], columns, float(radius), metric))
            for start in range(0, len(near), SCORED_PAIRS):
                rows, places = np.divmod(near[start : start + SCORED_PAIRS], len(columns))
                yield top + rows, left + places


def _near(a: np.ndarray, b: np.ndarray, radius: float, metric: str) -> np.ndarray:
    """Whether pairs may be within the radius, bool (A,B): never False for one that is.

    A sum of D products in float32 is off by at most about D roundings of the sum of their sizes
    (Higham, "Accuracy and Stability of Numerical Algorithms", §3.1).
    """
    doubt = (a.shape[1] + 16) * ROUNDING
    if metric == "l1":
        sums = faiss.pairwise_distances(np.ascontiguousarray(a), b, faiss.METRIC_L1)
        return ~(sums > radius * (1 + 2 * doubt))
    long_a, long_b = (float(np.linalg.norm(x.astype(np.float64), axis=1).max()) for x in (a, b))
    if metric == "cosine":
        return ~(a @ b.T < 1 - radius - doubt * (long_a * long_b + 1 + radius))
    if max(long_a, long_b) > 1e18:  # squares would overflow: let the true distances decide
        return np.ones((len(a), len(b)), bool)
    # (a, 1, −|a|²/2)·(b, −|b|²/2, 1) = −|a − b|²/2: one product, and no array beside it.
    half_a, half_b = (-np.square(x, dtype=np.float64).sum(1, keepdims=True) / 2 for x in (a, b))
    wide_a = np.concatenate([a, np.ones_like(a[:, :1]), half_a.astype(np.float32)], axis=1)
    wide_b = np.concatenate([b, half_b.astype(np.float32), np.ones_like(b[:, :1])], axis=1)
    return ~(wide_a @ wide_b.T < -(radius**2 + 2 * doubt * (long_a + long_b) ** 2) / 2)
