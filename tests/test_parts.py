"""Items that are parts of pictures, as the index keeps them."""

import os
from pathlib import Path

import numpy as np
import pytest
from galleries import make_gallery, new_items

from index.gallery import Gallery
from index.items import NewItem
from index.parts import part_name, split_part
from index.verify import verify_gallery

OBJECTS = {"detector": "d" * 64}


@pytest.mark.parametrize(
    "file", ["a.jpg", "", "a b/ä.png", "x#xywh=1,2,3,4", "line\nbreak", "\udcff"]
)
def test_a_part_is_split_into_what_it_was_made_of(file: str) -> None:
    assert split_part(part_name(file, (0, 12, 345, 6))) == (file, (0, 12, 345, 6))


@pytest.mark.parametrize(
    "name",
    ["a.jpg", "a.jpg#xywh=", "a#xywh=1,2,3", "a#xywh=1,2,3,-4", "a#xywh=1,2,3,4 ", "a#1,2,3,4"],
)
def test_other_names_are_those_of_whole_files(name: str) -> None:
    assert split_part(name) == (name, None)


def parts(file: str, count: int, content: str = "h") -> list[NewItem]:
    names = [(0, 0, number + 1, 1) for number in range(count)]
    return [NewItem(part_name(file, b), part_name(content, b), 7, 8) for b in names]


def vectors(count: int) -> np.ndarray:
    return np.arange(4 * count, dtype=np.float32).reshape(count, 4)


def test_the_items_of_a_file_are_found_as_by_a_loop(tmp_path: Path) -> None:
    gallery = make_gallery(tmp_path / "g", objects=OBJECTS)
    odd = os.fsdecode(b"\xff.jpg")
    files = ["a", "a.jpg", "a.jpg#xywh=1,2,3,4.jpg", "a.jpgx", "b", odd]
    items = [item for count, file in enumerate(files) for item in parts(file, count)]
    items += new_items(0, 1, path="a.jpg")
    with gallery.writer() as writer:
        writer.add(vectors(len(items)), items)
    found = gallery.items_of_files([*files, "none"])
    expected: dict[str, list[int]] = {}
    for item in gallery.all_items():
        expected.setdefault(split_part(item.path)[0], []).append(item.id)
    assert {file: [item.id for item in some] for file, some in found.items()} == expected
    assert "a" not in found
    assert len(found["a.jpg"]) == 2
    assert gallery.items_of_files([]) == {}


def test_without_objects_a_file_is_its_path(tmp_path: Path) -> None:
    gallery = make_gallery(tmp_path / "g")
    (item,) = parts("a.jpg", 1)
    with gallery.writer() as writer:
        writer.add(vectors(1), [item])
    assert gallery.items_of_files(["a.jpg"]) == {}
    assert [i.path for i in gallery.items_of_files([item.path])[item.path]] == [item.path]
    assert gallery.place_of(item.path) == (item.path, None)
    assert (gallery.blanks(["a.jpg"]), gallery.blank_paths()) == ({}, [])


def test_what_is_done_together_is_one_commit(tmp_path: Path) -> None:
    gallery = make_gallery(tmp_path / "g", objects=OBJECTS)
    blank = NewItem("empty.jpg", "h", 1, 2)
    with gallery.writer() as writer:
        writer.add(vectors(2), parts("a.jpg", 2))
        before = gallery.settings["generation"]
        with writer.together():
            writer.remove([1, 2])
            assert writer.add(vectors(3), parts("a.jpg", 3)) == [3, 4, 5]
            assert writer.add(vectors(1), parts("b.jpg", 1)) == [6]
            writer.record_blanks([blank])
            reader = Gallery.open(gallery.path)
            assert (len(reader), reader.blank_paths()) == (2, [])
            reader.close()
        assert gallery.settings["generation"] == before + 1
    assert [item.id for item in gallery.all_items()] == [3, 4, 5, 6]
    assert gallery.blanks(["a.jpg", "empty.jpg"]) == {"empty.jpg": blank}
    with gallery.writer() as writer:
        writer.forget_notes(["empty.jpg"])
    assert gallery.blank_paths() == []
    assert verify_gallery(gallery.path) == []


def test_what_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    gallery = make_gallery(tmp_path / "g", objects=OBJECTS)

    def half(writer) -> None:
        with writer.together():
            writer.remove([1])
            writer.add(vectors(1), parts("b.jpg", 1))
            raise KeyboardInterrupt

    with gallery.writer() as writer:
        writer.add(vectors(2), parts("a.jpg", 2))
        with pytest.raises(KeyboardInterrupt):
            half(writer)
        assert [item.id for item in gallery.all_items()] == [1, 2]
        assert writer.add(vectors(1), parts("c.jpg", 1)) == [3]  # and the writer goes on
    assert verify_gallery(gallery.path) == []
    assert len(Gallery.open(gallery.path)) == 3
