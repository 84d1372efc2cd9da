import importlib.util
import math

import numpy as np
import pytest
import torch
from drawn_objects import CLASSES, SIDE, batch_of, small_detector, some_pictures, train
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.ops import box_iou

from retrieval.detection.detections import Detections
from retrieval.detection.detector import Batch, Detector, Target, detect_pictures
from retrieval.detection.faster_rcnn import Anchors, anchor_sizes
from retrieval.detection.region_detector import best_of_classes
from retrieval.errors import ConfigError, DataError
from retrieval.specs import DetectorSpec

if importlib.util.find_spec("cv2") is None:
    pytest.skip("needs OpenCV", allow_module_level=True)

KINDS = [
    ("faster-rcnn", {}),
    ("faster-rcnn", {"pyramid": True, "region_pool": "pool"}),
    ("mask-rcnn", {}),
    ("mask-rcnn", {"pyramid": True}),
    ("fast-rcnn", {"region_pool": "pool"}),
    ("rcnn", {}),
]
TERMS = {
    "faster-rcnn": {"objectness", "proposals", "classes", "boxes"},
    "mask-rcnn": {"objectness", "proposals", "classes", "boxes", "masks"},
    "fast-rcnn": {"classes", "boxes"},
    "rcnn": {"classes"},
}
kinds = pytest.mark.parametrize(("model", "options"), KINDS)


def check(found: Detections, spec: DetectorSpec) -> None:
    assert found.boxes.shape == (len(found), 4)
    assert (found.boxes.dtype, found.labels.dtype, found.scores.dtype) == (
        np.float32, np.int64, np.float32,
    )  # fmt: skip
    assert len(found) <= spec.most
    assert (found.scores >= spec.least_score).all()
    assert (found.scores <= 1).all()
    assert (np.diff(found.scores) <= 0).all()
    assert ((found.labels >= 0) & (found.labels < len(CLASSES))).all()
    assert (found.boxes >= 0).all()
    assert (found.boxes <= SIDE).all()
    assert (found.boxes[:, 2:] > found.boxes[:, :2]).all()
    for label in set(found.labels):
        same = torch.from_numpy(found.boxes[found.labels == label])
        assert (box_iou(same, same).triu(1) <= spec.nms_iou + 1e-6).all()
    if spec.model == "mask-rcnn":
        assert found.masks is not None
        assert found.masks.dtype == bool
        assert found.masks.shape == (len(found), SIDE, SIDE)
    else:
        assert found.masks is None


@kinds
def test_losses_gradients_and_what_is_found_before_training(
    model: str, options: dict[str, object]
) -> None:
    detector = small_detector(model, **options)
    batch = batch_of(detector, some_pictures())
    losses = detector(batch)
    assert set(losses) == TERMS[model]
    assert all(loss.dtype == torch.float32 and loss.shape == () for loss in losses.values())
    torch.stack(list(losses.values())).sum().backward()
    for name, parameter in detector.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
    detector.eval()
    found = detector.find(batch.images)
    assert len(found) == 3
    for one in found:
        check(one, detector.spec)


@kinds
def test_pictures_without_objects_are_background(model: str, options: dict[str, object]) -> None:
    detector = small_detector(model, **options)
    data = some_pictures().subset(np.array([2, 2]))
    batch = batch_of(detector, data)
    bare = [Target(target.boxes, target.labels) for target in batch.targets]
    none = None if batch.proposals is None else [torch.zeros(0, 4)] * 2
    for some in (batch, batch._replace(targets=bare, proposals=none)):
        losses = detector(some)
        assert all(math.isfinite(loss.item()) for loss in losses.values())
        for name in {"boxes", "masks", "proposals"} & set(losses):
            assert losses[name].item() == 0


@kinds
def test_bf16_gives_losses_near_those_of_float32(model: str, options: dict[str, object]) -> None:
    detector = small_detector(model, **options)
    batch = batch_of(detector, some_pictures())
    torch.manual_seed(1)
    plain = detector(batch)
    torch.manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16):
        coarse = detector(batch)
    for name, loss in coarse.items():
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(plain[name].item(), rel=0.2, abs=0.1)


@kinds
def test_the_weights_are_all_that_there_is(model: str, options: dict[str, object]) -> None:
    detector, other = (small_detector(model, **options) for _ in range(2))
    batch = batch_of(detector, some_pictures())
    train(detector, batch, 2)
    if model == "rcnn":
        detector.complete(some_pictures())
    other.load_state_dict(detector.state_dict())
    other.eval()
    with torch.no_grad():
        pairs = zip(detector.find(batch.images), other.find(batch.images), strict=True)
    for one, two in pairs:
        np.testing.assert_array_equal(one.boxes, two.boxes)
        np.testing.assert_array_equal(one.scores, two.scores)


def finds_all(detector: Detector) -> None:
    """The surest are the objects, and nothing else is sure.

    RoI pool rounds regions to cells: it is less exact, and sure of others that look the same to it.
    """
    pool = detector.spec.region_pool == "pool"
    data = some_pictures()
    for objects, found in zip(data.objects, detect_pictures(detector, data.pictures), strict=True):
        check(found, detector.spec)
        sure = found.subset(found.scores > 0.5)
        if pool:
            sure = sure.subset(np.arange(len(objects)))
        assert sorted(sure.labels) == sorted(objects.labels)
        overlaps = box_iou(torch.from_numpy(objects.boxes), torch.from_numpy(sure.boxes))
        for row, label in enumerate(objects.labels):
            best = int(overlaps[row].argmax())
            assert overlaps[row, best] > (0.5 if pool else 0.6)
            assert sure.labels[best] == label
            if found.masks is not None and objects.masks is not None:
                both = (objects.masks[row] & found.masks[best]).sum()
                assert both / (objects.masks[row] | found.masks[best]).sum() > 0.7


@pytest.mark.parametrize(
    ("model", "options", "steps"),
    [
        ("fast-rcnn", {}, 40),
        ("faster-rcnn", {"region_pool": "pool"}, 60),
        pytest.param("faster-rcnn", {}, 60, marks=pytest.mark.slow),
        pytest.param("faster-rcnn", {"pyramid": True}, 60, marks=pytest.mark.slow),
        pytest.param("mask-rcnn", {}, 100, marks=pytest.mark.slow),
        pytest.param("mask-rcnn", {"pyramid": True}, 100, marks=pytest.mark.slow),
    ],
)
def test_three_pictures_are_learnt_by_heart(
    model: str, options: dict[str, object], steps: int
) -> None:
    detector = small_detector(model, width_factor=0.5, **options)
    train(detector, batch_of(detector, some_pictures()), steps)
    finds_all(detector)


@pytest.mark.parametrize("backbone", ["resnet18", "fast-resnet"])
@pytest.mark.parametrize("pyramid", [False, True])
def test_other_backbones_have_the_strides_that_their_maps_say(backbone: str, pyramid: bool) -> None:
    narrow = {"resnet18": {"width_factor": 0.05}, "fast-resnet": {"width": 8, "width_factor": 1.0}}
    detector = small_detector(
        "faster-rcnn", backbone=backbone, pyramid=pyramid, **narrow[backbone]
    ).eval()
    maps = detector.maps(detector.backbone, torch.randn(1, 3, SIDE, SIDE))
    strides = detector.maps.strides
    assert len(maps) == len(strides) == (1 if not pyramid else len(strides))
    assert strides[0] == 8
    for features, stride in zip(maps.values(), strides, strict=True):
        assert features.shape[1] == detector.width
        assert abs(SIDE / stride - features.shape[2]) <= 1
    check(detector.find(torch.randn(1, 3, SIDE, SIDE))[0], detector.spec)


@pytest.mark.parametrize("strides", [(8,), (8, 16), (8, 16, 32, 64, 128)])
def test_anchor_boxes_cover_small_and_large_objects(strides: tuple[int, ...]) -> None:
    anchors = Anchors(200, strides)
    maps = [torch.zeros(1, 1, math.ceil(200 / s), math.ceil(200 / s)) for s in strides]
    found, again = anchors(ImageList(torch.zeros(2, 3, 200, 200), [(200, 200)] * 2), maps)
    assert found is again
    expected = []
    for features, stride, sizes in zip(maps, strides, anchor_sizes(200, len(strides)), strict=True):
        for y in range(features.shape[2]):
            for x in range(features.shape[3]):
                for ratio in (0.5, 1.0, 2.0):
                    for size in sizes:
                        width, height = size / math.sqrt(ratio), size * math.sqrt(ratio)
                        corners = np.round(np.array([-width, -height, width, height]) / 2)
                        expected.append(corners + [x * stride, y * stride] * 2)
    np.testing.assert_allclose(found.numpy(), expected, atol=1.01)  # halves are rounded either way
    sizes = [size for some in anchor_sizes(200, len(strides)) for size in some]
    assert len({len(some) for some in anchor_sizes(200, len(strides))}) == 1
    assert sizes == sorted(sizes)
    assert (sizes[0], sizes[-1]) == (pytest.approx(12.5), pytest.approx(160))


def test_a_region_has_a_box_and_a_score_for_each_class() -> None:
    spec = DetectorSpec(model="faster-rcnn", image_size=SIDE, classes=CLASSES, least_score=0.3)
    boxes = torch.tensor([[[0.0, 0, 10, 10], [30, 30, 50, 90]], [[1, 1, 10, 10], [0, 0, 9, 9]]])
    scores = torch.tensor([[0.9, 0.3], [0.8, 0.29]])
    found = best_of_classes(boxes, scores, spec)
    assert found.boxes.tolist() == [[0, 0, 10, 10], [30, 30, 50, SIDE]]
    assert found.labels.tolist() == [0, 1]
    assert found.scores.tolist() == pytest.approx([0.9, 0.3])
    assert len(best_of_classes(boxes[:0], scores[:0], spec)) == 0


def test_boxes_without_area_are_not_learnt_from() -> None:
    detector = small_detector("faster-rcnn")
    batch = batch_of(detector, some_pictures())
    flat = Target(torch.tensor([[5.0, 5, 5, 30]]), torch.tensor([1]))
    empty = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))
    seen = []
    for target in (flat, empty):
        torch.manual_seed(0)
        seen.append(detector.eval().train()(batch._replace(targets=[target] * 3)))
    assert {name: loss.item() for name, loss in seen[0].items()} == {
        name: loss.item() for name, loss in seen[1].items()
    }


def test_mask_rcnn_wants_masks() -> None:
    detector = small_detector("mask-rcnn")
    batch = batch_of(detector, some_pictures())
    bare = [Target(target.boxes, target.labels) for target in batch.targets]
    with pytest.raises(DataError, match="boxes alone; take --model faster-rcnn"):
        detector(Batch(batch.images, bare))


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("fast-rcnn", {"pyramid": True}),
        ("rcnn", {"pyramid": True}),
        ("rcnn", {"region_pool": "pool"}),
    ],
)
def test_options_that_do_not_go_together(model: str, options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=f"does not go with --model {model}"):
        small_detector(model, **options)


def test_masks_are_pasted_where_the_boxes_are() -> None:
    """Bilinear samples of a mask in a box, one by one, but for the border that rounding moves."""
    rng = np.random.default_rng(0)
    small = rng.random((4, 4)).astype(np.float32)
    box = np.array([10.0, 20.0, 26.0, 36.0])  # 16 pixels: each number of the mask stands for 4
    mask, where = torch.from_numpy(small)[None, None], torch.from_numpy(box).float()[None]
    pasted = paste_masks_in_image(mask, where, (SIDE, SIDE))[0, 0].numpy()
    padded = np.pad(small, 1)
    # A cell of zeros is put around: the box grows by as much, and its corners become whole numbers.
    left, top, right, bottom = (int(v) for v in (box[0] - 4, box[1] - 4, box[2] + 4, box[3] + 4))
    for y in range(top, bottom + 1):
        for x in range(left, right + 1):
            v = np.clip((y - top + 0.5) * 6 / (bottom - top + 1) - 0.5, 0, 5)
            u = np.clip((x - left + 0.5) * 6 / (right - left + 1) - 0.5, 0, 5)
            i, j = int(v), int(u)
            i2, j2 = min(i + 1, 5), min(j + 1, 5)
            upper = padded[i, j] * (1 - u + j) + padded[i, j2] * (u - j)
            lower = padded[i2, j] * (1 - u + j) + padded[i2, j2] * (u - j)
            assert pasted[y, x] == pytest.approx(upper * (1 - v + i) + lower * (v - i), abs=1e-5)
    assert pasted[: top - 1].sum() == 0


@pytest.mark.slow
@pytest.mark.parametrize("model", list(TERMS))
def test_the_default_backbone_is_made_and_asked(model: str) -> None:
    detector = small_detector(model, backbone="", image_size=128, width_factor=1.0)
    assert detector.spec.backbone == "resnet18"
    data = some_pictures()
    assert len(detect_pictures(detector, data.pictures)) == len(data)
