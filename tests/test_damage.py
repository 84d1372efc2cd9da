"""Each file of a gallery harmed in each way: refused by name, or harmless and still right."""

import contextlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from galleries import grid_vectors, make_gallery, new_items, slow_search

from index.errors import DamagedGallery, GalleryError, ModelMismatch, NotAGallery
from index.gallery import Gallery
from index.verify import verify_gallery
from retrieval.embedder import Embedder
from retrieval.errors import CheckpointError
from retrieval.network_files import embedder_id, save_network
from retrieval.search import Searcher
from retrieval.specs import EmbedderSpec

DIM = 256
ROWS = 150  # two shards, of which the first has vectors of more than two blocks
QUERIES = grid_vectors(np.random.default_rng(9), 3, DIM)


def make(path: Path, seed: int) -> Path:
    made = make_gallery(path, dim=DIM, index_key="IVF2,Flat", image_root=path.parent)
    vectors = grid_vectors(np.random.default_rng(seed), ROWS, DIM)
    with made.writer() as writer:
        with writer._commit(next_id=1 + 1000 * seed):
            pass
        writer.add(vectors[:140], new_items(0, 140))
        writer.add(vectors[140:], new_items(140, 10))
        writer.remove([5 + 1000 * seed])
        writer.refresh_index()
        writer.record_failures([("bad.png", "no picture")])
    made.close()
    return path


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two galleries of the same shape, with other ids and vectors."""
    folder = tmp_path_factory.mktemp("sound")
    return make(folder / "one.gallery", 0), make(folder / "two.gallery", 1)


@pytest.fixture(scope="module")
def expected(pair: tuple[Path, Path]) -> list[list[int]]:
    vectors = dict(enumerate(grid_vectors(np.random.default_rng(0), ROWS, DIM), start=1))
    del vectors[5]
    return [[i for _, i in slow_search(query, vectors, 4, "l2")] for query in QUERIES]


@pytest.fixture
def harmed(pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("index.gallery.EXACT_BELOW_ROWS", 0)
    shutil.copytree(pair[0], tmp_path / "g.gallery")
    return tmp_path / "g.gallery"


def flip(place: float) -> Callable[[Path, Path], None]:
    def harm(file: Path, other: Path) -> None:
        data = bytearray(file.read_bytes())
        data[min(int(len(data) * place), len(data) - 1)] ^= 1
        file.write_bytes(data)

    return harm


HARMS: dict[str, Callable[[Path, Path], object]] = {
    "empty": lambda file, other: file.write_bytes(b""),
    "truncate": lambda file, other: os.truncate(file, file.stat().st_size // 2),
    "lengthen": lambda file, other: file.write_bytes(file.read_bytes() + b"\0"),
    "delete": lambda file, other: file.unlink(),
    "swap": lambda file, other: shutil.copy(other, file),
    "flip-first": flip(0.0),
    "flip-middle": flip(0.5),
    "flip-last": flip(1.0),
}
REFUSED = [
    "gallery.sqlite", "vectors-000001.npy", "vectors-000002.npy", "ids-000001.npy", "ids-000002.npy",
]  # fmt: skip
DERIVED = ["index-000003.faiss", "index-000003-positions.npy"]
HARMLESS = ["failed.jsonl", "writer.lock", "gallery.seal"]


def answers(path: Path) -> list[list[int]]:
    """What the gallery answers, with and without its index; the items must be there."""
    gallery = Gallery.open(path)
    exact = gallery.search(QUERIES, 4, exact=True).ids
    np.testing.assert_array_equal(gallery.search(QUERIES, 4).ids, exact)
    items = gallery.items(exact)
    assert all(items[i].path == f"p{i - 1}.png" for i in exact.ravel().tolist())
    found: list[list[int]] = exact.tolist()
    return found


def test_what_is_sound_passes(harmed: Path, expected: list[list[int]]) -> None:
    assert sorted(file.name for file in harmed.iterdir()) == sorted(
        [*REFUSED, *DERIVED, *HARMLESS, "model"]
    )
    assert answers(harmed) == expected
    assert verify_gallery(harmed) == []


@pytest.mark.parametrize("how", HARMS)
@pytest.mark.parametrize("name", REFUSED)
def test_what_holds_the_truth_is_refused_by_name(
    harmed: Path, pair: tuple[Path, Path], name: str, how: str
) -> None:
    HARMS[how](harmed / name, pair[1] / name)
    with pytest.raises((DamagedGallery, NotAGallery), match=name):
        answers(harmed)
    with contextlib.suppress(NotAGallery):
        assert any(name in finding for finding in verify_gallery(harmed))


@pytest.mark.parametrize("how", HARMS)
@pytest.mark.parametrize("name", DERIVED)
def test_a_harmed_index_is_passed_over_and_made_again(
    harmed: Path, pair: tuple[Path, Path], expected: list[list[int]], name: str, how: str
) -> None:
    HARMS[how](harmed / name, pair[1] / name)
    opened = Gallery.open(harmed)
    assert any(name in note for note in opened.notes)
    assert answers(harmed) == expected
    with opened.writer() as writer:
        writer.refresh_index()
    assert Gallery.open(harmed).notes == ()
    assert answers(harmed) == expected
    assert verify_gallery(harmed) == []


@pytest.mark.parametrize("how", HARMS)
@pytest.mark.parametrize("name", HARMLESS)
def test_what_is_not_needed_does_no_harm(
    harmed: Path, pair: tuple[Path, Path], expected: list[list[int]], name: str, how: str
) -> None:
    HARMS[how](harmed / name, pair[1] / name)
    if (name, how) == ("gallery.seal", "swap"):
        with pytest.raises(DamagedGallery, match=r"gallery\.sqlite has changed.*delete .*seal"):
            answers(harmed)
        return
    assert answers(harmed) == expected
    with Gallery.open(harmed).writer() as writer:
        writer.remove([1])
    assert verify_gallery(harmed) == []
    assert "bad.png" in (harmed / "failed.jsonl").read_text()


@pytest.mark.parametrize("left", [[*REFUSED[1:3]], [*REFUSED[1:]], ["model"]])
def test_parts_of_two_galleries_do_not_pass_for_one(
    harmed: Path, pair: tuple[Path, Path], left: list[str]
) -> None:
    """All is of the other gallery but for a few files."""
    for file in pair[1].iterdir():
        if file.name not in left and file.is_file():
            shutil.copy(file, harmed)
    if left == ["model"]:  # the same bytes in both
        assert verify_gallery(harmed) == []
        return
    with pytest.raises(DamagedGallery, match="vectors-00000"):
        answers(harmed)


def test_a_log_left_by_a_writer_may_be_harmed(harmed: Path, tmp_path: Path) -> None:
    """Without a part of the log the gallery is one that was committed earlier, or refused."""
    gallery = Gallery.open(harmed)
    writer = gallery.writer().__enter__()
    for number in range(6):
        writer.add(np.ones((1, DIM)), new_items(500 + number, 1))
    log = (harmed / "gallery.sqlite-wal").read_bytes()
    sizes = set()
    for size in np.linspace(0, len(log), 12).astype(int).tolist():
        shutil.copytree(harmed, tmp_path / "copy")
        (tmp_path / "copy" / "gallery.sqlite-wal").write_bytes(log[:size])
        (tmp_path / "copy" / "gallery.sqlite-shm").unlink()
        opened = Gallery.open(tmp_path / "copy")
        sizes.add(len(opened))
        assert verify_gallery(tmp_path / "copy") == []
        opened.close()
        shutil.rmtree(tmp_path / "copy")
    writer.__exit__(None, None, None)
    assert {149, 155} <= sizes <= set(range(149, 156))


@pytest.mark.parametrize("how", HARMS)
def test_a_harmed_model_answers_no_photo(tmp_path: Path, how: str) -> None:
    for seed, name in enumerate(("one", "two")):
        torch.manual_seed(seed)
        spec = EmbedderSpec(width=8, image_size=17, embedding_dim=8)
        save_network(Embedder(spec), tmp_path / name / "model.safetensors")
    file = tmp_path / "one" / "model.safetensors"
    gallery = make_gallery(
        tmp_path / "g.gallery", dim=8, embedder_id=embedder_id(file),
        model={"model.safetensors": file.read_bytes()},
    )  # fmt: skip
    HARMS[how](gallery.path / "model" / "model.safetensors", tmp_path / "two" / "model.safetensors")
    with pytest.raises((GalleryError, CheckpointError, ModelMismatch), match=r"model"):
        Searcher.open(gallery.path).embedder  # noqa: B018 (loading is what is tested)
    assert any("model.safetensors" in finding for finding in verify_gallery(gallery.path))
