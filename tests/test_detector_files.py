"""Detectors in files: saved, loaded, told apart from other models, refused where damaged."""

from pathlib import Path

import pytest
import torch
from one_cell import OneCell, one_cell  # noqa: F401

from retrieval.embedder import Embedder
from retrieval.errors import CheckpointError
from retrieval.network_files import (
    embedder_id,
    kind_of_model,
    load_classifier,
    load_detector,
    load_embedder,
    load_network,
    network_spec,
    save_network,
)
from retrieval.specs import DetectorSpec, EmbedderSpec

SPEC = DetectorSpec(backbone="lenet", image_size=64, classes=("cat", "dog"))
pytestmark = pytest.mark.usefixtures("one_cell")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_network(OneCell(SPEC), tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def test_a_detector_comes_back_as_it_was(file: Path) -> None:
    torch.manual_seed(0)
    original = OneCell(SPEC).eval()
    images = torch.randn(2, 3, 64, 64)
    for path in (file, file.parent):
        again = load_detector(path)
        assert isinstance(again, OneCell)
        assert not again.training
        assert again.spec == SPEC
        for one, other in zip(original.find(images), again.find(images), strict=True):
            assert (one.boxes == other.boxes).all()
            assert (one.scores == other.scores).all()


def test_files_know_that_they_hold_a_detector(file: Path) -> None:
    assert kind_of_model(file) == "detector"
    assert network_spec(file) == SPEC
    assert isinstance(load_network(file), OneCell)
    with pytest.raises(CheckpointError, match=r"trained detector.*train-embed --from"):
        load_embedder(file)
    with pytest.raises(CheckpointError, match=r"trained detector.*train-classify --from"):
        load_classifier(file)
    with pytest.raises(CheckpointError, match="holds a detector"):
        embedder_id(file)


def test_other_models_are_no_detectors(tmp_path: Path) -> None:
    save_network(Embedder(EmbedderSpec(backbone="lenet", embedding_dim=4)), tmp_path / "e")
    with pytest.raises(CheckpointError, match=r"trained embedder.*train-detect --from"):
        load_detector(tmp_path / "e")


def test_damage_is_found(file: Path) -> None:
    data = file.read_bytes()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(CheckpointError, match="damaged"):
        load_detector(file)
