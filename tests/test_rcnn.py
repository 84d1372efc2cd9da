import importlib.util

import numpy as np
import pytest
import torch
from drawn_objects import CLASSES, SIDE, batch_of, small_detector, some_pictures, train
from sklearn.linear_model import Ridge
from sklearn.svm import LinearSVC
from torchvision.ops import box_iou

from retrieval.detection.boxed_pictures import BoxedPictures, Objects
from retrieval.detection.detector import detect_pictures
from retrieval.detection.linear_scorer import LinearScorer, Regions, linear_of
from retrieval.detection.mined_svm import MinedSVM
from retrieval.detection.rcnn import RCNN, sample_regions, warp_regions
from retrieval.errors import DataError

needs_opencv = pytest.mark.skipif(importlib.util.find_spec("cv2") is None, reason="needs OpenCV")


def test_a_warped_region_is_the_region_with_what_lies_around_it() -> None:
    ramp = torch.arange(SIDE, dtype=torch.float32) + 0.5  # the colour is the place
    image = torch.stack([ramp.expand(SIDE, SIDE), ramp[:, None].expand(SIDE, SIDE)])[None]
    box = torch.tensor([[20.0, 30, 40, 40]])
    warped = warp_regions(image, [box], 10)[0]
    left, width = 30 - 10 * 227 / 195, 20 * 227 / 195
    top, height = 35 - 5 * 227 / 195, 10 * 227 / 195
    places = torch.arange(10) + 0.5
    torch.testing.assert_close(warped[0, 5], left + places * width / 10)
    torch.testing.assert_close(warped[1, :, 5], top + places * height / 10)


def test_beyond_the_picture_a_warped_region_is_the_mean_colour() -> None:
    images = torch.ones(2, 3, SIDE, SIDE)
    boxes = [torch.zeros(0, 4), torch.tensor([[0.0, 0, SIDE, SIDE], [20, 20, 40, 40]])]
    warped = warp_regions(images, boxes, 32)
    assert warped.shape == (2, 3, 32, 32)
    assert (warped[0, :, 0] == 0).all()
    torch.testing.assert_close(warped[0, :, 16, 3:29], torch.ones(3, 26))
    torch.testing.assert_close(warped[1], torch.ones(3, 32, 32))
    assert warp_regions(images, [torch.zeros(0, 4)] * 2, 32).shape == (0, 3, 32, 32)


def test_regions_are_drawn_by_their_overlap() -> None:
    objects, labels = torch.tensor([[0.0, 0, 10, 10], [30, 30, 50, 50]]), torch.tensor([1, 0])
    near = torch.tensor(
        [[0.0, 0, 10, x] for x in (5, 4.9, 20, 20.1)]
    )  # at half, below, at half, below
    boxes = torch.cat([near, objects, torch.rand(60, 4) + torch.tensor([60.0, 60, 62, 62])])
    rows, classes = sample_regions(boxes, objects, labels)
    assert len(rows) == 32
    found = dict(zip(rows.tolist(), classes.tolist(), strict=True))
    assert {row for row, label in found.items() if label} == {0, 2, 4, 5}
    assert (found[0], found[2], found[4], found[5]) == (2, 2, 2, 1)
    many, _ = sample_regions(objects[:1].repeat(40, 1), objects, labels)
    assert len(many) == 8  # no more than a quarter of 32, even where there is nothing else
    none, nothing = sample_regions(boxes, objects[:0], labels[:0])
    assert (len(none), nothing.sum()) == (32, 0)


def two_clouds(seed: int, count: int, columns: int = 6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    ours = rng.normal(0.8, 1, (count, columns))
    return (ours * 8).astype(np.float32), (rng.normal(0, 1, (40 * count, columns)) * 8).astype(
        np.float32
    )


def test_hard_negatives_are_enough() -> None:
    """An SVM that saw all negatives at once agrees with the one that mined them in parts."""
    positives, negatives = two_clouds(0, 200)
    mined = MinedSVM(positives)
    for part in np.array_split(negatives, 20):
        mined.add(part)
    svm = mined.fit()
    assert len(mined.negatives) < len(negatives)
    whole = MinedSVM(positives)
    whole.negatives = negatives
    everything = whole.fit()
    features = np.concatenate([positives, negatives])
    signs = svm.decision_function(features) > 0, everything.decision_function(features) > 0
    assert np.mean(signs[0] == signs[1]) > 0.98
    kept = {row.tobytes() for row in mined.negatives}
    clearly_hard = negatives[everything.decision_function(negatives) > -0.5]
    assert np.mean([row.tobytes() in kept for row in clearly_hard]) > 0.98


def test_an_svm_needs_both_sides() -> None:
    positives, negatives = two_clouds(0, 5)
    with pytest.raises(ValueError, match="there are 5 and 0"):
        MinedSVM(positives).fit()
    mined = MinedSVM(positives[:0])
    mined.add(negatives)
    with pytest.raises(ValueError, match="there are 0 and 200"):
        mined.fit()


@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_weights_give_what_scikit_learn_predicts(scale: float) -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(60, 7)).astype(np.float32)
    svm = LinearSVC(dual=False).fit(features * scale, features[:, 0] > 0)
    ridge = Ridge(alpha=2.0).fit(features * scale, rng.normal(size=(60, 4)))
    for estimator, expected in (
        (svm, svm.decision_function(features * scale)[:, None]),
        (ridge, ridge.predict(features * scale)),
    ):
        weight, bias = linear_of(estimator, scale)
        found = torch.nn.functional.linear(torch.from_numpy(features), weight, bias)
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


def regions_of(seed: int) -> Regions:
    """Regions whose features tell their class and, along one axis, how far they are off."""
    rng = np.random.default_rng(seed)
    objects = np.array([[10, 10, 30, 30], [40, 40, 60, 56]], np.float32)
    shifts = rng.uniform(-0.15, 0.15, (40, 1)).astype(np.float32)
    which = rng.integers(0, 2, 40)
    width = (objects[:, 2] - objects[:, 0])[which, None]
    near = objects[which] + shifts * width * np.array([1, 0, 1, 0], np.float32)
    corners = rng.uniform(0, 8, (60, 2)).astype(np.float32)
    far = np.concatenate([corners, corners + 6], 1)
    kinds = np.concatenate(
        [np.eye(3, dtype=np.float32)[which], np.eye(3, dtype=np.float32)[np.full(60, 2)]]
    )
    hidden = kinds + rng.normal(0, 0.05, kinds.shape).astype(np.float32)
    pooled = np.concatenate(
        [np.concatenate([shifts, np.zeros((60, 1), np.float32)]) * 10, kinds], 1
    )
    parts = np.concatenate([near, far]), pooled, hidden, objects
    return Regions(*(torch.from_numpy(p.astype(np.float32)) for p in parts), torch.tensor([0, 1]))


def test_a_scorer_learns_classes_and_corrections() -> None:
    scorer = LinearScorer(3, 4, 3)
    parts = [regions_of(seed) for seed in range(30)]
    objects = [
        p._replace(boxes=p.objects, pooled=p.pooled[:2] * 0 + 1, hidden=torch.eye(3)[:2])
        for p in parts
    ]
    assert not scorer.learnt
    scorer.learn(objects, parts)
    assert scorer.learnt
    unseen = regions_of(99)
    margins, boxes = scorer(unseen.boxes, unseen.pooled, unseen.hidden)
    overlaps = box_iou(unseen.boxes, unseen.objects)
    for label in (0, 1):
        near, far = overlaps[:, label] > 0.6, overlaps[:, label] < 0.3
        assert margins[near, label].min() > margins[far, label].max()
        before = overlaps[near, label].mean()
        after = box_iou(boxes[near, label], unseen.objects)[:, label].mean()
        assert after > (1 + before) / 2  # more than half of what was wrong is put right
    # No object of the third class was seen: it is never found, and moves no box.
    assert (margins[:, 2] == -10).all()
    torch.testing.assert_close(boxes[:, 2], unseen.boxes)


def test_which_regions_teach_what(monkeypatch: pytest.MonkeyPatch) -> None:
    negatives: list[float] = []
    near: list[float] = []

    class Spy(MinedSVM):
        def add(self, features: np.ndarray) -> None:
            negatives.extend(features[:, 1] / features[:, 0])
            super().add(features)

    class RidgeSpy(Ridge):
        def fit(self, numbers: np.ndarray, goals: np.ndarray) -> Ridge:
            near.extend(numbers[:, 1] / numbers[:, 0])
            return super().fit(numbers, goals)

    monkeypatch.setattr("retrieval.detection.linear_scorer.MinedSVM", Spy)
    monkeypatch.setattr("sklearn.linear_model.Ridge", RidgeSpy)
    widths = torch.tensor([2.0, 2.9, 3, 5, 5.9, 6.1, 8, 10])  # tenths of the object: the IoU
    boxes = torch.stack([torch.zeros(8), torch.zeros(8), widths, torch.full((8,), 10.0)], 1)
    numbers = torch.stack([torch.ones(8), torch.arange(8.0)], 1)
    objects, labels = torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([0])
    known = Regions(objects, numbers[7:], numbers[7:], objects, labels)
    LinearScorer(1, 2, 2).learn([known], [Regions(boxes, numbers, numbers, objects, labels)])
    np.testing.assert_allclose(negatives, [0, 1], atol=1e-5)
    np.testing.assert_allclose(near, [5, 6, 7], atol=1e-5)


@needs_opencv
def test_three_pictures_are_learnt_by_heart() -> None:
    detector = small_detector("rcnn", width_factor=0.5)
    data = some_pictures()
    train(detector, batch_of(detector, data), 15)
    assert isinstance(detector, RCNN)
    assert not detector.scorer.learnt
    classified = detect_pictures(detector, data.pictures)
    detector.train()
    told: list[tuple[int, int]] = []
    detector.complete(data, lambda done, total: told.append((done, total)))
    assert told == [(row + 1, len(data)) for row in range(len(data))]
    assert detector.scorer.learnt
    assert detector.training
    scored = detect_pictures(detector, data.pictures)
    for before, after, objects in zip(classified, scored, data.objects, strict=True):
        assert sorted(before.labels[before.scores > 0.5]) == sorted(objects.labels)
        assert sorted(after.labels[: len(objects)]) == sorted(objects.labels)
        for found in (before, after):
            for box, label in zip(objects.boxes, objects.labels, strict=True):
                same = torch.from_numpy(
                    found.boxes[: len(objects)][found.labels[: len(objects)] == label]
                )
                assert box_iou(torch.from_numpy(box)[None], same).max() > 0.5
        assert (after.scores[len(objects) :] < after.scores[: len(objects)].min(initial=1)).all()


@needs_opencv
def test_crowds_and_boxes_without_area_teach_nothing() -> None:
    detector = small_detector("rcnn")
    picture, objects = some_pictures().pictures[0], some_pictures().objects[0]
    more = Objects(
        np.concatenate([objects.boxes, [[5, 5, 5, 20], [0, 0, 60, 60]]]).astype(np.float32),
        np.concatenate([objects.labels, [0, 0]]),
        np.array([False, False, False, True]),
    )
    weights = []
    for some in (objects, more):
        detector.complete(BoxedPictures("one", CLASSES, (picture,), (some,)))
        weights.append(
            {name: value.clone() for name, value in detector.scorer.state_dict().items()}
        )
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name])


def test_without_objects_there_is_nothing_to_learn() -> None:
    data = some_pictures().subset(np.array([2]))
    with pytest.raises(DataError, match="drawn has no objects in 1 pictures"):
        small_detector("rcnn").complete(data)
