"""Train the detectors one after the other on one data set, and measure each on its test pictures.

All pictures of the training part are learnt from, nothing is held out, and the detector after the last
epoch is measured, once. A run that was stopped goes on where it was, and one that is finished is not
trained again, when the same command is given again.

Class error and box error are the two figures of the course "Dive into Deep Learning" for its tiny SSD:
means over all anchor boxes, nearly all of which are background. They are small for a detector that
finds nothing, too; mean average precision (mAP) is what says how much is found.

Example: python scripts/compare_detectors.py --dataset PennFudanPed/ --hold-out 0.2 --out runs/detectors
"""

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from retrieval.cli.commands import Command
from retrieval.cli.options import FiniteRange
from retrieval.config import BoxAugmentConfig
from retrieval.detection.boxed_batches import BoxedBatches
from retrieval.detection.boxed_datasets import has_test_part, load_boxed_pictures
from retrieval.detection.boxed_pictures import BoxedPictures
from retrieval.detection.catalogue import CLASSES
from retrieval.detection.detection_report import evaluate_detector
from retrieval.detection.detector import detect_pictures
from retrieval.detection.multibox import MultiBox, anchor_errors
from retrieval.device import choose_device
from retrieval.errors import DataError
from retrieval.network_files import load_detector
from retrieval.presets import DETECT_SETTINGS
from retrieval.run_config import TrainDetectConfig
from retrieval.train_detect import DetectorRun, Listener, run_at, train_detect

TIMED = 32
"""Pictures that are looked for objects one at a time, against the clock."""
UNCHANGED = BoxAugmentConfig(flip=False, brightness=0, contrast=0, saturation=0, hue=0)


@dataclasses.dataclass(frozen=True)
class Result:
    """What came of one detector; ``errors``: class and box error, where it has anchor boxes."""

    name: str
    parameters: int
    epochs: int
    minutes: float
    pictures_per_second: float
    map_50: float | None
    map: float | None
    errors: tuple[float, float] | None


def train_and_test(dataset: str, hold_out: float | None) -> tuple[BoxedPictures, BoxedPictures]:
    """Pictures to learn from, and others to measure on. Raises DataError where they are the same."""
    train = load_boxed_pictures(dataset, split="train")
    if hold_out is not None:
        return train.holdout(hold_out, seed=0)
    if not has_test_part(dataset):
        raise DataError(
            f"{dataset} has no test part of its own; --hold-out 0.2 keeps a fifth of it for that"
        )
    return train, load_boxed_pictures(dataset, split="test")


def config_of(model: str, dataset: str, given: dict[str, Any]) -> TrainDetectConfig:
    """The configuration of one detector's run."""
    settings = {**DETECT_SETTINGS[model], "validation": 0.0, **given}
    return TrainDetectConfig().with_values({**settings, "model": model, "dataset": dataset})


def measure(run: DetectorRun, name: str, test: BoxedPictures, device: torch.device) -> Result:
    """Score a finished run on the test pictures."""
    detector = load_detector(run.folder).to(device)
    report = evaluate_detector(detector, test)
    pictures = [test.read(row) for row in range(min(TIMED, len(test)))]
    started = time.monotonic()
    for picture in pictures:
        detect_pictures(detector, [picture])
    seconds = time.monotonic() - started
    lines = (run.folder / "metrics.jsonl").read_text().splitlines()
    return Result(
        name=name,
        parameters=sum(p.numel() for p in detector.parameters()),
        epochs=len(lines),
        minutes=sum(json.loads(line)["seconds"] for line in lines) / 60,
        pictures_per_second=len(pictures) / seconds,
        map_50=report.map_50,
        map=report.map,
        errors=course_errors(detector, test, device) if isinstance(detector, MultiBox) else None,
    )


@torch.no_grad()
def course_errors(
    detector: MultiBox, test: BoxedPictures, device: torch.device
) -> tuple[float, float]:
    """Class error and mean absolute error of offsets, of the test pictures."""
    batches = BoxedBatches(
        test, detector, device, batch_size=min(16, len(test)), augmentation=UNCHANGED, seed=0
    )
    found = [anchor_errors(detector, batches(0, step)[0]) for step in range(batches.steps)]
    wrong, far = np.mean(found, axis=0)
    return float(wrong), float(far)


def table(results: list[Result]) -> str:
    """The results as a Markdown table."""
    lines = [
        "| detector | parameters | epochs | minutes | pictures/s | mAP@0.5 | mAP@[.5:.95] | "
        "class error | box error |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for r in results:
        precision = " | ".join("" if x is None else f"{x:.3f}" for x in (r.map_50, r.map))
        errors = " | ".join(["", ""] if r.errors is None else [f"{x:.2e}" for x in r.errors])
        lines.append(
            f"| {r.name} | {r.parameters:,} | {r.epochs} | {r.minutes:.1f} | "
            f"{r.pictures_per_second:.1f} | {precision} | {errors} |"
        )
    return "\n".join(lines)


@click.command(cls=Command, help=__doc__)
@click.option("--dataset", required=True, help="As for train-detect.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for the runs.")
@click.option(
    "--hold-out",
    type=FiniteRange(0.01, 0.9),
    help="Test on this share of the pictures, of data that have no test part.",
)
@click.option("--only", multiple=True, type=click.Choice(list(CLASSES)))
@click.option("--backbone", help="For all, in place of each one's own.")
@click.option("--image-size", type=click.IntRange(64, 1024))
@click.option("--from", "weights", help="A run whose network, or backbone, all begin with.")
@click.option("--epochs", type=click.IntRange(1))
@click.option("--batch-size", type=click.IntRange(1))
@click.option("--lr", type=float)
@click.option("--device", default="auto", show_default=True)
def main(
    dataset: str,
    out: Path,
    hold_out: float | None,
    only: tuple[str, ...],
    device: str,
    **options: str | float | None,
) -> None:
    train, test = train_and_test(dataset, hold_out)
    given = {name: value for name, value in options.items() if value is not None}
    chosen = choose_device(device)
    results = []
    for model in [name for name in CLASSES if not only or name in only]:
        run, config = run_at(out / model), config_of(model, dataset, given)

        def tell(record: dict[str, float], name: str = model) -> None:
            click.echo(f"{name} epoch {record['epoch']:.0f}: loss {record['loss']:.3f}, "
                       f"{record['seconds']:.1f} s", err=True)  # fmt: skip

        resume = run.exists and run.config() == config
        listener = Listener(on_epoch=tell)
        if not train_detect(config, train, run, device=chosen, resume=resume, listener=listener):
            raise SystemExit(130)
        results.append(measure(run, model, test, chosen))
        click.echo(table(results[-1:]).splitlines()[-1], err=True)
    click.echo(table(results))


if __name__ == "__main__":
    main()
