"""Small galleries of made-up vectors, and slow answers to compare with."""

import errno
import os
from pathlib import Path

import numpy as np

from index.gallery import Gallery
from index.items import NewItem
from index.new_gallery import create_gallery


def make_gallery(path: Path, **options: object) -> Gallery:
    settings = {
        "dim": 4, "metric": "l2", "embedder_id": "e" * 64, "model": {"model.safetensors": b"x"},
        "image_root": path.parent,
    }  # fmt: skip
    return create_gallery(path, **{**settings, **options})


def new_items(first: int, n: int, **fields: object) -> list[NewItem]:
    return [
        NewItem(
            **{
                "path": f"p{i}.png", "content_hash": f"h{i}", "size": i, "mtime_ns": i,
                "label": "abc"[i % 3], "metadata": {"year": 2000 + i}, **fields,
            }
        )
        for i in range(first, first + n)
    ]  # fmt: skip


def no_space_left(_: int) -> None:
    """In the place of ``os.fsync``: the disk is full."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def grid_vectors(rng: np.random.Generator, n: int, dim: int = 4) -> np.ndarray:
    """Vectors of small whole numbers: distances are exact, and many are equal."""
    return rng.integers(-2, 3, (n, dim)).astype(np.float32)


def slow_distance(a: np.ndarray, b: np.ndarray, metric: str) -> float:
    if metric == "l2":
        return sum((float(x) - float(y)) ** 2 for x, y in zip(a, b, strict=True)) ** 0.5
    if metric == "l1":
        return sum(abs(float(x) - float(y)) for x, y in zip(a, b, strict=True))
    norms = (float(a @ a) * float(b @ b)) ** 0.5
    return 1.0 if norms == 0 else 1 - float(a @ b) / norms


def slow_search(
    query: np.ndarray, vectors: dict[int, np.ndarray], k: int, metric: str
) -> list[tuple[float, int]]:
    """(distance, id) of the k nearest, by distance rounded to float32's precision, then id."""
    pairs = [(round(slow_distance(query, v, metric), 5), i) for i, v in vectors.items()]
    return sorted(pairs)[:k]
