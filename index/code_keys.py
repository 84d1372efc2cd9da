# The stubs that FAISS ships know neither its vectors of floats nor all constructors.
# mypy: disable-error-code="arg-type, attr-defined"
"""Index keys that name a code: METHOD:BITS for each number, or kmeans:BITSxGROUPS.

What a key names is learnt from a sample of the vectors, as a codebook; FAISS's kernels search the codes
with our centres in them. Fewer than 8 bits go to the 4-bit fast scan. It rounds its tables, which does
no harm here: an index names candidates, whose true distances decide.
"""

import dataclasses
import re

import faiss
import numpy as np

from index import bins
from index.codes import Codebook, even_kernel
from index.errors import IndexKeyError
from index.neighbors import FAISS_METRIC

METHODS = ("equal-width", "equal-frequency", "kmeans")


@dataclasses.dataclass(frozen=True)
class CodeKey:
    """Codes of so many ``bits``, one for each number, or one for each of ``groups`` of numbers."""

    method: str
    bits: int
    groups: int | None

    @classmethod
    def parse(cls, key: str, dim: int) -> "CodeKey":
        """What ``key`` names, for vectors of ``dim`` numbers. Raises IndexKeyError."""
        found = re.fullmatch(rf"({'|'.join(METHODS)}):([1248])(?:x([1-9]\d*))?", key)
        if found is None or (found[3] and found[1] != "kmeans"):
            raise IndexKeyError(
                f"{key!r} is no code; allowed are {', '.join(f'{m}:BITS' for m in METHODS)} and "
                "kmeans:BITSxGROUPS with 1, 2, 4 or 8 bits, such as equal-width:8 or kmeans:8x16"
            )
        groups = int(found[3]) if found[3] else None
        if groups is not None and dim % groups:
            possible = [n for n in range(1, dim + 1) if dim % n == 0]
            raise IndexKeyError(
                f"{key!r} wants {groups} groups, which do not divide {dim} numbers; possible are "
                f"{', '.join(map(str, possible))}"
            )
        return cls(found[1], int(found[2]), groups)

    def bytes(self, dim: int) -> int:
        """The bytes of a vector of ``dim`` numbers."""
        return -(-(self.groups or dim) * self.bits // 8)

    def learn(self, sample: np.ndarray, seed: int = 0) -> Codebook:
        """The centres that suit vectors float32 (n,D), n ≥ 1."""
        k = 1 << self.bits
        if self.groups is not None:
            parts = np.split(sample, self.groups, axis=1)
            centers = [bins.clusters(part, k, seed) for part in parts]
        else:
            columns = np.sort(np.ascontiguousarray(sample.T), axis=1)
            centers = [self._centers(values, k) for values in columns]
        # Few different values have fewer centres; the codes that are left over stand for the last.
        return Codebook.of([c[np.minimum(np.arange(k), len(c) - 1)] for c in centers])

    def _centers(self, values: np.ndarray, k: int) -> np.ndarray:
        if self.method == "equal-width":
            return bins.equal_width(values[0], values[-1], k)[1]
        cut = bins.equal_frequency if self.method == "equal-frequency" else bins.kmeans
        return cut(values, k)[1]


def is_code(key: str) -> bool:
    """Whether an index key is meant to name a code."""
    return key.partition(":")[0] in METHODS


def code_index(codebook: Codebook, metric: str) -> "faiss.Index":
    """An empty FAISS index whose codes are those of the codebook; l2 or cosine."""
    measure = FAISS_METRIC[metric]
    index = even_kernel(codebook, measure)
    if index is None:
        bits = 8 if codebook.bits == 8 else 4
        wide = codebook.widened(bits)
        kind = faiss.IndexPQ if bits == 8 else faiss.IndexPQFastScan
        index = kind(wide.shape[0] * wide.shape[2], len(wide), bits, measure)
        faiss.copy_array_to_vector(wide.ravel(), index.pq.centroids)
        index.is_trained = True
    if index.d == codebook.dim:
        return index
    # Whole bytes hold codes that no vector has; what they stand for is zero.
    padding = faiss.RemapDimensionsTransform(codebook.dim, index.d, False)
    padded = faiss.IndexPreTransform(padding, index)
    padding.this.disown()
    index.this.disown()
    padded.own_fields = True
    return padded
