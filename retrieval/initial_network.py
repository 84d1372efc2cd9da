"""The network that a training run begins with: new, or from weights trained before."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from retrieval.backbones import check_size
from retrieval.backbones.fast_resnet import FastResNet
from retrieval.mapped_rows import Rows
from retrieval.network import Network
from retrieval.network_files import kind_of_model, load_network
from retrieval.published import published_look
from retrieval.run_config import TrainConfig
from retrieval.specs import NetworkSpec

N = TypeVar("N", bound=Network)
STATISTICS_SAMPLE = 5000
"""Pictures from which mean, deviation and the whitening layer are computed."""
CONTINUED = {f.name for f in dataclasses.fields(NetworkSpec)} - {"image_size", "dropout"}
"""What is taken from the network that is continued."""


def initial_network(
    build: Callable[..., N],
    spec: NetworkSpec,
    config: TrainConfig,
    images: Rows,
    seed: int,
    state: dict[str, Any] | None = None,
) -> tuple[N, Network | None]:
    """A network fitted to the look of these pictures, and the one of ours that it continues, if any.

    ``build`` makes it of a spec and the name of published weights.
    Mean, deviation and the whitening layer come from a seeded sample of ``images`` uint8 (N,S,S,3);
    weights trained elsewhere keep the mean and deviation that they were trained with. From a run of
    ours all that concerns the backbone is taken; the head is new. Where the weights of a saved
    ``state`` will be loaded, those that the run once began with are not read: they may be gone.
    Raises ConfigError where the pictures are too small, CheckpointError where weights do not fit.
    """
    weights = config.weights
    if weights is not None and state is not None and "spec" in state:  # older states have none
        return build(_continuing(spec, type(spec).from_dict(state["spec"]))), None
    if weights is not None and kind_of_model(Path(weights)) is not None:
        trained = load_network(Path(weights))
        network = build(_continuing(spec, trained.spec))
        check_size(network.backbone, network.spec.backbone, spec.image_size)
        network.backbone.load_state_dict(trained.backbone.state_dict())
        return network, trained
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.permutation(len(images))[:STATISTICS_SAMPLE])
    sample = images[rows]
    mean, std = published_look(spec.backbone) if weights is not None else _look(sample)
    network = build(dataclasses.replace(spec, mean=mean, std=std), weights)
    check_size(network.backbone, network.spec.backbone, spec.image_size)
    if isinstance(network.backbone, FastResNet):
        pixels = torch.from_numpy(sample).permute(0, 3, 1, 2)
        network.backbone.whiten_from(network.standardise(pixels))
    return network, None


def _continuing(spec: NetworkSpec, trained: NetworkSpec) -> NetworkSpec:
    """``spec`` with the backbone, and the mean and deviation of pictures, of what is ``trained``."""
    return dataclasses.replace(spec, **{name: getattr(trained, name) for name in CONTINUED})


def _look(sample: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of red, green and blue."""
    mean = sample.mean(axis=(0, 1, 2)) / 255
    std = np.maximum(sample.std(axis=(0, 1, 2)) / 255, 0.01)
    return tuple(map(float, mean.round(4))), tuple(map(float, std.round(4)))
