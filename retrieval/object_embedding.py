"""Finding the objects of pictures, and embedding each: for galleries of objects, and to ask them."""

import dataclasses
import functools
import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from index.errors import GalleryError, ModelMismatch
from index.gallery import Gallery
from index.parts import Box
from retrieval.detection.detections import Detections
from retrieval.detection.detector import Detector, detect_pictures
from retrieval.embedder import Embedder, embed_images
from retrieval.embedding import Batch, Count, Failures, embedded_batches, read_pictures
from retrieval.errors import ImageError
from retrieval.images import part_of, read_image
from retrieval.network_files import load_detector, model_file
from retrieval.object_spec import ObjectsSpec
from retrieval.objects import Found, cut_around
from retrieval.pictures import Picture
from retrieval.questions import OnUnreadable, Question

TOGETHER = 8
"""Whole pictures that are in memory, and go through the detector, at once."""


@dataclasses.dataclass(frozen=True)
class ObjectEmbedder:
    """A detector and an embedder that work together, on objects as ``spec`` wants them."""

    detector: Detector
    embedder: Embedder
    spec: ObjectsSpec

    def find(self, pictures: Sequence[np.ndarray]) -> list[list[Found]]:
        """The objects of pictures uint8 (H,W,3), the surest first."""
        found = detect_pictures(self.detector, pictures, batch_size=TOGETHER, masks=False)
        return [
            chosen(detections, self.detector.spec.classes, picture.shape, self.spec)
            for detections, picture in zip(found, pictures, strict=True)
        ]

    def cut(self, picture: np.ndarray, box: Box | None) -> np.ndarray:
        """What is embedded of an object, or of the whole picture: uint8 (S,S,3)."""
        height, width = picture.shape[:2]
        around = (0, 0, width, height)
        if box is not None:
            around = cut_around(box, picture.shape, self.spec.margin)
        return part_of(picture, around, self.embedder.spec.image_size)

    def embed(self, cuts: Sequence[np.ndarray], batch_size: int = 256) -> np.ndarray:
        """Embeddings float32 (n,D) of what ``cut`` gave."""
        if not cuts:
            return np.empty((0, self.embedder.spec.embedding_dim), np.float32)
        return embed_images(self.embedder, np.stack(cuts), batch_size=batch_size)


def open_object_embedder(gallery: Gallery, embedder: Callable[[], Embedder]) -> ObjectEmbedder:
    """The gallery's own detector with its embedder, on the device of that.

    Raises GalleryError where the gallery has no detector, or not the one that it was made with.
    """
    objects, folder = gallery.objects, gallery.path / "detector"
    if objects is None or not gallery.has_detector:
        raise GalleryError(
            f"{gallery.path} has no detector, so no objects can be found; ask with whole photos, or "
            "with parts of them by --box, or build a gallery of objects with: retrieval build-index "
            "PHOTOS --objects DETECTOR --out OTHER.gallery"
        )
    if hashlib.sha256(model_file(folder).read_bytes()).hexdigest() != objects["detector"]:
        raise ModelMismatch(
            f"{folder} does not hold the detector that {gallery.path} was made with; restore it from a "
            "copy"
        )
    loaded = embedder()
    detector = load_detector(folder).to(loaded.mean.device)
    return ObjectEmbedder(detector, loaded, ObjectsSpec.noted(objects))


def chosen(
    found: Detections, classes: Sequence[str], shape: tuple[int, ...], spec: ObjectsSpec
) -> list[Found]:
    """The detections in a picture of ``shape`` (height, width, …) that ``spec`` wants, in whole pixels.

    Boxes grow to whole pixels; of two that become the same one, the surer is taken.
    """
    objects: dict[Box, Found] = {}
    for corners, label, score in zip(found.boxes, found.labels, found.scores, strict=True):
        left, top = (max(math.floor(value), 0) for value in corners[:2].tolist())
        right, bottom = (math.ceil(value) for value in corners[2:].tolist())
        box = (left, top, min(right, shape[1]) - left, min(bottom, shape[0]) - top)
        if score >= spec.least_score and min(box[2:]) >= spec.least_side:
            objects.setdefault(box, Found(box, classes[label], float(score)))
    return list(objects.values())[: spec.most_objects]


def embed_objects(
    embedder: ObjectEmbedder,
    pictures: Iterable[Picture],
    *,
    batch_size: int = 256,
    num_workers: int = 2,
    strict: bool = False,
    on_progress: Count = lambda n: None,
) -> Iterator[Batch]:
    """Batches of the objects, and the whole where it is wanted, of TOGETHER readable pictures each.

    ``batch_size`` is how many objects are embedded at once. Raises ImageError with ``strict`` for a
    picture that cannot be read.
    """
    stream = read_pictures(pictures, None, num_workers, TOGETHER)
    embedded = functools.partial(_embedded, embedder, batch_size)
    yield from embedded_batches(stream, TOGETHER, embedded, strict, on_progress)


def _embedded(
    embedder: ObjectEmbedder,
    batch_size: int,
    pictures: Sequence[Picture],
    images: Sequence[np.ndarray],
    failures: Failures,
) -> Batch:
    batch = Batch([], np.empty(0), failures, [], [])
    cuts = []
    for picture, image, objects in zip(pictures, images, embedder.find(images), strict=True):
        whole: list[Found | None] = [None] * embedder.spec.whole
        for found in [*objects, *whole]:
            batch.pictures.append(picture)
            batch.objects.append(found)
            cuts.append(embedder.cut(image, None if found is None else found.box))
        if not objects:
            batch.blanks.append(picture)
    return dataclasses.replace(batch, vectors=embedder.embed(cuts, batch_size))


def object_questions(
    embedder: ObjectEmbedder,
    photos: Sequence[Path],
    on_unreadable: OnUnreadable,
    on_blank: Callable[[Path], None],
) -> Iterator[Question]:
    """A question for each object of each photo, the surest first.

    Photos that cannot be read, and those without an object, are reported.
    """
    for photo in photos:
        try:
            image = read_image(photo)
        except ImageError as error:
            on_unreadable(photo, str(error))
            continue
        (objects,) = embedder.find([image])
        if not objects:
            on_blank(photo)
        vectors = embedder.embed([embedder.cut(image, found.box) for found in objects])
        for found, vector in zip(objects, vectors, strict=True):
            where = ",".join(map(str, found.box))
            title = f"{photo}: {found.label} {found.score:.2f} ({where})"
            yield Question(title, vector, (photo,), found.box)
