"""Update rules, how fast each parameter learns by them, and the course of the learning rate."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from retrieval.config import FitConfig

GRADIENT_STEPS = ("sgd", "nesterov")
"""Rules whose steps are as long as the gradient, times the rate."""


def learning_rate_factor(schedule: str, warmup: float, done: float) -> float:
    """The learning rate as a share of the highest, when ``done`` in [0, 1) of training is over."""
    if done < warmup:
        return 0.1 + 0.9 * done / warmup
    rest = (done - warmup) / (1 - warmup)
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * rest))
    if schedule == "onecycle":
        return 1 - rest
    if schedule == "step":
        return 0.01 if done >= 0.75 else 0.1 if done >= 0.5 else 1.0
    return 1.0


def parameter_groups(
    config: FitConfig,
    module: nn.Module,
    loss: nn.Module,
    head: Iterable[nn.Module] = (),
    head_lr: float = 1.0,
) -> list[dict[str, Any]]:
    """Parameters to be trained, in groups of one rate: weight decay concerns matrices and filters.

    Those of ``head`` and of the loss learn at ``head_lr`` times the rate of the others. With plain
    gradient steps a module's ``lr_scale`` multiplies the rate of its own parameters too; rules that
    scale steps themselves have no use for it.
    """
    heads = {p for part in (*head, loss) for p in part.parameters()}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for part in (module, loss):
        for layer in part.modules():
            own = getattr(layer, "lr_scale", 1.0) if config.optimizer in GRADIENT_STEPS else 1.0
            for p in layer.parameters(recurse=False):
                decay = config.weight_decay if p.ndim > 1 else 0.0
                scale = own * (head_lr if p in heads else 1.0)
                if p.requires_grad:
                    groups.setdefault((scale, decay), []).append(p)
    return [
        {"params": parameters, "weight_decay": decay, "lr_scale": scale}
        for (scale, decay), parameters in groups.items()
    ]


def build_optimizer(config: FitConfig, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """The optimiser called ``config.optimizer`` over these groups."""
    lr, momentum = config.lr, config.momentum
    if config.optimizer in GRADIENT_STEPS:
        nesterov = config.optimizer == "nesterov" and momentum > 0
        return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=nesterov)
    if config.optimizer == "rmsprop":
        return torch.optim.RMSprop(groups, lr=lr, momentum=momentum)
    kinds = {"adagrad": torch.optim.Adagrad, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    return kinds[config.optimizer](groups, lr=lr)
