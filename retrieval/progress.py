"""Progress with rate and time left, on stderr: a bar on a terminal, a line now and then elsewhere."""

import sys
import time
from types import TracebackType
from typing import Self

LINE_EVERY_SECONDS = 10.0
COMPLETING = "Completing the detector"
UNITS = {"Measuring": "candidates", COMPLETING: "pictures"}
"""What stages count, by title, where it is not vectors."""


class Progress:
    """``with Progress("Embedding", total, "pictures") as progress: progress.update(n)``."""

    def __init__(self, title: str, total: int | None, unit: str) -> None:
        from tqdm import tqdm

        self.title, self.total, self.unit = title, total, unit
        self.done, self.initial, self.started = 0, 0, time.monotonic()
        self.printed = self.started
        self.bar = tqdm(
            total=total, desc=title, unit=f" {unit}", disable=None, leave=False, file=sys.stderr
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.bar.close()

    def set_of(self, done: int, total: int) -> None:
        """So many of so many are done; what was done before the first call is no part of the rate."""
        if self.total is None:
            self.done = self.initial = done - 1
            self.total = self.bar.total = total
            self.bar.initial = self.bar.n = self.initial
        self.set(done)

    def update(self, n: int = 1) -> None:
        """``n`` more are done."""
        self.set(self.done + n)

    def set(self, done: int) -> None:
        """So many are done in all."""
        self.bar.update(done - self.done)
        self.done = done
        now = time.monotonic()
        if self.bar.disable and now - self.printed >= LINE_EVERY_SECONDS:
            self.printed = now
            elapsed = now - self.started
            line = self.bar.format_meter(
                done, self.total, elapsed, ncols=0, unit=f" {self.unit}", initial=self.initial
            )
            self.note(f"{self.title}: {line}")

    def note(self, text: str) -> None:
        """A line of its own on stderr, above the bar."""
        self.bar.write(text, file=sys.stderr)


class Stages:
    """Progress through stages: ``with Stages() as report: report("Adding", done, total)``."""

    def __init__(self) -> None:
        self.progress: Progress | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.progress is not None:
            self.progress.bar.close()

    def __call__(self, title: str, done: int, total: int) -> None:
        """So much of a stage is done; a new title closes the stage before."""
        if self.progress is None or self.progress.title != title:
            self.__exit__(None, None, None)
            self.progress = Progress(title, total, UNITS.get(title, "vectors"))
        self.progress.set(done)
