"""Picture files in folders, by their extensions."""

import itertools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from retrieval.errors import DataError

EXTENSIONS = frozenset(
    f".{name}"
    for name in (
        *("jpg", "jpeg", "jpe", "jfif", "mpo", "png", "apng", "webp", "gif", "bmp", "dib"),
        *("tif", "tiff", "avif", "heic", "heif", "ppm", "pgm", "pbm", "pnm"),
    )
)


def find_images(sources: Iterable[Path | str]) -> list[Path]:
    """The picture files among ``sources``: files as given, folders with all below them, sorted.

    A file that is named is taken whatever its extension; in folders the extension decides, in any
    letter case. Hidden files and folders are passed over; links to folders are not followed, so that
    a loop of links ends. Raises DataError for a source that does not exist, or a folder that cannot be
    listed.
    """
    found: dict[Path, None] = {}
    for source in map(Path, sources):
        if source.is_dir():
            found.update(dict.fromkeys(_walk(source)))
        elif os.path.lexists(source):
            found[source] = None
        else:
            raise DataError(f"there is no file or folder {source}")
    return list(found)


def holds_pictures(folder: Path) -> bool:
    """Whether ``find_images`` finds any below a folder. Raises DataError as it does."""
    return next(_walk(folder), None) is not None


def images_in(folder: Path) -> list[Path]:
    """Those that ``find_images`` finds in a folder itself, not below. Raises DataError as it does."""
    return list(itertools.takewhile(lambda file: file.parent == folder, _walk(folder)))


def _walk(folder: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename} cannot be listed: {error.strerror}") from error

    for place, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and Path(name).suffix.lower() in EXTENSIONS:
                yield Path(place) / name
