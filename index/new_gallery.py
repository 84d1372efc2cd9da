"""Making a gallery: a folder with a database, a model and nothing else yet."""

import contextlib
import dataclasses
import glob
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from index.atomic import write_atomically
from index.database import (
    BLANKS,
    CHECKS,
    DATABASE,
    FORMAT_VERSION,
    SCHEMA,
    Database,
    connect,
    write_seal,
    write_settings,
)
from index.errors import DamagedGallery, GalleryError, NotAGallery
from index.gallery import Gallery
from index.lock import take_lock
from index.neighbors import METRICS
from index.planner import Limits, check_budget
from index.storage import FLOATS, Storage
from index.vector_index import AUTO, FLAT, check_key


def create_gallery(
    path: Path,
    *,
    dim: int,
    metric: str,
    embedder_id: str,
    model: dict[str, bytes],
    image_root: Path,
    index_key: str = FLAT,
    dtype: str = "float32",
    limits: Limits | None = None,
    detector: dict[str, bytes] | None = None,
    objects: dict[str, Any] | None = None,
    n_vectors: int = 0,
    overwrite: bool = False,
) -> Gallery:
    """A new, empty gallery in the folder ``path``, which must not exist or be empty.

    With ``overwrite`` it takes the place of a gallery that is there. ``model``: file name → content of
    the embedder. With ``objects``, which says how they are found, the items are parts of pictures, see
    ``index.parts``; ``detector`` is what finds them. Raises GalleryError where something is in the way,
    IndexKeyError for an index key that is unknown or does not go with the metric, BudgetError where
    no index of ``n_vectors``, which are to come, keeps to the limits. Then all stays as it was.
    """
    if metric not in METRICS or dtype not in FLOATS:
        raise GalleryError(f"metric {metric!r} or dtype {dtype!r} is none of {METRICS}, {FLOATS}")
    check_key(index_key, metric, dim)
    limits = limits or Limits()
    if index_key == AUTO:
        check_budget(n_vectors, dim, metric, Storage(dtype, dim, metric).row_bytes, limits)
    if path.is_symlink():
        path = path.resolve()
    _check_place(path, overwrite)
    root = os.path.relpath(os.path.abspath(image_root), os.path.abspath(path))
    settings = {
        "format_version": FORMAT_VERSION, "generation": 1, "next_id": 1, "next_number": 1,
        "dim": dim, "metric": metric, "dtype": dtype, "index_key": index_key, "index_file": None,
        "embedder_id": embedder_id, "image_root": root, "plan": None,
        "limits": dataclasses.asdict(limits),
        **({} if objects is None else {"objects": objects}),
    }  # fmt: skip
    # Built aside and renamed: a crash leaves no half gallery under the name.
    with _folder_aside(path) as aside:
        _fill(aside, settings, {"model": model, "detector": detector or {}})
        _take_place(aside, path)
    return Gallery.open(path)


def _fill(folder: Path, settings: dict[str, Any], kept: dict[str, dict[str, bytes]]) -> None:
    """Make the database of a gallery, and the files kept in folders of it: folder → name → content."""
    db = connect(folder, create=True)
    for statement in [*SCHEMA.split(";"), CHECKS, *([BLANKS] if "objects" in settings else [])]:
        db.execute(statement)
    db.execute("BEGIN")
    for where, files in kept.items():
        for name, data in files.items():
            _write_file(db, folder, f"{where}/{name}", data)
    write_settings(db, settings)
    db.execute("COMMIT")
    db.close()
    write_seal(folder)


def is_free(path: Path) -> bool:
    """Whether nothing is at ``path``, or an empty folder; else a gallery is there.

    Raises NotAGallery where it is something else.
    """
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return True
    if not (path / DATABASE).is_file():
        other = "holds other files and is no gallery"
        if not path.is_dir():
            other = "is a file, and a gallery is a folder"
        raise NotAGallery(f"{path} {other}; name a new folder, such as photos.gallery")
    return False


def _check_place(path: Path, overwrite: bool) -> None:
    """Raises GalleryError where something is at ``path`` that must not be replaced."""
    if path.name in ("", ".."):  # a folder that somebody may be in is not exchanged for another
        raise GalleryError(f"{path} cannot become a gallery; name a new folder, as photos.gallery")
    if is_free(path):
        return
    if not overwrite:
        raise GalleryError(f"{path} exists already; give --overwrite to replace it")
    # One that is damaged is a gallery too, and can be built again.
    with contextlib.suppress(DamagedGallery):
        Gallery.open(path).close()


@contextlib.contextmanager
def _folder_aside(path: Path) -> Iterator[Path]:
    """A new folder beside ``path``, which is gone again where what is done with it fails.

    Raises GalleryError where it cannot be made or written to, as on a full disk.
    """
    aside = _make_aside(path)
    try:
        yield aside
    except BaseException as error:
        shutil.rmtree(aside, ignore_errors=True)
        if isinstance(error, OSError):
            raise GalleryError(f"{path} could not be made: {error}") from error
        raise


def _make_aside(path: Path) -> Path:
    _sweep(path, "part")
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        aside.mkdir(parents=True)
    except OSError as error:
        there = next(folder for folder in aside.absolute().parents if os.path.lexists(folder))
        raise GalleryError(
            f"{path} cannot be made in {there}: {error.strerror}; name a place in a folder that can be "
            "written to"
        ) from error
    return aside


def _take_place(aside: Path, path: Path) -> None:
    """Rename a finished gallery to ``path``; what it replaces is deleted only then."""
    if not path.exists():
        aside.rename(path)
        return
    if not any(path.iterdir()):
        path.rmdir()
        aside.rename(path)
        return
    old = path.with_name(f".{path.name}.{os.getpid()}.old")
    with take_lock(path):
        path.rename(old)
        aside.rename(path)
    _sweep(path, "old")


def _sweep(path: Path, kind: str) -> None:
    """Delete what was made aside for ``path``, by processes that were killed too."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.{kind}"):
        shutil.rmtree(left)


def _write_file(db: Database, folder: Path, name: str, data: bytes) -> None:
    """Put a file into the gallery, and its checksum into the open transaction."""
    write_atomically(folder / name, data)
    row = (name, len(data), hashlib.sha256(data).hexdigest())
    db.execute("INSERT INTO files VALUES (?, ?, ?)", row)
