"""Embedders, and embedding arrays of pictures."""

import numpy as np
import pytest
import torch
from torch import nn

from retrieval.embedder import Embedder, embed_images
from retrieval.errors import ConfigError
from retrieval.specs import EmbedderSpec


def small(**fields: object) -> Embedder:
    torch.manual_seed(0)
    return Embedder(EmbedderSpec(**{"width": 8, "image_size": 17, "embedding_dim": 6, **fields}))


def some_images(n: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, 17, 17, 3), np.uint8)


def test_embeddings_have_length_1_or_stay_between_bounds() -> None:
    images = torch.randn(4, 3, 17, 17)
    unit = small().eval()
    torch.testing.assert_close(unit.embed(images).norm(dim=1), torch.ones(4))
    bounded = small(output="tanh", mirror=False).eval()
    raw = bounded(images)
    torch.testing.assert_close(bounded.embed(images), torch.tanh(raw))
    assert raw.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert unit(images).dtype == torch.float32


def test_embed_images_gives_each_picture_what_it_gets_alone_and_restores_the_mode() -> None:
    embedder, images = small().train(), some_images(7)
    together = embed_images(embedder, images, batch_size=3)
    assert embedder.training
    assert together.dtype == np.float32
    by_hand = small().eval()
    pixels = torch.tensor(
        [[[row.tolist() for row in channel] for channel in np.moveaxis(i, 2, 0)] for i in images],
        dtype=torch.float32,
    )
    with torch.no_grad():
        expected = by_hand.embed((pixels / 255 - 0.5) / 0.25)
    np.testing.assert_allclose(together, expected.numpy(), atol=1e-5)
    alone = np.concatenate([embed_images(embedder, images[i : i + 1]) for i in range(7)])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert embed_images(embedder, images[:0]).shape == (0, 6)


def test_embed_images_takes_read_only_and_strided_pictures() -> None:
    embedder, images = small(), some_images(6)
    expected = embed_images(embedder, images)
    images.flags.writeable = False
    np.testing.assert_array_equal(embed_images(embedder, images), expected)
    np.testing.assert_array_equal(embed_images(embedder, images[::-1])[::-1], expected)


@pytest.mark.parametrize("bad", [some_images(1)[0], some_images(1)[:, :9], some_images(1) / 255])
def test_embed_images_refuses_other_pictures(bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"expected uint8 \(N,17,17,3\)"):
        embed_images(small(), bad)


def test_embeddings_of_nothing_at_all_stay_finite() -> None:
    embedder = small()
    raw = torch.zeros(2, 6, requires_grad=True)
    embedder.bound(raw).sum().backward()
    assert torch.equal(embedder.bound(raw), torch.zeros(2, 6))
    assert torch.isfinite(raw.grad).all()


def test_batches_on_processors_are_as_small_as_pictures_are_large(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    embedder, images = small(), some_images(7)
    sizes: list[int] = []
    embedder.backbone.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    whole = embed_images(embedder, images)
    threads = torch.get_num_threads()
    monkeypatch.setattr("retrieval.network.PIXELS_A_THREAD", -(-3 * 17**2 // threads))
    parts = embed_images(embedder, images)
    monkeypatch.setattr("retrieval.network.PIXELS_A_THREAD", 1)  # never none at all
    single = embed_images(embedder, images)
    views = 2 if embedder.spec.mirror else 1
    assert sizes == [7] * views + [3] * 2 * views + [1] * views + [1] * 7 * views
    np.testing.assert_allclose(parts, whole, atol=1e-6)
    np.testing.assert_allclose(single, whole, atol=1e-6)


def test_pictures_are_embedded_without_the_ten_bits_of_tf32() -> None:
    embedder, seen = Embedder(EmbedderSpec(width=8, image_size=32)), []
    backbone = embedder.backbone
    backbone.register_forward_hook(lambda *_: seen.append(torch.backends.cudnn.allow_tf32))
    before = torch.backends.cudnn.allow_tf32
    embed_images(embedder, np.zeros((2, 32, 32, 3), np.uint8))
    assert before
    assert seen
    assert not any(seen)
    assert torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.enabled


def test_embed_images_restores_the_mode_after_an_error_and_changes_no_statistics() -> None:
    embedder, images = small().train(), some_images(3)
    before = {name: tensor.clone() for name, tensor in embedder.state_dict().items()}
    embed_images(embedder, images)
    for name, tensor in embedder.state_dict().items():
        assert torch.equal(tensor, before[name])
    embedder.projection = nn.Linear(1, 1)
    with pytest.raises(RuntimeError):
        embed_images(embedder, images)
    assert embedder.training
    embedder = small().eval()
    embed_images(embedder, images)
    assert not embedder.training


@pytest.mark.parametrize("pool", ["avg", "max", "avgmax", "gem"])
@pytest.mark.parametrize("backbone", ["fast-resnet", "resnet18"])
def test_every_pool_fits_every_backbone(backbone: str, pool: str) -> None:
    embedder = small(backbone=backbone, pool=pool)
    assert embedder(torch.randn(2, 3, 17, 17)).shape == (2, 6)


def test_without_projection_features_are_the_embedding() -> None:
    embedder = small(backbone="resnet18", pool="avg", projection=False, embedding_dim=512)
    images = torch.randn(2, 3, 17, 17)
    features = embedder.backbone(images).mean((2, 3))
    torch.testing.assert_close(embedder(images), features)
    assert not list(embedder.projection.parameters())
    with pytest.raises(
        ConfigError, match=r"has 1024 numbers, as the features of resnet18, not 512"
    ):
        small(backbone="resnet18", pool="avgmax", projection=False, embedding_dim=512)


def test_standardise_makes_mean_0_and_deviation_1() -> None:
    embedder = small(mean=(0.2, 0.4, 0.6), std=(0.1, 0.2, 0.5))
    pixel = torch.tensor([255 * 0.3, 255 * 0.4, 255 * 0.1]).view(1, 3, 1, 1)
    found = embedder.standardise(pixel).flatten().tolist()
    assert found == pytest.approx([1.0, 0.0, -1.0], abs=1e-5)
