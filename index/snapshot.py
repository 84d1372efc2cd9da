"""A gallery as one commit left it: what a reader holds while the writer goes on.

All files are opened when a snapshot is made, so that a later compaction cannot pull them away.
"""

import dataclasses
import hashlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from index import items as store
from index.errors import DamagedGallery
from index.exact_search import BLOCK_ROWS
from index.items import Shard
from index.vector_index import FLAT, read_index

Files = dict[str, tuple[int, str]]  # name → bytes, SHA-256


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """Settings, arrays and index of one commit.

    ``arrays`` maps file names to memory-mapped arrays; ``index`` is None where there is none, or no
    sound one, and ``notes`` then says why; ``indexed_ids`` int64 says which id stands at which position
    of the index.
    """

    settings: dict[str, Any]
    shards: list[Shard]
    arrays: dict[str, np.ndarray]
    dead: np.ndarray
    n_items: int
    index: Any
    indexed_ids: np.ndarray
    notes: tuple[str, ...]

    def pairs(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Vectors (n,D) and ids int64 (n,) of each shard, in the order of ids."""
        for shard in self.shards:
            yield self.arrays[shard.vectors_file], self.arrays[shard.ids_file]

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
        """Float32 (n,D) of ids in this snapshot, dead ones included."""
        out = np.empty((len(ids), self.settings["dim"]), np.float32)
        shards = list(self.pairs())
        places = np.searchsorted(np.array([shard_ids[-1] for _, shard_ids in shards]), ids)
        for place in np.unique(places):
            here = places == place
            vectors, shard_ids = shards[place]
            out[here] = vectors[np.searchsorted(shard_ids, ids[here])]
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
                vectors = shard_vectors[start : start + BLOCK_ROWS]
                keep = self.keep(ids, allowed)
                if not keep.all():
                    ids, vectors = ids[keep], vectors[keep]
                if pending and rows + len(ids) > BLOCK_ROWS:
                    yield _joined(pending)
                    pending, rows = [], 0
                pending.append((vectors, ids))
                rows += len(ids)
        if pending:
            yield _joined(pending)


def load_snapshot(db: sqlite3.Connection, folder: Path, before: Snapshot | None = None) -> Snapshot:
    """The newest commit; arrays and index that ``before`` holds already are taken from it.

    Raises NotAGallery for an unknown format, DamagedGallery where files are not as committed.
    """
    for _ in range(5):
        try:
            return _load(db, folder, before)
        except FileNotFoundError:  # compacted between reading the list and opening a file
            continue
    try:
        return _load(db, folder, before)
    except FileNotFoundError as error:
        raise DamagedGallery(
            f"{error.filename} is missing; without it the gallery cannot be trusted: restore it from "
            "a copy, or build the gallery again"
        ) from error


def _load(db: sqlite3.Connection, folder: Path, before: Snapshot | None) -> Snapshot:
    db.execute("BEGIN")
    try:
        settings = store.read_settings(db, folder)
        rows = db.execute("SELECT number, rows FROM shards ORDER BY number")
        shards = [Shard(*row) for row in rows]
        dead = [row[0] for row in db.execute("SELECT id FROM dead ORDER BY id")]
        n_items = db.execute("SELECT count(*) FROM items").fetchone()[0]
        files = {name: (size, sha) for name, size, sha in db.execute("SELECT * FROM files")}
    except sqlite3.DatabaseError as error:
        raise DamagedGallery(f"{folder / store.DATABASE} is damaged: {error}") from error
    finally:
        if db.in_transaction:
            db.execute("COMMIT")
    for name, (size, _) in files.items():
        finding = check_file(folder / name, size) if name.startswith("model/") else None
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
        for name, shape in (
            (shard.vectors_file, (shard.rows, settings["dim"])),
            (shard.ids_file, (shard.rows,)),
        ):
            held = before.arrays.get(name) if before else None
            size = files[name][0] if name in files else -1
            arrays[name] = _map_array(folder / name, size, shape) if held is None else held
    index, indexed_ids, notes = _load_index(folder, settings, files, before)
    return Snapshot(
        settings=settings, shards=shards, arrays=arrays, dead=np.array(dead, np.int64),
        n_items=n_items, index=index, indexed_ids=indexed_ids, notes=notes,
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
        finding = check_file(folder / file, *files.get(file, (0, "")))
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


def _map_array(file: Path, size: int, shape: tuple[int, ...]) -> np.ndarray:
    """An array of ``size`` bytes and this shape, mapped. Raises DamagedGallery for any other."""
    found = file.stat().st_size
    if found != size:
        raise DamagedGallery(
            f"{file} has {found} bytes, {size} were committed; restore it from a copy, or build the "
            "gallery again"
        )
    try:
        array: np.ndarray = np.load(file, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        raise DamagedGallery(f"{file} is not a readable array: {error}") from error
    if array.shape != shape:
        raise DamagedGallery(f"{file} has shape {array.shape}, {shape} was committed")
    return array


def check_file(file: Path, size: int, sha256: str | None = None) -> str | None:
    """What is wrong with a committed file, or None; without ``sha256`` its size alone is compared."""
    if not file.is_file():
        return f"{file} is missing"
    found = file.stat().st_size
    if found != size:
        return f"{file} has {found} bytes, {size} were committed"
    if sha256 is not None:
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        if digest != sha256:
            return (
                f"{file} has changed: its checksum is {digest[:12]}…, {sha256[:12]}… was committed"
            )
    return None
