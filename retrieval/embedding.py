"""Embedding many pictures: read ahead in threads, batches of those that can be read."""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from retrieval.embedder import Embedder, embed_images
from retrieval.errors import ImageError
from retrieval.images import LOOK_AHEAD, read_images
from retrieval.objects import Found
from retrieval.pictures import Picture

Count = Callable[[int], None]
Failures = list[tuple[Path, str]]


@dataclasses.dataclass(frozen=True)
class Batch:
    """Pictures with their embeddings float32 (n,D), and (path, reason) of those between them that
    could not be read.

    Where objects are embedded, a picture stands there once for each, and ``objects`` says which of them
    it is, None for the whole; ``blanks`` are the pictures in which none was found.
    """

    pictures: list[Picture]
    vectors: np.ndarray
    failures: Failures
    objects: list[Found | None] = dataclasses.field(default_factory=list)
    blanks: list[Picture] = dataclasses.field(default_factory=list)


def embed_pictures(
    embedder: Embedder,
    pictures: Iterable[Picture],
    *,
    batch_size: int = 256,
    num_workers: int = 2,
    strict: bool = False,
    on_progress: Count = lambda n: None,
) -> Iterator[Batch]:
    """Batches of ``batch_size`` readable pictures; the last may be smaller, even empty.

    Raises ImageError with ``strict`` for a picture that cannot be read.
    """

    def embedded(kept: list[Picture], images: list[np.ndarray], failures: Failures) -> Batch:
        vectors = np.empty((0, embedder.spec.embedding_dim), np.float32)
        if images:
            vectors = embed_images(embedder, np.stack(images), batch_size=batch_size)
        return Batch(kept, vectors, failures)

    stream = read_pictures(pictures, embedder.spec.image_size, num_workers)
    yield from embedded_batches(stream, batch_size, embedded, strict, on_progress)


def read_pictures(
    pictures: Iterable[Picture], size: int | None, num_workers: int, look_ahead: int = LOOK_AHEAD
) -> Iterator[tuple[Picture, np.ndarray | ImageError]]:
    """Each picture with its pixels, or with why there are none: see ``read_images``.

    A picture is drawn from ``pictures`` just before it is read.
    """
    ahead, drawn = itertools.tee(pictures)
    stream = read_images((p.path for p in ahead), size, num_workers, look_ahead)
    for picture, (_, image) in zip(drawn, stream, strict=True):
        yield picture, image


def embedded_batches(
    stream: Iterable[tuple[Picture, np.ndarray | ImageError]],
    size: int,
    embedded: Callable[[list[Picture], list[np.ndarray], Failures], Batch],
    strict: bool,
    on_progress: Count,
) -> Iterator[Batch]:
    """What ``embedded`` makes of each ``size`` readable pictures of a stream and the failures between.

    The last ones may be fewer, even none. Raises ImageError with ``strict`` for a picture that cannot
    be read.
    """
    kept: list[Picture] = []
    images: list[np.ndarray] = []
    failures: Failures = []
    for picture, image in stream:
        if not isinstance(image, ImageError):
            kept.append(picture)
            images.append(image)
        elif strict:
            raise ImageError(f"{picture.path}: {image}") from image
        else:
            failures.append((picture.path, str(image)))
        on_progress(1)
        if len(images) == size:
            yield embedded(kept, images, failures)
            kept, images, failures = [], [], []
    if images or failures:
        yield embedded(kept, images, failures)
