"""The commands that ask: every kind of question, range, duplicates, calibrate."""

import csv
import io
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from galleries import make_gallery
from pictures_to_ask import draw, make_place

from index.gallery import Gallery
from retrieval.cli import main


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_place(tmp_path_factory.mktemp("asking"))
    (folder / "outside" / "bad.png").write_bytes(b"no picture")
    (folder / "nothing").mkdir()
    make_gallery(folder / "empty.gallery", dim=8)
    return folder


@pytest.fixture(autouse=True)
def there(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setenv("RETRIEVAL_GALLERY", "g.gallery")


def run(line: str, *more: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main, [*line.split(), *map(str, more)])
    if result.exit_code != code:
        raise AssertionError(f"{line} ended with {result.exit_code}:\n{result.output}")
    assert "Traceback" not in result.output
    return result


def answers(line: str, *more: object, code: int = 0) -> list[dict]:
    found: list[dict] = json.loads(run(line, *more, "--json", code=code).stdout)
    return found


def ids(answer: dict) -> list[int]:
    return [hit["id"] for hit in answer["hits"]]


def id_of(path: str) -> int:
    return Gallery.open(Path("g.gallery")).items_of_paths([path])[path].id


DOCUMENT = (Path(__file__).parents[1] / "docs" / "searching.md").read_text()


def test_the_examples_in_the_document_work(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RETRIEVAL_GALLERY")
    photos = {f"photos/{label}/{n}.png" for label in ("rose", "tulip") for n in range(4)}
    asked = {f"asked/{label}/0.png" for label in ("rose", "tulip")}
    for seed, name in enumerate(
        [*sorted(photos | asked), "photo.png", "a.jpg", "b.jpg", "c.jpg", "holiday/1.png"]
    ):
        draw(tmp_path / name, seed, (60, 40), colour=int("tulip" in name))
    np.save("vectors.npy", np.eye(8))
    run("build-index photos --out photos.gallery --model", place / "model.safetensors")
    blocks = re.findall(r"```console\n(.*?)```", DOCUMENT, re.DOTALL)
    commands = [shlex.split(line)[1:] for block in blocks for line in block.splitlines()]
    for command in commands:
        run("", *command)
    assert len(commands) == 18
    (example,) = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
    capsys.readouterr()
    exec(compile(example, "searching.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 * 3 + 1 + 10
    assert lines[6].startswith("2 of ")


def test_every_command_and_option_in_the_document_exists() -> None:
    options = {o for c in main.commands.values() for p in c.params for o in p.opts}
    assert set(re.findall(r"(?<![-\w])(--[a-z][a-z-]+)", DOCUMENT)) <= options
    assert set(re.findall(r"(?<![-\w])retrieval ([a-z]+)", DOCUMENT)) <= set(main.commands)


# What is asked


def test_a_stored_picture_asks_by_id_and_by_path() -> None:
    one = id_of("b/1.png")
    (by_id,) = answers(f"query --id {one} -k 4")
    for path in ("b/1.png", "photos/b/1.png"):
        (by_path,) = answers("query -k 4 --path", path)
        assert by_path == by_id
    assert by_id["question"] == f"b/1.png (id {one})"
    assert len(by_id["hits"]) == 4
    assert one not in ids(by_id)
    (itself,) = answers(f"query --id {one} -k 5 --include-self")
    assert ids(itself) == [one, *ids(by_id)]
    assert itself["hits"][0]["distance"] == pytest.approx(0, abs=1e-6)
    (photo,) = answers("query photos/b/1.png -k 5")
    assert ids(photo) == ids(itself)
    both = answers(f"query --id {one} --path a/0.png -k 1")
    assert [answer["question"].split()[0] for answer in both] == ["b/1.png", "a/0.png"]
    assert ids(both[1]) == [id_of("a/12.png")]


def test_a_part_of_a_photo_asks() -> None:
    (part,) = answers("query outside/0.png --box 5,6,30,20 -k 3")
    assert (part["box"], part["photos"]) == ([5, 6, 30, 20], ["outside/0.png"])
    (whole,) = answers("query outside/0.png --box 0,0,60,40 -k 3")
    (photo,) = answers("query outside/0.png -k 3")
    assert ids(whole) == ids(photo)
    assert [h["distance"] for h in part["hits"]] != [h["distance"] for h in photo["hits"]]
    page = run("query outside/0.png --box 5,6,30,20 --html page.html --sheet sheet.png")
    assert "Page: page.html" in page.stderr
    assert Path("page.html").read_text().count("<figure") == 11


def test_a_mixture_asks_once() -> None:
    (alone,) = answers("query --like outside/0.png -k 5")
    (photo,) = answers("query outside/0.png -k 5")
    assert ids(alone) == ids(photo)
    (mixed,) = answers("query --like outside/0.png --like outside/1.png:2 --unlike outside/2.png")
    assert mixed["question"] == "1×outside/0.png + 2×outside/1.png − 0.5×outside/2.png"
    assert mixed["photos"] == ["outside/0.png", "outside/1.png"]
    assert len(mixed["hits"]) == 10
    run("query --like outside/0.png --like outside/1.png --sheet mixed.png")
    assert Path("mixed.png").exists()


def test_vectors_of_a_file_ask(tmp_path: Path) -> None:
    gallery = Gallery.open(Path("g.gallery"))
    vectors = gallery.vectors(np.array([3, 7]))
    np.save(tmp_path / "v.npy", vectors)
    found = answers("query -k 4 --vectors", tmp_path / "v.npy")
    assert [answer["question"] for answer in found] == [
        f"{tmp_path / 'v.npy'}[{n}]" for n in (0, 1)
    ]
    for item_id, answer in zip((3, 7), found, strict=True):
        (stored,) = answers(f"query --id {item_id} -k 4 --include-self")
        assert answer["hits"] == stored["hits"]
    np.save(tmp_path / "one.npy", vectors[0])
    (one,) = answers("query -k 4 --vectors", tmp_path / "one.npy")
    assert one["hits"] == found[0]["hits"]
    run("query --html page.html --vectors", tmp_path / "v.npy")


def test_a_folder_asks_with_each_picture_that_can_be_read() -> None:
    result = run("query outside -k 2 --json", code=1)
    found = json.loads(result.stdout)
    assert [answer["question"] for answer in found] == [f"outside/{n}.png" for n in range(3)]
    assert result.stderr.count("Error: ") == 1
    assert "Error: outside/bad.png: " in result.stderr
    table = run("query outside outside/0.png -k 2", code=1)
    assert table.stdout.count("rank  distance") == 4
    rows = list(csv.DictReader(io.StringIO(run("query outside -k 2 --format csv", code=1).stdout)))
    assert [row["question"] for row in rows] == [f"outside/{n}.png" for n in (0, 0, 1, 1, 2, 2)]
    only_bad = run("query outside/bad.png --json", code=1)
    assert json.loads(only_bad.stdout) == []


def test_many_questions_are_answered_in_order(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", np.eye(8, dtype=np.float32)[np.arange(150) % 8])
    result = run("query -k 1 --format paths --vectors", tmp_path / "v.npy")
    lines = result.stdout.splitlines()
    assert len(lines) == 150
    assert lines == (lines[:8] * 19)[:150]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("query", "what is asked? give PHOTOS"),
        ("query outside/0.png --id 1", "one kind at a time: give PHOTOS"),
        ("query --like outside/0.png --vectors v.npy", "one kind at a time"),
        ("query nothing", "there are no pictures in nothing"),
        ("query outside --box 0,0,5,5", "--box is a part of one PHOTO"),
        ("query outside/0.png outside/1.png --box 0,0,5,5", "--box is a part of one PHOTO"),
        ("query --id 1 --box 0,0,5,5", "--box is a part of one PHOTO"),
        ("query outside/0.png --box 55,0,6,5", "reaches out of the picture, which is 60×40"),
        ("query missing.png", "missing.png: no such file"),
        ("query --unlike outside/0.png", "nothing is liked"),
        ("query --like outside/0.png --unlike outside/0.png:1", "cancel each other out"),
        ("query --like outside/0.png:0", "the weight of outside/0.png is 0"),
        ("query --like outside/0.png:-1", "give a number above 0"),
        ("query --like outside/bad.png", "outside/bad.png: "),
        ("query --id 99", "does not hold a picture with the id 99"),
        ("query --id 99999999999999999999999", "does not hold a picture with the id 9999"),
        ("query --path nowhere.png", "does not hold a picture nowhere.png"),
        ("query --vectors nowhere.npy", "nowhere.npy is not a readable .npy file"),
        ("query --vectors outside/0.png", "0.png is not a readable .npy file"),
        ("query outside/0.png --where colour=1", "names a column 'colour'"),
        ("query outside/0.png --within calibrated", "no calibrated distance"),
        ("query outside/0.png --gallery empty.gallery", "empty.gallery/model"),
        ("range --id 1 --distance calibrated", "retrieval calibrate --gallery g.gallery"),
        ("duplicates --distance calibrated", "retrieval calibrate --gallery g.gallery"),
        ("duplicates --where colour=1", "names a column 'colour'"),
        ("calibrate --gallery empty.gallery", "no two have the same label"),
        ("calibrate --queries nowhere", "nowhere"),
        ("duplicates --gallery nowhere", "nowhere is not a gallery"),
    ],
)
def test_what_cannot_be_asked_gives_one_line(line: str, message: str) -> None:
    result = run(line, code=1)
    assert message in result.stderr
    assert result.stderr.count("Error: ") == 1
    assert "hits" not in result.stdout


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("query a.png --box 1,2,3", "is not four whole numbers"),
        ("query a.png --box a,b,c,d", "is not four whole numbers"),
        ("query a.png -k 0", "range"),
        ("query a.png --id x", "not a valid integer"),
        ("query a.png --within -1", "is no distance"),
        ("range a.png", "--distance"),
        ("range a.png --distance far", "neither a number nor the word calibrated"),
        ("range a.png --distance nan", "is no distance"),
        ("range a.png --distance 1 --limit 0", "range"),
        ("duplicates --distance inf", "is no distance"),
        ("calibrate --precision 0", "range"),
        ("calibrate --precision 1.5", "range"),
        ("calibrate --precision nan", "nan is not a finite number"),
        ("calibrate --wait NaN", "NaN is not a finite number"),
        ("calibrate --wait inf", "inf is not a finite number"),
        ("tune --max-query-time-ms inf", "inf is not a finite number"),
        ("tune --recall-target nan", "nan is not a finite number"),
        ("evaluate --confidence nan", "nan is not a finite number"),
        ("detect a.png --model m --score nan", "nan is not a finite number"),
    ],
)
def test_options_that_cannot_be_are_refused(line: str, message: str) -> None:
    assert message in run(line, code=2).stderr


# Within a distance


def test_range_finds_all_within_and_tells_what_was_cut_off() -> None:
    (near,) = answers("query --id 1 -k 100")
    distances = [hit["distance"] for hit in near["hits"]]
    assert len(distances) == 12
    (found,) = answers("range --id 1 --distance", distances[6])
    assert found["hits"] == near["hits"][:7]
    assert found["total"] == 7
    cut = run("range --id 1 --json --limit 3 --distance", distances[6])
    (answer,) = json.loads(cut.stdout)
    assert (answer["hits"], answer["total"]) == (near["hits"][:3], 7)
    assert "7 pictures lie within; the 3 nearest are given (--limit)" in cut.stderr
    (itself,) = answers("range --id 1 --include-self --distance", distances[6])
    assert itself["total"] == 8
    (kept,) = answers("query --id 1 -k 100 --within", distances[6])
    assert kept["hits"] == found["hits"]
    assert kept["total"] is None
    (some,) = answers("range --id 1 --distance 9 --where label=b")
    assert sorted(ids(some)) == sorted(i for i in ids(near) if id_of_label(near, i) == "b")
    none = run("range outside/0.png --distance 0")
    assert none.stdout.splitlines()[1:] == ["none"]
    assert len(answers("range outside --distance 9", code=1)) == 3


def id_of_label(answer: dict, item_id: int) -> str:
    return str(next(hit["label"] for hit in answer["hits"] if hit["id"] == item_id))


def test_an_empty_gallery_answers_nothing(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", np.zeros(8))
    for command in ("query", "range --distance 1"):
        (answer,) = answers(f"{command} --gallery empty.gallery --vectors", tmp_path / "v.npy")
        assert answer["hits"] == []
    found = json.loads(run("duplicates --gallery empty.gallery --json").stdout)
    assert found["groups"] == []


# Duplicates


def test_duplicates_lists_copies_and_deletes_nothing() -> None:
    result = run("duplicates --html d.html --sheet d.png")
    one, copy = id_of("a/0.png"), id_of("a/12.png")
    lines = result.stdout.splitlines()
    assert lines[0] == "group 1: 2 pictures"
    assert [line.split()[0] for line in lines[1:3]] == [str(one), str(copy)]
    assert f"copy of {one}" in lines[2]
    assert lines[3].startswith("1 groups, 2 pictures within ")
    assert "a hundredth of the typical one" in result.stderr
    assert "same file" in Path("d.html").read_text()
    assert Path("d.png").exists()
    assert len(list(Path("photos").rglob("*.png"))) == 13
    found = json.loads(run("duplicates --distance 0 --json").stdout)
    assert (found["gallery"], found["pictures"], found["copies"]) == ("g.gallery", 2, 1)
    assert [[m["id"] for m in group] for group in found["groups"]] == [[one, copy]]
    everything = json.loads(run("duplicates --distance 9 --json").stdout)
    assert [len(group) for group in everything["groups"]] == [13]
    none = run("duplicates --where label=b")
    assert none.stdout.startswith("0 groups, 0 pictures")


# Calibrated distances


def test_a_calibrated_distance_is_kept_and_used(tmp_path: Path) -> None:
    own = tmp_path / "c.gallery"
    run("build-index photos --model model.safetensors --out", own)
    found = json.loads(run("calibrate --precision 0.5 --json --gallery", own).stdout)
    assert found["own"] is True
    assert found["precision"] >= 0.5
    kept = Gallery.open(own).settings["calibration"]
    assert kept == {name: value for name, value in found.items() if name != "gallery"}
    result = run("range --id 1 --distance calibrated --json --gallery", own)
    (calibrated,) = json.loads(result.stdout)
    (number,) = answers(f"range --id 1 --distance {found['distance']!r} --gallery", own)
    assert calibrated == number
    assert "Calibrated distance: " in result.stderr
    assert "(precision 0.5)" in result.stderr
    run("query --id 1 --within calibrated --gallery", own)
    run("duplicates --distance calibrated --gallery", own)
    text = run("calibrate --precision 0.5 --gallery", own)
    assert "pairs within it have one label" in text.stdout
    assert "take it as a hint" in text.stderr
    assert "use --queries" in text.stderr


def test_pictures_from_outside_calibrate(tmp_path: Path) -> None:
    own = tmp_path / "c.gallery"
    run("build-index photos --model model.safetensors --out", own)
    for label in "ab":
        draw(tmp_path / "asked" / label / "x.png", ord(label))
    (tmp_path / "asked" / "a" / "0.png").write_bytes(Path("photos/a/0.png").read_bytes())
    result = run(
        "calibrate --json --gallery", own, "--precision", 0.2, "--queries", tmp_path / "asked"
    )
    found = json.loads(result.stdout)
    assert (found["own"], found["queries"], found["pictures"]) == (False, 3, 13)
    assert "use --queries" not in result.stderr


def test_calibrate_waits_for_no_other_writer_unless_told(tmp_path: Path) -> None:
    own = tmp_path / "c.gallery"
    run("build-index photos --model model.safetensors --out", own)
    with Gallery.open(own).writer():
        result = run("calibrate --precision 0.2 --wait 0.05 --gallery", own, code=1)
    assert result.stderr.count("Error: ") == 1
    assert "calibration" not in Gallery.open(own).settings
