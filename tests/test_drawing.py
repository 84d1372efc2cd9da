"""Boxes, labels and masks on pictures."""

from itertools import pairwise

import numpy as np
import pytest

from retrieval.detection.detections import Detections
from retrieval.drawing import MASK, READABLE, class_colour, draw_objects


def found_of(boxes: list[list[float]], masks: np.ndarray | None = None) -> Detections:
    count = len(boxes)
    scores = np.linspace(0.9, 0.5, count).astype(np.float32)
    return Detections(np.array(boxes, np.float32).reshape(-1, 4), np.arange(count), scores, masks)


def test_boxes_are_drawn_in_the_colour_of_their_class() -> None:
    picture = np.zeros((600, 500, 3), np.uint8)
    drawn = np.asarray(draw_objects(picture, found_of([[50, 100, 250, 400]]), ["cat"]))
    assert drawn.shape == picture.shape
    for y, x in ((100, 240), (400, 150), (250, 50), (250, 250)):
        assert tuple(drawn[y, x]) == class_colour(0)
    assert not drawn[250, 150].any()
    assert drawn[70:99, 50:120].any()  # the label, above
    assert not drawn[450:].any()


def test_labels_stay_within_the_picture() -> None:
    picture = np.zeros((600, 500, 3), np.uint8)
    boxes = [[0, 0, 500, 600], [460, 0, 500, 30], [480, 590, 500, 600]]
    drawn = np.asarray(draw_objects(picture, found_of(boxes), ["a long name"] * 3))
    for label, (y, x) in enumerate(((20, 5), (5, 490), (585, 495))):
        near = drawn[max(y - 15, 0) : y + 15, max(x - 60, 0) : x + 5].reshape(-1, 3)
        assert (near == class_colour(label)).all(1).sum() > 20


def test_small_pictures_are_enlarged() -> None:
    picture = np.full((40, 64, 3), 90, np.uint8)
    drawn = draw_objects(picture, found_of([[10, 10, 30, 30]]), ["x"])
    assert drawn.size == (64 * 8, 40 * 8)
    assert max(drawn.size) >= READABLE
    assert np.asarray(drawn)[80:240, 80].tolist() == [list(class_colour(0))] * 160


def test_masks_shine_through() -> None:
    picture = np.full((500, 500, 3), 100, np.uint8)
    masks = np.zeros((1, 500, 500), bool)
    masks[0, 200:300, 200:300] = True
    drawn = np.asarray(draw_objects(picture, found_of([[200, 200, 300, 300]], masks), ["x"]))
    expected = (1 - MASK) * 100 + MASK * np.array(class_colour(0))
    assert drawn[250, 250].tolist() == pytest.approx(expected, abs=1)
    assert drawn[400, 400].tolist() == [100, 100, 100]


def test_nothing_found_leaves_the_picture_alone() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (500, 480, 3)).astype(np.uint8)
    assert (np.asarray(draw_objects(picture, found_of([]), [])) == picture).all()


def test_classes_have_colours_of_their_own() -> None:
    colours = [class_colour(label) for label in range(40)]
    assert len(set(colours)) == 40
    near = [np.abs(np.subtract(a, b)).sum() for a, b in pairwise(colours)]
    assert min(near) > 150
