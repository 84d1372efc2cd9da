import io

import numpy as np
import pytest

from index.npy_header import read_header


def written(array: np.ndarray) -> np.ndarray:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return np.frombuffer(buffer.getvalue(), np.uint8)


@pytest.mark.parametrize("dtype", ["<f4", "<f2", "|u1", "<i8", "<f8"])
@pytest.mark.parametrize("shape", [(0,), (7,), (0, 4), (12_345, 64), (2, 3, 4)])
def test_what_numpy_writes_is_read(shape: tuple[int, ...], dtype: str) -> None:
    raw = written(np.zeros(shape, dtype))
    found, kind, offset = read_header(raw)
    assert (found, kind) == (shape, np.dtype(dtype))
    assert len(raw) == offset + np.zeros(shape, dtype).nbytes


def test_anything_else_is_refused() -> None:
    whole = written(np.arange(6, dtype=np.float32).reshape(2, 3))
    bytes_of = whole.tobytes()
    others = [
        b"", bytes_of[:40], b"1 2 3 4", bytes_of.replace(b"}", b" "), bytes_of.replace(b"<f4", b">f4"),
        bytes_of.replace(b"False", b"True, "), bytes_of.replace(b"(2, 3)", b"(2; 3)"),
        bytes_of.replace(b"\x76\x00", b"\x66\x00"), bytes_of.replace(b"NUMPY\x01", b"NUMPY\x02"),
    ]  # fmt: skip
    assert all(other != bytes_of for other in others)
    for other in others:
        with pytest.raises(ValueError, match="header"):
            read_header(np.frombuffer(other, np.uint8))
    for array in (np.zeros(3, complex), np.zeros(3, "S3"), np.zeros((), np.float32)):
        with pytest.raises(ValueError, match="header"):
            read_header(written(array))
