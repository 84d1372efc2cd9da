"""Time and memory of scoring 10,000 queries against 50,000 pictures, beside ranking by a plain argsort.

Example: python scripts/benchmark_evaluation.py --queries 10000 --gallery 50000
"""

import resource
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection

import click
import numpy as np

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
    function: Callable[[tuple[np.ndarray, ...]], float], sizes: tuple[int, ...], out: Connection
) -> None:
    data = made_up(*sizes)
    started = time.perf_counter()
    value = function(data)
    seconds = time.perf_counter() - started
    out.send((value, seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20))


@click.command(help=__doc__)
@click.option("--queries", default=10_000, show_default=True)
@click.option("--gallery", default=50_000, show_default=True)
@click.option("--dim", default=128, show_default=True)
def main(queries: int, gallery: int, dim: int) -> None:
    click.echo(f"{'method':<42} {'seconds':>8} {'peak GiB':>9} {'mAP':>8}")
    context = get_context("spawn")  # a process each, so that peaks of memory are their own
    for name, function in (
        ("evaluate_retrieval (all figures)", ours),
        ("numpy argsort by blocks (mAP alone)", plain_argsort),
    ):
        receive, send = context.Pipe(duplex=False)
        process = context.Process(target=measure, args=(function, (queries, gallery, dim), send))
        process.start()
        value, seconds, peak = receive.recv()
        process.join()
        click.echo(f"{name:<42} {seconds:>8.1f} {peak:>9.2f} {value:>8.4f}")


if __name__ == "__main__":
    main()
