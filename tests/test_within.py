from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from galleries import grid_vectors, make_gallery, new_items, slow_distance

from index import within as module
from index.errors import FilterError, VectorError
from index.gallery import Gallery
from index.neighbors import METRICS, prepare
from index.within import within


def slow_within(
    query: np.ndarray, vectors: dict[int, np.ndarray], radius: float, metric: str
) -> list[tuple[float, int]]:
    pairs = [(float(np.float32(slow_distance(query, v, metric))), i) for i, v in vectors.items()]
    return sorted(pair for pair in pairs if pair[0] <= float(np.float32(radius)))


def filled(
    path: Path, metric: str, dtype: str = "float32"
) -> tuple[Gallery, dict[int, np.ndarray]]:
    """Sixty vectors of small whole numbers in three commits, some of them removed."""
    made = make_gallery(path / "g.gallery", metric=metric, dtype=dtype)
    with made.writer() as writer:
        for first in (0, 20, 40):
            vectors = grid_vectors(np.random.default_rng(first), 20)
            writer.add(vectors, new_items(first, 20))
        writer.remove([3, 20, 21, 60])
    ids = [item.id for item in made.all_items()]
    return made, dict(zip(ids, made.vectors(np.array(ids)), strict=True))


@pytest.fixture(scope="module", params=METRICS)
def made_of(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Gallery, dict[int, np.ndarray]]:
    return filled(tmp_path_factory.mktemp("within"), request.param)


@pytest.mark.parametrize("radius", [0, 1, 2.0, 0.6, 50])
@pytest.mark.parametrize("where", [None, "label = b", "id = 5", "label = none"])
def test_within_equals_a_loop(
    made_of: tuple[Gallery, dict[int, np.ndarray]], radius: float, where: str | None
) -> None:
    made, vectors = made_of
    metric = made.metric
    if where is not None:
        wanted = set(made.matching(where).tolist())
        vectors = {i: v for i, v in vectors.items() if i in wanted}
    queries = grid_vectors(np.random.default_rng(9), 8)
    found = made.within(queries, radius, where=where)
    assert len(found) == 8
    for query, one in zip(prepare(queries, 4, metric, "queries"), found, strict=True):
        assert one.distances.dtype == np.float32
        assert one.ids.dtype == np.int64
        assert one.total == len(one.ids)
        if metric == "cosine":  # a float32 product decides at the very edge: leave it out
            expected = slow_within(query, vectors, radius + 1e-6, metric)
            sure = {i for _, i in slow_within(query, vectors, max(radius - 1e-6, 0), metric)}
            assert sure - {i for d, i in expected if d < 1e-6} <= set(one.ids.tolist())
            assert set(one.ids.tolist()) <= {i for _, i in expected}
            assert (np.diff(one.distances) >= 0).all()
        else:
            expected = slow_within(query, vectors, radius, metric)
            assert list(zip(one.distances.tolist(), one.ids.tolist(), strict=True)) == expected


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("shape", [(1, 2), (7, 3), (600, 5)])
def test_tiles_miss_and_repeat_nothing(
    monkeypatch: pytest.MonkeyPatch, metric: str, shape: tuple[int, int]
) -> None:
    """Tiles and chunks much smaller than the data, in all sizes of the last one."""
    n_queries, size = shape
    monkeypatch.setattr(module, "TILE", size * n_queries)
    monkeypatch.setattr(module, "TILE_ROWS", max(n_queries // 2, 1))
    monkeypatch.setattr(module, "SCORED_PAIRS", 11)
    rng = np.random.default_rng(size)
    vectors = prepare(rng.normal(size=(40, 6)), 6, metric, "vectors")
    queries = prepare(rng.normal(size=(n_queries, 6)), 6, metric, "queries")
    radius = {"l2": 2.5, "l1": 5.0, "cosine": 0.5}[metric]

    def blocks() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        yield vectors[:25], np.arange(25)
        yield np.empty((0, 6), np.float32), np.empty(0, np.int64)
        yield vectors[25:], np.arange(25, 40)

    for row, one in enumerate(within(queries, radius, blocks, metric)):
        if row % max(n_queries // 5, 1) == 0:
            expected = slow_within(queries[row], dict(enumerate(vectors)), radius, metric)
            assert sorted(one.ids.tolist()) == sorted(i for _, i in expected)
        assert one.total == len(one.ids)


@pytest.mark.parametrize("metric", METRICS)
def test_near_duplicates_below_the_rounding_of_a_product_are_told_apart(metric: str) -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(size=64)
    near = base + np.linspace(0, 1e-4, 200)[:, None] * rng.normal(size=(200, 64))
    vectors = prepare(near, 64, metric, "vectors")
    query = prepare(base[None], 64, metric, "queries")
    exact = {i: slow_distance(query[0], v, metric) for i, v in enumerate(vectors)}
    radius = float(np.median(list(exact.values())))
    (found,) = within(query, radius, lambda: [(vectors, np.arange(200))], metric)
    wrong = set(found.ids.tolist()) ^ {i for i, d in exact.items() if d <= radius}
    assert all(abs(exact[i] - radius) < 1e-6 * max(radius, 0.1) for i in wrong)
    assert len(found.ids) > 90


@pytest.mark.parametrize("limit", [1, 2, 9, 100])
def test_a_limit_keeps_the_nearest_by_id_and_tells_how_many_there_are(
    monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr(module, "SCORED_PAIRS", 2)
    vectors = np.array([[0, 0], [2, 0], [1, 0], [0, 1], [0, 0]] * 10, np.float32)
    ids = np.arange(100, 150)
    queries = np.zeros((2, 2), np.float32)
    whole = within(queries, 1.0, lambda: [(vectors, ids)], "l2")[1]
    parts = [(vectors[:7], ids[:7]), (vectors[7:], ids[7:])]
    cut = within(queries, 1.0, lambda: parts, "l2", limit=limit)
    assert whole.total == len(whole.ids) == 40
    assert whole.ids[:4].tolist() == [100, 104, 105, 109]
    for one in cut:
        assert one.total == 40
        assert one.ids.tolist() == whole.ids[:limit].tolist()
        assert one.distances.tolist() == whole.distances[:limit].tolist()


@pytest.mark.parametrize("metric", ["l2", "l1"])
def test_huge_and_zero_vectors_are_found(metric: str) -> None:
    vectors = np.array([[0, 0], [1e20, 0], [-3e19, 2e19], [1, 1]], np.float32)
    (found,) = within(vectors[:1], 1.5e20, lambda: [(vectors, np.arange(4))], metric)
    assert sorted(found.ids.tolist()) == [0, 1, 2, 3]


def test_the_threshold_is_in_the_precision_of_the_distances(tmp_path: Path) -> None:
    """A distance taken from an answer finds the picture that it was the distance of."""
    made = make_gallery(tmp_path / "g.gallery")
    vectors = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    with made.writer() as writer:
        writer.add(vectors, new_items(0, 50))
    found = made.search(np.zeros((1, 4), np.float32), 50)
    for rank in (0, 7, 49):
        (one,) = made.within(np.zeros((1, 4)), float(found.distances[0, rank]))
        assert one.ids.tolist() == found.ids[0, : rank + 1].tolist()


def test_float16_galleries_and_empty_ones(tmp_path: Path) -> None:
    made, vectors = filled(tmp_path, "l2", "float16")
    (one,) = made.within(np.zeros((1, 4), np.float32), 2)
    zero = np.zeros(4, np.float32)
    assert [i for _, i in slow_within(zero, vectors, 2, "l2")] == one.ids.tolist()
    empty = make_gallery(tmp_path / "e.gallery")
    (none,) = empty.within(np.zeros((1, 4), np.float32), 2)
    assert (len(none.ids), len(none.distances), none.total) == (0, 0, 0)
    assert empty.within(np.zeros((0, 4), np.float32), 2) == []
    assert made.within(np.zeros((0, 4), np.float32), 2) == []


def test_a_query_does_not_find_itself_where_it_says_who_it_is() -> None:
    vectors = np.zeros((5, 2), np.float32)
    found = within(
        vectors[:3],
        0,
        lambda: [(vectors, np.arange(5))],
        "l2",
        limit=2,
        own_ids=np.array([0, -1, 4]),
    )
    assert [one.ids.tolist() for one in found] == [[1, 2], [0, 1], [0, 1]]
    assert [one.total for one in found] == [4, 5, 4]


@pytest.mark.parametrize("bad", [-0.1, float("nan"), float("inf"), 1e39])
def test_impossible_distances_are_refused(tmp_path: Path, bad: float) -> None:
    made = make_gallery(tmp_path / "g.gallery")
    with pytest.raises(VectorError, match="the distance is"):
        made.within(np.zeros((1, 4)), bad)


def test_bad_questions_are_refused(tmp_path: Path) -> None:
    made = make_gallery(tmp_path / "g.gallery")
    with pytest.raises(VectorError, match=r"\(n, 4\)"):
        made.within(np.zeros((1, 5)), 1)
    with pytest.raises(VectorError, match="not finite"):
        made.within(np.full((1, 4), np.nan), 1)
    with pytest.raises(VectorError, match="the limit is 0"):
        made.within(np.zeros((1, 4)), 1, limit=0)
    with pytest.raises(FilterError):
        made.within(np.zeros((1, 4)), 1, where="nonsense")
