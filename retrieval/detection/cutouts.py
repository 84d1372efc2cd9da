"""Objects cut out of what surrounds them, to be pasted into scenes.

They are uint8 (h,w,4), of which the last is opacity.
"""

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

SHAPES = ("circle", "square", "triangle", "star", "banana")
FINER = 4
"""Shapes are drawn this many times finer than wanted, so that their edges come out smooth."""
TOLERANCE = 24
"""Levels by which the plain ground around an object may differ from itself."""


def draw_shape(name: str, side: int, rng: np.random.Generator) -> np.ndarray:
    """A shape of SHAPES whose longer side has ``side`` pixels: uint8 (h,w,4).

    Turned and squeezed at random, in two colours that make a texture.
    """
    points = _outline(name)
    points = points * [1.0, rng.uniform(0.75, 1.0)]
    angle = rng.uniform(0, 2 * np.pi)
    cos, sin = np.cos(angle), np.sin(angle)
    points = points @ np.array([[cos, -sin], [sin, cos]])
    points -= points.min(0)
    points *= side * FINER / points.max()
    width, height = np.maximum(np.ceil(points.max(0) / FINER).astype(int), 1)
    fine = Image.new("L", (int(width) * FINER, int(height) * FINER))
    ImageDraw.Draw(fine).polygon([tuple(map(float, point)) for point in points], fill=255)
    opacity = np.asarray(fine.reduce(FINER))
    return np.dstack([_texture(name, (int(height), int(width)), rng), opacity])


def _outline(name: str) -> np.ndarray:
    """The corners of a shape about the origin, (points,2)."""
    if name == "banana":  # between two arcs
        outer, inner = np.linspace(0, np.pi, 24), np.linspace(np.pi, 0, 24)
        return np.concatenate(
            [
                np.stack([np.cos(outer), 0.95 * np.sin(outer)], 1),
                np.stack([0.9 * np.cos(inner), 0.45 * np.sin(inner)], 1),
            ]
        )
    corners = {"circle": 64, "square": 4, "triangle": 3, "star": 10}[name]
    turns = (np.arange(corners) + 0.5) * (2 * np.pi / corners)
    radius = np.where(np.arange(corners) % 2, 0.42, 1.0) if name == "star" else 1.0
    return np.stack([radius * np.cos(turns), radius * np.sin(turns)], 1)


def _texture(name: str, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Stripes, checks, grain or a plain colour: uint8 (h,w,3)."""
    colour: np.ndarray = rng.integers(0, 256, 3)
    if name == "banana":
        colour = np.array([rng.integers(200, 256), rng.integers(165, 220), rng.integers(20, 90)])
    second = (colour + rng.integers(30, 90, 3) * rng.choice([-1, 1], 3)).clip(0, 255)
    down, across = np.indices(shape)
    period = int(rng.integers(3, 12))
    pattern = rng.integers(0, 4)
    if pattern == 0:
        share: np.ndarray = np.zeros(shape)
    elif pattern == 1:
        share = (down + across * int(rng.integers(0, 2))) // period % 2
    elif pattern == 2:
        share = (down // period + across // period) % 2
    else:
        share = rng.random(shape)
    mixed = colour + (second - colour) * share[..., None]
    return mixed.round().astype(np.uint8)


def cut_out(picture: np.ndarray) -> np.ndarray:
    """What stands on the plain ground of a picture uint8 (H,W,3), or all of it: uint8 (h,w,4).

    The ground is plain where nine tenths of the picture's border are of one colour. What differs
    from it, with its holes, is the object; it is cut to its bounds.
    """
    border = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]]).astype(int)
    ground = np.median(border, axis=0)
    plain = (np.abs(border - ground).max(1) <= TOLERANCE).mean() >= 0.9
    kept = np.ones(picture.shape[:2], bool)
    if plain:
        differs = np.abs(picture.astype(int) - ground).max(2) > TOLERANCE
        filled = ndimage.binary_fill_holes(differs)
        if filled.mean() >= 0.02:  # else there is nothing to be seen on the ground
            kept = filled
    rows, columns = np.flatnonzero(kept.any(1)), np.flatnonzero(kept.any(0))
    part = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    opacity = (kept * 255).astype(np.uint8)
    return np.dstack([picture, opacity])[part]
