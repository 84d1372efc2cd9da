"""A detector that needs no training, scenes that it understands, and a gallery of their objects.

It finds rectangles of one colour on black: red, green or blue, which is the class.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from pictures_to_ask import make_model
from PIL import Image
from scipy import ndimage
from torch import Tensor

from index.gallery import Gallery
from index.parts import Box
from retrieval.building import fill, open_or_create
from retrieval.detection import catalogue
from retrieval.detection.detections import Detections
from retrieval.detection.detector import Detector
from retrieval.network_files import save_network
from retrieval.pictures import list_pictures
from retrieval.specs import DetectorSpec

COLOURS = ("red", "green", "blue")
Rectangle = tuple[str, Box]


class BrightBoxes(Detector):
    """Rectangles on black; the score is how bright they are, from 0 to 1."""

    def __init__(self, spec: DetectorSpec, weights: str | None = None) -> None:
        super().__init__(spec, weights)
        self.spec = spec

    def find(self, images: Tensor) -> list[Detections]:
        pixels = (images * self.std + self.mean).cpu().numpy()
        return [self._find(picture) for picture in pixels]

    def _find(self, picture: np.ndarray) -> Detections:
        size = self.spec.image_size
        found = []
        for label, plane in enumerate(picture):
            # The grey beside a picture that is not square is no object.
            bright = (plane > 0.25) & (plane - np.delete(picture, label, 0).max(0) > 0.2)
            for rows, columns in ndimage.find_objects(ndimage.label(bright)[0]):
                box = (columns.start, rows.start, columns.stop, rows.stop)
                found.append((float(min(plane[rows, columns].max(), 1)), label, box))
        found.sort(reverse=True)
        found = found[: self.spec.most]
        boxes = np.array([box for *_, box in found], np.float32).reshape(-1, 4)
        assert boxes.max(initial=0) <= size
        labels = np.array([label for _, label, _ in found], np.int64)
        return Detections(boxes, labels, np.array([score for score, *_ in found], np.float32))


@pytest.fixture
def bright_boxes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The file of such a detector, which is --model tiny-ssd for the time of the test."""
    register(monkeypatch)
    return save_detector(tmp_path / "detector.safetensors")


def register(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("retrieval.detection.bright_boxes")
    module.BrightBoxes = BrightBoxes  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(catalogue.CLASSES, "tiny-ssd", "bright_boxes.BrightBoxes")


def save_detector(file: Path, **spec: object) -> Path:
    torch.manual_seed(0)
    settings = {"width": 8, "image_size": 64, "classes": COLOURS, "least_score": 0.1, **spec}
    save_network(BrightBoxes(DetectorSpec(**settings)), file)
    return file


def draw_scene(
    file: Path, *rectangles: Rectangle, size: tuple[int, int] = (64, 48), bright: int = 255
) -> Path:
    """Rectangles of a colour on black, in a picture of width × height."""
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    for colour, (left, top, width, height) in rectangles:
        pixels[top : top + height, left : left + width, COLOURS.index(colour)] = bright
    Image.fromarray(pixels).save(file)
    return file


def make_objects_gallery(
    folder: Path, detector: Path, sources: Sequence[Path], **options: object
) -> Gallery:
    """folder/g.gallery of the objects in pictures."""
    model = make_model(folder / "model.safetensors")
    gallery = open_or_create(
        folder / "g.gallery", model, sources=sources, objects=detector, object_options=options
    )
    fill(gallery, list_pictures(sources))
    return gallery
