"""What may be written over: older output of ours, but never a photo, and nothing in a gallery."""

import os
from pathlib import Path

from index.database import DATABASE
from retrieval.errors import ConfigError, ImageError
from retrieval.images import format_suffix
from retrieval.picture_files import EXTENSIONS

SOFTWARE = "retrieval"
"""The mark that pictures of our making carry: what they name as the software that wrote them."""


def is_photo(path: Path) -> bool:
    """Whether a picture is there, by its content or its name, that does not carry our mark."""
    if not path.exists() or _software_of(path) == SOFTWARE.encode():
        return False
    try:
        return bool(format_suffix(path))
    except ImageError:
        return path.suffix.lower() in EXTENSIONS


def _software_of(path: Path) -> bytes | None:
    """What a PNG, however large, names before its pixels as its maker; None for other files."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        if file.read(8) != b"\x89PNG\r\n\x1a\n":
            return None
        while (header := file.read(8))[4:] not in (b"IDAT", b""):
            size = int.from_bytes(header[:4])
            if header[4:] != b"tEXt":
                file.seek(size, os.SEEK_CUR)
            elif (text := file.read(size)).startswith(b"Software\0"):
                return text.removeprefix(b"Software\0")
            file.seek(4, os.SEEK_CUR)  # the checksum
    return None


def check_no_photo(path: Path, name: str) -> None:
    """Raises ConfigError where a photo is at ``path``, as a shell makes it of ``--sheet *.png``."""
    if is_photo(path):
        raise ConfigError(
            f"{name} {path} is a picture, which would be overwritten (only those with our mark are); "
            "name another file, or remove it first"
        )


def check_outside_galleries(path: Path, name: str) -> None:
    """Raises ConfigError where ``path``, a file or a folder, is or lies in a gallery."""
    real = Path(os.path.realpath(path))
    for folder in (real, *real.parents):
        if (folder / DATABASE).exists():
            raise ConfigError(
                f"{name} {path} lies in the gallery {folder}, where nothing else may be written; name "
                "another place"
            )
