"""Overlap of boxes that may be empty; all else that boxes need is in torchvision.ops."""

import torch
from torch import Tensor
from torchvision.ops import box_area, box_iou

LEAST_AREA = 1e-12


def overlaps(boxes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union (N,M), in [0,1], of boxes (N,4) with others (M,4).

    Boxes without area overlap nothing, themselves included: 0, where torchvision has 0/0.
    Raises ValueError for other shapes.
    """
    for each in (boxes, others):
        if each.ndim != 2 or each.shape[1] != 4:
            raise ValueError(f"boxes are {tuple(each.shape)}; expected (N,4)")
    shares: Tensor = box_iou(boxes, others).nan_to_num(0.0)
    return shares


def paired_overlaps(boxes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union (N,) of boxes (N,4), each with the one of the others (N,4) beside it.

    Boxes without area overlap nothing: 0. Gradients flow to both. Raises ValueError where shapes
    differ.
    """
    if boxes.shape != others.shape or boxes.shape[1:] != (4,):
        raise ValueError(
            f"boxes {tuple(boxes.shape)} and {tuple(others.shape)} do not go together; expected (N,4) "
            "twice"
        )
    corner = torch.minimum(boxes[:, 2:], others[:, 2:])
    shared = (corner - torch.maximum(boxes[:, :2], others[:, :2])).clamp(min=0).prod(1)
    union = box_area(boxes) + box_area(others) - shared
    return shared / union.clamp(min=LEAST_AREA)
