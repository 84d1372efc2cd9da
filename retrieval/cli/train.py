"""Commands that train, and that show what training sees."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from retrieval.cli.options import (
    NEW_FILE,
    config_options,
    device_option,
    json_option,
    print_json,
    say,
)
from retrieval.cli.runs import (
    MEASURED,
    begin,
    configuration,
    data_dir_option,
    dry_run_option,
    overwrite_option,
    preset_option,
    resume_option,
    silent,
    suited,
    try_out,
)
from retrieval.config import AugmentConfig, FitConfig, LossConfig
from retrieval.presets import BACKBONE_SETTINGS
from retrieval.run_config import TrainEmbedConfig
from retrieval.specs import EmbedderSpec

if TYPE_CHECKING:
    from retrieval.checkpoint import Run
    from retrieval.labeled_images import LabeledImages


@click.command("train-embed")
@preset_option
@config_options(
    TrainEmbedConfig, EmbedderSpec, LossConfig, FitConfig, AugmentConfig, leave_out=MEASURED
)
@click.option(
    "--out", type=click.Path(path_type=Path), help="Run folder.  [default: runs/embed-DATASET]"
)
@data_dir_option
@resume_option
@overwrite_option
@dry_run_option
@device_option
@json_option
def train_embed(
    preset: str | None,
    out: Path | None,
    data_dir: Path | None,
    resume: bool,
    overwrite: bool,
    dry_run: bool,
    device: str,
    as_json: bool,
    **given: Any,
) -> None:
    """Learn an embedding, in which pictures of a class lie close together.

    \b
    Examples:
      retrieval train-embed                                    CIFAR-10, downloaded
      retrieval train-embed --dataset flowers/ --out runs/flowers
      retrieval train-embed --dataset flowers/ --dry-run       how long would it take?
      retrieval train-embed --dataset photos/ --pairs views --views 2     no labels needed
      retrieval train-embed --dataset flowers/ --out runs/flowers --resume
      retrieval train-embed --dataset flowers/ --from efficientnet-lite0      fine-tune
      retrieval train-embed --dataset flowers/ --from runs/classify-flowers
      retrieval train-embed --dataset flowers/ --backbone resnet18 --stem stock \\
          --weights imagenet --freeze stem,layer1
      torchrun --nproc-per-node 2 -m retrieval train-embed --dataset flowers/

    The folder flowers/ holds one folder of pictures for each class, or train/ and test/ folders
    that do. The best embedder is kept in RUN/model.safetensors, progress in RUN/metrics.jsonl and
    RUN/curves.png. Ctrl-C stops after the step; --resume goes on as if nothing had happened.
    """
    from retrieval.checkpoint import Run

    values = {name: value for name, value in given.items() if value is not None}
    dataset = values.get("dataset", TrainEmbedConfig().dataset)
    folder = out or Path("runs") / f"embed-{Path(dataset).name or 'pictures'}"
    run: Run[TrainEmbedConfig] = Run(folder)
    keeps_nothing = dry_run and not resume
    suiting = suited(TrainEmbedConfig(), preset, values, BACKBONE_SETTINGS)
    config, size = configuration(run, values, suiting, resume, overwrite or keeps_nothing, preset)
    into = "to keep nothing" if dry_run else f"into {run.folder}"
    data, chosen, tell = begin(config, device, data_dir, size, into)
    config = config.with_values({"image_size": data.images.shape[1]})
    if dry_run:
        from retrieval.train_embed import embedding_task

        state = run.load_state() if resume else None
        try_out(config, embedding_task, data, chosen, as_json, state)
        return
    finished = _train(config, data, run, chosen, resume, tell)
    if not finished:
        tell(f"Stopped. Continue with: retrieval train-embed --out {run.folder} --resume")
        raise SystemExit(130)
    if tell is not silent:
        _print_result(run, as_json)


def _train(
    config: TrainEmbedConfig,
    data: "LabeledImages",
    run: "Run",
    device: Any,
    resume: bool,
    tell: Callable[[str], None],
) -> bool:
    from retrieval.progress import Progress
    from retrieval.train_embed import train_embed as train

    if tell is silent:
        return train(config, data, run, device=device, resume=resume)
    with Progress("Training", None, "steps") as progress:
        return train(
            config, data, run, device=device, resume=resume, on_step=progress.set_of,
            on_epoch=lambda record: progress.note(epoch_line(record, config)),
            on_warning=progress.note,
        )  # fmt: skip


def epoch_line(record: dict[str, float], config: TrainEmbedConfig) -> str:
    """One line on an epoch."""
    terms = {n.removeprefix("loss/"): v for n, v in record.items() if n.startswith("loss/")}
    shown = " + ".join(f"{name} {value:.3f}" for name, value in terms.items())
    parts = [f"epoch {record['epoch']:.0f}/{config.fit.epochs}", shown]
    if "recall_at_1" in record:
        parts.append(f"recall@1 {record['recall_at_1']:.3f} (held out)")
        parts.append(f"rank {record['effective_rank']:.1f}")
    if "active_triplets" in record:
        parts.append(f"active {record['active_triplets']:.0%}")
    near, far = record["positive_distance"], record["negative_distance"]
    parts.append(f"near/far {near:.2f}/{far:.2f}")
    parts.append(f"norm {record['embedding_norm']:.1f}")
    parts.append(f"{record['seconds']:.0f} s")
    return "  ".join(parts)


def _print_result(run: "Run", as_json: bool) -> None:
    best = run.best("recall_at_1")
    if as_json:
        recall = None if best is None else best["recall_at_1"]
        epochs = len(run.history())
        print_json({"run": str(run.folder), "epochs": epochs, "recall_at_1": recall})
    else:
        told = "nothing was held out, or one class alone"
        if best is not None:
            told = f"recall@1 {best['recall_at_1']:.3f} on held-out pictures"
        click.echo(f"{run.folder}: {told}")
        say(f"Next: retrieval build-index PICTURES --model {run.folder} --out photos.gallery")


@click.command("show-augment")
@click.argument("photo", type=click.Path(path_type=Path))
@config_options(AugmentConfig)
@click.option("--out", type=NEW_FILE, default="augmented.png", show_default=True)
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
