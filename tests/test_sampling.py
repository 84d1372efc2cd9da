from collections import Counter

import numpy as np
import pytest

from retrieval.sampling import class_balanced_batches, shuffled_batches


def batches_of(
    counts: list[int], p: int, size: int, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    labels = np.random.default_rng(99).permutation(np.repeat(np.arange(len(counts)) * 3, counts))
    return class_balanced_batches(labels, p, size, np.random.default_rng(seed)), labels


@pytest.mark.parametrize(
    ("counts", "p", "size"),
    [([20] * 5, 5, 20), ([20] * 5, 2, 8), ([7, 50, 3], 2, 8), ([1, 1, 9], 3, 6), ([5, 5], 16, 128)],
)
def test_batches_have_p_classes_of_k_and_the_epoch_has_every_row(counts, p: int, size: int) -> None:
    batches, labels = batches_of(counts, p, size)
    p = min(p, len(counts))
    per_class = size // p
    for batch in batches:
        in_batch = Counter(labels[batch].tolist())
        assert len(in_batch) == p
        assert set(in_batch.values()) == {per_class}
    assert set(batches.ravel().tolist()) == set(range(len(labels)))


def test_equal_classes_give_every_row_exactly_once() -> None:
    batches, labels = batches_of([20] * 5, 5, 20)
    assert sorted(batches.ravel().tolist()) == list(range(len(labels)))


def test_a_class_batch_repeats_a_row_only_when_the_class_is_used_up() -> None:
    batches, labels = batches_of([6, 60], 2, 8)
    small = [row for batch in batches for row in batch if labels[row] == 0]
    for start in range(0, len(small) - 5, 6):  # whole shuffled passes, one after another
        assert len(set(small[start : start + 6])) == 6


def test_the_number_of_batches_depends_on_labels_alone_and_their_order_on_the_generator() -> None:
    one, _ = batches_of([7, 50, 3, 12], 3, 9, seed=1)
    two, _ = batches_of([7, 50, 3, 12], 3, 9, seed=2)
    again, _ = batches_of([7, 50, 3, 12], 3, 9, seed=1)
    assert one.shape == two.shape
    assert not np.array_equal(one, two)
    np.testing.assert_array_equal(one, again)


def test_one_class_is_an_error() -> None:
    with pytest.raises(ValueError, match="found 1 class"):
        batches_of([9], 2, 4)


def test_shuffled_batches_have_each_row_at_most_once() -> None:
    batches = shuffled_batches(23, 5, np.random.default_rng(0))
    assert batches.shape == (4, 5)
    assert len(set(batches.ravel().tolist())) == 20
    assert shuffled_batches(3, 5, np.random.default_rng(0)).shape == (1, 3)
    assert shuffled_batches(0, 5, np.random.default_rng(0)).shape[0] == 0


@pytest.mark.parametrize("counts", [[5] * 4, [4, 9, 30, 6], [7, 11, 4, 4]])
def test_a_batch_has_no_picture_twice_where_classes_are_large_enough(counts: list[int]) -> None:
    for seed in range(20):
        batches, labels = batches_of(counts, 4, 16, seed)
        for batch in batches:  # a picture would else be its own positive
            assert len(set(batch.tolist())) == 16
        assert set(batches.ravel().tolist()) == set(range(len(labels)))


def test_classes_that_p_does_not_divide_come_again() -> None:
    batches, _ = batches_of([2] * 3, 2, 4)
    assert batches.shape == (2, 4)
    assert Counter(Counter(batches.ravel().tolist()).values()) == {1: 4, 2: 2}


def test_a_class_of_one_fills_its_group_with_its_only_row() -> None:
    batches, labels = batches_of([1, 4], 2, 4)
    only = int(np.flatnonzero(labels == 0)[0])
    assert [batch.tolist().count(only) for batch in batches] == [2, 2]


def test_no_rows_are_an_error() -> None:
    with pytest.raises(ValueError, match="found 0 class"):
        class_balanced_batches(np.empty(0, np.int64), 2, 4, np.random.default_rng(0))
