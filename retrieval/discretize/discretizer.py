"""What the ways of discretizing have in common: learning from parts, codes, centres, checks."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.exceptions import NotFittedError

from retrieval.discretize.row_sample import RowSample
from retrieval.errors import ConfigError, DataError

MOST_BINS = 65_536
BLOCK = 16_384
"""Rows that are worked on at a time; two threads take a block each."""


class Discretizer(TransformerMixin, BaseEstimator):
    """What the ways have in common: learning from parts, codes, centres."""

    n_bins: int

    def fit(self, X: Any, y: Any = None) -> Self:
        """Learn from X (n,D) alone, forgetting what was learned before."""
        rows = self._checked(X, fitting=True)
        _check_finite(rows, _kept_type(rows))
        self._begin(rows)
        return self._learn(rows)

    def partial_fit(self, X: Any, y: Any = None) -> Self:
        """Learn from X (n,D) as well. Bins are made when they are next asked for."""
        if not self.__sklearn_is_fitted__():
            return self.fit(X)
        rows = self._checked(X)
        _check_finite(rows, self._dtype)
        return self._learn(rows)

    def transform(self, X: Any) -> np.ndarray:
        """Codes of X (n,D): (n,D) of the smallest unsigned type that holds n_bins codes."""
        rows = self._checked(X)
        _check_finite(rows, rows.dtype)
        codes = np.empty(
            (len(rows), self._code_columns()), np.min_scalar_type(int(self.n_bins_.max()) - 1)
        )
        encode = self._encoder()
        _for_blocks(len(rows), lambda block: encode(rows[block], codes[block]))
        return codes

    def inverse_transform(self, X: Any) -> np.ndarray:
        """The centres (n,D) that codes X stand for. Raises DataError for codes that do not exist."""
        codes, counts = _numbers(X), self.n_bins_
        if codes.ndim != 2 or codes.shape[1] != len(counts):
            raise DataError(f"codes have shape {codes.shape}; expected (n, {len(counts)})")
        if codes.dtype.kind not in "iu":
            raise DataError(f"codes are {codes.dtype}; expected whole numbers as transform gives")
        wrong = np.argwhere((codes < 0) | (codes >= counts))
        if len(wrong):
            row, column = wrong[0]
            raise DataError(
                f"{len(wrong)} codes do not exist; the first is {codes[row, column]} in row {row}, "
                f"column {column}, which has codes 0 … {counts[column] - 1}"
            )
        table = self._center_table()
        values = np.empty((len(codes), self.n_features_in_), self._dtype)

        def decode(block: slice) -> None:
            found = table[np.arange(len(counts)), codes[block]]
            values[block] = found.reshape(len(found), -1)

        _for_blocks(len(codes), decode)
        return values

    @property
    def n_bins_(self) -> np.ndarray:
        """The bins of each column of codes, int64; at most n_bins."""
        return np.array([len(c) for c in self.centers_])

    @property
    def bin_edges_(self) -> np.ndarray:
        """For each column an array of n_bins_ + 1 edges, ascending; object (D,)."""
        return ragged([edges for edges, _ in self._bins()])

    @property
    def centers_(self) -> np.ndarray:
        """For each column the centres of its bins, ascending; object (D,)."""
        return ragged([centers for _, centers in self._bins()])

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "n_features_in_")

    def _begin(self, rows: np.ndarray) -> None:
        self.n_features_in_ = rows.shape[1]
        self.n_samples_seen_ = 0
        self._dtype = _kept_type(rows)
        self.data_min_ = np.full(rows.shape[1], np.inf, self._dtype)
        self.data_max_ = np.full(rows.shape[1], -np.inf, self._dtype)

    def _learn(self, rows: np.ndarray) -> Self:
        for start in range(0, len(rows), BLOCK):
            block = np.asarray(rows[start : start + BLOCK], self._dtype)
            np.minimum(self.data_min_, block.min(0), out=self.data_min_)
            np.maximum(self.data_max_, block.max(0), out=self.data_max_)
            self._keep(block)
        self.n_samples_seen_ += len(rows)
        self._made: Any = None
        return self

    def _keep(self, block: np.ndarray) -> None:
        """Remember of a block what bins will be made of, beside the range."""

    def _make(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Edges and centres of each column."""
        raise NotImplementedError

    def _bins(self) -> Any:
        self._check_fitted()
        if self._made is None:
            self._made = self._make()
        return self._made

    def _check_fitted(self) -> None:
        if not self.__sklearn_is_fitted__():
            name = type(self).__name__
            raise NotFittedError(f"this {name} has not learned anything yet; call fit first")

    def _code_columns(self) -> int:
        return self.n_features_in_

    def _encoder(self) -> Callable[[np.ndarray, np.ndarray], None]:
        inner = [edges[1:-1] for edges in self.bin_edges_]

        def encode(rows: np.ndarray, codes: np.ndarray) -> None:
            for column, values in enumerate(np.ascontiguousarray(rows.T)):
                codes[:, column] = np.searchsorted(inner[column], values, side="right")

        return encode

    def _center_table(self) -> np.ndarray:
        """Centres as one array (D, most bins), filled up with zeros."""
        table = np.zeros((self.n_features_in_, int(self.n_bins_.max())), self._dtype)
        for row, centers in zip(table, self.centers_, strict=True):
            row[: len(centers)] = centers
        return table

    def _checked(self, X: Any, fitting: bool = False) -> np.ndarray:
        """X as floats (n,D), itself where it holds floats. Raises DataError, NotFittedError.

        Whether they are finite is yet to be checked.
        """
        if fitting:
            self._check_options()
        else:
            self._check_fitted()
        rows = _numbers(X)
        if rows.ndim != 2:
            hint = "; make a column of it with reshape(-1, 1)" if rows.ndim == 1 else ""
            raise DataError(f"values have shape {rows.shape}; expected (rows, columns){hint}")
        if rows.dtype.kind not in "fiub":
            raise DataError(f"values are {rows.dtype}; expected numbers")
        if fitting and 0 in rows.shape:
            raise DataError(f"values have shape {rows.shape}; there is nothing to learn from")
        if not fitting and rows.shape[1] != self.n_features_in_:
            raise DataError(
                f"values have {rows.shape[1]} columns; this {type(self).__name__} has learned from "
                f"{self.n_features_in_}"
            )
        return rows if rows.dtype.kind == "f" else rows.astype(np.float64)

    def _check_options(self) -> None:
        check_whole("n_bins", self.n_bins, MOST_BINS)


class SamplingDiscretizer(Discretizer):
    """Makes bins of a fair sample of ``sample_rows`` rows; of all rows while there are no more."""

    sample_rows: int
    seed: int

    def _begin(self, rows: np.ndarray) -> None:
        super()._begin(rows)
        self._sample = RowSample(self.sample_rows, self.seed)

    def _keep(self, block: np.ndarray) -> None:
        self._sample.add(block)

    def _make(self) -> list[tuple[np.ndarray, np.ndarray]]:
        columns = np.sort(np.ascontiguousarray(self._sample.rows().T), axis=1)
        made = []
        for values, low, high in zip(columns, self.data_min_, self.data_max_, strict=True):
            edges, centers = self._cut(values)
            edges[0], edges[-1] = low, high  # the sample may have missed them
            made.append((edges, centers))
        return made

    def _cut(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        raise NotImplementedError

    def _check_options(self) -> None:
        super()._check_options()
        check_whole("sample_rows", self.sample_rows)
        check_whole("seed", self.seed, least=0)


def _blocks(n: int) -> Iterator[slice]:
    return (slice(start, min(start + BLOCK, n)) for start in range(0, n, BLOCK))


def _for_blocks(n: int, work: Callable[[slice], None]) -> None:
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, _blocks(n)))


def _numbers(X: Any) -> np.ndarray:
    """X, an array or a torch tensor on any device, as an array."""
    if hasattr(X, "detach"):
        X = X.detach().cpu()
        # numpy has no bfloat16.
        X = X.float() if X.is_floating_point() and X.element_size() == 2 else X
    return np.asarray(X)


def ragged(parts: list[np.ndarray]) -> np.ndarray:
    array = np.empty(len(parts), object)
    array[:] = parts
    return array


def _kept_type(rows: np.ndarray) -> np.dtype:
    """The type that edges and centres of these rows have."""
    return np.dtype(np.float32 if rows.dtype in (np.float32, np.float16) else np.float64)


def _check_finite(rows: np.ndarray, kind: np.dtype) -> None:
    """Raise DataError where floats (n,D) are not finite as those of this type."""
    for block in _blocks(len(rows)):
        with np.errstate(over="ignore"):
            wrong = ~np.isfinite(rows[block].astype(kind, copy=False))
        if wrong.any():
            row, column = np.argwhere(wrong)[0] + (block.start, 0)
            value = rows[row, column]
            why = f"beyond {kind}, of which bins are made" if np.isfinite(value) else "not finite"
            raise DataError(
                f"values that are {why}: the first is {value!s} in row {row}, column {column}; "
                "leave out or fill in such rows first"
            )


def check_whole(name: str, value: Any, most: int | None = None, least: int = 1) -> None:
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not whole or value < least or (most is not None and value > most):
        upper = f" to {most:,}" if most is not None else " up"
        raise ConfigError(f"{name} is {value!r}; allowed are whole numbers from {least}{upper}")
