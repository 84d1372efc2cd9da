"""Data sets to learn from and to be measured on: pictures of one size with labels, in memory.

A data set is a name (cifar10, cifar100, mnist, fashion-mnist, digits), a folder of class folders,
or a CSV file. All become ``LabeledImages``.
"""

import csv
import dataclasses
import os
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, Self

import numpy as np

from retrieval.errors import DataError
from retrieval.images import find_images
from retrieval.picture_cache import decode_pictures

DOWNLOADS = {
    "cifar10": ("CIFAR10", "cifar-10-python.tar.gz"),
    "cifar100": ("CIFAR100", "cifar-100-python.tar.gz"),
    "mnist": ("MNIST", "MNIST/raw/train-images-idx3-ubyte.gz and its three companions"),
    "fashion-mnist": (
        "FashionMNIST", "FashionMNIST/raw/train-images-idx3-ubyte.gz and its three companions",
    ),
}  # fmt: skip
NAMES = (*DOWNLOADS, "digits")
SPLIT_FOLDERS = {
    "train": ("train",), "gallery": ("train",), "test": ("test", "val", "validation"),
}  # fmt: skip
UNLABELED = -1


@dataclasses.dataclass(frozen=True)
class LabeledImages:
    """Pictures uint8 (N,S,S,3) with labels int64 (N,), positions in ``classes``.

    Without classes all labels are −1. ``paths`` are the files, where there are any; ``left_out``
    says which files could not be read, and why.
    """

    name: str
    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    paths: tuple[Path, ...] | None = None
    left_out: tuple[tuple[Path, str], ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    def subset(self, rows: np.ndarray) -> Self:
        """The pictures of these rows, in their order."""
        paths = None if self.paths is None else tuple(self.paths[row] for row in rows)
        return dataclasses.replace(
            self, images=self.images[rows], labels=self.labels[rows], paths=paths
        )

    def holdout(self, share: float, seed: int) -> tuple[Self, Self]:
        """All but ``share`` of each class, and that share: a split that depends on the seed alone.

        A class gives two pictures or more, so that each has another to find, or none; and at least two
        stay, so that it can still be learnt from.
        """
        rng = np.random.default_rng(seed)
        held = np.zeros(len(self), bool)
        for label in np.unique(self.labels):
            rows = rng.permutation(np.flatnonzero(self.labels == label))
            wanted = round(share * len(rows))
            count = min(max(wanted, 2), len(rows) - 2) if wanted else 0
            held[rows[: count if count >= 2 else 0]] = True
        return self.subset(np.flatnonzero(~held)), self.subset(np.flatnonzero(held))

    def fold(self, number: int, folds: int, seed: int) -> tuple[Self, Self]:
        """All but part ``number`` of ``folds``, and that part: equal shares of each class.

        Every picture is in one part, whatever the folds are numbered; which one depends on the seed
        alone. Raises DataError where there are fewer pictures than folds.
        """
        if len(self) < folds:
            raise DataError(f"{self.name} has {len(self)} pictures, too few for {folds} folds")
        rng = np.random.default_rng(seed)
        # Classes one after the other, each shuffled, are dealt out in turn.
        order = np.concatenate(
            [
                rng.permutation(np.flatnonzero(self.labels == label))
                for label in np.unique(self.labels)
            ]
        )
        held = np.zeros(len(self), bool)
        held[order[number::folds]] = True
        return self.subset(np.flatnonzero(~held)), self.subset(np.flatnonzero(held))


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
    elif Path(name).is_dir():
        return _folder(Path(name), data_folder(data_dir), image_size, split, on_picture)
    elif Path(name).is_file():
        return _csv(Path(name), data_folder(data_dir), image_size, split, on_picture)
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
        with Path(name).open(newline="", encoding="utf-8-sig", errors="surrogateescape") as stream:
            return bool({"split", "is_query"} & set(next(csv.reader(stream), ())))
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


@dataclasses.dataclass(frozen=True)
class _Listing:
    """Picture files with the names of their classes (all None: no labels)."""

    name: str
    paths: list[Path]
    labels: list[str | None]
    classes: tuple[str, ...]


def _folder(
    root: Path, cache: Path, size: int | None, split: str, on_picture: Callable[[int, int], None]
) -> LabeledImages:
    parts = {part: [root / n for n in names if (root / n).is_dir()]
             for part, names in SPLIT_FOLDERS.items()}  # fmt: skip
    if parts["train"]:
        if not parts[split]:
            raise DataError(
                f"{root} has a train folder, but none of: {', '.join(SPLIT_FOLDERS[split])}"
            )
        # Classes come from the training part, so that labels mean the same in both.
        classes = _class_folders(parts["train"][0])
        root = parts[split][0]
        classes = tuple(sorted({*classes, *_class_folders(root)}))
    else:
        classes = _class_folders(root)
    paths: list[Path] = []
    labels: list[str | None] = []
    for name in classes:
        found = find_images([root / name]) if (root / name).is_dir() else []
        paths += found
        labels += [name] * len(found)
    if not paths:
        # Pictures side by side, without class folders: to be learnt from without labels.
        paths = find_images([root])
        labels, classes = [None] * len(paths), ()
    return _decode(_Listing(str(root), paths, labels, classes), cache, size, on_picture)


def _class_folders(root: Path) -> tuple[str, ...]:
    return tuple(
        sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    )


def _csv(
    file: Path, cache: Path, size: int | None, split: str, on_picture: Callable[[int, int], None]
) -> LabeledImages:
    """A CSV file with path,label[,split,is_query,is_gallery]; paths are relative to the file."""
    paths, labels = [], []
    names: set[str] = set()
    try:
        with file.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as stream:
            reader = csv.DictReader(stream)
            missing = [c for c in ("path", "label") if c not in (reader.fieldnames or ())]
            if missing:
                found = ", ".join(reader.fieldnames or ()) or "nothing"
                raise DataError(
                    f"{file} has no column {missing[0]!r}; its first line has: {found}; expected "
                    "path,label[,split,is_query,is_gallery]"
                )
            for row in reader:
                if not row["path"] or not row["label"]:
                    raise DataError(f"{file}, line {reader.line_num}: path or label is missing")
                names.add(row["label"])
                if _belongs(row, split, f"{file}, line {reader.line_num}"):
                    paths.append(file.parent / row["path"])
                    labels.append(row["label"])
    except csv.Error as error:
        raise DataError(f"{file} is not a readable CSV file: {error}") from error
    listing = _Listing(str(file), paths, list(labels), tuple(sorted(names)))
    return _decode(listing, cache, size, on_picture)


def _belongs(row: dict[str, str], split: str, where: str) -> bool:
    """Whether a row is of this part.

    What asks and what is searched is marked is_query and is_gallery, or else told by the split. What
    is learnt from is told by the split, or else by the marks: a query is not learnt from, unless it
    is in the gallery too.
    """
    part = row.get("split") or None
    if part not in (None, "train", *SPLIT_FOLDERS["test"]):
        raise DataError(f"{where}: split is {part!r}; it can be train, test, val, validation")
    asks, searched = (_mark(row.get(name), where) for name in ("is_query", "is_gallery"))
    if split == "train":
        if part is not None:
            return part == "train"
        return searched if searched is not None else not asks
    mark = asks if split == "test" else searched
    if mark is not None:
        return mark
    return part is None or (part == "train") == (split == "gallery")


def _mark(text: str | None, where: str) -> bool | None:
    if text in (None, ""):
        return None
    if text.lower() not in ("1", "0", "true", "false"):
        raise DataError(f"{where}: is_query and is_gallery are true or false, not {text!r}")
    return text.lower() in ("1", "true")


def _decode(
    listing: _Listing, cache: Path, size: int | None, on_picture: Callable[[int, int], None]
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
        left_out=tuple((listing.paths[row], reason) for row, reason in left_out),
    )
