"""Embedded pictures, or their objects, on their way into a gallery."""

import dataclasses
import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from index.gallery import Gallery
from index.items import NewItem
from index.parts import part_name
from index.writer import GalleryWriter
from retrieval.comparing import mark_of, stored_path
from retrieval.embedder import Embedder
from retrieval.embedding import Batch, Count, embed_pictures
from retrieval.errors import ImageError
from retrieval.images import content_hash
from retrieval.network_files import load_embedder, model_of_gallery
from retrieval.object_embedding import embed_objects, open_object_embedder
from retrieval.objects import Found, described
from retrieval.pictures import Picture
from retrieval.summary import FillSummary

logger = logging.getLogger(__name__)

SHARD_ROWS = 8192
COMMIT_EVERY_SECONDS = 30.0


def embedded(
    gallery: Gallery,
    pictures: Sequence[Picture],
    device: torch.device | None,
    on_progress: Count,
    reading: dict[str, Any],
) -> Iterator[Batch]:
    """Pictures, or their objects, embedded by the gallery's own networks."""
    device = device or torch.device("cpu")

    def embedder() -> Embedder:
        return load_embedder(model_of_gallery(gallery)).to(device)

    if gallery.objects is None:
        return embed_pictures(embedder(), marked(pictures), on_progress=on_progress, **reading)
    by_object = open_object_embedder(gallery, embedder)
    return embed_objects(by_object, marked(pictures), on_progress=on_progress, **reading)


def marked(pictures: Iterable[Picture]) -> Iterator[Picture]:
    """Pictures with their marks, each drawn before it is read, so that a later change is seen."""
    return (dataclasses.replace(p, mark=mark_of(p.path)) for p in pictures)


def file_item(picture: Picture, path: str) -> NewItem:
    """A picture that was read, as an item of this path.

    Raises ImageError where it is not what its mark says it was before.
    """
    content, mark = content_hash(picture.path), mark_of(picture.path)
    if mark is None or mark != picture.mark:  # vector and hash may be of two contents
        raise ImageError("it changed while it was read; the same command takes it")
    return NewItem(path, content, *mark, picture.label, picture.metadata or {})


class Filler:
    """Batches on their way into a gallery, committed in shards.

    Batches are made of pictures that could be read, and commits happen between batches, so that a
    picture meets the same batch whether or not the run was interrupted before, and all objects of a
    picture come and go together.
    """

    def __init__(self, gallery: Gallery, writer: GalleryWriter, summary: FillSummary) -> None:
        self.gallery, self.writer, self.summary = gallery, writer, summary
        if gallery.objects is not None:
            summary.objects = summary.without_objects = 0
        self._empty()

    def _empty(self) -> None:
        self.items: list[NewItem] = []
        self.vectors: list[np.ndarray] = []
        self.blanks: list[NewItem] = []
        self.failures: list[tuple[str, str]] = []
        self.committed_at = time.monotonic()

    def put(self, batch: Batch) -> None:
        """Take a batch; whole shards are committed."""
        self._fail(batch.failures)
        known = {p.path: p for p in [*batch.pictures, *batch.blanks]}
        files = {path: self._file(picture) for path, picture in known.items()}
        objects = batch.objects or [None] * len(batch.pictures)
        kept = []
        for row, (picture, found) in enumerate(zip(batch.pictures, objects, strict=True)):
            file = files[picture.path]
            if file is not None:
                self.items.append(file if found is None else _item(file, picture, found))
                kept.append(row)
        self.vectors.append(batch.vectors[kept])
        blanks = (files[picture.path] for picture in batch.blanks)
        self.blanks += [file for file in blanks if file is not None]
        waited = time.monotonic() - self.committed_at
        if len(self.items) >= SHARD_ROWS or waited > COMMIT_EVERY_SECONDS:
            self.commit()

    def commit(self) -> None:
        """Commit what was put in, in the place of what was there of the same pictures."""
        stored = dict.fromkeys(self.gallery.place_of(item.path)[0] for item in self.items)
        blanks = [file.path for file in self.blanks]
        failed = [path for path, _ in self.failures]
        if not (stored or blanks or failed):
            return
        with self.writer.together():
            before = self.gallery.items_of_files([*stored, *blanks, *failed])
            self.writer.remove({item.id for items in before.values() for item in items})
            self.writer.forget_notes([*stored, *blanks, *failed])
            if self.items:
                self.writer.add(np.concatenate(self.vectors), self.items)
            self.writer.record_blanks(self.blanks)
            self.writer.record_failures(self.failures)
        logger.info("committed %d vectors, %d left out", len(self.items), len(failed))
        replaced = len(before.keys() & stored.keys())
        self.summary.replaced += replaced
        self.summary.added += len(stored) - replaced
        self.summary.failed += len(failed)
        if self.summary.objects is not None and self.summary.without_objects is not None:
            parts = (self.gallery.place_of(item.path)[1] for item in self.items)
            self.summary.objects += sum(box is not None for box in parts)
            self.summary.without_objects += len(blanks)
        self._empty()

    def _file(self, picture: Picture) -> NewItem | None:
        """The picture as an item; None where it cannot be one, which is noted."""
        path = stored_path(self.gallery, picture.path)
        try:
            if self.gallery.place_of(path)[1] is not None:
                raise ImageError("its name ends like that of an object (#xywh=…); rename it")
            return file_item(picture, path)
        except ImageError as error:
            self._fail([(picture.path, str(error))])
            return None

    def _fail(self, failures: Sequence[tuple[Path, str]]) -> None:
        self.failures += [(stored_path(self.gallery, path), reason) for path, reason in failures]


def _item(file: NewItem, picture: Picture, found: Found) -> NewItem:
    """An object of a picture as an item."""
    return dataclasses.replace(
        file, path=part_name(file.path, found.box), label=found.label,
        content_hash=part_name(file.content_hash, found.box),
        metadata=described(picture, found.metadata()),
    )  # fmt: skip
