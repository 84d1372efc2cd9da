"""Pictures of one size with labels: what is learnt from and measured on."""

import dataclasses
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Self

import numpy as np

from retrieval.checksum import checksum
from retrieval.errors import DataError
from retrieval.mapped_rows import Rows, rows_of

UNLABELED = -1


@dataclasses.dataclass(frozen=True)
class LabeledImages:
    """Pictures uint8 (N,S,S,3), in memory or mapped, with labels int64 (N,), positions in ``classes``.

    Without classes all labels are −1. ``paths`` are the files, where there are any; ``left_out``
    says which files could not be read, and why; ``notes`` what else people should know.
    """

    name: str
    images: Rows
    labels: np.ndarray
    classes: tuple[str, ...]
    paths: tuple[Path, ...] | None = None
    left_out: tuple[tuple[Path, str], ...] = ()
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    def identity(self) -> str:
        """What tells these from other pictures, in words; with a sum over names and labels."""
        digest = hashlib.sha256(repr(self.classes).encode("utf-8", "surrogateescape"))
        digest.update(self.labels.tobytes())
        for path in self.paths or ():
            digest.update(b"\0" + os.fsencode(path))
        return f"{len(self):,} pictures of {len(self.classes)} classes ({digest.hexdigest()[:8]})"

    def checksum(self) -> str:
        """A sum over the pixels, in words, by which changed pictures are noticed."""
        return checksum(len(self), lambda row: self.images[row].tobytes())

    def subset(self, rows: np.ndarray) -> Self:
        """The pictures of these rows, in their order."""
        paths = None if self.paths is None else tuple(self.paths[row] for row in rows)
        return dataclasses.replace(
            self, images=rows_of(self.images, rows), labels=self.labels[rows], paths=paths
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


OnRead = Callable[[LabeledImages], None]
"""What is told of each part of a data set when it has been read."""
