"""What an embedding is trained by: triplets, class centres, and a penalty on size.

Distances act on bounded embeddings (of length 1, or in (−1, 1)); the norm penalty acts on raw ones or
on weights, because an L2 penalty on vectors of length 1 has no gradient.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from retrieval import metric_losses
from retrieval.config import LossConfig
from retrieval.errors import ConfigError
from retrieval.mining import MINERS, pair_masks, thin

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
    """Cross-entropy over the closeness to a learnt centre of each class, divided by a temperature.

    ``kind`` "linear" takes dot products with raw embeddings, as classifiers do (source of the
    temperature of 9: arXiv 2404.00498, listing 4); "cosine" takes cosines (sources: Wang et al.,
    "NormFace", §3; Zhai and Wu, "Classification is a Strong Baseline for Deep Metric Learning", §3).
    """

    def __init__(
        self,
        dim: int,
        n_classes: int,
        kind: str = "linear",
        temperature: float | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self.kind, self.label_smoothing = kind, label_smoothing
        self.temperature = temperature or TEMPERATURES[kind]
        reach = dim**-0.5
        self.centres = nn.Parameter(torch.empty(n_classes, dim).uniform_(-reach, reach))

    def forward(self, raw: Tensor, labels: Tensor) -> Tensor:
        """The mean loss of raw embeddings (B,D) with labels int64 (B,) in [0, classes): a scalar."""
        centres: Tensor = self.centres
        if self.kind == "cosine":
            raw, centres = (nn.functional.normalize(x, dim=1) for x in (raw, centres))
        return nn.functional.cross_entropy(
            raw @ centres.T / self.temperature, labels, label_smoothing=self.label_smoothing
        )


TEMPERATURES = {"linear": 9.0, "cosine": 0.1}


class EmbeddingLoss(nn.Module):
    """The terms of ``LossConfig`` on one batch; ``n_classes`` 0 leaves the class centres out.

    ``distance`` is "l1", "l2", "cosine" or a callable; ``weights`` are the tensors that a norm
    penalty on weights concerns. Raises ConfigError where the loss or miner is unknown or its library
    is not installed, where a distance cannot be learnt by, and where no term is left.
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
        self.mining = config.mining or ("semi-hard" if config.loss == "triplet" else None)
        self.criterion = triplet_criterion(distance, config.margin)
        self.metric_loss, self.metric_miner = _from_library(
            config, self.mining, distance, dim, n_classes
        )
        self.weights = list(weights)
        on_weights = config.norm_penalty != "none" and config.norm_penalty_on == "weights"
        if on_weights and not self.weights:
            raise ValueError("a norm penalty on weights needs at least one tensor of weights")
        self.softmax: CentreSoftmax | None = None
        if n_classes and config.softmax_weight:
            self.softmax = CentreSoftmax(
                dim, n_classes, config.classifier, config.temperature, config.label_smoothing
            )
        if self.softmax is None and (config.loss == "softmax" or not config.loss_weight):
            raise ConfigError(
                f"nothing is left to learn with --loss {config.loss}, --loss-weight "
                f"{config.loss_weight:g}, --softmax-weight {config.softmax_weight:g} and {n_classes} "
                "classes: the softmax needs labels and a weight above 0, other losses a weight above 0"
            )
        if not isinstance(distance, str):
            if config.loss != "triplet":
                raise ConfigError(
                    "a distance function of one's own goes with the triplet loss, and --loss is "
                    f"{config.loss}"
                )
            _check_distance(distance, dim)

    def forward(
        self, raw: Tensor, labels: Tensor, generator: torch.Generator
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Weighted loss terms to be summed, and figures about the batch.

        raw: raw embeddings float32 (B,D); labels: int64 (B,); generator: on the CPU, for mining.
        """
        embeddings = self.bound(raw)
        distances = pairwise_distances(embeddings, self.distance)
        figures = batch_figures(distances, labels, raw.detach(), embeddings.detach())
        terms: dict[str, Tensor] = {}
        mined = self._mine(distances, labels, embeddings.detach(), generator)
        if self.metric_loss is not None:
            main = self.metric_loss(embeddings, labels, mined)
        elif mined is not None:
            losses = self._triplet_losses(embeddings, torch.stack(mined, dim=1))
            figures["active_triplets"] = float((losses > 0).float().mean()) if len(losses) else 0.0
            main = mean_of_active(losses)
        if self.config.loss != "softmax":
            terms[self.config.loss] = self.config.loss_weight * main
        if self.softmax is not None:
            terms["softmax"] = self.config.softmax_weight * self.softmax(raw, labels)
        if self.config.norm_penalty != "none":
            terms["norm_penalty"] = self.config.norm_penalty_weight * self._penalty(raw)
        return terms, figures

    def _mine(
        self, distances: Tensor, labels: Tensor, embeddings: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, ...] | None:
        """Rows of anchors, positives and negatives, (T,) each; for losses of the library also pairs."""
        most = self.config.max_triplets
        if self.metric_miner is not None:
            mined: tuple[Tensor, ...] = self.metric_miner(embeddings, labels)
            if len(mined) == 4 and self.metric_loss is not None:
                return mined
            return thin(_stacked(mined, labels), generator, most).unbind(1)
        if self.mining is None:
            return None
        return MINERS[self.mining](distances, labels, generator, most).unbind(1)

    def _triplet_losses(self, embeddings: Tensor, triplets: Tensor) -> Tensor:
        # index_select, because the gradient of plain indexing is far slower on processors.
        anchor, positive, negative = (embeddings.index_select(0, t) for t in triplets.T)
        losses: Tensor = self.criterion(anchor, positive, negative)
        return losses

    def _penalty(self, raw: Tensor) -> Tensor:
        if self.config.norm_penalty_on == "weights":
            return norm_penalty(self.config.norm_penalty, self.weights)
        return norm_penalty(self.config.norm_penalty, [raw]) / max(len(raw), 1)


def _from_library(
    config: LossConfig, mining: str | None, distance: str | Distance, dim: int, n_classes: int
) -> tuple[nn.Module | None, nn.Module | None]:
    """Loss and miner of pytorch-metric-learning, where the configuration names such."""
    own_loss = config.loss in ("triplet", "softmax")
    own_mining = mining is None or mining in MINERS
    if config.memory and own_loss:
        raise ConfigError(
            "--memory goes with losses of pytorch-metric-learning: give --loss TripletMarginLoss, "
            "contrastive, multi-similarity or supcon"
        )
    if own_loss and config.loss_options != LossConfig().loss_options:
        raise ConfigError(
            f"--loss-options go with losses of pytorch-metric-learning, and --loss is {config.loss}"
        )
    if not (own_loss and own_mining):
        metric_losses.require_library()
    name = distance if isinstance(distance, str) else "l2"
    loss = None
    if not own_loss:
        loss = metric_losses.MetricLoss(config, distance=name, dim=dim, n_classes=n_classes)
    miner = None if own_mining or mining is None else metric_losses.metric_miner(mining)
    return loss, miner


def _check_distance(distance: Distance, dim: int) -> None:
    """Raises ConfigError where it does not give two (N,dim) a distance each that can be learnt by."""
    generator = torch.Generator().manual_seed(0)
    x, y = nn.functional.normalize(torch.rand(2, 3, dim, generator=generator), dim=2)
    x, y = x.requires_grad_(), y.requires_grad_()
    try:
        found = distance(x, y)
    except Exception as error:  # whatever a function that is not ours raises
        raise ConfigError(
            f"the distance function cannot take two tensors of shape (3, {dim}): "
            f"{type(error).__name__}: {error}"
        ) from error
    if not isinstance(found, Tensor) or found.shape != (3,) or not found.is_floating_point():
        got = (
            f"{found.dtype} {tuple(found.shape)}" if isinstance(found, Tensor) else f"{type(found)}"
        )
        raise ConfigError(
            f"the distance function gave {got} for two tensors of shape (3, {dim}); it must give a "
            "tensor of floats of shape (3,)"
        )
    if not found.requires_grad or not torch.isfinite(found).all():
        raise ConfigError(
            f"the distance function gave {found.tolist()} for two tensors of shape (3, {dim}), "
            f"{'with' if found.requires_grad else 'without'} a gradient; to learn by it, it must give "
            "finite distances that torch can differentiate"
        )


def _stacked(mined: tuple[Tensor, ...], labels: Tensor) -> Tensor:
    if len(mined) == 3:
        return torch.stack(mined, dim=1)
    return metric_losses.as_triplets(mined, labels)


def batch_figures(
    distances: Tensor, labels: Tensor, raw: Tensor, embeddings: Tensor
) -> dict[str, float]:
    """What tells a healthy batch from a collapsed one, whatever the loss.

    positive_distance, negative_distance: means over all pairs of one class and of two; spread: the
    share in [0, 1] of the embeddings' energy that is not in their common mean, which is 0 where all
    embeddings are one point; embedding_norm: mean length of the raw embeddings.
    """
    positives, negatives = pair_masks(labels)
    energy = embeddings.square().sum(1).mean()
    spread = 1 - embeddings.mean(0).square().sum() / energy.clamp(min=1e-12)
    return {
        "positive_distance": _mean_where(distances, positives),
        "negative_distance": _mean_where(distances, negatives),
        "spread": float(spread) if len(embeddings) else 0.0,
        "embedding_norm": float(raw.norm(dim=1).mean()) if len(raw) else 0.0,
    }


def _mean_where(distances: Tensor, pairs: Tensor) -> float:
    return float((distances * pairs).sum() / pairs.sum().clamp(min=1))
