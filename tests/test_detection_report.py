"""How good a detector is: figures of a report, classes by name, and files of what was found."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from boxed import squares
from one_cell import OneCell

from retrieval.detection.boxed_pictures import BoxedPictures, Objects
from retrieval.detection.coco_detections import CocoDetections
from retrieval.detection.detection_report import evaluate_detector
from retrieval.detection.detections import Detections
from retrieval.detection.segmentations import runs_of
from retrieval.errors import DataError
from retrieval.specs import DetectorSpec


class Knowing(OneCell):
    """Finds what is there: coloured squares on grey."""

    masks = False

    def find(self, images: torch.Tensor) -> list[Detections]:
        colours = images.cpu() * self.std + self.mean
        found = []
        for picture in colours:
            spread = (picture.amax(0) - picture.amin(0)).numpy() > 0.4
            rows, columns = np.flatnonzero(spread.any(1)), np.flatnonzero(spread.any(0))
            if not len(rows):
                nothing = np.zeros(0, np.float32)
                found.append(Detections(nothing.reshape(0, 4), nothing.astype(int), nothing))
                continue
            box = np.array([[columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]], np.float32)
            name = "red" if picture[0][spread].mean() > picture[2][spread].mean() else "blue"
            label = np.array([self.spec.classes.index(name)])
            found.append(Detections(box, label, np.ones(1, np.float32)))
        return found


def knowing(*classes: str) -> Knowing:
    return Knowing(DetectorSpec(backbone="lenet", image_size=64, classes=classes))


def test_what_finds_all_is_perfect_whatever_the_order_of_the_classes() -> None:
    data = squares(9, empty=2)
    for classes in (("red", "blue"), ("green", "blue", "red")):
        done: list[tuple[int, int]] = []
        report = evaluate_detector(
            knowing(*classes),
            data,
            on_picture=lambda *counts: done.append(counts),  # noqa: B023
        )
        assert (report.map, report.map_50, report.recall) == (1, 1, 1)
        assert (report.pictures, report.objects) == (9, 7)
        assert {c.name: c.objects for c in report.classes if c.objects} == {"red": 4, "blue": 3}
        assert [c.map for c in report.classes if not c.objects] == [None] * (len(classes) - 2)
        assert done == [(n, 9) for n in range(1, 10)]
        assert json.loads(json.dumps(report.to_dict()))["map"] == 1
        assert "mAP@0.5           1.0000" in report.table()


def test_what_is_shifted_counts_at_small_overlaps_alone() -> None:
    data = squares(8)
    shifted = tuple(
        dataclasses.replace(o, boxes=o.boxes + np.array([6, 0, 6, 0], np.float32))
        for o in data.objects
    )
    report = evaluate_detector(knowing("red", "blue"), dataclasses.replace(data, objects=shifted))
    overlaps = [
        (w - 6) / (w + 6) for o in data.objects for w in [float(o.boxes[0, 2] - o.boxes[0, 0])]
    ]
    assert report.recall_50 == pytest.approx(
        np.mean([np.mean([x >= 0.5 for x in overlaps[k::2]]) for k in (0, 1)])
    )
    assert report.map_75 == 0
    assert report.map is not None
    assert 0 < report.map < 0.5


def test_what_cannot_be_measured_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="class 'blue', which the model does not know"):
        evaluate_detector(knowing("red", "green"), squares(4))
    with pytest.raises(DataError, match="has no pictures"):
        evaluate_detector(knowing("red"), squares(0))
    with pytest.raises(DataError, match="--model tiny-ssd has none"):
        evaluate_detector(knowing("red", "blue"), squares(4), masks=True)
    gone = dataclasses.replace(squares(2), pictures=(tmp_path / "none.png",) * 2)
    with pytest.raises(DataError, match=r"none\.png cannot be read"):
        evaluate_detector(knowing("red", "blue"), gone)


def test_pictures_without_objects_have_no_figures() -> None:
    report = evaluate_detector(knowing("red", "blue"), squares(3, empty=3))
    assert report.map is None
    assert report.to_dict()["map_50"] is None
    assert "mAP@0.5           –" in report.table()


def test_crowds_are_not_counted() -> None:
    data = squares(2)
    crowds = tuple(dataclasses.replace(o, crowd=np.ones(1, bool)) for o in data.objects)
    data = dataclasses.replace(data, objects=crowds)
    assert evaluate_detector(knowing("red", "blue"), data).objects == 0


def test_coco_files_hold_boxes_masks_and_scores(tmp_path: Path) -> None:
    export = CocoDetections(("a", "b"))
    export.add("empty.png", (8, 9), Detections(*(np.zeros(s) for s in ((0, 4), 0, 0))))
    masks = np.zeros((1, 8, 9), bool)
    masks[0, 2:4, 1:6] = True
    boxes = np.array([[1, 2, 6, 4]], np.float32)
    export.add("x.png", (8, 9), Detections(boxes, np.array([1]), np.array([0.75]), masks))
    export.write(tmp_path / "found.json")
    written = json.loads((tmp_path / "found.json").read_text())
    (annotation,) = written["annotations"]
    assert annotation["image_id"] == 2
    assert annotation["category_id"] == 2
    assert annotation["bbox"] == [1, 2, 5, 2]
    assert annotation["area"] == 10
    assert annotation["segmentation"] == runs_of(masks[0])
    assert len(written["images"]) == 2


def test_classes_are_matched_by_name() -> None:
    pictures, objects = squares(2).pictures[1:], squares(2).objects[1].boxes
    blue = Objects(objects, np.zeros(1, np.int64), np.zeros(1, bool))
    data = BoxedPictures("one", ("blue",), pictures, (blue,))
    assert evaluate_detector(knowing("red", "blue"), data).map == 1
