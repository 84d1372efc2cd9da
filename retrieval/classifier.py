"""A classifier: a backbone and a head that turn pictures into probabilities of classes."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from retrieval.backbones import VGGS, as_backbone, check_size
from retrieval.device import in_float32
from retrieval.errors import ConfigError
from retrieval.layers import ACTIVATIONS
from retrieval.mapped_rows import Rows
from retrieval.network import Network, run_network
from retrieval.pooling import GlobalPool
from retrieval.specs import ClassifierSpec


@dataclasses.dataclass(frozen=True)
class HeadForm:
    """The head that a network was published with: pooling, hidden layers, dropout, temperature.

    ``most`` is the largest side of a map that is flattened; larger ones are averaged down to it.
    """

    pool: str = "avg"
    hidden: tuple[int, ...] = ()
    dropout: float = 0.0
    temperature: float = 1.0
    most: int = 1024


HEADS = {
    "fast-resnet": HeadForm("max", temperature=9.0),
    "lenet": HeadForm("flat", (120, 84)),
    "alexnet": HeadForm("flat", (4096, 4096), 0.5, most=6),
    **dict.fromkeys((*VGGS, "vgg"), HeadForm("flat", (4096, 4096), 0.5, most=7)),
    "googlenet": HeadForm(dropout=0.2),
    "inception-v3": HeadForm(dropout=0.5),
    "softmax": HeadForm("flat"),
    "logistic": HeadForm("flat"),
    "mlp": HeadForm("flat", (256,)),
}
"""By backbone; networks that are not here average the map and have one linear layer."""


class Head(nn.Module):
    """Features (B,C,h,w) → logits (B,L) float32.

    The map is pooled or flattened, goes through hidden layers, each with activation and dropout (one
    linear layer alone has dropout before it), and through ``output``. Of "logistic" one number z is
    learnt, and the logits are 0 and z: the probability of the second class is 1/(1+e^−z).
    """

    def __init__(self, spec: ClassifierSpec, channels: int, side: int) -> None:
        super().__init__()
        form = HEADS.get(spec.backbone, HeadForm())
        pool = spec.pool or form.pool
        self.logistic = spec.backbone == "logistic"
        self.temperature = spec.temperature or form.temperature
        if pool == "flat":
            side = min(side, form.most)
            self.pool: nn.Module = nn.Sequential(nn.AdaptiveAvgPool2d(side), nn.Flatten())
            before = channels * side * side
        else:
            self.pool = GlobalPool(pool)
            before = channels * GlobalPool(pool).multiplier
        rate = form.dropout if spec.dropout is None else spec.dropout
        layers: list[nn.Module] = []
        for width in hidden_layers(spec):
            activation = ACTIVATIONS[spec.activation or _activation(spec.backbone)]
            linear: nn.Module = nn.Linear(before, width)
            if spec.share_hidden and layers and _alike(layers[-3], linear):
                linear = layers[-3]
            layers += [linear, activation(), nn.Dropout(rate)]
            before = width
        self.hidden = nn.Sequential(*(layers or [nn.Dropout(rate)]))
        self.output = nn.Linear(before, 1 if self.logistic else len(spec.classes))

    def forward(self, features: Tensor) -> Tensor:
        hidden = self.hidden(self.pool(features))
        with in_float32(hidden):
            logits: Tensor = self.output(hidden.float()) / self.temperature
        return torch.cat([torch.zeros_like(logits), logits], 1) if self.logistic else logits


def _alike(one: nn.Module, other: nn.Module) -> bool:
    return [p.shape for p in one.parameters()] == [p.shape for p in other.parameters()]


def _activation(backbone: str) -> str:
    return "tanh" if backbone == "lenet" else "relu"


def hidden_layers(spec: ClassifierSpec) -> list[int]:
    """Sizes of the hidden layers of the head. Raises ConfigError where ``hidden`` is no such list."""
    if spec.hidden is None:
        form = HEADS.get(spec.backbone, HeadForm())
        return [spec.scaled(width) for width in form.hidden]
    try:
        sizes = [int(part) for part in spec.hidden.split(",") if part.strip()]
        if all(0 < size <= 65536 for size in sizes):
            return sizes
    except ValueError:
        pass
    raise ConfigError(
        f"--hidden is {spec.hidden!r}; it must be sizes of layers such as 120,84, or '' for none"
    )


class Classifier(Network):
    """``forward`` gives logits of the classes in ``spec.classes``."""

    spec: ClassifierSpec

    def __init__(self, spec: ClassifierSpec, weights: str | None = None) -> None:
        super().__init__(spec, weights)
        self.spec = spec
        if len(spec.classes) < 2:
            raise ConfigError(f"a classifier needs at least 2 classes; there are {spec.classes!r}")
        if spec.backbone == "logistic" and len(spec.classes) != 2:
            raise ConfigError(
                f"--backbone logistic tells two classes apart, and there are {len(spec.classes)}; "
                "take --backbone softmax"
            )
        check_size(self.backbone, spec.backbone, spec.image_size)
        self.head = Head(spec, as_backbone(self.backbone).out_channels, self._map_side())

    @torch.no_grad()
    def _map_side(self) -> int:
        """The side of the map that pictures of this size end in."""
        was_training = self.backbone.training
        picture = torch.zeros(1, self.spec.channels, self.spec.image_size, self.spec.image_size)
        side: int = self.backbone.eval()(picture).shape[2]
        self.backbone.train(was_training)
        return side

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B,L) float32 of standardised pictures (B,C,S,S)."""
        logits: Tensor = self.head(self.backbone(images))
        return logits

    def probabilities(self, images: Tensor, views: str = "none") -> Tensor:
        """Probabilities (B,L) of standardised pictures, the mean over views of each.

        "flip" adds the mirror image; "crops" takes the picture and four others, shifted by a
        thirty-second of the side to each corner (borders mirrored), and the mirror images of all five.
        """
        seen = VIEWS[views](images)
        return torch.stack([self(view).softmax(1) for view in seen]).mean(0)


def _crops(images: Tensor) -> list[Tensor]:
    size = images.shape[2]
    reach = max(size // 32, 1)
    padded = nn.functional.pad(images, (reach,) * 4, mode="reflect")
    places = [(reach, reach), *((y, x) for y in (0, 2 * reach) for x in (0, 2 * reach))]
    crops = [padded[:, :, y : y + size, x : x + size] for y, x in places]
    return [view for crop in crops for view in (crop, crop.flip(3))]


VIEWS = {
    "none": lambda images: [images],
    "flip": lambda images: [images, images.flip(3)],
    "crops": _crops,
}


def classify_images(
    classifier: Classifier, images: Rows, *, views: str = "none", batch_size: int = 256
) -> np.ndarray:
    """Probabilities float32 (N,L) of pictures uint8 (N,S,S,3), on the classifier's device.

    The classifier is put in evaluation mode for the time; always float32. ``views`` as in
    ``Classifier.probabilities``. Raises ValueError if the pictures are not uint8 (N,S,S,3) of the
    classifier's size.
    """

    def function(batch: Tensor) -> Tensor:
        return classifier.probabilities(batch, views)

    columns = len(classifier.spec.classes)
    return run_network(classifier, images, function, columns, batch_size=batch_size)


def classes_of(classifiers: Sequence[Classifier]) -> tuple[str, ...]:
    """The classes that all these tell apart. Raises ConfigError where they are not the same."""
    first = classifiers[0].spec.classes
    for other in classifiers[1:]:
        if other.spec.classes != first:
            odd = sorted(set(other.spec.classes) ^ set(first)) or "their order"
            raise ConfigError(
                f"models that are asked together must know the same classes; they differ in {odd}"
            )
    return first
