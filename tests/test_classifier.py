"""Classifiers: heads, probabilities, views, and each backbone saved and loaded under both heads."""

import dataclasses

import numpy as np
import pytest
import torch
from test_backbones import ALL, spec_of
from torch import nn
from torchvision import models

from retrieval.backbones import as_backbone
from retrieval.classifier import Classifier, classes_of, classify_images
from retrieval.embedder import Embedder
from retrieval.errors import CheckpointError, ConfigError
from retrieval.network_files import (
    kind_of_model,
    load_classifier,
    load_embedder,
    load_network,
    network_spec,
    save_network,
)
from retrieval.specs import ClassifierSpec, EmbedderSpec

ABC = ("a", "b", "c")


def classifier_of(name: str, **options: object) -> Classifier:
    torch.manual_seed(0)
    options = {"classes": ABC, **options}
    spec = spec_of(name)
    shared = {f: getattr(spec, f) for f in ("backbone", "width", "width_factor", "blocks")}
    return Classifier(ClassifierSpec(**{**shared, **options})).eval()


@pytest.mark.parametrize("name", [*ALL, "vgg"])
def test_each_backbone_serves_both_heads_and_comes_back_from_a_file(name: str, tmp_path) -> None:
    classes = ABC[:2] if name == "logistic" else ABC
    classifier = classifier_of(name, classes=classes)
    images = torch.randn(2, 3, 32, 32)
    logits = classifier(images)
    assert logits.shape == (2, len(classes))
    assert logits.dtype == torch.float32
    logits.square().sum().backward()
    assert all(p.grad is not None for p in classifier.head.parameters())
    save_network(classifier, tmp_path / "c.safetensors")
    again = load_classifier(tmp_path / "c.safetensors")
    assert again.spec == classifier.spec
    torch.testing.assert_close(again(images), logits, rtol=0, atol=0)
    spec = classifier.spec
    fields = {f: getattr(spec, f) for f in ("backbone", "width", "width_factor", "blocks")}
    embedder = Embedder(EmbedderSpec(**fields, embedding_dim=4)).eval()
    embedder.backbone.load_state_dict(classifier.backbone.state_dict())
    assert embedder.embed(images).shape == (2, 4)


def test_heads_have_the_published_numbers() -> None:
    def count(**fields: object) -> int:
        with torch.device("meta"):
            spec = ClassifierSpec(classes=tuple(map(str, range(10))), **fields)
            network = Classifier(spec)
        return sum(p.numel() for p in network.parameters())

    def theirs(name: str) -> int:
        with torch.device("meta"):
            network = models.get_model(name, weights=None, num_classes=10)
        return sum(p.numel() for p in network.parameters())

    assert count(backbone="lenet", channels=1, image_size=28) == 61_706
    assert count(backbone="nin") == 966_986
    for name in ("alexnet", "vgg11"):
        assert count(backbone=name, stem="stock", image_size=224) == theirs(name)
    assert count(backbone="resnet18", stem="stock", image_size=64) == theirs("resnet18")
    assert count(backbone="softmax", channels=1, image_size=28) == 28 * 28 * 10 + 10
    assert count(backbone="mlp", channels=1, image_size=28) == 784 * 256 + 256 + 2560 + 10


def test_heads_can_be_chosen() -> None:
    linear = classifier_of("lenet", hidden="", pool="avg").head
    assert [type(m) for m in linear.hidden] == [nn.Dropout]
    assert linear.output.in_features == 16
    deep = classifier_of("resnet18", hidden="7,5", activation=None, dropout=0.3).head
    assert [m.out_features for m in deep.hidden if isinstance(m, nn.Linear)] == [7, 5]
    assert [m.p for m in deep.hidden if isinstance(m, nn.Dropout)] == [0.3, 0.3]
    warm = classifier_of("softmax", temperature=2.0)
    plain = classifier_of("softmax")
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(warm(images) * 2, plain(images))
    for wrong in ("12,x", "0", "-3"):
        with pytest.raises(ConfigError, match="--hidden is"):
            classifier_of("lenet", hidden=wrong)


def test_logistic_is_the_logistic_function_of_one_number() -> None:
    network = classifier_of("logistic", classes=("no", "yes"))
    images = torch.randn(3, 3, 32, 32)
    z = network.head.output(images.flatten(1))[:, 0]
    torch.testing.assert_close(network.probabilities(images)[:, 1], 1 / (1 + (-z).exp()))
    with pytest.raises(ConfigError, match="two classes apart, and there are 3"):
        classifier_of("logistic")


def test_pictures_that_are_too_small_name_the_smallest_size() -> None:
    with pytest.raises(ConfigError, match=r"--image-size is 16; the smallest .* densenet121 .* 61"):
        classifier_of("densenet121", stem="stock", image_size=16)
    with pytest.raises(ConfigError, match="at least 2 classes"):
        classifier_of("lenet", classes=("one",))


@pytest.mark.parametrize(("size", "reach"), [(16, 1), (32, 1), (95, 2)])
def test_views_are_averaged_as_a_loop_does(size: int, reach: int) -> None:
    network = classifier_of("softmax", image_size=size)
    images = torch.randn(2, 3, size, size)
    flipped = (network.probabilities(images) + network.probabilities(images.flip(3))) / 2
    torch.testing.assert_close(network.probabilities(images, "flip"), flipped)
    total = torch.zeros(2, 3)
    last = size - 1
    for dy, dx in ((0, 0), (-1, -1), (-1, 1), (1, -1), (1, 1)):
        rows = [last - abs(last - abs(y + reach * dy)) for y in range(size)]
        columns = [last - abs(last - abs(x + reach * dx)) for x in range(size)]
        crop = images[:, :, rows][:, :, :, columns]
        total += network(crop).softmax(1) + network(crop.flip(3)).softmax(1)
    torch.testing.assert_close(network.probabilities(images, "crops"), total / 10)


def test_classify_images_gives_each_picture_what_it_gets_alone() -> None:
    network = classifier_of("resnet18").train()
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)
    together = classify_images(network, images, batch_size=2)
    assert network.training
    assert together.shape == (5, 3)
    np.testing.assert_allclose(together.sum(1), 1, atol=1e-6)
    alone = np.concatenate([classify_images(network, images[i : i + 1]) for i in range(5)])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert classify_images(network, images[:0]).shape == (0, 3)
    with pytest.raises(ValueError, match="expected uint8"):
        classify_images(network, images[:, :9])


def test_grey_networks_see_the_mean_of_the_colours() -> None:
    network = classifier_of("softmax", channels=1, mean=(0.2, 0.4, 0.6), std=(0.1, 0.2, 0.5))
    pixel = torch.tensor([255 * 0.3, 255 * 0.4, 255 * 0.1]).view(1, 3, 1, 1)
    assert network.standardise(pixel).flatten().tolist() == pytest.approx([0.0], abs=1e-5)
    images = np.zeros((2, 32, 32, 3), np.uint8)
    assert classify_images(network, images).shape == (2, 3)


def test_files_know_what_they_hold(tmp_path) -> None:
    one, other = tmp_path / "c.safetensors", tmp_path / "e.safetensors"
    save_network(classifier_of("lenet"), one)
    save_network(Embedder(EmbedderSpec(backbone="lenet", embedding_dim=4)), other)
    assert [kind_of_model(f) for f in (one, other)] == ["classifier", "embedder"]
    assert kind_of_model(tmp_path / "none") is None
    assert isinstance(load_network(one), Classifier)
    assert network_spec(one).classes == ABC
    with pytest.raises(CheckpointError, match=r"classifier.*train-embed --from"):
        load_embedder(one)
    with pytest.raises(CheckpointError, match=r"embedder.*train-classify --from"):
        load_classifier(other)
    damaged = one.read_bytes()[:-1] + bytes([one.read_bytes()[-1] ^ 1])
    one.write_bytes(damaged)
    with pytest.raises(CheckpointError, match="damaged"):
        load_classifier(one)


def test_an_ensemble_must_know_the_same_classes() -> None:
    same = [classifier_of("softmax"), classifier_of("lenet")]
    assert classes_of(same) == ABC
    with pytest.raises(ConfigError, match=r"differ in \['c', 'd'\]"):
        classes_of([same[0], classifier_of("softmax", classes=("a", "b", "d"))])
    with pytest.raises(ConfigError, match="their order"):
        classes_of([same[0], classifier_of("softmax", classes=("b", "a", "c"))])


def test_the_map_of_a_trunk_is_what_the_head_flattens() -> None:
    for size in (28, 33, 47):
        network = classifier_of("lenet", image_size=size)
        side = network.backbone(torch.zeros(1, 3, size, size)).shape[2]
        first = network.head.hidden[0]
        assert first.in_features == as_backbone(network.backbone).out_channels * side**2


def test_shared_layers_are_learnt_and_saved_as_one(tmp_path) -> None:
    spec = ClassifierSpec(
        backbone="mlp", hidden="12,7,7,7", share_hidden=True, image_size=8, classes=("a", "b", "c")
    )
    classifier = Classifier(spec)
    first, second, third, fourth = classifier.head.hidden[::3]
    assert second is not third  # 12 → 7 is another size than 7 → 7
    assert third is fourth
    assert first is not second
    apart = Classifier(dataclasses.replace(spec, share_hidden=False))
    numbers = [sum(p.numel() for p in c.parameters()) for c in (classifier, apart)]
    assert numbers[1] - numbers[0] == 7 * 7 + 7
    pictures = torch.rand(4, 3, 8, 8)
    classifier(pictures).sum().backward()
    slow = torch.zeros(7, 7)  # the gradients of both uses add up
    apart.load_state_dict(classifier.state_dict())
    apart(pictures).sum().backward()
    for linear in apart.head.hidden[6::3]:
        slow += linear.weight.grad
    torch.testing.assert_close(third.weight.grad, slow)
    save_network(classifier, tmp_path / "m.safetensors")
    again = load_classifier(tmp_path / "m.safetensors")
    assert again.head.hidden[6] is again.head.hidden[9]
    torch.testing.assert_close(again(pictures), classifier.eval()(pictures))
