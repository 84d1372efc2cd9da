"""The one-stage detectors: shapes, losses, gradients, what they learn, and what they answer."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.models.detection.ssd import SSD as TorchvisionSSD
from torchvision.ops import box_iou

from retrieval.detection.catalogue import build_detector
from retrieval.detection.detector import Batch, Detector, Target
from retrieval.detection.grid_assignment import assign_cells
from retrieval.detection.multibox import MultiBox, anchor_errors
from retrieval.detection.tiny_ssd import TinySSD
from retrieval.detection.yolo import Yolo
from retrieval.errors import ConfigError
from retrieval.specs import DetectorSpec

MODELS = ["tiny-ssd", "ssd", "yolo"]
NARROW = {
    "tiny-ssd": {},
    "ssd": {"backbone": "resnet18", "width_factor": 0.25},
    "yolo": {"backbone": "resnet18", "width_factor": 0.25},
}


def detector_of(model: str, **options: object) -> Detector:
    torch.manual_seed(0)
    narrow = {} if "backbone" in options else NARROW[model]
    return build_detector(
        DetectorSpec(
            **{"model": model, "image_size": 64, "classes": ("a", "b"), **narrow, **options}
        )
    )


def target(*objects: tuple[float, float, float, float, int]) -> Target:
    rows = torch.tensor(objects, dtype=torch.float32).reshape(-1, 5)
    return Target(rows[:, :4], rows[:, 4].long())


def batch_of(size: int = 64) -> Batch:
    """Two pictures: grey noise with a red and a blue square, and with a blue one."""
    generator = torch.Generator().manual_seed(5)
    images = 0.1 * torch.randn(2, 3, size, size, generator=generator)
    images[0, 0, 8:28, 4:30] = 2
    images[0, 2, 36:60, 38:56] = 2
    images[1, 2, 20:44, 16:52] = 2
    first = target((4, 8, 30, 28, 0), (38, 36, 56, 60, 1))
    return Batch(images, [first, target((16, 20, 52, 44, 1))])


@pytest.mark.parametrize(
    ("model", "options", "count"),
    [
        ("tiny-ssd", {"image_size": 256}, 5_444),
        ("tiny-ssd", {"image_size": 64}, (64 + 16 + 4 + 1 + 1) * 4),
        ("tiny-ssd", {"backbone": "resnet18", "width_factor": 0.25, "image_size": 256}, 5_444),
        ("tiny-ssd", {"backbone": "fast-resnet", "width": 8}, (49 + 16 + 4 + 1 + 1) * 4),
        ("ssd", {"image_size": 256}, (1024 + 4 + 1) * 4 + (256 + 64 + 16) * 6),
        ("ssd", {"image_size": 256, "pyramid": True}, (1024 + 4 + 1) * 4 + (256 + 64 + 16) * 6),
        ("yolo", {"image_size": 256}, 1024 + 256 + 64),
        ("yolo", {"backbone": "tiny", "image_size": 256}, 1024 + 256 + 64),
    ],
)
def test_there_are_as_many_boxes_as_places(
    model: str, options: dict[str, object], count: int
) -> None:
    detector = detector_of(model, **options)
    assert isinstance(detector, MultiBox | Yolo)
    size = detector.spec.image_size
    with torch.no_grad():
        first, second = detector.eval().predict(torch.zeros(2, 3, size, size))
    assert {first.shape[:2], second.shape[:2]} == {(2, count)}
    if isinstance(detector, MultiBox):
        assert detector.anchors.shape == (count, 4)
        assert (first.shape[2], second.shape[2]) == (3, 4)


@pytest.mark.parametrize("backbone", ["vgg11", "densenet121", "googlenet", "alexnet", "nin"])
@pytest.mark.parametrize("model", MODELS)
def test_any_suitable_backbone_carries_them(model: str, backbone: str) -> None:
    detector = detector_of(model, backbone=backbone, width_factor=0.0625, image_size=128)
    losses = detector(batch_of(128))
    assert all(torch.isfinite(loss) for loss in losses.values())


@pytest.mark.parametrize("pyramid", [False, True])
@pytest.mark.parametrize("model", MODELS)
def test_gradients_reach_all_that_learns(model: str, pyramid: bool) -> None:
    if pyramid and model != "ssd":
        pytest.skip("only ssd chooses")
    detector = detector_of(model, pyramid=pyramid)
    losses = detector(batch_of())
    assert all(loss.dtype == torch.float32 and loss.shape == () for loss in losses.values())
    torch.stack(list(losses.values())).sum().backward()
    without = [n for n, p in detector.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []
    assert all(torch.isfinite(p.grad).all() for p in detector.parameters() if p.grad is not None)


@pytest.mark.parametrize("model", MODELS)
def test_pictures_without_objects_teach_that_there_is_nothing(model: str) -> None:
    detector = detector_of(model, least_score=0.0)
    empty = Batch(batch_of().images, [target(), target()])
    optimizer = torch.optim.Adam(detector.parameters(), 0.003)
    seen = []
    for _ in range(8):
        losses = detector(empty)
        total = torch.stack(list(losses.values())).sum()
        assert torch.isfinite(total)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        seen.append(total.item())
    assert seen[-1] < seen[0]


@pytest.mark.parametrize("model", MODELS)
def test_one_picture_and_a_flat_box_and_bf16_give_finite_losses(model: str) -> None:
    detector = detector_of(model)
    images = batch_of().images[:1]
    with torch.autocast("cpu", torch.bfloat16):
        losses = detector(Batch(images, [target((5, 5, 5, 30, 0), (10, 10, 40, 40, 1))]))
    total = torch.stack(list(losses.values())).sum()
    total.backward()
    assert total.dtype == torch.float32
    assert torch.isfinite(total)
    assert all(torch.isfinite(p.grad).all() for p in detector.parameters() if p.grad is not None)


def trained(model: str, batch: Batch, steps: int, **options: object) -> Detector:
    detector = detector_of(model, **options)
    optimizer = torch.optim.AdamW(detector.parameters(), 0.004, weight_decay=0)
    # At a rate that stays, which cells yolo assigns still changes at the end, on each processor at
    # another step.
    rate = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)
    for _ in range(steps):
        losses = detector(batch)
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
        rate.step()
    return detector.eval()


def iou(a: np.ndarray, b: np.ndarray) -> float:
    shared = np.prod(np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0))
    return float(shared / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - shared))


@pytest.mark.parametrize("model", MODELS)
def test_two_pictures_are_learnt_by_heart(model: str) -> None:
    batch = batch_of()
    detector = trained(model, batch, 240)
    found = detector.find(batch.images)
    for picture, truth in zip(found, batch.targets, strict=True):
        sure = picture.subset(picture.scores > 0.5)
        assert sorted(sure.labels) == sorted(truth.labels.tolist())
        for box, label in zip(truth.boxes.numpy(), truth.labels.tolist(), strict=True):
            assert iou(sure.boxes[sure.labels == label][0], box) > 0.7
    # The same weights, built anew, tell the same.
    again = detector_of(model)
    again.load_state_dict(detector.state_dict())
    for ours, theirs in zip(found, again.eval().find(batch.images), strict=True):
        np.testing.assert_array_equal(ours.boxes, theirs.boxes)
        np.testing.assert_array_equal(ours.scores, theirs.scores)


@pytest.mark.parametrize("model", MODELS)
def test_answers_keep_the_contract(model: str) -> None:
    detector = detector_of(model, least_score=0.0, most=7, nms_iou=0.9).eval()
    found = detector.find(torch.randn(3, 3, 64, 64))
    assert [len(each) for each in found] == [7] * 3
    for each in found:
        assert (np.diff(each.scores) <= 0).all()
        assert (each.boxes >= 0).all()
        assert (each.boxes <= 64).all()
        assert (each.boxes[:, 2:] > each.boxes[:, :2]).all()
        assert set(each.labels.tolist()) <= {0, 1}
        assert each.masks is None
    sure = detector_of(model, least_score=1.0).eval().find(torch.zeros(1, 3, 64, 64))
    assert [len(each) for each in sure] == [0]


def test_losses_are_torchvisions_where_every_picture_has_objects() -> None:
    detector = detector_of("ssd")
    assert isinstance(detector, MultiBox)
    batch = batch_of()
    logits, offsets = detector.eval().predict(batch.images)
    ours = detector(batch)
    theirs = TorchvisionSSD(torch.nn.Identity(), None, (64, 64), 3, head=torch.nn.Identity())
    labelled = [{"boxes": t.boxes, "labels": t.labels + 1} for t in batch.targets]
    matches = [theirs.proposal_matcher(box_iou(t.boxes, detector.anchors)) for t in batch.targets]
    expected = theirs.compute_loss(
        labelled, {"cls_logits": logits, "bbox_regression": offsets}, [detector.anchors] * 2, matches
    )  # fmt: skip
    torch.testing.assert_close(ours["class"], expected["classification"])
    torch.testing.assert_close(ours["box"], expected["bbox_regression"])


def test_each_object_counts_alike_however_many_boxes_hold_it() -> None:
    detector = detector_of("tiny-ssd").eval()
    assert isinstance(detector, MultiBox)
    batch = Batch(batch_of().images, [target((4, 4, 60, 60, 0), (3, 40, 15, 52, 1)), target()])
    logits, offsets = detector.predict(batch.images)
    labels, goals, _ = detector.answers(batch.targets, 0.4)
    losses = detector(batch)
    held = (labels > 0).sum()
    classes, boxes = torch.zeros(()), torch.zeros(())
    for label in (1, 2):  # each object is alone in its class
        rows = labels[0] == label
        assert rows.any()
        part = torch.nn.functional.cross_entropy(logits[0, rows], labels[0, rows])
        classes = classes + part * held / 2
        part = torch.nn.functional.smooth_l1_loss(offsets[0, rows], goals[0, rows], reduction="sum")
        boxes = boxes + part / rows.sum() * held / 2
    assert (labels == 1).sum() > (labels == 2).sum()
    background = -logits.log_softmax(2)[..., 0]
    for row, wanted in ((0, 3 * int(held)), (1, 3)):
        hardest = background[row][labels[row] == 0].sort(descending=True).values
        classes = classes + hardest[:wanted].sum()
    torch.testing.assert_close(losses["class"], classes / held)
    torch.testing.assert_close(losses["box"], boxes / held)


def test_what_is_found_is_what_torchvision_finds() -> None:
    detector = detector_of("ssd", least_score=0.05, nms_iou=0.45, most=1000).eval()
    assert isinstance(detector, MultiBox)
    images = torch.randn(2, 3, 64, 64)
    theirs = TorchvisionSSD(
        torch.nn.Identity(), None, (64, 64), 3, head=torch.nn.Identity(), score_thresh=0.05,
        nms_thresh=0.45, detections_per_img=1000, topk_candidates=100_000,
    )  # fmt: skip
    with torch.no_grad():
        logits, offsets = detector.predict(images)
    expected = theirs.postprocess_detections(
        {"cls_logits": logits, "bbox_regression": offsets}, [detector.anchors] * 2, [(64, 64)] * 2
    )
    for ours, other in zip(detector.find(images), expected, strict=True):
        # torchvision tells of boxes beyond the border too, as lines along it.
        there = (other["boxes"][:, 2:] > other["boxes"][:, :2]).all(1)
        other = {name: values[there] for name, values in other.items()}
        np.testing.assert_allclose(ours.boxes, other["boxes"].numpy(), atol=1e-4)
        np.testing.assert_array_equal(ours.labels, other["labels"].numpy() - 1)


def test_the_courses_two_figures_are_means_over_all_boxes() -> None:
    detector = detector_of("tiny-ssd").eval()
    assert isinstance(detector, MultiBox)
    batch = batch_of()
    found = anchor_errors(detector, batch)
    with torch.no_grad():
        logits, offsets = detector.predict(batch.images)
    labels, goals, _ = detector.answers(batch.targets, 0.5)
    wrong, total, places = 0, 0.0, labels.numel()
    for i in range(2):
        for a in range(labels.shape[1]):
            wrong += int(logits[i, a].argmax() != labels[i, a])
            if labels[i, a] > 0:
                total += float((offsets[i, a] - goals[i, a]).abs().sum())
    assert found == (pytest.approx(wrong / places), pytest.approx(total / places / 4))
    # At first all is called background: wrong are just the boxes that hold objects.
    assert wrong == int((labels > 0).sum())


def cells_of(side: int) -> Tensor:
    """The cells of a square grid over 32 pixels: centres and sides."""
    step = 32 / side
    return torch.tensor(
        [
            [(column + 0.5) * step, (row + 0.5) * step, step, step]
            for row in range(side)
            for column in range(side)
        ]
    )


def test_an_object_gets_as_many_cells_as_its_overlaps_add_up_to() -> None:
    # A grid of 4×4 cells of 8 pixels; the object covers the four in the middle.
    cells, boxes = cells_of(4), torch.tensor([[8.0, 8, 24, 24]])
    ious = torch.zeros(1, 16)
    ious[0, [5, 6, 9, 10]] = torch.tensor([0.9, 0.2, 0.7, 0.6])  # 2.4 in all: two cells
    free = torch.zeros(1, 16)
    assert torch.where(assign_cells(boxes, cells, ious, free) == 0)[0].tolist() == [5, 9]
    # A class that is told wrongly outweighs the overlap.
    costs = free.clone()
    costs[0, 5] = 10
    assert torch.where(assign_cells(boxes, cells, ious, costs) == 0)[0].tolist() == [9, 10]
    # With no overlap at all there is still one, the first in the object.
    assert torch.where(assign_cells(boxes, cells, free, free) == 0)[0].tolist() == [5]


def test_only_cells_in_an_object_or_around_its_centre_are_asked() -> None:
    cells, boxes = cells_of(16), torch.tensor([[0.0, 0, 4, 4]])  # cells of 2 pixels
    assigned = assign_cells(boxes, cells, torch.ones(1, 256), torch.zeros(1, 256))
    rows, columns = torch.where(assigned.view(16, 16) == 0)
    # Its centre is (2,2): within 5 pixels are centres 1, 3 and 5; in the object 1 and 3.
    assert rows.max() <= 2
    assert columns.max() <= 2
    assert len(rows) == 9  # ten would be wanted
    assert all(assigned.view(16, 16)[:2, :2].flatten() == 0)


def test_a_cell_that_two_objects_want_goes_to_the_cheaper_one() -> None:
    cells = cells_of(4)
    boxes = torch.tensor([[8.0, 8, 16, 16], [8, 8, 24, 24]])
    ious = torch.zeros(2, 16)
    ious[0, 5], ious[1, 5], ious[1, 10] = 0.5, 0.9, 0.4
    assigned = assign_cells(boxes, cells, ious, torch.zeros(2, 16))
    assert assigned[5] == 1
    assert (assigned == 0).sum() == 0  # the other loses its only cell
    tie = assign_cells(boxes[[0, 0]], cells, ious[[0, 0]], torch.zeros(2, 16))
    assert tie[5] == 0


def test_no_objects_and_objects_out_of_reach_leave_all_cells_background() -> None:
    cells = cells_of(4)
    none = assign_cells(torch.empty(0, 4), cells, torch.empty(0, 16), torch.empty(0, 16))
    assert (none == -1).all()
    far = torch.tensor([[900.0, 900, 910, 910]])
    assert (assign_cells(far, cells, torch.zeros(1, 16), torch.zeros(1, 16)) == -1).all()


def test_a_detector_names_the_backbone_that_it_was_given_by_default() -> None:
    assert detector_of("tiny-ssd").spec.backbone == "tiny"
    assert TinySSD(DetectorSpec(classes=("a",), image_size=64)).spec.backbone == "tiny"


def test_options_that_do_not_go_together_are_refused_by_name() -> None:
    for options, message in [
        ({"model": "yolo", "pyramid": True}, "--pyramid does not go with --model yolo"),
        ({"model": "ssd", "region_pool": "pool"}, "--region-pool does not go with --model ssd"),
        ({"model": "ssd", "backbone": "softmax"}, "--backbone softmax does not suit"),
        ({"model": "tiny-ssd", "backbone": "lenet"}, "--backbone lenet does not suit"),
        ({"classes": ()}, "at least 1 class"),
    ]:
        with pytest.raises(ConfigError, match=message):
            build_detector(DetectorSpec(**{"image_size": 64, "classes": ("a",), **options}))
