"""The database of a gallery: connections, settings, and the seal that says it is as it was left.

SQLite is the commit point. It runs with a write-ahead log, so that readers and the writer never wait
for each other, and every failure of it is a GalleryError.
"""

import json
import os
import sqlite3
import threading
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from index.atomic import sync_folder, write_atomically
from index.descriptors import File, file_key, hold, read_blocks
from index.errors import DamagedGallery, GalleryError, GalleryLocked, NotAGallery
from index.texts import fits

DATABASE = "gallery.sqlite"
SEAL = "gallery.seal"
FORMAT_VERSION = 1
BUSY_SECONDS = 30.0
FETCH_ROWS = 1000

SCHEMA = """
CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE items (
    id INTEGER PRIMARY KEY, path TEXT NOT NULL UNIQUE, content_hash TEXT NOT NULL,
    size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, label TEXT, metadata TEXT NOT NULL);
CREATE INDEX items_label ON items (label);
CREATE TABLE dead (id INTEGER PRIMARY KEY);
CREATE TABLE shards (
    number INTEGER PRIMARY KEY, first_id INTEGER NOT NULL, last_id INTEGER NOT NULL,
    rows INTEGER NOT NULL);
CREATE TABLE files (name TEXT PRIMARY KEY, bytes INTEGER NOT NULL, sha256 TEXT NOT NULL)
    WITHOUT ROWID;
CREATE TABLE failures (path TEXT PRIMARY KEY, reason TEXT NOT NULL) WITHOUT ROWID;
"""
CHECKS = "CREATE TABLE IF NOT EXISTS checks (name TEXT PRIMARY KEY, crc32 BLOB NOT NULL)"
"""CRC-32 of each block of a shard's files. The first galleries of format 1 have none: see shards.py."""
BLANKS = """CREATE TABLE blanks (path TEXT PRIMARY KEY, content_hash TEXT NOT NULL,
    size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL) WITHOUT ROWID"""
"""Pictures without an object, in galleries of objects: looked at, and nothing to be stored of them."""


FAILURES = (sqlite3.Error, UnicodeDecodeError)
"""What SQLite raises; the second where the name of something in a damaged file is quoted."""


class State(NamedTuple):
    """What tells whether a database was changed, or is being."""

    mtime_ns: int
    size: int
    has_log: bool


class Cursor(sqlite3.Cursor):
    """A cursor whose failures are GalleryErrors."""

    connection: "Database"

    def execute(self, *arguments: Any) -> "Cursor":
        return self.connection.attempt(super().execute, *arguments)

    def executemany(self, *arguments: Any) -> "Cursor":
        return self.connection.attempt(super().executemany, *arguments)

    def fetchone(self) -> Any:
        return self.connection.attempt(super().fetchone)

    def fetchmany(self, size: int | None = None) -> list[Any]:
        return self.connection.attempt(super().fetchmany, size or FETCH_ROWS)

    def fetchall(self) -> list[Any]:
        return self.connection.attempt(super().fetchall)

    def __iter__(self) -> Any:
        while rows := self.fetchmany():  # many at a time: ten times as fast as one by one
            yield from rows


class Database(sqlite3.Connection):
    """A connection in autocommit mode whose failures are GalleryErrors."""

    file: Path
    key: File
    thread: int
    """Which thread has opened it, and alone can use it."""
    let_go: Callable[[], object]
    frozen: State | None = None
    """How the file was, where it is read as one that nobody changes."""
    is_closed = False

    def close(self) -> None:
        """Close it, and only then the descriptor that keeps its locks."""
        self.frozen = None
        self.attempt(super().close)
        self.is_closed = True
        self.let_go()

    def cursor(self, factory: Any = Cursor) -> Any:
        """A cursor whose failures are GalleryErrors."""
        return self.attempt(super().cursor, factory)

    def execute(self, *arguments: Any) -> Cursor:
        """A new cursor that has executed the statement."""
        return self.cursor().execute(*arguments)

    def executemany(self, *arguments: Any) -> Cursor:
        """A new cursor that has executed the statement for each row of parameters."""
        return self.cursor().executemany(*arguments)

    def release(self) -> None:
        """Let go of the state that an open transaction holds."""
        if self.attempt(getattr, self, "in_transaction"):
            self.execute("ROLLBACK")

    def attempt(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """What the call returns. Raises GalleryError where it fails."""
        try:
            found = call(*arguments)
        except FAILURES as error:
            self._check_frozen()
            raise self.failure(error) from error
        self._check_frozen()
        return found

    def _check_frozen(self) -> None:
        """Raises GalleryError where the file is read as one that nobody changes, and was changed."""
        if self.frozen is not None and _state(self.file)[:2] != self.frozen[:2]:
            raise GalleryError(
                f"{self.file} was changed by another user while it was read; ask again"
            )

    def failure(self, error: sqlite3.Error | UnicodeDecodeError) -> GalleryError:
        """What an error of SQLite means for the gallery."""
        if self.is_closed:
            return GalleryError(f"{self.file} is closed; open the gallery again")
        if threading.get_ident() != self.thread:
            return GalleryError(
                f"{self.file} can be used only by the thread that opened it; open the gallery in each "
                "thread that asks"
            )
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        if _is_damage(error, code):
            return DamagedGallery(
                f"{self.file} is damaged: {error}; restore it from a copy, or build the gallery again"
            )
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return GalleryLocked(
                f"{self.file} is held by another program ({error}); try again when it is done"
            )
        if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN):
            return GalleryError(f"{self.file} cannot be written: {error}")
        if code == sqlite3.SQLITE_IOERR:
            return GalleryError(
                f"{self.file} cannot be read or written: {error}; is the disk full? Reading, too, "
                "needs a little space beside it"
            )
        return GalleryError(f"{self.file} refused a statement: {error}")


def _is_damage(error: sqlite3.Error | UnicodeDecodeError, code: int) -> bool:
    """Whether the file is at fault: also where it lacks a table or column, or holds no JSON.

    Statements are our own and name only what each gallery has: what they do not find has gone.
    """
    return (
        isinstance(error, UnicodeDecodeError)
        or code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
        or (code == sqlite3.SQLITE_ERROR and str(error).startswith(("no such ", "malformed ")))
    )


def connect(folder: Path, *, create: bool = False) -> Database:
    """A connection to a gallery's database.

    Raises NotAGallery where there is none, DamagedGallery where it is not a database.
    """
    file = folder / DATABASE
    if not create and not file.is_file():
        # A folder of other things, such as the pictures themselves, does not become one.
        out = f"{folder}.gallery" if folder.exists() else folder
        raise NotAGallery(
            f"{folder} is not a gallery: it has no {DATABASE}; make one with: retrieval build-index "
            f"PICTURES --out {out}"
        )
    location, frozen = file.absolute().as_uri(), None
    if not create and not (os.access(folder, os.W_OK) and os.access(file, os.W_OK)):
        # SQLite reads a log without writing beside it, but cannot begin one: without a log it has to
        # take the file for one that nobody changes, which its owner may do all the same.
        state = _state(file)
        frozen = None if state.has_log else state
        location += "?mode=ro" if frozen is None else "?immutable=1"
    db = sqlite3.connect(
        location, timeout=BUSY_SECONDS, isolation_level=None, factory=Database, uri=True
    )
    db.file, db.thread, db.frozen = file, threading.get_ident(), frozen
    db.key, db.let_go = hold(file, db)
    db.text_factory = partial(str, encoding="utf-8", errors="surrogateescape")
    db.create_function("fits", 3, fits, deterministic=True)
    if create:
        db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")  # commits are on the disk before they count
    db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    return db


def is_database_of(db: Database, folder: Path) -> bool:
    """Whether a connection is to the database that lies in a folder now, and sees its newest commit.

    It may have been replaced, or been changed though it was taken for one that nobody changes.
    """
    file = folder / DATABASE
    try:
        return file_key(file) == db.key and (db.frozen is None or _state(file) == db.frozen)
    except FileNotFoundError:
        return False


def _state(file: Path) -> State:
    status, log = file.stat(), file.with_name(f"{DATABASE}-wal")
    return State(status.st_mtime_ns, status.st_size, log.exists() and log.stat().st_size > 0)


def read_settings(db: Database, folder: Path) -> dict[str, Any]:
    """The settings by name. Raises NotAGallery or DamagedGallery where they are not ours."""
    rows = db.execute("SELECT name, value FROM settings").fetchall()
    try:
        settings = {name: json.loads(value) for name, value in rows}
    except (TypeError, ValueError) as error:
        raise DamagedGallery(f"{folder / DATABASE} is damaged: {error}") from error
    version = settings.get("format_version")
    if version != FORMAT_VERSION:
        raise NotAGallery(
            f"{folder} has format version {version}, and this program reads {FORMAT_VERSION}; it "
            "was made by a newer version of this program, or is not a gallery"
        )
    return settings


def write_settings(db: Database, values: dict[str, Any]) -> None:
    """Add or replace settings."""
    rows = [(name, json.dumps(value)) for name, value in values.items()]
    db.executemany("INSERT OR REPLACE INTO settings VALUES (?, ?)", rows)


def write_seal(folder: Path) -> None:
    """Note size and checksum of the database, which the log has just been folded into."""
    text = "{} {:08x}".format(*_fingerprint(folder / DATABASE))
    line = f"{text} {zlib.crc32(text.encode()):08x}\n"
    write_atomically(folder / SEAL, line.encode())


def break_seal(folder: Path) -> None:
    """Forget what was noted: from here on the database changes."""
    if (folder / SEAL).exists():
        (folder / SEAL).unlink()
        sync_folder(folder)


def is_sealed(folder: Path) -> bool:
    """Whether there is a readable seal."""
    return _read_seal(folder) is not None


def check_seal(folder: Path) -> None:
    """Compare the database with its seal; one without a seal passes.

    A writer takes the seal away before its first commit, and sets a new one when it is done: so a seal
    that is the same before and after the reading was valid all the time. Raises DamagedGallery.
    """
    seal = _read_seal(folder)
    while seal is not None:
        found = _fingerprint(folder / DATABASE)
        before, seal = seal, _read_seal(folder)
        if found == before:
            return
        if seal == before:
            raise DamagedGallery(
                f"{folder / DATABASE} has changed since it was last written: it has {found[0]} bytes "
                f"with checksum {found[1]:08x}, {before[0]} with {before[1]:08x} were noted; restore "
                f"it from a copy, or, if you changed it yourself, delete {folder / SEAL}"
            )


def _read_seal(folder: Path) -> tuple[int, int] | None:
    """Size and checksum, or None where there is no seal, or one that is itself damaged."""
    try:
        text, _, check = (folder / SEAL).read_bytes().decode().strip().rpartition(" ")
        if zlib.crc32(text.encode()) != int(check, 16):
            return None
        size, crc = text.split(" ")
        return int(size), int(crc, 16)
    except (OSError, ValueError):
        return None


def _fingerprint(file: Path) -> tuple[int, int]:
    size = crc = 0
    for block in read_blocks(file):
        size, crc = size + len(block), zlib.crc32(block, crc)
    return size, crc
