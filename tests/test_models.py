import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from click.testing import CliRunner
from PIL import Image
from sklearn.datasets import load_sample_images
from torchvision import transforms
from weights_hub import put_in_hub

from index.gallery import Gallery
from retrieval import models
from retrieval.cli import main
from retrieval.embedder import Embedder, embed_images
from retrieval.errors import CheckpointError
from retrieval.network_files import (
    is_published,
    kind_of_model,
    load_embedder,
    model_file,
    network_spec,
    save_network,
)
from retrieval.specs import EmbedderSpec


def test_each_model_in_the_box_is_small_works_and_has_a_card() -> None:
    assert models.DEFAULT in models.names()
    for name in models.names():
        file = models.model_in_the_box(name)
        assert file is not None
        assert file.stat().st_size <= 6 * 2**20
        embedder = load_embedder(Path(name))
        size = embedder.spec.image_size
        vectors = embed_images(embedder, np.zeros((2, size, size, 3), np.uint8))
        assert np.isfinite(vectors).all()
        text = models.card(name)
        for part in ("## Data", "## Recipe", "## Figures", "## Limits"):
            assert part in text


def test_a_folder_of_ones_own_goes_before_a_name_in_the_box(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert model_file(Path(models.DEFAULT)) == models.model_in_the_box(models.DEFAULT)
    own = tmp_path / models.DEFAULT / "model.safetensors"
    own.parent.mkdir()
    save_network(Embedder(EmbedderSpec(width=8, embedding_dim=6)), own)
    assert model_file(Path(models.DEFAULT)) == Path(models.DEFAULT) / "model.safetensors"
    assert models.model_in_the_box("../cifar10") is None
    with pytest.raises(
        CheckpointError, match=r"a name that .retrieval models. lists, such as cifar10"
    ):
        model_file(Path("no such model"))


def test_half_the_size_changes_embeddings_hardly(tmp_path: Path) -> None:
    torch.manual_seed(0)
    embedder = Embedder(EmbedderSpec(width=16, embedding_dim=8)).eval()
    whole, half = tmp_path / "whole.safetensors", tmp_path / "half.safetensors"
    save_network(embedder, whole)
    save_network(embedder, half, dtype=torch.float16)
    assert half.stat().st_size < 0.6 * whole.stat().st_size
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)
    one, other = (embed_images(load_embedder(f), images) for f in (whole, half))
    np.testing.assert_allclose(one, other, atol=5e-3)
    assert network_spec(half) == embedder.spec


def test_the_default_embeds_as_the_network_that_was_published() -> None:
    """The first numbers are those of efficientnet-lite-pytorch 0.1.0 with the same weights, in float32.

    Its last block's map, averaged over places and scaled to length 1; filters here are rounded.
    """
    expected = [
        [-0.0035, 0.0413, 0.0324, -0.0826, -0.0690, 0.0753],
        [0.0133, 0.0539, 0.0220, -0.0511, -0.1692, 0.0830],
    ]
    corners = np.stack([image[:224, :224] for image in load_sample_images().images])
    vectors = embed_images(load_embedder(Path(models.DEFAULT)), corners)
    assert vectors.shape == (2, 320)
    np.testing.assert_allclose(vectors[:, :6], expected, atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_the_command_lists_and_shows() -> None:
    listed = CliRunner().invoke(main, ["models"])
    assert listed.exit_code == 0, listed.output
    assert "cifar10" in listed.stdout
    assert f"{models.DEFAULT:<18} efficientnet-lite0, 320 numbers" in listed.stdout
    assert "resnet50" in listed.stdout
    shown = CliRunner().invoke(main, ["models", "cifar10"])
    assert "## Limits" in shown.stdout
    published = CliRunner().invoke(main, ["models", "densenet121"])
    assert "densenet121-a639ec97.pth" in published.stdout
    missing = CliRunner().invoke(main, ["models", "nothing-here"])
    assert missing.exit_code == 1
    assert "there is no model at nothing-here" in missing.output


def test_published_networks_embed_without_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their vectors are the means over their maps, of length 1."""
    torch.manual_seed(0)
    trunk = torchvision.models.alexnet().features.eval()
    put_in_hub("alexnet", trunk.state_dict(prefix="features."), tmp_path, monkeypatch)
    monkeypatch.setenv("RETRIEVAL_DATA", str(tmp_path / "data"))
    embedder = load_embedder(Path("alexnet"))
    pixels = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), np.uint8)
    found = embed_images(embedder, pixels)
    look = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    with torch.inference_mode():
        features = trunk(look(torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255)).mean((2, 3))
    expected = torch.nn.functional.normalize(features)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)
    made = model_file(Path("alexnet"))
    made.write_bytes(made.read_bytes()[:-100])  # what is damaged is made anew
    os.utime(made, ns=(1, 1))
    np.testing.assert_array_equal(embed_images(load_embedder(Path("alexnet")), pixels), found)
    (tmp_path / "hub" / "checkpoints").rename(tmp_path / "gone")  # it is made once
    for n in range(3):
        Image.fromarray(pixels[0] // (n + 1)).save(tmp_path / f"{n}.png")
    gallery = tmp_path / "g.gallery"
    build = ["build-index", str(tmp_path), "--model", "alexnet", "--out", str(gallery)]
    done = CliRunner().invoke(main, build)
    assert done.exit_code == 0, done.output
    assert Gallery.open(gallery).dim == 256
    photo = str(tmp_path / "1.png")
    ask = ["query", photo, "--gallery", str(gallery), "--format", "paths"]
    assert CliRunner().invoke(main, ask).stdout.splitlines()[0] == photo


def test_a_folder_goes_before_a_published_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_published(Path("resnet50"))
    assert kind_of_model(Path("resnet50")) == "embedder"
    assert not is_published(Path("lenet"))
    own = tmp_path / "resnet50" / "model.safetensors"
    own.parent.mkdir()
    assert not is_published(Path("resnet50"))
    save_network(Embedder(EmbedderSpec(width=8, embedding_dim=6)), own)
    assert model_file(Path("resnet50")) == Path("resnet50") / "model.safetensors"


def test_pictures_are_indexed_without_training_first(tmp_path: Path) -> None:
    for n in range(3):
        Image.new("RGB", (50, 40), (80 * n, 90, 200 - 80 * n)).save(tmp_path / f"{n}.png")
    gallery = tmp_path / "g.gallery"
    done = CliRunner().invoke(main, ["build-index", str(tmp_path), "--out", str(gallery)])
    assert done.exit_code == 0, done.output
    asked = CliRunner().invoke(main, ["query", str(tmp_path / "1.png"), "--gallery", str(gallery)])
    assert asked.exit_code == 0, asked.output
    assert "1.png" in asked.stdout
