"""Batches for detectors: the same in whatever order they are asked, with boxes where objects are."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from retrieval.config import BoxAugmentConfig
from retrieval.detection.boxed_batches import BoxedBatches
from retrieval.detection.boxed_pictures import BoxedPictures, Objects
from retrieval.detection.detector import Batch, Detector
from retrieval.detection.scenes import make_scenes, mask_boxes
from retrieval.errors import DataError
from retrieval.specs import DetectorSpec

STILL = BoxAugmentConfig(flip=False, brightness=0, contrast=0, saturation=0, hue=0)
MOVING = BoxAugmentConfig(zoom_out=2, iou_crop=0.5, scale_jitter=(0.7, 1.4))


class Onlooker:
    """What batches ask of a detector."""

    def __init__(self, propose: Callable[[np.ndarray], np.ndarray] | None = None) -> None:
        self.spec = DetectorSpec(image_size=64, classes=("a", "b"))
        self.propose = propose

    def standardise(self, images: Tensor) -> Tensor:
        return images.float()


def batches(
    data: BoxedPictures,
    config: BoxAugmentConfig = STILL,
    propose: Callable[[np.ndarray], np.ndarray] | None = None,
    **given: Any,
) -> BoxedBatches:
    detector = cast(Detector, Onlooker(propose))
    given = {"batch_size": 4, "seed": 1, **given}
    return BoxedBatches(data, detector, torch.device("cpu"), augmentation=config, **given)


def blocks(count: int = 6, masks: bool = True) -> BoxedPictures:
    """Black pictures of several shapes, each with one white block."""
    rng = np.random.default_rng(0)
    pictures, objects = [], []
    for row in range(count):
        height, width = rng.integers(40, 120, 2)
        left, top = rng.integers(5, 12, 2)
        right, bottom = rng.integers(20, 36, 2)
        mask = np.zeros((1, height, width), bool)
        mask[0, top:bottom, left:right] = True
        pictures.append(mask[0, :, :, None] * np.full(3, 255, np.uint8))
        label, crowd = np.array([row % 2]), np.zeros(1, bool)
        objects.append(Objects(mask_boxes(mask), label, crowd, mask if masks else None))
    return BoxedPictures("blocks", ("a", "b"), tuple(pictures), tuple(objects))


def same(one: Batch, other: Batch) -> bool:
    if not torch.equal(one.images, other.images):
        return False
    for mine, theirs in zip(one.targets, other.targets, strict=True):
        for part, counterpart in zip(mine, theirs, strict=True):
            assert isinstance(part, Tensor)
            assert isinstance(counterpart, Tensor)
            if not torch.equal(part, counterpart):
                return False
    return True


def test_a_batch_depends_on_seed_epoch_and_step_alone() -> None:
    data = make_scenes(None, 9, seed=1, size=48, objects=(0, 3))
    forth, back = batches(data, MOVING), batches(data, MOVING)
    assert forth.steps == 2
    places = [(epoch, step) for epoch in range(2) for step in range(2)]
    made = {place: forth(*place)[0] for place in places}
    for place in [*reversed(places), (0, 1), (0, 1)]:
        assert same(back(*place)[0], made[place])
    assert not same(made[0, 0], made[1, 0])
    assert not same(batches(data, MOVING, seed=2)(0, 0)[0], made[0, 0])


def test_each_picture_stands_once_in_an_epoch() -> None:
    data = make_scenes(None, 8, seed=1, size=64)
    asked = batches(data)
    seen = [image.permute(1, 2, 0).numpy() for step in (0, 1) for image in asked(0, step)[0].images]
    for row in range(8):
        assert sum(np.array_equal(image, data.read(row)) for image in seen) == 1


def check_blocks(batch: Batch, slack: float) -> int:
    """Boxes and masks are around the white pixels; how many there were."""
    found = 0
    for image, target in zip(batch.images, batch.targets, strict=True):
        white = (image > 192).all(0).numpy()
        assert len(target.boxes) == len(target.labels)
        for row, box in enumerate(target.boxes):
            assert np.abs(box.numpy() - mask_boxes(white[None])[0]).max() <= slack
            if target.masks is not None:
                assert target.masks.dtype == torch.uint8
                inside = target.masks[row].numpy().astype(bool)
                rim = 2 * (box[2:] - box[:2]).sum()
                assert (inside ^ white).sum() <= rim
            found += 1
    return found


@pytest.mark.parametrize("config", [STILL, MOVING])
def test_boxes_and_masks_are_where_the_objects_are(config: BoxAugmentConfig) -> None:
    config = BoxAugmentConfig(**{**vars(config), "brightness": 0, "contrast": 0, "saturation": 0})
    asked = batches(blocks(), config, batch_size=3)
    found = 0
    for epoch in range(3):
        for step in range(2):
            batch, nothing = asked(epoch, step)
            assert batch.images.shape == (3, 3, 64, 64)
            assert batch.images.dtype == torch.float32
            assert batch.proposals is None
            assert nothing.numel() == 0
            found += check_blocks(batch, 1.5)
    assert found >= 15  # a few are cut away


def test_without_masks_there_are_none() -> None:
    batch, _ = batches(blocks(masks=False))(0, 0)
    assert all(target.masks is None for target in batch.targets)
    assert check_blocks(batch, 1.5) == 4


def test_proposals_move_with_the_picture() -> None:
    asked_for = []

    def propose(picture: np.ndarray) -> np.ndarray:
        asked_for.append(picture.shape)
        around = mask_boxes((picture > 192).all(2)[None])
        return np.concatenate([around, around[:, [0, 1, 0, 1]]])  # the second has no area

    asked = batches(blocks(4), MOVING, propose, batch_size=2)
    found = 0
    for epoch in range(3):
        for step in range(2):
            batch, _ = asked(epoch, step)
            assert batch.proposals is not None
            for proposals, target in zip(batch.proposals, batch.targets, strict=True):
                assert len(proposals) <= 1
                if len(target.boxes):
                    assert (proposals[0] - target.boxes[0]).abs().max() <= 3
                    found += 1
    assert found >= 6
    assert len(asked_for) == 4  # once for each picture


def test_crowds_and_boxes_without_area_are_not_learnt_from() -> None:
    boxes = np.array([[1, 2, 9, 9], [5, 5, 5, 9], [3, 3, 8, 8]], np.float32)
    objects = Objects(boxes, np.array([0, 1, 1]), np.array([True, False, False]))
    picture = np.zeros((64, 64, 3), np.uint8)
    data = BoxedPictures("odd", ("a", "b"), (picture,), (objects,))
    target = batches(data)(0, 0)[0].targets[0]
    assert (target.boxes.tolist(), target.labels.tolist()) == ([[3, 3, 8, 8]], [1])


@pytest.mark.parametrize("masks", [None, np.zeros((0, 30, 50), bool)])
def test_a_picture_without_objects_is_background(masks: np.ndarray | None) -> None:
    nothing = Objects(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, bool), masks)
    data = BoxedPictures("bare", ("a",), (np.zeros((30, 50, 3), np.uint8),), (nothing,))
    for config in (STILL, MOVING):
        target = batches(data, config)(0, 0)[0].targets[0]
        assert target.boxes.shape == (0, 4)
        assert (target.labels.shape, target.labels.dtype) == ((0,), torch.int64)
        if masks is None:
            assert target.masks is None
        else:
            assert target.masks is not None
            assert target.masks.shape == (0, 64, 64)


def test_what_cannot_be_learnt_from_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none has no pictures to learn from"):
        batches(BoxedPictures("none", ("a",), (), ()))
    objects = blocks(1).objects
    gone = BoxedPictures("gone", ("a",), (tmp_path / "gone.png",), objects)
    with pytest.raises(DataError, match=r"gone\.png cannot be read: no such file"):
        batches(gone)(0, 0)
