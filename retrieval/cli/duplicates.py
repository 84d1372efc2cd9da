"""The command that lists near-identical pictures."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from retrieval.cli.answers import box_text, one_line, write_pictures
from retrieval.cli.options import (
    NEW_FILE,
    Distance,
    find_distance,
    find_gallery,
    gallery_option,
    json_option,
    print_json,
    say,
    where_option,
)

if TYPE_CHECKING:
    from retrieval.duplicates import Duplicates

PAGE_GROUPS = 200


@click.command()
@gallery_option
@click.option(
    "--distance",
    type=Distance(),
    help="How near counts as near-identical.  [default: a hundredth of the typical distance between "
    "two pictures of the gallery]",
)
@where_option
@click.option("--html", type=NEW_FILE, help="Write a page with the pictures.")
@click.option("--sheet", type=NEW_FILE, help="Write a contact sheet (PNG).")
@json_option
def duplicates(
    gallery_path: Path | None,
    distance: float | str | None,
    where: str | None,
    html: Path | None,
    sheet: Path | None,
    as_json: bool,
) -> None:
    """List near-identical pictures of a gallery in groups. Nothing is deleted.

    \b
    Examples:
      retrieval duplicates --gallery photos.gallery
      retrieval duplicates --gallery photos.gallery --distance 0.05 --html duplicates.html
      retrieval duplicates --gallery photos.gallery --distance 0 --json

    Whoever is within the distance of one picture of a group belongs to it; the distance shown is that
    to the group's first picture. Files with the same content always stand together, and are named as
    copies. --distance calibrated takes what `retrieval calibrate` found: fit where each label is one
    object, far too wide where it is a whole class.
    """
    from index.gallery import Gallery
    from retrieval.duplicates import default_distance, find_duplicates, sheet_rows
    from retrieval.progress import Progress

    gallery = Gallery.open(find_gallery(gallery_path))
    chosen = default_distance(gallery) if distance is None else find_distance(gallery, distance)
    if distance is None:
        share = "a ten-thousandth" if gallery.metric == "cosine" else "a hundredth"
        say(f"Distance: {chosen:g}, {share} of the typical one (--distance changes it)")
    with Progress("Comparing", None, "pictures") as progress:
        found = find_duplicates(gallery, chosen, where=where, on_progress=progress.set_of)
    if as_json:
        print_json({"gallery": str(gallery.path), **found.to_dict()})
    else:
        _print_groups(found)
    if html is not None or sheet is not None:
        rows = sheet_rows(found.groups[:PAGE_GROUPS])
        write_pictures(rows, "Near-identical pictures", html, sheet)
        if len(found.groups) > PAGE_GROUPS:
            say(f"The first {PAGE_GROUPS} of {len(found.groups):,} groups are shown there.")


def _print_groups(found: "Duplicates") -> None:
    for number, group in enumerate(found.groups, 1):
        click.echo(f"group {number}: {len(group):,} pictures")
        for member in group:
            copy = "" if member.copy_of is None else f"copy of {member.copy_of}"
            facts = f"{member.id:>10}  {member.distance:>8.4f}  {copy:<18}"
            box = "" if member.box is None else f"{box_text(member.box):<20}  "
            click.echo(f"{facts}  {one_line(member.label or ''):<16}  {box}{one_line(member.path)}")
    click.echo(
        f"{len(found.groups):,} groups, {found.pictures:,} pictures within {found.distance:g} of "
        f"another, {found.copies:,} of them copies"
    )
