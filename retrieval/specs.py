"""What a network is, apart from its weights: enough to rebuild it. Saved beside the weights.

Each field is an option of the command line, with its default, range and help.
"""

import dataclasses
from dataclasses import dataclass
from typing import Self

from retrieval.errors import ConfigError
from retrieval.settings import Checked, choice

DISTANCES = ("l2", "l1", "cosine")


@dataclass(frozen=True)
class NetworkSpec(Checked):
    """A backbone, and the pictures that it takes."""

    backbone: str = choice(
        "fast-resnet",
        "network: fast-resnet; resnet18, 34, 50, 101, 152; densenet121, 161, 169, 201; vgg11, 13, 16, "
        "19, or vgg with --blocks; alexnet, nin, googlenet, inception-v3, efficientnet-lite0, lenet, "
        "tiny; softmax, logistic, mlp (baselines on pixels)",
    )
    width: int = choice(80, "channels of the first stage of fast-resnet", at_least=8, at_most=512)
    width_factor: float = choice(
        1.0, "channels of the other networks, as a multiple of the published ones",
        at_least=0.01, at_most=4,
    )  # fmt: skip
    blocks: str = choice(
        "", "blocks of vgg as convolutions×channels, such as 1x64,1x128,2x256,2x512,2x512"
    )
    stem: str = choice(
        "small",
        "small keeps the resolution (pictures up to about 64 px), stock is the published form, which "
        "pretrained weights need",
        choices=("small", "stock"),
    )
    channels: int = choice(3, "3 sees colours, 1 sees grey", at_least=1, at_most=3)
    batch_norm: bool = choice(
        False,
        "batch normalisation in networks that were published without: lenet, alexnet, vgg, nin",
    )
    activation: str | None = choice(
        None,
        "of lenet, alexnet, vgg, nin, mlp (without it as published: tanh for lenet, else relu)",
        choices=("relu", "sigmoid", "tanh"),
    )
    dropout: float | None = choice(
        None,
        "dropout rate where the network has it (without it as published: 0.5 for alexnet, vgg, nin, "
        "inception-v3; 0.2 for googlenet; else 0)",
        at_least=0,
        at_most=0.95,
    )
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
        if self.channels == 2:
            raise ConfigError("--channels is 2; it can be 1 (grey) or 3 (colours)")

    def scaled(self, channels: int) -> int:
        """This number of channels times the width factor, at least 1."""
        return max(round(channels * self.width_factor), 1)


@dataclass(frozen=True)
class EmbedderSpec(NetworkSpec):
    """All that is needed to rebuild an embedder without its weights."""

    pool: str = choice(
        "max", "global pooling before the projection", choices=("avg", "max", "avgmax", "gem")
    )
    embedding_dim: int = choice(64, "numbers in an embedding", at_least=2, at_most=4096)
    output: str = choice(
        "unit",
        "unit scales embeddings to length 1; tanh bounds each number to (−1, 1) instead",
        choices=("unit", "tanh"),
    )
    mirror: bool = choice(
        True,
        "embed each picture together with its mirror image (twice the work, better answers; left out "
        "with --no-flip)",
    )
    distance: str = choice("l2", "distance to learn, and to search by", choices=DISTANCES)
    projection: bool = True
    """Whether features are projected; else they are the embedding, of as many numbers as they have."""


@dataclass(frozen=True)
class ClassifierSpec(NetworkSpec):
    """All that is needed to rebuild a classifier without its weights."""

    pool: str | None = choice(
        None,
        "global pooling before the head, or flat: the whole map (without it as published: flat for "
        "lenet, alexnet, vgg and the baselines, max for fast-resnet, else avg)",
        choices=("avg", "max", "avgmax", "gem", "flat"),
    )
    hidden: str | None = choice(
        None,
        "sizes of hidden layers of the head, such as 512,256, or '' for none (without it as "
        "published: 120,84 for lenet; 4096,4096 for alexnet and vgg; 256 for mlp; else none)",
    )
    share_hidden: bool = choice(
        False, "hidden layers of the head that follow one of their own size share its weights"
    )
    temperature: float | None = choice(
        None, "what logits are divided by (without it: 9 for fast-resnet, else 1)",
        at_least=0.001, at_most=1000,
    )  # fmt: skip
    classes: tuple[str, ...] = ()
    """Names of the classes, in the order of the logits; they come with the data."""


@dataclass(frozen=True)
class DetectorSpec(NetworkSpec):
    """All that is needed to rebuild a detector without its weights."""

    backbone: str = choice(
        "",
        "network beneath the detector: tiny; resnet18, 34, …, 152; densenet121, …; vgg11, …; "
        "googlenet; fast-resnet; … (without it: tiny for tiny-ssd, else resnet18)",
    )
    stem: str = choice(
        "stock",
        "stock is the published form, for photos; small keeps the resolution, which costs 16 times "
        "the work or more at the same --image-size",
        choices=("small", "stock"),
    )
    model: str = choice(
        "tiny-ssd",
        "detector: tiny-ssd, ssd, yolo (one stage); faster-rcnn, mask-rcnn, fast-rcnn, rcnn (regions "
        "first)",
        choices=("tiny-ssd", "ssd", "yolo", "faster-rcnn", "mask-rcnn", "fast-rcnn", "rcnn"),
    )
    image_size: int = choice(
        256,
        "side of the square that pictures are fitted into, in pixels",
        at_least=64,
        at_most=1024,
    )
    pyramid: bool = choice(
        False,
        "of ssd, faster-rcnn and mask-rcnn: a feature pyramid over several stages of the backbone",
    )
    region_pool: str = choice(
        "align",
        "of faster-rcnn, mask-rcnn and fast-rcnn: RoI align, or RoI pool as Fast R-CNN was published",
        choices=("align", "pool"),
    )
    nms_iou: float = choice(
        0.5, "of two boxes of one class that overlap more than this, the surer one stays",
        at_least=0.01, at_most=1,
    )  # fmt: skip
    across_classes: bool = choice(
        False,
        "let the surer one alone stay of two boxes of different classes too",
    )
    least_score: float = choice(
        0.01, "objects less sure than this are never told of", at_least=0, at_most=1
    )
    most: int = choice(100, "objects told of in a picture, at most", at_least=1, at_most=1000)
    classes: tuple[str, ...] = ()
    """Names of the classes; they come with the data."""

    def with_backbone(self) -> Self:
        """The same, with the backbone that the model stands on by default where none is named."""
        own = "tiny" if self.model == "tiny-ssd" else "resnet18"
        return dataclasses.replace(self, backbone=self.backbone or own)
