"""Keeping the index of a gallery up to date: when it is left alone, extended, or built anew.

Vectors newer than the index are compared one by one. Only when they are more than a share of it are
they added to it; the lists and codes are learnt anew when it has doubled, or a fifth of it is gone.
"""

import dataclasses
import logging
import time
from typing import Any

import numpy as np

from index import planner
from index.errors import BudgetError, IndexKeyError
from index.exact_search import BLOCK_ROWS
from index.planner import Limits, Measured, Report, Trial
from index.snapshot import Snapshot
from index.vector_index import (
    AUTO,
    FLAT,
    TRAIN_ROWS,
    index_bytes,
    load_index,
    train_index,
)

logger = logging.getLogger(__name__)

NEWER_ROWS, NEWER_SHARE = 10_000, 0.02
"""An index is extended when more vectors than either are newer than it."""
GONE_SHARE = 0.2
"""An index is built anew when more of it than this share was removed."""
LEAST_HELD_OUT = 20
REPLAN_GROWTH = 4
"""Which index it is, is asked again when the gallery has grown so many times; its effort always.

Exact search slows down most: whether it is still the best is asked whenever the gallery has doubled.
"""


@dataclasses.dataclass(frozen=True)
class NewIndex:
    """A FAISS index (None: exact search), the ids int64 (n,) of its positions, how it was chosen."""

    index: Any
    ids: np.ndarray
    plan: dict[str, Any] | None


def index_due(
    snapshot: Snapshot, key: str, limits: Limits, report: Report, *, anew: bool = False
) -> NewIndex | None:
    """The index to put in the place of the present one, None where that may stay.

    Where there are too few vectors for the key there is none until there are enough, with a warning;
    where none keeps to the limits they are passed over, with a warning. ``anew``: planned and built
    whatever there is; too few vectors are an IndexKeyError then, and what does not keep to the limits a
    BudgetError.
    """
    plan = None if anew else snapshot.settings.get("plan")
    if snapshot.n_items == 0:
        return _without(snapshot)
    exact = key == FLAT or (key == AUTO and planner.stays_exact(snapshot, limits))
    try:
        if not exact:
            return _changed(snapshot, key, limits, report, plan)
        _check_exact(snapshot, limits, timed=anew)
    except IndexKeyError as error:
        if anew:
            raise
        logger.warning("%s; until there are more, every vector is compared", error)
    except BudgetError as error:
        if anew:
            raise
        _warn(error)
        if not exact:
            return _changed(snapshot, key, Limits(recall=limits.recall), report, plan)
    return _without(snapshot)


def _warn(error: BudgetError) -> None:
    logger.warning("%s: by retrieval tune; until then the limits are passed over", error)


def _without(snapshot: Snapshot) -> NewIndex | None:
    """Exact search in the place of the present index; None where there is none."""
    present = snapshot.stored is not None or snapshot.settings.get("plan") is not None
    return NewIndex(None, np.empty(0, np.int64), None) if present else None


def _changed(
    snapshot: Snapshot, key: str, limits: Limits, report: Report, plan: dict[str, Any] | None
) -> NewIndex | None:
    """The index planned anew, built anew or extended, whichever is due; None where none is."""
    if plan is None or _is_worn(snapshot, plan):
        return _planned(snapshot, key, limits, report, plan)
    if plan["key"] == FLAT:
        return None
    if snapshot.tuned is None:
        return _planned(snapshot, key, limits, report, plan)
    return _extended(snapshot, plan, limits, report)


def _is_worn(snapshot: Snapshot, plan: dict[str, Any]) -> bool:
    gone = 0 if snapshot.findable is None else int((~snapshot.findable).sum())
    grown = snapshot.n_items > 2 * plan["rows"] and snapshot.n_items - plan["rows"] > NEWER_ROWS
    return grown or gone > GONE_SHARE * len(snapshot.indexed_ids)


def _extended(
    snapshot: Snapshot, plan: dict[str, Any], limits: Limits, report: Report
) -> NewIndex | None:
    tuned, stored = snapshot.tuned, snapshot.stored
    assert tuned is not None
    assert stored is not None
    ids = snapshot.living_ids()
    newer = ids[ids > tuned.newest]
    if len(newer) <= max(NEWER_ROWS, NEWER_SHARE * len(tuned.ids)):
        return None
    index = load_index(stored.folder / stored.name)
    _add(index, snapshot, newer, report)
    try:
        _check_size(plan["key"], index_bytes(index), limits)
    except BudgetError as error:
        _warn(error)
    return NewIndex(index, np.concatenate([tuned.ids, newer]), plan)


def _planned(
    snapshot: Snapshot, key: str, limits: Limits, report: Report, plan: dict[str, Any] | None
) -> NewIndex:
    """An index of the key, or of the plan; without either, of the best candidate."""
    rows, table = snapshot.n_items, list[Measured]()
    chosen_at = rows
    growth = 1 if plan is None or plan["key"] == FLAT else REPLAN_GROWTH
    if key == AUTO and plan is not None and rows <= growth * _chosen_at(plan):
        key, table = plan["key"], [Measured(**row) for row in plan["table"]]
        chosen_at = _chosen_at(plan)
    elif key == AUTO:
        table = planner.choose(snapshot, limits, report)
        key = table[0].key
    if key == FLAT:
        kept = _plan(key, table[0], table, rows, chosen_at, limits.recall)
        return NewIndex(None, np.empty(0, np.int64), kept)
    index, order, measured = build(snapshot, key, limits.recall, report)
    _check_size(key, index_bytes(index), limits)
    if measured is not None:
        _check_time(measured, limits)
    return NewIndex(index, order, _plan(key, measured, table, rows, chosen_at, limits.recall))


def build(
    snapshot: Snapshot, key: str, recall: float, report: Report, seed: int = 0
) -> tuple[Any, np.ndarray, Measured | None]:
    """An index of the living, which id int64 (n,) stands at which position, and how it did.

    It is measured with vectors held out, which are added at the end. Where the gallery is too small for
    that it is asked with the usual effort. Memory: the index, the sample that trains it, and a block.
    """
    order = snapshot.living_ids()
    np.random.default_rng(seed).shuffle(order)
    n_held = min(planner.HELD_OUT, len(order) // 20)
    n_held = n_held if n_held >= LEAST_HELD_OUT else 0
    held, sample = np.sort(order[:n_held]), np.sort(order[n_held : n_held + TRAIN_ROWS])
    rest = order[n_held:]
    rest.sort()  # in place: the ids of all vectors are held once
    started = time.perf_counter()
    report("Training", 0, len(sample))
    index = train_index(key, snapshot.settings["metric"], snapshot.vectors_of(sample))
    report("Training", len(sample), len(sample))
    _add(index, snapshot, rest, report)
    if n_held == 0:
        return index, rest, None
    report("Tuning", 0, n_held)
    seconds = time.perf_counter() - started
    measured = Trial(snapshot, rest, held).tune(index, key, recall)
    report("Tuning", n_held, n_held)
    _add(index, snapshot, held, report)
    measured = dataclasses.replace(measured, bytes=index_bytes(index), build_seconds=seconds)
    return index, np.concatenate([rest, held]), measured


def _add(index: Any, snapshot: Snapshot, ids: np.ndarray, report: Report) -> None:
    for start in range(0, len(ids), BLOCK_ROWS):
        index.add(snapshot.vectors_of(ids[start : start + BLOCK_ROWS]))
        report("Adding", min(start + BLOCK_ROWS, len(ids)), len(ids))


def _check_exact(snapshot: Snapshot, limits: Limits, *, timed: bool) -> None:
    """Whether comparing all vectors keeps to the limits; how long it takes only where ``timed``."""
    size = snapshot.n_items * snapshot.storage.row_bytes
    _check_size(FLAT, size, limits)
    if timed and limits.max_query_ms is not None:
        few = snapshot.living_ids()[: planner.TIMED]
        _check_time(Trial(snapshot, few, few).exact(size), limits)


def _check_size(key: str, size: int, limits: Limits) -> None:
    if limits.max_bytes is not None and size > limits.max_bytes:
        raise BudgetError(
            f"{key} over all vectors takes {size:,} bytes, more than the {limits.max_bytes:,} allowed; "
            f"give --max-index-memory-usage {size} or more, or another --index"
        )


def _check_time(measured: Measured, limits: Limits) -> None:
    """The sample promised that the limit would be kept; the whole index has to."""
    if limits.max_query_ms is not None and measured.p50_ms > limits.max_query_ms:
        raise BudgetError(
            f"{measured.key} over all vectors takes {measured.p50_ms:.3g} ms for a query, more than "
            f"the {limits.max_query_ms:g} ms allowed; give --max-query-time-ms "
            f"{np.ceil(measured.p50_ms * 110) / 100:g} or more, or another --index"
        )


def _chosen_at(plan: dict[str, Any]) -> int:
    """How many rows there were when the key was chosen; plans of the first galleries do not say."""
    return int(plan.get("chosen_at", plan["rows"]))


def _plan(
    key: str,
    chosen: Measured | None,
    table: list[Measured],
    rows: int,
    chosen_at: int,
    target: float,
) -> dict[str, Any]:
    """What was chosen and on what evidence, as JSON types, as a gallery keeps it."""
    if chosen is not None:
        missed = f"; recall stays below {target:g}" if chosen.recall < target else ""
        verdict = table[0].verdict if table else f"asked for{missed}"
        chosen = dataclasses.replace(chosen, verdict=verdict)
        table = [chosen, *table[1:]]
    return {
        "key": key,
        "effort": chosen.effort if chosen else None,
        "candidates": chosen.candidates if chosen else None,
        "recall": chosen.recall if chosen else None,
        "k": planner.K,
        "rows": rows,
        "chosen_at": chosen_at,
        "sample": min(rows, planner.SAMPLE_ROWS),
        "table": [dataclasses.asdict(row) for row in table],
    }
