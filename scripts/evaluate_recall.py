"""Measure a trained embedder: test pictures ask the training pictures, and each other.

Example: python scripts/evaluate_recall.py --model runs/embed-cifar10 --dataset cifar10 --out report/
"""

import json
from pathlib import Path

import click

from index.atomic import write_atomically
from retrieval.cli.commands import Command
from retrieval.cli.evaluate import tell_if_learnt
from retrieval.cli.runs import tell_remarks
from retrieval.device import choose_device
from retrieval.protocols import evaluate_model


@click.command(cls=Command, help=__doc__)
@click.option("--model", required=True, type=click.Path(path_type=Path), help="A run folder.")
@click.option("--dataset", required=True, help="cifar10, digits, a folder, a CSV file, …")
@click.option("--data-dir", type=click.Path(path_type=Path), envvar="RETRIEVAL_DATA")
@click.option("--device", default="auto", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Folder for the reports as JSON.")
def main(model: Path, dataset: str, data_dir: Path | None, device: str, out: Path | None) -> None:
    tell_if_learnt(model, dataset, "embedder")
    for protocol in ("test-to-train", "leave-one-out"):
        report = evaluate_model(
            model, dataset, protocol, data_dir=data_dir, device=choose_device(device),
            ks=(1, 2, 4, 8, 10, 16, 32, 100), on_read=tell_remarks,
        )  # fmt: skip
        click.echo(f"# {protocol}\n{report.table()}\n")
        if out is not None:
            data = json.dumps(report.to_dict(), indent=2).encode()
            write_atomically(out / f"{protocol}.json", data)


if __name__ == "__main__":
    main()
