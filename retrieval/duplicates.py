"""Groups of near-identical pictures in a gallery. They are shown; nothing is ever deleted."""

import dataclasses
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from index.gallery import Gallery
from index.groups import close_groups
from index.neighbors import pair_distances, prepare
from index.parts import Box
from retrieval.report import SheetRow, Tile
from retrieval.search import readable
from retrieval.thumbnails import thumbnail

SHARE = 0.01
"""Pictures this much nearer to each other than two of them typically are count as near-identical."""
SAMPLED_PAIRS = 10_000
SHOWN = 12
"""Pictures of a group that a page shows."""


@dataclasses.dataclass(frozen=True)
class Member:
    """A picture of a group: ``distance`` is that to the group's first picture.

    ``copy_of`` is the id of the first picture of the group that has the same content, byte by byte. In
    a gallery of objects each is what lies in the ``box`` of a picture.
    """

    id: int
    path: Path
    label: str | None
    distance: float
    copy_of: int | None
    box: Box | None = None

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON types."""
        return {**dataclasses.asdict(self), "path": str(self.path)}


@dataclasses.dataclass(frozen=True)
class Duplicates:
    """The groups, each by id, first the one with the smallest id; the distance that made them."""

    distance: float
    metric: str
    groups: list[list[Member]]

    @property
    def pictures(self) -> int:
        """How many pictures stand in a group."""
        return sum(map(len, self.groups))

    @property
    def copies(self) -> int:
        """How many pictures are the same file, byte by byte, as an earlier one of their group."""
        return sum(member.copy_of is not None for group in self.groups for member in group)

    def to_dict(self) -> dict[str, Any]:
        """The fields, and the counts, as JSON types."""
        return {
            "distance": self.distance,
            "metric": self.metric,
            "pictures": self.pictures,
            "copies": self.copies,
            "groups": [[member.to_dict() for member in group] for group in self.groups],
        }


def find_duplicates(
    gallery: Gallery,
    distance: float,
    *,
    where: str | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Duplicates:
    """Groups of pictures of which each is at most ``distance`` from another, or a copy of it.

    So the ends of a long group can be farther apart. Exact, whatever the index; see ``close_groups``
    for time and memory. Raises VectorError for a distance that cannot be, FilterError for an expression
    that is not understood.
    """
    ids = gallery.snapshot.living_ids() if where is None else gallery.matching(where)
    copies = [np.intersect1d(same, ids, assume_unique=True) for same in gallery.same_content()]
    found = close_groups(
        ids, lambda some: _vectors(gallery, some), gallery.metric, distance,
        same=[same for same in copies if len(same) > 1], on_progress=on_progress,
    )  # fmt: skip
    groups = [_members(gallery, group) for group in found]
    return Duplicates(distance, gallery.metric, [group for group in groups if len(group) > 1])


def _vectors(gallery: Gallery, ids: np.ndarray) -> np.ndarray:
    """The vectors of ids; for cosine of length 1, which those kept in 16 bits are not exactly."""
    return prepare(gallery.vectors(ids), gallery.dim, gallery.metric, "vectors")


def _members(gallery: Gallery, ids: np.ndarray) -> list[Member]:
    vectors = _vectors(gallery, ids)
    first = np.broadcast_to(vectors[:1], vectors.shape)
    distances = pair_distances(vectors, first, gallery.metric)
    items = gallery.items(ids)
    originals: dict[str, int] = {}
    members = []
    for item_id, distance in zip(ids.tolist(), distances.tolist(), strict=True):
        if item_id not in items:  # removed in this moment
            continue
        item = items[item_id]
        original = originals.setdefault(item.content_hash or str(item_id), item_id)
        photo, box = gallery.place_of(item.path)
        path = readable(gallery.image_root / photo)
        copy_of = original if original != item_id else None
        members.append(Member(item_id, path, item.label, distance, copy_of, box))
    return members


def default_distance(gallery: Gallery, seed: int = 0) -> float:
    """A distance at which pictures of this gallery are near-identical.

    It is SHARE of the median distance of pairs drawn at random, so that it means about the same for
    every metric and model; of a cosine distance, which grows with the square, SHARE².
    """
    ids = gallery.snapshot.living_ids()
    if len(ids) < 2:
        return 0.0
    rng = np.random.default_rng(seed)
    first = rng.integers(0, len(ids), SAMPLED_PAIRS)
    second = (first + rng.integers(1, len(ids), SAMPLED_PAIRS)) % len(ids)
    pairs = _vectors(gallery, ids[first]), _vectors(gallery, ids[second])
    typical = np.median(pair_distances(*pairs, gallery.metric))
    return float(typical) * (SHARE**2 if gallery.metric == "cosine" else SHARE)


def sheet_rows(groups: Iterable[list[Member]]) -> list[SheetRow]:
    """Each group as pictures: its first one at the left, then the others, at most SHOWN in all."""
    rows = []
    for group in groups:
        first, *others = [
            Tile(picture, _caption(m), None, Path(os.path.abspath(m.path)).as_uri(), box)
            for m in group[:SHOWN]
            for picture, box in [thumbnail(m.path, m.box)]
        ]
        if len(group) > SHOWN:
            first = dataclasses.replace(first, caption=f"{first.caption} · 1 of {len(group):,}")
        rows.append(SheetRow(first, others))
    return rows


def _caption(member: Member) -> str:
    how = "same file" if member.copy_of is not None else f"{member.distance:.3f}"
    return f"{how} · {member.path.name}"
