"""What a classifier is trained by: cross-entropy, and a penalty on weights."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from retrieval.config import ClassLossConfig
from retrieval.losses import norm_penalty


class ClassLoss(nn.Module):
    """Named terms and figures of logits (B,L) and shares of classes (B,L)."""

    class_weights: Tensor

    def __init__(
        self, config: ClassLossConfig, counts: np.ndarray, weights: Sequence[nn.Parameter]
    ) -> None:
        """``counts`` int64 (L,): pictures of each class; ``weights`` are what a penalty acts on."""
        super().__init__()
        self.config, self.weights = config, list(weights)
        balanced = config.class_weights == "balanced"
        shares = class_weights(counts) if balanced else np.ones(len(counts))
        # It follows from the data, so it is no part of what is saved.
        self.register_buffer("class_weights", torch.tensor(shares, dtype=torch.float32), False)

    def forward(
        self, logits: Tensor, targets: Tensor, generator: torch.Generator
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        loss = cross_entropy(logits, targets, self.config.label_smoothing, self.class_weights)
        terms = {"cross_entropy": loss}
        if self.config.norm_penalty != "none":
            penalty = norm_penalty(self.config.norm_penalty, self.weights)
            terms["norm_penalty"] = self.config.norm_penalty_weight * penalty
        right = logits.detach().argmax(1) == targets.argmax(1)
        return terms, {"training_accuracy": float(right.float().mean())}


def cross_entropy(logits: Tensor, targets: Tensor, smoothing: float, weights: Tensor) -> Tensor:
    """The mean over pictures of −Σ q log p, each picture weighted by its classes: a scalar.

    logits (B,L); targets float32 (B,L), shares that add up to 1; weights (L,). q is the target of
    which the share ``smoothing`` is spread over all classes. Source of smoothing: Szegedy et al.,
    "Rethinking the Inception Architecture", §7.
    """
    spread = targets * (1 - smoothing) + smoothing / targets.shape[1]
    losses = -(spread * logits.log_softmax(1)).sum(1)
    of_pictures = targets @ weights
    return (losses * of_pictures).sum() / of_pictures.sum()


def class_weights(counts: np.ndarray) -> np.ndarray:
    """Weights (L,) by which all classes count the same: N / (L · count), 0 for those without."""
    there = counts > 0
    return np.where(there, counts.sum() / (there.sum() * np.maximum(counts, 1)), 0.0)
