# The stubs that FAISS ships do not know pairwise_indexed_….
# mypy: disable-error-code="attr-defined"
"""The candidates that an index named, compared by their true distances with the stored vectors."""

import faiss
import numpy as np

from index.neighbors import Neighbors, rescore
from index.snapshot import Snapshot

ROUNDING = 1e-5
"""Candidates farther than the k-th by this share are compared in float64 too: float32 errs by less."""
TIE = 5e-7
"""Candidates are equally far where this share is all that float32 finds between them."""
LEAST = np.finfo(np.float32).tiny
"""Below, float32 has no full precision."""
FEW_PAIRS = 4096
"""So few are copied together: waking FAISS's threads for each shard would take longer."""


def rough_distances(queries: np.ndarray, ids: np.ndarray, snapshot: Snapshot) -> np.ndarray:
    """Float32 (Q,c) of candidates ids (Q,c), inf for −1: squared for l2, minus the cosine for cosine.

    Each pair is computed on its own, from the stored vectors where they lie. Not for l1.
    """
    values = np.full(ids.size, np.inf, np.float32)
    flat = np.ascontiguousarray(ids).ravel()
    pairs = np.flatnonzero(flat >= 0)
    if len(pairs) <= FEW_PAIRS:
        vectors = snapshot.vectors_of(flat[pairs])
        wanted = queries[pairs // ids.shape[1]]
        cosine = snapshot.settings["metric"] == "cosine"
        other = wanted if cosine else np.subtract(vectors, wanted, out=vectors)
        values[pairs] = np.einsum("nd,nd->n", vectors, -other if cosine else other)
        return values.reshape(ids.shape)
    whole = len(pairs) == len(flat)
    query_rows = np.repeat(np.arange(len(queries)), ids.shape[1])
    for found, shard, rows in snapshot.places(flat if whole else flat[pairs]):
        where = found if whole else pairs[found]
        if snapshot.storage.dtype == "float32":
            vectors = shard.touched(rows)
        else:
            vectors, rows = shard.take(rows).astype(np.float32), np.arange(len(rows))
        values[where] = _pair_values(
            queries, query_rows[where], vectors, rows, snapshot.settings["metric"]
        )
    return values.reshape(ids.shape)


def _pair_values(
    queries: np.ndarray, query_rows: np.ndarray, vectors: np.ndarray, rows: np.ndarray, metric: str
) -> np.ndarray:
    out = np.empty(len(rows), np.float32)
    compare = faiss.pairwise_indexed_L2sqr
    if metric == "cosine":
        compare = faiss.pairwise_indexed_inner_product
    query_rows, rows = (np.ascontiguousarray(a, np.int64) for a in (query_rows, rows))
    pointers = [faiss.swig_ptr(a) for a in (queries, query_rows, vectors, rows, out)]
    compare(queries.shape[1], len(rows), *pointers)
    return -out if metric == "cosine" else out


def nearest_candidates(
    queries: np.ndarray, ids: np.ndarray, k: int, snapshot: Snapshot, alike: int | None = None
) -> tuple[Neighbors, np.ndarray]:
    """The k nearest of candidates ids (Q,c), and of which queries (bool (Q,)) ties leave that open.

    Open is a query whose candidates from the middle to the last are equally far: others, as far and
    with smaller ids, may not be among them. With ``alike`` it is so where so many are equally far,
    wherever they stand. That k does not matter for this is on purpose.
    """
    metric = snapshot.settings["metric"]
    if metric == "l1":
        exact = rescore(queries, ids, snapshot.vectors_of, metric)
        return exact.best(k), _tied(exact.distances, metric, alike)
    rough = rough_distances(queries, ids, snapshot)
    likely = _nearest(rough, ids, k, metric)
    return rescore(queries, likely, snapshot.vectors_of, metric).best(k), _tied(
        rough, metric, alike
    )


def _slack(values: np.ndarray, share: float, metric: str) -> np.ndarray:
    """A share of the values; of cosines, which are sums near 1 of near vectors, that of 1."""
    return share * (np.ones_like(values) if metric == "cosine" else values) + LEAST


def _nearest(values: np.ndarray, ids: np.ndarray, k: int, metric: str) -> np.ndarray:
    """The ids (Q,w) that may be among the k nearest, however float32 has rounded; −1 fills up rows."""
    if ids.shape[1] <= k:
        return ids
    last = np.partition(values, k - 1, axis=1)[:, k - 1 : k]
    near = values <= last + _slack(last, ROUNDING, metric)
    counts = near.sum(1)
    rows, columns = np.nonzero(near)
    places = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    found = np.full((len(ids), counts.max(initial=k)), -1, np.int64)
    found[rows, places] = ids[rows, columns]
    return found


def _tied(values: np.ndarray, metric: str, alike: int | None) -> np.ndarray:
    middle = values.shape[1] // 2
    if alike is None or alike > values.shape[1]:
        first = np.partition(values, middle, axis=1)[:, middle : middle + 1]
        last = values.max(1, keepdims=True)
    else:
        ordered = np.sort(values, axis=1)
        first, last = ordered[:, : values.shape[1] - alike + 1], ordered[:, alike - 1 :]
    tied = np.zeros(first.shape, bool)
    full = np.isfinite(last)  # where candidates are missing, there are no others
    tied[full] = last[full] - first[full] <= _slack(last[full], TIE, metric)
    return np.any(tied, axis=1)
