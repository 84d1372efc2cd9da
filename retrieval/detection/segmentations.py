"""Masks as COCO writes them: polygons, drawn by pycocotools, or lengths of runs (RLE).

Runs go down the columns, and the first is of what is not the object. They are decoded here:
pycocotools reads beyond its memory where text does not add up.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from retrieval.errors import DataError

FARTHEST = 10
"""How many times the side of the picture a corner of a polygon may be away from it."""


def mask_drawer(segmentation: Any, where: str) -> Callable[[int, int], np.ndarray]:
    """Draws the mask bool (H,W) of polygons or runs, given H and W; checked here as far as can be.

    Polygons are lists of x, y, x, y, … with at least 3 corners; runs are {"size": [H, W], "counts"}
    with a list or text. Raises DataError that names ``where`` for all else, as drawing does where the
    size is not that of the picture.
    """
    if isinstance(segmentation, dict):
        return _runs(segmentation, where)
    if not isinstance(segmentation, list) or not segmentation:
        raise DataError(f"{where}: segmentation must be polygons or runs, not {segmentation!r:.60}")
    return _polygons(segmentation, where)


def _polygons(polygons: list[Any], where: str) -> Callable[[int, int], np.ndarray]:
    for polygon in polygons:
        sound = isinstance(polygon, list) and len(polygon) >= 6 and len(polygon) % 2 == 0
        if not sound or not all(_is_number(value) for value in polygon):
            raise DataError(
                f"{where}: a polygon must be at least 3 corners x, y of finite numbers, not "
                f"{polygon!r:.60}"
            )

    def draw(height: int, width: int) -> np.ndarray:
        try:
            from pycocotools import mask
        except ImportError as error:
            raise DataError("polygons need an extra: pip install 'retrieval[detection]'") from error
        # Drawing takes room for each step from corner to corner.
        reach = FARTHEST * max(height, width)
        if any(abs(value) > reach for polygon in polygons for value in polygon):
            raise DataError(f"{where}: a polygon has corners far outside the picture")
        runs = mask.merge(mask.frPyObjects(polygons, height, width))
        return _drawn(_lengths(runs["counts"].decode("ascii")), height, width)

    return draw


def _runs(runs: dict[str, Any], where: str) -> Callable[[int, int], np.ndarray]:
    size, counts = runs.get("size"), runs.get("counts")
    try:
        lengths = _lengths(counts) if isinstance(counts, str) else counts
    except ValueError as error:
        raise DataError(f"{where}: the counts of its runs are {error}") from error
    if not isinstance(lengths, list) or not all(
        _is_number(n) and n == int(n) >= 0 for n in lengths
    ):
        raise DataError(f"{where}: runs need counts as whole numbers from 0, or as text")

    def draw(height: int, width: int) -> np.ndarray:
        if size != [height, width] or sum(lengths) != height * width:
            raise DataError(
                f"{where}: runs of size {size!r:.40} with {sum(lengths)} pixels do not fit the "
                f"picture, which is {height} high and {width} wide"
            )
        return _drawn(lengths, height, width)

    return draw


def _drawn(lengths: list[int], height: int, width: int) -> np.ndarray:
    """The mask bool (H,W) of runs that add up to its pixels."""
    values = np.arange(len(lengths)) % 2 == 1
    return values.repeat(np.array(lengths, np.int64)).reshape(width, height).T


def _lengths(text: str) -> list[int]:
    """Lengths of runs from text: 5 bits a letter, each length as its difference to the last but one.

    Source: rleFrString of pycocotools. Raises ValueError for other text.
    """
    lengths: list[int] = []
    value = shift = 0
    for letter in text:
        bits = ord(letter) - 48
        if not 0 <= bits < 64:
            raise ValueError(f"not of its letters: {letter!r}")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:  # the last letter of this length
            if bits & 16:
                value -= 1 << shift
            lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
            value = shift = 0
    if shift:
        raise ValueError("cut off")
    return lengths


def runs_of(mask: np.ndarray) -> dict[str, Any]:
    """A mask bool (H,W) as runs with a list of counts, ready for JSON."""
    pixels = np.concatenate([[False], mask.T.ravel(), [not mask.T.ravel()[-1]]])
    edges = np.flatnonzero(pixels[1:] != pixels[:-1])
    lengths = np.diff(edges, prepend=0)
    return {"size": list(mask.shape), "counts": lengths.tolist()}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
