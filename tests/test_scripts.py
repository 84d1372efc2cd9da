"""The arithmetic of the scripts, and that each one says how it is used."""

import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import evaluate_recall
import numpy as np
import pytest
from benchmark_evaluation import measure_apart
from benchmark_query import seconds_of
from benchmark_training import first_time
from click import ClickException
from click.testing import CliRunner
from commands import draw_colours
from compare_codes import faiss_codes, kinds, measured, neighbor_overlap, ranked_precision
from compare_distances import contrast
from compare_pooling import CANVAS, DIGIT, on_canvas
from compare_transfer import few_of, of_classes
from seeds import interval

from retrieval.evaluation import evaluate_retrieval
from retrieval.labeled_images import LabeledImages

SCRIPTS = sorted((Path(__file__).parents[1] / "scripts").glob("*.py"))


@pytest.mark.parametrize("script", [s.stem for s in SCRIPTS if "click" in s.read_text()])
def test_each_script_has_help_with_an_example(script: str) -> None:
    module = __import__(script)
    result = CliRunner().invoke(module.main, ["--help"])
    assert result.exit_code == 0
    assert f"python scripts/{script}.py" in result.output


@pytest.mark.parametrize(
    ("script", "options", "reason"),
    [
        ("benchmark_evaluation", "--queries 0", "0 is not in the range"),
        ("benchmark_evaluation", "--queries 1 --gallery 1", "no answer can be right"),
        ("benchmark_index", "--vectors numbers.npy", "there are 5 vectors; needed are 1000"),
        ("benchmark_index", "--vectors text.npy", "text.npy is not a readable .npy file"),
        ("benchmark_index", "--vectors .", "is not a gallery"),
        ("benchmark_query", "text.npy --gallery . --runs 0", "0 is not in the range"),
        ("benchmark_training", "--dataset nope", "no data set 'nope'"),
        ("benchmark_training", "--dataset colours --data-dir .", "the peer needs 120"),
        ("compare_backbones", "--dataset nope --out runs", "no data set 'nope'"),
        ("compare_codes", "--dataset nope", "no data set 'nope'"),
        ("compare_codes", "--model nope", "no model at nope"),
        ("compare_codes", "--embeddings few", "there are 5 vectors to learn codes from"),
        ("compare_detectors", "--dataset nope --out runs", "no data set 'nope'"),
        ("compare_distances", "--dims a", "'a' is no list such as 2,8,64"),
        ("compare_distances", "--dims 8,5000", "it must be at most 4096"),
        ("compare_object_search", "--dataset nope", "no data set 'nope'"),
        ("compare_object_search", "--scenes 0", "0 is not in the range"),
        ("compare_pooling", "--train-shift -1", "-1 is not in the range"),
        ("compare_transfer", "--dataset nope", "no data set 'nope'"),
        ("evaluate_recall", "--dataset nope --model nope", "no model at nope"),
    ],
)
def test_wrong_input_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, options: str, reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.npy").write_text("no numbers")
    np.save("numbers.npy", np.ones((5, 3), np.float32))
    draw_colours(Path("colours"), train=4)
    Path("few").mkdir()
    for name in ("gallery", "gallery_labels", "queries", "queries_labels"):
        np.save(f"few/{name}.npy", np.ones(5 if "labels" in name else (5, 3), np.float32))
    result = CliRunner().invoke(__import__(script).main, options.split())
    assert result.exit_code in (1, 2), result.output
    last = result.output.splitlines()[-1]
    assert last.startswith("Error: ")
    assert reason in last


class Ends:
    """Ends the process that it is sent to."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (3,)


def test_a_process_that_ends_is_not_waited_for() -> None:
    with pytest.raises(ClickException, match="the process that measures was ended"):
        measure_apart(Ends(), (1, 1, 1))  # type: ignore[arg-type]


def test_what_a_failing_command_says_is_told() -> None:
    with pytest.raises(ClickException, match=r"^no gallery$"):
        seconds_of([sys.executable, "-c", "raise SystemExit('Loading\\nError: no gallery')"])
    with pytest.raises(ClickException, match="ended with 3"):
        seconds_of([sys.executable, "-c", "raise SystemExit(3)"])


def test_an_interval_by_students_t() -> None:
    found = interval([1.0, 2.0, 4.0])
    spread = math.sqrt(((1 - 7 / 3) ** 2 + (2 - 7 / 3) ** 2 + (4 - 7 / 3) ** 2) / 2 / 3)
    assert found.mean == pytest.approx(7 / 3)
    assert found.high - found.mean == pytest.approx(4.302653 * spread, rel=1e-5)  # table, 2 d.f.
    assert found.mean - found.low == pytest.approx(found.high - found.mean)
    assert str(interval([0.5, 0.5])) == "0.500 [0.500, 0.500]"
    with pytest.raises(ValueError, match="at least 2"):
        interval([1.0])


@pytest.mark.parametrize("distance", ["l1", "l2", "cosine"])
def test_contrast_by_a_loop(distance: str) -> None:
    rng = np.random.default_rng(0)
    queries, vectors = (rng.normal(size=(n, 3)).astype(np.float32) for n in (3, 7))
    values = []
    for q in queries.astype(float):
        far = []
        for v in vectors.astype(float):
            cosine = 1 - q @ v / math.sqrt((q @ q) * (v @ v))
            far.append({"l1": abs(q - v).sum(), "l2": math.dist(q, v), "cosine": cosine}[distance])
        values.append((max(far) - min(far)) / min(far))
    assert contrast(queries, vectors, distance) == pytest.approx(sorted(values)[1], rel=1e-3)


def test_digits_are_moved_as_far_as_is_said() -> None:
    white = np.full((20, DIGIT, DIGIT, 3), 255, np.uint8)
    data = LabeledImages("white", white, np.zeros(20, np.int64), ("x",))
    for shift in (0, 6, 12):
        for picture in on_canvas(data, shift, seed=0):
            y, x = (axis.mean() - (CANVAS - 1) / 2 for axis in np.nonzero(picture[:, :, 0]))
            assert math.hypot(x, y) == pytest.approx(shift, abs=0.8)
            assert (picture > 0).sum() == DIGIT * DIGIT * 3


def test_the_first_time_at_a_goal() -> None:
    points = [(10.0, 0.5), (20.0, 0.7), (30.0, 0.6)]
    assert first_time(points, 0.7) == 20
    assert first_time(points, 0.8) is None
    assert first_time([], 0.1) is None


def test_overlap_and_precision_of_a_ranking() -> None:
    exact = np.array([[0, 1], [2, 3]])
    assert neighbor_overlap(np.array([[1, 9, 0], [5, 2, 8]]), exact) == 0.75
    assert neighbor_overlap(np.array([[-1], [-1]]), exact) == 0
    labels = np.array([0, 1, 0, 1])
    ranking = np.array([[2, 1, 0, 3], [0, 1, 2, 3]])
    # Class 0 at ranks 1 and 3: (1 + 2/3)/2; class 1 at ranks 2 and 4: (1/2 + 2/4)/2.
    expected = ((1 + 2 / 3) / 2 + 0.5) / 2
    assert ranked_precision(ranking, np.array([0, 1]), labels) == pytest.approx(expected)


def test_the_figures_of_whole_vectors_and_of_all_codes() -> None:
    rng = np.random.default_rng(0)
    vectors, queries = (rng.normal(size=(n, 16)).astype(np.float32) for n in (400, 7))
    labels, query_labels = rng.integers(0, 3, 400), rng.integers(0, 3, 7)
    distances = np.linalg.norm(queries[:, None] - vectors, axis=2)
    exact = np.argsort(distances, axis=1)[:, :10]
    truth = vectors, labels, queries, query_labels, exact
    row = measured("float32", "float32", faiss_codes("Flat", vectors), *truth)
    report = evaluate_retrieval(queries, query_labels, vectors, labels, ks=(1,), intervals=False)
    assert (row.bytes, row.error, row.overlap, row.candidates) == (64, 0, 1, 1)
    assert row.recall == pytest.approx(report.recall_at_k[1])
    assert row.map == pytest.approx(report.figures["mAP"].mean)
    makers = {name: make for name, _, make in kinds(16)}
    sizes = {"equal-width:8": 16, "kmeans:1": 2, "kmeans:4x8": 4, "FAISS SQ4": 8}
    for name, size in sizes.items():
        row = measured(name, "family", makers[name](vectors), *truth)
        assert row.bytes == size
        assert 0 < row.error < 1
        assert str(row).count("|") == 10


def test_classes_are_taken_apart_and_numbered_anew() -> None:
    labels = np.array([3, 0, 2, 1, 3, 3, 0])
    images = np.arange(7, dtype=np.uint8).reshape(7, 1, 1, 1)
    data = LabeledImages("letters", images, labels, ("a", "b", "c", "d"))
    part = of_classes(data, np.array([3, 0]))
    assert part.classes == ("d", "a")
    assert part.images.ravel().tolist() == [0, 1, 4, 5, 6]
    assert part.labels.tolist() == [0, 1, 0, 0, 1]
    assert len(of_classes(data, np.array([], int))) == 0
    few = few_of(part, 2, np.random.default_rng(0))
    assert sorted(few.labels.tolist()) == [0, 0, 1, 1]
    assert [part.classes[label] for label in few.labels] == [
        data.classes[labels[row]] for row in few.images.ravel()
    ]
    assert len(few_of(part, 9, np.random.default_rng(0))) == 5


def test_figures_that_flatter_are_called_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_colours(tmp_path, colours=4)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(
        json.dumps({"dataset": str(tmp_path / "colours")})
    )

    class Report:
        def table(self) -> str:
            return "figures"

    monkeypatch.setattr(evaluate_recall, "evaluate_model", lambda *_, **options: Report())
    options = ["--model", str(tmp_path / "run"), "--dataset", str(tmp_path / "colours")]
    result = CliRunner().invoke(evaluate_recall.main, options)
    assert result.stdout.count("figures") == 2
    assert "has no test part" in result.stderr
