import csv
import io
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from galleries import grid_vectors, make_gallery, new_items

from index.errors import GalleryError, ModelMismatch, VectorError
from index.gallery import Gallery
from index.verify import verify_gallery
from retrieval import exporting
from retrieval.errors import DataError
from retrieval.exchange import import_vectors, open_or_create, open_source
from retrieval.exporting import export_gallery
from retrieval.network_files import embedder_id
from retrieval.search import Searcher

pyarrow = pytest.importorskip("pyarrow")
import pyarrow.parquet as parquet  # noqa: E402

LAYOUTS = ["plain", "clip-retrieval"]


@pytest.fixture
def gallery(tmp_path: Path) -> Gallery:
    made = make_gallery(tmp_path / "g.gallery", image_root=tmp_path / "photos", metric="l1")
    items = new_items(0, 20)
    items[3] = new_items(3, 1, path='a, "b"\n.png', label=None, metadata={})[0]
    with made.writer() as writer:
        writer.add(grid_vectors(np.random.default_rng(0), 20), items)
        writer.remove([1, 8])
    return made


def rows(gallery: Gallery, with_times: bool = True) -> list[tuple]:
    return [
        (os.path.normpath(gallery.image_root / i.path), i.label, i.metadata, i.content_hash,
         gallery.vectors(np.array([i.id]))[0].tolist(), (i.size, i.mtime_ns) if with_times else None)
        for i in gallery.all_items()
    ]  # fmt: skip


def write_plain(folder: Path, vectors: np.ndarray, table: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "embeddings.npy", vectors)
    (folder / "pictures.csv").write_text(table)
    return folder


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_exported_comes_back(
    gallery: Gallery, tmp_path: Path, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "PART_ROWS", 7)
    monkeypatch.setattr("retrieval.tables.BLOCK_ROWS", 3)
    monkeypatch.setattr(exporting, "BLOCK_ROWS", 4)
    seen = []
    assert export_gallery(gallery, tmp_path / "out", layout, seen.append) == sum(seen) == 18
    files = sorted(p.name for p in (tmp_path / "out").rglob("*.*"))
    if layout == "plain":
        assert files == ["embeddings.npy", "export.json", "pictures.csv"]
        text = (tmp_path / "out" / "pictures.csv").read_text()
        table = list(csv.DictReader(io.StringIO(text, newline="")))
        assert table[2]["path"] == str(tmp_path / "photos" / 'a, "b"\n.png')
    else:
        assert files == ["export.json", *(f"img_emb_{i}.npy" for i in range(3)),
                         *(f"metadata_{i}.parquet" for i in range(3))]  # fmt: skip
        table = parquet.read_table(tmp_path / "out" / "metadata" / "metadata_1.parquet").to_pylist()
        assert len(table) == 7
        assert table[0]["image_path"] == str(tmp_path / "photos" / "p9.png")
    source = open_source(tmp_path / "out")
    made = open_or_create(source, tmp_path / "h.gallery", images=tmp_path / "elsewhere")
    summary = import_vectors(made, source)
    assert (summary.added, summary.unchanged) == (18, 0)
    assert rows(made) == rows(gallery)
    assert made.embedder_id == gallery.embedder_id
    assert made.metric == "l1"
    assert verify_gallery(made.path) == []
    before = [item.id for item in made.all_items()]
    again = import_vectors(made, source)
    assert (again.added, again.replaced, again.unchanged) == (0, 0, 18)
    assert [item.id for item in made.all_items()] == before


def test_a_second_export_replaces_the_first_and_nothing_else(
    gallery: Gallery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "PART_ROWS", 7)
    export_gallery(gallery, tmp_path / "out", "clip-retrieval")
    with gallery.writer() as writer:
        writer.remove(range(1, 15))
    export_gallery(gallery, tmp_path / "out", "clip-retrieval")
    assert open_source(tmp_path / "out").rows == 6
    export_gallery(gallery, tmp_path / "out", "plain")
    assert len(open_source(tmp_path / "out").parts) == 1
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "embeddings.npy").write_bytes(b"precious")
    with pytest.raises(GalleryError, match="no export"):
        export_gallery(gallery, tmp_path / "mine")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_interrupted_export_is_not_imported(
    gallery: Gallery, tmp_path: Path, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(exporting, "write_table", fail)
        with pytest.raises(KeyboardInterrupt):
            export_gallery(gallery, tmp_path / "out", layout)
    with pytest.raises(DataError, match=r"missing|interrupted"):
        open_source(tmp_path / "out")
    export_gallery(gallery, tmp_path / "out", layout)
    assert open_source(tmp_path / "out").rows == 18


def test_an_empty_gallery_goes_out_and_in(tmp_path: Path) -> None:
    empty = make_gallery(tmp_path / "e.gallery")
    for layout in LAYOUTS:
        assert export_gallery(empty, tmp_path / layout, layout) == 0
        source = open_source(tmp_path / layout)
        made = open_or_create(source, tmp_path / f"{layout}.gallery")
        assert import_vectors(made, source).added == 0
        assert (len(made), made.dim) == (0, 4)


def test_the_files_of_clip_retrieval_itself_are_read(tmp_path: Path) -> None:
    """Numbers with leading zeros, float16, columns of its own, no word on model or metric."""
    vectors = np.random.default_rng(0).normal(size=(12, 6)).astype(np.float16)
    for name in ("img_emb", "metadata"):
        (tmp_path / "clip" / name).mkdir(parents=True)
    for part in range(12):
        np.save(tmp_path / "clip" / "img_emb" / f"img_emb_{part:02}.npy", vectors[part : part + 1])
        table = {"image_path": [f"{part}.jpg"], "caption": ["a cat"], "width": [part],
                 "similarity": [float("nan")], "metadata": ['{"author": "me"}']}  # fmt: skip
        parquet.write_table(
            pyarrow.table(table), tmp_path / "clip" / "metadata" / f"metadata_{part:02}.parquet"
        )
    source = open_source(tmp_path / "clip")
    assert (source.rows, source.dim, source.metric, source.model) == (12, 6, None, None)
    with pytest.raises(DataError, match="--metric"):
        open_or_create(source, tmp_path / "g", made_by="ViT-B/32")
    with pytest.raises(DataError, match="--made-by"):
        open_or_create(source, tmp_path / "g", metric="cosine")
    made = open_or_create(source, tmp_path / "g", metric="cosine", made_by="ViT-B/32")
    import_vectors(made, source)
    assert [item.path for item in made.all_items()] == [f"{part}.jpg" for part in range(12)]
    assert made.items([3])[3].metadata == {"author": "me", "caption": "a cat", "width": 2}
    found = made.search(vectors[:5].astype(np.float32), 1, where="caption = 'a cat' and width < 9")
    assert found.ids[:, 0].tolist() == [1, 2, 3, 4, 5]
    assert not made.has_model
    with pytest.raises(ModelMismatch):
        open_or_create(source, tmp_path / "g", metric="cosine", made_by="another")
    with pytest.raises(GalleryError, match="metric cosine, not l2"):
        open_or_create(source, tmp_path / "g", metric="l2", made_by="ViT-B/32")


def test_a_changed_vector_or_label_is_taken_over(tmp_path: Path) -> None:
    vectors = np.arange(8, dtype=np.float32).reshape(4, 2)
    folder = write_plain(tmp_path / "in", vectors, "path,label\na,x\nb,x\nc,\na,y\n")
    made = open_or_create(open_source(folder), tmp_path / "g", metric="l2", made_by="me")
    summary = import_vectors(made, open_source(folder))
    assert summary.added == 3  # the last of a path counts
    ids = {item.path: item.id for item in made.all_items()}
    assert made.vectors(np.array([ids["a"]])).tolist() == [[6, 7]]
    vectors[1] = 9
    write_plain(folder, vectors, "path,label,year\na,x,\nb,x,\nc,z,2020\na,y,\n")
    summary = import_vectors(made, open_source(folder))
    assert (summary.added, summary.replaced, summary.relabelled, summary.unchanged) == (0, 1, 1, 1)
    now = {item.path: item for item in made.all_items()}
    assert (now["c"].label, now["c"].metadata) == ("z", {"year": "2020"})
    assert now["a"].id == ids["a"]
    assert now["b"].id != ids["b"]


BAD = {
    "neither embeddings": lambda f: [p.unlink() for p in f.iterdir()],
    r"pictures\.csv is missing": lambda f: (f / "pictures.csv").unlink(),
    r"embeddings\.npy is missing": lambda f: (f / "embeddings.npy").unlink(),
    r"has 4 rows, .* has 1": lambda f: (f / "pictures.csv").write_text("path\nx\n"),
    "no column image_path or path, but name": lambda f: (f / "pictures.csv").write_text(
        "name\nx\n"
    ),
    "but none": lambda f: (f / "pictures.csv").write_text(""),
    "not a readable .npy file": lambda f: (f / "embeddings.npy").write_bytes(b"no array"),
    "int64 of shape": lambda f: np.save(f / "embeddings.npy", np.zeros((4, 2), np.int64)),
    r"shape \(4,\)": lambda f: np.save(f / "embeddings.npy", np.zeros(4)),
    "damaged": lambda f: (f / "export.json").write_text("{"),
    "no object": lambda f: (f / "export.json").write_text("[]"),
    "there is no path": lambda f: (f / "pictures.csv").write_text("path,x\n,1\nb,1\nc,1\nd,1\n"),
    "row 1: ": lambda f: (f / "pictures.csv").write_text("path,size\na,1\nb,big\nc,1\nd,1\n"),
    "row 1: mtime_ns is 9{20}; .* 64 bits": lambda f: (f / "pictures.csv").write_text(
        f"path,mtime_ns\na,1\nb,{'9' * 20}\nc,1\nd,1\n"
    ),
}


def test_without_a_model_it_is_said_what_can_ask(tmp_path: Path) -> None:
    folder = write_plain(tmp_path / "in", np.eye(4), "path\na\nb\nc\nd\n")
    make_of(folder, tmp_path / "g")
    gallery = Gallery.open(tmp_path / "g")
    assert gallery.settings["index_key"] == "auto"  # which limits can be set for
    with pytest.raises(GalleryError, match="was imported without a model"):
        _ = Searcher(gallery).embedder


def test_a_model_is_not_put_into_a_gallery_in_silence(tmp_path: Path) -> None:
    source = write_plain(tmp_path / "in", np.eye(64)[:4], "path\na\nb\nc\nd\n")
    model = Path("cifar10")
    vectors = open_source(source)
    narrow = open_source(write_plain(tmp_path / "narrow", np.eye(4), "path\na\nb\nc\nd\n"))
    with pytest.raises(DataError, match="vectors of 4 numbers, and those of cifar10 have 64"):
        open_or_create(narrow, tmp_path / "n", metric="l2", model=model)
    made = open_or_create(vectors, tmp_path / "g", metric="l2", made_by=embedder_id(model))
    import_vectors(made, vectors)
    with pytest.raises(GalleryError, match="import into another gallery with --model"):
        open_or_create(vectors, tmp_path / "g", metric="l2", model=model)


@pytest.mark.parametrize("message", BAD)
def test_what_does_not_fit_is_refused(tmp_path: Path, message: str) -> None:
    folder = write_plain(tmp_path / "in", np.zeros((4, 2)), "path\na\nb\nc\nd\n")
    BAD[message](folder)
    with pytest.raises(DataError, match=message):
        make_of(folder, tmp_path / "g")


def make_of(folder: Path, out: Path) -> None:
    source = open_source(folder)
    import_vectors(open_or_create(source, out, metric="l2", made_by="x"), source)


def test_values_that_are_not_finite_name_the_file(tmp_path: Path) -> None:
    vectors = np.zeros((2, 2))
    vectors[1, 1] = np.nan
    folder = write_plain(tmp_path / "in", vectors, "path\na\nb\n")
    with pytest.raises(VectorError, match=r"embeddings\.npy from row 0.*row 1"):
        make_of(folder, tmp_path / "g")
    assert not (tmp_path / "g").exists()


def test_nothing_is_made_of_what_cannot_be_imported(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    large = write_plain(tmp_path / "in", np.full((2, 2), 1e300), "path\na\nb\n")
    with pytest.raises(VectorError, match=r"embeddings\.npy from row 0 hold .* beyond float32"):
        make_of(large, tmp_path / "g")
    source = open_source(write_plain(tmp_path / "in", np.full((2, 2), 1e6), "path\na\nb\n"))
    with pytest.raises(VectorError, match="float16 cannot hold"):
        open_or_create(source, tmp_path / "g", metric="l2", made_by="x", dtype="float16")
    assert not (tmp_path / "g").exists()
    assert [str(warning.message) for warning in recwarn] == []


def test_a_row_that_cannot_be_understood_leaves_the_gallery_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retrieval.tables.BLOCK_ROWS", 2)
    folder = write_plain(tmp_path / "in", np.eye(4), "path,size\na,1\nb,1\nc,1\nd,big\n")
    with pytest.raises(DataError, match="row 3"):
        make_of(folder, tmp_path / "g")
    assert len(Gallery.open(tmp_path / "g")) == 0


@pytest.mark.parametrize("metric", ["l2", "cosine"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "kmeans:4", "kmeans:4x2"])
def test_done_twice_it_changes_nothing(tmp_path: Path, metric: str, dtype: str) -> None:
    """Neither an import, nor that of what the gallery itself exports; whatever it stores."""
    vectors = np.random.default_rng(0).normal(size=(300, 6)).astype(np.float32)
    table = "path\n" + "".join(f"{i}.png\n" for i in range(300))
    folder = write_plain(tmp_path / "in", vectors, table)
    kind = "float16" if dtype == "float16" else None
    made = open_or_create(
        open_source(folder), tmp_path / "g", metric=metric, made_by="x", dtype=kind
    )
    import_vectors(made, open_source(folder))
    if dtype.startswith("kmeans"):
        with made.writer() as writer:
            writer.encode(dtype)
    export_gallery(made, tmp_path / "out")
    for source, made_by in ((open_source(folder), "x"), (open_source(tmp_path / "out"), None)):
        there = open_or_create(source, made.path, metric=metric, made_by=made_by)
        again = import_vectors(there, source, images=folder)
        assert (again.added, again.replaced, again.unchanged) == (0, 0, 300)


def test_vectors_are_stored_as_they_come_or_as_the_gallery_has_them(tmp_path: Path) -> None:
    table = "path\na\nb\nc\nd\n"
    half, single, double = (
        open_source(write_plain(tmp_path / kind, np.eye(4, dtype=kind), table))
        for kind in ("float16", "float32", "float64")
    )
    made = {"metric": "l2", "made_by": "x"}
    assert open_or_create(half, tmp_path / "h", **made).settings["dtype"] == "float16"
    assert open_or_create(double, tmp_path / "d", **made).settings["dtype"] == "float32"
    assert open_or_create(half, tmp_path / "s", **made, dtype="float32").settings["dtype"] == (
        "float32"
    )
    there = open_or_create(single, tmp_path / "h", **made)
    assert import_vectors(there, single).added == 4
    export_gallery(there, tmp_path / "out")
    copy = open_or_create(open_source(tmp_path / "out"), tmp_path / "copy")
    assert copy.settings["dtype"] == "float16"
    with pytest.raises(GalleryError, match="has dtype float16, not float32"):
        open_or_create(half, tmp_path / "h", **made, dtype="float32")


def test_what_comes_into_a_gallery_of_codes_is_coded(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(120, 4)).astype(np.float32)
    first = write_plain(
        tmp_path / "in", vectors[:100], "path\n" + "".join(f"{i}\n" for i in range(100))
    )
    make_of(first, tmp_path / "g")
    gallery = Gallery.open(tmp_path / "g")
    with gallery.writer() as writer:
        writer.encode("kmeans:4")
    more = write_plain(
        tmp_path / "more", vectors, "path\n" + "".join(f"../in/{i}\n" for i in range(120))
    )
    make_of(more, tmp_path / "g")
    gallery.refresh()
    assert [item.path for item in gallery.all_items()] == [str(i) for i in range(120)]
    storage = gallery.snapshot.storage
    kept = gallery.vectors(np.arange(1, 121))
    np.testing.assert_array_equal(kept, storage.decode(storage.encode(vectors)))
    assert gallery.info()["dtype"] == "kmeans:4"
    assert verify_gallery(gallery.path) == []


def test_of_a_path_that_stands_twice_the_last_row_counts_wherever_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retrieval.tables.BLOCK_ROWS", 3)
    names = ["a", "b", "c", "d", "./a", "e", "f", "b", "g", "x/../a"]
    vectors = np.arange(20, dtype=np.float32).reshape(10, 2)
    table = "path,label\n" + "".join(f"{name},{row}\n" for row, name in enumerate(names))
    source = open_source(write_plain(tmp_path / "in", vectors, table))
    made = open_or_create(source, tmp_path / "g", metric="l2", made_by="me")
    assert import_vectors(made, source).added == 7
    there = [(item.id, item.path, item.label) for item in made.all_items()]
    assert [label for *_, label in there] == ["2", "3", "5", "6", "7", "8", "9"]
    np.testing.assert_array_equal(made.vectors(np.array([there[-1][0]])), vectors[9:])
    again = import_vectors(made, source)
    assert (again.added, again.replaced, again.unchanged) == (0, 0, 7)
    assert [(item.id, item.path, item.label) for item in made.all_items()] == there


def test_a_damaged_parquet_file_is_refused(gallery: Gallery, tmp_path: Path) -> None:
    export_gallery(gallery, tmp_path / "out", "clip-retrieval")
    file = tmp_path / "out" / "metadata" / "metadata_0.parquet"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(DataError, match="metadata_0"):
        open_source(tmp_path / "out")


def test_names_that_are_not_utf8_go_through_csv_only(tmp_path: Path) -> None:
    made = make_gallery(tmp_path / "g.gallery")
    odd = os.fsdecode(b"\xff.png")
    with made.writer() as writer:
        writer.add(np.ones((1, 4)), new_items(0, 1, path=odd))
    export_gallery(made, tmp_path / "out")
    source = open_source(tmp_path / "out")
    copy = open_or_create(source, tmp_path / "h.gallery", images=tmp_path)
    import_vectors(copy, source)
    assert [item.path for item in copy.all_items()] == [odd]
    with pytest.raises(DataError, match="not UTF-8"):
        export_gallery(made, tmp_path / "clip", "clip-retrieval")


def test_without_pyarrow_it_is_said_what_to_install(
    gallery: Gallery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"retrieval\[parquet\]"):
        export_gallery(gallery, tmp_path / "out", "clip-retrieval")
    assert json.loads((tmp_path / "out" / "export.json").read_text())["complete"] is False
