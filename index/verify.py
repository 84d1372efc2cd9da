"""Reading every byte of a gallery, and saying what does not agree with what was committed."""

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from index.database import DATABASE, Database, connect, is_sealed, read_settings
from index.errors import DamagedGallery, GalleryError
from index.gallery import Gallery
from index.shards import check_file

logger = logging.getLogger(__name__)


def verify_gallery(path: Path) -> list[str]:
    """What is wrong with the gallery in a folder: nothing if it is sound.

    One too damaged to be opened has findings too. Raises NotAGallery where there is none, GalleryError
    where it cannot be read, as on a full disk.
    """
    try:
        gallery = Gallery.open(path)
    except DamagedGallery as error:
        return [str(error), *(f for f in _files_at(path) if str(error)[: len(f)] != f)]
    while True:
        findings = list(_findings(gallery))
        if not findings or not gallery.refresh():  # files of an older commit may be gone
            return findings


def _files_at(path: Path) -> Iterator[str]:
    """What is wrong with the files of a gallery that cannot be opened, as far as it can be known."""
    try:
        db = connect(path)
        read_settings(db, path)
        yield from _files(db, path)
    except GalleryError:
        return


def _files(db: Database, path: Path) -> Iterator[str]:
    for name, size, sha256 in db.execute("SELECT name, bytes, sha256 FROM files ORDER BY name"):
        finding = check_file(path / name, size, sha256)
        if finding:
            yield finding


def _findings(gallery: Gallery) -> Iterator[str]:
    path, db = gallery.path, gallery.db
    yield from gallery.notes
    if not is_sealed(path):
        logger.info("%s has no seal: the last writer was killed, or is at work", path)
    for (check,) in db.execute("PRAGMA integrity_check").fetchall():
        if check != "ok":
            yield f"{path / DATABASE}: {check}"
    damaged = [f for f in _files(db, path) if not any(f in note for note in gallery.notes)]
    yield from damaged
    if not damaged and not all(
        np.isfinite(vectors).all() for vectors, _ in gallery.snapshot.blocks(None, after=-1)
    ):
        yield f"{path} holds vectors with values that are not finite"
    listed = np.fromiter((r[0] for r in db.execute("SELECT id FROM items")), np.int64)
    missing = np.setdiff1d(listed, gallery.snapshot.living_ids())
    if len(missing):
        yield f"{len(missing)} items have no vector; the first id is {missing[0]}"
