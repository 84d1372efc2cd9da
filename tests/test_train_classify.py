"""Training classifiers: it learns, resumes, mixes, weighs, folds, stops early, transfers."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from test_train_embed import stripes
from torch.nn import functional as F

from retrieval.batches import ClassBatches
from retrieval.class_loss import ClassLoss, class_weights, cross_entropy
from retrieval.classifier import Classifier, classify_images
from retrieval.config import ClassLossConfig
from retrieval.errors import ConfigError, DataError, TrainingError
from retrieval.labeled_images import LabeledImages
from retrieval.layers import initialise
from retrieval.network_files import load_classifier, load_embedder
from retrieval.run_config import TrainClassifyConfig, TrainEmbedConfig
from retrieval.specs import ClassifierSpec
from retrieval.train_classify import (
    Listener,
    build_classifier,
    classifying_task,
    cross_validate,
    run_at,
    train_classify,
    validate,
)
from retrieval.train_embed import build_embedder
from retrieval.training import fit

CPU = torch.device("cpu")
SMALL = {
    "dataset": "made up", "width": 8, "epochs": 5, "batch_size": 32, "validation": 0.2,
    "precision": "fp32",
}  # fmt: skip
PLAIN = {"backbone": "softmax", "optimizer": "adamw", "lr": 0.01, "averaging": "none"}


pytestmark = pytest.mark.usefixtures("draw_no_curves")


def config_of(**settings: object) -> TrainClassifyConfig:
    return TrainClassifyConfig().with_values({**SMALL, **settings})


def train(folder: Path, data: LabeledImages | None = None, **settings: object) -> list[dict]:
    config = config_of(**settings)
    assert train_classify(config, data or stripes(), run_at(folder), device=CPU)
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_training_finds_the_classes_and_writes_a_whole_run(tmp_path: Path) -> None:
    history = train(tmp_path, epochs=12)
    assert len(history) == 12
    keys = {"loss/cross_entropy", "training_accuracy", "accuracy", "validation_loss", "lr"}
    assert keys <= set(history[-1])
    names = {"config.json", "model.safetensors", "last.pt", "metrics.jsonl", "curves.png"}
    assert {p.name for p in tmp_path.iterdir()} == names
    assert run_at(tmp_path).config() == config_of(epochs=12)
    classifier = load_classifier(tmp_path)
    assert classifier.spec.classes == ("a", "b", "c", "d")
    assert classifier.spec.image_size == 17
    unseen = stripes(400).subset(np.arange(160, 400))
    found = classify_images(classifier, unseen.images).argmax(1)
    assert (found == unseen.labels).mean() >= 0.9


@pytest.mark.parametrize(
    "settings",
    [
        {"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.2, "cutmix": 1.0}, {"label_smoothing": 0.1},
        {"class_weights": "balanced"}, {"norm_penalty": "l1"}, {"norm_penalty": "l2"},
        {"init": "kaiming"}, {"validation": 0.0}, {"freeze": "stages.0"},
        {"backbone": "lenet", "lr": 0.01, "batch_norm": True}, {"channels": 1},
    ],
    ids=str,
)  # fmt: skip
def test_every_option_trains(tmp_path: Path, settings: dict) -> None:
    history = train(tmp_path, stripes(80), **{"epochs": 1, **settings})
    assert np.isfinite(history[0]["loss"])
    assert ("accuracy" in history[0]) == (settings.get("validation") != 0.0)
    assert ("loss/norm_penalty" in history[0]) == ("norm_penalty" in settings)
    load_classifier(tmp_path)


@pytest.mark.parametrize(
    "settings",
    [
        {"backbone": "nin"}, {"cutmix": 1.0, "mixup": 0.2},
        {"weights": "first", "reuse_classes": True},
    ],
    ids=str,
)  # fmt: skip
def test_what_is_resumed_is_what_was_never_stopped_bit_for_bit(
    tmp_path: Path, settings: dict
) -> None:
    settings = {"epochs": 3, "lr": 0.01, **settings}  # nin has dropout
    settings |= {"width_factor": 0.05} if "backbone" in settings else {}
    if "weights" in settings:
        train(tmp_path / "first", stripes(40), epochs=1)
        settings["weights"] = str(tmp_path / "first")
    config, data = config_of(**settings), stripes(80)
    train(tmp_path / "whole", data, **settings)

    class StopAt:
        def __init__(self, step: int) -> None:
            self.step = step

        def __call__(self, done: int, total: int) -> None:
            if done == self.step:
                import signal

                signal.raise_signal(signal.SIGINT)

    run = run_at(tmp_path / "parts")
    for number, step in enumerate((1, 3)):
        options = {"device": CPU, "resume": number > 0, "listener": Listener(on_step=StopAt(step))}
        assert not train_classify(config, data, run, **options)
        (tmp_path / "first" / "model.safetensors").unlink(missing_ok=True)  # all is in the state
    changed = dataclasses.replace(data, images=255 - data.images)
    with pytest.raises(TrainingError, match=r"the checksum \w{8} of the pictures"):
        train_classify(config, changed, run, device=CPU, resume=True)
    assert train_classify(config, data, run, device=CPU, resume=True)
    one, other = (load_classifier(tmp_path / n).state_dict() for n in ("whole", "parts"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_cross_entropy_is_torchs() -> None:
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 3, 3, 1])
    hard = F.one_hot(labels, 4).float()
    even, weights = torch.ones(4), torch.tensor([1.0, 2.0, 0.5, 3.0])
    for smoothing in (0.0, 0.2):
        expected = F.cross_entropy(logits, labels, label_smoothing=smoothing)
        torch.testing.assert_close(cross_entropy(logits, hard, smoothing, even), expected)
    expected = F.cross_entropy(logits, labels, weight=weights)
    torch.testing.assert_close(cross_entropy(logits, hard, 0.0, weights), expected)
    soft = 0.3 * hard + 0.7 * hard.flip(0)
    expected = F.cross_entropy(logits, soft)
    torch.testing.assert_close(cross_entropy(logits, soft, 0.0, even), expected)


def test_balanced_classes_count_the_same() -> None:
    counts = np.array([1, 3, 0, 4])
    weights = class_weights(counts)
    np.testing.assert_allclose(weights * counts, [8 / 3, 8 / 3, 0, 8 / 3])
    config = ClassLossConfig(class_weights="balanced")
    loss = ClassLoss(config, counts, [])
    targets = F.one_hot(torch.tensor([0, 1, 1, 1, 3, 3, 3, 3]), 4).float()
    terms, figures = loss(torch.zeros(8, 4), targets, torch.Generator())
    assert terms["cross_entropy"].item() == pytest.approx(np.log(4))
    assert figures["training_accuracy"] == pytest.approx(1 / 8)  # of equals the first
    assert not loss.state_dict()


def test_penalties_are_sums_over_weights() -> None:
    weights = [
        torch.nn.Parameter(torch.tensor([[1.0, -2.0]])),
        torch.nn.Parameter(torch.ones(1, 3)),
    ]
    targets = torch.eye(2)
    for kind, expected in (("l1", 6.0), ("l2", (1 + 4 + 3) / 2)):
        config = ClassLossConfig(norm_penalty=kind, norm_penalty_weight=0.1)
        terms, _ = ClassLoss(config, np.ones(2, int), weights)(targets, targets, torch.Generator())
        assert terms["norm_penalty"].item() == pytest.approx(0.1 * expected)


def batches_of(data: LabeledImages, **settings: object) -> ClassBatches:
    config = config_of(flip=False, crop_padding=0, batch_size=16, **settings)
    spec = ClassifierSpec(backbone="softmax", image_size=17, classes=data.classes,
                          mean=(0.0,) * 3, std=(1.0,) * 3)  # fmt: skip
    return ClassBatches(data, config, Classifier(spec), CPU)


def numbered(n: int = 64, classes: int = 4) -> LabeledImages:
    """Pictures of one shade each, which is the number of the picture."""
    images = np.broadcast_to(np.arange(n, dtype=np.uint8)[:, None, None, None], (n, 17, 17, 3))
    names = tuple("abcd"[:classes])
    return LabeledImages("numbers", images.copy(), np.arange(n) % classes, names)


def test_every_picture_comes_once_an_epoch_with_its_label() -> None:
    data = numbered()
    batches = batches_of(data)
    seen = []
    for step in range(batches.steps):
        images, targets = batches(0, step)
        rows = (images[:, 0, 0, 0] * 255).round().long()
        assert torch.equal(targets.argmax(1), rows % 4)
        assert torch.equal(targets.sum(1), torch.ones(16))
        seen += rows.tolist()
    assert sorted(seen) == list(range(64))


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_pictures_and_labels_are_mixed_by_the_same_shares(kind: str) -> None:
    data = numbered()
    plain, mixing = batches_of(data), batches_of(data, **{kind: 1.0})
    shares = []
    for step in range(4):
        (images, labels), (mixed, targets) = plain(0, step), mixing(0, step)
        own = images[:, 0, 0, 0] * 255
        for row in range(16):
            shades = (mixed[row, 0] * 255).flatten()
            if kind == "cutmix":
                others = shades[(shades - own[row]).abs() > 0.5].round().unique()
                assert len(others) <= 1
                kept = (shades.round() == own[row].round()).float().mean().item()
                if len(others):
                    other = int(others)
                    expected = kept * labels[row] + (1 - kept) * F.one_hot(
                        torch.tensor(other % 4), 4
                    )
                    torch.testing.assert_close(targets[row], expected)
                    shares.append(kept)
            else:
                partners = [
                    (j, s) for j in range(16) for s in [(shades[0] - own[j]) / (own[row] - own[j])]
                    if j != row and torch.allclose(
                        targets[row], s * labels[row] + (1 - s) * labels[j], atol=1e-3)
                ]  # fmt: skip
                itself = torch.allclose(shades[0], own[row], atol=1e-3)
                assert partners or itself
        assert torch.equal(mixing(0, step)[0], mixed)  # drawn by epoch and step alone
    assert kind == "mixup" or 0 < min(shares) < max(shares) < 1


def test_initialisers_do_what_they_say() -> None:
    def weights(how: str) -> torch.Tensor:
        torch.manual_seed(0)
        network = torch.nn.Sequential(torch.nn.Linear(300, 200))
        initialise(network, how)
        assert torch.equal(network[0].bias, torch.zeros(200))
        return network[0].weight

    assert weights("normal").std().item() == pytest.approx(0.01, rel=0.02)
    assert torch.equal(weights("constant"), torch.full((200, 300), 0.01))
    assert weights("xavier").abs().max().item() == pytest.approx((6 / 500) ** 0.5, rel=0.01)
    assert weights("kaiming").std().item() == pytest.approx((2 / 200) ** 0.5, rel=0.02)


def test_training_stops_where_nothing_gets_better(tmp_path: Path) -> None:
    quiet = {**PLAIN, "lr": 1e-9, "epochs": 30, "patience": 2}
    history = train(tmp_path / "still", stripes(80), **quiet)
    assert len(history) == 3
    # What has stopped stays so when it is resumed.
    run = run_at(tmp_path / "still")
    assert train_classify(run.config(), stripes(80), run, device=CPU, resume=True)
    assert len((tmp_path / "still" / "metrics.jsonl").read_text().splitlines()) == 3


def test_patience_counts_epochs_without_a_better_score() -> None:
    config = config_of(**PLAIN, epochs=9, patience=2)
    scores = iter([0.1, 0.5, 0.4, 0.6, 0.6, 0.2, 0.9, 0.9, 0.9])
    task = classifying_task(config, stripes(40), stripes(8), CPU)
    task.validate = lambda module: {"accuracy": next(scores)}
    records: list[dict] = []
    task.on_epoch = records.append
    assert fit(task, config.fit)
    assert [r["accuracy"] for r in records] == [0.1, 0.5, 0.4, 0.6, 0.6, 0.2]
    with pytest.raises(ConfigError, match="--patience 2 watches held-out pictures"):
        classifying_task(config, stripes(40), stripes(8).subset(np.arange(0)), CPU)


def test_folds_share_all_pictures_and_give_mean_and_spread(tmp_path: Path) -> None:
    data = stripes(83)
    held = [data.fold(i, 3, 0)[1] for i in range(3)]
    rows = [image.tobytes() for part in held for image in part.images]
    assert sorted(rows) == sorted(image.tobytes() for image in data.images)
    for part in held:
        counts = np.bincount(part.labels, minlength=4)
        assert counts.max() - counts.min() <= 1
    config = config_of(**PLAIN, epochs=2, folds=3)
    result = cross_validate(config, data, run_at(tmp_path), device=CPU)
    assert result is not None
    assert result["mean"] == pytest.approx(sum(result["accuracies"]) / 3)
    squares = sum((a - result["mean"]) ** 2 for a in result["accuracies"])
    assert result["deviation"] == pytest.approx((squares / 2) ** 0.5)
    assert json.loads((tmp_path / "folds.json").read_text()) == result
    assert len(load_classifier(tmp_path / "fold-3").spec.classes) == 4
    before = (tmp_path / "fold-1" / "last.pt").stat().st_mtime_ns
    assert cross_validate(config, data, run_at(tmp_path), device=CPU, resume=True) == result
    assert (tmp_path / "fold-1" / "last.pt").stat().st_mtime_ns == before
    with pytest.raises(DataError, match="too few for 3 folds"):
        stripes(2).fold(0, 3, 0)
    with pytest.raises(ConfigError, match="--folds is 1"):
        config_of(folds=1)


def test_another_run_in_the_folder_leaves_no_fold_of_the_one_before(tmp_path: Path) -> None:
    run, data = run_at(tmp_path), stripes(40)
    cross_validate(config_of(**PLAIN, epochs=1, folds=3), data, run, device=CPU)

    def interrupted_at(fold: int) -> list[str]:
        def interrupt(number: int) -> None:
            if number == fold:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            cross_validate(again, data, run, device=CPU, listener=Listener(on_fold=interrupt))
        return sorted(p.name for p in tmp_path.iterdir())

    again = config_of(**PLAIN, epochs=2, folds=2)
    # Until the first fold has something to keep, what is there stays.
    assert interrupted_at(0) == ["config.json", "fold-1", "fold-2", "fold-3", "folds.json"]
    assert interrupted_at(1) == ["config.json", "fold-1"]
    assert run.config() == again


@pytest.mark.parametrize("folds", [0, 2])
def test_a_mistake_does_not_cost_the_run_that_is_there(tmp_path: Path, folds: int) -> None:
    train(tmp_path, stripes(40), epochs=1)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    wrong = config_of(epochs=1, folds=folds, freeze="nothing")
    learn = cross_validate if folds else train_classify
    with pytest.raises(ConfigError, match="--freeze names 'nothing'"):
        learn(wrong, stripes(40), run_at(tmp_path), device=CPU)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_networks_go_from_classifier_to_embedder_and_back(tmp_path: Path) -> None:
    data = stripes(80)
    train(tmp_path / "c", data, epochs=1)
    source = load_classifier(tmp_path / "c")
    weights = {"weights": str(tmp_path / "c"), "width": 16}
    embed = TrainEmbedConfig().with_values({**SMALL, "embedding_dim": 4, **weights})
    embedder = build_embedder(embed, data.images)
    assert embedder.spec.width == 8
    assert embedder.spec.mean == source.spec.mean
    assert embedder.projection.out_features == 4
    pairs = [(embedder.backbone, source.backbone)]
    again = build_classifier(config_of(**weights), data)
    pairs.append((again.backbone, source.backbone))
    for one, other in pairs:
        mine, theirs = one.state_dict(), other.state_dict()
        assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    assert not torch.equal(again.head.output.weight, source.head.output.weight)
    assert classifying_task(config_of(**weights), data, data, CPU).head_lr == 1
    assert classifying_task(config_of(**weights, head_lr=3.0), data, data, CPU).head_lr == 3
    from retrieval.network_files import save_network

    save_network(embedder, tmp_path / "e.safetensors")
    back = build_classifier(config_of(weights=str(tmp_path / "e.safetensors")), data)
    name = "stages.2.conv2.weight"
    expected = load_embedder(tmp_path / "e.safetensors").backbone.state_dict()[name]
    assert torch.equal(back.backbone.state_dict()[name], expected)


def test_classes_that_both_know_keep_their_rows(tmp_path: Path) -> None:
    data = stripes(80)
    lenet = {"backbone": "lenet", "lr": 0.01, "epochs": 1}
    train(tmp_path, data, **lenet)
    source = load_classifier(tmp_path).head
    other = LabeledImages("other", data.images, data.labels % 3, ("d", "new", "b"))
    new = build_classifier(config_of(weights=str(tmp_path), reuse_classes=True), other).head
    assert torch.equal(new.output.weight[0], source.output.weight[3])
    assert torch.equal(new.output.weight[2], source.output.weight[1])
    assert torch.equal(new.output.bias[[0, 2]], source.output.bias[[3, 1]])
    assert torch.equal(new.hidden[0].weight, source.hidden[0].weight)
    assert not any(torch.equal(new.output.weight[1], row) for row in source.output.weight)
    strange = LabeledImages("other", data.images, data.labels % 2, ("x", "y"))
    for settings, pictures, message in (
        ({}, strange, "none of the classes"),
        ({"hidden": "7"}, other, "head of the same layers"),
        ({"weights": None}, other, "needs --from"),
        ({"init": "xavier"}, other, "would undo"),
    ):
        values = {"weights": str(tmp_path), "reuse_classes": True, **settings}
        with pytest.raises(ConfigError, match=message):
            build_classifier(config_of(**values), pictures)


def test_the_one_row_of_a_logistic_network_is_of_no_class(tmp_path: Path) -> None:
    train(tmp_path, stripes(20, classes=2), backbone="logistic", epochs=1)
    values = {"backbone": "logistic", "weights": str(tmp_path), "reuse_classes": True}
    with pytest.raises(ConfigError, match="has one row for both classes"):
        build_classifier(config_of(**values), stripes(20, classes=2))


def test_pictures_without_two_classes_are_refused(tmp_path: Path) -> None:
    bare = LabeledImages("bare", stripes(8).images, np.full(8, -1), ())
    for data in (bare, stripes(20, classes=1)):
        with pytest.raises(DataError, match="a classifier needs at least 2"):
            train(tmp_path, data)
    assert not (tmp_path / "config.json").exists()


def test_validation_counts_by_hand() -> None:
    data = stripes(12)
    classifier = build_classifier(config_of(**PLAIN), data)
    probabilities = classify_images(classifier, data.images).astype(np.float64)
    right, loss = 0, 0.0
    for row, label in enumerate(data.labels):
        right += int(max(range(4), key=lambda c, r=row: probabilities[r, c]) == label)
        loss -= np.log(probabilities[row, label])
    found = validate(classifier, data)
    assert found["accuracy"] == pytest.approx(right / 12)
    assert found["validation_loss"] == pytest.approx(loss / 12, rel=1e-4)
    assert validate(classifier, data.subset(np.arange(0))) == {}
