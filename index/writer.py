"""Changing a gallery: one writer at a time, each change one commit.

Files are written aside, synced and renamed first; then one transaction makes them part of the gallery.
After a crash at any moment a reader sees the state before or after, and files that no commit knows of
are swept by the next writer.
"""

import dataclasses
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import TracebackType
from typing import IO, Any, Self

import numpy as np

from index import items as store
from index.atomic import write_atomically
from index.compaction import groups_to_join, groups_to_rewrite, rows_of
from index.database import (
    BUSY_SECONDS,
    CHECKS,
    Database,
    break_seal,
    is_sealed,
    write_seal,
    write_settings,
)
from index.encoding import learn_storage
from index.errors import GalleryError, VectorError
from index.gallery import Gallery
from index.items import Item, NewItem
from index.lock import take_lock
from index.neighbors import prepare
from index.planner import Limits, Report, check_budget
from index.shards import FileRecord, Shard, write_array, write_file
from index.storage import Storage
from index.stored_index import positions_file
from index.texts import encode
from index.upkeep import NewIndex, index_due
from index.vector_index import AUTO, check_key, write_index

OURS = re.compile(r"(vectors|ids|codebook)-\d+\.npy|index-\d+(\.faiss|-positions\.npy)|\..+\.part")
"""Names of files that a writer makes: of these, those that no commit knows of are swept."""


class GalleryWriter:
    """The one writer of a gallery, from ``with gallery.writer() as writer`` to its end."""

    def __init__(self, gallery: Gallery, wait: float = 0.0) -> None:
        self.gallery, self.path = gallery, gallery.path
        self.wait = wait
        self._lock: IO[str] | None = None
        self._together = False

    @property
    def db(self) -> Database:
        """The database; once the lock is held, that of the gallery which is there by then."""
        return self.gallery.db

    def __enter__(self) -> Self:
        self._lock = take_lock(self.path, self.wait)
        try:
            self.gallery.refresh()
            self._sweep()
        except BaseException:
            self._lock.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._lock is not None
        try:
            self._write_failures()
            if not is_sealed(self.path):
                self._fold_log()
        finally:
            self._lock.close()  # closing releases it
        self.gallery.refresh()

    def _fold_log(self) -> None:
        """Move the log into the database and seal it, unless a reader still holds an older state."""
        self.db.release()
        self.db.execute("PRAGMA busy_timeout = 0")
        (busy, *_) = self.db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        self.db.execute(f"PRAGMA busy_timeout = {int(BUSY_SECONDS * 1000)}")
        if not busy:
            write_seal(self.path)

    def add(self, vectors: np.ndarray, items: Sequence[NewItem]) -> list[int]:
        """Add vectors (n,D) with their items in one commit; their ids, ascending.

        An item whose path is in the gallery already takes the other's place, under a new id. Raises
        VectorError for bad vectors, and where a path stands twice, GalleryError for an item that cannot
        be stored, such as one with NaN among its metadata.
        """
        if len(vectors) != len(items) or len({item.path for item in items}) != len(items):
            raise VectorError(
                f"{len(vectors)} vectors came with {len(items)} items of "
                f"{len({item.path for item in items})} different paths; expected one for each"
            )
        if len(items) == 0:
            return []
        vectors = prepare(vectors, self.gallery.dim, self.gallery.metric, "vectors")
        first = self._setting("next_id")
        ids = np.arange(first, first + len(items), dtype=np.int64)
        storage = self.gallery.snapshot.storage
        stored = storage.encode(vectors)
        with self._commit(next_id=first + len(items)):
            self._write_shard([stored], ids, storage)
            store.insert_items(self.db, first, items)
        return [int(i) for i in ids]

    def remove(self, ids: Iterable[int]) -> int:
        """Remove these items in one commit; how many of them there were."""
        ids = list(ids)
        if not ids:
            return 0
        with self._commit():
            return store.bury(self.db, ids)

    def update(self, items: Sequence[Item]) -> None:
        """Give items, known by id, other paths, sizes, times, labels and metadata, in one commit.

        Content and vector of each stay. Paths may be exchanged; another item that lives under one of
        them dies. Raises GalleryError for an item that cannot be stored.
        """
        if items:
            with self._commit():
                store.update_items(self.db, items)

    def note(self, **settings: object) -> None:
        """Keep settings with the gallery, such as a calibrated distance; values are JSON."""
        with self._commit(**settings):
            pass

    def record_failures(self, failures: Iterable[tuple[str, str]]) -> None:
        """Note pictures that were left out: (path, reason). An item of that path dies."""
        failures = list(failures)
        if not failures:
            return
        with self._commit():
            store.bury(self.db, store.ids_of_paths(self.db, [p for p, _ in failures]).values())
            rows = [(encode(path), reason) for path, reason in failures]
            self.db.executemany("INSERT OR REPLACE INTO failures VALUES (?, ?)", rows)

    def record_blanks(self, files: Sequence[NewItem]) -> None:
        """Note files of a gallery of objects in which there is none, as they are now."""
        if files:
            rows = [(encode(f.path), f.content_hash, f.size, f.mtime_ns) for f in files]
            with self._commit():
                self.db.executemany("INSERT OR REPLACE INTO blanks VALUES (?, ?, ?, ?)", rows)

    def forget_notes(self, paths: Iterable[str]) -> None:
        """Drop what was noted of these files: that they were left out, or have no object."""
        rows = [(encode(path),) for path in paths]
        if rows:
            with self._commit():
                self.db.executemany("DELETE FROM failures WHERE path = ?", rows)
                if self.gallery.objects is not None:
                    self.db.executemany("DELETE FROM blanks WHERE path = ?", rows)

    def refresh_index(self, report: Report = lambda stage, done, of: None) -> None:
        """Make the index fit the living vectors, where that is due: see ``index.upkeep``.

        Before that many small shards become one.
        ``report`` is called with what is being done, how much of it is, and how much it is in all.
        Where no index keeps to the gallery's limits a warning says so.
        """
        self._join()
        gallery = self.gallery
        key, limits = gallery.settings["index_key"], gallery.limits
        self._store_index(index_due(gallery.snapshot, key, limits, report))

    def tune(self, key: str, limits: Limits, report: Report = lambda stage, done, of: None) -> None:
        """From now on have an index of this key, or with ``auto`` the best within limits; build it.

        Raises IndexKeyError where there are too few vectors for the key, BudgetError where no index
        keeps to the limits, and then leaves all as it was.
        """
        check_key(key, self.gallery.metric, self.gallery.dim)
        snapshot = self.gallery.snapshot
        if key == AUTO:
            row_bytes = snapshot.storage.row_bytes
            check_budget(snapshot.n_items, self.gallery.dim, self.gallery.metric, row_bytes, limits)
        self._join()
        new = index_due(self.gallery.snapshot, key, limits, report, anew=True)
        self._store_index(new, index_key=key, limits=dataclasses.asdict(limits))

    def _store_index(self, new: NewIndex | None, **settings: object) -> None:
        """Put a new index in the place of the present one, in one commit with settings."""
        if new is None and not settings:
            return
        number = self.gallery.settings["next_number"]
        name = f"index-{number:06}.faiss" if new and new.index is not None else None
        if new is not None:
            settings |= {"plan": new.plan, "index_file": name, "next_number": number + 1}
        with self._commit(**settings):
            if new is not None:
                self.db.execute("DELETE FROM files WHERE name LIKE 'index-%'")
            if new is not None and name is not None:
                self._record(name, write_file(self.path / name, partial(write_index, new.index)))
                ids = positions_file(name)
                self._record(ids, write_array(self.path / ids, [new.ids], new.ids.shape, "int64"))
        self._sweep()

    def _record(self, name: str, record: FileRecord) -> None:
        fields = (name, record.bytes, record.sha256)
        self.db.execute("INSERT INTO files VALUES (?, ?, ?)", fields)

    def compact(self, on_progress: Callable[[int, int], None] = lambda done, of: None) -> int:
        """Rewrite shards without removed vectors, small ones together; how many rows that saved.

        Each new shard is a commit of its own: a compaction that was killed goes on where it stopped.
        ``on_progress`` is called with the rows that were rewritten, and all that are to be.
        """
        snapshot = self.gallery.snapshot
        groups = groups_to_rewrite(snapshot)
        total, done = sum(shard.rows for group in groups for shard in group), 0
        for group in groups:
            self._rewrite(group, dead=False)
            done += sum(shard.rows for shard in group)
            on_progress(done, total)
            self._sweep()
        self.refresh_index()
        return len(snapshot.dead)

    def encode(
        self, key: str, on_progress: Callable[[int, int], None] = lambda d, of: None
    ) -> None:
        """Store codes in the place of the vectors, which cannot be had back; one commit.

        The codebook is learnt from a sample of the vectors, and later ones are coded with it. How much
        is lost is measured and kept with the gallery: see ``index.encoding``. The same key again
        changes nothing. Raises IndexKeyError for a key that is no code, GalleryError where there are
        other codes already, or no vectors to learn from.
        """
        snapshot = self.gallery.snapshot
        if snapshot.storage.name == key:
            return
        storage, worth = learn_storage(snapshot, key)
        total, done = sum(shard.rows for shard in snapshot.shards), 0
        name = f"codebook-{snapshot.settings['next_number']:06}.npy"
        with self._commit(
            dtype=key, codebook_file=name, codes_worth=worth, index_file=None, plan=None
        ):
            assert storage.codebook is not None
            centers = storage.codebook.centers
            self._take_number()
            self._write_array(name, [centers], centers.shape, "float32")
            self._drop(snapshot.shards)
            for shard in snapshot.shards:
                ids, parts = rows_of(snapshot, [shard], dead=False)
                if len(ids):
                    self._write_shard((storage.encode(part) for part in parts), ids, storage)
                done += shard.rows
                on_progress(done, total)
            self.db.execute("DELETE FROM dead")
            self.db.execute("DELETE FROM files WHERE name LIKE 'index-%'")
        self._sweep()
        self.refresh_index()

    def _join(self) -> None:
        """Make one of many small shards; each new one is a commit."""
        groups = groups_to_join(self.gallery.snapshot)
        for group in groups:
            self._rewrite(group, dead=True)
        if groups:
            self._sweep()

    def _rewrite(self, group: Sequence[Shard], *, dead: bool) -> None:
        """Replace shards that follow each other by one, of the living rows or of all, in one commit."""
        snapshot = self.gallery.snapshot
        ids, vectors = rows_of(snapshot, group, dead=dead)
        gone = np.setdiff1d(
            np.concatenate([snapshot.arrays[shard.ids_file].array for shard in group]), ids
        )
        # Ids without a vector must not be found: an index that knows them is of no more use.
        stale = np.isin(gone, snapshot.indexed_ids).any()
        with self._commit(**({"index_file": None} if stale else {})):
            self._drop(group)
            if len(ids):
                self._write_shard(vectors, ids, snapshot.storage)
            self.db.executemany("DELETE FROM dead WHERE id = ?", [(int(i),) for i in gone])
            if stale:
                self.db.execute("DELETE FROM files WHERE name LIKE 'index-%'")

    def _drop(self, shards: Sequence[Shard]) -> None:
        for shard in shards:
            names = [(shard.vectors_file,), (shard.ids_file,)]
            self.db.execute("DELETE FROM shards WHERE number = ?", (shard.number,))
            self.db.executemany("DELETE FROM files WHERE name = ?", names)
            self.db.executemany("DELETE FROM checks WHERE name = ?", names)

    @contextmanager
    def together(self) -> Iterator[None]:
        """All that is done within becomes one commit, or nothing of it happens."""
        with self._commit():
            self._together = True
            try:
                yield
            finally:
                self._together = False

    @contextmanager
    def _commit(self, **settings: object) -> Iterator[None]:
        """A transaction that counts as one generation of the gallery, or nothing at all.

        Raises GalleryError where files cannot be written, as on a full disk.
        """
        if self._together:
            yield
            write_settings(self.db, settings)
            return
        self.db.release()
        try:
            break_seal(self.path)
            self.db.execute("BEGIN IMMEDIATE")
            self.db.execute(CHECKS)
            yield
            generation = self.gallery.settings["generation"] + 1
            write_settings(self.db, {**settings, "generation": generation})
            self.db.execute("COMMIT")
        except BaseException as error:
            self.db.release()
            if isinstance(error, OSError):
                raise GalleryError(
                    f"{self.path} could not be changed, and stays as it was: {error}"
                ) from error
            raise
        self.gallery.refresh()

    def _write_shard(self, rows: Iterable[np.ndarray], ids: np.ndarray, storage: Storage) -> None:
        """Vectors of ids (n,), as they are stored, come in parts, one after another."""
        shard = Shard(self._take_number(), len(ids))
        shape = (len(ids), storage.columns)
        self._write_array(shard.vectors_file, rows, shape, storage.dtype)
        self._write_array(shard.ids_file, [ids], shape[:1], "int64")
        span = (int(ids[0]), int(ids[-1]))
        self.db.execute("INSERT INTO shards VALUES (?, ?, ?, ?)", (shard.number, *span, len(ids)))

    def _take_number(self) -> int:
        """The number of the next file, within a commit."""
        number: int = self._setting("next_number")
        write_settings(self.db, {"next_number": number + 1})
        return number

    def _write_array(
        self, name: str, parts: Iterable[np.ndarray], shape: tuple[int, ...], dtype: str
    ) -> None:
        """An array that is checked as it is read."""
        record = write_array(self.path / name, parts, shape, dtype)
        self._record(name, record)
        assert record.crc32 is not None
        self.db.execute("INSERT INTO checks VALUES (?, ?)", (name, record.crc32.tobytes()))

    def _setting(self, name: str) -> Any:
        """A setting as it is now, within a transaction too."""
        row = self.db.execute("SELECT value FROM settings WHERE name = ?", (name,)).fetchone()
        return json.loads(row[0])

    def _sweep(self) -> None:
        """Delete files that no commit knows of: leavings of a writer that was killed."""
        known = {row[0] for row in self.db.execute("SELECT name FROM files")}
        for file in self.path.iterdir():
            if OURS.fullmatch(file.name) and file.name not in known:
                file.unlink()

    def _write_failures(self) -> None:
        """failed.jsonl says what the database says."""
        rows = store.failures(self.db)
        lines = (json.dumps({"path": path, "reason": reason}) + "\n" for path, reason in rows)
        data = "".join(lines).encode()
        file = self.path / "failed.jsonl"
        if rows or file.exists():
            write_atomically(file, data)
