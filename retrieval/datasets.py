"""Data sets to learn from and to be measured on: pictures of one size with labels, in memory.

A data set is a name (cifar10, cifar100, mnist, fashion-mnist, digits), a folder of class folders,
or a CSV file. All become ``LabeledImages``.
"""

import dataclasses
import os
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.csv_rows import csv_rows
from retrieval.errors import DataError
from retrieval.labeled_images import UNLABELED, LabeledImages
from retrieval.picture_cache import decode_pictures
from retrieval.picture_lists import SPLIT_FOLDERS, PictureList, list_csv, list_folder

DOWNLOADS = {
    "cifar10": ("CIFAR10", "cifar-10-python.tar.gz"),
    "cifar100": ("CIFAR100", "cifar-100-python.tar.gz"),
    "mnist": ("MNIST", "MNIST/raw/train-images-idx3-ubyte.gz and its three companions"),
    "fashion-mnist": (
        "FashionMNIST", "FashionMNIST/raw/train-images-idx3-ubyte.gz and its three companions",
    ),
}  # fmt: skip
NAMES = (*DOWNLOADS, "digits")


def data_folder(data_dir: Path | None) -> Path:
    """Where data lives: ``data_dir``, else the variable RETRIEVAL_DATA, else ~/.cache/retrieval."""
    chosen = data_dir or os.environ.get("RETRIEVAL_DATA") or "~/.cache/retrieval"
    return Path(chosen).expanduser()


def load_dataset(
    name: str,
    *,
    data_dir: Path | None = None,
    image_size: int | None = None,
    split: str = "train",
    on_picture: Callable[[int, int], None] = lambda done, total: None,
) -> LabeledImages:
    """The "train", "gallery" or "test" part of a data set, at ``image_size`` or a size that suits it.

    What is searched, the gallery, is what is learnt from, unless a CSV file marks rows is_gallery.
    A folder without train/ and test/ folders, or a CSV file without a split column, is one part that
    serves as all. Raises DataError where the data set is missing, empty, or not laid out as expected.
    """
    if name == "digits":
        data = _digits(split)
    elif name in DOWNLOADS:
        data = _torchvision(name, data_folder(data_dir), split)
    elif name and Path(name).is_dir():  # Path("") would be the current folder
        listing = list_folder(Path(name), split)
        return _decode(listing, data_folder(data_dir), image_size, on_picture)
    elif Path(name).is_file():
        listing = list_csv(Path(name), split)
        return _decode(listing, data_folder(data_dir), image_size, on_picture)
    else:
        raise DataError(
            f"there is no data set {name!r}: it is neither a folder, nor a CSV file, nor one of "
            f"{', '.join(NAMES)}"
        )
    return _resized(data, image_size)


def has_test_part(name: str) -> bool:
    """Whether test pictures are told apart from those to learn from; a name is not looked for."""
    if Path(name).is_dir():
        return any((Path(name) / part).is_dir() for part in SPLIT_FOLDERS["train"])
    if Path(name).is_file():
        with csv_rows(Path(name), skipinitialspace=True) as (columns, _):
            return not {"split", "is_query"}.isdisjoint(columns)
    return True


def _digits(split: str) -> LabeledImages:
    """scikit-learn's 1,797 handwritten digits, 8×8; every fifth of each class is the test part."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = (bunch.images * (255 / 16)).round().astype(np.uint8)
    labels = bunch.target.astype(np.int64)
    nth = np.zeros(len(labels), np.int64)
    for label in range(10):
        nth[labels == label] = np.arange((labels == label).sum())
    rows = np.flatnonzero((nth % 5 == 4) == (split == "test"))
    rgb = np.repeat(images[rows, :, :, None], 3, axis=3)
    return LabeledImages("digits", rgb, labels[rows], tuple("0123456789"))


def _torchvision(name: str, folder: Path, split: str) -> LabeledImages:
    """A data set that torchvision downloads and checks (against MD5 sums of its own)."""
    import sys

    from torchvision import datasets

    class_name, archive = DOWNLOADS[name]
    try:
        with redirect_stdout(sys.stderr):
            data: Any = getattr(datasets, class_name)(
                str(folder), train=split != "test", download=True
            )
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"{name} is not in {folder} and cannot be downloaded ({error}). Put {archive} into "
            f"{folder} (or name another folder with --data-dir), or use what needs no network: "
            "--dataset digits, or a folder that holds one folder of pictures for each class"
        ) from error
    images = np.asarray(data.data)
    if images.ndim == 3:
        images = np.repeat(images[:, :, :, None], 3, axis=3)
    labels = np.asarray(data.targets, np.int64)
    return LabeledImages(name, images, labels, tuple(map(str, data.classes)))


def _resized(data: LabeledImages, size: int | None) -> LabeledImages:
    """``data`` at ``size`` (by default at least 32 pixels), scaled as pictures in files are."""
    from PIL import Image

    size = size or max(data.images.shape[1], 32)
    if data.images.shape[1] == size:
        return data
    scaled = [
        np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))
        for image in data.images
    ]
    return dataclasses.replace(data, images=np.stack(scaled))


def _decode(
    listing: PictureList, cache: Path, size: int | None, on_picture: Callable[[int, int], None]
) -> LabeledImages:
    if not listing.paths:
        raise DataError(
            f"there are no pictures in {listing.name}; expected one folder of pictures for each "
            "class, or train/ and test/ folders that hold such folders"
        )
    images, left_out = decode_pictures(listing.paths, size, cache / "decoded", on_picture)
    bad = {row for row, _ in left_out}
    kept = [row for row in range(len(listing.paths)) if row not in bad]
    if not kept:
        raise DataError(
            f"none of the {len(bad)} pictures in {listing.name} can be read; the first, "
            f"{listing.paths[0]}: {left_out[0][1]}"
        )
    number = {name: position for position, name in enumerate(listing.classes)}
    labels = [number.get(listing.labels[row] or "", UNLABELED) for row in kept]
    return LabeledImages(
        name=listing.name,
        images=images,
        labels=np.asarray(labels, np.int64),
        classes=listing.classes,
        paths=tuple(listing.paths[row] for row in kept),
        left_out=(
            *((listing.paths[row], reason) for row, reason in left_out),
            *listing.left_out,
        ),
        notes=listing.notes,
    )
