"""Exact rankings of a gallery for queries: where in them the pictures of the query's class stand."""

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

SAMPLE = 4096
"""Pictures that tell where a gallery lies."""
Ties = Literal["id", "pessimistic"]


class Ranker:
    """Ranks the whole gallery by (distance, tie order) for some queries at a time.

    Each (query, picture) pair becomes one 64-bit key: the bits of its float32 distance (which for
    numbers ≥ 0 order as the numbers do), then the tie order, then whether the picture is relevant.
    Sorting plain integers is several times faster than sorting indices by distance.
    """

    def __init__(
        self,
        gallery: np.ndarray,
        labels: np.ndarray,
        ids: np.ndarray | None,
        distance: str,
        ties: Ties,
    ) -> None:
        self.distance, self.labels = distance, labels
        self.shift = _shift(gallery)
        self.exponent = _exponent(gallery + self.shift, axis=None)
        self.gallery = self.prepared(gallery)
        self.repeats, self.firsts = _repeats(self.gallery)
        self.ids = np.arange(len(gallery)) if ids is None else np.asarray(ids, np.int64)
        self.by_id = np.argsort(self.ids, kind="stable")
        order = np.empty(len(gallery), np.uint64)
        order[self.by_id] = np.arange(len(gallery), dtype=np.uint64)
        self.order = order << np.uint64(1)
        self.relevant_bit = np.uint64(1 if ties == "id" else 1 | 1 << 31)

    def prepared(self, vectors: np.ndarray) -> np.ndarray:
        """Vectors float32 (n,D) as distances are computed of them."""
        if self.distance == "cosine":
            return _unit(vectors)
        near: np.ndarray = np.ldexp(vectors + self.shift, -self.exponent)
        return near

    def rows_of(self, query_ids: np.ndarray | None, n: int) -> list[np.ndarray]:
        """For each of n queries the gallery rows with its id: int64 (r,) each."""
        if query_ids is None:
            return [np.empty(0, np.int64)] * n
        ascending, query_ids = self.ids[self.by_id], np.asarray(query_ids, np.int64)
        first = np.searchsorted(ascending, query_ids)
        end = np.searchsorted(ascending, query_ids, side="right")
        return [self.by_id[a:b] for a, b in zip(first, end, strict=True)]

    def hits(
        self, queries: np.ndarray, labels: np.ndarray, itself: Sequence[np.ndarray]
    ) -> Iterator[np.ndarray]:
        """For each of these prepared queries the ranks, from 0, of the pictures of its class.

        Those of the rows ``itself`` are not among them.
        """
        distances = self._distances(queries)
        # A product of matrices is rounded otherwise at its edges: equal vectors must tie all the same.
        distances[:, self.repeats] = distances[:, self.firsts]
        keys = distances.view(np.uint32).astype(np.uint64) << np.uint64(32)
        for key, label, own in zip(keys, labels, itself, strict=True):
            key |= self.order
            key[self.labels == label] |= self.relevant_bit
            key[own] = np.iinfo(np.uint64).max - np.uint64(1)  # last of all, not relevant
            key.sort()
            yield np.flatnonzero(key & np.uint64(1))

    def _distances(self, queries: np.ndarray) -> np.ndarray:
        """Float32 (q,N), none negative, up to a monotone change: squared for l2."""
        if self.distance == "l1":
            return np.stack([np.abs(self.gallery - query).sum(1) for query in queries])
        products = queries @ self.gallery.T
        if self.distance == "cosine":
            return np.maximum(1 - products, 0, dtype=np.float32)
        norms = np.einsum("nd,nd->n", self.gallery, self.gallery)
        own = np.einsum("qd,qd->q", queries, queries)
        return np.maximum(own[:, None] + norms - 2 * products, 0, dtype=np.float32)


def _exponent(vectors: np.ndarray, axis: int | None) -> np.ndarray:
    """The least e with all values below 2ᵉ: divided by it, none has a square beyond float32."""
    _, exponent = np.frexp(np.abs(vectors).max(axis=axis, keepdims=True, initial=0))
    return exponent


def _unit(vectors: np.ndarray) -> np.ndarray:
    vectors = np.ldexp(vectors, -_exponent(vectors, axis=1))
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: np.ndarray = vectors / np.maximum(norms, 1e-12) + np.float32(0)  # no −0: see _repeats
    return unit


def _shift(gallery: np.ndarray) -> np.ndarray:
    """What brings a gallery (N,D) near the origin, float32 (D,).

    Far from it |a|² + |b|² − 2ab is a small difference of large numbers. It is a multiple of a power
    of two about as large as the spread, so that whole numbers stay whole, and their distances exact.
    """
    if len(gallery) == 0:
        return np.zeros(gallery.shape[1], np.float32)
    some = gallery[:: max(len(gallery) // SAMPLE, 1)].astype(np.float64)
    spread = some.std(axis=0).max(initial=0)
    step = 2.0 ** np.ceil(np.log2(spread)) if spread > 0 else 1.0
    nearest: np.ndarray = 0 - np.round(some.mean(axis=0) / step) * step  # no −0: see _repeats
    return nearest.astype(np.float32)


def _repeats(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows int64 (r,) that are equal to an earlier one, and the first of those, int64 (r,)."""
    if vectors.size == 0:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    as_bytes = np.ascontiguousarray(vectors).view(np.dtype((np.void, vectors[0].nbytes)))[:, 0]
    _, first, which = np.unique(as_bytes, return_index=True, return_inverse=True)
    first = first[which]
    repeats = np.flatnonzero(first != np.arange(len(vectors)))
    return repeats, first[repeats]
