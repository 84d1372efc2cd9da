"""Commands that look after galleries: merging, compacting, checking, taking vectors out and in."""

import dataclasses
from pathlib import Path
from typing import Any

import click

from retrieval.cli.options import (
    find_gallery,
    gallery_option,
    json_option,
    print_json,
    wait_option,
)
from retrieval.cli.tune import plan_text
from retrieval.specs import DISTANCES


@click.command()
@gallery_option
@wait_option
@json_option
def compact(gallery_path: Path | None, wait: float, as_json: bool) -> None:
    """Free the space of removed pictures, and merge small files.

    \b
    Example:
      retrieval compact --gallery photos.gallery
    """
    from index.gallery import Gallery
    from retrieval.progress import Progress

    path = find_gallery(gallery_path)
    with Gallery.open(path).writer(wait) as writer, Progress("Rewriting", None, "rows") as progress:
        rows = writer.compact(progress.set_of)
    if as_json:
        print_json({"gallery": str(path), "rows_freed": rows})
    else:
        click.echo(f"{path}: {rows:,} rows freed")


@click.command()
@gallery_option
@json_option
def info(gallery_path: Path | None, as_json: bool) -> None:
    """Say what a gallery holds, and what made it.

    \b
    Example:
      retrieval info --gallery photos.gallery
    """
    from index.gallery import Gallery

    facts = Gallery.open(find_gallery(gallery_path)).info()
    if as_json:
        print_json(facts)
        return
    plan, codes = facts.pop("plan"), facts.pop("codes")
    for name, value in facts.items():
        if isinstance(value, dict):  # how objects were found
            value = ", ".join(f"{key.replace('_', ' ')} {told}" for key, told in value.items())
        click.echo(f"{name.replace('_', ' '):<16} {value}")
    if codes is not None:
        click.echo(f"{'codes':<16} {_codes_text(codes)}")
    if plan is not None:
        click.echo(plan_text(plan))


def _codes_text(codes: dict[str, Any]) -> str:
    """What is left of vectors that were replaced by codes."""
    kept = codes["overlap"]
    worth = "too few vectors to measure what was lost" if kept is None else (
        f"{kept:.0%} of the {codes['k']} nearest were the same as by the vectors, among "
        f"{codes['compared']:,} of them"
    )  # fmt: skip
    return f"{codes['bytes']} bytes a vector; {worth}"


@click.command()
@gallery_option
@json_option
def verify(gallery_path: Path | None, as_json: bool) -> None:
    """Read every byte of a gallery and check it against what was written.

    \b
    Example:
      retrieval verify --gallery photos.gallery
    """
    from index.verify import verify_gallery

    path = find_gallery(gallery_path)
    findings = verify_gallery(path)
    if as_json:
        print_json({"gallery": str(path), "sound": not findings, "findings": findings})
    for finding in [] if as_json else findings:
        click.echo(finding)
    if findings:
        raise SystemExit(1)
    if not as_json:
        click.echo(f"{path}: sound")


@click.command()
@click.argument("galleries", nargs=-1, required=True, type=click.Path(path_type=Path))
@gallery_option
@wait_option
@json_option
def merge(
    galleries: tuple[Path, ...], gallery_path: Path | None, wait: float, as_json: bool
) -> None:
    """Add all that GALLERIES hold to another gallery; they stay as they are.

    \b
    Examples:
      retrieval merge phone.gallery camera.gallery --gallery photos.gallery

    All must have the same model and metric. A gallery that does not exist yet is made like the first.
    Pictures get new ids; their paths go on leading to the same files. Of a path that is in both, the
    gallery keeps what it has. A merge that was interrupted is continued by the same command.
    """
    from index.gallery import Gallery
    from index.merging import merge_into, open_or_create_like
    from retrieval.progress import Progress

    path = find_gallery(gallery_path)
    sources = [Gallery.open(source) for source in galleries]
    target = open_or_create_like(path, sources)
    total = sum(map(len, sources))
    with Progress("Merging", total, "pictures") as progress:
        summary = merge_into(target, sources, wait=wait, on_progress=progress.update)
    if as_json:
        print_json({"gallery": str(path), **dataclasses.asdict(summary)})
        return
    click.echo(
        f"{path}: {summary.added:,} added, {summary.there_already:,} there already, "
        f"{summary.kept_other:,} of another content there under the same path"
    )


@click.command("export")
@click.argument("out", type=click.Path(path_type=Path))
@gallery_option
@click.option(
    "--layout",
    default="plain",
    show_default=True,
    type=click.Choice(["plain", "clip-retrieval"]),
    help="plain: embeddings.npy and pictures.csv; clip-retrieval: img_emb/img_emb_0.npy … and "
    "metadata/metadata_0.parquet … (needs pyarrow).",
)
@json_option
def export_gallery(out: Path, gallery_path: Path | None, layout: str, as_json: bool) -> None:
    """Write vectors and pictures of a gallery as plain files into the folder OUT.

    \b
    Examples:
      retrieval export vectors/ --gallery photos.gallery
      retrieval export vectors/ --gallery photos.gallery --layout clip-retrieval

    Row r of a table belongs to row r of the array beside it. OUT must be empty, or an older export,
    which is replaced.
    """
    from index.gallery import Gallery
    from retrieval.exporting import export_gallery
    from retrieval.progress import Progress

    gallery = Gallery.open(find_gallery(gallery_path))
    with Progress("Exporting", len(gallery), "vectors") as progress:
        rows = export_gallery(gallery, out, layout, progress.update)
    if as_json:
        print_json({"gallery": str(gallery.path), "out": str(out), "rows": rows})
    else:
        click.echo(f"{out}: {rows:,} vectors")


@click.command("import")
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The gallery folder.")
@click.option(
    "--model",
    type=click.Path(path_type=Path),
    help="The model that made the vectors; with it in the gallery, photos can ask.",
)
@click.option(
    "--made-by", metavar="NAME", help="What made the vectors, where it is no model of ours."
)
@click.option(
    "--metric",
    type=click.Choice(DISTANCES),
    help="Distance to search by.  [default: what an export of ours says]",
)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16"]),
    help="How a new gallery stores vectors.  [default: as FOLDER does]",
)
@click.option(
    "--images",
    type=click.Path(path_type=Path),
    help="The folder at which relative paths start.  [default: FOLDER]",
)
@wait_option
@json_option
def import_vectors(
    folder: Path, out: Path, images: Path | None, wait: float, as_json: bool, **kind: Any
) -> None:
    """Make a gallery of the vectors in FOLDER, or add them to one.

    \b
    Examples:
      retrieval import vectors/ --out photos.gallery --model runs/flowers
      retrieval import clip/ --out clip.gallery --made-by ViT-B/32 --metric cosine

    FOLDER has embeddings.npy and pictures.csv (path and, if you like, label and further columns), or
    is laid out as by clip-retrieval: img_emb/img_emb_0.npy … and metadata/metadata_0.parquet …. A path
    that is in the gallery with another vector is replaced.
    """
    from retrieval import exchange
    from retrieval.progress import Progress

    source = exchange.open_source(folder)
    gallery = exchange.open_or_create(source, out, images=images, **kind)
    with Progress("Importing", source.rows, "vectors") as progress:
        summary = exchange.import_vectors(
            gallery, source, images=images, wait=wait, on_progress=progress.update
        )
    if as_json:
        print_json({"gallery": str(out), **summary.to_dict()})
    else:
        click.echo(f"{out}: {summary.text()}")
