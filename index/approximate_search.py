"""Search by an index: candidates of the index, compared by their true distances."""

import numpy as np

from index.neighbors import Neighbors
from index.rescoring import nearest_candidates
from index.snapshot import Snapshot
from index.stored_index import TunedIndex
from index.vector_index import is_graph, most_effort, search_index

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
    # Where fewer are allowed, or more are wanted, they are farther away and lie in more of the lists.
    farther = len(tuned.ids) / max(there, 1) * fetch / tuned.candidates
    graph = is_graph(tuned.index)
    # A graph stops after so many steps, however few candidates it has seen by then.
    effort = max(round(tuned.effort * farther**0.5), fetch * graph)
    effort = min(effort, most_effort(tuned.index))
    wanted = min(fetch // 2, there)
    positions = search_index(tuned.index, queries, fetch, allowed, effort)
    few = np.flatnonzero((positions >= 0).sum(1) < wanted)
    while len(few) and effort < most_effort(tuned.index):
        effort = min(4 * effort, most_effort(tuned.index))
        positions[few] = search_index(tuned.index, queries[few], fetch, allowed, effort)
        few = few[(positions[few] >= 0).sum(1) < wanted]
    ids = np.where(positions >= 0, tuned.ids[positions], -1)
    # Among many copies of a vector a graph does not find its way to each.
    alike = tuned.candidates // 2 if graph else None
    found, unsettled = nearest_candidates(queries, ids, k, snapshot, alike)
    unsettled &= there > fetch
    unsettled[few] = True
    return found, unsettled
