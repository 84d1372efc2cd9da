"""Pictures of noise, a small network that was never trained, and a gallery of both."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from retrieval.building import fill, open_or_create
from retrieval.embedder import Embedder
from retrieval.network_files import save_network
from retrieval.pictures import list_pictures
from retrieval.specs import EmbedderSpec


def draw(
    file: Path, seed: int, size: tuple[int, int] = (24, 20), colour: int | None = None
) -> Path:
    """A picture of noise, width × height, with a tint of red (0), green (1) or blue (2)."""
    file.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (size[1], size[0], 3), np.uint8)
    if colour is not None:
        pixels //= 3
        pixels[:, :, colour] += 170
    Image.fromarray(pixels).save(file)
    return file


def make_model(file: Path, **spec: object) -> Path:
    torch.manual_seed(0)
    settings = {"width": 8, "image_size": 17, "embedding_dim": 8, **spec}
    save_network(Embedder(EmbedderSpec(**settings)), file)
    return file


def make_place(folder: Path, **spec: object) -> Path:
    """photos/ with the labels a, b and c, g.gallery of them, and outside/ with others.

    There are 13 photos; a/12.png is the same file as a/0.png.
    """
    for number in range(12):
        draw(folder / "photos" / "abc"[number % 3] / f"{number}.png", number)
    (folder / "photos" / "a" / "12.png").write_bytes(
        (folder / "photos" / "a" / "0.png").read_bytes()
    )
    for number in range(3):
        draw(folder / "outside" / f"{number}.png", 100 + number, (60, 40))
    model = make_model(folder / "model.safetensors", **spec)
    sources = [folder / "photos"]
    gallery = open_or_create(folder / "g.gallery", model, sources=sources)
    fill(gallery, list_pictures(sources))
    gallery.close()
    return folder
