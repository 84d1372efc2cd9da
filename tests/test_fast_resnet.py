"""The fast small ResNet: its stages and its whitening."""

import numpy as np
import pytest
import torch
from torch import nn

from retrieval.backbones.fast_resnet import FastResNet
from retrieval.specs import NetworkSpec


def test_frozen_filters_get_no_gradient_and_stay_in_the_weights() -> None:
    backbone = FastResNet(NetworkSpec(width=8))
    backbone(torch.randn(2, 3, 17, 17)).sum().backward()
    assert backbone.whiten.weight.grad is None
    assert "whiten.weight" in backbone.state_dict()


def test_a_stage_starts_by_passing_its_input_through() -> None:
    weight = FastResNet(NetworkSpec(width=8)).stages[1].conv1.weight  # 8 → 32 channels
    for out in range(8):
        expected = torch.zeros(8, 3, 3)
        expected[out, 1, 1] = 1
        assert torch.equal(weight[out], expected)


@pytest.mark.parametrize("shape", [(7, 7), (8, 8), (9, 6), (2, 3)])
def test_a_stage_is_a_padded_convolution_and_a_halving(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    stage = FastResNet(NetworkSpec(width=8)).stages[1].eval()
    nn.init.normal_(stage.conv1.weight)
    features = torch.randn(2, 8, *shape)
    halved = nn.functional.max_pool2d(
        nn.functional.conv2d(features, stage.conv1.weight, padding=1), 2
    )
    expected = stage.activate(stage.norm2(stage.conv2(stage.activate(stage.norm1(halved)))))
    torch.testing.assert_close(stage(features), expected)


def test_the_trunk_takes_bf16_and_whitens_in_float32() -> None:
    torch.manual_seed(0)
    backbone = FastResNet(NetworkSpec(width=8))
    images, seen = torch.randn(2, 3, 17, 17), []
    backbone.stages.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        backbone(images)
    assert seen == [torch.float32]


def test_whitening_makes_patches_uncorrelated() -> None:
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(3, 3, generator=generator)
    images = torch.einsum("ij,bjhw->bihw", mix, torch.randn(70, 3, 9, 9, generator=generator))
    images = nn.functional.avg_pool2d(images, 2, 1)  # neighbours are alike
    backbone = FastResNet(NetworkSpec(width=8))
    backbone.whiten_from(images, eps=0.0)
    assert not backbone.whiten.weight.requires_grad
    white = backbone.whiten(images).transpose(0, 1).flatten(1)
    first, second = white[:12], white[12:]
    torch.testing.assert_close(first.cov(), torch.eye(12), atol=0.02, rtol=0)
    torch.testing.assert_close(first, -second)
    patches = [
        image[:, i : i + 2, j : j + 2].flatten()
        for image in images
        for i in range(7)
        for j in range(7)
    ]
    slow = np.cov(np.stack(patches).T.astype(np.float64))
    filters = backbone.whiten.weight[:12].detach().flatten(1).double().numpy()
    np.testing.assert_allclose(filters @ slow @ filters.T, np.eye(12), atol=1e-4)
    backbone.whiten_from(torch.zeros(2, 3, 4, 4))  # pictures of one colour
    assert torch.isfinite(backbone.whiten.weight).all()
