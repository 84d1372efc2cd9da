import dataclasses
import json
import os
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from galleries import grid_vectors, make_gallery, new_items, no_space_left, slow_search

from index.errors import (
    DamagedGallery,
    FilterError,
    GalleryError,
    GalleryLocked,
    IndexKeyError,
    ModelMismatch,
    NotAGallery,
    VectorError,
)
from index.gallery import Gallery
from index.planner import Limits
from index.verify import verify_gallery

GOLDEN = Path(__file__).parent / "golden" / "gallery-v1"


@pytest.fixture
def gallery(tmp_path: Path) -> Gallery:
    """30 vectors in three commits, of which 0, 9, 18, 27 are removed: ids 1, 10, 19, 28."""
    made = make_gallery(tmp_path / "g.gallery")
    vectors = grid_vectors(np.random.default_rng(0), 30)
    with made.writer() as writer:
        for first in (0, 12, 20):
            last = {0: 12, 12: 20, 20: 30}[first]
            writer.add(vectors[first:last], new_items(first, last - first))
        assert writer.remove([1, 10, 19, 28]) == 4
    return made


def living(gallery: Gallery) -> dict[int, np.ndarray]:
    ids = [item.id for item in gallery.all_items()]
    return dict(zip(ids, gallery.vectors(np.array(ids)), strict=True))


def assert_search_is_right(gallery: Gallery, k: int, where: str | None = None, **options) -> None:
    vectors = living(gallery)
    if where is not None:
        wanted = set(gallery.matching(where).tolist())
        vectors = {i: v for i, v in vectors.items() if i in wanted}
    queries = grid_vectors(np.random.default_rng(9), 6)
    found = gallery.search(queries, k, where=where, **options)
    for row, query in enumerate(queries):
        expected = slow_search(query, vectors, k, gallery.metric)
        assert found.ids[row, : len(expected)].tolist() == [i for _, i in expected]
        assert (found.ids[row, len(expected) :] == -1).all()


@pytest.mark.parametrize("k", [1, 5, 26, 40])
@pytest.mark.parametrize("where", [None, "label = b", "year >= 2020 and label != a", "id = 5"])
def test_search_equals_a_loop_over_the_living(gallery: Gallery, k: int, where: str | None) -> None:
    assert_search_is_right(gallery, k, where)


def test_reopening_gives_the_same_answers(gallery: Gallery) -> None:
    again = Gallery.open(gallery.path)
    assert len(again) == len(gallery) == 26
    queries = grid_vectors(np.random.default_rng(1), 5)
    np.testing.assert_array_equal(again.search(queries, 7).ids, gallery.search(queries, 7).ids)
    assert verify_gallery(again.path) == []


def test_an_empty_gallery_answers_with_nothing(tmp_path: Path) -> None:
    empty = make_gallery(tmp_path / "e.gallery", index_key="IVF8,Flat")
    with empty.writer() as writer:
        writer.refresh_index()
        assert writer.add(np.empty((0, 4)), []) == []
    assert (empty.search(np.zeros((2, 4)), 3).ids == -1).all()
    assert len(empty) == 0
    assert verify_gallery(empty.path) == []
    assert empty.labelled()[1].shape == (0, 4)


def test_ids_are_never_used_again(gallery: Gallery) -> None:
    with gallery.writer() as writer:
        writer.remove([30])
        writer.compact()
        assert writer.add(np.ones((1, 4)), new_items(99, 1)) == [31]


def test_an_item_of_a_known_path_takes_its_place_under_a_new_id(gallery: Gallery) -> None:
    with gallery.writer() as writer:
        ids = writer.add(np.full((1, 4), 9.0), new_items(1, 1, path="p1.png", label="new"))
    assert ids == [31]
    assert len(gallery) == 26
    assert gallery.items([2]) == {}
    assert gallery.items([31])[31].label == "new"
    assert gallery.search(np.full((1, 4), 9.0), 1).ids.tolist() == [[31]]


def test_removing_what_is_not_there_removes_nothing(gallery: Gallery) -> None:
    with gallery.writer() as writer:
        assert writer.remove([1, 999]) == 0
    assert len(gallery) == 26


@pytest.mark.parametrize("key", ["IVF4,Flat", "HNSW8", "IVF4,SQ8", "PQ2x4fs"])
@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_survivors_find_themselves_after_removal_and_additions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, metric: str
) -> None:
    monkeypatch.setattr("index.gallery.EXACT_BELOW_ROWS", 0)
    made = make_gallery(tmp_path / "g.gallery", index_key=key, metric=metric)
    vectors = np.random.default_rng(3).normal(size=(400, 4)).astype(np.float32)
    with made.writer() as writer:
        writer.add(vectors[:300], new_items(0, 300))
        writer.refresh_index()
        writer.remove(range(1, 301, 3))
        writer.add(vectors[300:], new_items(300, 100))  # not in the index: found all the same
    for opened in (made, Gallery.open(made.path)):
        assert opened.info()["indexed"] == 300
        alive = [i for i in range(1, 401) if i > 300 or (i - 1) % 3]
        found = opened.search(vectors[np.array(alive) - 1], 3)
        assert np.mean(found.ids[:, 0] == alive) > 0.99
        assert not set(found.ids.ravel().tolist()) & set(range(1, 301, 3))
        filtered = opened.search(vectors[:20], 5, where="label = c")
        assert {item.label for item in opened.items(filtered.ids).values()} == {"c"}
        whole = opened.search(vectors[:20], 1000)
        assert ((whole.ids >= 0).sum(1) == len(alive)).all()  # fewer only where fewer exist


def test_an_index_is_asked_however_small_the_gallery_but_not_for_what_few_a_filter_leaves(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = make_gallery(tmp_path / "g.gallery", index_key="HNSW8")
    with made.writer() as writer:
        vectors = np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32)
        writer.add(vectors, new_items(0, 300))
        writer.refresh_index()
    caplog.set_level("INFO", "index.gallery")
    made.search(vectors[:1], 3)
    made.search(vectors[:1], 3, exact=True)
    made.search(vectors[:1], 3, where="label = a")
    made.search(vectors[:1], 4)  # more than a hundredth of them
    told = [message.rpartition(": ")[2] for message in caplog.messages]
    assert told == ["by index", "exact", "exact", "exact"]


def test_answers_do_not_depend_on_k_or_on_the_batch(gallery: Gallery) -> None:
    queries = np.random.default_rng(5).normal(size=(40, 4)).astype(np.float32)
    many = gallery.search(queries, 15)
    np.testing.assert_array_equal(gallery.search(queries, 5).ids, many.ids[:, :5])
    for row, query in enumerate(queries):
        alone = gallery.search(query[None], 15)
        np.testing.assert_array_equal(alone.ids[0], many.ids[row])
        np.testing.assert_array_equal(alone.distances[0], many.distances[row])


def test_compact_keeps_items_and_answers_and_drops_files(gallery: Gallery) -> None:
    before = living(gallery)
    reader = Gallery.open(gallery.path)
    with gallery.writer() as writer:
        assert writer.compact() == 4
        assert writer.compact() == 0
    assert len(list(gallery.path.glob("vectors-*.npy"))) == 1
    after = living(gallery)
    assert before.keys() == after.keys()
    assert all((before[i] == after[i]).all() for i in before)
    assert verify_gallery(gallery.path) == []
    # A reader from before goes on seeing what it saw, though its files are gone.
    assert_search_is_right(reader, 5)
    assert reader.refresh()
    assert_search_is_right(reader, 5)


def test_float16_is_stored_and_searched(tmp_path: Path) -> None:
    made = make_gallery(tmp_path / "g.gallery", dtype="float16")
    with made.writer() as writer:
        writer.add(grid_vectors(np.random.default_rng(0), 20), new_items(0, 20))
    assert np.load(made.path / "vectors-000001.npy").dtype == np.float16
    assert_search_is_right(made, 4)


def test_float16_refuses_what_it_cannot_hold(tmp_path: Path) -> None:
    made = make_gallery(tmp_path / "g.gallery", dtype="float16")
    with made.writer() as writer, pytest.raises(VectorError, match="cannot hold 1e\\+06"):
        writer.add(np.full((1, 4), 1e6), new_items(0, 1))
    assert len(made) == 0


def test_files_of_others_in_the_folder_are_left_alone(gallery: Gallery) -> None:
    (gallery.path / "notes.txt").write_text("mine")
    (gallery.path / "vectors-000099.npy").write_bytes(b"left by a writer that was killed")
    with gallery.writer():
        pass
    assert (gallery.path / "notes.txt").read_text() == "mine"
    assert not (gallery.path / "vectors-000099.npy").exists()
    left = gallery.path.parent / ".h.gallery.123.part"
    left.mkdir()
    make_gallery(gallery.path.parent / "h.gallery")
    assert not left.exists()


def test_a_second_writer_is_told_who_writes(gallery: Gallery) -> None:
    with (
        gallery.writer(),
        pytest.raises(GalleryLocked, match=str(os.getpid())),
        Gallery.open(gallery.path).writer(),
    ):
        pass
    with gallery.writer():  # free again
        pass


def test_a_failed_commit_changes_nothing(gallery: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("disk full")

    with gallery.writer() as writer, monkeypatch.context() as patch:
        patch.setattr("index.items.insert_items", fail)
        with pytest.raises(RuntimeError, match="disk full"):
            writer.add(np.ones((1, 4)), new_items(50, 1))
    assert len(gallery) == len(Gallery.open(gallery.path)) == 26
    with gallery.writer():
        pass
    assert len(list(gallery.path.glob("vectors-*.npy"))) == 3  # the orphan is swept


def test_a_full_disk_is_an_error_of_the_gallery_and_changes_nothing(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    with gallery.writer() as writer:
        for change in (
            lambda: writer.add(np.ones((1, 4)), new_items(50, 1)),
            lambda: writer.tune("HNSW8", Limits()),
            lambda: writer.encode("equal-width:8"),
        ):
            with monkeypatch.context() as patch:
                patch.setattr(os, "fsync", no_space_left)
                with pytest.raises(GalleryError, match=r"stays as it was: .*No space left"):
                    change()
            assert len(gallery) == 26
            assert gallery.settings["index_file"] is None
        writer.add(np.ones((1, 4)), new_items(50, 1))
    assert len(Gallery.open(gallery.path)) == 27
    assert verify_gallery(gallery.path) == []


def test_bad_vectors_and_items_are_refused(gallery: Gallery) -> None:
    with gallery.writer() as writer:
        with pytest.raises(VectorError, match="4 numbers"):
            writer.add(np.ones((1, 5)), new_items(50, 1))
        with pytest.raises(VectorError, match="finite"):
            writer.add(np.full((1, 4), np.nan), new_items(50, 1))
        with pytest.raises(VectorError, match="2 vectors came with 1 items"):
            writer.add(np.ones((2, 4)), new_items(50, 1))
        with pytest.raises(VectorError, match="different paths"):
            writer.add(np.ones((2, 4)), new_items(50, 2, path="same.png"))
    assert len(gallery) == 26


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"metadata": {"sharpness": float("nan")}}, "not JSON compliant"),
        ({"metadata": {"tags": {"a"}}}, "set is not JSON"),
        ({"label": 3}, "'int' object"),
        ({"label": "\ud800"}, "surrogates not allowed"),
        ({"size": 2**70}, "too large"),
        ({"size": 1.5}, "'float' object"),
        ({"mtime_ns": None}, "'NoneType' object"),
        ({"path": 7}, "'int' object"),
        ({"content_hash": 7}, "'int' object"),
    ],
)
def test_items_that_cannot_be_stored_are_named(
    gallery: Gallery, fields: dict[str, object], reason: str
) -> None:
    before = list(gallery.all_items())
    with gallery.writer() as writer:
        bad = new_items(50, 1) + new_items(51, 1, **fields)
        with pytest.raises(GalleryError, match=rf"item .* cannot be stored: .*{reason}"):
            writer.add(np.ones((2, 4)), bad)
        with pytest.raises(GalleryError, match=rf"item .* cannot be stored: .*{reason}"):
            writer.update([dataclasses.replace(before[3], **fields)])
    assert list(gallery.all_items()) == before
    assert gallery.matching("label = a").size


def test_what_former_versions_stored_of_numpy_and_nan_is_read(gallery: Gallery) -> None:
    size, mtime = (np.int64(n).tobytes() for n in (70_000, -5))
    gallery.close()
    db = sqlite3.connect(gallery.path / "gallery.sqlite")
    db.execute("UPDATE items SET size = ?, mtime_ns = ?, metadata = ? WHERE id = 2",
               (size, mtime, '{"sharpness": NaN}'))  # fmt: skip
    db.commit()
    db.close()
    (gallery.path / "gallery.seal").unlink()
    again = Gallery.open(gallery.path)
    item = again.items([2])[2]
    assert (item.size, item.mtime_ns, item.metadata) == (70_000, -5, {"sharpness": None})
    with again.writer() as writer:
        writer.update([item])
    assert again.matching("size > 50000").tolist() == [2]


def test_whole_numbers_of_numpy_are_stored_as_numbers(gallery: Gallery) -> None:
    with gallery.writer() as writer:
        sizes = {"size": np.int64(70_000), "mtime_ns": np.uint32(5)}
        (added,) = writer.add(np.ones((1, 4)), new_items(50, 1, **sizes))
        item = gallery.items([2])[2]
        writer.update([dataclasses.replace(item, size=np.int32(60_000))])
    assert gallery.matching("size > 50000").tolist() == [2, added]
    assert gallery.items([added])[added].mtime_ns == 5


def test_file_names_come_back_as_they_were(gallery: Gallery) -> None:
    odd = os.fsdecode(b"\xff\xfe.png")
    names = ["a b.png", "new\nline.png", "q'\"`.png", "ü/é.png", odd]
    items = [new_items(50 + i, 1, path=name, label=name)[0] for i, name in enumerate(names)]
    with gallery.writer() as writer:
        ids = writer.add(np.ones((5, 4)), items)
        writer.record_failures([(name, "no picture") for name in names])
        assert writer.add(np.ones((5, 4)), items) == [i + 5 for i in ids]
        writer.record_failures([("bad.png", "no picture")])
    found = Gallery.open(gallery.path).items(range(36, 41))
    assert [found[i].path for i in range(36, 41)] == names
    assert [found[i].label for i in range(36, 41)] == names
    lines = (gallery.path / "failed.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"path": "bad.png", "reason": "no picture"}]


def test_a_recorded_failure_removes_the_item_of_that_path(gallery: Gallery) -> None:
    with gallery.writer() as writer:
        writer.record_failures([("p1.png", "damaged")])
    assert 2 not in living(gallery)
    assert gallery.info()["left_out"] == 1


def test_check_model_names_both(gallery: Gallery) -> None:
    gallery.check_model("e" * 64, "mine")
    with pytest.raises(ModelMismatch, match=r"mine is model ffffffffffff.*eeeeeeeeeeee"):
        gallery.check_model("f" * 64, "mine")


def test_image_root_moves_with_the_folder(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    made = make_gallery(tmp_path / "a" / "g.gallery", image_root=tmp_path / "a" / "pictures")
    assert made.image_root == tmp_path / "a" / "pictures"
    (tmp_path / "a").rename(tmp_path / "b")
    moved = Gallery.open(tmp_path / "b" / "g.gallery")
    assert moved.image_root == tmp_path / "b" / "pictures"


def test_create_refuses_what_is_in_the_way_and_nonsense(tmp_path: Path) -> None:
    (tmp_path / "g").mkdir()
    (tmp_path / "g" / "file").write_text("x")
    with pytest.raises(GalleryError, match="holds other files"):
        make_gallery(tmp_path / "g")
    with pytest.raises(GalleryError, match="metric"):
        make_gallery(tmp_path / "h", metric="dot")
    with pytest.raises(IndexKeyError):
        make_gallery(tmp_path / "h", metric="l1", index_key="PQ4")
    assert not (tmp_path / "h").exists()


def test_what_is_no_gallery_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(NotAGallery, match=rf"build-index PICTURES --out {tmp_path}\.gallery$"):
        Gallery.open(tmp_path)
    with pytest.raises(NotAGallery, match=rf"build-index PICTURES --out {tmp_path}/missing$"):
        Gallery.open(tmp_path / "missing")


def test_an_unknown_format_version_is_refused_with_both_numbers(gallery: Gallery) -> None:
    db = sqlite3.connect(gallery.path / "gallery.sqlite")
    db.execute("UPDATE settings SET value = '99' WHERE name = 'format_version'")
    db.commit()
    with pytest.raises(NotAGallery, match=r"version 99.*reads 1"):
        Gallery.open(gallery.path)


def test_bad_queries_are_refused(gallery: Gallery) -> None:
    with pytest.raises(VectorError, match="k is 0"):
        gallery.search(np.zeros((1, 4)), 0)
    with pytest.raises(VectorError, match=r"k is 1\.5"):
        gallery.search(np.zeros((1, 4)), 1.5)
    with pytest.raises(VectorError, match="are not numbers"):
        gallery.search([["a", "b", "c", "d"]], 1)
    with pytest.raises(VectorError, match="are not numbers"):
        gallery.search([[1, 2, 3], [4]], 1)
    with pytest.raises(VectorError, match="4 numbers"):
        gallery.search(np.zeros((1, 3)), 1)
    assert gallery.search(np.zeros((0, 4)), 2).ids.shape == (0, 2)


def test_filters_are_checked(gallery: Gallery) -> None:
    with pytest.raises(FilterError, match="'colour'"):
        gallery.search(np.zeros((1, 4)), 1, where="colour = red")


def indexed(tmp_path: Path) -> Gallery:
    made = make_gallery(tmp_path / "g.gallery", index_key="IVF4,Flat")
    with made.writer() as writer:
        writer.add(grid_vectors(np.random.default_rng(0), 100), new_items(0, 100))
        writer.refresh_index()
    made.db.close()
    return made


def test_a_database_with_flipped_bytes_never_ends_in_another_kind_of_error(tmp_path: Path) -> None:
    path = indexed(tmp_path).path
    whole = (path / "gallery.sqlite").read_bytes()
    queries = grid_vectors(np.random.default_rng(9), 2)
    refused = 0
    for place in np.random.default_rng(0).integers(0, len(whole), 60).tolist():
        flipped = bytes(255 - byte for byte in whole[place : place + 4])
        (path / "gallery.sqlite").write_bytes(whole[:place] + flipped + whole[place + 4 :])
        try:
            opened = Gallery.open(path)
            opened.items(opened.search(queries, 100).ids)
            verify_gallery(opened.path)
        except GalleryError:
            refused += 1
    assert refused > 0


def test_a_missing_model_is_refused(tmp_path: Path) -> None:
    path = indexed(tmp_path).path
    (path / "model" / "model.safetensors").unlink()
    with pytest.raises(DamagedGallery, match=r"model\.safetensors"):
        Gallery.open(path)


def test_the_golden_gallery_of_format_1_opens(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN, tmp_path / "golden")
    golden = Gallery.open(tmp_path / "golden")
    assert (len(golden), golden.dim, golden.metric) == (5, 4, "l2")
    assert verify_gallery(golden.path) == []
    found = golden.search(np.array([[2.2, 2.2, 2.2, 2.2]]), 3)
    assert found.ids.tolist() == [[3, 4, 2]]
    np.testing.assert_allclose(found.distances, [[0.4, 1.6, 2.4]], rtol=1e-6)
    assert golden.items([4])[4].path == "p3.png"
