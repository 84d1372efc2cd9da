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
from index.within import check_distance
from retrieval.errors import ImageError
from retrieval.images import Box, read_image
from retrieval.questions import TOGETHER, Question, batches, photo_questions
from retrieval.report import GREY, SheetRow, Tile, mosaic

if TYPE_CHECKING:  # torch is loaded where a photo asks, and not for stored pictures
    from retrieval.embedder import Embedder

logger = logging.getLogger(__name__)

HITS_TOGETHER = 200_000
"""Hits that are held at once, to bound memory."""


@dataclasses.dataclass(frozen=True)
class Hit:
    """One answer: ``distance`` is the true L2, L1 or cosine distance, ``rank`` counts from 1."""

    rank: int
    distance: float
    id: int
    path: Path
    label: str | None
    metadata: dict[str, Any]

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

    @classmethod
    def open(cls, path: Path, model: Path | None = None) -> Self:
        """The gallery at ``path``, to be asked with the model stored in it.

        ``model``, if given, must be that model too: ModelMismatch is raised if it is not.
        """
        gallery = Gallery.open(path)
        for note in gallery.notes:
            logger.warning("%s", note)
        if model is not None:
            from retrieval.checkpoint import embedder_id

            gallery.check_model(embedder_id(model), str(model))
        return cls(gallery)

    @functools.cached_property
    def embedder(self) -> "Embedder":
        """The gallery's own model. Raises ModelMismatch where its files are not those of it."""
        from retrieval.checkpoint import embedder_id, load_embedder

        folder = self.gallery.path / "model"
        embedder = load_embedder(folder)
        self.gallery.check_model(embedder_id(folder), str(folder))
        return embedder

    def nearest(
        self,
        questions: Iterable[Question],
        k: int = 10,
        *,
        exact: bool = False,
        where: str | None = None,
        within: float | None = None,
        include_self: bool = False,
    ) -> Iterator[Answer]:
        """The k nearest of each question, as they are found; with ``within`` none farther than that.

        A stored picture that asks is left out by its id, unless ``include_self``. Raises VectorError
        for a bad vector, k or distance, FilterError for an expression that is not understood.
        """
        farthest = None if within is None else check_distance(within)
        for batch in batches(questions, max(1, min(TOGETHER, HITS_TOGETHER // max(k, 1)))):
            leave_out = not include_self and any(q.own_id is not None for q in batch)
            vectors = np.stack([question.vector for question in batch])
            found = self.gallery.search(vectors, k + leave_out, exact=exact, where=where)
            rows = []
            for question, ids, distances in zip(batch, found.ids, found.distances, strict=True):
                keep = ids >= 0
                if question.own_id is not None and not include_self:
                    keep &= ids != question.own_id
                if farthest is not None:
                    keep &= distances <= farthest
                rows.append((ids[keep][:k], distances[keep][:k]))
            yield from self._answers(batch, rows, [None] * len(batch))

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
        self, photos: Sequence[Path], k: int = 10, **options: Any
    ) -> tuple[list[Answer], list[tuple[Path, str]]]:
        """An answer for each photo that can be read, and (photo, reason) of the others.

        ``options`` are those of ``nearest``.
        """
        unreadable: list[tuple[Path, str]] = []
        asked = photo_questions(
            self.embedder, photos, lambda photo, reason: unreadable.append((photo, reason))
        )
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
                    path = readable(root / item.path)
                    facts = (item.id, path, item.label, item.metadata)
                    hits.append(Hit(len(hits) + 1, distance, *facts))
            yield Answer(question.title, hits, question.photos, question.box, total)


def readable(path: Path) -> Path:
    """The path without steps up and down, relative to the current folder where it lies below it."""
    path = Path(os.path.normpath(path))
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def sheet_row(answer: Answer, label: str | None = None) -> SheetRow:
    """The answer as pictures; with the ``label`` of the photo each hit is marked right or wrong."""
    pictures = [thumbnail(photo, answer.box) for photo in answer.photos]
    name = " + ".join(photo.name for photo in answer.photos) or answer.question
    query = Tile(mosaic(pictures), name)
    hits = [
        Tile(
            thumbnail(hit.path),
            f"{hit.distance:.3f} · {hit.label}" if hit.label else f"{hit.distance:.3f}",
            None if label is None else hit.label == label,
            hit.path.absolute().as_uri(),
        )
        for hit in answer.hits
    ]
    return SheetRow(query, hits)


def thumbnail(path: Path, box: Box | None = None) -> np.ndarray:
    """The picture, or a grey square where it is gone: an answer is shown all the same."""
    try:
        image = read_image(path, box=box)
    except ImageError:
        return GREY
    step = max(max(image.shape[:2]) // 512, 1)
    return image[::step, ::step]
