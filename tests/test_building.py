import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from nasty_pictures import make_nasty_pictures
from PIL import Image

from index.errors import GalleryError, ModelMismatch, NotAGallery
from index.gallery import Gallery
from index.verify import verify_gallery
from retrieval import exchange
from retrieval.building import fill, open_or_create, remove_pictures
from retrieval.embedder import Embedder, embed_images
from retrieval.errors import DataError, ImageError
from retrieval.exchange import import_vectors, open_source
from retrieval.exporting import write_embeddings
from retrieval.images import read_image
from retrieval.network_files import embedder_id, load_embedder, save_network
from retrieval.pictures import Picture, list_pictures
from retrieval.search import Searcher
from retrieval.specs import EmbedderSpec
from retrieval.summary import FillSummary


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_model(tmp_path / "model.safetensors", 0)


def make_model(file: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    save_network(Embedder(EmbedderSpec(width=8, image_size=17, embedding_dim=8)), file)
    return file


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for number in range(12):
        write(tmp_path / "pictures" / "abc"[number % 3] / f"{number}.png", rng)
    return tmp_path / "pictures"


def write(file: Path, rng: np.random.Generator) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 256, (20, 24, 3), np.uint8)).save(file)
    return file


def build(out: Path, model: Path, *sources: Path, **options) -> Gallery:
    gallery = open_or_create(out, model, sources=sources, **options)
    fill(gallery, list_pictures(sources))
    return gallery


def test_a_filled_gallery_holds_the_embedding_label_and_hash_of_each_picture(
    tmp_path: Path, model: Path, pictures: Path
) -> None:
    gallery = build(tmp_path / "g", model, pictures)
    items = list(gallery.all_items())
    assert [i.path for i in items] == [
        os.path.relpath(p.path, pictures) for p in list_pictures([pictures])
    ]
    assert {i.label for i in items} == set("abc")
    stack = np.stack([read_image(pictures / i.path, 17) for i in items])
    expected = embed_images(load_embedder(model), stack)
    np.testing.assert_allclose(
        gallery.vectors(np.array([i.id for i in items])), expected, atol=1e-6
    )
    assert verify_gallery(gallery.path) == []


def test_each_picture_finds_itself_first(tmp_path: Path, model: Path, pictures: Path) -> None:
    build(tmp_path / "g", model, pictures)
    photos = sorted(pictures.glob("*/*.png"))
    answers, unreadable = Searcher.open(tmp_path / "g").query_files(photos, 3)
    assert unreadable == []
    for answer in answers:
        assert [hit.rank for hit in answer.hits] == [1, 2, 3]
        assert answer.hits[0].path.samefile(answer.photos[0])
        assert answer.hits[0].distance < 1e-3
        assert answer.hits[0].label == answer.photos[0].parent.name
        distances = [hit.distance for hit in answer.hits]
        assert distances == sorted(distances)


def test_filling_twice_changes_nothing(tmp_path: Path, model: Path, pictures: Path) -> None:
    gallery = build(tmp_path / "g", model, pictures)
    before = sorted((p.name, p.stat().st_mtime_ns) for p in gallery.path.glob("*.npy"))
    summary = fill(gallery, list_pictures([pictures]))
    assert (summary.added, summary.unchanged, summary.replaced) == (0, 12, 0)
    assert sorted((p.name, p.stat().st_mtime_ns) for p in gallery.path.glob("*.npy")) == before


def test_changed_touched_and_new_pictures_are_told_apart(
    tmp_path: Path, model: Path, pictures: Path
) -> None:
    gallery = build(tmp_path / "g", model, pictures)
    os.utime(pictures / "a" / "0.png", ns=(1, 1))  # touched, the same content
    write(pictures / "b" / "1.png", np.random.default_rng(7))
    write(pictures / "d" / "new.png", np.random.default_rng(8))
    summary = fill(gallery, list_pictures([pictures]))
    assert (summary.added, summary.replaced, summary.unchanged) == (1, 1, 11)
    assert len(gallery) == 13
    assert fill(gallery, list_pictures([pictures])).unchanged == 13


def test_bad_pictures_are_noted_or_fatal(tmp_path: Path, model: Path) -> None:
    (tmp_path / "nasty").mkdir()
    nasty = [p for p in make_nasty_pictures(tmp_path / "nasty") if p.indexed]
    gallery = open_or_create(tmp_path / "g", model, sources=[tmp_path / "nasty"])
    listed = list_pictures([tmp_path / "nasty"])
    summary = fill(gallery, listed)
    bad = {p.path.name for p in nasty if p.reason is not None}
    assert summary.failed == len(bad) >= 15
    assert summary.added == len(nasty) - len(bad) >= 40
    lines = (gallery.path / "failed.jsonl").read_text().splitlines()
    assert {json.loads(line)["path"] for line in lines} == bad
    assert all(json.loads(line)["reason"] for line in lines)
    again = fill(gallery, listed)
    assert (again.added, again.unchanged, again.failed) == (0, summary.added, len(bad))
    readable = [p.path for p in nasty if p.reason is None]
    answers, unreadable = Searcher.open(gallery.path).query_files([p.path for p in nasty], 1)
    assert [a.photos[0] for a in answers] == readable
    assert len(unreadable) == len(bad)
    assert np.mean([a.hits[0].distance < 1e-3 for a in answers]) == 1.0
    with pytest.raises(ImageError, match="nasty"):
        fill(open_or_create(tmp_path / "h", model, sources=[]), listed, strict=True)


def test_ctrl_c_keeps_what_is_embedded_and_the_same_call_continues(
    tmp_path: Path, model: Path, pictures: Path
) -> None:
    gallery = open_or_create(tmp_path / "g", model, sources=[pictures])
    done = []

    def count(n: int) -> None:
        done.append(n)
        if len(done) == 7:
            raise KeyboardInterrupt

    listed = list_pictures([pictures])
    summary = fill(gallery, listed, batch_size=4, on_progress=count)
    assert summary.interrupted
    assert (len(gallery), summary.added) == (4, 4)  # one whole batch
    fill(gallery, listed, batch_size=4)
    whole = build(tmp_path / "h", model, pictures)
    assert [(i.id, i.path) for i in gallery.all_items()] == [
        (i.id, i.path) for i in whole.all_items()
    ]


def test_building_again_continues_and_refuses_other_settings(
    tmp_path: Path, model: Path, pictures: Path
) -> None:
    build(tmp_path / "g", model, pictures / "a")
    assert len(build(tmp_path / "g", model, pictures / "a", pictures / "b")) == 8
    with pytest.raises(GalleryError, match="--metric l2, not l1"):
        open_or_create(tmp_path / "g", model, sources=[], metric="l1")
    other = make_model(tmp_path / "other.safetensors", 1)
    with pytest.raises(ModelMismatch, match=r"other\.safetensors"):
        open_or_create(tmp_path / "g", other, sources=[])
    assert len(open_or_create(tmp_path / "g", other, sources=[], overwrite=True)) == 0


def test_without_a_model_a_gallery_goes_on_with_its_own(
    tmp_path: Path, model: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    default = make_model(tmp_path / "default.safetensors", 1)
    monkeypatch.setattr("retrieval.models.DEFAULT", str(default))
    build(tmp_path / "g", model, pictures / "a")
    model.unlink()
    again = open_or_create(tmp_path / "g", sources=[pictures / "b"])
    assert again.embedder_id != embedder_id(default)
    fill(again, list_pictures([pictures / "b"]))
    assert len(again) == 8
    assert open_or_create(tmp_path / "new", sources=[]).embedder_id == embedder_id(default)
    anew = open_or_create(tmp_path / "g", sources=[], overwrite=True)
    assert anew.embedder_id == embedder_id(default)


def test_overwrite_deletes_galleries_only(tmp_path: Path, model: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").write_text("x")
    for overwrite in (False, True):
        with pytest.raises(NotAGallery, match="precious holds other files"):
            open_or_create(tmp_path / "precious", model, sources=[], overwrite=overwrite)
    with pytest.raises(NotAGallery, match=f"{model} is a file, and a gallery is a folder"):
        open_or_create(model, model, sources=[], overwrite=True)
    assert (tmp_path / "precious" / "thesis.txt").exists()


def test_asking_with_another_model_is_refused_naming_both(
    tmp_path: Path, model: Path, pictures: Path
) -> None:
    build(tmp_path / "g", model, pictures)
    other = make_model(tmp_path / "other.safetensors", 1)
    with pytest.raises(ModelMismatch, match=r"other\.safetensors is model .* was made by model"):
        Searcher.open(tmp_path / "g", other)
    Searcher.open(tmp_path / "g", model)


def test_removing_by_path_folder_id_and_filter(tmp_path: Path, model: Path, pictures: Path) -> None:
    gallery = build(tmp_path / "g", model, pictures)
    assert remove_pictures(gallery, [pictures / "a" / "0.png"], [], None) == 1
    assert remove_pictures(gallery, [pictures / "b"], [], None) == 4
    last = max(i.id for i in gallery.all_items())
    # With paths or ids a filter chooses among them.
    assert remove_pictures(gallery, [pictures / "c"], [last], "path like 'a/%'") == 0
    assert remove_pictures(gallery, [pictures / "c"], [], f"id = {last}") == 1
    assert remove_pictures(gallery, [], [], "path like 'a/%'") == 3
    with pytest.raises(DataError, match="nothing was removed"):
        remove_pictures(gallery, [pictures / "c", pictures / "b"], [], None)
    assert len(gallery) == 3
    assert {i.label for i in gallery.all_items()} == {"c"}


def test_listing_takes_labels_and_metadata_from_a_csv(tmp_path: Path, pictures: Path) -> None:
    file = tmp_path / "list.csv"
    file.write_text("path, label, year\npictures/a/0.png, cat , 2020\npictures/b/1.png,,\n")
    listed = list_pictures([file, pictures / "a"])
    assert listed[0] == Picture(pictures / "a" / "0.png", "cat", {"year": "2020"})
    assert listed[1] == Picture(pictures / "b" / "1.png", None, {})
    assert len(listed) == 5  # a/0.png once
    assert list_pictures([pictures / "a"], labels_from_folder=False)[0].label is None
    for wrong, told in (("file\nx\n", "'path'"), ("label,path\ncat\n", "line 2: path is missing")):
        file.write_text(wrong)
        with pytest.raises(DataError, match=told):
            list_pictures([file])


def test_a_moved_folder_answers_with_the_new_paths(
    tmp_path: Path, model: Path, pictures: Path
) -> None:
    build(pictures / "g", model, pictures)
    pictures.rename(tmp_path / "moved")
    answers, _ = Searcher.open(tmp_path / "moved" / "g").query_files(
        [tmp_path / "moved" / "a" / "0.png"], 1
    )
    assert answers[0].hits[0].path == tmp_path / "moved" / "a" / "0.png"


def test_indexes_other_than_flat_are_kept_up_to_date(
    tmp_path: Path, model: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("index.gallery.EXACT_BELOW_ROWS", 0)
    gallery = build(tmp_path / "g", model, pictures, index_key="IVF4,Flat", metric="cosine")
    assert gallery.info()["indexed"] == 12
    remove_pictures(gallery, [pictures / "b"], [], None)
    answers, _ = Searcher.open(gallery.path).query_files([pictures / "b" / "1.png"], 12)
    assert len(answers[0].hits) == 8
    assert {hit.label for hit in answers[0].hits} == {"a", "c"}


def test_embeddings_as_plain_files(tmp_path: Path, model: Path, pictures: Path) -> None:
    (pictures / "a" / "bad.png").write_bytes(b"x")
    monkey_batches = list_pictures([pictures])
    summary = write_embeddings(monkey_batches, model, tmp_path / "out", batch_size=5)
    assert (summary.added, summary.failed) == (12, 1)
    vectors = np.load(tmp_path / "out" / "embeddings.npy", allow_pickle=False)
    with (tmp_path / "out" / "pictures.csv").open(newline="") as table:
        rows = list(csv.DictReader(table))
    assert vectors.shape == (12, 8)
    assert list(rows[0])[:3] == ["row", "path", "label"]
    row, path, label = (rows[4][name] for name in ("row", "path", "label"))
    expected = embed_images(load_embedder(model), read_image(Path(path), 17)[None])[0]
    np.testing.assert_allclose(vectors[int(row)], expected, atol=1e-5)
    assert label == Path(path).parent.name
    with pytest.raises(ImageError, match=r"bad\.png"):
        write_embeddings(monkey_batches, model, tmp_path / "out", strict=True)


def test_embeddings_are_imported_with_all_that_is_known(
    tmp_path: Path, model: Path, pictures: Path
) -> None:
    (pictures / "list.csv").write_text("path,label,by\na/0.png,x,Ann\nb/1.png,,\nc/2.png,y,Bo\n")
    listed = list_pictures([pictures / "list.csv"])
    write_embeddings(listed, model, tmp_path / "out")
    source = open_source(tmp_path / "out")
    imported = exchange.open_or_create(source, tmp_path / "imported", images=pictures)
    import_vectors(imported, source)
    built = open_or_create(tmp_path / "built", model, sources=[pictures])
    fill(built, listed)
    assert list(imported.all_items()) == list(built.all_items())
    np.testing.assert_array_equal(imported.vectors(np.arange(1, 4)), built.vectors(np.arange(1, 4)))
    assert (imported.embedder_id, imported.metric) == (built.embedder_id, built.metric)
    assert imported.items([1])[1].metadata == {"by": "Ann"}
    write_embeddings(listed[:1], model, tmp_path / "out")
    assert open_source(tmp_path / "out").rows == 1


def test_embeddings_are_not_written_among_other_files(
    tmp_path: Path, model: Path, pictures: Path
) -> None:
    listing = pictures / "pictures.csv"
    listing.write_text("path,label,by\na/0.png,x,Ann\n")
    gallery = build(tmp_path / "g", model, pictures)
    (tmp_path / "file").write_text("x")
    for place in (pictures, gallery.path, tmp_path / "file"):
        with pytest.raises(GalleryError, match=f"{place} has something in it that is no export"):
            write_embeddings(list_pictures([listing]), tmp_path / "no model", place)
    assert listing.read_text() == "path,label,by\na/0.png,x,Ann\n"
    assert verify_gallery(gallery.path) == []


def test_a_picture_that_changes_while_it_is_embedded_is_left_out(
    tmp_path: Path, model: Path, pictures: Path
) -> None:
    listed = list_pictures([pictures])
    touched = []

    def touch(_: int) -> None:
        if not touched:
            touched.append(os.utime(listed[0].path, ns=(1, 1)))

    summary = write_embeddings(listed, model, tmp_path / "out", on_progress=touch)
    assert (summary.added, summary.failed) == (11, 1)
    assert "changed while it was read" in (tmp_path / "out" / "failed.jsonl").read_text()
    assert open_source(tmp_path / "out").rows == 11


def test_an_empty_list_gives_an_empty_gallery(tmp_path: Path, model: Path) -> None:
    (tmp_path / "none").mkdir()
    gallery = build(tmp_path / "g", model, tmp_path / "none")
    assert len(gallery) == 0
    assert FillSummary().text() == "0 added (0.0 s)"
