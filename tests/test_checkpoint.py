import contextlib
import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from retrieval.checkpoint import Recorder, Run
from retrieval.curves import EMBED_CURVES
from retrieval.embedder import Embedder
from retrieval.errors import CheckpointError
from retrieval.network_files import _hash, embedder_id, load_embedder, save_network
from retrieval.run_config import TrainEmbedConfig
from retrieval.specs import EmbedderSpec


@pytest.fixture
def file(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    made = tmp_path / "model.safetensors"
    save_network(Embedder(EmbedderSpec(width=8, image_size=17, embedding_dim=6, pool="gem")), made)
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
    save_network(embedder, again)
    assert embedder_id(again) == identity
    with torch.no_grad():
        embedder.projection.weight[0, 0] += 1e-6
    save_network(embedder, again)
    assert embedder_id(again) != identity
    other = Embedder(EmbedderSpec(width=8, image_size=18, embedding_dim=6, pool="gem"))
    other.load_state_dict(load_embedder(file).state_dict())
    save_network(other, again)
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


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "last.pt", "folds.json"])
def test_whatever_a_run_may_have_left_is_a_run(tmp_path: Path, name: str) -> None:
    (tmp_path / "notes.txt").write_text("kept")
    assert not Run(tmp_path).exists
    (tmp_path / name).write_bytes(b"x")
    assert Run(tmp_path).exists


def test_folds_are_a_run(tmp_path: Path) -> None:
    fold = Run(tmp_path / "fold-2")
    fold.start(TrainEmbedConfig())
    assert Run(tmp_path).exists


def test_a_part_of_a_run_begins_with_it(tmp_path: Path) -> None:
    config = TrainEmbedConfig()
    (tmp_path / "last.pt").write_bytes(b"learnt")
    whole = Recorder(Run(tmp_path), config, EMBED_CURVES, resume=False)
    fold = Run(tmp_path / "fold-1")
    part = Recorder(fold, config, EMBED_CURVES, resume=False, within=whole)
    assert not fold.exists
    assert (tmp_path / "last.pt").exists()
    part.save_state({"step": 1, "history": []})
    assert fold.load_state() is not None
    assert Run(tmp_path).config() == config
    assert not (tmp_path / "last.pt").exists()
    Recorder(Run(tmp_path / "fold-2"), config, EMBED_CURVES, resume=False, within=whole)
    assert Run(tmp_path / "fold-2").exists


def test_a_run_goes_when_the_next_has_something_to_keep(tmp_path: Path) -> None:
    run, config = Run(tmp_path), TrainEmbedConfig()
    Recorder(run, config, EMBED_CURVES, resume=False)
    assert run.config() == config  # nothing was there
    (tmp_path / "model.safetensors").write_bytes(b"learnt")
    other = config.with_values({"epochs": 3})
    recorder = Recorder(run, other, EMBED_CURVES, resume=False)
    assert run.config() == config
    assert (tmp_path / "model.safetensors").read_bytes() == b"learnt"
    recorder.save_state({"step": 1, "history": []})
    assert run.config() == other
    assert not (tmp_path / "model.safetensors").exists()
    (tmp_path / "model.safetensors").write_bytes(b"learnt")
    recorder.save_state({"step": 0, "history": []})  # goes once
    Recorder(run, other, EMBED_CURVES, resume=True).save_state({"step": 1, "history": []})
    assert {p.name for p in tmp_path.iterdir()} == {
        "config.json", "model.safetensors", "last.pt", "metrics.jsonl",
    }  # fmt: skip


def test_the_best_epoch_is_the_last_of_the_best_that_were_measured(tmp_path: Path) -> None:
    run, figures = Run(tmp_path), [0.5, None, 0.7, 0.7, 0.6]
    history = [{"epoch": n} | ({} if x is None else {"score": x}) for n, x in enumerate(figures, 1)]
    run.save_state({"history": history})
    assert run.history() == history
    assert run.best("score") == {"epoch": 4, "score": 0.7}
    assert run.best("other") is None
    run.save_state({"history": []})
    assert run.history() == []
    assert run.best("score") is None


def test_curves_are_drawn_now_and_then_and_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn, clock = [], [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    monkeypatch.setattr(
        "retrieval.checkpoint.training_curves", lambda records, *_: drawn.append(len(records))
    )
    saved = [(4, 0, 1), (9, 0, 2), (11, 0, 3), (15, 7, 3), (20, 0, 4), (22, 3, 4), (23, 0, 5)]
    with Recorder(Run(tmp_path), TrainEmbedConfig(), EMBED_CURVES, resume=False) as recorder:
        for seconds, step, epochs in saved:
            clock[0] = seconds
            recorder.save_state({"step": step, "history": [{}] * epochs})
        assert drawn == [3, 4]
    assert drawn == [3, 4, 5]
    with recorder:  # nothing is new
        pass
    assert drawn == [3, 4, 5]


def test_a_process_that_keeps_nothing_leaves_the_folder_as_it_is(tmp_path: Path) -> None:
    """Another one may be writing there."""
    (tmp_path / ".last.pt.x.part").write_bytes(b"half")
    state = {"step": 0, "history": []}
    for resume in (False, True):
        Recorder(
            Run(tmp_path), TrainEmbedConfig(), EMBED_CURVES, resume=resume, state=state, keep=False
        )
        assert [path.name for path in tmp_path.iterdir()] == [".last.pt.x.part"]


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


def flip(data: bytes, place: int, bit: int) -> bytes:
    return data[:place] + bytes([data[place] ^ (1 << bit)]) + data[place + 1 :]


def test_a_flipped_bit_anywhere_in_a_model_is_found(file: Path) -> None:
    data = file.read_bytes()
    header = 8 + int.from_bytes(data[:8], "little")
    rng = np.random.default_rng(0)
    for turn in range(120):
        place = int(rng.integers(0, len(data) if turn % 3 == 0 else header))
        file.write_bytes(flip(data, place, int(rng.integers(8))))
        with pytest.raises(CheckpointError, match=r"model\.safetensors"):
            load_embedder(file)
        with contextlib.suppress(CheckpointError):  # never a KeyError or the like
            embedder_id(file)


def test_a_header_without_spec_or_identity_is_damaged(file: Path) -> None:
    tensors, spec = load_file(file), json.dumps(EmbedderSpec().to_dict())
    for header, missing in [({}, "embedder_id"), ({"spec": spec}, "embedder_id")]:
        save_file(tensors, file, {"format": "retrieval-embedder-1"} | header)
        for read in (load_embedder, embedder_id):
            with pytest.raises(CheckpointError, match=f"header has no {missing}"):
                read(file)


def test_weights_of_another_spec_are_refused_though_their_checksum_is_right(
    file: Path, tmp_path: Path
) -> None:
    embedder = load_embedder(file)
    embedder.spec = dataclasses.replace(embedder.spec, embedding_dim=9)
    save_network(embedder, tmp_path / "lie.safetensors")
    with pytest.raises(CheckpointError, match=r"does not describe.*projection.*\[9, 32\]"):
        load_embedder(tmp_path / "lie.safetensors")


def test_the_identity_covers_names_kinds_and_shapes() -> None:
    states = [
        {"a": torch.zeros(2, 3)},
        {"b": torch.zeros(2, 3)},
        {"a": torch.zeros(3, 2)},
        {"a": torch.zeros(2, 3, dtype=torch.int32)},
        {"a": torch.zeros(3), "b": torch.zeros(3)},
    ]
    assert len({_hash("spec", state) for state in states}) == len(states)
    both = {"a": torch.ones(1), "b": torch.zeros(1)}
    assert _hash("spec", both) == _hash("spec", dict(reversed(both.items())))


def test_equal_networks_give_equal_files(file: Path, tmp_path: Path) -> None:
    for number in range(8):
        again = tmp_path / f"{number}.safetensors"
        save_network(load_embedder(file), again)
        assert again.read_bytes() == file.read_bytes()


def test_the_layout_in_memory_does_not_change_what_is_saved(file: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.safetensors"
    save_network(load_embedder(file).to(memory_format=torch.channels_last), again)
    assert embedder_id(again) == embedder_id(file)
    for name, tensor in load_file(file).items():
        assert torch.equal(load_file(again)[name], tensor)


def test_a_flipped_bit_in_a_saved_state_is_found_or_harmless(tmp_path: Path) -> None:
    run = Run(tmp_path)
    tensor = torch.randn(100)
    run.save_state({"history": [], "x": tensor})
    data = (tmp_path / "last.pt").read_bytes()
    start = data.index(tensor.numpy().tobytes())
    rng = np.random.default_rng(0)
    refused = 0
    for turn in range(150):
        inside = turn % 2 == 0
        place = int(rng.integers(start, start + 400) if inside else rng.integers(len(data)))
        (tmp_path / "last.pt").write_bytes(flip(data, place, int(rng.integers(8))))
        try:
            state = run.load_state()
        except CheckpointError:
            refused += 1
        else:
            assert not inside
            assert torch.equal(state["x"], tensor)
            assert state["history"] == []
    assert refused >= 75


def test_a_saved_state_cannot_run_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "pwned"),)

    torch.save({"history": Evil()}, tmp_path / "last.pt")
    with pytest.raises(CheckpointError, match="--overwrite"):
        Run(tmp_path).load_state()
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("text", ["", "[]", "null", "3", '{"fit": {"epochs": "x"}}', "\ufffe"])
def test_a_configuration_of_another_shape_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text, encoding="utf-16")
    with pytest.raises(CheckpointError, match=r"config\.json"):
        Run(tmp_path).config()
    (tmp_path / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"config\.json"):
        Run(tmp_path).config()


def test_starting_anew_forgets_the_older_run(tmp_path: Path, file: Path) -> None:
    run = Run(file.parent)
    for name in ("last.pt", "metrics.jsonl", "curves.png"):
        (run.folder / name).write_bytes(b"old")
    run.start(TrainEmbedConfig())
    assert [path.name for path in run.folder.iterdir()] == ["config.json"]
