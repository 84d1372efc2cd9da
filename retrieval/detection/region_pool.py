"""RoI align and RoI pool, over one map or over maps of several scales."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align, roi_pool

SAMPLES = 2
"""Points along each side of a cell that RoI align takes the mean of, as torchvision's models do."""


class RegionPool(nn.Module):
    """Maps and regions → one map float32 (C,side,side) for each region.

    ``how`` is "align" (bilinear samples, He et al. 2017, "Mask R-CNN", §3) or "pool" (the largest of
    whole cells, Girshick 2015, "Fast R-CNN", §2.1). Of several maps a region is taken from the coarsest
    on which it is at least ``side`` cells wide, by the root of its area; from the finest where it is
    so on none (Lin et al. 2017, "Feature Pyramid Networks", eq. 1, has 14 cells).
    Called as torchvision's ``MultiScaleRoIAlign``, whose place it takes in ``RoIHeads``; that one
    knows neither RoI pool nor strides other than powers of two.
    """

    def __init__(self, how: str, side: int, strides: Sequence[int]) -> None:
        super().__init__()
        self.how, self.side, self.strides = how, side, tuple(strides)

    def forward(
        self, maps: dict[str, Tensor], regions: list[Tensor], shapes: list[tuple[int, int]]
    ) -> Tensor:
        """Float32 (R,C,side,side), regions of all pictures in their order; R may be 0.

        ``maps`` are float32 (B,C,h,w), finest first; ``regions`` (P,4) of each picture, in its pixels.
        """
        levels = [features.float() for features in maps.values()]  # neither operation knows bf16
        picture = [torch.full_like(boxes[:, :1], row) for row, boxes in enumerate(regions)]
        rows = torch.cat([torch.cat(picture), torch.cat(regions)], 1)
        if len(levels) == 1:
            return self._pool(levels[0], rows, self.strides[0])
        chosen = self.levels_of(rows[:, 1:])
        pooled = levels[0].new_zeros(len(rows), levels[0].shape[1], self.side, self.side)
        for level, features in enumerate(levels):
            here = torch.where(chosen == level)[0]
            part = self._pool(features, rows[here], self.strides[level])
            pooled = pooled.index_copy(0, here, part)
        return pooled

    def levels_of(self, boxes: Tensor) -> Tensor:
        """From which map each box (P,4) is taken: int64 (P,), 0 is the finest."""
        sizes = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(1).sqrt()
        widest = boxes.new_tensor([self.side * stride for stride in self.strides[1:]])
        return torch.bucketize(sizes, widest, right=True)

    def _pool(self, features: Tensor, rows: Tensor, stride: int) -> Tensor:
        if self.how == "pool":
            pooled: Tensor = roi_pool(features, rows, self.side, 1 / stride)
        else:
            pooled = roi_align(features, rows, self.side, 1 / stride, SAMPLES)
        return pooled
