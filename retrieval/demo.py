"""The whole loop on the handwritten digits that come inside scikit-learn."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from index.atomic import write_atomically
from retrieval import building, protocols
from retrieval.checkpoint import Run
from retrieval.datasets import load_dataset
from retrieval.evaluation import RetrievalReport
from retrieval.labeled_images import LabeledImages
from retrieval.outputs import check_no_photo
from retrieval.pictures import list_pictures
from retrieval.presets import DATASET_SETTINGS
from retrieval.report import contact_sheet, html_gallery, write_picture
from retrieval.run_config import TrainEmbedConfig
from retrieval.search import Searcher, sheet_row
from retrieval.train_embed import train_embed

QUERIES = 5
"""Unseen pictures asked for the contact sheet."""


@dataclasses.dataclass(frozen=True)
class DemoResult:
    """Where everything went, and how good the answers are."""

    run: Path
    gallery: Path
    sheet: Path
    page: Path
    queries: list[Path]
    report: RetrievalReport


def run_demo(
    folder: Path,
    *,
    on_step: Callable[[int, int], None] = lambda done, total: None,
    on_stage: Callable[[str], None] = lambda text: None,
) -> DemoResult:
    """Write pictures, train, index, measure and ask, all inside ``folder``; what was there goes on.

    The pictures asked are test pictures, which neither training nor the gallery has seen. Raises
    ConfigError where the contact sheet would replace a photo.
    """
    sheet, page = folder / "answers.png", folder / "answers.html"
    if not (folder / "digits.gallery").exists():  # what lies beside it is of a demo before
        check_no_photo(sheet, "the contact sheet")
    on_stage("Writing the 1,797 digits as PNG files")
    pictures = folder / "digits"
    for split in ("train", "test"):
        _write_pictures(load_dataset("digits", split=split), pictures / split)
    config = TrainEmbedConfig().with_values(
        {**DATASET_SETTINGS["digits"], "dataset": str(pictures)}
    )
    run: Run[TrainEmbedConfig] = Run(folder / "run")
    on_stage(f"Training {config.fit.epochs} epochs")
    data = load_dataset(
        config.dataset, data_dir=folder / "cache", image_size=config.embedder.image_size
    )
    train_embed(config, data, run, device=torch.device("cpu"), on_step=on_step)
    on_stage("Indexing the training pictures")
    gallery = building.open_or_create(
        folder / "digits.gallery", run.folder, sources=[pictures / "train"], overwrite=True
    )
    building.fill(gallery, list_pictures([pictures / "train"]))
    on_stage("Measuring with the test pictures")
    report = protocols.evaluate_gallery(gallery.path, str(pictures / "test"))
    queries = _one_of_each(pictures / "test")
    answers, _ = Searcher.open(gallery.path).query_files(queries, k=8)
    rows = [sheet_row(a, photo.parent.name) for a, photo in zip(answers, queries, strict=True)]
    write_picture(contact_sheet(rows), sheet)
    write_atomically(page, html_gallery(rows, "Handwritten digits").encode())
    return DemoResult(run.folder, gallery.path, sheet, page, queries, report)


def _write_pictures(data: LabeledImages, folder: Path) -> None:
    for number, (image, label) in enumerate(zip(data.images, data.labels, strict=True)):
        file = folder / data.classes[label] / f"{number:04}.png"
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.asarray(image)).save(file)


def _one_of_each(folder: Path) -> list[Path]:
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    return [min(c.iterdir()) for c in classes[: 2 * QUERIES : 2]]
