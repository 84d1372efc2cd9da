"""What a training run will cost: measured on two batches, before it is begun."""

import dataclasses
import resource
import sys
import time

import torch

from retrieval.config import TrainEmbedConfig
from retrieval.datasets import LabeledImages
from retrieval.train_embed import embedding_task
from retrieval.training import fit

MIB = 2**20


@dataclasses.dataclass(frozen=True)
class Trial:
    """Sizes and times of a run; FLOPs count a multiplication and an addition as two."""

    parameters: int
    trained_parameters: int
    flops_per_picture: int
    pictures: int
    batch: int
    steps_per_epoch: int
    epochs: int
    peak_memory_bytes: int
    step_seconds: float
    data_seconds: float
    epoch_seconds: float
    total_seconds: float
    total_flops: int

    def lines(self) -> list[tuple[str, str]]:
        """What a person reads: name and text."""
        share = self.data_seconds / self.step_seconds
        return [
            ("parameters", f"{self.parameters:,} ({self.trained_parameters:,} are trained)"),
            ("FLOPs per picture", f"{self.flops_per_picture:.3g} to embed, training 3 times that"),
            ("steps per epoch", f"{self.steps_per_epoch:,} of {self.batch} pictures"),
            ("memory, at most", f"{self.peak_memory_bytes / MIB:,.0f} MiB"),
            ("a step", f"{self.step_seconds:.3f} s ({share:.0%} of it preparing pictures)"),
            ("an epoch", f"{self.epoch_seconds:.0f} s"),
            ("all epochs", f"{self.total_seconds / 60:.1f} minutes ({self.epochs} epochs, "
                           f"{self.total_flops:.2g} FLOPs), without validation"),
        ]  # fmt: skip


def try_training(config: TrainEmbedConfig, data: LabeledImages, device: torch.device) -> Trial:
    """Sizes and times of ``config`` on ``data``: one batch to warm up, two that are timed.

    Nothing is kept. Raises as ``train_embed`` does.
    """
    fitting, held_out = data.holdout(config.validation, config.fit.seed)
    task = embedding_task(config, fitting, held_out, device)
    steps = task.batches.steps
    records: list[dict[str, float]] = []
    moments: list[float] = []
    task.batches.steps = 1  # three epochs of one step each
    task = dataclasses.replace(
        task, validate=lambda module: {}, on_epoch=records.append,
        on_step=lambda done, total: moments.append(time.monotonic()),
    )  # fmt: skip
    fit(task, dataclasses.replace(config.fit, epochs=3))
    timed = records[1:]
    step = sum(r["seconds"] for r in timed) / len(timed)
    parameters = list(task.module.parameters())
    flops = flops_per_picture(task.module, config.embedder.image_size, device)
    batch = len(task.batches(0, 0)[1])
    epochs = config.fit.epochs
    return Trial(
        parameters=sum(p.numel() for p in parameters),
        trained_parameters=sum(p.numel() for p in parameters if p.requires_grad),
        flops_per_picture=flops,
        pictures=len(fitting),
        batch=batch,
        steps_per_epoch=steps,
        epochs=epochs,
        peak_memory_bytes=_peak_memory(device),
        step_seconds=step,
        data_seconds=sum(r["data_seconds"] for r in timed) / len(timed),
        epoch_seconds=step * steps,
        total_seconds=step * steps * epochs,
        total_flops=3 * flops * batch * steps * epochs,
    )


def flops_per_picture(module: torch.nn.Module, size: int, device: torch.device) -> int:
    """Floating-point operations of one forward pass, of convolutions and matrices, for one picture."""
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    picture = torch.zeros(1, 3, size, size, device=device)
    was_training = module.training
    module.eval()
    with counter, torch.no_grad():
        module(picture)
    module.train(was_training)
    return int(counter.get_total_flops())


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
