"""What a training run will cost: measured on two batches, before it is begun."""

import dataclasses
import resource
import sys

import torch

from retrieval.batches import PictureBatches, small_side
from retrieval.network import Network
from retrieval.run_config import TrainConfig
from retrieval.structure import asked
from retrieval.training import Task, fit

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
    small_epochs: int
    runs: int
    peak_memory_bytes: int
    step_seconds: float
    data_seconds: float
    epoch_seconds: float
    total_seconds: float
    total_flops: int

    def lines(self) -> list[tuple[str, str]]:
        """What a person reads: name and text."""
        small = f", {self.small_epochs} of them of small pictures" if self.small_epochs else ""
        runs = f"{self.runs} runs of " if self.runs > 1 else ""
        share = self.data_seconds / self.step_seconds
        return [
            ("parameters", f"{self.parameters:,} ({self.trained_parameters:,} are trained)"),
            ("FLOPs per picture", f"{self.flops_per_picture:.3g} to ask, training 3 times that"),
            ("steps per epoch", f"{self.steps_per_epoch:,} of {self.batch} pictures"),
            ("memory, at most", f"{self.peak_memory_bytes / MIB:,.0f} MiB"),
            ("a step", f"{self.step_seconds:.3f} s ({share:.0%} of it preparing pictures)"),
            ("an epoch", f"{self.epoch_seconds:.0f} s"),
            ("all epochs", f"{self.total_seconds / 60:.1f} minutes ({runs}{self.epochs} epochs{small}; "
                           f"{self.total_flops:.2g} FLOPs), without validation"),
        ]  # fmt: skip


def try_training(
    task: Task,
    config: TrainConfig,
    pictures: int,
    batch: int,
    *,
    small_epochs: int = 0,
    runs: int = 1,
) -> Trial | None:
    """Sizes and times of ``runs`` over this many pictures: one batch to warm up, two that are timed.

    None in all processes but the first, which alone hears of epochs; memory is that of one process.
    Epochs of small pictures are reckoned by their FLOPs. Nothing is kept, and ``task`` is of no more
    use. Raises as ``fit`` does.
    """
    steps = task.batches.steps
    if isinstance(task.batches, PictureBatches):
        task.batches.small_epochs = 0  # all three see whole pictures
    records: list[dict[str, float]] = []
    task.batches.steps = 1  # three epochs of one step each
    task = dataclasses.replace(
        task, validate=lambda module: {}, save_best=lambda module: None,
        save_state=lambda state: None, on_epoch=records.append,
    )  # fmt: skip
    fit(task, dataclasses.replace(config.fit, epochs=3))
    if not task.processes.first:
        return None
    timed = records[1:]
    step = sum(r["seconds"] for r in timed) / len(timed)
    parameters = list(task.module.parameters())
    device = parameters[0].device
    assert isinstance(task.module, Network)
    flops = flops_per_picture(task.module, task.module.spec.image_size, device)
    epochs = config.fit.epochs
    small = flops_per_picture(task.module, small_side(task.module), device) if small_epochs else 0
    whole_epochs = runs * (epochs - small_epochs * (1 - small / flops))
    return Trial(
        parameters=sum(p.numel() for p in parameters),
        trained_parameters=sum(p.numel() for p in parameters if p.requires_grad),
        flops_per_picture=flops,
        pictures=pictures,
        batch=batch,
        steps_per_epoch=steps,
        epochs=epochs,
        small_epochs=small_epochs,
        runs=runs,
        peak_memory_bytes=_peak_memory(device),
        step_seconds=step,
        data_seconds=sum(r["data_seconds"] for r in timed) / len(timed),
        epoch_seconds=step * steps,
        total_seconds=step * steps * whole_epochs,
        total_flops=round(3 * flops * batch * steps * whole_epochs),
    )


def flops_per_picture(module: torch.nn.Module, size: int, device: torch.device) -> int:
    """Floating-point operations of one forward pass, of convolutions and matrices, for one picture."""
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    channels = module.spec.channels if isinstance(module, Network) else 3
    picture = torch.zeros(1, channels, size, size, device=device)
    was_training = module.training
    module.eval()
    with counter, torch.no_grad():
        asked(module)(picture)
    module.train(was_training)
    return int(counter.get_total_flops())


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
