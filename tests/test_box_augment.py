"""Augmentation: boxes, masks and proposals go where the pixels go."""

import numpy as np
import pytest
import torch
from torch import Tensor

from retrieval.config import BoxAugmentConfig
from retrieval.detection.box_augment import (
    GREY,
    Sample,
    augment_sample,
    iou_crop,
    zoom_in,
    zoom_out,
)
from retrieval.detection.scenes import mask_boxes

STILL = BoxAugmentConfig(flip=False, brightness=0, contrast=0, saturation=0, hue=0)


def drawn(boxes: list[list[int]], shape: tuple[int, int] = (40, 60)) -> Sample:
    """A black picture with a block of its own level for each box; the boxes are proposals too."""
    picture = np.zeros((*shape, 3), np.uint8)
    masks = np.zeros((len(boxes), *shape), bool)
    for row, (left, top, right, bottom) in enumerate(boxes):
        picture[top:bottom, left:right] = 200 + row
        masks[row, top:bottom, left:right] = True
    around = np.array(boxes, np.float32).reshape(-1, 4)
    return Sample.of(picture, around, np.arange(len(boxes)), masks, around)


def check(sample: Sample) -> None:
    """Boxes and masks are where the picture has the level of each object."""
    assert sample.masks is not None
    assert sample.boxes.shape == (len(sample.labels), 4)
    assert sample.masks.shape == (len(sample.labels), *sample.shape)
    for box, label, mask in zip(sample.boxes, sample.labels, sample.masks, strict=True):
        block = (sample.image[0] == 200 + label).numpy()
        assert block.any()
        np.testing.assert_array_equal(mask.numpy().astype(bool), block)
        assert box.tolist() == mask_boxes(block[None])[0].tolist()


BOXES = [[3, 5, 20, 15], [30, 10, 50, 35], [52, 1, 60, 9]]


def test_a_mirrored_picture_has_mirrored_boxes() -> None:
    flip = BoxAugmentConfig(brightness=0, contrast=0, saturation=0, hue=0)
    seen = set()
    for seed in range(10):
        sample = augment_sample(drawn(BOXES), flip, np.random.default_rng(seed))
        check(sample)
        seen.add(tuple(sample.boxes[0].tolist()))
        assert sample.proposals is not None
        assert sample.proposals.tolist() == sample.boxes.tolist()
    assert seen == {(3, 5, 20, 15), (40, 5, 57, 15)}


def test_zooming_out_puts_the_picture_on_grey() -> None:
    for seed in range(5):
        sample = zoom_out(drawn(BOXES), 2.5, np.random.default_rng(seed))
        check(sample)
        assert sample.shape == (100, 150)
        assert len(sample.labels) == 3
        assert int((sample.image[0] == GREY).sum()) == 100 * 150 - 40 * 60
        assert sample.proposals is not None
        assert sample.proposals.tolist() == sample.boxes.tolist()


def test_zooming_in_keeps_what_has_its_centre_there() -> None:
    counts = set()
    for seed in range(20):
        rng = np.random.default_rng(seed)
        sample = zoom_in(drawn(BOXES), 2, rng)
        check(sample)
        assert sample.shape == (20, 30)
        rng = np.random.default_rng(seed)
        top, left = int(rng.integers(0, 21)), int(rng.integers(0, 31))
        centres = [((x0 + x1) / 2, (y0 + y1) / 2) for x0, y0, x1, y1 in BOXES]
        wanted = [
            row for row, (x, y) in enumerate(centres) if left < x < left + 30 and top < y < top + 20
        ]
        assert sample.labels.tolist() == wanted
        counts.add(len(wanted))
        assert sample.proposals is not None
        assert len(sample.proposals) == 3  # those outside have no area, and go when it is squared
    assert len(counts) > 1


def test_a_crop_overlaps_a_box_and_has_its_centre() -> None:
    shapes = set()
    for seed in range(30):
        sample = iou_crop(drawn(BOXES), np.random.default_rng(seed))
        check(sample)
        assert len(sample.labels) > 0
        shapes.add(sample.shape)
        height, width = sample.shape
        assert 0.5 <= width / height <= 2
    assert (40, 60) in shapes
    assert len(shapes) > 3
    bare = iou_crop(drawn([]), np.random.default_rng(0))
    assert bare.shape == (40, 60)


def test_tiny_pictures_can_be_cropped() -> None:
    for seed in range(20):
        check(iou_crop(drawn([[0, 0, 1, 1]], (1, 1)), np.random.default_rng(seed)))
        check(zoom_in(drawn([[0, 0, 3, 3]], (3, 3)), 4, np.random.default_rng(seed)))


@pytest.mark.parametrize("boxes", [BOXES, []])
def test_all_together_stay_together(boxes: list[list[int]]) -> None:
    config = BoxAugmentConfig(
        zoom_out=3, iou_crop=0.5, scale_jitter=(0.5, 2),
        brightness=0, contrast=0, saturation=0, hue=0,
    )  # fmt: skip
    shapes = set()
    for seed in range(30):
        sample = augment_sample(drawn(boxes), config, np.random.default_rng(seed))
        check(sample)
        again = augment_sample(drawn(boxes), config, np.random.default_rng(seed))
        assert torch.equal(sample.image.as_subclass(Tensor), again.image.as_subclass(Tensor))
        shapes.add(sample.shape)
    assert len(shapes) > 10


def test_colours_change_pixels_alone_and_no_other_draws() -> None:
    moving = BoxAugmentConfig(
        zoom_out=3, scale_jitter=(0.5, 2), brightness=0, contrast=0, saturation=0, hue=0
    )
    colourful = BoxAugmentConfig(
        zoom_out=3, scale_jitter=(0.5, 2), brightness=0.5, contrast=0.5, saturation=0.5, hue=0.2
    )
    changed = 0
    for seed in range(10):
        plain = augment_sample(drawn(BOXES), moving, np.random.default_rng(seed))
        sample = augment_sample(drawn(BOXES), colourful, np.random.default_rng(seed))
        assert sample.boxes.tolist() == plain.boxes.tolist()
        assert sample.image.dtype == torch.uint8
        changed += not torch.equal(
            plain.image.as_subclass(Tensor), sample.image.as_subclass(Tensor)
        )
    assert changed > 5


def test_nothing_asked_for_changes_nothing() -> None:
    sample = drawn(BOXES)
    still = augment_sample(sample, STILL, np.random.default_rng(0))
    assert torch.equal(still.image.as_subclass(Tensor), sample.image.as_subclass(Tensor))
    assert still.boxes.tolist() == sample.boxes.tolist()
    bare = Sample.of(np.zeros((5, 6, 3), np.uint8), np.zeros((0, 4)), np.zeros(0, np.int64))
    still = augment_sample(bare, BoxAugmentConfig(), np.random.default_rng(0))
    assert still.boxes.shape == (0, 4)
    assert (still.masks, still.proposals) == (None, None)
