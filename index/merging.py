"""Taking the items of one gallery into another."""

import dataclasses
import itertools
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from index.errors import GalleryError, ModelMismatch
from index.gallery import Gallery
from index.items import Item
from index.new_gallery import create_gallery
from index.parts import split_part
from index.writer import GalleryWriter

COMMIT_ROWS = 8192


@dataclasses.dataclass
class MergeSummary:
    """What became of the items of the other galleries."""

    added: int = 0
    there_already: int = 0
    kept_other: int = 0
    """A path that both have with different content: the item that was there first was kept."""


def open_or_create_like(path: Path, sources: Sequence[Gallery]) -> Gallery:
    """The gallery at ``path``; where there is none, an empty one made like the first of ``sources``.

    That is: with the same model, metric, index key, limits, dtype and image root. Raises ModelMismatch
    or GalleryError where the others do not go with it, BudgetError where no index of all that they
    hold keeps to the limits.
    """
    if path.exists():
        return Gallery.open(path)
    source = sources[0]
    for other in sources[1:]:
        check_mergeable(source, other)
    return create_gallery(
        path,
        dim=source.dim,
        metric=source.metric,
        embedder_id=source.embedder_id,
        model=source.kept_files("model"),
        detector=source.kept_files("detector"),
        objects=source.objects,
        image_root=source.image_root,
        index_key=source.settings["index_key"],
        limits=source.limits,
        dtype=source.snapshot.storage.float_dtype,
        n_vectors=sum(map(len, sources)),
    )


def check_mergeable(target: Gallery, source: Gallery) -> None:
    """Raises ModelMismatch or GalleryError where the two cannot become one."""
    if source.path.resolve() == target.path.resolve():
        raise GalleryError(f"{source.path} cannot be merged into itself; name another gallery")
    if source.embedder_id != target.embedder_id:
        raise ModelMismatch(
            f"{source.path} was made by model {source.embedder_id[:12]}, and {target.path} by model "
            f"{target.embedder_id[:12]}: their vectors cannot be compared; build one of them again "
            "with the other's model"
        )
    if source.metric != target.metric:
        raise GalleryError(
            f"{source.path} has metric {source.metric}, and {target.path} has {target.metric}; both "
            "must have the same: build one of them again with --metric"
        )
    if source.objects != target.objects:
        raise GalleryError(
            f"{source.path} {_kind(source)}, and {target.path} {_kind(target)}; both must hold the "
            "same kind: build one of them again"
        )


def _kind(gallery: Gallery) -> str:
    if gallery.objects is None:
        return "holds whole pictures"
    how = (f"{name.replace('_', ' ')} {value}" for name, value in gallery.objects.items())
    return f"holds objects ({', '.join(how)})"


def merge_into(
    target: Gallery,
    sources: Sequence[Gallery],
    *,
    wait: float = 0.0,
    on_progress: Callable[[int], None] = lambda items: None,
) -> MergeSummary:
    """Add the items of ``sources`` under new ids, in their order; the sources stay as they are.

    Paths are rewritten so that they lead to the same files. One that is there already keeps the item
    that it has. Done in commits of 8,192 items: a merge that was killed is continued by the same call,
    and ends with the same ids. Raises ModelMismatch or GalleryError where model or metric are not the
    same, before anything is added.
    """
    for source in sources:
        check_mergeable(target, source)
    summary = MergeSummary()
    with target.writer(wait) as writer:
        for source in sources:
            _merge(writer, source, summary, on_progress)
        writer.refresh_index()
    return summary


def _merge(
    writer: GalleryWriter,
    source: Gallery,
    summary: MergeSummary,
    on_progress: Callable[[int], None],
) -> None:
    target = writer.gallery
    items = source.all_items()
    while block := list(itertools.islice(items, COMMIT_ROWS)):
        new: dict[str, Item] = {}
        unhashed: list[Item] = []  # such as imported vectors: they themselves say what is the same
        moved = [_moved(item, source.image_root, target.image_root) for item in block]
        there = target.items_of_paths([item.path for item in moved])
        files = [target.place_of(item.path)[0] for item in moved]
        contents = {
            file: split_part(items[0].content_hash)[0]
            for file, items in target.items_of_files(list(dict.fromkeys(files))).items()
        }
        for file, item in zip(files, moved, strict=True):
            content = split_part(item.content_hash)[0]
            other = there.get(item.path) or new.get(item.path)
            if other is None and contents.setdefault(file, content) == content:
                new[item.path] = item
            elif other is None:  # a part of what the file was at another time
                summary.kept_other += 1
            elif not (other.content_hash and item.content_hash):
                unhashed.append(item)
            elif other.content_hash == item.content_hash:
                summary.there_already += 1
            else:
                summary.kept_other += 1
        ids = np.array([item.id for item in new.values()], np.int64)
        writer.add(source.vectors(ids), list(new.values()))
        same = _count_same(target, source, unhashed)
        summary.added += len(new)
        summary.there_already += same
        summary.kept_other += len(unhashed) - same
        on_progress(len(block))


def _count_same(target: Gallery, source: Gallery, items: Sequence[Item]) -> int:
    """Of how many items of the source the target, which has all their paths, has the vectors."""
    there = target.items_of_paths([item.path for item in items])
    kept = target.vectors(np.array([there[item.path].id for item in items], np.int64))
    vectors = source.vectors(np.array([item.id for item in items], np.int64))
    return int(target.snapshot.storage.same(kept, vectors).sum())


def _moved(item: Item, root: Path, new_root: Path) -> Item:
    return dataclasses.replace(item, path=os.path.relpath(root / item.path, new_root))
