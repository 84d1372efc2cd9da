"""Rows of CSV files whose first line names the columns."""

import contextlib
import csv
from collections.abc import Iterator
from pathlib import Path

from retrieval.errors import DataError

Rows = Iterator[tuple[str, dict[str, str]]]
UTF16_MARKS = ("\udcff\udcfe", "\udcfe\udcff")


@contextlib.contextmanager
def csv_rows(file: Path, *, skipinitialspace: bool = False) -> Iterator[tuple[list[str], Rows]]:
    """The names of the columns, and (where, {name: cell}) of each row, read as they are asked for.

    ``where`` names file and line, for messages. A cell that a short row lacks is "". File names that
    are no UTF-8 keep their bytes (surrogateescape). Raises DataError where the file cannot be read
    or is no CSV in UTF-8, two columns have one name, or a row has more cells than there are columns.
    """
    with contextlib.ExitStack() as stack:
        try:
            stream = file.open(newline="", encoding="utf-8-sig", errors="surrogateescape")
        except OSError as error:
            raise DataError(f"{file} cannot be read: {error.strerror}") from error
        stack.enter_context(stream)
        reader = csv.DictReader(stream, restval="", skipinitialspace=skipinitialspace, strict=True)
        with _sound(file, reader):
            columns = list(reader.fieldnames or ())
        _check_names(file, columns)
        yield columns, _rows(file, reader)


def _rows(file: Path, reader: "csv.DictReader[str]") -> Rows:
    while True:
        with _sound(file, reader):
            row = next(reader, None)
        if row is None:
            return
        where = f"{file}, line {reader.line_num}"
        if any(row.pop(None, ())):
            raise DataError(f"{where}: it has more cells than the first line names")
        yield where, row


@contextlib.contextmanager
def _sound(file: Path, reader: "csv.DictReader[str]") -> Iterator[None]:
    try:
        yield
    except csv.Error as error:
        line = reader.reader.line_num  # beyond that of the last whole row
        raise DataError(f"{file}, line {line}: it is not sound CSV ({error})") from error


def _check_names(file: Path, columns: list[str]) -> None:
    if columns and columns[0].startswith(UTF16_MARKS):
        raise DataError(f"{file} is in UTF-16; save it as UTF-8")
    twice = [name for name in columns if name and columns.count(name) > 1]
    if twice:
        raise DataError(f"{file} has more than one column {twice[0]!r}; give them different names")
