import math

import numpy as np
import pytest
import torch
from torch import nn

from retrieval.config import FitConfig
from retrieval.optimizers import (
    MUON_LR,
    MUON_MOMENTUM,
    Muon,
    build_optimizer,
    learning_rate_factor,
    orthogonal,
    parameter_groups,
)


class Loss(nn.Module):
    """One with a number of its own to learn."""

    def __init__(self) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(1))


def test_schedules_by_hand() -> None:
    assert learning_rate_factor("constant", 0.2, 0.0) == pytest.approx(0.1)
    assert learning_rate_factor("constant", 0.2, 0.1) == pytest.approx(0.55)
    assert learning_rate_factor("constant", 0.2, 0.5) == 1.0
    assert learning_rate_factor("onecycle", 0.2, 0.6) == pytest.approx(0.5)
    assert learning_rate_factor("onecycle", 0.0, 0.0) == 1.0
    assert learning_rate_factor("cosine", 0.0, 0.5) == pytest.approx(0.5)
    assert learning_rate_factor("cosine", 0.0, 1.0) == pytest.approx(0.0)
    assert [learning_rate_factor("step", 0, d) for d in (0.49, 0.5, 0.75)] == [1.0, 0.1, 0.01]


@pytest.mark.parametrize("schedule", ["constant", "step", "cosine", "onecycle"])
@pytest.mark.parametrize("warmup", [0.0, 0.3, 0.9])
def test_rates_rise_once_then_never_and_stay_positive(schedule: str, warmup: float) -> None:
    factors = [learning_rate_factor(schedule, warmup, done / 200) for done in range(200)]
    assert all(0 < factor <= 1 for factor in factors)
    start = round(warmup * 200)
    rising, falling = factors[:start], factors[start:]
    assert rising == sorted(rising)
    assert falling == sorted(falling, reverse=True)
    if warmup:
        assert factors[0] == pytest.approx(0.1)
    if schedule != "step" or warmup < 0.5:
        assert falling[0] == pytest.approx(1.0)


def test_nesterov_without_momentum_is_plain_descent() -> None:
    module = nn.Linear(2, 1)
    config = FitConfig(optimizer="nesterov", momentum=0.0)
    optimizer = build_optimizer(config, parameter_groups(config, module, Loss()))
    assert optimizer.defaults["nesterov"] is False


def test_parameters_that_ask_for_another_rate_get_it_from_gradient_steps_alone() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    module[1].lr_scale = 64.0
    for optimizer, scale in (("nesterov", 64), ("adamw", 1)):
        groups = parameter_groups(FitConfig(optimizer=optimizer), module, Loss())
        scales = {p: g["lr_scale"] for g in groups for p in g["params"]}
        assert scales[module[1].bias] == scale
        assert scales[module[0].bias] == 1


def test_weight_decay_concerns_matrices_alone() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    module[0].weight.requires_grad_(False)
    groups = parameter_groups(FitConfig(weight_decay=0.3), module, Loss())
    # The filters are frozen: only biases, norms and the loss's offset are left.
    assert {g["weight_decay"] for g in groups} == {0}
    module[0].weight.requires_grad_(True)
    groups = parameter_groups(FitConfig(weight_decay=0.3), module, Loss())
    decayed = [p for g in groups if g["weight_decay"] == 0.3 for p in g["params"]]
    others = [p for g in groups if g["weight_decay"] == 0 for p in g["params"]]
    assert decayed == [module[0].weight]
    assert len(others) == 4


def test_the_head_and_the_loss_learn_at_a_rate_of_their_own() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2, bias=False))
    groups = parameter_groups(FitConfig(), module, Loss(), (module[1],), 10.0)
    scales = {p: g["lr_scale"] for g in groups for p in g["params"]}
    assert scales[module[0].weight] == scales[module[0].bias] == 1
    assert scales[module[1].weight] == 10
    assert len(scales) == 4  # and the loss's offset
    assert sorted(g["lr_scale"] for g in groups) == [1, 1, 10, 10]


def lifted(value: float) -> float:
    """What the rounds make of one singular value, written out."""
    for _ in range(3):
        value = 3.4445 * value - 4.7750 * value**3 + 2.0315 * value**5
    return value


@pytest.mark.parametrize("shape", [(4, 9), (9, 4), (5, 5), (1, 3), (3, 1), (1, 1)])
def test_singular_values_are_drawn_to_one_and_directions_stay(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    u, s, v = np.linalg.svd(matrix.numpy(), full_matrices=False)
    share = s / np.sqrt((matrix.numpy() ** 2).sum())
    expected = u @ np.diag([lifted(x) for x in share]) @ v
    found = orthogonal(matrix)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)
    assert np.linalg.svd(found.numpy(), compute_uv=False).max() < 1.21
    assert all(0.68 < lifted(x) < 1.21 for x in np.linspace(0.02, 1, 1000))


def test_orthogonal_of_nothing_and_of_zeros() -> None:
    assert orthogonal(torch.empty(0, 3)).shape == (0, 3)
    assert not orthogonal(torch.zeros(2, 3)).any()
    same = orthogonal(torch.full((2, 2), 1e-30))
    assert torch.isfinite(same).all()
    with pytest.raises(IndexError):
        orthogonal(torch.zeros(3))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.filters = nn.Conv2d(2, 3, 2)
        self.linear = nn.Linear(3, 2)
        self.still = nn.Conv2d(2, 2, 1).requires_grad_(False)


def test_filters_turn_at_one_length_by_hand() -> None:
    net = Net()
    config = FitConfig(optimizer="muon", lr=0.5, weight_decay=0.1)
    optimizer = build_optimizer(config, parameter_groups(config, net, Loss()))
    assert isinstance(optimizer, Muon)
    for group in optimizer.param_groups:
        group["lr"] = 0.5 * group["lr_scale"]  # as training does
    generator = torch.Generator().manual_seed(1)
    weight = net.filters.weight.detach().reshape(3, 8).double().numpy().copy()
    length, velocity = math.sqrt((weight**2).sum()), np.zeros((3, 8))
    still = net.still.weight.clone()
    for _ in range(4):
        gradient = torch.randn(3, 2, 2, 2, generator=generator)
        net.filters.weight.grad = gradient.clone()
        optimizer.step()
        flat = gradient.reshape(3, 8).double().numpy()
        velocity = MUON_MOMENTUM * velocity + flat
        ahead = flat + MUON_MOMENTUM * velocity
        u, s, v = np.linalg.svd(ahead, full_matrices=False)
        step = u @ np.diag([lifted(x) for x in s / np.sqrt((s**2).sum())]) @ v
        weight = weight * length / np.sqrt((weight**2).sum()) - 0.5 * MUON_LR * step
        found = net.filters.weight.detach().reshape(3, 8).numpy()
        np.testing.assert_allclose(found, weight, atol=1e-5)
    assert torch.equal(net.still.weight, still)


def test_all_but_filters_take_nesterov_steps() -> None:
    nets, optimizers = [Net(), Net()], []
    for net, name in zip(nets, ("muon", "nesterov"), strict=True):
        config = FitConfig(optimizer=name, lr=0.1, momentum=0.8, weight_decay=0.01)
        optimizers.append(build_optimizer(config, parameter_groups(config, net, Loss())))
    for step in range(3):
        for net, optimizer in zip(nets, optimizers, strict=True):
            optimizer.zero_grad()
            x = torch.randn(5, 3, generator=torch.Generator().manual_seed(step))
            (net.linear(x).square().sum() + net.filters.bias.square().sum()).backward()
            optimizer.step()
    assert torch.equal(nets[0].linear.weight, nets[1].linear.weight)
    assert torch.equal(nets[0].filters.bias, nets[1].filters.bias)
    assert not torch.equal(nets[0].linear.weight, Net().linear.weight)


def test_a_bank_of_zeros_learns_too() -> None:
    bank = nn.Parameter(torch.zeros(4, 2, 1, 1))
    optimizer = Muon(
        [{"params": [bank], "weight_decay": 0.0, "lr_scale": 1.0}], lr=0.5, momentum=0.9
    )
    for _ in range(2):
        bank.grad = torch.randn(4, 2, 1, 1, generator=torch.Generator().manual_seed(0))
        optimizer.step()
    assert torch.isfinite(bank).all()
    assert bank.norm() > 1
