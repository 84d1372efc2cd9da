import math
import sys

import pytest
import torch
from torch import nn

from retrieval.config import LossConfig
from retrieval.errors import ConfigError
from retrieval.losses import EmbeddingLoss
from retrieval.metric_losses import SHORT_NAMES, MetricLoss, as_triplets, metric_miner

N, DIM = 9, 4


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    points = torch.randn(N, DIM, generator=torch.Generator().manual_seed(0))
    return nn.functional.normalize(points, dim=1), torch.arange(N) % 3


def loss_of(name: str, distance: str = "l2", n_classes: int = 3, **fields) -> MetricLoss:
    torch.manual_seed(0)
    config = LossConfig(loss=name, **fields)
    return MetricLoss(config, distance=distance, dim=DIM, n_classes=n_classes)


def pairs(labels: torch.Tensor, same: bool) -> list[tuple[int, int]]:
    n = len(labels)
    return [(i, j) for i in range(n) for j in range(n)
            if i != j and bool(labels[i] == labels[j]) == same]  # fmt: skip


@pytest.mark.parametrize(("distance", "p"), [("l2", 2), ("l1", 1)])
def test_contrastive_equals_a_loop(distance: str, p: int) -> None:
    x, labels = batch()
    near = [float((x[i] - x[j]).norm(p=p)) for i, j in pairs(labels, True)]
    far = [max(1 - float((x[i] - x[j]).norm(p=p)), 0) for i, j in pairs(labels, False)]
    active = [v for v in far if v > 0]
    expected = sum(near) / len(near) + (sum(active) / len(active) if active else 0)
    assert loss_of("contrastive", distance)(x, labels, None).item() == pytest.approx(
        expected, rel=1e-4
    )


def test_multi_similarity_equals_a_loop() -> None:
    x, labels = batch()
    total = 0.0
    for i in range(N):
        positive = [
            math.exp(-2 * (float(x[i] @ x[j]) - 0.5)) for a, j in pairs(labels, True) if a == i
        ]
        negative = [
            math.exp(50 * (float(x[i] @ x[j]) - 0.5)) for a, j in pairs(labels, False) if a == i
        ]
        total += math.log(1 + sum(positive)) / 2 + math.log(1 + sum(negative)) / 50
    found = loss_of("multi-similarity")(x, labels, None).item()
    assert found == pytest.approx(total / N, rel=1e-4)


def test_supcon_equals_a_loop() -> None:
    x, labels = batch()
    total = 0.0
    for i in range(N):
        below = sum(math.exp(float(x[i] @ x[j]) / 0.1) for j in range(N) if j != i)
        positives = [j for a, j in pairs(labels, True) if a == i]
        terms = [math.log(math.exp(float(x[i] @ x[j]) / 0.1) / below) for j in positives]
        total -= sum(terms) / len(terms)
    assert loss_of("supcon")(x, labels, None).item() == pytest.approx(total / N, rel=1e-4)


def test_proxy_anchor_equals_a_loop() -> None:
    x, labels = batch()
    loss = loss_of("proxy-anchor")
    proxies = nn.functional.normalize(loss.loss.proxies.detach(), dim=1)
    attracted = repelled = 0.0
    for c in range(3):
        cosines = [float(x[i] @ proxies[c]) for i in range(N)]
        own = [math.exp(-32 * (s - 0.1)) for s, y in zip(cosines, labels, strict=True) if y == c]
        other = [math.exp(32 * (s + 0.1)) for s, y in zip(cosines, labels, strict=True) if y != c]
        attracted += math.log(1 + sum(own)) / 3
        repelled += math.log(1 + sum(other)) / 3
    found = loss(x, labels, None).item()
    assert found == pytest.approx(attracted + repelled, rel=1e-4)


@pytest.mark.parametrize("name", [*SHORT_NAMES, "CircleLoss", "ArcFaceLoss", "NTXentLoss"])
def test_every_loss_is_a_term_beside_the_softmax(name: str) -> None:
    config = LossConfig(loss=name, loss_weight=0.5)
    loss = EmbeddingLoss(
        config,
        distance="l2",
        bound=lambda r: nn.functional.normalize(r, dim=1),
        dim=DIM,
        n_classes=3,
    )
    raw, labels = batch()
    raw.requires_grad_()
    terms, figures = loss(raw, labels, torch.Generator())
    assert set(terms) == {name, "softmax"}
    sum(terms.values()).backward()
    assert torch.isfinite(raw.grad).all()
    assert "active_triplets" not in figures


def test_batches_without_pairs_give_zero_and_a_graph() -> None:
    x = batch()[0][:3].requires_grad_()
    value = loss_of("supcon")(x, torch.arange(3), None)
    value.backward()
    assert value.item() == 0


def test_the_memory_compares_with_past_batches_and_is_saved_with_where_it_stands() -> None:
    x, labels = batch()
    loss = loss_of("contrastive", memory=12)
    first, second = loss(x, labels, None), loss(-x, labels, None)
    assert second.item() != pytest.approx(loss_of("contrastive")(-x, labels, None).item())
    again = loss_of("contrastive", memory=12)
    again.load_state_dict(loss.state_dict())
    assert again(x, labels, None).item() == loss(x, labels, None).item()
    assert again(x, labels, None).item() == loss(x, labels, None).item()
    assert first.item() != second.item()
    with pytest.raises(ConfigError, match="--memory is 8; it must hold at least one batch, of 9"):
        loss_of("contrastive", memory=8)(x, labels, None)


class Spy(nn.Module):
    """A loss that checks, one by one, that pairs are what they are called."""

    def __init__(self) -> None:
        super().__init__()
        self.checked = 0

    def forward(self, embeddings, labels, pairs, memory, memory_labels) -> torch.Tensor:
        a, p, b, n = (rows.tolist() for rows in pairs)
        for i, j in zip(a, p, strict=True):
            assert labels[i] == memory_labels[j]
            assert not torch.equal(embeddings[i], memory[j])
        for i, j in zip(b, n, strict=True):
            assert labels[i] != memory_labels[j]
        self.checked += len(a) + len(b)
        return embeddings.sum()


@pytest.mark.parametrize("mining", ["semi-hard", "hardest", "MultiSimilarityMiner", "HDCMiner",
                                    "BatchHardMiner"])  # fmt: skip
@pytest.mark.parametrize("memory", [9, 14, 40])
def test_mined_pairs_are_of_one_class_and_of_two_wherever_the_batch_lies_in_the_memory(
    mining: str, memory: int
) -> None:
    config = LossConfig(loss="contrastive", mining=mining, memory=memory)
    loss = EmbeddingLoss(config, distance="l2", bound=lambda r: r, dim=DIM, n_classes=3)
    spy = loss.metric_loss.loss.loss = Spy()
    generator = torch.Generator().manual_seed(0)
    for size in (9, 7, 9, 9, 8, 9, 9):
        x = nn.functional.normalize(torch.randn(size, DIM, generator=generator), dim=1)
        labels = torch.randint(3, (size,), generator=generator)
        loss(x, labels, generator)
    assert spy.checked


def test_settings_reach_the_loss() -> None:
    x, labels = batch()
    sharp = loss_of("supcon", loss_options='{"temperature": 0.5}')
    assert sharp.loss.temperature == 0.5
    assert sharp(x, labels, None).item() != loss_of("supcon")(x, labels, None).item()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"loss": "tripplet"}, "'tripplet'; it can be triplet, softmax, contrastive, .*CircleLoss"),
        ({"loss": "BaseMetricLossFunction"}, "it can be triplet"),
        ({"loss": "VICRegLoss"}, "'VICRegLoss'; it can be triplet"),
        ({"mining": "BaseMiner"}, "--mining is 'BaseMiner'; it can be all"),
        ({"loss": "supcon", "loss_options": "alpha=2"}, "is not JSON"),
        ({"loss": "triplet", "loss_options": "alpha=2"}, "and --loss is triplet"),
        ({"loss": "supcon", "loss_options": "[2]"}, "must be a JSON object"),
        ({"loss": "supcon", "loss_options": '{"alfa": 2}'}, "do not suit --loss supcon: .*alfa"),
        ({"loss": "proxy-anchor", "memory": 64}, "--memory does not suit --loss proxy-anchor"),
        ({"loss": "triplet", "memory": 64}, "give --loss TripletMarginLoss"),
        ({"mining": "SemiHard"}, "--mining is 'SemiHard'; it can be all, .*BatchHardMiner"),
        ({"loss": "softmax", "softmax_weight": 0.0}, "nothing is left to learn"),
        ({"loss_weight": 0.0, "softmax_weight": 0.0}, "nothing is left to learn"),
        ({"loss": "DynamicSoftMarginLoss"}, "'DynamicSoftMarginLoss'; it can be triplet"),
        (
            {"loss": "multi-similarity", "loss_options": '{"alpha": "x"}'},
            "cannot be learnt by: .*str",
        ),
        ({"loss": "contrastive", "loss_options": '{"distance": "l1"}'}, "cannot be learnt by"),
        ({"loss": "proxy-anchor", "loss_options": '{"embedding_size": 3}'}, "cannot be learnt by"),
        ({"loss": "CosFaceLoss", "loss_options": '{"num_classes": 2}'}, "cannot be learnt by"),
        ({"loss": "supcon", "loss_options": '{"temperature": 0}'}, "it has no gradient"),
    ],
    ids=str,
)
def test_what_does_not_suit_is_refused_in_words(fields: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EmbeddingLoss(LossConfig(**fields), distance="l2", bound=lambda r: r, dim=DIM, n_classes=3)


@pytest.mark.filterwarnings("ignore")  # of the library, about what it calls itself
def test_all_losses_that_are_listed_can_be_learnt_by() -> None:
    """But for those that need settings."""
    with pytest.raises(ConfigError) as told:
        loss_of("no such loss")
    names = str(told.value).split("pytorch-metric-learning's: ")[1].split(", ")
    assert len(names) > 25
    needy = {}
    for name in names:
        try:
            loss_of(name)
        except ConfigError as error:
            needy[name] = "required positional argument" in str(error)
    assert needy == {"P2SGradLoss": True, "RankedListLoss": True}


def test_to_try_a_loss_draws_nothing_from_torchs_generator() -> None:
    loss_of("supcon")
    drawn = torch.rand(3)
    torch.manual_seed(0)
    assert torch.equal(drawn, torch.rand(3))


def test_losses_of_classes_need_labels() -> None:
    with pytest.raises(ConfigError, match="needs labels"):
        loss_of("proxy-anchor", n_classes=0)


def test_without_the_library_the_way_to_get_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pytorch_metric_learning", None)
    with pytest.raises(ConfigError, match=r"pip install 'retrieval\[losses\]'"):
        EmbeddingLoss(
            LossConfig(loss="supcon"), distance="l2", bound=lambda r: r, dim=DIM, n_classes=3
        )
    EmbeddingLoss(LossConfig(), distance="l2", bound=lambda r: r, dim=DIM, n_classes=3)


def test_a_miner_of_the_library_feeds_our_loss_and_ours_feeds_theirs() -> None:
    x, labels = batch()
    for fields in (
        {"mining": "BatchHardMiner"},
        {"mining": "MultiSimilarityMiner"},
        {"loss": "contrastive", "mining": "hardest"},
        {"loss": "CircleLoss", "mining": "BatchEasyHardMiner"},
    ):
        loss = EmbeddingLoss(
            LossConfig(**fields), distance="l2", bound=lambda r: r, dim=DIM, n_classes=3
        )
        terms, _ = loss(x, labels, torch.Generator().manual_seed(0))
        assert terms[fields.get("loss", "triplet")].item() > 0
    pairs_found = metric_miner("MultiSimilarityMiner")(x, labels)
    triplets = as_triplets(pairs_found, labels)
    assert triplets.shape[1] == 3
    a, p, n = triplets.T
    assert (labels[a] == labels[p]).all()
    assert (labels[a] != labels[n]).all()


@pytest.mark.parametrize("miner", ["TripletMarginMiner", "BatchHardMiner", "PairMarginMiner"])
@pytest.mark.parametrize("loss_name", ["triplet", "TripletMarginLoss"])
def test_no_more_triplets_than_wanted_are_taken_of_a_miner_of_the_library(
    miner: str, loss_name: str
) -> None:
    x, labels = batch()
    config = LossConfig(loss=loss_name, mining=miner, max_triplets=5)
    loss = EmbeddingLoss(config, distance="l2", bound=lambda r: r, dim=DIM, n_classes=3)
    mined = loss._mine(torch.cdist(x, x), labels, x, torch.Generator().manual_seed(0))
    pairs_stay = miner == "PairMarginMiner" and loss_name != "triplet"
    assert len(mined) == (4 if pairs_stay else 3)
    if not pairs_stay:
        assert len(mined[0]) == 5
        a, p, n = mined
        assert (labels[a] == labels[p]).all()
        assert (labels[a] != labels[n]).all()
        assert len(set(zip(a.tolist(), p.tolist(), n.tolist(), strict=True))) == 5
