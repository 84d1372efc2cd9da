"""Pictures with boxes: written and read again, and what comes of everything odd in them."""

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from boxed_files import FORMATS, HEIGHT, WIDTH, Row, picture
from PIL import Image

from retrieval.detection.boxed_datasets import WRITERS, has_test_part, load_boxed_pictures
from retrieval.detection.boxed_pictures import BoxedPictures, Objects
from retrieval.errors import DataError


@pytest.fixture(params=FORMATS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


def load(root: Path, kind: str, rows: Sequence[Row], names: Sequence[str]) -> BoxedPictures:
    return load_boxed_pictures(str(FORMATS[kind](root, rows, names)))


def random_pictures(masks: bool = False, crowds: bool = True) -> BoxedPictures:
    """Three pictures in memory, of which the second shows nothing."""
    rng = np.random.default_rng(3)
    pictures, objects = [], []
    for count in (3, 0, 2):
        height, width = rng.integers(20, 50, 2)
        pictures.append(rng.integers(0, 256, (height, width, 3), np.uint8))
        corner = rng.uniform(0, 9, (count, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(1, 10, (count, 2))], 1)
        drawn = None
        if masks:
            drawn = np.zeros((count, height, width), bool)
            for mask, box in zip(drawn, boxes.round().astype(int), strict=True):
                mask[box[1] : box[3], box[0] : box[2]] = True
        objects.append(
            Objects(
                boxes.astype(np.float32), rng.integers(0, 2, count),
                np.arange(count) % 2 == 1 if crowds else np.zeros(count, bool), drawn,
            )
        )  # fmt: skip
    return BoxedPictures("made", ("bébé", "two words"), tuple(pictures), tuple(objects))


def test_one_part_is_no_test_part(tmp_path: Path) -> None:
    data = random_pictures(crowds=False)
    for part in ("train", "test"):
        WRITERS["voc"](data, tmp_path / part)
    assert has_test_part(str(tmp_path))
    assert has_test_part("scenes")
    assert not has_test_part(str(tmp_path / "train"))


@pytest.mark.parametrize("written", WRITERS)
def test_what_is_written_is_read_again(tmp_path: Path, written: str) -> None:
    data = random_pictures(masks=written == "coco", crowds=written != "yolo")
    WRITERS[written](data, tmp_path / "new" / "set")
    read = load_boxed_pictures(str(tmp_path / "new" / "set"))
    assert read.left_out == ()
    assert len(read) == 3
    for row, (before, after) in enumerate(zip(data.objects, read.objects, strict=True)):
        np.testing.assert_array_equal(read.read(row), data.read(row))
        np.testing.assert_allclose(after.boxes, before.boxes, rtol=1e-5)
        names = [
            [d.classes[label] for label in o.labels] for d, o in ((data, before), (read, after))
        ]
        assert names[0] == names[1]
        np.testing.assert_array_equal(after.crowd, before.crowd)
        if written == "coco":
            np.testing.assert_array_equal(after.masks, before.masks)
    # A second time is refused, and files of the same name stay apart.
    with pytest.raises(DataError, match="is there already"):
        WRITERS[written](data, tmp_path / "new" / "set")
    twice = BoxedPictures("twice", data.classes, read.pictures[:1] * 2, data.objects[:1] * 2)
    WRITERS[written](twice, tmp_path / "twice")
    assert len(load_boxed_pictures(str(tmp_path / "twice"))) == 2


@pytest.mark.parametrize("written", WRITERS)
def test_pictures_without_a_known_suffix_are_not_lost(tmp_path: Path, written: str) -> None:
    data = random_pictures(crowds=False)
    names = ["abc", "abc.raw", "abc.PNG"]
    for name, pixels in zip(names, data.pictures, strict=True):
        Image.fromarray(np.asarray(pixels)).save(tmp_path / name, "PNG")
    data = dataclasses.replace(data, pictures=tuple(tmp_path / name for name in names))
    WRITERS[written](data, tmp_path / "set")
    read = load_boxed_pictures(str(tmp_path / "set"))
    places = {p.name: row for row, p in enumerate(read.pictures) if isinstance(p, Path)}
    assert set(places) == {"abc.png", "abc.raw.png", "abc-2.PNG"}
    for row, name in enumerate(("abc.png", "abc.raw.png", "abc-2.PNG")):
        np.testing.assert_array_equal(read.read(places[name]), data.read(row))
        assert len(read.objects[places[name]]) == len(data.objects[row])


def test_writing_that_fails_leaves_nothing(tmp_path: Path) -> None:
    data = random_pictures()
    with pytest.raises(DataError, match="crowds"):
        WRITERS["yolo"](data, tmp_path / "set")
    point = Objects(np.array([[3, 3, 4, 4]], np.float32), np.zeros(1, np.int64), np.zeros(1, bool))
    with pytest.raises(DataError, match="one pixel"):
        WRITERS["voc"](BoxedPictures("p", ("a",), data.pictures[:1], (point,)), tmp_path / "set")
    gone = BoxedPictures("p", ("a",), (tmp_path / "gone.png",), (point,))
    with pytest.raises(DataError, match=r"gone\.png cannot be read: no such file"):
        WRITERS["csv"](gone, tmp_path / "set")
    assert list(tmp_path.iterdir()) == []


def test_odd_boxes_have_one_outcome_in_all_formats(tmp_path: Path, kind: str) -> None:
    for name in "abc":
        picture(tmp_path / f"{name}.png")
    rows: list[Row] = [
        ("a.png", "cat", 5, 4, 15, 24),
        ("a.png", "dog", -5, 20, 10, 45),  # partly outside
        ("a.png", "cat", 5, 4, 15, 24),  # twice
        ("a.png", "cat", 50, 4, 60, 24),  # outside
        ("a.png", "cat", 40, 4, 60, 24),  # outside, and touching
        ("a.png", "cat", 5, 4, 5, 24),  # no width
        ("a.png", "cat", 5, 9, 25, 9),  # no height
        ("a.png", "cat", 15, 24, 5, 4),  # turned around
        ("c.png", "dog", -1, -1, 41, 31),  # around all
    ]
    data = load(tmp_path, kind, rows, ["a.png", "b.png", "c.png"])
    assert data.classes == ("cat", "dog")
    assert [path.name for path in data.pictures if isinstance(path, Path)] == [
        "a.png",
        "b.png",
        "c.png",
    ]
    first, empty, last = data.objects
    np.testing.assert_allclose(first.boxes, [[5, 4, 15, 24], [0, 20, 10, 30]], atol=1e-4)
    assert first.labels.tolist() == [0, 1]
    assert (empty.boxes.shape, empty.labels.dtype, empty.boxes.dtype) == (
        (0, 4),
        np.int64,
        np.float32,
    )
    np.testing.assert_allclose(last.boxes, [[0, 0, WIDTH, HEIGHT]])
    reasons = [reason for _, reason in data.left_out]
    assert sum("is there twice" in reason for reason in reasons) == 1
    assert sum("outside the picture, which is 40×30" in reason for reason in reasons) == 2
    assert sum("has no area" in reason for reason in reasons) == 3
    assert len(reasons) == 6
    assert data.left_out[0][0].name == "a.png"


def test_pictures_that_cannot_be_used_are_reported(tmp_path: Path, kind: str) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    rows: list[Row] = [(f"{n}.png", "cat", 1, 2, 3, 4) for n in ("a", "broken", "gone")]
    data = load(tmp_path, kind, rows, ["a.png", "broken.png", "gone.png"])
    assert len(data) == 1
    reasons = {path.name: reason for path, reason in data.left_out}
    assert reasons["gone.png"] == "no such file"
    assert "not a picture" in reasons["broken.png"]


def test_a_set_without_a_usable_picture_is_refused(tmp_path: Path, kind: str) -> None:
    with pytest.raises(DataError, match=r"none of the 1 pictures .*gone\.png: no such file"):
        load(tmp_path, kind, [("gone.png", "cat", 1, 2, 3, 4)], ["gone.png"])


@pytest.mark.parametrize("number", ["nan", "inf", "-inf", "x", "1e999"])
def test_numbers_that_are_not_finite_are_refused(tmp_path: Path, kind: str, number: str) -> None:
    picture(tmp_path / "a.png")
    file = FORMATS[kind](tmp_path, [("a.png", "cat", 1, 2, 17.25, 26)], ["a.png"])
    for each in tmp_path.rglob("*"):
        if each.suffix in (".json", ".xml", ".csv", ".txt") and each.name != "list.txt":
            text = each.read_text()
            for old in ("16.25", "17.25", repr(16.25 / WIDTH)):
                text = text.replace(old, json.dumps(number) if kind == "coco" else number)
            each.write_text(text)
    with pytest.raises(
        DataError, match=r"(annotations\[0\]|object 1|line \d).* must be a finite number"
    ):
        load_boxed_pictures(str(file))


def test_a_picture_stored_on_its_side_is_measured_upright(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg", exif=6)
    data = load(tmp_path, "csv", [("a.jpg", "cat", 0, 0, 100, 100)], ["a.jpg"])
    assert data.objects[0].boxes.tolist() == [[0, 0, HEIGHT, WIDTH]]
    assert data.read(0).shape == (WIDTH, HEIGHT, 3)


def test_one_file_named_twice_is_one_picture(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    rows: list[Row] = [("a.png", "cat", 1, 2, 3, 4), ("./a.png", "cat", 5, 2, 9, 4)]
    data = load(tmp_path, "csv", rows, ["a.png", "./a.png"])
    assert data.objects[0].boxes[:, 0].tolist() == [1, 5]
    data = load(tmp_path, "coco", rows, ["a.png", "./a.png"])
    assert len(data) == 1
    assert len(data.objects[0]) == 2


def test_folders_of_parts(tmp_path: Path, kind: str) -> None:
    for part, label in (("train", "cat"), ("val", "ant")):
        (tmp_path / part).mkdir()
        picture(tmp_path / part / "a.png")
        FORMATS[kind](tmp_path / part, [("a.png", label, 1, 2, 3, 4)], ["a.png"])
    train, test = (load_boxed_pictures(str(tmp_path), split=split) for split in ("train", "test"))
    assert train.classes == test.classes == ("cat", "ant")
    assert test.objects[0].labels.tolist() == [1]
    (tmp_path / "val").rename(tmp_path / "other")
    with pytest.raises(DataError, match="has a train part, but none of: test, val"):
        load_boxed_pictures(str(tmp_path), split="test")


def test_a_name_that_is_empty_is_not_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    WRITERS["voc"](random_pictures(crowds=False), tmp_path / "set")
    monkeypatch.chdir(tmp_path / "set")
    assert len(load_boxed_pictures(".")) == 3
    for ask in (load_boxed_pictures, has_test_part):
        with pytest.raises(DataError, match="there is no data set ''"):
            ask("")


def test_what_is_no_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="it has nothing; a data set can be scenes, "):
        load_boxed_pictures(str(tmp_path))
    (tmp_path / "x.txt").touch()
    with pytest.raises(DataError, match=r"it has x\.txt"):
        load_boxed_pictures(str(tmp_path))
    with pytest.raises(DataError, match=r"is a \.txt file"):
        load_boxed_pictures(str(tmp_path / "x.txt"))
    with pytest.raises(DataError, match="there is no data set 'nowhere'"):
        load_boxed_pictures("nowhere")
    with pytest.raises(DataError, match="the part is 'dev'; it can be train, test"):
        load_boxed_pictures("scenes", split="dev")
    for name in "ab":
        (tmp_path / f"{name}.csv").touch()
    with pytest.raises(DataError, match=r"several files that may be meant: a\.csv, b\.csv"):
        load_boxed_pictures(str(tmp_path))


REAL = [
    ("raccoon", "train", 200, 217, 0),
    ("raccoon/data", "train", 160, 173, 0),
    ("raccoon/data", "test", 40, 44, 0),
    ("bccd/BCCD", "train", 205, 2804, 1),
    ("bccd/BCCD", "test", 72, 945, 0),
    ("PennFudanPed", "test", 170, 423, 0),
]


@pytest.mark.parametrize(("name", "split", "pictures", "objects", "left_out"), REAL)
def test_real_sets(name: str, split: str, pictures: int, objects: int, left_out: int) -> None:
    root = Path(os.environ.get("RETRIEVAL_BOXED", "/nowhere")) / name
    if not root.exists():
        pytest.skip(
            "set RETRIEVAL_BOXED to the folder that holds the raccoon, bccd and Penn-Fudan sets"
        )
    data = load_boxed_pictures(str(root), split=split)
    found = len(data), sum(map(len, data.objects)), len(data.left_out)
    assert found == (pictures, objects, left_out)
