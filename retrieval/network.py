"""What embedders, classifiers and detectors have in common: a backbone, and pictures that suit it."""

from collections.abc import Callable, Sequence
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

from retrieval.backbones import build_backbone
from retrieval.device import exact_convolutions, keep_freed_memory
from retrieval.errors import ConfigError
from retrieval.mapped_rows import Rows
from retrieval.specs import NetworkSpec


class Network(nn.Module):
    """A backbone with the mean and deviation of its pictures; parts of it can be frozen."""

    mean: Tensor
    std: Tensor
    spec: NetworkSpec

    def __init__(self, spec: NetworkSpec, weights: str | None = None) -> None:
        super().__init__()
        self.frozen: list[nn.Module] = []
        self.backbone = build_backbone(spec, weights)
        self.register_buffer("mean", torch.tensor(spec.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(spec.std).view(3, 1, 1), persistent=False)

    def freeze(self, parts: Sequence[str], batch_norm: bool) -> None:
        """Keep the weights of these parts of the backbone, and all batch normalisation if so wanted.

        A part is named as in ``backbone.named_modules()``, such as layer1 or stages.0. What is frozen
        stays in evaluation mode: its statistics do not move either.
        Raises ConfigError where the backbone has no such part.
        """
        modules = {name: module for name, module in self.backbone.named_modules() if name}
        for name in parts:
            if name not in modules:
                known = [n for n in modules if n.count(".") == 0 or n.startswith("stages.")]
                known = [n for n in known if n.count(".") < 2]
                raise ConfigError(
                    f"--freeze names {name!r}, which the backbone has not; it has: {', '.join(known)}"
                )
            self.frozen.append(modules[name])
        if batch_norm:
            self.frozen += [m for m in modules.values() if isinstance(m, nn.BatchNorm2d)]
        for module in self.frozen:
            module.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Training mode for all but what is frozen."""
        super().train(mode)
        for module in self.frozen:
            module.eval()
        return self

    def standardise(self, images: Tensor) -> Tensor:
        """Float32 (B,C,S,S), channels last, from uint8 or float pictures (B,3,S,S) of range 0…255.

        C is 3, or 1 for a network that sees grey: the mean of the standardised colours.
        """
        scaled = (images.float() - self.mean * 255) / (self.std * 255)
        if self.spec.channels == 1:
            scaled = scaled.mean(1, keepdim=True)
        return scaled.contiguous(memory_format=torch.channels_last)


PIXELS_A_THREAD = 4 * 224**2
"""Of a batch on processors. More are slower there, not faster, and take gigabytes: 256 pictures of 224
pixels 7 GiB in place of 0.8, at a quarter of the speed (EfficientNet-Lite0, 2 cores)."""


@torch.inference_mode()
def run_network(
    network: Network,
    images: Rows,
    function: Callable[[Tensor], Tensor],
    columns: int,
    *,
    batch_size: int = 256,
) -> np.ndarray:
    """What ``function`` of the network gives for pictures uint8 (N,S,S,3): float32 (N,columns).

    ``function`` takes standardised pictures. The network is put in evaluation mode for the time.
    In float32, but under autocast: a picture gets the same numbers, up to rounding, whether it comes
    alone or among a thousand. Raises ValueError if the pictures are not uint8 (N,S,S,3) of the
    network's size.
    """
    size = network.spec.image_size
    if images.dtype != np.uint8 or images.shape[1:] != (size, size, 3):
        raise ValueError(
            f"pictures are {images.dtype} {images.shape}; expected uint8 (N,{size},{size},3)"
        )
    if network.mean.device.type == "cpu":
        fitting = PIXELS_A_THREAD * torch.get_num_threads() // size**2
        batch_size = min(batch_size, max(fitting, 1))
        if len(images) > 1:
            keep_freed_memory()
    was_training = network.training
    network.eval()
    out = np.empty((len(images), columns), np.float32)
    try:
        with exact_convolutions():
            for start in range(0, len(images), batch_size):
                # A copy, because memory-mapped pictures may be read-only, which torch warns of.
                batch = torch.from_numpy(images[start : start + batch_size].copy())
                batch = network.standardise(batch.to(network.mean.device).permute(0, 3, 1, 2))
                out[start : start + len(batch)] = function(batch).float().cpu().numpy()
    finally:
        network.train(was_training)
    return out
