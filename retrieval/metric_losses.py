"""Losses and miners of pytorch-metric-learning by name, behind the interface of our own.

The library is optional: pip install 'retrieval[losses]'.
"""

import copy
import json
from typing import Any

import torch
from torch import Tensor, nn

from retrieval.config import MINING, LossConfig
from retrieval.errors import ConfigError

SHORT_NAMES: dict[str, tuple[str, dict[str, Any]]] = {
    # Hadsell et al., "Dimensionality Reduction by Learning an Invariant Mapping", §2.1.
    "contrastive": ("ContrastiveLoss", {"pos_margin": 0.0, "neg_margin": 1.0}),
    # Wang et al., "Multi-Similarity Loss with General Pair Weighting", eq. 15 and §5.
    "multi-similarity": ("MultiSimilarityLoss", {"alpha": 2.0, "beta": 50.0, "base": 0.5}),
    # Khosla et al., "Supervised Contrastive Learning", eq. 2.
    "supcon": ("SupConLoss", {"temperature": 0.1}),
    # Kim et al., "Proxy Anchor Loss for Deep Metric Learning", eq. 4.
    "proxy-anchor": ("ProxyAnchorLoss", {"margin": 0.1, "alpha": 32.0}),
}
NOT_OF_A_BATCH = (
    "DynamicSoftMarginLoss", "GenericPairLoss", "ManifoldLoss", "SelfSupervisedLoss", "VICRegLoss",
)  # fmt: skip
"""Losses that need more than one batch of labelled embeddings: they cannot be had by their name."""


class MetricLoss(nn.Module):
    """A loss of the library, with a memory of past batches where ``config.memory`` asks for it.

    Raises ConfigError where the library is missing, where it has no such loss, or where settings,
    labels (``n_classes`` 0) or memory do not suit the loss.
    """

    def __init__(self, config: LossConfig, *, distance: str, dim: int, n_classes: int) -> None:
        super().__init__()
        from pytorch_metric_learning import losses

        name, options = SHORT_NAMES.get(config.loss, (config.loss, {}))
        kind = getattr(losses, name, None)
        if kind is None or not _is_usable(name, "Loss"):
            known = sorted(n for n in dir(losses) if _is_usable(n, "Loss"))
            raise ConfigError(
                f"--loss is {config.loss!r}; it can be triplet, softmax, {', '.join(SHORT_NAMES)}, or "
                f"one of pytorch-metric-learning's: {', '.join(known)}"
            )
        options = {**options, **_options(config.loss_options)}
        if config.loss == "contrastive":
            options = {"distance": _lp_distance(distance), **options}
        if _takes_classes(kind):
            if not n_classes:
                raise ConfigError(f"--loss {config.loss} learns class centres, and needs labels")
            options = {"num_classes": n_classes, "embedding_size": dim, **options}
        try:
            loss = kind(**options)
        except (TypeError, ValueError, AssertionError) as error:
            raise ConfigError(
                f"--loss-options do not suit --loss {config.loss}: {error}"
            ) from error
        self.loss: nn.Module = loss
        _try(loss, config, dim, n_classes)
        if config.memory:
            if name not in losses.CrossBatchMemory.supported_losses():
                raise ConfigError(f"--memory does not suit --loss {config.loss}: it has no pairs")
            self.loss = losses.CrossBatchMemory(loss, dim, memory_size=config.memory)

    def forward(
        self, embeddings: Tensor, labels: Tensor, mined: tuple[Tensor, ...] | None
    ) -> Tensor:
        """The loss, a scalar, of embeddings (B,D) with labels int64 (B,)."""
        memory = getattr(self.loss, "memory_size", None)
        if memory is not None and memory < len(embeddings):
            raise ConfigError(
                f"--memory is {memory}; it must hold at least one batch, of {len(embeddings)}"
            )
        if memory is not None and mined is not None:
            mined = self._in_memory(mined, len(embeddings))
        value: Tensor = self.loss(embeddings, labels, mined)
        return value.float()

    def _in_memory(self, mined: tuple[Tensor, ...], batch: int) -> tuple[Tensor, ...]:
        """``mined`` triplets, or pairs, with positives and negatives as rows of the memory.

        The library takes them for such rows, and first enters the batch where its queue stands.
        """
        memory: Any = self.loss
        rows = torch.arange(batch, device=mined[0].device)
        places = (memory.queue_idx + rows) % memory.memory_size
        # Of (anchor, positive, negative), or of (anchor, positive, anchor, negative).
        entered = (1, len(mined) - 1)
        return tuple(places[x] if column in entered else x for column, x in enumerate(mined))

    def get_extra_state(self) -> dict[str, Any]:
        """Where the memory stands: the library keeps it beside its buffers."""
        names = ("queue_idx", "has_been_filled")
        return {name: getattr(self.loss, name) for name in names if hasattr(self.loss, name)}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self.loss, name, value)


def _try(loss: nn.Module, config: LossConfig, dim: int, n_classes: int) -> None:
    """Learn by a copy of a loss, from a made-up batch, for two steps; the library checks little.

    Raises ConfigError where that cannot be done, or gives no finite gradient.
    """
    trial, last = copy.deepcopy(loss), max(n_classes, 2) - 1
    labels = torch.tensor([0, last]).repeat(16)
    reason = ""
    with torch.random.fork_rng(devices=[]):
        embeddings = nn.functional.normalize(torch.randn(len(labels), dim), dim=1).requires_grad_()
        try:
            for _ in range(2):
                (gradient,) = torch.autograd.grad(trial(embeddings, labels), embeddings)
            if not gradient.any() or not torch.isfinite(gradient).all():
                reason = "it has no gradient"
        except Exception as error:  # the library raises half a dozen kinds
            reason = " ".join(str(error).split())
    if reason:
        raise ConfigError(
            f"--loss {config.loss} with --loss-options {config.loss_options} cannot be learnt by: "
            f"{reason}"
        )


def metric_miner(name: str) -> nn.Module:
    """The miner of the library whose class has this name. Raises ConfigError where there is none."""
    from pytorch_metric_learning import miners

    kind = getattr(miners, name, None)
    if kind is None or not _is_usable(name, "Miner"):
        known = sorted(n for n in dir(miners) if _is_usable(n, "Miner"))
        raise ConfigError(
            f"--mining is {name!r}; it can be {', '.join(MINING)}, or one of "
            f"pytorch-metric-learning's: {', '.join(known)}"
        )
    miner: nn.Module = kind()
    return miner


def _is_usable(name: str, kind: str) -> bool:
    """Whether a class of the library is a loss, or miner, of one batch of labelled embeddings."""
    return name.endswith(kind) and name not in NOT_OF_A_BATCH and not name.startswith("Base")


def as_triplets(mined: tuple[Tensor, ...], labels: Tensor) -> Tensor:
    """Triplets int64 (T,3) of what a miner of the library returned: triplets, or pairs."""
    from pytorch_metric_learning.utils import loss_and_miner_utils

    return torch.stack(loss_and_miner_utils.convert_to_triplets(mined, labels), dim=1)


def require_library() -> None:
    """Raises ConfigError where pytorch-metric-learning is not installed."""
    try:
        import pytorch_metric_learning  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "this loss or miner comes from pytorch-metric-learning, which is not installed; run: "
            "pip install 'retrieval[losses]'"
        ) from error


def _options(text: str) -> dict[str, Any]:
    try:
        options = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"--loss-options is not JSON ({error}): {text!r}") from error
    if not isinstance(options, dict):
        raise ConfigError(f"--loss-options is {text!r}; it must be a JSON object of settings")
    return options


def _takes_classes(kind: Any) -> bool:
    """Whether a loss of the library has learnt weights of its own for each class."""
    import inspect

    signatures = [inspect.signature(k.__init__).parameters for k in kind.__mro__ if k is not object]
    names = {name for parameters in signatures for name in parameters}
    return {"num_classes", "embedding_size"} <= names


def _lp_distance(distance: str) -> nn.Module:
    from pytorch_metric_learning.distances import LpDistance

    # L2 between unit vectors orders pairs as cosine does.
    measure: nn.Module = LpDistance(normalize_embeddings=False, p=1 if distance == "l1" else 2)
    return measure
