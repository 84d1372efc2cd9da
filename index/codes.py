"""Vectors as packed codes of 1, 2, 4 or 8 bits, and distances to them through lookup tables.

A vector has a code for each of m groups of d neighbouring numbers (d = 1: one for each number), and a
code stands for a centre. Codes are packed from the lowest bit of a byte up. Distances are asymmetric:
the query is exact, the vector is where its codes put it (Jégou, Douze and Schmid, "Product
Quantization for Nearest Neighbor Search", 2011, §3).

Whatever the bits, half a byte of packed codes is a code itself, of 16 centres, each made of those of
its parts one after the other. So codes of 1, 2 and 4 bits all go to one kernel of FAISS, whose tables
of 16 stay in the registers of the processor ("4-bit fast scan"). It rounds its tables: exact sums over
the best of what it finds decide, and where these may not hold the nearest, a byte of packed codes is
a code of 256 centres, for which FAISS has exact tables.
"""

# The stubs that FAISS ships know neither its vectors of bytes nor all constructors.
# mypy: disable-error-code="arg-type, attr-defined"
import dataclasses

import faiss
import numpy as np

from index.errors import VectorError
from index.neighbors import LONGEST, Neighbors, prepare, rescore

BITS = (1, 2, 4, 8)
BLOCK = 65_536
"""Codes whose distances are summed at a time where FAISS has no tables for the metric."""
FAST_MORE = 256
"""How many candidates beyond k the fast scan gives, for exact sums to decide."""


def bits_for(bins: int) -> int:
    """The fewest of 1, 2, 4 and 8 bits that hold so many codes. Raises VectorError above 256."""
    for bits in BITS:
        if bins <= 1 << bits:
            return bits
    raise VectorError(f"{bins} bins do not fit into 8 bits; at most 256 can be packed")


def pack_codes(codes: np.ndarray, bits: int) -> np.ndarray:
    """Codes uint8 (n,m) < 2^bits as bytes uint8 (n, ⌈m·bits/8⌉); bits that are left over are 0.

    Raises VectorError for codes that do not fit, and for other bits than 1, 2, 4 and 8.
    """
    _check_bits(bits)
    if codes.ndim != 2 or codes.dtype.kind not in "iu":
        raise VectorError(f"codes are {codes.dtype} {codes.shape}; expected whole numbers (n, m)")
    if codes.size and (codes.min() < 0 or codes.max() >> bits):
        raise VectorError(
            f"codes range from {codes.min()} to {codes.max()}; {bits} bits hold 0 … {2**bits - 1}"
        )
    each = 8 // bits
    n, m = codes.shape
    packed = np.zeros((n, -(-m // each)), np.uint8)
    for place in range(each):
        part = codes[:, place::each].astype(np.uint8)
        packed[:, : part.shape[1]] |= part << (place * bits)
    return packed


def unpack_codes(packed: np.ndarray, bits: int, m: int) -> np.ndarray:
    """The codes uint8 (n,m) that ``pack_codes`` packed. Raises VectorError for another shape."""
    _check_bits(bits)
    each = 8 // bits
    if packed.ndim != 2 or packed.dtype != np.uint8 or packed.shape[1] != -(-m // each):
        raise VectorError(
            f"packed codes are {packed.dtype} {packed.shape}; {m} codes of {bits} bits are uint8 "
            f"(n, {-(-m // each)})"
        )
    codes = np.empty((len(packed), m), np.uint8)
    for place in range(min(each, m)):
        part = codes[:, place::each]
        part[:] = packed[:, : part.shape[1]] >> (place * bits) & ((1 << bits) - 1)
    return codes


@dataclasses.dataclass(frozen=True)
class Codebook:
    """What codes stand for: centres float32 (m, 2^bits, d)."""

    centers: np.ndarray

    def __post_init__(self) -> None:
        _check_bits(self.bits)

    @classmethod
    def of(cls, centers: "list[np.ndarray] | np.ndarray") -> "Codebook":
        """From the centres (b,) or (b,d) of each group; codes that no vector has stand for the last.

        Raises VectorError for more than 256 centres, and for numbers that no vector may have.
        """
        bits = bits_for(max(len(c) for c in centers))
        largest = max(float(np.abs(c).max()) for c in centers)
        if not largest <= LONGEST:
            raise VectorError(
                f"centres may hold numbers up to {LONGEST:g}, and the largest is {largest:.3g}; "
                "scale the vectors before centres are learnt"
            )
        filled = [c[np.minimum(np.arange(1 << bits), len(c) - 1)] for c in centers]
        return cls(np.stack(filled).astype(np.float32).reshape(len(filled), 1 << bits, -1))

    @property
    def bits(self) -> int:
        """The bits of a code."""
        return int(self.centers.shape[1]).bit_length() - 1

    @property
    def dim(self) -> int:
        """The numbers of a vector."""
        return self.centers.shape[0] * self.centers.shape[2]

    @property
    def bytes(self) -> int:
        """The bytes of a vector."""
        return -(-self.centers.shape[0] * self.bits // 8)

    def encode(self, vectors: np.ndarray) -> np.ndarray:
        """The packed codes of the nearest centres to vectors float32 (n,D).

        Raises VectorError for vectors of another shape, that are not finite or longer than 1e18.
        """
        vectors = prepare(vectors, self.dim, "l2", "vectors")
        m = len(self.centers)
        quantizer = faiss.ProductQuantizer(self.dim, m, self.bits)
        faiss.copy_array_to_vector(self.centers.ravel(), quantizer.centroids)
        packed = quantizer.compute_codes(vectors)
        last = self._last_codes()
        if (last == (1 << self.bits) - 1).all():
            return packed
        # Among equal centres some processors take a later one: which, depends on their vector units.
        return pack_codes(np.minimum(unpack_codes(packed, self.bits, m), last), self.bits)

    def _last_codes(self) -> np.ndarray:
        """The last code of each group that is in use, uint8 (m,): those after it repeat its centre."""
        repeats = (self.centers == self.centers[:, -1:]).all(axis=2)[:, ::-1]
        n_repeats = np.logical_and.accumulate(repeats, axis=1).sum(axis=1)
        return (repeats.shape[1] - n_repeats).astype(np.uint8)

    def decode(self, packed: np.ndarray) -> np.ndarray:
        """The vectors float32 (n,D) that packed codes stand for."""
        m = len(self.centers)
        codes = unpack_codes(packed, self.bits, m)
        return self.centers[np.arange(m), codes].reshape(len(codes), self.dim)

    def widened(self, bits: int) -> np.ndarray:
        """Centres float32 (M, 2^bits, d·e) of codes of so many bits, made of e codes each.

        M fills whole bytes: what is left over stands for zeros, which no vector has.
        """
        each, (m, k, d) = bits // self.bits, self.centers.shape
        centers = np.zeros((self.bytes * 8 // self.bits, k, d), np.float32)
        centers[:m] = self.centers
        parts = centers.reshape(-1, each, k, d)
        wide = np.arange(1 << bits)
        chosen = [parts[:, place, wide >> (place * self.bits) & (k - 1)] for place in range(each)]
        return np.concatenate(chosen, axis=2)


class CodeIndex:
    """Vectors as packed codes uint8 (n, codebook.bytes), searched by asymmetric distances.

    Metrics are l2, l1, and cosine, for vectors that had length 1 before they were coded: for these
    1 − cos is half the squared l2 distance, and so it is reckoned here. Codes of fewer than 8 bits are
    held three times in memory: as they are, and in the order of each kernel.
    Raises VectorError for codes of another shape.
    """

    def __init__(self, codebook: Codebook, packed: np.ndarray, metric: str) -> None:
        unpack_codes(packed[:0], codebook.bits, len(codebook.centers))
        self.codebook, self.packed, self.metric = codebook, packed, metric
        self._kernel = self._fast = None
        # Sums of l1 have no kernel; nor is there anything to search in no vectors.
        if metric != "l1" and len(packed):
            self._kernel = even_kernel(codebook)
            if self._kernel is not None:
                _fill(self._kernel, packed)
            else:
                self._kernel = _tables(codebook, 8, packed)
                if codebook.bits < 8:
                    self._fast = faiss.IndexPQFastScan(_tables(codebook, 4, packed))

    def search(self, queries: np.ndarray, k: int) -> Neighbors:
        """The k nearest of each query float32 (Q,D), by (asymmetric distance, row).

        Which of vectors at the same distance are the last of the k is left open: few codes, many ties.
        Raises VectorError for queries of another shape, or that are not finite.
        """
        queries = prepare(queries, self.codebook.dim, self.metric, "queries")
        if not len(self.packed) or not len(queries):
            return Neighbors.none(len(queries), k)
        search = self._plain_search if self._fast is None else self._fast_search
        found = search(queries, k)
        if self.metric == "cosine":
            found = Neighbors(found.distances**2 / 2, found.ids)
        missing = k - found.ids.shape[1]
        return found.merge(Neighbors.none(len(queries), missing), k) if missing > 0 else found

    def _plain_search(self, queries: np.ndarray, k: int) -> Neighbors:
        """Sums that are off by rounding of floats alone: a few candidates more than k suffice."""
        more = min(k + 16, len(self.packed))
        if self._kernel is None:
            rows = self._nearest_by_tables(queries, more)
        else:
            _, rows = self._kernel.search(_padded(queries, self._kernel.d), more)
        return self._exact(queries, rows).best(k)

    def _fast_search(self, queries: np.ndarray, k: int) -> Neighbors:
        """The fast scan, and the other kernel for those queries for which it was not sharp enough.

        It rounds tables to 8 bits over the widest, which far-off centres make coarse. How much sums are
        too high shows in the candidates, whose exact sums are known: where a vector that is no
        candidate would be among the k nearest if its sum were as much too high, the query is asked
        again. Of 1,000 answers that stand, about 998 are those of exact sums.
        """
        assert self._fast is not None
        more = min(k + FAST_MORE, len(self.packed))
        sums, rows = self._fast.search(_padded(queries, self._fast.d), more)
        exact = self._exact(queries, rows)
        found = exact.best(k)
        if more == len(self.packed) and (rows >= 0).all():
            return found
        sums = np.where(rows >= 0, sums, np.nan)
        too_high = np.nanmax(sums - exact.distances**2, axis=1, initial=0)
        # Neither rounding of floats nor ties make unsure; candidates that are missing do.
        farthest = sums[:, -1] + 1e-5 * np.abs(sums[:, -1])
        unsure = np.flatnonzero(~(found.distances[:, -1] ** 2 + too_high <= farthest))
        if len(unsure):
            again = self._plain_search(queries[unsure], k)
            found.distances[unsure], found.ids[unsure] = again.distances, again.ids
        return found

    def _exact(self, queries: np.ndarray, rows: np.ndarray) -> Neighbors:
        """True l2 or l1 distances of candidates to what their codes stand for."""
        metric = "l1" if self.metric == "l1" else "l2"
        return rescore(queries, rows, lambda r: self.codebook.decode(self.packed[r]), metric)

    def _nearest_by_tables(self, queries: np.ndarray, k: int) -> np.ndarray:
        """Rows int64 (Q, ≤ k) by sums of |query − centre|, one table of 256 for each byte."""
        wide = self.codebook.widened(8)
        best = Neighbors.none(len(queries), 0)
        padded = _padded(queries, wide.shape[0] * wide.shape[2])
        for start in range(0, len(self.packed), BLOCK):
            columns = np.ascontiguousarray(self.packed[start : start + BLOCK].T)
            sums = np.zeros((len(queries), columns.shape[1]), np.float32)
            for query, row in zip(padded, sums, strict=True):
                tables = np.abs(wide - query.reshape(len(wide), 1, -1)).sum(2)
                for table, codes in zip(tables, columns, strict=True):
                    row += table[codes]
            keep = min(k, sums.shape[1])
            near = np.argpartition(sums, keep - 1, axis=1)[:, :keep]
            found = Neighbors(np.take_along_axis(sums, near, 1), near + start)
            best = best.merge(found, k)
        return best.ids


def _padded(queries: np.ndarray, dim: int) -> np.ndarray:
    return np.pad(queries, ((0, 0), (0, dim - queries.shape[1])))


def _tables(codebook: Codebook, bits: int, packed: np.ndarray) -> "faiss.IndexPQ":
    """FAISS's tables for codes of so many bits, with our centres."""
    wide = codebook.widened(bits)
    index = faiss.IndexPQ(wide.shape[0] * wide.shape[2], len(wide), bits)
    faiss.copy_array_to_vector(wide.ravel(), index.pq.centroids)
    _fill(index, packed)
    return index


def even_kernel(codebook: Codebook, metric: int = faiss.METRIC_L2) -> "faiss.Index | None":
    """FAISS's scalar quantiser, empty, for 16 or 256 centres at even distances, which need no table.

    It decodes code c of k as v + (c + 1/2)/(k − 1)·w. None for other centres.
    """
    kinds = {4: faiss.ScalarQuantizer.QT_4bit, 8: faiss.ScalarQuantizer.QT_8bit}
    spacing = np.diff(codebook.centers, axis=1)
    wide = codebook.bits not in kinds or codebook.centers.shape[2] > 1
    if wide or not np.allclose(spacing, spacing[:, :1], rtol=1e-3, atol=0):
        return None
    first, last = codebook.centers[:, 0, 0], codebook.centers[:, -1, 0]
    index = faiss.IndexScalarQuantizer(codebook.dim, kinds[codebook.bits], metric)
    low = first - (last - first) / ((1 << codebook.bits) - 1) / 2
    faiss.copy_array_to_vector(np.concatenate([low, last - first]), index.sq.trained)
    index.is_trained = True
    return index


def _fill(index: "faiss.Index", packed: np.ndarray) -> None:
    index.is_trained, index.ntotal = True, len(packed)
    faiss.copy_array_to_vector(np.ascontiguousarray(packed).ravel(), index.codes)


def _check_bits(bits: int) -> None:
    if bits not in BITS:
        raise VectorError(f"codes of {bits} bits cannot be packed; allowed are 1, 2, 4 and 8")
