"""Objects in pixels of pictures of any size: those that are not wanted take no memory for masks."""

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from boxed import squares
from one_cell import OneCell
from PIL import Image

from retrieval.detection.detection_report import evaluate_detector
from retrieval.detection.detections import Detections
from retrieval.detection.detector import detect_pictures
from retrieval.embedder import Embedder
from retrieval.object_embedding import ObjectEmbedder
from retrieval.object_finder import ObjectFinder
from retrieval.object_spec import ObjectsSpec
from retrieval.specs import DetectorSpec, EmbedderSpec

SIDE, COUNT = 64, 60


class Masked(OneCell):
    """Finds as many squares in every picture, each less sure than the one before, with masks."""

    def find(self, images: torch.Tensor) -> list[Detections]:
        rng = np.random.default_rng(0)
        corners = rng.integers(0, SIDE - 8, (COUNT, 2))
        boxes = np.concatenate([corners, corners + 8], 1).astype(np.float32)
        masks = np.zeros((COUNT, SIDE, SIDE), bool)
        for mask, (left, top) in zip(masks, corners, strict=True):
            mask[top : top + 8, left : left + 8] = True
        scores = np.linspace(1, 0.01, COUNT, dtype=np.float32)
        return [Detections(boxes, np.arange(COUNT) % 2, scores, masks) for _ in images]


def masked() -> Masked:
    return Masked(DetectorSpec(backbone="lenet", image_size=SIDE, classes=("red", "blue")))


def assert_same(found: Detections, wanted: Detections) -> None:
    for name in ("boxes", "labels", "scores", "masks"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))


def test_what_is_not_wanted_is_left_out_and_the_rest_stays() -> None:
    pictures = [np.zeros(shape, np.uint8) for shape in ((100, 80, 3), (40, 90, 3), (64, 64, 3))]
    whole = detect_pictures(masked(), pictures)
    sure = detect_pictures(masked(), pictures, least_score=0.5, batch_size=2)
    bare = detect_pictures(masked(), pictures, masks=False)
    for picture, all_, some, boxes in zip(pictures, whole, sure, bare, strict=True):
        assert all_.masks is not None
        assert all_.masks.shape == (len(all_), *picture.shape[:2])
        assert 0 < len(some) < len(all_)
        assert_same(some, all_.subset(all_.scores >= 0.5))
        assert boxes.masks is None
        np.testing.assert_array_equal(boxes.boxes, all_.boxes)
    assert len(whole[1]) < len(whole[2]) == COUNT  # some lie in the grey below a wide picture


def find_objects(picture: np.ndarray, folder: Path) -> None:
    Image.fromarray(picture).save(folder / "x.png")
    (found,) = ObjectFinder(masked(), 0.97).find([folder / "x.png"], pytest.fail)
    assert found.objects.masks is not None
    assert 0 < len(found.objects) < 5


def embed_objects(picture: np.ndarray, folder: Path) -> None:
    embedder = Embedder(EmbedderSpec(backbone="lenet", embedding_dim=4))
    ((first, *_),) = ObjectEmbedder(masked(), embedder, ObjectsSpec()).find([picture])
    assert first.label == "red"


def measure_boxes(picture: np.ndarray, folder: Path) -> None:
    data = squares(1, side=len(picture))
    assert evaluate_detector(masked(), data).pictures == 1


@pytest.mark.parametrize("ask", [find_objects, embed_objects, measure_boxes])
def test_masks_that_nobody_asked_for_take_no_memory(
    ask: Callable[[np.ndarray, Path], None], tmp_path: Path
) -> None:
    picture = np.zeros((600, 600, 3), np.uint8)
    tracemalloc.start()
    try:
        ask(picture, tmp_path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < COUNT * 600 * 600 / 2  # half of what a mask of each object would take
