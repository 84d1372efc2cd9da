"""What one task learns from another: few labelled pictures of classes that the source has never seen.

Half of the classes, with all their training pictures, teach a source: a classifier or an embedder.
Of each other class a few pictures are left, from which both kinds learn: from nothing, and from each
source (``--from``). Test pictures of these classes say how well: accuracy, and recall@1 where they ask
each other. Rates were chosen on held-out pictures of another seed.

Example: python scripts/compare_transfer.py --dataset cifar/ --few 100 --seeds 3
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np
import torch
from seeds import interval

from retrieval.checkpoint import Run
from retrieval.classifier import classify_images
from retrieval.cli.commands import Command
from retrieval.datasets import load_dataset
from retrieval.embedder import embed_images
from retrieval.evaluation import evaluate_retrieval
from retrieval.labeled_images import LabeledImages
from retrieval.network_files import load_classifier, load_embedder
from retrieval.run_config import TrainClassifyConfig, TrainEmbedConfig
from retrieval.train_classify import run_at, train_classify
from retrieval.train_embed import train_embed

KINDS = ("classifier", "embedder")
CPU = torch.device("cpu")
SOURCE: dict[str, Any] = {"width": 16, "epochs": 7, "validation": 0.0}
TARGET: dict[str, Any] = {"width": 16, "epochs": 40, "validation": 0.0, "batch_size": 100}
TUNED_LR = 0.3
"""Of the usual rate, for what has learnt already."""
HEAD_LR = 10.0
"""Times that, for the head: the table in docs/classification.md was measured so."""


def of_classes(data: LabeledImages, chosen: np.ndarray) -> LabeledImages:
    """The pictures of these classes, int64 (C,), alone and numbered anew."""
    part = data.subset(np.flatnonzero(np.isin(data.labels, chosen)))
    names = tuple(data.classes[label] for label in chosen)
    order = np.argsort(chosen)
    labels = order[np.searchsorted(chosen[order], part.labels)]
    return LabeledImages(part.name, part.images, labels, names)


def few_of(data: LabeledImages, count: int, rng: np.random.Generator) -> LabeledImages:
    """``count`` pictures of each class, drawn at random."""
    rows = [
        rng.permutation(np.flatnonzero(data.labels == c))[:count] for c in np.unique(data.labels)
    ]
    return data.subset(np.sort(np.concatenate(rows)))


def learn(kind: str, data: LabeledImages, folder: Path, values: dict[str, Any]) -> Path:
    """The run folder of a network of this kind; both kinds learn by the embedder's rule."""
    size = {"dataset": data.name, "image_size": data.images.shape[1]}
    if kind == "classifier":
        settings = {"label_smoothing": 0.2, **values, **size}
        train_classify(
            TrainClassifyConfig().with_values(settings), data, run_at(folder), device=CPU
        )
    else:
        config = TrainEmbedConfig().with_values({**values, **size})
        train_embed(config, data, Run(folder), device=CPU)
    return folder


def score(kind: str, run: Path, test: LabeledImages) -> float:
    """Accuracy of a classifier; recall@1 of an embedder, test pictures asking each other."""
    if kind == "classifier":
        found = classify_images(load_classifier(run), test.images).argmax(1)
        return float((found == test.labels).mean())
    vectors = embed_images(load_embedder(run), test.images)
    ids = np.arange(len(test))
    report = evaluate_retrieval(
        vectors, test.labels, vectors, test.labels, query_ids=ids, gallery_ids=ids, ks=(1,),
        distance="l2", intervals=False,
    )  # fmt: skip
    return report.recall_at_k[1]


def scores(
    train: LabeledImages, test: LabeledImages, few: int, seed: int, folder: Path
) -> dict[tuple[str, str], float]:
    """What each kind reaches from each start, of one seed."""
    rng = np.random.default_rng(seed)
    seen, new = np.array_split(rng.permutation(len(train.classes)), 2)
    known, tested = of_classes(train, seen), of_classes(test, new)
    lesson = few_of(of_classes(train, new), few, rng)
    starts: dict[str, Path | None] = {"nothing": None}
    for kind in KINDS:
        starts[kind] = learn(kind, known, folder / f"source-{kind}", {**SOURCE, "seed": seed})
    results = {}
    for start, weights in starts.items():
        for kind in KINDS:
            values = {**TARGET, "seed": seed}
            if weights is not None:
                lr = TUNED_LR * TrainEmbedConfig().fit.lr
                values |= {"weights": str(weights), "lr": lr, "head_lr": HEAD_LR}
            run = learn(kind, lesson, folder / f"{kind}-from-{start}", values)
            results[kind, start] = score(kind, run, tested)
            click.echo(f"seed {seed}, {kind} from {start}: {results[kind, start]:.3f}", err=True)
    return results


def table(results: list[dict[tuple[str, str], float]]) -> str:
    """Means over the seeds, and gains with intervals, as a Markdown table.

    Seeds draw other classes, of which some are harder: so gains are those within each seed.
    """
    lines = [
        "| start | accuracy of a classifier | gain | recall@1 of an embedder | gain |",
        "| --- | ---: | --- | ---: | --- |",
    ]
    for start in ("nothing", *KINDS):
        cells = []
        for kind in KINDS:
            reached = [found[kind, start] for found in results]
            gains = [found[kind, start] - found[kind, "nothing"] for found in results]
            cells += [f"{np.mean(reached):.3f}", "" if start == "nothing" else str(interval(gains))]
        lines.append(f"| {start} | {' | '.join(cells)} |")
    return "\n".join(lines)


@click.command(cls=Command, help=__doc__)
@click.option(
    "--dataset", required=True, help="A folder with train/ and test/, or a data set's name."
)
@click.option("--data-dir", type=click.Path(path_type=Path), envvar="RETRIEVAL_DATA")
@click.option("--few", default=100, show_default=True, type=click.IntRange(2),
              help="Pictures of each new class to learn from.")  # fmt: skip
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(2))
def main(dataset: str, data_dir: Path | None, few: int, seeds: int) -> None:
    train, test = (load_dataset(dataset, data_dir=data_dir, split=s) for s in ("train", "test"))
    if len(train.classes) < 4:
        raise click.ClickException(
            f"{dataset} has {len(train.classes)} classes; two to learn from and two others are needed"
        )
    results = []
    for seed in range(seeds):
        with TemporaryDirectory() as folder:
            results.append(scores(train, test, few, seed, Path(folder)))
    click.echo(table(results))


if __name__ == "__main__":
    main()
