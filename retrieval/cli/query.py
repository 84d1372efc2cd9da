"""The commands that ask: the nearest pictures, or all within a distance."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from retrieval.cli.answers import print_answers
from retrieval.cli.asking import Asked, asking_options, questions_of
from retrieval.cli.options import Distance, find_distance, find_gallery

if TYPE_CHECKING:
    from retrieval.search import Searcher


@click.command()
@asking_options
@click.option("--k", "-k", default=10, show_default=True, type=click.IntRange(1, 100_000))
@click.option("--within", type=Distance(), help="Leave out hits that are farther than this.")
@click.option("--exact", is_flag=True, help="Compare with every vector, whatever the index.")
@click.option("--one-per-photo", is_flag=True, help="Of objects in one photo only the nearest.")
def query(
    k: int, within: float | str | None, exact: bool, one_per_photo: bool, **asked: Any
) -> None:
    """Find the pictures nearest to each of PHOTOS.

    \b
    Examples:
      retrieval query photo.png --k 10
      retrieval query holiday/ --gallery photos.gallery --format csv > answers.csv
      retrieval query *.jpg --gallery photos.gallery --sheet answers.png --html answers.html
      retrieval query photo.png --where 'label = cat' --json
      retrieval query street.jpg --box 120,40,200,150
      retrieval query street.jpg --objects --gallery objects.gallery --html answers.html
      retrieval query --like a.jpg --like b.jpg:2 --unlike c.jpg
      retrieval query --id 17 --path cats/a.jpg
      retrieval query --vectors vectors.npy --format csv

    PHOTOS may be folders; each picture is a question of its own, and answers come as they are found.
    --like and --unlike make one question of several photos: embeddings are added with their weights,
    and those not liked subtracted. --objects makes a question of each object that the gallery's own
    detector finds in PHOTOS (of a gallery made with: build-index --objects).
    """
    searcher, questions, options = _open(**asked)
    distance = None if within is None else find_distance(searcher.gallery, within)
    answers = searcher.nearest(
        questions.questions, k, exact=exact, within=distance, where=options.pop("where"),
        include_self=options.pop("include_self"), one_per_photo=one_per_photo,
    )  # fmt: skip
    print_answers(answers, count=questions.count, **options)
    if questions.failed:
        raise SystemExit(1)


@click.command("range")
@asking_options
@click.option(
    "--distance",
    required=True,
    type=Distance(),
    help="How far at most; a picture at exactly this distance is within.",
)
@click.option(
    "--limit",
    default=1000,
    show_default=True,
    type=click.IntRange(1, 1_000_000),
    help="At most so many pictures, the nearest ones; how many there are is told.",
)
def range_(distance: float | str, limit: int, **asked: Any) -> None:
    """Find all pictures within a distance of each of PHOTOS.

    \b
    Examples:
      retrieval range photo.png --distance 0.5
      retrieval range photo.png --distance calibrated --gallery photos.gallery
      retrieval range --id 17 --distance 0.1 --where 'label != cat' --json

    Every vector is compared, whatever the index, so that none is missed. `retrieval calibrate` finds a
    distance within which most answers are right.
    """
    searcher, questions, options = _open(**asked)
    answers = searcher.within(
        questions.questions, find_distance(searcher.gallery, distance), limit=limit,
        where=options.pop("where"), include_self=options.pop("include_self"),
    )  # fmt: skip
    print_answers(answers, count=questions.count, **options)
    if questions.failed:
        raise SystemExit(1)


def _open(
    *, gallery_path: Path | None, model: Path | None, style: str, as_json: bool, **options: Any
) -> "tuple[Searcher, Asked, dict[str, Any]]":
    """The gallery, what it is asked, and the options that are left."""
    from retrieval.search import Searcher

    searcher = Searcher.open(find_gallery(gallery_path), model)
    kinds = ("photos", "like", "unlike", "ids", "paths", "vectors", "box", "objects")
    asked = questions_of(searcher, **{name: options.pop(name) for name in kinds})
    return searcher, asked, {**options, "style": "json" if as_json else style}
