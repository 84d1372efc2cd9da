"""Folders that data sets are written to, with their pictures."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from retrieval.detection.boxed_pictures import BoxedPictures
from retrieval.errors import DataError, ImageError
from retrieval.images import format_suffix, upright_size
from retrieval.picture_files import EXTENSIONS


@contextlib.contextmanager
def filled_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill, which takes its place as ``folder`` when the ``with`` block ends well.

    Raises DataError where ``folder`` is there already and holds something.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder} is there already; name a new folder, or an empty one")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as place:
            new = Path(place) / "new"
            new.mkdir()
            yield new
            new.replace(folder)  # an empty folder gives way
    except OSError as error:
        raise DataError(f"{folder} cannot be written: {error.strerror}") from error


def saved_pictures(data: BoxedPictures, folder: Path) -> list[tuple[str, tuple[int, int]]]:
    """Put all pictures into ``folder``; the name of each there, and its width and height.

    Files are copied as they are, under their names, which get a number where two have the same, and the
    suffix of the format where they have none that pictures have. Pictures in memory become PNG files.
    Raises DataError for a picture that cannot be read.
    """
    folder.mkdir()
    stems: set[str] = set()
    saved = []
    for row, picture in enumerate(data.pictures):
        wanted, size = _name_and_size(picture, row)
        stem, number = wanted.stem, 1
        while stem.lower() in stems:  # annotation files go by the stem alone
            number += 1
            stem = f"{wanted.stem}-{number}"
        stems.add(stem.lower())
        target = folder / f"{stem}{wanted.suffix}"
        if isinstance(picture, np.ndarray):
            Image.fromarray(picture).save(target)
        else:
            shutil.copyfile(picture, target)
        saved.append((target.name, size))
    return saved


def _name_and_size(picture: Path | np.ndarray, row: int) -> tuple[Path, tuple[int, int]]:
    if isinstance(picture, np.ndarray):
        return Path(f"{row:06d}.png"), (picture.shape[1], picture.shape[0])
    try:
        # Of files in a folder the suffix says which are pictures.
        missing = "" if picture.suffix.lower() in EXTENSIONS else format_suffix(picture)
        return Path(picture.name + missing), upright_size(picture)
    except ImageError as error:
        raise DataError(f"{picture} cannot be read: {error}") from error
