"""Commands that bring pictures into galleries and take them out."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from retrieval import models
from retrieval.cli.options import (
    MODEL_HELP,
    config_options,
    device_option,
    find_gallery,
    gallery_option,
    json_option,
    print_json,
    say,
    wait_option,
    where_option,
)
from retrieval.cli.tune import code_to_store, index_options, limits_of, plan_text
from retrieval.object_spec import ObjectsSpec
from retrieval.specs import DISTANCES

if TYPE_CHECKING:
    from retrieval.pictures import Picture
    from retrieval.summary import FillSummary

Command = Callable[..., Any]


def filling_options(command: Command) -> Command:
    """Options on how pictures are read and embedded; they arrive as ``**filling`` (and ``as_json``)."""
    options = [
        click.option(
            "--labels",
            default="folder",
            show_default=True,
            type=click.Choice(["folder", "none"]),
            help="The label of a picture: the name of the folder that it lies in, or none.",
        ),
        click.option(
            "--strict", is_flag=True, help="Stop at the first picture that cannot be read."
        ),
        click.option(
            "--batch-size",
            default=256,
            show_default=True,
            type=click.IntRange(1, 65536),
            help="Pictures that go through the network at once.",
        ),
        click.option(
            "--num-workers",
            default=2,
            show_default=True,
            type=click.IntRange(1, 64),
            help="Threads that read pictures.",
        ),
        device_option,
        json_option,
    ]
    for option in reversed(options):
        command = option(command)
    return command


@click.command("build-index")
@click.argument("pictures", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--model",
    type=click.Path(path_type=Path),
    help=f"{MODEL_HELP}  [default: the gallery's own, of a new one {models.DEFAULT}]",
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The gallery folder.")
@click.option(
    "--metric",
    type=click.Choice(DISTANCES),
    help="Distance to search by.  [default: the one that the model learnt]",
)
@index_options
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16"]),
    help="How vectors are stored.  [default: float32]",
)
@click.option("--overwrite", is_flag=True, help="Replace a gallery that is there already.")
@click.option(
    "--objects",
    type=click.Path(path_type=Path),
    metavar="DETECTOR",
    help="Store each object that this detector finds (a run folder or a model file), not whole "
    "pictures.",
)
@config_options(ObjectsSpec)
@wait_option
@filling_options
def build_index(
    pictures: tuple[Path, ...],
    model: Path | None,
    out: Path,
    metric: str | None,
    index_key: str | None,
    max_index_memory_usage: int | None,
    max_query_time_ms: float | None,
    recall_target: float | None,
    codes_only: bool,
    dtype: str | None,
    overwrite: bool,
    objects: Path | None,
    least_score: float | None,
    least_side: int | None,
    most_objects: int | None,
    margin: float | None,
    whole: bool | None,
    wait: float,
    labels: str,
    as_json: bool,
    **filling: Any,
) -> None:
    """Make PICTURES (files, folders, or a CSV file) searchable.

    \b
    Examples:
      retrieval build-index ~/Pictures --model runs/flowers --out photos.gallery
      retrieval build-index flowers/train --model runs/flowers --out flowers.gallery
      retrieval build-index list.csv --model runs/flowers --out list.gallery
      retrieval build-index ~/Pictures --model runs/flowers --out small.gallery \\
          --codes kmeans:8x16 --codes-only
      retrieval build-index ~/Pictures --objects runs/animals --out animals.gallery

    A CSV file has the columns path and, if you like, label; further columns are kept as metadata.
    Pictures that cannot be read are left out, with the reason in failed.jsonl. An interrupted build
    is continued by the same command.

    With --objects each object that the detector finds is stored, with its class as the label and its
    score and box as metadata; `retrieval query photo.jpg --objects` asks by each object of a photo.
    """
    from retrieval import building
    from retrieval.comparing import as_stored
    from retrieval.errors import ConfigError
    from retrieval.progress import Progress

    given = {
        "least_score": least_score, "least_side": least_side, "most_objects": most_objects,
        "margin": margin, "whole": whole,
    }  # fmt: skip
    given = {name: value for name, value in given.items() if value is not None}
    if given and objects is None:
        option = next(iter(given)).replace("_", "-")
        raise ConfigError(f"--{option} is of galleries of objects; give --objects DETECTOR with it")
    store = code_to_store(codes_only, index_key)
    listed = list_with(pictures, labels)
    gallery = building.open_or_create(
        out, model, sources=pictures, metric=metric, index_key=index_key, dtype=dtype,
        n_pictures=len(listed), overwrite=overwrite, objects=objects, object_options=given,
        limits=limits_of(None, max_index_memory_usage, max_query_time_ms, recall_target),
    )  # fmt: skip
    stored = as_stored(gallery, pictures)
    listed = listed if stored == pictures else list_with(stored, labels)
    summary = _fill_with(partial(building.fill, gallery, wait=wait), listed, **filling)
    if store is not None and not summary.interrupted and len(gallery):
        with gallery.writer(wait) as writer, Progress("Coding", None, "vectors") as progress:
            writer.encode(store, progress.set_of)
    _print_summary(summary, gallery, as_json)
    if gallery.settings.get("plan") and not as_json:
        say(plan_text(gallery.settings["plan"]))


@click.command()
@click.argument("pictures", nargs=-1, required=True, type=click.Path(path_type=Path))
@gallery_option
@wait_option
@filling_options
def add(
    pictures: tuple[Path, ...],
    gallery_path: Path | None,
    wait: float,
    labels: str,
    as_json: bool,
    **filling: Any,
) -> None:
    """Add PICTURES to a gallery, with the model that made it.

    \b
    Example:
      retrieval add ~/Pictures/2026 --gallery photos.gallery

    Pictures that are there already, unchanged, are left alone; changed ones are replaced.
    """
    from index.gallery import Gallery
    from retrieval import building
    from retrieval.comparing import as_stored

    gallery = Gallery.open(find_gallery(gallery_path))
    listed = list_with(as_stored(gallery, pictures), labels)
    summary = _fill_with(partial(building.fill, gallery, wait=wait), listed, **filling)
    _print_summary(summary, gallery, as_json)


@click.command()
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path))
@gallery_option
@click.option("--dry-run", is_flag=True, help="Count what would happen, and change nothing.")
@wait_option
@filling_options
def sync(
    folders: tuple[Path, ...],
    gallery_path: Path | None,
    dry_run: bool,
    wait: float,
    labels: str,
    as_json: bool,
    **filling: Any,
) -> None:
    """Make a gallery hold what FOLDERS hold now.

    \b
    Examples:
      retrieval sync ~/Pictures --gallery photos.gallery
      retrieval sync ~/Pictures/2026 --gallery photos.gallery --dry-run

    New and changed pictures are embedded, those that are gone are removed. A renamed or moved picture
    is known by its content and keeps its id. What the gallery holds from elsewhere is left alone.
    """
    from index.gallery import Gallery
    from retrieval import building
    from retrieval.comparing import as_stored

    gallery = Gallery.open(find_gallery(gallery_path))
    folders = as_stored(gallery, folders)

    def run(pictures: Sequence["Picture"], **options: Any) -> "FillSummary":
        return building.sync(gallery, folders, pictures, wait=wait, dry_run=dry_run, **options)

    summary = _fill_with(run, list_with(folders, labels), **filling)
    _print_summary(summary, gallery, as_json)
    if dry_run:
        say("Nothing was changed: this was a dry run.")


def list_with(sources: tuple[Path, ...], labels: str) -> list["Picture"]:
    """The pictures in files, folders and CSV files, labelled as the option says."""
    from retrieval.pictures import list_pictures

    return list_pictures(sources, labels_from_folder=labels == "folder")


def _fill_with(
    fill: Callable[..., "FillSummary"], pictures: Sequence["Picture"], **filling: Any
) -> "FillSummary":
    """Embed into a gallery, with progress of the index that is built at the end."""
    from retrieval.progress import Stages

    with Stages() as report:
        return embed_with(partial(fill, report=report), pictures, **filling)


def embed_with(
    fill: Callable[..., "FillSummary"],
    pictures: Sequence["Picture"],
    *,
    device: str,
    **options: Any,
) -> "FillSummary":
    """Choose the device, and fill with progress."""
    from retrieval.device import choose_device
    from retrieval.progress import Progress

    with Progress("Embedding", len(pictures), "pictures") as progress:
        return fill(pictures, device=choose_device(device), on_progress=progress.update, **options)


def _print_summary(summary: "FillSummary", gallery: Any, as_json: bool) -> None:
    if as_json:
        print_json({"gallery": str(gallery.path), **summary.to_dict()})
    else:
        click.echo(f"{gallery.path}: {summary.text()}")
        if summary.failed:
            say(f"The pictures left out are listed in {gallery.path / 'failed.jsonl'}")
    if summary.interrupted:
        say("Stopped; what is done is kept. The same command continues.")
        raise SystemExit(130)


@click.command()
@click.argument("pictures", nargs=-1, type=click.Path(path_type=Path))
@gallery_option
@click.option("--id", "ids", multiple=True, type=int, help="Remove the picture with this id.")
@where_option
@wait_option
@json_option
def remove(
    pictures: tuple[Path, ...],
    gallery_path: Path | None,
    ids: tuple[int, ...],
    where: str | None,
    wait: float,
    as_json: bool,
) -> None:
    """Remove PICTURES (files, or folders with all in them) from a gallery; files stay.

    \b
    Examples:
      retrieval remove holiday/blurred.jpg --gallery photos.gallery
      retrieval remove --where 'label = cat' --gallery photos.gallery
    """
    from index.gallery import Gallery
    from retrieval.building import remove_pictures
    from retrieval.errors import ConfigError

    if not (pictures or ids or where):
        raise ConfigError("nothing to remove: give PICTURES, --id or --where")
    gallery = Gallery.open(find_gallery(gallery_path))
    removed = remove_pictures(gallery, pictures, ids, where, wait)
    if as_json:
        print_json({"gallery": str(gallery.path), "removed": removed})
    else:
        click.echo(f"{gallery.path}: {removed:,} removed")
