"""fit(): the one training loop. It knows no task.

All that is random in step s of epoch e is drawn from generators seeded by (seed, e, s). A checkpoint
therefore needs no generator state, may be taken after any step, and what continues from it is bit for
bit what would have been done without the interruption, where the device adds up in one order, as
processors do and GPUs do not.
"""

import contextlib
import dataclasses
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from retrieval.config import FitConfig
from retrieval.device import use_bf16
from retrieval.errors import TrainingError
from retrieval.optimizers import build_optimizer, learning_rate_factor, parameter_groups
from retrieval.processes import Processes

SAVE_EVERY_SECONDS = 60.0
LOOKAHEAD_EVERY = 5
LOOKAHEAD_MEMORY = 0.95**LOOKAHEAD_EVERY


class Batches(Protocol):
    """Training data: how many steps an epoch has, and the batch of each."""

    steps: int

    def __call__(self, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        """Inputs (this process's share of the batch) and targets (all), on the module's device."""


class Watch(Protocol):
    """Looks at the figures of each step, and may raise TrainingError to end the run."""

    def __call__(self, figures: dict[str, float]) -> None: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@dataclasses.dataclass
class Task:
    """What is trained: outputs = module(inputs); losses, figures = loss(outputs, targets, generator).

    ``validate`` returns figures of a module, of which the one named ``score`` (large is good) picks
    the best; ``save_best`` keeps it; ``save_state`` stores what a resumed run is given as ``state``.
    The parameters of ``head`` and of the loss learn at ``head_lr`` times the rate of the others. Of
    several ``processes`` each runs the module on its share of a batch; the first one validates and
    saves.
    ``started_with`` says in words what a resumed run must be given again; ``spec`` is what the module
    is apart from its weights, kept with the state; ``watch`` gets the figures of each step.
    """

    module: nn.Module
    loss: nn.Module
    batches: Batches
    validate: Callable[[nn.Module], dict[str, float]]
    score: str
    save_best: Callable[[nn.Module], None]
    save_state: Callable[[dict[str, Any]], None]
    head: tuple[nn.Module, ...] = ()
    head_lr: float = 1.0
    processes: Processes = dataclasses.field(default_factory=Processes)
    started_with: list[str] = dataclasses.field(default_factory=list)
    spec: dict[str, Any] = dataclasses.field(default_factory=dict)
    watch: Watch | None = None
    on_step: Callable[[int, int], None] = lambda done, total: None
    on_epoch: Callable[[dict[str, float]], None] = lambda record: None


def fit(task: Task, config: FitConfig, state: dict[str, Any] | None = None) -> bool:
    """Train to the end; True if it came there, False if Ctrl-C stopped it (the state is saved).

    Raises TrainingError where a loss is not finite or ``state`` is that of another run.
    """
    progress = _Progress(task, config)
    if state is not None:
        progress.load(state)
    with _stop_on_interrupt() as stopped:
        while not progress.over:
            progress.run_step()
            stopping = task.processes.any(stopped.is_set(), progress.device)
            if progress.step == task.batches.steps:
                progress.finish_epoch()
            elif stopping or time.monotonic() - progress.saved_at > SAVE_EVERY_SECONDS:
                progress.save()
            if stopping and not progress.over:
                return False
    return True


class _Progress:
    """A run between two steps: all that a checkpoint holds."""

    def __init__(self, task: Task, config: FitConfig) -> None:
        self.task, self.config = task, config
        self.device = next(task.module.parameters()).device
        self.bf16 = use_bf16(self.device, config.precision)
        torch.manual_seed(config.seed)
        groups = parameter_groups(config, task.module, task.loss, task.head, task.head_lr)
        self.optimizer = build_optimizer(config, groups)
        self.average: AveragedModel | None = None
        if config.averaging != "none":
            self.average = AveragedModel(task.module, use_buffers=True)
        self.epoch, self.step, self.seconds = 0, 0, 0.0
        self.sums: dict[str, float] = {}
        self.history: list[dict[str, float]] = []
        self.best = -math.inf
        self.saved_at, self.kept = time.monotonic(), False

    @property
    def over(self) -> bool:
        """Whether all epochs are done, or the score has not risen for as long as patience lasts."""
        if self.epoch >= self.config.epochs:
            return True
        # Only the first process has scores, so the others ask it, between epochs.
        return self.step == 0 and self.task.processes.any(self._stalled(), self.device)

    def _stalled(self) -> bool:
        # From the history alone, so that a resumed run agrees with one that was never stopped.
        scores = [r[self.task.score] for r in self.history if self.task.score in r]
        patience = self.config.patience
        return 0 < patience < len(scores) and max(scores[-patience:]) <= max(scores[:-patience])

    def state(self) -> dict[str, Any]:
        return {
            "module": self.task.module.state_dict(),
            "loss": self.task.loss.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.state_dict() if self.average else None,
            "watch": self.task.watch.state_dict() if self.task.watch else None,
            "started_with": self.task.started_with,
            "spec": self.task.spec,
            "steps": self.task.batches.steps,
            "epoch": self.epoch,
            "step": self.step,
            "seconds": self.seconds,
            "sums": self.sums,
            "history": self.history,
            "best": self.best,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from ``state``. Raises TrainingError where it is that of another run."""
        try:
            self._load(state)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())  # torch writes several lines
            raise TrainingError(
                f"the saved state does not fit what is trained ({reason}); start afresh with "
                "--overwrite"
            ) from error
        # Older states do not say it.
        for was, now in zip(state.get("started_with", []), self.task.started_with, strict=False):
            if was != now:
                raise TrainingError(
                    f"the run was started with {was}, and now there is {now}; give it what it had, or "
                    "start afresh with --overwrite"
                )
        if state["steps"] != self.task.batches.steps:
            raise TrainingError(
                f"the run was started with {state['steps']} batches an epoch, and now there are "
                f"{self.task.batches.steps}: the pictures have changed; put them back, or start "
                "afresh with --overwrite"
            )

    def _load(self, state: dict[str, Any]) -> None:
        self.task.module.load_state_dict(state["module"])
        self.task.loss.load_state_dict(state["loss"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.epoch, self.step, self.seconds = state["epoch"], state["step"], state["seconds"]
        self.sums, self.history, self.best = state["sums"], state["history"], state["best"]
        if self.task.watch is not None and state.get("watch"):
            self.task.watch.load_state_dict(state["watch"])
        self.kept = True

    def save(self) -> None:
        self._check_weights()
        if self.task.processes.first:
            self.task.save_state(self.state())
        self.saved_at, self.kept = time.monotonic(), True

    def run_step(self) -> None:
        started = time.monotonic()
        total_steps = self.config.epochs * self.task.batches.steps
        done = self.epoch * self.task.batches.steps + self.step
        self._set_rates(done / total_steps)
        # Dropout and the like draw from the global generator.
        torch.manual_seed(step_seed(self.config.seed, self.epoch, self.step))
        losses, figures = self._losses()
        total = torch.stack(list(losses.values())).sum()
        self._check_finite(total, losses)
        self._descend(total)
        self._update_average(done + 1, total_steps)
        self._add({"loss": total.detach()} | {f"loss/{n}": x.detach() for n, x in losses.items()})
        self._add(figures)
        self.step += 1
        self.seconds += time.monotonic() - started
        self.task.on_step(done + 1, total_steps)
        if self.task.watch is not None:
            self.task.watch(figures)

    def _set_rates(self, done: float) -> None:
        factor = learning_rate_factor(self.config.schedule, self.config.warmup, done)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.lr * group["lr_scale"] * factor

    def _losses(self) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Loss terms and figures of the batch of this step, all processes' rows together."""
        task = self.task
        task.module.train()
        waiting = time.monotonic()
        inputs, targets = task.batches(self.epoch, self.step)
        self._add({"data_seconds": time.monotonic() - waiting})
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            outputs = task.module(inputs)
        outputs = task.processes.gather(outputs)
        generator = step_generator(self.config.seed, self.epoch, self.step)
        losses, figures = task.loss(outputs, targets, generator)
        return losses, figures

    def _descend(self, total: Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        self.task.processes.average_gradients(self.task.module)
        if self.config.clip_norm:
            parameters = [p for g in self.optimizer.param_groups for p in g["params"]]
            nn.utils.clip_grad_norm_(parameters, self.config.clip_norm)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):  # muon multiplies
            self.optimizer.step()

    def _update_average(self, done: int, total_steps: int) -> None:
        """Take the step's weights into the average; of look-ahead, go on from it.

        Sources: of ema's short memory at first, TensorFlow's ExponentialMovingAverage (num_updates); of
        look-ahead, Zhang et al., "Lookahead Optimizer: k steps forward, 1 step back"; of its growing
        memory, arXiv 2404.00498, §3.4.
        """
        if self.average is None:
            return
        lookahead = self.config.averaging == "lookahead"
        ends_epoch = done % self.task.batches.steps == 0
        if lookahead and done % LOOKAHEAD_EVERY and not ends_epoch:
            return
        # A long memory of few steps would be one of the weights before the first.
        kept = min(self.config.ema, (1 + done) / (10 + done))
        if lookahead:
            kept = LOOKAHEAD_MEMORY * (done / total_steps) ** 3
        self.average.multi_avg_fn = get_ema_multi_avg_fn(kept)
        self.average.update_parameters(self.task.module)
        if lookahead:
            self.task.module.load_state_dict(self.average.module.state_dict())

    def _add(self, values: dict[str, Any]) -> None:
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value)

    def _check_finite(self, total: Tensor, losses: dict[str, Tensor]) -> None:
        if not torch.isfinite(total):
            values = ", ".join(f"{name} {value.item():.4g}" for name, value in losses.items())
            raise TrainingError(
                f"the loss is not finite in epoch {self.epoch + 1}, step {self.step + 1} ({values});"
                f" lower --lr (now {self.config.lr:g}), set --clip-norm 1, or use --precision fp32"
            )

    def _check_weights(self) -> None:
        """A finite loss may have a gradient that is not: such weights must not replace good ones.

        Nor must statistics of batch normalisation, which may go first.
        """
        for name, value in self.task.module.state_dict().items():
            if not torch.isfinite(value).all():
                raise TrainingError(
                    f"weights ({name}) are not finite after epoch {self.epoch + 1}, step {self.step}; "
                    f"lower --lr (now {self.config.lr:g}), set --clip-norm 1, or use --precision fp32"
                    + ("; the last checkpoint is sound" if self.kept else "")
                )

    def finish_epoch(self) -> None:
        self._check_weights()
        module = self.task.module if self.average is None else self.average.module
        data_seconds = self.sums.pop("data_seconds")
        means = {name: value / self.step for name, value in self.sums.items()}
        started = time.monotonic()
        validation = self.task.validate(module) if self.task.processes.first else {}
        record = {
            "epoch": self.epoch + 1,
            "lr": self.optimizer.param_groups[0]["lr"] / self.optimizer.param_groups[0]["lr_scale"],
            **means,
            **validation,
            "seconds": round(self.seconds, 3),
            "data_seconds": round(data_seconds, 3),
            "validation_seconds": round(time.monotonic() - started, 3),
        }
        self.history.append(record)
        self.epoch, self.step, self.seconds, self.sums = self.epoch + 1, 0, 0.0, {}
        score = validation.get(self.task.score, math.inf)
        if score >= self.best and self.task.processes.first:
            self.best = score
            # The model first: a checkpoint that knows of a best score must find it on disk.
            self.task.save_best(module)
        self.save()
        if self.task.processes.first:
            self.task.on_epoch(record)


def step_seed(seed: int, epoch: int, step: int) -> int:
    """A seed of its own for each step of each epoch: 63 bits."""
    words = np.random.SeedSequence((seed, epoch, step)).generate_state(1, np.uint64)
    return int(words[0]) >> 1


def step_generator(seed: int, epoch: int, step: int) -> torch.Generator:
    """A generator on the CPU that depends on these three numbers alone."""
    return torch.Generator().manual_seed(step_seed(seed, epoch, step))


@contextlib.contextmanager
def _stop_on_interrupt() -> Iterator[threading.Event]:
    """Ctrl-C sets the event, so that a step is never cut in the middle; twice interrupts at once."""
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return

    def stop(*_: object) -> None:
        signal.signal(signal.SIGINT, previous)
        stopped.set()

    previous = signal.signal(signal.SIGINT, stop)
    try:
        yield stopped
    finally:
        signal.signal(signal.SIGINT, previous)
