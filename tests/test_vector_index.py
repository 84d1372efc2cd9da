import numpy as np
import pytest

from index.errors import DamagedGallery, IndexKeyError
from index.vector_index import (
    build_index,
    candidates,
    check_key,
    index_bytes,
    read_index,
    search_index,
    visits_all,
)

PAIRS = [
    ("IVF8,Flat", "l2"), ("IVF8,Flat", "l1"), ("IVF8,Flat", "cosine"), ("HNSW8", "l2"),
    ("HNSW8", "l1"), ("HNSW8", "cosine"), ("IVF8,SQ8", "l2"), ("IVF4,PQ4x4fs", "l2"),
    ("PQ4x4fs", "l2"), ("PCA4,IVF8,Flat", "l2"), ("IVF8,RaBitQ", "cosine"), ("SQ8", "cosine"),
]  # fmt: skip


@pytest.mark.parametrize(("key", "metric"), PAIRS)
def test_every_allowed_pair_finds_vectors_themselves_with_and_without_a_filter(
    key: str, metric: str
) -> None:
    vectors = np.random.default_rng(0).normal(size=(600, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    check_key(key, metric, 8)
    index = build_index(key, metric, vectors)
    k = candidates(key, 5)
    positions = search_index(index, vectors[:40], k, None, effort=9)
    assert np.mean([row in found for row, found in enumerate(positions)]) >= 0.95
    allowed = np.arange(600) % 3 != 0
    positions = search_index(index, vectors[:40], k, allowed, effort=9)
    assert allowed[positions[positions >= 0]].all()
    present = [row in found for row, found in enumerate(positions) if allowed[row]]
    assert np.mean(present) >= 0.9


@pytest.mark.parametrize(
    ("key", "metric"),
    [
        ("IVF8,SQ8", "l1"), ("PQ4", "l1"), ("HNSW8,SQ8", "l1"), ("LSH", "cosine"), ("Nonsense", "l2"),
        ("IVF8,", "l2"), ("IVF8,PQ3", "l2"), ("IDMap2,Flat", "l2"),
        ("IVF8,PQ4,RFlat", "l2"), ("IVF8,IDMap", "l2"), ("", "l2"),
    ],
)  # fmt: skip
def test_nonsense_pairs_are_refused(key: str, metric: str) -> None:
    with pytest.raises(IndexKeyError, match="--index-key"):
        check_key(key, metric, 8)


def test_more_lists_than_vectors_are_refused_with_both_numbers() -> None:
    with pytest.raises(IndexKeyError, match=r"64 lists.*10 vectors"):
        build_index("IVF64,Flat", "l2", np.eye(10, dtype=np.float32))


def test_effort_ends() -> None:
    vectors = np.random.default_rng(0).normal(size=(600, 8)).astype(np.float32)
    index = build_index("IVF64,Flat", "l2", vectors)
    assert not visits_all(index, 0)
    assert visits_all(index, 2)


def test_an_index_comes_back_from_its_file_and_no_other_does(tmp_path) -> None:
    vectors = np.random.default_rng(0).normal(size=(100, 8)).astype(np.float32)
    data = index_bytes(build_index("HNSW8", "l2", vectors))
    file = tmp_path / "index.faiss"
    file.write_bytes(data)
    index = read_index(file, 100, 8, "l2")
    assert (search_index(index, vectors, 1, None, 0)[:, 0] == np.arange(100)).all()
    for count, dim, metric in [(99, 8, "l2"), (100, 9, "l2"), (100, 8, "cosine")]:
        with pytest.raises(DamagedGallery, match="expected"):
            read_index(file, count, dim, metric)
    file.write_bytes(data[: len(data) // 2])
    with pytest.raises(DamagedGallery, match="not a readable"):
        read_index(file, 100, 8, "l2")
