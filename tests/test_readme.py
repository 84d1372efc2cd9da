"""What the README tells people to type works, in the order in which it stands there."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from boxed import squares
from click.testing import CliRunner
from PIL import Image

from retrieval.cli import detect, main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
QUICK = ["--epochs", "1", "--batch-size", "12", "--validation", "0.2"]


def make_flowers(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for split in ("flowers/train", "flowers/test", "more", "photos"):
        for label in ("aster", "rose", "tulip"):
            for number in range(8):
                file = folder / split / label / f"{number}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(rng.integers(0, 256, (20, 20, 3), np.uint8)).save(file)
    table = "price,size\n" + "".join(f"{n},{n % 7}\n" for n in range(20))
    (folder / "prices.csv").write_text(table)
    for name in ("photo.png", "one.jpg", "two.jpg"):
        Image.fromarray(rng.integers(0, 256, (90, 60, 3), np.uint8)).save(folder / name)


def commands() -> list[list[str]]:
    blocks = re.findall(r"```console\n(.*?)```", README, re.DOTALL)
    lines = [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [shlex.split(line) for line in lines if line]


def test_every_command_and_the_python_example_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_flowers(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RETRIEVAL_DATA", str(tmp_path / "data"))
    # A thousand scenes would take a minute.
    monkeypatch.setattr(detect, "read_boxed", lambda name, split: squares(24))
    ran = 0
    for program, *arguments in commands():
        if program != "retrieval":
            assert (program, *arguments) in {
                ("make", "demo"),
                ("make", "test"),
                ("pip", "install", "."),
            }
            continue
        if "cifar" in " ".join(arguments):
            continue  # the figures; see docs and scripts
        arguments = [
            a
            for word in arguments
            for a in (sorted(map(str, Path().glob(word))) if "*" in word else [word])
        ]
        if arguments[0].startswith("train-"):
            arguments += QUICK
            if arguments[0] != "train-detect" and "--backbone" not in arguments:
                arguments += ["--width", "8"]
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 0, (arguments, result.output)
        ran += 1
    assert ran >= 11
    assert (tmp_path / "answers.png").exists()
    assert (tmp_path / "answers.html").exists()
    assert (tmp_path / "detected" / "photo.png").exists()
    example = re.findall(r"```python\n(.*?)```", README, re.DOTALL)[0]
    exec(compile(example, "README.md", "exec"), {})
    assert len(capsys.readouterr().out.splitlines()) == 10


def test_every_command_and_option_that_is_named_exists() -> None:
    options = {
        o for c in main.commands.values() for p in c.params for o in (*p.opts, *p.secondary_opts)
    }
    named = set(re.findall(r"`(--[a-z][a-z-]+)", README)) | set(
        re.findall(r"\s(--[a-z][a-z-]+)", README)
    )
    assert named - options <= {"--help"}
    commands_named = set(re.findall(r"retrieval ([a-z-]+) ", README))
    assert commands_named <= set(main.commands)


def test_the_files_that_are_linked_are_there() -> None:
    for document in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
            assert "://" in target or (document.parent / target).exists(), target


def test_the_makefile_has_the_two_commands() -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(r"^demo:", makefile, re.MULTILINE)
    assert re.search(r"^test:", makefile, re.MULTILINE)


def test_the_demo_replaces_no_photo(tmp_path: Path) -> None:
    Image.new("RGB", (9, 9)).save(tmp_path / "answers.png")
    result = CliRunner().invoke(main, ["demo", "--out", str(tmp_path)])
    assert result.exit_code == 1
    assert "answers.png is a picture, which would be overwritten" in result.output
    assert len(list(tmp_path.iterdir())) == 1


def test_the_demo_does_the_whole_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import retrieval.demo
    from retrieval.presets import DATASET_SETTINGS

    quick = {**DATASET_SETTINGS["digits"], "epochs": 3, "width": 8}
    monkeypatch.setitem(DATASET_SETTINGS, "digits", quick)
    assert retrieval.demo.DATASET_SETTINGS is DATASET_SETTINGS
    result = CliRunner().invoke(main, ["demo", "--out", str(tmp_path / "demo")])
    assert result.exit_code == 0, result.output
    recall = float(re.search(r"recall@1 +(0\.\d+)", result.stdout).group(1))
    assert recall > 0.8
    for name in ("answers.png", "answers.html", "digits.gallery", "run/model.safetensors"):
        assert (tmp_path / "demo" / name).exists()
    test = {p.name for p in (tmp_path / "demo" / "digits" / "test").rglob("*.png")}
    assert len(test) == 355
