"""What all detectors offer: losses to learn from, and the objects of pictures."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from retrieval.detection.boxed_pictures import BoxedPictures
from retrieval.detection.detections import Detections
from retrieval.network import Network
from retrieval.specs import DetectorSpec


class Target(NamedTuple):
    """The objects of one picture of a batch: boxes float32 (R,4) in pixels of the square picture that
    enters the network, labels int64 (R,), masks uint8 (R,S,S) or None. No crowds."""

    boxes: Tensor
    labels: Tensor
    masks: Tensor | None = None


class Batch(NamedTuple):
    """Standardised pictures float32 (B,3,S,S), and what each shows.

    ``proposals`` float32 (P,4) of each are there where the detector has a ``propose``.
    """

    images: Tensor
    targets: list[Target]
    proposals: list[Tensor] | None = None


class Detector(Network):
    """A backbone with heads that say what lies where.

    ``forward`` gives the loss terms of a batch, for training; ``find`` the objects.
    """

    spec: DetectorSpec
    propose: Callable[[np.ndarray], np.ndarray] | None = None
    """Boxes float32 (P,4) of a picture uint8 (H,W,3) that may hold objects, where the detector
    does not find them itself. In pixels. Slow: batches ask once for each picture, and move the boxes
    with it."""

    def __init__(self, spec: DetectorSpec, weights: str | None = None) -> None:
        spec = spec.with_backbone()
        super().__init__(spec, weights)
        self.spec = spec

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Named loss terms, float32 (), that add up to what is minimised.

        Pictures without objects count as background.
        """
        raise NotImplementedError

    def find(self, images: Tensor) -> list[Detections]:
        """The objects of standardised pictures (B,3,S,S), in pixels of these, after suppression.

        At most ``spec.most`` a picture, all with a score of at least ``spec.least_score``.
        """
        raise NotImplementedError

    def complete(
        self, data: BoxedPictures, on_picture: Callable[[int, int], None] = lambda done, total: None
    ) -> None:
        """Learn, after the last epoch, what is not learnt step by step; for most detectors nothing."""


def letterbox(picture: np.ndarray, size: int) -> tuple[np.ndarray, float]:
    """The picture uint8 (H,W,3) in the upper left corner of a grey square uint8 (S,S,3), and its scale.

    It is resized so that the longer side is S pixels; the shape of what it shows stays. A box of the
    picture times the scale is its box in the square.
    """
    height, width = picture.shape[:2]
    scale = size / max(height, width)
    shape = max(round(width * scale), 1), max(round(height * scale), 1)
    square = np.full((size, size, 3), 128, np.uint8)
    if shape != (width, height):
        picture = np.asarray(Image.fromarray(picture).resize(shape, Image.Resampling.BILINEAR))
    square[: shape[1], : shape[0]] = picture
    return square, scale


@torch.inference_mode()
def detect_pictures(
    detector: Detector,
    pictures: Sequence[np.ndarray],
    *,
    batch_size: int = 16,
    least_score: float = 0.0,
    masks: bool = True,
) -> list[Detections]:
    """The objects of pictures uint8 (H,W,3) of any size, in pixels of each.

    The detector is put in evaluation mode for the time. What lies outside the picture is cut off.
    Masks, where the detector has them, take a byte for each pixel of the picture: objects with a score
    below ``least_score``, and all masks where ``masks`` is False, are left out before.
    """
    size = detector.spec.image_size
    was_training = detector.training
    detector.eval()
    found: list[Detections] = []
    try:
        for start in range(0, len(pictures), batch_size):
            part = pictures[start : start + batch_size]
            squares, scales = zip(*(letterbox(picture, size) for picture in part), strict=True)
            batch = torch.from_numpy(np.stack(squares)).to(detector.mean.device)
            batch = detector.standardise(batch.permute(0, 3, 1, 2))
            for objects, scale, picture in zip(detector.find(batch), scales, part, strict=True):
                sure = objects.subset(objects.scores >= least_score)
                sure = sure if masks else dataclasses.replace(sure, masks=None)
                found.append(_in_picture(sure, scale, picture.shape[:2]))
    finally:
        detector.train(was_training)
    return found


def _in_picture(found: Detections, scale: float, shape: tuple[int, int]) -> Detections:
    """Detections of the square, in pixels of the picture; those that lie beyond it are left out."""
    height, width = shape
    boxes = (found.boxes / scale).astype(np.float32)
    boxes[:, 0::2] = boxes[:, 0::2].clip(0, width)
    boxes[:, 1::2] = boxes[:, 1::2].clip(0, height)
    inside = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    found = dataclasses.replace(found, boxes=boxes).subset(inside)
    if found.masks is None:
        return found
    masks = np.zeros((len(found), height, width), bool)
    right, bottom = max(round(width * scale), 1), max(round(height * scale), 1)
    for row, mask in enumerate(found.masks):
        cut = Image.fromarray(mask[:bottom, :right])
        masks[row] = np.asarray(cut.resize((width, height), Image.Resampling.NEAREST))
    return dataclasses.replace(found, masks=masks)
