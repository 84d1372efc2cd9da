"""Asking a gallery: photos in, hits out."""

import dataclasses
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from index.gallery import Gallery
from retrieval.checkpoint import embedder_id, load_embedder
from retrieval.embedder import Embedder, embed_images
from retrieval.errors import ImageError
from retrieval.images import read_image
from retrieval.report import SheetRow, Tile

logger = logging.getLogger(__name__)


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
    """The hits of one photo, nearest first."""

    photo: Path
    hits: list[Hit]

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON types."""
        return {"photo": str(self.photo), "hits": [hit.to_dict() for hit in self.hits]}


class Searcher:
    """A gallery with its model, ready to be asked."""

    def __init__(self, gallery: Gallery, embedder: Embedder) -> None:
        self.gallery, self.embedder = gallery, embedder

    @classmethod
    def open(cls, path: Path, model: Path | None = None) -> Self:
        """The gallery at ``path`` with the model stored in it.

        ``model``, if given, must be that model too: ModelMismatch is raised if it is not.
        """
        gallery = Gallery.open(path)
        for note in gallery.notes:
            logger.warning("%s", note)
        if model is not None:
            gallery.check_model(embedder_id(model), str(model))
        embedder = load_embedder(gallery.path / "model")
        gallery.check_model(embedder_id(gallery.path / "model"), f"{gallery.path / 'model'}")
        return cls(gallery, embedder)

    def query(
        self,
        images: np.ndarray,
        k: int = 10,
        *,
        exact: bool = False,
        where: str | None = None,
    ) -> list[list[Hit]]:
        """The k nearest of each picture uint8 (Q,S,S,3), S the embedder's image size."""
        vectors = embed_images(self.embedder, images)
        neighbors = self.gallery.search(vectors, k, exact=exact, where=where)
        items = self.gallery.items(neighbors.ids)
        root = self.gallery.image_root
        answers = []
        for ids, distances in zip(
            neighbors.ids.tolist(), neighbors.distances.tolist(), strict=True
        ):
            found = [(d, items[i]) for d, i in zip(distances, ids, strict=True) if i in items]
            answers.append(
                [
                    Hit(rank, d, item.id, _readable(root / item.path), item.label, item.metadata)
                    for rank, (d, item) in enumerate(found, 1)
                ]
            )
        return answers

    def query_files(
        self,
        photos: Sequence[Path],
        k: int = 10,
        *,
        exact: bool = False,
        where: str | None = None,
    ) -> tuple[list[Answer], list[tuple[Path, str]]]:
        """An answer for each photo that can be read, and (photo, reason) of the others."""
        images, readable, unreadable = [], [], []
        for photo in photos:
            try:
                images.append(read_image(photo, self.embedder.spec.image_size))
                readable.append(photo)
            except ImageError as error:
                unreadable.append((photo, str(error)))
        if not images:
            return [], unreadable
        hits = self.query(np.stack(images), k, exact=exact, where=where)
        return [Answer(p, h) for p, h in zip(readable, hits, strict=True)], unreadable


def _readable(path: Path) -> Path:
    """The path without steps up and down, relative to the current folder where it lies below it."""
    path = Path(os.path.normpath(path))
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def sheet_row(answer: Answer, label: str | None = None) -> SheetRow:
    """The answer as pictures; with the ``label`` of the photo each hit is marked right or wrong."""
    query = Tile(_thumbnail(answer.photo), answer.photo.name)
    hits = [
        Tile(
            _thumbnail(hit.path),
            f"{hit.distance:.3f} · {hit.label}" if hit.label else f"{hit.distance:.3f}",
            None if label is None else hit.label == label,
            hit.path.absolute().as_uri(),
        )
        for hit in answer.hits
    ]
    return SheetRow(query, hits)


def _thumbnail(path: Path) -> np.ndarray:
    """The picture, or a grey square where it is gone: an answer is shown all the same."""
    try:
        image = read_image(path)
    except ImageError:
        return np.full((128, 128, 3), 200, np.uint8)
    step = max(max(image.shape[:2]) // 512, 1)
    return image[::step, ::step]
