"""Filling galleries with pictures, keeping them in step with folders, and emptying them."""

import logging
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from index.errors import GalleryError
from index.gallery import Gallery
from index.items import NewItem
from index.new_gallery import create_gallery
from index.planner import Limits, Report, check_budget
from index.vector_index import AUTO
from index.writer import GalleryWriter
from retrieval.checkpoint import MODEL_FILE, embedder_id, load_embedder, model_file
from retrieval.comparing import Changes, compare, compare_folders, lies_in, mark_of, stored_path
from retrieval.embedding import Batch, Count, embed_pictures
from retrieval.errors import DataError, ImageError
from retrieval.images import content_hash
from retrieval.pictures import Picture
from retrieval.summary import FillSummary

logger = logging.getLogger(__name__)

SHARD_ROWS = 8192
COMMIT_EVERY_SECONDS = 30.0


def open_or_create(
    out: Path,
    model: Path,
    *,
    sources: Sequence[Path],
    metric: str | None = None,
    index_key: str | None = None,
    limits: Limits | None = None,
    dtype: str | None = None,
    overwrite: bool = False,
) -> Gallery:
    """The gallery at ``out`` for pictures of ``sources``: a new one, or one that is continued.

    An existing gallery must have been made by the same model with the same metric and dtype, and the
    same index key and limits where those are given; without a key, a new gallery's index is chosen by
    measurement. Raises GalleryError where it was not, CheckpointError where ``model`` is not one.
    """
    embedder = load_embedder(model)
    identity = embedder_id(model)
    metric = metric or embedder.spec.distance
    if out.exists() and overwrite:
        _forget(out)
    if out.is_dir() and any(out.iterdir()):
        gallery = Gallery.open(out)
        gallery.check_model(identity, str(model))
        wanted = {"metric": metric, "index": index_key, "dtype": dtype}
        for name, value in wanted.items():
            there = gallery.settings["index_key" if name == "index" else name]
            if value is not None and there != value:
                raise GalleryError(
                    f"{out} was made with --{name} {there}, not {value}; give --overwrite to build it "
                    "anew, or another --out"
                    + (f", or change it with: retrieval tune --index {value}" * (name == "index"))
                )
        if limits is not None and gallery.limits != limits:
            raise GalleryError(
                f"{out} was made with other limits than {limits}; change them with: retrieval tune"
            )
        return gallery
    return create_gallery(
        out,
        dim=embedder.spec.embedding_dim,
        metric=metric,
        embedder_id=identity,
        model={MODEL_FILE: model_file(model).read_bytes()},
        image_root=_common_root(sources),
        index_key=index_key or AUTO,
        limits=limits,
        dtype=dtype or "float32",
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
    wait: float = 0.0,
    on_progress: Count = lambda n: None,
    report: Report = lambda stage, done, of: None,
    **reading: Any,
) -> FillSummary:
    """Embed pictures with the gallery's own model and add them; ``reading``: see ``embed_pictures``.

    Pictures that are there, unchanged, are passed over, so that an interrupted run is continued by the
    same call. Ctrl-C commits what is embedded and returns. With ``strict`` a picture that cannot be
    read raises ImageError; else it is noted in the gallery. Another writer is waited for ``wait``
    seconds. Vectors are never all in memory.
    """
    started = time.monotonic()
    _check_budget(gallery, len(pictures))
    with gallery.writer(wait) as writer:
        changes = compare(gallery, pictures)
        summary = _apply(gallery, writer, changes, device, on_progress, report, reading)
    summary.seconds = round(time.monotonic() - started, 3)
    return summary


def _check_budget(gallery: Gallery, n_pictures: int) -> None:
    """Say now, and not after hours of embedding, that no index can be as small as was asked for."""
    if gallery.settings["index_key"] == AUTO:
        rows = max(n_pictures, len(gallery))
        row_bytes = gallery.snapshot.storage.row_bytes
        check_budget(rows, gallery.dim, gallery.metric, row_bytes, gallery.limits)


def sync(
    gallery: Gallery,
    folders: Sequence[Path],
    pictures: Sequence[Picture],
    *,
    device: torch.device | None = None,
    wait: float = 0.0,
    dry_run: bool = False,
    on_progress: Count = lambda n: None,
    report: Report = lambda stage, done, of: None,
    **reading: Any,
) -> FillSummary:
    """Make a gallery hold, of all that lies in ``folders``, just these ``pictures``.

    New and changed ones are embedded, vanished ones removed; renamed ones, known by their content, keep
    id and vector. What lies elsewhere is left alone. Otherwise as ``fill``; ``dry_run`` counts what
    would happen, and changes nothing. Raises DataError where a folder is none, or where nothing at all
    would remain of it.
    """
    started = time.monotonic()
    for folder in folders:
        if not folder.is_dir():
            raise DataError(
                f"{folder} is not a folder; give folders to sync, or use: retrieval add"
            )
    if dry_run:
        changes = compare_folders(gallery, pictures, folders)
        new = len(changes.embed) - len(changes.stale)
        summary = _counted(changes)
        summary.added, summary.replaced = new, len(changes.stale)
    else:
        with gallery.writer(wait) as writer:
            changes = compare_folders(gallery, pictures, folders)
            there = {stored_path(gallery, picture.path) for picture in pictures}
            inside = lies_in(gallery, folders)
            failed = [path for path, _ in gallery.failures()]
            writer.forget_failures(p for p in failed if p not in there and inside(p))
            summary = _apply(gallery, writer, changes, device, on_progress, report, reading)
    summary.seconds = round(time.monotonic() - started, 3)
    return summary


def _counted(changes: Changes) -> FillSummary:
    return FillSummary(
        moved=changes.moved, relabelled=changes.relabelled, removed=len(changes.removed),
        unchanged=changes.unchanged,
    )  # fmt: skip


def _apply(
    gallery: Gallery,
    writer: GalleryWriter,
    changes: Changes,
    device: torch.device | None,
    on_progress: Count,
    report: Report,
    reading: dict[str, Any],
) -> FillSummary:
    """Commit the changes, and what is embedded for them."""
    summary = _counted(changes)
    writer.remove(changes.removed)
    writer.update(changes.updates)
    on_progress(changes.unchanged + changes.relabelled + changes.moved)
    filler = _Filler(gallery, writer, summary)
    try:
        if changes.embed:
            embedder = load_embedder(gallery.path / "model").to(device or torch.device("cpu"))
            for batch in embed_pictures(
                embedder, changes.embed, on_progress=on_progress, **reading
            ):
                filler.put(batch)
    except KeyboardInterrupt:
        summary.interrupted = True
    filler.commit()
    if not summary.interrupted:
        writer.refresh_index(report)
    return summary


class _Filler:
    """Batches on their way into a gallery, committed in shards.

    Batches are made of pictures that could be read, and commits happen between batches, so that a
    picture meets the same batch whether or not the run was interrupted before.
    """

    def __init__(self, gallery: Gallery, writer: GalleryWriter, summary: FillSummary) -> None:
        self.gallery, self.writer, self.summary = gallery, writer, summary
        self.items: list[NewItem] = []
        self.vectors: list[np.ndarray] = []
        self.failures: list[tuple[str, str]] = []
        self.committed_at = time.monotonic()

    def put(self, batch: Batch) -> None:
        """Take a batch; whole shards are committed."""
        self._fail(batch.failures)
        kept = []
        for row, picture in enumerate(batch.pictures):
            try:
                self.items.append(self._item(picture))
                kept.append(row)
            except ImageError as error:  # it has gone in the meantime
                self._fail([(picture.path, str(error))])
        self.vectors.append(batch.vectors[kept])
        waited = time.monotonic() - self.committed_at
        if len(self.items) >= SHARD_ROWS or waited > COMMIT_EVERY_SECONDS:
            self.commit()

    def commit(self) -> None:
        """Commit what was put in."""
        if self.items:
            replaced = len(self.gallery.items_of_paths([item.path for item in self.items]))
            self.writer.add(np.concatenate(self.vectors), self.items)
            self.summary.replaced += replaced
            self.summary.added += len(self.items) - replaced
        self.writer.record_failures(self.failures)
        logger.info("committed %d pictures, %d left out", len(self.items), len(self.failures))
        self.summary.failed += len(self.failures)
        self.items, self.vectors, self.failures = [], [], []
        self.committed_at = time.monotonic()

    def _item(self, picture: Picture) -> NewItem:
        size, mtime_ns = mark_of(picture.path) or (0, 0)
        return NewItem(
            path=stored_path(self.gallery, picture.path),
            content_hash=content_hash(picture.path),
            size=size,
            mtime_ns=mtime_ns,
            label=picture.label,
            metadata=picture.metadata,
        )

    def _fail(self, failures: Sequence[tuple[Path, str]]) -> None:
        self.failures += [(stored_path(self.gallery, path), reason) for path, reason in failures]


def remove_pictures(
    gallery: Gallery,
    pictures: Sequence[Path],
    ids: Sequence[int],
    where: str | None,
    wait: float = 0.0,
) -> int:
    """Remove pictures by path (a folder: all below it), by id, and by filter; how many there were.

    Raises DataError for a path or an id that is not in the gallery.
    """
    with gallery.writer(wait) as writer:
        chosen = _chosen(gallery, pictures, ids)
        if where is not None:
            chosen |= {int(i) for i in gallery.matching(where)}
        removed = writer.remove(sorted(chosen))
        writer.refresh_index()
    return removed


def _chosen(gallery: Gallery, pictures: Sequence[Path], ids: Sequence[int]) -> set[int]:
    chosen = set(gallery.items(ids))
    missing = [str(i) for i in ids if i not in chosen]
    paths = {stored_path(gallery, picture): picture for picture in pictures}
    files = {path: item.id for path, item in gallery.items_of_paths(list(paths)).items()}
    chosen |= set(files.values())
    folders = [picture for path, picture in paths.items() if path not in files]
    for folder in folders:
        inside = lies_in(gallery, [folder])
        below = {item_id for item_id, path in gallery.all_paths() if inside(path)}
        chosen |= below
        missing += [] if below else [str(folder)]
    if missing:
        raise DataError(
            f"{gallery.path} does not hold {missing[0]}" + (f" nor {len(missing) - 1} others"
            if len(missing) > 1 else "") + "; nothing was removed"
        )  # fmt: skip
    return chosen
