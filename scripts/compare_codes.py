"""What compact codes of embeddings cost: three ways to discretize beside the quantisers of FAISS.

Test pictures ask the training pictures. For each kind of code: bytes a vector, the squared error of
what it stands for (as a share of the variance), recall@1, mAP, how many of the 10 nearest are found
among the first 10 and among the first 100 (to be re-scored by the vectors), queries a second, and how
fast vectors are coded. ``--embeddings`` is a folder for gallery.npy, gallery_labels.npy, queries.npy
and queries_labels.npy; they are made where they are missing.

Example: python scripts/compare_codes.py --dataset cifar10 --embeddings vectors --out codes.png
"""

import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import faiss
import numpy as np

from index.code_keys import CodeKey, code_index
from index.codes import Codebook, CodeIndex, bits_for, pack_codes
from index.neighbors import prepare, rescore
from retrieval.binning import METHODS
from retrieval.cli.commands import Command
from retrieval.discretize import ProductDiscretizer
from retrieval.evaluation import evaluate_retrieval
from retrieval.progress import Progress

ROUNDS = 7
INDEX_KEYS = (
    "equal-width:8",
    "equal-width:4",
    "equal-frequency:4",
    "kmeans:4",
    "kmeans:2",
    "kmeans:8x16",
)
CANDIDATES = 128
CENTERS = 256
"""Of the quantisers of FAISS, which learn from no fewer vectors."""
OPQ_ROUNDS, OPQ_ROWS = 10, 16_384
"""Learning the rotation of OPQ takes minutes as FAISS sets it (50 rounds, 65,536 rows)."""


@dataclasses.dataclass(frozen=True)
class Coded:
    """Vectors in some code; ``decoded`` is None where codes stand for no points."""

    bytes: int
    rows_a_minute: float
    search: Callable[[np.ndarray, int], np.ndarray]
    decoded: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    family: str
    bytes: int
    error: float
    recall: float
    map: float
    overlap: float
    candidates: float
    rate: float
    encode: float

    def __str__(self) -> str:
        error = f"{self.error:.4f}" if np.isfinite(self.error) else "–"
        encode = f"{self.encode / 1e6:.1f}" if np.isfinite(self.encode) else "–"
        return (
            f"| {self.name} | {self.bytes} | {error} | {self.recall:.4f} | {self.map:.4f} | "
            f"{self.overlap:.3f} | {self.candidates:.3f} | {self.rate:,.0f} | {encode} |"
        )


HEAD = (
    "| code | bytes | error | recall@1 | mAP | overlap@10 | 10 in 100 | queries/s | M coded/min |\n"
    "| --- | --: | --: | --: | --: | --: | --: | --: | --: |"
)


def own_codes(made: Any, vectors: np.ndarray) -> Coded:
    """Vectors in the codes of a discretizer, which learns from them."""
    codebook = Codebook.of(made.fit(vectors).centers_)
    started = time.perf_counter()
    packed = pack_codes(made.transform(vectors), bits_for(made.n_bins))
    rate = len(vectors) / (time.perf_counter() - started) * 60
    index = CodeIndex(codebook, packed, "l2")
    return Coded(codebook.bytes, rate, lambda q, k: index.search(q, k).ids, codebook.decode(packed))


def faiss_codes(key: str, vectors: np.ndarray) -> Coded:
    """Vectors in an index of FAISS, which learns from them."""
    index: Any = faiss.index_factory(vectors.shape[1], key)
    if "OPQ" in key:
        rotation: Any = faiss.downcast_VectorTransform(index.chain.at(0))
        rotation.niter, rotation.max_train_points = OPQ_ROUNDS, OPQ_ROWS
    index.train(vectors)
    started = time.perf_counter()
    index.add(vectors)
    rate = len(vectors) / (time.perf_counter() - started) * 60
    # What RaBitQ estimates is the distance; its codes stand for no point by themselves.
    decoded = None if "RaBitQ" in key else index.reconstruct_n(0, len(vectors))
    size = index.sa_code_size() if key != "Flat" else 4 * vectors.shape[1]
    return Coded(size, rate, lambda q, k: index.search(q, k)[1], decoded)


def kinds(dim: int) -> Iterator[tuple[str, str, Callable[[np.ndarray], Coded]]]:
    """Name, family and maker of each code that is compared."""

    def own(made: Any) -> Callable[[np.ndarray], Coded]:
        return lambda vectors: own_codes(made, vectors)

    def other(key: str) -> Callable[[np.ndarray], Coded]:
        return lambda vectors: faiss_codes(key, vectors)

    yield "float32", "float32", other("Flat")
    for method in METHODS:
        for bits in (8, 4, 2, 1):
            yield f"{method}:{bits}", method, own(METHODS[method](1 << bits))
    groups = [m for m in (dim // 2, dim // 4, dim // 8) if m and dim % m == 0]
    for m in groups:
        yield f"kmeans:8x{m}", "kmeans in groups", own(ProductDiscretizer(256, m))
    for m in groups:
        yield f"kmeans:4x{m}", "kmeans in groups, 4 bits", own(ProductDiscretizer(16, m))
    for key in ("SQ8", "SQ6", "SQ4"):
        yield f"FAISS {key}", "FAISS SQ", other(key)
    for m in groups:
        yield f"FAISS PQ{m}", "FAISS PQ", other(f"PQ{m}x8np")
    for m in groups:
        yield f"FAISS OPQ{m}", "FAISS OPQ", other(f"OPQ{m},PQ{m}x8np")
    for key in ("RaBitQ", "RaBitQ2", "RaBitQ4", "RaBitQ8"):  # it expects rotated vectors
        yield f"FAISS {key}", "FAISS RaBitQ", other(f"RR{dim},{key}")


def index_rows(
    vectors: np.ndarray, queries: np.ndarray, exact: np.ndarray
) -> Iterator[tuple[str, float, float]]:
    """Of codes as a gallery's index: name, overlap@10 and queries a second.

    So many candidates, which the codes name, are compared by the vectors, one after the other.
    """
    for key in INDEX_KEYS:
        index = code_index(CodeKey.parse(key, vectors.shape[1]).learn(vectors), "l2")
        index.add(vectors)
        yield key, *_rescored(index, vectors, queries, exact)
    index = faiss.index_factory(vectors.shape[1], "SQ4")
    index.train(vectors)
    index.add(vectors)
    yield "FAISS SQ4", *_rescored(index, vectors, queries, exact)


def _rescored(
    index: Any, vectors: np.ndarray, queries: np.ndarray, exact: np.ndarray
) -> tuple[float, float]:
    fastest = np.inf
    for _ in range(ROUNDS):
        started = time.perf_counter()
        rows = index.search(queries, CANDIDATES)[1]
        found = rescore(queries, rows, lambda wanted: vectors[wanted], "l2").best(10)
        fastest = min(fastest, time.perf_counter() - started)
    return neighbor_overlap(found.ids, exact), len(queries) / fastest


def measured(
    name: str, family: str, coded: Coded, vectors: np.ndarray, labels: np.ndarray,
    queries: np.ndarray, query_labels: np.ndarray, exact: np.ndarray,
) -> Row:  # fmt: skip
    """The figures of one code but for its rate; ``exact`` (Q,10): the rows of the nearest vectors."""
    found = coded.search(queries, 100)
    error = np.nan
    if coded.decoded is not None:
        error = float(np.square(coded.decoded - vectors).sum())
        error /= float(np.square(vectors - vectors.mean(0)).sum())
        report = evaluate_retrieval(
            queries, query_labels, coded.decoded, labels, ks=(1,), intervals=False
        )
        mean_precision = report.figures["mAP"].mean
    else:
        mean_precision = ranked_precision(coded.search(queries, len(vectors)), query_labels, labels)
    return Row(
        name, family, coded.bytes, error,
        recall=float((labels[found[:, 0]] == query_labels).mean()),
        map=mean_precision,
        overlap=neighbor_overlap(found[:, :10], exact),
        candidates=neighbor_overlap(found, exact),
        rate=np.nan,
        encode=coded.rows_a_minute if family != "float32" else np.nan,
    )  # fmt: skip


def rates(coded: dict[str, Coded], queries: np.ndarray) -> dict[str, float]:
    """Queries a second of each code, the best of rounds over all, so that other load hits all alike."""
    fastest = dict.fromkeys(coded, 0.0)
    for _ in range(ROUNDS):
        for name, code in coded.items():
            started = time.perf_counter()
            code.search(queries, 10)
            fastest[name] = max(fastest[name], len(queries) / (time.perf_counter() - started))
    return fastest


def neighbor_overlap(found: np.ndarray, exact: np.ndarray) -> float:
    """The share of the exact neighbours (Q,k) that are among those found (Q,c)."""
    return float((exact[:, :, None] == found[:, None, :]).any(2).mean())


def ranked_precision(ranking: np.ndarray, query_labels: np.ndarray, labels: np.ndarray) -> float:
    """mAP of full rankings (Q,n) of rows, over queries that have a row of their class."""
    values = []
    for rows, label in zip(ranking, query_labels, strict=True):
        ranks = np.flatnonzero(labels[rows] == label)
        if len(ranks):
            values.append((np.arange(1, len(ranks) + 1) / (ranks + 1)).mean())
    return float(np.mean(values))


def embeddings(
    folder: Path, model: Path, dataset: str, data_dir: Path | None
) -> dict[str, np.ndarray]:
    """The four arrays of ``folder``, made where they are missing."""
    from retrieval.datasets import load_dataset
    from retrieval.embedder import embed_images
    from retrieval.network_files import load_embedder, model_file

    folder.mkdir(parents=True, exist_ok=True)
    for name, split in (("queries", "test"), ("gallery", "train")):
        if not (folder / f"{name}_labels.npy").exists():
            embedder = load_embedder(model_file(model))
            size = embedder.spec.image_size
            data = load_dataset(dataset, data_dir=data_dir, image_size=size, split=split)
            np.save(folder / f"{name}.npy", embed_images(embedder, data.images))
            np.save(folder / f"{name}_labels.npy", data.labels)
    return {
        name: np.load(folder / f"{name}.npy", allow_pickle=False)
        for name in ("gallery", "gallery_labels", "queries", "queries_labels")
    }


def plot(rows: list[Row], out: Path) -> None:
    """Four figures against bytes a vector, one line for each family."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 8), layout="constrained")
    shown = {"recall": "recall@1", "map": "mAP", "overlap": "overlap@10", "rate": "queries/s"}
    for axes, (field, label) in zip(figure.subplots(2, 2).flat, shown.items(), strict=True):
        for family in dict.fromkeys(row.family for row in rows):
            points = sorted((r.bytes, getattr(r, field)) for r in rows if r.family == family)
            style = "--" if family.startswith("FAISS") else "-"
            axes.plot(*zip(*points, strict=True), style, marker="o", markersize=4, label=family)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log" if field == "rate" else "linear")
        axes.set(xlabel="bytes a vector", ylabel=label)
        axes.grid(alpha=0.25)
    figure.axes[2].legend(frameon=False, fontsize=8)
    figure.savefig(out, dpi=100)


@click.command(cls=Command, help=__doc__)
@click.option("--model", default="cifar10", show_default=True, type=click.Path(path_type=Path))
@click.option("--dataset", default="cifar10", show_default=True)
@click.option("--data-dir", type=click.Path(path_type=Path), envvar="RETRIEVAL_DATA")
@click.option("--embeddings", "folder", default="vectors", type=click.Path(path_type=Path))
@click.option("--queries", default=2000, show_default=True, type=click.IntRange(1))
@click.option("--threads", default=1, show_default=True, type=click.IntRange(1))
@click.option("--out", default="codes.png", show_default=True, type=click.Path(path_type=Path))
def main(
    model: Path, dataset: str, data_dir: Path | None, folder: Path, queries: int, threads: int,
    out: Path,
) -> None:  # fmt: skip
    faiss.omp_set_num_threads(threads)
    data = embeddings(folder, model, dataset, data_dir)
    dim = data["gallery"].shape[1]
    vectors = prepare(data["gallery"], dim, "l2", "vectors")
    if len(vectors) < CENTERS:
        raise click.ClickException(
            f"there are {len(vectors)} vectors to learn codes from; {CENTERS} centres need as many"
        )
    rows = np.random.default_rng(0).permutation(len(data["queries"]))[:queries]
    asked = prepare(data["queries"][rows], dim, "l2", "queries")
    asked_labels = data["queries_labels"][rows]
    exact = faiss.knn(asked, vectors, 10)[1]
    click.echo(f"{len(asked):,} queries, {len(vectors):,} vectors of {dim}, {threads} thread(s)")
    click.echo(HEAD)
    truth = vectors, data["gallery_labels"], asked, asked_labels, exact
    coded, table = {}, []
    with Progress("Coding", None, "codes") as progress:
        for name, family, make in kinds(dim):
            coded[name] = make(vectors)
            table.append(measured(name, family, coded[name], *truth))
            progress.update()
    fastest = rates(coded, asked)
    table = [dataclasses.replace(row, rate=fastest[row.name]) for row in table]
    for row in table:
        click.echo(str(row))
    plot(table, out)
    click.echo(
        f"\n| index, {CANDIDATES} candidates compared | overlap@10 | queries/s |\n| --- | --: | --: |"
    )
    for name, overlap, rate in index_rows(vectors, asked, exact):
        click.echo(f"| {name} | {overlap:.3f} | {rate:,.0f} |")


if __name__ == "__main__":
    main()
