"""Pictures of 64 pixels with red squares and blue discs, and what they show."""

import numpy as np
import torch

from retrieval.detection.boxed_pictures import BoxedPictures, Objects
from retrieval.detection.catalogue import build_detector
from retrieval.detection.detector import Batch, Detector, Target
from retrieval.specs import DetectorSpec

SIDE = 64
CLASSES = ("square", "disc")
COLOURS = ((230, 30, 30), (30, 60, 230))


def drawn(boxes: list[tuple[int, int, int, int]], labels: list[int]) -> tuple[np.ndarray, Objects]:
    """A noisy grey picture with these objects on it, the later ones in front."""
    noise = np.random.default_rng(len(boxes)).integers(100, 130, (SIDE, SIDE, 1))
    picture = np.repeat(noise, 3, 2).astype(np.uint8)
    masks = np.zeros((len(boxes), SIDE, SIDE), bool)
    y, x = np.mgrid[:SIDE, :SIDE] + 0.5
    for mask, (left, top, right, bottom), label in zip(masks, boxes, labels, strict=True):
        across = (2 * x - left - right) / (right - left)
        down = (2 * y - top - bottom) / (bottom - top)
        mask[:] = (
            np.maximum(abs(across), abs(down)) <= 1 if label == 0 else across**2 + down**2 <= 1
        )
        picture[mask] = COLOURS[label]
    known = np.array(boxes, np.float32).reshape(-1, 4)
    return picture, Objects(known, np.array(labels, np.int64), np.zeros(len(boxes), bool), masks)


def some_pictures() -> BoxedPictures:
    """Two objects, one object, none."""
    pairs = [
        drawn([(6, 8, 28, 30), (34, 34, 60, 56)], [0, 1]),
        drawn([(30, 6, 58, 38)], [1]),
        drawn([], []),
    ]
    pictures, objects = zip(*pairs, strict=True)
    return BoxedPictures("drawn", CLASSES, pictures, objects)


def small_detector(model: str, **options: object) -> Detector:
    torch.manual_seed(0)
    settings = {"backbone": "tiny", "image_size": SIDE, "width_factor": 0.25} | options
    return build_detector(DetectorSpec(model=model, classes=CLASSES, **settings))


def batch_of(detector: Detector, data: BoxedPictures) -> Batch:
    pictures = torch.from_numpy(np.stack([data.read(row) for row in range(len(data))]))
    targets = [
        Target(*(torch.from_numpy(part) for part in (o.boxes, o.labels, o.masks.astype(np.uint8))))
        for o in data.objects
    ]
    proposals = None
    if detector.propose is not None:
        proposals = [torch.from_numpy(detector.propose(picture)) for picture in data.pictures]
    return Batch(detector.standardise(pictures.permute(0, 3, 1, 2)), targets, proposals)


def train(detector: Detector, batch: Batch, steps: int, lr: float = 3e-3) -> None:
    optimizer = torch.optim.AdamW(detector.parameters(), lr)
    detector.train()
    for _ in range(steps):
        optimizer.zero_grad()
        torch.stack(list(detector(batch).values())).sum().backward()
        optimizer.step()
    detector.eval()
