"""Training by several processes that torchrun starts: each takes its share of every batch.

All processes see the embeddings of the whole batch, so that mining, losses and batch normalisation
are those of one process at the same batch size, up to rounding. The scheme is: each process runs the
network on its rows; ``gather`` brings outputs together, and its gradient is that of the own rows times
the number of processes; gradients are then averaged over processes. What every process computes
alike (a penalty on weights, class centres) so counts once.
"""

import os
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from retrieval.errors import ConfigError


class Processes:
    """This process among those that train together; alone where torchrun did not start it."""

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    @classmethod
    def join(cls, device: torch.device) -> "Processes":
        """Meet the other processes (nccl between CUDA devices, otherwise gloo)."""
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1:
            return cls()
        if not dist.is_initialized():
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        return cls(dist.get_rank(), size)

    @property
    def first(self) -> bool:
        """Whether it is this one that validates, saves and speaks."""
        return self.rank == 0

    def share(self, n: int) -> slice:
        """Which of ``n`` rows of a batch are this process's.

        Raises ConfigError where they cannot be shared evenly.
        """
        if n % self.size:
            raise ConfigError(
                f"a batch has {n} pictures, which {self.size} processes cannot share evenly; change "
                "--batch-size, --classes-per-batch or --views"
            )
        each = n // self.size
        return slice(self.rank * each, (self.rank + 1) * each)

    def gather(self, rows: Tensor) -> Tensor:
        """The rows of all processes, in order."""
        if self.size == 1:
            return rows
        gathered: Tensor = _Gather.apply(rows, self.rank, self.size)
        return gathered

    def average_gradients(self, module: nn.Module) -> None:
        """Replace each gradient by its mean over processes."""
        if self.size == 1:
            return
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        flat = torch.cat([g.reshape(-1) for g in gradients])
        dist.all_reduce(flat)
        flat /= self.size
        for gradient, part in zip(
            gradients, flat.split([g.numel() for g in gradients]), strict=True
        ):
            gradient.copy_(part.view_as(gradient))

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether ``flag`` holds in any process."""
        if self.size == 1:
            return flag
        votes = torch.tensor(float(flag), device=device)
        dist.all_reduce(votes)
        return bool(votes > 0)

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            dist.barrier()

    def share_batch_norm(self, module: nn.Module) -> nn.Module:
        """``module`` with batch statistics taken over all processes."""
        if self.size == 1:
            return module
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                shared = SharedBatchNorm(child.num_features, child.eps, child.momentum)
                shared.load_state_dict(child.state_dict())
                for old, new in zip(child.parameters(), shared.parameters(), strict=True):
                    new.requires_grad_(old.requires_grad)
                if hasattr(child, "lr_scale"):
                    shared.lr_scale = child.lr_scale
                setattr(module, name, shared.to(next(child.buffers()).device))
            else:
                self.share_batch_norm(child)
        return module


class SharedBatchNorm(nn.BatchNorm2d):
    """Batch normalisation over the pictures of all processes; unlike torch's, not for CUDA only."""

    def forward(self, features: Tensor) -> Tensor:
        if not self.training:
            return super().forward(features)
        x = features.float()
        n = x.numel() // x.shape[1] * dist.get_world_size()
        mean = _Sum.apply(x.sum((0, 2, 3))) / n
        centred = x - mean.view(1, -1, 1, 1)
        variance = _Sum.apply(centred.square().sum((0, 2, 3))) / n
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        with torch.no_grad():
            self.num_batches_tracked += 1
            share = self.momentum if self.momentum is not None else 1 / self.num_batches_tracked
            self.running_mean.lerp_(mean, float(share))
            self.running_var.lerp_(variance * (n / max(n - 1, 1)), float(share))
        scaled = centred * (self.weight * (variance + self.eps).rsqrt()).view(1, -1, 1, 1)
        return (scaled + self.bias.view(1, -1, 1, 1)).to(features.dtype)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, rank: int, size: int) -> Tensor:
        ctx.place = (rank, size)
        parts = [torch.empty_like(rows) for _ in range(size)]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        rank, size = ctx.place
        return gradient.chunk(size)[rank] * size, None, None


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.contiguous().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total
