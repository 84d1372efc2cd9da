"""The commands that concern detectors."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from boxed import squares
from commands import run
from one_cell import OneCell, register
from PIL import Image

from retrieval.cli import detect as commands
from retrieval.detection import boxed_datasets
from retrieval.embedder import Embedder
from retrieval.network_files import load_detector, save_network
from retrieval.specs import DetectorSpec, EmbedderSpec
from retrieval.train_detect import run_at

TRAIN = ["--backbone", "lenet", "--batch-norm", "--stem", "small", "--image-size", 64, "--epochs", 2,
         "--batch-size", 8, "--validation", 0.25, "--precision", "fp32", "--lr", 0.01,
         "--optimizer", "adam"]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def known() -> object:
    """The small detector, and squares for every data set."""
    with pytest.MonkeyPatch.context() as patch:
        register(patch)
        patch.setattr(commands, "read_boxed", lambda name, split: squares(16, empty=2))
        patch.setattr(boxed_datasets, "has_test_part", lambda name: False)
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector made by a command, and photos."""
    folder = tmp_path_factory.mktemp("detect")
    run("train-detect", "--dataset", "squares", "--out", folder / "run", *TRAIN)
    for row in range(3):
        file = folder / "photos" / "ab"[row % 2] / f"{row // 2}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(squares(16).pictures[row]).save(file)
    return folder


def test_training_says_how_good_it_became(place: Path) -> None:
    command = ["train-detect", "--dataset", "squares", "--out", place / "again", *TRAIN]
    result = run(*command, "--json")
    found = json.loads(result.stdout)
    assert found["run"] == str(place / "again")
    assert found["epochs"] == 2
    assert 0 <= found["map"] <= found["map_50"] <= 1
    assert "epoch 2/2  class" in result.stderr
    assert "holds a run already" in run(*command, code=1).stderr
    assert "mAP@0.5" in run("train-detect", "--out", place / "again", "--resume").stdout
    assert "--optimizer" in run("train-detect", "--help").stdout


def test_the_figures_told_are_those_of_the_model_that_is_kept(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_folder = tmp_path / "run"
    shutil.copytree(place / "run", run_folder)
    figures = [(0.25, 0.1), (0.5, 0.25), (0.5, 0.17), (0.4, 0.3)]  # of equal ones the last is kept
    lines = [json.dumps({"map_50": a, "map": b}) + "\n" for a, b in figures]
    (run_folder / "metrics.jsonl").write_text("".join(lines))
    commands._print_result(run_at(run_folder), True)
    told = json.loads(capsys.readouterr().out)
    assert (told["map_50"], told["map"]) == (0.5, 0.17)


def test_a_dry_run_keeps_nothing(place: Path) -> None:
    command = ["train-detect", "--out", place / "dry", *TRAIN, "--dry-run"]
    trial = json.loads(run(*command, "--json").stdout)
    assert (trial["pictures"], trial["batch"], trial["steps_per_epoch"]) == (12, 8, 1)
    assert "FLOPs per picture" in run(*command).stdout
    assert not (place / "dry").exists()


def test_detect_prints_and_draws(place: Path) -> None:
    photos = place / "photos"
    result = run("detect", photos, "--model", place / "run", "--score", 0, "--out", place / "drawn")
    lines = result.stdout.splitlines()
    assert lines[0].startswith(f"{photos}/a/0.png  →  ")
    assert lines[1].split() == ["class", "score", "left", "top", "right", "bottom"]
    assert len(lines) == 3 * 4  # the photo, names of columns, and a line for each of two classes
    drawn = sorted(p.name for p in (place / "drawn").iterdir())
    assert drawn == ["0-2.png", "0.png", "1.png"]  # two files were called 0
    with Image.open(place / "drawn" / "0.png") as picture:
        assert picture.size == (512, 512)


def test_photos_are_never_drawn_over(place: Path, tmp_path: Path) -> None:
    for name in ("0.png", "1.jpg"):
        shutil.copy(place / "photos" / "a" / "0.png", tmp_path / name)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    run("detect", tmp_path, "--model", place / "run", "--out", tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"0.png", "0-2.png", "1.jpg", "1.png"}
    assert all((tmp_path / name).read_bytes() == data for name, data in before.items())


def test_nothing_beside_the_photos_is_drawn_over(place: Path, tmp_path: Path) -> None:
    photo, other = tmp_path / "x.jpg", tmp_path / "x.png"
    for file in (photo, other):
        shutil.copy(place / "photos" / "a" / "0.png", file)
    before = other.read_bytes()
    (tmp_path / "drawn").mkdir()
    shutil.copy(other, tmp_path / "drawn")
    for _ in range(2):  # its own is drawn anew
        run("detect", photo, "--model", place / "run", "--out", tmp_path)
        run("detect", photo, "--model", place / "run", "--out", tmp_path / "drawn")
    assert other.read_bytes() == (tmp_path / "drawn" / "x.png").read_bytes() == before
    assert {p.name for p in tmp_path.glob("*.*")} == {"x.jpg", "x.png", "x-2.png"}
    assert {p.name for p in (tmp_path / "drawn").iterdir()} == {"x.png", "x-2.png"}


def test_nothing_is_drawn_into_galleries(place: Path, tmp_path: Path) -> None:
    (tmp_path / "gallery.sqlite").write_bytes(b"x")
    command = ["detect", place / "photos", "--model", place / "run", "--out", tmp_path / "new"]
    assert f"lies in the gallery {tmp_path}, where" in run(*command, code=1).stderr
    run(*command, "--no-draw")
    assert [p.name for p in tmp_path.iterdir()] == ["gallery.sqlite"]


def test_drawings_of_photos_with_long_names_have_shorter_ones(place: Path, tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    b, c, e = "b" * 255, "c" * 249, "é" * 124  # é has two bytes, which stay together
    names = [b, f"{c}cc.jpg", f"{c}cc.png", f"{e}é.jpg", f"{e}é.png", "z.jpg"]
    for name in names:
        shutil.copy(place / "photos" / "a" / "0.png", photos / name)
    asked = [photos / name for name in names]
    result = run("detect", *asked, "--model", place / "run", "--out", out, "--json")
    drawn = [Path(answer["drawn"]).name for answer in json.loads(result.stdout)]
    wanted = [f"{b[:251]}.png", f"{c}cc.png", f"{c}-2.png", f"{e}é.png", f"{e}-2.png", "z.png"]
    assert drawn == wanted
    assert sorted(p.name for p in out.iterdir()) == sorted(drawn)


def test_detect_tells_programs_and_other_tools(place: Path) -> None:
    photo, coco = place / "photos" / "a" / "0.png", place / "deep" / "er" / "found.json"
    result = run("detect", photo, "--model", place / "run", "--score", 0, "--no-draw", "--json",
                 "--coco", coco)  # fmt: skip
    (answer,) = json.loads(result.stdout)
    assert answer["photo"] == str(photo)
    assert (answer["width"], answer["height"]) == (64, 64)
    assert {each["class"] for each in answer["objects"]} == {"red", "blue"}
    scores = [each["score"] for each in answer["objects"]]
    assert scores == sorted(scores, reverse=True)
    written = json.loads(coco.read_text())
    named = {"id": 1, "file_name": "../../photos/a/0.png", "width": 64, "height": 64}
    assert written["images"] == [named]
    assert boxed_datasets.load_boxed_pictures(str(coco)).pictures[0].samefile(photo)
    assert [c["name"] for c in written["categories"]] == ["red", "blue"]
    for annotation, each in zip(written["annotations"], answer["objects"], strict=True):
        left, top, right, bottom = each["box"]
        box = [left, top, right - left, bottom - top]
        assert annotation["bbox"] == pytest.approx(box, abs=0.02)
        assert annotation["score"] == each["score"]
    nothing = run("detect", photo, "--model", place / "run", "--score", 1, "--no-draw").stdout
    assert nothing.splitlines() == [str(photo), "  nothing"]


def test_photos_that_cannot_be_read_are_named(place: Path) -> None:
    photo, bad = place / "photos" / "a" / "0.png", place / "bad.png"
    bad.write_bytes(b"x")
    result = run("detect", bad, photo, "--model", place / "run", "--no-draw", code=1)
    assert str(photo) in result.stdout
    assert f"{bad}: " in result.stderr
    (place / "empty").mkdir()
    nothing = run("detect", place / "empty", "--model", place / "run", code=1)
    assert "there are no pictures in" in nothing.stderr
    assert "there is no model" in run("detect", photo, "--model", place / "x", code=1).stderr
    assert (
        "no file or folder" in run("detect", place / "x", "--model", place / "run", code=1).stderr
    )


def test_evaluate_measures_a_detector(place: Path) -> None:
    command = ["evaluate", "--model", place / "run", "--dataset", "squares"]
    result = run(*command, "--out", place / "report.json")
    assert "16 pictures, 14 objects, overlap of boxes" in result.stdout
    assert "squares has no test part" in result.stderr
    assert "mAP@[.5:.95]" in result.stdout
    found = json.loads(run(*command, "--json").stdout)
    assert found == json.loads((place / "report.json").read_text())
    assert [c["objects"] for c in found["classes"]] == [7, 7]
    assert found["map_by_size"]["large"] is None
    assert "--masks" in run(*command, "--masks", code=1).stderr
    assert "--tta" in run(*command, "--tta", "flip", code=1).stderr


def test_other_commands_know_detectors(place: Path) -> None:
    facts = json.loads(run("models", place / "run", "--json").stdout)
    assert facts["detector"] == "tiny-ssd"
    assert facts["classes"] == "red, blue"
    assert "head.weight" in run("summary", place / "run", "--params").stdout
    layers = json.loads(run("summary", place / "run", "--json").stdout)["layers"]
    assert layers[-1]["name"] == "head"
    for command in (["build-index", place / "photos", "--out", place / "g"], ["classify", "x"]):
        assert "trained detector" in run(*command, "--model", place / "run", code=1).stderr
    save_network(Embedder(EmbedderSpec(backbone="lenet", embedding_dim=4)), place / "e")
    assert "train-detect --from" in run("detect", "x", "--model", place / "e", code=1).stderr


def test_a_model_to_go_on_from_that_is_not_there_is_named(place: Path) -> None:
    refused = run("train-detect", "--dataset", "squares", "--out", place / "none", *TRAIN, "--from",
                  place / "typo", code=1)  # fmt: skip
    assert f"there is no model at {place / 'typo'}" in refused.stderr
    assert not (place / "none").exists()


def test_training_goes_on_from_a_detector_in_its_form(place: Path) -> None:
    spec = DetectorSpec(backbone="lenet", batch_norm=True, stem="small", image_size=80, nms_iou=0.3,
                        classes=("red", "blue"))  # fmt: skip
    save_network(OneCell(spec), place / "d.safetensors")
    run("train-detect", "--dataset", "squares", "--out", place / "tuned", "--epochs", 1, "--from",
        place / "d.safetensors", "--lr", 1e-9, "--batch-size", 8)  # fmt: skip
    tuned = load_detector(place / "tuned")
    assert (tuned.spec.image_size, tuned.spec.nms_iou) == (80, 0.3)
    weight = load_detector(place / "d.safetensors").state_dict()["head.weight"]
    assert np.allclose(tuned.state_dict()["head.weight"], weight, atol=1e-6)
