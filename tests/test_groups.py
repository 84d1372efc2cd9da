import numpy as np
import pytest
from galleries import grid_vectors, slow_distance

from index import groups as module
from index.errors import VectorError
from index.groups import Groups, close_groups
from index.neighbors import METRICS, prepare


def slow_groups(
    vectors: np.ndarray, ids: np.ndarray, metric: str, radius: float, same: list[list[int]]
) -> list[list[int]]:
    """Paint each connected part, one after the other."""
    n, seen, parts = len(ids), set(), []
    joined = [
        [
            np.float32(slow_distance(vectors[i], vectors[j], metric)) <= np.float32(radius)
            or any(ids[i] in s and ids[j] in s for s in same)
            for j in range(n)
        ]
        for i in range(n)
    ]
    for start in range(n):
        part, todo = set(), [start]
        while todo:
            one = todo.pop()
            if one not in seen:
                seen.add(one)
                part.add(int(ids[one]))
                todo += [j for j in range(n) if joined[one][j]]
        if len(part) > 1:
            parts.append(sorted(part))
    return parts


def ask(vectors, ids, metric, radius, same=(), **options):
    return [
        group.tolist()
        for group in close_groups(
            ids, lambda wanted: vectors[np.searchsorted(ids, wanted)], metric, radius,
            same=[np.array(s) for s in same], **options,
        )
    ]  # fmt: skip


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("blocks", [(4096, 8192), (7, 5)])
def test_groups_equal_a_search_by_hand(
    monkeypatch: pytest.MonkeyPatch, metric: str, seed: int, blocks: tuple[int, int]
) -> None:
    monkeypatch.setattr(module, "OUTER_ROWS", blocks[0])
    monkeypatch.setattr(module, "INNER_ROWS", blocks[1])
    rng = np.random.default_rng(seed)
    vectors = prepare(rng.normal(size=(60, 4)), 4, metric, "vectors")
    vectors[50:55] = vectors[7]
    ids = np.sort(rng.choice(500, 60, replace=False)) + 1
    same = [sorted(rng.choice(ids, 3, replace=False).tolist())]
    for radius in {"l2": (0, 0.5, 1), "l1": (0, 1, 2), "cosine": (0.01, 0.05, 0.3)}[metric]:
        expected = slow_groups(vectors, ids, metric, radius, same)
        assert ask(vectors, ids, metric, radius, same) == expected


def test_a_chain_is_one_group_and_the_edge_is_within() -> None:
    line = np.array([[0, 0], [1, 0], [2, 0], [3, 0], [4.5, 0]], np.float32)
    ids = np.array([3, 5, 8, 9, 11])
    assert ask(line, ids, "l2", 1) == [[3, 5, 8, 9]]
    assert ask(line, ids, "l2", 0.99) == []
    assert ask(line, ids, "l2", 1.5) == [[3, 5, 8, 9, 11]]


def test_copies_stand_together_even_where_their_vectors_do_not() -> None:
    vectors = np.array([[0, 0], [5, 0], [9, 0], [9, 0]], np.float32)
    assert ask(vectors, np.arange(4), "l2", 0.1, [[0, 1]]) == [[0, 1], [2, 3]]
    assert ask(vectors, np.arange(4), "l2", 4, [[0, 1]]) == [[0, 1, 2, 3]]


def test_thousands_of_equal_vectors_are_one_group() -> None:
    vectors = np.ones((6000, 8), np.float32)
    assert ask(vectors, np.arange(6000), "l2", 0) == [list(range(6000))]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("n", [0, 1, 2])
def test_few_vectors(metric: str, n: int) -> None:
    vectors = prepare(grid_vectors(np.random.default_rng(0), n), 4, metric, "vectors")
    ids = np.arange(n)
    assert ask(vectors, ids, metric, 0) == []
    assert ask(vectors, ids, metric, 100) == ([[0, 1]] if n == 2 else [])


def test_progress_ends_at_all() -> None:
    vectors = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    seen: list[tuple[int, int]] = []
    ask(vectors, np.arange(50), "l2", 0.1, on_progress=lambda *at: seen.append(at))
    assert seen[-1] == (50, 50)


def test_impossible_distances_are_refused() -> None:
    with pytest.raises(VectorError, match="the distance is -1"):
        ask(np.zeros((2, 2), np.float32), np.arange(2), "l2", -1)


def test_joining_equals_painting() -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        n = int(rng.integers(1, 40))
        a, b = rng.integers(0, n, (2, int(rng.integers(0, 40))))
        groups, colours = Groups(n), list(range(n))
        half = len(a) // 2
        groups.join(a[:half], b[:half])
        groups.join(a[half:], b[half:])
        for x, y in zip(a, b, strict=True):
            old, new = colours[x], colours[y]
            colours = [new if c == old else c for c in colours]
        expected = [[i for i in range(n) if colours[i] == c] for c in dict.fromkeys(colours)]
        assert [m.tolist() for m in groups.members()] == [e for e in expected if len(e) > 1]
