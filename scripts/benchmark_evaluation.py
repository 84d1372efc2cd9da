"""Time and memory of scoring 10,000 queries against 50,000 pictures, beside ranking by a plain argsort.

Example: python scripts/benchmark_evaluation.py --queries 10000 --gallery 50000
"""

import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context

import click
import numpy as np

from retrieval.cli.commands import Command
from retrieval.evaluation import evaluate_retrieval


def made_up(queries: int, gallery: int, dim: int) -> tuple[np.ndarray, ...]:
    """Ten overlapping clusters of unit vectors."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(10, dim))
    labels = rng.integers(0, 10, queries + gallery)
    vectors = centres[labels] + 2 * rng.normal(size=(queries + gallery, dim))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return vectors[:queries], labels[:queries], vectors[queries:], labels[queries:]


def ours(data: tuple[np.ndarray, ...]) -> float:
    return evaluate_retrieval(*data, intervals=False).figures["mAP"].mean


def plain_argsort(data: tuple[np.ndarray, ...]) -> float:
    """mAP alone, by sorting row numbers by distance in blocks of 256 queries."""
    queries, query_labels, gallery, gallery_labels = data
    precisions = []
    for start in range(0, len(queries), 256):
        order = np.argsort(-(queries[start : start + 256] @ gallery.T), axis=1)
        hits = gallery_labels[order] == query_labels[start : start + 256, None]
        precision = hits.cumsum(1) / np.arange(1, len(gallery) + 1)
        precisions.append((precision * hits).sum(1) / hits.sum(1))
    return float(np.concatenate(precisions).mean())


def measure(
    function: Callable[[tuple[np.ndarray, ...]], float], sizes: tuple[int, ...]
) -> tuple[float, float, float]:
    """What ``function`` gives, its seconds, and the peak GiB of this process."""
    data = made_up(*sizes)
    started = time.perf_counter()
    value = function(data)
    seconds = time.perf_counter() - started
    return value, seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def measure_apart(
    function: Callable[[tuple[np.ndarray, ...]], float], sizes: tuple[int, ...]
) -> tuple[float, float, float]:
    """The same of a process, whose peak is its own. Raises ClickException where it is ended."""
    try:
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            return pool.submit(measure, function, sizes).result()
    except BrokenProcessPool as error:
        raise click.ClickException(
            "the process that measures was ended, maybe for want of memory; try smaller sizes"
        ) from error


@click.command(cls=Command, help=__doc__)
@click.option("--queries", default=10_000, show_default=True, type=click.IntRange(1))
@click.option("--gallery", default=50_000, show_default=True, type=click.IntRange(1))
@click.option("--dim", default=128, show_default=True, type=click.IntRange(1))
def main(queries: int, gallery: int, dim: int) -> None:
    click.echo(f"{'method':<42} {'seconds':>8} {'peak GiB':>9} {'mAP':>8}")
    for name, function in (
        ("evaluate_retrieval (all figures)", ours),
        ("numpy argsort by blocks (mAP alone)", plain_argsort),
    ):
        value, seconds, peak = measure_apart(function, (queries, gallery, dim))
        click.echo(f"{name:<42} {seconds:>8.1f} {peak:>9.2f} {value:>8.4f}")


if __name__ == "__main__":
    main()
