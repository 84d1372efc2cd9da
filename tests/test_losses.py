import math

import pytest
import torch
from torch import nn

from retrieval.config import LossConfig
from retrieval.errors import ConfigError
from retrieval.losses import (
    CentreSoftmax,
    EmbeddingLoss,
    cosine_distance,
    mean_of_active,
    norm_penalty,
    pairwise_distances,
    triplet_criterion,
)
from retrieval.mining import MINERS


def config_of(**fields) -> LossConfig:
    return LossConfig(
        **{"loss_weight": 1.0, "classifier": "cosine", "label_smoothing": 0.1, **fields}
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
    config = config_of(mining=mining, margin=0.4, softmax_weight=0)
    loss = loss_of(config, distance)
    terms, figures = call(loss, raw, labels)
    unit = nn.functional.normalize(raw, dim=1)
    triplets = MINERS[mining](
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
        loss_of(config_of(softmax_weight=0)), raw, torch.zeros(4, dtype=torch.int64)
    )
    terms["triplet"].backward()
    assert terms["triplet"].item() == 0
    assert torch.isfinite(raw.grad).all()
    assert figures["active_triplets"] == 0


@pytest.mark.parametrize("distance", ["l1", "l2", "cosine"])
def test_equal_embeddings_have_finite_gradients(distance: str) -> None:
    raw = torch.ones(6, 5, requires_grad=True)
    terms, _ = call(loss_of(config_of(), distance), raw, torch.arange(6) % 3)
    sum(terms.values()).backward()
    assert terms["triplet"].item() == pytest.approx(0.2, abs=1e-4)  # exactly the margin: collapse
    assert torch.isfinite(raw.grad).all()


def test_the_gradient_equals_that_of_finite_differences() -> None:
    raw = torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    raw.requires_grad_()
    labels = torch.arange(6) % 2
    loss = loss_of(config_of(mining="all", margin=3.0, norm_penalty="l2"), n_classes=2).double()
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
    config = config_of(norm_penalty="l2", norm_penalty_weight=0.5, softmax_weight=0)
    terms, _ = call(loss_of(config), raw, torch.arange(4) % 2)
    expected = 0.5 * sum(float(row @ row) / 2 for row in raw.detach()) / 4
    assert terms["norm_penalty"].item() == pytest.approx(expected)
    (gradient,) = torch.autograd.grad(terms["norm_penalty"], raw)
    torch.testing.assert_close(gradient, 0.5 * raw.detach() / 4)


def test_the_penalty_on_weights_sees_the_weights() -> None:
    weights = [torch.tensor([[1.0, -4.0]])]
    config = config_of(norm_penalty="l1", norm_penalty_on="weights", norm_penalty_weight=0.1)
    terms, _ = call(loss_of(config, weights=weights), torch.randn(4, 5), torch.arange(4) % 2)
    assert terms["norm_penalty"].item() == pytest.approx(0.5)


def test_centre_softmax_equals_cross_entropy_of_scaled_cosines() -> None:
    softmax = CentreSoftmax(2, 2, "cosine", temperature=0.5, label_smoothing=0.0)
    softmax.centres.data = torch.tensor([[2.0, 0.0], [0.0, 5.0]])
    angle = math.pi / 6
    found = softmax(torch.tensor([[3 * math.cos(angle), 3 * math.sin(angle)]]), torch.tensor([0]))
    right, wrong = math.exp(math.cos(angle) / 0.5), math.exp(math.sin(angle) / 0.5)
    assert found.item() == pytest.approx(-math.log(right / (right + wrong)))


def test_without_classes_there_are_no_centres() -> None:
    assert loss_of(config_of(), n_classes=0).softmax is None
    assert list(loss_of(config_of(), n_classes=0).parameters()) == []


def test_a_penalty_on_no_weights_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one"):
        loss_of(config_of(norm_penalty="l2", norm_penalty_on="weights"))


def circle(*degrees: float) -> torch.Tensor:
    radians = torch.tensor(degrees, dtype=torch.float64) * math.pi / 180
    return torch.stack([radians.cos(), radians.sin()], dim=1)


def test_angles_on_a_circle_by_hand() -> None:
    # Two pictures of one class 60° apart, a stranger at 90°: chords of 60° and 90° are 1 and √2,
    # and the one of 30° is 2 sin 15°. The anchor at 0° is satisfied, the one at 60° is not.
    raw, labels = circle(0, 60, 90), torch.tensor([0, 0, 1])
    config = config_of(mining="all", margin=0.3, softmax_weight=0, loss_weight=2.0)
    terms, figures = call(loss_of(config, bound=lambda x: x), raw, labels)
    chord = 2 * math.sin(math.pi / 12)
    assert terms["triplet"].item() == pytest.approx(2 * (1 - chord + 0.3), abs=1e-5)
    assert figures["active_triplets"] == 0.5
    assert figures["positive_distance"] == pytest.approx(1)
    assert figures["negative_distance"] == pytest.approx((math.sqrt(2) + chord) / 2)
    assert figures["embedding_norm"] == pytest.approx(1)


@pytest.mark.parametrize("distance", ["l1", "l2"])
def test_values_and_gradients_are_torchs_own_on_triplets_chosen_by_hand(distance: str) -> None:
    x = torch.randn(9, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    judge = nn.functional.triplet_margin_loss
    outcomes = []
    for ours in (True, False):
        a, p, n = (part.clone().requires_grad_() for part in x.split(3))
        if ours:
            loss = triplet_criterion(distance, 2.0)(a, p, n).mean()
        else:
            loss = judge(a, p, n, margin=2.0, p=1 if distance == "l1" else 2)
        loss.backward()
        outcomes.append([loss.detach(), a.grad, p.grad, n.grad])
    torch.testing.assert_close(outcomes[0], outcomes[1])


def test_the_gradient_of_the_squared_distance_by_hand() -> None:
    def squared(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (x - y).square().sum(-1)

    a, p, n = torch.tensor([[[0.0, 0.0]], [[1.0, 1.0]], [[0.0, 1.0]]], requires_grad=True).unbind()
    losses = triplet_criterion(squared, 0.5)(a, p, n)
    assert losses.tolist() == [1.5]  # 2 − 1 + 0.5
    gradients = torch.autograd.grad(losses.sum(), (a, p, n))
    # d/da = 2(n − p), d/dp = 2(p − a), d/dn = −2(n − a)
    assert [g.tolist() for g in gradients] == [[[-2.0, 0.0]], [[2.0, 2.0]], [[0.0, -2.0]]]


def test_a_loss_of_exactly_zero_is_not_active() -> None:
    raw = torch.tensor([[0.0], [1.0], [2.0]])  # 1 − 2 + 1 = 0 for the first anchor
    config = config_of(mining="all", margin=1.0, softmax_weight=0)
    loss = loss_of(config, lambda x, y: (x - y).abs().sum(-1), bound=lambda x: x)
    terms, figures = call(loss, raw, torch.tensor([0, 0, 1]))
    assert terms["triplet"].item() == 1.0  # the second anchor's: 1 − 1 + 1
    assert figures["active_triplets"] == 0.5


@pytest.mark.parametrize(
    ("distance", "message"),
    [
        (lambda x, y: (x - y).abs(), r"gave torch.float32 \(3, 5\)"),
        (lambda x, y: (x - y).abs().sum(1, keepdim=True), r"gave torch.float32 \(3, 1\)"),
        (lambda x, y: (x - y).abs().sum(), r"gave torch.float32 \(\)"),
        (lambda x, y: (x > y).sum(1), r"gave torch.int64 \(3,\)"),
        (lambda x, y: (x - y).abs().sum(1).detach().numpy(), "gave <class 'numpy.ndarray'>"),
        (lambda x, y: (x - y).abs().sum(1).detach(), "without a gradient"),
        (lambda x, y: (x - y).abs().sum(1) * math.nan, "finite"),
        (lambda x: x, "TypeError"),
    ],
)
def test_a_distance_that_cannot_be_learnt_by_is_refused(distance, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        loss_of(config_of(), distance)


def test_a_distance_of_ones_own_goes_with_triplets() -> None:
    for loss in ("softmax", "supcon"):
        with pytest.raises(ConfigError, match=f"goes with the triplet loss, and --loss is {loss}"):
            loss_of(config_of(loss=loss), manhattan_squared)


def test_a_distance_that_learns_is_trained_with_the_loss() -> None:
    class Weighted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(5))

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return ((x - y) * self.weight).abs().sum(-1)

    loss = loss_of(config_of(margin=5.0), Weighted(), n_classes=0)
    terms, _ = call(loss, torch.randn(6, 5), torch.arange(6) % 2)
    terms["triplet"].backward()
    assert [p.grad is not None for p in loss.parameters()] == [True]


def test_the_linear_softmax_is_that_of_a_classifier() -> None:
    softmax = CentreSoftmax(2, 2)
    softmax.centres.data = torch.tensor([[2.0, 0.0], [0.0, 5.0]])
    found = softmax(torch.tensor([[3.0, 4.0]]), torch.tensor([0]))
    right, wrong = math.exp(6 / 9), math.exp(20 / 9)
    assert found.item() == pytest.approx(-math.log(right / (right + wrong)))


def test_label_smoothing_is_that_of_cross_entropy() -> None:
    torch.manual_seed(0)
    softmax = CentreSoftmax(5, 3, "cosine", temperature=0.2, label_smoothing=0.3)
    x, labels = torch.randn(4, 5), torch.tensor([0, 2, 1, 1])
    expected = 0.0
    for row, label in zip(x, labels.tolist(), strict=True):
        cosines = [float(row @ c / row.norm() / c.norm()) / 0.2 for c in softmax.centres.detach()]
        log_sum = math.log(sum(math.exp(c) for c in cosines))
        for index, cosine in enumerate(cosines):
            expected += ((0.7 if index == label else 0) + 0.1) * (log_sum - cosine) / 4
    assert softmax(x, labels).item() == pytest.approx(expected, rel=1e-5)


def test_weights_of_terms_scale_them_and_0_leaves_the_softmax_out() -> None:
    torch.manual_seed(0)
    raw, labels = torch.randn(6, 5), torch.arange(6) % 3
    one, _ = call(loss_of(config_of(norm_penalty="l1", norm_penalty_weight=1.0)), raw, labels)
    config = config_of(
        loss_weight=3, softmax_weight=0.5, norm_penalty="l1", norm_penalty_weight=2.0
    )
    other, _ = call(loss_of(config), raw, labels)
    ratios = {name: (other[name] / one[name]).item() for name in one}
    assert ratios == pytest.approx({"triplet": 3, "softmax": 0.5, "norm_penalty": 2})
    assert loss_of(config_of(softmax_weight=0)).softmax is None


def test_figures_are_means_over_all_pairs() -> None:
    raw = torch.tensor([[0.0], [1.0], [5.0], [2.0]])
    config = config_of(mining="hardest", margin=0.1, softmax_weight=0)
    loss = loss_of(config, "l1", bound=lambda x: x)
    _, figures = call(loss, raw, torch.tensor([0, 0, 0, 1]))
    assert figures["positive_distance"] == pytest.approx((1 + 5 + 4) / 3)
    assert figures["negative_distance"] == pytest.approx((2 + 1 + 3) / 3)
    assert figures["embedding_norm"] == pytest.approx(2)
    assert figures["spread"] == pytest.approx(1 - 2**2 / ((0 + 1 + 25 + 4) / 4))


def test_spread_is_0_for_one_point_and_1_for_opposite_ones() -> None:
    point, opposite = torch.ones(4, 5), torch.ones(4, 5) * torch.tensor([[1.0], [-1], [1], [-1]])
    labels = torch.tensor([0, 1, 0, 1])
    loss = loss_of(config_of())
    assert call(loss, point, labels)[1]["spread"] == pytest.approx(0, abs=1e-6)
    assert call(loss, opposite, labels)[1]["spread"] == pytest.approx(1, abs=1e-6)
    empty = call(loss, torch.empty(0, 5), labels[:0])[1]
    assert empty["spread"] == empty["positive_distance"] == empty["embedding_norm"] == 0
