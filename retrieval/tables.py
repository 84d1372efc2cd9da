"""Tables of pictures beside arrays of vectors: CSV files, or Parquet files (extra ``parquet``)."""

import csv
import io
import json
import math
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from index.atomic import atomic_file
from index.items import NewItem
from retrieval.csv_rows import csv_rows
from retrieval.errors import DataError

BLOCK_ROWS = 8192
PATH_COLUMNS = ("image_path", "path")
OWN_COLUMNS = {"row", "label", "content_hash", "size", "mtime_ns", "metadata", *PATH_COLUMNS}
Row = dict[str, Any]


def write_table(file: Path, items: Iterable[NewItem]) -> None:
    """Write a row for each item: path, label, content_hash, size, mtime_ns, metadata (as JSON).

    The suffix of the file decides, .csv or .parquet, where the path is called image_path. Raises
    DataError without pyarrow, and for a path that Parquet cannot hold.
    """
    write = _write_csv if file.suffix == ".csv" else _write_parquet
    write(file, items)


def read_table(file: Path) -> Iterator[list[NewItem]]:
    """The items in a table, up to 8,192 at a time; further columns become metadata.

    Raises DataError without a column for the path, or for a row that cannot be understood.
    """
    rows = _read_csv(file) if file.suffix == ".csv" else _read_parquet(file)
    number = 0
    while block := list(islice(rows, BLOCK_ROWS)):
        yield [_item(file, number + place, row) for place, row in enumerate(block)]
        number += len(block)


def count_rows(file: Path) -> int:
    """How many rows a table has. Raises DataError where it cannot be read."""
    if file.suffix == ".csv":
        return sum(1 for _ in _read_csv(file))
    return _opened(file).metadata.num_rows


def _write_csv(file: Path, items: Iterable[NewItem]) -> None:
    names = ["row", "path", "label", "content_hash", "size", "mtime_ns", "metadata"]
    with atomic_file(file) as raw:
        text = io.TextIOWrapper(raw, "utf-8", "surrogateescape", newline="", write_through=True)
        table = csv.writer(text, lineterminator="\n")
        table.writerow(names)
        for row, item in enumerate(items):
            facts = (item.content_hash, item.size, item.mtime_ns, json.dumps(item.metadata))
            table.writerow([row, item.path, item.label or "", *facts])
        text.detach()


def _read_csv(file: Path) -> Iterator[Row]:
    with csv_rows(file) as (columns, rows):
        _check_columns(file, columns)
        for _, row in rows:
            yield dict(row)


def _write_parquet(file: Path, items: Iterable[NewItem]) -> None:
    arrow, parquet = _pyarrow()
    schema = arrow.schema([
        ("image_path", arrow.string()), ("label", arrow.string()), ("content_hash", arrow.string()),
        ("size", arrow.int64()), ("mtime_ns", arrow.int64()), ("metadata", arrow.string()),
    ])  # fmt: skip
    items = iter(items)
    with atomic_file(file) as stream, parquet.ParquetWriter(stream, schema) as writer:
        while block := list(islice(items, BLOCK_ROWS)):
            rows = [
                {
                    "image_path": _text(item.path), "label": item.label and _text(item.label),
                    "content_hash": item.content_hash, "size": item.size, "mtime_ns": item.mtime_ns,
                    "metadata": json.dumps(item.metadata),
                }
                for item in block
            ]  # fmt: skip
            writer.write_batch(arrow.RecordBatch.from_pylist(rows, schema=schema))


def _text(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{value!r} is not UTF-8, which Parquet files must be; rename it, or use --layout plain"
        ) from error
    return value


def _read_parquet(file: Path) -> Iterator[Row]:
    table = _opened(file)
    _check_columns(file, table.schema_arrow.names)
    try:
        for batch in table.iter_batches(batch_size=BLOCK_ROWS):
            yield from batch.to_pylist()
    except (OSError, ValueError) as error:  # such as a page that cannot be decompressed
        raise DataError(f"{file} is damaged: {error}") from error


def _opened(file: Path) -> Any:
    _, parquet = _pyarrow()
    try:
        return parquet.ParquetFile(file)
    except (OSError, ValueError) as error:  # pyarrow's own errors are of these kinds
        raise DataError(f"{file} is not a readable Parquet file: {error}") from error


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise DataError(
            "Parquet files need pyarrow: pip install 'retrieval[parquet]'; or use --layout plain"
        ) from error
    return pyarrow, pyarrow.parquet


def _check_columns(file: Path, columns: list[str]) -> None:
    if not set(columns) & set(PATH_COLUMNS):
        raise DataError(
            f"{file} has no column {' or '.join(PATH_COLUMNS)}, but {', '.join(columns) or 'none'}"
        )


def _item(file: Path, number: int, row: Row) -> NewItem:
    path = next((row[name] for name in PATH_COLUMNS if row.get(name)), None)
    if not isinstance(path, str):
        raise DataError(f"{file}, row {number}: there is no path, but {path!r}")
    try:
        return NewItem(
            path=path,
            content_hash=str(row.get("content_hash") or ""),
            size=_whole(row, "size"),
            mtime_ns=_whole(row, "mtime_ns"),
            label=None if row.get("label") in (None, "") else str(row["label"]),
            metadata=_metadata(row),
        )
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{file}, row {number}: {error}") from error


def _whole(row: Row, name: str) -> int:
    number = int(row.get(name) or 0)
    if not -(2**63) <= number < 2**63:
        raise ValueError(f"{name} is {number}; expected a whole number of at most 64 bits")
    return number


def _metadata(row: Row) -> dict[str, Any]:
    """The facts in the column metadata, where it is a JSON object, and in columns of other names."""
    own = row.get("metadata") or {}
    if isinstance(own, str):
        try:
            own = json.loads(own)
        except ValueError:
            own = {"metadata": own}
    found = dict(own) if isinstance(own, dict) else {"metadata": own}
    found |= {name: value for name, value in row.items() if name and name not in OWN_COLUMNS}
    return {name: _plain(value) for name, value in found.items() if _is_there(value)}


def _is_there(value: Any) -> bool:
    return value not in (None, "") and not (isinstance(value, float) and not math.isfinite(value))


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int | float | bool) else str(value)
