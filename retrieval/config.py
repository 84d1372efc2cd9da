"""Every choice that a run can make, with its default, its range and its help: written once, here.

The command line builds its options from these fields, so an option's name is its field's name.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from retrieval.errors import ConfigError
from retrieval.settings import Checked, choice
from retrieval.specs import ClassifierSpec, EmbedderSpec, NetworkSpec

MINING = ("all", "random", "semi-hard", "hardest", "easy-positive", "distance-weighted")


@dataclass(frozen=True)
class AugmentConfig(Checked):
    """How a training picture is changed; each picture of a batch gets draws of its own."""

    flip: bool = choice(
        True,
        "mirror left to right: each picture in every other epoch, which one is drawn at the start",
    )
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

    loss: str = choice(
        "triplet",
        "main term: triplet; softmax (nothing beside the softmax below); contrastive, "
        "multi-similarity, supcon, proxy-anchor, or the name of a class of pytorch-metric-learning "
        "(these need: pip install 'retrieval[losses]')",
    )
    loss_weight: float = choice(0.2, "weight of that term", at_least=0)
    loss_options: str = choice(
        "{}",
        """settings of a loss of pytorch-metric-learning, such as '{"alpha": 2, "beta": 40}'""",
    )
    margin: float = choice(
        0.2,
        "triplet: a negative should be this much farther than a positive",
        at_least=0,
        at_most=100,
    )
    mining: str | None = choice(
        None,
        "which triplets of a batch count: "
        + ", ".join(MINING)
        + ", or a miner of pytorch-metric-learning by the name of its class (without it: semi-hard "
        "for triplet, all pairs for the other losses)",
    )
    max_triplets: int = choice(
        65536, "use at most this many triplets of a batch, drawn at random", at_least=1
    )
    memory: int = choice(
        0,
        "compare also with this many embeddings of past batches (losses of pytorch-metric-learning; "
        "0: none)",
        at_least=0,
    )
    softmax_weight: float = choice(
        1.0,
        "weight of a softmax over learnt class centres, which steadies the start "
        "(needs labels; 0 leaves it out)",
        at_least=0,
    )
    classifier: str = choice(
        "linear",
        "what that softmax is over: linear, dot products of raw embeddings with the centres; cosine, "
        "cosines of the angles between them",
        choices=("linear", "cosine"),
    )
    temperature: float | None = choice(
        None,
        "what they are divided by (without it: 9 for linear, 0.1 for cosine)",
        at_least=0.001,
        at_most=1000,
    )
    label_smoothing: float = choice(
        0.2, "label smoothing of that softmax", at_least=0, at_most=0.99
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

    epochs: int = choice(16, "passes over the training pictures", at_least=1)
    optimizer: str = choice(
        "nesterov",
        "update rule",
        choices=("sgd", "nesterov", "adagrad", "rmsprop", "adam", "adamw"),
    )
    lr: float = choice(0.37, "highest learning rate", at_least=1e-9, at_most=1000)
    head_lr: float | None = choice(
        None,
        "learning rate of the head and the loss, as a multiple of the rest's (without it: 10 with "
        "--weights, else 1)",
        at_least=0.001,
        at_most=1000,
    )
    momentum: float = choice(0.85, "momentum of sgd, nesterov, rmsprop", at_least=0, at_most=0.9999)
    weight_decay: float = choice(
        1.3e-3,
        "the optimiser's weight decay on convolutions and projections",
        at_least=0,
        at_most=1,
    )
    schedule: str = choice(
        "onecycle",
        "course of the learning rate after warm-up: constant; step (÷10 at 50 % and 75 %); cosine "
        "to 0; onecycle (straight to 0)",
        choices=("constant", "step", "cosine", "onecycle"),
    )
    warmup: float = choice(0.23, "share of training in which it rises", at_least=0, at_most=0.9)
    clip_norm: float = choice(0.0, "clip gradients to this norm (0: never)", at_least=0)
    averaging: str = choice(
        "lookahead",
        "average the weights over steps: ema; lookahead, which also goes on from the average every "
        "five steps; none",
        choices=("none", "ema", "lookahead"),
    )
    ema: float = choice(
        0.99, "share of the average that ema keeps each step", at_least=0.5, at_most=0.99999
    )
    precision: str = choice(
        "auto",
        "auto takes bf16 where the hardware is fast at it",
        choices=("auto", "fp32", "bf16"),
    )
    patience: int = choice(
        0,
        "stop when the figure on held-out pictures has not risen for this many epochs (0: never)",
        at_least=0,
    )
    seed: int = choice(0, "seed of all that is random", at_least=0, at_most=2**31 - 1)


@dataclass(frozen=True)
class ClassLossConfig(Checked):
    """What training a classifier minimises: cross-entropy, and a penalty on weights."""

    label_smoothing: float = choice(
        0.0, "share of each label that is spread over all classes", at_least=0, at_most=0.99
    )
    class_weights: str = choice(
        "none",
        "balanced lets each class count the same, however many pictures it has",
        choices=("none", "balanced"),
    )
    norm_penalty: str = choice(
        "none", "penalty on the size of weights", choices=("none", "l1", "l2")
    )
    norm_penalty_weight: float = choice(1e-4, "weight λ of that penalty", at_least=0)


@dataclass(frozen=True)
class TrainConfig(Checked):
    """What every training run has."""

    dataset: str = choice(
        "cifar10",
        "cifar10, cifar100, mnist, fashion-mnist, digits, a folder of class folders, or a CSV file",
    )
    batch_size: int = choice(250, "pictures in a batch, before views", at_least=4)
    validation: float = choice(
        0.05, "share of the training pictures held out to watch progress", at_least=0.0, at_most=0.5
    )
    weights: str | None = choice(
        None,
        "start from: imagenet, a file of torchvision's, or a run or model file of ours, embedder or "
        "classifier, whose network and mean and deviation are then taken too",
        also="--from",
    )
    freeze: str = choice(
        "", "parts of the backbone that keep their weights, by name, such as stem,layer1,layer2"
    )
    freeze_batch_norm: bool = choice(
        False, "batch normalisation keeps the statistics and weights that it started with"
    )

    augment: AugmentConfig = field(default_factory=AugmentConfig)
    fit: FitConfig = field(default_factory=FitConfig)

    @property
    def network(self) -> NetworkSpec:
        """What is trained."""
        raise NotImplementedError

    def with_values(self, values: Mapping[str, Any]) -> Self:
        """A copy in which the named fields, of this or of a nested configuration, are replaced."""
        own = {f.name for f in dataclasses.fields(self)}
        parts = {n: getattr(self, n) for n in own if isinstance(getattr(self, n), Checked)}
        changed: dict[str, Any] = {}
        for name, part in parts.items():
            fields = {f.name for f in dataclasses.fields(part)}
            chosen = {k: v for k, v in values.items() if k in fields}
            changed[name] = dataclasses.replace(part, **chosen)
            own |= fields
        unknown = sorted(set(values) - own)
        if unknown:
            raise ConfigError(f"there is no setting {unknown[0]!r}; there are: {sorted(own)}")
        top = {f.name for f in dataclasses.fields(self)} - set(parts)
        return dataclasses.replace(self, **changed, **{k: v for k, v in values.items() if k in top})


def _small_first(share: float) -> float:
    return choice(
        share,
        "share of the epochs, the first, in which pictures are shrunk to three quarters of their side, "
        "which is half the work",
        at_least=0,
        at_most=0.9,
    )


@dataclass(frozen=True)
class TrainEmbedConfig(TrainConfig):
    """A whole training run of an embedder."""

    pairs: str = choice(
        "classes",
        "what a positive is: another picture of the same class, or another view of the same "
        "picture (needs no labels)",
        choices=("classes", "views"),
    )
    views: int = choice(1, "augmented views of each picture in a batch", at_least=1, at_most=16)
    classes_per_batch: int = choice(16, "classes in a batch (fewer if there are fewer)", at_least=2)
    small_first: float = _small_first(0.25)
    stop_on_collapse: bool = choice(
        True, "end the run where the embedding has collapsed, instead of only warning"
    )
    embedder: EmbedderSpec = field(default_factory=EmbedderSpec)
    objective: LossConfig = field(default_factory=LossConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pairs == "views" and self.views < 2:
            raise ConfigError(
                f"--pairs views compares views of one picture, and --views is {self.views}; "
                "give --views 2 or more"
            )

    @property
    def network(self) -> EmbedderSpec:
        """What is trained."""
        return self.embedder


@dataclass(frozen=True)
class TrainClassifyConfig(TrainConfig):
    """A whole training run of a classifier."""

    init: str = choice(
        "network",
        "initial weights: network (as the network was published), normal (deviation 0.01), constant, "
        "xavier, kaiming",
        choices=("network", "normal", "constant", "xavier", "kaiming"),
    )
    mixup: float = choice(
        0.0, "mix pictures and labels of pairs by shares from Beta(α, α) (0: never)",
        at_least=0, at_most=10,
    )  # fmt: skip
    cutmix: float = choice(
        0.0,
        "paste a part of another picture, and of its label, of an area from Beta(α, α) (0: never); "
        "with mixup, each batch takes one of the two",
        at_least=0,
        at_most=10,
    )
    reuse_classes: bool = choice(
        False,
        "with --from CLASSIFIER: classes that it knew keep their row of the last layer (and hidden "
        "layers are kept); otherwise the head is new",
    )
    folds: int = choice(
        0, "cross-validate: train this many times, each on all but one part (0: no)",
        at_least=0, at_most=100,
    )  # fmt: skip
    small_first: float = _small_first(0.0)
    classifier: ClassifierSpec = field(default_factory=ClassifierSpec)
    objective: ClassLossConfig = field(default_factory=ClassLossConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.folds == 1:
            raise ConfigError("--folds is 1; it must be at least 2, or 0 for a single run")

    @property
    def network(self) -> ClassifierSpec:
        """What is trained."""
        return self.classifier
