from pathlib import Path

import numpy as np
import pytest
from galleries import grid_vectors, make_gallery, new_items, slow_distance

from index import rescoring
from index.gallery import Gallery
from index.neighbors import pair_distances, unit
from index.rescoring import nearest_candidates, rough_distances


def filled(folder: Path, vectors: np.ndarray, **options: object) -> Gallery:
    gallery = make_gallery(folder / "g.gallery", dim=vectors.shape[1], **options)
    with gallery.writer() as writer:
        for start in range(0, len(vectors), 40):  # several shards
            writer.add(
                vectors[start : start + 40], new_items(start, len(vectors[start : start + 40]))
            )
    return gallery


@pytest.mark.parametrize("metric", ["l2", "l1", "cosine"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("few", [0, 10**6])
def test_distances_of_candidates_by_a_loop(
    tmp_path: Path, metric: str, dtype: str, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rescoring, "FEW_PAIRS", few)
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(100, 6)).astype(np.float32)
    gallery = filled(tmp_path, vectors, metric=metric, dtype=dtype)
    queries = rng.normal(size=(5, 6)).astype(np.float32)
    queries = unit(queries) if metric == "cosine" else queries
    ids = rng.integers(1, 101, (5, 9))
    ids[2, 4] = ids[3, :] = -1
    for k in (3, 9):
        found, _ = nearest_candidates(queries, ids, k, gallery.snapshot)
        for row, candidates in enumerate(ids):
            there = gallery.vectors(candidates[candidates >= 0])
            expected = sorted(slow_distance(queries[row], vector, metric) for vector in there)
            expected += [np.inf] * (9 - len(expected))
            assert found.distances[row] == pytest.approx(
                expected[:k], abs=1e-5 if dtype == "float32" else 1e-3
            )
    if metric == "l1":
        return
    rough = rough_distances(queries, ids, gallery.snapshot)
    for row, column in np.ndindex(ids.shape):
        if ids[row, column] < 0:
            assert rough[row, column] == np.inf
        else:
            vector = gallery.vectors(ids[row, column : column + 1])[0]
            expected = slow_distance(queries[row], vector, metric)
            value = 1 + rough[row, column] if metric == "cosine" else rough[row, column] ** 0.5
            assert value == pytest.approx(expected, abs=1e-5 if dtype == "float32" else 1e-3)
    assert rough_distances(queries, ids[:, :0], gallery.snapshot).shape == (5, 0)


def test_rows_are_found_where_shards_have_gaps(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(100, 6)).astype(np.float32)
    gallery = filled(tmp_path, vectors)
    with gallery.writer() as writer:
        writer.remove(range(5, 90, 3))
        writer.compact()
    left = np.setdiff1d(np.arange(1, 101), np.arange(5, 90, 3))
    mixed = np.random.default_rng(1).permutation(left)
    assert np.array_equal(gallery.vectors(mixed), vectors[mixed - 1])


def test_the_cut_keeps_ties_with_small_ids_and_says_what_it_cannot_settle(tmp_path: Path) -> None:
    vectors = np.zeros((100, 4), np.float32)
    vectors[:60, 0] = 1  # 60 alike, and 40 at the query
    gallery = filled(tmp_path, vectors)
    query = np.zeros((1, 4), np.float32)
    ids = np.random.default_rng(0).permutation(np.arange(1, 101))[None, :]
    found, unsettled = nearest_candidates(query, ids, 5, gallery.snapshot)
    assert found.ids.tolist() == [[61, 62, 63, 64, 65]]
    assert unsettled.tolist() == [True]  # the last 60 are alike: there may be more of them
    apart, unsettled = nearest_candidates(query, ids[:, :1], 5, gallery.snapshot)
    assert apart.ids.shape == (1, 1)
    distinct = filled(tmp_path / "d", np.arange(400, dtype=np.float32).reshape(100, 4))
    _, unsettled = nearest_candidates(query, ids, 5, distinct.snapshot)
    assert unsettled.tolist() == [False]
    seen = ids[:, :90]  # the 40 nearest are alike, then others
    assert nearest_candidates(query, seen, 5, gallery.snapshot, 30)[1].tolist() == [True]
    assert nearest_candidates(query, seen, 5, distinct.snapshot, 30)[1].tolist() == [False]
    holes = ids.copy()
    holes[:, -1] = -1  # fewer were found than asked for: there are no others
    _, unsettled = nearest_candidates(query, holes, 5, gallery.snapshot)
    assert unsettled.tolist() == [False]


@pytest.mark.parametrize(
    ("metric", "move", "scale"),
    [("l2", 0, 1), ("l2", 0, 1e-4), ("l2", 0, 1e-20), ("l1", 0, 1e-6), ("cosine", 1, 0.02)],
)
def test_near_vectors_are_no_ties_and_are_told_apart(
    tmp_path: Path, metric: str, move: float, scale: float
) -> None:
    rng = np.random.default_rng(0)
    vectors = (move + scale * rng.normal(size=(100, 6))).astype(np.float32)
    gallery = filled(tmp_path, vectors, metric=metric)
    queries = gallery.vectors(np.arange(1, 6))
    ids = np.tile(rng.permutation(np.arange(1, 101)), (5, 1))
    found, unsettled = nearest_candidates(queries, ids, 10, gallery.snapshot)
    assert np.array_equal(found.ids, gallery.search(queries, 10, exact=True).ids)
    assert scale == 1e-20 or not unsettled.any()  # their squares are beyond float32


def test_float32_cannot_change_the_answer(tmp_path: Path) -> None:
    vectors = 1000 + grid_vectors(np.random.default_rng(2), 100).astype(np.float32) * 1e-3
    gallery = filled(tmp_path, vectors)
    query = vectors[:3] + np.float32(1e-4)
    ids = np.tile(np.arange(1, 101), (3, 1))
    found, _ = nearest_candidates(query, ids, 10, gallery.snapshot)
    for row in range(3):
        expected = sorted(
            (slow_distance(query[row], v, "l2"), i + 1) for i, v in enumerate(vectors)
        )
        assert found.distances[row] == pytest.approx([d for d, _ in expected[:10]], rel=1e-6)


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_what_float32_puts_behind_the_cut_is_compared_all_the_same(
    tmp_path: Path, metric: str
) -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(size=64)
    vectors = (base + 1e-5 * rng.normal(size=(300, 64))).astype(np.float32)
    gallery = filled(tmp_path, vectors, metric=metric)
    queries = gallery.vectors(np.arange(1, 31))
    ids = np.tile(np.arange(1, 301), (30, 1))
    found, _ = nearest_candidates(queries, ids, 10, gallery.snapshot)
    for query, answer in zip(queries, found.ids, strict=True):
        distances = pair_distances(gallery.vectors(ids[0]), np.repeat(query[None], 300, 0), metric)
        assert answer.tolist() == (np.lexsort((ids[0], distances))[:10] + 1).tolist()
