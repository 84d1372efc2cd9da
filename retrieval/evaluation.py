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
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, get_args

import numpy as np

from retrieval.errors import DataError
from retrieval.specs import DISTANCES

BLOCK = 128
"""Queries ranked at a time; a block needs about 24 bytes for each of its (query, picture) pairs."""
SAMPLE = 4096
"""Pictures that tell where a gallery lies."""
RESAMPLES = 1000
Ties = Literal["id", "pessimistic"]


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
    and (N,): a query does not find the gallery picture with its id, and R does not count it. distance:
    "l2", "l1" or "cosine". ties: equal distances stand in the order of gallery ids (of rows, without
    ids), as a search answers, or wrong pictures first, so that a collapsed embedding cannot look good.
    Memory: a block of 128 rankings at a time for each of two threads, never all distances.
    Raises DataError for wrong shapes, values that are not finite, choices that there are not, ks out of
    range, or no queries left.
    """
    queries, gallery = _checked(queries, "queries"), _checked(gallery, "gallery")
    query_labels, gallery_labels = np.asarray(query_labels), np.asarray(gallery_labels)
    _check(queries, query_labels, gallery, gallery_labels, query_ids, gallery_ids, ks, distance, ties,
           confidence)  # fmt: skip
    names, query_labels, gallery_labels = _encode(query_labels, gallery_labels)
    ranker = _Ranker(gallery, gallery_labels, gallery_ids, distance, ties)
    relevant = np.bincount(gallery_labels, minlength=len(names))[query_labels]
    itself = ranker.rows_of(query_ids, len(queries))
    found = np.flatnonzero(itself >= 0)
    relevant[found] -= gallery_labels[itself[found]] == query_labels[found]
    scored = np.flatnonzero(relevant > 0)
    if len(scored) == 0:
        raise DataError(
            f"none of {len(queries)} queries has another picture of its class among the "
            f"{len(gallery)} of the gallery, so that no answer can be right; check the labels"
        )
    queries = ranker.prepared(queries)
    columns = [f"recall@{k}" for k in ks] + [f"precision@{k}" for k in ks]
    columns += ["r_precision", "mAP", "mAP@R"]
    scores = np.empty((len(scored), len(columns)))
    blocks = [scored[i : i + BLOCK] for i in range(0, len(scored), BLOCK)]

    def score(number: int) -> None:
        rows = blocks[number]
        hits = ranker.hits(queries[rows], query_labels[rows], itself[rows])
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


class _Ranker:
    """Ranks the whole gallery by (distance, tie order) for some queries at a time.

    Each (query, picture) pair becomes one 64-bit key: the bits of its float32 distance (which for
    numbers ≥ 0 order as the numbers do), then the tie order, then whether the picture is relevant.
    Sorting plain integers is several times faster than sorting indices by distance.
    """

    def __init__(
        self,
        gallery: np.ndarray,
        labels: np.ndarray,
        ids: np.ndarray | None,
        distance: str,
        ties: Ties,
    ) -> None:
        self.distance, self.labels = distance, labels
        self.shift = _shift(gallery)
        self.gallery = self.prepared(gallery)
        self.repeats, self.firsts = _repeats(self.gallery)
        self.ids = np.arange(len(gallery)) if ids is None else np.asarray(ids, np.int64)
        self.by_id = np.argsort(self.ids, kind="stable")
        order = np.empty(len(gallery), np.uint64)
        order[self.by_id] = np.arange(len(gallery), dtype=np.uint64)
        self.order = order << np.uint64(1)
        self.relevant_bit = np.uint64(1 if ties == "id" else 1 | 1 << 31)

    def prepared(self, vectors: np.ndarray) -> np.ndarray:
        """Vectors float32 (n,D) as distances are computed of them."""
        return _unit(vectors) if self.distance == "cosine" else vectors + self.shift

    def rows_of(self, query_ids: np.ndarray | None, n: int) -> np.ndarray:
        """The gallery row with each query's id, −1 where there is none: int64 (Q,)."""
        if query_ids is None or len(self.ids) == 0:
            return np.full(n, -1)
        query_ids = np.asarray(query_ids, np.int64)
        place = np.searchsorted(self.ids[self.by_id], query_ids).clip(max=len(self.ids) - 1)
        rows = self.by_id[place]
        return np.where(self.ids[rows] == query_ids, rows, -1)

    def hits(
        self, queries: np.ndarray, labels: np.ndarray, itself: np.ndarray
    ) -> Iterator[np.ndarray]:
        """For each of these prepared queries the ranks, from 0, of the pictures of its class."""
        distances = self._distances(queries)
        # A product of matrices is rounded otherwise at its edges: equal vectors must tie all the same.
        distances[:, self.repeats] = distances[:, self.firsts]
        keys = distances.view(np.uint32).astype(np.uint64) << np.uint64(32)
        for key, label, own in zip(keys, labels, itself, strict=True):
            key |= self.order
            key[self.labels == label] |= self.relevant_bit
            if own >= 0:
                key[own] = np.iinfo(np.uint64).max - np.uint64(1)  # last of all, not relevant
            key.sort()
            yield np.flatnonzero(key & np.uint64(1))

    def _distances(self, queries: np.ndarray) -> np.ndarray:
        """Float32 (q,N), none negative, up to a monotone change: squared for l2."""
        if self.distance == "l1":
            return np.stack([np.abs(self.gallery - query).sum(1) for query in queries])
        products = queries @ self.gallery.T
        if self.distance == "cosine":
            return np.maximum(1 - products, 0, dtype=np.float32)
        norms = np.einsum("nd,nd->n", self.gallery, self.gallery)
        own = np.einsum("qd,qd->q", queries, queries)
        return np.maximum(own[:, None] + norms - 2 * products, 0, dtype=np.float32)


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


def _unit(vectors: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(norms, 1e-12)


def _shift(gallery: np.ndarray) -> np.ndarray:
    """What brings a gallery (N,D) near the origin, float32 (D,).

    Far from it |a|² + |b|² − 2ab is a small difference of large numbers. It is a multiple of a power
    of two about as large as the spread, so that whole numbers stay whole, and their distances exact.
    """
    if len(gallery) == 0:
        return np.zeros(gallery.shape[1], np.float32)
    some = gallery[:: max(len(gallery) // SAMPLE, 1)].astype(np.float64)
    spread = some.std(axis=0).max(initial=0)
    step = 2.0 ** np.ceil(np.log2(spread)) if spread > 0 else 1.0
    nearest: np.ndarray = 0 - np.round(some.mean(axis=0) / step) * step  # no −0: see _repeats
    return nearest.astype(np.float32)


def _repeats(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows int64 (r,) that are equal to an earlier one, and the first of those, int64 (r,)."""
    if vectors.size == 0:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    as_bytes = np.ascontiguousarray(vectors).view(np.dtype((np.void, vectors[0].nbytes)))[:, 0]
    _, first, which = np.unique(as_bytes, return_index=True, return_inverse=True)
    first = first[which]
    repeats = np.flatnonzero(first != np.arange(len(vectors)))
    return repeats, first[repeats]


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
    if gallery_ids is not None and len(np.unique(gallery_ids)) != len(gallery_ids):
        raise DataError("gallery ids are not unique")
    if not ks or min(ks) < 1 or len(set(ks)) != len(ks):
        raise DataError(f"ks are {tuple(ks)}; give different whole numbers from 1 up")
