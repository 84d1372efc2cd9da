"""Filling galleries with pictures, and emptying them; embeddings as plain files."""

import csv
import dataclasses
import io
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from index.atomic import write_atomically
from index.errors import GalleryError
from index.gallery import Gallery
from index.items import NewItem
from index.writer import GalleryWriter, create_gallery
from retrieval.checkpoint import MODEL_FILE, embedder_id, load_embedder, model_file
from retrieval.embedder import Embedder, embed_images
from retrieval.errors import DataError, ImageError
from retrieval.images import content_hash, read_images
from retrieval.pictures import Picture

logger = logging.getLogger(__name__)

SHARD_ROWS = 8192
COMMIT_EVERY_SECONDS = 30.0
Count = Callable[[int], None]


@dataclasses.dataclass
class FillSummary:
    """What became of the pictures given."""

    added: int = 0
    replaced: int = 0
    unchanged: int = 0
    failed: int = 0
    seconds: float = 0.0
    interrupted: bool = False

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON types."""
        return dataclasses.asdict(self)

    def text(self) -> str:
        """One line for people."""
        parts = [f"{self.added:,} added"]
        for count, what in (
            (self.replaced, "replaced"),
            (self.unchanged, "unchanged"),
            (self.failed, "left out"),
        ):
            if count:
                parts.append(f"{count:,} {what}")
        return f"{', '.join(parts)} ({self.seconds:.1f} s)"


def open_or_create(
    out: Path,
    model: Path,
    *,
    sources: Sequence[Path],
    metric: str | None = None,
    index_key: str = "Flat",
    dtype: str = "float32",
    overwrite: bool = False,
) -> Gallery:
    """The gallery at ``out`` for pictures of ``sources``: a new one, or one that is continued.

    An existing gallery must have been made by the same model with the same metric, index key and
    dtype. Raises GalleryError where it was not, CheckpointError where ``model`` is not one.
    """
    embedder = load_embedder(model)
    identity = embedder_id(model)
    metric = metric or embedder.spec.distance
    if out.exists() and overwrite:
        _forget(out)
    if out.is_dir() and any(out.iterdir()):
        gallery = Gallery.open(out)
        gallery.check_model(identity, str(model))
        wanted = {"metric": metric, "index_key": index_key, "dtype": dtype}
        for name, value in wanted.items():
            if gallery.settings[name] != value:
                raise GalleryError(
                    f"{out} was made with --{name.replace('_', '-')} {gallery.settings[name]}, not "
                    f"{value}; give --overwrite to build it anew, or another --out"
                )
        return gallery
    return create_gallery(
        out,
        dim=embedder.spec.embedding_dim,
        metric=metric,
        embedder_id=identity,
        model={MODEL_FILE: model_file(model).read_bytes()},
        image_root=_common_root(sources),
        index_key=index_key,
        dtype=dtype,
    )


def _forget(out: Path) -> None:
    """Delete a gallery, and nothing that is not one."""
    if out.is_dir() and any(out.iterdir()):
        with Gallery.open(out).writer():  # raises if it is no gallery, or being written to
            pass
        aside = out.with_name(f".{out.name}.{os.getpid()}.old")
        out.rename(aside)
        shutil.rmtree(aside)


def _common_root(sources: Sequence[Path]) -> Path:
    folders = [os.path.abspath(s if s.is_dir() else s.parent) for s in sources]
    try:
        return Path(os.path.commonpath(folders))
    except ValueError:
        return Path.cwd()


def fill(
    gallery: Gallery,
    pictures: Sequence[Picture],
    *,
    device: torch.device | None = None,
    batch_size: int = 256,
    num_workers: int = 2,
    strict: bool = False,
    on_progress: Count = lambda n: None,
) -> FillSummary:
    """Embed pictures with the gallery's own model and add them; memory does not grow with their number.

    Pictures that are there, unchanged, are passed over, so that an interrupted run is continued by the
    same call. Ctrl-C commits what is embedded and returns. With ``strict`` a picture that cannot be
    read raises ImageError; else it is noted in the gallery.
    """
    started = time.monotonic()
    summary = FillSummary()
    embedder = load_embedder(gallery.path / "model").to(device or torch.device("cpu"))
    with gallery.writer() as writer:
        filler = _Filler(gallery, writer, embedder, summary, batch_size)
        try:
            todo = filler.changed(pictures, on_progress)
            size = embedder.spec.image_size
            stream = read_images((picture.path for picture in todo), size, num_workers)
            for picture, (path, image) in zip(todo, stream, strict=True):
                try:
                    filler.put(picture, image)
                except ImageError as error:
                    if strict:
                        raise ImageError(f"{path}: {error}") from error
                    filler.failures.append((filler.relative(path), str(error)))
                on_progress(1)
        except KeyboardInterrupt:
            summary.interrupted = True
        filler.commit(embed_rest=not summary.interrupted)
        if not summary.interrupted:
            writer.refresh_index()
    summary.seconds = round(time.monotonic() - started, 3)
    return summary


class _Filler:
    """Pictures on their way into a gallery: read, embedded in batches, committed in shards.

    Batches are made of pictures that could be read, and commits happen between batches, so that a
    picture meets the same batch whether or not the run was interrupted before.
    """

    def __init__(
        self,
        gallery: Gallery,
        writer: GalleryWriter,
        embedder: Embedder,
        summary: FillSummary,
        batch_size: int,
    ) -> None:
        self.gallery, self.writer, self.embedder = gallery, writer, embedder
        self.summary, self.batch_size = summary, batch_size
        self.root = gallery.image_root
        self.known = {item.path: item for item in gallery.all_items()}
        self.batch: list[np.ndarray] = []
        self.items: list[NewItem] = []
        self.vectors: list[np.ndarray] = []
        self.failures: list[tuple[str, str]] = []
        self.committed_at = time.monotonic()

    def relative(self, path: Path) -> str:
        return os.path.relpath(path, self.root)

    def changed(self, pictures: Sequence[Picture], on_progress: Count) -> list[Picture]:
        """Those that are not in the gallery as they are now."""
        todo, touched = [], []
        for picture in pictures:
            item = self.known.get(self.relative(picture.path))
            mark = _mark(picture.path)
            facts = (picture.label, picture.metadata)
            if item is None or mark is None or (item.label, item.metadata) != facts:
                todo.append(picture)
            elif mark == (item.size, item.mtime_ns):
                self.summary.unchanged += 1
                on_progress(1)
            elif item.size == mark[0] and content_hash(picture.path) == item.content_hash:
                touched.append((item.id, mark[1]))
                self.summary.unchanged += 1
                on_progress(1)
            else:
                todo.append(picture)
        if touched:
            self.writer.touch(touched)
        return todo

    def put(self, picture: Picture, image: np.ndarray | ImageError) -> None:
        """Take a picture; whole batches are embedded, whole shards committed.

        Raises ImageError for one that could not be read, or that is gone by now.
        """
        if isinstance(image, ImageError):
            raise image
        size, mtime_ns = _mark(picture.path) or (0, 0)
        item = NewItem(
            path=self.relative(picture.path),
            content_hash=content_hash(picture.path),
            size=size,
            mtime_ns=mtime_ns,
            label=picture.label,
            metadata=picture.metadata,
        )
        self.batch.append(image)
        self.items.append(item)
        if len(self.batch) == self.batch_size:
            self._embed()
            waited = time.monotonic() - self.committed_at
            if len(self.items) >= SHARD_ROWS or waited > COMMIT_EVERY_SECONDS:
                self.commit()

    def commit(self, embed_rest: bool = True) -> None:
        """Commit what is embedded; a batch that is not full is embedded first, or dropped."""
        if self.batch and embed_rest:
            self._embed()
        del self.items[sum(map(len, self.vectors)) :]
        self.batch = []
        if self.items:
            replaced = sum(item.path in self.known for item in self.items)
            self.writer.add(np.concatenate(self.vectors), self.items)
            self.summary.replaced += replaced
            self.summary.added += len(self.items) - replaced
        self.writer.record_failures(self.failures)
        logger.info("committed %d pictures, %d left out", len(self.items), len(self.failures))
        self.summary.failed += len(self.failures)
        self.items, self.vectors, self.failures = [], [], []
        self.committed_at = time.monotonic()

    def _embed(self) -> None:
        images = np.stack(self.batch)
        self.vectors.append(embed_images(self.embedder, images, batch_size=self.batch_size))
        self.batch = []


def _mark(path: Path) -> tuple[int, int] | None:
    """Size and time of change, by which an unchanged file is known."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def remove_pictures(
    gallery: Gallery, pictures: Sequence[Path], ids: Sequence[int], where: str | None
) -> int:
    """Remove pictures by path (a folder: all below it), by id, and by filter; how many there were.

    Raises DataError for a path or an id that is not in the gallery.
    """
    chosen = set(ids)
    items = list(gallery.all_items())
    there = {item.id for item in items}
    missing = [str(i) for i in ids if i not in there]
    for picture in pictures:
        relative = os.path.relpath(os.path.abspath(picture), gallery.image_root)
        below = {
            item.id
            for item in items
            if item.path == relative or item.path.startswith(f"{relative}{os.sep}")
            or relative == "."
        }  # fmt: skip
        chosen |= below
        missing += [] if below else [str(picture)]
    if missing:
        raise DataError(
            f"{gallery.path} does not hold {missing[0]}" + (f" nor {len(missing) - 1} others"
            if len(missing) > 1 else "") + "; nothing was removed"
        )  # fmt: skip
    if where is not None:
        chosen |= {int(i) for i in gallery.matching(where)}
    with gallery.writer() as writer:
        removed = writer.remove(sorted(chosen))
        writer.refresh_index()
    return removed


def write_embeddings(
    pictures: Sequence[Picture],
    model: Path,
    out: Path,
    *,
    device: torch.device | None = None,
    batch_size: int = 256,
    num_workers: int = 2,
    strict: bool = False,
    on_progress: Count = lambda n: None,
) -> FillSummary:
    """Write embeddings.npy float32 (n,D), pictures.csv (row, path, label), failed.jsonl into ``out``.

    Raises ImageError with ``strict`` for a picture that cannot be read.
    """
    started = time.monotonic()
    embedder = load_embedder(model).to(device or torch.device("cpu"))
    vectors = [np.empty((0, embedder.spec.embedding_dim), np.float32)]
    batch: list[np.ndarray] = []
    kept, failures = [], []
    stream = read_images((p.path for p in pictures), embedder.spec.image_size, num_workers)
    for picture, (path, image) in zip(pictures, stream, strict=True):
        if isinstance(image, ImageError):
            if strict:
                raise ImageError(f"{path}: {image}")
            failures.append({"path": str(path), "reason": str(image)})
        else:
            kept.append(picture)
            batch.append(image)
        if len(batch) == batch_size:
            vectors.append(embed_images(embedder, np.stack(batch), batch_size=batch_size))
            batch = []
        on_progress(1)
    if batch:
        vectors.append(embed_images(embedder, np.stack(batch), batch_size=batch_size))
    buffer, table = io.BytesIO(), io.StringIO()
    np.save(buffer, np.concatenate(vectors), allow_pickle=False)
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(["row", "path", "label"])
    rows.writerows([row, p.path, p.label or ""] for row, p in enumerate(kept))
    write_atomically(out / "embeddings.npy", buffer.getvalue())
    write_atomically(out / "pictures.csv", table.getvalue().encode("utf-8", "surrogateescape"))
    lines = "".join(json.dumps(failure) + "\n" for failure in failures)
    write_atomically(out / "failed.jsonl", lines.encode())
    seconds = round(time.monotonic() - started, 3)
    return FillSummary(added=len(kept), failed=len(failures), seconds=seconds)
