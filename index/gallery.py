"""A gallery: a folder of vectors, the pictures that they came from, and the model that made them.

photos.gallery/
    gallery.sqlite       settings, items, the list of files with checksums: the commit point
    vectors-000001.npy   float32 or float16 (n,D), never changed once written: the truth
    ids-000001.npy       int64 (n,), ascending: whose vectors they are
    index-000003.faiss   derived; positions.npy beside it says which id stands where
    model/               the embedder
    detector/            what finds objects, in a gallery of objects
    failed.jsonl         pictures left out, with the reason
    gallery.seal         size and checksum of the database, while nobody writes
    writer.lock          held by the one process that writes

A reader sees the gallery as one commit left it, vectors and items alike; ``refresh`` takes it to the
newest. Ids ascend from shard to shard, so that the order of rows is the order of ids.
"""

import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from index import items as store
from index.approximate_search import approximate_search
from index.database import check_seal, connect, is_database_of, read_settings
from index.errors import ModelMismatch, VectorError
from index.exact_search import exact_search
from index.items import Item, NewItem
from index.neighbors import Neighbors, prepare
from index.parts import Box, split_part
from index.planner import Limits
from index.snapshot import load_snapshot
from index.within import Within, within

if TYPE_CHECKING:
    from index.writer import GalleryWriter

logger = logging.getLogger(__name__)

EXACT_BELOW_ROWS = 20_000
EXACT_BELOW_SHARE = 0.1
"""With fewer rows allowed than either, comparing each of them beats a filtered index, and is exact."""
EXACT_ABOVE_SHARE = 0.01
"""Asked for more of a small gallery, an index is no quicker than comparing all, and misses some."""


class Gallery:
    """An open gallery. ``with gallery.writer() as writer`` changes it; see ``index.writer``."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._connect()

    def _connect(self) -> None:
        db = connect(self.path)
        try:
            read_settings(db, self.path)  # an unknown format is not damage
            check_seal(self.path)
            self.snapshot = load_snapshot(db, self.path)
        except BaseException:
            db.close()
            raise
        self.db = db

    @classmethod
    def open(cls, path: Path) -> Self:
        """The gallery in a folder, as last committed.

        Raises NotAGallery where there is none or its format is unknown, DamagedGallery where sizes,
        counts, or the database's checksum disagree. Vectors are checked as they are used;
        ``index.verify`` reads all.
        """
        return cls(path)

    def close(self) -> None:
        """Let go of the database. A gallery kept open holds its commit: ``refresh`` it now and then."""
        self.db.close()

    @property
    def settings(self) -> dict[str, Any]:
        """What was chosen when the gallery was made, and where it stands."""
        return self.snapshot.settings

    @property
    def dim(self) -> int:
        return int(self.settings["dim"])

    @property
    def metric(self) -> str:
        return str(self.settings["metric"])

    @property
    def limits(self) -> Limits:
        """What the index has to keep to."""
        return Limits(**(self.settings.get("limits") or {}))

    @property
    def embedder_id(self) -> str:
        return str(self.settings["embedder_id"])

    @property
    def image_root(self) -> Path:
        """The folder that item paths are relative to; itself kept relative to the gallery.

        To the folder itself, where ``path`` is a link to it.
        """
        folder = self.path.resolve() if self.path.is_symlink() else self.path
        return Path(os.path.abspath(folder / self.settings["image_root"]))

    @property
    def objects(self) -> dict[str, Any] | None:
        """How objects were found, where the items are objects of pictures: see ``index.parts``."""
        return self.settings.get("objects")

    def place_of(self, path: str) -> tuple[str, Box | None]:
        """The file of an item's path, and where in it the item is; no box where it is the whole."""
        return (path, None) if self.objects is None else split_part(path)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know, such as that a damaged index is passed over."""
        return self.snapshot.notes

    def __len__(self) -> int:
        return self.snapshot.n_items

    def __repr__(self) -> str:
        return f"Gallery({str(self.path)!r}: {len(self):,} × {self.dim}, {self.metric})"

    def writer(self, wait: float = 0.0) -> "GalleryWriter":
        """A ``GalleryWriter`` on this gallery, to be used in a ``with`` statement.

        There it waits ``wait`` seconds for another writer, then raises GalleryLocked.
        """
        from index.writer import GalleryWriter

        return GalleryWriter(self, wait)

    @property
    def has_model(self) -> bool:
        """Whether the model is in the gallery; one of imported vectors may be without."""
        return bool(self._kept("model"))

    @property
    def has_detector(self) -> bool:
        """Whether what finds objects is in the gallery; one made of an export is without."""
        return bool(self._kept("detector"))

    def kept_files(self, folder: str) -> dict[str, bytes]:
        """Name → content of the files kept in the folder "model" or "detector" of the gallery."""
        return {Path(name).name: (self.path / name).read_bytes() for name in self._kept(folder)}

    def _kept(self, folder: str) -> list[str]:
        rows = self.db.execute("SELECT name FROM files WHERE name LIKE ?", (f"{folder}/%",))
        return [name for (name,) in rows]

    def check_model(self, embedder_id: str, name: str) -> None:
        """Raises ModelMismatch where the gallery was made by another model than this."""
        if embedder_id != self.embedder_id:
            raise ModelMismatch(
                f"{name} is model {embedder_id[:12]}, and {self.path} was made by model "
                f"{self.embedder_id[:12]}: their vectors cannot be compared; leave out --model to "
                "use the gallery's own, or build a gallery with the other"
            )

    def refresh(self) -> bool:
        """Go to the newest commit; True if there was a newer one.

        Where the folder holds another gallery by now, as after ``build-index --overwrite``, go to that
        one. Raises NotAGallery where it holds none.
        """
        if not is_database_of(self.db, self.path):
            replaced = self.db
            self._connect()
            replaced.close()
            return True
        before = self.snapshot
        self.snapshot = load_snapshot(self.db, self.path, before)
        return self.snapshot is not before

    def search(
        self, queries: np.ndarray, k: int, *, exact: bool = False, where: str | None = None
    ) -> Neighbors:
        """The k nearest of each query float32 (Q,D): true distances ascending, ties by id.

        ``where`` leaves only items of which the expression holds, before the cut. Fewer than k are
        found only where fewer exist. ``exact`` compares with every vector, whatever the index.
        Raises VectorError for bad queries or k, FilterError for an expression that is not understood.
        """
        if not isinstance(k, int | np.integer) or k < 1:
            raise VectorError(f"k is {k}; it is a whole number, at least 1")
        queries = prepare(queries, self.dim, self.metric, "queries")
        allowed = None if where is None else store.matching_ids(self.db, where)
        snapshot = self.snapshot
        tuned = None if exact or self._few(allowed, k) else snapshot.tuned
        logger.info(
            "%d queries, %d of %d vectors allowed: %s",
            len(queries), len(self) if allowed is None else len(allowed), len(self),
            "exact" if tuned is None else "by index",
        )  # fmt: skip
        if tuned is None:
            return self._exact(queries, k, allowed, after=-1)
        mask = snapshot.findable if allowed is None else snapshot.keep(tuned.ids, allowed)
        found, unsettled = approximate_search(queries, k, snapshot, tuned, mask)
        answer = found
        if snapshot.newest > tuned.newest:
            # What was added since the index was built is compared one by one, and merged.
            answer = found.merge(self._exact(queries, k, allowed, after=tuned.newest), k)
        if unsettled.any():
            exactly = self._exact(queries[unsettled], k, allowed, after=-1)
            answer.ids[unsettled] = exactly.ids
            answer.distances[unsettled] = exactly.distances
        return answer

    def _few(self, allowed: np.ndarray | None, k: int) -> bool:
        """Whether there are so few, for k of them, that comparing each is the quicker way."""
        if allowed is None:
            return len(self) < EXACT_BELOW_ROWS and k > EXACT_ABOVE_SHARE * len(self)
        return len(allowed) < max(EXACT_BELOW_ROWS, EXACT_BELOW_SHARE * len(self))

    def within(
        self,
        queries: np.ndarray,
        distance: float,
        *,
        where: str | None = None,
        limit: int | None = None,
        own_ids: np.ndarray | None = None,
    ) -> list[Within]:
        """All items at most ``distance`` from each query float32 (Q,D); the ``limit`` nearest of them.

        Exact: every vector is compared, whatever the index. A query does not find the item whose id
        stands in ``own_ids`` int64 (Q,). Raises VectorError for bad queries, a bad distance or limit,
        FilterError for an expression that is not understood.
        """
        queries = prepare(queries, self.dim, self.metric, "queries")
        allowed = None if where is None else store.matching_ids(self.db, where)

        def blocks() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            return self.snapshot.blocks(allowed, after=-1)

        return within(queries, distance, blocks, self.metric, limit=limit, own_ids=own_ids)

    def items(self, ids: Sequence[int] | np.ndarray) -> dict[int, Item]:
        """Id → item, of those that are in the gallery."""
        possible = (int(i) for i in np.asarray(ids).ravel())
        return store.items_of_ids(self.db, [i for i in possible if 0 <= i < 2**63])

    def items_of_paths(self, paths: Sequence[str]) -> dict[str, Item]:
        """Path, as stored → item, of those that are in the gallery."""
        return store.items_of_paths(self.db, paths)

    def items_of_files(self, files: Sequence[str]) -> dict[str, list[Item]]:
        """File, as stored → the items made of it, by id; of those that have any.

        Without objects that is the item of this path.
        """
        if self.objects is None:
            return {path: [item] for path, item in self.items_of_paths(files).items()}
        return store.items_of_files(self.db, files)

    def blanks(self, files: Sequence[str]) -> dict[str, NewItem]:
        """File, as stored → what it was when no object was found in it, where that is so."""
        return {} if self.objects is None else store.blanks(self.db, files)

    def blank_paths(self) -> list[str]:
        """The files, as stored, in which no object was found."""
        return [] if self.objects is None else store.blank_paths(self.db)

    def all_paths(self) -> Iterator[tuple[int, str]]:
        """Id and path, as stored, of all items, by id."""
        return store.all_paths(self.db)

    def failures(self) -> list[tuple[str, str]]:
        """Path, as stored, and reason of each picture that was left out, by path."""
        return store.failures(self.db)

    def same_content(self) -> Iterator[np.ndarray]:
        """Ids int64, ascending, of the items of each file content that more than one of them has."""
        return store.same_content(self.db)

    def label_codes(self) -> tuple[np.ndarray, np.ndarray, list[str]]:
        """Ids int64 (n,), ascending, of the items with a label; which one, int32 (n,); all labels."""
        return store.label_codes(self.db)

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
        return self.snapshot.vectors_of(ids)

    def labelled(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Ids int64 (n,), vectors float32 (n,D) and labels (n,) of the items that have a label."""
        ids, codes, names = self.label_codes()
        return ids, self.vectors(ids), np.array(names, dtype=str)[codes]

    def info(self) -> dict[str, Any]:
        """What the gallery holds, and what made it."""
        files = self.db.execute("SELECT count(*), coalesce(sum(bytes), 0) FROM files").fetchone()
        failed = self.db.execute("SELECT count(*) FROM failures").fetchone()[0]
        labels = self.db.execute("SELECT count(DISTINCT label) FROM items").fetchone()[0]
        return {
            "path": str(self.path),
            "pictures": len(self),
            **self._object_facts(),
            "labels": labels,
            "left_out": failed,
            "dimension": self.dim,
            "metric": self.metric,
            "index": self.settings["index_key"],
            "plan": self.settings.get("plan"),
            "indexed": len(self.snapshot.indexed_ids),
            "dtype": self.settings["dtype"],
            "codes": self.settings.get("codes_worth"),
            "removed_rows": len(self.snapshot.dead),
            "files": files[0],
            "bytes": files[1],
            "model": self.embedder_id,
            "image_root": str(self.image_root),
            "format_version": self.settings["format_version"],
            "notes": list(self.notes),
        }

    def _object_facts(self) -> dict[str, Any]:
        """What ``info`` says of a gallery of objects besides."""
        if self.objects is None:
            return {}
        places = [self.place_of(path) for _, path in self.all_paths()]
        return {
            "pictures": len({file for file, _ in places}),
            "objects": sum(box is not None for _, box in places),
            "without_objects": len(self.blank_paths()),
            "found_by": self.objects,
        }

    def _exact(
        self, queries: np.ndarray, k: int, allowed: np.ndarray | None, after: int
    ) -> Neighbors:
        def blocks() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            return self.snapshot.blocks(allowed, after)

        return exact_search(queries, k, blocks, self.vectors, self.metric)
