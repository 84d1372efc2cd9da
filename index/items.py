"""The items of a gallery, in its database; paths and labels as ``index.texts`` encodes them."""

import dataclasses
import json
import operator
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from index.database import DATABASE, Database
from index.errors import DamagedGallery, FilterError, GalleryError
from index.filters import parse_filter
from index.parts import MARK, split_part
from index.texts import decode, encode, from_json

CHUNK = 500  # parameters of one statement, below SQLite's limit
BLOCK = 2000  # items that are in memory at once


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


def insert_items(db: Database, first_id: int, items: Sequence[NewItem]) -> None:
    """Store items under ids from ``first_id`` on; living ones of the same path die.

    Raises GalleryError for what cannot be stored.
    """
    rows = [(first_id + n, item.content_hash, *_row(item)) for n, item in enumerate(items)]
    bury(db, ids_of_paths(db, [item.path for item in items]).values())
    db.executemany(
        "INSERT INTO items (id, content_hash, path, size, mtime_ns, label, metadata) "
        "VALUES (?, ?, ?, ?, ?, ?, ?)",
        rows,
    )
    db.executemany("DELETE FROM failures WHERE path = ?", [(encode(i.path),) for i in items])


def _row(item: NewItem) -> tuple[str | bytes, int, int, str | bytes | None, str]:
    """Path, size, time, label and metadata in this order, as they are stored. Raises GalleryError."""
    try:
        # SQLite takes numbers of numpy for bytes, and its JSON knows no NaN.
        size, mtime_ns = (int(np.int64(operator.index(n))) for n in (item.size, item.mtime_ns))
        label = None if item.label is None else encode(item.label)
        metadata = json.dumps(item.metadata, allow_nan=False)
        item.content_hash.encode()
        return encode(item.path), size, mtime_ns, label, metadata
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise GalleryError(
            f"item {item.path!r} cannot be stored: {error}; path, hash and label are texts, size and "
            "mtime_ns whole numbers of 64 bits, metadata what JSON can hold, without NaN"
        ) from error


def bury(db: Database, ids: Iterable[int]) -> int:
    """Mark items dead; how many of them were alive."""
    count = 0
    for item_id in map(int, ids):  # SQLite takes numbers of numpy for bytes
        removed = db.execute("DELETE FROM items WHERE id = ?", (item_id,)).rowcount
        if removed:
            db.execute("INSERT INTO dead VALUES (?)", (item_id,))
        count += removed
    return count


def ids_of_paths(db: Database, paths: Sequence[str]) -> dict[str, int]:
    """Path → id of those that are in the gallery."""
    found = {}
    for path in paths:
        row = db.execute("SELECT id FROM items WHERE path = ?", (encode(path),)).fetchone()
        if row is not None:
            found[path] = row[0]
    return found


def items_of_ids(db: Database, ids: Sequence[int]) -> dict[int, Item]:
    """Id → item of those that are alive."""
    found = {}
    for part in _chunks(ids):
        marks = ",".join("?" * len(part))
        for row in db.execute(f"SELECT * FROM items WHERE id IN ({marks})", part):
            item = _item(row)
            found[item.id] = item
    return found


def items_of_paths(db: Database, paths: Sequence[str]) -> dict[str, Item]:
    """Path → item of those that are in the gallery."""
    ids = ids_of_paths(db, paths)
    items = items_of_ids(db, list(ids.values()))
    return {path: items[item_id] for path, item_id in ids.items()}


def items_of_files(db: Database, files: Sequence[str]) -> dict[str, list[Item]]:
    """File → its parts and, where it is there, the whole, by id; of those that have any."""
    ids: dict[str, list[int]] = {}
    for file in files:
        first, last = encode(file + MARK), encode(file + MARK[:-1] + chr(ord(MARK[-1]) + 1))
        rows = db.execute(
            "SELECT id, path FROM items WHERE path = ? OR (path >= ? AND path < ?) ORDER BY id",
            (encode(file), first, last),
        )
        found = [item_id for item_id, path in rows if split_part(decode(path))[0] == file]
        if found:
            ids[file] = found
    items = items_of_ids(db, [item_id for some in ids.values() for item_id in some])
    return {file: [items[item_id] for item_id in some] for file, some in ids.items()}


def all_items(db: Database) -> Iterator[Item]:
    """All living items, by id, of which a block is in memory."""
    for rows in _blocks(db, "*"):
        yield from map(_item, rows)


def all_paths(db: Database) -> Iterator[tuple[int, str]]:
    """Id and path of all living items, by id."""
    for rows in _blocks(db, "id, path"):
        yield from ((item_id, decode(path)) for item_id, path in rows)


def _blocks(db: Database, columns: str) -> Iterator[list[Any]]:
    # Each block is a statement of its own, so that a commit in between ends none half-way.
    last = -1
    while rows := db.execute(
        f"SELECT {columns} FROM items WHERE id > ? ORDER BY id LIMIT ?", (last, BLOCK)
    ).fetchall():
        yield rows
        last = rows[-1][0]


def update_items(db: Database, items: Sequence[Item]) -> None:
    """Give items, known by id, these paths, sizes, times, labels and metadata.

    Their content stays. Others that live under one of the paths die; paths may be exchanged. Raises
    GalleryError for what cannot be stored.
    """
    rows = [(*_row(item), item.id) for item in items]
    own = {item.id for item in items}
    bury(db, set(ids_of_paths(db, [item.path for item in items]).values()) - own)
    aside = [(b"\0%d" % item.id, item.id) for item in items]  # no file is called so
    db.executemany("UPDATE items SET path = ? WHERE id = ?", aside)
    db.executemany(
        "UPDATE items SET path = ?, size = ?, mtime_ns = ?, label = ?, metadata = ? WHERE id = ?",
        rows,
    )
    db.executemany("DELETE FROM failures WHERE path = ?", [(encode(i.path),) for i in items])


def failures(db: Database) -> list[tuple[str, str]]:
    """Path and reason of each picture that was left out, by path."""
    rows = db.execute("SELECT path, reason FROM failures ORDER BY path")
    return [(decode(path), reason) for path, reason in rows]


def blanks(db: Database, files: Sequence[str]) -> dict[str, NewItem]:
    """File → what it was when nothing was found in it, of those of which that is so."""
    found = {}
    for file in files:
        row = db.execute("SELECT * FROM blanks WHERE path = ?", (encode(file),)).fetchone()
        if row is not None:
            found[file] = NewItem(file, *row[1:])
    return found


def blank_paths(db: Database) -> list[str]:
    """The files in which nothing was found, by path."""
    rows = db.execute("SELECT path FROM blanks ORDER BY path")
    return [decode(path) for (path,) in rows]


def _item(row: tuple[Any, ...]) -> Item:
    item_id, path, content_hash, size, mtime_ns, label, metadata = row
    try:
        facts = json.loads(metadata, parse_constant=lambda constant: None)
    except (TypeError, ValueError) as error:
        raise DamagedGallery(
            f"the record of item {item_id} in {DATABASE} is damaged: {error}; restore it from a copy"
        ) from error
    size, mtime_ns = map(_whole, (size, mtime_ns))
    return Item(decode(path), content_hash, size, mtime_ns, decode(label), facts, id=item_id)


def _whole(number: int | bytes) -> int:
    """The number; former versions stored numbers of NumPy as bytes, as NaN among metadata."""
    return int.from_bytes(number, "little", signed=True) if isinstance(number, bytes) else number


def matching_ids(db: Database, where: str) -> np.ndarray:
    """Ids int64, ascending, of the items for which a filter expression holds.

    Raises FilterError.
    """
    rows = db.execute("SELECT DISTINCT key FROM items, json_each(items.metadata)")
    condition, parameters = parse_filter(where, [from_json(row[0]) for row in rows])
    most = db.getlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER)
    if len(parameters) > most:
        raise FilterError(
            f"--where compares with {len(parameters)} values; at most {most} are possible"
        )
    # The condition is built from known column names and question marks only.
    found = db.execute(f"SELECT id FROM items WHERE {condition} ORDER BY id", parameters)
    return np.fromiter((row[0] for row in found), np.int64)


def same_content(db: Database) -> Iterator[np.ndarray]:
    """Ids int64, ascending, of the items of each file content that more than one of them has."""
    rows = db.execute(
        "SELECT group_concat(id) FROM items WHERE content_hash != '' GROUP BY content_hash "
        "HAVING count(*) > 1"
    )
    for (ids,) in rows:
        yield np.sort(np.fromiter(map(int, ids.split(",")), np.int64))


def label_codes(db: Database) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Of the items that have a label: ids int64 (n,), ascending; their labels as positions in a list.

    Codes are int32 (n,); the list of labels is sorted.
    """
    names = [row[0] for row in db.execute("SELECT DISTINCT label FROM items WHERE label NOT NULL")]
    names.sort(key=lambda name: str(decode(name)))
    places = {name: place for place, name in enumerate(names)}
    rows = db.execute("SELECT id, label FROM items WHERE label NOT NULL ORDER BY id")
    pairs = np.fromiter(
        ((item_id, places[label]) for item_id, label in rows), np.dtype((np.int64, 2))
    )
    return pairs[:, 0], pairs[:, 1].astype(np.int32), [decode(name) for name in names]


def _chunks(values: Sequence[int]) -> Iterator[list[int]]:
    values = [int(value) for value in values]
    for start in range(0, len(values), CHUNK):
        yield values[start : start + CHUNK]
