import dataclasses
import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from test_train_embed import SMALL, stripes
from torch import nn

from retrieval.cli import main
from retrieval.config import TrainEmbedConfig
from retrieval.trial import flops_per_picture, try_training

CPU = torch.device("cpu")


def test_flops_equal_a_count_by_hand() -> None:
    module = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.Flatten(), nn.Linear(5 * 64, 7))
    expected = 2 * (8 * 8 * 5 * 3 * 9) + 2 * (5 * 64 * 7)
    assert flops_per_picture(module, 8, CPU) == expected
    assert module.training


def test_a_trial_measures_and_leaves_no_trace() -> None:
    config = TrainEmbedConfig().with_values({**SMALL, "views": 2, "epochs": 9})
    data = stripes()
    trial = try_training(config, data, CPU)
    assert trial.pictures == 128  # a fifth is held out
    assert trial.batch == 64
    assert trial.steps_per_epoch == 4
    assert trial.epochs == 9
    assert 0 < trial.data_seconds < trial.step_seconds
    assert trial.total_seconds == pytest.approx(trial.step_seconds * 4 * 9)
    assert trial.total_flops == 3 * trial.flops_per_picture * 64 * 4 * 9
    assert trial.parameters > trial.trained_parameters > 0
    assert trial.peak_memory_bytes > 2**20
    assert all(text for _, text in trial.lines())


def test_the_command_prints_and_keeps_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    quick = ["train-embed", "--dataset", "digits", "--width", "8", "--dry-run"]
    result = CliRunner().invoke(main, [*quick, "--json"])
    assert result.exit_code == 0, result.output
    assert set(json.loads(result.stdout)) == {f.name for f in dataclasses.fields(_trial_type())}
    assert not (tmp_path / "runs").exists()
    assert "FLOPs per picture" in CliRunner().invoke(main, quick).stdout


def _trial_type() -> type:
    from retrieval.trial import Trial

    return Trial
