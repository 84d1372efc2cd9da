"""Which cell of a grid is to find which object, by how well it already does."""

import torch
from torch import Tensor

BACKGROUND = -1
REACH = 2.5
"""Cells within so many of their sides around the centre of an object may be asked to find it."""
OVERLAP_WEIGHT = 3.0
FAR = 1e5
"""Added to the cost of cells that are not both in the object and around its centre."""
MOST = 10
LEAST_IOU = 1e-8


def assign_cells(boxes: Tensor, cells: Tensor, ious: Tensor, class_costs: Tensor) -> Tensor:
    """The object int64 (A,) that each cell is to find, a row of ``boxes`` (R,4), or −1.

    ``cells`` (A,4) are centres and sides; ``ious`` (R,A) of each object with the box that the cell
    tells of now, ``class_costs`` (R,A) the cross-entropy of its classes. Candidates are cells whose
    centre lies in the object or around its centre. An object gets as many as the sum of its ten
    best IoUs, at least one, of the least cost: that of the class − 3 log IoU. A cell that several
    objects would have goes to the one of the least cost (ties: the first), so that an object may
    lose its only cell. Source: Ge et al., "YOLOX: Exceeding YOLO Series in 2021", §2 (SimOTA).
    """
    assigned = torch.full((len(cells),), BACKGROUND, device=cells.device)
    if not len(boxes):
        return assigned
    inside, around = _places(boxes, cells)
    candidates = inside | around
    costs = (
        class_costs - OVERLAP_WEIGHT * ious.clamp(min=LEAST_IOU).log() + FAR * ~(inside & around)
    )
    costs = costs.masked_fill(~candidates, torch.inf)
    wins = torch.zeros_like(candidates)
    best = (ious * candidates).topk(min(MOST, len(cells)), 1).values
    counts = best.sum(1).int().clamp(min=1)
    order = costs.argsort(dim=1, stable=True)
    for row, count in enumerate(counts.tolist()):
        wins[row, order[row, :count]] = True
    costs, rows = costs.masked_fill(~(wins & candidates), torch.inf).min(0)
    return torch.where(costs.isfinite(), rows, assigned)


def _places(boxes: Tensor, cells: Tensor) -> tuple[Tensor, Tensor]:
    """Whether centres of cells lie in objects, and whether around their centres: bool (R,A) twice."""
    x, y, reach = cells[:, 0], cells[:, 1], REACH * cells[:, 2]
    left, top, right, bottom = boxes.unsqueeze(2).unbind(1)
    inside = (x > left) & (x < right) & (y > top) & (y < bottom)
    near_x = (x - (left + right) / 2).abs() < reach
    near_y = (y - (top + bottom) / 2).abs() < reach
    return inside, near_x & near_y
