"""Making galleries where nothing is, where a link is, and in the place of others."""

import errno
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from galleries import make_gallery, new_items, no_space_left

from index.errors import (
    BudgetError,
    DamagedGallery,
    GalleryError,
    GalleryLocked,
    IndexKeyError,
    NotAGallery,
)
from index.gallery import Gallery
from index.lock import LOCK, take_lock
from index.planner import Limits
from index.vector_index import AUTO
from index.verify import verify_gallery


def filled(path: Path, n: int, first: int = 0, **options: object) -> Gallery:
    gallery = make_gallery(path, **options)
    with gallery.writer() as writer:
        writer.add(np.eye(n, gallery.dim, dtype=np.float32), new_items(first, n))
    return gallery


def paths(gallery: Gallery) -> list[str]:
    return [item.path for item in gallery.all_items()]


def test_a_reader_goes_to_the_gallery_that_took_the_place(tmp_path: Path) -> None:
    reader = filled(tmp_path / "g", 3)
    new = filled(tmp_path / "g", 2, 10, dim=5, overwrite=True)
    assert paths(reader) == ["p0.png", "p1.png", "p2.png"]  # until it refreshes
    assert reader.search(np.eye(4)[:1], 1).ids.tolist() == [[1]]
    assert reader.refresh()
    assert not reader.refresh()
    assert (len(reader), reader.dim, paths(reader)) == (2, 5, ["p10.png", "p11.png"])
    assert reader.search(np.eye(5)[1:2], 1).ids.tolist() == [[2]]
    assert paths(new) == paths(reader)


@pytest.mark.parametrize("same", [True, False])
def test_a_writer_that_was_open_writes_to_the_new_one(tmp_path: Path, same: bool) -> None:
    old = filled(tmp_path / "g", 3)
    filled(tmp_path / "g", 3 if same else 1, 10, overwrite=True).close()
    with old.writer() as writer:
        writer.remove([1])
        writer.add(np.ones((1, 4), np.float32), new_items(20, 1))
    assert verify_gallery(tmp_path / "g") == []
    expected = ["p11.png", "p12.png", "p20.png"] if same else ["p20.png"]
    assert paths(Gallery.open(tmp_path / "g")) == paths(old) == expected


def test_who_waits_for_a_lock_gets_that_of_the_new_folder(tmp_path: Path) -> None:
    folder, taken = tmp_path / "g", []
    folder.mkdir()
    held = take_lock(folder)
    waiting = threading.Thread(target=lambda: taken.append(take_lock(folder, 30)))
    waiting.start()
    folder.rename(tmp_path / "old")
    folder.mkdir()
    held.close()
    waiting.join()
    with taken[0]:
        assert (folder / LOCK).exists()
        with pytest.raises(GalleryLocked):
            take_lock(folder)


def test_a_gallery_that_is_gone_says_so(tmp_path: Path) -> None:
    gallery = filled(tmp_path / "g", 2)
    (tmp_path / "g").rename(tmp_path / "moved")
    for _ in range(2):
        with pytest.raises(NotAGallery, match="is not a gallery"):
            gallery.refresh()
        with pytest.raises(NotAGallery, match="is no more"):
            gallery.writer().__enter__()
    (tmp_path / "moved").rename(tmp_path / "g")
    assert not gallery.refresh()
    assert paths(gallery) == ["p0.png", "p1.png"]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"index_key": "bogus"}, IndexKeyError),
        ({"metric": "hamming"}, GalleryError),
        ({"index_key": AUTO, "limits": Limits(max_bytes=10), "n_vectors": 9}, BudgetError),
        ({"overwrite": False}, GalleryError),
    ],
)
def test_what_cannot_be_made_leaves_what_is_there(
    tmp_path: Path, options: dict, error: type[Exception]
) -> None:
    filled(tmp_path / "g", 2).close()
    with pytest.raises(error):
        make_gallery(tmp_path / "g", **{"overwrite": True, **options})
    assert paths(Gallery.open(tmp_path / "g")) == ["p0.png", "p1.png"]
    assert [file.name for file in tmp_path.iterdir()] == ["g"]


def test_leavings_of_killed_processes_are_swept(tmp_path: Path) -> None:
    filled(tmp_path / "g", 2).close()
    for left in (".g.1.part", ".g.1.old", ".g2.1.old"):
        (tmp_path / left / "model").mkdir(parents=True)
    filled(tmp_path / "g", 1, overwrite=True)
    assert sorted(file.name for file in tmp_path.iterdir()) == [".g2.1.old", "g"]


def test_a_gallery_being_written_to_is_not_replaced(tmp_path: Path) -> None:
    gallery = filled(tmp_path / "g", 2)
    with gallery.writer(), pytest.raises(GalleryLocked):
        make_gallery(tmp_path / "g", overwrite=True)
    assert paths(Gallery.open(tmp_path / "g")) == ["p0.png", "p1.png"]
    assert [file.name for file in tmp_path.iterdir()] == ["g"]


def test_only_galleries_are_replaced_and_damaged_ones_are(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").write_text("x")
    (tmp_path / "file").write_text("x")
    for name, told in (("precious", "holds other files"), ("file", "is a file, and a gallery is")):
        for overwrite in (False, True):
            with pytest.raises(NotAGallery, match=f"{name} {told}.*; name a new folder, such as"):
                make_gallery(tmp_path / name, overwrite=overwrite)
    assert (tmp_path / "precious" / "thesis.txt").read_text() == "x"
    filled(tmp_path / "g", 2).close()
    (tmp_path / "g" / "vectors-000001.npy").unlink()
    with pytest.raises(DamagedGallery):
        Gallery.open(tmp_path / "g")
    assert paths(filled(tmp_path / "g", 1, 5, overwrite=True)) == ["p5.png"]


def test_a_folder_that_cannot_be_written_to_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gallery = filled(tmp_path / "g", 1)

    def refuse(path: Path, *options: object, **more: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    for name in ("mkdir", "open"):
        monkeypatch.setattr(Path, name, refuse)
    with pytest.raises(
        GalleryError, match=f"h cannot be made in {tmp_path}: Permission denied; name"
    ):
        make_gallery(tmp_path / "h" / "h")
    with pytest.raises(GalleryError, match=f"{gallery.path} cannot be written to: Permission"):
        gallery.writer().__enter__()


@pytest.mark.parametrize("name", [".", "..", "/"])
def test_the_folder_that_one_is_in_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(GalleryError, match="cannot become a gallery; name a new folder"):
        make_gallery(Path(name))


def test_a_link_to_a_gallery_is_that_gallery(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "home").mkdir()
    filled(tmp_path / "data" / "g", 2).close()
    link = tmp_path / "home" / "g"
    link.symlink_to("../data/g")
    assert Gallery.open(link).image_root == tmp_path / "data"
    filled(link, 1, 7, overwrite=True, image_root=tmp_path / "data" / "pics").close()
    assert link.is_symlink()
    replaced = Gallery.open(tmp_path / "data" / "g")
    assert paths(replaced) == ["p7.png"]
    assert replaced.image_root == Gallery.open(link).image_root == tmp_path / "data" / "pics"
    for name in ("empty", "missing"):
        (tmp_path / "home" / name).symlink_to(f"../data/{name}")
    (tmp_path / "data" / "empty").mkdir()
    for name in ("empty", "missing"):
        assert paths(filled(tmp_path / "home" / name, 1)) == ["p0.png"]
        assert paths(Gallery.open(tmp_path / "data" / name)) == ["p0.png"]


def test_a_link_that_is_turned_to_another_gallery_is_followed(tmp_path: Path) -> None:
    filled(tmp_path / "one", 1).close()
    filled(tmp_path / "two", 2).close()
    link = tmp_path / "g"
    link.symlink_to("one")
    reader = Gallery.open(link)
    link.unlink()
    link.symlink_to("two")
    assert reader.refresh()
    assert len(reader) == 2


def test_ids_that_a_search_gives_can_be_removed(tmp_path: Path) -> None:
    gallery = filled(tmp_path / "g", 4)
    with gallery.writer() as writer:
        assert writer.remove(gallery.search(np.eye(4)[:1], 2).ids[0]) == 2
        assert writer.remove(np.empty(0, np.int64)) == 0
        assert writer.remove(gallery.matching("label = a")) == 1
    assert paths(gallery) == ["p2.png"]


def test_on_a_full_disk_no_half_gallery_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", no_space_left)
        with pytest.raises(GalleryError, match=r"g\.gallery could not be made: .*No space left"):
            make_gallery(tmp_path / "g.gallery")
    assert list(tmp_path.iterdir()) == []
    assert len(make_gallery(tmp_path / "g.gallery")) == 0
