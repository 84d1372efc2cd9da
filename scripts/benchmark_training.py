"""Time to recall@1 of 0.70 and 0.80: a preset beside the ordinary recipe of pytorch-metric-learning.

Both learn from the same pictures on the same cores, one after the other, and are measured by the same
function: held-out pictures ask each other. The clock counts training alone, not measuring.

The peer is what that library's examples do: a torchvision ResNet-18 (with the entry for small
pictures, trained from scratch), an MLP of 64 numbers, DataLoader with torchvision transforms,
MPerClassSampler, MultiSimilarityMiner, TripletMarginLoss and Adam. Pictures are in memory for both.
Needs: pip install 'retrieval[losses]'.

Example: python scripts/benchmark_training.py --dataset cifar --limit 25
"""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import nn

from retrieval.cli.commands import Command
from retrieval.datasets import load_dataset
from retrieval.device import describe
from retrieval.evaluation import evaluate_retrieval
from retrieval.labeled_images import LabeledImages
from retrieval.metric_losses import require_library
from retrieval.presets import PRESETS
from retrieval.run_config import TrainEmbedConfig
from retrieval.train_embed import embedding_task
from retrieval.training import fit

GOALS = (0.70, 0.80)
FROM_NOTHING = sorted(name for name in PRESETS if "weights" not in PRESETS[name])
PEER_BATCH = 120
"""Pictures that the peer learns from at a time; from fewer it would learn nothing, for ever."""
Point = tuple[float, float]
"""Seconds of training, and recall@1 then."""
CPU = torch.device("cpu")


def recall_at_1(vectors: np.ndarray, labels: np.ndarray) -> float:
    """Pictures ask each other; ties count as misses."""
    ids = np.arange(len(labels))
    report = evaluate_retrieval(
        vectors, labels, vectors, labels, query_ids=ids, gallery_ids=ids, distance="l2", ks=(1,),
        ties="pessimistic", intervals=False,
    )  # fmt: skip
    return report.recall_at_k[1]


def ours(data: LabeledImages, config: TrainEmbedConfig) -> tuple[list[Point], float]:
    """recall@1 after each epoch of our recipe, and the share of time that prepared pictures."""
    fitting, held_out = data.holdout(config.validation, config.fit.seed)
    task = embedding_task(config, fitting, held_out, CPU)
    records: list[dict[str, float]] = []

    def note(record: dict[str, float]) -> None:
        records.append(record)
        click.echo(f"  ours, epoch {record['epoch']}: {record['recall_at_1']:.3f}", err=True)

    task.on_epoch = note
    fit(task, config.fit)
    seconds = np.cumsum([r["seconds"] for r in records])
    points = [(float(s), r["recall_at_1"]) for s, r in zip(seconds, records, strict=True)]
    return points, sum(r["data_seconds"] for r in records) / float(seconds[-1])


def peer(data: LabeledImages, config: TrainEmbedConfig, limit: float, every: float) -> list[Point]:
    """recall@1 of the library's recipe, every so many seconds, until 0.80 or the limit."""
    from pytorch_metric_learning import losses, miners, samplers
    from torch.utils.data import DataLoader
    from torchvision import models, transforms

    fitting, held_out = data.holdout(config.validation, config.fit.seed)
    normalise = transforms.Normalize((0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616))
    training = transforms.Compose(
        [
            transforms.ToPILImage(),
            transforms.RandomCrop(32, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            normalise,
        ]
    )
    plain = transforms.Compose([transforms.ToTensor(), normalise])
    torch.manual_seed(config.fit.seed)
    trunk = models.resnet18(weights=None)
    trunk.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    trunk.maxpool = nn.Identity()
    trunk.fc = nn.Linear(512, 64)
    optimizer = torch.optim.Adam(trunk.parameters(), lr=1e-3, weight_decay=1e-4)
    sampler = samplers.MPerClassSampler(fitting.labels, m=12, length_before_new_iter=len(fitting))
    loader: Any = DataLoader(
        Pictures(fitting, training), batch_size=PEER_BATCH, sampler=sampler, num_workers=1,
        drop_last=True,
    )  # fmt: skip
    miner, loss = miners.MultiSimilarityMiner(epsilon=0.1), losses.TripletMarginLoss(margin=0.2)
    points: list[Point] = []
    spent, measured = 0.0, 0.0
    started = time.monotonic()
    for images, labels in endless(loader):
        trunk.train()
        vectors = trunk(images)
        value = loss(vectors, labels, miner(vectors, labels))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        spent += time.monotonic() - started
        if spent - measured >= every:
            measured = spent
            points.append((spent, recall_at_1(embed(trunk, held_out, plain), held_out.labels)))
            click.echo(f"  peer, {spent:.0f} s: {points[-1][1]:.3f}", err=True)
            if points[-1][1] >= GOALS[-1] or spent >= limit:
                return points
        started = time.monotonic()
    return points


class Pictures(torch.utils.data.Dataset[Any]):
    """Pictures with labels, each through ``transform``."""

    def __init__(
        self, data: LabeledImages, transform: Callable[[np.ndarray], torch.Tensor]
    ) -> None:
        self.data, self.transform = data, transform

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        return self.transform(self.data.images[row]), int(self.data.labels[row])


def endless(loader: Any) -> Iterator[Any]:
    while True:
        yield from loader


@torch.inference_mode()
def embed(
    trunk: nn.Module, data: LabeledImages, transform: Callable[..., torch.Tensor]
) -> np.ndarray:
    trunk.eval()
    rows = range(0, len(data), 250)
    batches = (torch.stack([transform(i) for i in data.images[r : r + 250]]) for r in rows)
    vectors = torch.cat([trunk(batch) for batch in batches])
    return nn.functional.normalize(vectors, dim=1).numpy()


def first_time(points: list[Point], goal: float) -> float | None:
    return next((seconds for seconds, recall in points if recall >= goal), None)


@click.command(cls=Command, help=__doc__)
@click.option("--dataset", required=True, help="A folder, or a data set's name.")
@click.option("--data-dir", type=click.Path(path_type=Path), envvar="RETRIEVAL_DATA")
@click.option("--preset", type=click.Choice(FROM_NOTHING), default="default", show_default=True)
@click.option("--limit", default=60.0, show_default=True, help="Minutes after which the peer ends.")
@click.option("--every", default=30.0, show_default=True, help="Seconds between its measurements.")
def main(dataset: str, data_dir: Path | None, preset: str, limit: float, every: float) -> None:
    require_library()
    data = load_dataset(dataset, data_dir=data_dir)
    values = {**PRESETS[preset], "image_size": data.images.shape[1]}
    config = TrainEmbedConfig().with_values(values)
    fitting = len(data.holdout(config.validation, config.fit.seed)[0])
    if fitting < PEER_BATCH:
        raise click.ClickException(
            f"{dataset} has {fitting} pictures to learn from; the peer needs {PEER_BATCH}"
        )
    load = os.getloadavg()[0]
    click.echo(f"{describe(CPU)}; load average at the start {load:.1f}; {len(data):,} pictures")
    points, share = ours(data, config)
    peers = peer(data, config, limit * 60, every)
    click.echo(f"{'recall@1':<10}{f'ours ({preset})':>18}{'peer':>12}{'sooner by':>12}")
    for goal in GOALS:
        mine, theirs = first_time(points, goal), first_time(peers, goal)
        shown = f"{theirs:.0f} s" if theirs else f"> {peers[-1][0]:.0f} s"
        factor = f"{'' if theirs else '> '}{(theirs or peers[-1][0]) / mine:.1f} ×" if mine else "-"
        click.echo(f"{goal:<10}{f'{mine:.0f} s' if mine else '-':>18}{shown:>12}{factor:>12}")
    click.echo(f"best      {max(r for _, r in points):>18.3f}{max(r for _, r in peers):>12.3f}")
    click.echo(f"preparing pictures takes {share:.1%} of our steps")


if __name__ == "__main__":
    main()
