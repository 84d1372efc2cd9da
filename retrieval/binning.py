"""Tables of numbers from files, and what discretizing one writes: codes, bins, a histogram."""

import csv
import dataclasses
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from index.atomic import write_atomically
from retrieval.discretize import (
    EqualFrequencyDiscretizer,
    EqualWidthDiscretizer,
    KMeansDiscretizer,
    ProductDiscretizer,
)
from retrieval.errors import ConfigError, DataError
from retrieval.npy_files import open_npy
from retrieval.outputs import check_no_photo
from retrieval.report import bin_histograms

METHODS: dict[str, type[Any]] = {
    "equal-width": EqualWidthDiscretizer,
    "equal-frequency": EqualFrequencyDiscretizer,
    "kmeans": KMeansDiscretizer,
}


@dataclasses.dataclass(frozen=True)
class Table:
    """values (n,D) of numbers, with the names of the columns, and why others were left out."""

    values: np.ndarray
    names: list[str]
    left_out: dict[str, str]


def read_table(file: Path, columns: Sequence[str] = ()) -> Table:
    """A .npy array (n,) or (n,D), or a CSV file of which ``columns`` are taken.

    Without ``columns`` those are taken of which every cell is a number. The first line of a CSV file
    names the columns, unless it holds numbers alone; columns without names are 0, 1, ….
    Raises DataError for a file that cannot be read so, one whose first line has both numbers and empty
    cells, or cells that are no numbers in ``columns``.
    """
    if file.suffix.lower() == ".npy":
        names, values = _read_npy(file)
        return Table(*_chosen(values, names, columns, file), {})
    if file.suffix.lower() == ".csv":
        return _read_csv(file, columns)
    raise DataError(f"{file} is neither a .npy nor a .csv file")


def discretize_table(
    file: Path, out: Path, method: str, n_bins: int, *, subspaces: int | None = None,
    columns: Sequence[str] = (),
) -> dict[str, Any]:  # fmt: skip
    """Write codes (of the kind of ``file``), bins.json and histogram.png into the folder ``out``.

    Returns what bins.json holds: edges (of columns one by one), centres and counts of all bins; and the
    columns that were left out. Nothing is written where anything is wrong.
    Raises DataError for a file that cannot be used, ConfigError for options that do not go together.
    """
    if subspaces is not None and method != "kmeans":
        raise ConfigError(f"--subspaces goes with --method kmeans, not with {method}")
    kind = file.suffix.lower()
    targets = [out / f"codes{kind}", out / "bins.json", out / "histogram.png"]
    if file.resolve() in [target.resolve() for target in targets]:
        raise ConfigError(f"{file} would be overwritten; give another folder with --out")
    if not targets[1].exists():  # what lies beside it is ours
        for target in targets:
            check_no_photo(target, "--out")
    table = read_table(file, columns)
    made = METHODS[method](n_bins) if subspaces is None else ProductDiscretizer(n_bins, subspaces)
    codes = made.fit_transform(table.values)
    bins = _described(made, codes, table.names, subspaces is None)
    found = {"method": method, "rows": len(codes), "left_out": table.left_out, "columns": bins}
    picture = bin_histograms(table.values, bins, f"{method}, {n_bins} bins: {file.name}")
    write_atomically(targets[0], _as_file(codes, [column["name"] for column in bins], kind))
    write_atomically(targets[1], (json.dumps(found, indent=2) + "\n").encode())
    write_atomically(targets[2], picture)
    return found


def _described(made: Any, codes: np.ndarray, names: list[str], single: bool) -> list[dict]:
    """Name, edges, centres and counts of each column of codes."""
    described = []
    for place, centers in enumerate(made.centers_):
        counts = np.bincount(codes[:, place], minlength=len(centers)).tolist()
        column = {"bins": len(centers), "counts": counts, "centers": centers.tolist()}
        if single:
            column = {"name": names[place], "edges": made.bin_edges_[place].tolist()} | column
        else:
            each = len(names) // codes.shape[1]
            part = names[place * each : (place + 1) * each]
            column = {"name": "+".join(part), "columns": part} | column
        described.append(column)
    return described


def _as_file(codes: np.ndarray, names: list[str], kind: str) -> bytes:
    if kind == ".npy":
        buffer = io.BytesIO()
        np.save(buffer, codes, allow_pickle=False)
        return buffer.getvalue()
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(codes.tolist())
    return text.getvalue().encode()


def _read_npy(file: Path) -> tuple[list[str], np.ndarray]:
    values = open_npy(file)
    if values.ndim not in (1, 2):
        raise DataError(f"{file} has shape {values.shape}; expected (rows,) or (rows, columns)")
    values = values.reshape(len(values), -1) if values.ndim == 1 else values
    return [str(column) for column in range(values.shape[1])], values


def _read_csv(file: Path, columns: Sequence[str]) -> Table:
    names, lines = _csv_lines(file)
    values, wrong = np.empty((len(lines), len(names))), {}
    for place, name in enumerate(names):
        for row, (line, cells) in enumerate(lines):
            values[row, place] = number = _number(cells[place])
            if not math.isfinite(number) and name not in wrong:
                kind = "no number" if math.isnan(number) else "not finite"
                wrong[name] = f"line {line} has {cells[place]!r}, which is {kind}"
    if not columns:
        columns = [name for name in names if name not in wrong]
        if not columns:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in wrong.items())
            raise DataError(f"{file} has no column of numbers alone: {reasons}")
    else:
        wrong_here = [name for name in columns if name in wrong]
        if wrong_here:
            name = wrong_here[0]
            raise DataError(f"{file}, column {name}: {wrong[name]}; fill in or leave out such rows")
        wrong = {}
    return Table(*_chosen(values, names, columns, file), wrong)


def _csv_lines(file: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The names of the columns, and (line number, cells) of each row."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.reader(stream)
            lines = [(reader.line_num, cells) for cells in reader if cells]
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file} is not a CSV file in UTF-8: {error}") from error
    if not lines:
        raise DataError(f"{file} is empty")
    number, first = lines[0]
    numbers = [not math.isnan(_number(cell)) for cell in first]
    if all(numbers):
        names = [str(column) for column in range(len(first))]
    else:
        names, lines = [cell.strip() for cell in first], lines[1:]
        if any(numbers) and any(name.lower() in ("", "nan") for name in names):
            raise DataError(
                f"{file}, line {number} has numbers and empty cells: neither names of columns nor "
                "numbers alone; fill in the cells, or leave out the line"
            )
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{file} has more than one column {twice!r}; give them different names")
    for line, cells in lines:
        if len(cells) != len(names):
            raise DataError(f"{file}, line {line} has {len(cells)} cells; expected {len(names)}")
    if not lines:
        raise DataError(f"{file} has a line of names and no others")
    return names, lines


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return math.nan


def _chosen(
    values: np.ndarray, names: list[str], columns: Sequence[str], file: Path
) -> tuple[np.ndarray, list[str]]:
    unknown = [name for name in columns if name not in names]
    if unknown:
        shown = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
        raise DataError(f"{file} has no column {unknown[0]!r}; it has {shown}")
    if not columns:
        return values, names
    return values[:, [names.index(name) for name in columns]], list(columns)
