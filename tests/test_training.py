import copy
import dataclasses
import math
import os
import signal
import threading

import pytest
import torch
from torch import nn

from retrieval import training
from retrieval.config import FitConfig
from retrieval.errors import TrainingError
from retrieval.training import (
    Task,
    fit,
    step_seed,
)

QUICK = FitConfig(epochs=3, lr=0.05, averaging="ema", ema=0.9, precision="fp32", weight_decay=1e-3)


class Batches:
    """Points whose target is the sign of their first coordinate."""

    steps = 5

    def __call__(self, epoch: int, step: int):
        generator = torch.Generator().manual_seed(epoch * 100 + step)
        x = torch.randn(16, 4, generator=generator)
        return x, x[:, :1].sign()


class Loss(nn.Module):
    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.offset, self.scale = nn.Parameter(torch.zeros(1)), scale

    def forward(self, outputs, targets, generator):
        noise = torch.randn(outputs.shape, generator=generator)
        fit_term = (outputs + self.offset - targets + 0.01 * noise).square().mean() * self.scale
        return {"fit": fit_term, "size": 1e-3 * outputs.square().mean()}, {
            "noise": float(noise[0, 0])
        }


class Recorder:
    """A task with everything that it reported."""

    def __init__(self, stop_at: int | None = None, scale: float = 1.0) -> None:
        torch.manual_seed(0)
        module = nn.Sequential(
            nn.Sequential(nn.Unflatten(1, (4, 1, 1)), nn.Conv2d(4, 8, 1), nn.Flatten()),
            nn.BatchNorm1d(8),
            nn.Dropout(0.2),
            nn.ReLU(),
            nn.Linear(8, 1),
        )
        self.states: list[dict] = []
        self.best: list[nn.Module] = []
        self.steps: list[tuple[int, int]] = []
        self.stop_at = stop_at
        self.task = Task(
            module=module, loss=Loss(scale), batches=Batches(), validate=self.validate, score="score",
            save_best=self.best.append, save_state=self.keep, on_step=self.on_step,
        )  # fmt: skip

    def keep(self, state: dict) -> None:
        self.states.append(copy.deepcopy(state))

    def validate(self, module: nn.Module) -> dict[str, float]:
        module.eval()
        x, y = Batches()(99, 0)
        with torch.no_grad():
            return {"score": -float((module(x) - y).square().mean())}

    def on_step(self, done: int, total: int) -> None:
        self.steps.append((done, total))
        if done == self.stop_at:
            os.kill(os.getpid(), signal.SIGINT)

    def result(self) -> list:
        last = self.states[-1]
        history = [{k: v for k, v in r.items() if "seconds" not in k} for r in last["history"]]
        return [*last["module"].values(), *last["average"].values(), history, last["best"]]


def assert_same(one: list, other: list) -> None:
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def test_it_learns_and_keeps_a_record_of_each_epoch() -> None:
    recorder = Recorder()
    assert fit(recorder.task, dataclasses.replace(QUICK, epochs=12))
    history = recorder.states[-1]["history"]
    assert [r["epoch"] for r in history] == list(range(1, 13))
    assert history[-1]["loss"] < history[0]["loss"] / 2
    for record in history:
        assert record["loss"] == pytest.approx(record["loss/fit"] + record["loss/size"], rel=1e-5)
        assert {"lr", "score", "noise", "seconds"} <= set(record)
    assert recorder.steps[-1] == (60, 60)
    assert recorder.states[-1]["best"] == max(r["score"] for r in history)


def test_equal_runs_are_equal_bit_for_bit_and_seeds_differ() -> None:
    one, two, other = Recorder(), Recorder(), Recorder()
    fit(one.task, QUICK)
    fit(two.task, QUICK)
    fit(other.task, dataclasses.replace(QUICK, seed=1))
    assert_same(one.result(), two.result())
    assert not torch.equal(one.result()[0], other.result()[0])


@pytest.mark.parametrize("stop_at", [1, 5, 7, 14])
@pytest.mark.parametrize(
    ("optimizer", "averaging"), [("nesterov", "lookahead"), ("adamw", "ema"), ("muon", "ema")]
)
def test_ctrl_c_and_resume_end_where_an_uninterrupted_run_ends(
    stop_at: int, optimizer: str, averaging: str
) -> None:
    config = dataclasses.replace(QUICK, optimizer=optimizer, averaging=averaging)
    calm = Recorder()
    fit(calm.task, config)
    stopped = Recorder(stop_at)
    assert not fit(stopped.task, config)
    assert len(stopped.steps) == stop_at
    resumed = Recorder()
    assert fit(resumed.task, config, stopped.states[-1])
    assert_same(resumed.result(), calm.result())


def test_a_finished_run_resumes_to_nothing() -> None:
    calm = Recorder()
    fit(calm.task, QUICK)
    again = Recorder()
    assert fit(again.task, QUICK, calm.states[-1])
    assert again.steps == []


@pytest.mark.parametrize(
    "optimizer", ["sgd", "nesterov", "muon", "adagrad", "rmsprop", "adam", "adamw"]
)
@pytest.mark.parametrize("schedule", ["constant", "step", "cosine", "onecycle"])
def test_every_optimiser_and_schedule_learns(optimizer: str, schedule: str) -> None:
    recorder = Recorder()
    lr = 0.005 if optimizer in ("rmsprop", "adam", "adamw") else 0.05
    config = FitConfig(
        epochs=8, lr=lr, optimizer=optimizer, schedule=schedule, precision="fp32", clip_norm=1.0
    )
    fit(recorder.task, config)
    history = recorder.states[-1]["history"]
    assert history[-1]["loss"] < history[0]["loss"]


def test_a_loss_that_is_not_finite_stops_with_its_name() -> None:
    recorder = Recorder(scale=math.inf)
    with pytest.raises(TrainingError, match=r"epoch 1, step 1 \(fit inf, size .*--lr"):
        fit(recorder.task, QUICK)


def test_weights_that_are_not_finite_are_never_kept() -> None:
    recorder = Recorder()
    losses = recorder.task.loss

    class Poisoned(nn.Module):
        """A finite loss whose gradient is not: √x at 0 times 0."""

        def forward(self, outputs, *rest):
            terms, figures = losses(outputs, *rest)
            return {**terms, "root": (outputs.sum() * 0.0).sqrt() * 0.0}, figures

    recorder.task.loss = Poisoned()
    recorder.task.batches.steps = 1  # else the next step's loss tells
    with pytest.raises(TrainingError, match=r"weights .* are not finite after epoch 1.*--lr"):
        fit(recorder.task, dataclasses.replace(QUICK, epochs=1))
    assert recorder.best == recorder.states == []


def test_statistics_that_are_not_finite_replace_no_good_ones() -> None:
    recorder = Recorder()
    recorder.task.module.register_buffer("running_var", torch.tensor(float("inf")))
    with pytest.raises(TrainingError, match=r"weights \(running_var\) are not finite.*--lr"):
        fit(recorder.task, dataclasses.replace(QUICK, epochs=1))
    assert recorder.best == recorder.states == []


def test_without_averaging_and_validation_the_last_weights_are_kept() -> None:
    recorder = Recorder()
    recorder.task.validate = lambda module: {}
    fit(recorder.task, dataclasses.replace(QUICK, averaging="none"))
    assert len(recorder.best) == 3
    assert recorder.best[-1] is recorder.task.module
    assert recorder.states[-1]["average"] is None


def test_step_seeds_differ() -> None:
    seeds = {step_seed(s, e, i) for s in range(3) for e in range(10) for i in range(50)}
    assert len(seeds) == 1500
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_bf16_trains_too() -> None:
    recorder = Recorder()
    fit(recorder.task, dataclasses.replace(QUICK, precision="bf16", epochs=8))
    history = recorder.states[-1]["history"]
    assert history[-1]["loss"] < history[0]["loss"]


def test_a_run_resumes_from_each_of_its_steps(monkeypatch) -> None:
    monkeypatch.setattr(training, "SAVE_EVERY_SECONDS", -1.0)  # save after every step
    calm = Recorder()
    fit(calm.task, QUICK)
    assert len(calm.states) == 15
    for state in calm.states[:-1]:
        resumed = Recorder()
        with torch.no_grad():
            for tensor in resumed.task.module.state_dict().values():
                tensor.fill_(7)  # nothing of a fresh module may matter
        torch.manual_seed(1234)
        assert fit(resumed.task, QUICK, copy.deepcopy(state))
        assert_same(resumed.result(), calm.result())


def test_ctrl_c_in_the_last_step_finishes_and_the_old_handler_comes_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    assert fit(Recorder(stop_at=15).task, QUICK)
    assert signal.getsignal(signal.SIGINT) is before
    with pytest.raises(TrainingError):
        fit(Recorder(scale=math.nan).task, QUICK)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_ctrl_c_interrupts_at_once() -> None:
    # Jobs in the background of a shell start with SIGINT ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    recorder = Recorder(stop_at=2)
    recorder.keep = lambda state: os.kill(os.getpid(), signal.SIGINT)
    recorder.task.save_state = recorder.keep
    with pytest.raises(KeyboardInterrupt):
        fit(recorder.task, QUICK)
    signal.signal(signal.SIGINT, before)
    assert len(recorder.steps) == 2


def test_training_works_in_a_thread_where_no_signal_arrives() -> None:
    recorder, finished = Recorder(), []
    thread = threading.Thread(target=lambda: finished.append(fit(recorder.task, QUICK)))
    thread.start()
    thread.join()
    assert finished == [True]


def test_the_state_of_another_run_is_refused() -> None:
    calm = Recorder()
    fit(calm.task, QUICK)
    state = calm.states[0]
    other = Recorder()
    other.task.module = nn.Linear(4, 1)
    with pytest.raises(TrainingError, match=r"does not fit.*--overwrite"):
        fit(other.task, QUICK, state)
    with pytest.raises(TrainingError, match=r"does not fit.*'module'"):
        fit(Recorder().task, QUICK, {"weights": 1})
    with pytest.raises(TrainingError, match="does not fit"):
        fit(Recorder().task, QUICK, state | {"average": None})
    with pytest.raises(TrainingError, match="4 batches an epoch, and now there are 5"):
        fit(Recorder().task, QUICK, state | {"steps": 4})


class Fixed:
    """One batch again and again."""

    steps = 2

    def __call__(self, epoch: int, step: int):
        return torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0]])


class Squared(nn.Module):
    def forward(self, outputs, targets, generator):
        return {"squared": (outputs - targets).square().sum()}, {}


def fixed_task(weight: tuple[float, float], saved: list[dict]) -> Task:
    module = nn.Linear(2, 1)
    module.weight.data, module.bias.data = torch.tensor([weight]), torch.zeros(1)
    return Task(
        module=module, loss=Squared(), batches=Fixed(), validate=lambda m: {}, score="score",
        save_best=lambda m: None, save_state=lambda state: saved.append(copy.deepcopy(state)),
    )  # fmt: skip


@pytest.mark.parametrize(("clip", "decay"), [(0.0, 0.0), (0.5, 0.0), (100.0, 0.0), (0.0, 0.1)])
def test_steps_averages_clipping_and_decay_by_arithmetic(clip: float, decay: float) -> None:
    saved: list[dict] = []
    task = fixed_task((0.5, -0.5), saved)
    config = FitConfig(
        epochs=6, optimizer="sgd", lr=0.02, momentum=0.5, weight_decay=decay, clip_norm=clip,
        schedule="onecycle", warmup=0.5, averaging="ema", ema=0.5, precision="fp32",
    )  # fmt: skip
    fit(task, config)
    w, velocity, average = [0.5, -0.5, 0.0], [0.0] * 3, None
    factors = [0.1, 0.25, 0.4, 0.55, 0.7, 0.85, 1.0, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]
    memory = [0, 3 / 12, 4 / 13, 5 / 14, 6 / 15, 7 / 16, 8 / 17, 0.5, 0.5, 0.5, 0.5, 0.5]
    for factor, kept in zip(factors, memory, strict=True):
        error = w[0] + 2 * w[1] + w[2] - 3
        gradient = [2 * error, 4 * error, 2 * error]
        size = math.hypot(*gradient)
        if clip and size > clip:
            gradient = [g * clip / size for g in gradient]
        gradient = [g + decay * x for g, x in zip(gradient[:2], w[:2], strict=True)] + gradient[2:]
        velocity = [0.5 * v + g for v, g in zip(velocity, gradient, strict=True)]
        w = [x - 0.02 * factor * v for x, v in zip(w, velocity, strict=True)]
        average = [kept * a + (1 - kept) * x for a, x in zip(average or w, w, strict=True)]
    module, mean = saved[-1]["module"], saved[-1]["average"]
    assert [*module["weight"][0].tolist(), module["bias"].item()] == pytest.approx(w, abs=1e-5)
    found = [*mean["module.weight"][0].tolist(), mean["module.bias"].item()]
    assert found == pytest.approx(average, abs=1e-5)
    assert saved[-1]["history"][-1]["lr"] == pytest.approx(0.02 / 6)


def test_averaging_covers_statistics_and_validation_sees_the_average() -> None:
    recorder = Recorder()
    fit(recorder.task, QUICK)
    module, average = (recorder.states[-1][name] for name in ("module", "average"))
    assert not torch.equal(average["module.1.running_mean"], module["1.running_mean"])
    assert torch.equal(recorder.best[-1][1].running_mean, average["module.1.running_mean"])
    recorder.best[-1].eval()
    assert (
        recorder.validate(recorder.best[-1])["score"] == recorder.states[-1]["history"][-1]["score"]
    )


def test_the_best_is_saved_when_it_is_as_good_and_not_when_it_is_worse() -> None:
    recorder, scores = Recorder(), iter([1.0, 0.5, 1.0, 2.0])
    saved: list[int] = []
    recorder.task.validate = lambda module: {"score": next(scores)}
    recorder.task.save_best = lambda module: saved.append(len(recorder.states))
    fit(recorder.task, dataclasses.replace(QUICK, epochs=4))
    assert saved == [0, 2, 3]
    assert recorder.states[-1]["best"] == 2.0


def test_look_ahead_by_arithmetic() -> None:
    """Every fifth step, and at the end of an epoch, training goes on from the average."""
    module = nn.Linear(1, 1, bias=False)
    module.weight.data.fill_(1.0)
    seen: list[float] = []

    class Constant(nn.Module):
        def forward(self, outputs, targets, generator):
            return {"x": outputs.sum()}, {}

    class Ones:
        steps = 7

        def __call__(self, epoch: int, step: int):
            seen.append(module.weight.item())
            return torch.ones(1, 1), torch.ones(1)

    saved: list[nn.Module] = []
    task = Task(
        module=module, loss=Constant(), batches=Ones(), validate=lambda m: {}, score="s",
        save_best=lambda m: saved.append(copy.deepcopy(m)), save_state=lambda state: None,
    )  # fmt: skip
    config = FitConfig(
        epochs=2, lr=0.1, optimizer="sgd", momentum=0.0, weight_decay=0.0, schedule="constant",
        warmup=0.0, averaging="lookahead", precision="fp32",
    )  # fmt: skip
    fit(task, config)
    weight, average = 1.0, None
    for done in range(1, 15):
        assert seen[done - 1] == pytest.approx(weight, abs=1e-6)
        weight -= 0.1
        if done % 5 == 0 or done % 7 == 0:
            kept = 0.95**5 * (done / 14) ** 3
            average = weight if average is None else kept * average + (1 - kept) * weight
            weight = average
    assert saved[-1].weight.item() == pytest.approx(average, abs=1e-6)
    assert module.weight.item() == pytest.approx(average, abs=1e-6)
