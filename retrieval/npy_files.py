"""Arrays in .npy files."""

from pathlib import Path

import numpy as np

from retrieval.errors import DataError


def open_npy(file: Path) -> np.ndarray:
    """The array in a file, mapped, never unpickled. Raises DataError where the file holds none."""
    try:
        array: np.ndarray = np.lib.format.open_memmap(file, mode="r")
    except Exception as error:  # numpy raises half a dozen kinds for a broken file
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise DataError(f"{file} is not a readable .npy file: {reason}") from error
    return array
