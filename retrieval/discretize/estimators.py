"""The ways: equal width, equal frequency, clustering of columns or of groups of them."""

from collections.abc import Callable
from typing import Any

import numpy as np

from index import bins
from index.codes import Codebook, unpack_codes
from retrieval.discretize.discretizer import Discretizer, SamplingDiscretizer, check_whole, ragged
from retrieval.errors import ConfigError


class EqualWidthDiscretizer(Discretizer):
    """Bins of one width between the least and the greatest value of a column; centres in their middle.

    Learning keeps these two values alone and is exact, whatever the parts.
    """

    def __init__(self, n_bins: int = 8) -> None:
        self.n_bins = n_bins

    def _make(self) -> list[tuple[np.ndarray, np.ndarray]]:
        ranges = zip(self.data_min_, self.data_max_, strict=True)
        return [bins.equal_width(low, high, self.n_bins) for low, high in ranges]


class EqualFrequencyDiscretizer(SamplingDiscretizer):
    """Bins that hold about as many values each: numbers differ by one at most, and by what is repeated.

    The centre of a bin is the mean of its values.
    """

    def __init__(self, n_bins: int = 8, sample_rows: int = 100_000, seed: int = 0) -> None:
        self.n_bins, self.sample_rows, self.seed = n_bins, sample_rows, seed

    def _cut(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return bins.equal_frequency(values, self.n_bins)


class KMeansDiscretizer(SamplingDiscretizer):
    """Bins around the centres that k-means finds in each column."""

    def __init__(self, n_bins: int = 8, sample_rows: int = 100_000, seed: int = 0) -> None:
        self.n_bins, self.sample_rows, self.seed = n_bins, sample_rows, seed

    def _cut(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return bins.kmeans(values, self.n_bins)


class ProductDiscretizer(SamplingDiscretizer):
    """Product quantisation: bins around the centres that k-means finds in groups of columns.

    The D columns form m = ``subspaces`` groups of D/m neighbouring ones, and a row has one code for
    each group: the nearest of n_bins ≤ 256 centres in it. ``centers_`` has shape (n_bins, D/m) for each
    group, and there are no edges. Distances are those of float32 from the median: rows of a group that
    lie closer than about 1e-7 of how far they reach may have one code.
    Source: Jégou, Douze and Schmid, "Product Quantization for Nearest Neighbor Search", 2011.
    """

    def __init__(
        self, n_bins: int = 256, subspaces: int = 8, sample_rows: int = 100_000, seed: int = 0
    ) -> None:
        self.n_bins, self.subspaces = n_bins, subspaces
        self.sample_rows, self.seed = sample_rows, seed

    @property
    def bin_edges_(self) -> np.ndarray:
        """Raises AttributeError: cells in several dimensions have no edges."""
        raise AttributeError("bins of groups of columns have no edges; see centers_")

    @property
    def centers_(self) -> np.ndarray:
        """The centres: for each group of columns (b, D/m); object (m,)."""
        return ragged(self._bins())

    def _begin(self, rows: np.ndarray) -> None:
        if rows.shape[1] % self.subspaces:
            possible = [m for m in range(1, rows.shape[1] + 1) if rows.shape[1] % m == 0]
            raise ConfigError(
                f"subspaces is {self.subspaces}, which does not divide {rows.shape[1]} columns; "
                f"possible are {', '.join(map(str, possible))}"
            )
        super()._begin(rows)

    def _make(self) -> Any:
        groups = np.split(self._sample.rows(), self.subspaces, axis=1)
        return [bins.clusters(group, self.n_bins, self.seed) for group in groups]

    def _code_columns(self) -> int:
        return self.subspaces

    def _encoder(self) -> Callable[[np.ndarray, np.ndarray], None]:
        frames = [bins.Frame.around(centers) for centers in self.centers_]
        codebook = Codebook.of(
            [frame.see(centers) for frame, centers in zip(frames, self.centers_, strict=True)]
        )

        def encode(rows: np.ndarray, codes: np.ndarray) -> None:
            groups = np.split(rows, len(frames), axis=1)
            seen = [frame.see(group) for frame, group in zip(frames, groups, strict=True)]
            packed = codebook.encode(np.concatenate(seen, axis=1))
            codes[:] = unpack_codes(packed, codebook.bits, codes.shape[1])

        return encode

    def _center_table(self) -> np.ndarray:
        width = self.n_features_in_ // self.subspaces
        table = np.zeros((self.subspaces, int(self.n_bins_.max()), width), self._dtype)
        for row, centers in zip(table, self.centers_, strict=True):
            row[: len(centers)] = centers
        return table

    def _check_options(self) -> None:
        super()._check_options()
        check_whole("subspaces", self.subspaces)
        check_whole("n_bins with subspaces", self.n_bins, 256)
