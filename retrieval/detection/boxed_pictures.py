"""Pictures with the objects that they show: what detectors learn from and are measured on."""

import dataclasses
import hashlib
import os
from pathlib import Path
from typing import Self

import numpy as np

from retrieval.checksum import checksum
from retrieval.errors import DataError, ImageError
from retrieval.images import read_image

BEGINNING = 1 << 16
"""Bytes of a file by which it is known again: photographs take long to read whole."""


@dataclasses.dataclass(frozen=True)
class Objects:
    """The R known objects of one picture.

    ``boxes`` float32 (R,4): left, top, right, bottom in pixels; ``labels`` int64 (R,), positions among
    the classes; ``crowd`` bool (R,): boxes around many, which are neither learnt from nor missed;
    ``masks`` bool (R,H,W), or None where only boxes are known. No objects: R is 0.
    Raises ValueError where the shapes do not fit.
    """

    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    masks: np.ndarray | None = None

    def __post_init__(self) -> None:
        count = len(self.labels)
        masks = count if self.masks is None else len(self.masks)
        if self.boxes.shape != (count, 4) or len(self.crowd) != count or masks != count:
            raise ValueError(
                f"boxes {self.boxes.shape}, labels {self.labels.shape}, crowd {self.crowd.shape} and "
                f"{masks} masks do not go together; expected (R,4), (R,), (R,) and R"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, rows: np.ndarray) -> Self:
        """The objects of these rows (positions or a mask of bool), in their order."""
        masks = None if self.masks is None else self.masks[rows]
        return dataclasses.replace(
            self,
            boxes=self.boxes[rows],
            labels=self.labels[rows],
            crowd=self.crowd[rows],
            masks=masks,
        )


@dataclasses.dataclass(frozen=True)
class BoxedPictures:
    """Pictures, as files or uint8 (H,W,3) in memory, each with its ``objects``.

    ``left_out`` says which files, or objects of them, could not be taken, and why.
    """

    name: str
    classes: tuple[str, ...]
    pictures: tuple[Path | np.ndarray, ...]
    objects: tuple[Objects, ...]
    left_out: tuple[tuple[Path, str], ...] = ()

    def __len__(self) -> int:
        return len(self.pictures)

    def identity(self) -> str:
        """What tells these from other pictures, in words; with a sum over names, boxes and labels."""
        digest = hashlib.sha256(repr(self.classes).encode("utf-8", "surrogateescape"))
        for picture, objects in zip(self.pictures, self.objects, strict=True):
            name = b"" if isinstance(picture, np.ndarray) else os.fsencode(picture)
            digest.update(b"\0" + name + objects.boxes.tobytes() + objects.labels.tobytes())
        count = sum(map(len, self.objects))
        return f"{len(self):,} pictures with {count:,} objects ({digest.hexdigest()[:8]})"

    def checksum(self) -> str:
        """A sum, in words, by which changed pictures are noticed: of files by size and beginning."""
        return checksum(len(self), lambda row: _content(self.pictures[row]))

    def read(self, row: int) -> np.ndarray:
        """The picture of this row, uint8 (H,W,3). Raises DataError where it cannot be read."""
        picture = self.pictures[row]
        if isinstance(picture, np.ndarray):
            return picture
        try:
            return read_image(picture)
        except ImageError as error:
            raise DataError(f"{picture} cannot be read: {error}") from error

    def subset(self, rows: np.ndarray) -> Self:
        """The pictures of these rows, in their order."""
        return dataclasses.replace(
            self,
            pictures=tuple(self.pictures[row] for row in rows),
            objects=tuple(self.objects[row] for row in rows),
        )

    def holdout(self, share: float, seed: int) -> tuple[Self, Self]:
        """All but ``share`` of the pictures, and that share; it depends on the seed alone.

        Both keep at least one picture, where a share above 0 is wanted and there are two.
        """
        order = np.random.default_rng(seed).permutation(len(self))
        count = min(max(round(share * len(self)), 1), len(self) - 1) if share else 0
        return self.subset(np.sort(order[count:])), self.subset(np.sort(order[:count]))


def _content(picture: Path | np.ndarray) -> bytes:
    if isinstance(picture, np.ndarray):
        return picture.tobytes()
    if not picture.is_file():
        return b""
    with picture.open("rb") as file:
        return b"%d" % picture.stat().st_size + file.read(BEGINNING)
