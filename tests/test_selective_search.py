import importlib.util
import sys

import numpy as np
import pytest
import torch
from drawn_objects import SIDE, small_detector, some_pictures
from torchvision.ops import box_iou

from retrieval.detection.selective_search import MOST, search_batch, selective_search
from retrieval.errors import ConfigError

needs_opencv = pytest.mark.skipif(importlib.util.find_spec("cv2") is None, reason="needs OpenCV")


@needs_opencv
def test_objects_are_among_the_regions() -> None:
    data = some_pictures()
    for picture, objects in zip(data.pictures, data.objects, strict=True):
        boxes = selective_search(picture)
        assert boxes.dtype == np.float32
        assert boxes[0].tolist() == [0, 0, SIDE, SIDE]
        assert len(np.unique(boxes, axis=0)) == len(boxes)
        assert (boxes[:, :2] >= 0).all()
        assert (boxes[:, 2:] <= SIDE).all()
        sides = boxes[:, 2:] - boxes[:, :2]
        assert (sides >= 6).all()
        assert (np.diff(sides.prod(1)) <= 0).all()
        overlaps = box_iou(torch.from_numpy(objects.boxes), torch.from_numpy(boxes))
        assert (overlaps.max(1).values > 0.5).all() if len(objects) else len(boxes) >= 1
        np.testing.assert_array_equal(selective_search(picture), boxes)


@needs_opencv
def test_large_pictures_are_searched_small_and_answered_in_their_pixels() -> None:
    picture = np.full((500, 750, 3), 90, np.uint8)
    picture[100:300, 150:600] = (250, 200, 30)
    boxes = torch.from_numpy(selective_search(picture))
    assert boxes[0].tolist() == [0, 0, 750, 500]
    drawn = torch.tensor([[150.0, 100, 600, 300]])
    assert box_iou(drawn, boxes).max() > 0.9
    assert (boxes <= torch.tensor([750, 500, 750, 500])).all()


@needs_opencv
@pytest.mark.parametrize("shape", [(1, 1), (5, 40), (64, 64)])
def test_where_nothing_is_to_be_seen_it_is_the_whole_picture(shape: tuple[int, int]) -> None:
    boxes = selective_search(np.full((*shape, 3), 7, np.uint8))
    assert boxes.tolist() == [[0, 0, shape[1], shape[0]]]


@needs_opencv
def test_the_regions_of_noise_are_bounded() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).repeat(30, 0).repeat(30, 1)
    boxes = selective_search(noise.astype(np.uint8))
    assert 1 < len(boxes) <= MOST


@needs_opencv
@pytest.mark.parametrize("channels", [3, 1])
def test_standardised_pictures_are_searched_as_they_were(channels: int) -> None:
    detector = small_detector(
        "fast-rcnn", mean=(0.2, 0.4, 0.6), std=(0.3, 0.2, 0.1), channels=channels
    )
    picture = some_pictures().pictures[0]
    if channels == 1:
        picture = np.repeat(picture[:, :, :1], 3, 2)
    pixels = torch.from_numpy(np.stack([picture, picture[::-1].copy()])).permute(0, 3, 1, 2)
    found = search_batch(detector.standardise(pixels), detector.mean, detector.std)
    if channels == 3:
        np.testing.assert_array_equal(found[0].numpy(), selective_search(picture))
        np.testing.assert_array_equal(found[1].numpy(), selective_search(picture[::-1]))
    assert box_iou(torch.tensor([[6.0, 8, 28, 30]]), found[0]).max() > 0.5


def test_without_opencv_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in sys.modules if n.startswith("cv2")] + ["cv2", "cv2.ximgproc"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=r"pip install 'retrieval\[regions\]'"):
        selective_search(some_pictures().pictures[0])
