"""How vectors lie in the shards of a gallery: as floats, or as packed codes of a codebook."""

import dataclasses

import numpy as np

from index.codes import Codebook
from index.errors import VectorError
from index.neighbors import unit

FLOATS = ("float32", "float16")


@dataclasses.dataclass(frozen=True)
class Storage:
    """``name`` is float32, float16, or the code (see ``index.code_keys``) whose ``codebook`` is given.

    Codes stand for vectors near the ones that were stored; for cosine these have length 1 again.
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
        """Vectors (n,D), floats, from rows as they are stored; float rows are given back."""
        if self.codebook is None:
            return rows
        vectors = self.codebook.decode(rows)
        return unit(vectors) if self.metric == "cosine" else vectors
