"""What lies behind the objects of a scene."""

import numpy as np
from PIL import Image, ImageDraw


def draw_background(size: int, rng: np.random.Generator) -> np.ndarray:
    """A gradient with soft blotches, grain and clutter: uint8 (S,S,3)."""
    # A gradient and blotches are a few random colours, enlarged.
    ground = _enlarged(rng.integers(0, 256, (2, 2, 3)), size)
    blotches = _enlarged(rng.integers(0, 256, (int(rng.integers(3, 9)),) * 2 + (3,)), size)
    share = rng.uniform(0, 0.5)
    image = Image.blend(ground, blotches, share)
    _clutter(image, int(rng.integers(0, 16)), rng)
    # Grain of a quarter of the size: drawing a number for each pixel and colour would take longest.
    coarse = rng.normal(0, rng.uniform(0, 14), (size // 2 + 1, size // 2 + 1, 1))
    grain = coarse.astype(np.float32).repeat(2, 0).repeat(2, 1)[:size, :size]
    pixels = np.asarray(image).astype(np.float32) + grain
    return pixels.clip(0, 255).astype(np.uint8)


def cut_background(picture: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """A random square of a picture uint8 (H,W,3), at least half as high or wide: uint8 (S,S,3)."""
    height, width = picture.shape[:2]
    side = max(int(min(height, width) * rng.uniform(0.5, 1)), 1)
    left, top = rng.integers(0, width - side + 1), rng.integers(0, height - side + 1)
    cut = picture[top : top + side, left : left + side]
    if rng.random() < 0.5:
        cut = cut[:, ::-1]
    square = Image.fromarray(np.ascontiguousarray(cut))
    return np.asarray(square.resize((size, size), Image.Resampling.BILINEAR))


def _enlarged(colours: np.ndarray, size: int) -> Image.Image:
    small = Image.fromarray(colours.astype(np.uint8))
    return small.resize((size, size), Image.Resampling.BICUBIC)


def _clutter(image: Image.Image, count: int, rng: np.random.Generator) -> None:
    """Strokes and ragged patches, which are no shape of those that are looked for."""
    draw = ImageDraw.Draw(image)
    for _ in range(count):
        colour = tuple(map(int, rng.integers(0, 256, 3)))
        centre = rng.uniform(0, image.width, 2)
        reach = image.width * rng.uniform(0.03, 0.25)
        if rng.random() < 0.5:
            points = centre + rng.uniform(-reach, reach, (int(rng.integers(2, 5)), 2))
            draw.line(_flat(points), fill=colour, width=int(rng.integers(1, 5)))
        else:
            turns = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(6, 12))))
            radius = reach * rng.uniform(0.2, 1, len(turns))
            points = centre + radius[:, None] * np.stack([np.cos(turns), np.sin(turns)], 1)
            draw.polygon(_flat(points), fill=colour)


def _flat(points: np.ndarray) -> list[tuple[float, float]]:
    return [(float(across), float(down)) for across, down in points]
