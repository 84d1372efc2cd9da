"""Discretizers: against plain loops, against scikit-learn, and at every edge."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import KBinsDiscretizer, StandardScaler

from retrieval.discretize import (
    EqualFrequencyDiscretizer,
    EqualWidthDiscretizer,
    KMeansDiscretizer,
    ProductDiscretizer,
)
from retrieval.discretize.row_sample import RowSample
from retrieval.errors import ConfigError, DataError

WAYS = [EqualWidthDiscretizer, EqualFrequencyDiscretizer, KMeansDiscretizer]
ALL = pytest.mark.parametrize("way", WAYS)
quick = settings(max_examples=60, deadline=None, derandomize=True, database=None)
numbers = st.one_of(st.floats(allow_nan=False, allow_infinity=False), st.integers(-3, 3).map(float))
columns = st.one_of(
    hnp.arrays(np.float64, st.tuples(st.integers(1, 40), st.just(1)), elements=numbers),
    hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 40), st.just(1)),
        elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
    ),
)


def column(*values: float) -> np.ndarray:
    return np.array(values, np.float64)[:, None]


def data(rows: int = 300, dim: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, dim))


@pytest.mark.parametrize("way", WAYS)
@quick
@given(values=columns, k=st.integers(1, 12))
def test_what_holds_for_any_values(way: type, values: np.ndarray, k: int) -> None:
    made = way(k).fit(values)
    codes, edges = made.transform(values)[:, 0], made.bin_edges_[0]
    assert edges.dtype == made.centers_[0].dtype == values.dtype
    assert len(edges) == made.n_bins_[0] + 1 <= k + 1
    # Edges ascend and cover the range.
    assert (edges[:-1] <= edges[1:]).all()
    assert (edges[0], edges[-1]) == (values.min(), values.max())
    # Codes are monotone in the value.
    assert (np.diff(codes[np.argsort(values[:, 0])].astype(int)) >= 0).all()
    # Each value, and the centre of its bin, lies between the edges of the bin.
    centers = made.inverse_transform(codes[:, None])
    assert np.isfinite(centers).all()
    for x in (values[:, 0], centers[:, 0]):
        assert (edges[codes] <= x).all()
        assert (x <= edges[codes + 1]).all()
    assert (made.transform(centers)[:, 0] == codes).all()


@quick
@given(values=columns, k=st.integers(1, 12))
def test_equally_frequent_but_for_the_ties(values: np.ndarray, k: int) -> None:
    made = EqualFrequencyDiscretizer(k).fit(values)
    counts = np.bincount(made.transform(values)[:, 0], minlength=made.n_bins_[0])
    ties = np.unique(values, return_counts=True)[1].max()
    if ties == 1:
        assert counts.max() - counts.min() <= 1
    assert counts.max() <= len(values) // k + 1 + ties


@quick
@given(values=columns, k=st.integers(1, 6))
def test_kmeans_leaves_no_bin_empty_and_no_center_off_the_mean(values: np.ndarray, k: int) -> None:
    made = KMeansDiscretizer(k).fit(values)
    codes = made.transform(values)[:, 0]
    assert made.n_bins_[0] == min(k, len(np.unique(values)))
    assert set(codes) == set(range(made.n_bins_[0]))


def test_equal_width_by_hand() -> None:
    made = EqualWidthDiscretizer(4).fit(column(0, 8))
    assert made.bin_edges_[0].tolist() == [0, 2, 4, 6, 8]
    assert made.centers_[0].tolist() == [1, 3, 5, 7]
    asked = column(-100, 0, 1.99, 2, 5, 8, 100)
    assert made.transform(asked)[:, 0].tolist() == [0, 0, 0, 1, 2, 3, 3]


def test_equal_frequency_by_hand() -> None:
    made = EqualFrequencyDiscretizer(2).fit(column(5, 1, 2, 9, 1, 30))
    # Ascending 1 1 2 5 9 30: the cut is halfway between the third and the fourth.
    assert made.bin_edges_[0].tolist() == [1, 3.5, 30]
    assert made.centers_[0].tolist() == pytest.approx([4 / 3, 44 / 3])


def test_kmeans_by_hand() -> None:
    made = KMeansDiscretizer(3).fit(column(0, 1, 10, 11, 30, 50))
    assert made.centers_[0].tolist() == pytest.approx([5.5, 30, 50])
    assert made.bin_edges_[0].tolist() == pytest.approx([0, 17.75, 40, 50])


def test_kmeans_against_all_ways_to_cut() -> None:
    from itertools import combinations

    rng = np.random.default_rng(0)
    for _ in range(20):
        values = np.sort(np.concatenate([rng.normal(m, 0.1, 4) for m in (0, 5, 7)]))
        made = KMeansDiscretizer(3).fit(values[:, None])
        found = made.inverse_transform(made.transform(values[:, None]))[:, 0]
        best = min(
            sum(((part - part.mean()) ** 2).sum() for part in np.split(values, cuts))
            for cuts in combinations(range(1, len(values)), 2)
        )
        assert ((found - values) ** 2).sum() == pytest.approx(best)


@pytest.mark.parametrize("k", [2, 5, 16])
@pytest.mark.parametrize("shape", ["normal", "skewed"])
def test_agrees_with_scikit_learn(k: int, shape: str) -> None:
    values = data(500)
    values = np.exp(values) if shape == "skewed" else values
    asked = np.concatenate([values, data(100, seed=1) * 2])
    pairs = [
        (EqualWidthDiscretizer(k), {"strategy": "uniform"}),
        (
            EqualFrequencyDiscretizer(k),
            {"strategy": "quantile", "quantile_method": "linear"},
        ),
    ]
    for ours, options in pairs:
        theirs = KBinsDiscretizer(k, encode="ordinal", subsample=None, **options).fit(values)
        assert (ours.fit_transform(values) == theirs.transform(values)).all()
        assert (ours.transform(asked) == theirs.transform(asked)).all()
        for own, other in zip(ours.bin_edges_, theirs.bin_edges_, strict=True):
            np.testing.assert_allclose(own, other, rtol=1e-12, atol=1e-12)


def test_kmeans_is_no_worse_than_that_of_scikit_learn() -> None:
    groups = np.random.default_rng(0).integers(0, 4, 200)[:, None] * 10.0
    apart = groups + data(200, 1)
    theirs = KBinsDiscretizer(4, encode="ordinal", strategy="kmeans", subsample=None).fit(apart)
    assert (KMeansDiscretizer(4).fit_transform(apart) == theirs.transform(apart)).all()
    for values in (data(400, 1), np.exp(data(400, 1))):
        errors = []
        for made in (
            KMeansDiscretizer(8),
            KBinsDiscretizer(8, encode="ordinal", strategy="kmeans", subsample=None),
        ):
            codes = made.fit_transform(values)[:, 0].astype(int)
            parts = [values[codes == code] for code in np.unique(codes)]
            errors.append(sum(((part - part.mean()) ** 2).sum() for part in parts))
        assert errors[0] <= errors[1] * 1.01


@ALL
def test_parts_give_what_the_whole_gives(way: type) -> None:
    values = data(400)
    whole, parts = way(6).fit(values), way(6)
    for part in np.array_split(values, 7):
        parts.partial_fit(part)
    assert parts.n_samples_seen_ == 400
    for a, b in zip(whole.bin_edges_, parts.bin_edges_, strict=True):
        np.testing.assert_array_equal(a, b)
    assert (whole.fit(values[:50]).n_samples_seen_, parts.n_samples_seen_) == (50, 400)


@pytest.mark.parametrize("way", WAYS[1:])
def test_a_sample_stands_for_a_stream(way: type) -> None:
    values = data(20_000, 1)
    made, other = way(4, sample_rows=2000), way(4, sample_rows=2000).fit(values)
    for part in np.array_split(values, 13):
        made.partial_fit(part)
        assert sum(map(len, made._sample._rows)) <= 4000
    np.testing.assert_array_equal(made.bin_edges_[0], other.bin_edges_[0])
    edges, exact = made.bin_edges_[0], way(4).fit(values).bin_edges_[0]
    assert (edges[0], edges[-1]) == (values.min(), values.max())
    np.testing.assert_allclose(edges, exact, atol=0.15)


def test_every_row_is_as_likely_to_be_kept() -> None:
    counts = np.zeros(30)
    for seed in range(600):
        sample = RowSample(10, seed)
        for part in np.array_split(np.arange(30)[:, None], 4):
            sample.add(part)
        kept = sample.rows()[:, 0]
        assert len(set(kept)) == 10
        counts[kept] += 1
    assert np.abs(counts - 200).max() < 5 * np.sqrt(200 * 2 / 3)


@ALL
def test_kinds_of_input(way: type) -> None:
    values = data(200).astype(np.float32)
    made = way(5).fit(values)
    codes = made.transform(values)
    assert codes.dtype == np.uint8
    assert made.inverse_transform(codes).dtype == np.float32
    tensor = torch.from_numpy(values)
    assert (way(5).fit_transform(tensor) == codes).all()
    assert (made.transform(tensor.requires_grad_()) == codes).all()
    assert (made.transform(values.astype(np.float64)) == codes).all()
    assert (made.transform(np.asfortranarray(values)) == codes).all()
    assert (made.transform(values.tolist()) == codes).all()
    assert made.transform(tensor.bfloat16()).shape == codes.shape
    assert made.transform(values[:0]).shape == (0, 3)
    assert way(300).fit_transform(data(1000)).dtype == np.uint16
    whole = way(3).fit(np.arange(9).reshape(-1, 1))
    assert whole.transform([[0], [8]])[:, 0].tolist() == [0, 2]


@ALL
def test_conventions_of_scikit_learn(way: type) -> None:
    values = data(100)
    made = way(n_bins=5)
    assert clone(made).get_params() == made.get_params()
    assert made.set_params(n_bins=4).get_params()["n_bins"] == 4
    assert made.fit(values) is made
    assert made.n_features_in_ == 3
    piped = make_pipeline(StandardScaler(), way(4))
    assert piped.fit_transform(values).shape == (100, 3)
    assert piped.inverse_transform(piped.transform(values)).shape == (100, 3)
    for call in ("transform", "inverse_transform"):
        with pytest.raises(NotFittedError, match="call fit first"):
            getattr(way(4), call)(np.zeros((1, 3), int))


@ALL
def test_few_values(way: type) -> None:
    constant = way(4).fit(column(7, 7, 7))
    assert constant.n_bins_.tolist() == [1]
    assert constant.bin_edges_[0].tolist() == [7, 7]
    assert constant.transform(column(-1, 7, 9))[:, 0].tolist() == [0, 0, 0]
    assert constant.inverse_transform([[0]]).tolist() == [[7]]
    one = way(1).fit(column(1, 2, 6))
    assert one.transform(column(0, 1, 6, 8))[:, 0].tolist() == [0, 0, 0, 0]
    assert one.bin_edges_[0].tolist() == [1, 6]
    two = way(5).fit(column(1, 1, 1, 2))
    codes = two.transform(column(1, 2))[:, 0]
    assert codes.tolist() == ([0, 4] if way is EqualWidthDiscretizer else [0, 1])
    mixed = way(4).fit(np.concatenate([column(*range(20)), np.ones((20, 1))], axis=1))
    assert mixed.n_bins_.tolist() == [4, 1]
    single = way(3).fit([[2.0]])
    assert single.inverse_transform(single.transform([[5.0]])).tolist() == [[2.0]]


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_cuts_between_numbers_that_nothing_lies_between(kind: type) -> None:
    for skipped in range(8):
        values = [kind(1)]
        for _ in range(skipped + 9):
            values.append(np.nextafter(values[-1], kind(2)))
        values = np.array(values[skipped:])[:, None]
        for k in (2, 3, 4, 7):
            counts = np.bincount(EqualFrequencyDiscretizer(k).fit_transform(values)[:, 0])
            assert counts.max() - counts.min() <= 1


def test_repeated_values_are_never_parted() -> None:
    made = EqualFrequencyDiscretizer(4).fit(column(0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5))
    assert made.n_bins_[0] < 4
    assert made.transform(column(0, 5))[:, 0].tolist() == [0, made.n_bins_[0] - 1]


@ALL
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_and_changes_nothing(way: type, bad: float) -> None:
    made = way(3).fit(column(1, 2, 3, 9))
    edges = made.bin_edges_[0].copy()
    for call in (made.fit, made.partial_fit, made.transform):
        with pytest.raises(DataError, match="row 1, column 0"):
            call(column(50, bad))
    np.testing.assert_array_equal(made.bin_edges_[0], edges)
    assert made.n_samples_seen_ == 4


@ALL
def test_what_the_kept_type_cannot_hold_is_refused_and_changes_nothing(way: type) -> None:
    made = way(3).fit(column(1, 2, 3, 9).astype(np.float32))
    edges, centers = made.bin_edges_[0].copy(), made.centers_[0].copy()
    with pytest.raises(DataError, match=r"beyond float32.* 1e\+39 in row 20000, column 0"):
        made.partial_fit(np.append(np.arange(20_000), [1e39])[:, None])
    with pytest.raises(DataError, match=r"beyond float64.* 1e\+400 in row 1, column 0"):
        made.fit(np.array([[1], [np.longdouble("1e400")]]))
    np.testing.assert_array_equal(made.bin_edges_[0], edges)
    np.testing.assert_array_equal(made.centers_[0], centers)
    assert made.n_samples_seen_ == 4
    assert made.partial_fit([[3e38]]).bin_edges_[0][-1] == np.float32(3e38)
    assert made.transform([[-1e39], [1e39]])[:, 0].tolist() == [0, made.n_bins_[0] - 1]


@ALL
def test_wrong_shapes_and_options(way: type) -> None:
    made = way(3).fit(data())
    with pytest.raises(DataError, match=r"reshape\(-1, 1\)"):
        way(3).fit(np.zeros(5))
    with pytest.raises(DataError, match="nothing to learn from"):
        way(3).fit(np.zeros((0, 2)))
    with pytest.raises(DataError, match=r"2 columns; this .* has learned from 3"):
        made.transform(np.zeros((4, 2)))
    with pytest.raises(DataError, match="expected numbers"):
        made.transform(np.array([["a", "b", "c"]]))
    with pytest.raises(DataError, match="3 codes do not exist; the first is 3 in row 0, column 0"):
        made.inverse_transform(np.full((1, 3), 3))
    with pytest.raises(DataError, match="whole numbers"):
        made.inverse_transform(np.zeros((1, 3)))
    with pytest.raises(DataError, match=r"shape \(1, 2\)"):
        made.inverse_transform(np.zeros((1, 2), int))
    for wrong in (0, -1, 2.5, 70_000, "8", True):
        with pytest.raises(ConfigError, match="n_bins is"):
            way(wrong).fit(data())


def test_groups_of_columns_against_a_loop() -> None:
    values = data(300, 6).astype(np.float32)
    made = ProductDiscretizer(8, subspaces=3).fit(values)
    codes = made.transform(values)
    assert codes.shape == (300, 3)
    assert codes.dtype == np.uint8
    assert [c.shape for c in made.centers_] == [(8, 2)] * 3
    for row in range(0, 300, 37):
        for group in range(3):
            part = values[row, 2 * group : 2 * group + 2]
            distances = [np.linalg.norm(part - c) for c in made.centers_[group]]
            assert codes[row, group] == int(np.argmin(distances))
    back = made.inverse_transform(codes)
    assert back.shape == values.shape
    assert back[5, 2:4].tolist() == made.centers_[1][codes[5, 1]].tolist()
    assert np.square(back - values).mean() < 0.4 * np.square(values).mean()
    with pytest.raises(AttributeError, match="no edges"):
        _ = made.bin_edges_


def test_groups_of_columns_at_the_edges() -> None:
    with pytest.raises(ConfigError, match="does not divide 6 columns; possible are 1, 2, 3, 6"):
        ProductDiscretizer(4, subspaces=4).fit(data(20, 6))
    with pytest.raises(ConfigError, match=r"n_bins with subspaces is 257; .* from 1 to 256"):
        ProductDiscretizer(257, subspaces=2).fit(data(20, 6))
    with pytest.raises(ConfigError, match="subspaces is 0"):
        ProductDiscretizer(4, subspaces=0).fit(data(20, 6))
    few = np.repeat(data(3, 4), 5, axis=0).astype(np.float32)
    made = ProductDiscretizer(16, subspaces=2).fit(few)
    assert made.n_bins_.tolist() == [3, 3]
    np.testing.assert_array_equal(made.inverse_transform(made.transform(few)), few)
    signed = np.array([[0.0, -0.0], [-0.0, 0.0]])
    assert ProductDiscretizer(4, subspaces=1).fit(signed).n_bins_.tolist() == [1]


@pytest.mark.parametrize(
    ("kind", "power"),
    [
        (np.float32, -100),
        (np.float32, 64),
        (np.float32, 124),
        (np.float64, -900),
        (np.float64, 1020),
    ],
)
def test_groups_of_columns_are_the_same_at_every_scale(kind: type, power: int) -> None:
    values = data(300, 4).astype(kind)
    scaled = np.ldexp(values, power)
    plain, made = (ProductDiscretizer(8, subspaces=2).fit(v) for v in (values, scaled))
    np.testing.assert_array_equal(made.transform(scaled), plain.transform(values))
    for own, other in zip(made.centers_, plain.centers_, strict=True):
        assert own.dtype == kind
        np.testing.assert_array_equal(own, np.ldexp(other, power))
    back = made.inverse_transform(made.transform(scaled))
    np.testing.assert_array_equal(
        back, np.ldexp(plain.inverse_transform(plain.transform(values)), power)
    )


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_groups_of_columns_far_from_zero(kind: type) -> None:
    close = kind(1e6 if kind is np.float32 else 1e15) + np.arange(8).astype(kind)[:, None]
    made = ProductDiscretizer(8, subspaces=1).fit(close)
    assert sorted(made.transform(close)[:, 0]) == list(range(8))
    np.testing.assert_array_equal(made.inverse_transform(made.transform(close)), close)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_rows_far_from_all_centres_have_the_nearest(kind: type) -> None:
    made = ProductDiscretizer(16, subspaces=1).fit(data(500, 2).astype(kind))
    for angle in np.linspace(0, 6, 25):
        along = np.array([np.cos(angle), np.sin(angle)])
        reaches = made.centers_[0] @ along  # what decides where the distance dwarfs the centres
        for distance in (1e6, 1e20, 1e39, 1e308):
            code = made.transform((distance * along)[None])[0, 0]
            assert reaches[code] > reaches.max() - 1e-2


@quick
@given(
    values=st.sampled_from([32, 64]).flatmap(
        lambda width: hnp.arrays(
            f"f{width // 8}",
            st.tuples(st.integers(1, 20), st.just(2)),
            elements=st.floats(width=width, allow_nan=False, allow_infinity=False),
        )
    ),
    k=st.integers(1, 6),
)
def test_groups_of_any_columns_have_centres_within_their_range(values: np.ndarray, k: int) -> None:
    made = ProductDiscretizer(k, subspaces=1).fit(values)
    codes = made.transform(values)
    assert (codes < made.n_bins_).all()
    assert (made.centers_[0] >= values.min(0)).all()
    assert (made.centers_[0] <= values.max(0)).all()
    # As far as float32 can tell, no centre is nearer than that of the code.
    half, centers = values.astype(np.longdouble) / 2, made.centers_[0].astype(np.longdouble) / 2
    distances = np.sqrt(np.square(half[:, None] - centers).sum(2))
    own = distances[np.arange(len(values)), codes[:, 0]]
    assert (own <= distances.min(1) + 1e-3 * np.abs(half - half[0]).max()).all()


def test_as_close_as_the_product_quantiser_of_faiss() -> None:
    import faiss

    values = data(4000, 16).astype(np.float32)
    values[:, 1::2] += values[:, ::2]
    made = ProductDiscretizer(16, subspaces=4).fit(values)
    ours = np.square(made.inverse_transform(made.transform(values)) - values).sum()
    theirs = faiss.ProductQuantizer(16, 4, 4)
    theirs.train(values)
    other = np.square(theirs.decode(theirs.compute_codes(values)) - values).sum()
    assert ours <= 1.02 * other
