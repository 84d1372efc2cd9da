"""A gallery as one commit left it: what a reader holds while the writer goes on.

All files are opened when a snapshot is made, so that a later compaction cannot pull them away.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from index.database import DATABASE, Database, read_settings
from index.errors import DamagedGallery, VectorError
from index.exact_search import BLOCK_ROWS
from index.shards import CheckedArray, FileRecord, Shard, check_file, read_records
from index.vector_index import FLAT, read_index

Files = dict[str, FileRecord]


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """Settings, arrays and index of one commit.

    ``arrays`` maps file names to memory-mapped arrays, checked when they are read; ``index`` is None
    where there is none, or no sound one, and ``notes`` then says why; ``indexed_ids`` int64 says which
    id stands at which position of the index.
    """

    settings: dict[str, Any]
    shards: list[Shard]
    arrays: dict[str, CheckedArray]
    dead: np.ndarray
    n_items: int
    index: Any
    indexed_ids: np.ndarray
    notes: tuple[str, ...]

    def pairs(self) -> Iterator[tuple[CheckedArray, np.ndarray]]:
        """Vectors (n,D) and ids int64 (n,) of each shard, in the order of ids."""
        for shard in self.shards:
            yield self.arrays[shard.vectors_file], self.arrays[shard.ids_file].array

    def living_ids(self) -> np.ndarray:
        """Int64, ascending."""
        ids = np.concatenate([np.empty(0, np.int64), *(ids for _, ids in self.pairs())])
        return ids[self.keep(ids, None)]

    def keep(self, ids: np.ndarray, allowed: np.ndarray | None) -> np.ndarray:
        """Which of these ids, bool (n,), may be found: the living, or the ``allowed`` alone."""
        if allowed is not None:
            return np.isin(ids, allowed, assume_unique=True)
        return ~np.isin(ids, self.dead, assume_unique=True)

    def vectors_of(self, ids: np.ndarray) -> np.ndarray:
        """Float32 (n,D) of ids in this snapshot, dead ones included.

        Raises VectorError for an id without a vector, DamagedGallery where bytes have changed.
        """
        out = np.empty((len(ids), self.settings["dim"]), np.float32)
        shards = list(self.pairs())
        places = np.searchsorted(np.array([shard_ids[-1] for _, shard_ids in shards]), ids)
        for place in np.unique(places):
            here = places == place
            vectors, shard_ids = shards[place] if place < len(shards) else (None, ids[:0])
            rows = np.searchsorted(shard_ids, ids[here])
            if vectors is None or not np.array_equal(shard_ids[rows], ids[here]):
                raise VectorError(f"there is no vector of every id of {ids[here][:5].tolist()}…")
            out[here] = vectors.take(rows)
        return out

    def blocks(
        self, allowed: np.ndarray | None, after: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Vectors that may be found with their ids, above ``after``, at most BLOCK_ROWS at a time."""
        pending: list[tuple[np.ndarray, np.ndarray]] = []
        rows = 0
        for shard_vectors, shard_ids in self.pairs():
            if shard_ids[-1] <= after:
                continue
            for start in range(0, len(shard_ids), BLOCK_ROWS):
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
        finding = check_file(folder / name, record.bytes) if name.startswith("model/") else None
        if finding:
            raise DamagedGallery(f"{finding}; restore it from a copy")
    total = sum(shard.rows for shard in shards)
    if total != n_items + len(dead):
        raise DamagedGallery(
            f"{folder} lists {n_items} items and {len(dead)} removed ones, but its shards hold {total} "
            "vectors; restore it from a copy, or build it again"
        )
    arrays = {}
    for shard in shards:
        for name, shape, dtype in (
            (shard.vectors_file, (shard.rows, settings["dim"]), settings["dtype"]),
            (shard.ids_file, (shard.rows,), "int64"),
        ):
            held = before.arrays.get(name) if before else None
            if held is None and name not in files:
                raise DamagedGallery(f"{folder / DATABASE} is damaged: it has no record of {name}")
            arrays[name] = held or CheckedArray(folder / name, files[name], shape, dtype)
        arrays[shard.ids_file].whole()
    index, indexed_ids, notes = _load_index(folder, settings, files, before)
    return Snapshot(
        settings=settings, shards=shards, arrays=arrays, dead=dead, n_items=n_items, index=index,
        indexed_ids=indexed_ids, notes=notes,
    )  # fmt: skip


def _load_index(
    folder: Path, settings: dict[str, Any], files: Files, before: Snapshot | None
) -> tuple[Any, np.ndarray, tuple[str, ...]]:
    """The FAISS index and its ids; without a sound one the search is exact, and a note says so."""
    none = np.empty(0, np.int64)
    name = settings["index_file"]
    if settings["index_key"] == FLAT or name is None:
        return None, none, ()
    if before is not None and before.index is not None and before.settings["index_file"] == name:
        return before.index, before.indexed_ids, ()
    positions = name.replace(".faiss", "-positions.npy")
    for file in (name, positions):
        record = files.get(file, FileRecord(0, ""))
        finding = check_file(folder / file, record.bytes, record.sha256)
        if finding:
            note = "answers are exact, but slower, until the index is made again by: retrieval add"
            return None, none, (f"{finding}; {note}",)
    ids = np.load(folder / positions, allow_pickle=False)
    try:
        index = read_index(folder / name, len(ids), settings["dim"], settings["metric"])
    except DamagedGallery as error:
        return None, none, (str(error),)
    return index, ids, ()


def _joined(parts: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    if not parts:
        return np.empty((0, 0), np.float32), np.empty(0, np.int64)
    if len(parts) == 1:
        return parts[0]
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])
