"""The command line: each command opens, calls and prints; nothing is computed here.

Heavy imports (torch, faiss, matplotlib) happen inside the commands, so that ``--help`` is instant.
"""

import logging
import sys

import click

from retrieval import __version__
from retrieval.cli import (
    calibrate,
    classify,
    demo,
    detect,
    discretize,
    duplicates,
    embed,
    evaluate,
    gallery,
    models,
    query,
    serve,
    summary,
    train,
    tune,
    upkeep,
)
from retrieval.cli.commands import CommandGroup


@click.group(cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
@click.option("-v", "--verbose", is_flag=True, help="Show what happens inside, on stderr.")
def main(verbose: bool) -> None:
    """Search images by picture.

    \b
    retrieval demo                                      the whole loop on a small data set
    retrieval train-embed --dataset PICTURES --out RUN  learn what looks alike
    retrieval build-index PICTURES --model RUN --out G  make pictures searchable
    retrieval query photo.png --gallery G --k 10        ask
    retrieval evaluate --model RUN --dataset PICTURES   know how good the answers are
    """
    # File names may hold bytes that are not UTF-8: stdout passes them on as they are.
    for stream, errors in ((sys.stdout, "surrogateescape"), (sys.stderr, "backslashreplace")):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=errors)
    if verbose:
        logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(name)s: %(message)s")


for command in (
    train.train_embed,
    gallery.build_index,
    query.query,
    query.range_,
    serve.serve,
    duplicates.duplicates,
    calibrate.calibrate,
    evaluate.evaluate,
    classify.train_classify,
    classify.classify,
    detect.train_detect,
    detect.detect,
    summary.summary,
    gallery.add,
    gallery.sync,
    gallery.remove,
    upkeep.info,
    upkeep.verify,
    upkeep.compact,
    upkeep.merge,
    upkeep.export_gallery,
    upkeep.import_vectors,
    embed.embed,
    tune.tune,
    models.models,
    train.show_augment,
    discretize.discretize,
    demo.demo,
):
    main.add_command(command)
