"""Vectors as they lie on the disk, and as they come back."""

import numpy as np
import pytest

from index.code_keys import CodeKey
from index.errors import VectorError
from index.neighbors import unit
from index.storage import Storage

VECTORS = unit(np.random.default_rng(3).normal(size=(50, 6)).astype(np.float32))


def test_floats_come_back_as_they_are() -> None:
    storage = Storage("float32", 6, "cosine")
    assert storage.encode(VECTORS).dtype == np.float32
    np.testing.assert_array_equal(storage.decode(storage.encode(VECTORS)), VECTORS)
    assert (storage.dtype, storage.float_dtype, storage.row_bytes) == ("float32", "float32", 24)


def test_halves_are_rounded_and_have_length_1_again_for_cosine() -> None:
    storage = Storage("float16", 6, "cosine")
    back = storage.decode(storage.encode(VECTORS))
    assert storage.row_bytes == 12
    np.testing.assert_allclose(np.linalg.norm(back, axis=1), 1, atol=1e-7)
    np.testing.assert_allclose(back, VECTORS, atol=1e-3)
    plain = Storage("float16", 6, "l2")
    np.testing.assert_array_equal(plain.decode(plain.encode(VECTORS)), VECTORS.astype(np.float16))


def test_what_float16_cannot_hold_is_refused() -> None:
    with pytest.raises(VectorError, match="float16 cannot hold 1e"):
        Storage("float16", 6, "l2").encode(np.full((1, 6), 1e6, np.float32))


@pytest.mark.parametrize("metric", ["l2", "l1", "cosine"])
def test_codes_come_back_as_centres(metric: str) -> None:
    key = CodeKey.parse("kmeans:4x3", 6)
    storage = Storage("kmeans:4x3", 6, metric, key.learn(VECTORS))
    rows = storage.encode(VECTORS)
    assert (rows.shape, rows.dtype) == ((50, 2), np.uint8)
    assert (storage.dtype, storage.float_dtype, storage.row_bytes) == ("uint8", "float32", 2)
    back = storage.decode(rows)
    assert np.abs(back - VECTORS).mean() < 0.15
    if metric == "cosine":
        np.testing.assert_allclose(np.linalg.norm(back, axis=1), 1, atol=1e-6)


def test_no_vectors_are_no_rows() -> None:
    for storage in (
        Storage("float16", 6, "cosine"),
        Storage("kmeans:8", 6, "cosine", CodeKey.parse("kmeans:8", 6).learn(VECTORS)),
    ):
        rows = storage.encode(VECTORS[:0])
        assert rows.shape == (0, storage.columns)
        assert storage.decode(rows).shape == (0, 6)
