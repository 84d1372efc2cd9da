"""The command that asks."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from retrieval.cli.options import (
    find_gallery,
    gallery_option,
    json_option,
    print_json,
    where_option,
)

if TYPE_CHECKING:
    from retrieval.search import Answer


@click.command()
@click.argument("photos", nargs=-1, required=True, type=click.Path(path_type=Path))
@gallery_option
@click.option("--k", "-k", default=10, show_default=True, type=click.IntRange(1, 100_000))
@click.option("--exact", is_flag=True, help="Compare with every vector, whatever the index.")
@where_option
@click.option(
    "--model",
    type=click.Path(path_type=Path),
    help="Embed the photos with this run; refused if it did not make the gallery.",
)
@click.option(
    "--format",
    "style",
    default="table",
    show_default=True,
    type=click.Choice(["table", "paths", "csv", "json"]),
    help="How answers are printed.",
)
@click.option("--html", type=click.Path(path_type=Path), help="Write a page with the pictures.")
@click.option("--sheet", type=click.Path(path_type=Path), help="Write a contact sheet (PNG).")
@json_option
def query(
    photos: tuple[Path, ...],
    gallery_path: Path | None,
    k: int,
    exact: bool,
    where: str | None,
    model: Path | None,
    style: str,
    html: Path | None,
    sheet: Path | None,
    as_json: bool,
) -> None:
    """Find the pictures nearest to each of PHOTOS.

    \b
    Examples:
      retrieval query photo.png --k 10
      retrieval query *.jpg --gallery photos.gallery --sheet answers.png --html answers.html
      retrieval query photo.png --where 'label = cat' --json
    """
    import torch

    from retrieval.search import Searcher

    if len(photos) == 1:
        # One thread embeds one picture sooner than several have agreed on who does what.
        torch.set_num_threads(1)
    searcher = Searcher.open(find_gallery(gallery_path), model)
    answers, unreadable = searcher.query_files(photos, k, exact=exact, where=where)
    style = "json" if as_json else style
    if style == "json":
        print_json([answer.to_dict() for answer in answers])
    else:
        click.echo({"table": _table, "paths": _paths, "csv": _csv}[style](answers), nl=False)
    if html is not None or sheet is not None:
        _write_pictures(answers, html, sheet)
    for photo, reason in unreadable:
        click.echo(f"Error: {photo}: {reason}", err=True)
    if unreadable:
        raise SystemExit(1)


def _table(answers: "list[Answer]") -> str:
    lines = []
    for answer in answers:
        if len(answers) > 1:
            lines.append(f"{answer.photo}")
        lines.append(f"{'rank':>4}  {'distance':>8}  {'label':<16}  path")
        for hit in answer.hits:
            label = hit.label or ""
            lines.append(f"{hit.rank:>4}  {hit.distance:>8.4f}  {label:<16}  {_one_line(hit.path)}")
        lines.append("")
    return "\n".join(lines[:-1]) + "\n"


def _paths(answers: "list[Answer]") -> str:
    return "".join(f"{hit.path}\n" for answer in answers for hit in answer.hits)


def _csv(answers: "list[Answer]") -> str:
    import csv
    import io

    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["photo", "rank", "distance", "id", "label", "path"])
    for answer in answers:
        for hit in answer.hits:
            row: list[Any] = [answer.photo, hit.rank, f"{hit.distance:.6g}", hit.id]
            writer.writerow([*row, hit.label or "", hit.path])
    return out.getvalue()


def _one_line(path: Path) -> str:
    """A path as it is, unless it holds control characters, which could rewrite the screen."""
    text = str(path)
    return text if text.isprintable() else text.encode("unicode_escape").decode()


def _write_pictures(answers: "list[Answer]", html: Path | None, sheet: Path | None) -> None:
    from index.atomic import write_atomically
    from retrieval.report import contact_sheet, html_gallery, write_picture
    from retrieval.search import sheet_row

    rows = [sheet_row(answer) for answer in answers]
    if sheet is not None:
        write_picture(contact_sheet(rows), sheet)
        click.echo(f"Contact sheet: {sheet}", err=True)
    if html is not None:
        page = html_gallery(rows, "Search by picture")
        write_atomically(html, page.encode("utf-8", "backslashreplace"))
        click.echo(f"Page: {html}", err=True)
