"""Options on what is asked, shared by the commands that ask."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from retrieval.cli.answers import one_line
from retrieval.cli.options import NEW_FILE, gallery_option, json_option, say, where_option
from retrieval.errors import ConfigError

if TYPE_CHECKING:
    from retrieval.questions import Question
    from retrieval.search import Searcher

Command = Callable[..., Any]
KINDS = "give PHOTOS (or folders of them), or --like and --unlike, or --id and --path, or --vectors"


class BoxType(click.ParamType):
    """Four whole numbers x,y,w,h."""

    name = "x,y,w,h"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, ...]:
        try:
            numbers = tuple(int(part) for part in str(value).split(","))
        except ValueError:
            numbers = ()
        if len(numbers) != 4:
            self.fail(f"{value!r} is not four whole numbers such as 10,20,200,150", param, ctx)
        return numbers


def asking_options(command: Command) -> Command:
    """PHOTOS and all options on what is asked and how answers are shown; they come as ``**asked``."""
    several: dict[str, Any] = {"multiple": True}
    file = click.Path(path_type=Path)
    options = [
        click.argument("photos", nargs=-1, type=file),
        gallery_option,
        click.option("--like", **several, metavar="PHOTO[:WEIGHT]",
                     help="One question of several photos: answers are near these (weight 1)."),
        click.option("--unlike", **several, metavar="PHOTO[:WEIGHT]",
                     help="With --like: answers are away from these (weight 0.5)."),
        click.option("--id", "ids", **several, type=int,
                     help="Ask with the stored picture that has this id."),
        click.option("--path", "paths", **several,
                     help="Ask with the stored picture of this path."),
        click.option("--include-self", is_flag=True,
                     help="With --id or --path: the picture that asks may be an answer."),
        click.option("--vectors", type=file,
                     help="Ask with each vector of a .npy file, (n,D) or (D,)."),
        click.option("--box", type=BoxType(),
                     help="Ask with this part of one PHOTO: left, top, width, height in pixels of the "
                     "upright picture."),
        click.option("--objects", is_flag=True,
                     help="Ask with each object of PHOTOS, as the detector of the gallery finds them."),
        where_option,
        click.option("--model", type=file,
                     help="Embed the photos with this run; refused if it did not make the gallery."),
        click.option("--format", "style", default="table", show_default=True,
                     type=click.Choice(["table", "paths", "csv", "json"]),
                     help="How answers are printed."),
        click.option("--html", type=NEW_FILE, help="Write a page with the pictures."),
        click.option("--sheet", type=NEW_FILE, help="Write a contact sheet (PNG)."),
        json_option,
    ]  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


@dataclasses.dataclass
class Asked:
    """What the command line asks, with the photos that turn out not to be readable.

    ``count`` is None where it is not known how many questions there will be: one for each object.
    ``failed`` says, at the end, that a photo could not be read, or that none had an object to ask with.
    """

    questions: Iterator["Question"]
    count: int | None
    unreadable: int = 0
    asked: int = 0

    @property
    def failed(self) -> bool:
        return self.unreadable > 0 or (self.count is None and self.asked == 0)


def questions_of(
    searcher: "Searcher",
    *,
    photos: tuple[Path, ...],
    like: tuple[str, ...],
    unlike: tuple[str, ...],
    ids: tuple[int, ...],
    paths: tuple[str, ...],
    vectors: Path | None,
    box: tuple[int, int, int, int] | None,
    objects: bool,
) -> Asked:
    """The questions of a command line, which gives one kind of them.

    Raises ConfigError for none and for more kinds than one, DataError for what is not there.
    """
    from retrieval import questions

    kinds = [bool(photos), bool(like or unlike), bool(ids or paths), vectors is not None]
    if sum(kinds) != 1:
        raise ConfigError(
            f"{'what is asked?' if not any(kinds) else 'one kind at a time:'} {KINDS}"
        )
    if box is not None and (len(photos) != 1 or photos[0].is_dir()):
        raise ConfigError("--box is a part of one PHOTO; give one photo with it")
    if objects and (not photos or box is not None):
        raise ConfigError(
            "--objects asks with the objects of whole PHOTOS; give photos, and no --box"
        )
    if photos:
        return _photos(searcher, photos, box, objects)
    if like or unlike:
        weighted = (
            [questions.Weighted.parse(text, questions.LIKE) for text in like],
            [questions.Weighted.parse(text, questions.UNLIKE) for text in unlike],
        )
        return Asked(iter([questions.mixture(searcher.embedder, *weighted)]), 1)
    if vectors is not None:
        rows, count = questions.vector_questions(searcher.gallery, vectors)
        return Asked(rows, count)
    stored = questions.stored_questions(searcher.gallery, ids, paths)
    return Asked(stored, len(ids) + len(paths))


def _photos(
    searcher: "Searcher",
    sources: tuple[Path, ...],
    box: tuple[int, int, int, int] | None,
    objects: bool,
) -> Asked:
    import torch

    from retrieval.object_embedding import object_questions
    from retrieval.picture_files import find_images
    from retrieval.questions import photo_questions

    photos = [
        p for source in sources for p in (find_images([source]) if source.is_dir() else [source])
    ]
    if not photos:
        raise ConfigError(f"there are no pictures in {', '.join(map(str, sources))}")
    if len(photos) == 1:
        # One thread embeds one picture sooner than several have agreed on who does what.
        torch.set_num_threads(1)

    def report(photo: Path, reason: str) -> None:
        click.echo(f"Error: {one_line(photo)}: {reason}", err=True)
        asked.unreadable += 1

    def report_blank(photo: Path) -> None:
        least = searcher.object_embedder.spec.least_score
        say(
            f"{photo}: no object was found (the gallery takes those of a score of {least:g} or more)"
        )

    def counted(questions: "Iterator[Question]") -> "Iterator[Question]":
        for question in questions:
            asked.asked += 1
            yield question

    asked = Asked(iter(()), None if objects else len(photos))
    if objects:
        found = object_questions(searcher.object_embedder, photos, report, report_blank)
        asked.questions = counted(found)
    else:
        spec = searcher.objects
        asked.questions = photo_questions(searcher.embedder, photos, report, box, spec)
    return asked
