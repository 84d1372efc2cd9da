from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from retrieval import datasets
from retrieval.datasets import load_dataset
from retrieval.errors import DataError, ImageError
from retrieval.images import read_image, read_images
from retrieval.labeled_images import LabeledImages
from retrieval.mapped_rows import MappedRows


def write(path: Path, colour: int = 0, size: tuple[int, int] = (40, 40)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (colour, colour, colour)).save(path)
    return path


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    for split, classes in (("train", "ab"), ("test", "bc")):
        for c in classes:
            for number in range(4):
                write(root / split / c / f"{number}.PNG", ord(c) + number)
    return root


def test_a_tree_with_train_and_test_shares_its_classes(tree: Path, tmp_path: Path) -> None:
    train = load_dataset(str(tree), data_dir=tmp_path / "data")
    test = load_dataset(str(tree), data_dir=tmp_path / "data", split="test")
    assert (train.classes, test.classes) == (("a", "b"), ("a", "b", "c"))
    assert [train.classes[i] for i in train.labels] == ["a"] * 4 + ["b"] * 4
    assert [test.classes[i] for i in test.labels] == ["b"] * 4 + ["c"] * 4
    assert train.images.shape == (8, 40, 40, 3)  # their own size, as it is small
    assert train.images.dtype == np.uint8
    assert train.labels.dtype == np.int64
    for image, path in zip(train.images, train.paths, strict=True):
        np.testing.assert_array_equal(image, read_image(path))


def test_class_folders_alone_serve_as_both_parts(tmp_path: Path) -> None:
    for c in "xy":
        write(tmp_path / "p" / c / "1.png", size=(300, 260))
    data = load_dataset(str(tmp_path / "p"), data_dir=tmp_path)
    assert data.images.shape == (2, 96, 96, 3)  # photographs
    test = load_dataset(str(tmp_path / "p"), data_dir=tmp_path, image_size=24, split="test")
    assert test.images.shape == (2, 24, 24, 3)
    assert test.paths == data.paths


def test_folders_without_pictures_are_no_classes(tree: Path, tmp_path: Path) -> None:
    (tree / "train" / "empty").mkdir()
    (tree / "train" / "notes" / "deep").mkdir(parents=True)
    (tree / "train" / "notes" / "deep" / "x.txt").write_text("x")
    write(tree / "train" / "a" / "deep" / "9.png")
    train = load_dataset(str(tree), data_dir=tmp_path / "data")
    assert train.classes == ("a", "b")
    assert [train.classes[i] for i in train.labels] == ["a"] * 5 + ["b"] * 4


def test_a_class_called_train_is_not_taken_for_the_part_to_learn_from(tmp_path: Path) -> None:
    for c in ("car", "ship", "train"):
        write(tmp_path / "p" / c / "1.png")
    for split in ("train", "test"):
        with pytest.raises(DataError, match=r"a folder train beside car, ship.*another name"):
            load_dataset(str(tmp_path / "p"), data_dir=tmp_path, split=split)


@pytest.mark.parametrize("names", [("Train", "Test"), ("test",), ("TRAIN", "val"), ("Validation",)])
def test_parts_are_not_taken_for_classes(tmp_path: Path, names: tuple[str, ...]) -> None:
    root = tmp_path / "p"
    for name in names:
        write(root / name / "a" / "1.png")
    for split in ("train", "test"):
        with pytest.raises(
            DataError, match=f"{'.*'.join(sorted(names))}, which are names of parts"
        ):
            load_dataset(str(root), data_dir=tmp_path, split=split)
    write(root / "plane" / "1.png")
    assert load_dataset(str(root), data_dir=tmp_path).classes == tuple(sorted([*names, "plane"]))


def test_pictures_side_by_side_have_no_labels(tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path / "p" / f"{number}.jpg")
    data = load_dataset(str(tmp_path / "p"), data_dir=tmp_path)
    assert data.classes == ()
    assert data.labels.tolist() == [-1, -1, -1]


@pytest.mark.parametrize("part", ["test", "val", "valid", "validation"])
def test_the_part_to_measure_with_has_several_names(tmp_path: Path, part: str) -> None:
    write(tmp_path / "p" / "train" / "a" / "1.png")
    write(tmp_path / "p" / part / "a" / "2.png")
    (tmp_path / "p.csv").write_text(
        f"path,label,split\np/train/a/1.png,a,train\np/{part}/a/2.png,a,{part}\n"
    )
    for name in ("p", "p.csv"):
        test = load_dataset(str(tmp_path / name), data_dir=tmp_path / "data", split="test")
        assert [path.name for path in test.paths] == ["2.png"]


def test_a_csv_file_says_label_and_part(tmp_path: Path) -> None:
    for number in range(6):
        write(tmp_path / f"{number}.png", number)
    file = tmp_path / "list.csv"
    file.write_text(
        "path, label,split,extra\n0.png,cat,train,x\n1.png, dog ,train,x\n2.png,cat,test,x\n"
        "3.png,owl,test,\n4.png,dog,,\n5.png,dog,validation,\n"
    )
    train = load_dataset(str(file), data_dir=tmp_path)
    test = load_dataset(str(file), data_dir=tmp_path, split="test")
    assert train.classes == test.classes == ("cat", "dog", "owl")
    assert [p.name for p in train.paths] == ["0.png", "1.png", "4.png"]
    assert [p.name for p in test.paths] == ["2.png", "3.png", "4.png"]
    file.write_text(
        "path,label,is_query,is_gallery\n0.png,a,true,false\n1.png,a,0,1\n2.png,b,1,1\n"
    )
    assert [p.name for p in load_dataset(str(file), data_dir=tmp_path).paths] == ["1.png", "2.png"]
    queries = load_dataset(str(file), data_dir=tmp_path, split="test")
    assert [p.name for p in queries.paths] == ["0.png", "2.png"]


@pytest.mark.parametrize(
    ("text", "train", "gallery", "test"),
    [
        # Where both are said, the split says what is learnt from, the marks who asks whom.
        ("path,label,split,is_query,is_gallery\n0.png,a,train,,\n1.png,b,train,,\n"
         "2.png,a,validation,true,true\n3.png,b,test,false,true\n", "01", "0123", "2"),
        ("path,label,split,is_query,is_gallery\n0.png,a,train,0,0\n1.png,b,train,0,0\n"
         "2.png,a,val,1,0\n3.png,b,val,0,1\n", "01", "3", "2"),
        # A query is not learnt from.
        ("path,label,is_query\n0.png,a,0\n1.png,b,false\n2.png,a,1\n3.png,b,true\n",
         "01", "0123", "23"),
        ("path,label,is_gallery\n0.png,a,0\n1.png,b,1\n", "1", "1", "01"),
        # A blank mark is false where there is no split.
        ("path,label,is_query\n0.png,a,\n1.png,b,1\n", "0", "01", "1"),
        ("path,label,is_query,is_gallery\n0.png,a,,1\n1.png,b,1,\n2.png,b,,\n", "0", "0", "1"),
        ("path,label\n0.png,a\n1.png,b\n", "01", "01", "01"),
        # Of several names for the test part the first is taken, as of folders.
        ("path,label,split\n0.png,a,validation\n1.png,b,train\n2.png,a,val\n", "1", "1", "2"),
        ("path,label,split\n0.png,a,validation\n1.png,b,train\n2.png,a,test\n", "1", "1", "2"),
    ],
)  # fmt: skip
def test_what_is_learnt_searched_and_asked(
    tmp_path: Path, text: str, train: str, gallery: str, test: str
) -> None:
    for number in range(4):
        write(tmp_path / f"{number}.png", number)
    (tmp_path / "list.csv").write_text(text)
    for split, expected in (("train", train), ("gallery", gallery), ("test", test)):
        data = load_dataset(str(tmp_path / "list.csv"), data_dir=tmp_path, split=split)
        assert "".join(p.stem for p in data.paths) == expected, split


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("path,label,split\n0.png,a,train\n1.png,b,\n2.png,b,test\n", "line 3: split is blank: "),
        ("path,label,split\n0.png,a,\n1.png,b,\n2.png,b,train\n3.png,a,val\n",
         "line 2: split is blank, and in 1 other rows: such"),
        ("path,label,split\n0.png,a,train\n1.png,b,test\n", None),
        ("path,label,split\n0.png,a,\n1.png,b,\n", None),
        ("path,label\n0.png,a\n1.png,b\n", None),
        ("path,label,split,is_query,is_gallery\n0.png,a,train,,\n1.png,a,test,,\n2.png,b,,1,\n", None),
    ],
)  # fmt: skip
def test_rows_that_are_learnt_from_and_measured_are_told_of(
    tmp_path: Path, text: str, told: str | None
) -> None:
    for number in range(4):
        write(tmp_path / f"{number}.png", number)
    (tmp_path / "list.csv").write_text(text)
    for split in ("train", "gallery", "test"):
        notes = load_dataset(str(tmp_path / "list.csv"), data_dir=tmp_path, split=split).notes
        assert len(notes) == (told is not None and split != "gallery")
        assert all(f"list.csv, {told}" in note for note in notes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column 'path'"),
        ("file,label\n", "no column 'path'.*file, label"),
        ("path\n", "no column 'label'"),
        ("path,label\n,cat\n", "line 2: path or label is missing"),
        ("path,label\nx.png\n", "line 2: path or label is missing"),
        ("path,label\nx.png,\n", "line 2: path or label is missing"),
        ("path,label,split\nx.png,a,dev\n", "line 2: split is 'dev'"),
        ("path,label,is_gallery\nx.png,a,maybe\n", "line 2: is_query and is_gallery"),
        ("path,label\n", "no pictures"),
        ("path,label\nmissing.png,a\n", "none of the 1 pictures.*no such file"),
    ],
)
def test_bad_csv_files_are_named_with_their_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "list.csv"
    file.write_text(text)
    with pytest.raises(DataError, match=message):
        load_dataset(str(file), data_dir=tmp_path)


def test_pictures_beside_the_class_folders_are_left_out_with_a_reason(
    tree: Path, tmp_path: Path
) -> None:
    for name in ("2.png", ".hidden.png", "1.png", "notes.txt"):
        write(tree / "train" / "x.png").rename(tree / "train" / name)
    data = load_dataset(str(tree), data_dir=tmp_path)
    assert len(data) == 8
    reason = "it lies beside the folders of the classes, in none of them"
    assert data.left_out == tuple((tree / "train" / f"{n}.png", reason) for n in "12")
    flat = load_dataset(str(tree / "train" / "a"), data_dir=tmp_path)
    assert (len(flat), flat.classes, flat.left_out) == (4, (), ())


def test_bad_pictures_are_left_out_with_a_reason(tree: Path, tmp_path: Path) -> None:
    (tree / "train" / "a" / "0.PNG").write_bytes(b"no picture")
    data = load_dataset(str(tree), data_dir=tmp_path)
    assert len(data) == 7
    assert [(p.name, "not a picture" in reason) for p, reason in data.left_out] == [("0.PNG", True)]
    assert [data.classes[i] for i in data.labels] == ["a"] * 3 + ["b"] * 4


def test_decoded_pictures_are_kept_until_a_file_changes(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load_dataset(str(tree), data_dir=tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("retrieval.picture_cache.read_images", None)  # nothing is decoded again
        again = load_dataset(str(tree), data_dir=tmp_path)
    np.testing.assert_array_equal(again.images, first.images)
    write(tree / "train" / "a" / "1.PNG", 201, (41, 41))
    changed = load_dataset(str(tree), data_dir=tmp_path)
    assert changed.images[1].max() == 201
    for file in (tmp_path / "decoded").glob("*.npy"):
        file.write_bytes(file.read_bytes()[:-5])  # damaged: decoded once more
    np.testing.assert_array_equal(load_dataset(str(tree), data_dir=tmp_path).images, changed.images)


def test_what_could_not_be_read_is_tried_again(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader may have been installed since, a permission given: the file need not change."""

    def unreadable(paths, *more):
        for path, picture in read_images(paths, *more):
            bad = path.name == "2.PNG" and path.parent.name == "a"
            yield path, ImageError("no reader") if bad else picture

    with monkeypatch.context() as patch:
        patch.setattr("retrieval.picture_cache.read_images", unreadable)
        assert len(load_dataset(str(tree), data_dir=tmp_path).left_out) == 1
    data = load_dataset(str(tree), data_dir=tmp_path)
    assert (len(data), data.left_out) == (8, ())


def test_large_sets_are_mapped(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = load_dataset(str(tree), data_dir=tmp_path)
    monkeypatch.setattr("retrieval.picture_cache.MAP_FROM_BYTES", 100)
    mapped = load_dataset(str(tree), data_dir=tmp_path)
    assert isinstance(mapped.images, np.memmap)
    np.testing.assert_array_equal(mapped.images, plain.images)


def test_parts_of_large_sets_are_mapped_too(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = load_dataset(str(tree), data_dir=tmp_path)
    monkeypatch.setattr("retrieval.picture_cache.MAP_FROM_BYTES", 100)
    mapped = load_dataset(str(tree), data_dir=tmp_path)
    for part, whole in [*zip(mapped.holdout(0.5, 1), plain.holdout(0.5, 1), strict=True),
                        *zip(mapped.fold(1, 3, 1), plain.fold(1, 3, 1), strict=True),
                        (mapped.subset(np.empty(0, int)), plain.subset(np.empty(0, int)))]:  # fmt: skip
        assert isinstance(part.images, MappedRows)
        assert part.images.array is mapped.images
        assert (part.images.shape, part.images.dtype) == (whole.images.shape, np.uint8)
        np.testing.assert_array_equal(part.images[:], whole.images)
        np.testing.assert_array_equal(part.labels, whole.labels)
    first, second = mapped.holdout(0.5, 1)[0].images, plain.holdout(0.5, 1)[0].images
    for chosen in (slice(1, 3), np.array([2, 0, 0]), -1):
        np.testing.assert_array_equal(first[chosen], second[chosen])
    np.testing.assert_array_equal(list(first), second)
    again = mapped.holdout(0.5, 1)[0].subset(np.array([2, 0])).images
    assert isinstance(again, MappedRows)
    np.testing.assert_array_equal(again[:], second[[2, 0]])


def test_digits_are_there_without_a_network() -> None:
    train, test = load_dataset("digits"), load_dataset("digits", split="test")
    assert len(train) + len(test) == 1797
    assert train.images.shape[1:] == (32, 32, 3)
    shares = np.bincount(test.labels) / np.bincount(np.concatenate([train.labels, test.labels]))
    assert (abs(shares - 0.2) < 0.01).all()
    small = load_dataset("digits", image_size=8)
    assert small.images.shape == (1442, 8, 8, 3)


@pytest.mark.parametrize("name", list(datasets.DOWNLOADS))
def test_without_a_network_the_error_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    import urllib.request
    from urllib.error import URLError

    def no_network(*_: object, **__: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    with pytest.raises(DataError, match=f"Put .* into {tmp_path}.*--data-dir.*--dataset digits"):
        load_dataset(name, data_dir=tmp_path)


def test_the_official_cifar_archive_is_read(tmp_path: Path, monkeypatch) -> None:
    class Fake:
        def __init__(self, root: str, train: bool, download: bool) -> None:
            print("Downloading")  # torchvision prints; results must not be mixed with it
            self.data, self.targets = np.zeros((2, 32, 32, 3), np.uint8), [1, 0]
            self.classes = ["airplane", "automobile"]

    from torchvision import datasets as theirs

    monkeypatch.setattr(theirs, "CIFAR10", Fake)
    data = load_dataset("cifar10", data_dir=tmp_path)
    assert data.labels.tolist() == [1, 0]
    assert data.classes == ("airplane", "automobile")


def test_a_name_that_is_empty_is_not_the_current_folder(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tree)
    with pytest.raises(DataError, match="there is no data set ''"):
        load_dataset("", data_dir=tmp_path)
    assert len(load_dataset(".", data_dir=tmp_path))


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"'cifar11'.*cifar10, cifar100"):
        load_dataset("cifar11")
    with pytest.raises(DataError, match="no pictures"):
        load_dataset(str(tmp_path), data_dir=tmp_path / "data")
    write(tmp_path / "train" / "a" / "1.png")
    with pytest.raises(DataError, match="none of: test, val, valid, validation"):
        load_dataset(str(tmp_path), data_dir=tmp_path / "data", split="test")


def test_data_dir_comes_from_option_variable_or_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETRIEVAL_DATA", "/from/variable")
    assert datasets.data_folder(Path("/given")) == Path("/given")
    assert datasets.data_folder(None) == Path("/from/variable")
    monkeypatch.delenv("RETRIEVAL_DATA")
    assert datasets.data_folder(None) == Path("~/.cache/retrieval").expanduser()


def test_holdout_takes_a_share_of_each_class_and_nothing_twice() -> None:
    labels = np.repeat([0, 1, 2, 3], [50, 20, 3, 6])
    images = np.arange(79, dtype=np.uint8).reshape(-1, 1, 1, 1).repeat(3, axis=3)
    data = LabeledImages("x", images, labels, tuple("abcd"))
    rest, held = data.holdout(0.2, seed=0)
    assert np.bincount(held.labels, minlength=4).tolist() == [10, 4, 0, 2]
    together = np.concatenate([rest.images, held.images])[:, 0, 0, 0]
    assert sorted(together.tolist()) == list(range(79))
    again = data.holdout(0.2, seed=0)[1]
    np.testing.assert_array_equal(again.images, held.images)
    assert not np.array_equal(data.holdout(0.2, seed=1)[1].images, held.images)
    assert len(data.holdout(0.0, seed=0)[1]) == 0


def test_the_checksum_is_one_of_pixels_wherever_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    data = load_dataset("digits")
    mapped = LabeledImages("x", MappedRows(data.images, np.arange(len(data))), data.labels, ("a",))
    assert mapped.checksum() == data.checksum()
    assert data.subset(np.arange(1441)).checksum() != data.checksum()
    monkeypatch.setattr("retrieval.checksum.SUMMED", 3)
    some = data.subset(np.array([0, 720, 1441]))
    assert some.checksum() == data.checksum() != data.subset(np.array([0, 720, 1440])).checksum()
    assert data.subset(np.empty(0, int)).checksum()
