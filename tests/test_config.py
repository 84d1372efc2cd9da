import dataclasses

import pytest

from retrieval.config import DATASET_SETTINGS, AugmentConfig, FitConfig, TrainEmbedConfig
from retrieval.errors import ConfigError


def test_json_round_trip_restores_nested_and_tuple_fields() -> None:
    config = TrainEmbedConfig().with_values(
        {"rotation_angles": (0.0, 90.0), "weights": "imagenet", "margin": 0.7, "pool": "gem"}
    )
    assert TrainEmbedConfig.from_dict(config.to_dict()) == config
    assert config.loss.margin == 0.7
    assert config.augment.rotation_angles == (0.0, 90.0)


def test_every_field_has_help_and_a_default_in_range() -> None:
    config = TrainEmbedConfig()
    parts = [config, config.embedder, config.augment, config.loss, config.fit]
    names = [f.name for part in parts for f in dataclasses.fields(part)]
    assert len(names) == len(set(names))  # one option each
    for part in parts:
        for field in dataclasses.fields(part):
            assert "help" in field.metadata or dataclasses.is_dataclass(getattr(part, field.name))


@pytest.mark.parametrize("name", DATASET_SETTINGS)
def test_settings_of_data_sets_are_settings(name: str) -> None:
    TrainEmbedConfig().with_values(DATASET_SETTINGS[name])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"pool": "mean"}, "--pool is 'mean'; it can be avg, max, avgmax, gem"),
        ({"epochs": 0}, "--epochs is 0; it must be at least 1"),
        ({"hue": 0.6}, "--hue is 0.6; it must be at most 0.5"),
        ({"lr": float("nan")}, "--lr is nan"),
        ({"epoch": 3}, "no setting 'epoch'"),
        ({"pairs": "views"}, "--views 2 or more"),
    ],
)
def test_values_out_of_range_are_named(values: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainEmbedConfig().with_values(values)


def test_unknown_keys_are_refused() -> None:
    with pytest.raises(ConfigError, match="FitConfig has no field 'steps'; it has: epochs"):
        FitConfig.from_dict({"steps": 3})
    with pytest.raises(ConfigError, match="AugmentConfig has no field"):
        TrainEmbedConfig.from_dict({"augment": {"flop": True}})
    with pytest.raises(dataclasses.FrozenInstanceError):
        AugmentConfig().flip = False  # type: ignore[misc]
