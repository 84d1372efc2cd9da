from pathlib import Path

import numpy as np
import pytest
from galleries import make_gallery, new_items
from pictures_to_ask import make_model, make_place
from PIL import Image

from index.gallery import Gallery
from retrieval import questions as module
from retrieval.embedder import Embedder, embed_images
from retrieval.errors import DataError, ImageError
from retrieval.images import read_image
from retrieval.network_files import load_embedder
from retrieval.questions import (
    Weighted,
    batches,
    mixture,
    photo_questions,
    stored_item,
    stored_questions,
    vector_questions,
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_place(tmp_path_factory.mktemp("questions"))


@pytest.fixture(scope="module")
def embedder(place: Path) -> Embedder:
    return load_embedder(place / "model.safetensors")


@pytest.fixture(scope="module")
def gallery(place: Path) -> Gallery:
    return Gallery.open(place / "g.gallery")


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Gallery:
    """A gallery without pictures for vectors of 4 numbers."""
    return make_gallery(tmp_path_factory.mktemp("four") / "g.gallery")


def embed(embedder: Embedder, pixels: np.ndarray) -> np.ndarray:
    return embed_images(embedder, pixels[None])[0]


def outside(place: Path, number: int) -> Path:
    return place / "outside" / f"{number}.png"


def never(photo: Path, reason: str) -> None:
    raise AssertionError(f"{photo}: {reason}")


# Photos


def test_each_photo_asks_by_its_embedding(place: Path, embedder: Embedder) -> None:
    photos = [outside(place, n) for n in range(3)]
    asked = list(photo_questions(embedder, photos, never))
    assert [(q.title, q.photos, q.box, q.own_id) for q in asked] == [
        (str(photo), (photo,), None, None) for photo in photos
    ]
    for photo, question in zip(photos, asked, strict=True):
        assert question.vector.dtype == np.float32
        expected = embed(embedder, read_image(photo, 17))
        np.testing.assert_allclose(question.vector, expected, atol=1e-6)


def test_unreadable_photos_are_told_and_the_others_ask(
    place: Path, embedder: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TOGETHER", 2)
    (tmp_path / "bad.png").write_bytes(b"no picture")
    bad = [tmp_path / "bad.png", tmp_path / "none.png", tmp_path]
    photos = [bad[0], bad[1], outside(place, 0), bad[2], outside(place, 1)]
    told: list[Path] = []
    asked = photo_questions(embedder, photos, lambda photo, reason: told.append(photo))
    assert [q.photos for q in asked] == [(outside(place, 0),), (outside(place, 1),)]
    assert told == bad
    assert list(photo_questions(embedder, bad[:1], lambda photo, reason: None)) == []
    assert list(photo_questions(embedder, [], never)) == []


def test_a_box_asks_as_if_it_were_the_picture(
    place: Path, embedder: Embedder, tmp_path: Path
) -> None:
    photo = outside(place, 0)
    (question,) = photo_questions(embedder, [photo], never, box=(10, 3, 30, 21))
    part = tmp_path / "part.png"
    Image.fromarray(read_image(photo)[3:24, 10:40]).save(part)
    np.testing.assert_allclose(question.vector, embed(embedder, read_image(part, 17)), atol=1e-6)
    assert question.title == f"{photo} (10,3,30,21)"
    assert (question.photos, question.box) == ((photo,), (10, 3, 30, 21))
    (whole,) = photo_questions(embedder, [photo], never, box=(0, 0, 60, 40))
    (same,) = photo_questions(embedder, [photo], never)
    np.testing.assert_allclose(whole.vector, same.vector, atol=1e-6)


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        ((31, 0, 30, 40), "reaches out of the picture, which is 60×40"),
        ((0, 1, 60, 40), "reaches out"),
        ((-1, 0, 10, 10), "reaches out"),
        ((0, 0, 0, 10), "is empty"),
        ((0, 0, 10, -5), "is empty"),
    ],
)
def test_a_box_out_of_the_picture_is_told(
    place: Path, embedder: Embedder, box: tuple[int, int, int, int], reason: str
) -> None:
    told: list[str] = []
    asked = photo_questions(
        embedder, [outside(place, 0)], lambda photo, why: told.append(why), box=box
    )
    assert list(asked) == []
    assert len(told) == 1
    assert reason in told[0]


# Mixtures


def slow_mixture(vectors: list[np.ndarray], weights: list[float], output: str) -> list[float]:
    sums = [sum(w * float(v[d]) for w, v in zip(weights, vectors, strict=True)) for d in range(8)]
    length = sum(x * x for x in sums) ** 0.5 if output == "unit" else sum(map(abs, weights))
    return [x / length for x in sums]


@pytest.mark.parametrize("output", ["unit", "tanh"])
@pytest.mark.parametrize(
    ("like", "unlike"),
    [([1.0], []), ([1.0, 1.0], []), ([2.0, 0.5], [0.25]), ([1e300, 1e300], []), ([1e-320], [1e-320])],
)  # fmt: skip
def test_a_mixture_equals_a_sum_by_hand(
    place: Path, tmp_path: Path, output: str, like: list[float], unlike: list[float]
) -> None:
    embedder = load_embedder(make_model(tmp_path / "model.safetensors", output=output))
    photos = [outside(place, n) for n in range(3)]
    liked = [Weighted(photo, w) for photo, w in zip(photos, like, strict=False)]
    others = [Weighted(photo, w) for photo, w in zip(photos[::-1], unlike, strict=False)]
    asked = mixture(embedder, liked, others)
    weights = [*like, *(-w for w in unlike)]
    scale = max(map(abs, weights))
    vectors = [embed(embedder, read_image(one.photo, 17)) for one in (*liked, *others)]
    expected = slow_mixture(vectors, [w / scale for w in weights], output)
    np.testing.assert_allclose(asked.vector, expected, atol=1e-5)
    assert asked.vector.dtype == np.float32
    assert asked.photos == tuple(photos[: len(like)])
    assert asked.title.count("×") == len(weights)


def test_one_photo_alone_is_a_mixture_of_itself(place: Path, embedder: Embedder) -> None:
    photo = outside(place, 0)
    alone = mixture(embedder, [Weighted(photo, 3)])
    np.testing.assert_allclose(alone.vector, embed(embedder, read_image(photo, 17)), atol=1e-6)
    assert alone.title == f"3×{photo}"


def test_photos_that_cancel_each_other_out_are_refused(place: Path, embedder: Embedder) -> None:
    one, two = (Weighted(outside(place, n), 1) for n in range(2))
    for like, unlike in (([one], [one]), ([one, two], [two, one])):
        with pytest.raises(DataError, match="cancel each other out"):
            mixture(embedder, like, unlike)
    assert mixture(embedder, [one, two], [one]).vector.any()


def test_a_mixture_needs_photos_that_are_liked_and_readable(
    place: Path, embedder: Embedder, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="nothing is liked"):
        mixture(embedder, [], [Weighted(outside(place, 0), 1)])
    with pytest.raises(ImageError, match=r"none\.png: no such file"):
        mixture(embedder, [Weighted(outside(place, 0), 1)], [Weighted(tmp_path / "none.png", 1)])


@pytest.mark.parametrize("weight", [0, -1, float("nan"), float("inf"), -0.0])
def test_weights_are_above_0(weight: float) -> None:
    with pytest.raises(DataError, match=r"the weight of a\.png is .*; give a number above 0"):
        Weighted(Path("a.png"), weight)
    with pytest.raises(DataError, match=r"the weight of a\.png"):
        Weighted.parse(f"a.png:{weight}", 1)


def test_weights_are_read_from_behind_the_last_colon(tmp_path: Path) -> None:
    for text, expected in (
        ("a.png", Weighted(Path("a.png"), 0.5)),
        ("a.png:2", Weighted(Path("a.png"), 2)),
        ("a:b.png", Weighted(Path("a:b.png"), 0.5)),
        ("a.png:1:1e-3", Weighted(Path("a.png:1"), 1e-3)),
        ("a.png:", Weighted(Path("a.png:"), 0.5)),
    ):
        assert Weighted.parse(text, 0.5) == expected
    odd = tmp_path / "a:3"
    odd.write_bytes(b"x")
    assert Weighted.parse(str(odd), 0.5) == Weighted(odd, 0.5)


# Stored pictures


def test_stored_pictures_ask_by_their_vectors(place: Path, gallery: Gallery) -> None:
    items = {item.path: item.id for item in gallery.all_items()}
    two, one = items["b/1.png"], items["a/0.png"]
    asked = list(stored_questions(gallery, [two, one, two], ["c/2.png"]))
    ids = [two, one, two, items["c/2.png"]]
    assert [question.own_id for question in asked] == ids
    assert [question.title for question in asked[::3]] == [
        f"b/1.png (id {two})", f"c/2.png (id {ids[3]})",
    ]  # fmt: skip
    assert asked[1].photos[0].samefile(place / "photos" / "a" / "0.png")
    for question, item_id in zip(asked, ids, strict=True):
        assert question.vector.tolist() == gallery.vectors(np.array([item_id]))[0].tolist()
    assert list(stored_questions(gallery)) == []


@pytest.mark.parametrize("unknown", [0, -1, 14, 10**30, -(10**30)])
def test_unknown_ids_are_refused_before_the_first_question(gallery: Gallery, unknown: int) -> None:
    with pytest.raises(DataError, match=f"does not hold a picture with the id {unknown}"):
        stored_questions(gallery, [1, unknown])


def test_removed_pictures_no_longer_ask(tmp_path: Path) -> None:
    made = make_gallery(tmp_path / "g.gallery")
    with made.writer() as writer:
        writer.add(np.eye(4, dtype=np.float32), new_items(0, 4))
        writer.remove([2])
    with pytest.raises(DataError, match="the id 2"):
        stored_questions(made, [2])
    with pytest.raises(DataError, match=r"a picture p1\.png"):
        stored_questions(made, [], ["p1.png"])


def test_paths_are_read_as_stored_and_as_files(
    place: Path, gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place / "photos" / "b")
    readings = ("b/1.png", "1.png", "./1.png", "../b/1.png", "b//1.png", place / "photos/b/1.png")
    assert {stored_item(gallery, str(path)).path for path in readings} == {"b/1.png"}
    for path in ("b", "", "nowhere.png", "../../outside/0.png", "1.PNG"):
        with pytest.raises(DataError, match="does not hold a picture"):
            stored_item(gallery, path)


def test_a_file_is_known_through_a_link_to_its_folder(
    place: Path, gallery: Gallery, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(place / "photos")
    assert stored_item(gallery, str(tmp_path / "link" / "b" / "1.png")).path == "b/1.png"
    with pytest.raises(DataError, match="does not hold a picture"):
        stored_item(gallery, str(tmp_path / "link" / "1.png"))


def test_a_path_that_may_be_two_pictures_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_gallery(tmp_path / "g.gallery")
    with made.writer() as writer:
        writer.add(
            np.eye(4, dtype=np.float32)[:2],
            [new_items(0, 1, path="a.png")[0], new_items(1, 1, path="sub/a.png")[0]],
        )
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    with pytest.raises(DataError, match=r"a\.png \(--id 1\) or sub/a\.png \(--id 2\); ask by --id"):
        stored_item(made, "a.png")
    assert stored_item(made, "sub/a.png").id == 2
    monkeypatch.chdir(tmp_path)
    assert stored_item(made, "a.png").id == 1


# Vectors


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int64", "uint8", ">f4"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_each_vector_of_a_file_asks(tmp_path: Path, four: Gallery, dtype: str, order: str) -> None:
    rows = np.arange(20).reshape(5, 4)
    np.save(tmp_path / "v.npy", np.array(rows, dtype, order=order))
    asked, count = vector_questions(four, tmp_path / "v.npy")
    asked = list(asked)
    assert count == len(asked) == 5
    assert [q.vector.tolist() for q in asked] == rows.tolist()
    assert all(q.vector.dtype == np.float32 for q in asked)
    assert asked[3].title == f"{tmp_path / 'v.npy'}[3]"
    assert (asked[3].photos, asked[3].own_id) == ((), None)
    np.save(tmp_path / "one.npy", rows[2].astype(dtype))
    (alone,), count = vector_questions(four, tmp_path / "one.npy")
    assert (alone.title, alone.vector.tolist(), count) == (
        str(tmp_path / "one.npy"), rows[2].tolist(), 1,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.zeros((3, 5)), r"shape \(3, 5\); the gallery holds vectors of 4 numbers"),
        (np.zeros(3), r"shape \(3,\)"),
        (np.zeros((0, 4)), r"\(0, 4\)|empty"),
        (np.zeros(0), r"\(0,\)|empty"),
        (np.zeros(()), r"shape \(\)"),
        (np.zeros((2, 1, 4)), r"shape \(2, 1, 4\)"),
        (np.zeros((2, 4), complex), "complex128; a .npy file of numbers"),
        (np.zeros((2, 4), bool), "holds bool"),
        (np.full((2, 4), "x"), "holds <U1"),
        (np.array([[0, 0, 0, 0], [0, np.nan, 0, 0]]), "row 1 holds values that are not finite"),
        (np.array([[0, 0, 0, np.inf]]), "row 0"),
        (np.array([[0, 0, 0, 1e300]]), "row 0"),
    ],
)
def test_vectors_that_cannot_ask_are_refused(
    tmp_path: Path, four: Gallery, value: np.ndarray, message: str
) -> None:
    np.save(tmp_path / "v.npy", value)
    with pytest.raises(DataError, match=message):
        vector_questions(four, tmp_path / "v.npy")


def test_values_that_are_not_finite_are_found_far_down(tmp_path: Path, four: Gallery) -> None:
    rows = np.zeros((5000, 4), np.float32)
    rows[4500, 2] = np.nan
    np.save(tmp_path / "v.npy", rows)
    with pytest.raises(DataError, match="row 4500 "):
        vector_questions(four, tmp_path / "v.npy")


def test_batches_hold_all_in_order() -> None:
    assert list(batches(iter(range(5)), 2)) == [[0, 1], [2, 3], [4]]
    assert list(batches([1, 2], 2)) == [[1, 2]]
    assert list(batches([], 2)) == []
