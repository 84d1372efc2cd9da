"""Answers as tables, CSV, JSON, paths, sheets and pages, printed as they are found."""

import contextlib
import csv
import io
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from retrieval.cli.options import print_json_list, say

if TYPE_CHECKING:
    from retrieval.report import SheetRow
    from retrieval.search import Answer

PAGE_ROWS, PAGE_HITS = 200, 100
"""So many questions, with so many hits each, go onto sheets and pages; more would fill memory."""
SHOW_PROGRESS_FROM = 65


def print_answers(
    answers: Iterable["Answer"],
    style: str,
    count: int | None,
    html: Path | None,
    sheet: Path | None,
) -> None:
    """Print answers to ``count`` questions one by one, and write their pictures at the end.

    Each names its question where there are several, or ``count`` is None: as many as come.
    """
    rows: list[SheetRow] = []
    answers = _watched(answers, count)
    if html is not None or sheet is not None:
        answers = _shown(answers, rows)
    if style == "json":
        print_json_list(answer.to_dict() for answer in answers)
    elif style == "csv":
        _print_csv(answers)
    elif style == "paths":
        for answer in answers:
            _print_as_it_is("".join(f"{hit.name}\n" for hit in answer.hits))
    else:
        for number, answer in enumerate(answers):
            click.echo(("\n" if number else "") + table(answer, count != 1), nl=False)
    if html is not None or sheet is not None:
        write_pictures(rows, "Search by picture", html, sheet)
        if count is None and len(rows) == PAGE_ROWS:
            say(f"At most {PAGE_ROWS} questions are shown there.")
        elif count is not None and count > PAGE_ROWS:
            say(f"The first {PAGE_ROWS} of {count:,} questions are shown there.")


def _watched(answers: Iterable["Answer"], count: int | None) -> "Iterator[Answer]":
    """The answers, with a notice of each that was cut and progress where nothing else shows it."""
    from retrieval.progress import Progress

    quiet = count is None or count < SHOW_PROGRESS_FROM or sys.stdout.isatty()
    with contextlib.nullcontext() if quiet else Progress("Asking", count, "questions") as progress:
        for answer in answers:
            yield answer
            if answer.total is not None and answer.total > len(answer.hits):
                say(
                    f"{answer.question}: {answer.total:,} pictures lie within; the "
                    f"{len(answer.hits):,} nearest are given (--limit)"
                )
            if progress is not None:
                progress.update()


def table(answer: "Answer", titled: bool) -> str:
    """The hits of an answer as text for people."""
    lines = [one_line(answer.question)] if titled else []
    boxed = any(hit.box is not None for hit in answer.hits)
    box = f"{'box':<20}  " if boxed else ""
    lines.append(f"{'rank':>4}  {'distance':>8}  {'label':<16}  {box}path")
    for hit in answer.hits:
        label = one_line(hit.label or "")
        box = f"{box_text(hit.box):<20}  " if boxed else ""
        facts = f"{hit.rank:>4}  {hit.distance:>8.4f}  {label:<16}  {box}"
        lines.append(f"{facts}{one_line(hit.path)}")
    if not answer.hits:
        lines.append("none")
    return "\n".join(lines) + "\n"


def box_text(box: Any) -> str:
    """Left, top, width and height, as --box takes them; nothing for a whole picture."""
    return "" if box is None else ",".join(map(str, box))


def _print_csv(answers: Iterable["Answer"]) -> None:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["question", "rank", "distance", "id", "label", "path", "box"])
    for answer in answers:
        for hit in answer.hits:
            row: list[Any] = [answer.question, hit.rank, f"{hit.distance:.6g}", hit.id]
            writer.writerow([*row, hit.label or "", hit.path, box_text(hit.box)])
        _print_as_it_is(out.getvalue())
        out.seek(0)
        out.truncate()
    _print_as_it_is(out.getvalue())  # the header, where there was no answer


def _print_as_it_is(text: str) -> None:
    """Text for programs: by itself click leaves out what would colour a terminal, in file names too."""
    click.echo(text, nl=False, color=True)


def one_line(text: object) -> str:
    """A path as it is, unless it holds control characters, which could rewrite the screen."""
    text = str(text)
    return text if text.isprintable() else text.encode("unicode_escape").decode()


def _shown(answers: Iterable["Answer"], rows: "list[SheetRow]") -> "Iterator[Answer]":
    """The answers; pictures of the first of them are put into ``rows`` on the way."""
    import dataclasses

    from retrieval.search import sheet_row

    for answer in answers:
        if len(rows) < PAGE_ROWS:
            rows.append(sheet_row(dataclasses.replace(answer, hits=answer.hits[:PAGE_HITS])))
        yield answer


def write_pictures(
    rows: "list[SheetRow]", title: str, html: Path | None, sheet: Path | None
) -> None:
    """A contact sheet, and a page of that title, where they are asked for; says where they are."""
    from index.atomic import write_atomically
    from retrieval.report import contact_sheet, html_gallery, write_picture

    if sheet is not None:
        write_picture(contact_sheet(rows), sheet)
        say(f"Contact sheet: {sheet}")
    if html is not None:
        write_atomically(html, html_gallery(rows, title).encode("utf-8", "backslashreplace"))
        say(f"Page: {html}")
