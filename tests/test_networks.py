import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import models

from retrieval.backbones import Backbone, build_backbone
from retrieval.backbones.fast_resnet import FastResNet
from retrieval.embedder import Embedder, embed_images
from retrieval.errors import CheckpointError, ConfigError
from retrieval.pooling import GlobalPool, gem
from retrieval.specs import EmbedderSpec, NetworkSpec


def backbone_called(name: str, weights: str | None = None, **options: object) -> nn.Module:
    return build_backbone(NetworkSpec(backbone=name, **options), weights)


CASES = [
    ("fast-resnet", "small"),
    ("resnet18", "small"),
    ("resnet18", "stock"),
    ("resnet50", "small"),
]


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


@pytest.mark.parametrize(("name", "stem"), CASES)
def test_backbones_keep_their_contract(name: str, stem: str) -> None:
    torch.manual_seed(0)
    backbone = backbone_called(name, width=8, stem=stem)
    assert isinstance(backbone, Backbone)
    side = 64 if stem == "stock" else 32
    features = backbone(torch.randn(2, 3, side, side))
    assert features.shape[:2] == (2, backbone.out_channels)
    assert min(features.shape[2:]) >= 2
    assert abs(side / backbone.stride - features.shape[2]) <= 1
    features.square().sum().backward()
    without = [n for n, p in backbone.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []


@pytest.mark.parametrize(("name", "stem"), [*CASES, ("resnet50", "stock")])
def test_maps_have_the_size_that_the_contract_names(name: str, stem: str) -> None:
    with torch.device("cpu" if name == "fast-resnet" else "meta"):  # meta: shapes without sums
        backbone = backbone_called(name, width=8, stem=stem)
        smallest, stride = backbone.smallest, backbone.stride
        for height, width in ((smallest, smallest), (2 * stride + 1, 5 * stride), (97, 64)):
            shape = backbone(torch.empty(2, 3, height, width)).shape
            sides = (height, width)
            if name == "fast-resnet":
                expected = [(side - 1) // stride for side in sides]
            else:
                expected = [-(-side // stride) for side in sides]
            assert shape == (2, backbone.out_channels, *expected)
        below = backbone(torch.empty(2, 3, smallest - 1, smallest - 1)).shape
        assert below[2:] == (1, 1)


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


def test_parameters_are_torchvisions_without_its_head() -> None:
    ours = sum(p.numel() for p in backbone_called("resnet18", stem="stock").parameters())
    theirs = models.resnet18()
    head = sum(p.numel() for p in theirs.fc.parameters())
    assert ours == sum(p.numel() for p in theirs.parameters()) - head


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


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_are_read_from_a_file(tmp_path: Path, suffix: str) -> None:
    torch.manual_seed(0)
    theirs = models.resnet18()
    file = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save(theirs.state_dict(), file)
    else:
        save_file(theirs.state_dict(), file)
    ours = backbone_called("resnet18", stem="stock", weights=str(file)).eval()
    images = torch.randn(1, 3, 64, 64)
    expected = nn.Sequential(*list(theirs.eval().children())[:-2])(images)
    torch.testing.assert_close(ours(images), expected)


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--stem stock"):
        backbone_called("resnet18", weights="imagenet")
    with pytest.raises(ConfigError, match="no published weights"):
        backbone_called("fast-resnet", weights="imagenet")
    with pytest.raises(CheckpointError, match=r"missing\.pth"):
        backbone_called("resnet18", stem="stock", weights=str(tmp_path / "missing.pth"))
    torch.save(
        {"conv1.weight": torch.zeros(64, 3, 7, 7), "odd": torch.zeros(1)}, tmp_path / "w.pth"
    )
    with pytest.raises(CheckpointError, match=r"are missing.*1 are unknown"):
        backbone_called("resnet18", stem="stock", weights=str(tmp_path / "w.pth"))
    torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7)}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"first: bn1.*0 are unknown"):
        backbone_called("resnet18", stem="stock", weights=str(tmp_path / "w.pth"))
    torch.save(models.resnet18().state_dict(), tmp_path / "w18.pth")
    with pytest.raises(CheckpointError, match="does not hold weights of resnet50: 165 are missing"):
        backbone_called("resnet50", stem="stock", weights=str(tmp_path / "w18.pth"))
    torch.save(models.resnet18().state_dict() | {"bn1.bias": torch.zeros(3)},
               tmp_path / "shape.pth")  # fmt: skip
    with pytest.raises(CheckpointError, match="cannot read weights of resnet18") as caught:
        backbone_called("resnet18", stem="stock", weights=str(tmp_path / "shape.pth"))
    assert "\n" not in str(caught.value)
    for data in (b"", b"text", [1, 2]):
        (tmp_path / "w.safetensors").write_bytes(bytes(data))
        torch.save(data, tmp_path / "w.pth")
        for name in ("w.pth", "w.safetensors"):
            with pytest.raises(CheckpointError, match=name):
                backbone_called("resnet18", stem="stock", weights=str(tmp_path / name))
    marker = tmp_path / "pwned"
    (tmp_path / "evil.pth").write_bytes(_evil_pickle(marker))
    with pytest.raises(CheckpointError):
        backbone_called("resnet18", stem="stock", weights=str(tmp_path / "evil.pth"))
    assert not marker.exists()


def _evil_pickle(marker: Path) -> bytes:
    import pickle

    class Evil:
        def __reduce__(self):
            return subprocess.call, (["touch", str(marker)],)

    return pickle.dumps(Evil())


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


def test_standardise_makes_mean_0_and_deviation_1() -> None:
    embedder = small(mean=(0.2, 0.4, 0.6), std=(0.1, 0.2, 0.5))
    pixel = torch.tensor([255 * 0.3, 255 * 0.4, 255 * 0.1]).view(1, 3, 1, 1)
    found = embedder.standardise(pixel).flatten().tolist()
    assert found == pytest.approx([1.0, 0.0, -1.0], abs=1e-5)
