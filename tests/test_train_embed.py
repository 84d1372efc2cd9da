import dataclasses
import json
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from retrieval import diagnosis
from retrieval.batches import EmbedBatches
from retrieval.checkpoint import Run
from retrieval.embedder import embed_images
from retrieval.errors import ConfigError, DataError, TrainingError
from retrieval.labeled_images import LabeledImages
from retrieval.network_files import load_embedder
from retrieval.run_config import TrainEmbedConfig
from retrieval.train_embed import (
    build_embedder,
    embedding_task,
    train_embed,
    validate,
)

pytestmark = pytest.mark.usefixtures("draw_no_curves")
CPU = torch.device("cpu")
SMALL = {
    "dataset": "made up", "width": 8, "embedding_dim": 8, "epochs": 12, "batch_size": 32,
    "validation": 0.2, "precision": "fp32", "cutout": 0, "crop_padding": 2,
}  # fmt: skip


def stripes(n: int = 160, classes: int = 4) -> LabeledImages:
    """Noise with stripes, whose direction and width are the class."""
    rng = np.random.default_rng(0)
    labels = np.arange(n) % classes
    y, x = np.mgrid[0:17, 0:17]
    waves = [np.sin(x), np.sin(y), np.sin(x / 2), np.sin((x + y) / 2)]
    images = np.stack([128 + 60 * waves[label] for label in labels])[..., None]
    images = images + rng.normal(0, 40, (n, 17, 17, 3))
    names = tuple("abcd"[:classes])
    return LabeledImages("stripes", images.clip(0, 255).astype(np.uint8), labels, names)


def train(folder: Path, data: LabeledImages | None = None, distance=None, **settings) -> list[dict]:
    run = Run(folder)
    config = TrainEmbedConfig().with_values({**SMALL, **settings})
    assert train_embed(config, data or stripes(), run, device=CPU, distance=distance)
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_training_finds_the_classes_and_writes_a_whole_run(tmp_path: Path) -> None:
    history = train(tmp_path)
    assert len(history) == 12
    assert max(r["recall_at_1"] for r in history) >= 0.9
    keys = {"loss/triplet", "loss/softmax", "active_triplets", "embedding_norm", "lr", "seconds"}
    assert keys <= set(history[-1])
    names = {"config.json", "model.safetensors", "last.pt", "metrics.jsonl", "curves.png"}
    assert {p.name for p in tmp_path.iterdir()} == names
    embedder = load_embedder(tmp_path)
    unseen = stripes(400)
    vectors = embed_images(embedder, unseen.images[160:])
    similarity = vectors @ vectors.T
    np.fill_diagonal(similarity, -1)
    nearest = unseen.labels[160:][similarity.argmax(1)]
    assert (nearest == unseen.labels[160:]).mean() >= 0.9


@pytest.mark.parametrize(
    "settings",
    [
        {"distance": "l1"}, {"distance": "cosine", "mining": "all"}, {"mining": "hardest"},
        {"mining": "random", "softmax_weight": 0.0}, {"output": "tanh"}, {"pool": "gem"},
        {"views": 2, "rotation": 10.0, "noise": 0.02}, {"pairs": "views", "views": 2},
        {"norm_penalty": "l1"}, {"norm_penalty": "l2", "norm_penalty_on": "weights"},
        {"validation": 0.0}, {"precision": "bf16"}, {"backbone": "resnet18", "batch_size": 64},
    ],
    ids=str,
)  # fmt: skip
def test_every_option_trains(tmp_path: Path, settings: dict) -> None:
    history = train(tmp_path, stripes(80), **{"epochs": 1, **settings})
    assert np.isfinite(history[0]["loss"])
    assert ("recall_at_1" in history[0]) == (settings.get("validation") != 0.0)
    assert ("loss/softmax" in history[0]) == (
        settings.get("softmax_weight") != 0.0 and settings.get("pairs") != "views"
    )
    load_embedder(tmp_path)


def test_a_distance_of_ones_own_is_used(tmp_path: Path) -> None:
    calls = []

    def power_distance(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        calls.append(x.shape)
        return (x - y).abs().pow(1.5).sum(-1)

    history = train(tmp_path, stripes(80), distance=power_distance, epochs=1)
    assert np.isfinite(history[0]["loss"])
    assert calls


def test_pictures_without_labels_are_learnt_from_views(tmp_path: Path) -> None:
    data = stripes(64)
    bare = LabeledImages("bare", data.images, np.full(64, -1), ())
    history = train(tmp_path, bare, pairs="views", views=2, epochs=2)
    assert history[-1]["recall_at_1"] > 1 / 12  # better than a guess among the held out
    with pytest.raises(DataError, match="--pairs views"):
        train(tmp_path / "other", bare)


def test_classes_without_a_pair_are_an_error(tmp_path: Path) -> None:
    data = stripes(4)
    with pytest.raises(DataError, match="two pictures"):
        train(tmp_path, data, validation=0.0)
    with pytest.raises(DataError, match="at least 2"):
        train(tmp_path, stripes(20, classes=1))


def test_batches_are_views_of_the_rows_and_depend_on_seed_epoch_and_step_alone() -> None:
    data = stripes()
    config = TrainEmbedConfig().with_values({**SMALL, "views": 2, "flip": False, "crop_padding": 0})
    embedder = build_embedder(config, data.images)
    batches = EmbedBatches(data, config, embedder, CPU)
    images, targets = batches(1, 2)
    assert images.shape == (64, 3, 17, 17)
    assert torch.equal(targets[:32], targets[32:])
    assert torch.equal(images[:32], images[32:])  # nothing is augmented
    assert images.is_contiguous(memory_format=torch.channels_last)
    other = EmbedBatches(data, config, embedder, CPU)
    other(3, 0)
    assert torch.equal(other(1, 2)[0], images)
    pixels = images * embedder.std + embedder.mean
    found = {tuple((p * 255).round().int().flatten().tolist()) for p in pixels[:4]}
    assert found <= {tuple(i.transpose(2, 0, 1).flatten().tolist()) for i in data.images}


def test_the_first_epochs_see_small_pictures() -> None:
    images = np.random.default_rng(0).integers(0, 256, (60, 24, 24, 3), np.uint8)
    data = LabeledImages("noise", images, np.arange(60) % 3, ("a", "b", "c"))
    settings = {**SMALL, "epochs": 8, "small_first": 0.25, "flip": False, "crop_padding": 0}
    config = TrainEmbedConfig().with_values(settings)
    embedder = build_embedder(config, images)
    batches = EmbedBatches(data, config, embedder, CPU)
    sides = [batches(epoch, 0)[0].shape[2] for epoch in range(8)]
    assert sides == [18, 18, 24, 24, 24, 24, 24, 24]
    small, _ = batches(1, 0)
    first = images[batches.rows[0][0]].astype(np.float32).transpose(2, 0, 1)
    pixels = (small * embedder.std + embedder.mean)[0] * 255
    # The mean of a picture stays; each new pixel is a mean of a few old ones.
    assert pixels.mean() == pytest.approx(first.mean(), abs=2)
    assert pixels.std() < 0.9 * first.std()
    assert pixels.min() >= 0
    # The smallest that the network can take is not undercut.
    narrow = LabeledImages("noise", images[:, :17, :17], data.labels, data.classes)
    embedder = build_embedder(config, narrow.images)
    assert EmbedBatches(narrow, config, embedder, CPU)(0, 0)[0].shape[2] == 17


def test_the_embedder_is_fitted_to_the_look_of_the_pictures() -> None:
    data = stripes()
    embedder = build_embedder(TrainEmbedConfig().with_values(SMALL), data.images)
    assert embedder.spec.image_size == 17
    standard = embedder.standardise(torch.from_numpy(data.images).permute(0, 3, 1, 2))
    assert standard.mean((0, 2, 3)).abs().max() < 0.01
    assert (standard.std((0, 2, 3)) - 1).abs().max() < 0.01


def test_held_out_pictures_of_one_class_say_nothing() -> None:
    data = stripes(8)
    one = data.subset(np.flatnonzero(data.labels == data.labels[0]))
    config = TrainEmbedConfig().with_values({"width": 8, "image_size": 17})
    embedder = build_embedder(config, data.images)
    assert validate(embedder, data, config).keys() == {"recall_at_1", "effective_rank"}
    assert validate(embedder, one, config).keys() == {"effective_rank"}


@pytest.mark.parametrize(
    ("settings", "held", "message"),
    [
        ({}, [0, 4, 8], r"too few classes among them \(1, and it needs 2\): raise --validation"),
        ({}, [], r"too few classes among them \(0, and it needs 2\)"),
        ({"pairs": "views", "views": 2}, [0], r"too few pictures among them \(1, and it needs 2\)"),
    ],
)
def test_patience_needs_held_out_pictures_that_say_something(
    settings: dict, held: list[int], message: str
) -> None:
    data, config = stripes(80), TrainEmbedConfig().with_values({**SMALL, "patience": 1, **settings})
    with pytest.raises(ConfigError, match=message):
        embedding_task(config, data, data.subset(np.array(held, int)), CPU)
    embedding_task(config, data, data.subset(np.array([*held, 1, 2])), CPU)


def test_validation_leaves_the_picture_itself_out() -> None:
    data = stripes(40)
    config = TrainEmbedConfig().with_values(SMALL)
    embedder = build_embedder(config, data.images)
    shuffled = LabeledImages("x", data.images, np.arange(40), tuple(map(str, range(40))))
    pairs = LabeledImages(
        "y", np.concatenate([data.images] * 2), np.tile(np.arange(40), 2), shuffled.classes
    )
    assert validate(embedder, pairs, config)["recall_at_1"] == 1.0
    assert validate(embedder, data.subset(np.empty(0, int)), config) == {}


def trained(folder: Path, **settings):
    config = TrainEmbedConfig().with_values({**SMALL, "epochs": 1, **settings})
    fitting, _ = stripes(80).holdout(config.validation, config.fit.seed)
    torch.manual_seed(config.fit.seed)
    before = build_embedder(config, fitting.images).state_dict()
    history = train(folder, stripes(80), **{"epochs": 1, **settings})
    return before, load_embedder(folder).state_dict(), history


def test_frozen_parts_keep_weights_and_statistics(tmp_path: Path) -> None:
    before, after, _ = trained(tmp_path, freeze="stages.0,stages.1", averaging="none")
    for name, tensor in before.items():
        same = torch.equal(tensor, after[name])
        frozen = name.startswith(
            ("backbone.stages.0", "backbone.stages.1", "backbone.whiten.weight")
        )
        learns = name in ("projection.weight", "backbone.stages.2.conv1.weight",
                          "backbone.stages.2.norm1.running_mean")  # fmt: skip
        assert same or not frozen, name
        assert not (same and learns), name


def test_frozen_batch_norm_keeps_statistics_while_filters_learn(tmp_path: Path) -> None:
    before, after, _ = trained(tmp_path, freeze_batch_norm=True, averaging="none")
    for name, tensor in before.items():
        if "norm" in name:
            assert torch.equal(tensor, after[name]), name
    assert not torch.equal(
        before["backbone.stages.0.conv1.weight"], after["backbone.stages.0.conv1.weight"]
    )


def test_a_part_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'layer9'.*stages\.0"):
        train(tmp_path, stripes(80), freeze="layer9")


def begin(
    folder: Path, data: LabeledImages, weights: str | None = None, **options
) -> TrainEmbedConfig:
    """A run of three epochs that is stopped after its first step."""
    settings = {**SMALL, "epochs": 3, "validation": 0.0, "weights": weights}
    config = TrainEmbedConfig().with_values(settings)
    stop = lambda done, total: done == 1 and signal.raise_signal(signal.SIGINT)  # noqa: E731
    assert not train_embed(config, data, Run(folder), device=CPU, on_step=stop, **options)
    return config


def test_a_run_is_resumed_with_the_pictures_that_it_was_started_with(tmp_path: Path) -> None:
    data = stripes(80)
    config = begin(tmp_path, data)
    for other in (
        dataclasses.replace(data, classes=tuple("abce")),
        dataclasses.replace(data, labels=data.labels[::-1].copy()),
        dataclasses.replace(data, paths=tuple(Path(f"{n}.png") for n in range(80))),
    ):
        with pytest.raises(
            TrainingError, match=r"started with 80 pictures of 4 classes \(.*\), and"
        ):
            train_embed(config, other, Run(tmp_path), device=CPU, resume=True)
    assert train_embed(config, data, Run(tmp_path), device=CPU, resume=True)


def test_a_run_is_not_resumed_with_pictures_that_have_changed(tmp_path: Path) -> None:
    data = stripes(80)
    config, run = begin(tmp_path, data), Run(tmp_path)
    changed = dataclasses.replace(data, images=data.images.copy())
    changed.images[79, 3, 4, 1] ^= 1
    with pytest.raises(
        TrainingError, match=r"started with the checksum \w{8} of the pictures, and"
    ):
        train_embed(config, changed, run, device=CPU, resume=True)
    # States that were saved before there were checksums are gone on from.
    state = run.load_state()
    run.save_state({**state, "started_with": state["started_with"][:2]})
    assert train_embed(config, changed, run, device=CPU, resume=True)


@pytest.mark.parametrize("left", [None, '{"epoch": 1}\n'])
def test_a_run_that_was_killed_while_it_saved_is_whole_when_it_is_resumed(
    tmp_path: Path, left: str | None
) -> None:
    history = train(tmp_path, stripes(80), epochs=2)
    (tmp_path / "metrics.jsonl").unlink()
    if left is not None:
        (tmp_path / "metrics.jsonl").write_text(left)
    before = {path.name for path in tmp_path.iterdir()} | {"metrics.jsonl", ".note.part"}
    for name in (".last.pt.x1_.part", ".model.safetensors.y.part", ".note.part"):
        (tmp_path / name).write_bytes(b"half")
    run = Run(tmp_path)
    assert train_embed(run.config(), stripes(80), run, device=CPU, resume=True)
    assert {path.name for path in tmp_path.iterdir()} == before
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == history


def test_a_run_is_resumed_with_its_own_distance(tmp_path: Path) -> None:
    def cubed(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (x - y).abs().pow(3).sum(-1)

    data = stripes(80)
    config = begin(tmp_path, data, distance=cubed)
    with pytest.raises(TrainingError, match=r"a distance function of one's own.*the distance l2"):
        train_embed(config, data, Run(tmp_path), device=CPU, resume=True)
    assert train_embed(config, data, Run(tmp_path), device=CPU, resume=True, distance=cubed)


@pytest.mark.parametrize("out", ["first", "second"])
def test_a_resumed_run_needs_nothing_of_the_run_that_it_came_from(tmp_path: Path, out: str) -> None:
    """Be it gone, or be it the very run that goes on from itself."""
    dark, data, first = stripes(80), stripes(80), tmp_path / "first"
    dark = dataclasses.replace(dark, images=dark.images // 2)
    train(first, dark, epochs=1, width=16)
    train(tmp_path / "whole", data, epochs=3, validation=0.0, weights=str(first))
    config = begin(tmp_path / out, data, str(first))
    (first / "model.safetensors").unlink(missing_ok=True)
    assert train_embed(config, data, Run(tmp_path / out), device=CPU, resume=True)
    whole, resumed = load_embedder(tmp_path / "whole"), load_embedder(tmp_path / out)
    assert resumed.spec == whole.spec
    assert resumed.spec.width == 16
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_a_mistake_does_not_cost_the_run_that_is_there(tmp_path: Path) -> None:
    train(tmp_path, epochs=1)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    for wrong, message in (
        ({"freeze": "nothing"}, "--freeze names 'nothing'"),
        ({"patience": 1, "validation": 0.0}, "--patience 1 watches held-out pictures"),
        ({"dropout": 0.5}, "--dropout does not go with an embedder on fast-resnet"),
        (
            {"loss_options": '{"alpha": 2}'},
            "--loss-options go with losses of pytorch-metric-learning",
        ),
    ):
        with pytest.raises(ConfigError, match=message):
            train(tmp_path, **wrong)
        assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_training_goes_on_from_a_model_of_ours(tmp_path: Path) -> None:
    train(tmp_path / "first", stripes(80), epochs=2)
    source = load_embedder(tmp_path / "first")
    settings = {**SMALL, "weights": str(tmp_path / "first"), "embedding_dim": 5, "width": 16}
    config = TrainEmbedConfig().with_values(settings)
    embedder = build_embedder(config, stripes(80).images)
    assert embedder.spec.embedding_dim == 5
    assert embedder.spec.width == 8  # the backbone is the source's
    assert embedder.spec.mean == source.spec.mean
    for name, tensor in source.backbone.state_dict().items():
        assert torch.equal(tensor, embedder.backbone.state_dict()[name])
    nothing = stripes(80).subset(np.empty(0, int))
    assert embedding_task(config, stripes(80), nothing, CPU).head_lr == 1
    faster = TrainEmbedConfig().with_values({**settings, "head_lr": 3.0})
    assert embedding_task(faster, stripes(80), nothing, CPU).head_lr == 3
    train(tmp_path / "second", stripes(80), weights=str(tmp_path / "first"), epochs=1)


def test_pictures_are_mirrored_in_every_other_epoch_and_view() -> None:
    data = stripes()
    config = TrainEmbedConfig().with_values({**SMALL, "views": 2, "crop_padding": 0})
    embedder = build_embedder(config, data.images)
    batches = EmbedBatches(data, config, embedder, CPU)
    images, _ = batches(0, 0)
    one, other = images[:32], images[32:]
    assert torch.equal(one.flip(3), other)  # the two views are mirror images
    rows = batches.rows[0]
    even, odd = batches._mirrored(np.tile(rows, 2), 0), batches._mirrored(np.tile(rows, 2), 1)
    assert torch.equal(even, ~odd)
    assert 4 < int(even[:32].sum()) < 28


def test_an_embedding_is_that_of_a_picture_and_its_mirror_image() -> None:
    config = TrainEmbedConfig().with_values(SMALL)
    embedder = build_embedder(config, stripes().images)
    assert embedder.spec.mirror
    images = stripes(6).images
    np.testing.assert_allclose(
        embed_images(embedder, images), embed_images(embedder, images[:, :, ::-1].copy()), atol=1e-5
    )
    upright = build_embedder(config.with_values({"flip": False}), stripes().images)
    assert not upright.spec.mirror


def test_a_collapse_ends_the_run_in_words_and_a_healthy_run_is_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diagnosis, "WINDOW", 20)
    warnings: list[str] = []
    collapsing = {
        **SMALL, "mining": "hardest", "softmax_weight": 0.0, "loss_weight": 1.0, "lr": 30.0,
        "epochs": 10, "batch_size": 8, "schedule": "constant", "warmup": 0.0,
    }  # fmt: skip
    config = TrainEmbedConfig().with_values(collapsing)
    with pytest.raises(TrainingError, match=r"(one point|tell classes apart).*--mining semi-hard"):
        train_embed(
            config, stripes(), Run(tmp_path / "bad"), device=CPU, on_warning=warnings.append
        )
    assert len(warnings) == 1
    warnings.clear()
    config = TrainEmbedConfig().with_values({**SMALL, "epochs": 6, "batch_size": 8, "lr": 0.1})
    train_embed(config, stripes(), Run(tmp_path / "good"), device=CPU, on_warning=warnings.append)
    assert warnings == []
