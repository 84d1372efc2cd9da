"""Average precision: against pycocotools on random pictures, and by hand."""

import contextlib
import io
from collections.abc import Sequence

import numpy as np
import pytest

from retrieval.detection.average_precision import (
    SIZES,
    AveragePrecision,
    Precision,
    mean_where_known,
)
from retrieval.detection.boxed_pictures import Objects
from retrieval.detection.detections import Detections

CLASSES = 3
SIDE = 240


def found_of(boxes: object, labels: object, scores: object, masks: object = None) -> Detections:
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    return Detections(boxes, np.array(labels, np.int64), np.array(scores, np.float32), masks)


def objects_of(
    boxes: object, labels: Sequence[int], crowd: Sequence[bool] | None = None, masks: object = None
) -> Objects:
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    crowd = np.zeros(len(boxes), bool) if crowd is None else np.array(crowd, bool)
    return Objects(boxes, np.array(labels, np.int64), crowd, masks)


def result_of(
    pictures: Sequence[tuple[Detections, Objects]], classes: int = CLASSES, *, masks: bool = False
) -> Precision:
    judge = AveragePrecision(classes, masks=masks)
    for found, objects in pictures:
        judge.add(found, objects)
    return judge.result()


def random_pictures(seed: int, *, masks: bool = False) -> list[tuple[Detections, Objects]]:
    """Objects, some of them crowds, and detections near and far, with many equal scores; some pictures
    are empty of one or the other, and class 2 has objects in some seeds only."""
    rng = np.random.default_rng(seed)
    pictures = []
    for _ in range(rng.integers(1, 9)):
        many = rng.integers(0, 9) * rng.integers(0, 2)
        corners = rng.integers(0, 160, (many, 2))
        sizes = np.exp(rng.uniform(np.log(4), np.log(160), (many, 2))).astype(int)
        boxes = np.hstack([corners, corners + sizes]).astype(np.float32)
        labels = rng.integers(0, CLASSES - seed % 2, many)
        near = np.repeat(boxes, 3, 0) + rng.integers(-9, 10, (3 * many, 4)) * rng.integers(0, 2)
        near[:, 2:] = np.maximum(near[:, 2:], near[:, :2])  # some without area
        far = rng.integers(0, 100, (rng.integers(1, 12), 4)) + np.array([0, 0, 100, 100])
        boxes_found = np.vstack([near, far])
        guesses = np.concatenate([np.repeat(labels, 3), rng.integers(0, CLASSES, len(far))])
        scores = np.sort(rng.integers(0, 6, len(boxes_found)) / 5)[::-1]
        order = rng.permutation(len(boxes_found))
        found = found_of(boxes_found[order], guesses[order], scores)
        objects = objects_of(boxes, labels, rng.random(many) < 0.2)
        if masks:
            found = found_of(found.boxes, found.labels, found.scores, masks_of(found.boxes, rng))
            objects = objects_of(boxes, labels, objects.crowd, masks_of(boxes, rng))
        pictures.append((found, objects))
    return pictures


def masks_of(boxes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Each box less a part of it."""
    masks = np.zeros((len(boxes), SIDE, SIDE), bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes.clip(0).astype(int), strict=True):
        mask[top:bottom, left:right] = True
        mask[top : top + rng.integers(0, 9), left : left + rng.integers(0, 99)] = False
    return masks


def by_pycocotools(pictures: Sequence[tuple[Detections, Objects]], *, masks: bool) -> Precision:
    """The judge's answer."""
    coco = pytest.importorskip("pycocotools.coco")
    evaluation = pytest.importorskip("pycocotools.cocoeval")
    truth = coco.COCO()
    annotations, answers = [], []
    for image, (found, objects) in enumerate(pictures, 1):
        for row in range(len(objects)):
            shape, area = _annotation(objects, row, masks)
            annotations.append(
                {
                    "id": len(annotations) + 1, "image_id": image, "area": area, **shape,
                    "category_id": int(objects.labels[row]) + 1, "iscrowd": int(objects.crowd[row]),
                }
            )  # fmt: skip
        for row in range(len(found)):
            shape, _ = _annotation(found, row, masks)
            answers.append({"image_id": image, "category_id": int(found.labels[row]) + 1,
                            "score": float(found.scores[row]), **shape})  # fmt: skip
    truth.dataset = {
        "images": [{"id": i + 1, "width": SIDE, "height": SIDE} for i in range(len(pictures))],
        "categories": [{"id": i + 1} for i in range(CLASSES)],
        "annotations": annotations,
        "info": {},
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        judge = evaluation.COCOeval(truth, truth.loadRes(answers), "segm" if masks else "bbox")
        judge.evaluate()
        judge.accumulate()
    precision = judge.eval["precision"][..., 2].mean(1)  # (T,R,K,A,M) → (T,K,A), 100 detections
    recall = judge.eval["recall"][..., 2]
    unknown = precision < 0
    return Precision(
        *(np.where(unknown, np.nan, x).transpose(1, 2, 0) for x in (precision, recall)),
        np.zeros((CLASSES, len(SIZES)), int),
    )


def _annotation(those: Detections | Objects, row: int, masks: bool) -> tuple[dict, float]:
    left, top, right, bottom = map(float, those.boxes[row])
    if not masks:
        return {"bbox": [left, top, right - left, bottom - top]}, (right - left) * (bottom - top)
    from pycocotools import mask

    coded = mask.encode(np.asfortranarray(those.masks[row].astype(np.uint8)))
    return {"segmentation": coded}, float(those.masks[row].sum())


def assert_agrees(pictures: Sequence[tuple[Detections, Objects]], *, masks: bool = False) -> None:
    ours, theirs = result_of(pictures, masks=masks), by_pycocotools(pictures, masks=masks)
    np.testing.assert_allclose(ours.precision, theirs.precision, atol=1e-9)
    np.testing.assert_allclose(ours.recall, theirs.recall, atol=1e-9)


@pytest.mark.parametrize("start", range(0, 60, 20))
def test_boxes_are_judged_as_by_pycocotools(start: int) -> None:
    for seed in range(start, start + 20):
        assert_agrees(random_pictures(seed))


def test_masks_are_judged_as_by_pycocotools() -> None:
    for seed in range(8):
        assert_agrees(random_pictures(seed, masks=True), masks=True)


@pytest.mark.slow
def test_boxes_are_judged_as_by_pycocotools_many_times() -> None:
    for seed in range(1000, 2000):
        assert_agrees(random_pictures(seed))


def test_more_than_a_hundred_detections_of_a_class_count_up_to_there() -> None:
    rng = np.random.default_rng(0)
    boxes = np.tile([[10, 10, 50, 50]], (150, 1))
    right = rng.permutation(150) < 120
    found = found_of(boxes + 60 * ~right[:, None], np.zeros(150), np.sort(rng.random(150))[::-1])
    pictures = [(found, objects_of([[10, 10, 50, 50], [70, 70, 110, 110]], [0, 0]))]
    assert_agrees(pictures)


def test_a_case_by_hand() -> None:
    # Of two objects the surest detection finds one, the next finds nothing, the third the other one.
    objects = objects_of([[0, 0, 40, 40], [100, 100, 140, 140]], [0, 0])
    found = found_of(
        [[0, 0, 40, 40], [50, 0, 90, 40], [100, 100, 140, 140]], [0, 0, 0], [0.9, 0.8, 0.7]
    )
    result = result_of([(found, objects)], 1)
    # Precision 1 up to a recall of 0.5 (51 of 101 points), 2/3 beyond.
    assert result.precision[0, 0, 0] == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert result.recall[0, 0, 0] == 1
    assert result.objects[0].tolist() == [2, 0, 2, 0]


def test_of_objects_as_far_covered_the_last_is_found() -> None:
    # The first detection covers two thirds of both; what is left is the one that the second misses.
    objects = objects_of([[0, 0, 60, 60], [24, 0, 84, 60]], [0, 0])
    found = found_of([[12, 0, 72, 60], [24, 0, 84, 60]], [0, 0], [0.9, 0.8])
    assert result_of([(found, objects)], 1).recall[0, 0, 0] == 0.5
    assert_agrees([(found, objects)])


def test_an_object_is_found_once() -> None:
    objects = objects_of([[0, 0, 40, 40]], [0])
    twice = found_of([[0, 0, 40, 40]] * 2, [0, 0], [0.9, 0.9])
    result = result_of([(twice, objects), (found_of([], [], []), objects)], 1)
    assert result.precision[0, 0, 0] == pytest.approx(51 / 101)
    assert result.recall[0, 0, 0] == 0.5


def test_equal_scores_rank_in_the_order_in_which_they_came() -> None:
    objects, empty = objects_of([[0, 0, 40, 40]], [0]), objects_of([], [])
    found = found_of([[0, 0, 40, 40]], [0], [0.5])
    first = result_of([(found, objects), (found, empty)], 1)
    second = result_of([(found, empty), (found, objects)], 1)
    assert first.precision[0, 0, 0] == 1
    assert second.precision[0, 0, 0] == 0.5


def test_crowds_are_neither_found_nor_missed() -> None:
    objects = objects_of([[0, 0, 100, 100]], [0], [True])
    found = found_of([[10, 10, 50, 50], [20, 20, 60, 60]], [0, 0], [0.9, 0.8])
    result = result_of([(found, objects)], 1)
    assert result.objects.sum() == 0
    assert np.isnan(result.precision).all()


def test_classes_without_objects_are_left_out_of_the_mean() -> None:
    found = found_of([[0, 0, 40, 40], [0, 0, 9, 9]], [0, 1], [0.9, 0.9])
    result = result_of([(found, objects_of([[0, 0, 40, 40]], [0]))], 2)
    assert np.isnan(result.precision[1]).all()
    assert mean_where_known(result.precision[:, 0]) == 1


def test_nothing_at_all() -> None:
    assert np.isnan(result_of([], 2).precision).all()
    nothing = (found_of([], [], []), objects_of([], []))
    assert np.isnan(result_of([nothing], 2).recall).all()
    assert mean_where_known(np.full(3, np.nan)) is None
    missed = result_of([(nothing[0], objects_of([[0, 0, 9, 9]], [1]))], 2)
    assert missed.precision[1, 0].tolist() == [0] * 10


def test_what_cannot_be_judged_is_refused() -> None:
    objects = objects_of([[0, 0, 40, 40]], [0])
    with pytest.raises(ValueError, match="not all below 1"):
        result_of([(found_of([[0, 0, 1, 1]], [1], [1]), objects)], 1)
    with pytest.raises(ValueError, match="boxes alone"):
        result_of([(found_of([[0, 0, 1, 1]], [0], [1]), objects)], 1, masks=True)
