"""The commands that train embedders."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import TRAIN, learnt, photo, run
from PIL import Image


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures, and a run trained on them."""
    return learnt(tmp_path_factory.mktemp("learn"))


def test_show_augment_writes_a_grid(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "grid.png"
    run("show-augment", photo(place), "--out", out, "--views", 9, "--size", 20, "--rotation", 30)
    with Image.open(out) as image:
        assert image.size == (5 * 24 + 4, 2 * 24 + 4)


def test_a_run_is_neither_replaced_nor_changed_by_accident(place: Path) -> None:
    train = ["train-embed", "--dataset", place / "pictures", "--out", place / "run", "--data-dir",
             place / "data"]  # fmt: skip
    assert "--resume to continue it, --overwrite" in run(*train, *TRAIN, code=1).output
    assert "options that it was started with" in run(*train, "--resume", "--lr", "9", code=1).output
    for preset in ("best", "default"):
        given = ["--resume", "--preset", preset, "--seed", "0"]
        assert "leave out --preset, --seed" in run(*train[:1], *train[3:], *given, code=1).stderr
    before = (place / "run" / "model.safetensors").read_bytes()
    run("train-embed", "--out", place / "run", "--resume", "--data-dir", place / "data")
    assert (place / "run" / "model.safetensors").read_bytes() == before


def test_ctrl_c_during_training_says_how_to_go_on(place: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "retrieval", "train-embed", "--dataset", place / "pictures",
               "--out", tmp_path / "run", "--data-dir", place / "data", *TRAIN]  # fmt: skip
    command[command.index("--epochs") + 1] = "100000"
    started = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"}, cwd=Path(__file__).parents[1],
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not (tmp_path / "run" / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    started.send_signal(signal.SIGINT)
    stdout, stderr = started.communicate(timeout=60)
    assert started.returncode == 130, stderr
    assert stdout == ""
    assert f"Continue with: retrieval train-embed --out {tmp_path / 'run'} --resume" in stderr
    assert "Traceback" not in stderr


def test_resume_reads_pictures_at_the_size_of_the_run(place: Path, tmp_path: Path) -> None:
    train = ["train-embed", "--out", tmp_path / "run", "--data-dir", place / "data"]
    run(*train, "--dataset", place / "pictures", *TRAIN, "--image-size", 20)
    run(*train, "--resume")
    assert (
        json.loads((tmp_path / "run" / "config.json").read_text())["embedder"]["image_size"] == 20
    )


def test_what_a_resumed_run_costs_is_told_without_the_run_that_it_came_from(
    place: Path, tmp_path: Path
) -> None:
    first = tmp_path / "first"
    shutil.copytree(place / "run", first)
    data = ["--data-dir", place / "data"]
    given = ["--dataset", place / "pictures", "--from", first, "--epochs", 1, *data]
    run("train-embed", *given, "--out", tmp_path / "run")
    shutil.rmtree(first)
    told = run("train-embed", "--out", tmp_path / "run", "--resume", "--dry-run", *data).stdout
    assert "parameters" in told


def test_pictures_too_small_for_the_network_are_refused(place: Path, tmp_path: Path) -> None:
    result = run("train-embed", "--dataset", place / "pictures", "--out", tmp_path / "run",
                 "--data-dir", place / "data", *TRAIN, "--image-size", 12, code=1)  # fmt: skip
    assert "--image-size is 12; the smallest for --backbone fast-resnet is 17" in result.output


def test_fine_tuning_takes_pictures_at_the_size_of_the_weights(place: Path, tmp_path: Path) -> None:
    data = ["--dataset", place / "pictures", "--data-dir", place / "data"]
    run("train-embed", *data, "--out", tmp_path / "tuned", "--weights", "cifar10",
        "--freeze", "stages.0", *TRAIN[2:])  # fmt: skip
    shown = json.loads(run("models", tmp_path / "tuned", "--json").stdout)
    assert shown["image_size"] == 32
    assert shown["backbone"] == "fast-resnet, width 64"
    for size in ([], ["--image-size", 32]):
        failed = run("train-embed", *data, "--out", tmp_path / "x", "--weights", "nowhere", *TRAIN,
                     *size, code=1)  # fmt: skip
        assert "there is no model at nowhere" in failed.stderr
        assert "Reading" not in failed.stderr  # before any picture is decoded
    refused = run("train-embed", *data, "--out", tmp_path / "x", "--weights", "cifar10", "--width", 16,
                  code=1)  # fmt: skip
    assert "cifar10 was trained with --width 64, which stays what it is, and 16" in refused.stderr
    assert not (tmp_path / "x").exists()


def test_a_continued_network_brings_the_settings_that_suit_it(place: Path, tmp_path: Path) -> None:
    data = ["--dataset", place / "pictures", "--data-dir", place / "data", "--epochs", 1]
    run("train-classify", *data, "--out", tmp_path / "first", "--backbone", "lenet")
    run("train-classify", *data, "--out", tmp_path / "second", "--from", tmp_path / "first")
    one, two = (json.loads((tmp_path / n / "config.json").read_text()) for n in ("first", "second"))
    assert two["fit"] == one["fit"] | {"lr": 0.2 * one["fit"]["lr"]}  # what has learnt goes slower
    assert two["fit"]["optimizer"] == "adamw"
    assert two["classifier"]["backbone"] == "lenet"
    refused = run("train-classify", *data, "--backbone", "resnet18", "--width", 16, code=1)
    assert "the others take --width-factor" in refused.stderr


def test_where_nothing_is_held_out_no_figure_is_made_up(place: Path, tmp_path: Path) -> None:
    train = ["train-embed", "--dataset", place / "pictures", "--data-dir", place / "data",
             "--out", tmp_path / "run", *TRAIN, "--epochs", 1, "--validation", 0]  # fmt: skip
    assert "nothing was held out, or one class alone" in run(*train).stdout
    assert json.loads(run(*train, "--overwrite", "--json").stdout)["recall_at_1"] is None


@pytest.mark.parametrize("command", ["train-embed", "train-classify"])
def test_the_best_preset_goes_on_from_the_model_in_the_box(
    place: Path, tmp_path: Path, command: str
) -> None:
    data = ["--dataset", place / "pictures", "--data-dir", place / "data"]
    best = [command, *data, "--out", tmp_path / "best", "--preset", "best", "--image-size", 56]
    refused = run(*best, "--from", "cifar10", code=1)
    assert "--preset best goes on from efficientnet-lite0" in refused.stderr
    assert not (tmp_path / "best").exists()
    run(*best, "--epochs", 1, "--batch-size", 8)
    config = json.loads((tmp_path / "best" / "config.json").read_text())
    assert config["weights"] == "efficientnet-lite0"
    assert (config["augment"]["crop_padding"], config["augment"]["cutout"]) == (7, 24)
    assert (config["fit"]["epochs"], config["batch_size"]) == (1, 8)
    spec = config["embedder" if command == "train-embed" else "classifier"]
    assert (spec["backbone"], spec["image_size"]) == ("efficientnet-lite0", 56)


def test_presets_are_defaults_that_options_change(place: Path, tmp_path: Path) -> None:
    data = ["--dataset", place / "pictures", "--data-dir", place / "data"]
    run("train-embed", *data, "--out", tmp_path / "fast", "--preset", "fast", "--epochs", "1")
    config = json.loads((tmp_path / "fast" / "config.json").read_text())
    assert config["embedder"]["width"] == 32
    assert config["fit"]["epochs"] == 1
    epoch = json.loads((tmp_path / "fast" / "metrics.jsonl").read_text())
    assert {"positive_distance", "negative_distance", "spread", "effective_rank"} <= set(epoch)
