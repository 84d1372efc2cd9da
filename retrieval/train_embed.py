"""Training an embedder: data, sampling, losses and the loop, wired together."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from retrieval.augment import augment
from retrieval.backbones import WITH_DROPOUT
from retrieval.batches import EmbedBatches
from retrieval.checkpoint import Recorder, Run
from retrieval.curves import EMBED_CURVES
from retrieval.device import keep_freed_memory, use_bf16
from retrieval.diagnosis import CollapseAlarm, effective_rank
from retrieval.embedder import Embedder, embed_images
from retrieval.errors import ConfigError, DataError
from retrieval.evaluation import evaluate_retrieval
from retrieval.initial_network import initial_network
from retrieval.labeled_images import LabeledImages
from retrieval.losses import Distance, EmbeddingLoss
from retrieval.mapped_rows import Rows
from retrieval.processes import Processes
from retrieval.run_config import TrainEmbedConfig
from retrieval.training import Task, fit, step_generator


def train_embed(
    config: TrainEmbedConfig,
    train: LabeledImages,
    run: Run,
    *,
    device: torch.device,
    resume: bool = False,
    distance: Distance | None = None,
    on_step: Callable[[int, int], None] = lambda done, total: None,
    on_epoch: Callable[[dict[str, float]], None] = lambda record: None,
    on_warning: Callable[[str], None] = lambda text: None,
) -> bool:
    """Train an embedder on ``train`` into ``run``; True if finished, False if Ctrl-C stopped it.

    ``distance``, two (N,D) → (N,), takes the place of the named one in the triplet loss; what is
    searched by, and picks the best epoch, stays the named one. With ``resume`` the run goes on from
    its last checkpoint. Where torchrun started several processes, all
    of them call this. Raises DataError where no positives or negatives can be formed, TrainingError
    where a loss is not finite or the embedding has collapsed.
    """
    torch.manual_seed(config.fit.seed)
    fitting, held_out = train.holdout(config.validation, config.fit.seed)
    processes = Processes.join(device)
    state = run.load_state() if resume else None
    task = embedding_task(
        config, fitting, held_out, device, distance=distance, processes=processes, state=state
    )
    # Only now: a mistake in the configuration must not cost the run that is there.
    recorder = Recorder(run, config, EMBED_CURVES, resume=resume, state=state, keep=processes.first)
    task = dataclasses.replace(
        task,
        save_best=recorder.save_best,
        save_state=recorder.save_state,
        started_with=[
            train.identity(),
            _described(distance or config.embedder.distance),
            train.checksum(),
        ],
        on_step=on_step,
        on_epoch=on_epoch,
        watch=CollapseAlarm(on_warning, stop=config.stop_on_collapse),
    )
    with recorder:
        finished = fit(task, config.fit, state)
    processes.wait()  # the first one may still be saving what the others will read
    return finished


def embedding_task(
    config: TrainEmbedConfig,
    fitting: LabeledImages,
    held_out: LabeledImages,
    device: torch.device,
    *,
    distance: Distance | None = None,
    processes: Processes | None = None,
    state: dict[str, Any] | None = None,
) -> Task:
    """Network, loss, batches and validation of a run that keeps nothing yet.

    ``state`` is what the run will go on from, if it is resumed. Raises as ``train_embed`` does.
    """
    _check_classes(config, fitting)
    if config.pairs == "views":
        config.check_held_out(len(held_out), needed=2)
    else:
        config.check_held_out(len(np.unique(held_out.labels)), "classes", needed=2)
    if device.type == "cpu":
        keep_freed_memory()
    embedder = build_embedder(config, fitting.images, state).to(device)
    embedder = embedder.to(memory_format=torch.channels_last)
    processes = processes or Processes()
    processes.share_batch_norm(embedder)
    embedder.freeze([n for n in config.freeze.split(",") if n], config.freeze_batch_norm)
    weights = [p for p in embedder.parameters() if p.requires_grad and p.ndim > 1]
    loss = EmbeddingLoss(
        config.objective,
        distance=distance or config.embedder.distance,
        bound=embedder.bound,
        dim=config.embedder.embedding_dim,
        n_classes=len(fitting.classes) if config.pairs == "classes" else 0,
        weights=weights,
    ).to(device)
    return Task(
        module=embedder,
        loss=loss,
        batches=EmbedBatches(fitting, config, embedder, device, processes),
        validate=lambda module: validate(module, held_out, config),
        score="recall_at_1",
        save_best=lambda module: None,
        save_state=lambda state: None,
        head=(embedder.projection,),
        head_lr=config.fit.head_lr or 1.0,
        processes=processes,
        spec=embedder.spec.to_dict(),
    )


def build_embedder(
    config: TrainEmbedConfig, images: Rows, state: dict[str, Any] | None = None
) -> Embedder:
    """An untrained embedder (or one from ``config.weights``) fitted to the look of these pictures.

    One that a saved ``state`` will be loaded into begins without those weights. Raises ConfigError
    where dropout is wanted of a backbone that has none.
    """
    if config.embedder.dropout and config.embedder.backbone not in WITH_DROPOUT:
        raise ConfigError(
            f"--dropout does not go with an embedder on {config.embedder.backbone}; its backbone "
            f"must be one of {', '.join(WITH_DROPOUT)}"
        )
    mirror = config.embedder.mirror and config.augment.flip
    spec = dataclasses.replace(config.embedder, image_size=images.shape[1], mirror=mirror)
    return initial_network(Embedder, spec, config, images, config.fit.seed, state)[0]


def validate(
    module: nn.Module, held_out: LabeledImages, config: TrainEmbedConfig
) -> dict[str, float]:
    """recall@1 of the held-out pictures: each asks all others for one of its class; effective rank.

    With pairs of views, an augmented view of each asks for the picture that it came from. Embedded in
    the precision of training, which takes half the time of float32.
    """
    if len(held_out) == 0:
        return {}
    assert isinstance(module, Embedder)
    device = module.mean.device
    fast = torch.autocast(
        device.type, torch.bfloat16, enabled=use_bf16(device, config.fit.precision)
    )
    with fast:
        gallery = embed_images(module, held_out.images)
    rows = np.arange(len(held_out), dtype=np.int64)
    queries, labels = gallery, held_out.labels
    if config.pairs == "views":
        generator = step_generator(config.fit.seed, 0, 0)
        pixels = torch.from_numpy(held_out.images[:]).permute(0, 3, 1, 2)
        views = augment(pixels, config.augment, generator).round().byte()
        with fast:
            queries, labels = embed_images(module, views.permute(0, 2, 3, 1).numpy()), rows
    found = {"effective_rank": effective_rank(gallery)}
    if len(np.unique(labels)) < 2:  # of one class every answer is right: that says nothing
        return found
    itself = rows if config.pairs == "classes" else None
    report = evaluate_retrieval(
        queries, labels, gallery, labels, query_ids=itself, gallery_ids=itself,
        distance=config.embedder.distance, ks=(1,), intervals=False,
    )  # fmt: skip
    return {"recall_at_1": report.recall_at_k[1], **found}


def _described(distance: str | Distance) -> str:
    if isinstance(distance, str):
        return f"the distance {distance}"
    return "a distance function of one's own (it is not saved: train_embed takes it when resuming, too)"


def _check_classes(config: TrainEmbedConfig, data: LabeledImages) -> None:
    if config.pairs == "views":
        return
    classes, counts = np.unique(data.labels, return_counts=True)
    if len(classes) < 2 or classes[0] < 0:
        raise DataError(
            f"{data.name} has {len(data.classes)} classes, and triplets need at least 2; "
            "put pictures in one folder for each class, or learn without labels: "
            "--pairs views --views 2"
        )
    if counts.max() < 2 and config.views < 2:
        raise DataError(
            f"no class of {data.name} has two pictures to train with, so that there is no positive "
            "pair; add pictures, or give --views 2"
        )
