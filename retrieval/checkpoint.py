"""A run folder and what is in it: read and written safely, never through pickle.

runs/NAME/
    config.json          the configuration of the run
    model.safetensors    the best embedder, classifier or detector so far, with its spec in the header
    last.pt              what --resume continues from (read weights-only)
    metrics.jsonl        one line an epoch
    curves.png           the same as a picture
"""

import dataclasses
import io
import json
import shutil
import time
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Generic, Self, TypeVar, cast

import torch
from torch import nn

from index.atomic import write_atomically
from retrieval.curves import training_curves
from retrieval.errors import CheckpointError
from retrieval.network import Network
from retrieval.network_files import MODEL_FILE, save_network
from retrieval.run_config import TrainEmbedConfig
from retrieval.settings import Checked

FOLDS_FILE = "folds.json"
"""What cross-validation found; beside it stand the runs of its folds, fold-1, fold-2, …"""
DRAW_EVERY_SECONDS = 10.0
"""Drawing takes a third of a second, as long as many epochs of a small run."""
KEPT = (MODEL_FILE, "last.pt", "metrics.jsonl", "curves.png", FOLDS_FILE)
"""What a run leaves in its folder beside the configuration."""
C = TypeVar("C", bound=Checked)


@dataclasses.dataclass(frozen=True)
class Run(Generic[C]):
    """A run folder, with a configuration of this ``kind``."""

    folder: Path
    kind: type[C] = TrainEmbedConfig  # type: ignore[assignment]

    @property
    def exists(self) -> bool:
        """Whether there is anything in the folder that ``start`` would delete."""
        left = ("config.json", *KEPT)
        return any((self.folder / name).exists() for name in left) or any(self._folds())

    def start(self, config: C) -> None:
        """Make the folder and note the configuration; an older run in it is forgotten."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in KEPT:
            (self.folder / name).unlink(missing_ok=True)
        for fold in self._folds():
            shutil.rmtree(fold)
        text = json.dumps(config.to_dict(), indent=2) + "\n"
        write_atomically(self.folder / "config.json", text.encode())

    def _folds(self) -> list[Path]:
        return [file.parent for file in self.folder.glob("fold-[0-9]*/config.json")]

    def config(self) -> C:
        """The configuration noted in the folder. Raises CheckpointError where there is none."""
        file = self.folder / "config.json"
        try:
            return self.kind.from_dict(json.loads(file.read_text()))
        except OSError as error:
            raise CheckpointError(f"{self.folder} is not a run folder: no config.json") from error
        except (ValueError, TypeError) as error:
            raise CheckpointError(f"{file} is not a configuration of ours: {error}") from error

    def history(self) -> list[dict[str, float]]:
        """The figures of each epoch that has ended."""
        lines = (self.folder / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def best(self, score: str) -> dict[str, float] | None:
        """The figures of the epoch whose network is kept; None where there was no such ``score``."""
        measured = [record for record in self.history() if score in record]
        # Of equal ones ``fit`` keeps the last.
        return max(reversed(measured), key=lambda record: record[score], default=None)

    def save_state(self, state: dict[str, Any]) -> None:
        """Replace last.pt and metrics.jsonl by what ``state`` holds."""
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_atomically(self.folder / "last.pt", buffer.getvalue())
        self._save_history(state)

    def _save_history(self, state: dict[str, Any]) -> None:
        lines = "".join(json.dumps(record) + "\n" for record in state["history"])
        write_atomically(self.folder / "metrics.jsonl", lines.encode())

    def mend(self, state: dict[str, Any] | None) -> None:
        """Undo what a kill may have left: files half written, figures that ``state`` is ahead of."""
        for name in ("config.json", *KEPT):
            for part in self.folder.glob(f".{name}.*.part"):
                part.unlink(missing_ok=True)
        if state is not None:
            self._save_history(state)

    def load_state(self) -> dict[str, Any] | None:
        """What ``save_state`` wrote, or None where nothing is there yet.

        Raises CheckpointError where the file is damaged.
        """
        file = self.folder / "last.pt"
        if not file.exists():
            return None
        try:
            # torch does not look at the checksums of the zip file that it writes.
            with zipfile.ZipFile(file) as archive:
                damaged = archive.testzip()
            if damaged is not None:
                raise zipfile.BadZipFile(f"the checksum of {damaged} is wrong")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises a dozen kinds for a damaged file
            raise CheckpointError(
                f"{file} is damaged ({error}); start afresh with --overwrite"
            ) from error
        return state


class Recorder:
    """Keeps in the folder of a run what training makes.

    A run that is there already goes when the new one has something to keep: a mistake that shows in the
    first steps must not cost it. With ``resume`` nothing goes, and the folder is brought to ``state``,
    what ``load_state`` gave. A process that does not ``keep`` anything leaves the folder as it is.
    ``within`` keeps the run that this one is a part of, which begins with it. Used in a ``with``
    statement it draws the curves now and then, and when the statement ends.
    """

    def __init__(
        self,
        run: Run[C],
        config: C,
        panels: Sequence[Any],
        *,
        resume: bool,
        state: dict[str, Any] | None = None,
        keep: bool = True,
        within: "Recorder | None" = None,
    ) -> None:
        self.run, self.config, self.panels, self.within = run, config, panels, within
        self.begun = resume or not keep
        self.undrawn: list[dict[str, float]] = []
        self.drawn_at = time.monotonic()
        if keep:
            run.mend(state)
        if not run.exists and (within is None or within.begun):
            self._begin()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._draw()

    def save_best(self, network: nn.Module) -> None:
        """Keep the best network so far."""
        self._begin()
        save_network(cast("Network", network), self.run.folder / MODEL_FILE)

    def save_state(self, state: dict[str, Any]) -> None:
        """Keep what a resumed run goes on from, and the figures of its epochs."""
        self._begin()
        self.run.save_state(state)
        if state["step"] == 0:  # within an epoch there is nothing new to draw
            self.undrawn = state["history"]
        if time.monotonic() - self.drawn_at > DRAW_EVERY_SECONDS:
            self._draw()

    def _draw(self) -> None:
        if self.undrawn:
            training_curves(self.undrawn, self.run.folder / "curves.png", self.panels)
        self.undrawn, self.drawn_at = [], time.monotonic()

    def _begin(self) -> None:
        if not self.begun:
            if self.within is not None:
                self.within._begin()
            self.run.start(self.config)
        self.begun = True
