"""Works on a gallery at full speed, as one of several processes, for some seconds.

python busy_gallery.py write|read GALLERY SECONDS SEED. The writer adds, replaces, removes, compacts and
indexes; it prints, as JSON, a digest of what the gallery held after each commit. A reader checks each
answer against a loop over what its commit holds, and prints a digest of each commit that it saw.
A vector follows from the path of its item, so that nothing that is compared comes from the gallery.
"""

import hashlib
import json
import random
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from index.gallery import Gallery
from index.items import NewItem
from index.writer import GalleryWriter

DIM = 6


def vector_of(path: str, version: str) -> np.ndarray:
    rng = np.random.default_rng(zlib.crc32(f"{path} {version}".encode()))
    return rng.integers(-3, 4, DIM).astype(np.float32)


def digest(gallery: Gallery) -> str:
    held = [(item.id, item.path, item.content_hash) for item in gallery.all_items()]
    return hashlib.sha256(repr(held).encode()).hexdigest()


def write(path: Path, seconds: float, seed: int) -> dict[str, str]:
    draw, seen, serial = random.Random(seed), {}, 0
    gallery = Gallery.open(path)
    until = time.monotonic() + seconds

    def note() -> None:
        seen[str(gallery.settings["generation"])] = digest(gallery)

    rewrite = GalleryWriter._rewrite

    def noted(writer: GalleryWriter, *arguments: Any, **options: Any) -> None:
        rewrite(writer, *arguments, **options)
        note()  # of several shards that are rewritten, each is a commit

    GalleryWriter._rewrite = noted  # type: ignore[method-assign]
    note()
    while time.monotonic() < until:
        with gallery.writer(wait=10) as writer:
            for _ in range(draw.randint(1, 4)):
                serial += 1
                change(writer, draw, serial)
                note()
            if draw.random() < 0.3:
                writer.refresh_index()
                note()
            if draw.random() < 0.3:
                writer.compact()
                note()
    return seen


def change(writer: GalleryWriter, draw: random.Random, serial: int) -> None:
    ids = [item_id for item_id, _ in writer.gallery.all_paths()]
    if len(ids) > 300 or (ids and draw.random() < 0.4):
        writer.remove(draw.sample(ids, min(len(ids), draw.randint(1, 12))))
        return
    paths = {f"{draw.randint(0, 500)}.png" for _ in range(draw.randint(1, 15))}
    items = [NewItem(p, str(serial), 1, 1, label="ab"[draw.randint(0, 1)]) for p in sorted(paths)]
    writer.add(np.stack([vector_of(item.path, str(serial)) for item in items]), items)


def read(path: Path, seconds: float, seed: int) -> dict[str, str]:
    draw, seen, number = np.random.default_rng(seed), {}, 0
    gallery = Gallery.open(path)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        number += 1
        if number % 20 == 0:
            gallery.close()
            gallery = Gallery.open(path)
        else:
            gallery.refresh()
        check(gallery, draw)
        seen[str(gallery.settings["generation"])] = digest(gallery)
    return {**seen, "checked": str(number)}


def check(gallery: Gallery, draw: np.random.Generator) -> None:
    items = {item.id: item for item in gallery.all_items()}
    assert len(items) == len(gallery)
    query = draw.integers(-3, 4, DIM).astype(np.float32)
    for where in (None, "label = b"):
        near = {
            i: float(np.linalg.norm(vector_of(item.path, item.content_hash) - query))
            for i, item in items.items()
            if where is None or item.label == "b"
        }
        expected = sorted(near, key=lambda i: (round(near[i], 5), i))[:10]
        found = gallery.search(query[None], 10, exact=True, where=where)
        assert found.ids[0][found.ids[0] >= 0].tolist() == expected, (found.ids, expected)
        indexed = gallery.search(query[None], 10, where=where)
        ids = indexed.ids[0][indexed.ids[0] >= 0].tolist()
        assert len(ids) == len(expected)
        np.testing.assert_allclose(indexed.distances[0][: len(ids)], [near[i] for i in ids], 1e-5)
        assert gallery.items(ids) == {i: items[i] for i in ids}


if __name__ == "__main__":
    import index.gallery

    if hasattr(index.gallery, "EXACT_BELOW_ROWS"):
        index.gallery.EXACT_BELOW_ROWS = 0
    work = {"write": write, "read": read}[sys.argv[1]]
    print(json.dumps(work(Path(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]))))
