"""Update rules, how fast each parameter learns by them, and the course of the learning rate."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from retrieval.config import FitConfig

GRADIENT_STEPS = ("sgd", "nesterov", "muon")
"""Rules whose steps are as long as the gradient, times the rate (of muon, all but filters)."""
MUON_LR = 0.135
"""The rate of filters under muon, as a share of that of all else."""
MUON_MOMENTUM = 0.6
ORTHOGONAL_ROUNDS = 3


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
    if config.optimizer == "muon":
        return Muon(groups, lr=lr, momentum=momentum)
    if config.optimizer in GRADIENT_STEPS:
        nesterov = config.optimizer == "nesterov" and momentum > 0
        return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=nesterov)
    if config.optimizer == "rmsprop":
        return torch.optim.RMSprop(groups, lr=lr, momentum=momentum)
    kinds = {"adagrad": torch.optim.Adagrad, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    return kinds[config.optimizer](groups, lr=lr)


class Muon(torch.optim.SGD):
    """Filters of convolutions turn, all else takes Nesterov steps.

    The step of a bank of filters, seen as a matrix with a row for each filter, is its momentum with
    all singular values drawn to 1, so that it learns in all directions alike. The bank keeps the
    length that it began with (one of zeros, that of orthonormal filters), so weight decay does not
    concern it.

    Source: Jordan et al., "Muon: An optimizer for hidden layers in neural networks"; with banks of
    one length: the training of CIFAR-10 of the same author, airbench94_muon.
    """

    def __init__(self, groups: list[dict[str, Any]], *, lr: float, momentum: float) -> None:
        split: list[dict[str, Any]] = []
        for group in groups:
            banks = [p for p in group["params"] if p.ndim == 4]
            rest = [p for p in group["params"] if p.ndim != 4]
            turned = {"lr_scale": MUON_LR * group["lr_scale"], "weight_decay": 0.0}
            if rest:
                split.append({**group, "params": rest})
            if banks:  # their momentum is kept here: the step that SGD takes is the finished one
                split.append(
                    {**group, **turned, "params": banks, "momentum": 0.0, "nesterov": False}
                )
        super().__init__(split, lr=lr, momentum=momentum, nesterov=momentum > 0)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for bank in group["params"]:
                if bank.ndim == 4 and bank.grad is not None:
                    self._prepare(bank)
        return super().step(closure)

    def _prepare(self, bank: torch.Tensor) -> None:
        """Put the step in the place of the gradient, and bring the bank back to its first length."""
        state, gradient = self.state[bank], bank.grad
        assert gradient is not None
        if not state:
            orthonormal = bank.new_tensor(len(bank) ** 0.5)
            state["velocity"] = torch.zeros_like(gradient)
            state["length"] = torch.where(bank.any(), bank.norm(), orthonormal)
        state["velocity"].mul_(MUON_MOMENTUM).add_(gradient)
        ahead = gradient.add(state["velocity"], alpha=MUON_MOMENTUM).flatten(1)
        bank.grad = orthogonal(ahead).reshape(gradient.shape).to(gradient)
        bank.mul_(state["length"] / bank.norm().clamp(min=1e-12))


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """About the nearest matrix with orthonormal rows or columns, float (N,D) → (N,D).

    Singular values above a fiftieth of the matrix's norm come to lie between 0.68 and 1.21, smaller
    ones become 41 times that share at most; zeros stay zeros. By rounds of a Newton-Schulz iteration
    of fifth order, whose coefficients (Jordan et al.) lift small values fast and leave none exact.
    """
    wide = matrix if len(matrix) <= matrix.shape[1] else matrix.T
    x = wide / (wide.norm() + 1e-7)
    for _ in range(ORTHOGONAL_ROUNDS):
        squared = x @ x.T
        turn = torch.addmm(squared, squared, squared, beta=-4.7750, alpha=2.0315)
        x = torch.addmm(x, turn, x, beta=3.4445)
    return x if wide is matrix else x.T
