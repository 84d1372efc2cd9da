"""The command that says how good the answers are."""

from pathlib import Path
from typing import Any

import click

from retrieval.cli.options import device_option, json_option, print_json, say
from retrieval.errors import ConfigError


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
    "--model", type=click.Path(path_type=Path), help="A run folder: embed --dataset with its model."
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
    type=click.Path(path_type=Path),
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
@click.option("--confidence", default=0.95, show_default=True, type=click.FloatRange(0.5, 0.999))
@click.option("--data-dir", type=click.Path(path_type=Path), envvar="RETRIEVAL_DATA")
@click.option("--out", type=click.Path(path_type=Path), help="Write the JSON report here too.")
@device_option
@json_option
def evaluate(
    model: Path | None,
    dataset: str | None,
    gallery_path: Path | None,
    queries: Path | None,
    protocol: str,
    ks: tuple[int, ...],
    ties: str,
    confidence: float,
    data_dir: Path | None,
    out: Path | None,
    device: str,
    as_json: bool,
) -> None:
    """Measure how good the answers are: recall@k, precision@k, R-precision, mAP, per class.

    \b
    Examples:
      retrieval evaluate --model runs/flowers --dataset flowers/
      retrieval evaluate --model runs/flowers --dataset flowers/ --protocol leave-one-out
      retrieval evaluate --gallery flowers.gallery --queries flowers/test

    recall@k is the share of queries with at least one picture of their class among the k nearest.
    A picture never finds itself. Intervals come from resampling the queries.
    """
    import json

    from index.atomic import write_atomically
    from retrieval import protocols
    from retrieval.device import choose_device

    options: dict[str, Any] = {"ks": ks, "ties": ties, "confidence": confidence}
    if gallery_path is not None and model is None:
        report = protocols.evaluate_gallery(
            gallery_path, queries, device=choose_device(device), **options
        )
    elif model is not None and dataset is not None and gallery_path is None:
        say(f"Embedding {dataset} with {model}")
        report = protocols.evaluate_model(
            model, dataset, protocol, data_dir=data_dir, device=choose_device(device), **options
        )
    else:
        raise ConfigError(
            "what is to be measured? Give --model RUN with --dataset DATA, or --gallery FOLDER "
            "(with --queries FOLDER, if the gallery is not to ask itself)"
        )
    if out is not None:
        write_atomically(out, (json.dumps(report.to_dict(), indent=2) + "\n").encode())
    if as_json:
        print_json(report.to_dict())
    else:
        click.echo(report.table())
