"""The arithmetic of the script that compares search by object with search by whole picture."""

from pathlib import Path

import numpy as np
import pytest
from compare_object_search import Setting, cuts, recall, shows, true_labels, whole_box

from index.parts import Box
from retrieval.detection.boxed_pictures import BoxedPictures, Objects
from retrieval.labeled_images import LabeledImages
from retrieval.search import Answer, Hit


def scene(*objects: tuple[int, tuple[int, int, int, int]]) -> Objects:
    boxes = np.array([box for _, box in objects], np.float32).reshape(-1, 4)
    labels = np.array([label for label, _ in objects], np.int64)
    return Objects(boxes, labels, np.zeros(len(labels), bool))


def answer(query: int, *hits: tuple[int, Box | None]) -> Answer:
    found = [
        Hit(rank, 0.0, rank, Path(f"stored/{number:05}.png"), None, {}, box)
        for rank, (number, box) in enumerate(hits, 1)
    ]
    return Answer("?", found, (Path(f"asking/{query:05}.png"),))


TRUTH = scene((2, (10, 10, 30, 20)), (1, (50, 50, 60, 60)))


@pytest.mark.parametrize(
    ("label", "box", "right"),
    [
        (2, None, True),
        (0, None, False),
        (2, (10, 10, 20, 10), True),
        (2, (10, 10, 10, 10), True),  # half of it
        (2, (10, 10, 9, 10), False),
        (1, (10, 10, 20, 10), False),  # a right box around the wrong object
        (2, (50, 50, 10, 10), False),
    ],
)
def test_an_answer_shows_an_object_of_the_class_where_its_box_lies(
    label: int, box: Box | None, right: bool
) -> None:
    assert shows(TRUTH, label, box) is right
    assert not shows(scene(), label, box)


def test_recall_counts_the_first_hit_of_the_first_answer_of_each_query() -> None:
    stored = BoxedPictures("stored", ("a", "b", "c"), (), (TRUTH, scene((0, (0, 0, 9, 9)))))
    labels = np.array([0, 0, 2, 1])
    answers = [
        answer(0, (1, None), (0, None)),  # right
        answer(1, (0, None), (1, None)),  # wrong, though the second hit is right
        answer(2, (1, None)),  # wrong, though the second object of the query is not
        answer(2, (0, None)),
    ]  # and nothing was found in the last query
    assert recall(answers, labels, stored) == 1 / 4
    assert recall([], labels, stored) == 0


def test_a_box_in_whole_pixels_has_a_width_and_a_height() -> None:
    assert whole_box(np.array([3, 4, 13, 24], np.float32)) == (3, 4, 10, 20)


def test_scenes_have_one_object_that_is_cut_out_by_its_box() -> None:
    white = np.full((3, 8, 8, 3), 255, np.uint8)
    pictures = LabeledImages("white", white, np.array([0, 1, 2]), ("a", "b", "c"))
    setting = Setting("white", 64, (0.05, 0.05), 5, 5, 5, 1, None, None)
    scenes = setting.make(pictures, 5, 0)
    assert [len(objects) for objects in scenes.objects] == [1] * 5
    assert sorted(set(true_labels(scenes))) <= [0, 1, 2]
    found = cuts(scenes, 16)
    assert found.shape == (5, 16, 16, 3)
    assert found.min() == 255
