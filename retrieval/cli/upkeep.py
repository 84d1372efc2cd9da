"""Commands that look after galleries: merging, compacting, checking, taking vectors out and in."""

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
