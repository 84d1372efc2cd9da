"""Discretizing tables: files in, codes, bins and a histogram out."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from retrieval.binning import read_table
from retrieval.cli import main
from retrieval.discretize import EqualFrequencyDiscretizer, ProductDiscretizer
from retrieval.errors import DataError

TABLE = "name,price,size\nrose,1.5,3\ntulip,2,1\ndaisy,10,2\n"


def run(*arguments: object, status: int = 0) -> str:
    result = CliRunner().invoke(main, ["discretize", *map(str, arguments)])
    assert result.exit_code == status, result.output
    return result.output if status else result.stdout


def written(folder: Path, name: str, text: str | bytes) -> Path:
    file = folder / name
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return file


def width(picture: Path) -> int:
    with Image.open(picture) as image:
        image.load()
        return image.width


def test_a_csv_file(tmp_path: Path) -> None:
    file, out = written(tmp_path, "flowers.csv", TABLE), tmp_path / "out"
    text = run(file, "--method", "equal-width", "--bins", 2, "--out", out)
    assert "3 rows" in text
    assert "1.5 … 10" in text
    with (out / "codes.csv").open() as stream:
        rows = list(csv.reader(stream))
    assert rows == [["price", "size"], ["0", "1"], ["0", "0"], ["1", "1"]]
    bins = json.loads((out / "bins.json").read_text())
    assert bins["columns"][0] == {
        "name": "price", "edges": [1.5, 5.75, 10.0], "bins": 2, "counts": [2, 1],
        "centers": [3.625, 7.875],
    }  # fmt: skip
    assert bins["left_out"] == {"name": "line 2 has 'rose', which is no number"}
    assert width(out / "histogram.png") > 100


def test_json_and_chosen_columns(tmp_path: Path) -> None:
    file, out = written(tmp_path, "flowers.csv", TABLE), tmp_path / "out"
    found = json.loads(run(file, "--columns", "size, price", "--out", out, "--json"))
    assert [column["name"] for column in found["columns"]] == ["size", "price"]
    assert found["left_out"] == {}
    error = run(file, "--columns", "name", "--out", out, status=1)
    assert "column name: line 2 has 'rose', which is no number" in error
    assert "no column 'x'; it has name, price, size" in run(
        file, "--columns", "x", "--out", out, status=1
    )


def test_a_numpy_file(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(200, 30)).astype(np.float32)
    np.save(tmp_path / "v.npy", values)
    text = run(tmp_path / "v.npy", "--bins", 4, "--out", tmp_path / "out")
    assert "… and 10 more" in text
    codes = np.load(tmp_path / "out" / "codes.npy", allow_pickle=False)
    np.testing.assert_array_equal(codes, EqualFrequencyDiscretizer(4).fit_transform(values))
    bins = json.loads((tmp_path / "out" / "bins.json").read_text())
    for place, column in enumerate(bins["columns"]):
        cut = np.searchsorted(column["edges"][1:-1], values[:, place].astype(float), side="right")
        np.testing.assert_array_equal(cut, codes[:, place])
        assert column["counts"] == np.bincount(codes[:, place]).tolist()


def test_groups_of_columns(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32)
    np.save(tmp_path / "v.npy", values)
    options = ["--method", "kmeans", "--bins", 5, "--subspaces", 2, "--out", tmp_path / "out"]
    run(tmp_path / "v.npy", *options)
    codes = np.load(tmp_path / "out" / "codes.npy", allow_pickle=False)
    made = ProductDiscretizer(5, subspaces=2)
    np.testing.assert_array_equal(codes, made.fit_transform(values))
    bins = json.loads((tmp_path / "out" / "bins.json").read_text())
    assert [column["columns"] for column in bins["columns"]] == [["0", "1", "2"], ["3", "4", "5"]]
    assert "does not divide 6" in run(
        tmp_path / "v.npy", *options[:5], 4, "--out", tmp_path / "x", status=1
    )
    assert "--subspaces goes with" in run(
        tmp_path / "v.npy", "--subspaces", 2, "--out", tmp_path / "x", status=1
    )
    assert not (tmp_path / "x").exists()


def test_groups_of_columns_of_very_large_numbers(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(200, 4)) * 1e300
    np.save(tmp_path / "v.npy", values)
    options = ["--method", "kmeans", "--bins", 5, "--subspaces", 2, "--out", tmp_path / "out"]
    run(tmp_path / "v.npy", *options)
    for column in json.loads((tmp_path / "out" / "bins.json").read_text())["columns"]:
        assert min(column["counts"]) > 0
        assert 1e299 < np.abs(column["centers"]).max() < 1e301


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("t.csv", "", "is empty"),
        ("t.csv", "a,b\n", "a line of names and no others"),
        ("t.csv", "a,b\n1,2\n3\n", "line 3 has 1 cells; expected 2"),
        ("t.csv", "a,a\n1,2\n", "more than one column 'a'"),
        ("t.csv", "a,b\nx,\n", "a: line 2 has 'x', which is no number; b: line 2 has ''"),
        ("t.csv", "1,,3\n4,5,6\n7,8,9\n", "line 1 has numbers and empty cells"),
        ("t.csv", "\n1,NaN,a\n4,5,6\n", "line 2 has numbers and empty cells"),
        ("t.csv", b"a\n\xff\n", "not a CSV file in UTF-8"),
        ("t.csv", "a\n1\ninf\n", "a: line 3 has 'inf', which is not finite"),
        ("t.npy", "nothing", "not a readable .npy file"),
        ("t.npy", "", "not a readable .npy file"),
        ("t.txt", "1", "neither a .npy nor a .csv"),
    ],
)
def test_files_that_cannot_be_used(
    tmp_path: Path, name: str, content: str | bytes, reason: str
) -> None:
    file = written(tmp_path, name, content)
    error = run(file, "--out", tmp_path / "out", status=1)
    assert reason in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    for name in ("gone.csv", "gone.npy"):
        with pytest.raises(DataError, match=rf"{name} .*No such file"):
            read_table(tmp_path / name)


@pytest.mark.parametrize(
    "values",
    [np.array(["a"]), np.zeros((2, 2, 2)), np.zeros((0, 2)), np.float32(3), np.array([1, np.nan])],
)
def test_arrays_that_cannot_be_used(tmp_path: Path, values: np.ndarray) -> None:
    np.save(tmp_path / "v.npy", values)
    assert "Error: " in run(tmp_path / "v.npy", "--out", tmp_path / "out", status=1)
    assert not (tmp_path / "out").exists()


def test_the_input_is_never_overwritten(tmp_path: Path) -> None:
    file = written(tmp_path, "codes.csv", TABLE)
    assert "would be overwritten" in run(file, "--out", tmp_path, status=1)
    assert file.read_text() == TABLE
    Image.new("RGB", (9, 9)).save(tmp_path / "histogram.png")
    file = written(tmp_path, "t.csv", TABLE)
    assert "histogram.png is a picture, which" in run(file, "--out", tmp_path, status=1)
    for _ in range(2):  # its own it replaces
        run(file, "--out", tmp_path / "out")


def test_odd_numbers_and_names_can_be_drawn(tmp_path: Path) -> None:
    file = written(tmp_path, "t.csv", "$x^,花,c,d\n-1e308,1,5,1\n1e308,2,5,1.0000000000000002\n")
    run(file, "--bins", 2, "--out", tmp_path / "out")
    assert width(tmp_path / "out" / "histogram.png") > 100


def test_names_and_marks(tmp_path: Path) -> None:
    table = read_table(written(tmp_path, "t.csv", "\ufeffa , b\n1,2\n\n3,4\n"))
    assert table.names == ["a", "b"]
    assert table.values.tolist() == [[1, 2], [3, 4]]
    bare = read_table(written(tmp_path, "t.csv", "1,2\n3,4\n"))
    assert (bare.names, bare.values.tolist()) == (["0", "1"], [[1, 2], [3, 4]])
    years = read_table(written(tmp_path, "t.csv", "country,2020,2021\na,1,2\n"))
    assert years.names == ["2020", "2021"]
    with pytest.raises(DataError, match="no column '7'"):
        read_table(written(tmp_path, "t.csv", "1,2\n"), ["7"])
    np.save(tmp_path / "v.npy", np.arange(4))
    assert read_table(tmp_path / "v.npy").values.shape == (4, 1)
