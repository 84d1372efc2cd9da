"""Tables of items, bare of a gallery, for filters to be tried on."""

import sqlite3

from index.filters import parse_filter
from index.texts import fits


def connected() -> sqlite3.Connection:
    db = sqlite3.connect(":memory:")
    db.create_function("fits", 3, fits)
    return db


def items_table() -> sqlite3.Connection:
    db = connected()
    db.execute("CREATE TABLE items (id INTEGER, path TEXT, label TEXT, size INTEGER,"
               " mtime_ns INTEGER, metadata TEXT)")  # fmt: skip
    return db


def ids_where(db: sqlite3.Connection, text: str, columns: set[str]) -> list[int]:
    condition, parameters = parse_filter(text, columns)
    found = db.execute(f"SELECT id FROM items WHERE {condition} ORDER BY id", parameters)
    return [row[0] for row in found]
