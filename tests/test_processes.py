"""Two processes under torchrun do what one does at the same batch size."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from retrieval.errors import ConfigError
from retrieval.labeled_images import LabeledImages
from retrieval.processes import Processes, SharedBatchNorm
from retrieval.run_config import TrainEmbedConfig
from retrieval.train_embed import build_embedder, embedding_task

OPTIONS = [
    "--width", "8", "--embedding-dim", "8", "--epochs", "2", "--batch-size", "16", "--views", "2",
    "--precision", "fp32", "--lr", "0.05", "--validation", "0.2", "--noise", "0.02", "--json",
    "--norm-penalty", "l2", "--norm-penalty-on", "weights", "--norm-penalty-weight", "0.01",
    "--device", "cpu",
]  # fmt: skip


WORKER = Path(__file__).parent / "processes_worker.py"
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
COMMANDS = {
    "embedder": ["train-embed", *OPTIONS],
    "folds": [
        "train-classify", "--width", "8", "--epochs", "1", "--batch-size", "16", "--folds", "2",
        "--json", "--device", "cpu",
    ],
    "dry": [
        "train-embed", "--width", "8", "--batch-size", "18", "--dry-run", "--json", "--device", "cpu",
    ],
}  # fmt: skip


def make_pictures(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for colour in range(3):
        for number in range(20):
            file = folder / "rgb"[colour] / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 100, (17, 17, 3), np.uint8)
            pixels[:, :, colour] += 100
            Image.fromarray(pixels).save(file)


def run(folder: Path, out: Path, names: list[str], *launcher: str) -> dict[str, dict]:
    """What each command says, by its name; each trains into the run folder ``out/NAME``."""
    commands = [
        [*COMMANDS[n], "--dataset", str(folder / "pictures"), "--out", str(out / n)] for n in names
    ]
    done = subprocess.run(
        [sys.executable, *launcher, str(WORKER), json.dumps(commands)],
        cwd=folder, capture_output=True, text=True, timeout=120, check=False,
        env={"PATH": "/usr/bin:/bin", "RETRIEVAL_DATA": str(out / "data"),
             "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said, rest = [], done.stdout
    while rest.strip():  # one process speaks
        answer, end = json.JSONDecoder().raw_decode(rest.lstrip())
        said.append(answer)
        rest = rest.lstrip()[end:]
    return dict(zip(names, said, strict=True))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("processes")
    make_pictures(folder / "pictures")
    return folder


@pytest.fixture(scope="module")
def two(folder: Path) -> dict[str, dict]:
    """What two processes say."""
    return run(folder, folder / "two", list(COMMANDS), *TORCHRUN)


def test_two_processes_train_what_one_trains(folder: Path, two: dict[str, dict]) -> None:
    one = run(folder, folder / "one", ["embedder"])
    assert one["embedder"]["epochs"] == two["embedder"]["epochs"] == 2
    runs = [folder / n / "embedder" for n in ("one", "two")]
    histories = [(r / "metrics.jsonl").read_text().splitlines() for r in runs]
    for a, b in zip(*histories, strict=True):
        alone, shared = json.loads(a), json.loads(b)
        assert alone.keys() == shared.keys()
        for key in alone:
            if "seconds" not in key:
                assert shared[key] == pytest.approx(alone[key], rel=2e-3, abs=2e-3), key
    weights, other = (load_file(r / "model.safetensors") for r in runs)
    for name, tensor in weights.items():
        torch.testing.assert_close(other[name], tensor, rtol=1e-2, atol=2e-4)
    config = json.loads((runs[0] / "config.json").read_text())
    torch.manual_seed(0)
    # The tolerances are far below what training changes.
    start = build_embedder(TrainEmbedConfig.from_dict(config), np.zeros((1, 17, 17, 3), np.uint8))
    moved = (weights["projection.weight"] - start.projection.weight).abs().max()
    assert moved > 10 * 2e-4


def test_two_processes_train_a_classifier(two: dict[str, dict]) -> None:
    """None reads what another is still writing."""
    assert len(two["folds"]["accuracies"]) == 2


def test_a_dry_run_of_two_processes_is_told_once(folder: Path, two: dict[str, dict]) -> None:
    assert two["dry"]["batch"] == 18
    assert not (folder / "two" / "dry" / "config.json").exists()


def test_a_process_alone_changes_nothing() -> None:
    alone = Processes()
    rows = torch.randn(3, 2)
    assert alone.gather(rows) is rows
    assert alone.share(7) == slice(0, 7)
    assert alone.first
    assert alone.any(True, torch.device("cpu"))
    assert not alone.any(False, torch.device("cpu"))
    module = nn.Sequential(nn.BatchNorm2d(2))
    assert type(alone.share_batch_norm(module)[0]) is nn.BatchNorm2d
    alone.wait()


def test_frozen_batch_norm_stays_so_when_it_is_shared() -> None:
    """The modules that are frozen must be those that take part."""
    data = LabeledImages(
        "made up", np.zeros((8, 17, 17, 3), np.uint8), np.arange(8) % 2, ("a", "b")
    )
    values = {"width": 8, "batch_size": 4, "freeze_batch_norm": True}
    config = TrainEmbedConfig().with_values(values)
    task = embedding_task(config, data, data, torch.device("cpu"), processes=Processes(0, 2))
    task.module.train()
    norms = [m for m in task.module.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert all(type(m) is SharedBatchNorm and not m.training for m in norms)


def test_shares_cover_a_batch_or_are_refused() -> None:
    shares = [Processes(rank, 3).share(12) for rank in range(3)]
    assert [row for s in shares for row in range(12)[s]] == list(range(12))
    with pytest.raises(ConfigError, match="13 pictures, which 3 processes cannot share"):
        Processes(0, 3).share(13)
