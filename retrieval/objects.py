"""Objects of pictures, as galleries keep them: which ones, what of them, and under what name."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from index.items import Item
from index.parts import Box, part_name
from retrieval.pictures import Picture, folder_name

SUMMARY = ("score", "left", "top", "width", "height")
"""What the metadata of an object say of it."""
PHOTO = "photo_"


@dataclass(frozen=True)
class Found:
    """An object of a picture: its box in whole pixels, its class, and how sure the detector is."""

    box: Box
    label: str
    score: float

    def metadata(self) -> dict[str, Any]:
        """The score and the box, as they are kept and filtered by."""
        return dict(zip(SUMMARY, (round(self.score, 4), *self.box), strict=True))


def cut_around(box: Box, shape: tuple[int, ...], margin: float) -> Box:
    """The square to be embedded for an object in a picture of ``shape`` (height, width, …).

    Its side is the longer one of the object's box, with ``margin`` times that on either side. It has
    the centre of the box, but where it would reach out of the picture it is moved into it; it is never
    larger than the picture's shorter side.
    """
    left, top, width, height = box
    side = min(round(max(width, height) * (1 + 2 * margin)), *shape[:2])
    x = min(max(round(left + (width - side) / 2), 0), shape[1] - side)
    y = min(max(round(top + (height - side) / 2), 0), shape[0] - side)
    return x, y, side, side


def described(picture: Picture, summary: dict[str, Any]) -> dict[str, Any]:
    """The metadata of an object: its own ``summary``, and what is known of its picture.

    The picture's label is photo_label; so are others named whose name an object's own has taken.
    """
    known = dict(picture.metadata or {})
    if picture.label is not None:
        known["label"] = picture.label
    taken = {*SUMMARY, "label"}
    return {**summary, **{PHOTO * (name in taken) + name: v for name, v in known.items()}}


def still_known(picture: Picture, item: Item, file: Path, *, part: bool) -> Picture:
    """The picture with what a table once told of it, where now its folder alone was listed.

    ``item`` is one that the gallery holds of it, with ``part`` an object in it; ``file`` is where the
    picture was then. A label that is missing, or was the name of the folder, becomes the folder's;
    another one stays.
    """
    if picture.metadata is not None:
        return picture
    label, metadata = item.label, item.metadata
    if part:
        metadata = {name: value for name, value in metadata.items() if name not in SUMMARY}
        label = metadata.pop(PHOTO + "label", None)
        own = {PHOTO + name: name for name in SUMMARY}
        metadata = {own.get(name, name): value for name, value in metadata.items()}
    label = picture.label if label in (None, folder_name(file)) else label
    return dataclasses.replace(picture, label=label, metadata=metadata)


def relisted(item: Item, file: str, box: Box | None, picture: Picture, mtime_ns: int) -> Item:
    """The item, of the same content, as ``picture`` in ``file`` now says: path, label, metadata."""
    if box is None:
        return dataclasses.replace(
            item, path=file, mtime_ns=mtime_ns, label=picture.label,
            metadata=picture.metadata or {},
        )  # fmt: skip
    own = {name: item.metadata[name] for name in SUMMARY if name in item.metadata}
    return dataclasses.replace(
        item, path=part_name(file, box), mtime_ns=mtime_ns, metadata=described(picture, own)
    )
