"""When an index is left alone, extended, or built anew; answers stay right throughout."""

import re
from pathlib import Path

import faiss
import numpy as np
import pytest
from galleries import make_gallery, new_items, slow_search

from index import planner, upkeep
from index.errors import BudgetError, IndexKeyError
from index.gallery import Gallery
from index.planner import Limits
from index.snapshot import Snapshot
from index.vector_index import AUTO

RNG = np.random.default_rng(5)
VECTORS = RNG.normal(size=(900, 6)).astype(np.float32)


@pytest.fixture
def gallery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gallery:
    monkeypatch.setattr("index.gallery.EXACT_BELOW_ROWS", 0)
    monkeypatch.setattr(upkeep, "NEWER_ROWS", 50)
    made = make_gallery(tmp_path / "g.gallery", dim=6, index_key="IVF8,Flat")
    put(made, 0, 500)
    return made


def put(gallery: Gallery, start: int, stop: int) -> None:
    with gallery.writer() as writer:
        writer.add(VECTORS[start:stop], new_items(start, stop - start))
        writer.refresh_index()


def remove(gallery: Gallery, ids: range) -> None:
    with gallery.writer() as writer:
        writer.remove(ids)
        writer.refresh_index()


def index_file(gallery: Gallery) -> str:
    return str(gallery.settings["index_file"])


def check(gallery: Gallery, alive: list[int]) -> None:
    """Every list visited, an index of whole vectors answers as a loop does."""
    plan = {**gallery.settings["plan"], "effort": 8}
    gallery.snapshot.settings["plan"] = plan
    gallery.snapshot.__dict__.pop("tuned", None)
    assert gallery.snapshot.stored is not None
    gallery.snapshot.stored._loaded = None
    queries = RNG.normal(size=(6, 6)).astype(np.float32)
    living = {i: VECTORS[i - 1] for i in alive}
    found = gallery.search(queries, 7)
    for row, query in enumerate(queries):
        assert found.ids[row].tolist() == [i for _, i in slow_search(query, living, 7, "l2")]


def test_a_few_newer_vectors_leave_the_index_as_it_is(gallery: Gallery) -> None:
    before = index_file(gallery)
    put(gallery, 500, 545)
    assert index_file(gallery) == before
    assert gallery.info()["indexed"] == 500
    check(gallery, list(range(1, 546)))


def test_more_extend_it_without_learning_anew(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "train_index", None)  # would fail
    before = index_file(gallery)
    remove(gallery, range(3, 40, 5))
    put(gallery, 500, 600)
    assert index_file(gallery) != before
    assert not (gallery.path / before).exists()
    assert gallery.info()["indexed"] == 600
    check(gallery, [i for i in range(1, 601) if i not in range(3, 40, 5)])


def test_an_index_that_has_doubled_is_built_anew(gallery: Gallery) -> None:
    remove(gallery, range(1, 60))  # 441 are left: 900 − 59 is less than twice 500
    put(gallery, 500, 620)
    assert gallery.settings["plan"]["rows"] == 500
    upkeep_rows = gallery.settings["plan"]
    assert upkeep_rows["recall"] is not None
    with gallery.writer() as writer:
        with writer._commit(plan={**upkeep_rows, "rows": 250}):
            pass
        writer.refresh_index()
    assert gallery.settings["plan"]["rows"] == 561
    check(gallery, list(range(60, 621)))


def test_the_choice_is_made_anew_after_four_times_the_vectors_however_they_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "NEWER_ROWS", 10)
    monkeypatch.setattr(planner, "stays_exact", lambda snapshot, limits: False)
    chosen_at = []

    def choose(snapshot: Snapshot, *_: object) -> list[planner.Measured]:
        chosen_at.append(snapshot.n_items)
        return [planner.Measured(f"IVF{len(chosen_at)},Flat", 1, 10, 1.0, 0.1, 0.1, 1, 0.1)]

    monkeypatch.setattr(planner, "choose", choose)
    made = make_gallery(tmp_path / "auto.gallery", dim=6, index_key=AUTO)
    built_at = []
    for start in range(0, 900, 50):
        put(made, start, start + 50)
        if made.settings["plan"]["rows"] == start + 50:
            built_at.append(start + 50)
    assert built_at == [50, 150, 350, 750]
    assert chosen_at == [50, 350]  # 150 is no more than four times 50
    assert made.settings["plan"]["key"] == "IVF2,Flat"


def test_exact_search_that_was_chosen_is_asked_again_when_the_gallery_has_doubled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "NEWER_ROWS", 10)
    monkeypatch.setattr(planner, "stays_exact", lambda snapshot, limits: False)
    keys = iter(["Flat", "IVF2,Flat"])

    def choose(*_: object) -> list[planner.Measured]:
        return [planner.Measured(next(keys), 1, 10, 1.0, 0.1, 0.1, 1, 0.1)]

    monkeypatch.setattr(planner, "choose", choose)
    made = make_gallery(tmp_path / "auto.gallery", dim=6, index_key=AUTO)
    chosen = []
    for start in range(0, 250, 50):
        put(made, start, start + 50)
        chosen.append(made.settings["plan"]["key"])
    assert chosen == ["Flat", "Flat", "IVF2,Flat", "IVF2,Flat", "IVF2,Flat"]


def test_an_index_of_which_much_is_gone_is_built_anew(gallery: Gallery) -> None:
    before = index_file(gallery)
    remove(gallery, range(1, 101))  # a fifth: may stay
    assert index_file(gallery) == before
    remove(gallery, range(101, 102))
    assert index_file(gallery) != before
    assert gallery.info()["indexed"] == 399
    check(gallery, list(range(102, 501)))


def test_held_out_vectors_end_up_in_the_index(gallery: Gallery) -> None:
    ids = gallery.snapshot.indexed_ids
    assert sorted(ids.tolist()) == list(range(1, 501))
    assert ids.tolist() != sorted(ids.tolist())
    assert gallery.search(VECTORS[:500], 1).ids[:, 0].tolist() == list(range(1, 501))


def test_nothing_is_written_where_all_is_removed(gallery: Gallery) -> None:
    remove(gallery, range(1, 501))
    assert gallery.search(VECTORS[:1], 3).ids.tolist() == [[-1, -1, -1]]
    put(gallery, 600, 700)
    assert gallery.search(VECTORS[600:601], 1).distances[0, 0] == 0


@pytest.mark.parametrize(
    ("key", "least", "told"),
    [
        ("IVF64,Flat", 64, r"64 lists, and there are \d+ vectors"),
        ("PQ2x6", 64, r"training points \(\d+\) .* clusters \(64\)"),
    ],
)
def test_too_few_vectors_for_the_key_are_compared_until_there_are_more(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, key: str, least: int, told: str
) -> None:
    made = make_gallery(tmp_path / "g.gallery", dim=6, index_key=key)
    for start, stop in ((0, 20), (20, least - 1)):
        put(made, start, stop)
        assert (made.info()["indexed"], made.settings["plan"]) == (0, None)
        assert re.search(told, caplog.text)
        caplog.clear()
    put(made, least - 1, 2 * least)
    assert made.info()["indexed"] == 2 * least
    assert caplog.text == ""
    remove(made, range(11, 2 * least + 1))
    assert re.search(told, caplog.text)
    assert list(made.path.glob("index-*")) == []
    queries = RNG.normal(size=(6, 6)).astype(np.float32)
    found = Gallery.open(made.path).search(queries, 7)
    living = {i: VECTORS[i - 1] for i in range(1, 11)}
    for row, query in enumerate(queries):
        assert found.ids[row].tolist() == [i for _, i in slow_search(query, living, 7, "l2")]


def test_a_named_index_that_misses_the_recall_says_so(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("index.planner.CODE_CANDIDATES", (12,))
    with gallery.writer() as writer:
        writer.tune("IVF8,PQ1x4", Limits(recall=1.0))
        chosen = gallery.settings["plan"]["table"][0]
        assert chosen["recall"] < 1
        assert chosen["verdict"] == "asked for; recall stays below 1"
        writer.tune("IVF8,Flat", Limits(recall=0.5))
    assert gallery.settings["plan"]["table"][0]["verdict"] == "asked for"


def test_to_tune_for_a_key_with_too_few_vectors_is_an_error(gallery: Gallery) -> None:
    before = gallery.info()
    with gallery.writer() as writer, pytest.raises(IndexKeyError, match=r"512 lists.* vectors"):
        writer.tune("IVF512,Flat", Limits())
    assert gallery.info() == before


@pytest.mark.parametrize("key", ["IVF8,Flat", AUTO])
def test_a_gallery_that_has_outgrown_its_limits_is_written_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, key: str
) -> None:
    monkeypatch.setattr(upkeep, "NEWER_ROWS", 50)
    monkeypatch.setattr(planner, "LEAST_ROWS", 400)
    limits = Limits(max_query_ms=1e-9)
    made = make_gallery(tmp_path / "g.gallery", dim=6, index_key=key, limits=limits)
    told = []
    for start, stop in ((0, 420), (420, 440), (440, 500), (500, 900)):
        put(made, start, stop)
        told.append("--max-query-time-ms" in caplog.text and "retrieval tune" in caplog.text)
        caplog.clear()
    assert told == [True, False, False, True]  # where an index was learnt
    assert made.settings["plan"]["rows"] == 900
    assert made.limits == limits
    with made.writer() as writer, pytest.raises(BudgetError, match="give --max-query-time-ms"):
        writer.tune(key, limits)


def test_an_index_that_grows_beyond_its_limit_says_so(
    gallery: Gallery, caplog: pytest.LogCaptureFixture
) -> None:
    size = gallery.settings["plan"]["table"][0]["bytes"]
    assert size == (gallery.path / index_file(gallery)).stat().st_size
    with gallery.writer() as writer:
        writer.tune("IVF8,Flat", Limits(max_bytes=size))
    put(gallery, 500, 540)
    assert caplog.text == ""
    put(gallery, 540, 600)
    assert re.search(r"more than the .* allowed; give --max-index-memory-usage \d+", caplog.text)
    assert gallery.info()["indexed"] == 600
    check(gallery, list(range(1, 601)))


def test_vectors_that_grow_beyond_the_limit_say_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    limits = Limits(max_bytes=24 * 100)
    made = make_gallery(tmp_path / "g.gallery", dim=6, index_key="Flat", limits=limits)
    put(made, 0, 100)
    assert caplog.text == ""
    put(made, 100, 101)
    assert "Flat over all vectors takes 2,424 bytes" in caplog.text


@pytest.mark.parametrize("key", ["IVF8,Flat", "HNSW8", "Flat"])
def test_a_named_index_keeps_to_the_limits_or_is_refused(gallery: Gallery, key: str) -> None:
    before = gallery.info()
    for limits in (Limits(max_bytes=1000), Limits(max_query_ms=1e-9)):
        with gallery.writer() as writer, pytest.raises(BudgetError, match="give --max-"):
            writer.tune(key, limits)
        assert gallery.info() == before
    with gallery.writer() as writer, pytest.raises(BudgetError) as caught:
        writer.tune(key, Limits(max_bytes=1000))
    least = re.search(r"--max-index-memory-usage (\d+)", str(caught.value))
    assert least is not None
    with gallery.writer() as writer:
        writer.tune(key, Limits(max_bytes=int(least[1])))
    assert gallery.settings["index_key"] == key


@pytest.mark.parametrize("key", ["IVF8,Flat", "IVF8,SQ8", "IVF8,RaBitQ", "IVF8,PQ3x4fs", "HNSW16"])
@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_the_first_of_many_are_the_answer_for_few(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, metric: str
) -> None:
    monkeypatch.setattr("index.gallery.EXACT_BELOW_ROWS", 0)
    made = make_gallery(tmp_path / "g.gallery", dim=6, index_key=key, metric=metric)
    put(made, 0, 700)
    remove(made, range(1, 60, 3))
    queries = RNG.normal(size=(40, 6)).astype(np.float32)
    most = made.search(queries, 15)
    for k in (1, 5, 10):
        fewer = made.search(queries, k)
        assert np.array_equal(fewer.ids, most.ids[:, :k])
        assert np.array_equal(fewer.distances, most.distances[:, :k])
    one = made.search(queries[7:8], 15)
    assert np.array_equal(one.ids[0], most.ids[7])
    wanted = made.search(queries, 15, where="label in (a, b)")
    labels = {i: item.label for i, item in made.items(wanted.ids).items()}
    assert (wanted.ids >= 0).all()
    assert set(labels.values()) == {"a", "b"}


def test_a_graph_of_equal_vectors_answers_in_the_order_of_ids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("index.gallery.EXACT_BELOW_ROWS", 0)
    made = make_gallery(tmp_path / "g.gallery", dim=6, index_key="HNSW16")
    vectors = np.concatenate([np.zeros((600, 6), np.float32), VECTORS[:100]])
    with made.writer() as writer:
        writer.add(vectors, new_items(0, 700))
        writer.refresh_index()
    found = made.search(np.zeros((1, 6), np.float32), 10)
    assert found.ids[0].tolist() == list(range(1, 11))


@pytest.mark.parametrize("key", ["HNSW32", "HNSW16,SQ8", "PCA12,HNSW16", "IVF64,Flat", "IVF64,SQ8"])
def test_many_neighbours_are_found_as_well_as_few(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setattr("index.gallery.EXACT_BELOW_ROWS", 0)
    vectors = np.random.default_rng(0).normal(size=(3040, 12)).astype(np.float32)
    made = make_gallery(tmp_path / "g.gallery", dim=12, index_key=key)
    with made.writer() as writer:
        writer.add(vectors[40:], new_items(0, 3000))
        writer.refresh_index()
    for k in (10, 100, 500):
        pairs = zip(
            made.search(vectors[:40], k).ids, made.search(vectors[:40], k, exact=True).ids,
            strict=True,
        )  # fmt: skip
        assert np.mean([len(np.intersect1d(*pair)) / k for pair in pairs]) >= 0.94


def test_many_neighbours_of_a_graph_with_copies_stand_in_the_order_of_ids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("index.gallery.EXACT_BELOW_ROWS", 0)
    vectors = np.random.default_rng(0).normal(size=(3000, 12)).astype(np.float32)
    copies = np.random.default_rng(1).permutation(3000)[:150]
    vectors[copies] = vectors[0]
    made = make_gallery(tmp_path / "g.gallery", dim=12, index_key="HNSW16")
    with made.writer() as writer:
        writer.add(vectors, new_items(0, 3000))
        writer.refresh_index()
    found = made.search(vectors[:1], 100)
    assert found.ids[0].tolist() == [*np.union1d(copies, [0])[:100] + 1]


def test_a_flipped_bit_in_the_index_is_seen_before_it_is_searched(gallery: Gallery) -> None:
    file = gallery.path / index_file(gallery)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(data)
    opened = Gallery.open(gallery.path)
    found = opened.search(VECTORS[:20], 3)
    assert np.array_equal(found.ids, opened.search(VECTORS[:20], 3, exact=True).ids)
    assert "has changed" in opened.notes[0]
    with opened.writer() as writer:
        writer.refresh_index()
    assert opened.notes == ()
    assert opened.info()["indexed"] == 500


def test_a_reader_keeps_the_index_that_it_opened(gallery: Gallery) -> None:
    reader = Gallery.open(gallery.path)
    put(gallery, 500, 600)  # takes the file away
    assert reader.search(VECTORS[:20], 1).ids[:, 0].tolist() == list(range(1, 21))
    assert reader.notes == ()


def test_faiss_warnings_that_the_code_relies_on() -> None:
    """Were one of these to change, the code around it may be simplified."""
    lists = faiss.index_factory(6, "IVF8,Flat")
    assert lists.nprobe == 1  # far too little: efforts are always given
    index = faiss.index_factory(6, "HNSW8")
    index.add(VECTORS[:50])
    with pytest.raises(RuntimeError):
        index.remove_ids(np.array([1]))


def test_many_small_shards_become_one_and_nothing_else_changes(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("index.compaction.JOINED", 4)
    remove(gallery, range(5, 9))
    put(gallery, 500, 510)
    before = index_file(gallery)
    put(gallery, 510, 512)
    assert len(gallery.snapshot.shards) == 3
    put(gallery, 512, 520)
    assert [shard.rows for shard in gallery.snapshot.shards] == [520]  # the dead are still there
    assert index_file(gallery) == before
    assert gallery.info()["removed_rows"] == 4
    again = Gallery.open(gallery.path)
    np.testing.assert_array_equal(again.vectors(np.arange(1, 521)), VECTORS[:520])
    check(gallery, [*range(1, 5), *range(9, 521)])
    put(gallery, 520, 530)
    assert [shard.rows for shard in gallery.snapshot.shards] == [520, 10]
    assert {file.name for file in gallery.path.glob("vectors-*")} == {
        shard.vectors_file for shard in gallery.snapshot.shards
    }


def test_shards_that_are_large_enough_are_left_alone(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("index.compaction.JOINED", 2)
    monkeypatch.setattr("index.compaction.SHARD_BYTES", 24 * 520)
    put(gallery, 500, 530)
    assert [shard.rows for shard in gallery.snapshot.shards] == [500, 30]
    put(gallery, 530, 540)
    assert [shard.rows for shard in gallery.snapshot.shards] == [500, 40]


def test_compacting_newer_rows_with_indexed_ones_finds_none_twice(gallery: Gallery) -> None:
    put(gallery, 500, 530)
    with gallery.writer() as writer:
        writer.compact()
    assert [shard.rows for shard in gallery.snapshot.shards] == [530]
    assert gallery.info()["indexed"] == 500
    check(gallery, list(range(1, 531)))
