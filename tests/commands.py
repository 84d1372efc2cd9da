"""The command line as a test calls it, and a place where commands have worked already."""

from pathlib import Path

import numpy as np
from click.testing import CliRunner, Result
from PIL import Image

from retrieval.cli import main

TRAIN = ["--width", "8", "--embedding-dim", "8", "--epochs", "2", "--batch-size", "12",
         "--validation", "0.2", "--precision", "fp32", "--lr", "0.05"]  # fmt: skip


def run(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    if result.exit_code != code:
        raise AssertionError(f"{arguments} ended with {result.exit_code}:\n{result.output}")
    if code:
        assert "Traceback" not in result.output
    return result


def draw_colours(folder: Path, **parts: int) -> None:
    """PART/r, g and b: so many pictures of 17 pixels in each, noise with a tint of that colour."""
    rng = np.random.default_rng(0)
    for part, n in parts.items():
        for colour in range(3):
            for number in range(n):
                file = folder / part / "rgb"[colour] / f"{number}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                pixels = rng.integers(0, 100, (17, 17, 3), np.uint8)
                pixels[:, :, colour] += 120
                Image.fromarray(pixels).save(file)


def learnt(folder: Path) -> Path:
    """``folder`` with pictures/train and test, one of them unreadable, and run, trained on them."""
    draw_colours(folder / "pictures", train=12, test=3)
    (folder / "pictures" / "train" / "r" / "bad.png").write_bytes(b"x")
    run("train-embed", "--dataset", folder / "pictures", "--out", folder / "run", *TRAIN,
        "--data-dir", folder / "data")  # fmt: skip
    return folder


def learnt_and_indexed(folder: Path) -> Path:
    """The same, and g.gallery of the training pictures."""
    learnt(folder)
    run("build-index", folder / "pictures" / "train", "--model", folder / "run",
        "--out", folder / "g.gallery")  # fmt: skip
    return folder


def photo(place: Path) -> Path:
    """A picture that no gallery has."""
    return place / "pictures" / "test" / "g" / "0.png"
