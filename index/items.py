"""The SQLite side of a gallery: its items, its files, its settings. SQLite is the commit point.

Paths are stored as bytes decoded with surrogateescape, written as BLOB where they are not UTF-8, so
that every file name comes back as it was.
"""

import dataclasses
import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from index.errors import DamagedGallery, NotAGallery
from index.filters import parse_filter

DATABASE = "gallery.sqlite"
FORMAT_VERSION = 1
BUSY_SECONDS = 30.0
CHUNK = 500  # parameters of one statement, below SQLite's limit

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


@dataclasses.dataclass(frozen=True)
class NewItem:
    """A picture to be added; ``path`` is relative to the gallery's image root."""

    path: str
    content_hash: str
    size: int
    mtime_ns: int
    label: str | None = None
    metadata: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Item(NewItem):
    """A picture of a gallery."""

    id: int = -1


@dataclasses.dataclass(frozen=True)
class Shard:
    """A file of vectors and one of their ids, ascending."""

    number: int
    rows: int

    @property
    def vectors_file(self) -> str:
        return f"vectors-{self.number:06}.npy"

    @property
    def ids_file(self) -> str:
        return f"ids-{self.number:06}.npy"


def connect(folder: Path, *, create: bool = False) -> sqlite3.Connection:
    """A connection to a gallery's database, in autocommit mode.

    Raises NotAGallery where there is none, DamagedGallery where it is not a database.
    """
    file = folder / DATABASE
    if not create and not file.is_file():
        raise NotAGallery(
            f"{folder} is not a gallery: it has no {DATABASE}; make one with: retrieval build-index "
            f"PICTURES --model RUN --out {folder}"
        )
    try:
        db = sqlite3.connect(file, timeout=BUSY_SECONDS, isolation_level=None)
        # A write-ahead log, so that readers and the writer never wait for each other; commits are
        # synced to disk before they count.
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError as error:
        if "readonly" not in str(error) and "unable to open" not in str(error):
            raise DamagedGallery(f"{file} cannot be opened: {error}") from error
        # A folder that cannot be written to has no writer either: read the file as it is.
        db = sqlite3.connect(f"{file.absolute().as_uri()}?immutable=1", uri=True)
    except sqlite3.DatabaseError as error:
        raise DamagedGallery(f"{file} is not a readable database: {error}") from error
    db.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
    return db


def read_settings(db: sqlite3.Connection, folder: Path) -> dict[str, Any]:
    """The settings by name. Raises NotAGallery or DamagedGallery where they are not ours."""
    try:
        rows = db.execute("SELECT name, value FROM settings").fetchall()
        settings = {name: json.loads(value) for name, value in rows}
    except (sqlite3.DatabaseError, ValueError) as error:
        raise DamagedGallery(f"{folder / DATABASE} is damaged: {error}") from error
    version = settings.get("format_version")
    if version != FORMAT_VERSION:
        raise NotAGallery(
            f"{folder} has format version {version}, and this program reads {FORMAT_VERSION}; it "
            "was made by a newer version of this program, or is not a gallery"
        )
    return settings


def write_settings(db: sqlite3.Connection, values: dict[str, Any]) -> None:
    """Add or replace settings."""
    rows = [(name, json.dumps(value)) for name, value in values.items()]
    db.executemany("INSERT OR REPLACE INTO settings VALUES (?, ?)", rows)


def encode(text: str) -> str | bytes:
    """Text for SQLite: bytes where it holds what UTF-8 cannot write."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogateescape")
    return text


def insert_items(db: sqlite3.Connection, first_id: int, items: Sequence[NewItem]) -> None:
    """Store items under ids from ``first_id`` on; living ones of the same path die."""
    bury(db, ids_of_paths(db, [item.path for item in items]).values())
    rows = (
        (
            first_id + number, encode(item.path), item.content_hash, item.size, item.mtime_ns,
            None if item.label is None else encode(item.label), json.dumps(item.metadata),
        )
        for number, item in enumerate(items)
    )  # fmt: skip
    db.executemany("INSERT INTO items VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
    db.executemany("DELETE FROM failures WHERE path = ?", [(encode(i.path),) for i in items])


def bury(db: sqlite3.Connection, ids: Iterable[int]) -> int:
    """Mark items dead; how many of them were alive."""
    count = 0
    for item_id in ids:
        removed = db.execute("DELETE FROM items WHERE id = ?", (item_id,)).rowcount
        if removed:
            db.execute("INSERT INTO dead VALUES (?)", (item_id,))
        count += removed
    return count


def ids_of_paths(db: sqlite3.Connection, paths: Sequence[str]) -> dict[str, int]:
    """Path → id of those that are in the gallery."""
    found = {}
    for path in paths:
        row = db.execute("SELECT id FROM items WHERE path = ?", (encode(path),)).fetchone()
        if row is not None:
            found[path] = row[0]
    return found


def items_of_ids(db: sqlite3.Connection, ids: Sequence[int]) -> dict[int, Item]:
    """Id → item of those that are alive."""
    found = {}
    for part in _chunks(ids):
        marks = ",".join("?" * len(part))
        for row in db.execute(f"SELECT * FROM items WHERE id IN ({marks})", part):
            item = _item(row)
            found[item.id] = item
    return found


def all_items(db: sqlite3.Connection) -> Iterator[Item]:
    """All living items, by id."""
    for row in db.execute("SELECT * FROM items ORDER BY id"):
        yield _item(row)


def _item(row: tuple[Any, ...]) -> Item:
    item_id, path, content_hash, size, mtime_ns, label, metadata = row
    try:
        facts = json.loads(metadata)
    except (TypeError, ValueError) as error:
        raise DamagedGallery(
            f"the record of item {item_id} in {DATABASE} is damaged: {error}; restore it from a copy"
        ) from error
    return Item(decode(path), content_hash, size, mtime_ns, decode(label), facts, id=item_id)


def decode(value: Any) -> Any:
    """What ``encode`` was given."""
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value


def matching_ids(db: sqlite3.Connection, where: str) -> np.ndarray:
    """Ids int64, ascending, of the items for which a filter expression holds.

    Raises FilterError.
    """
    rows = db.execute("SELECT DISTINCT key FROM items, json_each(items.metadata)")
    condition, parameters = parse_filter(where, [row[0] for row in rows])
    # The condition is built from known column names and question marks only.
    found = db.execute(f"SELECT id FROM items WHERE {condition} ORDER BY id", parameters)
    return np.fromiter((row[0] for row in found), np.int64)


def _chunks(values: Sequence[int]) -> Iterator[list[int]]:
    values = [int(value) for value in values]
    for start in range(0, len(values), CHUNK):
        yield values[start : start + CHUNK]
