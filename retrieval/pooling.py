"""From a feature map to one vector: global average, maximum, both, or generalised mean."""

import torch
from torch import Tensor, nn


def avg(features: Tensor) -> Tensor:
    return features.mean(dim=(2, 3))


def max(features: Tensor) -> Tensor:
    return features.amax(dim=(2, 3))


def avgmax(features: Tensor) -> Tensor:
    return torch.cat([avg(features), max(features)], dim=1)


def gem(features: Tensor, p: Tensor, eps: float = 1e-6) -> Tensor:
    """Generalised mean: p = 1 is the average, p → ∞ the maximum.

    Source: Radenović et al., "Fine-tuning CNN Image Retrieval with No Human Annotation", §3.2.
    """
    # In float32: bf16 loses the small values that a power makes smaller still.
    powers = features.float().clamp(min=eps).pow(p)
    return powers.mean(dim=(2, 3)).pow(1 / p)


class GlobalPool(nn.Module):
    """(B,C,h,w) → (B, C·multiplier); ``kind`` is avg, max, avgmax (concatenated) or gem."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.multiplier = 2 if kind == "avgmax" else 1
        if kind == "gem":
            self.p = nn.Parameter(torch.tensor(3.0))

    def forward(self, features: Tensor) -> Tensor:
        if self.kind == "gem":
            return gem(features, self.p)
        return {"avg": avg, "max": max, "avgmax": avgmax}[self.kind](features)

    def extra_repr(self) -> str:
        return f"gem, p={self.p.item():.2f}" if self.kind == "gem" else self.kind
