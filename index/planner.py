"""Which index a gallery gets, by measurement.

Each candidate is built over a sample of the gallery's own vectors, and asked with other vectors of the
gallery that are not in it. Found is a neighbour as near as the exact 10th, so that ties are no misses.
Recall here is neighbor_overlap: the share of the 10 exact neighbours among the 10 answered.
"""

import dataclasses
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from index.approximate_search import approximate_search
from index.errors import BudgetError
from index.exact_search import exact_search
from index.rescoring import nearest_candidates
from index.snapshot import Snapshot
from index.stored_index import TunedIndex
from index.vector_index import (
    FLAT,
    efforts,
    expected_bytes,
    holds_whole_vectors,
    lists_of,
    search_index,
    train_index,
)

K = 10
EXACT_NUMBERS = 10_000_000
"""Up to so many numbers (rows × dimension) comparing every vector takes about a millisecond."""
LEAST_ROWS = 1000
"""Below, nothing else is worth a measurement."""
SAMPLE_ROWS = 100_000
"""Candidates are compared on at most so many vectors; the chosen one is measured again on all."""
HELD_OUT = 500
TIMED = 100
"""Queries that are asked one at a time, to be timed."""
SIMILAR_SPEED = 1.25
"""Among candidates not slower than this many times the fastest, the smallest is taken."""
WHOLE_CANDIDATES = (32,)
CODE_CANDIDATES = (64, 128, 256, 512)
"""How many candidates are compared by their true distances: for whole vectors, and for codes."""
Report = Callable[[str, int, int], None]


@dataclasses.dataclass(frozen=True)
class Limits:
    """What an index has to keep to: bytes in memory, the median milliseconds of a query, recall."""

    max_bytes: int | None = None
    max_query_ms: float | None = None
    recall: float = 0.95

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if value is not None and not (0 < value <= (1 if name == "recall" else np.inf)):
                raise BudgetError(f"{name} is {value}; it has to be above 0, and recall at most 1")

    def __str__(self) -> str:
        """As options of the command line."""
        options = {"max-index-memory-usage": self.max_bytes, "max-query-time-ms": self.max_query_ms,
                   "recall-target": self.recall}  # fmt: skip
        return " ".join(f"--{name} {value}" for name, value in options.items() if value is not None)


@dataclasses.dataclass(frozen=True)
class Measured:
    """One candidate: how it was asked, how good and fast it was; its bytes for the whole gallery."""

    key: str
    effort: int
    candidates: int
    recall: float
    p50_ms: float
    p99_ms: float
    bytes: int
    build_seconds: float
    verdict: str = ""


def stays_exact(snapshot: Snapshot, limits: Limits) -> bool:
    """Whether comparing every vector is fast enough, and small enough, that no index is worth it."""
    rows, dim = snapshot.n_items, snapshot.settings["dim"]
    if rows < LEAST_ROWS:
        return True
    size = rows * snapshot.storage.row_bytes
    within = limits.max_query_ms is None and size <= (limits.max_bytes or np.inf)
    return within and rows * dim <= EXACT_NUMBERS


def candidate_keys(rows: int, dim: int, metric: str, *, removed: bool) -> list[str]:
    """Keys worth measuring for so many rows; a graph only where nothing has been removed."""
    lists = lists_for(rows)
    keys = [f"IVF{lists},Flat"]
    if metric != "l1":
        keys += [f"IVF{lists},SQ8", f"IVF{lists},RaBitQ"]
        keys += [f"IVF{lists},PQ{dim // 2}x4fs"] if dim % 2 == 0 else []
        keys += [f"kmeans:8x{dim // 8}"] if dim % 8 == 0 else []  # the smallest of all
    return keys if removed else [*keys, "HNSW32"]


def lists_for(rows: int) -> int:
    """The power of two nearest to 4 √rows, but 39 vectors to each list."""
    wanted = min(4 * rows**0.5, rows / 39)
    return int(2 ** max(round(np.log2(max(wanted, 1))), 0))


def check_budget(rows: int, dim: int, metric: str, row_bytes: int, limits: Limits) -> None:
    """Raises BudgetError, with the smallest budget that would work, where no index can be so small."""
    if limits.max_bytes is None:
        return
    sizes = {FLAT: rows * row_bytes}
    if rows >= LEAST_ROWS:
        keys = candidate_keys(rows, dim, metric, removed=False)
        sizes |= {key: expected_bytes(key, rows, dim) for key in keys}
    smallest = min(sizes, key=lambda key: sizes[key])
    if sizes[smallest] > limits.max_bytes:
        raise BudgetError(
            f"no index of {rows:,} vectors of {dim} numbers fits into {limits.max_bytes:,} bytes; the "
            f"smallest is {smallest}: give --max-index-memory-usage {sizes[smallest]} or more"
        )


def choose(snapshot: Snapshot, limits: Limits, report: Report, seed: int = 0) -> list[Measured]:
    """The candidates for the living vectors, measured, the chosen one first, each with a verdict.

    Raises BudgetError, with the smallest limit that would work, where none keeps to the limits.
    """
    rows, dim, metric = snapshot.n_items, snapshot.settings["dim"], snapshot.settings["metric"]
    row_bytes = snapshot.storage.row_bytes
    check_budget(rows, dim, metric, row_bytes, limits)
    n_held = min(HELD_OUT, rows // 20)
    order = snapshot.living_ids()
    np.random.default_rng(seed).shuffle(order)
    held, sample = np.sort(order[:n_held]), np.sort(order[n_held : n_held + SAMPLE_ROWS])
    del order  # the ids of all vectors are held no longer than need be
    trial = Trial(snapshot, sample, held)
    keys = candidate_keys(len(sample), dim, metric, removed=len(snapshot.dead) > 0)
    final = candidate_keys(rows, dim, metric, removed=len(snapshot.dead) > 0)
    measured = [trial.exact(rows * row_bytes)]
    for number, (key, final_key) in enumerate(zip(keys, final, strict=True)):
        report("Measuring", number, len(keys))
        size = expected_bytes(final_key, rows, dim)
        if limits.max_bytes is None or size <= limits.max_bytes:
            candidate = trial.measure(key, limits.recall)
            measured.append(dataclasses.replace(candidate, key=final_key, bytes=size))
    report("Measuring", len(keys), len(keys))
    return judge(measured, limits)


def judge(measured: list[Measured], limits: Limits) -> list[Measured]:
    """The chosen candidate first, then the others by speed, with a sentence on why they lost.

    Of those within the limits, and not much slower than the fastest, the smallest is chosen.
    """
    fit = [m for m in measured if _objection(m, limits) is None]
    if not fit:
        _refuse(measured, limits)
    fastest = min(m.p50_ms for m in fit)
    close = [m for m in fit if m.p50_ms <= SIMILAR_SPEED * fastest]
    best = min(close, key=lambda m: (m.bytes, m.p50_ms))
    rest = sorted((m for m in measured if m is not best), key=lambda m: m.p50_ms)
    verdicts = [_objection(m, limits) or _comparison(m, best) for m in rest]
    return [
        dataclasses.replace(best, verdict="chosen"),
        *(dataclasses.replace(m, verdict=v) for m, v in zip(rest, verdicts, strict=True)),
    ]


def _objection(m: Measured, limits: Limits) -> str | None:
    if limits.max_bytes is not None and m.bytes > limits.max_bytes:
        return f"larger than the {limits.max_bytes:,} bytes allowed"
    if m.recall < limits.recall:
        return f"recall stays below {limits.recall:g}"
    if limits.max_query_ms is not None and m.p50_ms > limits.max_query_ms:
        return f"slower than the {limits.max_query_ms:g} ms allowed"
    return None


def _comparison(m: Measured, best: Measured) -> str:
    if m.p50_ms <= SIMILAR_SPEED * best.p50_ms:
        return f"about as fast, but {m.bytes / best.bytes:.1f} times as large"
    return f"{m.p50_ms / best.p50_ms:.1f} times as slow"


def _refuse(measured: list[Measured], limits: Limits) -> None:
    """Raises BudgetError with the smallest limit that would work."""
    good = [m for m in measured if m.recall >= limits.recall]
    in_time = [m for m in good if limits.max_query_ms is None or m.p50_ms <= limits.max_query_ms]
    if in_time:
        best = min(in_time, key=lambda m: m.bytes)
        advice = f"--max-index-memory-usage {best.bytes}"
    else:
        small = [m for m in good if limits.max_bytes is None or m.bytes <= limits.max_bytes] or good
        best = min(small, key=lambda m: m.p50_ms)
        advice = f"--max-query-time-ms {np.ceil(best.p50_ms * 110) / 100:g}"
    raise BudgetError(
        f"no index reaches recall {limits.recall:g} within "
        f"{'any number of' if limits.max_bytes is None else f'{limits.max_bytes:,}'} bytes and "
        f"{'any number of' if limits.max_query_ms is None else f'{limits.max_query_ms:g}'} ms; "
        f"{best.key} takes {best.bytes:,} bytes and {best.p50_ms:.3g} ms: give {advice} or more, or a "
        "lower --recall-target"
    )


class Trial:
    """Vectors that are in an index under trial, and others that ask it."""

    def __init__(self, snapshot: Snapshot, ids: np.ndarray, held: np.ndarray) -> None:
        self.snapshot, self.ids = snapshot, ids
        self.metric = snapshot.settings["metric"]
        self.queries = snapshot.vectors_of(held)
        self.k = min(K, len(ids))
        self.lists: np.ndarray | None = None
        self.nearest = exact_search(
            self.queries, self.k, self._blocks, snapshot.vectors_of, self.metric
        )

    def _blocks(self) -> Iterable[tuple[np.ndarray, np.ndarray]]:
        return self.snapshot.blocks(self.ids, after=-1)

    def exact(self, size: int) -> Measured:
        """Comparing every vector of the gallery, timed as the others are."""

        def blocks() -> Iterable[tuple[np.ndarray, np.ndarray]]:
            return self.snapshot.blocks(None, after=-1)

        def ask(query: np.ndarray) -> object:
            return exact_search(query, self.k, blocks, self.snapshot.vectors_of, self.metric)

        p50, p99 = _timed(ask, self.queries[: TIMED // 10])
        return Measured(FLAT, 0, 0, 1.0, p50, p99, size, 0.0)

    def measure(self, key: str, target: float) -> Measured:
        """A candidate: built, and asked with the least effort that reaches the recall."""
        started = time.perf_counter()
        vectors = self.snapshot.vectors_of(self.ids)
        index = train_index(key, self.metric, vectors, lists=self.lists)
        self.lists = self.lists if lists_of(index) is None else lists_of(index)
        index.add(vectors)
        seconds = time.perf_counter() - started
        return dataclasses.replace(self.tune(index, key, target), build_seconds=seconds)

    def tune(self, index: Any, key: str, target: float) -> Measured:
        """The fastest effort and number of candidates whose recall reaches the target.

        Recall less its standard error counts, so that chance does not choose. Where nothing reaches the
        target it is the best there is. More effort may do with fewer candidates, so the search goes on
        for a while.
        """
        best, enough = None, None
        for effort in efforts(index):
            width, recall, reached = self._width(index, key, effort, target)
            tuned = TunedIndex(index, self.ids, effort, width)
            started = time.perf_counter()
            approximate_search(self.queries, self.k, self.snapshot, tuned, None)
            rank = (not reached, time.perf_counter() - started if reached else -recall)
            if best is None or rank < best[0]:
                best = rank, tuned, recall
            enough = enough or (effort if reached else None)
            if enough is not None and effort >= 2 * enough:
                break
        assert best is not None
        _, tuned, recall = best

        def ask(query: np.ndarray) -> object:
            return approximate_search(query, self.k, self.snapshot, tuned, None)

        p50, p99 = _timed(ask, self.queries[:TIMED])
        return Measured(key, tuned.effort, tuned.candidates, recall, p50, p99, 0, 0.0)

    def _width(self, index: Any, key: str, effort: int, target: float) -> tuple[int, float, bool]:
        """The least number of candidates that reaches the target, its recall, and whether it does."""
        widths = WHOLE_CANDIDATES if holds_whole_vectors(key) else CODE_CANDIDATES
        positions = search_index(index, self.queries, widths[-1], None, effort)
        ids = np.where(positions >= 0, self.ids[positions], -1)
        for width in widths:
            found, _ = nearest_candidates(self.queries, ids[:, :width], self.k, self.snapshot)
            shares = (found.distances <= self.nearest.distances[:, -1:]).mean(1)
            recall, error = float(shares.mean()), float(shares.std() / len(shares) ** 0.5)
            if recall - error >= target:
                return width, recall, True
        return widths[-1], recall, False


def _timed(ask: Callable[[np.ndarray], object], queries: np.ndarray) -> tuple[float, float]:
    """Median and 99th percentile of the milliseconds of one query at a time.

    The better of two rounds counts for each, as other programs disturb the one or the other.
    """
    rounds: list[list[float]] = [[], []]
    for taken in rounds:
        for row in range(len(queries)):
            started = time.perf_counter()
            ask(queries[row : row + 1])
            taken.append(1000 * (time.perf_counter() - started))
    times = np.min(rounds, axis=0)
    return float(np.median(times)), float(np.percentile(times, 99))
