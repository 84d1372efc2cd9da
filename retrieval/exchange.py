"""Plain files as galleries, and how such files are laid out: ``retrieval.exporting`` writes them.

Layout ``plain`` is embeddings.npy with pictures.csv, as `retrieval embed` writes it too; layout
``clip-retrieval`` is img_emb/img_emb_0.npy … with metadata/metadata_0.parquet …, as clip-retrieval
(https://github.com/rom1504/clip-retrieval) reads and writes it. Row r of a table belongs to row r of
the array beside it.
"""

import dataclasses
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from index.errors import GalleryError
from index.gallery import Gallery
from index.items import NewItem
from index.neighbors import prepare
from index.new_gallery import create_gallery, is_free
from index.storage import Storage
from index.vector_index import AUTO
from index.writer import GalleryWriter
from retrieval.embedding import Count
from retrieval.errors import DataError
from retrieval.network_files import MODEL_FILE, embedder_id, load_embedder, model_file
from retrieval.npy_files import open_npy
from retrieval.summary import FillSummary
from retrieval.tables import count_rows, read_table

PLAIN, CLIP = "plain", "clip-retrieval"
MARKER = "export.json"
Part = tuple[Path, Path]


@dataclasses.dataclass(frozen=True)
class Source:
    """A folder with vectors and tables, checked as far as it goes without reading all.

    ``parts`` are pairs of files with ``rows`` rows together, ``dtype`` float32 or float16, which holds
    their numbers; ``model`` and ``metric`` are None where the folder does not say, ``objects`` where
    it does not hold objects of pictures.
    """

    folder: Path
    parts: list[Part]
    rows: int
    dim: int
    dtype: str
    model: str | None
    metric: str | None
    objects: dict[str, Any] | None


def open_source(folder: Path) -> Source:
    """What can be imported from a folder. Raises DataError where that is nothing, or not consistent."""
    parts = parts_of(folder)
    if not parts:
        raise DataError(
            f"{folder} has neither embeddings.npy with pictures.csv nor img_emb/img_emb_0.npy with "
            "metadata/metadata_0.parquet"
        )
    for pair in parts:
        for file in pair:
            if not file.is_file():
                raise DataError(f"{file} is missing; vectors and tables must come in pairs")
    facts = _marker(folder)
    if not facts.get("complete", True):
        raise DataError(f"{folder} is an export that was interrupted; export it again")
    arrays = [open_vectors(vectors) for vectors, _ in parts]
    shapes = [array.shape for array in arrays]
    for (vectors, table), shape in zip(parts, shapes, strict=True):
        if count_rows(table) != shape[0]:
            raise DataError(f"{vectors} has {shape[0]} rows, {table} has {count_rows(table)}")
    if len({shape[1] for shape in shapes}) > 1:
        raise DataError(f"{folder} holds vectors of different lengths: {shapes}")
    is_half = all(array.dtype == np.float16 for array in arrays)
    return Source(
        folder, parts, sum(shape[0] for shape in shapes), shapes[0][1],
        "float16" if is_half else "float32", facts.get("model"), facts.get("metric"),
        facts.get("objects"),
    )  # fmt: skip


def open_or_create(
    source: Source,
    out: Path,
    *,
    metric: str | None = None,
    model: Path | None = None,
    made_by: str | None = None,
    dtype: str | None = None,
    images: Path | None = None,
) -> Gallery:
    """A gallery for vectors that are to be imported: a new one, or one that is there.

    ``model`` is the one that made the vectors, and is put into the gallery; without it ``made_by``
    names what did, and only vectors can ask. Vectors are stored as ``dtype``, by default as those of
    the folder are, or in a gallery that is there as its own. Relative paths start at ``images``, by
    default the folder. Raises GalleryError where what is there does not go with the vectors, DataError
    where it is not said what made them. Nor is a new gallery made where already the first rows cannot
    be imported: that raises as ``import_vectors``.
    """
    metric = metric or source.metric
    identity = embedder_id(model) if model else (source.model or made_by)
    if metric is None or identity is None:
        raise DataError(
            f"{source.folder} does not say "
            + ("what metric its vectors are for: give --metric" if metric is None else
               "what made its vectors, and those of different models cannot be compared: give --model, "
               "or any name with --made-by")
        )  # fmt: skip
    if source.model not in (None, identity) or (made_by and identity != made_by):
        raise DataError(f"{source.folder} was made by {source.model}, not by {model or made_by}")
    dim = source.dim if model is None else load_embedder(model).spec.embedding_dim
    if dim != source.dim:
        raise DataError(
            f"{source.folder} holds vectors of {source.dim} numbers, and those of {model} have {dim}: "
            "it has not made them"
        )
    if is_free(out):
        content = {MODEL_FILE: model_file(model).read_bytes()} if model else {}
        dtype = dtype or source.dtype
        for _, block in islice(_blocks(source), 1):
            Storage(dtype, dim, metric).encode(prepare(block, dim, metric, "vectors"))
        return create_gallery(
            out, dim=source.dim, metric=metric, embedder_id=identity, model=content, dtype=dtype,
            image_root=images or source.folder, objects=source.objects, index_key=AUTO,
        )  # fmt: skip
    gallery = Gallery.open(out)
    gallery.check_model(identity, str(model or source.folder))
    if model is not None and not gallery.has_model:
        raise GalleryError(
            f"{out} was imported without a model; import into another gallery with --model"
        )
    wanted = {"metric": metric, "dim": source.dim, "dtype": dtype}
    for name, value in wanted.items():
        if value is not None and gallery.settings[name] != value:
            raise GalleryError(f"{out} has {name} {gallery.settings[name]}, not {value}")
    if gallery.objects != source.objects:
        raise GalleryError(
            f"only one of {out} and {source.folder} holds objects of pictures, or they were found in "
            "another way; import into another gallery"
        )
    return gallery


def import_vectors(
    gallery: Gallery,
    source: Source,
    *,
    images: Path | None = None,
    wait: float = 0.0,
    on_progress: Count = lambda rows: None,
) -> FillSummary:
    """Add vectors with their table to a gallery; done twice it changes nothing.

    A path that is there with another vector is replaced; of one that stands twice the last row counts.
    An import that was killed is continued by the same call. Raises DataError where array and table do
    not agree, or a row cannot be understood, and then adds nothing; VectorError for values that are
    not finite.
    """
    started = time.monotonic()
    summary = FillSummary()
    root = Path(os.path.abspath(images or source.folder))
    with gallery.writer(wait) as writer:
        last = _last_rows(lambda: _all_paths(source, root, gallery.image_root))
        first = 0
        for items, vectors in _blocks(source):
            numbered = enumerate(_stored_paths(items, root, gallery.image_root), start=first)
            rows = {path: row - first for row, path in numbered if last.get(path, row) == row}
            _import_block(writer, rows, items, vectors, summary)
            first += len(items)
            on_progress(len(items))
        writer.refresh_index()
    summary.seconds = round(time.monotonic() - started, 3)
    return summary


def _blocks(source: Source) -> Iterator[tuple[list[NewItem], np.ndarray]]:
    """Up to 8,192 items at a time with their vectors (n,D), as they are in the files.

    Raises DataError for a row that cannot be understood, VectorError for values that are not finite.
    """
    for file, table in source.parts:
        vectors, done = open_vectors(file), 0
        for items in read_table(table):
            block = vectors[done : done + len(items)]
            prepare(block, source.dim, "l2", f"{file} from row {done}")  # names the file at fault
            yield items, block
            done += len(items)


def _all_paths(source: Source, root: Path, image_root: Path) -> Iterator[str]:
    """The path of each row, as stored."""
    for _, table in source.parts:
        for items in read_table(table):
            yield from _stored_paths(items, root, image_root)


def _stored_paths(items: Sequence[NewItem], root: Path, image_root: Path) -> list[str]:
    """The paths of items relative to the folder ``image_root``, which were to ``root``."""
    return [os.path.relpath(root / item.path, image_root) for item in items]


def _last_rows(paths: Callable[[], Iterator[str]]) -> dict[str, int]:
    """The last row of each of the paths that stands more than once, and maybe of a few others.

    ``paths`` gives those of all rows. Only hashes of them are held, eight bytes of a row.
    """
    hashes = np.fromiter(map(hash, paths()), np.int64)
    hashes.sort()
    twice = set(hashes[1:][hashes[1:] == hashes[:-1]].tolist())
    if not twice:
        return {}
    return {path: row for row, path in enumerate(paths()) if hash(path) in twice}


def _import_block(
    writer: GalleryWriter,
    rows: dict[str, int],
    items: Sequence[NewItem],
    vectors: np.ndarray,
    summary: FillSummary,
) -> None:
    """Import items with their vectors (n,D): of each path, as stored, that of one row."""
    gallery = writer.gallery
    there = gallery.items_of_paths(list(rows))
    kept = gallery.vectors(np.array([item.id for item in there.values()], np.int64))
    same = gallery.snapshot.storage.same(kept, vectors[[rows[path] for path in there]])
    same_vector = dict(zip(there, same.tolist(), strict=True))
    new, updates = [], []
    for path, row in rows.items():
        item, old = dataclasses.replace(items[row], path=path), there.get(path)
        if old is None or item.content_hash != old.content_hash or not same_vector[path]:
            new.append((row, item))
            continue
        now = dataclasses.replace(old, **dataclasses.asdict(item))
        updates += [now] if now != old else []
    writer.update(updates)
    # As they came: what is scaled to length 1 twice is not what is scaled once.
    writer.add(vectors[[row for row, _ in new]], [item for _, item in new])
    summary.replaced += sum(item.path in there for _, item in new)
    summary.added += sum(item.path not in there for _, item in new)
    summary.relabelled += len(updates)
    summary.unchanged += len(rows) - len(new) - len(updates)


def files_of(folder: Path, layout: str, number: int) -> Part:
    if layout == PLAIN:
        return folder / "embeddings.npy", folder / "pictures.csv"
    vectors = folder / "img_emb" / f"img_emb_{number}.npy"
    return vectors, folder / "metadata" / f"metadata_{number}.parquet"


def parts_of(folder: Path) -> list[Part]:
    """Pairs of vectors and table in a folder, in order; one file of a pair may be missing."""
    plain = files_of(folder, PLAIN, 0)
    if any(file.exists() for file in plain):
        return [plain]
    # clip-retrieval writes numbers with leading zeros or without.
    vectors, tables = (
        {
            int(file.stem.rpartition("_")[2]): file
            for file in (folder / name).glob(f"{name}_*{suffix}")
            if file.stem.rpartition("_")[2].isdigit()
        }
        for name, suffix in (("img_emb", ".npy"), ("metadata", ".parquet"))
    )
    numbers = sorted(vectors.keys() | tables.keys())
    pairs = [files_of(folder, CLIP, number) for number in numbers]
    return [
        (vectors.get(n, pair[0]), tables.get(n, pair[1]))
        for n, pair in zip(numbers, pairs, strict=True)
    ]


def _marker(folder: Path) -> dict[str, Any]:
    """What an export of ours says of itself; nothing for other folders."""
    file = folder / MARKER
    if not file.is_file():
        return {}
    try:
        facts = json.loads(file.read_text())
    except ValueError as error:
        raise DataError(f"{file} is damaged: {error}; export the gallery again") from error
    if not isinstance(facts, dict):
        raise DataError(f"{file} is damaged: it holds no object; export the gallery again")
    return facts


def open_vectors(file: Path) -> np.ndarray:
    """The array in a file, mapped. Raises DataError where it is none of numbers (n,D)."""
    vectors = open_npy(file)
    if vectors.ndim != 2 or vectors.dtype.kind != "f":
        raise DataError(
            f"{file} holds {vectors.dtype} of shape {vectors.shape}; floating-point numbers (n, D) are "
            "expected"
        )
    return vectors
