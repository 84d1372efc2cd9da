import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from retrieval.checkpoint import Run, embedder_id, load_embedder, save_embedder
from retrieval.config import EmbedderSpec, TrainEmbedConfig
from retrieval.embedder import Embedder
from retrieval.errors import CheckpointError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    made = tmp_path / "model.safetensors"
    save_embedder(Embedder(EmbedderSpec(width=8, image_size=17, embedding_dim=6, pool="gem")), made)
    return made


def test_an_embedder_comes_back_as_it_was_from_file_and_folder(file: Path) -> None:
    torch.manual_seed(0)
    original = Embedder(EmbedderSpec(width=8, image_size=17, embedding_dim=6, pool="gem")).eval()
    images = torch.randn(2, 3, 17, 17)
    for path in (file, file.parent):
        loaded = load_embedder(path)
        assert not loaded.training
        assert loaded.spec == original.spec
        assert torch.equal(loaded.embed(images), original.embed(images))


def test_the_identity_covers_weights_and_spec(file: Path, tmp_path: Path) -> None:
    identity = embedder_id(file)
    assert len(identity) == 64
    embedder = load_embedder(file)
    again = tmp_path / "again.safetensors"
    save_embedder(embedder, again)
    assert embedder_id(again) == identity
    with torch.no_grad():
        embedder.projection.weight[0, 0] += 1e-6
    save_embedder(embedder, again)
    assert embedder_id(again) != identity
    other = Embedder(EmbedderSpec(width=8, image_size=18, embedding_dim=6, pool="gem"))
    other.load_state_dict(load_embedder(file).state_dict())
    save_embedder(other, again)
    assert embedder_id(again) != identity


@pytest.mark.parametrize("how", ["truncate", "empty", "text", "flip"])
def test_damaged_files_are_refused(file: Path, how: str) -> None:
    data = file.read_bytes()
    flipped = data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]
    file.write_bytes(
        {"truncate": data[: len(data) // 2], "empty": b"", "text": b"x" * 99, "flip": flipped}[how]
    )
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        load_embedder(file)


def test_files_of_others_and_of_newer_versions_are_refused(file: Path) -> None:
    tensors = load_file(file)
    save_file(tensors, file)
    with pytest.raises(CheckpointError, match="format 'none'"):
        load_embedder(file)
    save_file(tensors, file, {"format": "retrieval-embedder-2"})
    with pytest.raises(CheckpointError, match=r"'retrieval-embedder-2'.*newer"):
        load_embedder(file)


def test_a_missing_model_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="train-embed"):
        load_embedder(tmp_path)


def test_a_run_keeps_its_configuration_and_state(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    assert not run.exists
    config = TrainEmbedConfig().with_values({"rotation_angles": (0.0, 90.0), "epochs": 3})
    run.start(config)
    assert run.exists
    assert run.config() == config
    assert run.load_state() is None
    run.save_state({"epoch": 2, "history": [{"epoch": 1, "loss": 0.5}], "x": torch.ones(2)})
    state = run.load_state()
    assert state["epoch"] == 2
    assert torch.equal(state["x"], torch.ones(2))
    assert json.loads((run.folder / "metrics.jsonl").read_text()) == {"epoch": 1, "loss": 0.5}
    run.start(config)
    assert run.load_state() is None


def test_a_damaged_run_is_refused(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with pytest.raises(CheckpointError, match="not a run folder"):
        run.config()
    (tmp_path / "config.json").write_text('{"epoch": 1}')
    with pytest.raises(CheckpointError, match="'epoch'"):
        run.config()
    for data in (b"", b"garbage", b"PK\x03\x04 cut"):
        (tmp_path / "last.pt").write_bytes(data)
        with pytest.raises(CheckpointError, match="--overwrite"):
            run.load_state()
