"""Which of very many background boxes to learn from."""

import torch
from torch import Tensor


def hard_negatives(losses: Tensor, positive: Tensor, ratio: int = 3) -> Tensor:
    """The background boxes with the largest losses, ``ratio`` to an object box: bool (B,A).

    They are taken in each picture. ``losses`` (B,A), of which those of ``positive`` bool (B,A) do
    not count. A picture without any positive gives ``ratio``, so that it teaches something; none
    gives more than it has. Ties: the first. Source: Liu et al., "SSD: Single Shot MultiBox
    Detector", §2.2. Raises ValueError where the shapes differ.
    """
    if losses.ndim != 2 or losses.shape != positive.shape:
        raise ValueError(
            f"losses {tuple(losses.shape)} and positives {tuple(positive.shape)}; expected (B,A) twice"
        )
    order = losses.masked_fill(positive, -torch.inf).argsort(dim=1, descending=True, stable=True)
    places = torch.empty_like(order).scatter_(
        1, order, torch.arange(order.shape[1], device=order.device).expand_as(order).contiguous()
    )
    wanted = ratio * positive.sum(1, keepdim=True).clamp(min=1)
    return (places < wanted) & ~positive
