# The stubs that FAISS ships lag behind it.
# mypy: disable-error-code="call-arg, attr-defined, import-untyped, misc"
"""The index that a gallery chooses, beside FAISS's HNSW, hnswlib, usearch and scann where installed.

All search the same vectors for the same held-out queries with the same number of threads, each with
the least effort that reaches a recall@10 against the exact answer. Then what a gallery of that size
costs to build, to add to, to remove from, to open and to ask the first time.

Example: python scripts/benchmark_index.py --rows 1000000 --work /tmp/bench
         python scripts/benchmark_index.py --vectors embeddings.npy --work /tmp/bench
"""

import importlib.util
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import click
import faiss
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from index.approximate_search import approximate_search
from index.gallery import Gallery
from index.items import NewItem
from index.neighbors import prepare
from index.new_gallery import create_gallery
from index.planner import Limits
from retrieval.cli.commands import Command
from retrieval.exchange import open_vectors

K = 10
QUERIES = 1000
ADDED = 1000
LEVELS = (0.95, 0.99)
BLOCK = 8192
Ask = Callable[[np.ndarray, int], np.ndarray]


def made_up(rows: int, dim: int, seed: int = 0) -> np.ndarray:
    """Vectors float32 (rows, dim) on a curved surface of 24 dimensions, heavy-tailed, with noise.

    Images have about as many degrees of freedom; there are no clusters for an index to fall back on.
    """
    rng = np.random.default_rng(seed)
    to_hidden = rng.normal(size=(24, 256)).astype(np.float32) / np.sqrt(24)
    to_vector = rng.normal(size=(256, dim)).astype(np.float32) / 16
    scales = (np.arange(1, 25) ** -0.5).astype(np.float32) * 2.5
    out = np.empty((rows, dim), np.float32)
    for start in range(0, rows, 65_536):
        part = out[start : start + 65_536]
        factors = rng.normal(size=(len(part), 24)).astype(np.float32) * scales
        factors /= np.sqrt(rng.chisquare(6, size=(len(part), 1)) / 6).astype(np.float32)
        part[:] = np.sin(factors @ to_hidden * 1.5) @ to_vector
        part += 0.03 * rng.normal(size=part.shape).astype(np.float32)
    return out


def overlap(found: np.ndarray, exact: np.ndarray) -> float:
    """The share of the exact neighbours that were found."""
    pairs = zip(found.tolist(), exact.tolist(), strict=True)
    return float(np.mean([len(set(a) & set(b)) for a, b in pairs]) / exact.shape[1])


def best_seconds(ask: Callable[[], Any], runs: int = 3) -> float:
    """The quickest of a few runs."""
    seconds = []
    for _ in range(runs):
        started = time.perf_counter()
        ask()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


# Each peer: (name, bytes, seconds to build, ask(queries, effort) → positions).


def faiss_graph(vectors: np.ndarray, cosine: bool, threads: int) -> tuple[str, int, float, Ask]:
    metric = faiss.METRIC_INNER_PRODUCT if cosine else faiss.METRIC_L2
    index = faiss.IndexHNSWFlat(vectors.shape[1], 32, metric)
    index.hnsw.efConstruction = 100
    started = time.perf_counter()
    index.add(vectors)
    seconds = time.perf_counter() - started

    def ask(queries: np.ndarray, effort: int) -> np.ndarray:
        return index.search(queries, K, params=faiss.SearchParametersHNSW(efSearch=effort))[1]

    return "FAISS HNSW32", vectors.nbytes + len(vectors) * 272, seconds, ask


def hnswlib_graph(vectors: np.ndarray, cosine: bool, threads: int) -> tuple[str, int, float, Ask]:
    import hnswlib

    index = hnswlib.Index("ip" if cosine else "l2", vectors.shape[1])
    index.init_index(len(vectors), M=32, ef_construction=100)
    index.set_num_threads(threads)
    started = time.perf_counter()
    index.add_items(vectors)
    seconds = time.perf_counter() - started

    def ask(queries: np.ndarray, effort: int) -> np.ndarray:
        index.set_ef(effort)
        return index.knn_query(queries, K)[0].astype(np.int64)

    return "hnswlib M=32", index.index_file_size(), seconds, ask


def usearch_graph(vectors: np.ndarray, cosine: bool, threads: int) -> tuple[str, int, float, Ask]:
    from usearch.index import Index

    index = Index(
        ndim=vectors.shape[1], metric="ip" if cosine else "l2sq", dtype="f32", connectivity=32,
        expansion_add=100,
    )  # fmt: skip
    started = time.perf_counter()
    index.add(np.arange(len(vectors)), vectors, threads=threads)
    seconds = time.perf_counter() - started

    def ask(queries: np.ndarray, effort: int) -> np.ndarray:
        index.expansion_search = effort
        return index.search(queries, K, threads=threads).keys.astype(np.int64)

    return "usearch f32", index.serialized_length, seconds, ask


def scann_tree(vectors: np.ndarray, cosine: bool, threads: int) -> tuple[str, int, float, Ask]:
    import scann

    leaves = int(4 * len(vectors) ** 0.5)
    started = time.perf_counter()
    builder = scann.scann_ops_pybind.builder(vectors, K, "dot_product" if cosine else "squared_l2")
    builder.tree(leaves, leaves // 10, training_sample_size=min(len(vectors), 131_072))
    searcher = builder.score_ah(2, anisotropic_quantization_threshold=0.2).reorder(200).build()
    seconds = time.perf_counter() - started

    def ask(queries: np.ndarray, effort: int) -> np.ndarray:
        found, _ = searcher.search_batched_parallel(queries, leaves_to_search=effort)
        return np.asarray(found, np.int64)

    return "scann", vectors.nbytes + vectors.nbytes // 16, seconds, ask


PEERS = {"hnswlib": hnswlib_graph, "usearch": usearch_graph, "scann": scann_tree}


def compare_peers(
    vectors: np.ndarray, queries: np.ndarray, exact: np.ndarray, cosine: bool, threads: int
) -> Iterator[list[Any]]:
    """A row for each peer and level: name, level, recall, queries a second, seconds, bytes."""
    present = [f for module, f in PEERS.items() if importlib.util.find_spec(module)]
    for make in (faiss_graph, *present):
        name, size, seconds, ask = make(vectors, cosine, threads)
        efforts = [round(10 * 2 ** (step / 3)) for step in range(24)]
        for level in LEVELS:
            reached = [e for e in efforts if overlap(ask(queries, e), exact) >= level][:1]
            if not reached:
                yield [name, level, None, None, seconds, size]
                continue
            recall = overlap(ask(queries, reached[0]), exact)
            took = best_seconds(partial(ask, queries, reached[0]))
            yield [name, level, recall, len(queries) / took, seconds, size]


def items(first: int, count: int) -> list[NewItem]:
    return [
        NewItem(f"{i // 1000:05}/{i:09}.jpg", f"{i:064x}", 10_000 + i, i, str(i % 100))
        for i in range(first, first + count)
    ]


def filled(folder: Path, vectors: np.ndarray, metric: str) -> Gallery:
    """A gallery of the vectors, without an index yet."""
    gallery = create_gallery(
        folder, dim=vectors.shape[1], metric=metric, embedder_id="0" * 64, model={},
        image_root=folder.parent, index_key="auto",
    )  # fmt: skip
    with gallery.writer() as writer:
        for start in range(0, len(vectors), BLOCK):
            part = vectors[start : start + BLOCK]
            writer.add(part, items(start, len(part)))
    return gallery


def refined_alone(gallery: Gallery, queries: np.ndarray) -> float | None:
    """Seconds of FAISS alone: the same index and effort, IndexRefine over all vectors in memory."""
    tuned = gallery.snapshot.tuned
    if tuned is None:
        return None
    whole = faiss.IndexFlat(gallery.dim, tuned.index.metric_type)
    whole.add(gallery.vectors(tuned.ids))
    refined = faiss.IndexRefine(tuned.index, whole)
    inner = (
        faiss.SearchParametersIVF(nprobe=tuned.effort)
        if isinstance(tuned.index, faiss.IndexIVF)
        else faiss.SearchParametersHNSW(efSearch=tuned.effort)
    )
    parameters = faiss.IndexRefineSearchParameters(
        k_factor=tuned.candidates / K, base_index_params=inner
    )
    return best_seconds(lambda: refined.search(queries, K, params=parameters), 5)


FIRST = """
import json, sys, time
import numpy as np, faiss
sys.path.insert(0, {root!r})
from pathlib import Path
from index.gallery import Gallery
def private():
    lines = open("/proc/self/smaps_rollup").read().split("\\n")
    return sum(int(l.split()[1]) for l in lines if l.startswith("Private"))  / 1e3
before, started = private(), time.perf_counter()
gallery = Gallery.open(Path({folder!r}))
opened, memory = time.perf_counter() - started, private() - before
query = np.load({query!r})
started = time.perf_counter()
gallery.search(query, 10)
asked = time.perf_counter() - started
print(json.dumps([opened, memory, asked, private() - before]))
"""


def first_query(folder: Path, query: np.ndarray) -> list[float]:
    """In a new process: seconds to open, private MB of that, seconds of the first query, private MB."""
    file = folder.parent / "query.npy"
    np.save(file, query[:1])
    root = str(Path(__file__).parents[1])
    program = FIRST.format(root=root, folder=str(folder), query=str(file))
    out = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    return [float(value) for value in json.loads(out.stdout)]


def timed(name: str, action: Callable[[], Any]) -> Any:
    started = time.perf_counter()
    result = action()
    click.echo(f"{name:<44} {time.perf_counter() - started:9.2f} s")
    return result


@click.command(cls=Command, help=__doc__)
@click.option("--rows", default=1_000_000, show_default=True, type=click.IntRange(1),
              help="Made-up vectors.")  # fmt: skip
@click.option("--dim", default=128, show_default=True, type=click.IntRange(1))
@click.option("--vectors", type=click.Path(exists=True, path_type=Path), help=".npy or a gallery.")
@click.option("--metric", default="l2", type=click.Choice(["l2", "cosine"]), show_default=True)
@click.option("--work", default="bench", show_default=True, type=click.Path(path_type=Path),
              help="Folder to work in.")  # fmt: skip
@click.option("--threads", default=os.cpu_count(), show_default=True, type=click.IntRange(1))
@click.option("--peers/--no-peers", default=True, show_default=True)
def main(
    rows: int, dim: int, vectors: Path | None, metric: str, work: Path, threads: int, peers: bool
) -> None:
    faiss.omp_set_num_threads(threads)
    if vectors is None:
        data = made_up(rows + QUERIES + ADDED, dim)
    elif vectors.is_dir():
        with_vectors = Gallery.open(vectors)
        data = with_vectors.vectors(with_vectors.snapshot.living_ids())
    else:
        data = open_vectors(vectors)
    if len(data) < K + QUERIES + ADDED:
        raise click.ClickException(
            f"there are {len(data)} vectors; needed are {QUERIES} that ask, {ADDED} that are added and "
            f"{K} to be found"
        )
    data = prepare(data, data.shape[1], metric, "vectors")
    if vectors is not None:
        data = data[np.random.default_rng(0).permutation(len(data))]
    base, newer, queries = (
        data[: -QUERIES - ADDED],
        data[-QUERIES - ADDED : -QUERIES],
        data[-QUERIES:],
    )
    kind = faiss.METRIC_INNER_PRODUCT if metric == "cosine" else faiss.METRIC_L2
    exact = faiss.knn(queries, base, K, kind)[1]
    click.echo(f"{len(base):,} vectors of {base.shape[1]}, {metric}, {threads} threads")
    work.mkdir(parents=True, exist_ok=True)
    folder = work / "bench.gallery"
    if folder.exists():
        shutil.rmtree(folder)
    gallery = timed("fill the gallery", lambda: filled(folder, base, metric))
    table: list[list[Any]] = []
    for level in LEVELS:
        with gallery.writer() as writer:
            limits, started = Limits(recall=level), time.perf_counter()
            writer.tune("auto", limits)
        seconds = time.perf_counter() - started
        plan = gallery.settings["plan"]
        for row in plan["table"] if plan else []:
            click.echo(f"    {json.dumps(row)}")
        name = plan["key"] if plan else "Flat"
        found = gallery.search(queries, K)
        took = best_seconds(lambda: gallery.search(queries, K), 5)
        size = sum(f.stat().st_size for f in folder.glob("index-*"))
        recall = overlap(found.ids - 1, exact)
        table.append([f"ours: {name}", level, recall, len(queries) / took, seconds, size])
        alone = refined_alone(gallery, queries)
        if alone is not None:
            click.echo(f"at {level}: {took / alone - 1:+.1%} over FAISS's own IndexRefine")
    with gallery.writer() as writer:
        writer.tune("auto", Limits())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    click.echo(f"{'peak memory so far, with the vectors':<44} {peak:9.0f} MB")
    compare_filters(gallery, queries)
    maintain(gallery, newer, queries)
    if peers:
        table += compare_peers(base, queries, exact, metric == "cosine", threads)
    click.echo(f"{'':<26} {'level':>5} {'recall':>6} {'queries/s':>9} {'build s':>8} {'MB':>8}")
    for name, level, found, rate, seconds, size in sorted(
        table, key=lambda r: (r[1], -(r[3] or 0))
    ):
        figures = "     –         –" if found is None else f"{found:6.3f} {rate:9,.0f}"
        click.echo(f"{name:<26} {level:5.2f} {figures} {seconds:8.1f} {size / 1e6:8.1f}")


def compare_filters(gallery: Gallery, queries: np.ndarray) -> None:
    """Print, for shares allowed by a filter, what exact search over them and the index take."""
    tuned = gallery.snapshot.tuned
    if tuned is None:
        return
    click.echo(f"{'allowed':>9} {'exact ms':>9} {'index ms':>9} {'recall':>7}   (100 queries; one)")
    living = gallery.snapshot.living_ids()
    for share in (0.5, 0.2, 0.1, 0.05, 0.02, 0.01):
        allowed = np.sort(np.random.default_rng(0).permutation(living)[: int(share * len(living))])
        mask = gallery.snapshot.keep(tuned.ids, allowed)
        figures = []
        for asked in (queries[:100], queries[:1]):
            exactly = partial(gallery._exact, asked, K, allowed, -1)
            by_index = partial(approximate_search, asked, K, gallery.snapshot, tuned, mask)
            figures += [1000 * best_seconds(exactly), 1000 * best_seconds(by_index)]
        found = approximate_search(queries[:100], K, gallery.snapshot, tuned, mask)[0].ids
        truth = gallery._exact(queries[:100], K, allowed, -1).ids
        click.echo(
            f"{share:9.0%} {figures[0]:9.1f} {figures[1]:9.1f} {overlap(found, truth):7.3f}   "
            f"({figures[2]:.1f} {figures[3]:.1f})"
        )


def maintain(gallery: Gallery, newer: np.ndarray, queries: np.ndarray) -> None:
    """Print what opening, asking, adding and removing cost."""
    opened, memory, asked, after = first_query(gallery.path, queries)
    click.echo(f"{'open, in a new process':<44} {opened:9.3f} s   {memory:6.1f} MB private")
    click.echo(f"{'first query, in a new process':<44} {asked:9.3f} s   {after:6.1f} MB private")

    def add() -> None:
        with gallery.writer() as writer:
            writer.add(newer, items(len(gallery), len(newer)))
            writer.refresh_index()

    def remove() -> None:
        with gallery.writer() as writer:
            writer.remove(range(1, 100_000, 100) if len(gallery) > 200_000 else range(1, 1001))
            writer.refresh_index()

    timed(f"add {len(newer):,}", add)
    timed("remove 1,000", remove)
    click.echo(
        f"{'search 1,000 afterwards':<44} {best_seconds(lambda: gallery.search(queries, K)):9.3f} s"
    )


if __name__ == "__main__":
    main()
