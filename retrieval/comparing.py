"""What is different between a gallery and the pictures on disk."""

import dataclasses
import functools
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from index.dates import kept_time
from index.gallery import Gallery
from index.items import Item, NewItem
from index.parts import split_part
from retrieval.errors import DataError, ImageError
from retrieval.images import content_hash
from retrieval.objects import relisted, still_known
from retrieval.pictures import Mark, Picture

BLOCK = 500
Items = list[Item]
"""What a gallery holds of one file: an item, or one for each object in it."""


@dataclasses.dataclass
class Changes:
    """What must happen for a gallery to hold pictures as they are now.

    ``embed``: pictures that are new or have changed; ``stale``: path → items of those that have
    changed; ``updates``: items of which the content is still the same; ``removed``: the ids of each
    picture that goes. Counts are of pictures.
    """

    embed: list[Picture] = dataclasses.field(default_factory=list)
    stale: dict[str, Items] = dataclasses.field(default_factory=dict)
    updates: list[Item] = dataclasses.field(default_factory=list)
    removed: list[list[int]] = dataclasses.field(default_factory=list)
    unchanged: int = 0
    relabelled: int = 0
    moved: int = 0


def stored_path(gallery: Gallery, picture: Path) -> str:
    """How a gallery writes the path of a picture: relative to its image root."""
    return os.path.relpath(os.path.abspath(picture), gallery.image_root)


def linked_path(
    gallery: Gallery, picture: Path, real: Callable[[str], str] = os.path.realpath
) -> str:
    """The path as it is stored of a picture whose folder, or the image root, is reached by links.

    ``real`` follows them: a cached one, where many pictures are asked for.
    """
    folder, name = os.path.split(os.path.abspath(picture))
    return os.path.relpath(os.path.join(real(folder), name), real(str(gallery.image_root)))


def as_stored(gallery: Gallery, sources: Sequence[Path]) -> tuple[Path, ...]:
    """The sources, each in the folder by whose path the gallery holds it, where a link leads to that.

    Links are followed to the sources only: what lies in them keeps its name, and costs nothing.
    """
    held = functools.cache(functools.partial(_held_folders, gallery))
    stored = functools.cache(functools.partial(_stored_folder, gallery, held))
    return tuple(stored(s) if s.is_dir() else stored(s.parent) / s.name for s in sources)


def _held_folders(gallery: Gallery) -> frozenset[str]:
    """All folders, and folders of these, that the gallery holds pictures in."""
    root, parent = str(gallery.image_root), os.path.dirname  # a Path of each would take seconds
    found = {parent(path) for _, path in gallery.all_paths()}
    found = {os.path.normpath(os.path.join(root, folder)) for folder in found}
    folders: set[str] = set()
    while found := found - folders:
        folders |= found
        found = {parent(folder) for folder in found}
    return frozenset(folders)


def _stored_folder(gallery: Gallery, held: Callable[[], frozenset[str]], folder: Path) -> Path:
    real, root = Path(os.path.realpath(folder)), Path(os.path.realpath(gallery.image_root))
    if not real.is_relative_to(root):
        return folder
    other = gallery.image_root / real.relative_to(root)
    if other == Path(os.path.abspath(folder)):
        return folder
    # A gallery may hold pictures by the path that is given, too: then they stay what they are.
    is_held, is_held_by_other = (os.path.abspath(f) in held() for f in (folder, other))
    return other if is_held_by_other and not is_held else folder


def mark_of(path: Path) -> Mark | None:
    """Size and time of change (ns), by which an unchanged file is known; None where it is gone."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, kept_time(status.st_mtime_ns)


def compare(gallery: Gallery, pictures: Sequence[Picture]) -> Changes:
    """Changes for a gallery to hold these pictures; what else it holds is left alone."""
    return _replaced(gallery, _compare(gallery, pictures))


def _compare(gallery: Gallery, pictures: Sequence[Picture]) -> Changes:
    changes = Changes()
    for start in range(0, len(pictures), BLOCK):
        block = [(stored_path(gallery, p.path), p) for p in pictures[start : start + BLOCK]]
        held = gallery.items_of_files([path for path, _ in block])
        blanks = gallery.blanks([path for path, _ in block if path not in held])
        for path, picture in block:
            items, mark = held.get(path, []), mark_of(picture.path)
            known: Sequence[NewItem] = items or [blanks[p] for p in [path] if p in blanks]
            if mark is None or not known or not _is_same(picture.path, mark, known):
                changes.embed.append(picture)
                changes.stale |= {path: items} if items else {}
            else:
                now = _as_listed(gallery, items, path, picture, mark)
                told = [(item.label, item.metadata) for item in items]
                relabelled = [(item.label, item.metadata) for item in now] != told
                changes.relabelled += relabelled
                changes.unchanged += not relabelled
                changes.updates += [new for new, old in zip(now, items, strict=True) if new != old]
    return changes


def compare_folders(
    gallery: Gallery, pictures: Sequence[Picture], folders: Sequence[Path]
) -> Changes:
    """Changes for a gallery to hold, of all that lies in these folders, just these pictures.

    A picture whose content was elsewhere before has moved: it keeps its id and vector. Raises
    DataError where everything would go because there is no picture in the folders at all.
    """
    changes = _compare(gallery, pictures)
    listed = {stored_path(gallery, picture.path) for picture in pictures}
    inside = lies_in(gallery, folders)
    vanished: dict[str, list[int]] = {}
    for item_id, path in gallery.all_paths():
        file, _ = gallery.place_of(path)
        if file not in listed and inside(file):
            vanished.setdefault(file, []).append(item_id)
    if vanished and not pictures:
        raise DataError(
            f"{', '.join(map(str, folders))} holds no picture, and {gallery.path} has "
            f"{len(vanished):,} from there; nothing was changed. If a disk is missing, bring it back; "
            "to remove the pictures from the gallery, use: retrieval remove"
        )
    _find_moves(gallery, changes, vanished)
    return _replaced(gallery, changes)


def _replaced(gallery: Gallery, changes: Changes) -> Changes:
    """The same, with what is known of pictures that are embedded anew because they have changed."""
    changes.embed = [
        _still_known(gallery, p, changes.stale.get(stored_path(gallery, p.path), []))
        for p in changes.embed
    ]
    return changes


def lies_in(gallery: Gallery, folders: Sequence[Path]) -> Callable[[str], bool]:
    """Whether a path, as stored, lies in one of the folders."""
    below = tuple(os.path.join(os.path.abspath(folder), "") for folder in folders)
    root = str(gallery.image_root)
    return lambda path: os.path.normpath(os.path.join(root, path)).startswith(below)


def _is_same(file: Path, mark: Mark, known: Sequence[NewItem]) -> bool:
    """Whether the file is still what all that is known of it was made of."""
    if all(mark == (item.size, item.mtime_ns) for item in known):
        return True
    if any(mark[0] != item.size for item in known):
        return False
    now = _hash(file)
    return all(now == split_part(item.content_hash)[0] for item in known)


def _hash(file: Path) -> str:
    """The content's hash, empty where it cannot be read: the reader will say why."""
    try:
        return content_hash(file)
    except ImageError:
        return ""


def _still_known(gallery: Gallery, picture: Picture, items: Items) -> Picture:
    """The picture with what the gallery knows of it by these items, where its listing knows less."""
    if not items:
        return picture
    file, box = gallery.place_of(items[0].path)
    return still_known(picture, items[0], gallery.image_root / file, part=box is not None)


def _as_listed(gallery: Gallery, items: Items, path: str, picture: Picture, mark: Mark) -> Items:
    """The items of a file as they are to be now that it has this path and is listed so."""
    picture = _still_known(gallery, picture, items)
    return [
        relisted(item, path, gallery.place_of(item.path)[1], picture, mark[1]) for item in items
    ]


def _find_moves(gallery: Gallery, changes: Changes, vanished: dict[str, list[int]]) -> None:
    """Match new and changed pictures with items whose content is no longer where it was."""
    free: dict[str, list[tuple[str, Items]]] = {}
    for path, items in itertools.chain(_items(gallery, vanished), changes.stale.items()):
        free.setdefault(split_part(items[0].content_hash)[0], []).append((path, items))
    sizes = {item.size for files in free.values() for _, items in files for item in items}
    embed, gone, targets = [], dict(vanished), set()
    for picture in changes.embed:
        path, mark = stored_path(gallery, picture.path), mark_of(picture.path)
        found = free.get(_hash(picture.path)) if mark is not None and mark[0] in sizes else None
        if mark is None or not found:
            embed.append(picture)
            continue
        old, items = found.pop(0)
        changes.updates += _as_listed(gallery, items, path, picture, mark)
        changes.moved += 1
        targets.add(path)
        gone.pop(old, None)
        changes.stale.pop(old, None)
    # A changed picture gives way to one that has moved to its path.
    for path in targets & changes.stale.keys():
        gone[path] = [item.id for item in changes.stale[path]]
    changes.embed, changes.removed = embed, [gone[path] for path in gone]


def _items(gallery: Gallery, files: dict[str, list[int]]) -> Iterator[tuple[str, Items]]:
    paths = list(files)
    for start in range(0, len(paths), BLOCK):
        yield from gallery.items_of_files(paths[start : start + BLOCK]).items()
