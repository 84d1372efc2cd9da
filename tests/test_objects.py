"""Galleries of objects: filled, kept in step with folders, emptied."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from bright_boxes import bright_boxes, draw_scene, make_objects_gallery, save_detector
from PIL import Image

from index.errors import GalleryError
from index.gallery import Gallery
from index.merging import merge_into, open_or_create_like
from index.parts import Box
from index.verify import verify_gallery
from retrieval import filling
from retrieval.building import fill, open_or_create, remove_pictures, sync
from retrieval.detection.detections import Detections
from retrieval.duplicates import find_duplicates
from retrieval.embedder import embed_images
from retrieval.errors import ConfigError, DataError
from retrieval.images import content_hash, read_image
from retrieval.network_files import load_embedder
from retrieval.object_embedding import chosen
from retrieval.object_spec import ObjectsSpec
from retrieval.objects import cut_around
from retrieval.pictures import list_pictures
from retrieval.summary import FillSummary

__all__ = ["bright_boxes"]
RED, GREEN, BLUE = ("red", (4, 4, 20, 10)), ("green", (40, 8, 9, 30)), ("blue", (10, 20, 12, 12))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two with objects, one without."""
    folder = tmp_path / "photos"
    draw_scene(folder / "x" / "two.png", RED, GREEN)
    draw_scene(folder / "y" / "one.png", BLUE)
    draw_scene(folder / "y" / "none.png")
    return folder


def held(gallery: Gallery) -> dict[str, str | None]:
    gallery.refresh()
    return {item.path: item.label for item in gallery.all_items()}


def ids(gallery: Gallery) -> dict[str, int]:
    return {item.path: item.id for item in gallery.all_items()}


def counts(summary: FillSummary) -> dict[str, int]:
    fields = summary.to_dict().items()
    return {k: v for k, v in fields if k not in ("seconds", "interrupted") and v}


def run(gallery: Gallery, *folders: Path, **options: object) -> dict[str, int]:
    return counts(sync(gallery, folders, list_pictures(folders), **options))


ALL = {
    "x/two.png#xywh=4,4,20,10": "red",
    "x/two.png#xywh=40,8,9,30": "green",
    "y/one.png#xywh=10,20,12,12": "blue",
}


def test_each_object_is_stored_with_its_box_class_score_and_vector(
    tmp_path: Path, photos: Path, bright_boxes: Path
) -> None:
    gallery = make_objects_gallery(tmp_path, bright_boxes, [photos])
    assert held(gallery) == ALL
    embedder = load_embedder(gallery.path / "model")
    squares = {  # drawn by hand: the longer side, about the centre, moved into the picture
        "x/two.png#xywh=4,4,20,10": (4, 0, 20, 20),
        "x/two.png#xywh=40,8,9,30": (30, 8, 30, 30),
        "y/one.png#xywh=10,20,12,12": (10, 20, 12, 12),
    }
    for item in gallery.all_items():
        file, box = gallery.place_of(item.path)
        cut = read_image(photos / file, 17, squares[item.path])
        expected = embed_images(embedder, cut[None])[0]
        np.testing.assert_allclose(gallery.vectors(np.array([item.id]))[0], expected, atol=1e-6)
        left, top, width, height = box
        assert item.metadata == {
            "score": 1.0, "left": left, "top": top, "width": width, "height": height,
            "photo_label": file[0],
        }  # fmt: skip
        assert item.content_hash.startswith(content_hash(photos / file))
    assert len(gallery.matching("label = 'red' AND score > 0.8")) == 1
    assert len(gallery.matching("width < 12 and photo_label = x")) == 1
    assert verify_gallery(gallery.path) == []


def test_a_photo_without_objects_is_counted_and_not_looked_at_again(
    tmp_path: Path, photos: Path, bright_boxes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gallery = make_objects_gallery(tmp_path, bright_boxes, [photos / "x"])
    assert gallery.blank_paths() == []
    pictures = list_pictures([photos])
    summary = fill(gallery, pictures)
    assert counts(summary) == {
        "added": 1, "unchanged": 1, "objects": 1, "without_objects": 1
    }  # fmt: skip
    assert "1 without objects" in summary.text()
    assert gallery.failures() == []
    (blank,) = gallery.blank_paths()
    assert blank.endswith("none.png")

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("looked at again")

    with monkeypatch.context() as patched:
        patched.setattr(filling, "embedded", refuse)
        patched.setattr("retrieval.building.embedded", refuse)
        assert counts(fill(gallery, pictures)) == {"unchanged": 3}
        os.utime(photos / "y" / "none.png", ns=(5, 5))  # touched, with the same content
        assert counts(fill(gallery, pictures)) == {"unchanged": 3}
    draw_scene(photos / "y" / "none.png", RED)
    assert counts(fill(gallery, list_pictures([photos]))) == {
        "added": 1, "unchanged": 2, "objects": 1
    }  # fmt: skip
    assert gallery.blank_paths() == []
    draw_scene(photos / "y" / "none.png")
    assert counts(fill(gallery, list_pictures([photos]))) == {"unchanged": 2, "without_objects": 1}
    assert {Path(path).name for path in held(gallery)} == {Path(path).name for path in ALL}


def test_an_unreadable_photo_is_told_apart_from_one_without_objects(
    tmp_path: Path, photos: Path, bright_boxes: Path
) -> None:
    gallery = make_objects_gallery(tmp_path, bright_boxes, [photos])
    (photos / "y" / "none.png").write_bytes(b"no picture")
    (photos / "x" / "two.png").write_bytes(b"no picture")
    summary = fill(gallery, list_pictures([photos]))
    assert counts(summary) == {"failed": 2, "unchanged": 1}
    assert [path for path, _ in gallery.failures()] == ["x/two.png", "y/none.png"]
    assert gallery.blank_paths() == []
    assert held(gallery) == {"y/one.png#xywh=10,20,12,12": "blue"}
    draw_scene(photos / "x" / "two.png", RED)
    fill(gallery, list_pictures([photos]))
    assert [path for path, _ in gallery.failures()] == ["y/none.png"]


def test_a_photo_that_changes_while_it_is_read_is_taken_by_the_next_call(
    tmp_path: Path, photos: Path, bright_boxes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gallery = make_objects_gallery(tmp_path, bright_boxes, [photos / "x"])
    now = {"one.png": [], "none.png": [RED]}

    def changed_behind(path: Path, *more: object) -> np.ndarray:
        pixels = read_image(path, *more)
        draw_scene(path, *now[path.name])
        return pixels

    with monkeypatch.context() as patched:
        patched.setattr("retrieval.images.read_image", changed_behind)
        assert run(gallery, photos) == {"failed": 2, "unchanged": 1}
    assert all("changed while it was read" in reason for _, reason in gallery.failures())
    assert gallery.blank_paths() == []
    assert run(gallery, photos) == {
        "added": 1, "unchanged": 1, "objects": 1, "without_objects": 1
    }  # fmt: skip
    assert gallery.failures() == []
    assert {Path(path).name for path in held(gallery)} == {
        "two.png#xywh=4,4,20,10", "two.png#xywh=40,8,9,30", "none.png#xywh=4,4,20,10"
    }  # fmt: skip


def test_a_photo_that_changes_before_its_turn_is_taken_as_it_is_then(
    tmp_path: Path, photos: Path, bright_boxes: Path
) -> None:
    files = [draw_scene(photos / "many" / f"{number:02}.png", RED) for number in range(12)]
    gallery = make_objects_gallery(tmp_path, bright_boxes, [photos / "x"])
    done = []

    def change(n: int) -> None:
        done.append(n)
        if len(done) == 2:  # one is read, and as many as are read ahead
            draw_scene(files[-1], BLUE)

    summary = fill(gallery, list_pictures([photos / "many"]), on_progress=change)
    assert counts(summary) == {"added": 12, "objects": 12}
    assert list(held(gallery).values()).count("blue") == 1


def test_sync_treats_the_objects_of_a_photo_together(
    tmp_path: Path, photos: Path, bright_boxes: Path
) -> None:
    draw_scene(photos / "z" / "goes.png", RED, BLUE)
    draw_scene(photos / "z" / "stays.png", GREEN)
    gallery = make_objects_gallery(tmp_path, bright_boxes, [photos])
    before = ids(gallery)
    draw_scene(photos / "y" / "one.png", RED, GREEN)  # another content
    (photos / "z" / "goes.png").unlink()
    (photos / "w").mkdir()
    (photos / "x" / "two.png").rename(photos / "w" / "moved.png")
    (photos / "y" / "none.png").unlink()
    os.utime(photos / "z" / "stays.png", ns=(5, 5))
    planned = run(gallery, photos, dry_run=True)
    assert ids(gallery) == before
    done = run(gallery, photos)
    assert done == {"replaced": 1, "moved": 1, "removed": 1, "unchanged": 1, "objects": 2}
    assert {**planned, "objects": 2} == done
    after = ids(gallery)
    assert after == {
        "w/moved.png#xywh=4,4,20,10": before["x/two.png#xywh=4,4,20,10"],
        "w/moved.png#xywh=40,8,9,30": before["x/two.png#xywh=40,8,9,30"],
        "y/one.png#xywh=4,4,20,10": after["y/one.png#xywh=4,4,20,10"],
        "y/one.png#xywh=40,8,9,30": after["y/one.png#xywh=40,8,9,30"],
        "z/stays.png#xywh=40,8,9,30": before["z/stays.png#xywh=40,8,9,30"],
    }
    moved = gallery.items_of_paths(["w/moved.png#xywh=4,4,20,10"]).popitem()[1]
    assert (moved.metadata["photo_label"], moved.metadata["width"]) == ("w", 20)
    assert gallery.blank_paths() == []
    assert run(gallery, photos) == {"unchanged": 3}
    assert verify_gallery(gallery.path) == []


def test_photos_that_exchange_their_names_keep_their_objects(
    tmp_path: Path, photos: Path, bright_boxes: Path
) -> None:
    gallery = make_objects_gallery(tmp_path, bright_boxes, [photos])
    before = ids(gallery)
    one, two, aside = photos / "y/one.png", photos / "x/two.png", photos / "aside"
    one.rename(aside)
    two.rename(one)
    aside.rename(two)
    assert run(gallery, photos) == {"moved": 2, "unchanged": 1}
    assert ids(gallery) == {
        "y/one.png#xywh=4,4,20,10": before["x/two.png#xywh=4,4,20,10"],
        "y/one.png#xywh=40,8,9,30": before["x/two.png#xywh=40,8,9,30"],
        "x/two.png#xywh=10,20,12,12": before["y/one.png#xywh=10,20,12,12"],
    }


def test_remove_takes_all_objects_of_a_photo_or_one(
    tmp_path: Path, photos: Path, bright_boxes: Path
) -> None:
    gallery = make_objects_gallery(tmp_path, bright_boxes, [photos])
    with pytest.raises(DataError, match="does not hold"):
        remove_pictures(gallery, [photos / "y" / "none.png"], [], None)
    assert remove_pictures(gallery, [Path(f"{photos}/x/two.png#xywh=4,4,20,10")], [], None) == 1
    assert remove_pictures(gallery, [photos / "x" / "two.png"], [], None) == 1
    assert held(gallery) == {"y/one.png#xywh=10,20,12,12": "blue"}
    assert counts(fill(gallery, list_pictures([photos]))) == {
        "added": 1, "unchanged": 2, "objects": 2
    }  # fmt: skip
    assert remove_pictures(gallery, [photos / "x"], [], None) == 2
    with gallery.writer() as writer:
        assert writer.compact() == 4
    assert verify_gallery(gallery.path) == []


def test_options_decide_which_objects_are_taken(
    tmp_path: Path, photos: Path, bright_boxes: Path
) -> None:
    draw_scene(photos / "x" / "dark.png", BLUE, bright=150)

    def stored(name: str, **options: object) -> set[tuple[str, str | None]]:
        (tmp_path / name).mkdir()
        gallery = make_objects_gallery(tmp_path / name, bright_boxes, [photos], **options)
        return {(Path(path).name, label) for path, label in held(gallery).items()}

    everything = {(Path(path).name, label) for path, label in ALL.items()}
    dark = ("dark.png#xywh=10,20,12,12", "blue")
    assert stored("default") == everything | {dark}
    assert stored("sure", least_score=0.8) == everything
    assert stored("large", least_side=11) == {dark, ("one.png#xywh=10,20,12,12", "blue")}
    assert len(stored("few", most_objects=1)) == 3
    whole = {("two.png", "x"), ("one.png", "y"), ("none.png", "y"), ("dark.png", "x")}
    assert stored("whole", whole=True) == everything | {dark} | whole


def test_a_margin_is_embedded_around_the_object(
    tmp_path: Path, photos: Path, bright_boxes: Path
) -> None:
    gallery = make_objects_gallery(tmp_path, bright_boxes, [photos / "y"], margin=0.25)
    (item,) = gallery.all_items()
    cut = read_image(photos / "y" / "one.png", 17, (7, 17, 18, 18))
    expected = embed_images(load_embedder(gallery.path / "model"), cut[None])[0]
    np.testing.assert_allclose(gallery.vectors(np.array([item.id]))[0], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("box", "margin", "square"),
    [
        ((10, 20, 12, 12), 0, (10, 20, 12, 12)),
        ((10, 20, 12, 12), 0.5, (4, 14, 24, 24)),
        ((40, 18, 20, 4), 0, (40, 10, 20, 20)),
        ((60, 2, 4, 20), 0, (44, 2, 20, 20)),  # moved to the left
        ((2, 0, 20, 4), 0, (2, 0, 20, 20)),  # moved down
        ((2, 46, 20, 2), 0, (2, 28, 20, 20)),  # moved up
        ((0, 0, 64, 48), 0, (8, 0, 48, 48)),  # no larger than the shorter side
        ((0, 40, 60, 8), 1, (6, 0, 48, 48)),
        ((63, 47, 1, 1), 0, (63, 47, 1, 1)),
    ],
)
def test_the_square_around_an_object_lies_in_the_picture(
    box: Box, margin: float, square: Box
) -> None:
    assert cut_around(box, (48, 64, 3), margin) == square


def test_detections_become_boxes_of_whole_pixels_within_the_picture() -> None:
    boxes = [
        [0.2, 1.9, 9.1, 12],
        [0.9, 1.1, 9.9, 11.5],
        [55.5, 40, 64, 48],
        [3, 3, 4, 40],
        [5, 5, 20, 20],
    ]
    found = Detections(
        np.array(boxes, np.float32), np.array([0, 1, 1, 0, 1]),
        np.array([0.9, 0.8, 0.7, 0.6, 0.4], np.float32),
    )  # fmt: skip
    taken = chosen(found, ("a", "b"), (48, 64, 3), ObjectsSpec(least_side=2))
    # The second grows to the box of the first, the fourth is narrow, the last is not sure enough.
    assert [(o.box, o.label) for o in taken] == [((0, 1, 10, 11), "a"), ((55, 40, 9, 8), "b")]
    assert taken[1].metadata() == {"score": 0.7, "left": 55, "top": 40, "width": 9, "height": 8}
    none = found.subset(np.zeros(5, bool))
    assert chosen(none, ("a", "b"), (48, 64, 3), ObjectsSpec()) == []


def test_boxes_are_those_of_the_upright_picture(tmp_path: Path, bright_boxes: Path) -> None:
    upright = Image.open(draw_scene(tmp_path / "upright.png", RED))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90° to the right
    (tmp_path / "photos").mkdir()
    upright.rotate(90, expand=True).save(tmp_path / "photos" / "turned.png", exif=exif)
    gallery = make_objects_gallery(tmp_path, bright_boxes, [tmp_path / "photos"])
    assert held(gallery) == {"turned.png#xywh=4,4,20,10": "red"}


def test_a_file_whose_name_is_like_an_objects_is_refused_here_and_taken_elsewhere(
    tmp_path: Path, photos: Path, bright_boxes: Path
) -> None:
    odd = photos / "x" / "two.png#xywh=1,2,3,4"
    shutil.copy(photos / "x" / "two.png", odd)
    gallery = make_objects_gallery(tmp_path, bright_boxes, [photos, odd], whole=True)
    assert odd.name not in {Path(path).name for path in held(gallery)}
    ((path, reason),) = gallery.failures()
    assert path == "x/two.png#xywh=1,2,3,4"
    assert "rename it" in reason
    plain = open_or_create(tmp_path / "p", tmp_path / "model.safetensors", sources=[photos])
    fill(plain, list_pictures([photos, odd]))
    assert path in held(plain)
    assert counts(fill(plain, list_pictures([photos, odd]))) == {"unchanged": 4}
    assert remove_pictures(plain, [photos / "x" / "two.png"], [], None) == 1
    assert path in held(plain)


def test_names_that_begin_alike_are_not_confused(tmp_path: Path, bright_boxes: Path) -> None:
    photos = tmp_path / "photos"
    draw_scene(photos / "a.png", RED)
    draw_scene(photos / "a.png#xywh=1,2,3,4.png", GREEN)
    draw_scene(photos / os.fsdecode(b"\xff.png"), BLUE)
    gallery = make_objects_gallery(tmp_path, bright_boxes, [photos])
    assert len(gallery) == 3
    assert counts(fill(gallery, list_pictures([photos]))) == {"unchanged": 3}
    assert remove_pictures(gallery, [photos / "a.png"], [], None) == 1
    assert remove_pictures(gallery, [photos / os.fsdecode(b"\xff.png")], [], None) == 1
    assert list(held(gallery).values()) == ["green"]


def test_copies_of_a_photo_have_copies_of_its_objects(
    tmp_path: Path, photos: Path, bright_boxes: Path
) -> None:
    shutil.copy(photos / "x" / "two.png", photos / "y" / "copy.png")
    gallery = make_objects_gallery(tmp_path, bright_boxes, [photos])
    found = find_duplicates(gallery, 0)
    assert sorted(sorted(str(m.label) for m in group) for group in found.groups) == [
        ["green", "green"], ["red", "red"]
    ]  # fmt: skip
    assert found.copies == 2


def test_merging_takes_a_photo_as_a_whole(tmp_path: Path, photos: Path, bright_boxes: Path) -> None:
    first = make_objects_gallery(tmp_path, bright_boxes, [photos])
    third = open_or_create_like(tmp_path / "third.gallery", [first])
    assert merge_into(third, [first]).added == 3
    draw_scene(photos / "x" / "two.png", BLUE, RED)
    (tmp_path / "other").mkdir()
    second = make_objects_gallery(tmp_path / "other", bright_boxes, [photos])
    summary = merge_into(third, [second])
    assert (summary.added, summary.there_already, summary.kept_other) == (0, 1, 2)
    assert held(third) == ALL
    assert third.objects == first.objects
    assert third.has_detector
    draw_scene(photos / "x" / "new.png", BLUE)
    assert counts(fill(third, list_pictures([photos / "x"]))) == {
        "added": 1, "replaced": 1, "objects": 3
    }  # fmt: skip
    plain = open_or_create(tmp_path / "p", tmp_path / "model.safetensors", sources=[photos])
    with pytest.raises(GalleryError, match="whole pictures"):
        merge_into(plain, [first])


def test_an_interrupted_run_is_continued(
    tmp_path: Path, photos: Path, bright_boxes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(20):
        draw_scene(photos / "many" / f"{number:02}.png", RED, BLUE)
    calls = 0

    def interrupt(_: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 12:
            raise KeyboardInterrupt

    gallery = make_objects_gallery(tmp_path, bright_boxes, [photos / "x"])
    pictures = list_pictures([photos])
    first = fill(gallery, pictures, on_progress=interrupt)
    assert (first.interrupted, first.added) == (True, 8)
    second = fill(gallery, pictures)
    assert (second.added, second.without_objects) == (13, 1)
    assert len(gallery) == 43


def test_a_crash_between_vectors_and_notes_leaves_all_or_nothing(
    tmp_path: Path, photos: Path, bright_boxes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gallery = make_objects_gallery(tmp_path, bright_boxes, [photos])
    draw_scene(photos / "x" / "two.png", BLUE)

    def fail(*_: object) -> None:
        raise OSError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr("index.writer.GalleryWriter.record_blanks", fail)
        with pytest.raises(GalleryError, match="full"):
            fill(gallery, list_pictures([photos]))
    again = Gallery.open(gallery.path)
    assert held(again) == ALL
    assert verify_gallery(gallery.path) == []
    assert counts(fill(again, list_pictures([photos]))) == {
        "replaced": 1, "unchanged": 2, "objects": 1
    }  # fmt: skip


def test_an_existing_gallery_must_be_of_the_same_kind(
    tmp_path: Path, photos: Path, bright_boxes: Path
) -> None:
    make_objects_gallery(tmp_path, bright_boxes, [photos], least_side=10).close()
    model, out = tmp_path / "model.safetensors", tmp_path / "g.gallery"
    assert open_or_create(out, model, sources=[photos], objects=bright_boxes).objects is not None
    with pytest.raises(GalleryError, match="--least-side 10"):
        open_or_create(
            out, model, sources=[photos], objects=bright_boxes, object_options={"least_side": 9}
        )
    with pytest.raises(GalleryError, match="holds objects"):
        open_or_create(out, model, sources=[photos])
    other = save_detector(tmp_path / "other.safetensors", most=5)
    with pytest.raises(GalleryError, match="another detector"):
        open_or_create(out, model, sources=[photos], objects=other)
    open_or_create(tmp_path / "plain", model, sources=[photos])
    with pytest.raises(GalleryError, match="holds whole pictures"):
        open_or_create(tmp_path / "plain", model, sources=[photos], objects=bright_boxes)


def test_a_score_that_the_detector_never_tells_of_is_refused(
    tmp_path: Path, photos: Path, bright_boxes: Path
) -> None:
    with pytest.raises(ConfigError, match="no object below"):
        make_objects_gallery(tmp_path, bright_boxes, [photos], least_score=0.05)


def test_a_damaged_detector_is_noticed(tmp_path: Path, photos: Path, bright_boxes: Path) -> None:
    gallery = make_objects_gallery(tmp_path, bright_boxes, [photos])
    file = gallery.path / "detector" / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert any("detector" in finding for finding in verify_gallery(gallery.path))
    draw_scene(photos / "x" / "new.png", BLUE)
    with pytest.raises(GalleryError, match="does not hold the detector"):
        fill(gallery, list_pictures([photos]))
