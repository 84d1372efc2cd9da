"""How vectors lie in the shards of a gallery: as floats, or as packed codes of a codebook."""

import dataclasses

import numpy as np

from index.codes import Codebook
from index.errors import VectorError
from index.neighbors import prepare, unit

FLOATS = ("float32", "float16")


@dataclasses.dataclass(frozen=True)
class Storage:
    """``name`` is float32, float16, or the code (see ``index.code_keys``) whose ``codebook`` is given.

    What was rounded, or stands for vectors near those that were stored, has length 1 again for cosine.
    """

    name: str
    dim: int
    metric: str
    codebook: Codebook | None = None

    @property
    def dtype(self) -> str:
        """Of the numbers in a file."""
        return self.name if self.codebook is None else "uint8"

    @property
    def float_dtype(self) -> str:
        """The smallest floats that hold what is stored."""
        return self.name if self.codebook is None else "float32"

    @property
    def columns(self) -> int:
        """Numbers of a row."""
        return self.dim if self.codebook is None else self.codebook.bytes

    @property
    def row_bytes(self) -> int:
        """Bytes of a vector."""
        return self.columns * np.dtype(self.dtype).itemsize

    def encode(self, vectors: np.ndarray) -> np.ndarray:
        """Vectors float32 (n,D) as they are stored: (n, columns) of dtype.

        Raises VectorError for numbers that float16 cannot hold.
        """
        if self.codebook is not None:
            return self.codebook.encode(vectors)
        with np.errstate(over="ignore"):  # checked at once
            stored = vectors.astype(self.dtype)
        if not np.isfinite(stored).all():
            largest = float(np.abs(vectors).max())
            raise VectorError(f"{self.dtype} cannot hold {largest:g}; store float32")
        return stored

    def decode(self, rows: np.ndarray) -> np.ndarray:
        """Vectors (n,D), floats, from rows as they are stored, which themselves may be given back."""
        if self.name == "float32" or (self.codebook is None and self.metric != "cosine"):
            return rows
        vectors = self.codebook.decode(rows) if self.codebook else rows.astype(np.float32)
        return unit(vectors) if self.metric == "cosine" else vectors

    def same(self, kept: np.ndarray, vectors: np.ndarray) -> np.ndarray:
        """Which rows, bool (n,), of vectors (n,D) are those that are ``kept``, float32 (n,D).

        They are those that were stored, or what was given back of these. Raises as ``encode``.
        """
        stored = self.encode(prepare(vectors, self.dim, self.metric, "vectors"))
        given_back = kept.astype(self.float_dtype) == vectors.astype(self.float_dtype)
        return (kept == self.decode(stored)).all(axis=1) | given_back.all(axis=1)
