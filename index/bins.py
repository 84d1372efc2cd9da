"""Cutting a range of numbers into bins: by equal width, by equal frequency, by clustering.

Bins are given by their edges e₀ ≤ e₁ ≤ … ≤ e_b: bin i holds eᵢ ≤ x < eᵢ₊₁, the last one its upper edge
too. Values below e₀ count to the first bin, values above e_b to the last, so that every number has a
code. A centre stands for all values of its bin. Edges and centres have the type of the values.
In several dimensions there are centres alone.
"""

import dataclasses

import faiss
import numpy as np

POINTS_A_CENTER = 256
"""Rows for each centre that k-means in several dimensions learns from at most, as FAISS does."""
LLOYD_STEPS = 100
"""Steps of k-means at most; what later ones still gain is less than a thousandth of the error."""
FAR = 4096
"""Reaches of a frame beyond which float32 would round away which centre is nearest."""


def equal_width(low: np.floating, high: np.floating, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Edges (b+1,) and centres (b,) of k bins of one width over [low, high].

    b = k, but 1 where low = high, and fewer where there are not so many numbers between the two.
    """
    if low == high:
        return np.array([low, high]), np.array([low])
    # In double precision, and scaled only where the width of the range would not be finite.
    part = 1.0 if abs(low) < np.finfo(np.float64).max / 4 > abs(high) else 0.25
    steps = np.linspace(float(low) * part, float(high) * part, k + 1) / part
    edges = np.unique(np.concatenate([[low], steps[1:-1], [high]]).astype(low.dtype))
    return edges, _inside(edges[:-1] / 2 + edges[1:] / 2, edges)


def equal_frequency(values: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Edges and centres of k bins that hold about as many of the values (n,), ascending, each.

    Edges are quantiles with linear interpolation; the centre of a bin is the mean of its values. Equal
    values are never parted, so that cuts that fall into one value merge into one. Where there are no
    more than k different values, each has a bin of its own.
    """
    different = np.unique(values)
    if len(different) <= k:
        return between(different, values[0], values[-1]), different
    # Whole numbers: the place i·(n−1)/k of a cut must not be off by rounding.
    places = np.arange(1, k, dtype=np.int64) * (len(values) - 1)
    before, after = values[places // k], values[-(-places // k)]
    share = (places % k) / k
    cuts = before * (1 - share) + after * share
    # A cut between two values stays between them, however close they are.
    cuts = np.minimum(np.maximum(cuts.astype(values.dtype), _next(before)), after)
    edges = np.unique(np.concatenate([values[:1], cuts, values[-1:]]))
    return edges, bin_means(values, edges)


def kmeans(values: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Edges and centres of k bins around the means that k-means finds in values (n,), ascending.

    Lloyd's steps from two starts: centres spread evenly, and as densely as the cube root of the density
    of the values, which is best for large k (Panter and Dite, "Quantization Distortion in Pulse-Count
    Modulation", 1951). The one that ends with the smaller squared error is taken. Edges are halfway
    between centres, and the ends of the range. No more than k different values are the centres.
    """
    different, counts = np.unique(values, return_counts=True)
    if len(different) > k:
        # By a power of two, which rounds nothing, so that no sum overflows.
        scale = np.ldexp(1.0, np.frexp(float(np.abs(different).max()))[1] - 1)
        points = _Points(different.astype(np.float64) / scale, counts)
        evenly = (2 * np.arange(k) + 1) / (2 * k)
        gaps = np.concatenate([[0.0], np.cumsum(np.diff(points.values) ** (2 / 3))])
        starts = [
            np.interp(evenly, [0, 1], points.values[[0, -1]]),
            np.interp(evenly, gaps / gaps[-1], points.values),
        ]
        found = [points.lloyd(start) for start in starts]
        cuts, means = min(found, key=lambda pair: points.error(pair[0]))
        first, last = different[cuts[:-1]], different[cuts[1:] - 1]
        different = np.clip((means * scale).astype(values.dtype), first, last)
    return between(different, values[0], values[-1]), different


@dataclasses.dataclass(frozen=True)
class Frame:
    """Where rows lie: half of their middle (d,), and half of how far they reach from it.

    As seen from there, rows and their squares are within float32, however large, small or far from
    zero they are. All is halved so that no difference overflows.
    """

    middle: np.ndarray
    reach: float

    @classmethod
    def around(cls, rows: np.ndarray) -> "Frame":
        """The frame of rows (n,d), n ≥ 1; its middle is the median of each column."""
        # Unlike the mean it needs no sum, and far-off rows do not draw it away from all others.
        middle = np.partition(rows, len(rows) // 2, axis=0)[len(rows) // 2] / 2
        return cls(middle, np.abs(rows / 2 - middle).max() or 1)

    def see(self, rows: np.ndarray) -> np.ndarray:
        """Rows (n,d) as float32: from the middle, in reaches; those beyond FAR on their way at FAR."""
        away = rows / 2 - self.middle
        scale: np.ndarray | float = self.reach
        if away.size and max(away.max(), -away.min()) / FAR > scale:
            scale = np.maximum(scale, np.abs(away).max(axis=1, keepdims=True) / FAR)
        return (away / scale).astype(np.float32, copy=False)


def clusters(rows: np.ndarray, k: int, seed: int) -> np.ndarray:
    """Centres (b,d) of k-means over rows (n,d), of their type; the rows where few are different.

    Rows are different where float32 tells them apart from their median.
    """
    frame = Frame.around(rows)
    points = frame.see(rows) + np.float32(0)  # no −0, whose bytes differ from those of 0
    as_bytes = points.view(np.dtype((np.void, points.itemsize * points.shape[1])))[:, 0]
    _, first = np.unique(as_bytes, return_index=True)
    if len(first) <= k:
        return rows[np.sort(first)]
    means = faiss.Kmeans(
        rows.shape[1], k, niter=25, seed=seed, min_points_per_centroid=1,
        max_points_per_centroid=POINTS_A_CENTER,
    )  # fmt: skip
    means.train(points)
    halves = np.asarray(means.centroids) * frame.reach + frame.middle
    return np.clip(halves, rows.min(axis=0) / 2, rows.max(axis=0) / 2) * 2


def between(centers: np.ndarray, low: float, high: float) -> np.ndarray:
    """Edges (b+1,) halfway between ascending, different centres (b,), from ``low`` to ``high``."""
    halves = centers[:-1] / 2 + centers[1:] / 2
    inner = np.minimum(np.maximum(halves, _next(centers[:-1])), centers[1:])
    return np.concatenate([[low], inner, [high]]).astype(centers.dtype)


def bin_means(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """The mean (b,) of the values (n,), ascending, in each bin; its middle where it holds none."""
    cuts = np.concatenate([[0], np.searchsorted(values, edges[1:-1], side="left"), [len(values)]])
    counts = np.diff(cuts)
    scale = max(float(np.abs(values[[0, -1]]).max()), np.finfo(np.float64).tiny)
    totals = np.concatenate([[0.0], np.cumsum(values.astype(np.float64) / scale)])
    means = np.diff(totals[cuts]) / np.maximum(counts, 1) * scale
    means = np.where(counts > 0, means, edges[:-1] / 2 + edges[1:] / 2).astype(values.dtype)
    first = np.where(counts > 0, values[np.minimum(cuts[:-1], len(values) - 1)], means)
    last = np.where(counts > 0, values[cuts[1:] - 1], means)
    return _inside(np.clip(means, first, last), edges)


def _next(values: np.ndarray) -> np.ndarray:
    return np.nextafter(values, np.finfo(values.dtype).max)


def _inside(centers: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Centres moved into their bins where rounding put them on the edge of the next."""
    below_next = np.nextafter(edges[1:], np.finfo(edges.dtype).min)
    below_next[-1] = edges[-1]
    return np.maximum(np.minimum(centers, below_next), edges[:-1])


class _Points:
    """Different values, ascending, with how often each occurs: k-means by sums over stretches."""

    def __init__(self, values: np.ndarray, counts: np.ndarray) -> None:
        self.values = values
        self.counts = np.concatenate([[0], np.cumsum(counts)])
        self.sums = np.concatenate([[0.0], np.cumsum(self.values * counts)])

    def lloyd(self, centers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Cuts int64 (k+1,) between stretches, none of them empty, and their means float64 (k,)."""
        cuts = self._cuts(centers)
        for _ in range(LLOYD_STEPS):
            centers = self._means(cuts)
            new = self._cuts(centers)
            if np.array_equal(new, cuts):
                break
            cuts = new
        return cuts, self._means(cuts)

    def error(self, cuts: np.ndarray) -> float:
        """The squared error of stretches, up to a constant."""
        return -float((np.diff(self.sums[cuts]) ** 2 / np.diff(self.counts[cuts])).sum())

    def _means(self, cuts: np.ndarray) -> np.ndarray:
        return np.diff(self.sums[cuts]) / np.diff(self.counts[cuts])

    def _cuts(self, centers: np.ndarray) -> np.ndarray:
        """Where the nearest centre changes. One without values moves to the value that is worst off."""
        inner = np.searchsorted(self.values, (centers[:-1] + centers[1:]) / 2)
        cuts = np.unique(np.concatenate([[0], inner, [len(self.values)]]))
        while (missing := len(centers) + 1 - len(cuts)) > 0:
            # The value farthest from the mean of a stretch is at one of its ends: cut it off there.
            first, last = cuts[:-1], cuts[1:] - 1
            means = self._means(cuts)
            left, right = means - self.values[first], self.values[last] - means
            worst = np.argsort(-np.maximum(left, right), kind="stable")
            worst = worst[(last > first)[worst]][:missing]
            at = np.where(left > right, first + 1, last)[worst]
            cuts = np.unique(np.concatenate([cuts, at]))
        return cuts
