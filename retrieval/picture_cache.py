"""Decoded pictures, kept on disk so that the next start need not decode them again."""

import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from index.atomic import write_atomically
from retrieval.errors import ImageError
from retrieval.images import read_image, read_images

logger = logging.getLogger(__name__)

SMALL, LARGE = 32, 96
"""The sizes chosen where none is given: at least, and for photographs."""
MAP_FROM_BYTES = 2**30
NUM_WORKERS = 4


def decode_pictures(
    paths: Sequence[Path],
    size: int | None,
    folder: Path,
    on_picture: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[np.ndarray, list[tuple[int, str]]]:
    """The pictures uint8 (n,size,size,3) that can be read, and (row, reason) of those that cannot.

    They are kept in ``folder`` under a name made of paths, sizes and times of change, so that a
    changed file is decoded again. Beyond 1 GiB the array is a read-only map of the file: memory does
    not grow with the number of pictures. Without ``size`` it is the commonest size of a sample, up
    to 64 pixels and at least 32, or else 96.
    """
    size = size or _suitable_size(paths)
    stem = folder / _fingerprint(paths, size)
    array_file, list_file = stem.with_suffix(".npy"), stem.with_suffix(".json")
    cached = _load(array_file, list_file, len(paths))
    # What could not be read may have been no fault of the file: a format that has since been
    # installed, a permission that has since been given.
    if cached is not None and not any(_readable(paths[row]) for row, _ in cached[1]):
        logger.info("%d decoded pictures are taken from %s", len(cached[0]), array_file)
        return cached
    folder.mkdir(parents=True, exist_ok=True)
    part = stem.with_suffix(f".{os.getpid()}.part")
    left_out: list[tuple[int, str]] = []
    try:
        with part.open("wb") as file:
            # The number of pictures is known at the end; until then the header says all of them.
            header = {"descr": "|u1", "fortran_order": False, "shape": (len(paths), size, size, 3)}
            np.lib.format.write_array_header_1_0(file, header)
            start = file.tell()
            for row, (_, picture) in enumerate(read_images(paths, size, NUM_WORKERS)):
                if isinstance(picture, ImageError):
                    left_out.append((row, str(picture)))
                else:
                    file.write(picture.tobytes())
                on_picture(row + 1, len(paths))
            file.flush()
            os.fsync(file.fileno())
        kept = len(paths) - len(left_out)
        record = {"left_out": left_out, "offset": start, "shape": [kept, size, size, 3]}
        part.replace(array_file)
        write_atomically(list_file, json.dumps(record).encode())
    finally:
        part.unlink(missing_ok=True)
    loaded = _load(array_file, list_file, len(paths))
    assert loaded is not None
    return loaded


def _load(
    array_file: Path, list_file: Path, n_paths: int
) -> tuple[np.ndarray, list[tuple[int, str]]] | None:
    """What was kept, or None where it is missing, or not as it was written."""
    try:
        record = json.loads(list_file.read_text())
        shape, offset = tuple(record["shape"]), int(record["offset"])
        left_out = [(int(row), str(reason)) for row, reason in record["left_out"]]
        size = array_file.stat().st_size
    except (OSError, ValueError, KeyError, TypeError):
        return None
    n_bytes = int(np.prod(shape))
    if size != offset + n_bytes or shape[0] + len(left_out) != n_paths:
        return None
    if n_bytes == 0:
        return np.empty(shape, np.uint8), left_out
    if n_bytes > MAP_FROM_BYTES:
        return np.memmap(array_file, np.uint8, "r", offset, shape), left_out
    return np.fromfile(array_file, np.uint8, offset=offset).reshape(shape), left_out


def _fingerprint(paths: Sequence[Path], size: int) -> str:
    digest = hashlib.sha256(f"1 {size}".encode())
    for path in paths:
        try:
            status = path.stat()
            facts = f"{status.st_size} {status.st_mtime_ns}"
        except OSError:
            facts = "missing"
        digest.update(os.fsencode(path.absolute()) + f"\0{facts}\0".encode())
    return digest.hexdigest()[:32]


def _readable(path: Path) -> bool:
    try:
        read_image(path)
    except ImageError:
        return False
    return True


def _suitable_size(paths: Sequence[Path]) -> int:
    sides: Counter[int] = Counter()
    for path in paths[:: max(len(paths) // 20, 1)]:
        try:
            sides[min(read_image(path).shape[:2])] += 1
        except ImageError:
            continue
    common = sides.most_common(1)[0][0] if sides else LARGE
    return max(common, SMALL) if common <= 64 else LARGE
