"""The comparison of detectors, in miniature."""

from pathlib import Path

import compare_detectors
import pytest
import torch
from boxed import squares
from click.testing import CliRunner

from retrieval.detection.multibox import MultiBox
from retrieval.detection.voc_xml import write_voc
from retrieval.network_files import load_detector
from retrieval.train_detect import run_at


def test_each_detector_gives_a_row_and_is_trained_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare_detectors, "load_boxed_pictures", lambda name, split: squares(8))
    monkeypatch.setattr(compare_detectors, "has_test_part", lambda name: True)
    command = [
        *("--dataset", "squares", "--out", str(tmp_path), "--only", "tiny-ssd", "--only", "yolo"),
        *("--backbone", "tiny", "--image-size", "64", "--epochs", "1", "--batch-size", "4"),
    ]
    result = CliRunner().invoke(compare_detectors.main, command)
    assert result.exit_code == 0, result.output
    header, _, *rows = result.stdout.strip().splitlines()
    names = [row.split("|")[1].strip() for row in rows]
    assert names == ["tiny-ssd", "yolo"]
    assert header.count("|") == rows[0].count("|") == rows[1].count("|")
    assert rows[0].split("|")[8].strip()  # class error, of the one that has anchor boxes
    assert not rows[1].split("|")[8].strip()
    before = (tmp_path / "yolo" / "metrics.jsonl").read_text()
    again = CliRunner().invoke(compare_detectors.main, command)
    assert again.exit_code == 0
    assert "epoch" not in again.stderr
    assert (tmp_path / "yolo" / "metrics.jsonl").read_text() == before


def test_the_errors_of_the_course_are_means_over_anchor_boxes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = compare_detectors.config_of("tiny-ssd", "x", {"image_size": 64, "epochs": 1})
    run = run_at(tmp_path)
    compare_detectors.train_detect(config, squares(4), run, device=torch.device("cpu"))
    detector = load_detector(tmp_path)
    assert isinstance(detector, MultiBox)
    boxes = len(detector.anchors)

    def background(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = torch.zeros(len(images), boxes, 3)
        logits[..., 0] = 1
        return logits, torch.zeros(len(images), boxes, 4)

    monkeypatch.setattr(detector, "predict", background)
    empty = squares(4, empty=4)
    assert compare_detectors.course_errors(detector, empty, torch.device("cpu")) == (0, 0)
    wrong, far = compare_detectors.course_errors(detector, squares(4), torch.device("cpu"))
    # Each picture has one object: the anchor boxes that are to find it are wrong, all others right.
    assert (wrong * boxes * 4) == pytest.approx(round(wrong * boxes * 4))
    assert 4 <= round(wrong * boxes * 4) < 60
    assert far > 0


def test_pictures_that_were_learnt_from_are_no_test(tmp_path: Path) -> None:
    data = tmp_path / "squares"
    write_voc(squares(5), data)
    files = sorted(data.rglob("*.png"))
    assert len(files) == 5
    result = CliRunner().invoke(
        compare_detectors.main, ["--dataset", str(data), "--out", str(tmp_path / "runs")]
    )
    assert result.exit_code == 1
    assert "no test part" in result.stderr
    assert "--hold-out" in result.stderr
    train, test = compare_detectors.train_and_test(str(data), 0.4)
    assert len(test) == 2
    assert {*map(str, train.pictures), *map(str, test.pictures)} == set(map(str, files))
