"""Reading a database file beside SQLite, without taking its locks away.

POSIX locks belong to a process and a file: closing any descriptor of a file lets go of all locks that
the process has on it, those of SQLite among them. Another process then takes itself for the last one
and deletes a log that is still being read. So one descriptor of a database stays open until its
last connection is gone. Source: sqlite.org/howtocorrupt.html, section 2.2.
"""

import os
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path

READ_BYTES = 1 << 20
File = tuple[int, int]  # device, inode

_lock = threading.RLock()  # a connection may be collected while another one is made
_descriptors: dict[File, int] = {}
_connections: dict[File, int] = {}


def file_key(file: Path) -> File:
    """Which file that is, by whatever name. Raises OSError where there is none."""
    status = file.stat()
    return status.st_dev, status.st_ino


def hold(file: Path, connection: object) -> tuple[File, weakref.finalize]:
    """Keep a descriptor of the file as long as the connection.

    Returns which file it is, and what lets go of it when called.
    """
    with _lock:
        key = file_key(file)
        if key not in _descriptors:
            _descriptors[key] = os.open(file, os.O_RDONLY)
        _connections[key] = _connections.get(key, 0) + 1
        return key, weakref.finalize(connection, _let_go, key)


def _let_go(key: File) -> None:
    with _lock:
        _connections[key] -= 1
        if _connections[key] == 0:
            del _connections[key]
            os.close(_descriptors.pop(key))


def read_blocks(file: Path) -> Iterator[bytes]:
    """The bytes of a file, a block at a time."""
    with _lock:
        held = _descriptors.get(file_key(file))
        descriptor = os.open(file, os.O_RDONLY) if held is None else held
        try:
            at = 0
            while block := os.pread(descriptor, READ_BYTES, at):
                yield block
                at += len(block)
        finally:
            if held is None:
                os.close(descriptor)
