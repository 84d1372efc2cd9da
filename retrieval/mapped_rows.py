"""Some pictures of a file that is mapped from disk."""

from collections.abc import Iterator
from typing import Any

import numpy as np


class MappedRows:
    """Rows of a mapped array, in an order of their own: read when asked for, never all at once."""

    def __init__(self, array: np.ndarray, rows: np.ndarray) -> None:
        self.array, self.rows = array, rows
        self.dtype, self.shape = array.dtype, (len(rows), *array.shape[1:])

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[place] for place in range(len(self)))

    def __getitem__(self, chosen: Any) -> np.ndarray:
        """A copy in memory of the chosen rows (a slice, positions, or one position)."""
        return np.asarray(self.array[self.rows[chosen]])


Rows = np.ndarray | MappedRows


def rows_of(array: Rows, rows: np.ndarray) -> Rows:
    """These rows: of what is mapped still mapped, else copied as numpy does."""
    if isinstance(array, MappedRows):
        return MappedRows(array.array, array.rows[rows])
    if isinstance(array, np.memmap):
        return MappedRows(array, rows)
    return array[rows]
