"""What each format of pictures with boxes says, and what it alone can get wrong."""

import json
from pathlib import Path

import numpy as np
import pytest
from boxed_files import HEIGHT, WIDTH, Row, picture, write_coco, write_voc
from PIL import Image

from retrieval.detection import annotations
from retrieval.detection.boxed_datasets import load_boxed_pictures
from retrieval.detection.boxed_pictures import BoxedPictures
from retrieval.detection.coco_json import read_coco
from retrieval.detection.segmentations import runs_of
from retrieval.errors import DataError

COCO = {
    "images": [{"id": 1, "file_name": "a.png", "width": WIDTH, "height": HEIGHT}],
    "annotations": [{"image_id": 1, "category_id": 7, "bbox": [1, 2, 10, 10]}],
    "categories": [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}],
}


def coco(root: Path, **changed: object) -> BoxedPictures:
    """The above with one annotation that is changed, or other lists."""
    lists = {key: changed.pop(key) for key in list(changed) if key in COCO}
    annotation = {**COCO["annotations"][0], **changed}
    picture(root / "a.png")
    (root / "a.json").write_text(json.dumps({**COCO, "annotations": [annotation], **lists}))
    return load_boxed_pictures(str(root / "a.json"))


def test_coco_classes_are_in_the_order_of_their_ids(tmp_path: Path) -> None:
    data = coco(tmp_path, iscrowd=1)
    assert data.classes == ("dog", "cat")
    assert (data.objects[0].labels.tolist(), data.objects[0].crowd.tolist()) == ([1], [True])
    assert data.objects[0].masks is None


def test_coco_masks_are_drawn_from_polygons_and_runs(tmp_path: Path) -> None:
    wanted = np.zeros((HEIGHT, WIDTH), bool)
    wanted[5:15, 10:30] = True
    square = coco(tmp_path, segmentation=[[10, 5, 30, 5, 30, 15, 10, 15]])
    np.testing.assert_array_equal(square.objects[0].masks, wanted[None])
    # Runs go down the columns, and begin with what is not the object.
    counts, last, run = [], False, 0
    for pixel in wanted.T.ravel():
        if pixel != last:
            counts.append(run)
            last, run = pixel, 0
        run += 1
    runs = {"size": [HEIGHT, WIDTH], "counts": [*counts, run]}
    listed = coco(tmp_path, segmentation=runs)
    np.testing.assert_array_equal(listed.objects[0].masks, wanted[None])


@pytest.mark.parametrize("nothing", [None, [], [[]]])
def test_coco_objects_may_have_boxes_alone(tmp_path: Path, nothing: object) -> None:
    data = coco(tmp_path, segmentation=nothing)
    assert data.objects[0].boxes.tolist() == [[1, 2, 11, 12]]
    assert data.objects[0].masks is None


@pytest.mark.parametrize("share", [0, 0.02, 0.5, 1])
def test_runs_are_those_of_pycocotools(tmp_path: Path, share: float) -> None:
    mask = pytest.importorskip("pycocotools.mask")
    wanted = np.random.default_rng(1).random((HEIGHT, WIDTH)) < share
    encoded = mask.encode(np.asfortranarray(wanted.astype(np.uint8)))
    text = coco(
        tmp_path, segmentation={"size": [HEIGHT, WIDTH], "counts": encoded["counts"].decode()}
    )
    np.testing.assert_array_equal(text.objects[0].masks, wanted[None])
    ours = mask.frPyObjects(runs_of(wanted), HEIGHT, WIDTH)
    assert ours["counts"] == encoded["counts"]


@pytest.mark.parametrize(
    "segmentation",
    [
        [[1, 2, 3, 4]],
        [[1, 2, 3, 4, 5, "x"]],
        [[1, 2, 3, 4, 5, 1e12]],
        [[float("nan")] * 6],
        "text",
        {"size": [HEIGHT, WIDTH], "counts": [5, 5]},
        {"size": [HEIGHT, WIDTH], "counts": [-5, 1205]},
        {"size": [3, 3], "counts": [4, 5]},
        {"size": [HEIGHT, WIDTH], "counts": "~~~~~~~"},
        {"size": [HEIGHT, WIDTH], "counts": "01"},
        {"size": [HEIGHT, WIDTH], "counts": "oo"},
        {"size": [HEIGHT, WIDTH], "counts": "é"},
        {"size": [HEIGHT, WIDTH]},
    ],
)
def test_a_broken_segmentation_is_refused(tmp_path: Path, segmentation: object) -> None:
    with pytest.raises(DataError, match=r"annotations\[0\]"):
        coco(tmp_path, segmentation=segmentation)


def test_masks_are_kept_where_all_have_one_and_they_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    polygon = [[10, 5, 30, 5, 30, 15, 10, 15]]
    objects = [
        {"image_id": 1, "category_id": 7, "bbox": [1, 2, n + 3, 10], "segmentation": part}
        for n, part in enumerate((polygon, None))
    ]
    some = coco(tmp_path, annotations=objects)
    assert some.objects[0].masks is None
    assert some.left_out[0][1] == "masks are left out, as 1 of 2 objects have none"
    monkeypatch.setattr(annotations, "MOST_MASK_BYTES", 100)
    many = coco(tmp_path, segmentation=polygon)
    assert many.objects[0].masks is None
    assert "GiB" in many.left_out[0][1]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"category_id": 9}, r"no category 9; there are 3, 7"),
        ({"category_id": None}, "category_id is missing"),
        ({"image_id": 9}, r"annotations\[0\]: there is no image with the id 9"),
        ({"bbox": [1, 2, 3]}, "bbox has 3 numbers"),
        ({"bbox": None}, "bbox is missing"),
        ({"images": [{"id": 1, "file_name": "a.png"}] * 2}, r"images\[1\]: id 1 is there twice"),
        ({"images": [7]}, r"images\[0\]: file_name is missing"),
        ({"images": []}, "there are no pictures"),
        ({"categories": [{"id": 7, "name": "cat"}] * 2}, r"categories\[1\]: id 7 is there twice"),
        ({"annotations": 5}, "has no list 'annotations'"),
        ({"images": []}, "image with the id 1|no pictures"),
    ],
)
def test_broken_coco_is_refused(tmp_path: Path, changed: dict[str, object], message: str) -> None:
    if changed == {"images": []}:
        changed = {"images": [], "annotations": []}
    with pytest.raises(DataError, match=message):
        coco(tmp_path, **changed)


@pytest.mark.parametrize("text", ['{"images": [\n,', "[1]", "", "\x00", "[" * 100_000])
def test_what_is_no_coco_json_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match=r"a\.json"):
        load_boxed_pictures(str(tmp_path / "a.json"))


def test_a_sum_of_finite_numbers_can_be_too_large(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not finite"):
        coco(tmp_path, bbox=[1.7e308, 1, 1.7e308, 5])


def test_an_annotation_of_another_size_leaves_its_picture_out(tmp_path: Path) -> None:
    picture(tmp_path / "b.png")
    images = [
        {"id": 1, "file_name": "a.png", "width": HEIGHT, "height": WIDTH},
        {"id": 2, "file_name": "b.png", "width": WIDTH, "height": HEIGHT},
    ]
    data = coco(tmp_path, images=images)
    assert len(data) == 1
    assert "30×40 pixels, but upright it has 40×30" in data.left_out[0][1]


def test_coco_parts_are_found_as_they_are_handed_out(tmp_path: Path) -> None:
    for part, label in (("train2017", "cat"), ("val2017", "dog")):
        picture(tmp_path / part / f"{part}.png")
        root = tmp_path / "annotations"
        root.mkdir(exist_ok=True)
        file = write_coco(root, [(f"{part}.png", label, 1, 2, 3, 4)], [f"{part}.png"])
        file.rename(root / f"instances_{part}.json")
        (root / f"captions_{part}.json").write_text("{}")
    train, test = (load_boxed_pictures(str(tmp_path), split=split) for split in ("train", "test"))
    assert train.classes == test.classes == ("cat", "dog")
    assert [d.classes[d.objects[0].labels[0]] for d in (train, test)] == ["cat", "dog"]
    assert test.pictures == (tmp_path / "val2017" / "val2017.png",)
    assert read_coco(tmp_path / "annotations" / "instances_val2017.json").classes == ("dog",)


def voc(root: Path, text: str) -> BoxedPictures:
    picture(root / "images" / "a.png")
    (root / "a.xml").write_text(text)
    return load_boxed_pictures(str(root))


@pytest.mark.parametrize("side", ["0", "", " "])
def test_voc_edges_are_of_pixels_counted_from_1(tmp_path: Path, side: str) -> None:
    box = "<bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox>"
    boxes = [box.format(1, 1, WIDTH, HEIGHT), box.format(5, 5, 5, 9), box.format(5, 5, 5, 5)]
    objects = "".join(
        f"<object><name> cat </name><difficult>{n}</difficult>{each}</object>"
        for n, each in enumerate(boxes)
    )
    # Unknown to some tools.
    size = f"<size><width>{side}</width><height>{side}</height></size>"
    name = "<filename>C:\\gone\\a.png</filename>"
    data = voc(tmp_path, f"<annotation>{name}{size}{objects}</annotation>")
    assert data.objects[0].boxes.tolist() == [[0, 0, WIDTH, HEIGHT], [4, 4, 5, 9]]
    assert data.objects[0].crowd.tolist() == [False, True]
    assert "only clicked" in data.left_out[0][1]


ENTITY = '<!DOCTYPE a [<!ENTITY b "{}">]><annotation>&b;</annotation>'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotation>\n<object>\n</annotation>", r"a\.xml, line 3: it is not sound XML"),
        ("", "line 1: it is not sound XML"),
        (ENTITY.format("x"), "line 1: document types such as 'a' are refused"),
        ('<?xml version="1.0" encoding="none"?><annotation/>', "not sound XML"),
        ("<other/>", "must be <annotation>"),
        ("<annotation><object/></annotation>", "object 1 has no <name>"),
        ("<annotation><object><name>a</name></object></annotation>", "object 1 has no <bndbox>"),
        ("<annotation><size><width>x</width></size></annotation>", "width is 'x'"),
    ],
)
def test_broken_voc_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        voc(tmp_path, text)


def test_voc_lists_say_what_is_in_which_part(tmp_path: Path) -> None:
    rows: list[Row] = [(f"{n}.png", n, 1, 2, 3, 4) for n in ("one", "two", "three")]
    for name, *_ in rows:
        picture(tmp_path / "JPEGImages" / name)
    write_voc(tmp_path, rows, [row[0] for row in rows])
    lists = tmp_path / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "trainval.txt").write_text("two\none\n\ntwo\n")
    with pytest.raises(DataError, match=r"none of: test\.txt, val\.txt"):
        load_boxed_pictures(str(tmp_path), split="test")
    (lists / "val.txt").write_text("three\n")
    train, test = (load_boxed_pictures(str(tmp_path), split=split) for split in ("train", "test"))
    assert [path.stem for path in train.pictures if isinstance(path, Path)] == ["two", "one"]
    assert train.classes == test.classes == ("one", "three", "two")
    assert test.objects[0].labels.tolist() == [1]
    (lists / "train.txt").write_text("four\n")
    with pytest.raises(DataError, match="'four' is listed"):
        load_boxed_pictures(str(tmp_path))
    (lists / "train.txt").write_text("\n")
    with pytest.raises(DataError, match="is empty"):
        load_boxed_pictures(str(tmp_path))


def yolo(root: Path, labels: str, yaml: str = "train: images\nnames: {0: cat, 2: dog}\n") -> Path:
    picture(root / "images" / "in" / "a.png")
    (root / "labels" / "in").mkdir(parents=True, exist_ok=True)
    (root / "labels" / "in" / "a.txt").write_text(labels)
    (root / "data.yaml").write_text(yaml)
    return root


def test_yolo_boxes_are_shares_and_polygons_are_masks(tmp_path: Path) -> None:
    data = load_boxed_pictures(str(yolo(tmp_path, "2 0.5 0.5 0.5 0.2\n\n")))
    np.testing.assert_allclose(data.objects[0].boxes, [[10, 12, 30, 18]])
    assert data.classes == ("cat", "dog")
    assert data.objects[0].labels.tolist() == [1]
    data = load_boxed_pictures(str(yolo(tmp_path, "0 0.25 0.2 0.75 0.2 0.75 0.6 0.25 0.6\n")))
    np.testing.assert_allclose(data.objects[0].boxes, [[10, 6, 30, 18]])
    assert data.objects[0].masks is not None
    assert data.objects[0].masks[0, 6:18, 10:30].all()
    assert data.objects[0].masks.sum() == 12 * 20
    empty = load_boxed_pictures(str(yolo(tmp_path, "")))
    assert empty.objects[0].boxes.shape == (0, 4)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("0 0.5 0.5 0.5 0.5\n1 0.5 0.5 0.5 0.5", r"a\.txt, line 2: there is no class 1"),
        ("0.5 0.5 0.5 0.5 0.5", "there is no class 0.5"),
        ("0 0.5 0.5", "line 1: it has 3 fields"),
        ("0 0.5 0.5 0.1 0.1 0.9", "it has 6 fields"),
        ("cat 0.5 0.5 0.1 0.1", "the class is 'cat'"),
        ("0 0.5 0.5 nan 0.1", "must be a finite number"),
    ],
)
def test_broken_yolo_text_is_refused(tmp_path: Path, labels: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_boxed_pictures(str(yolo(tmp_path, labels)))


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("train: images\n", "names is None"),
        ("train: images\nnames: []", r"names is \[\]"),
        ("names: [cat]", "none of: train"),
        ("train: gone\nnames: [cat]", "neither a folder nor a list"),
        ("a: [\nb: {", r"data\.yaml, line 2: it is not sound YAML"),
        ("just text", "has no keys"),
        ("train: labels\nnames: [cat]", "there are no pictures"),
        ("!!python/object/apply:os.system ['true']", "not sound YAML"),
    ],
)
def test_a_broken_data_yaml_is_refused(tmp_path: Path, yaml: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_boxed_pictures(str(yolo(tmp_path, "0 0.5 0.5 0.1 0.1", yaml)))


def test_yolo_parts(tmp_path: Path) -> None:
    for part in ("train", "valid"):
        picture(tmp_path / part / "images" / f"{part}.png")
        (tmp_path / part / "labels").mkdir()
        (tmp_path / part / "labels" / f"{part}.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    # One folder too far up, as a well-known tool writes it; and a path of another machine.
    text = "path: /nowhere\ntrain: ../train/images\nval: [valid/images]\nnames: [cat]\n"
    (tmp_path / "data.yaml").write_text(text)
    for split, name in (("train", "train.png"), ("test", "valid.png")):
        data = load_boxed_pictures(str(tmp_path), split=split)
        assert [path.name for path in data.pictures if isinstance(path, Path)] == [name]
        assert len(data.objects[0]) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "an empty file; expected are path or filename"),
        ("path,label,left,top\n", "has the columns path, label, left, top; expected"),
        ("path,label,left,top,right,bottom\n", "there are no pictures"),
        ("path,label,left,top,right,bottom\na.png,,1,2,3,4", "line 2: label is missing"),
        ("path,label,left,top,right,bottom\n,cat,1,2,3,4", "line 2: path is missing"),
        ("path,label,left,top,right,bottom\na.png,cat,1,2,3", "bottom is ''"),
        ("path,label,left,top,right,bottom\na.png,cat,1,2,3,4,5", "more cells"),
        ('path,label,left,top,right,bottom\n"a.png,cat,1', "line 2: it is not sound CSV"),
        ("path,label,left,top,right,bottom,split\na.png,cat,1,2,3,4,x", "split is 'x'"),
        (
            "path,label,left,top,right,bottom,width,height\na.png,cat,1,2,3,4,9,x",
            "line 2: width or height is 'x'",
        ),
        ("path,label,left,top,right,bottom,crowd\na.png,cat,1,2,3,4,x", "crowd is 'x'"),
    ],
)
def test_broken_csv_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        load_boxed_pictures(str(tmp_path / "a.csv"))


def test_csv_columns_by_other_names_and_parts(tmp_path: Path) -> None:
    for name in "abc":
        picture(tmp_path / "images" / f"{name}.png")
    (tmp_path / "boxes.csv").write_text(
        "filename,xmin,xmax,ymin,ymax,class,split\n"
        "a.png,1,3,2,4,dog,train\nb.png,1,3,2,4,cat,val\nc.png,,,,,,\n"
    )
    train, test = (load_boxed_pictures(str(tmp_path), split=split) for split in ("train", "test"))
    assert train.classes == test.classes == ("cat", "dog")
    assert [[p.stem for p in d.pictures if isinstance(p, Path)] for d in (train, test)] == [
        ["a", "c"], ["b", "c"],
    ]  # fmt: skip
    assert train.objects[0].boxes.tolist() == [[1, 2, 3, 4]]


@pytest.mark.parametrize("there", ["test val", "val", "valid validation", "validation", ""])
def test_csv_parts_to_measure_by_are_taken_in_order(tmp_path: Path, there: str) -> None:
    parts = ["", "train", *reversed(there.split())]
    rows = []
    for part in parts:
        for number in range(2):
            name = f"{part or 'any'}-{number}.png"
            picture(tmp_path / name)
            rows.append(f"{name},1,2,3,4,{part}cat,{part}\n")
    (tmp_path / "boxes.csv").write_text("path,left,top,right,bottom,label,split\n" + "".join(rows))
    train, test = (load_boxed_pictures(str(tmp_path), split=split) for split in ("train", "test"))
    first = next((n for n in ("test", "val", "valid", "validation") if n in there.split()), None)
    for data, part in ((train, "train"), (test, first)):
        wanted = [f"{name}-{number}.png" for name in ("any", part) if name for number in (0, 1)]
        assert [path.name for path in data.pictures if isinstance(path, Path)] == wanted
    assert train.classes == test.classes == tuple(sorted(f"{part}cat" for part in parts))


def test_csv_tells_of_the_size_of_pictures(tmp_path: Path) -> None:
    for name in "abcd":
        picture(tmp_path / f"{name}.png")
    (tmp_path / "boxes.csv").write_text(
        "filename,width,height,class,xmin,ymin,xmax,ymax\n"
        f"a.png,{WIDTH},{HEIGHT},cat,1,2,3,4\na.png,,,cat,2,3,4,5\n"
        f"b.png,{10 * WIDTH},{10 * HEIGHT},cat,1,2,3,4\nb.png,,,cat,2,3,4,5\n"
        "c.png,0,0,cat,1,2,3,4\nd.png,,,cat,1,2,3,4\n"
    )
    data = load_boxed_pictures(str(tmp_path))
    assert [path.name for path in data.pictures if isinstance(path, Path)] == [
        "a.png", "c.png", "d.png",
    ]  # fmt: skip
    assert data.objects[0].boxes.tolist() == [[1, 2, 3, 4], [2, 3, 4, 5]]
    ((path, reason),) = data.left_out
    assert path.name == "b.png"
    assert f"its annotation is of {10 * WIDTH}×{10 * HEIGHT} pixels" in reason


def test_penn_fudan_boxes_are_those_around_its_masks(tmp_path: Path) -> None:
    picture(tmp_path / "PNGImages" / "a.png")
    picture(tmp_path / "PNGImages" / "b.png")
    levels = np.zeros((2, HEIGHT, WIDTH), np.uint8)
    levels[0, 5:9, 10:20] = 1
    levels[0, 7:12, 15:25] = 3
    (tmp_path / "PedMasks").mkdir()
    for name, each in zip("ab", levels, strict=True):
        Image.fromarray(each).save(tmp_path / "PedMasks" / f"{name}_mask.png")
    data = load_boxed_pictures(str(tmp_path))
    assert data.classes == ("person",)
    assert data.objects[0].boxes.tolist() == [[10, 5, 20, 9], [15, 7, 25, 12]]
    np.testing.assert_array_equal(data.objects[0].masks, [levels[0] == 1, levels[0] == 3])
    assert data.objects[1].masks is not None
    assert data.objects[1].masks.shape == (0, HEIGHT, WIDTH)
    (tmp_path / "PedMasks" / "b_mask.png").write_bytes(b"x")
    with pytest.raises(DataError, match=r"b_mask\.png cannot be read"):
        load_boxed_pictures(str(tmp_path))
