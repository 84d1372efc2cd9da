"""Scenes: objects pasted on backgrounds, whose boxes and masks are known to the pixel.

They are for learning without downloads, and for tests. Scene n of a seed is always the same, however
many are made.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from PIL import Image

from retrieval.detection.backgrounds import cut_background, draw_background
from retrieval.detection.boxed_pictures import BoxedPictures, Objects
from retrieval.detection.cutouts import SHAPES, cut_out, draw_shape
from retrieval.errors import DataError
from retrieval.labeled_images import LabeledImages

TRIES = 12
"""Places tried for an object before it is left out."""
SEEN = 0.5
"""Share of each object that stays in sight of those pasted over it."""


@dataclasses.dataclass(frozen=True)
class _Plan:
    pictures: LabeledImages | None
    classes: tuple[str, ...]
    size: int
    objects: tuple[int, int]
    cover: tuple[float, float]
    backgrounds: Sequence[np.ndarray]


def make_scenes(
    pictures: LabeledImages | None,
    count: int,
    *,
    seed: int,
    size: int = 256,
    objects: tuple[int, int] = (1, 1),
    cover: tuple[float, float] = (0.02, 0.2),
    shapes: tuple[str, ...] = SHAPES[:4],
    backgrounds: Sequence[np.ndarray] = (),
    name: str = "scenes",
) -> BoxedPictures:
    """``count`` pictures uint8 (size,size,3), each with objects of known boxes and masks.

    The objects are ``pictures``, cut out where their ground is plain, or drawn ``shapes`` where there
    are none. Each scene has at least objects[0] and at most objects[1] of them, each as large as a
    square that covers between cover[0] and cover[1] of the scene, anywhere within it, mirrored by
    chance, on a random part of one of ``backgrounds`` (uint8 (H,W,3)), or on a drawn one.

    Where objects overlap, box and mask are what is seen of each: at least half. One for which no
    place is found where all stay so far in sight is left out, so crowded scenes may have fewer.
    Raises DataError for values that are not possible.
    """
    classes = shapes if pictures is None else pictures.classes
    plan = _Plan(pictures, classes, size, objects, cover, backgrounds)
    _check(plan, count)
    made = [_scene(plan, np.random.default_rng((seed, number))) for number in range(count)]
    scenes, seen = zip(*made, strict=True) if made else ((), ())
    return BoxedPictures(name, classes, scenes, seen)


def _check(plan: _Plan, count: int) -> None:
    if count < 0:
        raise DataError(f"{count} scenes are asked for; it must be at least 0")
    if plan.size < 16:
        raise DataError(f"scenes are {plan.size} pixels wide; it must be at least 16")
    fewest, most = plan.objects
    if not 0 <= fewest <= most:
        raise DataError(
            f"{fewest} to {most} objects are asked for in a scene; it must be 0 or more, ascending"
        )
    if not 0 < plan.cover[0] <= plan.cover[1] <= 1:
        raise DataError(
            f"objects are to cover {plan.cover[0]:g} to {plan.cover[1]:g} of a scene; it must be "
            "above 0, at most 1, ascending"
        )
    if plan.pictures is None:
        unknown = [shape for shape in plan.classes if shape not in SHAPES]
        if unknown or not plan.classes:
            raise DataError(
                f"there is no shape {unknown[0]!r}; there are {', '.join(SHAPES)}"
                if unknown
                else f"no shape is named; there are {', '.join(SHAPES)}"
            )
    elif not plan.classes or len(plan.pictures) == 0 or plan.pictures.labels.min() < 0:
        raise DataError(
            f"{plan.pictures.name} has no labelled pictures, and those pasted into scenes need labels"
        )


def _scene(plan: _Plan, rng: np.random.Generator) -> tuple[np.ndarray, Objects]:
    size = plan.size
    if plan.backgrounds:
        chosen = plan.backgrounds[int(rng.integers(len(plan.backgrounds)))]
        scene = cut_background(chosen, size, rng).copy()
    else:
        scene = draw_background(size, rng)
    masks: list[np.ndarray] = []  # what is seen of each
    areas: list[int] = []  # how much it would be if nothing lay over it
    labels: list[int] = []
    for _ in range(int(rng.integers(plan.objects[0], plan.objects[1] + 1))):
        label, cutout = _object(plan, rng)
        place = _free_place(cutout, masks, areas, size, rng)
        if place is None:
            continue
        left, top = place
        mask = _paste(scene, cutout, left, top)
        masks = [seen & ~mask for seen in masks] + [mask]
        areas.append(int(mask.sum()))
        labels.append(label)
    together = np.stack(masks) if masks else np.zeros((0, size, size), bool)
    crowd = np.zeros(len(labels), bool)
    return scene, Objects(mask_boxes(together), np.array(labels, np.int64), crowd, together)


def _object(plan: _Plan, rng: np.random.Generator) -> tuple[int, np.ndarray]:
    """A label, and the object as it is pasted, uint8 (h,w,4)."""
    side = max(round(plan.size * float(np.sqrt(rng.uniform(*plan.cover)))), 4)
    if plan.pictures is None:
        label = int(rng.integers(len(plan.classes)))
        cutout = draw_shape(plan.classes[label], side, rng)
    else:
        row = int(rng.integers(len(plan.pictures)))
        label = int(plan.pictures.labels[row])
        image = Image.fromarray(cut_out(plan.pictures.images[row]))
        scale = side / max(image.size)
        shape = max(round(image.width * scale), 1), max(round(image.height * scale), 1)
        cutout = np.asarray(image.resize(shape, Image.Resampling.BILINEAR))
    return label, cutout[:, ::-1] if rng.random() < 0.5 else cutout


def _free_place(
    cutout: np.ndarray,
    masks: list[np.ndarray],
    areas: list[int],
    size: int,
    rng: np.random.Generator,
) -> tuple[int, int] | None:
    """Left and top of a place where enough is still seen of all that is there, if one is found."""
    height, width = cutout.shape[:2]
    solid = cutout[..., 3] >= 128
    if not solid.any():
        return None
    for _ in range(TRIES):
        left = int(rng.integers(0, size - width + 1))
        top = int(rng.integers(0, size - height + 1))
        part = slice(top, top + height), slice(left, left + width)
        lost = [int((seen[part] & solid).sum()) for seen in masks]
        if all(
            int(seen.sum()) - gone >= SEEN * area
            for seen, gone, area in zip(masks, lost, areas, strict=True)
        ):
            return left, top
    return None


def _paste(scene: np.ndarray, cutout: np.ndarray, left: int, top: int) -> np.ndarray:
    """Blend the object into the scene; where it is more seen than not, bool (S,S)."""
    height, width = cutout.shape[:2]
    part = slice(top, top + height), slice(left, left + width)
    opacity = cutout[..., 3:].astype(np.float32) / 255
    blended = scene[part] * (1 - opacity) + cutout[..., :3] * opacity
    scene[part] = blended.round().astype(np.uint8)
    mask = np.zeros(scene.shape[:2], bool)
    mask[part] = cutout[..., 3] >= 128
    return mask


def mask_boxes(masks: np.ndarray) -> np.ndarray:
    """The tightest boxes float32 (R,4) around masks bool (R,H,W); zeros around an empty one."""
    boxes = np.zeros((len(masks), 4), np.float32)
    for box, mask in zip(boxes, masks, strict=True):
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if len(rows):
            box[:] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return boxes
