"""Objects drawn on the picture that they were found in."""

import colorsys
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from retrieval.detection.detections import Detections
from retrieval.fonts import label_font

READABLE = 480
"""Pictures whose longer side is shorter are enlarged, by a whole number, so that labels can be read."""
GOLDEN = (math.sqrt(5) - 1) / 2
MASK = 0.4
"""How much of a mask's colour covers what is under it."""

Colour = tuple[int, int, int]


def class_colour(label: int) -> Colour:
    """Red, green, blue in 0…255 of this class: neighbours differ much, and a class keeps its own."""
    red, green, blue = colorsys.hsv_to_rgb((0.36 + label * GOLDEN) % 1, 0.85, 0.95)
    return round(red * 255), round(green * 255), round(blue * 255)


def draw_objects(picture: np.ndarray, found: Detections, classes: Sequence[str]) -> Image.Image:
    """The picture uint8 (H,W,3) with the box of each object, its class and score; masks shine through.

    The surest lie on top. Small pictures come out enlarged.
    """
    height, width = picture.shape[:2]
    factor = max(math.ceil(READABLE / max(height, width)), 1)
    if found.masks is not None:
        picture = _shaded(picture, found)
    canvas = Image.fromarray(picture).resize((width * factor, height * factor))
    draw = ImageDraw.Draw(canvas)
    side = max(canvas.size)
    line, font = max(round(side / 320), 2), label_font(max(round(side / 45), 13))
    for row in reversed(range(len(found))):
        box = tuple(float(x) * factor for x in found.boxes[row])
        colour = class_colour(int(found.labels[row]))
        draw.rectangle(box, outline=colour, width=line)
    for row in reversed(range(len(found))):
        left, top = (float(x) * factor for x in found.boxes[row, :2])
        text = f"{classes[found.labels[row]]} {found.scores[row]:.2f}"
        _label(draw, text, (left, top), class_colour(int(found.labels[row])), font)
    return canvas


def _label(
    draw: ImageDraw.ImageDraw,
    text: str,
    corner: tuple[float, float],
    colour: Colour,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> None:
    """Text on a ground of the colour: above the box, within it where there is no room above."""
    left, top = corner
    x0, y0, x1, y1 = draw.textbbox((0, 0), text, font=font)
    pad = max((y1 - y0) // 4, 2)
    width, height = x1 - x0 + 2 * pad, y1 - y0 + 2 * pad
    right, below = draw.im.size
    x = max(min(left, right - width), 0)
    y = top - height if top >= height else max(min(top, below - height), 0)
    draw.rectangle((x, y, x + width, y + height), fill=colour)
    ink = "black" if 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 140 else "white"
    draw.text((x + pad - x0, y + pad - y0), text, fill=ink, font=font)


def _shaded(picture: np.ndarray, found: Detections) -> np.ndarray:
    """The picture with each mask in its class's colour, translucent; the surest on top."""
    assert found.masks is not None
    mixed = picture.astype(np.float32)
    for row in reversed(range(len(found))):
        mask = found.masks[row]
        colour = np.array(class_colour(int(found.labels[row])), np.float32)
        mixed[mask] = (1 - MASK) * picture[mask] + MASK * colour
    return mixed.round().astype(np.uint8)
