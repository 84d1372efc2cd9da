"""Every choice that a run can make, with its default, its range and its help: written once, here.

The command line builds its options from these fields, so an option's name is its field's name.
"""

import dataclasses
import json
import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from retrieval.errors import ConfigError

DISTANCES = ("l2", "l1", "cosine")


def choice(
    default: Any,
    help: str,
    *,
    choices: tuple[str, ...] | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
) -> Any:
    """A dataclass field that knows its help text and what it may be."""
    metadata = {"help": help, "choices": choices, "at_least": at_least, "at_most": at_most}
    return field(default=default, metadata=metadata)


class Checked:
    """Range checks and JSON for a frozen dataclass whose fields are made by ``choice``."""

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for item in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, item.name)
            _check_kind(item.name, hints[item.name], value)
            if value is not None:
                _check_choice(item, value)

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON types, nested configurations as nested dictionaries."""
        return typing.cast("dict[str, Any]", json.loads(json.dumps(dataclasses.asdict(self))))  # type: ignore[call-overload]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The configuration that ``to_dict`` wrote.

        Raises ConfigError for an unknown key, a value of another kind, or one out of range.
        """
        if not isinstance(values, Mapping):
            raise ConfigError(f"{cls.__name__} is {values!r}; it must be a mapping of its fields")
        hints = typing.get_type_hints(cls)
        unknown = sorted(set(values) - set(hints))
        if unknown:
            raise ConfigError(
                f"{cls.__name__} has no field {unknown[0]!r}; it has: {', '.join(hints)}"
            )
        return cls(**{name: _from_json(hints[name], value) for name, value in values.items()})


def _from_json(kind: Any, value: Any) -> Any:
    if dataclasses.is_dataclass(kind) and isinstance(value, dict):
        return kind.from_dict(value)  # type: ignore[union-attr]
    return tuple(value) if isinstance(value, list) else value


def _check_kind(name: str, kind: Any, value: Any) -> None:
    if not _is_of(kind, value):
        wanted = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
        what = wanted.get(kind, str(getattr(kind, "__name__", kind)))
        what = "numbers" if typing.get_origin(kind) is tuple else what
        raise ConfigError(f"{_option(name)} is {value!r}; it must be {what}")


def _is_of(kind: Any, value: Any) -> bool:
    if typing.get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(_is_of(float, number) for number in value)
    if kind in (int, float):  # True is an int to Python, and 3 will do for a float
        numbers = (int, float) if kind is float else int
        return isinstance(value, numbers) and not isinstance(value, bool) and math.isfinite(value)
    return isinstance(value, kind)


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _check_choice(item: dataclasses.Field[Any], value: Any) -> None:
    option = _option(item.name)
    choices, at_least, at_most = (item.metadata.get(k) for k in ("choices", "at_least", "at_most"))
    if choices and value not in choices:
        raise ConfigError(f"{option} is {value!r}; it can be {', '.join(choices)}")
    for number in value if isinstance(value, tuple) else (value,):
        if at_least is not None and number < at_least:
            raise ConfigError(f"{option} is {number}; it must be at least {at_least}")
        if at_most is not None and number > at_most:
            raise ConfigError(f"{option} is {number}; it must be at most {at_most}")


@dataclass(frozen=True)
class EmbedderSpec(Checked):
    """All that is needed to rebuild an embedder without its weights."""

    backbone: str = choice(
        "fast-resnet", "network: fast-resnet, resnet18, resnet34, resnet50, resnet101, resnet152"
    )
    width: int = choice(64, "channels of the first stage of fast-resnet", at_least=8, at_most=512)
    stem: str = choice(
        "small",
        "entry of a resnetN: small keeps the resolution (pictures up to about 64 px), stock is the "
        "7×7 stride-2 entry that pretrained weights need",
        choices=("small", "stock"),
    )
    pool: str = choice(
        "avgmax", "global pooling before the projection", choices=("avg", "max", "avgmax", "gem")
    )
    embedding_dim: int = choice(64, "numbers in an embedding", at_least=2, at_most=4096)
    output: str = choice(
        "unit",
        "unit scales embeddings to length 1; tanh bounds each number to (−1, 1) instead",
        choices=("unit", "tanh"),
    )
    distance: str = choice("l2", "distance to learn, and to search by", choices=DISTANCES)
    image_size: int = choice(32, "side of the square pictures that enter the network, in pixels",
                             at_least=8, at_most=1024)  # fmt: skip
    mean: tuple[float, ...] = choice((0.5, 0.5, 0.5), "mean of red, green, blue in [0, 1]")
    std: tuple[float, ...] = choice((0.25, 0.25, 0.25), "their standard deviation", at_least=0.001)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("mean", "std"):
            numbers = getattr(self, name)
            if len(numbers) != 3:
                raise ConfigError(f"--{name} has {len(numbers)} numbers; it must have 3")


@dataclass(frozen=True)
class AugmentConfig(Checked):
    """How a training picture is changed; each picture of a batch gets draws of its own."""

    flip: bool = choice(True, "mirror left to right, half of the time")
    crop_padding: int = choice(
        2, "shift by up to this many pixels, up, down, left and right", at_least=0, at_most=128
    )
    padding: str = choice(
        "reflect", "what fills the border of a shifted picture", choices=("reflect", "zero")
    )
    rotation: float = choice(
        0.0, "turn by up to this many degrees either way", at_least=0, at_most=180
    )
    rotation_angles: tuple[float, ...] = choice(
        (), "turn by one of these angles instead, in degrees, such as 0,90,180,270"
    )
    scale: float = choice(0.0, "zoom by a factor up to 1 ± this", at_least=0, at_most=0.9)
    brightness: float = choice(
        0.0, "change brightness by up to ± this share", at_least=0, at_most=1
    )
    contrast: float = choice(0.0, "change contrast by up to ± this share", at_least=0, at_most=1)
    saturation: float = choice(
        0.0, "change saturation by up to ± this share", at_least=0, at_most=1
    )
    hue: float = choice(0.0, "turn the hue by up to ± this share of the circle", at_least=0,
                         at_most=0.5)  # fmt: skip
    noise: float = choice(
        0.0, "add Gaussian noise of this standard deviation, of a range of 1", at_least=0, at_most=1
    )
    cutout: int = choice(0, "blank a square of this side, in pixels", at_least=0, at_most=1024)


@dataclass(frozen=True)
class LossConfig(Checked):
    """What training minimises: the sum of named terms."""

    margin: float = choice(
        0.2, "a negative should be this much farther than a positive", at_least=0, at_most=100
    )
    mining: str = choice(
        "semi-hard",
        "which triplets of a batch count",
        choices=("all", "random", "semi-hard", "hardest"),
    )
    max_triplets: int = choice(
        65536, "use at most this many triplets of a batch, drawn at random", at_least=1
    )
    triplet_weight: float = choice(1.0, "weight of the triplet loss", at_least=0)
    softmax_weight: float = choice(
        1.0,
        "weight of a normalised softmax over learnt class centres, which steadies the start "
        "(needs labels; 0 leaves it out)",
        at_least=0,
    )
    temperature: float = choice(0.1, "temperature of that softmax", at_least=0.001, at_most=10)
    label_smoothing: float = choice(
        0.1, "label smoothing of that softmax", at_least=0, at_most=0.99
    )
    norm_penalty: str = choice(
        "none", "penalty on the size of embeddings or weights", choices=("none", "l1", "l2")
    )
    norm_penalty_on: str = choice(
        "embeddings",
        "what it weighs: embeddings (before they are scaled to length 1) or weights",
        choices=("embeddings", "weights"),
    )
    norm_penalty_weight: float = choice(1e-4, "weight λ of that penalty", at_least=0)


@dataclass(frozen=True)
class FitConfig(Checked):
    """How the numbers are found: optimiser, schedule, precision, length."""

    epochs: int = choice(18, "passes over the training pictures", at_least=1)
    optimizer: str = choice(
        "nesterov",
        "update rule",
        choices=("sgd", "nesterov", "adagrad", "rmsprop", "adam", "adamw"),
    )
    lr: float = choice(0.3, "highest learning rate", at_least=1e-9, at_most=1000)
    momentum: float = choice(0.9, "momentum of sgd, nesterov, rmsprop", at_least=0, at_most=0.9999)
    weight_decay: float = choice(
        5e-4, "the optimiser's weight decay on convolutions and projections", at_least=0, at_most=1
    )
    schedule: str = choice(
        "onecycle",
        "course of the learning rate after warm-up: constant; step (÷10 at 50 % and 75 %); cosine "
        "to 0; onecycle (straight to 0)",
        choices=("constant", "step", "cosine", "onecycle"),
    )
    warmup: float = choice(0.2, "share of training in which it rises", at_least=0, at_most=0.9)
    clip_norm: float = choice(0.0, "clip gradients to this norm (0: never)", at_least=0)
    ema: float = choice(
        0.99, "average the weights, keeping this share each step (0: no averaging)",
        at_least=0, at_most=0.99999,
    )  # fmt: skip
    precision: str = choice(
        "auto",
        "auto takes bf16 where the hardware is fast at it",
        choices=("auto", "fp32", "bf16"),
    )
    seed: int = choice(0, "seed of all that is random", at_least=0, at_most=2**31 - 1)


@dataclass(frozen=True)
class TrainEmbedConfig(Checked):
    """A whole training run of an embedder."""

    dataset: str = choice(
        "cifar10",
        "cifar10, cifar100, mnist, fashion-mnist, digits, a folder of class folders, or a CSV file",
    )
    pairs: str = choice(
        "classes",
        "what a positive is: another picture of the same class, or another view of the same "
        "picture (needs no labels)",
        choices=("classes", "views"),
    )
    views: int = choice(1, "augmented views of each picture in a batch", at_least=1, at_most=16)
    batch_size: int = choice(128, "pictures in a batch, before views", at_least=4)
    classes_per_batch: int = choice(16, "classes in a batch (fewer if there are fewer)", at_least=2)
    validation: float = choice(
        0.05, "share of the training pictures held out to watch progress", at_least=0.0, at_most=0.5
    )
    weights: str | None = choice(None, "start from: imagenet, or a file of weights")
    embedder: EmbedderSpec = field(default_factory=EmbedderSpec)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    fit: FitConfig = field(default_factory=FitConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pairs == "views" and self.views < 2:
            raise ConfigError(
                f"--pairs views compares views of one picture, and --views is {self.views}; "
                "give --views 2 or more"
            )

    def with_values(self, values: Mapping[str, Any]) -> Self:
        """A copy in which the named fields, of this or of a nested configuration, are replaced."""
        parts: dict[str, Any] = {}
        own = {f.name for f in dataclasses.fields(self)}
        for name, part in ((n, getattr(self, n)) for n in ("embedder", "augment", "loss", "fit")):
            fields = {f.name for f in dataclasses.fields(part)}
            chosen = {k: v for k, v in values.items() if k in fields}
            parts[name] = dataclasses.replace(part, **chosen)
            own |= fields
        unknown = sorted(set(values) - own)
        if unknown:
            raise ConfigError(f"there is no setting {unknown[0]!r}; there are: {sorted(own)}")
        top = {f.name for f in dataclasses.fields(self)} - set(parts)
        return dataclasses.replace(self, **parts, **{k: v for k, v in values.items() if k in top})


# Where the defaults would not suit: digits mirrored or turned far become other digits.
DATASET_SETTINGS: dict[str, dict[str, Any]] = {
    "digits": {
        "image_size": 24,
        "width": 16,
        "flip": False,
        "crop_padding": 2,
        "padding": "zero",
        "rotation": 10.0,
        "scale": 0.1,
        "epochs": 12,
        "batch_size": 200,
        "validation": 0.15,
    },
    "mnist": {"flip": False, "width": 32, "epochs": 4, "padding": "zero"},
    "fashion-mnist": {"width": 32, "epochs": 10},
}
