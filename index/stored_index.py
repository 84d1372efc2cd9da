"""The FAISS index of a gallery as it lies on the disk: mapped, and checked before it is first used.

Opening maps the files and compares sizes. The first search compares the checksum of all of it (0.5 s
for each GB) and lets FAISS point into the map: so no damaged index is ever searched, and its memory is
the page cache, shared by all processes. It stays readable when a newer index takes its place.
"""

import dataclasses
import functools
import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from index.errors import DamagedGallery
from index.npy_header import read_header
from index.shards import FileRecord, check_file
from index.vector_index import map_index, most_effort, usual_effort

CANDIDATES = 256
"""How many candidates are re-scored where no number was measured."""


@dataclasses.dataclass(frozen=True)
class TunedIndex:
    """A FAISS index, the ids int64 (n,) of its positions, and how hard it is to search.

    ``effort``: lists visited, or the breadth of a graph search; ``candidates``: how many of the nearest
    that it names are compared by their true distances.
    """

    index: Any
    ids: np.ndarray
    effort: int
    candidates: int

    @functools.cached_property
    def newest(self) -> int:
        """The largest id in the index."""
        return int(self.ids.max()) if len(self.ids) else -1


class StoredIndex:
    """An index file and the file of its ids. ``load`` gives the index, or None with a ``finding``."""

    def __init__(self, folder: Path, name: str, files: dict[str, FileRecord]) -> None:
        self.folder, self.name = folder, name
        self.records = {file: files.get(file) for file in (name, positions_file(name))}
        self.finding: str | None = None
        self._maps: dict[str, np.ndarray] = {}
        self._loaded: TunedIndex | None = None
        for file, record in self.records.items():
            size = record.bytes if record else -1
            self.finding = self.finding or check_file(folder / file, size)
            if self.finding is None:
                self._maps[file] = np.memmap(folder / file, np.uint8, "r").view(np.ndarray)

    def load(self, dim: int, metric: str, plan: dict[str, Any]) -> TunedIndex | None:
        """The index, tuned as planned, after its checksum was compared, once."""
        if self.finding is None and self._loaded is None:
            try:
                self._loaded = self._load(dim, metric, plan)
            except DamagedGallery as error:
                self.finding = str(error)
        return self._loaded

    def _load(self, dim: int, metric: str, plan: dict[str, Any]) -> TunedIndex:
        for file, record in self.records.items():
            digest = hashlib.sha256(self._maps[file].data).hexdigest()
            if record is None or digest != record.sha256:
                wanted = record.sha256[:12] if record else "none"
                raise DamagedGallery(
                    f"{self.folder / file} has changed: its checksum is {digest[:12]}…, {wanted}… was "
                    "committed"
                )
        ids = self._ids()
        index = map_index(self._maps[self.name], len(ids), dim, metric, self.folder / self.name)
        effort = min(int(plan.get("effort") or usual_effort(index)), most_effort(index))
        return TunedIndex(index, ids, effort, int(plan.get("candidates") or CANDIDATES))

    def _ids(self) -> np.ndarray:
        file = positions_file(self.name)
        try:
            shape, dtype, offset = read_header(self._maps[file])
            ids = self._maps[file][offset:].view(dtype)
        except ValueError as error:
            raise DamagedGallery(
                f"{self.folder / file} is not a readable array: {error}"
            ) from error
        if dtype != np.int64 or shape != ids.shape:
            raise DamagedGallery(f"{self.folder / file} holds {dtype} {shape}; expected int64 (n,)")
        return ids


def positions_file(name: str) -> str:
    """The file that says which id stands at which position of an index file."""
    return name.replace(".faiss", "-positions.npy")
