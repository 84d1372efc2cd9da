"""Commands that train, and that show what training sees."""

from pathlib import Path
from typing import Any

import click

from retrieval.cli.options import config_options, device_option, json_option, print_json, say
from retrieval.config import (
    DATASET_SETTINGS,
    AugmentConfig,
    EmbedderSpec,
    FitConfig,
    LossConfig,
    TrainEmbedConfig,
)

WEIGHTS_SIZE = 224
"""The size of pictures that published weights were trained with."""


@click.command("train-embed")
@config_options(TrainEmbedConfig, EmbedderSpec, LossConfig, FitConfig, AugmentConfig)
@click.option(
    "--out", type=click.Path(path_type=Path), help="Run folder.  [default: runs/embed-DATASET]"
)
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    envvar="RETRIEVAL_DATA",
    help="Where data sets are downloaded to, and decoded pictures are kept.",
)
@click.option("--resume", is_flag=True, help="Continue an interrupted run, exactly.")
@click.option("--overwrite", is_flag=True, help="Replace a run that is there already.")
@device_option
@json_option
def train_embed(
    out: Path | None,
    data_dir: Path | None,
    resume: bool,
    overwrite: bool,
    device: str,
    as_json: bool,
    **given: Any,
) -> None:
    """Learn an embedding, in which pictures of a class lie close together.

    \b
    Examples:
      retrieval train-embed                                    CIFAR-10, downloaded
      retrieval train-embed --dataset flowers/ --out runs/flowers
      retrieval train-embed --dataset photos/ --pairs views --views 2     no labels needed
      retrieval train-embed --dataset flowers/ --out runs/flowers --resume

    The folder flowers/ holds one folder of pictures for each class, or train/ and test/ folders
    that do. The best embedder is kept in RUN/model.safetensors, progress in RUN/metrics.jsonl and
    RUN/curves.png. Ctrl-C stops after the step; --resume goes on as if nothing had happened.
    """
    from retrieval.checkpoint import Run
    from retrieval.datasets import load_dataset
    from retrieval.device import choose_device, describe
    from retrieval.errors import ConfigError
    from retrieval.progress import Progress
    from retrieval.train_embed import train_embed as train

    values = {name: value for name, value in given.items() if value is not None}
    dataset = values.get("dataset", TrainEmbedConfig().dataset)
    run = Run(out or Path("runs") / f"embed-{Path(dataset).name or 'pictures'}")
    if resume:
        config = run.config()
        if values and config.with_values(values) != config:
            raise ConfigError(
                f"--resume continues {run.folder} with the options that it was started with; leave "
                f"out {', '.join('--' + name.replace('_', '-') for name in values)}"
            )
    elif run.exists and not overwrite:
        raise ConfigError(
            f"{run.folder} holds a run already; give --resume to continue it, --overwrite to "
            "replace it, or another --out"
        )
    else:
        values = {**DATASET_SETTINGS.get(dataset, {}), **values}
        config = TrainEmbedConfig().with_values(values)
    chosen = choose_device(device)
    say(f"Training on {describe(chosen, config.fit.precision)} into {run.folder}")
    size = config.embedder.image_size if resume or "image_size" in values else None
    if size is None and config.weights is not None:
        size = WEIGHTS_SIZE
    with Progress("Reading", None, "pictures") as progress:
        data = load_dataset(
            config.dataset, data_dir=data_dir, image_size=size, on_picture=progress.set_of
        )
    config = config.with_values({"image_size": data.images.shape[1]})
    say(
        f"{data.name}: {len(data):,} pictures of {size or data.images.shape[1]} pixels, "
        f"{len(data.classes)} classes"
    )
    if data.left_out:
        path, reason = data.left_out[0]
        say(f"{len(data.left_out):,} pictures were left out, the first: {path}: {reason}")

    with Progress("Training", None, "steps") as progress:
        finished = train(
            config, data, run, device=chosen, resume=resume,
            on_step=progress.set_of, on_epoch=lambda record: progress.note(epoch_line(record, config)),
        )  # fmt: skip
    if not finished:
        say(f"Stopped. Continue with: retrieval train-embed --out {run.folder} --resume")
        raise SystemExit(130)
    _print_result(run, as_json)


def epoch_line(record: dict[str, float], config: TrainEmbedConfig) -> str:
    """One line on an epoch."""
    parts = [f"epoch {record['epoch']:.0f}/{config.fit.epochs}", f"loss {record['loss']:.3f}"]
    if "recall_at_1" in record:
        parts.append(f"recall@1 {record['recall_at_1']:.3f} (held out)")
    parts.append(f"active {record['active_triplets']:.0%}")
    parts.append(f"{record['seconds']:.0f} s")
    return "  ".join(parts)


def _print_result(run: Any, as_json: bool) -> None:
    import json

    lines = (run.folder / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    best = max((r.get("recall_at_1", 0.0) for r in records), default=0.0)
    result = {"run": str(run.folder), "epochs": len(records), "recall_at_1": best}
    if as_json:
        print_json(result)
    else:
        click.echo(f"{run.folder}: recall@1 {best:.3f} on held-out pictures")
        say(f"Next: retrieval build-index PICTURES --model {run.folder} --out photos.gallery")


@click.command("show-augment")
@click.argument("photo", type=click.Path(path_type=Path))
@config_options(AugmentConfig)
@click.option("--out", type=click.Path(path_type=Path), default="augmented.png", show_default=True)
@click.option("--size", default=128, show_default=True, type=click.IntRange(8, 1024))
@click.option("--views", default=24, show_default=True, type=click.IntRange(1, 400))
@click.option("--seed", default=0, show_default=True)
def show_augment(photo: Path, out: Path, size: int, views: int, seed: int, **given: Any) -> None:
    """Write a grid of augmented views of a photo, to see what training sees.

    \b
    Example:
      retrieval show-augment photo.png --rotation 20 --brightness 0.3 --cutout 24
    """
    import dataclasses

    import numpy as np
    import torch

    from retrieval.augment import augment
    from retrieval.images import read_image
    from retrieval.report import picture_grid, write_picture

    values = {name: value for name, value in given.items() if value is not None}
    config = dataclasses.replace(AugmentConfig(), **values)
    picture = torch.from_numpy(read_image(photo, size)).permute(2, 0, 1)
    batch = picture.expand(views, -1, -1, -1)
    changed = augment(batch, config, torch.Generator().manual_seed(seed)).round().byte()
    pictures = np.concatenate([picture[None].numpy(), changed.numpy()]).transpose(0, 2, 3, 1)
    write_picture(picture_grid(pictures, columns=5), out)
    click.echo(out)
