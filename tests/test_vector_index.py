import faiss
import numpy as np
import pytest

from index.errors import DamagedGallery, IndexKeyError
from index.vector_index import (
    check_key,
    efforts,
    expected_bytes,
    index_bytes,
    lists_of,
    map_index,
    most_effort,
    search_index,
    train_index,
    usual_effort,
    write_index,
)

PAIRS = [
    ("IVF8,Flat", "l2"), ("IVF8,Flat", "l1"), ("IVF8,Flat", "cosine"), ("HNSW8", "l2"),
    ("HNSW8", "l1"), ("HNSW8", "cosine"), ("IVF8,SQ8", "l2"), ("IVF4,PQ4x4fs", "l2"),
    ("PQ4x4fs", "l2"), ("PCA4,IVF8,Flat", "l2"), ("IVF8,RaBitQ", "cosine"), ("SQ8", "cosine"),
]  # fmt: skip


def built(key: str, metric: str, vectors: np.ndarray) -> "faiss.Index":
    index = train_index(key, metric, vectors)
    index.add(vectors)
    return index


def written(index: "faiss.Index") -> np.ndarray:
    pieces: list[bytes] = []
    write_index(index, lambda piece: pieces.append(piece) or len(piece))
    return np.frombuffer(b"".join(pieces), np.uint8)


@pytest.mark.parametrize(("key", "metric"), PAIRS)
def test_every_allowed_pair_finds_vectors_themselves_with_and_without_a_filter(
    key: str, metric: str
) -> None:
    vectors = np.random.default_rng(0).normal(size=(600, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    check_key(key, metric, 8)
    index = built(key, metric, vectors)
    most = most_effort(index)
    positions = search_index(index, vectors[:40], 128, None, most)
    assert np.mean([row in found for row, found in enumerate(positions)]) >= 0.95
    allowed = np.arange(600) % 3 != 0
    positions = search_index(index, vectors[:40], 128, allowed, most)
    assert allowed[positions[positions >= 0]].all()
    present = [row in found for row, found in enumerate(positions) if allowed[row]]
    assert np.mean(present) >= 0.9


@pytest.mark.parametrize("key", ["IVF64,PQ4+4", "PCA8,IVF64,PQ4+4", "IVF64,RQ2x4", "IVF64,Flat"])
def test_a_filter_takes_no_effort_away(key: str) -> None:
    vectors = np.random.default_rng(0).normal(size=(900, 8)).astype(np.float32)
    index = built(key, "l2", vectors)
    one_gone = np.arange(900) != 5
    among_all = search_index(index, vectors[:40], 200, None, 64)
    filtered = search_index(index, vectors[:40], 200, one_gone, 64)
    for row, found in enumerate(among_all):
        wanted = found[found != 5]
        assert np.isin(wanted[:190], filtered[row]).all()


@pytest.mark.parametrize("key", ["IVF512_HNSW4,Flat", "PCA8,IVF512_HNSW4,Flat"])
def test_lists_that_a_graph_finds_are_all_visited_where_all_are_wanted(key: str) -> None:
    vectors = np.random.default_rng(0).normal(size=(2000, 8)).astype(np.float32)
    positions = search_index(built(key, "l2", vectors), vectors[:20], 2000, None, 512)
    assert (positions >= 0).mean() > 0.99


@pytest.mark.parametrize(
    ("key", "metric"),
    [
        ("IVF8,SQ8", "l1"), ("PQ4", "l1"), ("HNSW8,SQ8", "l1"), ("LSH", "cosine"), ("Nonsense", "l2"),
        ("IVF8,", "l2"), ("IVF8,PQ3", "l2"), ("IDMap2,Flat", "l2"),
        ("IVF8,PQ4,RFlat", "l2"), ("IVF8,IDMap", "l2"), ("", "l2"),
    ],
)  # fmt: skip
def test_nonsense_pairs_are_refused(key: str, metric: str) -> None:
    with pytest.raises(IndexKeyError, match="--index"):
        check_key(key, metric, 8)


@pytest.mark.parametrize(
    ("key", "metric", "told"),
    [
        *((key, "l2", "number 0") for key in [
            "IVF0,Flat", "IVF00,Flat", "HNSW0", "HNSW0,SQ8", "IVF4_HNSW0,Flat", "IVF4(HNSW0),Flat",
            "PCA0,IVF4,Flat", "PCAR0,Flat", "PCA4,RR0,Flat", "PQ4x0", "IVF4,PQ4x0", "PQ4x4fs_0",
            "OPQ4_0,PQ4", "IVF4,RQ0x4", "IVF4,RQ2x0", "IVF4,FlatPanorama0", "SQ0", "IVF4,SQ0",
        ]),
        *((key, "l2", "1 neighbour") for key in [
            "HNSW1", "HNSW01", "HNSW1,SQ8", "IVF4_HNSW1,Flat", "IVF4(HNSW1),Flat", "PCA4,HNSW1",
        ]),
        ("HNSW0", "l1", "number 0"), ("HNSW1", "l1", "1 neighbour"), ("IVF0,Flat", "l1", "number 0"),
        ("PQ4x1", "l2", "1 or 2 bits"), ("PCA4,PQ2x2", "cosine", "1 or 2 bits"),
        ("PCA4,NSG8", "l2", "cannot be kept"), ("PCA4,ZnLattice2x1_4", "l2", "cannot be kept"),
        ("HNSW8_2+PQ4", "l2", "cannot be kept"), ("IVF4,RQ4x4fs_Nrq2x4", "l2", "cannot be kept"),
        ("HNSW8,PQ4", "cosine", "another metric"),
    ],
)  # fmt: skip
def test_keys_that_faiss_cannot_bear_are_refused(key: str, metric: str, told: str) -> None:
    with pytest.raises(IndexKeyError, match=f"--index .*{told}"):
        check_key(key, metric, 8)


def test_the_smallest_keys_that_are_allowed_can_be_searched() -> None:
    vectors = np.random.default_rng(0).normal(size=(600, 8)).astype(np.float32)
    for key in ("IVF1,Flat", "HNSW2", "IVF4_HNSW2,Flat", "PCA1,Flat", "PQ1x3", "IVF4,RQ1x1", "SQ4"):
        check_key(key, "l2", 8)
        data = written(built(key, "l2", vectors))
        assert search_index(map_index(data, 600, 8, "l2", "file"), vectors, 1, None, 4).max() > 0


def test_more_lists_than_vectors_are_refused_with_both_numbers() -> None:
    with pytest.raises(IndexKeyError, match=r"64 lists.*10 vectors"):
        train_index("IVF64,Flat", "l2", np.eye(10, dtype=np.float32))


def test_efforts_ascend_to_the_most_and_never_stay_at_one_list() -> None:
    vectors = np.random.default_rng(0).normal(size=(600, 8)).astype(np.float32)
    for key, first, most, usual in [
        ("IVF64,Flat", 1, 64, 8), ("HNSW8", 32, 600, 128), ("SQ8", 0, 0, 0), ("IVF4,Flat", 1, 4, 4),
        ("PCA4,HNSW8", 32, 600, 128), ("PCA4,IVF64,Flat", 1, 64, 8),
    ]:  # fmt: skip
        index = built(key, "l2", vectors)
        tried = efforts(index)
        assert tried[0] == first
        assert tried[-1] == most_effort(index) == most
        assert tried == sorted(set(tried))
        assert usual_effort(index) == usual


def test_training_prints_no_warning(capfd: pytest.CaptureFixture[str]) -> None:
    vectors = np.random.default_rng(0).normal(size=(100, 8)).astype(np.float32)
    built("IVF8,PQ4x4fs", "l2", vectors)
    assert capfd.readouterr() == ("", "")


def test_lists_that_were_learnt_once_serve_other_codes() -> None:
    vectors = np.random.default_rng(0).normal(size=(600, 8)).astype(np.float32)
    lists = lists_of(built("IVF8,Flat", "l2", vectors))
    assert lists is not None
    assert lists.shape == (8, 8)
    other = train_index("IVF8,SQ8", "l2", vectors, lists=lists * 0.5)
    assert np.array_equal(lists_of(other), lists * 0.5)
    assert lists_of(built("HNSW8", "l2", vectors)) is None


@pytest.mark.parametrize(
    "key", ["IVF16,Flat", "IVF16,SQ8", "IVF16,PQ16x4fs", "IVF16,RaBitQ", "HNSW32"]
)
def test_bytes_are_known_beforehand(key: str) -> None:
    vectors = np.random.default_rng(0).normal(size=(4000, 32)).astype(np.float32)
    index = built(key, "l2", vectors)
    assert index_bytes(index) == len(written(index))
    assert expected_bytes(key, 4000, 32) == pytest.approx(len(written(index)), rel=0.06)


def test_an_index_comes_back_from_its_file_and_no_other_does() -> None:
    vectors = np.random.default_rng(0).normal(size=(100, 8)).astype(np.float32)
    data = written(built("HNSW8", "l2", vectors))
    index = map_index(data, 100, 8, "l2", "file")
    assert (search_index(index, vectors, 1, None, 16)[:, 0] == np.arange(100)).all()
    for count, dim, metric in [(99, 8, "l2"), (100, 9, "l2"), (100, 8, "cosine")]:
        with pytest.raises(DamagedGallery, match="expected"):
            map_index(data, count, dim, metric, "file")
    with pytest.raises(DamagedGallery, match="not a readable"):
        map_index(data[: len(data) // 2], 100, 8, "l2", "file")
