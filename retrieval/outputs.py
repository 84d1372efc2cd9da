"""What may be written over: older output of ours, but never a photo, and nothing in a gallery."""

import os
from pathlib import Path

from index.database import DATABASE
from retrieval.errors import ConfigError, ImageError
from retrieval.images import software_of
from retrieval.picture_files import EXTENSIONS

SOFTWARE = "retrieval"
"""The mark that pictures of our making carry: what they name as the software that wrote them."""


def is_photo(path: Path) -> bool:
    """Whether a picture is there, by its content or its name, that does not carry our mark."""
    if not path.exists():
        return False
    try:
        return software_of(path) != SOFTWARE
    except ImageError:
        return path.suffix.lower() in EXTENSIONS


def check_no_photo(path: Path, name: str) -> None:
    """Raises ConfigError where a photo is at ``path``, as a shell makes it of ``--sheet *.png``."""
    if is_photo(path):
        raise ConfigError(
            f"{name} {path} is a picture, which would be overwritten (only those that carry our mark "
            "are); name another file, or remove it first"
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
