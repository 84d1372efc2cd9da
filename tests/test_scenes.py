"""Scenes: boxes and masks agree with the pixels, and depend on seed and number alone."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from retrieval.detection import scenes
from retrieval.detection.boxed_datasets import load_boxed_pictures
from retrieval.detection.cutouts import SHAPES, cut_out, draw_shape
from retrieval.detection.scenes import make_scenes, mask_boxes
from retrieval.errors import DataError
from retrieval.labeled_images import LabeledImages


def slow_box(mask: np.ndarray) -> list[int]:
    """The edges around the pixels of a mask, pixel by pixel."""
    height, width = mask.shape
    found = [(x, y) for y in range(height) for x in range(width) if mask[y, x]]
    across, down = zip(*found, strict=True)
    return [min(across), min(down), max(across) + 1, max(down) + 1]


def plain_pictures() -> LabeledImages:
    """A red and a green block on black ground, of one class each."""
    images = np.zeros((2, 20, 20, 3), np.uint8)
    images[0, 3:17, 5:15, 0] = 255
    images[1, 6:14, 2:18, 1] = 255
    return LabeledImages("blocks", images, np.array([1, 0]), ("green", "red"))


GREY = (np.full((50, 70, 3), 128, np.uint8),)


@pytest.mark.parametrize("pictures", [None, plain_pictures()])
def test_boxes_are_those_around_the_masks(pictures: LabeledImages | None) -> None:
    made = make_scenes(pictures, 12, seed=5, size=48, objects=(0, 6), cover=(0.05, 0.3))
    counts = set()
    for scene, objects in zip(made.pictures, made.objects, strict=True):
        assert isinstance(scene, np.ndarray)
        assert (scene.shape, scene.dtype) == ((48, 48, 3), np.uint8)
        assert objects.masks is not None
        assert objects.masks.shape == (len(objects), 48, 48)
        assert objects.boxes.dtype == np.float32
        assert not objects.crowd.any()
        for box, mask in zip(objects.boxes, objects.masks, strict=True):
            assert box.tolist() == slow_box(mask)
        assert (objects.masks.sum(0) <= 1).all()  # a pixel belongs to what is in front there
        counts.add(len(objects))
    assert len(counts) > 2


def test_masks_are_where_the_pixels_of_the_objects_are() -> None:
    made = make_scenes(
        plain_pictures(), 10, seed=1, size=64, objects=(1, 3), cover=(0.1, 0.2), backgrounds=GREY
    )
    for row, objects in enumerate(made.objects):
        scene = made.read(row).astype(int)
        red = (scene[..., 0] > 180) & (scene[..., 1] < 80)
        green = (scene[..., 1] > 180) & (scene[..., 0] < 80)
        for name, seen in (("red", red), ("green", green)):
            masks = objects.masks[objects.labels == made.classes.index(name)]  # type: ignore[index]
            union = masks.any(0)
            # Edges are blended, so that the two differ by a rim.
            assert not (seen & ~union).any()
            assert seen.sum() >= 0.6 * union.sum()
            if seen.any():
                near = slow_box(union)
                seen_box = slow_box(seen)
                assert np.abs(np.subtract(near, seen_box)).max() <= 2


def test_half_of_each_object_at_least_is_in_sight(monkeypatch: pytest.MonkeyPatch) -> None:
    whole: list[list[int]] = []
    paste, start = scenes._paste, scenes._scene

    def counted(*args: object) -> np.ndarray:
        mask = paste(*args)  # type: ignore[arg-type]
        whole[-1].append(int(mask.sum()))
        return mask

    def begun(*args: object) -> object:
        whole.append([])
        return start(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(scenes, "_paste", counted)
    monkeypatch.setattr(scenes, "_scene", begun)
    made = make_scenes(None, 15, seed=2, size=48, objects=(5, 8), cover=(0.1, 0.4))
    hidden = 0
    for areas, objects in zip(whole, made.objects, strict=True):
        assert objects.masks is not None
        for area, mask in zip(areas, objects.masks, strict=True):
            assert mask.sum() >= scenes.SEEN * area
            hidden += mask.sum() < area
    assert hidden > 5


def test_a_scene_depends_on_seed_and_number_alone() -> None:
    few = make_scenes(None, 2, seed=3, size=32, objects=(1, 3))
    many = make_scenes(None, 5, seed=3, size=32, objects=(1, 3))
    other = make_scenes(None, 2, seed=4, size=32, objects=(1, 3))
    for row in range(2):
        np.testing.assert_array_equal(few.read(row), many.read(row))
        np.testing.assert_array_equal(few.objects[row].boxes, many.objects[row].boxes)
        assert (few.read(row) != other.read(row)).any()
    assert (many.read(0) != many.read(1)).any()


def test_objects_are_as_large_as_is_asked_for() -> None:
    for low, high in ((0.05, 0.1), (0.3, 0.3), (1, 1)):
        made = make_scenes(None, 20, seed=6, size=64, cover=(low, high))
        for objects in made.objects:
            sides = objects.boxes[:, 2:] - objects.boxes[:, :2]
            longest = sides.max(1)
            # Soft edges, less seen than not, are not in the box.
            assert (longest <= 64 * high**0.5 + 1).all()
            assert (longest >= 64 * low**0.5 - 4).all()


def test_every_class_and_every_place_comes_up() -> None:
    made = make_scenes(None, 60, seed=7, size=32, shapes=SHAPES, cover=(0.05, 0.1))
    labels = np.concatenate([each.labels for each in made.objects])
    assert set(labels) == set(range(len(SHAPES)))
    boxes = np.concatenate([each.boxes for each in made.objects])
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    assert (np.ptp(centres, axis=0) > 18).all()


def test_no_scenes_and_scenes_without_objects() -> None:
    none = make_scenes(None, 0, seed=0)
    assert (len(none), none.objects) == (0, ())
    empty = make_scenes(None, 1, seed=0, size=16, objects=(0, 0)).objects[0]
    assert empty.boxes.shape == (0, 4)
    assert empty.masks is not None
    assert empty.masks.shape == (0, 16, 16)
    assert mask_boxes(np.zeros((1, 4, 4), bool)).tolist() == [[0, 0, 0, 0]]
    assert mask_boxes(np.zeros((0, 4, 4), bool)).shape == (0, 4)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"count": -1}, "-1 scenes"),
        ({"size": 8}, "8 pixels wide; it must be at least 16"),
        ({"objects": (2, 1)}, "2 to 1 objects"),
        ({"objects": (-1, 1)}, "-1 to 1 objects"),
        ({"cover": (0, 0.5)}, "cover 0 to 0.5"),
        ({"cover": (0.5, 1.5)}, "cover 0.5 to 1.5"),
        ({"cover": (0.5, 0.4)}, "ascending"),
        ({"shapes": ("circle", "blob")}, "no shape 'blob'; there are circle"),
        ({"shapes": ()}, "no shape is named"),
    ],
)
def test_what_is_not_possible_is_refused(changed: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        make_scenes(**{"pictures": None, "count": 1, "seed": 0, **changed})  # type: ignore[arg-type]


def test_pictures_need_labels() -> None:
    images = np.zeros((1, 8, 8, 3), np.uint8)
    for labels, classes in (([-1], ()), ([-1], ("a",))):
        data = LabeledImages("bare", images, np.array(labels), classes)
        with pytest.raises(DataError, match="bare has no labelled pictures"):
            make_scenes(data, 1, seed=0)
    none = LabeledImages("bare", images[:0], np.zeros(0, np.int64), ("a",))
    with pytest.raises(DataError, match="no labelled pictures"):
        make_scenes(none, 1, seed=0)


def test_objects_are_cut_from_plain_ground_with_their_holes() -> None:
    picture = np.full((20, 30, 3), 250, np.uint8)
    picture[4:16, 6:24] = 40
    picture[8:12, 10:14] = 250  # a hole
    cut = cut_out(picture)
    assert cut.shape == (12, 18, 4)
    assert (cut[..., 3] == 255).all()
    np.testing.assert_array_equal(cut[..., :3], picture[4:16, 6:24])
    for whole in (np.full((9, 7, 3), 5, np.uint8),
                  np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)):  # fmt: skip
        cut = cut_out(whole)  # nothing on the ground, and no plain ground
        np.testing.assert_array_equal(cut[..., :3], whole)
        assert (cut[..., 3] == 255).all()


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_fill_their_bounds(name: str) -> None:
    for seed in range(5):
        shape = draw_shape(name, 40, np.random.default_rng(seed))
        assert max(shape.shape[:2]) == 40
        rows, columns = np.nonzero(shape[..., 3])
        assert rows.min() <= 1
        assert columns.min() <= 1
        assert rows.max() >= shape.shape[0] - 2
        assert columns.max() >= shape.shape[1] - 2


def test_scenes_have_a_part_to_learn_from_and_another(monkeypatch: pytest.MonkeyPatch) -> None:
    from retrieval.detection import boxed_datasets

    assert boxed_datasets.SCENES["train"][0] == 1000
    monkeypatch.setattr(boxed_datasets, "SCENES", {"train": (2, 1), "test": (2, 2)})
    train, test = (load_boxed_pictures("scenes", split=split) for split in ("train", "test"))
    assert train.classes == test.classes == SHAPES[:4]
    assert train.read(0).shape == (256, 256, 3)
    assert (train.read(0) != test.read(0)).any()


def test_scenes_may_name_shapes_or_a_data_set_to_paste(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from retrieval.detection import boxed_datasets

    monkeypatch.setattr(boxed_datasets, "SCENES", {"train": (3, 1), "test": (3, 2)})
    assert load_boxed_pictures("scenes:star").classes == ("star",)
    assert load_boxed_pictures("scenes:star+banana").classes == ("star", "banana")
    assert load_boxed_pictures("scenes:star+star").classes == ("star",)
    assert load_boxed_pictures("scenes:digits").classes == tuple("0123456789")
    for label, level in (("dark", 40), ("light", 220)):
        (tmp_path / label).mkdir()
        Image.new("RGB", (20, 20), (level,) * 3).save(tmp_path / label / "1.png")
    pasted = load_boxed_pictures(f"scenes:{tmp_path}")
    assert pasted.classes == ("dark", "light")
    for row, objects in enumerate(pasted.objects):
        (label,), (mask,) = objects.labels, objects.masks
        assert abs(int(np.median(pasted.read(row)[mask])) - (40, 220)[label]) <= 2


@pytest.mark.parametrize("name", ["scenes:", "scenes:cone", "scenes:star+", "scenes:star+cone"])
def test_scenes_of_unknown_things_are_an_error(name: str) -> None:
    with pytest.raises(DataError, match=r"neither a data set nor shapes"):
        load_boxed_pictures(name)
