"""The batches that detectors learn from."""

import os
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from retrieval.config import BoxAugmentConfig
from retrieval.detection.box_augment import Sample, augment_sample
from retrieval.detection.boxed_pictures import BoxedPictures
from retrieval.detection.detector import Batch, Detector, Target, letterbox
from retrieval.errors import DataError
from retrieval.sampling import shuffled_batches

READERS = min(os.cpu_count() or 1, 8)
"""Threads that read and change pictures while the network computes."""

Made = tuple[np.ndarray, Target, Tensor | None]
"""A square uint8 (S,S,3), what is on it, and its proposals."""


class BoxedBatches:
    """Shuffled batches of changed pictures, those of the next step made meanwhile.

    All that is random depends on seed, epoch and step alone. Crowds are not learnt from, nor are
    objects of which nothing is left; a picture without objects is background, with boxes (0,4).
    """

    def __init__(
        self,
        data: BoxedPictures,
        detector: Detector,
        device: torch.device,
        *,
        batch_size: int,
        augmentation: BoxAugmentConfig,
        seed: int,
    ) -> None:
        if len(data) == 0:
            raise DataError(f"{data.name} has no pictures to learn from")
        self.data, self.detector, self.device = data, detector, device
        self.batch_size, self.augmentation, self.seed = batch_size, augmentation, seed
        self.size = detector.spec.image_size
        self.proposals: dict[int, np.ndarray] = {}
        """Of each row that was asked for, in pixels of the picture."""
        self.epoch, self.rows = 0, self._rows(0)
        self.steps = len(self.rows)
        self.readers = ThreadPoolExecutor(READERS)
        self.ahead: tuple[tuple[int, int], list[Future[Made]]] = ((-1, -1), [])

    def _rows(self, epoch: int) -> np.ndarray:
        rng = np.random.default_rng((self.seed, epoch))
        return shuffled_batches(len(self.data), self.batch_size, rng)

    def __call__(self, epoch: int, step: int) -> tuple[Any, Tensor]:
        """A ``Batch`` on the device, and an empty tensor: its targets are within it.

        Raises DataError where a picture cannot be read.
        """
        if epoch != self.epoch:
            self.epoch, self.rows = epoch, self._rows(epoch)
        place, making = self.ahead
        if place != (epoch, step):
            making = self._start(epoch, step)
        self.ahead = ((-1, -1), [])
        if step + 1 < self.steps:
            self.ahead = ((epoch, step + 1), self._start(epoch, step + 1))
        squares, targets, proposals = zip(*(each.result() for each in making), strict=True)
        images = torch.from_numpy(np.stack(squares)).to(self.device).permute(0, 3, 1, 2)
        batch = Batch(
            self.detector.standardise(images),
            [self._on_device(target) for target in targets],
            None if self.detector.propose is None else [each.to(self.device) for each in proposals],
        )
        return batch, torch.empty(0, device=self.device)

    def _start(self, epoch: int, step: int) -> list[Future[Made]]:
        return [
            # Draws of their own for each picture, whichever thread comes to it first.
            self.readers.submit(self._make, int(row), (self.seed, 1, epoch, step, position))
            for position, row in enumerate(self.rows[step])
        ]

    def _make(self, row: int, seed: tuple[int, ...]) -> Made:
        picture, objects = self.data.read(row), self.data.objects[row]
        objects = objects.subset(~objects.crowd)
        proposals = self._propose(row, picture) if self.detector.propose is not None else None
        sample = Sample.of(picture, objects.boxes, objects.labels, objects.masks, proposals)
        sample = augment_sample(sample, self.augmentation, np.random.default_rng(seed))
        return to_square(sample, self.size)

    def _propose(self, row: int, picture: np.ndarray) -> np.ndarray:
        """What the detector proposes for the unchanged picture, in its pixels; asked once."""
        if row not in self.proposals:
            assert self.detector.propose is not None
            square, scale = letterbox(picture, self.size)
            self.proposals[row] = (self.detector.propose(square) / scale).astype(np.float32)
        return self.proposals[row]

    def _on_device(self, target: Target) -> Target:
        masks = None if target.masks is None else target.masks.to(self.device)
        return Target(target.boxes.to(self.device), target.labels.to(self.device), masks)


def to_square(sample: Sample, size: int) -> Made:
    """The sample as it enters a network: letterboxed, without what has no area."""
    square, scale = letterbox(sample.image.permute(1, 2, 0).contiguous().numpy(), size)
    height, width = sample.shape
    right, bottom = max(round(width * scale), 1), max(round(height * scale), 1)
    boxes = sample.boxes.as_subclass(Tensor) * scale
    kept = _has_area(boxes)
    masks = None
    if sample.masks is not None:
        masks = torch.zeros((int(kept.sum()), size, size), dtype=torch.uint8)
        if len(masks):
            resized = F.resize(
                sample.masks[kept].as_subclass(Tensor),
                [bottom, right],
                interpolation=F.InterpolationMode.NEAREST_EXACT,  # the other one shifts them
            )
            masks[:, :bottom, :right] = resized
    proposals = None
    if sample.proposals is not None:
        proposals = sample.proposals.as_subclass(Tensor) * scale
        proposals = proposals[_has_area(proposals)]
    return square, Target(boxes[kept], sample.labels[kept], masks), proposals


def _has_area(boxes: Tensor) -> Tensor:
    return (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
