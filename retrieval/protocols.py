"""Who asks whom when the answers are measured: test pictures the training pictures, or each other."""

import functools
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from index.gallery import Gallery
from retrieval.calibration import LabelledQueries
from retrieval.comparing import linked_path, stored_path
from retrieval.datasets import load_dataset
from retrieval.embedder import embed_images
from retrieval.errors import DataError
from retrieval.evaluation import RetrievalReport, evaluate_retrieval
from retrieval.labeled_images import LabeledImages, OnRead
from retrieval.network_files import load_embedder, model_of_gallery
from retrieval.pictures import folder_name


def evaluate_model(
    model: Path,
    dataset: str,
    protocol: str,
    *,
    data_dir: Path | None = None,
    device: torch.device | None = None,
    on_read: OnRead = lambda data: None,
    **options: Any,
) -> RetrievalReport:
    """Recall and precision of a model on a data set.

    With the protocol "test-to-train" test pictures (or those marked is_query) ask the training
    pictures (or those marked is_gallery); with "leave-one-out" test pictures ask each other.
    ``on_read`` is given the parts as they are read; ``options`` go to ``evaluate_retrieval``. Raises
    DataError where the data set has no labels.
    """
    embedder = load_embedder(model).to(device or torch.device("cpu"))
    size = embedder.spec.image_size
    test = load_dataset(dataset, data_dir=data_dir, image_size=size, split="test")
    on_read(test)
    options.setdefault("distance", embedder.spec.distance)
    queries = embed_images(embedder, test.images)
    searched, gallery = test, queries
    if protocol == "test-to-train":
        searched = load_dataset(dataset, data_dir=data_dir, image_size=size, split="gallery")
        if searched.paths is None or searched.paths != test.paths:
            on_read(searched)
        gallery = embed_images(embedder, searched.images)
    gallery_ids, query_ids = _numbers(searched, test)
    return evaluate_retrieval(
        queries, _names(test), gallery, _names(searched),
        query_ids=query_ids, gallery_ids=gallery_ids, **options,
    )  # fmt: skip


def _numbers(*parts: LabeledImages) -> list[np.ndarray]:
    """A number for each picture of these parts, int64 (N,) for each: one number for one file.

    A file that is reached by links, or named twice, is one. Pictures in no file of their own are apart.
    """
    known: dict[object, int] = {}
    numbers = []
    for part in parts:
        rows: Iterable[object] = ((id(part), row) for row in range(len(part)))
        files = rows if part.paths is None else map(os.path.realpath, part.paths)
        numbers.append(np.array([known.setdefault(file, len(known)) for file in files], np.int64))
    return numbers


def evaluate_gallery(
    path: Path,
    queries: str | None,
    *,
    data_dir: Path | None = None,
    device: torch.device | None = None,
    on_read: OnRead = lambda data: None,
    **options: Any,
) -> RetrievalReport:
    """Recall and precision of a gallery whose pictures have labels.

    ``queries`` is a data set, such as a folder of class folders or a CSV file, of which the test part
    asks; a query that stands in the gallery too
    (the same file) does not find itself. Without it the gallery's pictures ask each other.
    """
    gallery = Gallery.open(path)
    ids, vectors, labels = gallery.labelled()
    if queries is None:
        return evaluate_retrieval(
            vectors, labels, vectors, labels, query_ids=ids, gallery_ids=ids,
            distance=gallery.metric, **options,
        )  # fmt: skip
    asked = labelled_queries(gallery, queries, data_dir=data_dir, device=device, on_read=on_read)
    return evaluate_retrieval(
        asked.vectors, asked.labels, vectors, labels,
        query_ids=asked.ids, gallery_ids=ids, distance=gallery.metric, **options,
    )  # fmt: skip


def labelled_queries(
    gallery: Gallery,
    queries: str,
    *,
    data_dir: Path | None = None,
    device: torch.device | None = None,
    on_read: OnRead = lambda data: None,
) -> LabelledQueries:
    """The test part of a data set, embedded by the gallery's own model.

    Pictures of a folder have the label that they would have in a gallery: the name of the folder that
    they lie in. Raises DataError where there are no labels.
    """
    embedder = load_embedder(model_of_gallery(gallery)).to(device or torch.device("cpu"))
    size = embedder.spec.image_size
    asked = load_dataset(queries, data_dir=data_dir, image_size=size, split="test")
    on_read(asked)
    names = _names(asked)
    if Path(queries).is_dir() and asked.paths is not None:
        names = np.array([folder_name(path) for path in asked.paths])
    return LabelledQueries(embed_images(embedder, asked.images), names, _ids_of(gallery, asked))


def _ids_of(gallery: Gallery, data: LabeledImages) -> np.ndarray:
    """The gallery's ids of the files of a data set, −1 for files that are not in it: int64 (N,)."""
    if data.paths is None:  # pictures that are in no file of their own
        return np.full(len(data), -1, np.int64)
    known = {item.path: item.id for item in gallery.all_items()}
    real = functools.cache(os.path.realpath)

    def id_of(path: Path) -> int:
        by_name = known.get(stored_path(gallery, path))
        return known.get(linked_path(gallery, path, real), -1) if by_name is None else by_name

    return np.array([id_of(path) for path in data.paths], np.int64)


def _names(data: LabeledImages) -> np.ndarray:
    """The class names of all pictures, so that label sets of two sources agree."""
    if not data.classes:
        raise DataError(
            f"{data.name} has no labels, so that nobody can say what a right answer is; put its "
            "pictures in one folder for each class"
        )
    return np.asarray(data.classes)[data.labels]
