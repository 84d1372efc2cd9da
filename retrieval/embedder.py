"""An embedder: a backbone, a pooling head and a projection that turn pictures into vectors."""

from collections.abc import Sequence
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

from retrieval.backbones import as_backbone, build_backbone
from retrieval.config import EmbedderSpec
from retrieval.device import keep_freed_memory
from retrieval.errors import ConfigError
from retrieval.pooling import GlobalPool


class Embedder(nn.Module):
    """``forward`` gives raw embeddings, which penalties act on; ``embed`` what is searched by."""

    mean: Tensor
    std: Tensor

    def __init__(self, spec: EmbedderSpec, weights: str | None = None) -> None:
        super().__init__()
        self.spec = spec
        self.frozen: list[nn.Module] = []
        self.backbone = build_backbone(
            spec.backbone, width=spec.width, stem=spec.stem, weights=weights
        )
        self.pool = GlobalPool(spec.pool)
        channels = as_backbone(self.backbone).out_channels * self.pool.multiplier
        self.projection = nn.Linear(channels, spec.embedding_dim, bias=False)
        # Lengths and angles of features come through, so that it learns no slower than they do.
        nn.init.orthogonal_(self.projection.weight)
        self.register_buffer("mean", torch.tensor(spec.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(spec.std).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Raw embeddings (B,D) float32 of standardised pictures (B,3,S,S)."""
        pooled = self.pool(self.backbone(images))
        # Vectors are compared, normalised and penalised in float32, whatever the trunk ran in.
        with torch.autocast(pooled.device.type, enabled=False):
            raw: Tensor = self.projection(pooled.float())
        return raw

    def bound(self, raw: Tensor) -> Tensor:
        """What is searched by, from raw embeddings: length 1, or each number in (−1, 1)."""
        if self.spec.output == "tanh":
            return torch.tanh(raw)
        return nn.functional.normalize(raw, dim=-1)

    def embed(self, images: Tensor) -> Tensor:
        """Embeddings (B,D) float32 of standardised pictures (B,3,S,S)."""
        raw = self(images)
        if self.spec.mirror:
            raw = (raw + self(images.flip(3))) / 2
        return self.bound(raw)

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
        """Float32 (B,3,S,S), channels last, from uint8 or float pictures (B,3,S,S) of range 0…255."""
        scaled = (images.float() - self.mean * 255) / (self.std * 255)
        return scaled.contiguous(memory_format=torch.channels_last)


@torch.inference_mode()
def embed_images(embedder: Embedder, images: np.ndarray, *, batch_size: int = 256) -> np.ndarray:
    """Embeddings float32 (N,D) of pictures uint8 (N,S,S,3), on the device that the embedder is on.

    The embedder is put in evaluation mode for the time. Always float32: a picture gets the same
    vector, up to rounding, whether it comes alone or among a thousand.
    Raises ValueError if the pictures are not uint8 (N,S,S,3) of the embedder's size.
    """
    size = embedder.spec.image_size
    if images.dtype != np.uint8 or images.shape[1:] != (size, size, 3):
        raise ValueError(
            f"pictures are {images.dtype} {images.shape}; expected uint8 (N,{size},{size},3)"
        )
    if len(images) > 1 and embedder.mean.device.type == "cpu":
        keep_freed_memory()
    was_training = embedder.training
    embedder.eval()
    out = np.empty((len(images), embedder.spec.embedding_dim), np.float32)
    try:
        for start in range(0, len(images), batch_size):
            # A copy, because memory-mapped pictures may be read-only, which torch warns of.
            batch = torch.from_numpy(images[start : start + batch_size].copy())
            batch = embedder.standardise(batch.to(embedder.mean.device).permute(0, 3, 1, 2))
            out[start : start + len(batch)] = embedder.embed(batch).cpu().numpy()
    finally:
        embedder.train(was_training)
    return out
