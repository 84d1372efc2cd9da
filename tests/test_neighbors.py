import faiss
import numpy as np
import pytest
from galleries import grid_vectors, slow_distance, slow_search

from index.errors import VectorError
from index.exact_search import exact_search
from index.neighbors import METRICS, Neighbors, pair_distances, prepare, unit


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("k", [1, 3, 50, 70])
def test_exact_search_equals_a_loop_with_ties_at_the_cut(metric: str, k: int) -> None:
    rng = np.random.default_rng(k)
    raw = grid_vectors(rng, 60)
    raw[40:60] = raw[0]  # twenty copies: more than the margin of candidates
    raw[:, 0] += 5  # none is zero
    vectors = prepare(raw, 4, metric, "vectors")
    ids = np.arange(100, 160)
    queries = prepare(raw[:7], 4, metric, "queries")

    def blocks():
        yield vectors[:25], ids[:25]
        yield np.empty((0, 4), np.float32), np.empty(0, np.int64)
        yield vectors[25:], ids[25:]

    found = exact_search(queries, k, blocks, lambda wanted: vectors[wanted - 100], metric)
    assert found.distances.dtype == np.float32
    assert found.ids.dtype == np.int64
    for row, query in enumerate(queries):
        expected = slow_search(query, dict(zip(ids.tolist(), vectors, strict=True)), k, metric)
        n = len(expected)
        if metric != "cosine":  # there, scaled copies are equally near but for rounding
            assert found.ids[row, :n].tolist() == [i for _, i in expected]
        copies = [i for i in found.ids[row].tolist() if i == 100 or i >= 140]
        assert copies == sorted(copies)
        np.testing.assert_allclose(found.distances[row, :n], [d for d, _ in expected], atol=2e-5)
        assert (found.ids[row, n:] == -1).all()
        assert np.isinf(found.distances[row, n:]).all()


@pytest.mark.parametrize("metric", METRICS)
def test_near_duplicates_beyond_the_rounding_of_faiss_are_ranked_right(
    metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # From so many queries on faiss.knn computes L2 as |a|² + |b|² − 2ab, which rounds the most.
    monkeypatch.setattr(faiss.cvar, "distance_compute_blas_threshold", 20)
    rng = np.random.default_rng(0)
    base = rng.normal(size=64)
    near = base + 1e-4 * rng.normal(size=(600, 64))
    vectors = prepare(near, 64, metric, "vectors")
    queries = prepare(np.repeat(base[None], 30, 0), 64, metric, "queries")
    ids = np.arange(600)
    found = exact_search(queries, 5, lambda: [(vectors, ids)], lambda i: vectors[i], metric)
    distances = pair_distances(vectors, np.repeat(queries[:1], 600, 0), metric)
    expected = np.lexsort((ids, distances))[:5]
    assert (found.ids == expected).all()


def test_no_rows_give_no_neighbors() -> None:
    found = exact_search(
        np.zeros((2, 4), np.float32), 3, lambda: iter(()), lambda ids: np.empty((0, 4)), "l2"
    )
    assert (found.ids == -1).all()
    assert np.isinf(found.distances).all()


def test_no_queries_give_an_empty_answer() -> None:
    vectors = np.zeros((5, 4), np.float32)
    found = exact_search(
        np.zeros((0, 4), np.float32),
        3,
        lambda: [(vectors, np.arange(5))],
        lambda i: vectors[i],
        "l2",
    )
    assert found.ids.shape == (0, 3)


@pytest.mark.parametrize("metric", METRICS)
def test_pair_distances_equal_their_definition(metric: str) -> None:
    rng = np.random.default_rng(1)
    a, b = (prepare(rng.normal(size=(9, 5)), 5, metric, "x") for _ in range(2))
    expected = [slow_distance(x, y, metric) for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(pair_distances(a, b, metric), expected, rtol=1e-5, atol=1e-6)
    assert (pair_distances(a, a, metric) <= 1e-6).all()


def test_merge_orders_by_distance_then_id_and_keeps_none_last() -> None:
    first = Neighbors(np.array([[1.0, 2.0, np.inf]], np.float32), np.array([[7, 9, -1]]))
    second = Neighbors(np.array([[1.0, 3.0]], np.float32), np.array([[5, 2]]))
    merged = first.merge(second, 5)
    assert merged.ids.tolist() == [[5, 7, 9, 2, -1]]
    assert merged.distances.tolist() == [[1, 1, 2, 3, np.inf]]


def test_unit_keeps_zero() -> None:
    np.testing.assert_allclose(unit(np.array([[3.0, 4.0], [0.0, 0.0]])), [[0.6, 0.8], [0, 0]])


@pytest.mark.parametrize("bad", [np.zeros(4), np.zeros((2, 3)), np.zeros((1, 2, 4))])
def test_wrong_shapes_are_refused_with_both_shapes_named(bad: np.ndarray) -> None:
    with pytest.raises(VectorError, match=r"\(n, 4\)"):
        prepare(bad, 4, "l2", "queries")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    vectors = np.zeros((3, 4), np.float32)
    vectors[1, 2] = value
    with pytest.raises(VectorError, match=r"1 of 3 queries.*row 1"):
        prepare(vectors, 4, "l2", "queries")


def test_lengths_are_those_of_numbers_however_small() -> None:
    values = np.array([[3, 4, 0], [0, 0, 0], [-5, 12, 0]], np.float32)
    expected = [[0.6, 0.8, 0], [0, 0, 0], [-5 / 13, 12 / 13, 0]]
    for scale in (1e17, 1, 1e-14, 1e-17, 1e-20, 1e-25, 1e-36):
        found = unit(values * np.float32(scale))
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=0)
    assert unit(np.empty((0, 3), np.float32)).shape == (0, 3)
