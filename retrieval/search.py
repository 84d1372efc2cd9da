"""Asking a gallery: questions in, hits out."""

import dataclasses
import functools
import itertools
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from index.gallery import Gallery
from index.neighbors import Neighbors
from index.parts import Box, part_name
from index.within import check_distance
from retrieval.object_spec import ObjectsSpec
from retrieval.questions import TOGETHER, Question, batches, photo_questions
from retrieval.report import SheetRow, Tile, mosaic
from retrieval.thumbnails import thumbnail

if TYPE_CHECKING:  # torch is loaded where a photo asks, and not for stored pictures
    from retrieval.embedder import Embedder
    from retrieval.object_embedding import ObjectEmbedder

logger = logging.getLogger(__name__)

Row = tuple[np.ndarray, np.ndarray]
"""Ids int64 (n,) and distances float32 (n,) of what one question found."""
HITS_TOGETHER = 200_000
"""Hits that are held at once, to bound memory."""


@dataclasses.dataclass(frozen=True)
class Hit:
    """One answer: ``distance`` is the true L2, L1 or cosine distance, ``rank`` counts from 1.

    ``box`` is where in the picture the object lies that was found, None where it is the whole.
    """

    rank: int
    distance: float
    id: int
    path: Path
    label: str | None
    metadata: dict[str, Any]
    box: Box | None = None

    @property
    def name(self) -> str:
        """The path, of an object with its box behind it, as ``--path`` and ``remove`` take it."""
        return str(self.path) if self.box is None else part_name(str(self.path), self.box)

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON types."""
        return {**dataclasses.asdict(self), "path": str(self.path)}


@dataclasses.dataclass(frozen=True)
class Answer:
    """The hits of one question, nearest first.

    ``photos``, or the ``box`` of the one photo, show the question, where pictures do.
    ``total`` is how many pictures lie within the distance asked for, None where none was.
    """

    question: str
    hits: list[Hit]
    photos: tuple[Path, ...] = ()
    box: Box | None = None
    total: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON types."""
        return {
            "question": self.question,
            "photos": [str(photo) for photo in self.photos],
            "box": self.box,
            "total": self.total,
            "hits": [hit.to_dict() for hit in self.hits],
        }


class Searcher:
    """A gallery, ready to be asked; its model is loaded when the first photo asks."""

    def __init__(self, gallery: Gallery) -> None:
        self.gallery = gallery
        for note in gallery.notes:
            logger.warning("%s", note)

    @classmethod
    def open(cls, path: Path, model: Path | None = None) -> Self:
        """The gallery at ``path``, to be asked with the model stored in it.

        ``model``, if given, must be that model too: ModelMismatch is raised if it is not.
        """
        gallery = Gallery.open(path)
        if model is not None:
            from retrieval.network_files import embedder_id

            gallery.check_model(embedder_id(model), str(model))
        return cls(gallery)

    @functools.cached_property
    def embedder(self) -> "Embedder":
        """The gallery's own model.

        Raises GalleryError where there is none, ModelMismatch where its files are not those of it.
        """
        from retrieval.network_files import embedder_id, load_embedder, model_of_gallery

        folder = model_of_gallery(self.gallery)
        embedder = load_embedder(folder)
        self.gallery.check_model(embedder_id(folder), str(folder))
        return embedder

    @property
    def objects(self) -> ObjectsSpec | None:
        """How the gallery's objects were chosen and cut out; None where it holds whole pictures."""
        noted = self.gallery.objects
        return None if noted is None else ObjectsSpec.noted(noted)

    @functools.cached_property
    def object_embedder(self) -> "ObjectEmbedder":
        """The gallery's own detector and model, to ask by the objects of photos.

        Raises GalleryError where the gallery has no detector, or not the one that it was made with.
        """
        from retrieval.object_embedding import open_object_embedder

        return open_object_embedder(self.gallery, lambda: self.embedder)

    def nearest(
        self,
        questions: Iterable[Question],
        k: int = 10,
        *,
        exact: bool = False,
        where: str | None = None,
        within: float | None = None,
        include_self: bool = False,
        one_per_photo: bool = False,
    ) -> Iterator[Answer]:
        """The k nearest of each question, as they are found; with ``within`` none farther than that.

        A stored picture that asks is left out by its id, unless ``include_self``. With
        ``one_per_photo`` only the nearest object of a photo is an answer, and there are k photos.
        Raises VectorError for a bad vector, k or distance, FilterError for an expression that is not
        understood.
        """
        farthest = None if within is None else check_distance(within)
        search = functools.partial(self.gallery.search, exact=exact, where=where)
        together = max(1, min(TOGETHER, HITS_TOGETHER // max(k, 1)))
        for batch in batches(questions, 1 if one_per_photo else together):
            vectors = np.stack([question.vector for question in batch])
            own = [None if include_self else question.own_id for question in batch]
            if one_per_photo:
                rows = [self._nearest_photos(search, vectors, own[0], k, farthest)]
            else:
                found = search(vectors, k + any(item_id is not None for item_id in own))
                kept = map(_kept, found.ids, found.distances, own, itertools.repeat(farthest))
                rows = [(ids[:k], distances[:k]) for ids, distances in kept]
            yield from self._answers(batch, rows, [None] * len(batch))

    def _nearest_photos(
        self,
        search: Callable[[np.ndarray, int], Neighbors],
        vector: np.ndarray,
        own: int | None,
        k: int,
        farthest: np.floating | None,
    ) -> Row:
        """The nearest object of each of the k nearest photos to one vector (1,D)."""
        asked = k + (own is not None)
        while True:
            found = search(vector, asked)
            ids, distances = _kept(found.ids[0], found.distances[0], own, farthest)
            first = self._first_of_photos(ids)
            complete = len(ids) + (found.ids[0] == own).sum() < asked  # nothing else is to be found
            if complete or first.sum() >= k:
                return ids[first][:k], distances[first][:k]
            asked *= 4  # the others were in photos found before

    def _first_of_photos(self, ids: np.ndarray) -> np.ndarray:
        """Which of these ids, bool (n,), are the first of their photo."""
        items, seen = self.gallery.items(ids), set[str]()
        first = np.zeros(len(ids), bool)
        for row, item_id in enumerate(ids.tolist()):
            if item_id in items:
                photo, _ = self.gallery.place_of(items[item_id].path)
                first[row] = photo not in seen
                seen.add(photo)
        return first

    def within(
        self,
        questions: Iterable[Question],
        distance: float,
        *,
        limit: int = 1000,
        where: str | None = None,
        include_self: bool = False,
    ) -> Iterator[Answer]:
        """All pictures at most ``distance`` from each question, nearest first, at most ``limit``.

        ``total`` of an answer says how many there are. Always exact. A stored picture that asks is left
        out by its id, unless ``include_self``. Raises VectorError for a bad vector, distance or limit,
        FilterError for an expression that is not understood.
        """
        check_distance(distance)
        for batch in batches(questions, max(1, min(TOGETHER, HITS_TOGETHER // max(limit, 1)))):
            vectors = np.stack([question.vector for question in batch])
            own = [-1 if q.own_id is None or include_self else q.own_id for q in batch]
            found = self.gallery.within(
                vectors, distance, where=where, limit=limit, own_ids=np.array(own)
            )
            rows = [(one.ids, one.distances) for one in found]
            yield from self._answers(batch, rows, [one.total for one in found])

    def query_files(
        self, photos: Sequence[Path], k: int = 10, *, objects: bool = False, **options: Any
    ) -> tuple[list[Answer], list[tuple[Path, str]]]:
        """An answer for each photo that can be read, and (photo, reason) of the others.

        With ``objects`` one for each object of each, none for a photo without. ``options`` are those of
        ``nearest``. Raises GalleryError where the gallery has no detector to find objects with.
        """
        unreadable: list[tuple[Path, str]] = []

        def report(photo: Path, reason: str) -> None:
            unreadable.append((photo, reason))

        if objects:
            from retrieval.object_embedding import object_questions

            asked = object_questions(self.object_embedder, photos, report, lambda photo: None)
        else:
            asked = photo_questions(self.embedder, photos, report)
        return list(self.nearest(asked, k, **options)), unreadable

    def _answers(
        self,
        questions: Sequence[Question],
        rows: Sequence[Row],
        totals: Sequence[int | None],
    ) -> Iterator[Answer]:
        """Answers from the ids and distances of each question."""
        items = self.gallery.items(np.concatenate([ids for ids, _ in rows]))
        root = self.gallery.image_root
        for question, (ids, distances), total in zip(questions, rows, totals, strict=True):
            hits: list[Hit] = []
            for item_id, distance in zip(ids.tolist(), distances.tolist(), strict=True):
                if item_id in items:
                    item = items[item_id]
                    photo, box = self.gallery.place_of(item.path)
                    facts = (item.id, readable(root / photo), item.label, item.metadata, box)
                    hits.append(Hit(len(hits) + 1, distance, *facts))
            yield Answer(question.title, hits, question.photos, question.box, total)


def _kept(
    ids: np.ndarray, distances: np.ndarray, own: int | None, farthest: np.floating | None
) -> Row:
    """What is there of an answer (k,), without the item ``own`` and what is beyond ``farthest``."""
    keep = (ids >= 0) & (ids != own)
    if farthest is not None:
        keep &= distances <= farthest
    return ids[keep], distances[keep]


def readable(path: Path) -> Path:
    """The path without steps up and down, relative to the current folder where it lies below it."""
    path = Path(os.path.normpath(path))
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def sheet_row(answer: Answer, label: str | None = None) -> SheetRow:
    """The answer as pictures; with the ``label`` of the photo each hit is marked right or wrong."""
    name = " + ".join(photo.name for photo in answer.photos) or answer.question
    if answer.box is None:
        query = Tile(mosaic([thumbnail(photo)[0] for photo in answer.photos]), name)
    else:
        picture, box = thumbnail(answer.photos[0], answer.box)
        query = Tile(picture, answer.question.removeprefix(f"{answer.photos[0]}: "), box=box)
    hits = []
    for hit in answer.hits:
        picture, box = thumbnail(hit.path, hit.box)
        caption = f"{hit.distance:.3f} · {hit.label}" if hit.label else f"{hit.distance:.3f}"
        good = None if label is None else hit.label == label
        hits.append(Tile(picture, caption, good, hit.path.absolute().as_uri(), box))
    return SheetRow(query, hits)
