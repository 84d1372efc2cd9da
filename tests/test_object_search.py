"""Asking galleries of objects: from Python, and from the command line."""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from bright_boxes import draw_scene, make_objects_gallery, register, save_detector
from click.testing import CliRunner, Result
from PIL import Image

from retrieval.building import fill, open_or_create
from retrieval.cli import main
from retrieval.gallery import Gallery
from retrieval.images import read_image
from retrieval.pictures import list_pictures
from retrieval.questions import photo_questions, stored_questions
from retrieval.report import OUTLINE, Tile
from retrieval.search import Searcher, sheet_row, thumbnail

RED, GREEN, BLUE = ("red", (4, 4, 20, 10)), ("green", (40, 8, 9, 30)), ("blue", (10, 20, 12, 12))
SMALL = ("red", (50, 40, 8, 8))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Objects of five scenes, and a gallery of the whole scenes."""
    folder = tmp_path_factory.mktemp("objects")
    with pytest.MonkeyPatch.context() as patch:
        register(patch)
        detector = save_detector(folder / "detector.safetensors")
        draw_scene(folder / "photos" / "0.png", RED, GREEN)
        draw_scene(folder / "photos" / "1.png", BLUE)
        draw_scene(folder / "photos" / "2.png", GREEN, BLUE, SMALL)
        draw_scene(folder / "photos" / "3.png", SMALL)
        draw_scene(folder / "photos" / "4.png")
        make_objects_gallery(folder, detector, [folder / "photos"]).close()
        model = folder / "model.safetensors"
        whole = open_or_create(folder / "whole", model, sources=[folder / "photos"])
        fill(whole, list_pictures([folder / "photos"]))
    draw_scene(folder / "ask" / "both.png", RED, BLUE)
    draw_scene(folder / "ask" / "none.png")
    (folder / "ask" / "bad.png").write_bytes(b"no picture")
    return folder


@pytest.fixture(autouse=True)
def there(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch)
    monkeypatch.chdir(place)
    monkeypatch.setenv("RETRIEVAL_GALLERY", "g.gallery")


def run(line: str, code: int = 0) -> Result:
    result = CliRunner().invoke(main, line.split())
    if result.exit_code != code:
        raise AssertionError(f"{line} ended with {result.exit_code}:\n{result.output}")
    assert "Traceback" not in result.output
    return result


def found(line: str, code: int = 0) -> list[dict]:
    return json.loads(run(f"{line} --json", code).stdout)


def test_each_object_of_a_photo_asks_and_finds_its_like(place: Path) -> None:
    red, blue = sorted(found("query ask/both.png --objects -k 1"), key=lambda a: a["box"])
    assert red["question"] == "ask/both.png: red 1.00 (4,4,20,10)"
    assert red["photos"] == ["ask/both.png"]
    assert red["box"] == [4, 4, 20, 10]
    (hit,) = red["hits"]
    assert (hit["path"], hit["box"], hit["label"]) == ("photos/0.png", [4, 4, 20, 10], "red")
    assert hit["distance"] == pytest.approx(0, abs=1e-3)
    assert blue["hits"][0]["label"] == "blue"
    assert blue["hits"][0]["metadata"]["score"] == 1


def test_answers_say_where_the_object_lies_in_every_format() -> None:
    table = run("query ask/both.png --objects -k 2").stdout
    assert "box " in table
    assert "4,4,20,10             photos/0.png" in table
    assert table.count("rank") == 2  # each question has a title and a table
    paths = run("query ask/both.png --objects -k 1 --format paths").stdout.split()
    assert "photos/0.png#xywh=4,4,20,10" in paths
    rows = list(csv.DictReader(io.StringIO(run("query photos --objects -k 1 --format csv").stdout)))
    assert len(rows) == 7
    assert {row["box"] for row in rows if row["label"] == "blue"} == {"10,20,12,12"}
    plain = run("query ask/both.png -k 1 --gallery whole").stdout
    assert "box" not in plain


def test_where_filters_by_class_score_and_box() -> None:
    (answer, _) = found("query ask/both.png --objects -k 9")
    assert len(answer["hits"]) == 7
    command = ["query", "ask/both.png", "-k", "9", "--json", "--where"]
    result = CliRunner().invoke(main, [*command, "label = 'red' AND score > 0.8 and width < 10"])
    (answer,) = json.loads(result.stdout)
    assert [hit["path"] for hit in answer["hits"]] == ["photos/2.png", "photos/3.png"]


def test_a_box_is_cut_out_as_the_objects_were() -> None:
    """So the box of a stored object finds that object at distance 0, though it is no square."""
    (answer,) = found("query photos/0.png --box 40,8,9,30 -k 2")
    assert answer["hits"][0]["distance"] == pytest.approx(0, abs=1e-3)
    assert answer["hits"][0]["box"] == [40, 8, 9, 30]
    assert answer["hits"][0]["path"] == "photos/0.png"
    run("query photos/0.png --box 40,8,90,30", code=1)


def test_a_stored_object_asks_by_id_and_path() -> None:
    (answer,) = found("query --path photos/0.png#xywh=40,8,9,30 -k 1")
    assert answer["photos"][0].endswith("photos/0.png")
    assert answer["box"] == [40, 8, 9, 30]
    assert answer["hits"][0]["path"] == "photos/2.png"
    assert answer["hits"][0]["label"] == "green"
    told = run("query --path photos/0.png", code=1).output
    assert "holds 2 objects of 0.png" in told
    assert "#xywh=" in told


def test_one_answer_a_photo_by_choice() -> None:
    searcher = Searcher.open(Path("g.gallery"))
    for k in (1, 2, 3, 4, 9):
        asked = list(photo_questions(searcher.embedder, [Path("ask/both.png")], print))
        (every,) = searcher.nearest(asked, 100)
        (answer,) = searcher.nearest(asked, k, one_per_photo=True)
        expected: dict[Path, int] = {}
        for hit in every.hits:
            expected.setdefault(hit.path, hit.id)
        assert [hit.id for hit in answer.hits] == list(expected.values())[:k]
        assert [hit.rank for hit in answer.hits] == list(range(1, min(k, 4) + 1))
    asked = list(photo_questions(searcher.embedder, [Path("ask/both.png")], print))
    (near,) = searcher.nearest(asked, 9, one_per_photo=True, within=every.hits[3].distance)
    assert [hit.id for hit in near.hits] == [
        item_id for item_id in expected.values() if item_id in {h.id for h in every.hits[:4]}
    ]
    (reds,) = searcher.nearest(asked, 3, one_per_photo=True, where="label = red")
    assert [hit.label for hit in reds.hits] == ["red"] * 3
    (answer,) = found("query --path photos/2.png#xywh=40,8,9,30 -k 9 --one-per-photo")
    assert len({hit["path"] for hit in answer["hits"]}) == len(answer["hits"]) == 4


def test_a_photo_without_objects_is_told_and_fails_where_nothing_is_asked() -> None:
    alone = run("query ask/none.png --objects", code=1)
    assert "ask/none.png: no object was found" in alone.stderr
    both = run("query ask/none.png ask/both.png --objects")
    assert "no object was found" in both.stderr
    assert both.stdout.count("rank") == 2
    bad = run("query ask --objects", code=1)
    assert "bad.png" in bad.stderr
    assert bad.stdout.count("rank") == 2
    assert found("query ask/none.png --objects", code=1) == []


def test_a_gallery_without_a_detector_says_what_to_do() -> None:
    told = run("query ask/both.png --objects --gallery whole", code=1).output
    assert "has no detector" in told
    assert "build-index PHOTOS --objects DETECTOR" in told


@pytest.mark.parametrize("more", ["--id 1", "--box 1,1,5,5 ask/both.png", "--like ask/both.png"])
def test_objects_go_with_whole_photos_alone(more: str) -> None:
    assert "--objects asks with" in run(f"query --objects {more}", code=1).output


def test_build_index_from_the_command_line(tmp_path: Path) -> None:
    build = f"build-index photos --model model.safetensors --out {tmp_path}/g"
    assert "give --objects" in run(f"{build} --least-score 0.7", code=1).output
    build += " --objects detector.safetensors --least-side 9"
    summary = json.loads(run(f"{build} --json").stdout)
    assert (summary["added"], summary["objects"], summary["without_objects"]) == (3, 5, 2)
    again = run(build)
    assert "0 added, 5 unchanged" in again.stdout
    assert "0 objects stored" in again.stdout
    assert "--least-side 9" in run(f"{build} --least-side 5", code=1).output
    facts = json.loads(run(f"info --gallery {tmp_path}/g --json").stdout)
    assert (facts["pictures"], facts["objects"], facts["without_objects"]) == (3, 5, 2)
    assert run(f"verify --gallery {tmp_path}/g").stdout.endswith("sound\n")


def test_range_and_duplicates_name_the_boxes() -> None:
    (answer,) = found("range --path photos/0.png#xywh=40,8,9,30 --distance 0.0001")
    assert [hit["box"] for hit in answer["hits"]] == [[40, 8, 9, 30]]
    groups = json.loads(run("duplicates --distance 0.0001 --json").stdout)["groups"]
    greens = next(group for group in groups if group[0]["label"] == "green")
    assert [member["box"] for member in greens] == [[40, 8, 9, 30]] * 2
    assert "40,8,9,30" in run("duplicates --distance 0.0001").stdout


def test_exported_objects_can_be_imported(tmp_path: Path) -> None:
    run(f"export {tmp_path}/out")
    rows = list(csv.DictReader((tmp_path / "out" / "pictures.csv").read_text().splitlines()))
    assert rows[0]["path"].endswith("photos/0.png#xywh=40,8,9,30")
    run(f"import {tmp_path}/out --out {tmp_path}/copy --model model.safetensors")
    (answer,) = found(f"query ask/both.png -k 1 --gallery {tmp_path}/copy")
    assert answer["hits"][0]["box"] is not None
    assert Path(answer["hits"][0]["path"]).exists()
    told = run(f"query ask/both.png --objects --gallery {tmp_path}/copy", code=1).output
    assert "has no detector" in told


def test_sheet_and_page_outline_the_box(tmp_path: Path) -> None:
    run(f"query ask/both.png --objects -k 3 --sheet {tmp_path}/s.png --html {tmp_path}/p.html")
    pixels = np.asarray(Image.open(tmp_path / "s.png").convert("RGB"))
    outline = np.array([int(OUTLINE[i : i + 2], 16) for i in (1, 3, 5)])
    assert (pixels == outline).all(2).sum() > 500
    page = (tmp_path / "p.html").read_text()
    assert "red 1.00 (4,4,20,10)" in page
    assert page.count("<figure") == 8


def test_a_thumbnail_shows_what_lies_around_the_box(place: Path) -> None:
    picture, outline = thumbnail(place / "photos" / "0.png", (40, 8, 9, 30))
    whole = read_image(place / "photos" / "0.png")
    np.testing.assert_array_equal(picture, whole[0:48, 25:64])
    assert outline == (15, 8, 24, 38)
    assert thumbnail(place / "photos" / "0.png")[1] is None
    for gone in (
        thumbnail(place / "gone.png", (1, 1, 2, 2)),
        thumbnail(place / "photos" / "0.png", (60, 1, 9, 9)),
    ):
        assert gone[0].min() == gone[0].max()
        assert gone[1] is None


def test_an_outline_stands_around_the_object_at_any_scale() -> None:
    for side, box in ((16, (4, 4, 8, 12)), (500, (125, 125, 250, 375))):
        image = Tile(np.zeros((side, side, 3), np.uint8), "", box=box).fitted()
        bright = (np.asarray(image)[:, :, 0] == 255).nonzero()
        left, top = bright[1].min(), bright[0].min()
        right, bottom = bright[1].max(), bright[0].max()
        expected = np.array(box) * (image.width / side)
        assert np.abs(np.array([left, top, right, bottom]) - expected).max() <= 1.5
    assert np.asarray(Tile(np.zeros((9, 9, 3), np.uint8), "").fitted()).max() == 0


def test_the_query_of_a_sheet_is_the_photo_with_its_box(place: Path) -> None:
    searcher = Searcher.open(Path("g.gallery"))
    answers, unreadable = searcher.query_files([Path("ask/both.png")], 2, objects=True)
    assert unreadable == []
    row = sheet_row(answers[0])
    assert row.query.caption in ("red 1.00 (4,4,20,10)", "blue 1.00 (10,20,12,12)")
    assert row.query.box is not None
    assert all(hit.box is not None for hit in row.hits)


def test_galleries_of_objects_from_python(tmp_path: Path, place: Path) -> None:
    gallery = Gallery.create(
        tmp_path / "g", place / "photos", model=place / "model.safetensors",
        objects=place / "detector.safetensors", object_options={"least_side": 9},
    )  # fmt: skip
    summary = gallery.add(place / "photos")
    assert (summary.objects, summary.without_objects) == (5, 2)
    answers = gallery.query(place / "ask" / "both.png", k=1, objects=True)
    assert sorted(str(answer.hits[0].label) for answer in answers) == ["blue", "red"]
    assert answers[0].hits[0].name.startswith(str(answers[0].hits[0].path) + "#xywh=")
    assert gallery.remove(place / "photos" / "0.png") == 2


def test_a_stored_object_asks_without_torch(place: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from retrieval.search import Searcher\n"
        "from retrieval.questions import stored_questions\n"
        "s = Searcher.open(Path('g.gallery'))\n"
        "(a,) = s.nearest(stored_questions(s.gallery, [1]), 2, one_per_photo=True)\n"
        "assert a.hits[0].box and a.box and 'torch' not in sys.modules\n"
    )
    environment = {"PYTHONPATH": str(Path(__file__).parents[1]), "PATH": ""}
    subprocess.run([sys.executable, "-c", program], check=True, cwd=place, env=environment)


def test_stored_questions_carry_the_box(place: Path) -> None:
    gallery = Searcher.open(place / "g.gallery").gallery
    (question,) = stored_questions(gallery, [1])
    assert question.box == (40, 8, 9, 30)
    assert question.photos == (gallery.image_root / "0.png",)
