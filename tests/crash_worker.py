"""Runs a job again and again, kills it (-9) at random moments, and tells how it ended.

python crash_worker.py fill|keep|train FOLDER KILLS SEED prints one JSON object. A process of its own,
which forks: each try starts at once, without importing torch anew.
"""

import hashlib
import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from index import compaction, merging
from index.gallery import Gallery
from index.items import all_items
from index.merging import merge_into
from index.verify import verify_gallery
from retrieval import checkpoint, filling, training
from retrieval.building import fill, open_or_create, remove_pictures, sync
from retrieval.checkpoint import Run
from retrieval.embedder import Embedder
from retrieval.labeled_images import LabeledImages
from retrieval.network_files import embedder_id, save_network
from retrieval.pictures import list_pictures
from retrieval.run_config import TrainEmbedConfig
from retrieval.specs import EmbedderSpec
from retrieval.train_embed import train_embed

torch.set_num_threads(1)
filling.SHARD_ROWS = merging.COMMIT_ROWS = 32
compaction.JOINED = 3
training.SAVE_EVERY_SECONDS = 0.05
checkpoint.training_curves = lambda *_: None  # a drawing with each save would take most of the time


def draw(file: Path, seed: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (17, 17, 3), np.uint8)
    Image.fromarray(pixels).save(file)


def make_pictures(folder: Path) -> None:
    for number in range(240):
        draw(folder / "pictures" / "abc"[number % 3] / f"{number:03}.png", number)
    (folder / "pictures" / "a" / "bad.png").write_bytes(b"no picture")
    torch.manual_seed(0)
    spec = EmbedderSpec(width=8, image_size=17, embedding_dim=8)
    save_network(Embedder(spec), folder / "model.safetensors")


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
    facts = repr((items, vectors.tobytes(), failed, files))
    return hashlib.sha256(facts.encode()).hexdigest()


def make_kept(folder: Path) -> None:
    """A gallery ``start`` of pictures that have changed since, of others, and another gallery."""
    pictures = folder / "pictures"
    for name in ("old", "other"):
        for number in range(40):
            draw(folder / name / f"{number:03}.png", 1000 * len(name) + number)
    for out, sources in (("start", [pictures, folder / "old"]), ("more", [folder / "other"])):
        model = folder / "model.safetensors"
        gallery = open_or_create(folder / out, model, sources=[folder], index_key="IVF4,Flat")
        fill(gallery, list_pictures(sources), batch_size=16)
        gallery.close()
    (pictures / "b").rename(pictures / "d")
    for number in range(0, 240, 3):
        file = pictures / "a" / f"{number:03}.png"
        file.unlink()
        if number % 2:
            draw(file, 5000 + number)


def keep_job(folder: Path, out: Path) -> None:
    """Sync, remove, compact and merge."""
    gallery = Gallery.open(out)
    pictures = folder / "pictures"
    sync(gallery, [pictures], list_pictures([pictures]), batch_size=16)
    remove_pictures(gallery, [], [], "label = old")
    with gallery.writer() as writer:
        writer.compact()
    merge_into(gallery, [Gallery.open(folder / "more")])


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
    ended, status = 0, 0
    if kill_after is not None:
        while not ended and time.monotonic() < started + kill_after:
            time.sleep(0.001)
            ended, status = os.waitpid(child, os.WNOHANG)
        if not ended:
            os.kill(child, signal.SIGKILL)
    if not ended:
        _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) != 0:
        raise SystemExit("the job failed by itself")
    return os.WIFEXITED(status), time.monotonic() - started


def main(what: str, folder: Path, kills: int, seed: int) -> None:
    job, result = {
        "fill": (fill_job, fill_result),
        "keep": (keep_job, fill_result),
        "train": (train_job, train_result),
    }[what]
    folder.mkdir(parents=True, exist_ok=True)
    make_pictures(folder)
    if what == "keep":
        make_kept(folder)
        shutil.copytree(folder / "start", folder / "calm")
    _, seconds = try_once(job, folder, folder / "calm", None)
    expected = result(folder / "calm")
    draw = random.Random(seed)
    killed, equal, opened = 0, 0, 0
    for number in range(kills):
        out = folder / f"killed-{number}"
        if what == "keep":
            shutil.copytree(folder / "start", out)
        finished, took = try_once(job, folder, out, draw.uniform(0, seconds))
        killed += not finished
        if finished:  # other work on the machine had slowed down the try that was timed
            seconds = took
        if what != "train" and out.exists():
            Gallery.open(out).search(np.zeros((1, 8)), 3)
            assert verify_gallery(out) == [], verify_gallery(out)
        opened += 1
        try_once(job, folder, out, None)
        equal += result(out) == expected
    report = {"kills": kills, "killed": killed, "opened": opened, "equal": equal}
    print(json.dumps({**report, "seconds": round(seconds, 3)}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
