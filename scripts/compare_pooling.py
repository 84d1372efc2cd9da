"""Average, max, both and GeM pooling when objects are not where they were in training.

Digits stand in the middle of a larger canvas in training. Then test digits, moved by up to so many
pixels, ask the digits in the middle. The claim under test: average pooling suits objects that stay
in place, max pooling those that move. ``--train-shift`` lets the digits of training move too.

Example: python scripts/compare_pooling.py --out docs/pooling.png
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import click
import numpy as np
import torch
from seeds import Interval, interval

from retrieval.checkpoint import Run
from retrieval.cli.commands import Command
from retrieval.datasets import load_dataset
from retrieval.embedder import embed_images
from retrieval.evaluation import evaluate_retrieval
from retrieval.labeled_images import LabeledImages
from retrieval.network_files import load_embedder
from retrieval.presets import DATASET_SETTINGS
from retrieval.run_config import TrainEmbedConfig
from retrieval.train_embed import train_embed

POOLS = ("avg", "max", "avgmax", "gem")
DIGIT, CANVAS = 16, 40
SHIFTS = (0, 2, 4, 6, 8, 10, 12)


def on_canvas(data: LabeledImages, shift: int, seed: int) -> np.ndarray:
    """Pictures uint8 (N,40,40,3): each digit moved by ``shift`` pixels along a direction of its own."""
    rng = np.random.default_rng(seed)
    canvas = np.zeros((len(data), CANVAS, CANVAS, 3), np.uint8)
    angle = rng.uniform(0, 2 * np.pi, len(data))
    middle = (CANVAS - DIGIT) // 2
    tops, lefts = (middle + np.rint(shift * f(angle)).astype(int) for f in (np.sin, np.cos))
    for picture, digit, top, left in zip(canvas, data.images, tops, lefts, strict=True):
        picture[top : top + DIGIT, left : left + DIGIT] = digit
    return canvas


def recalls(pool: str, seed: int, train_shift: int) -> list[float]:
    """recall@1 at each of ``SHIFTS`` of an embedder with this pooling."""
    train, test = (load_dataset("digits", image_size=DIGIT, split=s) for s in ("train", "test"))
    values = {"pool": pool, "seed": seed, "image_size": CANVAS, "crop_padding": train_shift}
    values |= {"rotation": 0.0, "scale": 0.0}
    config = TrainEmbedConfig().with_values(
        {**DATASET_SETTINGS["digits"], "dataset": "digits"} | values
    )
    centred = on_canvas(train, 0, seed)
    pictures = LabeledImages("digits", centred, train.labels, train.classes)
    with TemporaryDirectory() as folder:
        train_embed(config, pictures, Run(Path(folder)), device=torch.device("cpu"))
        embedder = load_embedder(Path(folder))
    gallery = embed_images(embedder, centred)
    found = []
    for shift in SHIFTS:
        queries = embed_images(embedder, on_canvas(test, shift, seed))
        report = evaluate_retrieval(
            queries, test.labels, gallery, train.labels, ks=(1,), distance="l2", intervals=False
        )
        found.append(report.recall_at_k[1])
    return found


def plot(results: dict[str, list[Interval]], out: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for pool, found in results.items():
        axes.plot(SHIFTS, [f.mean for f in found], marker="o", markersize=3, label=pool)
        axes.fill_between(SHIFTS, [f.low for f in found], [f.high for f in found], alpha=0.15)
    axes.set(xlabel=f"pixels moved, of {CANVAS}", ylabel="recall@1", ylim=(0, 1.02))
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    figure.savefig(out, dpi=110)


@click.command(cls=Command, help=__doc__)
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(3))
@click.option("--train-shift", default=0, show_default=True, type=click.IntRange(0),
              help="Pixels moved in training.")  # fmt: skip
@click.option("--out", default="pooling.png", show_default=True, type=click.Path(path_type=Path))
def main(seeds: int, train_shift: int, out: Path) -> None:
    click.echo(f"recall@1 of moved digits (mean of {seeds} seeds, 95 % interval)")
    click.echo(f"{'pool':<8}" + "".join(f"{f'{shift} px':>23}" for shift in SHIFTS))
    results: dict[str, list[Interval]] = {}
    for pool in POOLS:
        runs = [recalls(pool, seed, train_shift) for seed in range(seeds)]
        results[pool] = [interval(values) for values in zip(*runs, strict=True)]
        click.echo(f"{pool:<8}" + "".join(f"{found!s:>23}" for found in results[pool]))
    plot(results, out)


if __name__ == "__main__":
    main()
