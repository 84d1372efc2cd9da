"""What annotation files say, before it is checked against the pictures; and that check.

Every format is read into a ``Listing``, and every listing becomes ``BoxedPictures`` here, so that odd
boxes and missing pictures have the same outcome in all of them.
"""

import dataclasses
import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from retrieval.detection.boxed_pictures import BoxedPictures, Objects
from retrieval.errors import DataError, ImageError
from retrieval.images import upright_size

READERS = min(os.cpu_count() or 1, 8)
MOST_MASK_BYTES = 4 << 30
"""Masks of a data set are kept, a byte for each pixel of each object, as long as they fit in this."""

Edges = tuple[float, float, float, float]
"""Left, top, right and bottom in pixels, the first pixel beginning at 0."""


@dataclasses.dataclass(frozen=True)
class Annotation:
    """One object: its class, its edges, and where it is written, for errors.

    ``draw`` makes its mask bool (H,W) of a height and a width, where it is known. ``point`` marks
    a box whose corners are one and the same, in formats where that would be one pixel.
    """

    label: str
    edges: Edges
    where: str
    crowd: bool = False
    point: bool = False
    draw: Callable[[int, int], np.ndarray] | None = None


@dataclasses.dataclass(frozen=True)
class AnnotatedPicture:
    """A picture file and its objects; ``size`` is the width and height that the annotation tells."""

    path: Path
    objects: Sequence[Annotation]
    size: tuple[int, int] | None = None


@dataclasses.dataclass(frozen=True)
class Listing:
    """The annotated pictures of one part of a data set, and all its classes."""

    classes: tuple[str, ...]
    pictures: Sequence[AnnotatedPicture]


Left = list[tuple[Path, str]]


def checked_pictures(name: str, listing: Listing) -> BoxedPictures:
    """The pictures of a listing as ``BoxedPictures``, in its order, each file once.

    Boxes are clipped to the picture. What is left out, with the reason: pictures that are missing,
    cannot be read, or have another size than their annotation says; boxes without area or wholly
    outside; an object that is written twice. Pictures without boxes are kept. Masks are kept where
    all objects have one and they fit into MOST_MASK_BYTES.
    Raises DataError for numbers that are not finite, and where no picture is left.
    """
    if not listing.pictures:
        raise DataError(f"there are no pictures in {name}")
    left: Left = []
    entries = _merged(listing.pictures)
    sizes = _sizes(entries, left)
    if not sizes:
        raise DataError(
            f"none of the {len(entries)} pictures of {name} can be used; the first, {left[0][0]}: "
            f"{left[0][1]}"
        )
    kept = {path: _kept(entries[path], size, left) for path, size in sizes.items()}
    masked = _masks_fit(Path(name), kept, sizes, left)
    number = {label: position for position, label in enumerate(listing.classes)}
    objects = tuple(_objects(kept[path], number, size, masked) for path, size in sizes.items())
    return BoxedPictures(name, listing.classes, tuple(sizes), objects, tuple(left))


def find_picture(name: str, folders: Sequence[Path]) -> Path:
    """The file of this name in the first of the folders that has it; else as in the first."""
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    return folders[0] / name


def number_in(text: object, where: str, what: str) -> float:
    """A finite number from text. Raises DataError that names where it stands and what it is."""
    try:
        value = float(str(text))
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{where}: {what} is {str(text)[:40]!r}; it must be a finite number")
    return value


def _merged(pictures: Sequence[AnnotatedPicture]) -> dict[Path, AnnotatedPicture]:
    """Each file once, with all that is written of it."""
    merged: dict[Path, AnnotatedPicture] = {}
    for picture in pictures:
        path = Path(os.path.abspath(picture.path))
        if path in merged:
            both = [*merged[path].objects, *picture.objects]
            merged[path] = dataclasses.replace(merged[path], objects=both)
        else:
            merged[path] = picture
    return {picture.path: picture for picture in merged.values()}


def _sizes(entries: dict[Path, AnnotatedPicture], left: Left) -> dict[Path, tuple[int, int]]:
    """Width and height of each picture that can be used, from its header."""

    def size_of(path: Path) -> tuple[int, int] | ImageError:
        try:
            return upright_size(path)
        except ImageError as error:
            return error

    sizes: dict[Path, tuple[int, int]] = {}
    with ThreadPoolExecutor(READERS) as pool:
        for path, size in zip(entries, pool.map(size_of, entries), strict=True):
            told = entries[path].size
            if isinstance(size, ImageError):
                left.append((path, str(size)))
            elif told is not None and told != size:
                left.append(
                    (path, f"its annotation is of {told[0]}×{told[1]} pixels, but upright it has "
                           f"{size[0]}×{size[1]}")
                )  # fmt: skip
            else:
                sizes[path] = size
    return sizes


def _kept(
    entry: AnnotatedPicture, size: tuple[int, int], left: Left
) -> list[tuple[Annotation, Edges]]:
    """The objects that are within the picture, with their clipped edges."""
    kept: list[tuple[Annotation, Edges]] = []
    seen = set()
    width, height = size
    for each in entry.objects:
        if not all(map(math.isfinite, each.edges)):
            raise DataError(f"{each.where}: the box {_shown(each.edges)} is not finite")
        x0, y0, x1, y1 = each.edges
        clipped = max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height))
        reason = ""
        if each.point:
            reason = "is one pixel, as where someone only clicked"
        elif x1 <= x0 or y1 <= y0:
            reason = "has no area"
        # Boxes are kept as float32, in which a sliver can vanish.
        elif not np.float32(clipped[0]) < np.float32(clipped[2]) or not (
            np.float32(clipped[1]) < np.float32(clipped[3])
        ):
            reason = f"lies outside the picture, which is {width}×{height}"
        elif (each.label, each.edges, each.crowd) in seen:
            reason = "is there twice"
        if reason:
            left.append((entry.path, f"{each.where}: the box {_shown(each.edges)} {reason}"))
        else:
            seen.add((each.label, each.edges, each.crowd))
            kept.append((each, clipped))
    return kept


def _shown(edges: Edges) -> str:
    return ",".join(f"{edge:g}" for edge in edges)


def _masks_fit(
    source: Path,
    kept: dict[Path, list[tuple[Annotation, Edges]]],
    sizes: dict[Path, tuple[int, int]],
    left: Left,
) -> bool:
    """Whether the masks are kept; where there are some, but not, ``left`` is told why."""
    known = [each.draw is not None for objects in kept.values() for each, _ in objects]
    if not any(known):
        return False
    needed = sum(len(kept[path]) * width * height for path, (width, height) in sizes.items())
    if all(known) and needed <= MOST_MASK_BYTES:
        return True
    gigabytes = needed / 2**30
    reason = (
        f"they need {gigabytes:.0f} GiB, and at most {MOST_MASK_BYTES >> 30} are kept in memory"
        if all(known)
        else f"{known.count(False)} of {len(known)} objects have none"
    )
    left.append((source, f"masks are left out, as {reason}"))
    return False


def _objects(
    kept: list[tuple[Annotation, Edges]],
    number: dict[str, int],
    size: tuple[int, int],
    masked: bool,
) -> Objects:
    width, height = size
    masks = np.zeros((len(kept), height, width), bool) if masked else None
    if masks is not None:
        for row, (each, _) in enumerate(kept):
            assert each.draw is not None
            masks[row] = each.draw(height, width)
    return Objects(
        np.array([edges for _, edges in kept], np.float32).reshape(-1, 4),
        np.array([number[each.label] for each, _ in kept], np.int64),
        np.array([each.crowd for each, _ in kept], bool),
        masks,
    )
