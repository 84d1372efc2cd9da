import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from index.gallery import Gallery
from index.verify import verify_gallery
from retrieval.building import fill, open_or_create, sync
from retrieval.embedder import Embedder, embed_images
from retrieval.errors import DataError
from retrieval.gallery import Gallery as PictureGallery
from retrieval.images import read_image
from retrieval.network_files import load_embedder, save_network
from retrieval.pictures import list_pictures
from retrieval.specs import EmbedderSpec
from retrieval.summary import FillSummary


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for number in range(9):
        draw(tmp_path / "pictures" / "abc"[number % 3] / f"{number}.png", number)
    return tmp_path / "pictures"


@pytest.fixture
def gallery(tmp_path: Path, pictures: Path) -> Gallery:
    torch.manual_seed(0)
    model = tmp_path / "model.safetensors"
    save_network(Embedder(EmbedderSpec(width=8, image_size=17, embedding_dim=8)), model)
    made = open_or_create(tmp_path / "g.gallery", model, sources=[pictures])
    fill(made, list_pictures([pictures]))
    return made


def draw(file: Path, seed: int, kind: str = "PNG") -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (17, 17, 3), np.uint8)
    Image.fromarray(pixels).save(file, kind)


def run(gallery: Gallery, *folders: Path, **options) -> FillSummary:
    return sync(gallery, folders, list_pictures(folders), **options)


def ids(gallery: Gallery) -> dict[str, int]:
    return {item.path: item.id for item in gallery.all_items()}


def counts(summary: FillSummary) -> dict[str, int]:
    fields = summary.to_dict().items()
    return {k: v for k, v in fields if k not in ("seconds", "interrupted") and v}


def assert_holds(gallery: Gallery, pictures: Path) -> None:
    """Every picture once, with its own vector, label, size and time; nothing else."""
    files = {os.path.relpath(p, pictures): p for p in pictures.glob("*/*.png")}
    items = list(gallery.all_items())
    assert {item.path for item in items} == files.keys()
    embedder = load_embedder(gallery.path / "model")
    for item in items:
        file = files[item.path]
        expected = embed_images(embedder, read_image(file, 17)[None])[0]
        found = gallery.vectors(np.array([item.id]))[0]
        np.testing.assert_allclose(found, expected, atol=1e-5)
        assert item.label == file.parent.name
        assert (item.size, item.mtime_ns) == (file.stat().st_size, file.stat().st_mtime_ns)
    assert verify_gallery(gallery.path) == []


def test_all_kinds_of_changes_at_once(gallery: Gallery, pictures: Path) -> None:
    before = ids(gallery)
    draw(pictures / "d" / "new.png", 100)
    draw(pictures / "a" / "0.png", 101)  # another content
    (pictures / "b" / "1.png").unlink()
    (pictures / "c" / "2.png").rename(pictures / "d" / "renamed.png")
    os.utime(pictures / "a" / "3.png", ns=(5, 5))
    planned = counts(run(gallery, pictures, dry_run=True))
    assert ids(gallery) == before
    done = counts(run(gallery, pictures))
    assert done == planned
    assert done == {"added": 1, "replaced": 1, "moved": 1, "removed": 1, "unchanged": 6}
    after = ids(gallery)
    assert after["d/renamed.png"] == before["c/2.png"]
    assert after["a/0.png"] != before["a/0.png"]
    assert after["a/3.png"] == before["a/3.png"]
    assert_holds(gallery, pictures)
    assert counts(run(gallery, pictures)) == {"unchanged": 9}


def test_files_of_distant_times_are_kept_as_of_the_last_that_can_be(
    gallery: Gallery, pictures: Path
) -> None:
    os.utime(pictures / "a" / "0.png", ns=(0, 10_413_792_000 * 10**9))  # 2300-01-01
    if (pictures / "a" / "0.png").stat().st_mtime_ns < 2**63:
        pytest.skip("this disk keeps no such times")
    draw(pictures / "d" / "new.png", 100)
    os.utime(pictures / "d" / "new.png", ns=(0, 10_413_792_000 * 10**9))
    assert counts(run(gallery, pictures)) == {"added": 1, "unchanged": 9}
    times = {item.path: item.mtime_ns for item in gallery.all_items()}
    assert times["a/0.png"] == times["d/new.png"] == 2**63 - 1
    assert gallery.matching("modified = 2262 and modified < 3000").tolist() == [1, 10]
    assert counts(run(gallery, pictures)) == {"unchanged": 10}


def test_what_a_table_told_stays_where_a_folder_is_listed(gallery: Gallery, pictures: Path) -> None:
    """A folder says nothing of years, and its name is no better label than the one that was given."""
    table = pictures / "list.csv"
    table.write_text("path,label,year\na/0.png,cat,1999\nb/1.png,b,2001\n")
    fill(gallery, list_pictures([table]))
    table.unlink()
    known = {i.path: (i.label, i.metadata) for i in gallery.all_items()}
    assert known["a/0.png"] == ("cat", {"year": "1999"})
    assert counts(run(gallery, pictures)) == {"unchanged": 9}
    assert counts(fill(gallery, list_pictures([pictures]))) == {"unchanged": 9}
    (pictures / "a" / "0.png").rename(pictures / "c" / "moved.png")
    (pictures / "b" / "1.png").rename(pictures / "c" / "too.png")
    draw(pictures / "a" / "3.png", 77)
    assert counts(run(gallery, pictures)) == {"moved": 2, "replaced": 1, "unchanged": 6}
    now = {i.path: (i.label, i.metadata) for i in gallery.all_items()}
    assert now["c/moved.png"] == ("cat", {"year": "1999"})
    assert now["c/too.png"] == ("c", {"year": "2001"})  # its label was the folder's, and follows it
    draw(pictures / "c" / "moved.png", 78)  # another content: the table spoke of the file
    assert counts(run(gallery, pictures)) == {"replaced": 1, "unchanged": 8}
    assert {i.path: (i.label, i.metadata) for i in gallery.all_items()} == now


def test_nothing_is_embedded_for_names_and_labels_alone(
    gallery: Gallery, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(ids(gallery).values())
    (pictures / "a").rename(pictures / "z")
    a, b = pictures / "b" / "1.png", pictures / "b" / "4.png"
    a.rename(pictures / "aside")  # two exchange their names
    b.rename(a)
    (pictures / "aside").rename(b)
    monkeypatch.setattr("retrieval.building.load_embedder", None)
    assert counts(run(gallery, pictures)) == {"moved": 5, "unchanged": 4}
    monkeypatch.undo()
    assert sorted(ids(gallery).values()) == before
    assert_holds(gallery, pictures)


def test_a_picture_renamed_over_another_takes_its_place(gallery: Gallery, pictures: Path) -> None:
    before = ids(gallery)
    (pictures / "a" / "0.png").replace(pictures / "b" / "1.png")
    assert counts(run(gallery, pictures)) == {"moved": 1, "removed": 1, "unchanged": 7}
    assert ids(gallery)["b/1.png"] == before["a/0.png"]
    assert_holds(gallery, pictures)


@pytest.mark.parametrize("again", [fill, sync])
def test_a_picture_that_changes_while_it_is_read_is_taken_by_the_next_call(
    gallery: Gallery, pictures: Path, monkeypatch: pytest.MonkeyPatch, again: Callable
) -> None:
    new, known = pictures / "a" / "new.png", pictures / "b" / "1.png"
    for file, seed in ((new, 100), (known, 101)):
        draw(file, seed, "BMP")

    def changed_behind(path: Path, *more: object) -> np.ndarray:
        pixels, size = read_image(path, *more), path.stat().st_size
        draw(path, 200, "BMP")
        assert path.stat().st_size == size  # the time alone tells
        os.utime(path, ns=(path.stat().st_mtime_ns + 1,) * 2)
        return pixels

    with monkeypatch.context() as patched:
        patched.setattr("retrieval.images.read_image", changed_behind)
        assert counts(run(gallery, pictures)) == {"failed": 2, "unchanged": 8}
    assert [path for path, _ in gallery.failures()] == ["a/new.png", "b/1.png"]
    assert all("changed while it was read" in reason for _, reason in gallery.failures())
    folders = [] if again is fill else [[pictures]]
    assert counts(again(gallery, *folders, list_pictures([pictures]))) == {
        "added": 2, "unchanged": 8
    }  # fmt: skip
    assert gallery.failures() == []
    assert_holds(gallery, pictures)


def test_a_copy_is_new_and_equal_contents_are_told_apart_by_their_number(
    gallery: Gallery, pictures: Path
) -> None:
    shutil.copy(pictures / "a" / "0.png", pictures / "b" / "copy.png")
    assert counts(run(gallery, pictures)) == {"added": 1, "unchanged": 9}
    twins = {ids(gallery)["a/0.png"], ids(gallery)["b/copy.png"]}
    (pictures / "a" / "0.png").rename(pictures / "c" / "one.png")
    (pictures / "b" / "copy.png").rename(pictures / "c" / "two.png")
    assert counts(run(gallery, pictures)) == {"moved": 2, "unchanged": 8}
    assert {ids(gallery)["c/one.png"], ids(gallery)["c/two.png"]} == twins
    assert_holds(gallery, pictures)


def test_only_the_folders_given_are_looked_at(gallery: Gallery, pictures: Path) -> None:
    (pictures / "a" / "0.png").unlink()
    (pictures / "b" / "1.png").unlink()
    (pictures / "ab").mkdir()  # begins as the other does
    (pictures / "c" / "2.png").rename(pictures / "ab" / "2.png")
    assert counts(run(gallery, pictures / "a")) == {"removed": 1, "unchanged": 2}
    assert {"b/1.png", "c/2.png"} <= ids(gallery).keys()
    assert counts(run(gallery, pictures)) == {"removed": 1, "moved": 1, "unchanged": 6}
    assert_holds(gallery, pictures)


def test_items_from_outside_the_image_root_stay(
    gallery: Gallery, pictures: Path, tmp_path: Path
) -> None:
    draw(tmp_path / "elsewhere" / "x.png", 50)
    fill(gallery, list_pictures([tmp_path / "elsewhere"]))
    assert counts(run(gallery, pictures)) == {"unchanged": 9}
    assert "../elsewhere/x.png" in ids(gallery)
    (tmp_path / "elsewhere" / "x.png").rename(pictures / "a" / "x.png")
    assert counts(run(gallery, tmp_path)) == {"moved": 1, "unchanged": 9}


def test_a_folder_reached_by_a_link_is_known(
    gallery: Gallery, pictures: Path, tmp_path: Path
) -> None:
    link, beside = tmp_path / "link", tmp_path / "beside"
    link.symlink_to(pictures)
    beside.symlink_to(pictures / "a")
    ours, before = PictureGallery.open(gallery.path), ids(gallery)
    assert counts(ours.sync(link)) == counts(ours.sync([link, pictures])) == {"unchanged": 9}
    assert counts(ours.add([link / "a" / "0.png", beside])) == {"unchanged": 3}
    (link / "b" / "1.png").rename(link / "b" / "one.png")
    assert counts(ours.sync(link / "b")) == {"moved": 1, "unchanged": 2}
    assert ids(ours.vectors)["b/one.png"] == before["b/1.png"]
    assert ours.remove([link / "b", beside / "3.png"]) == 4
    assert len(ours) == 5


def test_pictures_that_are_held_by_the_path_of_a_link_stay_so(
    gallery: Gallery, pictures: Path, tmp_path: Path
) -> None:
    link, by_link = tmp_path / "link", tmp_path / "by-link"
    link.symlink_to(pictures)
    made = open_or_create(by_link, tmp_path / "model.safetensors", sources=[link])
    fill(made, list_pictures([link]))
    ours = PictureGallery.open(by_link)
    assert counts(ours.sync(link)) == counts(ours.sync(pictures)) == {"unchanged": 9}
    assert ours.vectors.image_root == link
    both = PictureGallery.open(gallery.path)  # as galleries were made that hold all of it twice
    fill(both.vectors, list_pictures([link]))
    assert counts(both.sync(link)) == counts(both.sync(pictures)) == {"unchanged": 9}
    assert both.remove(link) == 9
    assert counts(both.sync(link)) == {"unchanged": 9}
    assert_holds(both.vectors, pictures)


def test_an_empty_or_missing_folder_removes_nothing(
    gallery: Gallery, pictures: Path, tmp_path: Path
) -> None:
    shutil.rmtree(pictures)
    pictures.mkdir()
    with pytest.raises(DataError, match=r"holds no picture, and .* has 9 from there"):
        run(gallery, pictures)
    assert len(gallery) == 9
    (tmp_path / "empty").mkdir()
    assert counts(run(gallery, tmp_path / "empty")) == {}
    draw(tmp_path / "one.png", 1)
    with pytest.raises(DataError, match=r"one\.png is not a folder"):
        run(gallery, tmp_path / "one.png")


def test_pictures_that_cannot_be_read_are_noted_and_forgotten_when_gone(
    gallery: Gallery, pictures: Path
) -> None:
    (pictures / "a" / "0.png").write_bytes(b"no picture any more")
    (pictures / "a" / "bad.png").write_bytes(b"nor this")
    assert counts(run(gallery, pictures)) == {"failed": 2, "unchanged": 8}
    assert [path for path, _ in gallery.failures()] == ["a/0.png", "a/bad.png"]
    assert "a/0.png" not in ids(gallery)
    (pictures / "a" / "bad.png").unlink()
    draw(pictures / "a" / "0.png", 0)
    assert counts(run(gallery, pictures)) == {"added": 1, "unchanged": 8}
    assert gallery.failures() == []
    assert_holds(gallery, pictures)
