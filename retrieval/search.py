"""Asking a gallery: questions in, hits out."""

import dataclasses
import functools
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from index.gallery import Gallery
from index.parts import Box, part_name
from index.within import check_distance
from retrieval.errors import ImageError
from retrieval.images import read_image, read_thumbnail
from retrieval.object_spec import ObjectsSpec
from retrieval.questions import TOGETHER, Question, batches, photo_questions
from retrieval.report import GREY, Outline, SheetRow, Tile, mosaic

if TYPE_CHECKING:  # torch is loaded where a photo asks, and not for stored pictures
    from retrieval.embedder import Embedder
    from retrieval.object_embedding import ObjectEmbedder

logger = logging.getLogger(__name__)

THUMBNAIL = 512
"""Pixels that a picture is shown with, wide and high: about as many at most."""
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
        together = max(1, min(TOGETHER, HITS_TOGETHER // max(k, 1)))
        for batch in batches(questions, 1 if one_per_photo else together):
            vectors = np.stack([question.vector for question in batch])
            own = [None if include_self else question.own_id for question in batch]
            asked = k + any(item_id is not None for item_id in own)
            while True:
                found = self.gallery.search(vectors, asked, exact=exact, where=where)
                rows = []
                for item_id, ids, distances in zip(own, found.ids, found.distances, strict=True):
                    keep = ids >= 0
                    if item_id is not None:
                        keep &= ids != item_id
                    if farthest is not None:
                        keep &= distances <= farthest
                    complete = not (keep | (ids == item_id)).all()  # nothing else is to be found
                    if one_per_photo:
                        keep[keep] = self._first_of_photos(ids[keep])
                    rows.append((ids[keep][:k], distances[keep][:k]))
                if not one_per_photo or complete or len(rows[0][0]) == k:
                    break
                asked *= 4  # the others were in photos found before
            yield from self._answers(batch, rows, [None] * len(batch))

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
        rows: Sequence[tuple[np.ndarray, np.ndarray]],
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


def thumbnail(
    path: Path, box: Box | None = None, side: int = THUMBNAIL
) -> tuple[np.ndarray, Outline | None]:
    """The picture, or of a part of it what lies around, and where in that the part is.

    A grey square where the picture is gone, or is another one: an answer is shown all the same.
    """
    try:
        if box is None:
            return read_thumbnail(path, side), None
        part, outline = _surroundings(read_image(path), box)
    except ImageError:
        return GREY, None
    step = max(max(part.shape[:2]) // side, 1)
    return part[::step, ::step], tuple(edge / step for edge in outline)


def _surroundings(image: np.ndarray, box: Box) -> tuple[np.ndarray, Outline]:
    """The part of a picture with half its longer side around it, so that it is seen what it lies in."""
    left, top, width, height = box
    if left + width > image.shape[1] or top + height > image.shape[0]:
        raise ImageError("the box reaches out of the picture")
    around = max(max(width, height) // 2, 4)
    x, y = max(left - around, 0), max(top - around, 0)
    outline = (left - x, top - y, left - x + width, top - y + height)
    return image[y : top + height + around, x : left + width + around], outline
