"""The commands that index, ask and measure, and what all commands have in common."""

import csv
import errno
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import TRAIN, learnt_and_indexed, photo, run
from nasty_pictures import make_nasty_pictures
from PIL import Image

from index import atomic
from index.gallery import Gallery
from retrieval.cli import main
from retrieval.protocols import labelled_queries


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures, a run trained on them and a gallery, all made by commands."""
    return learnt_and_indexed(tmp_path_factory.mktemp("cli"))


def build_index(place: Path, out: Path) -> list[object]:
    """The command that indexes the training pictures."""
    return [
        "build-index", place / "pictures" / "train", "--model", place / "run", "--out", out,
    ]  # fmt: skip


@pytest.fixture(autouse=True)
def no_gallery_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RETRIEVAL_GALLERY", raising=False)


@pytest.mark.parametrize("name", sorted(main.commands))
def test_every_command_has_help_with_an_example(name: str) -> None:
    text = run(name, "--help").output
    assert "Example" in text
    assert f"retrieval {name}" in text


def test_help_loads_no_heavy_library() -> None:
    heavy = ["torch", "torchvision", "faiss", "numpy", "PIL", "matplotlib", "sklearn"]
    script = (
        "import sys\nfrom click.testing import CliRunner\nfrom retrieval.cli import main\n"
        "assert CliRunner().invoke(main, ['--help']).exit_code == 0\n"
        "assert CliRunner().invoke(main, ['train-embed', '--help']).exit_code == 0\n"
        f"print([name for name in {heavy} if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_the_query_path_loads_no_torchvision(place: Path) -> None:
    script = (
        "import sys\nfrom click.testing import CliRunner\nfrom retrieval.cli import main\n"
        f"r = CliRunner().invoke(main, ['query', {str(photo(place))!r}, '--gallery', "
        f"{str(place / 'g.gallery')!r}])\nassert r.exit_code == 0, r.output\n"
        "print('torchvision' in sys.modules, 'matplotlib' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "False"]


def test_query_prints_a_table_and_the_nearest_first(place: Path) -> None:
    result = run("query", photo(place), "--gallery", place / "g.gallery", "--k", 4)
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["rank", "distance", "label", "path"]
    assert [line.split()[0] for line in lines[1:]] == ["1", "2", "3", "4"]
    distances = [float(line.split()[1]) for line in lines[1:]]
    assert distances == sorted(distances)


def test_query_formats_agree(place: Path) -> None:
    ask = ["query", photo(place), place / "pictures" / "test" / "r" / "1.png", "--gallery",
           place / "g.gallery", "-k", 3]  # fmt: skip
    answers = json.loads(run(*ask, "--json").stdout)
    assert [len(a["hits"]) for a in answers] == [3, 3]
    paths = [hit["path"] for a in answers for hit in a["hits"]]
    assert run(*ask, "--format", "paths").stdout.splitlines() == paths
    rows = list(csv.DictReader(io.StringIO(run(*ask, "--format", "csv").stdout)))
    assert [row["path"] for row in rows] == paths
    assert [row["rank"] for row in rows] == ["1", "2", "3"] * 2
    assert run(*ask, "--exact", "--json").stdout == run(*ask, "--json").stdout
    assert json.loads(run(*ask, "--format", "json").stdout) == answers


def test_query_writes_sheet_and_page(place: Path, tmp_path: Path) -> None:
    sheet, page = tmp_path / "s.png", tmp_path / "p.html"
    options = ["--gallery", place / "g.gallery", "--sheet", sheet, "--html", page]
    run("query", photo(place), *options)
    with Image.open(sheet) as image:
        assert image.width > 10 * 128
    assert page.read_text().count("<figure") == 11
    run("query", "--id", 1, "-k", 3, *options)
    with Image.open(sheet) as image:  # the same command again replaces what it has written
        assert image.width < 10 * 128
    assert page.read_text().count("<figure") == 4


def test_query_filters_before_the_cut(place: Path) -> None:
    result = run("query", photo(place), "--gallery", place / "g.gallery", "--where", "label = b",
                 "-k", 12, "--json")  # fmt: skip
    assert [hit["label"] for hit in json.loads(result.stdout)[0]["hits"]] == ["b"] * 12
    error = run("query", photo(place), "--gallery", place / "g.gallery", "--where", "x = 1", code=1)
    assert "id, path, label, size" in error.output


def test_the_gallery_is_found_or_asked_for(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    only = run("query", photo(place), "--json").stdout
    monkeypatch.chdir(tmp_path)
    assert "which gallery?" in run("query", photo(place), code=1).output
    monkeypatch.setenv("RETRIEVAL_GALLERY", str(place / "g.gallery"))
    found = json.loads(run("query", photo(place), "--json").stdout)
    assert [h["id"] for h in found[0]["hits"]] == [h["id"] for h in json.loads(only)[0]["hits"]]


def test_nasty_photos_give_a_reason_and_the_others_an_answer(place: Path, tmp_path: Path) -> None:
    nasty = [p for p in make_nasty_pictures(tmp_path) if not p.path.is_dir()]  # folders are asked
    bad = [p.path for p in nasty if p.reason is not None]
    result = run(
        "query", *[p.path for p in nasty], "--gallery", place / "g.gallery", "--json", code=1
    )
    assert len(json.loads(result.stdout)) == len(nasty) - len(bad)
    assert result.stderr.count("Error: ") == len(bad)
    built = run("build-index", tmp_path, "--model", place / "run", "--out", tmp_path / "n.gallery")
    assert "left out" in built.stdout
    for path in bad[:5]:
        assert "Error" in run("query", path, "--gallery", place / "g.gallery", code=1).output


def test_build_index_reports_counts_and_runs_twice(place: Path, tmp_path: Path) -> None:
    build = build_index(place, tmp_path / "g")
    first = json.loads(run(*build, "--json").stdout)
    again = json.loads(run(*build, "--json").stdout)
    assert (first["added"], first["failed"], first["unchanged"]) == (36, 1, 0)
    assert (again["added"], again["failed"], again["unchanged"]) == (0, 1, 36)
    assert "bad.png" in run(*build, "--strict", code=1).output
    other = run(*build, "--index-key", "IVF4,Flat", code=1).output
    assert "--index auto, not IVF4,Flat" in other
    assert "retrieval tune --index IVF4,Flat" in other
    limits = run(*build, "--recall-target", "0.9", code=1).output
    assert "change that with: retrieval tune --recall-target 0.9" in limits
    refused = [place / "pictures" / "train", "--model", place / "run", "--out", tmp_path / "h"]
    small = run("build-index", *refused, "--max-index-memory-usage", "1KB", code=1).output
    assert "--max-index-memory-usage " in small
    wrong = run("build-index", *refused, "--max-index-memory-usage", "lots", code=2).output
    assert "500MB or 4G" in wrong


def test_ctrl_c_leaves_with_130_whatever_is_printed(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    gallery, test = tmp_path / "g.gallery", place / "pictures" / "test"
    monkeypatch.setattr("retrieval.building.embedded", interrupt)
    for command in (
        build_index(place, gallery),
        ["add", test, "--gallery", gallery],
        ["sync", test, "--gallery", gallery],
    ):
        told = json.loads(run(*command, "--json", code=130).stdout)
        assert (told["interrupted"], told["added"]) == (True, 0)
        assert "0 added" in run(*command, code=130).stdout


def test_tune_measures_and_info_shows_it(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gallery = tmp_path / "t.gallery"
    run(*build_index(place, gallery))
    assert "comparing every vector" in run("tune", "--gallery", gallery).stdout
    text = run("tune", "--gallery", gallery, "--index", "IVF2,Flat").stdout
    assert "too few vectors to measure" in text
    assert text in run("info", "--gallery", gallery).stdout
    facts = json.loads(run("info", "--gallery", gallery, "--json").stdout)
    assert facts["plan"]["key"] == "IVF2,Flat"
    assert facts["indexed"] == 36
    monkeypatch.setattr("index.planner.LEAST_ROWS", 30)
    monkeypatch.setattr("index.planner.EXACT_NUMBERS", 30)
    shown = json.loads(run("tune", "--gallery", gallery, "--index", "auto", "--json").stdout)
    assert shown["plan"]["table"][0]["verdict"] == "chosen"
    table = run("info", "--gallery", gallery).stdout
    assert all(row["verdict"] in table for row in shown["plan"]["table"])
    worse = run("tune", "--gallery", gallery, "--max-query-time-ms", "0.000001", code=1).output
    assert "give --max-query-time-ms" in worse
    wrong = run("tune", "--gallery", gallery, "--index", "Nonsense", code=1).output
    assert "--index Nonsense" in wrong
    assert json.loads(run("info", "--gallery", gallery, "--json").stdout)["plan"] == shown["plan"]


def test_codes_are_searched_and_can_be_all_that_is_stored(place: Path, tmp_path: Path) -> None:
    gallery = tmp_path / "c.gallery"
    build = build_index(place, gallery)
    assert json.loads(run(*build, "--codes", "kmeans:4", "--json").stdout)["added"] == 36
    facts = json.loads(run("info", "--gallery", gallery, "--json").stdout)
    assert (facts["index"], facts["dtype"], facts["codes"]) == ("kmeans:4", "float32", None)
    again = [*build, "--codes", "kmeans:4", "--codes-only"]
    run(*again)
    assert json.loads(run(*again, "--json").stdout)["unchanged"] == 36
    assert "bytes a vector; " in run("info", "--gallery", gallery).stdout
    run("verify", "--gallery", gallery)
    photo = next((place / "pictures" / "train").rglob("*.png"))
    assert len(json.loads(run("query", photo, "--gallery", gallery, "--json").stdout)) >= 1
    other = run("tune", "--gallery", gallery, "--codes", "kmeans:8", "--codes-only", code=1).output
    assert "stored as kmeans:4 already" in other
    assert json.loads(run("info", "--gallery", gallery, "--json").stdout)["index"] == "kmeans:4"
    both = run(*build, "--codes", "kmeans:4", "--index", "Flat", code=2).output
    assert "give --index or --codes" in both
    assert "--codes-only needs --codes" in run(*build, "--codes-only", code=2).output
    assert "no code such as" in run(*build, "--codes", "IVF4,Flat", code=2).output
    assert "1, 2, 4 or 8 bits" in run(*build, "--overwrite", "--codes", "kmeans:3", code=1).output


def test_vectors_are_not_dropped_where_the_index_is_refused(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gallery = tmp_path / "v.gallery"
    run(*build_index(place, gallery))
    before = run("info", "--gallery", gallery, "--json").stdout
    refused = [["--codes", "kmeans:4", "--codes-only", "--max-query-time-ms", "0.0000001"],
               ["--max-index-memory-usage", "10"]]  # fmt: skip
    monkeypatch.setattr("index.upkeep.LEAST_HELD_OUT", 1)
    for options in refused:
        failed = run("tune", "--gallery", gallery, *options, code=1).output
        assert "give --max-" in failed
        assert run("info", "--gallery", gallery, "--json").stdout == before


def test_a_gallery_that_was_refused_takes_the_advice(place: Path, tmp_path: Path) -> None:
    gallery = tmp_path / "m.gallery"
    build = build_index(place, gallery)
    advice = run(*build, "--max-index-memory-usage", "10", code=1).output
    needed = re.search(r"give (--max-index-memory-usage) (\d+) or more", advice)
    assert needed is not None
    assert json.loads(run(*build, *needed.groups(), "--json").stdout)["added"] == 36
    other = run(*build, "--max-index-memory-usage", "1GB", code=1).output
    assert f"--max-index-memory-usage {needed[2]} --recall-target 0.95; change that with" in other


def test_add_remove_info_and_verify(place: Path, tmp_path: Path) -> None:
    gallery = tmp_path / "g.gallery"
    train, test = place / "pictures" / "train", place / "pictures" / "test"
    run("build-index", train / "r", "--model", place / "run", "--out", gallery)
    added = json.loads(run("add", test, "--gallery", gallery, "--json").stdout)
    assert added["added"] == 9
    removed = run("remove", test / "g", "--gallery", gallery, "--json")
    assert json.loads(removed.stdout)["removed"] == 3
    info = json.loads(run("info", "--gallery", gallery, "--json").stdout)
    assert (info["pictures"], info["left_out"], info["metric"]) == (18, 1, "l2")
    assert "pictures" in run("info", "--gallery", gallery).stdout
    assert "sound" in run("verify", "--gallery", gallery).stdout
    assert json.loads(run("compact", "--gallery", gallery, "--json").stdout)["rows_freed"] == 3
    assert "0 rows freed" in run("compact", "--gallery", gallery).stdout
    assert "nothing to remove" in run("remove", "--gallery", gallery, code=1).output
    shard = next(gallery.glob("vectors-*.npy"))
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(bytes(data))
    assert "checksum" in run("verify", "--gallery", gallery, code=1).output
    assert not json.loads(run("verify", "--gallery", gallery, "--json", code=1).stdout)["sound"]


def test_folders_reached_by_links_are_known(place: Path, tmp_path: Path) -> None:
    link, g = tmp_path / "link", tmp_path / "g"
    link.symlink_to(place / "pictures" / "train")
    run(*build_index(place, g))
    for name, option in (("build-index", "--out"), ("add", "--gallery"), ("sync", "--gallery")):
        assert json.loads(run(name, link, option, g, "--json").stdout)["unchanged"] == 36
    assert "12 removed" in run("remove", link / "r", "--gallery", g).stdout


def test_what_is_done_is_told_where_too_few_are_left_for_the_index(
    place: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gallery, train = tmp_path / "g.gallery", place / "pictures" / "train"
    run(*build_index(place, gallery), "--index", "IVF20,Flat")
    assert caplog.text == ""
    for command, done in (
        (["remove", train / "r", train / "g"], {"removed": 24}),
        (["add", place / "pictures" / "test" / "r"], {"added": 3}),
        (["sync", train / "b"], {"unchanged": 12}),
    ):
        told = json.loads(run(*command, "--gallery", gallery, "--json").stdout)
        assert told.items() >= done.items()
        assert "--index IVF20,Flat has 20 lists" in caplog.text
        caplog.clear()
    run(*build_index(place, gallery))
    assert caplog.text == ""
    assert json.loads(run("info", "--gallery", gallery, "--json").stdout)["indexed"] == 39


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


def test_embed_writes_plain_files(place: Path, tmp_path: Path) -> None:
    run("embed", place / "pictures" / "test", "--model", place / "run", "--out", tmp_path)
    assert np.load(tmp_path / "embeddings.npy").shape == (9, 8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train-embed", "--dataset", "nowhere"], "no data set 'nowhere'"),
        (["train-embed", "--epochs", "0"], "--epochs is 0; it must be at least 1"),
        (["train-embed", "--pairs", "views"], "--views 2 or more"),
        (["train-embed", "--dataset", "digits", "--device", "cuda"], "--device is 'cuda'"),
        (["train-embed", "--out", "x", "--resume"], "not a run folder"),
        (["build-index", "nowhere", "--out", "o"], "no file or folder nowhere"),
        (["build-index", ".", "--model", "m", "--out", "o"], "no model at m"),
        (["query", "x.png", "--gallery", "g"], "g is not a gallery"),
        (["info", "--gallery", "g"], "not a gallery"),
        (["show-augment", "missing.png"], "no such file"),
        (["evaluate", "--gallery", "g"], "not a gallery"),
        (["embed", "nowhere", "--model", "m", "--out", "o"], "no file or folder nowhere"),
    ],
)
def test_bad_input_gives_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    import torch

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = run(*arguments, code=1)
    assert message in result.stderr
    assert result.stderr.count("Error: ") == 1
    assert result.stdout == ""


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


def test_unknown_commands_and_options_suggest_what_was_meant() -> None:
    assert "query" in run("qurey", code=2).output
    assert "--gallery" in run("query", "x", "--galery", "y", code=2).output


def test_verbose_says_what_happens_inside(place: Path) -> None:
    ask = ["query", photo(place), "--gallery", place / "g.gallery"]
    command = [sys.executable, "-m", "retrieval"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = [
        subprocess.run(
            [*command, *more, *map(str, ask)], capture_output=True, text=True, check=True,
            env=environment, cwd=Path(__file__).parents[1],
        )
        for more in ([], ["-v"])
    ]  # fmt: skip
    assert done[0].stderr == ""
    assert "36 of 36 vectors allowed: exact" in done[1].stderr
    assert done[0].stdout == done[1].stdout


@pytest.mark.parametrize("name", [b"not-\xff-utf8.png", b"bold-\x1b[1m.png"])
def test_paths_with_odd_bytes_reach_stdout_as_they_are(
    place: Path, tmp_path: Path, name: bytes
) -> None:
    odd = tmp_path / os.fsdecode(name)
    odd.write_bytes(photo(place).read_bytes())
    run("build-index", tmp_path, "--model", place / "run", "--out", tmp_path / "g")
    for style in ("paths", "csv"):
        result = run("query", odd, "--gallery", tmp_path / "g", "--format", style)
        assert os.fsencode(odd) in result.stdout_bytes
    run(
        "query",
        odd,
        "--gallery",
        tmp_path / "g",
        "--html",
        tmp_path / "p.html",
        "--sheet",
        tmp_path / "s.png",
    )


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "run/last.pt"),
         "run/last.pt: No space left on device"),
        (OSError("odd"), "odd"), (TimeoutError(), "TimeoutError"),
    ],
)  # fmt: skip
def test_errors_of_the_system_are_one_line(
    monkeypatch: pytest.MonkeyPatch, error: OSError, told: str
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr("retrieval.models.names", fail)
    assert run("models", code=1).stderr.endswith(f"Error: {told}\n")
