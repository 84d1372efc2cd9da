"""A gallery that many requests ask."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from retrieval.gallery import Gallery

T = TypeVar("T")


class GalleryThread:
    """A gallery in a thread of its own, as its database belongs to the thread that opens it.

    Raises what opening it, and loading its model, raise.
    """

    def __init__(self, path: Path) -> None:
        self._pool = ThreadPoolExecutor(1, "gallery")
        self._gallery = self._pool.submit(_open, path).result()

    async def ask(self, question: Callable[[Gallery], T]) -> T:
        """What ``question`` says of the gallery, or raises; questions wait for one another."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, question, self._gallery)

    def close(self) -> None:
        """Let go of the gallery, once all have been answered."""
        self._pool.submit(self._gallery.close).result()
        self._pool.shutdown()


def _open(path: Path) -> Gallery:
    gallery = Gallery.open(path)
    if gallery.vectors.has_model:
        gallery.load_model()
    return gallery
