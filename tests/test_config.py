import dataclasses

import pytest

from retrieval.backbones import NAMES
from retrieval.cli.runs import suited
from retrieval.config import AugmentConfig, FitConfig
from retrieval.errors import ConfigError
from retrieval.presets import BACKBONE_SETTINGS, CLASSIFY_SETTINGS, DATASET_SETTINGS, PRESETS
from retrieval.run_config import TrainClassifyConfig, TrainEmbedConfig
from retrieval.specs import EmbedderSpec


def test_json_round_trip_restores_nested_and_tuple_fields() -> None:
    config = TrainEmbedConfig().with_values(
        {"rotation_angles": (0.0, 90.0), "weights": "imagenet", "margin": 0.7, "pool": "gem"}
    )
    assert TrainEmbedConfig.from_dict(config.to_dict()) == config
    assert config.objective.margin == 0.7
    assert config.augment.rotation_angles == (0.0, 90.0)


def test_every_field_has_help_and_a_default_in_range() -> None:
    config = TrainEmbedConfig()
    parts = [config, config.embedder, config.augment, config.objective, config.fit]
    names = [f.name for part in parts for f in dataclasses.fields(part)]
    assert len(names) == len(set(names))  # one option each
    for part in parts:
        for field in dataclasses.fields(part):
            nested = dataclasses.is_dataclass(getattr(part, field.name))
            # What a published network gives is not projected; in training there is no choice.
            assert "help" in field.metadata or nested or field.name == "projection"


@pytest.mark.parametrize("name", DATASET_SETTINGS)
def test_settings_of_data_sets_are_settings(name: str) -> None:
    TrainEmbedConfig().with_values(DATASET_SETTINGS[name])


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_settings(name: str) -> None:
    TrainEmbedConfig().with_values(PRESETS[name])


@pytest.mark.parametrize(
    ("preset", "values", "expected"),
    [
        ("default", {}, {"optimizer": "muon", "epochs": 15, "cutout": 8}),
        ("fast", {}, {"optimizer": "muon", "epochs": 7, "cutout": 0, "width": 32}),
        ("best", {}, {"weights": "efficientnet-lite0", "optimizer": "nesterov", "lr": 0.02}),
        ("best", {}, {"image_size": 224, "crop_padding": 28, "cutout": 96, "epochs": 22}),
        (
            "best",
            {"weights": "efficientnet-lite0", "image_size": 128},
            {"crop_padding": 16, "cutout": 55},
        ),
        ("best", {"backbone": "efficientnet-lite0"}, {"weights": "efficientnet-lite0"}),
        ("best", {"dataset": "digits"}, {"image_size": 224, "flip": False, "epochs": 22}),
        ("fast", {"backbone": "lenet"}, {"optimizer": "adamw", "epochs": 7}),
        ("fast", {"backbone": "googlenet"}, {"optimizer": "nesterov", "lr": 0.1, "cutout": 0}),
        ("default", {"dataset": "digits"}, {"optimizer": "muon", "epochs": 12, "cutout": 0}),
        # What has learnt before goes on more slowly.
        ("default", {"backbone": "resnet18", "weights": "imagenet"}, {"lr": 0.02}),
        ("default", {"weights": "efficientnet-lite0"}, {"lr": 0.02, "optimizer": "nesterov"}),
        ("default", {"backbone": "lenet", "weights": "x.pth"}, {"lr": 2e-4}),
        ("default", {"weights": "cifar10"}, {"lr": 0.148}),
        ("default", {"backbone": "resnet18"}, {"lr": 0.1}),
    ],
)
def test_the_preset_goes_before_fast_resnet_and_behind_other_networks(
    preset: str, values: dict, expected: dict
) -> None:
    found = suited(TrainClassifyConfig(), preset, values, CLASSIFY_SETTINGS)
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    TrainClassifyConfig().with_values(found | values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"backbone": "resnet18"},
            "--preset best goes on from efficientnet-lite0, and --backbone is",
        ),
        ({"weights": "cifar10"}, "and --weights is cifar10; leave out one of them"),
    ],
)
def test_a_preset_that_goes_on_from_a_network_goes_with_no_other(
    values: dict, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        suited(TrainEmbedConfig(), "best", values, BACKBONE_SETTINGS)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"pool": "mean"}, "--pool is 'mean'; it can be avg, max, avgmax, gem"),
        ({"epochs": 0}, "--epochs is 0; it must be at least 1"),
        ({"margin": 0.0}, "--margin is 0.0; it must be at least 0.001"),
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


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"fit": {"epochs": "ten"}}, "--epochs is 'ten'; it must be a whole number"),
        ({"fit": {"epochs": 2.5}}, "--epochs is 2.5; it must be a whole number"),
        ({"fit": {"epochs": None}}, "--epochs is None; it must be a whole number"),
        ({"fit": {"epochs": True}}, "--epochs is True; it must be a whole number"),
        ({"fit": {"lr": "fast"}}, "--lr is 'fast'; it must be a number"),
        ({"augment": {"flip": 1}}, "--flip is 1; it must be true or false"),
        ({"augment": {"rotation_angles": 90}}, "--rotation-angles is 90; it must be numbers"),
        ({"augment": {"rotation_angles": ["a"]}}, "it must be numbers"),
        ({"objective": {"loss_weight": float("inf")}}, "--loss-weight is inf"),
        ({"embedder": {"pool": ["avg"]}}, r"--pool is \('avg',\); it must be a text"),
        ({"embedder": {"mean": [0.5, 0.5]}}, "--mean has 2 numbers; it must have 3"),
        ({"embedder": {"std": [0, 1, 1]}}, "--std is 0; it must be at least 0.001"),
        ({"weights": 3}, "--weights is 3; it must be str | None"),
        ({"fit": None}, "--fit is None; it must be FitConfig"),
        ({"fit": 3}, "--fit is 3; it must be FitConfig"),
    ],
)
def test_values_of_another_kind_are_named(values: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("|", r"\|")):
        TrainEmbedConfig.from_dict(values)


@pytest.mark.parametrize("values", [[], None, 3, "epochs"])
def test_what_is_no_mapping_is_refused(values) -> None:
    with pytest.raises(ConfigError, match="it must be a mapping"):
        FitConfig.from_dict(values)


def test_what_is_left_out_takes_its_default_and_whole_numbers_do_for_others() -> None:
    assert TrainEmbedConfig.from_dict({}) == TrainEmbedConfig()
    config = TrainEmbedConfig.from_dict({"fit": {"epochs": 3}, "embedder": {"mean": [0, 1, 0]}})
    assert config.fit == FitConfig(epochs=3)
    assert config.embedder == EmbedderSpec(mean=(0, 1, 0))
    assert TrainEmbedConfig.from_dict({"weights": None}).weights is None


def test_values_at_the_ends_of_their_range_are_taken() -> None:
    assert AugmentConfig(hue=0.5).hue == 0.5
    assert FitConfig(epochs=1).epochs == 1


def test_a_classifier_on_each_network_has_settings_of_its_own() -> None:
    assert set(CLASSIFY_SETTINGS) == set(NAMES)
