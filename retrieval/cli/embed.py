"""The command that writes plain embeddings."""

from functools import partial
from pathlib import Path
from typing import Any

import click

from retrieval import models
from retrieval.cli.gallery import embed_with, filling_options, list_with
from retrieval.cli.options import MODEL_HELP, NEW_FOLDER, print_json


@click.command()
@click.argument("pictures", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--model",
    type=click.Path(path_type=Path),
    default=models.DEFAULT,
    show_default=True,
    help=MODEL_HELP,
)
@click.option(
    "--out",
    required=True,
    type=NEW_FOLDER,
    help="Folder for embeddings.npy (float32) and pictures.csv (row, path, label, …): a new one, or "
    "an older export, which is replaced.",
)
@filling_options
def embed(
    pictures: tuple[Path, ...],
    model: Path,
    out: Path,
    labels: str,
    as_json: bool,
    **filling: Any,
) -> None:
    """Write the embeddings of PICTURES as plain files, for use elsewhere or for `retrieval import`.

    \b
    Example:
      retrieval embed photos/ --model runs/flowers --out vectors/
    """
    from retrieval.exporting import write_embeddings

    write = partial(write_embeddings, model=model, out=out)
    summary = embed_with(write, list_with(pictures, labels), **filling)
    if as_json:
        print_json({"out": str(out), **summary.to_dict()})
    else:
        click.echo(f"{out}: {summary.text()}")
