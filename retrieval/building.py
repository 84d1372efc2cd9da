"""Filling galleries with pictures, keeping them in step with folders, and emptying them."""

import dataclasses
import hashlib
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from index.errors import GalleryError
from index.gallery import Gallery
from index.new_gallery import create_gallery, is_free
from index.planner import Limits, Report, check_budget
from index.vector_index import AUTO
from index.writer import GalleryWriter
from retrieval import models
from retrieval.comparing import (
    Changes,
    as_stored,
    compare,
    compare_folders,
    lies_in,
    stored_path,
)
from retrieval.embedding import Count
from retrieval.errors import ConfigError, DataError
from retrieval.filling import Filler, embedded
from retrieval.network_files import (
    MODEL_FILE,
    embedder_id,
    load_detector,
    load_embedder,
    model_file,
    model_of_gallery,
)
from retrieval.object_spec import ObjectsSpec
from retrieval.pictures import Picture
from retrieval.summary import FillSummary


def open_or_create(
    out: Path,
    model: Path | None = None,
    *,
    sources: Sequence[Path],
    metric: str | None = None,
    index_key: str | None = None,
    limits: Limits | None = None,
    dtype: str | None = None,
    n_pictures: int = 0,
    overwrite: bool = False,
    objects: Path | None = None,
    object_options: Mapping[str, Any] | None = None,
) -> Gallery:
    """The gallery at ``out`` for pictures of ``sources``: a new one, or one that is continued.

    With ``overwrite`` it is a new one in any case, and one that is there is deleted once the new one
    can be made. ``n_pictures`` are to come: limits that cannot be kept with these are refused now.
    With ``objects``, a detector, it is one of the objects that this finds; ``object_options`` are
    fields of ``ObjectsSpec``.
    Without a ``model`` an existing gallery's own goes on, and a new one gets ``models.DEFAULT``.
    An existing gallery must have been made by the same model and detector with the same metric and
    dtype, and the same index key, limits and object options where those are given; without a key, a
    new gallery's index is chosen by measurement. Raises GalleryError where it was not,
    CheckpointError where ``model`` or ``objects`` is not one.
    """
    continued = not is_free(out) and not overwrite
    gallery = Gallery.open(out) if continued else None
    if model is None:
        model = Path(models.DEFAULT) if gallery is None else model_of_gallery(gallery)
    embedder = load_embedder(model)
    identity = embedder_id(model)
    detector = {} if objects is None else {MODEL_FILE: model_file(objects).read_bytes()}
    options = ObjectsSpec.from_dict(object_options or {})
    kind = None if objects is None else _objects_kind(objects, detector, options)
    metric = metric or embedder.spec.distance
    if gallery is not None:
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
        _check_objects(gallery, kind, ["detector", *(object_options or {})])
        if limits is not None and gallery.limits != limits:
            if len(gallery):
                raise GalleryError(
                    f"{out} was made with {gallery.limits}; change that with: retrieval tune {limits}"
                )
            with gallery.writer() as writer:  # it may be empty because of these very limits
                writer.note(limits=dataclasses.asdict(limits))
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
        detector=detector,
        objects=kind,
        n_vectors=n_pictures,
        overwrite=overwrite,
    )


def _objects_kind(path: Path, detector: dict[str, bytes], options: ObjectsSpec) -> dict[str, Any]:
    """What a gallery notes of how its objects are found. Raises ConfigError for what cannot be."""
    spec = load_detector(path).spec
    if options.least_score < spec.least_score:
        raise ConfigError(
            f"--least-score is {options.least_score:g}, and {path} tells of no object below "
            f"{spec.least_score:g}; give at least that"
        )
    (data,) = detector.values()
    return {"detector": hashlib.sha256(data).hexdigest(), **options.to_dict()}


def _check_objects(gallery: Gallery, kind: dict[str, Any] | None, given: Sequence[str]) -> None:
    """Raises GalleryError where an existing gallery holds something else than what is ``given``."""
    there, remedy = gallery.objects, "give --overwrite to build it anew, or another --out"
    if there is None and kind is not None:
        raise GalleryError(f"{gallery.path} holds whole pictures, no objects; {remedy}")
    if there is not None and kind is None:
        raise GalleryError(
            f"{gallery.path} holds objects; give --objects DETECTOR too, or use: retrieval add"
        )
    if there is None or kind is None:
        return
    for name in given:
        if there[name] != kind[name]:
            how = "another detector" if name == "detector" else f"--{name} {there[name]}"
            how = how.replace("_", "-")
            raise GalleryError(f"{gallery.path} was made with {how}; {remedy}")


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
            noted = [*(path for path, _ in gallery.failures()), *gallery.blank_paths()]
            writer.forget_notes(path for path in noted if path not in there and inside(path))
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
    writer.remove(item_id for ids in changes.removed for item_id in ids)
    writer.update(changes.updates)
    on_progress(changes.unchanged + changes.relabelled + changes.moved)
    filler = Filler(gallery, writer, summary)
    try:
        if changes.embed:
            for batch in embedded(gallery, changes.embed, device, on_progress, reading):
                filler.put(batch)
    except KeyboardInterrupt:
        summary.interrupted = True
    filler.commit()
    if not summary.interrupted:
        writer.refresh_index(report)
    return summary


def remove_pictures(
    gallery: Gallery,
    pictures: Sequence[Path],
    ids: Sequence[int],
    where: str | None,
    wait: float = 0.0,
) -> int:
    """Remove pictures by path (a folder: all below it), by id, or by filter; how many there were.

    With a filter and paths or ids, those of them of which the filter holds. Raises DataError for a
    path or an id that is not in the gallery.
    """
    with gallery.writer(wait) as writer:
        chosen = _chosen(gallery, pictures, ids)
        if where is not None:
            matching = {int(i) for i in gallery.matching(where)}
            chosen = chosen & matching if len(pictures) + len(ids) else matching
        removed = writer.remove(sorted(chosen))
        writer.refresh_index()
    return removed


def _chosen(gallery: Gallery, pictures: Sequence[Path], ids: Sequence[int]) -> set[int]:
    chosen = set(gallery.items(ids))
    missing = [str(i) for i in ids if i not in chosen]
    paths = {stored_path(gallery, picture): picture for picture in as_stored(gallery, pictures)}
    files = gallery.items_of_files(list(paths))
    files |= {path: [item] for path, item in gallery.items_of_paths(list(paths)).items()}
    chosen |= {item.id for path, items in files.items() for item in items}
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
