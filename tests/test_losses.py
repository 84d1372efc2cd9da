import math

import pytest
import torch
from torch import nn

from retrieval.config import LossConfig
from retrieval.losses import (
    CentreSoftmax,
    EmbeddingLoss,
    cosine_distance,
    mean_of_active,
    norm_penalty,
    pairwise_distances,
    triplet_criterion,
)


def manhattan_squared(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (x - y).abs().sum(-1) ** 2


DISTANCES = ["l1", "l2", "cosine", manhattan_squared]


def slow_distance(x: torch.Tensor, y: torch.Tensor, distance) -> float:
    if distance == "l1":
        return sum(abs(a - b) for a, b in zip(x.tolist(), y.tolist(), strict=True))
    if distance == "l2":
        return math.dist(x.tolist(), y.tolist())
    if distance == "cosine":
        return 1 - float(x @ y) / (math.hypot(*x.tolist()) * math.hypot(*y.tolist()))
    return float(manhattan_squared(x, y))


def loss_of(config: LossConfig, distance="l2", n_classes: int = 3, **options) -> EmbeddingLoss:
    torch.manual_seed(0)
    bound = options.pop("bound", lambda raw: nn.functional.normalize(raw, dim=1))
    return EmbeddingLoss(
        config, distance=distance, bound=bound, dim=5, n_classes=n_classes, **options
    )


def call(loss: EmbeddingLoss, raw: torch.Tensor, labels: torch.Tensor):
    return loss(raw, labels, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("distance", DISTANCES)
def test_pairwise_distances_equal_a_loop(distance) -> None:
    points = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    found = pairwise_distances(points, distance)
    for i in range(6):
        for j in range(6):
            expected = slow_distance(points[i], points[j], distance)
            assert float(found[i, j]) == pytest.approx(expected, abs=1e-3)
    assert pairwise_distances(points[:0], distance).shape == (0, 0)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("mining", ["all", "semi-hard", "hardest"])
def test_the_triplet_term_equals_a_loop_over_the_mined_triplets(distance, mining: str) -> None:
    raw = torch.randn(12, 5, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(12) % 3
    config = LossConfig(mining=mining, margin=0.4, softmax_weight=0)
    loss = loss_of(config, distance)
    terms, figures = call(loss, raw, labels)
    unit = nn.functional.normalize(raw, dim=1)
    triplets = loss.miner(
        pairwise_distances(unit, distance), labels, torch.Generator().manual_seed(0), 10**6
    )
    losses = []
    for a, p, n in triplets.tolist():
        positive, negative = (slow_distance(unit[a], unit[other], distance) for other in (p, n))
        losses.append(max(positive - negative + 0.4, 0))
    active = [x for x in losses if x > 1e-5]
    assert terms["triplet"].item() == pytest.approx(sum(active) / len(active), rel=1e-3)
    assert figures["active_triplets"] == pytest.approx(len(active) / len(losses), abs=0.02)
    assert set(terms) == {"triplet"}


def test_the_criterion_is_torchs_triplet_margin_loss() -> None:
    assert isinstance(triplet_criterion("l2", 0.2), nn.TripletMarginLoss)
    assert triplet_criterion("l1", 0.2).p == 1
    assert isinstance(triplet_criterion("cosine", 0.2), nn.TripletMarginWithDistanceLoss)
    assert isinstance(triplet_criterion(manhattan_squared, 1.0), nn.TripletMarginWithDistanceLoss)
    one, other = torch.eye(2), torch.tensor([[0.0, 2.0], [0.0, -3.0]])
    torch.testing.assert_close(cosine_distance(one, other), torch.tensor([1.0, 2.0]))


def test_mean_of_active_leaves_satisfied_triplets_out_and_keeps_a_graph() -> None:
    x = torch.tensor([0.0, 3.0, 0.0, 1.0], requires_grad=True)
    assert mean_of_active(x).item() == 2.0
    nothing = mean_of_active(torch.relu(-x.abs()))
    nothing.backward()
    assert nothing.item() == 0
    assert torch.isfinite(x.grad).all()
    assert mean_of_active(torch.empty(0)).item() == 0


def test_no_triplets_still_give_a_zero_with_a_graph() -> None:
    raw = torch.randn(4, 5, requires_grad=True)
    terms, figures = call(
        loss_of(LossConfig(softmax_weight=0)), raw, torch.zeros(4, dtype=torch.int64)
    )
    terms["triplet"].backward()
    assert terms["triplet"].item() == 0
    assert torch.isfinite(raw.grad).all()
    assert figures["active_triplets"] == 0


@pytest.mark.parametrize("distance", ["l1", "l2", "cosine"])
def test_equal_embeddings_have_finite_gradients(distance: str) -> None:
    raw = torch.ones(6, 5, requires_grad=True)
    terms, _ = call(loss_of(LossConfig(), distance), raw, torch.arange(6) % 3)
    sum(terms.values()).backward()
    assert terms["triplet"].item() == pytest.approx(0.2, abs=1e-4)  # exactly the margin: collapse
    assert torch.isfinite(raw.grad).all()


def test_the_gradient_equals_that_of_finite_differences() -> None:
    raw = torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    raw.requires_grad_()
    labels = torch.arange(6) % 2
    loss = loss_of(LossConfig(mining="all", margin=3.0, norm_penalty="l2"), n_classes=2).double()
    assert torch.autograd.gradcheck(lambda x: sum(call(loss, x, labels)[0].values()), raw)


def test_norm_penalties_by_arithmetic() -> None:
    tensors = [torch.tensor([1.0, -2.0]), torch.tensor([[3.0]])]
    assert norm_penalty("l1", tensors).item() == 1 + 2 + 3
    assert norm_penalty("l2", tensors).item() == (1 + 4 + 9) / 2


def test_the_penalty_acts_on_raw_embeddings_where_it_has_a_gradient() -> None:
    raw = torch.randn(4, 5, requires_grad=True)
    on_unit = norm_penalty("l2", [nn.functional.normalize(raw, dim=1)])
    (gradient,) = torch.autograd.grad(on_unit, raw)
    assert gradient.abs().max() < 1e-6
    config = LossConfig(
        norm_penalty="l2", norm_penalty_weight=0.5, triplet_weight=0, softmax_weight=0
    )
    terms, _ = call(loss_of(config), raw, torch.arange(4) % 2)
    expected = 0.5 * sum(float(row @ row) / 2 for row in raw.detach()) / 4
    assert terms["norm_penalty"].item() == pytest.approx(expected)
    (gradient,) = torch.autograd.grad(terms["norm_penalty"], raw)
    torch.testing.assert_close(gradient, 0.5 * raw.detach() / 4)


def test_the_penalty_on_weights_sees_the_weights() -> None:
    weights = [torch.tensor([[1.0, -4.0]])]
    config = LossConfig(norm_penalty="l1", norm_penalty_on="weights", norm_penalty_weight=0.1)
    terms, _ = call(loss_of(config, weights=weights), torch.randn(4, 5), torch.arange(4) % 2)
    assert terms["norm_penalty"].item() == pytest.approx(0.5)


def test_centre_softmax_equals_cross_entropy_of_scaled_cosines() -> None:
    softmax = CentreSoftmax(2, 2, temperature=0.5, label_smoothing=0.0)
    softmax.centres.data = torch.tensor([[2.0, 0.0], [0.0, 5.0]])
    angle = math.pi / 6
    found = softmax(torch.tensor([[3 * math.cos(angle), 3 * math.sin(angle)]]), torch.tensor([0]))
    right, wrong = math.exp(math.cos(angle) / 0.5), math.exp(math.sin(angle) / 0.5)
    assert found.item() == pytest.approx(-math.log(right / (right + wrong)))


def test_without_classes_there_are_no_centres() -> None:
    assert loss_of(LossConfig(), n_classes=0).softmax is None
    assert list(loss_of(LossConfig(), n_classes=0).parameters()) == []
