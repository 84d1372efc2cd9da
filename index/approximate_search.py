"""Search by an index: candidates of the index, compared by their true distances."""

import numpy as np

from index.neighbors import Neighbors
from index.rescoring import nearest_candidates
from index.snapshot import Snapshot
from index.stored_index import TunedIndex
from index.vector_index import most_effort, search_index

BATCH = 1024
"""Queries whose candidates are held at a time, to bound memory."""


def approximate_search(
    queries: np.ndarray, k: int, snapshot: Snapshot, tuned: TunedIndex, allowed: np.ndarray | None
) -> tuple[Neighbors, np.ndarray]:
    """About the k nearest of each query (Q,D) in the index, and which queries it cannot settle.

    ``allowed``: bool (n,), which positions may be found. Unsettled, bool (Q,), are queries for which
    the index finds too few, or only equally distant ones: exact search has to answer them. Neither this
    nor the candidates depend on k, up to half the number of candidates.
    """
    answer = Neighbors.none(len(queries), k)
    unsettled = np.zeros(len(queries), bool)
    for start in range(0, len(queries), BATCH):
        part = slice(start, start + BATCH)
        found, unsettled[part] = _search(queries[part], k, snapshot, tuned, allowed)
        width = found.ids.shape[1]
        answer.ids[part, :width], answer.distances[part, :width] = found.ids, found.distances
    return answer, unsettled


def fetched(candidates: int, k: int) -> int:
    """How many candidates are fetched for k: the planned number, doubled until it is at least 2k."""
    while candidates < 2 * k:
        candidates *= 2
    return candidates


def _search(
    queries: np.ndarray, k: int, snapshot: Snapshot, tuned: TunedIndex, allowed: np.ndarray | None
) -> tuple[Neighbors, np.ndarray]:
    fetch = fetched(tuned.candidates, k)
    there = len(tuned.ids) if allowed is None else int(allowed.sum())
    # Where fewer are allowed, the nearest of them are farther away and lie in more of the lists.
    effort = min(
        round(tuned.effort * (len(tuned.ids) / max(there, 1)) ** 0.5), most_effort(tuned.index)
    )
    wanted = min(fetch // 2, there)
    ids = np.full((len(queries), fetch), -1, np.int64)
    few = np.arange(len(queries))
    while True:
        positions = search_index(tuned.index, queries[few], fetch, allowed, effort)
        ids[few, : positions.shape[1]] = np.where(positions >= 0, tuned.ids[positions], -1)
        few = few[(positions >= 0).sum(1) < wanted]
        if len(few) == 0 or effort >= most_effort(tuned.index):
            break
        effort = min(4 * effort, most_effort(tuned.index))
    found, unsettled = nearest_candidates(queries, ids, k, snapshot)
    unsettled &= there > fetch
    unsettled[few] = True
    return found, unsettled
