"""Trunks under one contract: pictures (B,3,H,W) in, a feature map (B,C,h,w) out.

A backbone is a module with three more attributes: ``out_channels`` (C), ``stride`` (H / h) and
``smallest``, the least side of a picture, in pixels, that gives a map of at least 2×2.
Tasks attach heads to it; it has none of its own.
"""

from importlib import import_module
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

from torch import Tensor, nn

from retrieval.errors import CheckpointError, ConfigError
from retrieval.published import load_published
from retrieval.specs import NetworkSpec

RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
DENSENETS = ("densenet121", "densenet161", "densenet169", "densenet201")
VGGS = ("vgg11", "vgg13", "vgg16", "vgg19")
BASELINES = ("softmax", "logistic", "mlp")
CLASSES = {
    "fast-resnet": "fast_resnet.FastResNet",
    **dict.fromkeys(RESNETS, "resnet.ResNet"),
    **dict.fromkeys(DENSENETS, "densenet.DenseNet"),
    **dict.fromkeys((*VGGS, "vgg"), "vgg.VGG"),
    "alexnet": "alexnet.AlexNet",
    "nin": "nin.NiN",
    "googlenet": "googlenet.GoogLeNet",
    "inception-v3": "inception.InceptionV3",
    "efficientnet-lite0": "efficientnet_lite.EfficientNetLite",
    "lenet": "lenet.LeNet",
    "tiny": "tiny.Tiny",
    **dict.fromkeys(BASELINES, "pixels.Pixels"),
}
"""Where each network is, by name."""
NAMES = tuple(CLASSES)
PUBLISHED = (*RESNETS, *DENSENETS, *VGGS, "alexnet", "googlenet", "inception-v3")
"""Those of which torchvision publishes weights."""
PLAIN = ("lenet", "alexnet", "nin", *VGGS, "vgg")
"""Those that were published without batch normalisation."""
WITH_DROPOUT = ("nin", *DENSENETS)
"""Those with dropout in the trunk; of the others the head of a classifier has it."""
FITS = {
    "width_factor": tuple(n for n in NAMES if n not in ("fast-resnet", "inception-v3", *BASELINES)),
    "blocks": ("vgg",),
    "batch_norm": PLAIN,
    "activation": (*PLAIN, "mlp"),
}
"""Which networks an option concerns, of those that not all have."""


@runtime_checkable
class Backbone(Protocol):
    """What every trunk offers."""

    out_channels: int
    stride: int
    smallest: int

    def __call__(self, images: Tensor) -> Tensor: ...


def build_backbone(spec: NetworkSpec, weights: str | None = None) -> nn.Module:
    """The trunk that ``spec`` describes, which satisfies ``Backbone``.

    ``weights`` ("imagenet" or a file of torchvision's) fill networks of the stock form. Raises
    ConfigError for an unknown name, or for options or weights that do not fit it, CheckpointError for
    weights that cannot be had or are another network's.
    """
    name = spec.backbone
    if name not in CLASSES:
        raise ConfigError(f"--backbone is {name!r}; it can be {', '.join(NAMES)}")
    _check_options(spec)
    if weights is not None:
        _check_weights(spec, weights)
    module, class_name = CLASSES[name].split(".")
    trunk: nn.Module = getattr(import_module(f"retrieval.backbones.{module}"), class_name)(spec)
    if weights is not None:
        load_published(trunk, name, weights)
    return trunk


def as_backbone(module: nn.Module) -> Backbone:
    """The same module, seen as what it is."""
    return cast("Backbone", module)


def check_size(trunk: nn.Module, name: str, size: int) -> None:
    """Raises ConfigError where pictures of ``size`` pixels are too small for this trunk."""
    smallest = as_backbone(trunk).smallest
    if size < smallest:
        raise ConfigError(
            f"--image-size is {size}; the smallest for --backbone {name} is {smallest}"
        )


def _check_options(spec: NetworkSpec) -> None:
    untouched = NetworkSpec()
    for option, names in FITS.items():
        value = getattr(spec, option)
        if value != getattr(untouched, option) and spec.backbone not in names:
            raise ConfigError(
                f"--{option.replace('_', '-')} does not go with --backbone {spec.backbone}; it goes "
                f"with {', '.join(names)}"
            )


def _check_weights(spec: NetworkSpec, weights: str) -> None:
    name = spec.backbone
    if weights != "imagenet" and not Path(weights).exists():
        raise CheckpointError(
            f"there is no model at {weights}, neither a run folder nor a file of weights"
        )
    if name not in PUBLISHED:
        raise ConfigError(
            f"--weights {weights} does not fit --backbone {name}, which has no published "
            "weights; take one of: " + ", ".join(PUBLISHED)
        )
    if spec.stem != "stock":
        raise ConfigError(
            f"--weights {weights} needs the entry that they were trained with; give --stem stock"
        )
    changed = [o for o in ("width_factor", "channels", "batch_norm", "activation")
               if getattr(spec, o) != getattr(NetworkSpec(), o)]  # fmt: skip
    if changed:
        option = changed[0].replace("_", "-")
        raise ConfigError(
            f"--weights {weights} are those of the published form; leave out --{option}"
        )
