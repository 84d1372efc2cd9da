"""The commands that index and ask, and what all commands have in common."""

import csv
import errno
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import learnt_and_indexed, photo, run
from nasty_pictures import make_nasty_pictures
from PIL import Image

from retrieval.cli import main


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures, a run trained on them and a gallery, all made by commands."""
    return learnt_and_indexed(tmp_path_factory.mktemp("cli"))


def build_index(place: Path, out: Path) -> list[object]:
    """The command that indexes the training pictures."""
    return [
        "build-index", place / "pictures" / "train", "--model", place / "run", "--out", out,
    ]  # fmt: skip


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
