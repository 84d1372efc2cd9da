"""Pictures changed together with their boxes and masks, through torchvision's v2 transforms.

The draws come from a generator that is handed in: torchvision's own transforms draw from the global
one of torch, which other threads use as well.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.ops import box_iou
from torchvision.transforms.v2 import functional as F

from retrieval.config import BoxAugmentConfig

GREY = 128
"""What lies around a picture, as in ``letterbox``."""
WINDOWS = 40
"""Windows drawn for each overlap that ``iou_crop`` asks for, as in SSD."""
OVERLAPS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
"""Least overlaps with a box, of which ``iou_crop`` takes one at random; 1 leaves the picture whole."""


@dataclasses.dataclass(frozen=True)
class Sample:
    """A picture uint8 (3,H,W) and what is on it: boxes and proposals in its pixels.

    ``labels`` int64 (R,) belong to ``boxes`` (R,4); ``masks`` uint8 (R,H,W) and ``proposals`` (P,4)
    may be missing.
    """

    image: tv_tensors.Image
    boxes: tv_tensors.BoundingBoxes
    labels: Tensor
    masks: tv_tensors.Mask | None = None
    proposals: tv_tensors.BoundingBoxes | None = None

    @classmethod
    def of(
        cls,
        picture: np.ndarray,
        boxes: np.ndarray,
        labels: np.ndarray,
        masks: np.ndarray | None = None,
        proposals: np.ndarray | None = None,
    ) -> Self:
        """From a picture uint8 (H,W,3) and arrays as in ``Objects``."""
        shape = picture.shape[:2]
        return cls(
            tv_tensors.Image(torch.from_numpy(picture.copy()).permute(2, 0, 1)),
            _boxes(boxes, shape),
            torch.from_numpy(labels),
            None if masks is None else tv_tensors.Mask(torch.from_numpy(masks.astype(np.uint8))),
            None if proposals is None else _boxes(proposals, shape),
        )

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        height, width = self.image.shape[-2:]
        return height, width

    def through(self, change: Callable[[Any], Any]) -> Self:
        """Picture, boxes, masks and proposals, each changed as torchvision changes its kind."""
        return dataclasses.replace(
            self,
            image=change(self.image),
            boxes=change(self.boxes),
            masks=None if self.masks is None else change(self.masks),
            proposals=None if self.proposals is None else change(self.proposals),
        )

    def kept(self, rows: Tensor) -> Self:
        """With the objects of these rows alone, bool (R,)."""
        return dataclasses.replace(
            self,
            boxes=tv_tensors.wrap(self.boxes[rows], like=self.boxes),
            labels=self.labels[rows],
            masks=None
            if self.masks is None
            else tv_tensors.wrap(self.masks[rows], like=self.masks),
        )


def _boxes(boxes: np.ndarray, shape: tuple[int, ...]) -> tv_tensors.BoundingBoxes:
    return tv_tensors.BoundingBoxes(
        torch.from_numpy(boxes.astype(np.float32)).reshape(-1, 4), format="XYXY", canvas_size=shape
    )


def augment_sample(sample: Sample, config: BoxAugmentConfig, rng: np.random.Generator) -> Sample:
    """The sample, changed by draws from ``rng`` alone.

    An object whose centre is cut off is gone; one that is cut has the box of what is left.
    """
    crop_rng, colour_rng = rng.spawn(2)  # so that draws of one kind do not move those of another
    mirrored, zoom_coin, zoom, jitter, crop_coin = rng.random(5)
    if config.zoom_out > 1 and zoom_coin < 0.5:
        sample = zoom_out(sample, 1 + zoom * (config.zoom_out - 1), rng)
    if crop_coin < config.iou_crop:
        sample = iou_crop(sample, crop_rng)
    low, high = config.scale_jitter
    factor = low + jitter * (high - low)
    if factor < 1:
        sample = zoom_out(sample, 1 / factor, rng)
    elif factor > 1:
        sample = zoom_in(sample, factor, rng)
    if config.flip and mirrored < 0.5:
        sample = sample.through(F.horizontal_flip)
    return dataclasses.replace(sample, image=_recoloured(sample.image, config, colour_rng))


def zoom_out(sample: Sample, factor: float, rng: np.random.Generator) -> Sample:
    """The picture somewhere on a grey ground of ``factor`` times its height and width."""
    height, width = sample.shape
    more = int(height * factor) - height, int(width * factor) - width
    top, left = (int(rng.integers(0, extra + 1)) for extra in more)
    padding = [left, top, more[1] - left, more[0] - top]

    def pad(part: Any) -> Any:
        return F.pad(part, padding, fill=GREY if isinstance(part, tv_tensors.Image) else 0)

    return sample.through(pad)


def zoom_in(sample: Sample, factor: float, rng: np.random.Generator) -> Sample:
    """A random part of the picture, of its height and width divided by ``factor``."""
    height, width = sample.shape
    size = max(round(height / factor), 1), max(round(width / factor), 1)
    top, left = (
        int(rng.integers(0, whole - part + 1))
        for whole, part in zip((height, width), size, strict=True)
    )
    return _cut(sample, (left, top, left + size[1], top + size[0]))


def iou_crop(sample: Sample, rng: np.random.Generator) -> Sample:
    """A random part that overlaps a box by an IoU drawn from OVERLAPS, and has its centre.

    Without boxes, or where no such part is found, the whole picture.
    Source: Liu et al., "SSD: Single Shot MultiBox Detector", §2.2.
    """
    height, width = sample.shape
    for overlap in rng.permutation(OVERLAPS):
        if overlap == 1 or len(sample.boxes) == 0:
            break
        sides = rng.uniform(0.3, 1, (WINDOWS, 2)) * (width, height)
        corner = rng.uniform(0, 1, (WINDOWS, 2)) * ((width, height) - sides)
        windows = np.concatenate([corner, corner + sides], axis=1).astype(int)
        shapes = windows[:, 2:] - windows[:, :2]
        # Neither side is more than twice the other.
        usable = (shapes.min(1) > 0) & (shapes.max(1) <= 2 * shapes.min(1))
        drawn = torch.from_numpy(windows).float()
        overlaps = box_iou(drawn, sample.boxes.as_subclass(Tensor))
        overlaps[~_centres_within(sample.boxes, drawn)] = -1
        found = np.flatnonzero(usable & (overlaps.max(1).values >= overlap).numpy())
        if len(found):
            left, top, right, bottom = windows[found[0]].tolist()
            return _cut(sample, (left, top, right, bottom))
    return sample


def _centres_within(boxes: Tensor, windows: Tensor) -> Tensor:
    """Whether each window (W,4) has the centre of each box (R,4): bool (W,R)."""
    boxes = boxes.as_subclass(Tensor)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    low, high = windows[:, None, :2], windows[:, None, 2:]
    return ((centres > low) & (centres < high)).all(2)


def _cut(sample: Sample, window: tuple[int, int, int, int]) -> Sample:
    """The part within a window (left, top, right, bottom), and the objects with their centre in it."""
    left, top, right, bottom = window
    sample = sample.kept(_centres_within(sample.boxes, torch.tensor([window]).float())[0])
    return sample.through(lambda part: F.crop(part, top, left, bottom - top, right - left))


def _recoloured(
    image: tv_tensors.Image, config: BoxAugmentConfig, rng: np.random.Generator
) -> tv_tensors.Image:
    """Brightness, contrast, saturation and hue, in this order."""
    draws = rng.uniform(-1, 1, 4)
    for change, reach, draw, middle in (
        (F.adjust_brightness, config.brightness, draws[0], 1.0),
        (F.adjust_contrast, config.contrast, draws[1], 1.0),
        (F.adjust_saturation, config.saturation, draws[2], 1.0),
        (F.adjust_hue, config.hue, draws[3], 0.0),
    ):
        if reach:
            image = change(image, float(middle + reach * draw))
    return image
