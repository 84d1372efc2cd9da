"""Maps of several scales from one backbone."""

import copy
import math
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork

from retrieval.backbones import DENSENETS, RESNETS, VGGS, check_size
from retrieval.errors import ConfigError
from retrieval.layers import convolution
from retrieval.specs import NetworkSpec

PARTS = {
    **dict.fromkeys(RESNETS, ("layer1", "layer2", "layer3", "layer4")),
    # Sums of a dense block are neither normalised nor activated; what a transition makes of them is.
    **dict.fromkeys(
        DENSENETS,
        ("features.transition1.relu", "features.transition2.relu", "features.transition3.relu", ""),
    ),
    "fast-resnet": ("stages.0", "stages.1", "stages.2"),
    "tiny": ("blocks.0", "blocks.1", "blocks.2"),
    "googlenet": ("conv3", "inception3b", "inception4e", "inception5b"),
    "inception-v3": ("Mixed_5d", "Mixed_6e", "Mixed_7c"),
    "efficientnet-lite0": ("stages.1", "stages.2", "stages.4", "stages.6"),
}
"""The last part of a backbone at each resolution, by name; "" is the backbone itself."""
POOLED = (*VGGS, "vgg", "alexnet", "nin")
"""One sequence of layers with maxima between: a resolution ends before each of them."""
POOLS = (nn.MaxPool2d, nn.AvgPool2d)


def stage_names(backbone: nn.Module, name: str) -> tuple[str, ...]:
    """The parts of the backbone called ``name`` that end a resolution, finest first.

    Raises ConfigError for backbones that detectors cannot stand on.
    """
    if name in PARTS:
        return PARTS[name]
    if name not in POOLED:
        raise ConfigError(
            f"--backbone {name} does not suit a detector, which needs maps of several scales; take "
            f"one of {', '.join((*PARTS, *POOLED))}"
        )
    ((sequence, layers),) = backbone.named_children()
    followers = pairwise(layers.named_children())
    ends = [f"{sequence}.{name}" for (name, _), (_, then) in followers if isinstance(then, POOLS)]
    return (*ends, "")


def run_stages(backbone: nn.Module, images: Tensor, names: tuple[str, ...]) -> list[Tensor]:
    """What these parts of the backbone give for pictures, and what the backbone gives for ""."""
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            seen[name] = output

        return hook

    hooks = [backbone.get_submodule(n).register_forward_hook(keep(n)) for n in names if n]
    try:
        seen[""] = backbone(images)
    finally:
        for hook in hooks:
            hook.remove()
    return [seen[name] for name in names]


class Pyramid(nn.Module):
    """Maps of several scales, finest first: one of each resolution of a backbone, and coarser ones.

    Maps of the backbone with more than one position per ``finest`` pixels are left out, but never the
    last one. ``coarser`` more maps, each of half the side and at most ``width`` channels, are learnt
    on top, as long as there is a side to halve. With ``fused``, what lies above is added to each map
    of the backbone, and all have ``width`` channels (Lin et al., "Feature Pyramid Networks for
    Object Detection"). ``channels`` and ``sides`` are those of the maps, of pictures of
    ``spec.image_size`` pixels.

    The backbone stays its owner's, who passes it to ``forward``.
    Raises ConfigError where it does not suit, or pictures are too small for it.
    """

    channels: tuple[int, ...]
    sides: tuple[int, ...]

    def __init__(
        self,
        backbone: nn.Module,
        spec: NetworkSpec,
        *,
        finest: int,
        coarser: int = 0,
        fused: bool = False,
        width: int = 256,
    ) -> None:
        super().__init__()
        check_size(backbone, spec.backbone, spec.image_size)
        names = stage_names(backbone, spec.backbone)
        shapes = _shapes(backbone, spec, names)
        most = math.ceil(spec.image_size / finest)
        taken = [i for i, (_, side) in enumerate(shapes) if side <= most] or [len(names) - 1]
        self.names = tuple(names[i] for i in taken)
        channels = [shapes[i][0] for i in taken]
        sides = [shapes[i][1] for i in taken]
        self.fuse: FeaturePyramidNetwork | None = None
        if fused:
            self.fuse = FeaturePyramidNetwork(channels, width, norm_layer=nn.BatchNorm2d)
            channels = [width] * len(channels)
        self.above = nn.ModuleList()
        while coarser > len(self.above) and sides[-1] > 1:
            after = min(channels[-1], width)
            sides.append(math.ceil(sides[-1] / 2))
            # One picture with one position has no deviation to normalise by.
            self.above.append(_halve(channels[-1], after, batch_norm=sides[-1] > 1))
            channels.append(after)
        self.channels, self.sides = tuple(channels), tuple(sides)

    def forward(self, backbone: nn.Module, images: Tensor) -> list[Tensor]:
        """The maps (B,C_i,h_i,h_i) of standardised pictures (B,C,S,S)."""
        maps = run_stages(backbone, images, self.names)
        if self.fuse is not None:
            maps = list(self.fuse({str(i): features for i, features in enumerate(maps)}).values())
        for layer in self.above:
            maps.append(layer(maps[-1]))
        return maps


def _halve(before: int, after: int, *, batch_norm: bool) -> nn.Sequential:
    """1×1 and 3×3 convolutions, (h,w) → (⌈h/2⌉,⌈w/2⌉), as SSD has them on top."""
    return nn.Sequential(
        *convolution(before, max(after // 2, 1), 1, batch_norm=True),
        *convolution(max(after // 2, 1), after, 3, stride=2, padding=1, batch_norm=batch_norm),
    )


@torch.no_grad()
def _shapes(
    backbone: nn.Module, spec: NetworkSpec, names: tuple[str, ...]
) -> list[tuple[int, int]]:
    """(channels, side) of each map, without computing any."""
    picture = torch.empty(1, spec.channels, spec.image_size, spec.image_size, device="meta")
    shadow = copy.deepcopy(backbone).to("meta").eval()
    return [(m.shape[1], m.shape[2]) for m in run_stages(shadow, picture, names)]
