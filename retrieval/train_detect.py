"""Training a detector: data, losses and the loop, wired together."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from retrieval.checkpoint import Recorder, Run
from retrieval.curves import DETECT_CURVES
from retrieval.detection.boxed_batches import BoxedBatches
from retrieval.detection.boxed_pictures import BoxedPictures
from retrieval.detection.catalogue import WITH_MASKS, build_detector
from retrieval.detection.detection_report import evaluate_detector
from retrieval.detection.detector import Detector, letterbox
from retrieval.device import keep_freed_memory
from retrieval.errors import ConfigError, DataError
from retrieval.initial_network import initial_network
from retrieval.network_files import MODEL_FILE, load_detector, save_network
from retrieval.run_config import TrainDetectConfig
from retrieval.training import Task, fit

LOOK_SAMPLE = 128
"""Pictures from which mean and deviation are computed."""

DetectorRun = Run[TrainDetectConfig]


@dataclasses.dataclass(frozen=True)
class Listener:
    """Whom training tells how far it has come."""

    on_step: Callable[[int, int], None] = lambda done, total: None
    on_epoch: Callable[[dict[str, float]], None] = lambda record: None
    on_notice: Callable[[str], None] = lambda text: None
    on_completed: Callable[[int, int], None] = lambda done, total: None


class GivenLosses(nn.Module):
    """The loss of a network that computes its own terms."""

    def forward(
        self, terms: dict[str, Tensor], targets: Tensor, generator: torch.Generator
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        """The terms, and no figures."""
        return terms, {}


def train_detect(
    config: TrainDetectConfig,
    train: BoxedPictures,
    run: DetectorRun,
    *,
    device: torch.device,
    resume: bool = False,
    listener: Listener | None = None,
) -> bool:
    """Train a detector on ``train`` into ``run``; True if finished, False if Ctrl-C stopped it.

    With ``resume`` the run goes on from its last checkpoint. The detector that is kept is that of the
    best epoch, completed with what is learnt at the end. Raises DataError where the pictures show no
    object, TrainingError where a loss is not finite, ConfigError or CheckpointError where the network
    or its weights do not fit, and in one of several processes of torchrun.
    """
    listener = listener or Listener()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("train-detect trains in one process; start it without torchrun")
    state = run.load_state() if resume else None
    fitting, held_out = train.holdout(config.validation, config.fit.seed)
    task = detecting_task(config, fitting, held_out, device, listener.on_notice, state)
    recorder = Recorder(run, config, DETECT_CURVES, resume=resume, state=state)
    task = dataclasses.replace(
        task,
        save_best=recorder.save_best,
        save_state=recorder.save_state,
        started_with=[train.identity(), train.checksum()],
        on_step=listener.on_step,
        on_epoch=listener.on_epoch,
    )
    with recorder:
        finished = fit(task, config.fit, state)
    if not finished:
        return False
    detector = load_detector(run.folder).to(device)
    detector.complete(fitting, listener.on_completed)
    save_network(detector, run.folder / MODEL_FILE)
    return True


def detecting_task(
    config: TrainDetectConfig,
    fitting: BoxedPictures,
    held_out: BoxedPictures,
    device: torch.device,
    on_notice: Callable[[str], None] = lambda text: None,
    state: dict[str, Any] | None = None,
) -> Task:
    """Network, losses, batches and validation of a run that keeps nothing yet.

    ``state`` is what the run will go on from, if it is resumed. Raises as ``train_detect`` does.
    """
    if not any((~objects.crowd).any() for objects in fitting.objects):
        raise DataError(
            f"none of the {len(fitting)} pictures of {fitting.name} to learn from shows an object; a "
            "detector needs pictures with boxes, not of crowds alone"
        )
    model = config.detector.model
    if model in WITH_MASKS and any(o.masks is None and len(o) for o in fitting.objects):
        raise DataError(
            f"--model {model} learns from masks, and {fitting.name} has objects without; take "
            "--model faster-rcnn, or data with masks (scenes, COCO JSON with segmentation, polygons of "
            "YOLO, PedMasks/)"
        )
    config.check_held_out(sum((~objects.crowd).sum() for objects in held_out.objects), "objects")
    if device.type == "cpu":
        keep_freed_memory()
    torch.manual_seed(config.fit.seed)
    detector = initial_detector(config, fitting, on_notice, state).to(device)
    detector = detector.to(memory_format=torch.channels_last)
    detector.freeze([n for n in config.freeze.split(",") if n], config.freeze_batch_norm)
    trunk = set(detector.backbone.modules())
    heads = [m for m in detector.modules() if m not in trunk and not list(m.children())]
    batches = BoxedBatches(
        fitting, detector, device,
        batch_size=config.batch_size, augmentation=config.augment, seed=config.fit.seed,
    )  # fmt: skip
    return Task(
        module=detector,
        loss=GivenLosses(),
        batches=batches,
        validate=lambda module: validate(cast("Detector", module), held_out),
        score="map_50",
        save_best=lambda module: None,
        save_state=lambda state: None,
        head=tuple(heads),
        head_lr=config.fit.head_lr or 1.0,
        spec=detector.spec.to_dict(),
    )


def initial_detector(
    config: TrainDetectConfig,
    data: BoxedPictures,
    on_notice: Callable[[str], None],
    state: dict[str, Any] | None = None,
) -> Detector:
    """An untrained detector, or one that begins with the weights that ``config`` names.

    From a detector of the same model all weights are taken whose name and shape are the same;
    ``on_notice`` is told of those that are not. The rows of classes, so, begin anew where the number of
    classes has changed. A detector that a saved ``state`` will be loaded into begins without them.
    """
    spec = dataclasses.replace(config.detector, classes=data.classes)
    sample = _look_sample(data, spec.image_size, config.fit.seed)
    detector, trained = initial_network(
        build_detector, spec, config, sample, config.fit.seed, state
    )
    if isinstance(trained, Detector) and trained.spec.model == spec.model:
        left = take_weights(detector, trained)
        if left:
            on_notice(f"From {config.weights}: all weights but {len(left)}, such as {left[0]}")
    return detector


def take_weights(detector: Detector, trained: Detector) -> list[str]:
    """Copy all weights of the same name and shape; the names of those that ``detector`` has alone."""
    own, given = detector.state_dict(), trained.state_dict()
    fitting = {n for n in own if n in given and own[n].shape == given[n].shape}
    detector.load_state_dict({n: given[n] for n in fitting}, strict=False)
    return [name for name in own if name not in fitting]


def _look_sample(data: BoxedPictures, size: int, seed: int) -> np.ndarray:
    """Some of the pictures as they enter the network: uint8 (N,S,S,3)."""
    rows = np.random.default_rng(seed).permutation(len(data))[:LOOK_SAMPLE]
    return np.stack([letterbox(data.read(int(row)), size)[0] for row in np.sort(rows)])


def validate(detector: Detector, held_out: BoxedPictures) -> dict[str, float]:
    """Average precision of boxes on the held-out pictures: from an overlap of 0.5, and over all."""
    if not any((~objects.crowd).any() for objects in held_out.objects):
        return {}
    report = evaluate_detector(detector, held_out)
    return {"map_50": report.map_50 or 0.0, "map": report.map or 0.0}


def run_at(folder: Path) -> DetectorRun:
    """The run folder of a detector."""
    return Run(folder, TrainDetectConfig)
