"""From a box of reference to an object: the numbers that detectors learn."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import box_convert

MEANS = (0.0, 0.0, 0.0, 0.0)
DEVIATIONS = (0.1, 0.1, 0.2, 0.2)
"""By which SSD and the course standardise offsets: centres times 10, logarithms of sides times 5."""
LEAST_SIDE = 1e-6
LARGEST_GROWTH = math.log(1000 / 16)
"""Of a side, as torchvision bounds it: a wild prediction must not overflow."""


def encode(
    boxes: Tensor,
    anchors: Tensor,
    means: Sequence[float] = MEANS,
    deviations: Sequence[float] = DEVIATIONS,
) -> Tensor:
    """Offsets (N,4) that turn ``anchors`` into ``boxes``, both (N,4): left, top, right, bottom.

    Distance of the centres x and y in sides of the anchor box, and logarithms of the growth of
    width and height; each less its mean, by its deviation. Finite for boxes without area too, whose
    sides count as ``LEAST_SIDE``. Raises ValueError where the shapes differ.
    """
    x, y, w, h = _centred(boxes, anchors)
    ax, ay, aw, ah = _centred(anchors, boxes)
    raw = torch.stack([(x - ax) / aw, (y - ay) / ah, (w / aw).log(), (h / ah).log()], 1)
    return (raw - raw.new_tensor(means)) / raw.new_tensor(deviations)


def decode(
    offsets: Tensor,
    anchors: Tensor,
    means: Sequence[float] = MEANS,
    deviations: Sequence[float] = DEVIATIONS,
) -> Tensor:
    """The boxes (N,4) that ``encode`` turned into these offsets (N,4) from ``anchors`` (N,4).

    Sides grow by no more than a factor of 62.5. Raises ValueError where the shapes differ.
    """
    ax, ay, aw, ah = _centred(anchors, offsets)
    x, y, w, h = (offsets * offsets.new_tensor(deviations) + offsets.new_tensor(means)).unbind(1)
    w, h = w.clamp(max=LARGEST_GROWTH).exp() * aw, h.clamp(max=LARGEST_GROWTH).exp() * ah
    boxes: Tensor = box_convert(torch.stack([x * aw + ax, y * ah + ay, w, h], 1), "cxcywh", "xyxy")
    return boxes


def _centred(boxes: Tensor, others: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Centres and sides of boxes that must be as many as the others."""
    if boxes.shape != others.shape or boxes.shape[1:] != (4,):
        raise ValueError(
            f"boxes {tuple(boxes.shape)} and {tuple(others.shape)} do not go together; expected (N,4) "
            "twice"
        )
    x, y, w, h = box_convert(boxes, "xyxy", "cxcywh").unbind(1)
    return x, y, w.clamp(min=LEAST_SIDE), h.clamp(min=LEAST_SIDE)
