# The stubs that FAISS ships do not know pairwise_indexed_….
# mypy: disable-error-code="attr-defined"
"""The candidates that an index named, compared by their true distances with the stored vectors."""

import faiss
import numpy as np

from index.neighbors import Neighbors, rescore
from index.snapshot import Snapshot

MARGIN = 8
"""Candidates beyond k that are compared in float64, so that float32 cannot change the answer."""
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
    for found, shard, rows in snapshot.places(flat[pairs]):
        where = pairs if len(found) == len(pairs) else pairs[found]
        if snapshot.storage.dtype == "float32":
            vectors = shard.touched(rows)
        else:
            vectors, rows = shard.take(rows).astype(np.float32), np.arange(len(rows))
        values[where] = _pair_values(
            queries, where // ids.shape[1], vectors, rows, snapshot.settings["metric"]
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


def candidate_distances(queries: np.ndarray, ids: np.ndarray, snapshot: Snapshot) -> np.ndarray:
    """True distances float32 (Q,c) of candidates ids (Q,c), inf for −1."""
    metric = snapshot.settings["metric"]
    if metric == "l1":
        return rescore(queries, ids, snapshot.vectors_of, metric).distances
    rough = rough_distances(queries, ids, snapshot)
    return np.sqrt(rough) if metric == "l2" else 1 + rough


def nearest_candidates(
    queries: np.ndarray, ids: np.ndarray, k: int, snapshot: Snapshot
) -> tuple[Neighbors, np.ndarray]:
    """The k nearest of candidates ids (Q,c), and of which queries (bool (Q,)) ties leave that open.

    Open is a query whose candidates from the middle to the last are equally far: others, as far and
    with smaller ids, may not be among them. That k does not matter for this is on purpose.
    """
    metric = snapshot.settings["metric"]
    if metric == "l1":
        exact = rescore(queries, ids, snapshot.vectors_of, metric)
        return exact.best(k), _tied(exact.distances)
    rough = rough_distances(queries, ids, snapshot)
    likely = Neighbors(rough, ids)
    if ids.shape[1] > k + MARGIN:
        likely = _first(likely, k + MARGIN)
    return rescore(queries, likely.ids, snapshot.vectors_of, metric).best(k), _tied(rough)


def _first(found: Neighbors, count: int) -> Neighbors:
    """The ``count`` nearest in any order; where the cut goes through equal distances, by id."""
    order = np.argpartition(found.distances, count - 1, axis=1)
    cut = np.take_along_axis(found.distances, order[:, count - 1 : count], 1)
    kept = found.ids[np.arange(len(found.ids))[:, None], order[:, :count]]
    tied = (found.distances <= cut).sum(1) > count
    kept[tied] = Neighbors(found.distances[tied], found.ids[tied]).best(count).ids
    return Neighbors(np.empty(kept.shape, np.float32), kept)


def _tied(values: np.ndarray) -> np.ndarray:
    middle = np.partition(values, values.shape[1] // 2, axis=1)[:, values.shape[1] // 2]
    last = values.max(1)
    full = np.isfinite(last)  # where candidates are missing, there are no others
    tied = np.zeros(len(values), bool)
    tied[full] = last[full] - middle[full] <= 1e-6 * (1 + np.abs(last[full]))
    return tied
