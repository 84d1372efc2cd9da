"""Packed codes: against bits one by one, and distances against loops over decoded vectors."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index.codes import BITS, Codebook, CodeIndex, bits_for, pack_codes, unpack_codes
from index.errors import VectorError
from retrieval.discretize import (
    EqualFrequencyDiscretizer,
    EqualWidthDiscretizer,
    KMeansDiscretizer,
    ProductDiscretizer,
)


def vectors(n: int, dim: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)


def random_index(bits: int, m: int, d: int, n: int, metric: str) -> CodeIndex:
    rng = np.random.default_rng(bits + m)
    codebook = Codebook(rng.normal(size=(m, 1 << bits, d)).astype(np.float32))
    return CodeIndex(codebook, pack_codes(rng.integers(0, 1 << bits, (n, m)), bits), metric)


@settings(max_examples=50, deadline=None, derandomize=True, database=None)
@given(bits=st.sampled_from(BITS), n=st.integers(0, 5), m=st.integers(1, 19), seed=st.integers(0))
def test_codes_are_packed_bit_by_bit(bits: int, n: int, m: int, seed: int) -> None:
    codes = np.random.default_rng(seed).integers(0, 1 << bits, (n, m))
    packed = pack_codes(codes, bits)
    assert packed.dtype == np.uint8
    assert packed.shape == (n, -(-m * bits // 8))
    for row, bytes_ in zip(codes, packed, strict=True):
        number = sum(int(code) << (bits * place) for place, code in enumerate(row))
        assert int.from_bytes(bytes_.tobytes(), "little") == number
    unpacked = unpack_codes(packed, bits, m)
    assert unpacked.dtype == np.uint8
    assert (unpacked == codes).all()


@pytest.mark.parametrize("metric", ["l2", "l1", "cosine"])
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize(("m", "d"), [(8, 1), (7, 1), (3, 2)])
def test_distances_against_a_loop(bits: int, m: int, d: int, metric: str) -> None:
    index = random_index(bits, m, d, 300, metric)
    queries = vectors(5, m * d, seed=1)
    found = index.search(queries, 9)
    codes = unpack_codes(index.packed, bits, m)
    for query, ids, distances in zip(queries, found.ids, found.distances, strict=True):
        query = query / np.linalg.norm(query) if metric == "cosine" else query
        slow = []
        for row in range(300):
            vector = np.concatenate([index.codebook.centers[j, codes[row, j]] for j in range(m)])
            slow.append({
                "l2": np.linalg.norm(query.astype(float) - vector),
                "l1": np.abs(query.astype(float) - vector).sum(),
                "cosine": ((query.astype(float) - vector) ** 2).sum() / 2,
            }[metric])  # fmt: skip
        np.testing.assert_allclose(distances, np.sort(slow)[:9], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(np.array(slow)[ids], distances, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("bits", "even"), [(1, 0), (2, 0), (4, 0), (8, 0), (4, 1), (8, 1)])
def test_the_kernels_have_our_centers(bits: int, even: int) -> None:
    index = random_index(bits, 8, 1, 100, "l2")
    if even:
        low, step = vectors(8, 1), np.abs(vectors(8, 1, seed=1))
        centers = (low + step * np.arange(1 << bits))[:, :, None]
        index = CodeIndex(Codebook(centers.astype(np.float32)), index.packed, "l2")
    query = vectors(1, 8, seed=1) + (40 if even else 0)
    decoded = index.codebook.decode(index.packed)
    assert (type(index._kernel).__name__ == "IndexScalarQuantizer") == bool(even)
    # The fast scan rounds its tables to 8 bits.
    for kernel, rounding in ((index._kernel, 1e-5), (index._fast, 0.02)):
        if kernel is not None:
            distances, rows = kernel.search(query, 100)
            slow = np.square(query - decoded[rows[0]]).sum(1)
            np.testing.assert_allclose(distances[0], slow, atol=rounding * slow.max())
            assert sorted(rows[0]) == list(range(100))


def test_uneven_centers_never_go_to_the_kernel_of_even_ones() -> None:
    rng = np.random.default_rng(0)
    for scale in (1e-10, 1, 1e10):
        centers = np.sort(rng.random((3, 256, 1)) * scale, axis=1).astype(np.float32)
        packed = pack_codes(rng.integers(0, 256, (50, 3)), 8)
        index = CodeIndex(Codebook(centers), packed, "l2")
        assert type(index._kernel).__name__ == "IndexPQ"


@pytest.mark.parametrize("bits", BITS)
def test_the_nearest_of_many_are_found(bits: int) -> None:
    values = np.exp(vectors(5000, 12))  # skewed: some centres are far off
    made = KMeansDiscretizer(1 << bits).fit(values)
    codebook = Codebook.of(made.centers_)
    index = CodeIndex(codebook, pack_codes(made.transform(values), bits), "l2")
    found = index.search(values[:50], 10)
    decoded = codebook.decode(index.packed)
    slow = np.linalg.norm(values[:50, None].astype(float) - decoded, axis=2)
    slow = np.sort(slow, axis=1)[:, :10]
    right = np.isclose(found.distances, slow, rtol=1e-4).mean()
    assert right == 1 if bits == 8 else right > 0.98


def test_equal_distances_stand_in_the_order_of_rows() -> None:
    codebook = Codebook(np.array([[[0.0], [1.0]]], np.float32))
    index = CodeIndex(codebook, pack_codes(np.array([[1], [0], [1], [0]]), 1), "l2")
    found = index.search(np.zeros((1, 1), np.float32), 4)
    assert found.ids.tolist() == [[1, 3, 0, 2]]
    assert found.distances.tolist() == [[0, 0, 1, 1]]


@pytest.mark.parametrize("metric", ["l2", "l1"])
def test_none_and_few_vectors(metric: str) -> None:
    index = random_index(4, 6, 1, 3, metric)
    found = index.search(vectors(2, 6), 5)
    assert (found.ids[:, 3:] == -1).all()
    assert np.isinf(found.distances[:, 3:]).all()
    assert {*found.ids[0, :3].tolist()} == {0, 1, 2}
    empty = random_index(4, 6, 1, 0, metric)
    assert empty.search(vectors(2, 6), 5).ids.tolist() == [[-1] * 5] * 2
    assert index.search(vectors(0, 6), 5).ids.shape == (0, 5)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize(
    "way", [EqualWidthDiscretizer, EqualFrequencyDiscretizer, KMeansDiscretizer]
)
def test_codes_of_a_discretizer(way: type, bits: int) -> None:
    values = np.concatenate([vectors(400, 9), np.full((400, 1), 3, np.float32)], axis=1)
    made = way(1 << bits).fit(values)
    codes = made.transform(values)
    codebook = Codebook.of(made.centers_)
    assert (codebook.bits, codebook.dim, codebook.bytes) == (bits, 10, -(-10 * bits // 8))
    packed = pack_codes(codes, bits)
    decoded = codebook.decode(packed)
    np.testing.assert_array_equal(decoded, made.inverse_transform(codes))
    found = CodeIndex(codebook, packed, "l2").search(values[:20], 1)
    slow = np.linalg.norm(values[:20, None].astype(float) - decoded, axis=2).min(1)
    np.testing.assert_allclose(found.distances[:, 0], slow, rtol=1e-5)


@pytest.mark.parametrize("bits", BITS)
def test_the_nearest_centers_are_the_codes(bits: int) -> None:
    codebook = random_index(bits, 5, 2, 1, "l2").codebook
    values = vectors(40, 10)
    codes = unpack_codes(codebook.encode(values), bits, 5)
    for value, code in zip(values, codes, strict=True):
        for group in range(5):
            part = value[2 * group : 2 * group + 2]
            assert code[group] == np.argmin(((codebook.centers[group] - part) ** 2).sum(1))


def test_codes_in_groups_and_bins_that_fill_no_bits() -> None:
    values = vectors(500, 8)
    made = ProductDiscretizer(10, subspaces=4).fit(values)
    codebook = Codebook.of(made.centers_)
    assert (codebook.bits, codebook.dim, codebook.bytes) == (4, 8, 2)
    codes = made.transform(values)
    np.testing.assert_array_equal(
        codebook.decode(pack_codes(codes, 4)), made.inverse_transform(codes)
    )


def test_what_is_refused() -> None:
    assert [bits_for(n) for n in (1, 2, 3, 4, 5, 16, 17, 256)] == [1, 1, 2, 2, 4, 4, 8, 8]
    with pytest.raises(VectorError, match="257 bins do not fit"):
        bits_for(257)
    with pytest.raises(VectorError, match="range from 0 to 4; 2 bits hold 0 … 3"):
        pack_codes(np.array([[0, 4]]), 2)
    with pytest.raises(VectorError, match="expected whole numbers"):
        pack_codes(np.zeros((2, 2)), 2)
    with pytest.raises(VectorError, match="codes of 3 bits"):
        pack_codes(np.zeros((2, 2), int), 3)
    with pytest.raises(VectorError, match=r"5 codes of 4 bits are uint8 \(n, 3\)"):
        unpack_codes(np.zeros((2, 2), np.uint8), 4, 5)
    with pytest.raises(VectorError, match="codes of 3 bits"):
        Codebook(np.zeros((2, 8, 1), np.float32))
    with pytest.raises(VectorError, match=r"up to 1e\+18, and the largest is 1e\+300"):
        Codebook.of([np.array([0.0, -1e300])])
    index = random_index(4, 6, 1, 10, "l2")
    with pytest.raises(VectorError, match="not finite"):
        index.codebook.encode(np.full((1, 6), np.inf, np.float32))
    with pytest.raises(VectorError, match=r"\(n, 6\) is expected"):
        index.search(vectors(2, 5), 3)
    with pytest.raises(VectorError, match="not finite"):
        index.search(np.full((1, 6), np.nan), 3)
    with pytest.raises(VectorError, match="packed codes"):
        CodeIndex(index.codebook, np.zeros((4, 2), np.uint8), "l2")


def test_codes_that_repeat_the_last_centre_are_never_given() -> None:
    """Some processors take the last of equal centres, so it is made sure of for every vector."""
    rng = np.random.default_rng(0)
    for n_centers in (1, 2, 3, 5, 16, 17, 200):
        centers = [rng.normal(size=(n_centers, 2)).astype(np.float32) for _ in range(3)]
        codebook = Codebook.of(centers)
        vectors = np.concatenate([c[-1:] for c in centers], axis=1).repeat(4, axis=0)
        codes = unpack_codes(codebook.encode(vectors), codebook.bits, 3)
        assert (codes == n_centers - 1).all(), n_centers
        np.testing.assert_array_equal(codebook.decode(codebook.encode(vectors)), vectors)
        assert codebook.encode(vectors[:0]).shape == (0, codebook.bytes)
