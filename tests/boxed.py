"""Pictures with boxes, small enough to learn from in a test."""

import numpy as np

from retrieval.detection.boxed_pictures import BoxedPictures, Objects

COLOURS = ((200, 40, 40), (40, 60, 200))


def squares(
    count: int, *, side: int = 64, classes: int = 2, empty: int = 0, masks: bool = False
) -> BoxedPictures:
    """Grey pictures, each with a square whose colour is its class; the last ``empty`` have none."""
    rng = np.random.default_rng(count)
    pictures, objects = [], []
    for number in range(count):
        picture = rng.integers(90, 130, (side, side, 3)).astype(np.uint8)
        label = number % classes
        left, top = rng.integers(4, side // 3, 2)
        size = int(rng.integers(side // 3, side // 2))
        boxes, labels = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
        if number < count - empty:
            picture[top : top + size, left : left + size] = COLOURS[label]
            boxes = np.array([[left, top, left + size, top + size]], np.float32)
            labels = np.array([label])
        shape = (picture.max(2) > 180)[None].repeat(len(labels), 0) if masks else None
        pictures.append(picture)
        objects.append(Objects(boxes, labels, np.zeros(len(labels), bool), shape))
    return BoxedPictures("squares", ("red", "blue")[:classes], tuple(pictures), tuple(objects))
