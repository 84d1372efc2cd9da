"""An embedder: a backbone, a pooling head and a projection that turn pictures into vectors."""

import dataclasses

import numpy as np
import torch
from torch import Tensor, nn

from retrieval.backbones import as_backbone, build_backbone
from retrieval.device import in_float32
from retrieval.errors import ConfigError
from retrieval.mapped_rows import Rows
from retrieval.network import Network, run_network
from retrieval.pooling import GlobalPool
from retrieval.published import published_look, published_size
from retrieval.specs import EmbedderSpec


class Embedder(Network):
    """``forward`` gives raw embeddings, which penalties act on; ``embed`` what is searched by."""

    spec: EmbedderSpec

    def __init__(self, spec: EmbedderSpec, weights: str | None = None) -> None:
        super().__init__(spec, weights)
        self.spec = spec
        self.pool = GlobalPool(spec.pool)
        channels = as_backbone(self.backbone).out_channels * self.pool.multiplier
        if not spec.projection:
            if spec.embedding_dim != channels:
                raise ConfigError(
                    f"an embedding without projection has {channels} numbers, as the features of "
                    f"{spec.backbone}, not {spec.embedding_dim}"
                )
            self.projection: nn.Module = nn.Identity()
            return
        self.projection = nn.Linear(channels, spec.embedding_dim, bias=False)
        # Lengths and angles of features come through, so that it learns no slower than they do.
        nn.init.orthogonal_(self.projection.weight)

    def forward(self, images: Tensor) -> Tensor:
        """Raw embeddings (B,D) float32 of standardised pictures (B,3,S,S)."""
        pooled = self.pool(self.backbone(images))
        # Vectors are compared, normalised and penalised in float32, whatever the trunk ran in.
        with in_float32(pooled):
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


def published_embedder(name: str) -> Embedder:
    """An embedder that needs no training: the mean over the map of a network with ImageNet weights.

    Raises CheckpointError where the weights cannot be had.
    """
    mean, std = published_look(name)
    spec = EmbedderSpec(
        backbone=name, stem="stock", image_size=published_size(name), mean=mean, std=std, pool="avg",
        mirror=False, projection=False,
    )  # fmt: skip
    channels = as_backbone(build_backbone(spec)).out_channels
    return Embedder(dataclasses.replace(spec, embedding_dim=channels), "imagenet").eval()


def embed_images(embedder: Embedder, images: Rows, *, batch_size: int = 256) -> np.ndarray:
    """Embeddings float32 (N,D) of pictures uint8 (N,S,S,3), on the device that the embedder is on.

    The embedder is put in evaluation mode for the time. Always float32: a picture gets the same
    vector, up to rounding, whether it comes alone or among a thousand.
    Raises ValueError if the pictures are not uint8 (N,S,S,3) of the embedder's size.
    """
    columns = embedder.spec.embedding_dim
    return run_network(embedder, images, embedder.embed, columns, batch_size=batch_size)
