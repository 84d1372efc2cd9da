"""Where commands write: what is refused before the work, and what is never written over."""

import json
from pathlib import Path

import pytest
from commands import learnt_and_indexed, photo, run
from PIL import Image

from index import atomic


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures, a run trained on them and a gallery, all made by commands."""
    return learnt_and_indexed(tmp_path_factory.mktemp("cli"))


def test_an_output_that_cannot_be_written_gives_one_line(place: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for arguments in (
        [
            "build-index",
            place / "pictures",
            "--model",
            place / "run",
            "--out",
            tmp_path / "file" / "g",
        ],
        ["embed", place / "pictures", "--model", place / "run", "--out", tmp_path / "file" / "e"],
        [
            "query",
            photo(place),
            "--gallery",
            place / "g.gallery",
            "--sheet",
            tmp_path / "file" / "s.png",
        ],
        ["show-augment", photo(place), "--out", tmp_path / "file" / "x.png"],
    ):
        assert "Error: " in run(*arguments, code=1).stderr


NEW_FILES = [
    "evaluate --model m --dataset d --out",
    "evaluate --model m --dataset d --confusion",
    "detect a.png --model m --coco",
    "query a.png --gallery g --html",
    "query a.png --gallery g --sheet",
    "range a.png --gallery g --distance 1 --sheet",
    "duplicates --gallery g --html",
    "duplicates --gallery g --sheet",
    "show-augment a.png --out",
]
NEW_FOLDERS = ["embed a.png --model m --out", "discretize file --out"]
"""Commands up to the file, or the folder, that they are to write."""


@pytest.mark.parametrize("line", NEW_FILES + NEW_FOLDERS)
def test_where_nothing_can_be_written_is_known_before_the_work(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("x")
    (tmp_path / "gone").symlink_to("nowhere")
    for place in ("file/x", "gone/a/x"):  # there is no model, nor a gallery, which comes later
        refused = run(*line.split(), place, code=1).stderr
        option, folder = line.split()[-1], tmp_path / place.split("/")[0]
        assert f"{option} is {place}, and nothing can be written into {folder}" in refused
    assert "nothing can be written" not in run(*line.split(), "new/a/x", code=1).stderr
    assert {p.name for p in tmp_path.iterdir()} == {"file", "gone"}


@pytest.mark.parametrize("line", NEW_FILES)
def test_photos_are_not_written_over(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    photos = [tmp_path / name for name in ("a.png", "b.JPG", "photo", "broken.webp")]
    for file in photos[:3]:  # the content decides, or the name
        Image.new("RGB", (9, 9)).save(file, "PNG")
    photos[3].write_bytes(b"x")
    before = [file.read_bytes() for file in photos]
    for file in photos:  # as a shell hands on --sheet *.png
        refused = run(*line.split(), file.name, code=1)
        assert f"{line.split()[-1]} {file.name} is a picture, which would be" in refused.stderr
    assert [file.read_bytes() for file in photos] == before


@pytest.mark.parametrize("line", NEW_FILES + NEW_FOLDERS)
def test_nothing_is_written_into_galleries(
    line: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    (place / "link").unlink(missing_ok=True)
    (place / "link").symlink_to("g.gallery")
    (place / "file").write_text("x")
    option, places = line.split()[-1], ["g.gallery/gallery.sqlite", "link/new/x"]
    for inside in places[line in NEW_FOLDERS :]:
        refused = run(*line.split(), inside, code=1).stderr
        assert f"{option} {inside} lies in the gallery {place / 'g.gallery'}" in refused
    run("verify", "--gallery", "g.gallery")


def test_a_report_is_printed_even_if_it_cannot_be_written(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path, data: bytes) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(atomic, "write_atomically", fail)
    command = ["evaluate", "--gallery", place / "g.gallery", "--out", tmp_path / "r.json"]
    failed = run(*command, code=1)
    assert "recall@1" in failed.stdout
    assert "the disk is full" in failed.stderr
    assert "figures" in json.loads(run(*command, "--json", code=1).stdout)
