"""How near pictures must be for most of them to be right: a distance, found from labelled pairs."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from index.calibration import PairHistogram
from index.gallery import Gallery
from index.neighbors import prepare
from retrieval.errors import ConfigError, DataError

MAX_QUERIES = 2000
"""Pictures that are compared with the whole gallery: drawn evenly where there are more."""
TILE_QUERIES, TILE_PICTURES = 256, 8192


@dataclasses.dataclass(frozen=True)
class LabelledQueries:
    """Pictures whose labels are known: vectors float32 (Q,D), labels (Q,), ids int64 (Q,).

    An id is that of the same picture in the gallery, −1 where it is not there.
    """

    vectors: np.ndarray
    labels: np.ndarray
    ids: np.ndarray


@dataclasses.dataclass(frozen=True)
class Calibration:
    """The largest distance at which the share of right pictures, ``precision``, reaches ``target``.

    ``pairs`` of a query and a picture are within it; ``recall`` is the share of all pairs of one label
    that are. ``own`` says that the gallery's own pictures asked.
    """

    distance: float
    target: float
    precision: float
    recall: float
    pairs: int
    queries: int
    pictures: int
    own: bool

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON types."""
        return dataclasses.asdict(self)


def calibrate(
    gallery: Gallery,
    target: float = 0.95,
    queries: LabelledQueries | None = None,
    *,
    seed: int = 0,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Calibration:
    """The distance within which at least ``target`` of the pictures found have the label asked for.

    ``queries`` ask the labelled pictures of the gallery; without them these ask each other. At most
    MAX_QUERIES ask. Pairs are counted together, so that labels with many pictures count for more; a
    picture is never its own answer. Memory: 12 bytes for each picture, and a tile of pairs. Raises
    ConfigError for a target that is no share, DataError where there are no pairs of one label, or where
    no distance reaches the target.
    """
    if not 0 < target <= 1:
        raise ConfigError(f"the precision is {target}; give a share above 0 and up to 1")
    ids, codes, names = gallery.label_codes()
    if queries is None:
        rows = _sample(len(ids), seed)
        vectors, asked, own_ids = gallery.vectors(ids[rows]), codes[rows], ids[rows]
    else:
        rows = _sample(len(queries.ids), seed)
        known = {name: code for code, name in enumerate(names)}
        asked = np.array([known.get(str(name), -1) for name in queries.labels[rows]], np.int32)
        vectors, own_ids = queries.vectors[rows], queries.ids[rows]
    vectors = prepare(vectors, gallery.dim, gallery.metric, "queries")
    histogram = PairHistogram()
    for left in range(0, len(ids), TILE_PICTURES):
        here = slice(left, left + TILE_PICTURES)
        pictures = gallery.vectors(ids[here])
        for top in range(0, len(rows), TILE_QUERIES):
            now = slice(top, top + TILE_QUERIES)
            same = asked[now, None] == codes[None, here]
            counted = own_ids[now, None] != ids[None, here]
            histogram.add(vectors[now], pictures, same, counted, gallery.metric)
        on_progress(min(left + TILE_PICTURES, len(ids)), len(ids))
    return _choose(gallery, histogram, target, len(rows), len(ids), own=queries is None)


def _choose(
    gallery: Gallery,
    histogram: PairHistogram,
    target: float,
    queries: int,
    pictures: int,
    own: bool,
) -> Calibration:
    if not histogram.same.any():
        raise DataError(
            f"{queries} labelled pictures ask {pictures} of {gallery.path}, and no two have the same "
            "label; labels come from the folders, or from the CSV file, that a gallery is built from"
        )
    found = histogram.farthest(target)
    if found is None:
        best = max(histogram.thresholds(), key=lambda one: one.precision)
        raise DataError(
            f"no distance reaches a precision of {target:g}; the best is {best.precision:.4f} at "
            f"{best.distance:g} ({best.pairs:,} pairs); ask for less with --precision"
        )
    return Calibration(
        found.distance, target, found.precision, found.recall, found.pairs, queries, pictures, own
    )


def _sample(n: int, seed: int) -> np.ndarray:
    """At most MAX_QUERIES different rows of n, ascending."""
    if n <= MAX_QUERIES:
        return np.arange(n)
    return np.sort(np.random.default_rng(seed).choice(n, MAX_QUERIES, replace=False))
