"""The parts of a run that have choices of their own: augmentation, losses, the course of training.

Each choice has its default, its range and its help, written once; an option's name is its field's name.
"""

from dataclasses import dataclass

from retrieval.errors import ConfigError
from retrieval.settings import Checked, choice

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
class BoxAugmentConfig(Checked):
    """How a training picture is changed together with its boxes; each has draws of its own."""

    flip: bool = choice(True, "mirror left to right, by a coin for each picture")
    zoom_out: float = choice(
        1.0, "put half of the pictures on a grey ground of up to this many times the side (1: never)",
        at_least=1, at_most=8,
    )  # fmt: skip
    iou_crop: float = choice(
        0.0,
        "share of pictures cut to a random part that keeps some box well in sight, as SSD does",
        at_least=0,
        at_most=1,
    )
    scale_jitter: tuple[float, ...] = choice(
        (1.0, 1.0),
        "resize by a factor between these two, such as 0.5,1.5; what is too large is cut at random",
        at_least=0.1,
        at_most=4,
    )
    brightness: float = choice(
        0.1, "change brightness by up to ± this share", at_least=0, at_most=1
    )
    contrast: float = choice(0.1, "change contrast by up to ± this share", at_least=0, at_most=1)
    saturation: float = choice(
        0.1, "change saturation by up to ± this share", at_least=0, at_most=1
    )
    hue: float = choice(0.02, "turn the hue by up to ± this share of the circle", at_least=0,
                        at_most=0.5)  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.scale_jitter) != 2 or self.scale_jitter[0] > self.scale_jitter[1]:
            raise ConfigError(
                f"--scale-jitter is {','.join(f'{x:g}' for x in self.scale_jitter)}; it must be two "
                "factors, the smaller one first, such as 0.5,1.5"
            )


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
        at_least=0.001,
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
        "update rule; muon is nesterov, but filters of convolutions turn in all directions alike "
        "(goes well with --averaging none --warmup 0)",
        choices=("sgd", "nesterov", "muon", "adagrad", "rmsprop", "adam", "adamw"),
    )
    lr: float = choice(0.37, "highest learning rate", at_least=1e-9, at_most=1000)
    head_lr: float | None = choice(
        None,
        "learning rate of the head and the loss, as a multiple of the rest's (without it: 1)",
        at_least=0.001,
        at_most=1000,
    )
    momentum: float = choice(
        0.85, "momentum of sgd, nesterov, muon (but filters), rmsprop", at_least=0, at_most=0.9999
    )
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
