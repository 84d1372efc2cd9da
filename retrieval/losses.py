"""What an embedding is trained by: triplets, class centres, and a penalty on size.

Distances act on bounded embeddings (of length 1, or in (−1, 1)); the norm penalty acts on raw ones or
on weights, because an L2 penalty on vectors of length 1 has no gradient.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from retrieval.config import LossConfig
from retrieval.mining import MINERS

Distance = Callable[[Tensor, Tensor], Tensor]  # two (N,D) → (N,)


def cosine_distance(x: Tensor, y: Tensor) -> Tensor:
    """1 − cos of the angle, in [0, 2], row by row: two (…,D) → (…)."""
    return 1 - nn.functional.cosine_similarity(x, y, dim=-1)


@torch.no_grad()
def pairwise_distances(embeddings: Tensor, distance: str | Distance) -> Tensor:
    """Distances float32 (B,B) between all embeddings (B,D), without a graph: for mining."""
    if distance in ("l1", "l2"):
        return torch.cdist(embeddings, embeddings, p=1.0 if distance == "l1" else 2.0)
    if distance == "cosine":
        unit = nn.functional.normalize(embeddings, dim=1)
        return 1 - unit @ unit.T
    assert callable(distance)
    rows = [distance(row.expand_as(embeddings), embeddings) for row in embeddings]
    return torch.stack(rows) if rows else embeddings.new_zeros(0, 0)


def triplet_criterion(distance: str | Distance, margin: float) -> nn.Module:
    """torch's triplet margin loss for a named distance or any callable (N,D),(N,D) → (N,).

    It takes anchors, positives and negatives (T,D) and returns one loss for each triplet, (T,).
    """
    if distance in ("l1", "l2"):
        return nn.TripletMarginLoss(margin, p=1 if distance == "l1" else 2, reduction="none")
    function = cosine_distance if distance == "cosine" else distance
    assert callable(function)
    return nn.TripletMarginWithDistanceLoss(
        distance_function=function, margin=margin, reduction="none"
    )


def mean_of_active(losses: Tensor) -> Tensor:
    """The mean of the positive entries of (T,); 0, with a graph, where there is none.

    A plain mean fades as training succeeds, because most triplets become satisfied.
    """
    active = (losses > 0).sum()
    return losses.sum() / active.clamp(min=1)


def norm_penalty(kind: str, tensors: Iterable[Tensor]) -> Tensor:
    """Σ|x| ("l1") or ½Σx² ("l2") over all entries of all tensors: a scalar."""
    terms = [x.abs().sum() if kind == "l1" else 0.5 * x.square().sum() for x in tensors]
    return torch.stack(terms).sum()


class CentreSoftmax(nn.Module):
    """Cross-entropy over the cosine to a learnt centre of each class, divided by a temperature.

    Source: Wang et al., "NormFace", §3; Zhai and Wu, "Classification is a Strong Baseline for Deep
    Metric Learning", §3.
    """

    def __init__(
        self, dim: int, n_classes: int, temperature: float, label_smoothing: float
    ) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.randn(n_classes, dim))
        self.temperature, self.label_smoothing = temperature, label_smoothing

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The mean loss of embeddings (B,D) with labels int64 (B,) in [0, classes): a scalar."""
        unit = nn.functional.normalize(embeddings, dim=1)
        cosines = unit @ nn.functional.normalize(self.centres, dim=1).T
        return nn.functional.cross_entropy(
            cosines / self.temperature, labels, label_smoothing=self.label_smoothing
        )


class EmbeddingLoss(nn.Module):
    """The terms of ``LossConfig`` on one batch; ``n_classes`` 0 leaves the class centres out.

    ``distance`` is "l1", "l2", "cosine" or a callable; ``weights`` are the tensors that a norm
    penalty on weights concerns.
    """

    def __init__(
        self,
        config: LossConfig,
        *,
        distance: str | Distance,
        bound: Callable[[Tensor], Tensor],
        dim: int,
        n_classes: int,
        weights: Iterable[Tensor] = (),
    ) -> None:
        super().__init__()
        self.config, self.distance, self.bound = config, distance, bound
        self.miner = MINERS[config.mining]
        self.criterion = triplet_criterion(distance, config.margin)
        self.weights = list(weights)
        on_weights = config.norm_penalty != "none" and config.norm_penalty_on == "weights"
        if on_weights and not self.weights:
            raise ValueError("a norm penalty on weights needs at least one tensor of weights")
        self.softmax: CentreSoftmax | None = None
        if n_classes and config.softmax_weight:
            self.softmax = CentreSoftmax(dim, n_classes, config.temperature, config.label_smoothing)

    def forward(
        self, raw: Tensor, labels: Tensor, generator: torch.Generator
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Weighted loss terms to be summed, and figures about the batch.

        raw: raw embeddings float32 (B,D); labels: int64 (B,); generator: on the CPU, for mining.
        """
        embeddings = self.bound(raw)
        distances = pairwise_distances(embeddings, self.distance)
        triplets = self.miner(distances, labels, generator, self.config.max_triplets)
        # index_select, because the gradient of plain indexing is far slower on processors.
        anchor, positive, negative = (embeddings.index_select(0, t) for t in triplets.T)
        losses = self.criterion(anchor, positive, negative)
        terms = {"triplet": self.config.triplet_weight * mean_of_active(losses)}
        if self.softmax is not None:
            terms["softmax"] = self.config.softmax_weight * self.softmax(embeddings, labels)
        if self.config.norm_penalty != "none":
            terms["norm_penalty"] = self.config.norm_penalty_weight * self._penalty(raw)
        figures = {
            "active_triplets": float((losses > 0).float().mean()) if len(losses) else 0.0,
            "positive_distance": _mean_at(distances, triplets[:, :2]),
            "negative_distance": _mean_at(distances, triplets[:, ::2]),
            "embedding_norm": float(raw.detach().norm(dim=1).mean()),
        }
        return terms, figures

    def _penalty(self, raw: Tensor) -> Tensor:
        if self.config.norm_penalty_on == "weights":
            return norm_penalty(self.config.norm_penalty, self.weights)
        return norm_penalty(self.config.norm_penalty, [raw]) / max(len(raw), 1)


def _mean_at(distances: Tensor, pairs: Tensor) -> float:
    return float(distances[pairs[:, 0], pairs[:, 1]].mean()) if len(pairs) else 0.0
