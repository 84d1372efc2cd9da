import errno
import os
import stat
from pathlib import Path

import pytest

from index.atomic import write_atomically


def test_files_appear_whole_with_ordinary_permissions(tmp_path: Path) -> None:
    file = tmp_path / "new" / "x.bin"
    write_atomically(file, b"one")
    write_atomically(file, b"two")
    assert file.read_bytes() == b"two"
    assert [p.name for p in file.parent.iterdir()] == ["x.bin"]
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(file.stat().st_mode) == 0o666 & ~umask


@pytest.mark.parametrize("name", ["x" * 255, "é" * 127])
def test_names_may_be_as_long_as_names_may_be(tmp_path: Path, name: str) -> None:
    write_atomically(tmp_path / name, b"one")
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_a_failure_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "x.bin"
    write_atomically(file, b"old")

    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, "disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match=r"disk full.*x\.bin"):
        write_atomically(file, b"new")
    assert file.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.bin"]
