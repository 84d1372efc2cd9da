import itertools
from collections import Counter

import pytest
import torch

from retrieval.config import MINING
from retrieval.mining import (
    MINERS,
    mine_all,
    mine_distance_weighted,
    mine_easy_positive,
    mine_hardest,
    mine_random,
    mine_semi_hard,
)


def batch(seed: int, n: int = 14, classes: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    points = torch.randint(-3, 4, (n, 2), generator=generator).float()  # many equal distances
    labels = torch.randint(0, classes, (n,), generator=generator)
    return torch.cdist(points, points), labels


def valid_triplets(labels: torch.Tensor) -> set[tuple[int, int, int]]:
    n, y = len(labels), labels.tolist()
    triples = itertools.product(range(n), repeat=3)
    return {(a, p, q) for a, p, q in triples if a != p and y[a] == y[p] and y[a] != y[q]}


def mined(miner, distances, labels, most: int = 10**6, seed: int = 0) -> list[tuple[int, ...]]:
    triplets = miner(distances, labels, torch.Generator().manual_seed(seed), most)
    assert triplets.dtype == torch.int64
    assert triplets.shape == (len(triplets), 3)
    return [tuple(row) for row in triplets.tolist()]


@pytest.mark.parametrize("seed", range(5))
def test_all_gives_every_valid_triplet_once(seed: int) -> None:
    distances, labels = batch(seed)
    assert Counter(mined(mine_all, distances, labels)) == Counter(valid_triplets(labels))


def test_all_above_the_cap_draws_evenly() -> None:
    distances, labels = batch(1)
    valid = valid_triplets(labels)
    counts: Counter[tuple[int, ...]] = Counter()
    for seed in range(300):
        drawn = mined(mine_all, distances, labels, most=100, seed=seed)
        assert len(drawn) == 100
        counts.update(drawn)
    assert set(counts) == valid
    expected = 300 * 100 / len(valid)
    assert all(abs(count - expected) < 6 * expected**0.5 for count in counts.values())


@pytest.mark.parametrize("seed", range(5))
def test_semi_hard_takes_the_nearest_negative_that_is_farther(seed: int) -> None:
    distances, labels = batch(seed)
    found = mined(mine_semi_hard, distances, labels)
    pairs = {(a, p) for a, p, _ in valid_triplets(labels)}
    assert Counter((a, p) for a, p, _ in found) == Counter(pairs)
    for a, p, n in found:
        negatives = [float(distances[a, j]) for j in range(len(labels)) if labels[j] != labels[a]]
        farther = [d for d in negatives if d > distances[a, p]]
        assert distances[a, n] == (min(farther) if farther else max(negatives))
        assert labels[n] != labels[a]


@pytest.mark.parametrize("seed", range(5))
def test_hardest_takes_the_farthest_positive_and_nearest_negative(seed: int) -> None:
    distances, labels = batch(seed)
    found = mined(mine_hardest, distances, labels)
    assert Counter(a for a, _, _ in found) == Counter({a for a, _, _ in valid_triplets(labels)})
    for a, p, n in found:
        valid = [t for t in valid_triplets(labels) if t[0] == a]
        assert distances[a, p] == max(distances[a, q] for _, q, _ in valid)
        assert distances[a, n] == min(distances[a, q] for _, _, q in valid)
        assert (a, p, n) in valid


def test_random_gives_each_pair_any_of_its_negatives() -> None:
    distances, labels = batch(2)
    seen: set[tuple[int, ...]] = set()
    for seed in range(200):
        found = mined(mine_random, distances, labels, seed=seed)
        assert Counter((a, p) for a, p, _ in found) == Counter(
            {(a, p) for a, p, _ in valid_triplets(labels)}
        )
        seen.update(found)
    assert seen == valid_triplets(labels)


@pytest.mark.parametrize("name", MINERS)
@pytest.mark.parametrize("labels", [[], [0], [0, 0, 0], [0, 1, 2], [5, 5]])
def test_without_positives_or_negatives_there_is_no_triplet(name: str, labels: list[int]) -> None:
    y = torch.tensor(labels, dtype=torch.int64)
    assert mined(MINERS[name], torch.zeros(len(y), len(y)), y) == []


@pytest.mark.parametrize("name", MINERS)
def test_the_cap_holds_and_the_generator_decides(name: str) -> None:
    distances, labels = batch(3)
    drawn = mined(MINERS[name], distances, labels, most=5)
    assert len(drawn) == 5
    assert set(drawn) <= valid_triplets(labels)
    assert drawn == mined(MINERS[name], distances, labels, most=5)


@pytest.mark.parametrize("name", MINERS)
def test_a_collapsed_batch_is_mined_all_the_same(name: str) -> None:
    labels = torch.tensor([0, 0, 1, 1])
    found = mined(MINERS[name], torch.zeros(4, 4), labels)
    assert found
    assert set(found) <= valid_triplets(labels)


def test_ties_on_a_line_by_hand() -> None:
    # The anchor at 0 has positives at 1 and 2, and negatives at −1, −2 and −3: a negative just as
    # far as the positive is not farther, and beyond the last there is only the last.
    places = torch.tensor([[0.0], [1.0], [2.0], [-1.0], [-2.0], [-3.0]])
    labels = torch.tensor([0, 0, 0, 1, 2, 3])
    found = mined(mine_semi_hard, torch.cdist(places, places), labels)
    assert {t for t in found if t[0] == 0} == {(0, 1, 4), (0, 2, 5)}
    assert {t for t in found if t[0] == 1} == {(1, 0, 3), (1, 2, 3)}
    assert mined(mine_hardest, torch.cdist(places, places), labels) == [
        (0, 2, 3), (1, 0, 3), (2, 0, 3),
    ]  # fmt: skip
    far = torch.cdist(places, places)
    far[0, 2] = 9  # farther than every negative
    assert (0, 2, 5) in mined(mine_semi_hard, far, labels)


def test_the_cap_is_reached_and_not_passed_at_its_edge() -> None:
    distances, labels = batch(0)
    total = len(valid_triplets(labels))
    for most in (total - 1, total, total + 1):
        drawn = mined(mine_all, distances, labels, most=most)
        assert len(drawn) == min(total, most)
        assert (set(drawn) == valid_triplets(labels)) == (most >= total)


@pytest.mark.parametrize("name", ["random", "semi-hard", "hardest"])
def test_what_a_cap_leaves_is_part_of_what_there_is_without_repetition(name: str) -> None:
    distances, labels = batch(4)
    whole = mined(MINERS[name], distances, labels)
    seen: set[tuple[int, ...]] = set()
    for seed in range(60):
        drawn = mined(MINERS[name], distances, labels, most=4, seed=seed)
        assert len({t[:2] for t in drawn}) == 4
        seen.update(t[:2] for t in drawn)
    assert seen == {t[:2] for t in whole}  # no pair is left out for ever


def test_labels_of_any_value_and_anchors_without_a_partner() -> None:
    labels = torch.tensor([7, -1, 7, 10**12, -1])
    points = torch.arange(5.0)[:, None]
    for name in MINERS:
        found = mined(MINERS[name], torch.cdist(points, points), labels)
        assert {t[0] for t in found} == {0, 1, 2, 4}
        assert set(found) <= valid_triplets(labels)


@pytest.mark.parametrize("name", ["semi-hard", "hardest", "easy-positive"])
def test_labels_that_do_not_fit_the_distances_are_an_error(name: str) -> None:
    with pytest.raises((RuntimeError, IndexError)):
        mined(MINERS[name], torch.zeros(3, 3), torch.tensor([0, 0, 1, 1]))


@pytest.mark.parametrize("seed", range(5))
def test_easy_positive_takes_the_nearest_positive_and_the_next_negative(seed: int) -> None:
    distances, labels = batch(seed)
    found = mined(mine_easy_positive, distances, labels)
    valid = valid_triplets(labels)
    assert Counter(a for a, _, _ in found) == Counter({a for a, _, _ in valid})
    for a, p, n in found:
        assert (a, p, n) in valid
        assert distances[a, p] == min(distances[a, q] for b, q, _ in valid if b == a)
        negatives = [float(distances[a, q]) for b, _, q in valid if b == a]
        farther = [d for d in negatives if d > distances[a, p]]
        assert distances[a, n] == (min(farther) if farther else max(negatives))


def test_distance_weighted_gives_each_pair_a_negative_as_its_weight_says() -> None:
    # One anchor and its positive at 0 and 0.1; negatives at growing distances on a line.
    points = torch.tensor([[0.0], [0.1], [0.3], [0.45], [1.4], [1.8]])
    labels = torch.tensor([0, 0, 1, 2, 3, 4])
    distances = torch.cdist(points, points)
    counts: Counter[int] = Counter()
    for seed in range(4000):
        found = mined(mine_distance_weighted, distances, labels, seed=seed)
        assert Counter((a, p) for a, p, _ in found) == Counter({(0, 1): 1, (1, 0): 1})
        counts[next(n for a, _, n in found if a == 0)] += 1
    differ = labels[:, None] != labels[None]
    scale = 2**0.5 / float(distances[differ].mean())
    weights = []
    for j in range(2, 6):
        d = min(max(float(distances[0, j]) * scale, 0.5), 1.98)  # the first is under 0.5
        weights.append(d ** (2 - 16) * (1 - d * d / 4) ** ((3 - 16) / 2))
    for j, weight in zip(range(2, 6), weights, strict=True):
        expected = 4000 * weight / sum(weights)
        assert abs(counts[j] - expected) < 5 * max(expected, 1) ** 0.5 + 1


@pytest.mark.parametrize("seed", range(5))
def test_distance_weighted_never_draws_what_is_no_negative(seed: int) -> None:
    distances, labels = batch(seed)
    found = mined(mine_distance_weighted, distances, labels, seed=seed)
    assert set(found) <= valid_triplets(labels)
    assert {(a, p) for a, p, _ in found} == {(a, p) for a, p, _ in valid_triplets(labels)}
    collapsed = mined(mine_distance_weighted, torch.zeros_like(distances), labels, seed=seed)
    assert set(collapsed) <= valid_triplets(labels)


def test_each_miner_that_can_be_named_is_there() -> None:
    assert tuple(MINERS) == MINING
