"""Boxes laid over a picture, which detectors say to be objects or background, and shift."""

from collections.abc import Sequence

import torch
from torch import Tensor

from retrieval.detection.boxes import overlaps

BACKGROUND = -1


def anchor_boxes(
    height: int, width: int, sizes: Sequence[float], ratios: Sequence[float]
) -> Tensor:
    """Boxes around the centre of each cell of a grid of height × width cells, as shares of the sides.

    Float32 (height·width·(s+r−1), 4) of s ``sizes`` and r ``ratios``, row by row: at each cell
    those of all sizes with the first ratio, then of the first size with the other ratios. A size is
    the side of a square as a share of the height, a ratio width / height at the same area; on a
    grid that is not square, cells are taken to be square. Boxes may reach beyond the picture.
    Source: Zhang, Lipton, Li and Smola, "Dive into Deep Learning", §14.4. Raises ValueError for no
    cells, sizes or ratios, or any not above 0.
    """
    if min(height, width, len(sizes), len(ratios)) < 1 or min(*sizes, *ratios) <= 0:
        raise ValueError(
            f"a grid of {height}×{width}, sizes {sizes}, ratios {ratios}; expected at least one cell, "
            "size and ratio, all above 0"
        )
    pairs = [(size, ratios[0]) for size in sizes] + [(sizes[0], ratio) for ratio in ratios[1:]]
    shapes = torch.tensor(
        [(size * ratio**0.5 * height / width, size / ratio**0.5) for size, ratio in pairs]
    )
    y = (torch.arange(height) + 0.5) / height
    x = (torch.arange(width) + 0.5) / width
    centres = torch.stack(torch.meshgrid(y, x, indexing="ij"), -1).flip(-1).reshape(-1, 1, 2)
    return torch.cat([centres - shapes / 2, centres + shapes / 2], -1).reshape(-1, 4)


def assign_boxes(boxes: Tensor, anchors: Tensor, least_iou: float = 0.5) -> Tensor:
    """Which object each anchor box is to find: int64 (A,), a row of ``boxes`` (R,4) or BACKGROUND.

    Each object gets an anchor box of its own, as long as there are any that it overlaps: of all
    pairs the one that overlaps most goes first, and neither of the two is asked again (ties: the
    first anchor box, then the first object). Each other anchor box gets the object that it overlaps
    most, if by ``least_iou`` or more. Without objects all are background. Source: "Dive into Deep
    Learning", §14.4.
    """
    assigned = torch.full((len(anchors),), BACKGROUND, device=anchors.device)
    if not len(boxes) or not len(anchors):
        return assigned
    shares = overlaps(anchors, boxes)
    most, rows = shares.max(1)
    assigned = torch.where(most >= least_iou, rows, assigned)
    for _ in range(min(shares.shape)):
        best = int(shares.argmax())
        anchor, row = divmod(best, len(boxes))
        if shares[anchor, row] <= 0:  # objects that no anchor box is left for
            break
        assigned[anchor] = row
        shares[anchor] = shares[:, row] = -1
    return assigned
