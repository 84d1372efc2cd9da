"""The commands that concern classifiers."""

import json
import shutil
from pathlib import Path

import pytest
from commands import draw_colours, run
from PIL import Image

TRAIN = ["--backbone", "softmax", "--epochs", "3", "--batch-size", "12", "--validation", "0.2",
         "--precision", "fp32", "--lr", "0.02"]  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of three colours, and two classifiers of them, made by commands."""
    folder = tmp_path_factory.mktemp("classify")
    draw_colours(folder / "pictures", train=12, test=4)
    for seed in (0, 1):
        run("train-classify", "--dataset", folder / "pictures", "--out", folder / f"run{seed}",
            *TRAIN, "--seed", seed, "--data-dir", folder / "data")  # fmt: skip
    return folder


def test_training_says_how_good_it_became(place: Path) -> None:
    out = place / "again"
    command = ["train-classify", "--dataset", place / "pictures", "--out", out, *TRAIN]
    result = run(*command, "--json", "--data-dir", place / "data")
    found = json.loads(result.stdout)
    assert found["run"] == str(out)
    assert found["epochs"] == 3
    assert found["accuracy"] == 1
    assert "epoch 3/3" in result.stderr
    assert "holds a run already" in run(*command, code=1).stderr
    run("train-classify", "--out", out, "--resume", "--data-dir", place / "data")


def test_classify_prints_the_top_classes(place: Path) -> None:
    photo = place / "pictures" / "test" / "g" / "0.png"
    lines = run("classify", photo, "--model", place / "run0").stdout.splitlines()
    assert lines[0] == str(photo)
    assert lines[1].split()[1] == "g"
    assert len(lines) == 4
    models = ["--model", place / "run0", "--model", place / "run1"]
    for views in ("none", "flip", "crops"):
        text = run("classify", photo, *models, "--tta", views, "--top", 2, "--json").stdout
        (answer,) = json.loads(text)
        assert answer["photo"] == str(photo)
        first, second = answer["classes"]
        assert first["class"] == "g"
        assert 1 >= first["probability"] >= second["probability"] >= 0


def test_an_ensemble_is_the_mean_of_its_members(place: Path) -> None:
    photo = place / "pictures" / "test" / "b" / "1.png"

    def ask(*runs: str) -> dict[str, float]:
        models = [part for name in runs for part in ("--model", place / name)]
        (answer,) = json.loads(run("classify", photo, *models, "--json").stdout)
        return {row["class"]: row["probability"] for row in answer["classes"]}

    one, other, both = ask("run0"), ask("run1"), ask("run0", "run1")
    for name, probability in both.items():
        assert probability == pytest.approx((one[name] + other[name]) / 2, abs=1e-6)


def test_photos_that_cannot_be_read_are_named(place: Path) -> None:
    photo, bad = place / "pictures" / "test" / "r" / "0.png", place / "bad.png"
    bad.write_bytes(b"x")
    result = run("classify", bad, photo, "--model", place / "run0", code=1)
    assert str(photo) in result.stdout
    assert f"{bad}: " in result.stderr
    assert "there is no model" in run("classify", photo, "--model", place / "x", code=1).stderr


def test_evaluate_measures_a_classifier(place: Path) -> None:
    command = ["evaluate", "--dataset", place / "pictures", "--data-dir", place / "data",
               "--model", place / "run0"]  # fmt: skip
    written = ["--confusion", place / "confusion.png", "--out", place / "r.json"]
    result = run(*command, *written)
    assert run(*command, *written).stdout == result.stdout  # which replaces what is ours
    assert "accuracy           1.0000" in result.stdout
    assert "calibration error" in result.stdout
    assert (place / "confusion.png").exists()
    report = json.loads((place / "r.json").read_text())
    assert report["confusion"] == [[4, 0, 0], [0, 4, 0], [0, 0, 4]]
    both = run(*command, "--model", place / "run1", "--tta", "flip", "--json").stdout
    assert json.loads(both)["pictures"] == 12
    strange = place / "strange" / "x"
    strange.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (17, 17)).save(strange / "0.png")
    result = run("evaluate", "--model", place / "run0", "--dataset", place / "strange", code=1)
    assert "class 'x', which the model does not know" in result.stderr


def test_evaluate_says_where_pictures_were_learnt_from(place: Path) -> None:
    data = ["--data-dir", place / "data"]
    partless, table = place / "pictures" / "train", place / "table.csv"
    files = sorted(partless.glob("*/*.png"))
    table.write_text("path,label\n" + "".join(f"{f},{f.parent.name}\n" for f in files))
    for dataset in (partless, table):
        run("train-classify", "--dataset", dataset, "--out", place / "partless", *TRAIN, *data,
            "--overwrite")  # fmt: skip
        asked = run("evaluate", "--model", place / "partless", "--dataset", dataset, *data)
        assert f"{dataset} has no test part: {place / 'partless'} has learnt from" in asked.stderr
    for run_folder, dataset in (("run0", place / "pictures"), ("run0", partless)):
        asked = run("evaluate", "--model", place / run_folder, "--dataset", dataset, *data)
        assert "has learnt from" not in asked.stderr


@pytest.mark.parametrize(
    "text", ['{"dataset": ', "[]", "{}", '{"dataset": 5}', '{"dataset": "~no-one/x"}', "\xff"]
)
def test_a_damaged_configuration_hinders_no_measurement(
    place: Path, tmp_path: Path, text: str
) -> None:
    shutil.copy(place / "run0" / "model.safetensors", tmp_path)
    (tmp_path / "config.json").write_text(text, encoding="latin-1")
    asked = run("evaluate", "--model", tmp_path, "--dataset", place / "pictures", "--data-dir",
                place / "data")  # fmt: skip
    assert "config.json cannot be read, so it is not known whether" in asked.stderr
    assert "accuracy           1.0000" in asked.stdout


def test_folds_print_mean_and_spread(place: Path) -> None:
    result = run("train-classify", "--dataset", place / "pictures", "--out", place / "folds",
                 *TRAIN, "--epochs", 1, "--folds", 3, "--data-dir", place / "data")  # fmt: skip
    assert "±" in result.stdout
    assert "over 3 folds" in result.stdout


def test_a_classifier_is_no_embedder_until_it_is_trained_as_one(place: Path) -> None:
    result = run("build-index", place / "pictures" / "test", "--model", place / "run0",
                 "--out", place / "no.gallery", code=1)  # fmt: skip
    assert "train-embed --from" in result.stderr
    run("train-embed", "--dataset", place / "pictures", "--from", place / "run0", "--out",
        place / "embed", "--epochs", 1, "--batch-size", 12, "--embedding-dim", 4,
        "--data-dir", place / "data")  # fmt: skip
    assert run("models", place / "run0").stdout.splitlines()[0].split() == ["backbone", "softmax"]


def test_summary_lists_layers_and_parameters(place: Path) -> None:
    text = run("summary", "lenet", "--size", 28, "--channels", 1, "--classes", 10).stdout
    assert "61,706" in text.splitlines()[-1]
    found = json.loads(run("summary", "resnet18", "--layer", "layer1", "--json").stdout)
    assert found["layers"][-1]["output"] == [64, 32, 32]
    assert found["parameters"] == sum(layer["parameters"] for layer in found["layers"])
    rows = json.loads(run("summary", place / "run0", "--params", "--json").stdout)
    assert [row["name"] for row in rows] == ["head.output.weight", "head.output.bias"]
    assert run("summary", place / "run0", "--params").stdout.count("\n") == 3
    assert "the smallest for --backbone vgg11 is 17" in run(
        "summary", "vgg11", "--size", 10, code=1).stderr  # fmt: skip
    assert "neither a network" in run("summary", "nothing", code=1).stderr
    assert "trained already" in run("summary", place / "run0", "--width", 8, code=1).stderr
