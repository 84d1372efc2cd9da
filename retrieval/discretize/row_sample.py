"""A fair sample of rows that arrive in parts, within bounded memory."""

import numpy as np


class RowSample:
    """Keeps ``limit`` rows, any as likely as any other; all of them while there are no more.

    Each row draws a number and those with the smallest stay (Vitter, "Random Sampling with a
    Reservoir"). So the sample depends on the rows and the seed, not on the parts that they came in.
    Memory: 2·limit rows, and one part.
    """

    def __init__(self, limit: int, seed: int) -> None:
        self.limit = limit
        self._rng = np.random.default_rng(seed)
        self._keys: list[np.ndarray] = []
        self._rows: list[np.ndarray] = []
        self._highest = np.inf

    def add(self, rows: np.ndarray) -> None:
        """Offer rows (n,D); those that are kept are copied."""
        keys = self._rng.random(len(rows))
        kept = keys < self._highest
        self._keys.append(keys[kept])
        self._rows.append(rows[kept])
        if sum(map(len, self._keys)) > 2 * self.limit:
            self._shrink()

    def rows(self) -> np.ndarray:
        """The sample (m,D), m ≤ limit, in an order that has nothing to do with that of arrival."""
        self._shrink()
        return self._rows[0]

    def _shrink(self) -> None:
        keys = np.concatenate(self._keys)
        order = np.argsort(keys)[: self.limit]
        self._rows = [np.concatenate(self._rows)[order]]
        self._keys = [keys[order]]
        if len(order) == self.limit:
            self._highest = self._keys[0][-1]
