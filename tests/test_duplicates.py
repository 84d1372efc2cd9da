import json
from pathlib import Path

import numpy as np
import pytest
from galleries import make_gallery, new_items, slow_distance

from index.errors import FilterError, VectorError
from index.gallery import Gallery
from index.neighbors import METRICS
from retrieval import duplicates as module
from retrieval.duplicates import Duplicates, default_distance, find_duplicates, sheet_rows


def filled(
    folder: Path, vectors: list[list[float]], hashes: str = "", **options: object
) -> Gallery:
    """Vectors whose files have the contents that letters name; a space: content that nobody knows."""
    made = make_gallery(folder / "g.gallery", dim=len(vectors[0]), **options)
    names = hashes or [f"h{i}" for i in range(len(vectors))]
    items = [new_items(i, 1, content_hash=h.strip())[0] for i, h in enumerate(names)]
    with made.writer() as writer:
        writer.add(np.array(vectors, np.float32), items)
    return made


def ids_of(found: Duplicates) -> list[list[int]]:
    return [[member.id for member in group] for group in found.groups]


def test_groups_copies_and_distances_by_hand(tmp_path: Path) -> None:
    """Two chains of steps of 1, a copy that is far off, and two vectors alone."""
    line = [0, 10, 1, 20, 2, 11, 30, 40]
    made = filled(tmp_path, [[x, 0] for x in line], "abcdefga")
    found = find_duplicates(made, 1)
    assert ids_of(found) == [[1, 3, 5, 8], [2, 6]]
    first, second = found.groups
    assert [member.distance for member in first] == [0, 1, 2, 40]
    assert [member.copy_of for member in first] == [None, None, None, 1]
    assert [member.distance for member in second] == [0, 1]
    assert (found.pictures, found.copies, found.distance, found.metric) == (6, 1, 1, "l2")
    assert [str(member.path.name) for member in second] == ["p1.png", "p5.png"]
    shown = json.loads(json.dumps(found.to_dict()))
    assert (shown["pictures"], shown["copies"]) == (6, 1)
    assert [[m["id"] for m in group] for group in shown["groups"]] == ids_of(found)
    assert ids_of(find_duplicates(made, 0.99)) == [[1, 8]]


def test_a_copy_names_the_first_of_its_own_content(tmp_path: Path) -> None:
    made = filled(tmp_path, [[0, 0]] * 5, "abab ")
    (group,) = find_duplicates(made, 0).groups
    assert [member.copy_of for member in group] == [None, None, 1, 2, None]


def test_content_that_nobody_knows_is_no_copy(tmp_path: Path) -> None:
    made = filled(tmp_path, [[0, 0], [9, 9], [5, 5]], "   ")
    assert find_duplicates(made, 1) == Duplicates(1, "l2", [])


def test_a_filter_and_removal_leave_pictures_out(tmp_path: Path) -> None:
    made = filled(tmp_path, [[0, 0]] * 6, "aabbcc")
    with made.writer() as writer:
        writer.remove([1])
    assert ids_of(find_duplicates(made, 0)) == [[2, 3, 4, 5, 6]]
    assert [m.copy_of for m in find_duplicates(made, 0).groups[0]] == [None, None, 3, None, 5]
    assert ids_of(find_duplicates(made, 0, where="id in (1, 4, 5)")) == [[4, 5]]
    assert ids_of(find_duplicates(made, 0, where="id = 4")) == []
    assert ids_of(find_duplicates(made, 0, where="id > 99")) == []
    with pytest.raises(FilterError):
        find_duplicates(made, 0, where="nonsense = 1")


@pytest.mark.parametrize("distance", [-1, float("nan"), float("inf")])
def test_impossible_distances_are_refused(tmp_path: Path, distance: float) -> None:
    with pytest.raises(VectorError, match="the distance is"):
        find_duplicates(filled(tmp_path, [[0, 0]]), distance)


def test_an_empty_gallery_and_one_of_one_have_no_groups(tmp_path: Path) -> None:
    empty = make_gallery(tmp_path / "e.gallery")
    one = filled(tmp_path, [[1, 2]])
    for made in (empty, one):
        assert default_distance(made) == 0
        assert find_duplicates(made, 1).groups == []


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_default_distance_parts_near_identical_pictures_from_others(
    tmp_path: Path, metric: str, dtype: str
) -> None:
    """However vectors are kept: 16 bits lose more of a length than near-identical ones differ by."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(40, 16))
    vectors[30:] = vectors[:10] * (1 + 1e-3 * rng.normal(size=(10, 16)))
    made = filled(tmp_path, vectors.tolist(), metric=metric, dtype=dtype)
    stored = made.vectors(np.arange(1, 41))
    distances = [slow_distance(stored[a], stored[b], metric) for a in range(40) for b in range(a)]
    chosen = default_distance(made)
    typical = float(np.median(distances))
    share = module.SHARE**2 if metric == "cosine" else module.SHARE
    assert chosen == pytest.approx(typical * share, rel=0.1)
    assert chosen == default_distance(made)
    found = find_duplicates(made, chosen)
    assert ids_of(found) == [[i, i + 30] for i in range(1, 11)]
    for group in found.groups:
        assert group[0].distance == pytest.approx(0, abs=1e-6)
        expected = slow_distance(stored[group[0].id - 1], stored[group[1].id - 1], metric)
        assert group[1].distance == pytest.approx(expected, abs=1e-6)
        assert group[1].distance <= np.float32(chosen)


def test_groups_are_shown_by_their_first_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SHOWN", 3)
    made = filled(tmp_path, [[0, 0]] * 5 + [[9, 9]] * 2, "abcdaef")
    big, small = sheet_rows(find_duplicates(made, 0).groups)
    assert big.query.caption.endswith("p0.png · 1 of 5")
    assert [tile.caption for tile in big.hits] == ["0.000 · p1.png", "0.000 · p2.png"]
    assert small.query.caption == "0.000 · p5.png"
    assert [tile.caption for tile in small.hits] == ["0.000 · p6.png"]
    assert sheet_rows([]) == []


def test_progress_ends_with_all_pictures(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    made = filled(tmp_path, [[0, 0], [1, 1], [2, 2]])
    find_duplicates(made, 0, on_progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (3, 3)
