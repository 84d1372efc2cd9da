"""Which pictures are to be indexed, with their labels and metadata."""

import dataclasses
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from retrieval.csv_rows import csv_rows
from retrieval.errors import DataError
from retrieval.picture_files import find_images

Mark = tuple[int, int]
"""Size and time of change (ns) of a file, by which it is known to be unchanged."""


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture file to be indexed.

    Without ``metadata`` nothing is known of it but the folder that it lies in, which is its label.
    ``mark`` is what the file had before it was read for a gallery.
    """

    path: Path
    label: str | None = None
    metadata: dict[str, Any] | None = None
    mark: Mark | None = None


def list_pictures(sources: Iterable[Path], labels_from_folder: bool = True) -> list[Picture]:
    """The pictures in files, folders and CSV files, each once, in order.

    The label of a picture is the name of the folder that it lies in, or what a CSV file says in its
    label column; further columns become metadata. Raises DataError for what does not exist.
    """
    found: dict[Path, Picture] = {}
    for source in sources:
        if source.suffix.lower() == ".csv" and source.is_file():
            pictures: Iterable[Picture] = _rows(source)
        else:
            pictures = (
                Picture(path, folder_name(path) if labels_from_folder else None)
                for path in find_images([source])
            )
        for picture in pictures:
            found.setdefault(Path(os.path.abspath(picture.path)), picture)
    return [dataclasses.replace(picture, path=path) for path, picture in found.items()]


def folder_name(path: Path) -> str:
    """The name of the folder that a file lies in."""
    return Path(os.path.abspath(path)).parent.name


def _rows(file: Path) -> Iterator[Picture]:
    with csv_rows(file, skipinitialspace=True) as (columns, rows):
        if "path" not in columns:
            raise DataError(f"{file} has no column 'path' in its first line")
        for where, row in rows:
            if not row["path"]:
                raise DataError(f"{where}: path is missing")
            metadata = {k: v for k, v in row.items() if k not in ("path", "label") and k and v}
            yield Picture(file.parent / row["path"], row.get("label", "").strip() or None, metadata)
