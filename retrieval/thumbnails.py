"""Pictures of a gallery, and parts of them, as small as they are shown."""

from pathlib import Path

import numpy as np

from index.parts import Box
from retrieval.errors import ImageError
from retrieval.images import read_image, read_thumbnail
from retrieval.report import GREY, Outline

THUMBNAIL = 512
"""Pixels that a picture is shown with, wide and high: about as many at most."""


def thumbnail(
    path: Path, box: Box | None = None, side: int = THUMBNAIL
) -> tuple[np.ndarray, Outline | None]:
    """The picture, or of a part of it what lies around, and where in that the part is.

    A grey square where the picture is gone, or is another one: an answer is shown all the same.
    """
    try:
        if box is None:
            return read_thumbnail(path, side), None
        part, outline = _surroundings(read_image(path), box)
    except ImageError:
        return GREY, None
    step = max(max(part.shape[:2]) // side, 1)
    return part[::step, ::step], tuple(edge / step for edge in outline)


def _surroundings(image: np.ndarray, box: Box) -> tuple[np.ndarray, Outline]:
    """The part of a picture with half its longer side around it, so that it is seen what it lies in."""
    left, top, width, height = box
    if left + width > image.shape[1] or top + height > image.shape[0]:
        raise ImageError("the box reaches out of the picture")
    around = max(max(width, height) // 2, 4)
    x, y = max(left - around, 0), max(top - around, 0)
    outline = (left - x, top - y, left - x + width, top - y + height)
    return image[y : top + height + around, x : left + width + around], outline
