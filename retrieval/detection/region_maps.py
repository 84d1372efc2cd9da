"""The map, or the maps, that regions of a picture are taken from."""

import math

from torch import Tensor, nn

from retrieval.detection.pyramid import Pyramid
from retrieval.specs import DetectorSpec

FINEST = 8
"""Pixels to a cell of the finest map. Of pictures of 256 pixels this is as many cells to a side as the
16 of the papers, whose pictures have 600 to 1,000 pixels."""
COARSER = 2
"""Maps on top of those of the backbone, of a feature pyramid."""


class RegionMaps(nn.Module):
    """Pictures → maps (B,width,h,h), finest first, by name; ``strides`` are pixels to a cell of each.

    Without a pyramid it is one map of 8 pixels to a cell (or as many as the backbone has, where these
    are more): the maps of the backbone from there on, each brought to ``width`` channels and to the
    size of the finest, and added, so that it is fine and yet knows of what lies around (Kong et al.
    2016, "HyperNet"). With one, these maps fused, and two coarser ones.
    Raises ConfigError as ``Pyramid`` does.
    """

    def __init__(self, backbone: nn.Module, spec: DetectorSpec, width: int) -> None:
        super().__init__()
        coarser = COARSER if spec.pyramid else 0
        self.stages = Pyramid(
            backbone, spec, finest=FINEST, coarser=coarser, fused=spec.pyramid, width=width
        )
        channels, sides = self.stages.channels, self.stages.sides
        self.laterals: nn.ModuleList | None = None
        if not spec.pyramid:
            self.laterals = nn.ModuleList(nn.Conv2d(c, width, 1) for c in channels)
            sides = sides[:1]
        # A map of 31 cells of a picture of 256 pixels has 8 pixels to a cell, and a border left out.
        self.strides = tuple(2 ** round(math.log2(spec.image_size / side)) for side in sides)

    def forward(self, backbone: nn.Module, images: Tensor) -> dict[str, Tensor]:
        """Float32 maps of standardised pictures (B,C,S,S)."""
        maps = self.stages(backbone, images)
        if self.laterals is not None:
            thin = [layer(features) for layer, features in zip(self.laterals, maps, strict=True)]
            side = thin[0].shape[2:]
            maps = [sum(nn.functional.interpolate(m, side) for m in thin)]
        return {str(level): features.float() for level, features in enumerate(maps)}
