"""Galleries that search codes, and galleries that store nothing else."""

from pathlib import Path

import numpy as np
import pytest
from galleries import make_gallery, new_items, slow_search

from index import encoding
from index.code_keys import CodeKey, code_index, is_code
from index.codes import Codebook
from index.errors import DamagedGallery, GalleryError, IndexKeyError
from index.gallery import Gallery
from index.merging import merge_into, open_or_create_like
from index.neighbors import unit
from index.verify import verify_gallery

RNG = np.random.default_rng(11)
DIM = 10
VECTORS = RNG.normal(size=(700, DIM)).astype(np.float32)
KEYS = ("equal-width:8", "equal-width:4", "equal-width:1", "equal-frequency:4", "equal-frequency:2",
        "kmeans:8", "kmeans:2", "kmeans:8x5", "kmeans:4x5", "kmeans:1x2")  # fmt: skip


def slow_centers(codebook: Codebook, vectors: np.ndarray) -> np.ndarray:
    """For each group of numbers of each vector the nearest centre, by a loop."""
    m, _, d = codebook.centers.shape
    out = np.empty((len(vectors), m, d), np.float32)
    for row, vector in enumerate(vectors):
        for group in range(m):
            part = vector[group * d : (group + 1) * d]
            errors = ((codebook.centers[group] - part) ** 2).sum(1)
            out[row, group] = codebook.centers[group][errors.argmin()]
    return out.reshape(len(vectors), -1)


@pytest.fixture
def gallery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gallery:
    monkeypatch.setattr("index.gallery.EXACT_BELOW_ROWS", 0)
    made = make_gallery(tmp_path / "g.gallery", dim=DIM)
    with made.writer() as writer:
        writer.add(VECTORS[:400], new_items(0, 400))
        writer.add(VECTORS[400:], new_items(400, 300))
    return made


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("equal-width:3", "1, 2, 4 or 8 bits"),
        ("equal-width:8x5", "kmeans:BITSxGROUPS"),
        ("kmeans:8x0", "kmeans:BITSxGROUPS"),
        ("kmeans:8x3", "possible are 1, 2, 5, 10"),
        ("kmeans", "no code"),
    ],
)
def test_a_key_that_is_no_code_is_refused(tmp_path: Path, key: str, words: str) -> None:
    with pytest.raises(IndexKeyError, match=words):
        make_gallery(tmp_path / "g.gallery", dim=DIM, index_key=key)


def test_codes_do_not_go_with_l1(tmp_path: Path) -> None:
    with pytest.raises(IndexKeyError, match="not with the l1 metric"):
        make_gallery(tmp_path / "g.gallery", dim=DIM, metric="l1", index_key="kmeans:8")


def test_what_is_a_code() -> None:
    assert is_code("kmeans:8x16")
    assert not is_code("IVF16,Flat")
    assert not is_code("Flat")
    assert CodeKey.parse("kmeans:4x5", DIM).bytes(DIM) == 3
    assert CodeKey.parse("equal-width:1", DIM).bytes(DIM) == 2


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_the_index_ranks_by_the_nearest_centres(key: str, metric: str) -> None:
    vectors = unit(VECTORS) if metric == "cosine" else VECTORS
    codebook = CodeKey.parse(key, DIM).learn(vectors)
    index = code_index(codebook, metric)
    assert index.d == DIM
    index.add(vectors)
    query = vectors[5:6] + 0.25
    found, rows = index.search(query, 20)
    decoded = slow_centers(codebook, vectors)
    sums = ((decoded - query) ** 2).sum(1) if metric == "l2" else -(decoded @ query[0])
    # The fast scan rounds; no vector that it leaves out is much nearer than those that it names.
    room = 0.05 * np.ptp(sums) if codebook.bits < 8 else 1e-4 * np.ptp(sums)
    left_out = np.delete(sums, rows[0])
    assert sums[rows[0]].max() <= left_out.min() + room
    assert found.shape == (1, 20)


@pytest.mark.parametrize("key", ["equal-width:8", "kmeans:4", "kmeans:8x5", "equal-frequency:1"])
def test_answers_by_codes_are_true_distances(gallery: Gallery, key: str) -> None:
    with gallery.writer() as writer:
        writer.tune(key, gallery.limits)
    queries = RNG.normal(size=(5, DIM)).astype(np.float32)
    # All candidates compared: whatever the codes leave out, the answer is that of a loop.
    gallery.snapshot.settings["plan"] |= {"candidates": 700}
    gallery.snapshot.__dict__.pop("tuned", None)
    assert gallery.snapshot.stored is not None
    gallery.snapshot.stored._loaded = None
    found = gallery.search(queries, 4)
    living = dict(enumerate(VECTORS, start=1))
    for row, query in enumerate(queries):
        assert found.ids[row].tolist() == [i for _, i in slow_search(query, living, 4, "l2")]
    where = gallery.search(queries, 4, where="label = 'a'")
    some = {i: v for i, v in living.items() if (i - 1) % 3 == 0}
    for row, query in enumerate(queries):
        assert where.ids[row].tolist() == [i for _, i in slow_search(query, some, 4, "l2")]


@pytest.mark.parametrize("metric", ["l2", "cosine", "l1"])
@pytest.mark.parametrize("key", ["kmeans:8x5", "equal-width:4", "kmeans:1x5"])
def test_codes_alone(tmp_path: Path, metric: str, key: str) -> None:
    gallery = make_gallery(tmp_path / "g.gallery", dim=DIM, metric=metric)
    with gallery.writer() as writer:
        ids = writer.add(VECTORS[:600], new_items(0, 600))
        writer.remove(ids[:50])
        writer.encode(key)
    codebook = gallery.snapshot.storage.codebook
    assert codebook is not None
    before = unit(VECTORS) if metric == "cosine" else VECTORS
    expected = slow_centers(codebook, before)
    expected = unit(expected) if metric == "cosine" else expected
    living = np.array(ids[50:])
    np.testing.assert_allclose(gallery.vectors(living), expected[50:600], atol=1e-6)
    with gallery.writer() as writer:
        new = writer.add(VECTORS[600:], new_items(600, 100))
        writer.remove(ids[100:110])
        writer.compact()
    living = np.concatenate([ids[50:100], ids[110:], new])
    rows = np.concatenate([np.arange(50, 100), np.arange(110, 700)])
    again = Gallery.open(gallery.path)
    np.testing.assert_allclose(again.vectors(living), expected[rows], atol=1e-6)
    assert verify_gallery(gallery.path) == []
    query = RNG.normal(size=(1, DIM)).astype(np.float32)
    stored = dict(zip(living.tolist(), again.vectors(living), strict=True))
    found = again.search(query, 5)
    slow = slow_search(query[0], stored, 5, metric)
    np.testing.assert_allclose(found.distances[0], [d for d, _ in slow], atol=2e-5)
    worth = again.info()["codes"]
    assert worth["bytes"] == CodeKey.parse(key, DIM).bytes(DIM)
    files = [f for f in gallery.path.iterdir() if f.name.startswith("vectors")]
    assert sum(f.stat().st_size for f in files) < len(living) * worth["bytes"] + 200


def test_the_loss_is_measured_with_vectors_that_were_not_learnt_from(gallery: Gallery) -> None:
    _, worth = encoding.learn_storage(gallery.snapshot, "equal-width:8")
    assert worth["overlap"] > 0.95
    _, poor = encoding.learn_storage(gallery.snapshot, "kmeans:1x2")
    assert poor["overlap"] < 0.3


def test_the_same_code_again_changes_nothing_and_another_is_refused(gallery: Gallery) -> None:
    with gallery.writer() as writer:
        writer.encode("kmeans:8x5")
        generation = gallery.settings["generation"]
        writer.encode("kmeans:8x5")
        assert gallery.settings["generation"] == generation
        with pytest.raises(GalleryError, match="stored as kmeans:8x5 already"):
            writer.encode("equal-width:8")
        with pytest.raises(IndexKeyError, match="no code"):
            writer.encode("Flat")


def test_nothing_can_be_learnt_from_an_empty_gallery(tmp_path: Path) -> None:
    gallery = make_gallery(tmp_path / "g.gallery", dim=DIM)
    with gallery.writer() as writer, pytest.raises(GalleryError, match="no vectors to learn"):
        writer.encode("kmeans:8x5")
    assert gallery.settings["dtype"] == "float32"


def test_one_vector_is_its_own_centre(tmp_path: Path) -> None:
    gallery = make_gallery(tmp_path / "g.gallery", dim=DIM)
    with gallery.writer() as writer:
        ids = writer.add(VECTORS[:1], new_items(0, 1))
        writer.encode("kmeans:8x5")
    np.testing.assert_array_equal(gallery.vectors(np.array(ids)), VECTORS[:1])
    assert gallery.info()["codes"]["overlap"] is None


def test_coding_that_is_cut_short_leaves_the_vectors(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(done: int, of: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), gallery.writer() as writer:
        writer.encode("kmeans:8x5", stop)
    again = Gallery.open(gallery.path)
    np.testing.assert_array_equal(again.vectors(np.arange(1, 701)), VECTORS)
    with again.writer():
        pass  # sweeps
    assert not list(gallery.path.glob("codebook*"))
    assert verify_gallery(gallery.path) == []


def test_a_damaged_codebook_is_refused(gallery: Gallery) -> None:
    with gallery.writer() as writer:
        writer.encode("kmeans:8x5")
    gallery.close()
    (file,) = gallery.path.glob("codebook*")
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)
    with pytest.raises(DamagedGallery, match="codebook"):
        Gallery.open(gallery.path)


def test_codes_are_merged_as_the_vectors_that_they_stand_for(
    gallery: Gallery, tmp_path: Path
) -> None:
    with gallery.writer() as writer:
        writer.encode("kmeans:8x5")
    merged = open_or_create_like(tmp_path / "m.gallery", [gallery])
    merge_into(merged, [gallery])
    np.testing.assert_array_equal(
        merged.vectors(np.arange(1, 701)), gallery.vectors(np.arange(1, 701))
    )
    assert merged.settings["dtype"] == "float32"
