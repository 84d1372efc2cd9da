"""The command that measures."""

import json
import re
import shutil
from pathlib import Path

import pytest
from commands import TRAIN, learnt_and_indexed, run

from index.gallery import Gallery
from retrieval.protocols import labelled_queries


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures, a run trained on them and a gallery, all made by commands."""
    return learnt_and_indexed(tmp_path_factory.mktemp("cli"))


def test_evaluate_by_model_and_by_gallery_agree(place: Path, tmp_path: Path) -> None:
    by_model = json.loads(
        run("evaluate", "--model", place / "run", "--dataset", place / "pictures", "--data-dir",
            place / "data", "--json", "--out", tmp_path / "r.json").stdout
    )  # fmt: skip
    by_gallery = json.loads(
        run("evaluate", "--gallery", place / "g.gallery", "--queries", place / "pictures" / "test",
            "--json").stdout
    )  # fmt: skip
    assert json.loads((tmp_path / "r.json").read_text()) == by_model
    for name, figure in by_model["figures"].items():
        assert by_gallery["figures"][name]["mean"] == pytest.approx(figure["mean"], abs=1e-6)
    alone = run("evaluate", "--gallery", place / "g.gallery").stdout
    assert "36 queries, 36 gallery pictures" in alone
    again = run("evaluate", "--model", place / "run", "--dataset", place / "pictures", "--protocol",
                "leave-one-out", "--data-dir", place / "data").stdout  # fmt: skip
    assert "9 queries, 9 gallery pictures" in again
    assert "what is to be measured?" in run("evaluate", "--model", place / "run", code=1).output


def test_queries_that_are_in_the_gallery_do_not_find_themselves(place: Path) -> None:
    ask = run("evaluate", "--gallery", place / "g.gallery", "--queries", place / "pictures" / "train",
              "--json").stdout  # fmt: skip
    alone = run("evaluate", "--gallery", place / "g.gallery", "--json").stdout
    assert json.loads(ask)["figures"] == json.loads(alone)["figures"]
    link = place / "linked"
    link.symlink_to("pictures")
    linked = run(
        "evaluate", "--gallery", place / "g.gallery", "--queries", link / "train", "--json"
    )
    link.unlink()
    assert json.loads(linked.stdout)["figures"] == json.loads(alone)["figures"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--gallery", "g", "--dataset", "digits"], "--dataset says nothing about a gallery"),
        (["--gallery", "g", "--protocol", "leave-one-out"], "--protocol says nothing about a gallery"),
        (["--model", "cifar10", "--dataset", "digits", "--queries", "x"],
         "--queries says nothing about an embedder; it goes with a gallery"),
        (["--model", "cifar10", "--dataset", "digits", "--tta", "flip"], "it goes with a classifier"),
        (["--model", "cifar10", "--model", "cifar10", "--dataset", "digits"], "only if all are"),
        (["--model", "cifar10"], "what is to be measured"),
        (["--model", "cifar10", "--gallery", "g"], "what is to be measured"),
        ([], "what is to be measured"),
    ],
    ids=str,
)  # fmt: skip
def test_evaluate_refuses_what_it_would_not_heed(options: list[str], message: str) -> None:
    assert message in run("evaluate", *options, code=1).stderr


def test_pictures_that_are_in_no_file_can_ask_a_gallery(place: Path) -> None:
    asked = labelled_queries(Gallery.open(place / "g.gallery"), "digits")
    assert len(asked.vectors) == len(asked.labels) == len(asked.ids) == 355
    assert (asked.ids == -1).all()


def test_evaluate_says_which_pictures_were_left_out(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "pictures", tmp_path / "pictures")
    (tmp_path / "pictures" / "test" / "r" / "9.png").write_bytes(b"no picture")
    (tmp_path / "pictures" / "train" / "r" / "8.png").write_bytes(b"no picture")
    data = ["--data-dir", tmp_path / "data"]
    both = run(
        "evaluate", "--model", place / "run", "--dataset", tmp_path / "pictures", *data
    ).stderr
    for part, name in (("test", "9.png"), ("train", "8.png")):
        file = tmp_path / "pictures" / part / "r" / name
        assert re.search(rf"\d pictures of \S+{part} were left out, the first: {file}: ", both)
    asked = ["--gallery", place / "g.gallery", "--queries", tmp_path / "pictures" / "test", *data]
    assert "1 pictures of" in run("evaluate", *asked).stderr


def test_rows_without_a_split_are_told_of(place: Path, tmp_path: Path) -> None:
    files = sorted((place / "pictures" / "train").glob("[rgb]/[0-5].png"))
    splits = [("train", "test", "")[row % 3] for row in range(len(files))]
    rows = [f"{f},{f.parent.name},{split}\n" for f, split in zip(files, splits, strict=True)]
    (tmp_path / "list.csv").write_text("path,label,split\n" + "".join(rows))
    data = ["--dataset", tmp_path / "list.csv", "--data-dir", tmp_path]
    measured = run("evaluate", "--model", place / "run", *data)
    learnt = run("train-embed", *TRAIN, *data, "--out", tmp_path / "run", "--dry-run")
    for told in (measured.stderr, learnt.stderr):
        assert told.count("line 4: split is blank, and in 5 other rows") == 1


def test_queries_of_a_folder_have_the_labels_of_a_gallery(place: Path, tmp_path: Path) -> None:
    """Which are the folders that pictures lie in, also where these lie in others."""
    deep = tmp_path / "test" / "colours"
    shutil.copytree(place / "pictures" / "test", deep)
    shutil.copytree(place / "pictures" / "test", tmp_path / "test" / "again")
    asked = labelled_queries(Gallery.open(place / "g.gallery"), str(tmp_path / "test"))
    assert sorted(set(asked.labels)) == ["b", "g", "r"]
    assert len(asked.labels) == 18


def test_a_folder_without_parts_does_not_find_itself(place: Path) -> None:
    ask = ["evaluate", "--model", place / "run", "--dataset", place / "pictures" / "test",
           "--data-dir", place / "data", "--json"]  # fmt: skip
    alone = json.loads(run(*ask, "--protocol", "leave-one-out").stdout)
    assert json.loads(run(*ask).stdout)["figures"] == alone["figures"]


@pytest.mark.parametrize("protocol", ["test-to-train", "leave-one-out"])
def test_a_file_that_a_list_names_twice_does_not_find_itself(
    place: Path, tmp_path: Path, protocol: str
) -> None:
    rows = [f"{file},{file.parent.name}\n" for file in (place / "pictures").glob("t*/*/*.png")]
    (tmp_path / "link").symlink_to(place / "pictures")
    links = [row.replace(str(place / "pictures"), str(tmp_path / "link")) for row in rows]
    figures = []
    for name, lines in (("once", rows), ("twice", rows + rows), ("links", rows + links)):
        (tmp_path / f"{name}.csv").write_text("path,label\n" + "".join(lines))
        told = run("evaluate", "--model", place / "run", "--dataset", tmp_path / f"{name}.csv", "--k",
                   "1", "--protocol", protocol, "--data-dir", tmp_path, "--json").stdout  # fmt: skip
        figures.append(json.loads(told)["figures"]["recall@1"]["mean"])
    assert figures[0] < 1
    assert figures == [figures[0]] * 3


def test_links_to_what_was_learnt_from_do_not_find_it(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "pictures" / "train", tmp_path / "train")
    for file in (tmp_path / "train").glob("*/*.png"):
        (tmp_path / "test" / file.parent.name).mkdir(parents=True, exist_ok=True)
        (tmp_path / "test" / file.parent.name / file.name).symlink_to(file)
    ask = ["evaluate", "--model", place / "run", "--data-dir", tmp_path / "data", "--json"]
    linked, alone = (
        json.loads(run(*ask, "--dataset", data).stdout)["figures"]
        for data in (tmp_path, tmp_path / "train")
    )
    assert linked == alone
