"""Whole training runs: what is learnt from, what is trained, and how. Saved in the run folder.

The command line builds its options from these fields and from those of their parts.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from retrieval.config import AugmentConfig, BoxAugmentConfig, ClassLossConfig, FitConfig, LossConfig
from retrieval.errors import ConfigError
from retrieval.settings import Checked, choice
from retrieval.specs import ClassifierSpec, DetectorSpec, EmbedderSpec, NetworkSpec


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
        "start from: imagenet, a file of torchvision's, or a run or model file of ours (embedder, "
        "classifier or detector), whose network and mean and deviation are then taken too",
        also="--from",
    )
    freeze: str = choice(
        "", "parts of the backbone that keep their weights, by name, such as stem,layer1,layer2"
    )
    freeze_batch_norm: bool = choice(
        False, "batch normalisation keeps the statistics and weights that it started with"
    )

    fit: FitConfig = field(default_factory=FitConfig)

    @property
    def network(self) -> NetworkSpec:
        """What is trained."""
        raise NotImplementedError

    def check_held_out(self, found: int, what: str = "pictures", *, needed: int = 1) -> None:
        """Raises ConfigError where something waits for figures that what is held out cannot give."""
        if self.fit.patience and found < needed:
            raise ConfigError(
                f"--patience {self.fit.patience} watches held-out pictures, and there are too few "
                f"{what} among them ({found}, and it needs {needed}): raise --validation (now "
                f"{self.validation:g}), add pictures, or leave it out"
            )

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


def _small_first() -> float:
    return choice(
        0.0,
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
    small_first: float = _small_first()
    stop_on_collapse: bool = choice(
        True, "end the run where the embedding has collapsed, instead of only warning"
    )
    augment: AugmentConfig = field(default_factory=AugmentConfig)
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
    small_first: float = _small_first()
    augment: AugmentConfig = field(default_factory=AugmentConfig)
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


@dataclass(frozen=True)
class TrainDetectConfig(TrainConfig):
    """A whole training run of a detector."""

    dataset: str = choice(
        "scenes",
        "scenes (made on the fly; scenes:star+circle, or scenes:FOLDER to paste its pictures), or "
        "pictures with boxes: a COCO JSON file, a CSV file, a data.yaml of YOLO, or a folder with one "
        "of these or with Pascal VOC files",
    )
    batch_size: int = choice(16, "pictures in a batch", at_least=1)
    validation: float = choice(
        0.1, "share of the training pictures held out to watch progress", at_least=0.0, at_most=0.5
    )
    augment: BoxAugmentConfig = field(default_factory=BoxAugmentConfig)
    fit: FitConfig = field(
        default_factory=lambda: FitConfig(
            epochs=20, optimizer="adamw", lr=2e-3, weight_decay=0.01, schedule="cosine", warmup=0.1,
            clip_norm=5.0, averaging="none",
        )
    )  # fmt: skip
    detector: DetectorSpec = field(default_factory=DetectorSpec)

    @property
    def network(self) -> DetectorSpec:
        """What is trained."""
        return self.detector
