"""CSV files with names in their first line: rows, and what is no such file."""

from pathlib import Path

import pytest

from retrieval.csv_rows import csv_rows
from retrieval.errors import DataError


def read(file: Path, content: bytes) -> tuple[list[str], list[tuple[str, dict[str, str]]]]:
    file.write_bytes(content)
    with csv_rows(file) as (columns, rows):
        return columns, list(rows)


def test_rows_by_name(tmp_path: Path) -> None:
    file = tmp_path / "list.csv"
    content = '\ufeffpath,label,\r\n"a, b.jpg",cat,\r\nc\n'.encode()
    assert read(file, content) == (
        ["path", "label", ""],
        [
            (f"{file}, line 2", {"path": "a, b.jpg", "label": "cat", "": ""}),
            (f"{file}, line 3", {"path": "c", "label": "", "": ""}),
        ],
    )
    # Empty cells at the end of a row lose nothing.
    assert read(file, b"path\na,,\n")[1] == [(f"{file}, line 2", {"path": "a"})]


def test_bytes_of_file_names_are_kept(tmp_path: Path) -> None:
    _, [(_, row)] = read(tmp_path / "list.csv", b"path\ncaf\xe9.jpg\n")
    assert row["path"].encode("utf-8", "surrogateescape") == b"caf\xe9.jpg"


@pytest.mark.parametrize("content", [b"", b"path,label\n"])
def test_without_rows(tmp_path: Path, content: bytes) -> None:
    columns, rows = read(tmp_path / "list.csv", content)
    assert columns == content.decode().split("\n")[0].split(",")[: 2 * bool(content)]
    assert rows == []


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"path,label\na.jpg,cat\nb, c.jpg,cat\n", "line 3: it has more cells"),
        (b'path,label\na.jpg,"cat\n', "line 2: it is not sound CSV"),
        (b'path,label\na.jpg,"cat\n' + b"x\n" * 70_000, "it is not sound CSV"),
        (b"path,label,path\n", "more than one column 'path'"),
        ("path,label\na.jpg,cat\n".encode("utf-16"), "UTF-16; save it as UTF-8"),
    ],
)
def test_what_is_no_such_file(tmp_path: Path, content: bytes, told: str) -> None:
    with pytest.raises(DataError, match=told):
        read(tmp_path / "list.csv", content)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"), csv_rows(tmp_path / "none.csv"):
        pass
