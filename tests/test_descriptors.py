"""Reading a database beside SQLite must not take its locks away."""

import contextlib
import gc
import subprocess
import sys
from pathlib import Path

import pytest

from index.database import DATABASE, check_seal, connect
from index.descriptors import read_blocks
from tests.galleries import make_gallery

CHANGE = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1])
db.execute("CREATE TABLE IF NOT EXISTS more (n)")
db.execute("INSERT INTO more VALUES (1)")
db.commit()
db.close()
"""


def n_descriptors(file: Path) -> int:
    """Descriptors of this process on that very file."""
    inode, count = file.stat().st_ino, 0
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # another thread may have closed it since
            count += link.stat().st_ino == inode
    return count


def test_the_log_outlives_another_process_while_it_is_read(tmp_path: Path) -> None:
    folder = make_gallery(tmp_path / "g.gallery", dim=2).path
    db = connect(folder)
    db.execute("BEGIN")
    before = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    check_seal(folder)
    connect(folder).close()
    subprocess.run([sys.executable, "-c", CHANGE, str(folder / DATABASE)], check=True)
    # The other process closed its connection; were it the last one, it would have deleted the log.
    assert (folder / f"{DATABASE}-wal").exists()
    assert db.execute("SELECT count(*) FROM sqlite_master").fetchone() == before
    db.close()


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_descriptors_end_with_the_last_connection(tmp_path: Path) -> None:
    gallery = make_gallery(tmp_path / "g.gallery", dim=2)
    folder, file = gallery.path, gallery.path / DATABASE
    gallery.close()
    assert n_descriptors(file) == 0
    first, second = connect(folder), connect(folder)
    both = n_descriptors(file)
    second.close()
    assert both == 3  # one of each connection, one to read by
    assert n_descriptors(file) > 0
    first.close()
    assert n_descriptors(file) == 0
    forgotten = connect(folder)
    del forgotten
    gc.collect()
    assert n_descriptors(file) == 0


def test_blocks_are_the_bytes_of_the_file(tmp_path: Path) -> None:
    empty, full = tmp_path / "empty", tmp_path / "full"
    empty.touch()
    full.write_bytes(bytes(range(256)) * 8193)
    assert list(read_blocks(empty)) == []
    assert b"".join(read_blocks(full)) == full.read_bytes()
    with pytest.raises(FileNotFoundError):
        next(read_blocks(tmp_path / "none"))
