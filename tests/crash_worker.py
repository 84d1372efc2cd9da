"""Runs a job again and again, kills it (-9) at random moments, and tells how it ended.

python crash_worker.py fill|train FOLDER KILLS SEED prints one JSON object. A process of its own, which
forks: each try starts at once, without importing torch anew.
"""

import hashlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from index.gallery import Gallery
from index.items import all_items
from index.verify import verify_gallery
from retrieval import building, training
from retrieval.building import fill, open_or_create, remove_pictures
from retrieval.checkpoint import Run, embedder_id, save_embedder
from retrieval.config import EmbedderSpec, TrainEmbedConfig
from retrieval.datasets import LabeledImages
from retrieval.embedder import Embedder
from retrieval.pictures import list_pictures
from retrieval.train_embed import train_embed

torch.set_num_threads(1)
building.SHARD_ROWS = 32
training.SAVE_EVERY_SECONDS = 0.05


def make_pictures(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(240):
        file = folder / "pictures" / "abc"[number % 3] / f"{number:03}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (17, 17, 3), np.uint8)).save(file)
    (folder / "pictures" / "a" / "bad.png").write_bytes(b"no picture")
    torch.manual_seed(0)
    spec = EmbedderSpec(width=8, image_size=17, embedding_dim=8)
    save_embedder(Embedder(spec), folder / "model.safetensors")


def fill_job(folder: Path, out: Path) -> None:
    """Build from two classes, add the third, remove the second."""
    pictures = folder / "pictures"
    gallery = open_or_create(
        out, folder / "model.safetensors", sources=[pictures], index_key="IVF4,Flat"
    )
    for sources in ([pictures / "a", pictures / "b"], [pictures]):
        fill(gallery, list_pictures(sources), batch_size=16)
    remove_pictures(gallery, [], [], "label = b")


def fill_result(out: Path) -> str:
    gallery = Gallery.open(out)
    assert verify_gallery(gallery.path) == [], verify_gallery(gallery.path)
    items = [(i.id, i.path, i.content_hash, i.label) for i in all_items(gallery.db)]
    vectors = gallery.vectors(np.array([i[0] for i in items]))
    failed = (out / "failed.jsonl").read_text()
    files = sorted(p.name for p in out.glob("*.part"))
    indexed = gallery.info()["indexed"]
    facts = repr((items, vectors.tobytes(), failed, files, indexed))
    return hashlib.sha256(facts.encode()).hexdigest()


def train_job(folder: Path, out: Path) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (160, 17, 17, 3), np.uint8)
    labels = np.arange(160) % 4
    images[np.arange(160), labels] = 255
    data = LabeledImages("made up", images, labels, tuple("abcd"))
    settings = {
        "width": 8, "embedding_dim": 8, "epochs": 4, "batch_size": 16, "rotation": 10.0, "noise": 0.05,
        "dataset": "made up", "mining": "random", "precision": "fp32", "validation": 0.1,
    }  # fmt: skip
    run = Run(out)
    config = TrainEmbedConfig().with_values(settings)
    resume = run.exists and run.config() == config
    train_embed(config, data, run, device=torch.device("cpu"), resume=resume)


def train_result(out: Path) -> str:
    state = Run(out).load_state()
    assert state is not None
    # Not the file's bytes: safetensors writes the entries of its header in any order.
    digest = hashlib.sha256(embedder_id(out).encode())
    for name, tensor in sorted(state["module"].items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    for record in state["history"]:
        record = {k: v for k, v in record.items() if "seconds" not in k}
        digest.update(json.dumps(record, sort_keys=True).encode())
    return digest.hexdigest()


def try_once(job, folder: Path, out: Path, kill_after: float | None) -> tuple[bool, float]:
    """Whether the job came to its end, and how long it took."""
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        try:
            job(folder, out)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) != 0:
        raise SystemExit("the job failed by itself")
    return os.WIFEXITED(status), time.monotonic() - started


def main(what: str, folder: Path, kills: int, seed: int) -> None:
    job, result = {"fill": (fill_job, fill_result), "train": (train_job, train_result)}[what]
    folder.mkdir(parents=True, exist_ok=True)
    make_pictures(folder)
    _, seconds = try_once(job, folder, folder / "calm", None)
    expected = result(folder / "calm")
    draw = random.Random(seed)
    killed, equal, opened = 0, 0, 0
    for number in range(kills):
        out = folder / f"killed-{number}"
        finished, _ = try_once(job, folder, out, draw.uniform(0, seconds))
        killed += not finished
        if what == "fill" and out.exists():
            Gallery.open(out).search(np.zeros((1, 8)), 3)
        opened += 1
        try_once(job, folder, out, None)
        equal += result(out) == expected
    report = {"kills": kills, "killed": killed, "opened": opened, "equal": equal}
    print(json.dumps({**report, "seconds": round(seconds, 3)}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
