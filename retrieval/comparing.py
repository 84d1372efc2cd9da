"""What is different between a gallery and the pictures on disk."""

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from index.gallery import Gallery
from index.items import Item
from retrieval.errors import DataError, ImageError
from retrieval.images import content_hash
from retrieval.pictures import Picture

BLOCK = 500
Mark = tuple[int, int]


@dataclasses.dataclass
class Changes:
    """What must happen for a gallery to hold pictures as they are now.

    ``embed``: pictures that are new or have changed; ``stale``: path → item of those that have changed;
    ``updates``: items of which the content is still the same; ``removed``: ids.
    """

    embed: list[Picture] = dataclasses.field(default_factory=list)
    stale: dict[str, Item] = dataclasses.field(default_factory=dict)
    updates: list[Item] = dataclasses.field(default_factory=list)
    removed: list[int] = dataclasses.field(default_factory=list)
    unchanged: int = 0
    relabelled: int = 0
    moved: int = 0


def stored_path(gallery: Gallery, picture: Path) -> str:
    """How a gallery writes the path of a picture: relative to its image root."""
    return os.path.relpath(os.path.abspath(picture), gallery.image_root)


def mark_of(path: Path) -> Mark | None:
    """Size and time of change (ns), by which an unchanged file is known; None where it is gone."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def compare(gallery: Gallery, pictures: Sequence[Picture]) -> Changes:
    """Changes for a gallery to hold these pictures; what else it holds is left alone."""
    changes = Changes()
    for start in range(0, len(pictures), BLOCK):
        block = [(stored_path(gallery, p.path), p) for p in pictures[start : start + BLOCK]]
        items = gallery.items_of_paths([path for path, _ in block])
        for path, picture in block:
            item, mark = items.get(path), mark_of(picture.path)
            if item is None:
                changes.embed.append(picture)
            elif mark is None or not _is_same(picture.path, mark, item):
                changes.embed.append(picture)
                changes.stale[path] = item
            else:
                now = _as_listed(item, path, picture, mark)
                relabelled = (now.label, now.metadata) != (item.label, item.metadata)
                changes.relabelled += relabelled
                changes.unchanged += not relabelled
                changes.updates += [now] if now != item else []
    return changes


def compare_folders(
    gallery: Gallery, pictures: Sequence[Picture], folders: Sequence[Path]
) -> Changes:
    """Changes for a gallery to hold, of all that lies in these folders, just these pictures.

    A picture whose content was elsewhere before has moved: it keeps its id and vector. Raises
    DataError where everything would go because there is no picture in the folders at all.
    """
    changes = compare(gallery, pictures)
    listed = {stored_path(gallery, picture.path) for picture in pictures}
    inside = lies_in(gallery, folders)
    vanished = [i for i, path in gallery.all_paths() if path not in listed and inside(path)]
    if vanished and not pictures:
        raise DataError(
            f"{', '.join(map(str, folders))} holds no picture, and {gallery.path} has "
            f"{len(vanished):,} from there; nothing was changed. If a disk is missing, bring it back; "
            "to remove the pictures from the gallery, use: retrieval remove"
        )
    _find_moves(gallery, changes, vanished)
    return changes


def lies_in(gallery: Gallery, folders: Sequence[Path]) -> Callable[[str], bool]:
    """Whether a path, as stored, lies in one of the folders."""
    below = tuple(os.path.join(os.path.abspath(folder), "") for folder in folders)
    root = str(gallery.image_root)
    return lambda path: os.path.normpath(os.path.join(root, path)).startswith(below)


def _is_same(file: Path, mark: Mark, item: Item) -> bool:
    if mark == (item.size, item.mtime_ns):
        return True
    return mark[0] == item.size and _hash(file) == item.content_hash


def _hash(file: Path) -> str:
    """The content's hash, empty where it cannot be read: the reader will say why."""
    try:
        return content_hash(file)
    except ImageError:
        return ""


def _as_listed(item: Item, path: str, picture: Picture, mark: Mark) -> Item:
    return dataclasses.replace(
        item, path=path, mtime_ns=mark[1], label=picture.label, metadata=picture.metadata
    )


def _find_moves(gallery: Gallery, changes: Changes, vanished: Sequence[int]) -> None:
    """Match new and changed pictures with items whose content is no longer where it was."""
    free: dict[str, list[Item]] = {}
    for item in _items(gallery, vanished):
        free.setdefault(item.content_hash, []).append(item)
    for item in changes.stale.values():
        free.setdefault(item.content_hash, []).append(item)
    sizes = {item.size for items in free.values() for item in items}
    embed, gone = [], set(vanished)
    for picture in changes.embed:
        path, mark = stored_path(gallery, picture.path), mark_of(picture.path)
        found = free.get(_hash(picture.path)) if mark is not None and mark[0] in sizes else None
        if mark is None or not found:
            embed.append(picture)
            continue
        item = found.pop(0)
        changes.updates.append(_as_listed(item, path, picture, mark))
        changes.moved += 1
        gone.discard(item.id)
        changes.stale.pop(item.path, None)
    # A changed picture gives way to one that has moved to its path.
    targets = {item.path for item in changes.updates}
    gone |= {item.id for path, item in changes.stale.items() if path in targets}
    changes.embed, changes.removed = embed, sorted(gone)


def _items(gallery: Gallery, ids: Sequence[int]) -> Iterator[Item]:
    for start in range(0, len(ids), BLOCK):
        yield from gallery.items(ids[start : start + BLOCK]).values()
