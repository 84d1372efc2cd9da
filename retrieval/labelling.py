"""Asking classifiers: photos in, the most probable classes out; and how good the answers are."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from retrieval.classification import ClassificationReport, evaluate_classification
from retrieval.classifier import Classifier, classes_of, classify_images
from retrieval.datasets import load_dataset
from retrieval.errors import DataError, ImageError
from retrieval.images import read_image
from retrieval.labeled_images import OnRead
from retrieval.network_files import load_classifier


@dataclasses.dataclass(frozen=True)
class Labels:
    """The most probable classes of one photo, each with its probability, most probable first."""

    photo: Path
    classes: list[tuple[str, float]]

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON types."""
        classes = [{"class": name, "probability": p} for name, p in self.classes]
        return {"photo": str(self.photo), "classes": classes}


class Labeller:
    """One classifier or several, whose probabilities are averaged."""

    def __init__(self, classifiers: Sequence[Classifier], views: str = "none") -> None:
        """Raises ConfigError where the classifiers do not know the same classes."""
        self.classifiers, self.views = list(classifiers), views
        self.classes = classes_of(classifiers)

    @classmethod
    def open(
        cls, models: Sequence[Path], *, views: str = "none", device: torch.device | None = None
    ) -> Self:
        """The classifiers in these run folders or files; raises as ``load_classifier`` does."""
        where = device or torch.device("cpu")
        return cls([load_classifier(model).to(where) for model in models], views)

    def classify_files(
        self, photos: Sequence[Path], top: int = 5
    ) -> tuple[list[Labels], list[tuple[Path, str]]]:
        """The ``top`` classes of each photo that can be read, and (photo, reason) of the others."""
        answers, unreadable = [], []
        for photo in photos:
            try:
                probabilities = self._of_photo(photo)
            except ImageError as error:
                unreadable.append((photo, str(error)))
                continue
            order = np.argsort(-probabilities, kind="stable")[:top]
            answers.append(
                Labels(photo, [(self.classes[i], float(probabilities[i])) for i in order])
            )
        return answers, unreadable

    def _of_photo(self, photo: Path) -> np.ndarray:
        found = []
        for classifier in self.classifiers:
            image = read_image(photo, classifier.spec.image_size)
            found.append(classify_images(classifier, image[None], views=self.views)[0])
        mean: np.ndarray = np.mean(found, axis=0)
        return mean

    def evaluate(
        self,
        dataset: str,
        *,
        data_dir: Path | None = None,
        on_read: OnRead = lambda data: None,
    ) -> ClassificationReport:
        """Score the test part of a data set, whose classes are matched by name.

        ``on_read`` is given that part, as each classifier's size of pictures has it.
        Raises DataError where a picture is of a class that is not known.
        """
        total: np.ndarray | None = None
        for classifier in self.classifiers:
            size = classifier.spec.image_size
            data = load_dataset(dataset, data_dir=data_dir, image_size=size, split="test")
            on_read(data)
            found = classify_images(classifier, data.images, views=self.views)
            total = found if total is None else total + found
        assert total is not None
        used = {data.classes[label] if label >= 0 else "none" for label in np.unique(data.labels)}
        unknown = sorted(used - set(self.classes))
        if unknown:
            raise DataError(
                f"{data.name} has pictures of class {unknown[0]!r}, which the model does not know; it "
                f"knows: {', '.join(self.classes)}"
            )
        place = {name: i for i, name in enumerate(self.classes)}
        labels = np.array([place[data.classes[label]] for label in data.labels], np.int64)
        return evaluate_classification(total / len(self.classifiers), labels, self.classes)
