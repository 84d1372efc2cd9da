"""Boxes in a CSV file: a line for each object, or for a picture without any.

Edges are in pixels, the first pixel beginning at 0; they are taken as they are written.
"""

import csv
from collections.abc import Sequence
from pathlib import Path

from retrieval.csv_rows import csv_rows
from retrieval.detection.annotations import (
    AnnotatedPicture,
    Annotation,
    Listing,
    find_picture,
    number_in,
)
from retrieval.detection.boxed_pictures import BoxedPictures
from retrieval.detection.picture_folder import filled_folder, saved_pictures
from retrieval.errors import DataError
from retrieval.picture_lists import PARTS

PATHS = ("path", "filename", "image", "img_name")
LABELS = ("label", "class", "class_name")
EDGES = (("left", "top", "right", "bottom"), ("xmin", "ymin", "xmax", "ymax"))
FOLDERS = ("images", "JPEGImages")
EXPECTED = (
    "path or filename; label or class; left,top,right,bottom or xmin,ymin,xmax,ymax; and, if wanted, "
    "split and crowd"
)


def read_boxes(file: Path, split: str) -> Listing:
    """The pictures of the "train" or "test" part of a CSV file, and the classes of both.

    A line without label and edges is a picture without objects. The column split, where it has text,
    is train, or one of test, val, valid, validation, of which the first that is there is the test part;
    lines without it are of both parts. crowd is 1 or 0. Pictures are looked for beside the file, one
    folder up, and in the images/ or JPEGImages/ folders there.
    Raises DataError that names file and line for what is not so.
    """
    places = [file.parent, file.parent.parent]
    folders = places + [place / name for place in places for name in FOLDERS]
    with csv_rows(file, skipinitialspace=True) as (names, rows):
        columns = _columns(names, file)
        lines = [
            (_part(row, where), _size(row, where), *_line(row, columns, where))
            for where, row in rows
        ]
    parts = {part for part, *_ in lines}
    taken = next((name for name in PARTS[split] if name in parts), "")
    found: dict[str, AnnotatedPicture] = {}
    for part, size, name, annotation in lines:
        if part in ("", taken):
            picture = found.get(name) or AnnotatedPicture(find_picture(name, folders), [])
            objects = [*picture.objects, annotation] if annotation else picture.objects
            found[name] = AnnotatedPicture(picture.path, objects, size or picture.size)
    classes = sorted({annotation.label for *_, annotation in lines if annotation is not None})
    return Listing(tuple(classes), list(found.values()))


def _columns(names: Sequence[str], file: Path) -> tuple[str, str, tuple[str, ...]]:
    """What the columns of path, label and edges are called here."""
    path = [name for name in PATHS if name in names]
    label = [name for name in LABELS if name in names]
    edges = [four for four in EDGES if set(four) <= set(names)]
    if not (path and label and edges):
        raise DataError(
            f"{file} has the columns {', '.join(map(str, names)) or 'of an empty file'}; expected are "
            + EXPECTED
        )
    return path[0], label[0], edges[0]


def _line(
    row: dict[str, str], columns: tuple[str, str, tuple[str, ...]], where: str
) -> tuple[str, Annotation | None]:
    path, label, edges = columns
    name = row[path].strip()
    if not name:
        raise DataError(f"{where}: {path} is missing")
    texts = [row[column].strip() for column in (label, *edges)]
    if not any(texts):
        return name, None
    if not texts[0]:
        raise DataError(f"{where}: {label} is missing")
    left, top, right, bottom = (
        number_in(text, where, edge) for text, edge in zip(texts[1:], edges, strict=True)
    )
    crowd = (row.get("crowd") or "0").strip()
    if crowd not in ("0", "1"):
        raise DataError(f"{where}: crowd is {crowd!r}; it can be 0 or 1")
    return name, Annotation(texts[0], (left, top, right, bottom), where, crowd=crowd == "1")


def _size(row: dict[str, str], where: str) -> tuple[int, int] | None:
    """What a line tells of the size of its picture; zeros, and nothing, tell nothing."""
    texts = [(row.get(name) or "").strip() for name in ("width", "height")]
    if not all(texts):
        return None
    width, height = (number_in(text, where, "width or height") for text in texts)
    return (int(width), int(height)) if width > 0 and height > 0 else None


def _part(row: dict[str, str], where: str) -> str:
    """What a line says that it is of, or nothing."""
    part = (row.get("split") or "").strip()
    known = [name for names in PARTS.values() for name in names]
    if part not in ("", *known):
        raise DataError(f"{where}: split is {part!r}; it can be {', '.join(known)}")
    return part


def write_boxes(data: BoxedPictures, folder: Path) -> None:
    """Pictures into images/ and boxes.csv of a new folder. No masks.

    Raises DataError where the folder is not empty, or a picture cannot be read.
    """
    with filled_folder(folder) as new:
        names = saved_pictures(data, new / "images")
        with (new / "boxes.csv").open(
            "w", newline="", encoding="utf-8", errors="surrogateescape"
        ) as stream:
            writer = csv.writer(stream)
            writer.writerow(["path", "label", *EDGES[0], "crowd"])
            for (name, _), objects in zip(names, data.objects, strict=True):
                if len(objects) == 0:
                    writer.writerow([f"images/{name}", *[""] * 6])
                for box, label, crowd in zip(
                    objects.boxes.tolist(), objects.labels, objects.crowd, strict=True
                ):
                    writer.writerow([f"images/{name}", data.classes[label], *box, int(crowd)])
