"""Distances, and the answer of a search."""

import dataclasses
from collections.abc import Callable

import faiss
import numpy as np

from index.errors import VectorError

METRICS = ("l2", "l1", "cosine")
FAISS_METRIC = {
    "l2": faiss.METRIC_L2,
    "l1": faiss.METRIC_L1,
    "cosine": faiss.METRIC_INNER_PRODUCT,
}
LONGEST = 1e18
"""The length of the longest vectors: sums of a few squares of it are within float32."""
RESCORE_PAIRS = 2**15
"""Candidates that are re-scored at a time, to bound memory."""


@dataclasses.dataclass(frozen=True)
class Neighbors:
    """distances float32 (Q,k) ascending, ids int64 (Q,k); fewer than k: id −1, distance inf, last."""

    distances: np.ndarray
    ids: np.ndarray

    @classmethod
    def none(cls, n_queries: int, k: int) -> "Neighbors":
        """No neighbours at all."""
        distances = np.full((n_queries, k), np.inf, np.float32)
        return cls(distances, np.full((n_queries, k), -1, np.int64))

    def merge(self, other: "Neighbors", k: int) -> "Neighbors":
        """The k best of both, by distance, equal distances by id."""
        return Neighbors(
            np.concatenate([self.distances, other.distances], axis=1),
            np.concatenate([self.ids, other.ids], axis=1),
        ).best(k)

    def best(self, k: int) -> "Neighbors":
        """The first k by (distance, id)."""
        ids = np.where(self.ids < 0, np.iinfo(np.int64).max, self.ids)
        order = np.lexsort((ids, self.distances), axis=1)[:, :k]
        return Neighbors(
            np.take_along_axis(self.distances, order, 1), np.take_along_axis(self.ids, order, 1)
        )


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors (n,D) scaled to length 1; zero stays zero."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    tiny = norms[:, 0] < 1e-15  # float32 has lost their squares, or a part of them
    norms[tiny] = np.linalg.norm(vectors[tiny].astype(np.float64), axis=1, keepdims=True)
    return vectors / np.where(norms > 0, norms, 1)


def prepare(vectors: np.ndarray, dim: int, metric: str, what: str) -> np.ndarray:
    """Contiguous float32 (n,D), for cosine of length 1.

    Raises VectorError for what is no numbers or of another shape, for values that are not finite, and
    for vectors so long that their square is beyond float32.
    """
    try:
        with np.errstate(over="ignore"):  # checked at once
            vectors = np.ascontiguousarray(vectors, np.float32)
    except (TypeError, ValueError) as error:
        raise VectorError(f"{what} are not numbers: {error}") from error
    if vectors.ndim != 2 or vectors.shape[1] != dim:
        raise VectorError(
            f"{what} have shape {vectors.shape}; the gallery holds vectors of {dim} numbers, so "
            f"that (n, {dim}) is expected"
        )
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        raise VectorError(
            f"{int((~finite).sum())} of {len(vectors)} {what} hold values that are not finite, or "
            f"beyond float32; the first is row {int(np.argmin(finite))}"
        )
    if vectors.size and max(vectors.max(), -vectors.min()) > LONGEST / vectors.shape[1] ** 0.5:
        lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64))
        if lengths.max() > LONGEST:
            raise VectorError(
                f"{what} may be {LONGEST:g} long at most, and the longest is {lengths.max():.3g}"
            )
    return unit(vectors) if metric == "cosine" else vectors


def rescore(
    queries: np.ndarray,
    ids: np.ndarray,
    vectors_of: Callable[[np.ndarray], np.ndarray],
    metric: str,
) -> Neighbors:
    """True distances of candidates ids (Q,c), −1 for none: in candidate order.

    FAISS computes L2 in batches as |a|² + |b|² − 2ab, whose rounding depends on the batch. Here each
    pair is computed on its own, so that an answer depends neither on k nor on the other queries.
    """
    distances = np.full(ids.shape, np.inf, np.float32)
    step = max(RESCORE_PAIRS // max(ids.shape[1], 1), 1)
    for start in range(0, len(queries), step):
        part = ids[start : start + step]
        rows, columns = np.nonzero(part >= 0)
        pairs = vectors_of(part[rows, columns]), queries[start : start + step][rows]
        distances[start + rows, columns] = pair_distances(*pairs, metric)
    return Neighbors(distances, ids)


def pair_distances(a: np.ndarray, b: np.ndarray, metric: str) -> np.ndarray:
    """Distances float32 (n,) between rows of two (n,D); cosine takes vectors of length 1."""
    if metric == "cosine":
        cosines = np.einsum("nd,nd->n", a, b, dtype=np.float64)
        return np.maximum(1 - cosines, 0).astype(np.float32)
    difference = np.subtract(a, b, dtype=np.float64)
    if metric == "l1":
        return np.abs(difference).sum(1).astype(np.float32)
    return np.sqrt(np.einsum("nd,nd->n", difference, difference)).astype(np.float32)
