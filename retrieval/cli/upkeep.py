"""Commands that look after galleries: merging, compacting, checking, taking vectors out and in."""

import dataclasses
from pathlib import Path

import click

from retrieval.cli.options import (
    find_gallery,
    gallery_option,
    json_option,
    print_json,
    wait_option,
)


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
    for name, value in facts.items():
        click.echo(f"{name.replace('_', ' '):<16} {value}")


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
