"""Vectors and their tables as plain files: of a gallery, or of pictures that go into none."""

import dataclasses
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from index.atomic import write_atomically
from index.errors import DamagedGallery, GalleryError
from index.gallery import Gallery
from index.items import Item, NewItem
from index.shards import write_array
from retrieval.embedding import Count, Failures, embed_pictures
from retrieval.errors import ImageError
from retrieval.exchange import CLIP, MARKER, PLAIN, files_of, parts_of
from retrieval.filling import file_item, marked
from retrieval.network_files import embedder_id, load_embedder
from retrieval.pictures import Picture
from retrieval.summary import FillSummary
from retrieval.tables import write_table

PART_ROWS = 1_000_000
BLOCK_ROWS = 8192


def export_gallery(
    gallery: Gallery, out: Path, layout: str = PLAIN, on_progress: Count = lambda rows: None
) -> int:
    """Write vectors and table of a gallery's items, by id, into the folder ``out``; how many rows.

    Vectors float32 or float16 (n,D), as stored; paths are absolute. An export that was interrupted is
    done anew by the same call, and an older one replaced. Raises GalleryError where there is something
    else in ``out``, DataError where Parquet is asked for and cannot be written.
    """
    _check_place(out)
    ids = gallery.snapshot.living_ids()
    facts = {
        "layout": layout, "rows": len(ids), "dimension": gallery.dim, "metric": gallery.metric,
        "model": gallery.embedder_id, "objects": gallery.objects,
    }  # fmt: skip
    items = gallery.all_items()
    step = PART_ROWS if layout == CLIP else max(len(ids), 1)
    with _export_into(out, facts):
        for number, start in enumerate(range(0, max(len(ids), 1), step)):
            part = ids[start : start + step]
            vectors, table = files_of(out, layout, number)
            blocks = _vectors(gallery, part, on_progress)
            shape = (len(part), gallery.dim)
            write_array(vectors, blocks, shape, gallery.snapshot.storage.float_dtype)
            write_table(table, _absolute(gallery, part, islice(items, len(part))))
    return len(ids)


def write_embeddings(
    pictures: Sequence[Picture],
    model: Path,
    out: Path,
    *,
    device: torch.device | None = None,
    **reading: Any,
) -> FillSummary:
    """Write embeddings of pictures, float32 (n,D), as an export with failed.jsonl into ``out``.

    ``reading`` are the options of ``embed_pictures``. An older export is replaced. Raises GalleryError,
    before anything is embedded, where there is something else in ``out``; ImageError with ``strict``
    for a picture that cannot be read.
    """
    started = time.monotonic()
    _check_place(out)
    embedder = load_embedder(model).to(device or torch.device("cpu"))
    vectors: list[np.ndarray] = []
    items: list[NewItem] = []
    failures: Failures = []
    for batch in embed_pictures(embedder, marked(pictures), **reading):
        failures += batch.failures
        kept = []
        for row, picture in enumerate(batch.pictures):
            try:
                items.append(file_item(picture, os.path.abspath(picture.path)))
                kept.append(row)
            except ImageError as error:
                failures.append((picture.path, str(error)))
        vectors.append(batch.vectors[kept])
    facts = {
        "layout": PLAIN, "rows": len(items), "dimension": embedder.spec.embedding_dim,
        "metric": embedder.spec.distance, "model": embedder_id(model), "objects": None,
    }  # fmt: skip
    with _export_into(out, facts):
        array, table = files_of(out, PLAIN, 0)
        write_array(array, vectors, (len(items), embedder.spec.embedding_dim), "float32")
        write_table(table, items)
        lines = "".join(json.dumps({"path": str(p), "reason": r}) + "\n" for p, r in failures)
        write_atomically(out / "failed.jsonl", lines.encode())
    seconds = round(time.monotonic() - started, 3)
    return FillSummary(added=len(items), failed=len(failures), seconds=seconds)


def _check_place(out: Path) -> None:
    """Raises GalleryError where something is at ``out`` that is no export, and must not be replaced."""
    marker = out / MARKER
    if out.exists() and not marker.is_file() and (not out.is_dir() or any(out.iterdir())):
        raise GalleryError(f"{out} has something in it that is no export; name another folder")


@contextmanager
def _export_into(out: Path, facts: dict[str, Any]) -> Iterator[None]:
    """Within, an export is written of which ``facts`` are told; an older one goes before."""
    marker = out / MARKER
    write_atomically(marker, json.dumps({**facts, "complete": False}, indent=2).encode())
    for pair in parts_of(out):
        for file in pair:
            file.unlink(missing_ok=True)
    yield
    write_atomically(marker, json.dumps({**facts, "complete": True}, indent=2).encode())


def _vectors(gallery: Gallery, ids: np.ndarray, on_progress: Count) -> Iterator[np.ndarray]:
    for start in range(0, len(ids), BLOCK_ROWS):
        block = ids[start : start + BLOCK_ROWS]
        yield gallery.vectors(block)
        on_progress(len(block))


def _absolute(gallery: Gallery, ids: np.ndarray, items: Iterator[Item]) -> Iterator[Item]:
    root = gallery.image_root
    for item_id, item in zip(ids.tolist(), items, strict=True):
        if item.id != item_id:
            raise DamagedGallery(f"{gallery.path} has an item {item.id} and a vector {item_id}")
        yield dataclasses.replace(item, path=os.path.normpath(root / item.path))
