"""The layout of the Penn-Fudan pedestrians: for each picture one whose levels number the objects.

Source: Wang et al., "Object Detection Combining Recognition and Segmentation", 2007.
"""

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from retrieval.detection.annotations import AnnotatedPicture, Annotation, Listing, find_picture
from retrieval.detection.scenes import mask_boxes
from retrieval.errors import DataError, ImageError
from retrieval.images import upright_size
from retrieval.picture_files import EXTENSIONS

CLASS = "person"
FOLDERS = ("PNGImages", "JPEGImages", "images")


def read_penn_fudan(root: Path) -> Listing:
    """The pictures with a file in PedMasks/ called a_mask.png; boxes are those around the masks.

    The set has no parts. Raises DataError for a mask that cannot be read.
    """
    pictures = []
    for file in sorted((root / "PedMasks").glob("*_mask.png")):
        stem = file.stem.removesuffix("_mask")
        names = [f"{stem}{extension}" for extension in sorted(EXTENSIONS)]
        folders = [root / folder for folder in FOLDERS]
        found = [find_picture(name, folders) for name in names]
        path = next((each for each in found if each.is_file()), root / FOLDERS[0] / f"{stem}.png")
        pictures.append(_picture(path, file))
    return Listing((CLASS,), pictures)


def _picture(path: Path, file: Path) -> AnnotatedPicture:
    levels = _levels(file)
    numbers = [number for number in np.unique(levels) if number]
    boxes = mask_boxes(np.stack([levels == number for number in numbers])) if numbers else ()
    objects = []
    for number, (left, top, right, bottom) in zip(numbers, np.asarray(boxes).tolist(), strict=True):
        objects.append(
            Annotation(
                CLASS, (left, top, right, bottom), f"{file}, object {number}",
                draw=_drawer(file, int(number)),
            )
        )  # fmt: skip
    return AnnotatedPicture(path, objects, (levels.shape[1], levels.shape[0]))


@functools.lru_cache(1)
def _levels(file: Path) -> np.ndarray:
    """Which object each pixel belongs to, uint8 (H,W); 0 is none."""
    try:
        upright_size(file)
        with Image.open(file, formats=["PNG"]) as image:
            levels = np.asarray(image)
    except (ImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{file} cannot be read: {error}") from error
    if levels.ndim != 2:
        raise DataError(f"{file} has {levels.ndim} axes; a mask has one level for each pixel")
    return levels


def _drawer(file: Path, number: int) -> Callable[[int, int], np.ndarray]:
    # Read again when it is drawn: the masks of all pictures at once may be too much.
    return lambda height, width: _levels(file) == number
