import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from test_train_embed import SMALL, stripes
from torch import nn

from retrieval.batches import small_epochs
from retrieval.cli import main
from retrieval.labeled_images import LabeledImages
from retrieval.run_config import TrainEmbedConfig
from retrieval.train_embed import embedding_task
from retrieval.trial import Trial, flops_per_picture, try_training

CPU = torch.device("cpu")


def test_flops_equal_a_count_by_hand() -> None:
    module = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.Flatten(), nn.Linear(5 * 64, 7))
    expected = 2 * (8 * 8 * 5 * 3 * 9) + 2 * (5 * 64 * 7)
    assert flops_per_picture(module, 8, CPU) == expected
    assert module.training


def trial_of(config: TrainEmbedConfig, data: LabeledImages) -> Trial:
    fitting, held_out = data.holdout(config.validation, config.fit.seed)
    task = embedding_task(config, fitting, held_out, CPU)
    rows = len(task.batches(0, 0)[1])
    return try_training(task, config, len(fitting), rows, small_epochs=small_epochs(config))


def test_a_trial_measures_and_leaves_no_trace() -> None:
    config = TrainEmbedConfig().with_values({**SMALL, "views": 2, "epochs": 9, "small_first": 0.25})
    trial = trial_of(config, stripes())
    assert trial.pictures == 128  # a fifth is held out
    assert trial.batch == 64
    assert trial.steps_per_epoch == 4
    assert trial.epochs == 9
    assert 0 < trial.data_seconds < trial.step_seconds
    # Two of the nine epochs see small pictures; at 17 pixels these are no smaller.
    assert trial.small_epochs == 2
    assert trial.total_seconds == pytest.approx(trial.step_seconds * 4 * 9)
    assert trial.total_flops == 3 * trial.flops_per_picture * 64 * 4 * 9
    assert trial.parameters > trial.trained_parameters > 0
    assert trial.peak_memory_bytes > 2**20
    assert all(text for _, text in trial.lines())


def test_epochs_of_small_pictures_count_for_less() -> None:
    images = np.random.default_rng(0).integers(0, 256, (60, 32, 32, 3), np.uint8)
    data = LabeledImages("noise", images, np.arange(60) % 3, ("a", "b", "c"))
    settings = {**SMALL, "epochs": 10, "small_first": 0.4}
    trial = trial_of(TrainEmbedConfig().with_values(settings), data)
    assert trial.small_epochs == 4
    share = trial.total_seconds / (trial.epoch_seconds * 10)
    assert 0.75 < share < 0.85  # 6 whole ones, 4 of about half the work
    assert trial.runs == 1


def test_the_timed_batches_are_whole_pictures_and_runs_add_up() -> None:
    images = np.random.default_rng(0).integers(0, 256, (60, 32, 32, 3), np.uint8)
    data = LabeledImages("noise", images, np.arange(60) % 3, ("a", "b", "c"))
    config = TrainEmbedConfig().with_values({**SMALL, "epochs": 10, "small_first": 0.9})
    task = embedding_task(config, data, data, CPU)
    sides: list[int] = []

    def look(module: nn.Module, given: tuple[torch.Tensor]) -> None:
        if module.training:  # and not when operations are counted
            sides.append(given[0].shape[-1])

    task.module.register_forward_pre_hook(look)
    trial = try_training(task, config, 60, 20, small_epochs=9, runs=5)
    assert sides == [32, 32, 32]
    small = flops_per_picture(task.module, 24, CPU) / trial.flops_per_picture
    epochs = 5 * (1 + 9 * small)
    assert trial.total_seconds == pytest.approx(trial.epoch_seconds * epochs)
    flops = 3 * trial.flops_per_picture * 20 * trial.steps_per_epoch * epochs
    assert trial.total_flops == pytest.approx(flops)
    assert "5 runs of 10 epochs" in dict(trial.lines())["all epochs"]


def test_the_command_prints_and_keeps_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    quick = ["train-embed", "--dataset", "digits", "--width", "8", "--dry-run"]
    result = CliRunner().invoke(main, [*quick, "--json"])
    assert result.exit_code == 0, result.output
    assert set(json.loads(result.stdout)) == {f.name for f in dataclasses.fields(Trial)}
    assert not (tmp_path / "runs").exists()
    assert "FLOPs per picture" in CliRunner().invoke(main, quick).stdout
    classify = ["train-classify", "--dataset", "digits", "--backbone", "lenet", "--channels", "1"]
    assert "FLOPs per picture" in CliRunner().invoke(main, [*classify, "--dry-run"]).stdout
    assert not (tmp_path / "runs").exists()
