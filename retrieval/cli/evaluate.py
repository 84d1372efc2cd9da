"""The command that says how good the answers are."""

from pathlib import Path
from typing import Any

import click

from retrieval.cli.answers import one_line
from retrieval.cli.classify import views_option
from retrieval.cli.options import NEW_FILE, FiniteRange, device_option, json_option, print_json, say
from retrieval.cli.runs import tell_remarks
from retrieval.errors import ConfigError

GOES_WITH = {
    "a gallery": {"queries", "ks", "ties", "confidence", "data_dir"},
    "an embedder": {"dataset", "protocol", "ks", "ties", "confidence", "data_dir"},
    "a classifier": {"dataset", "views", "confusion", "data_dir"},
    "a detector": {"dataset", "masks"},
}
"""What can be said of each thing that is measured."""


class Ranks(click.ParamType):
    """Comma-separated ranks, such as 1,2,4,8."""

    name = "ranks"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, ...]:
        try:
            return tuple(int(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is not a list of whole numbers such as 1,2,4,8", param, ctx)


@click.command()
@click.option(
    "--model",
    "models",
    multiple=True,
    type=click.Path(path_type=Path),
    help="A run folder, of an embedder, a classifier or a detector: ask it about --dataset. Several "
    "classifiers are asked together, their answers averaged.",
)
@click.option("--dataset", help="With --model: cifar10, digits, a folder, a CSV file, …")
@click.option(
    "--gallery",
    "gallery_path",
    type=click.Path(path_type=Path),
    help="Measure this gallery instead; its labels are the truth.",
)
@click.option(
    "--queries",
    help="With --gallery: folder of class folders, or CSV file, of query pictures. Without it the "
    "gallery's own pictures ask for each other.",
)
@click.option(
    "--protocol",
    default="test-to-train",
    show_default=True,
    type=click.Choice(["test-to-train", "leave-one-out"]),
    help="With --model: test pictures ask the training pictures, or test pictures ask each other.",
)
@click.option("--k", "ks", default="1,2,4,8,10,16,32,100", show_default=True, type=Ranks())
@click.option(
    "--ties",
    default="id",
    show_default=True,
    type=click.Choice(["id", "pessimistic"]),
    help="Equal distances stand in the order of ids, as in a search, or wrong pictures first.",
)
@click.option("--confidence", default=0.95, show_default=True, type=FiniteRange(0.5, 0.999))
@views_option
@click.option(
    "--confusion",
    type=NEW_FILE,
    help="With a classifier: write its confusion matrix as a picture here.",
)
@click.option("--masks", is_flag=True, help="With a detector: compare masks instead of boxes.")
@click.option("--data-dir", type=click.Path(path_type=Path), envvar="RETRIEVAL_DATA")
@click.option("--out", type=NEW_FILE, help="Write the JSON report here too.")
@device_option
@json_option
def evaluate(
    models: tuple[Path, ...],
    dataset: str | None,
    gallery_path: Path | None,
    queries: str | None,
    protocol: str,
    ks: tuple[int, ...],
    ties: str,
    confidence: float,
    views: str,
    confusion: Path | None,
    masks: bool,
    data_dir: Path | None,
    out: Path | None,
    device: str,
    as_json: bool,
) -> None:
    """Measure how good the answers are: recall@k, precision@k, R-precision, mAP, per class.

    Of a classifier: accuracy, precision, recall and F1 by class, confusion, calibration error. Of a
    detector: mean average precision (mAP) of the objects found, recall, by class and by size.

    \b
    Examples:
      retrieval evaluate --model runs/flowers --dataset flowers/
      retrieval evaluate --model runs/flowers --dataset flowers/ --protocol leave-one-out
      retrieval evaluate --gallery flowers.gallery --queries flowers/test
      retrieval evaluate --model runs/kinds --dataset flowers/ --confusion confusion.png
      retrieval evaluate --model runs/detect-scenes --dataset scenes

    recall@k is the share of queries with at least one picture of their class among the k nearest.
    A picture never finds itself. Intervals come from resampling the queries.
    """
    import json

    import numpy as np

    from index.atomic import write_atomically
    from retrieval import protocols
    from retrieval.device import choose_device
    from retrieval.network_files import kind_of_model
    from retrieval.report import confusion_picture

    options: dict[str, Any] = {"ks": ks, "ties": ties, "confidence": confidence}
    if bool(models) == (gallery_path is not None) or (models and dataset is None):
        raise ConfigError(
            "what is to be measured? Give --model RUN with --dataset DATA, or --gallery FOLDER "
            "(with --queries FOLDER, if the gallery is not to ask itself)"
        )
    kind = kind_of_model(models[0]) if models else None
    subjects = {"classifier": "a classifier", "detector": "a detector"}
    _check_options("a gallery" if gallery_path else subjects.get(kind or "", "an embedder"))
    if len(models) > 1 and kind != "classifier":
        raise ConfigError("more than one --model can be asked together only if all are classifiers")
    if dataset is not None:
        tell_if_learnt(models[0], dataset, kind)
    if gallery_path is not None:
        report: Any = protocols.evaluate_gallery(
            gallery_path, queries, data_dir=data_dir, device=choose_device(device),
            on_read=tell_remarks, **options,
        )  # fmt: skip
    elif dataset is not None and kind == "classifier":
        report = _evaluate_classifiers(models, dataset, views, data_dir, device)
    elif dataset is not None and kind == "detector":
        report = _evaluate_detector(models[0], dataset, masks, device)
    elif dataset is not None:
        say(f"Embedding {dataset} with {models[0]}")
        report = protocols.evaluate_model(
            models[0], dataset, protocol, data_dir=data_dir, device=choose_device(device),
            on_read=tell_remarks, **options,
        )  # fmt: skip
    if as_json:
        print_json(report.to_dict())
    else:
        click.echo("\n".join(one_line(line) for line in report.table().split("\n")))
    if out is not None:
        write_atomically(out, (json.dumps(report.to_dict(), indent=2) + "\n").encode())
    if confusion is not None:
        confusion_picture(np.array(report.confusion), list(report.per_class), confusion)


def _check_options(subject: str) -> None:
    """Raises ConfigError where an option was given that says nothing about what is measured."""
    context = click.get_current_context()
    given = click.core.ParameterSource.COMMANDLINE
    for parameter in context.command.params:
        name = parameter.name or ""
        fitting = [thing for thing, names in GOES_WITH.items() if name in names]
        if fitting and subject not in fitting and context.get_parameter_source(name) == given:
            raise ConfigError(
                f"{parameter.opts[0]} says nothing about {subject}; it goes with {' or '.join(fitting)}"
            )


def tell_if_learnt(model: Path, dataset: str, kind: str | None) -> None:
    """Say so where a run is measured by the very pictures that it has learnt from."""
    import json

    from retrieval import datasets
    from retrieval.detection import boxed_datasets

    config = model / "config.json"
    if not config.is_file():
        return
    try:
        learnt = Path(json.loads(config.read_text())["dataset"]).expanduser().resolve()
    except (OSError, ValueError, KeyError, TypeError, RuntimeError):  # ~ of nobody known
        say(
            f"{config} cannot be read, so it is not known whether {model} has learnt from {dataset}"
        )
        return
    if learnt != Path(dataset).expanduser().resolve():
        return
    apart = boxed_datasets if kind == "detector" else datasets
    if not apart.has_test_part(dataset):
        say(
            f"{dataset} has no test part: {model} has learnt from these very pictures, so the figures "
            "flatter. Keep some apart, as train and test, to know how good it is"
        )


def _evaluate_classifiers(
    models: tuple[Path, ...],
    dataset: str,
    views: str,
    data_dir: Path | None,
    device: str,
) -> Any:
    from retrieval.device import choose_device
    from retrieval.labelling import Labeller

    say(f"Asking {', '.join(map(str, models))} about {dataset}")
    labeller = Labeller.open(models, views=views, device=choose_device(device))
    return labeller.evaluate(dataset, data_dir=data_dir, on_read=tell_remarks)


def _evaluate_detector(model: Path, dataset: str, masks: bool, device: str) -> Any:
    from retrieval.cli.detect import read_boxed
    from retrieval.detection.detection_report import evaluate_detector
    from retrieval.device import choose_device
    from retrieval.network_files import load_detector
    from retrieval.progress import Progress

    detector = load_detector(model).to(choose_device(device))
    data = read_boxed(dataset, "test")
    with Progress(f"Asking {model}", len(data), "pictures") as progress:
        return evaluate_detector(detector, data, masks=masks, on_picture=progress.set_of)
