"""A gallery: a folder of vectors, the pictures that they came from, and the model that made them.

photos.gallery/
    gallery.sqlite       settings, items, the list of files with checksums: the commit point
    vectors-000001.npy   float32 or float16 (n,D), never changed once written: the truth
    ids-000001.npy       int64 (n,), ascending: whose vectors they are
    index-000003.faiss   derived; positions.npy beside it says which id stands where
    model/               the embedder
    failed.jsonl         pictures left out, with the reason
    writer.lock          held by the one process that writes

A reader sees the gallery as one commit left it; ``refresh`` takes it to the newest. Ids ascend from
shard to shard, so that the order of rows is the order of ids.
"""

import dataclasses
import hashlib
import json
import logging
import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from index import items as store
from index.errors import DamagedGallery, ModelMismatch
from index.exact_search import BLOCK_ROWS, exact_search
from index.items import Item, Shard
from index.neighbors import Neighbors, prepare, rescore
from index.vector_index import FLAT, candidates, read_index, search_index, visits_all

logger = logging.getLogger(__name__)

EXACT_BELOW_ROWS = 20_000
EXACT_BELOW_SHARE = 0.1
"""With fewer rows allowed than either, comparing each of them beats a filtered index, and is exact."""


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """The gallery as one commit left it."""

    generation: int
    shards: list[Shard]
    vectors: list[np.ndarray]
    ids: list[np.ndarray]
    dead: np.ndarray
    n_items: int
    index: Any
    indexed_ids: np.ndarray
    notes: tuple[str, ...]


class Gallery:
    """An open gallery. ``with gallery.writer() as writer`` changes it; see ``index.writer``."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.db = store.connect(self.path)
        self.settings = store.read_settings(self.db, self.path)
        self._arrays: dict[str, np.ndarray] = {}
        self._index_name = ""
        self.snapshot = self._load()

    @classmethod
    def open(cls, path: Path) -> Self:
        """The gallery in a folder, as last committed.

        Raises NotAGallery where there is none or its format is unknown, DamagedGallery where sizes or
        counts disagree. Checksums are compared by ``verify``.
        """
        return cls(path)

    @property
    def dim(self) -> int:
        return int(self.settings["dim"])

    @property
    def metric(self) -> str:
        return str(self.settings["metric"])

    @property
    def embedder_id(self) -> str:
        return str(self.settings["embedder_id"])

    @property
    def image_root(self) -> Path:
        """The folder that item paths are relative to; itself kept relative to the gallery."""
        return Path(os.path.abspath(self.path / self.settings["image_root"]))

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know, such as that a damaged index is passed over."""
        return self.snapshot.notes

    def __len__(self) -> int:
        return self.snapshot.n_items

    def __repr__(self) -> str:
        return f"Gallery({str(self.path)!r}: {len(self):,} × {self.dim}, {self.metric})"

    def writer(self) -> Any:
        """A ``GalleryWriter`` on this gallery, to be used in a ``with`` statement."""
        from index.writer import GalleryWriter

        return GalleryWriter(self)

    def check_model(self, embedder_id: str, name: str) -> None:
        """Raises ModelMismatch where the gallery was made by another model than this."""
        if embedder_id != self.embedder_id:
            raise ModelMismatch(
                f"{name} is model {embedder_id[:12]}, and {self.path} was made by model "
                f"{self.embedder_id[:12]}: their vectors cannot be compared; leave out --model to "
                "use the gallery's own, or build a gallery with the other"
            )

    def refresh(self) -> bool:
        """Go to the newest commit; True if there was a newer one."""
        newest = json.loads(
            self.db.execute("SELECT value FROM settings WHERE name = 'generation'").fetchone()[0]
        )
        if newest == self.snapshot.generation:
            return False
        self.snapshot = self._load()
        return True

    def search(
        self, queries: np.ndarray, k: int, *, exact: bool = False, where: str | None = None
    ) -> Neighbors:
        """The k nearest of each query float32 (Q,D): true distances ascending, ties by id.

        ``where`` leaves only items of which the expression holds, before the cut. Fewer than k are
        found only where fewer exist. ``exact`` compares with every vector, whatever the index.
        Raises VectorError for bad queries, FilterError for an expression that cannot be understood.
        """
        queries = prepare(queries, self.dim, self.metric, "queries")
        allowed = None if where is None else store.matching_ids(self.db, where)
        snapshot = self.snapshot
        n_allowed = len(self) if allowed is None else len(allowed)
        few = n_allowed < max(EXACT_BELOW_ROWS, EXACT_BELOW_SHARE * len(self))
        by_index = not (exact or few or snapshot.index is None)
        logger.info(
            "%d queries, %d of %d vectors allowed: %s", len(queries), n_allowed, len(self),
            self.settings["index_key"] if by_index else "exact",
        )  # fmt: skip
        if not by_index:
            return self._exact(queries, k, allowed, after=-1)
        # What was added since the index was built is compared one by one, and merged.
        newer = self._exact(queries, k, allowed, after=int(snapshot.indexed_ids[-1]))
        return self._by_index(queries, k, allowed).merge(newer, k)

    def items(self, ids: Sequence[int] | np.ndarray) -> dict[int, Item]:
        """Id → item, of those that are in the gallery."""
        return store.items_of_ids(self.db, [int(i) for i in np.asarray(ids).ravel() if i >= 0])

    def all_items(self) -> Iterator[Item]:
        """All items, by id."""
        return store.all_items(self.db)

    def matching(self, where: str) -> np.ndarray:
        """Ids int64, ascending, of the items of which a filter expression holds.

        Raises FilterError.
        """
        return store.matching_ids(self.db, where)

    def vectors(self, ids: np.ndarray) -> np.ndarray:
        """Float32 (n,D) of ids that were ever committed and not compacted away."""
        out = np.empty((len(ids), self.dim), np.float32)
        snapshot = self.snapshot
        ends = np.array([shard_ids[-1] for shard_ids in snapshot.ids])
        places = np.searchsorted(ends, ids)
        for place in np.unique(places):
            here = places == place
            rows = np.searchsorted(snapshot.ids[place], ids[here])
            out[here] = snapshot.vectors[place][rows]
        return out

    def labelled(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Ids int64 (n,), vectors float32 (n,D) and labels (n,) of the items that have a label."""
        pairs = [
            (item.id, item.label) for item in store.all_items(self.db) if item.label is not None
        ]
        ids = np.array([item_id for item_id, _ in pairs], np.int64)
        return ids, self.vectors(ids), np.array([label for _, label in pairs], dtype=str)

    def info(self) -> dict[str, Any]:
        """What the gallery holds, and what made it."""
        files = self.db.execute("SELECT count(*), coalesce(sum(bytes), 0) FROM files").fetchone()
        failed = self.db.execute("SELECT count(*) FROM failures").fetchone()[0]
        labels = self.db.execute("SELECT count(DISTINCT label) FROM items").fetchone()[0]
        return {
            "path": str(self.path),
            "pictures": len(self),
            "labels": labels,
            "left_out": failed,
            "dimension": self.dim,
            "metric": self.metric,
            "index": self.settings["index_key"],
            "indexed": len(self.snapshot.indexed_ids),
            "dtype": self.settings["dtype"],
            "removed_rows": len(self.snapshot.dead),
            "files": files[0],
            "bytes": files[1],
            "model": self.embedder_id,
            "image_root": str(self.image_root),
            "format_version": self.settings["format_version"],
            "notes": list(self.notes),
        }

    def verify(self) -> list[str]:
        """Findings from reading every byte: none if the gallery is sound."""
        findings = list(self.notes)
        for name, size, sha256 in self.db.execute("SELECT name, bytes, sha256 FROM files"):
            finding = _check_file(self.path / name, size, sha256)
            if finding:
                findings.append(finding)
        if not findings:
            findings += [
                f"{shard.vectors_file} holds values that are not finite"
                for shard, vectors in zip(self.snapshot.shards, self.snapshot.vectors, strict=True)
                if not all(np.isfinite(block).all() for block in _slices(vectors))
            ]
        rows = np.concatenate([np.empty(0, np.int64), *self.snapshot.ids])
        alive = np.setdiff1d(rows, self.snapshot.dead)
        listed = np.fromiter((r[0] for r in self.db.execute("SELECT id FROM items")), np.int64)
        missing = np.setdiff1d(listed, alive)
        if len(missing):
            findings.append(f"{len(missing)} items have no vector; the first id is {missing[0]}")
        return findings

    def _exact(
        self, queries: np.ndarray, k: int, allowed: np.ndarray | None, after: int
    ) -> Neighbors:
        def blocks() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            return self.blocks(allowed, after)

        return exact_search(queries, k, blocks, self.vectors, self.metric)

    def blocks(
        self, allowed: np.ndarray | None, after: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Living, allowed vectors with ids above ``after``, a bounded number of rows at a time."""
        pending: list[tuple[np.ndarray, np.ndarray]] = []
        rows = 0
        for shard_ids, shard_vectors in zip(self.snapshot.ids, self.snapshot.vectors, strict=True):
            if len(shard_ids) == 0 or shard_ids[-1] <= after:
                continue
            for start in range(0, len(shard_ids), BLOCK_ROWS):
                ids = np.asarray(shard_ids[start : start + BLOCK_ROWS])
                vectors = shard_vectors[start : start + BLOCK_ROWS]
                keep = self._keep(ids, allowed)
                if not keep.all():
                    ids, vectors = ids[keep], vectors[keep]
                if rows + len(ids) > BLOCK_ROWS:
                    yield _joined(pending)
                    pending, rows = [], 0
                pending.append((vectors, ids))
                rows += len(ids)
        if pending:
            yield _joined(pending)

    def _keep(self, ids: np.ndarray, allowed: np.ndarray | None) -> np.ndarray:
        if allowed is not None:
            # A filter is evaluated in the database, which may be a commit ahead of this snapshot.
            return np.isin(ids, allowed, assume_unique=True)
        return ~np.isin(ids, self.snapshot.dead, assume_unique=True)

    def _by_index(self, queries: np.ndarray, k: int, allowed: np.ndarray | None) -> Neighbors:
        snapshot = self.snapshot
        keep = self._keep(snapshot.indexed_ids, allowed)
        mask = None if keep.all() else keep
        wanted, fetch = min(k, int(keep.sum())), candidates(self.settings["index_key"], k)
        answer, open_rows, effort = Neighbors.none(len(queries), k), np.arange(len(queries)), 0
        while len(open_rows):
            positions = search_index(snapshot.index, queries[open_rows], fetch, mask, effort)
            ids = np.where(positions >= 0, snapshot.indexed_ids[positions], -1)
            found = rescore(queries[open_rows], ids, self.vectors, self.metric).best(k)
            width = found.ids.shape[1]
            answer.ids[open_rows, :width] = found.ids
            answer.distances[open_rows, :width] = found.distances
            open_rows = open_rows[(found.ids >= 0).sum(1) < wanted]
            if visits_all(snapshot.index, effort):
                break
            effort += 1
        if len(open_rows):
            last = int(snapshot.indexed_ids[-1])
            exact = self._exact(queries[open_rows], k, allowed, after=-1)
            beyond = exact.ids > last
            exact.ids[beyond], exact.distances[beyond] = -1, np.inf
            answer.ids[open_rows], answer.distances[open_rows] = exact.ids, exact.distances
        return answer

    def _load(self) -> Snapshot:
        """Read one commit. Files are mapped here, so that a later compaction cannot pull them away."""
        for _ in range(5):
            try:
                return self._load_once()
            except FileNotFoundError:  # compacted between reading the list and opening a file
                continue
        return self._load_once(final=True)

    def _load_once(self, final: bool = False) -> Snapshot:
        self.db.execute("BEGIN")
        try:
            self.settings = store.read_settings(self.db, self.path)
            shards = [Shard(*row) for row in self.db.execute(
                "SELECT number, rows FROM shards ORDER BY number")]  # fmt: skip
            dead = [row[0] for row in self.db.execute("SELECT id FROM dead ORDER BY id")]
            n_items = self.db.execute("SELECT count(*) FROM items").fetchone()[0]
            files = {row[0]: (row[1], row[2]) for row in self.db.execute("SELECT * FROM files")}
        except sqlite3.DatabaseError as error:
            raise DamagedGallery(f"{self.path / store.DATABASE} is damaged: {error}") from error
        finally:
            if self.db.in_transaction:
                self.db.execute("COMMIT")
        self._check_model_files(files)
        try:
            vectors = [self._map(s.vectors_file, files, (s.rows, self.dim)) for s in shards]
            ids = [self._map(s.ids_file, files, (s.rows,)) for s in shards]
        except FileNotFoundError as error:
            if not final:
                raise
            raise DamagedGallery(
                f"{error.filename} is missing; without it the gallery cannot be trusted: restore it "
                "from a copy, or build the gallery again"
            ) from error
        total = sum(shard.rows for shard in shards)
        if total != n_items + len(dead):
            raise DamagedGallery(
                f"{self.path} lists {n_items} items and {len(dead)} removed ones, but its shards hold "
                f"{total} vectors; restore it from a copy, or build it again"
            )
        index, indexed_ids, notes = self._load_index(files)
        return Snapshot(
            generation=self.settings["generation"], shards=shards, vectors=vectors, ids=ids,
            dead=np.array(dead, np.int64), n_items=n_items, index=index, indexed_ids=indexed_ids,
            notes=notes,
        )  # fmt: skip

    def _check_model_files(self, files: dict[str, tuple[int, str]]) -> None:
        for name, (size, _) in files.items():
            if name.startswith("model/"):
                finding = _check_file(self.path / name, size, None)
                if finding:
                    raise DamagedGallery(f"{finding}; restore it from a copy")

    def _map(
        self, name: str, files: dict[str, tuple[int, str]], shape: tuple[int, ...]
    ) -> np.ndarray:
        """A committed array; its file never changes, so that it is mapped once."""
        if name not in self._arrays:
            size = files[name][0] if name in files else -1
            self._arrays[name] = _map(self.path / name, size, shape)
        return self._arrays[name]

    def _load_index(
        self, files: dict[str, tuple[int, str]]
    ) -> tuple[Any, np.ndarray, tuple[str, ...]]:
        """The FAISS index and its ids; without a sound one the search is exact, and a note says so."""
        none = np.empty(0, np.int64)
        name = self.settings.get("index_file")
        if self.settings["index_key"] == FLAT or name is None:
            return None, none, ()
        if self._index_name == name:
            return self.snapshot.index, self.snapshot.indexed_ids, ()
        positions = name.replace(".faiss", "-positions.npy")
        for file in (name, positions):
            finding = _check_file(self.path / file, *files.get(file, (0, "")))
            if finding:
                return None, none, (f"{finding}; answers are exact, but slower, until the index is "
                                    "made again: retrieval add, or retrieval build-index",)  # fmt: skip
        ids = np.load(self.path / positions, allow_pickle=False)
        try:
            index = read_index(self.path / name, len(ids), self.dim, self.metric)
        except DamagedGallery as error:
            return None, none, (str(error),)
        self._index_name = name
        return index, ids, ()


def _joined(parts: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    if not parts:
        return np.empty((0, 0), np.float32), np.empty(0, np.int64)
    if len(parts) == 1:
        return parts[0]
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])


def _slices(vectors: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(vectors), BLOCK_ROWS):
        yield vectors[start : start + BLOCK_ROWS]


def _map(file: Path, size: int, shape: tuple[int, ...]) -> np.ndarray:
    """An array of ``size`` bytes and this shape, mapped. Raises DamagedGallery for any other."""
    found = file.stat().st_size
    if found != size:
        raise DamagedGallery(
            f"{file} has {found} bytes, {size} were committed; restore it from a copy, or build the "
            "gallery again"
        )
    try:
        array: np.ndarray = np.load(file, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        raise DamagedGallery(f"{file} is not a readable array: {error}") from error
    if array.shape != shape:
        raise DamagedGallery(f"{file} has shape {array.shape}, {shape} was committed")
    return array


def _check_file(file: Path, size: int, sha256: str | None) -> str | None:
    """What is wrong with a committed file, or None; without ``sha256`` its size alone is compared."""
    if not file.is_file():
        return f"{file} is missing"
    found = file.stat().st_size
    if found != size:
        return f"{file} has {found} bytes, {size} were committed"
    if sha256 is not None:
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        if digest != sha256:
            return (
                f"{file} has changed: its checksum is {digest[:12]}…, {sha256[:12]}… was committed"
            )
    return None
