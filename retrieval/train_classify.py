"""Training a classifier: data, loss and the loop, wired together."""

import dataclasses
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from index.atomic import write_atomically
from retrieval.batches import ClassBatches
from retrieval.checkpoint import FOLDS_FILE, Recorder, Run
from retrieval.class_loss import ClassLoss
from retrieval.classifier import Classifier, classify_images
from retrieval.curves import CLASS_CURVES
from retrieval.device import keep_freed_memory
from retrieval.errors import ConfigError, DataError
from retrieval.initial_network import initial_network
from retrieval.labeled_images import LabeledImages
from retrieval.layers import initialise
from retrieval.processes import Processes
from retrieval.run_config import TrainClassifyConfig
from retrieval.training import Task, fit

ClassifierRun = Run[TrainClassifyConfig]


@dataclasses.dataclass(frozen=True)
class Listener:
    """Whom training tells how far it has come."""

    on_step: Callable[[int, int], None] = lambda done, total: None
    on_epoch: Callable[[dict[str, float]], None] = lambda record: None
    on_fold: Callable[[int], None] = lambda number: None


def train_classify(
    config: TrainClassifyConfig,
    train: LabeledImages,
    run: ClassifierRun,
    *,
    device: torch.device,
    resume: bool = False,
    listener: Listener | None = None,
) -> bool:
    """Train a classifier on ``train`` into ``run``; True if finished, False if Ctrl-C stopped it.

    With ``resume`` the run goes on from its last checkpoint. Where torchrun started several processes,
    all of them call this. Raises DataError where there are no two classes, TrainingError where a loss
    is not finite, ConfigError or CheckpointError where the network or its weights do not fit.
    """
    parts = train.holdout(config.validation, config.fit.seed)
    return _train(config, *parts, run, device, resume, listener or Listener())


def cross_validate(
    config: TrainClassifyConfig,
    train: LabeledImages,
    run: ClassifierRun,
    *,
    device: torch.device,
    resume: bool = False,
    listener: Listener | None = None,
) -> dict[str, Any] | None:
    """Accuracy of ``config.folds`` classifiers, each measured on the part it did not learn from.

    Fold i is the run folder fold-i in ``run``; the result (accuracies after the last epoch, their mean
    and standard deviation) is written to folds.json there and returned, or None where Ctrl-C stopped
    training. With ``resume`` finished folds are kept. Raises as ``train_classify`` does.
    """
    listener = listener or Listener()
    processes = Processes.join(device)
    if not resume and processes.first:
        parts = train.fold(0, config.folds, config.fit.seed)
        classifying_task(config, *parts, device)  # a mistake must not make a run
    whole = Recorder(run, config, CLASS_CURVES, resume=resume, keep=processes.first)
    accuracies = []
    for number in range(config.folds):
        listener.on_fold(number)
        fold = Run(run.folder / f"fold-{number + 1}", TrainClassifyConfig)
        parts = train.fold(number, config.folds, config.fit.seed)
        if not _train(config, *parts, fold, device, resume and fold.exists, listener, whole):
            return None
        # The last epoch, not the best one: the part that measures must not choose too.
        state = fold.load_state()
        assert state is not None
        accuracies.append(float(state["history"][-1]["accuracy"]))
    spread = float(np.std(accuracies, ddof=1))
    result = {"accuracies": accuracies, "mean": float(np.mean(accuracies)), "deviation": spread}
    if processes.first:
        write_atomically(run.folder / FOLDS_FILE, (json.dumps(result, indent=2) + "\n").encode())
    return result


def _train(
    config: TrainClassifyConfig,
    fitting: LabeledImages,
    held_out: LabeledImages,
    run: ClassifierRun,
    device: torch.device,
    resume: bool,
    listener: Listener,
    whole: Recorder | None = None,
) -> bool:
    processes = Processes.join(device)
    state = run.load_state() if resume else None
    task = classifying_task(config, fitting, held_out, device, processes=processes, state=state)
    recorder = Recorder(
        run, config, CLASS_CURVES, resume=resume, state=state, keep=processes.first, within=whole
    )
    task = dataclasses.replace(
        task,
        save_best=recorder.save_best,
        save_state=recorder.save_state,
        started_with=[fitting.identity(), fitting.checksum()],
        on_step=listener.on_step,
        on_epoch=listener.on_epoch,
    )
    with recorder:
        finished = fit(task, config.fit, state)
    processes.wait()  # the first one may still be saving what the others will read
    return finished


def classifying_task(
    config: TrainClassifyConfig,
    fitting: LabeledImages,
    held_out: LabeledImages,
    device: torch.device,
    *,
    processes: Processes | None = None,
    state: dict[str, Any] | None = None,
) -> Task:
    """Network, loss, batches and validation of a run that keeps nothing yet.

    ``state`` is what the run will go on from, if it is resumed. Raises as ``train_classify`` does.
    """
    _check_classes(fitting)
    config.check_held_out(len(held_out))
    if device.type == "cpu":
        keep_freed_memory()
    torch.manual_seed(config.fit.seed)
    classifier = build_classifier(config, fitting, state).to(device)
    classifier = classifier.to(memory_format=torch.channels_last)
    processes = processes or Processes()
    processes.share_batch_norm(classifier)
    classifier.freeze([n for n in config.freeze.split(",") if n], config.freeze_batch_norm)
    counts = np.bincount(fitting.labels, minlength=len(fitting.classes))
    weights = [p for p in classifier.parameters() if p.requires_grad and p.ndim > 1]
    return Task(
        module=classifier,
        loss=ClassLoss(config.objective, counts, weights).to(device),
        batches=ClassBatches(fitting, config, classifier, device, processes),
        validate=functools.partial(validate, held_out=held_out),
        score="accuracy",
        save_best=lambda module: None,
        save_state=lambda state: None,
        head=(classifier.head,),
        head_lr=config.fit.head_lr or 1.0,
        processes=processes,
        spec=classifier.spec.to_dict(),
    )


def build_classifier(
    config: TrainClassifyConfig, data: LabeledImages, state: dict[str, Any] | None = None
) -> Classifier:
    """An untrained classifier, or one that begins with the weights that ``config`` names.

    One that a saved ``state`` will be loaded into begins without those weights.
    """
    spec = dataclasses.replace(
        config.classifier, image_size=data.images.shape[1], classes=data.classes
    )
    if config.init != "network" and config.weights is not None:
        raise ConfigError(f"--init {config.init} would undo --weights {config.weights}; give one")
    classifier, trained = initial_network(
        Classifier, spec, config, data.images, config.fit.seed, state
    )
    if config.init != "network":
        initialise(classifier, config.init)
    if config.reuse_classes and state is None:
        if not isinstance(trained, Classifier):
            raise ConfigError("--reuse-classes needs --from a classifier of ours")
        reuse_classes(classifier, trained)
    return classifier


@torch.no_grad()
def reuse_classes(classifier: Classifier, trained: Classifier) -> int:
    """Copy the hidden layers of the head, and the rows of classes that both know; how many those are.

    Raises ConfigError where the heads differ in shape or have one row for two classes, or no class is
    known to both.
    """
    new, old = classifier.head, trained.head
    places = {name: row for row, name in enumerate(trained.spec.classes)}
    shared = [(row, places[n]) for row, n in enumerate(classifier.spec.classes) if n in places]
    shapes = [[p.shape[-1:] for p in head.parameters()][:-2] for head in (new, old)]
    if shapes[0] != shapes[1] or new.output.weight.shape[1] != old.output.weight.shape[1]:
        raise ConfigError(
            "--reuse-classes needs a head of the same layers; leave --pool, --hidden and --image-size "
            "as they were"
        )
    if new.logistic or old.logistic:
        raise ConfigError(
            "--reuse-classes: a logistic network has one row for both classes, so none can be kept "
            "alone; leave out --reuse-classes, or take --backbone softmax for both"
        )
    if not shared:
        raise ConfigError(
            f"--reuse-classes: none of the classes {classifier.spec.classes} has a row in "
            f"{trained.spec.classes}"
        )
    new.hidden.load_state_dict(old.hidden.state_dict())
    for row, source in shared:
        new.output.weight[row] = old.output.weight[source]
        new.output.bias[row] = old.output.bias[source]
    return len(shared)


def validate(module: nn.Module, held_out: LabeledImages) -> dict[str, float]:
    """Accuracy and cross-entropy of the held-out pictures."""
    if len(held_out) == 0:
        return {}
    assert isinstance(module, Classifier)
    probabilities = classify_images(module, held_out.images)
    right = probabilities.argmax(1) == held_out.labels
    of_truth = probabilities[np.arange(len(held_out)), held_out.labels]
    return {
        "accuracy": float(right.mean()),
        "validation_loss": float(-np.log(of_truth.clip(min=1e-12)).mean()),
    }


def _check_classes(data: LabeledImages) -> None:
    present = np.unique(data.labels)
    if len(present) < 2 or present[0] < 0:
        raise DataError(
            f"{data.name} has {len(data.classes)} classes, and a classifier needs at least 2; put "
            "pictures in one folder for each class"
        )


def run_at(folder: Path) -> ClassifierRun:
    """The run folder of a classifier."""
    return Run(folder, TrainClassifyConfig)
