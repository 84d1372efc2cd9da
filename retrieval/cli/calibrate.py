"""The command that finds the distance within which most answers are right."""

from pathlib import Path

import click

from retrieval.cli.options import (
    FiniteRange,
    device_option,
    find_gallery,
    gallery_option,
    json_option,
    print_json,
    say,
    wait_option,
)
from retrieval.cli.runs import tell_remarks

FEW_PAIRS = 100


@click.command()
@gallery_option
@click.option(
    "--precision",
    "target",
    default=0.95,
    show_default=True,
    type=FiniteRange(0, 1, min_open=True),
    help="The share of the pictures within the distance that must have the label asked for.",
)
@click.option(
    "--queries",
    help="Folder of class folders, or CSV file, of pictures that ask. Without it the gallery's own "
    "pictures ask for each other.",
)
@device_option
@wait_option
@json_option
def calibrate(
    gallery_path: Path | None,
    target: float,
    queries: str | None,
    device: str,
    wait: float,
    as_json: bool,
) -> None:
    """Find the distance within which most answers are right, and keep it with the gallery.

    \b
    Examples:
      retrieval calibrate --gallery flowers.gallery --queries flowers/test
      retrieval calibrate --gallery flowers.gallery --precision 0.99 --json
      retrieval range photo.png --distance calibrated --gallery flowers.gallery

    Labels are the truth: an answer is right if it has the label of the picture that asks. Of more than
    2,000 pictures that could ask, 2,000 drawn evenly do. Let pictures ask that the model has not
    learned from, by --queries: those that it has learned from stand closer together than new ones.
    """
    from index.gallery import Gallery
    from retrieval.calibration import calibrate as find
    from retrieval.progress import Progress

    gallery = Gallery.open(find_gallery(gallery_path))
    asked = None
    if queries is not None:
        from retrieval.device import choose_device
        from retrieval.protocols import labelled_queries

        asked = labelled_queries(
            gallery, queries, device=choose_device(device), on_read=tell_remarks
        )
    with Progress("Comparing", None, "pictures") as progress:
        found = find(gallery, target, asked, on_progress=progress.set_of)
    with gallery.writer(wait) as writer:
        writer.note(calibration=found.to_dict())
    if as_json:
        print_json({"gallery": str(gallery.path), **found.to_dict()})
    else:
        click.echo(
            f"distance {found.distance:g} ({gallery.metric}): {found.precision:.2%} of the "
            f"{found.pairs:,} pairs within it have one label; it finds {found.recall:.2%} of all such\n"
            f"pairs of {found.queries:,} pictures that asked with {found.pictures:,} of the gallery"
        )
    if found.pairs < FEW_PAIRS:
        say(f"That rests on {found.pairs:,} pairs only: take it as a hint.")
    if queries is None:
        say("The gallery's own pictures asked; if the model learned from them, use --queries.")
