"""Which pictures make up each batch of an epoch."""

import numpy as np


def class_balanced_batches(
    labels: np.ndarray, classes_per_batch: int, batch_size: int, rng: np.random.Generator
) -> np.ndarray:
    """Batches of P classes × K pictures that cover an epoch: rows int64 (batches, P·K).

    P is ``classes_per_batch``, or the number of classes where there are fewer; K is
    ``batch_size`` // P, at least 2. Every row stands in the epoch at least once. Where classes are
    of one size, K divides it, and P their number, exactly once; otherwise rows of small classes come
    again, freshly shuffled, until the large ones are through. A batch has a row twice only where its
    class has fewer than K. The number of batches depends on the labels alone.
    Raises ValueError where there are fewer than two classes.
    """
    classes, counts = np.unique(labels, return_counts=True)
    if len(classes) < 2:
        raise ValueError(f"found {len(classes)} class; class-balanced batches need at least 2")
    n_classes = min(classes_per_batch, len(classes))
    per_class = max(batch_size // n_classes, 2)
    rows_of = {c: np.flatnonzero(labels == c) for c in classes}
    groups = {c: -(-n // per_class) for c, n in zip(classes, counts, strict=True)}
    schedule = _schedule(groups, n_classes, rng)
    draws = {c: _draws(rows_of[c], int((schedule == c).sum()), per_class, rng) for c in classes}
    used = dict.fromkeys(classes, 0)
    batches = np.empty((len(schedule), n_classes * per_class), np.int64)
    for batch, chosen in zip(batches, schedule, strict=True):
        for slot, c in enumerate(chosen):
            start = used[c]
            batch[slot * per_class : (slot + 1) * per_class] = draws[c][start : start + per_class]
            used[c] = start + per_class
    return batches


def _schedule(groups: dict[int, int], n_classes: int, rng: np.random.Generator) -> np.ndarray:
    """Which classes are in which batch, (batches, P): always those with most groups left."""
    classes = np.array(list(groups))
    left = np.array(list(groups.values()))
    batches = []
    while (left > 0).any():
        ranked = np.lexsort((rng.random(len(left)), -left))[:n_classes]
        batches.append(classes[ranked])
        left[ranked] -= 1
    order = rng.permutation(len(batches))
    return np.stack(batches)[order]


def _draws(rows: np.ndarray, groups: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """Groups of ``size`` rows: shuffled passes over all of them, one after another.

    Where a pass ends within a group, the rows that are in that group come last in the next pass.
    """
    passes: list[np.ndarray] = []
    drawn, group = 0, rows[:0]
    while drawn < groups * size:
        shuffled = rng.permutation(rows)
        late = np.isin(shuffled, group)
        passes.append(np.concatenate([shuffled[~late], shuffled[late]]))
        drawn += len(rows)
        open_rows = drawn % size
        group = np.concatenate([group, passes[-1]])[len(group) + len(rows) - open_rows :]
    return np.concatenate(passes)[: groups * size]


def shuffled_batches(n: int, batch_size: int, rng: np.random.Generator) -> np.ndarray:
    """An epoch of batches without regard to labels: rows int64 (batches, size).

    Each row stands at most once; the n mod size left over at the end are another draw each epoch.
    """
    size = min(batch_size, n)
    whole = n // size if size else 0
    return rng.permutation(n)[: whole * size].reshape(whole, size)
