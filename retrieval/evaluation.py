"""How good the answers are: recall@k, precision@k, R-precision, mAP and mAP@R, with intervals.

For a query let R be the number of gallery pictures of its class, itself excepted, and P(i) the share
of them among the i nearest.

recall@k     1 if any of the k nearest is of the class (= CMC@k, hit rate)
precision@k  P(k), whatever R is
R-precision  P(R)
mAP          (1/R) Σ P(i) over the ranks i of all R pictures of the class, in the full ranking
mAP@R        (1/R) Σ P(i) over those ranks i that are at most R
             (Musgrave et al., "A Metric Learning Reality Check", §3.2)

All are means over queries with R ≥ 1; the others are counted and left out.
"""

import dataclasses
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, get_args

import numpy as np

from retrieval.errors import DataError
from retrieval.ranking import Ranker, Ties
from retrieval.specs import DISTANCES

BLOCK = 128
"""Queries ranked at a time; a block needs about 24 bytes for each of its (query, picture) pairs."""
RESAMPLES = 1000


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean over queries with its bootstrap interval (both ends None where none was asked for)."""

    mean: float
    low: float | None = None
    high: float | None = None


@dataclasses.dataclass(frozen=True)
class RetrievalReport:
    """What ``evaluate_retrieval`` found; fractions in [0, 1]."""

    figures: dict[str, Estimate]
    """By name: recall@1, …, precision@1, …, r_precision, mAP, mAP@R."""
    per_class: dict[str, dict[str, float]]
    """By class of the query: the same figures, and ``queries``."""
    class_average: dict[str, float]
    """The figures averaged over classes, each class counting the same."""
    queries: int
    gallery: int
    without_relevant: int
    """Queries left out because the gallery has no other picture of their class."""
    distance: str
    ties: str
    confidence: float

    @property
    def recall_at_k(self) -> dict[int, float]:
        """k → recall@k."""
        names = [name for name in self.figures if name.startswith("recall@")]
        return {int(name.split("@")[1]): self.figures[name].mean for name in names}

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON types."""
        return dataclasses.asdict(self)

    def table(self) -> str:
        """The report as text: figures with intervals, then recall@1, mAP and mAP@R by class."""
        lines = [
            f"{self.queries:,} queries, {self.gallery:,} gallery pictures, {self.distance} distance"
            + (f"; {self.without_relevant:,} queries have no picture of their class and are left out"
               if self.without_relevant else ""),
            "",
        ]  # fmt: skip
        for name, figure in self.figures.items():
            interval = "" if figure.low is None else f"  [{figure.low:.4f}, {figure.high:.4f}]"
            lines.append(f"{name:<14} {figure.mean:.4f}{interval}")
        shown = [n for n in ("recall@1", "mAP", "mAP@R") if n in self.figures]
        width = max([5, *map(len, self.per_class)])
        lines += ["", f"{'class':<{width}} {'queries':>8} " + " ".join(f"{n:>9}" for n in shown)]
        for name, row in self.per_class.items():
            cells = " ".join(f"{row[n]:>9.4f}" for n in shown)
            lines.append(f"{name:<{width}} {row['queries']:>8.0f} {cells}")
        average = " ".join(f"{self.class_average[n]:>9.4f}" for n in shown)
        lines.append(f"{'mean':<{width}} {len(self.per_class):>8} {average}")
        return "\n".join(lines)


def evaluate_retrieval(
    queries: np.ndarray,
    query_labels: np.ndarray,
    gallery: np.ndarray,
    gallery_labels: np.ndarray,
    *,
    query_ids: np.ndarray | None = None,
    gallery_ids: np.ndarray | None = None,
    distance: str = "l2",
    ks: Sequence[int] = (1, 2, 4, 8, 10),
    ties: Ties = "id",
    confidence: float = 0.95,
    intervals: bool = True,
    seed: int = 0,
) -> RetrievalReport:
    """Rank the gallery for each query and score the ranking.

    queries (Q,D), gallery (N,D): float; labels: integers or strings, (Q,) and (N,); ids: int64, (Q,)
    and (N,): a query does not find the gallery pictures with its id, and R does not count them.
    distance: "l2", "l1" or "cosine". ties: equal distances stand in the order of gallery ids (of rows,
    without ids), as a search answers, or wrong pictures first, so that a collapsed embedding cannot
    look good.
    Memory: a block of 128 rankings at a time for each of two threads, never all distances.
    Raises DataError for wrong shapes, values that are not finite, choices that there are not, ks out of
    range, no queries left, or a gallery of one class.
    """
    queries, gallery = _checked(queries, "queries"), _checked(gallery, "gallery")
    query_labels, gallery_labels = np.asarray(query_labels), np.asarray(gallery_labels)
    _check(queries, query_labels, gallery, gallery_labels, query_ids, gallery_ids, ks, distance, ties,
           confidence)  # fmt: skip
    names, query_labels, gallery_labels = _encode(query_labels, gallery_labels)
    ranker = Ranker(gallery, gallery_labels, gallery_ids, distance, ties)
    relevant = np.bincount(gallery_labels, minlength=len(names))[query_labels]
    itself = ranker.rows_of(query_ids, len(queries))
    own = zip(itself, query_labels, strict=True)
    relevant -= np.array([(gallery_labels[rows] == y).sum() for rows, y in own], np.int64)
    scored = np.flatnonzero(relevant > 0)
    if len(scored) == 0:
        raise DataError(
            f"none of {len(queries)} queries has another picture of its class among the "
            f"{len(gallery)} of the gallery, so that no answer can be right; check the labels"
        )
    if len(np.unique(gallery_labels)) < 2:
        raise DataError(
            f"all {len(gallery)} pictures that are searched are of one class, "
            f"{names[gallery_labels[0]]}, so that every answer is right and nothing is measured; add "
            "pictures of other classes, each class in a folder of its own"
        )
    queries = ranker.prepared(queries)
    columns = [f"recall@{k}" for k in ks] + [f"precision@{k}" for k in ks]
    columns += ["r_precision", "mAP", "mAP@R"]
    scores = np.empty((len(scored), len(columns)))
    blocks = [scored[i : i + BLOCK] for i in range(0, len(scored), BLOCK)]

    def score(number: int) -> None:
        rows = blocks[number]
        hits = ranker.hits(queries[rows], query_labels[rows], [itself[row] for row in rows])
        for offset, (row, ranks) in enumerate(zip(rows, hits, strict=True)):
            scores[number * BLOCK + offset] = _score(ranks, int(relevant[row]), ks)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(score, range(len(blocks))))
    spans = _bootstrap(scores, confidence, seed) if intervals else [(None, None)] * len(columns)
    per_class = _by_class(scores, query_labels[scored], names, columns)
    return RetrievalReport(
        figures={
            name: Estimate(float(scores[:, i].mean()), *spans[i]) for i, name in enumerate(columns)
        },
        per_class=per_class,
        class_average={
            name: float(np.mean([row[name] for row in per_class.values()])) for name in columns
        },
        queries=len(queries),
        gallery=len(gallery),
        without_relevant=len(queries) - len(scored),
        distance=distance,
        ties=ties,
        confidence=confidence,
    )


def _score(ranks: np.ndarray, relevant: int, ks: Sequence[int]) -> list[float]:
    """The figures of one query; ``ranks`` are those of its class from 0, ascending, int64 (R,)."""
    within = [int(np.searchsorted(ranks, k)) for k in ks]  # hits among the k nearest
    precision = np.arange(1, relevant + 1) / (ranks + 1.0)
    first = int(np.searchsorted(ranks, relevant))
    return [
        *(float(n > 0) for n in within),
        *(n / k for n, k in zip(within, ks, strict=True)),
        first / relevant,
        float(precision.sum()) / relevant,
        float(precision[:first].sum()) / relevant,
    ]


def _by_class(
    scores: np.ndarray, labels: np.ndarray, names: np.ndarray, columns: list[str]
) -> dict[str, dict[str, float]]:
    per_class = {}
    for label in np.unique(labels):
        rows = scores[labels == label]
        means = dict(zip(columns, rows.mean(0).tolist(), strict=True))
        per_class[str(names[label])] = {"queries": float(len(rows)), **means}
    return per_class


def _bootstrap(scores: np.ndarray, confidence: float, seed: int) -> list[tuple[float, float]]:
    """Percentile intervals of the column means over resampled queries."""
    rng = np.random.default_rng(seed)
    n = len(scores)
    even = np.full(n, 1 / n)
    means = np.stack([rng.multinomial(n, even) @ scores / n for _ in range(RESAMPLES)])
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail], axis=0)
    return list(zip(low.tolist(), high.tolist(), strict=True))


def _encode(
    query_labels: np.ndarray, gallery_labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Class names, and both label arrays as positions in them; exact for int64 and strings."""
    names, codes = np.unique(np.concatenate([query_labels, gallery_labels]), return_inverse=True)
    return names, codes[: len(query_labels)], codes[len(query_labels) :]


def _checked(vectors: np.ndarray, what: str) -> np.ndarray:
    vectors = np.ascontiguousarray(vectors, np.float32)
    if vectors.ndim != 2:
        raise DataError(f"{what} have shape {vectors.shape}; expected (number, dimension)")
    if not np.isfinite(vectors).all():
        bad = int((~np.isfinite(vectors).all(axis=1)).sum())
        raise DataError(f"{bad} of {len(vectors)} {what} hold values that are not finite")
    return vectors


def _check(
    queries: np.ndarray,
    query_labels: np.ndarray,
    gallery: np.ndarray,
    gallery_labels: np.ndarray,
    query_ids: np.ndarray | None,
    gallery_ids: np.ndarray | None,
    ks: Sequence[int],
    distance: str,
    ties: str,
    confidence: float,
) -> None:
    if distance not in DISTANCES or ties not in get_args(Ties) or not 0 < confidence < 1:
        raise DataError(
            f"distance is {distance!r}, ties are {ties!r}, confidence is {confidence!r}; they can be "
            f"{', '.join(DISTANCES)}; {', '.join(get_args(Ties))}; between 0 and 1"
        )
    if query_labels.ndim != 1 or gallery_labels.ndim != 1:
        raise DataError(
            f"labels have shapes {query_labels.shape} and {gallery_labels.shape}; expected (number,)"
        )
    if queries.shape[1] != gallery.shape[1]:
        raise DataError(
            f"queries have {queries.shape[1]} dimensions, the gallery has {gallery.shape[1]}"
        )
    pairs = [
        (query_labels, queries, "query labels"), (gallery_labels, gallery, "gallery labels"),
        (query_ids, queries, "query ids"), (gallery_ids, gallery, "gallery ids"),
    ]  # fmt: skip
    for values, vectors, what in pairs:
        if values is not None and len(values) != len(vectors):
            raise DataError(f"there are {len(values)} {what} for {len(vectors)} vectors")
    for ids in (query_ids, gallery_ids):
        if ids is not None and np.asarray(ids).dtype.kind not in "iu":
            raise DataError(f"ids are {np.asarray(ids).dtype}; they must be whole numbers")
    if not ks or min(ks) < 1 or len(set(ks)) != len(ks):
        raise DataError(f"ks are {tuple(ks)}; give different whole numbers from 1 up")
