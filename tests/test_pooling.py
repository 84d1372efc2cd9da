"""From feature maps to vectors."""

import pytest
import torch

from retrieval.pooling import GlobalPool, gem


@pytest.mark.parametrize("kind", ["avg", "max", "avgmax", "gem"])
def test_pooling_equals_a_loop(kind: str) -> None:
    features = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0)) + 0.1
    pool = GlobalPool(kind)
    found = pool(features)
    assert found.shape == (2, 3 * pool.multiplier)
    for b in range(2):
        for c in range(3):
            values = features[b, c].flatten().tolist()
            mean, most = sum(values) / 20, max(values)
            cubes = (sum(v**3 for v in values) / 20) ** (1 / 3)
            expected = {"avg": [mean], "max": [most], "gem": [cubes], "avgmax": [mean, most]}[kind]
            assert found[b, c::3].tolist() == pytest.approx(expected, rel=1e-5)


def test_gem_goes_from_average_to_maximum_and_survives_zeros_and_bf16() -> None:
    features = torch.rand(2, 3, 4, 4)
    torch.testing.assert_close(gem(features, torch.tensor(1.0)), features.mean((2, 3)))
    torch.testing.assert_close(
        gem(features, torch.tensor(200.0)), features.amax((2, 3)), rtol=0.03, atol=0
    )
    coarse = features.bfloat16()  # the powers are taken in float32 all the same
    assert torch.equal(GlobalPool("gem")(coarse), GlobalPool("gem")(coarse.float()))
    zeros = torch.zeros(1, 2, 3, 3, dtype=torch.bfloat16, requires_grad=True)
    GlobalPool("gem")(zeros).sum().backward()
    assert torch.isfinite(zeros.grad).all()


@pytest.mark.parametrize("kind", ["avg", "max", "avgmax", "gem"])
def test_pools_take_bf16_one_position_and_no_picture(kind: str) -> None:
    features = torch.rand(3, 2, 2, 3, generator=torch.Generator().manual_seed(0)) + 0.1
    pool = GlobalPool(kind)
    torch.testing.assert_close(
        pool(features.bfloat16()).float(), pool(features), rtol=0.02, atol=0.01
    )
    one = features[:, :, :1, :1]
    torch.testing.assert_close(pool(one), one[:, :, 0, 0].repeat(1, pool.multiplier))
    assert pool(features[:0]).shape == (0, 2 * pool.multiplier)
    with pytest.raises(IndexError):
        pool(features[0, 0])


@pytest.mark.parametrize("kind", ["avg", "max", "gem"])
def test_equal_features_share_the_gradient(kind: str) -> None:
    features = torch.full((1, 1, 2, 2), 0.5, requires_grad=True)
    pool = GlobalPool(kind)
    pool(features).sum().backward()
    torch.testing.assert_close(features.grad, torch.full((1, 1, 2, 2), 0.25))
    assert all(p.grad is not None and torch.isfinite(p.grad) for p in pool.parameters())
