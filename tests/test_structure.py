"""Layers, their work, and parts cut out of networks."""

import pytest
import torch
from torch import nn

from retrieval.backbones import build_backbone
from retrieval.errors import ConfigError
from retrieval.specs import NetworkSpec
from retrieval.structure import Extractor, layers_of, parameters_of


def test_layers_of_lenet_by_hand() -> None:
    found = layers_of(build_backbone(NetworkSpec(backbone="lenet", channels=1)), (1, 28, 28))
    assert [f.kind for f in found] == ["Conv2d", "Tanh", "AvgPool2d"] * 2
    assert [f.output for f in found] == [
        (6, 28, 28), (6, 28, 28), (6, 14, 14), (16, 10, 10), (16, 10, 10), (16, 5, 5)
    ]  # fmt: skip
    assert [f.parameters for f in found] == [156, 0, 0, 2416, 0, 0]
    assert found[0].flops == 2 * 25 * 6 * 28 * 28
    assert found[3].flops == 2 * 25 * 6 * 16 * 10 * 10
    assert found[0].name == "features.0"


def test_a_shared_layer_counts_once() -> None:
    layer = nn.Linear(3, 3)
    found = layers_of(nn.Sequential(layer, layer), (3,))
    assert [f.parameters for f in found] == [12, 0]
    assert [f.flops for f in found] == [18, 18]


def test_parameters_have_norms() -> None:
    network = nn.Linear(2, 2)
    nn.init.constant_(network.weight, 3.0)
    network.bias.requires_grad_(False)
    weight, bias = parameters_of(network)
    assert (weight.name, weight.shape, weight.learns) == ("weight", (2, 2), True)
    assert (weight.norm, weight.mean, weight.deviation) == pytest.approx((6.0, 3.0, 0.0))
    assert not bias.learns


def test_any_part_can_be_cut_out() -> None:
    torch.manual_seed(0)
    trunk = build_backbone(NetworkSpec(backbone="resnet18", width_factor=0.125)).eval()
    images = torch.randn(2, 3, 32, 32)
    by_hand = trunk.layer2(trunk.layer1(trunk.stem(images)))
    cut = Extractor(trunk, "layer2")
    torch.testing.assert_close(cut(images), by_hand)
    inner = Extractor(trunk, "layer1.0.conv1")
    torch.testing.assert_close(inner(images), trunk.layer1[0].conv1(trunk.stem(images)))
    torch.testing.assert_close(trunk(images), trunk(images))  # no hook is left
    names = [f.name for f in layers_of(cut, (3, 32, 32))]
    assert names[0] == "stem.0"
    assert not any(name.startswith("layer3") for name in names)
    with pytest.raises(ConfigError, match=r"--layer is 'layer9'.*layer4"):
        Extractor(trunk, "layer9")
    images.requires_grad_(True)
    cut(images).sum().backward()
    assert images.grad is not None


def test_pictures_that_are_too_small_are_refused() -> None:
    network = build_backbone(NetworkSpec(backbone="lenet"))
    with pytest.raises(ConfigError, match="pictures of 3×4×4 do not go through"):
        layers_of(network, (3, 4, 4))
