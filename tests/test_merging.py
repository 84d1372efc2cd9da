import itertools
import os
from pathlib import Path

import numpy as np
import pytest
from galleries import grid_vectors, make_gallery, new_items, slow_search

from index import merging
from index.errors import BudgetError, GalleryError, ModelMismatch
from index.gallery import Gallery
from index.merging import merge_into, open_or_create_like
from index.planner import Limits
from index.verify import verify_gallery


def filled(path: Path, first: int, n: int, **options: object) -> Gallery:
    made = make_gallery(path, **options)
    vectors = grid_vectors(np.random.default_rng(first), n)
    with made.writer() as writer:
        writer.add(vectors, new_items(first, n))
    return made


def rows(gallery: Gallery) -> list[tuple]:
    """What a gallery holds, with absolute paths."""
    return [
        (os.path.normpath(gallery.image_root / i.path), i.content_hash, i.label, i.metadata,
         gallery.vectors(np.array([i.id]))[0].tolist())
        for i in gallery.all_items()
    ]  # fmt: skip


def test_a_merged_gallery_holds_both_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merging, "COMMIT_ROWS", 7)
    one = filled(tmp_path / "one", 0, 20, image_root=tmp_path / "x")
    two = filled(tmp_path / "two", 0, 30, image_root=tmp_path / "y" / "z")
    with two.writer() as writer:
        writer.remove([4, 5])
    expected = rows(one) + rows(two)
    seen = []
    summary = merge_into(one, [two], on_progress=seen.append)
    assert (summary.added, summary.there_already, summary.kept_other) == (28, 0, 0)
    assert sum(seen) == 28
    assert rows(one) == expected
    assert [item.id for item in one.all_items()] == list(range(1, 49))
    assert len(two) == 28
    assert verify_gallery(one.path) == []
    query = np.array([[1.0, 0.0, -1.0, 2.0]], np.float32)
    vectors = {i: one.vectors(np.array([i]))[0] for i in range(1, 49)}
    found = one.search(query, 10).ids[0].tolist()
    assert found == [i for _, i in slow_search(query[0], vectors, 10, "l2")]
    again = merge_into(one, [two])
    assert (again.added, again.there_already) == (0, 28)
    assert rows(one) == expected


def test_of_a_path_in_both_what_is_there_stays(tmp_path: Path) -> None:
    one, two = filled(tmp_path / "one", 0, 4), filled(tmp_path / "two", 2, 4)
    with two.writer() as writer:
        writer.add(np.full((1, 4), 9.0), new_items(3, 1, content_hash="changed"))
    summary = merge_into(one, [two])
    assert (summary.added, summary.there_already, summary.kept_other) == (2, 1, 1)
    assert [item.path for item in one.all_items()] == [f"p{i}.png" for i in range(6)]
    assert {item.content_hash for item in one.all_items()} == {f"h{i}" for i in range(6)}


@pytest.mark.parametrize("metric", ["l2", "cosine"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "kmeans:4"])
def test_where_no_content_is_known_the_vectors_say_what_is_the_same(
    tmp_path: Path, metric: str, dtype: str
) -> None:
    """As of imports, which need no files."""
    vectors = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    one, two, three = (
        make_gallery(tmp_path / name, metric=metric, dtype=kind)
        for name, kind in (("one", "float32"), ("two", "float32"), ("three", "float16"))
    )
    if dtype == "float16":
        one, three = three, one
    for gallery in (one, two, three):
        with gallery.writer() as writer:
            writer.add(vectors, new_items(0, 60, content_hash=""))
    changed = -vectors[20:30]
    with two.writer() as writer:
        writer.add(changed, new_items(20, 10, content_hash=""))
        writer.add(vectors[:1], new_items(0, 1, content_hash="known"))
    if dtype == "kmeans:4":
        with one.writer() as writer:
            writer.encode(dtype)
    before = rows(one)
    summary = merge_into(one, [two])
    assert (summary.added, summary.there_already, summary.kept_other) == (0, 50, 10)
    assert rows(one) == before


def test_of_two_names_of_one_file_the_first_is_taken(tmp_path: Path) -> None:
    two = make_gallery(tmp_path / "two")
    items = [new_items(0, 1, path=path, content_hash="")[0] for path in ("a", "x/../a", "./a")]
    with two.writer() as writer:
        writer.add(np.eye(4)[[0, 0, 1]], items)
    one = make_gallery(tmp_path / "one")
    summary = merge_into(one, [two])
    assert (summary.added, summary.there_already, summary.kept_other) == (1, 1, 1)


def test_a_new_gallery_has_the_limits_of_the_first(tmp_path: Path) -> None:
    limits = Limits(max_bytes=1000, max_query_ms=5.0, recall=0.9)
    sources = [
        filled(tmp_path / name, first, 40, index_key="auto", limits=limits)
        for name, first in (("one", 0), ("two", 100))
    ]
    assert open_or_create_like(tmp_path / "new", sources[:1]).limits == limits
    with pytest.raises(BudgetError, match="no index of 80 vectors"):
        open_or_create_like(tmp_path / "newer", sources)
    assert not (tmp_path / "newer").exists()


def test_a_new_gallery_is_made_like_the_first(tmp_path: Path) -> None:
    sources = [
        filled(tmp_path / f"s{i}", 10 * i, 5, dtype="float16", metric="l1") for i in range(3)
    ]
    made = open_or_create_like(tmp_path / "new", sources)
    merge_into(made, sources)
    assert rows(made) == list(itertools.chain(*map(rows, sources)))
    assert made.info()["dtype"] == "float16"
    assert (made.path / "model" / "model.safetensors").read_bytes() == b"x"
    again = open_or_create_like(tmp_path / "new", sources[::-1])
    assert rows(again) == rows(made)
    other = make_gallery(tmp_path / "other", metric="l2")
    with pytest.raises(GalleryError, match="has metric l2"):
        open_or_create_like(tmp_path / "newer", [*sources, other])
    assert not (tmp_path / "newer").exists()
    empty = make_gallery(tmp_path / "empty", metric="l1")
    assert merge_into(made, [empty]).added == 0


def test_what_cannot_be_compared_is_refused_before_anything_is_added(tmp_path: Path) -> None:
    one, fine = filled(tmp_path / "one", 0, 3), filled(tmp_path / "fine", 5, 3)
    model = filled(tmp_path / "model", 9, 3, embedder_id="f" * 64)
    metric = filled(tmp_path / "metric", 9, 3, metric="cosine")
    with pytest.raises(ModelMismatch, match=r"model ffffffffffff, and .*one by model eeeeeeeeeeee"):
        merge_into(one, [fine, model])
    with pytest.raises(GalleryError, match=r"has metric cosine, and .* has l2"):
        merge_into(one, [fine, metric])
    with pytest.raises(GalleryError, match="into itself"):
        merge_into(one, [fine, Gallery.open(one.path)])
    assert len(one) == 3
