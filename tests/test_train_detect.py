"""Training a detector: figures, resuming, and what it can begin from."""

import dataclasses
import json
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from boxed import squares
from one_cell import OneCell, one_cell  # noqa: F401
from PIL import Image

from retrieval.classifier import Classifier
from retrieval.detection.detection_report import evaluate_detector
from retrieval.errors import CheckpointError, ConfigError, DataError, TrainingError
from retrieval.network_files import load_detector, save_network
from retrieval.run_config import TrainDetectConfig
from retrieval.specs import ClassifierSpec, DetectorSpec
from retrieval.train_detect import (
    Listener,
    detecting_task,
    initial_detector,
    run_at,
    take_weights,
    train_detect,
    validate,
)

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("one_cell", "draw_no_curves")


def config_of(**values: object) -> TrainDetectConfig:
    plain = TrainDetectConfig(validation=0.25)
    small = {
        "backbone": "lenet", "batch_norm": True, "stem": "small", "image_size": 64, "epochs": 3,
        "batch_size": 8, "precision": "fp32", "optimizer": "adam", "lr": 3e-3,
    }  # fmt: skip
    return plain.with_values({**small, **values})


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_detector(folder).state_dict()


def test_a_whole_run_learns_and_keeps_what_it_says(tmp_path: Path) -> None:
    run, records = run_at(tmp_path / "run"), []
    data = squares(28, empty=4)
    listener = Listener(on_epoch=records.append)
    config = config_of(epochs=4, lr=0.01)
    assert train_detect(config, data, run, device=CPU, listener=listener)
    assert [r["epoch"] for r in records] == [1, 2, 3, 4]
    assert records[-1]["loss"] == pytest.approx(
        records[-1]["loss/class"] + records[-1]["loss/box"], rel=1e-5
    )
    assert records[-1]["loss"] < records[0]["loss"]
    assert {p.name for p in run.folder.iterdir()} == {
        "config.json", "curves.png", "last.pt", "metrics.jsonl", "model.safetensors"
    }  # fmt: skip
    assert run.config() == config
    assert json.loads((run.folder / "metrics.jsonl").read_text().splitlines()[-1]) == records[-1]
    # The figure of the best epoch is that of the detector which was kept, on the same pictures.
    _, held_out = data.holdout(0.25, 0)
    best = max(r["map_50"] for r in records)
    assert best > 0
    detector = load_detector(run.folder)
    assert evaluate_detector(detector, held_out).map_50 == pytest.approx(best)
    assert isinstance(detector, OneCell)
    assert detector.shown == 21  # what ``complete`` was given


@pytest.mark.parametrize("given", [False, True])
def test_an_interrupted_run_ends_bit_for_bit_as_if_it_had_not_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: bool
) -> None:
    file = tmp_path / "given.safetensors"
    spec = DetectorSpec(backbone="lenet", batch_norm=True, image_size=64, mean=(0.1, 0.2, 0.3))
    save_network(OneCell(dataclasses.replace(spec, classes=("red", "blue"))), file)
    data, config = squares(24), config_of(weights=str(file) if given else None)
    whole, parts = run_at(tmp_path / "whole"), run_at(tmp_path / "parts")
    train_detect(config, data, whole, device=CPU)

    def interrupt(done: int, total: int) -> None:
        if done in (2, 5):
            signal.raise_signal(signal.SIGINT)

    listener = Listener(on_step=interrupt)
    assert not train_detect(config, data, parts, device=CPU, listener=listener)
    file.unlink()  # all is in the state
    assert not train_detect(config, data, parts, device=CPU, resume=True, listener=listener)
    assert train_detect(config, data, parts, device=CPU, resume=True)
    one, other = weights_of(whole.folder), weights_of(parts.folder)
    assert all(torch.equal(one[name], other[name]) for name in one)
    # Once more changes nothing.
    assert train_detect(config, data, parts, device=CPU, resume=True)
    again = weights_of(parts.folder)
    assert all(torch.equal(one[name], again[name]) for name in one)


def test_the_backbone_of_a_classifier_is_taken(tmp_path: Path) -> None:
    spec = ClassifierSpec(
        backbone="lenet", batch_norm=True, classes=("a", "b"), mean=(0.1, 0.2, 0.3)
    )
    classifier = Classifier(spec)
    save_network(classifier, tmp_path / "c.safetensors")
    config = config_of(weights=str(tmp_path / "c.safetensors"), backbone="tiny", batch_norm=False)
    detector = initial_detector(config, squares(4), print)
    assert detector.spec.backbone == "lenet"
    assert detector.spec.mean == spec.mean
    assert detector.spec.image_size == 64
    given = classifier.backbone.state_dict()
    assert all(torch.equal(v, given[n]) for n, v in detector.backbone.state_dict().items())


def test_of_a_detector_all_is_taken_that_fits(tmp_path: Path) -> None:
    spec = DetectorSpec(backbone="lenet", batch_norm=True, image_size=64, classes=("red", "blue"))
    trained, file = OneCell(spec), tmp_path / "d.safetensors"
    save_network(trained, file)
    notices: list[str] = []
    detector = initial_detector(config_of(weights=str(file)), squares(4), notices.append)
    given = trained.state_dict()
    assert all(torch.equal(v, given[n]) for n, v in detector.state_dict().items())
    assert notices == []
    other = initial_detector(config_of(weights=str(file)), squares(4, classes=1), notices.append)
    assert other.spec.classes == ("red",)
    taken = other.backbone.state_dict()
    assert all(torch.equal(v, given[f"backbone.{n}"]) for n, v in taken.items())
    assert "all weights but 2, such as head.weight" in notices[0]
    assert take_weights(OneCell(spec), trained) == []


def test_a_run_is_not_resumed_with_pictures_that_have_changed(tmp_path: Path) -> None:
    data, run = squares(6), run_at(tmp_path / "run")
    train_detect(config_of(epochs=1), data, run, device=CPU)
    assert train_detect(config_of(epochs=1), data, run, device=CPU, resume=True)
    dark = dataclasses.replace(data, pictures=tuple(p // 2 for p in data.pictures))
    with pytest.raises(TrainingError, match="started with the checksum"):
        train_detect(config_of(epochs=1), dark, run, device=CPU, resume=True)
    for number, picture in enumerate(data.pictures):
        Image.fromarray(picture).save(tmp_path / f"{number}.png")
    files = dataclasses.replace(data, pictures=tuple(tmp_path / f"{n}.png" for n in range(6)))
    before = files.checksum()
    assert before == files.checksum() != data.checksum()
    Image.fromarray(dark.pictures[3]).save(tmp_path / "3.png")
    assert files.checksum() != before
    assert files.subset(np.arange(0)).checksum()


def test_what_cannot_be_trained_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_at(tmp_path / "run")
    with pytest.raises(DataError, match="none of the 3 pictures of squares"):
        train_detect(config_of(), squares(4, empty=4), run, device=CPU)
    with pytest.raises(ConfigError, match="--freeze names 'x'"):
        train_detect(config_of(freeze="x"), squares(4), run, device=CPU)
    wrong = config_of(weights=str(tmp_path / "none"), backbone="resnet18", batch_norm=False)
    with pytest.raises(CheckpointError):
        train_detect(wrong.with_values({"stem": "stock"}), squares(4), run, device=CPU)
    broken = dataclasses.replace(squares(4), pictures=(tmp_path / "none.png",) * 4)
    with pytest.raises(DataError, match=r"none\.png cannot be read"):
        train_detect(config_of(), broken, run, device=CPU)
    with pytest.raises(DataError, match="learns from masks, and squares has objects without"):
        train_detect(config_of(model="mask-rcnn"), squares(4), run, device=CPU)
    assert not run.folder.exists()
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="without torchrun"):
        train_detect(config_of(), squares(4), run, device=CPU)


def test_without_objects_to_watch_the_last_epoch_is_kept(tmp_path: Path) -> None:
    run, records = run_at(tmp_path / "run"), []
    listener = Listener(on_epoch=records.append)
    train_detect(
        config_of(validation=0.0, epochs=2), squares(8), run, device=CPU, listener=listener
    )
    assert "map_50" not in records[-1]
    state = run.load_state()
    assert state is not None
    kept = weights_of(run.folder)
    assert all(torch.equal(v, kept[n]) for n, v in state["module"].items() if n != "shown")


def test_crowds_are_no_objects_to_learn_from_or_to_watch(tmp_path: Path) -> None:
    data = squares(8)
    crowds = tuple(dataclasses.replace(o, crowd=np.ones(1, bool)) for o in data.objects)
    crowded = dataclasses.replace(data, objects=crowds)
    with pytest.raises(
        DataError, match="shows an object; a detector needs pictures with boxes, not"
    ):
        train_detect(config_of(), crowded, run_at(tmp_path / "run"), device=CPU)
    assert not (tmp_path / "run").exists()
    detector = initial_detector(config_of(), data, print)
    assert validate(detector, crowded) == {}
    with pytest.raises(ConfigError, match=r"too few objects among them \(0, and it needs 1\)"):
        detecting_task(config_of(patience=1), data, crowded, CPU)
    assert validate(detector, dataclasses.replace(data, objects=(*crowds[1:], data.objects[0])))


@pytest.mark.parametrize(("given", "used"), [(None, 1.0), (3.0, 3.0)])
def test_heads_learn_at_the_rate_that_is_given(given: float | None, used: float) -> None:
    config = config_of()
    config = dataclasses.replace(config, fit=dataclasses.replace(config.fit, head_lr=given))
    task = detecting_task(config, *squares(8).holdout(0.25, 0), CPU, print)
    assert task.head_lr == used
    assert sum(len(list(m.parameters())) for m in task.head) > 0


def test_frozen_parts_stay_as_they_were(tmp_path: Path) -> None:
    run = run_at(tmp_path / "run")
    config = config_of(epochs=1, weight_decay=0.1)
    parts = [
        name for name, _ in initial_detector(config, squares(8), print).backbone.named_children()
    ]
    frozen = dataclasses.replace(config, freeze=",".join(parts))
    torch.manual_seed(config.fit.seed)
    before = initial_detector(frozen, squares(8).holdout(0.25, 0)[0], print)
    train_detect(frozen, squares(8), run, device=CPU)
    after = load_detector(run.folder)
    for name, value in before.backbone.state_dict().items():
        assert torch.equal(after.backbone.state_dict()[name], value), name
    assert not np.allclose(after.state_dict()["head.weight"], before.state_dict()["head.weight"])
