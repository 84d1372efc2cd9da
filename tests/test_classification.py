"""Figures of classifiers, against plain loops and cases done by hand."""

import numpy as np
import pytest

from retrieval.classification import calibration_error, evaluate_classification
from retrieval.errors import DataError
from retrieval.report import confusion_picture

ABC = ("a", "b", "c")


def test_a_case_by_hand() -> None:
    probabilities = np.array(
        [[0.8, 0.1, 0.1], [0.4, 0.5, 0.1], [0.2, 0.7, 0.1], [0.3, 0.6, 0.1], [0.5, 0.4, 0.1]]
    )
    report = evaluate_classification(probabilities, np.array([0, 0, 1, 2, 1]), ABC)
    assert report.confusion == [[1, 1, 0], [1, 1, 0], [0, 1, 0]]
    assert report.accuracy == pytest.approx(2 / 5)
    a, b, c = (report.per_class[name] for name in ABC)
    assert a == pytest.approx({"pictures": 2, "precision": 1 / 2, "recall": 1 / 2, "f1": 1 / 2})
    assert b == pytest.approx({"pictures": 2, "precision": 1 / 3, "recall": 1 / 2, "f1": 2 / 5})
    assert c == {"pictures": 1, "precision": 0, "recall": 0, "f1": 0}
    assert report.class_average["recall"] == pytest.approx(1 / 3)
    expected = -np.log([0.8, 0.4, 0.7, 0.1, 0.4]).mean()
    assert report.cross_entropy == pytest.approx(expected)
    assert report.top5_accuracy == 1


def test_figures_equal_loops() -> None:
    rng = np.random.default_rng(0)
    n, classes = 300, [f"c{i}" for i in range(8)]
    labels = rng.integers(0, 7, n)  # the last class has no picture
    probabilities = rng.dirichlet(np.ones(8), n)
    probabilities[np.arange(0, n, 2), labels[::2]] += 0.4
    probabilities = np.round(probabilities / probabilities.sum(1, keepdims=True), 1)  # with ties
    report = evaluate_classification(probabilities, labels, classes)
    orders = [sorted(range(8), key=lambda c, p=p: -p[c]) for p in probabilities]
    predicted = [order[0] for order in orders]
    assert report.accuracy == pytest.approx(
        np.mean([p == t for p, t in zip(predicted, labels, strict=True)])
    )
    top5 = np.mean([t in order[:5] for order, t in zip(orders, labels, strict=True)])
    assert report.top5_accuracy == pytest.approx(top5)
    recalls = []
    for number, name in enumerate(classes):
        both = sum(p == t == number for p, t in zip(predicted, labels, strict=True))
        said, are = predicted.count(number), int((labels == number).sum())
        precision, recall = (both / x if x else 0 for x in (said, are))
        total = precision + recall
        row = report.per_class[name]
        assert row["precision"] == pytest.approx(precision)
        assert row["recall"] == pytest.approx(recall)
        assert row["f1"] == pytest.approx(2 * precision * recall / total if total else 0)
        recalls += [recall] if are else []
    assert report.class_average["recall"] == pytest.approx(np.mean(recalls))
    bins: list[list[tuple[float, bool]]] = [[] for _ in range(15)]
    for p, guess, truth in zip(probabilities, predicted, labels, strict=True):
        place = next(i for i in range(15) if p.max() <= (i + 1) / 15 + 1e-12)
        bins[place].append((p.max(), guess == truth))
    error = sum(
        len(b) / n * abs(np.mean([r for _, r in b]) - np.mean([c for c, _ in b])) for b in bins if b
    )
    assert report.calibration_error == pytest.approx(error)


def test_calibration_of_the_certain_and_the_honest() -> None:
    assert calibration_error(np.ones(4), np.array([True] * 4)) == 0
    assert calibration_error(np.ones(4), np.array([True, False, False, False])) == 0.75
    half = np.full(10, 0.5)
    assert calibration_error(half, np.arange(10) < 5) == pytest.approx(0)
    assert calibration_error(np.zeros(2), np.array([False, False])) == 0


@pytest.mark.parametrize(
    ("probabilities", "labels", "message"),
    [
        (np.ones((2, 3)), [0, 1, 2], r"\(2, 3\); expected \(3,3\)"),
        (np.ones((0, 3)), [], "at least one row"),
        (np.full((1, 3), np.nan), [0], "not finite"),
        (np.ones((1, 3)), [3], "labels reach from 3 to 3, and there are 3 classes"),
        (np.ones((1, 3)), [-1], "labels reach from -1"),
    ],
)
def test_what_makes_no_sense_is_refused(probabilities, labels, message) -> None:
    with pytest.raises(DataError, match=message):
        evaluate_classification(probabilities, np.array(labels, np.int64), ABC)


def test_tables_and_pictures_hold_every_class(tmp_path) -> None:
    report = evaluate_classification(np.eye(3), np.array([0, 1, 1]), ("a", "long name", "$c_"))
    lines = report.table().splitlines()
    assert any(line.startswith("accuracy") and "0.6667" in line for line in lines)
    assert lines[-1].split() == ["3", "$c_", "0", "0", "0"]
    assert lines[-2].split() == ["2", "long", "name", "0", "1", "1"]
    many = evaluate_classification(np.eye(30), np.arange(30), [str(i) for i in range(30)])
    assert "confusion" not in many.table()
    confusion_picture(np.array(report.confusion), ("a", "long name", "$c_"), tmp_path / "c.png")
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
