"""The header of a .npy file of ours.

NumPy reads it with Python's parser, which fails at random in Python 3.11 where threads parse at once.
"""

import re

import numpy as np

HEADER = re.compile(
    rb"\x93NUMPY\x01\x00(..)"
    rb"\{'descr': '([<|][fiu]\d)', 'fortran_order': False, 'shape': \(([\d, ]+)\), \} *\n",
    re.DOTALL,
)
MOST_BYTES = 256


def read_header(raw: np.ndarray) -> tuple[tuple[int, ...], np.dtype, int]:
    """Shape and type of the array in the bytes (n,) of a file, and where its rows begin.

    Raises ValueError for what NumPy would not have written of numbers in C order.
    """
    found = HEADER.match(raw[:MOST_BYTES].tobytes())
    if found is None or found.end() != 10 + int.from_bytes(found[1], "little"):
        raise ValueError("its header is not that of an array of numbers")
    shape = tuple(int(size) for size in found[3].split(b",") if size.strip())
    return shape, np.dtype(found[2].decode()), found.end()
