"""Which triplets of a batch count. Miners return indices; embeddings are never copied here.

Each miner takes the distances float32 (B,B) of a batch, its labels int64 (B,) and a generator on the
CPU, and returns triplets int64 (T,3): rows of anchor, positive and negative. An anchor needs another
picture of its label and one of another label; where there is none, T is 0. Work and memory are
O(B² log B), never B³.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Miner = Callable[[Tensor, Tensor, torch.Generator, int], Tensor]


def pair_masks(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Positive and negative pairs, bool (B,B) each: same label but not itself; other label."""
    same = labels[:, None] == labels[None, :]
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    return same & ~itself, ~same


def mine_all(
    distances: Tensor, labels: Tensor, generator: torch.Generator, max_triplets: int
) -> Tensor:
    """Every triplet there is, or ``max_triplets`` of them drawn evenly (with replacement)."""
    positives, negatives = pair_masks(labels)
    # Triplets are numbered by anchor, then positive, then negative; a number is decoded by division.
    n_positives, n_negatives = positives.sum(1), negatives.sum(1)
    ends = (n_positives * n_negatives).cumsum(0)
    total = int(ends[-1]) if len(ends) else 0
    if total > max_triplets:
        # 62 random bits modulo the total: even to within 1e-9.
        numbers = torch.randint(2**62, (max_triplets,), generator=generator) % total
    else:
        numbers = torch.arange(total)
    numbers = numbers.to(labels.device)
    anchor = torch.searchsorted(ends, numbers, right=True)
    within = numbers - (ends - n_positives * n_negatives)[anchor]
    positive = _members(positives)[anchor, within // n_negatives[anchor]]
    negative = _members(negatives)[anchor, within % n_negatives[anchor]]
    return torch.stack([anchor, positive, negative], dim=1)


def mine_random(
    distances: Tensor, labels: Tensor, generator: torch.Generator, max_triplets: int
) -> Tensor:
    """For each anchor-positive pair a negative drawn evenly."""
    positives, negatives = pair_masks(labels)
    pairs = _pairs(positives, negatives, generator, max_triplets)
    draws = torch.rand(len(pairs), generator=generator).to(labels.device)
    column = (draws * negatives.sum(1)[pairs[:, 0]]).long()
    return torch.cat([pairs, _members(negatives)[pairs[:, 0], column][:, None]], dim=1)


def mine_semi_hard(
    distances: Tensor, labels: Tensor, generator: torch.Generator, max_triplets: int
) -> Tensor:
    """For each anchor-positive pair the nearest of the negatives that are farther than the positive.

    Where no negative is farther, the farthest one. Source: Schroff et al., "FaceNet", §3.2.
    """
    positives, negatives = pair_masks(labels)
    pairs = _pairs(positives, negatives, generator, max_triplets)
    ordered, order = distances.masked_fill(~negatives, torch.inf).sort(dim=1)
    column = torch.searchsorted(ordered, distances.contiguous(), right=True)
    column = column.minimum(negatives.sum(1, keepdim=True) - 1).clamp(min=0)
    negative = order.gather(1, column)[pairs[:, 0], pairs[:, 1]]
    return torch.cat([pairs, negative[:, None]], dim=1)


def mine_hardest(
    distances: Tensor, labels: Tensor, generator: torch.Generator, max_triplets: int
) -> Tensor:
    """For each anchor its farthest positive and its nearest negative ("batch hard").

    Source: Hermans et al., "In Defense of the Triplet Loss", eq. 5.
    """
    positives, negatives = pair_masks(labels)
    anchor = _anchors(positives, negatives, generator, max_triplets)
    if len(anchor) == 0:
        return anchor.new_empty(0, 3)
    positive = distances.masked_fill(~positives, -torch.inf)[anchor].argmax(1)
    negative = distances.masked_fill(~negatives, torch.inf)[anchor].argmin(1)
    return torch.stack([anchor, positive, negative], dim=1)


def mine_easy_positive(
    distances: Tensor, labels: Tensor, generator: torch.Generator, max_triplets: int
) -> Tensor:
    """For each anchor its nearest positive and the nearest negative that is farther than it.

    Classes need not shrink to one spot: each picture only needs one near relative. Where no negative
    is farther, the farthest one. Source: Xuan et al., "Improved Embeddings with Easy Positive Triplet
    Mining", §3.2.
    """
    positives, negatives = pair_masks(labels)
    anchor = _anchors(positives, negatives, generator, max_triplets)
    if len(anchor) == 0:
        return anchor.new_empty(0, 3)
    nearest = distances.masked_fill(~positives, torch.inf)[anchor].min(1, keepdim=True)
    candidates = distances.masked_fill(~negatives, torch.inf)[anchor].sort(1)
    column = torch.searchsorted(candidates.values, nearest.values, right=True)
    column = column.minimum(negatives.sum(1, keepdim=True)[anchor] - 1)
    negative = candidates.indices.gather(1, column)
    return torch.cat([anchor[:, None], nearest.indices, negative], dim=1)


def mine_distance_weighted(
    distances: Tensor, labels: Tensor, generator: torch.Generator, max_triplets: int
) -> Tensor:
    """For each anchor-positive pair a negative drawn so that all distances are about as likely.

    Random negatives on a sphere all lie near √2; this draws near ones as often. Distances are
    scaled so that their mean over negatives is √2, which makes any distance look like L2 between
    unit vectors; those under 0.5 count as 0.5, for their gradients are noise. The density is that of
    a sphere of ``EFFECTIVE_DIMENSIONS``. Source: Wu et al., "Sampling Matters in Deep Embedding
    Learning", §4.1.
    """
    positives, negatives = pair_masks(labels)
    pairs = _pairs(positives, negatives, generator, max_triplets)
    if len(pairs) == 0:
        return pairs.new_empty(0, 3)
    scaled = distances * (2**0.5 / distances[negatives].mean().clamp(min=1e-6))
    d = scaled.clamp(0.5, 1.98)
    n = EFFECTIVE_DIMENSIONS
    log_weight = -(n - 2) * d.log() - (n - 3) / 2 * (1 - d.square() / 4).log()
    log_weight = log_weight.masked_fill(~negatives, -torch.inf)
    shares = (log_weight - log_weight.amax(1, keepdim=True)).exp().nan_to_num(0).cumsum(1)
    draws = torch.rand(len(pairs), 1, generator=generator).to(labels.device)
    rows = shares[pairs[:, 0]]
    # A draw below the total falls on a negative: the others have no width.
    negative = torch.searchsorted(rows, draws * rows[:, -1:] * (1 - 1e-6), right=True)
    return torch.cat([pairs, negative], dim=1)


EFFECTIVE_DIMENSIONS = 16
"""Trained embeddings fill few of their dimensions; with all of them the nearest would always win."""

MINERS: dict[str, Miner] = {
    "all": mine_all,
    "random": mine_random,
    "semi-hard": mine_semi_hard,
    "hardest": mine_hardest,
    "easy-positive": mine_easy_positive,
    "distance-weighted": mine_distance_weighted,
}


def _pairs(positives: Tensor, negatives: Tensor, generator: torch.Generator, most: int) -> Tensor:
    """Anchor-positive pairs int64 (T,2) of the anchors that have a negative; ``most`` at random."""
    return thin((positives & negatives.any(1, keepdim=True)).nonzero(), generator, most)


def _anchors(positives: Tensor, negatives: Tensor, generator: torch.Generator, most: int) -> Tensor:
    """Rows int64 (T,) that have a positive and a negative; ``most`` of them at random."""
    return thin((positives.any(1) & negatives.any(1)).nonzero()[:, 0], generator, most)


def thin(rows: Tensor, generator: torch.Generator, most: int) -> Tensor:
    """The rows of a tensor, or ``most`` of them drawn evenly, without replacement."""
    if len(rows) <= most:
        return rows
    return rows[torch.randperm(len(rows), generator=generator)[:most].to(rows.device)]


def _members(mask: Tensor) -> Tensor:
    """Row by row the columns where ``mask`` holds, in order, followed by the others: int64 (B,B)."""
    return mask.byte().argsort(dim=1, descending=True, stable=True)
