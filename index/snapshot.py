"""A gallery as one commit left it: what a reader holds while the writer goes on.

All files are opened when a snapshot is made, so that a later compaction cannot pull them away.
"""

import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from index.code_keys import CodeKey
from index.codes import Codebook
from index.database import DATABASE, Database, read_settings
from index.errors import DamagedGallery, VectorError
from index.exact_search import BLOCK_ROWS
from index.shards import CheckedArray, FileRecord, Shard, check_file, read_records
from index.storage import FLOATS, Storage
from index.stored_index import StoredIndex, TunedIndex

Files = dict[str, FileRecord]
FEW_SHARDS = 8


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """Settings, arrays and index of one commit.

    ``arrays`` maps file names to memory-mapped arrays, checked when they are read; ``stored`` is the
    index file, if there is one.
    """

    settings: dict[str, Any]
    shards: list[Shard]
    arrays: dict[str, CheckedArray]
    dead: np.ndarray
    n_items: int
    storage: Storage
    stored: StoredIndex | None

    @functools.cached_property
    def tuned(self) -> TunedIndex | None:
        """The index, ready to be searched; None where there is none, or no sound one."""
        if self.stored is None:
            return None
        plan = self.settings.get("plan") or {}
        return self.stored.load(self.settings["dim"], self.settings["metric"], plan)

    @property
    def indexed_ids(self) -> np.ndarray:
        """Which id int64 (n,) stands at which position of the index."""
        return np.empty(0, np.int64) if self.tuned is None else self.tuned.ids

    @property
    def newest(self) -> int:
        """The largest id that has a vector, −1 where none has."""
        return int(self._last_ids[-1]) if len(self._last_ids) else -1

    @functools.cached_property
    def findable(self) -> np.ndarray | None:
        """Which positions of the index are of living items, bool (n,); None for all."""
        keep = self.keep(self.indexed_ids, None)
        return None if keep.all() else keep

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know of: a damaged index. It is read whole to know that."""
        if self.tuned is not None or self.stored is None or self.stored.finding is None:
            return ()
        remedy = "answers are exact, but slower, until the index is made again by: retrieval add"
        return (f"{self.stored.finding}; {remedy}",)

    def pairs(self) -> Iterator[tuple[CheckedArray, np.ndarray]]:
        """Vectors (n,D) and ids int64 (n,) of each shard, in the order of ids."""
        for shard in self.shards:
            yield self.arrays[shard.vectors_file], self.arrays[shard.ids_file].array

    def living_ids(self) -> np.ndarray:
        """Int64, ascending."""
        ids = np.concatenate([np.empty(0, np.int64), *(ids for _, ids in self.pairs())])
        return ids[self.keep(ids, None)]

    def keep(self, ids: np.ndarray, allowed: np.ndarray | None) -> np.ndarray:
        """Which of these ids, bool (n,), may be found: the living, or the ``allowed``, ascending."""
        return ~_among(ids, self.dead) if allowed is None else _among(ids, allowed)

    def vectors_of(self, ids: np.ndarray) -> np.ndarray:
        """Float32 (n,D) of ids in this snapshot, dead ones included.

        Raises VectorError for an id without a vector, DamagedGallery where bytes have changed.
        """
        out = np.empty((len(ids), self.settings["dim"]), np.float32)
        for found, vectors, rows in self.places(ids):
            out[found] = vectors.take(rows)
        return out

    def places(self, ids: np.ndarray) -> Iterator[tuple[np.ndarray, CheckedArray, np.ndarray]]:
        """Where the vectors of ids (n,) lie: (which of the ids, the shard's vectors, their rows).

        Raises VectorError for an id without a vector.
        """
        shards = self._pairs
        for number, found in enumerate(self._by_shard(ids)):
            if len(found) == 0:
                continue
            vectors, there = shards[number] if number < len(shards) else (None, ids[:0])
            rows = _rows_of(ids[found], there)
            if vectors is None or rows is None:
                raise VectorError(f"there is no vector of every id of {ids[found][:5].tolist()}…")
            yield found, vectors, rows

    def _by_shard(self, ids: np.ndarray) -> list[np.ndarray]:
        """Which of the ids (n,) would lie in each shard, ascending; those above all come last."""
        last_ids = self._last_ids
        if len(last_ids) <= FEW_SHARDS:  # comparing is faster than sorting
            numbers = np.zeros(len(ids), np.uint8)
            for last in last_ids:
                numbers += ids > last
            return [np.flatnonzero(numbers == number) for number in range(len(last_ids) + 1)]
        kind = np.min_scalar_type(len(last_ids))  # of two bytes at most, so that sorting is fast
        numbers = np.searchsorted(last_ids, ids).astype(kind)
        order = np.argsort(numbers, kind="stable")
        ends = np.cumsum(np.bincount(numbers, minlength=len(last_ids) + 1))
        return np.split(order, ends[:-1])

    @functools.cached_property
    def _pairs(self) -> list[tuple[CheckedArray, np.ndarray]]:
        return list(self.pairs())

    @functools.cached_property
    def _last_ids(self) -> np.ndarray:
        return np.array([ids[-1] for _, ids in self._pairs])

    def blocks(
        self, allowed: np.ndarray | None, after: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Vectors that may be found with their ids, above ``after``, at most BLOCK_ROWS at a time."""
        pending: list[tuple[np.ndarray, np.ndarray]] = []
        rows = 0
        for shard_vectors, shard_ids in self.pairs():
            # A shard may hold rows of before and after: compaction joins them.
            first = int(np.searchsorted(shard_ids, after, side="right"))
            for start in range(first, len(shard_ids), BLOCK_ROWS):
                ids = np.asarray(shard_ids[start : start + BLOCK_ROWS])
                keep = self.keep(ids, allowed)
                if not keep.any():
                    continue
                vectors = shard_vectors.rows(start, start + BLOCK_ROWS)
                if not keep.all():
                    ids, vectors = ids[keep], vectors[keep]
                if pending and rows + len(ids) > BLOCK_ROWS:
                    yield _joined(pending)
                    pending, rows = [], 0
                pending.append((vectors, ids))
                rows += len(ids)
        if pending:
            yield _joined(pending)


def _among(ids: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Which of the ids, bool (n,), are among others, ascending; nothing as large as these is made."""
    if len(others) == 0:
        return np.zeros(len(ids), bool)
    places = np.searchsorted(others, ids)
    np.minimum(places, len(others) - 1, out=places)
    return others[places] == ids


def _rows_of(ids: np.ndarray, there: np.ndarray) -> np.ndarray | None:
    """The row of each id among those of a shard, ascending; None where one is missing."""
    if len(there) == 0:
        return None
    if there[-1] - there[0] == len(there) - 1:  # nothing is missing in between: no need to look
        rows = ids - there[0]
        return rows if rows.min() >= 0 and rows.max() < len(there) else None
    order = np.argsort(ids)  # looked up in their order, neighbours are still at hand
    rows = np.empty(len(ids), np.int64)
    rows[order] = np.searchsorted(there, ids[order])
    ok = rows.max() < len(there) and np.array_equal(there[rows], ids)
    return rows if ok else None


def load_snapshot(db: Database, folder: Path, before: Snapshot | None = None) -> Snapshot:
    """The newest commit; ``before`` itself if that is it, else with the arrays and index that it holds.

    The connection stays in a transaction, so that what is asked of the database afterwards belongs to
    the same commit, until ``db.release()``. Raises NotAGallery for an unknown format, DamagedGallery
    where files are not as committed.
    """
    missing_at = None
    while True:
        db.release()
        db.execute("BEGIN")
        settings = read_settings(db, folder)
        if before is not None and before.settings["generation"] == settings["generation"]:
            return before
        try:
            return _load(db, folder, settings, before)
        except FileNotFoundError as error:
            # Taken away between reading the list and opening the file: then there is a newer list.
            if settings["generation"] == missing_at:
                raise DamagedGallery(
                    f"{error.filename} is missing; without it the gallery cannot be trusted: restore "
                    "it from a copy, or build the gallery again"
                ) from error
            missing_at = settings["generation"]


def _load(
    db: Database, folder: Path, settings: dict[str, Any], before: Snapshot | None
) -> Snapshot:
    rows = db.execute("SELECT number, rows FROM shards ORDER BY first_id")
    shards = [Shard(*row) for row in rows]
    dead = np.fromiter((row[0] for row in db.execute("SELECT id FROM dead ORDER BY id")), np.int64)
    n_items = db.execute("SELECT count(*) FROM items").fetchone()[0]
    files = read_records(db)
    for name, record in files.items():
        kept = name.startswith(("model/", "detector/"))
        finding = check_file(folder / name, record.bytes) if kept else None
        if finding:
            raise DamagedGallery(f"{finding}; restore it from a copy")
    total = sum(shard.rows for shard in shards)
    if total != n_items + len(dead):
        raise DamagedGallery(
            f"{folder} lists {n_items} items and {len(dead)} removed ones, but its shards hold {total} "
            "vectors; restore it from a copy, or build it again"
        )
    storage = _storage(folder, settings, files, before)
    arrays = {}
    for shard in shards:
        for name, shape, dtype, decode in (
            (shard.vectors_file, (shard.rows, storage.columns), storage.dtype, storage.decode),
            (shard.ids_file, (shard.rows,), "int64", np.asarray),
        ):
            held = before.arrays.get(name) if before else None
            record = held.record if held else _record_of(name, folder, files)
            arrays[name] = held or CheckedArray(folder / name, record, shape, dtype, decode)
        arrays[shard.ids_file].whole()
    return Snapshot(
        settings=settings, shards=shards, arrays=arrays, dead=dead, n_items=n_items, storage=storage,
        stored=_open_index(folder, settings, files, before),
    )  # fmt: skip


def _storage(
    folder: Path, settings: dict[str, Any], files: Files, before: Snapshot | None
) -> Storage:
    name, dim, metric = settings["dtype"], settings["dim"], settings["metric"]
    if name in FLOATS:
        return Storage(name, dim, metric)
    if before is not None and before.storage.name == name:
        return before.storage
    file = settings["codebook_file"]
    key = CodeKey.parse(name, dim)
    groups = key.groups or dim
    shape = (groups, 1 << key.bits, dim // groups)
    centers = CheckedArray(folder / file, _record_of(file, folder, files), shape, "float32").whole()
    return Storage(name, dim, metric, Codebook(centers))


def _record_of(name: str, folder: Path, files: Files) -> FileRecord:
    if name not in files:
        raise DamagedGallery(f"{folder / DATABASE} is damaged: it has no record of {name}")
    return files[name]


def _open_index(
    folder: Path, settings: dict[str, Any], files: Files, before: Snapshot | None
) -> StoredIndex | None:
    name = settings["index_file"]
    if name is None:
        return None
    if before is not None and before.stored is not None and before.stored.name == name:
        return before.stored
    return StoredIndex(folder, name, files)


def _joined(parts: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    if len(parts) == 1:
        return parts[0]
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])
