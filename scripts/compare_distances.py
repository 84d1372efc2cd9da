"""L1, L2 and cosine: how distances flatten as dimensions grow, and what each gives when learnt by.

Contrast is (farthest − nearest) / nearest over 1,000 vectors, as seen from another one: where it is
near 0 every picture is about as far as every other (Beyer et al., "When Is Nearest Neighbor
Meaningful?"; Aggarwal et al., "On the Surprising Behavior of Distance Metrics in High Dimensional
Space"). Made-up vectors are as spread as can be; trained embeddings are not, which is the point of
training them.

Example: python scripts/compare_distances.py --out docs/distances.png
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import click
import numpy as np
import torch
from seeds import Interval, interval

from index.neighbors import pair_distances, prepare
from retrieval.checkpoint import Run
from retrieval.cli.commands import Command
from retrieval.datasets import load_dataset
from retrieval.embedder import embed_images
from retrieval.evaluation import evaluate_retrieval
from retrieval.network_files import load_embedder
from retrieval.presets import DATASET_SETTINGS
from retrieval.run_config import TrainEmbedConfig
from retrieval.specs import DISTANCES
from retrieval.train_embed import train_embed

DIMENSIONS = (2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
VECTORS, QUERIES = 1000, 50


def contrast(queries: np.ndarray, vectors: np.ndarray, distance: str) -> float:
    """The median over queries (Q,D) of (farthest − nearest) / nearest among vectors (N,D)."""
    values = []
    queries, vectors = (prepare(v, v.shape[1], distance, "vectors") for v in (queries, vectors))
    for query in queries:
        far = pair_distances(np.broadcast_to(query, vectors.shape), vectors, distance)
        values.append((far.max() - far.min()) / max(far.min(), 1e-12))
    return float(np.median(values))


def made_up(dimension: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of independent normal numbers."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(VECTORS + QUERIES, dimension)).astype(np.float32)
    return vectors[:QUERIES], vectors[QUERIES:]


def trained(distance: str, dimension: int, seed: int) -> tuple[float, float, float]:
    """recall@1 and mAP of digits learnt and searched by a distance, and its contrast there."""
    values = {"distance": distance, "embedding_dim": dimension, "seed": seed}
    config = TrainEmbedConfig().with_values(
        {**DATASET_SETTINGS["digits"], "dataset": "digits"} | values
    )
    size = config.embedder.image_size
    train, test = (load_dataset("digits", image_size=size, split=s) for s in ("train", "test"))
    with TemporaryDirectory() as folder:
        train_embed(config, train, Run(Path(folder)), device=torch.device("cpu"))
        embedder = load_embedder(Path(folder))
    gallery, queries = embed_images(embedder, train.images), embed_images(embedder, test.images)
    report = evaluate_retrieval(
        queries, test.labels, gallery, train.labels, distance=distance, ks=(1,), intervals=False
    )
    figures = report.figures
    return (
        figures["recall@1"].mean,
        figures["mAP"].mean,
        contrast(queries[:QUERIES], gallery, distance),
    )


def plot(results: dict[str, list[Interval]], out: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for distance, found in results.items():
        axes.plot(DIMENSIONS, [f.mean for f in found], marker="o", markersize=3, label=distance)
        axes.fill_between(DIMENSIONS, [f.low for f in found], [f.high for f in found], alpha=0.2)
    axes.set(xscale="log", yscale="log", xlabel="dimensions", ylabel="contrast of distances")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    figure.savefig(out, dpi=110)


def dimensions(ctx: click.Context, option: click.Parameter, text: str) -> list[int]:
    """Those that ``text`` lists. Raises BadParameter for what embeddings cannot have."""
    try:
        listed = [int(part) for part in text.split(",")]
        for dimension in listed:
            TrainEmbedConfig().with_values({"embedding_dim": dimension})
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is no list such as 2,8,64: {error}") from error
    return listed


@click.command(cls=Command, help=__doc__)
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(3))
@click.option("--dims", default="2,8,64", show_default=True, callback=dimensions,
              help="Dimensions to train with.")  # fmt: skip
@click.option("--out", default="distances.png", show_default=True, type=click.Path(path_type=Path))
def main(seeds: int, dims: list[int], out: Path) -> None:
    click.echo("Contrast of made-up vectors (mean of seeds, 95 % interval)")
    click.echo(f"{'dimensions':>10}" + "".join(f"{d:>30}" for d in DISTANCES))
    results: dict[str, list[Interval]] = {d: [] for d in DISTANCES}
    for dimension in DIMENSIONS:
        for distance in DISTANCES:
            values = [contrast(*made_up(dimension, seed), distance) for seed in range(seeds)]
            results[distance].append(interval(values))
        click.echo(f"{dimension:>10}" + "".join(f"{results[d][-1]!s:>30}" for d in DISTANCES))
    plot(results, out)
    click.echo("\nDigits, learnt and searched by each distance (mean of seeds, 95 % interval)")
    click.echo(f"{'distance':>10}{'dimensions':>12}{'recall@1':>30}{'mAP':>30}{'contrast':>30}")
    for dimension in dims:
        for distance in DISTANCES:
            runs = [trained(distance, dimension, seed) for seed in range(seeds)]
            columns = "".join(f"{interval(list(v))!s:>30}" for v in zip(*runs, strict=True))
            click.echo(f"{distance:>10}{dimension:>12}{columns}")


if __name__ == "__main__":
    main()
