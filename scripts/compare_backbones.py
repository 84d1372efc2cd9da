"""Train the classic networks one after the other and measure each on the test pictures.

All pictures of the training part are learnt from, nothing is held out, and the network after the
last epoch is measured, once. Widths are those of small machines, as multiples of the published ones;
pictures are grey and keep their 28 pixels. A run that was stopped goes on where it was, and one that
is finished is not trained again, when the same command is given again.

Example: python scripts/compare_backbones.py --dataset fashion/ --out runs/compare
         --picture docs/backbones.png
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import click
import numpy as np

from retrieval.classification import evaluate_classification
from retrieval.classifier import classify_images
from retrieval.cli.commands import Command
from retrieval.datasets import load_dataset
from retrieval.device import choose_device
from retrieval.labeled_images import LabeledImages
from retrieval.network_files import load_classifier
from retrieval.presets import CLASSIFY_SETTINGS
from retrieval.run_config import TrainClassifyConfig
from retrieval.train_classify import ClassifierRun, Listener, run_at, train_classify

COMMON: dict[str, Any] = {
    "channels": 1, "validation": 0.0, "epochs": 10, "crop_padding": 1, "cutout": 0,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Entry:
    """A network, how it is trained here, and the test accuracy that course notes report at 224 px."""

    name: str
    settings: dict[str, Any]
    reported: float | None = None


ENTRIES = (
    Entry("softmax", {"backbone": "softmax"}),
    Entry("mlp", {"backbone": "mlp"}),
    Entry("lenet", {"backbone": "lenet"}),
    Entry("lenet-bn", {"backbone": "lenet", "batch_norm": True}),
    Entry("alexnet", {"backbone": "alexnet", "width_factor": 0.5}, 0.889),
    Entry("vgg11", {"backbone": "vgg11", "width_factor": 0.25, "epochs": 20}, 0.906),
    Entry("nin", {"backbone": "nin", "width_factor": 0.5}, 0.878),
    Entry("googlenet", {"backbone": "googlenet", "width_factor": 0.25, "epochs": 5}),
    Entry("resnet18", {"backbone": "resnet18", "width_factor": 0.25}),
    Entry("densenet121", {"backbone": "densenet121", "width_factor": 0.125, "epochs": 5}),
    Entry("fast-resnet", {"backbone": "fast-resnet", "width": 32}),
)


@dataclasses.dataclass(frozen=True)
class Result:
    """What came of one network."""

    name: str
    width: float
    parameters: int
    epochs: int
    seconds_per_epoch: float
    accuracy: float
    reported: float | None


def config_of(
    entry: Entry, dataset: str, image_size: int, epochs: int | None
) -> TrainClassifyConfig:
    """The configuration of one network's run; ``epochs`` replaces its own number."""
    settings = {**CLASSIFY_SETTINGS[entry.settings["backbone"]], **COMMON, **entry.settings}
    settings |= {"dataset": dataset, "image_size": image_size}
    settings |= {} if epochs is None else {"epochs": epochs}
    return TrainClassifyConfig().with_values(settings)


def measure(run: ClassifierRun, entry: Entry, test: LabeledImages) -> Result:
    """Score a finished run on the test pictures."""
    classifier = load_classifier(run.folder)
    probabilities = classify_images(classifier, test.images)
    report = evaluate_classification(probabilities, test.labels, test.classes)
    lines = (run.folder / "metrics.jsonl").read_text().splitlines()
    seconds = [json.loads(line)["seconds"] for line in lines]
    return Result(
        name=entry.name,
        width=classifier.spec.width_factor,
        parameters=sum(p.numel() for p in classifier.parameters()),
        epochs=len(seconds),
        seconds_per_epoch=float(np.median(seconds)),
        accuracy=report.accuracy,
        reported=entry.reported,
    )


def table(results: list[Result]) -> str:
    """The results as a Markdown table."""
    lines = ["| network | width | parameters | epochs | s per epoch | test accuracy | reported |",
             "| --- | --- | --- | --- | --- | --- | --- |"]  # fmt: skip
    for r in results:
        reported = "" if r.reported is None else f"{r.reported:.3f}"
        lines.append(
            f"| {r.name} | {r.width:g} | {r.parameters:,} | {r.epochs} | {r.seconds_per_epoch:.1f} "
            f"| {r.accuracy:.4f} | {reported} |"
        )
    return "\n".join(lines)


def draw(results: list[Result], file: Path) -> None:
    """Accuracy over training time, the size of a point by parameters."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for place, r in enumerate(sorted(results, key=lambda r: r.epochs * r.seconds_per_epoch)):
        minutes = r.epochs * r.seconds_per_epoch / 60
        beside = (6, 5 if place % 2 else -14)  # names of neighbours do not meet
        axes.scatter(minutes, r.accuracy, s=20 + 8 * np.sqrt(r.parameters / 1000), alpha=0.7)
        axes.annotate(r.name, (minutes, r.accuracy), xytext=beside, textcoords="offset points")
    axes.set_xscale("log")
    axes.set_xlabel("minutes of training")
    axes.set_ylabel("test accuracy")
    axes.grid(alpha=0.25)
    figure.savefig(file, dpi=110)


@click.command(cls=Command, help=__doc__)
@click.option("--dataset", required=True, help="A folder with train/ and test/ folders of classes.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for the runs.")
@click.option("--only", multiple=True, type=click.Choice([e.name for e in ENTRIES]))
@click.option("--image-size", default=28, show_default=True, type=click.IntRange(28, 256))
@click.option(
    "--epochs", type=click.IntRange(1), help="For all, in place of each one's own number."
)
@click.option("--pictures", type=click.IntRange(20), help="Learn from so many only, as a trial.")
@click.option("--picture", type=click.Path(path_type=Path), help="Draw accuracy over time here.")
@click.option("--data-dir", type=click.Path(path_type=Path), envvar="RETRIEVAL_DATA")
@click.option("--device", default="auto", show_default=True)
def main(
    dataset: str,
    out: Path,
    only: tuple[str, ...],
    image_size: int,
    epochs: int | None,
    pictures: int | None,
    picture: Path | None,
    data_dir: Path | None,
    device: str,
) -> None:
    train, test = (
        load_dataset(dataset, data_dir=data_dir, image_size=image_size, split=split)
        for split in ("train", "test")
    )
    if pictures is not None:
        rows = np.random.default_rng(0).permutation(len(train))[:pictures]
        train = train.subset(np.sort(rows))
    results = []
    for entry in [e for e in ENTRIES if not only or e.name in only]:
        run = run_at(out / entry.name)
        config = config_of(entry, dataset, image_size, epochs)

        def tell(record: dict[str, float], name: str = entry.name) -> None:
            click.echo(
                f"{name} epoch {record['epoch']:.0f}: loss {record['loss']:.3f}, training accuracy "
                f"{record['training_accuracy']:.4f}, {record['seconds']:.1f} s", err=True
            )  # fmt: skip

        resume = run.exists and run.config() == config
        if not train_classify(
            config, train, run, device=choose_device(device), resume=resume,
            listener=Listener(on_epoch=tell),
        ):  # fmt: skip
            raise SystemExit(130)
        results.append(measure(run, entry, test))
        click.echo(table(results[-1:]).splitlines()[-1], err=True)
    click.echo(table(results))
    if picture is not None:
        draw(results, picture)


if __name__ == "__main__":
    main()
