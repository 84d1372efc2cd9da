"""Boxes, anchor boxes, offsets, suppression and hard negatives, each against a slow loop."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder, SSDMatcher
from torchvision.ops import box_iou, nms

from retrieval.detection.anchor_boxes import BACKGROUND, anchor_boxes, assign_boxes
from retrieval.detection.boxes import overlaps, paired_overlaps
from retrieval.detection.hard_negatives import hard_negatives
from retrieval.detection.offsets import decode, encode
from retrieval.detection.suppression import CANDIDATES, best_objects
from retrieval.specs import DetectorSpec


def random_boxes(count: int, seed: int, size: float = 100) -> Tensor:
    """Boxes of which every seventh has no width and every eleventh no height."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, 2, generator=generator) * size
    boxes = torch.cat([corners.amin(1), corners.amax(1)], 1)
    boxes[::7, 2] = boxes[::7, 0]
    boxes[::11, 3] = boxes[::11, 1]
    return boxes


def slow_iou(a: Tensor, b: Tensor) -> float:
    (l1, t1, r1, b1), (l2, t2, r2, b2) = a.tolist(), b.tolist()
    shared = max(min(r1, r2) - max(l1, l2), 0) * max(min(b1, b2) - max(t1, t2), 0)
    union = (r1 - l1) * (b1 - t1) + (r2 - l2) * (b2 - t2) - shared
    return shared / union if union else 0.0


def test_overlaps_are_those_of_a_loop_and_of_torchvision() -> None:
    boxes, others = random_boxes(30, 1), random_boxes(23, 2)
    found = overlaps(boxes, others)
    slow = torch.tensor([[slow_iou(a, b) for b in others] for a in boxes])
    torch.testing.assert_close(found, slow)
    torch.testing.assert_close(found, box_iou(boxes, others).nan_to_num(0))
    torch.testing.assert_close(paired_overlaps(boxes[:23], others), slow[:23].diagonal())


def test_boxes_without_area_overlap_nothing_not_even_themselves() -> None:
    point = torch.tensor([[5.0, 5, 5, 5]])
    assert torch.isnan(box_iou(point, point))  # why this is not left to torchvision
    assert overlaps(point, point).item() == paired_overlaps(point, point).item() == 0
    assert overlaps(torch.empty(0, 4), point).shape == (0, 1)
    assert paired_overlaps(torch.empty(0, 4), torch.empty(0, 4)).shape == (0,)


def test_overlaps_refuse_what_are_no_boxes() -> None:
    with pytest.raises(ValueError, match=r"boxes are \(0,\); expected \(N,4\)"):
        overlaps(torch.empty(0), torch.empty(0, 4))
    with pytest.raises(ValueError, match="do not go together"):
        paired_overlaps(torch.empty(2, 4), torch.empty(1, 4))


def test_paired_overlaps_draw_boxes_together() -> None:
    moving = torch.tensor([[0.0, 0, 10, 10]], requires_grad=True)
    paired_overlaps(moving, torch.tensor([[2.0, 0, 12, 10]])).backward()
    assert moving.grad is not None
    # A later right side overlaps more; an earlier left side only adds to the union.
    assert moving.grad[0, 2] > 0
    assert moving.grad[0, 0] > 0


def test_anchor_boxes_have_the_published_numbers() -> None:
    ratios = (1, 2, 0.5)
    sides = (32, 16, 8, 4, 1)
    assert sum(len(anchor_boxes(side, side, (0.2, 0.272), ratios)) for side in sides) == 5_444
    assert len(anchor_boxes(561, 728, (0.75, 0.5, 0.25), ratios)) == 2_042_040
    # The course prints that one at row 250, column 250.
    at = anchor_boxes(561, 728, (0.75, 0.5, 0.25), ratios).reshape(561, 728, 5, 4)[250, 250, 0]
    assert at.tolist() == pytest.approx([0.06, 0.07, 0.63, 0.82], abs=0.006)


def test_anchor_boxes_are_those_of_a_loop() -> None:
    height, width, sizes, ratios = 3, 4, (0.5, 0.25), (2.0, 1.0, 0.5)
    expected = []
    for row in range(height):
        for column in range(width):
            for size, ratio in [(0.5, 2.0), (0.25, 2.0), (0.5, 1.0), (0.5, 0.5)]:
                w, h = size * math.sqrt(ratio) * height / width, size / math.sqrt(ratio)
                x, y = (column + 0.5) / width, (row + 0.5) / height
                expected.append([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
    torch.testing.assert_close(anchor_boxes(height, width, sizes, ratios), torch.tensor(expected))


@pytest.mark.parametrize("wrong", [(0, 4, (1.0,), (1.0,)), (4, 4, (), (1.0,)), (4, 4, (1.0,), ()),
                                   (4, 4, (-1.0,), (1.0,))])  # fmt: skip
def test_anchor_boxes_refuse_what_gives_none(wrong: tuple[int, int, tuple, tuple]) -> None:
    with pytest.raises(ValueError, match="expected at least one cell"):
        anchor_boxes(*wrong)


def slow_assignment(boxes: Tensor, anchors: Tensor, least: float) -> list[int]:
    """As the course tells it: cross out the row and the column of the largest number left."""
    shares = [[slow_iou(a, b) for b in boxes] for a in anchors]
    found = [BACKGROUND] * len(anchors)
    for i, row in enumerate(shares):
        if row and max(row) >= least:
            found[i] = row.index(max(row))
    free, left = set(range(len(anchors))), set(range(len(boxes)))
    while free and left:
        share, i, j = max((shares[i][j], -i, -j) for i in free for j in left)
        if share <= 0:
            break
        found[-i] = -j
        free.remove(-i)
        left.remove(-j)
    return found


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("objects", [0, 1, 5, 40])
def test_assignment_is_that_of_a_loop(seed: int, objects: int) -> None:
    boxes, anchors = random_boxes(objects, seed), random_boxes(25, seed + 100)
    assert assign_boxes(boxes, anchors).tolist() == slow_assignment(boxes, anchors, 0.5)


def test_the_courses_worked_example() -> None:
    truth = torch.tensor([[0.1, 0.08, 0.52, 0.92], [0.55, 0.2, 0.9, 0.88]])
    anchors = torch.tensor([[0, 0.1, 0.2, 0.3], [0.15, 0.2, 0.4, 0.4], [0.63, 0.05, 0.88, 0.98],
                            [0.66, 0.45, 0.8, 0.8], [0.57, 0.3, 0.92, 0.9]])  # fmt: skip
    assert assign_boxes(truth, anchors).tolist() == [-1, 0, 1, -1, 1]
    offsets = encode(truth[[0, 1, 1]], anchors[[1, 2, 4]])
    expected = [[1.40, 10.0, 2.59, 7.18], [-1.20, 0.269, 1.68, -1.57], [-0.571, -1.0, 0.0, 0.626]]
    torch.testing.assert_close(offsets, torch.tensor(expected), atol=0.01, rtol=0.01)


def test_two_objects_that_want_one_anchor_box_both_get_one() -> None:
    anchors = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 40]])
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 11]])
    assert assign_boxes(boxes, anchors).tolist() == [0, 1]
    # torchvision lets the later object take the box from the earlier one, which is left with none.
    assert SSDMatcher(0.5)(box_iou(boxes, anchors)).tolist() == [1, -1]


def test_ties_go_to_the_first_and_no_object_is_forced_upon_a_box_that_it_does_not_touch() -> None:
    twice = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10]])
    assert assign_boxes(twice, twice).tolist() == [0, 1]
    assert assign_boxes(twice[:1], twice + 1, least_iou=0.9).tolist() == [0, BACKGROUND]
    far_and_empty = torch.tensor([[50.0, 50, 60, 60], [3, 3, 3, 3]])
    assert assign_boxes(far_and_empty, twice).tolist() == [BACKGROUND] * 2
    assert assign_boxes(twice, torch.empty(0, 4)).tolist() == []


def test_offsets_are_torchvisions_and_come_back() -> None:
    boxes, anchors = random_boxes(12, 3)[1:7], random_boxes(12, 4)[1:7]
    theirs = BoxCoder((10.0, 10.0, 5.0, 5.0))
    torch.testing.assert_close(encode(boxes, anchors), theirs.encode_single(boxes, anchors))
    offsets = torch.randn(6, 4)
    torch.testing.assert_close(decode(offsets, anchors), theirs.decode_single(offsets, anchors))
    means, deviations = (0.5, -0.25, 0.1, 0.0), (0.3, 0.2, 0.1, 1.0)
    there = encode(boxes, anchors, means, deviations)
    torch.testing.assert_close(decode(there, anchors, means, deviations), boxes)
    torch.testing.assert_close(
        there, (encode(boxes, anchors, (0.0,) * 4, (1.0,) * 4) - torch.tensor(means))
        / torch.tensor(deviations),
    )  # fmt: skip


def test_offsets_stay_finite_whatever_comes() -> None:
    flat, box = torch.tensor([[3.0, 3, 3, 9]]), torch.tensor([[0.0, 0, 10, 10]])
    assert torch.isfinite(encode(flat, box)).all()
    assert torch.isfinite(encode(box, flat)).all()
    wild = decode(torch.tensor([[0.0, 0, 1e9, 1e9]]), box)
    assert wild[0].tolist() == pytest.approx([-307.5, -307.5, 317.5, 317.5])
    assert encode(torch.empty(0, 4), torch.empty(0, 4)).shape == (0, 4)
    for function in (encode, decode):
        with pytest.raises(ValueError, match=r"do not go together; expected \(N,4\)"):
            function(box, torch.empty(2, 4))


@pytest.mark.parametrize("ratio", [1, 3])
def test_hard_negatives_are_those_of_a_loop(ratio: int) -> None:
    generator = torch.Generator().manual_seed(ratio)
    losses = torch.rand(5, 20, generator=generator).round(decimals=1)  # with ties
    positive = torch.rand(5, 20, generator=generator) < torch.tensor(
        [[0], [0.1], [0.3], [0.9], [1]]
    )
    found = hard_negatives(losses, positive, ratio)
    for row in range(5):
        negatives = [i for i in range(20) if not positive[row, i]]
        negatives.sort(key=lambda i: -losses[row, i].item())
        wanted = ratio * max(int(positive[row].sum()), 1)
        assert sorted(negatives[:wanted]) == torch.where(found[row])[0].tolist()


def test_hard_negatives_of_nothing_and_of_shapes_that_differ() -> None:
    assert hard_negatives(torch.empty(2, 0), torch.empty(2, 0, dtype=torch.bool)).shape == (2, 0)
    with pytest.raises(ValueError, match="expected"):
        hard_negatives(torch.zeros(2, 3), torch.zeros(2, 4, dtype=torch.bool))


def spec_of(**options: object) -> DetectorSpec:
    return DetectorSpec(**{"classes": ("a", "b", "c"), "image_size": 100, **options})


def slow_best(boxes: Tensor, scores: Tensor, spec: DetectorSpec) -> list[tuple[int, int]]:
    """(box, class) of what stays, the surest first."""
    cut = boxes.clamp(0, spec.image_size)
    pairs = [
        (float(scores[i, c]), i, c)
        for i in range(len(boxes))
        for c in range(scores.shape[1])
        if scores[i, c] >= spec.least_score and (cut[i, 2:] > cut[i, :2]).all()
    ]
    pairs.sort(key=lambda pair: -pair[0])
    kept: list[tuple[int, int]] = []
    for _, i, c in pairs:
        rivals = [j for j, other in kept if spec.across_classes or other == c]
        if all(slow_iou(cut[i], cut[j]) <= spec.nms_iou for j in rivals):
            kept.append((i, c))
    return kept[: spec.most]


@pytest.mark.parametrize("across", [False, True])
@pytest.mark.parametrize("options", [{}, {"most": 4}, {"least_score": 0.7}, {"nms_iou": 0.2}])
def test_what_stays_is_what_a_loop_keeps(options: dict[str, float], across: bool) -> None:
    spec = spec_of(across_classes=across, **options)
    boxes = random_boxes(60, 7) * 1.4 - 20  # some beyond the border
    scores = torch.rand(60, 3, generator=torch.Generator().manual_seed(8))
    found = best_objects(boxes, scores, spec)
    expected = slow_best(boxes, scores, spec)
    assert found.labels.tolist() == [c for _, c in expected]
    np.testing.assert_allclose(found.boxes, boxes.clamp(0, 100)[[i for i, _ in expected]])
    np.testing.assert_allclose(found.scores, [scores[i, c] for i, c in expected])
    assert found.boxes.dtype == found.scores.dtype == np.float32
    if across:  # torchvision's, over all classes at once
        cut, best = boxes.clamp(0, 100).repeat_interleave(3, 0), scores.flatten()
        taken = (cut[:, 2:] > cut[:, :2]).all(1) & (best >= spec.least_score)
        kept = nms(cut[taken], best[taken], spec.nms_iou)[: spec.most]
        np.testing.assert_allclose(found.scores, best[taken][kept])


def test_equal_scores_keep_the_first() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 11], [50, 50, 60, 60]])
    found = best_objects(boxes, torch.full((3, 1), 0.5), spec_of())
    assert found.boxes.tolist() == [[0, 0, 10, 10], [50, 50, 60, 60]]


def test_no_boxes_give_no_objects_and_very_many_are_cut() -> None:
    found = best_objects(torch.empty(0, 4), torch.empty(0, 3), spec_of())
    assert found.boxes.shape == (0, 4)
    assert len(found) == 0
    nothing = best_objects(random_boxes(9, 1), torch.zeros(9, 3), spec_of())
    assert nothing.boxes.shape == (0, 4)
    boxes = torch.rand(3 * CANDIDATES, 4).sort(1).values[:, [0, 1, 2, 3]] * 100
    many = best_objects(boxes, torch.rand(len(boxes), 1), spec_of(most=1000, nms_iou=1.0))
    assert 900 < len(many) <= CANDIDATES
    assert (np.diff(many.scores) <= 0).all()


def test_boxes_and_scores_must_be_as_many() -> None:
    with pytest.raises(ValueError, match=r"expected \(A,4\) and \(A,L\)"):
        best_objects(torch.zeros(3, 4), torch.zeros(2, 1), spec_of())
