"""Exact search: every allowed vector is compared, block by block, in bounded memory."""

from collections.abc import Callable, Iterable

import faiss
import numpy as np

from index.neighbors import FAISS_METRIC, Neighbors, rescore

BLOCK_ROWS = 32_768
MARGIN = 16
"""Candidates beyond k, so that rounding at the cut cannot change the answer."""

Blocks = Callable[[], Iterable[tuple[np.ndarray, np.ndarray]]]


def exact_search(
    queries: np.ndarray,
    k: int,
    blocks: Blocks,
    vectors_of: Callable[[np.ndarray], np.ndarray],
    metric: str,
) -> Neighbors:
    """The k nearest of each query (Q,D) among all rows of ``blocks()``.

    ``blocks`` gives (vectors (n,D), ids int64 (n,)) with n ≤ BLOCK_ROWS, as often as it is called;
    ``vectors_of`` gives the vectors of ids. Equal distances stand in the order of ids, at the cut too:
    where the k-th distance reaches to the last candidate, more candidates are fetched.
    """
    answer = Neighbors.none(len(queries), k)
    unsettled, fetch = np.arange(len(queries)), k + MARGIN
    while len(unsettled):
        approximate, total = _candidates(queries[unsettled], fetch, blocks, metric)
        exact = rescore(queries[unsettled], approximate.ids, vectors_of, metric).best(fetch)
        answer.distances[unsettled] = exact.distances[:, :k]
        answer.ids[unsettled] = exact.ids[:, :k]
        if fetch >= total:
            break
        # What was not fetched is at least as far as the farthest fetched, but for rounding.
        sure = _surely_nearer(queries[unsettled], exact.distances[:, -1], metric)
        unsettled = unsettled[exact.distances[:, k - 1] >= sure]
        fetch = min(fetch * 4, total)
    return answer


def _surely_nearer(queries: np.ndarray, farthest: np.ndarray, metric: str) -> np.ndarray:
    """Distances (Q,) below which FAISS, for all its rounding, has left nothing out.

    Of many queries (by its version from 20 or 128,000 on) it computes L2 as |a|² + |b|² − 2ab, whose
    error grows with the lengths and not with the distance: among near-duplicates its order is noise.
    """
    if metric == "l2":
        lengths = np.linalg.norm(queries, axis=1) + farthest
        return np.sqrt(np.maximum(farthest**2 - 4e-6 * lengths**2, 0))
    return farthest - 4e-6 * (1 + farthest)


def _candidates(
    queries: np.ndarray, fetch: int, blocks: Blocks, metric: str
) -> tuple[Neighbors, int]:
    """About the ``fetch`` nearest by FAISS's own distances, and how many rows there were."""
    found, total = Neighbors.none(len(queries), fetch), 0
    for vectors, ids in blocks():
        if len(ids) == 0:
            continue
        total += len(ids)
        vectors = np.ascontiguousarray(vectors, np.float32)
        values, rows = faiss.knn(queries, vectors, min(fetch, len(ids)), FAISS_METRIC[metric])
        # faiss.knn puts large inner products first; as distances they are small.
        values = -values if metric == "cosine" else values
        block = Neighbors(values, np.where(rows < 0, -1, ids[rows]))
        found = found.merge(block, fetch)
    return found, total
