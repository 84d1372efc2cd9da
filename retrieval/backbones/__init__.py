"""Trunks under one contract: pictures (B,3,H,W) in, a feature map (B,C,h,w) out.

A backbone is a module with three more attributes: ``out_channels`` (C), ``stride`` (H / h) and
``smallest``, the least side of a picture, in pixels, that gives a map of at least 2×2.
Tasks attach heads to it; it has none of its own.
"""

from typing import Protocol, cast, runtime_checkable

from torch import Tensor, nn

from retrieval.errors import ConfigError

RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
NAMES = ("fast-resnet", *RESNETS)


@runtime_checkable
class Backbone(Protocol):
    """What every trunk offers."""

    out_channels: int
    stride: int
    smallest: int

    def __call__(self, images: Tensor) -> Tensor: ...


def build_backbone(
    name: str, *, width: int = 64, stem: str = "small", weights: str | None = None
) -> nn.Module:
    """The trunk called ``name``, which satisfies ``Backbone``.

    ``width`` concerns fast-resnet, ``stem`` ("small" or "stock") and ``weights`` ("imagenet" or a
    file) the resnetN. Raises ConfigError for an unknown name or a pair that does not fit,
    CheckpointError for weights that cannot be had or do not fit.
    """
    if name == "fast-resnet":
        if weights is not None:
            raise ConfigError(
                f"--weights {weights} does not fit --backbone fast-resnet, which has no published "
                "weights; take one of: " + ", ".join(RESNETS)
            )
        from retrieval.backbones.fast_resnet import FastResNet

        return FastResNet(width)
    if name in RESNETS:
        from retrieval.backbones.resnet import ResNet

        return ResNet(name, stem, weights)
    raise ConfigError(f"--backbone is {name!r}; it can be {', '.join(NAMES)}")


def as_backbone(module: nn.Module) -> Backbone:
    """The same module, seen as what it is."""
    return cast("Backbone", module)
