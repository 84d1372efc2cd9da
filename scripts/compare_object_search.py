"""Search by object against search by whole picture, where objects cover a small part of their picture.

Labelled pictures are pasted into scenes, of which some are a gallery and others ask. A query is right
at rank 1 where the first answer shows an object of its class; by object the answer's box must also
lie on it (IoU of at least 0.5). The same embedder embeds whole scenes, the objects that a detector
finds (the surest of a query asks; one without an object counts as wrong), and, as an upper limit, true
boxes. Detector and embedder learn from other pictures than those in gallery and queries, which are
others from each other too. Without --detector and --model both are trained, for each seed anew: a
tiny-ssd on scenes, the embedder on their true boxes.

Example: python scripts/compare_object_search.py --dataset digits --seeds 3
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import numpy as np
import torch
from PIL import Image
from seeds import interval

from index.exact_search import exact_search
from index.parts import Box
from retrieval.checkpoint import Run
from retrieval.cli.commands import Command
from retrieval.datasets import load_dataset
from retrieval.detection.boxed_pictures import BoxedPictures, Objects
from retrieval.detection.boxes import overlaps
from retrieval.detection.scenes import make_scenes
from retrieval.embedder import embed_images
from retrieval.gallery import Gallery
from retrieval.images import part_of
from retrieval.labeled_images import LabeledImages
from retrieval.network_files import load_embedder
from retrieval.objects import cut_around
from retrieval.presets import DATASET_SETTINGS
from retrieval.run_config import TrainDetectConfig, TrainEmbedConfig
from retrieval.search import Answer
from retrieval.train_detect import train_detect
from retrieval.train_embed import train_embed

KINDS = ("whole picture", "detected objects", "true boxes")
CPU = torch.device("cpu")


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is compared: how scenes are made, and what finds and embeds objects in them."""

    dataset: str
    size: int
    cover: tuple[float, float]
    scenes: int
    queries: int
    training: int
    epochs: int
    detector: Path | None
    model: Path | None

    def make(self, pictures: LabeledImages, count: int, seed: int) -> BoxedPictures:
        """Scenes with one object each."""
        return make_scenes(pictures, count, seed=seed, size=self.size, cover=self.cover)


def whole_box(box: np.ndarray) -> Box:
    """A box left, top, right, bottom in whole pixels, as left, top, width, height."""
    left, top, right, bottom = (round(float(edge)) for edge in box)
    return left, top, right - left, bottom - top


def cuts(scenes: BoxedPictures, side: int) -> np.ndarray:
    """The object of each scene, cut out by its true box as galleries of objects do: uint8 (n,S,S,3)."""
    parts = []
    for row, objects in enumerate(scenes.objects):
        picture = scenes.read(row)
        around = cut_around(whole_box(objects.boxes[0]), picture.shape, 0.0)
        parts.append(part_of(picture, around, side))
    return np.stack(parts)


def true_labels(scenes: BoxedPictures) -> np.ndarray:
    """The class of each scene's object, int64 (n,)."""
    return np.array([objects.labels[0] for objects in scenes.objects])


def train_both(setting: Setting, seed: int, folder: Path) -> tuple[Path, Path]:
    """The run folders of a detector and an embedder, trained where they are not given."""
    detector, model = setting.detector, setting.model
    if detector is not None and model is not None:
        return detector, model
    pictures = load_dataset(setting.dataset, image_size=32, split="train")
    scenes = setting.make(pictures, setting.training, seed)
    if detector is None:
        config = TrainDetectConfig().with_values(
            {"dataset": "scenes", "model": "tiny-ssd", "image_size": setting.size, "flip": False}
            | {"epochs": setting.epochs, "seed": seed}
        )
        detector = folder / "detector"
        train_detect(config, scenes, Run(detector, TrainDetectConfig), device=CPU)
    if model is None:
        learning = TrainEmbedConfig().with_values(
            {**DATASET_SETTINGS.get(setting.dataset, {}), "dataset": setting.dataset}
            | {"image_size": 32, "seed": seed}
        )
        objects = LabeledImages("objects", cuts(scenes, 32), true_labels(scenes), scenes.classes)
        model = folder / "model"
        train_embed(learning, objects, Run(model), device=CPU)
    return detector, model


def write(scenes: BoxedPictures, folder: Path) -> list[Path]:
    """The scenes as PNG files, in their order."""
    folder.mkdir()
    files = [folder / f"{row:05}.png" for row in range(len(scenes))]
    for row, file in enumerate(files):
        Image.fromarray(scenes.read(row)).save(file)
    return files


def shows(truth: Objects, label: int, box: Box | None) -> bool:
    """Whether a scene has an object of this class, and at this box, if one is given."""
    right = truth.subset(truth.labels == label)
    if box is None or len(right) == 0:
        return len(right) > 0
    left, top, width, height = box
    found = torch.tensor([[left, top, left + width, top + height]], dtype=torch.float32)
    return bool((overlaps(found, torch.from_numpy(right.boxes)) >= 0.5).any())


def recall(answers: Sequence[Answer], labels: np.ndarray, stored: BoxedPictures) -> float:
    """The share of queries, named by their number, that the first of their answers answers rightly."""
    first: dict[int, Answer] = {}
    for answer in answers:
        first.setdefault(int(answer.photos[0].stem), answer)
    right = 0
    for row, answer in first.items():
        for hit in answer.hits[:1]:
            right += shows(stored.objects[int(hit.path.stem)], int(labels[row]), hit.box)
    return right / len(labels)


def measure(setting: Setting, seed: int, folder: Path) -> dict[str, float]:
    """recall@1 of each of KINDS, and how many objects the detector stored for each scene."""
    detector, model = train_both(setting, seed, folder)
    pictures = load_dataset(setting.dataset, image_size=32, split="test")
    order = np.random.default_rng(seed).permutation(len(pictures))
    half = len(order) // 2
    stored = setting.make(pictures.subset(order[:half]), setting.scenes, seed + 1000)
    asking = setting.make(pictures.subset(order[half:]), setting.queries, seed + 2000)
    labels = true_labels(asking)
    write(stored, folder / "stored")
    queries = write(asking, folder / "asking")
    found = {}
    for kind, objects in ((KINDS[0], None), (KINDS[1], detector)):
        out = folder / kind
        with Gallery.create(out, folder / "stored", model=model, objects=objects) as gallery:
            summary = gallery.add(folder / "stored", labels=False)
            answers = gallery.query(queries, 1, objects=objects is not None)
        found[kind] = recall(answers, labels, stored)
    embedder = load_embedder(model)
    side = embedder.spec.image_size
    stored_vectors, vectors = (embed_images(embedder, cuts(s, side)) for s in (stored, asking))
    nearest = exact_search(
        vectors, 1, lambda: [(stored_vectors, np.arange(len(stored)))],
        lambda ids: stored_vectors[ids], embedder.spec.distance,
    )  # fmt: skip
    found[KINDS[2]] = float((true_labels(stored)[nearest.ids[:, 0]] == labels).mean())
    return {**found, "objects a scene": (summary.objects or 0) / len(stored)}


@click.command(cls=Command, help=__doc__)
@click.option("--dataset", default="digits", show_default=True, help="Whose pictures are pasted.")
@click.option("--size", default=128, show_default=True, help="Side of a scene in pixels.")
@click.option(
    "--cover", nargs=2, type=float, default=(0.02, 0.05), show_default=True,
    help="Share of a scene that its object covers, from and to.",
)  # fmt: skip
@click.option("--scenes", default=300, show_default=True, type=click.IntRange(1),
              help="Scenes in the gallery.")  # fmt: skip
@click.option("--queries", default=200, show_default=True, type=click.IntRange(1),
              help="Scenes that ask.")  # fmt: skip
@click.option("--training", default=1000, show_default=True, type=click.IntRange(1),
              help="Scenes to learn from.")  # fmt: skip
@click.option("--epochs", default=20, show_default=True, type=click.IntRange(1),
              help="Of the detector.")  # fmt: skip
@click.option("--detector", type=click.Path(path_type=Path), help="Instead of training one.")
@click.option("--model", type=click.Path(path_type=Path), help="Instead of training one.")
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(2))
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def main(seeds: int, as_json: bool, **options: object) -> None:
    setting = Setting(**options)  # type: ignore[arg-type]
    runs = []
    for seed in range(seeds):
        with TemporaryDirectory() as folder:
            runs.append(measure(setting, seed, Path(folder)))
        click.echo(f"seed {seed}: {runs[-1]}", err=True)
    gain = [run[KINDS[1]] - run[KINDS[0]] for run in runs]
    table = {kind: interval([run[kind] for run in runs]) for kind in KINDS}
    table["objects − whole"] = interval(gain)
    if as_json:
        values = {kind: dataclasses.asdict(found) for kind, found in table.items()}
        shown = {name: str(v) if isinstance(v, Path) else v for name, v in options.items()}
        click.echo(json.dumps({"options": shown, "recall_at_1": values, "runs": runs}, indent=2))
        return
    low, high = setting.cover
    click.echo(
        f"{setting.dataset}: {setting.queries} scenes ask {setting.scenes}; objects cover {low:.0%} "
        f"to {high:.0%}; recall@1 (mean of {seeds} seeds, 95 % interval)"
    )
    for kind, value in table.items():
        click.echo(f"{kind:<18}{value!s:>24}")


if __name__ == "__main__":
    main()
