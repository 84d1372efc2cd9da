"""What a gallery is asked: photos, parts and mixtures of photos, stored pictures, vectors.

Each kind ends as a ``Question``, a vector with the name that it is shown under.
"""

import dataclasses
import itertools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from index.gallery import Gallery
from index.items import Item
from index.parts import Box
from retrieval.comparing import linked_path
from retrieval.errors import DataError, ImageError
from retrieval.images import part_of, read_image, read_images
from retrieval.npy_files import open_npy
from retrieval.object_spec import ObjectsSpec
from retrieval.objects import cut_around

if TYPE_CHECKING:  # torch is loaded where a photo is asked with, and not for stored pictures
    from retrieval.embedder import Embedder

TOGETHER = 64
"""Photos that go through the network, and questions that are asked, at once."""
LIKE, UNLIKE = 1.0, 0.5
"""Weights of the photos of a mixture that are given without one."""
CANCELLED = 1e-3
"""A mixture shorter than this share of its weights has no direction but noise."""
OnUnreadable = Callable[[Path, str], None]
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Question:
    """A vector float32 (D,) to ask with, and where it came from.

    ``photos``, or the ``box`` of the one photo, show it, where pictures do; ``own_id`` is the stored
    picture that asks, which is not its own answer.
    """

    title: str
    vector: np.ndarray
    photos: tuple[Path, ...] = ()
    box: Box | None = None
    own_id: int | None = None


@dataclasses.dataclass(frozen=True)
class Weighted:
    """A photo of a mixture, with how much it counts: a number above 0, else DataError is raised."""

    photo: Path
    weight: float

    def __post_init__(self) -> None:
        if not (self.weight > 0 and math.isfinite(self.weight)):
            raise DataError(f"the weight of {self.photo} is {self.weight}; give a number above 0")

    @classmethod
    def parse(cls, text: str, default: float) -> "Weighted":
        """PHOTO or PHOTO:WEIGHT; a file whose whole name is ``text`` is that file.

        Raises DataError for a number that cannot be a weight.
        """
        photo, colon, number = text.rpartition(":")
        if not colon or Path(text).exists():
            return cls(Path(text), default)
        try:
            weight = float(number)
        except ValueError:
            return cls(Path(text), default)
        return cls(Path(photo), weight)


def photo_questions(
    embedder: "Embedder",
    photos: Sequence[Path],
    on_unreadable: OnUnreadable,
    box: Box | None = None,
    objects: ObjectsSpec | None = None,
) -> Iterator[Question]:
    """A question for each photo, or for that box of each; those that cannot be read are reported.

    To ask a gallery of ``objects``, which says how, a box is cut out as they were. Photos are read and
    embedded TOGETHER at a time, as the questions are taken.
    """
    from retrieval.embedder import embed_images

    size = embedder.spec.image_size
    if box is not None or len(photos) == 1:
        pictures: Iterable[tuple[Path, np.ndarray | ImageError]] = (
            (photo, _try_read(photo, size, box, objects)) for photo in photos
        )
    else:
        pictures = read_images(photos, size)
    for batch in batches(pictures):
        readable = []
        for photo, image in batch:
            if isinstance(image, ImageError):
                on_unreadable(photo, str(image))
            else:
                readable.append((photo, image))
        if readable:
            vectors = embed_images(embedder, np.stack([image for _, image in readable]))
            for (photo, _), vector in zip(readable, vectors, strict=True):
                where = "" if box is None else f" ({','.join(map(str, box))})"
                yield Question(f"{photo}{where}", vector, (photo,), box)


def picture_question(
    embedder: "Embedder",
    picture: bytes,
    box: Box | None = None,
    objects: ObjectsSpec | None = None,
) -> Question:
    """A question for a picture in memory, in any format that files may have, or for a box of it.

    ``objects`` as of ``photo_questions``. Raises ImageError where it cannot be read.
    """
    from retrieval.embedder import embed_images

    image = _try_read(picture, embedder.spec.image_size, box, objects)
    if isinstance(image, ImageError):
        raise image
    (vector,) = embed_images(embedder, image[None])
    return Question("picture", vector, box=box)


def _try_read(
    photo: Path | bytes, size: int, box: Box | None, objects: ObjectsSpec | None
) -> np.ndarray | ImageError:
    try:
        if box is None or objects is None:
            return read_image(photo, size, box)
        picture = read_image(photo)
        part_of(picture, box, size)  # raises for a box that does not lie in the picture
        return part_of(picture, cut_around(box, picture.shape, objects.margin), size)
    except ImageError as error:
        return error


def mixture(
    embedder: "Embedder", like: Sequence[Weighted], unlike: Sequence[Weighted] = ()
) -> Question:
    """One question of several photos: near those that are liked, away from the others.

    The bounded embeddings are added with their weights, those of ``unlike`` subtracted, and the sum is
    bounded again: to length 1, or divided by the sum of all weights. After Rocchio, "Relevance feedback
    in information retrieval", 1971. Raises DataError where nothing is liked, or where the photos cancel
    each other out; ImageError for a photo that cannot be read.
    """
    from retrieval.embedder import embed_images

    if not like:
        raise DataError("nothing is liked: a mixture needs at least one photo that answers be near")
    images = []
    for one in (*like, *unlike):
        try:
            images.append(read_image(one.photo, embedder.spec.image_size))
        except ImageError as error:
            raise ImageError(f"{one.photo}: {error}") from error
    weights = np.array([one.weight for one in like] + [-one.weight for one in unlike], np.float64)
    weights /= np.abs(weights).max()  # only their proportions count, and no sum overflows
    vectors = embed_images(embedder, np.stack(images)).astype(np.float64)
    mean = weights @ vectors / np.abs(weights).sum()
    length = float(np.linalg.norm(mean))
    if length < CANCELLED * float(np.linalg.norm(vectors, axis=1).max()):
        raise DataError(
            "the photos liked and not liked cancel each other out, so that nothing is left to ask "
            "with; leave one out, or change the weights"
        )
    vector = mean / length if embedder.spec.output == "unit" else mean
    title = " ".join(
        [f"+ {one.weight:g}×{one.photo}" for one in like]
        + [f"− {one.weight:g}×{one.photo}" for one in unlike]
    ).removeprefix("+ ")
    return Question(title, vector.astype(np.float32), tuple(one.photo for one in like))


def stored_questions(
    gallery: Gallery, ids: Sequence[int] = (), paths: Sequence[str] = ()
) -> Iterator[Question]:
    """A question for each stored picture, by its stored vector; it is not its own answer.

    Raises DataError, before the first question, for an id or path that the gallery does not hold.
    """
    items = gallery.items(ids)
    missing = [i for i in ids if i not in items]
    if missing:
        raise DataError(f"{gallery.path} does not hold a picture with the id {missing[0]}")
    asked = [items[i] for i in ids] + [stored_item(gallery, path) for path in paths]
    return _stored(gallery, asked)


def _stored(gallery: Gallery, items: Sequence[Item]) -> Iterator[Question]:
    for batch in batches(items):
        vectors = gallery.vectors(np.array([item.id for item in batch], np.int64))
        for item, vector in zip(batch, vectors, strict=True):
            file, box = gallery.place_of(item.path)
            photo = gallery.image_root / file
            yield Question(f"{item.path} (id {item.id})", vector, (photo,), box, own_id=item.id)


def stored_item(gallery: Gallery, path: str) -> Item:
    """The item of a path: as it is stored, which is relative to the picture folder, or as a file's.

    Raises DataError where there is none, or where the two readings mean different pictures.
    """
    as_file = os.path.relpath(os.path.abspath(path), gallery.image_root)
    readings = gallery.items_of_paths([os.path.normpath(path), as_file])
    if not readings:
        readings = gallery.items_of_paths([linked_path(gallery, Path(path))])
    found = list({item.id: item for item in readings.values()}.values())
    objects = gallery.items_of_files([os.path.normpath(path), as_file]) if not found else {}
    for file, parts in objects.items():
        raise DataError(
            f"{gallery.path} holds {len(parts)} objects of {file}; ask with one of them, such as "
            f"--path '{parts[0].path}', or with the photo and --objects"
        )
    if not found:
        raise DataError(
            f"{gallery.path} does not hold a picture {path}; paths are relative to "
            f"{gallery.image_root}, or to the current folder"
        )
    if len(found) > 1:
        names = " or ".join(f"{item.path} (--id {item.id})" for item in found)
        raise DataError(f"{path} may be {names}; ask by --id")
    return found[0]


def vector_questions(gallery: Gallery, file: Path) -> tuple[Iterator[Question], int]:
    """A question for each vector in a .npy file, (n,D) or (D,), read as they are asked; how many.

    Whether the gallery's model made them nobody can tell but whoever wrote the file. Raises DataError,
    before the first question, for any other file, for another D and for values that are not finite.
    """
    vectors = _map_vectors(file, gallery.dim)
    alone = vectors.ndim == 1
    rows = vectors[None] if alone else vectors
    with np.errstate(over="ignore"):  # what float32 cannot hold is found at once
        for start in range(0, len(rows), 4096):
            finite = np.isfinite(np.asarray(rows[start : start + 4096], np.float32)).all(axis=1)
            if not finite.all():
                raise DataError(
                    f"{file}: row {start + int(np.argmin(finite))} holds values that are not finite "
                    "numbers of 32 bits"
                )
    questions = (
        Question(str(file) if alone else f"{file}[{row}]", np.array(vector, np.float32))
        for row, vector in enumerate(rows)
    )
    return questions, len(rows)


def _map_vectors(file: Path, dim: int) -> np.ndarray:
    vectors = open_npy(file)
    if vectors.dtype.kind not in "fiu":
        raise DataError(f"{file} holds {vectors.dtype}; a .npy file of numbers is expected")
    if vectors.ndim not in (1, 2) or vectors.shape[-1] != dim or len(vectors) == 0:
        raise DataError(
            f"{file} has shape {vectors.shape}; the gallery holds vectors of {dim} numbers, so that "
            f"(n, {dim}) or ({dim},) is expected"
        )
    return vectors


def batches(values: Iterable[T], size: int = TOGETHER) -> Iterator[list[T]]:
    """The values in lists of ``size``, the last one shorter, as they come."""
    stream = iter(values)
    while batch := list(itertools.islice(stream, size)):
        yield batch
