import json
from pathlib import Path

import numpy as np
import pytest
from galleries import grid_vectors, make_gallery, new_items, slow_search
from test_within import slow_within

from index.errors import FilterError, VectorError
from index.gallery import Gallery
from index.neighbors import METRICS
from retrieval import search as module
from retrieval.errors import CheckpointError
from retrieval.questions import Question, stored_questions
from retrieval.report import GREY
from retrieval.search import Answer, Searcher, readable, sheet_row


@pytest.fixture(scope="module", params=METRICS)
def searcher(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Searcher:
    """Thirty vectors of small whole numbers, of which five are the same, three removed."""
    made = make_gallery(tmp_path_factory.mktemp("search") / "g.gallery", metric=request.param)
    vectors = grid_vectors(np.random.default_rng(3), 30)
    vectors[[4, 11, 12, 25, 29]] = [1, 2, 0, -1]
    with made.writer() as writer:
        writer.add(vectors, new_items(0, 30))
        writer.remove([2, 13, 30])
    return Searcher(made)


def held(gallery: Gallery) -> dict[int, np.ndarray]:
    ids = [item.id for item in gallery.all_items()]
    return dict(zip(ids, gallery.vectors(np.array(ids)), strict=True))


def pairs(answer: Answer) -> list[tuple[float, int]]:
    return [(round(hit.distance, 5), hit.id) for hit in answer.hits]


def without(vectors: dict[int, np.ndarray], item_id: int) -> dict[int, np.ndarray]:
    return {i: v for i, v in vectors.items() if i != item_id}


@pytest.mark.parametrize("k", [1, 4, 26, 27, 100])
def test_a_stored_picture_that_asks_is_left_out_and_still_k_are_found(
    searcher: Searcher, k: int
) -> None:
    """Even where equal pictures with smaller ids stand before it: it is known by its id."""
    vectors = held(searcher.gallery)
    asked = [1, 26, 12, 5]
    answers = list(searcher.nearest(stored_questions(searcher.gallery, asked), k))
    assert len(answers) == 4
    for item_id, answer in zip(asked, answers, strict=True):
        others = without(vectors, item_id)
        assert len(others) == 26
        assert pairs(answer) == slow_search(vectors[item_id], others, k, searcher.gallery.metric)
        assert [hit.rank for hit in answer.hits] == list(range(1, min(k, 26) + 1))
        assert answer.total is None
    including = searcher.nearest(stored_questions(searcher.gallery, asked), k, include_self=True)
    for item_id, answer in zip(asked, including, strict=True):
        metric = searcher.gallery.metric
        assert pairs(answer) == slow_search(vectors[item_id], vectors, k, metric)


@pytest.mark.parametrize("together", [1, 2, 64])
def test_stored_pictures_and_vectors_ask_side_by_side_in_batches(
    searcher: Searcher, monkeypatch: pytest.MonkeyPatch, together: int
) -> None:
    monkeypatch.setattr(module, "TOGETHER", together)
    vectors = held(searcher.gallery)
    stranger = Question("stranger", vectors[5])
    (stored,) = stored_questions(searcher.gallery, [5])
    asked = [stranger, stored, stranger, stored, stored]
    answers = list(searcher.nearest(iter(asked), 3))
    assert [answer.question for answer in answers] == [question.title for question in asked]
    for question, answer in zip(asked, answers, strict=True):
        left = vectors if question.own_id is None else without(vectors, 5)
        assert pairs(answer) == slow_search(vectors[5], left, 3, searcher.gallery.metric)
        assert answer.photos == question.photos


def test_questions_are_taken_as_answers_are(
    searcher: Searcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HITS_TOGETHER", 20)  # two questions with ten hits each
    taken = 0

    def asked() -> object:
        nonlocal taken
        for number in range(7):
            taken += 1
            yield Question(str(number), np.zeros(4, np.float32))

    answers = searcher.nearest(asked(), 10)
    assert taken == 0
    assert next(answers).question == "0"
    assert taken == 2
    assert [answer.question for answer in answers] == list("123456")


@pytest.mark.parametrize("where", [None, "label = b", "id in (12, 13, 26)", "label = none"])
def test_nearest_within_a_distance_cuts_the_farther_ones_off(
    searcher: Searcher, where: str | None
) -> None:
    vectors = held(searcher.gallery)
    if where is not None:
        vectors = {i: vectors[i] for i in searcher.gallery.matching(where).tolist()}
    metric = searcher.gallery.metric
    radius = {"l2": 2.0, "l1": 3.0, "cosine": 0.4}[metric]
    question = Question("q", np.array([1, 1, 0, -1], np.float32))
    (answer,) = searcher.nearest([question], 5, where=where, within=radius)
    expected = [p for p in slow_search(question.vector, vectors, 5, metric) if p[0] <= radius]
    assert pairs(answer) == expected


@pytest.mark.parametrize("limit", [1, 3, 1000])
@pytest.mark.parametrize("include_self", [False, True])
def test_within_finds_all_and_says_how_many_there_are(
    searcher: Searcher, monkeypatch: pytest.MonkeyPatch, limit: int, include_self: bool
) -> None:
    monkeypatch.setattr(module, "TOGETHER", 2)
    vectors, metric = held(searcher.gallery), searcher.gallery.metric
    radius = {"l2": 2.5, "l1": 3.5, "cosine": 0.41}[metric]
    asked = [*stored_questions(searcher.gallery, [26, 5, 12]), Question("q", vectors[5])]
    answers = list(searcher.within(asked, radius, limit=limit, include_self=include_self))
    for question, answer in zip(asked, answers, strict=True):
        left = vectors
        if question.own_id is not None and not include_self:
            left = without(vectors, question.own_id)
        expected = slow_within(question.vector, left, radius, metric)
        assert answer.total == len(expected)
        if metric == "cosine":  # there rounding orders vectors of one direction
            assert [round(h.distance, 5) for h in answer.hits] == [
                round(d, 5) for d, _ in expected[:limit]
            ]
        else:
            assert pairs(answer) == [(round(d, 5), i) for d, i in expected[:limit]]


def test_no_question_has_no_answer_and_an_empty_gallery_no_hit(
    searcher: Searcher, tmp_path: Path
) -> None:
    assert list(searcher.nearest([], 3)) == list(searcher.within([], 3)) == []
    empty = Searcher(make_gallery(tmp_path / "g.gallery"))
    question = Question("q", np.zeros(4, np.float32))
    (nearest,) = empty.nearest([question], 3)
    (within,) = empty.within([question], 3)
    assert (nearest.hits, nearest.total, within.hits, within.total) == ([], None, [], 0)


@pytest.mark.parametrize("distance", [-1, float("nan"), float("inf")])
def test_impossible_distances_are_refused(searcher: Searcher, distance: float) -> None:
    question = Question("q", np.zeros(4, np.float32))
    with pytest.raises(VectorError, match="the distance is"):
        list(searcher.nearest([question], within=distance))
    with pytest.raises(VectorError, match="the distance is"):
        list(searcher.within([question], distance))


def test_bad_questions_are_refused(searcher: Searcher) -> None:
    question = Question("q", np.zeros(4, np.float32))
    for k in (0, -1):
        with pytest.raises(VectorError, match=f"k is {k}"):
            list(searcher.nearest([question], k))
        with pytest.raises(VectorError, match=f"the limit is {k}"):
            list(searcher.within([question], 1, limit=k))
    for vector, message in (
        (np.zeros(5), r"\(n, 4\)"),
        (np.full(4, np.nan), "not finite"),
        (np.full(4, 1e19), r"1e\+18 long at most, and the longest is 2e\+19"),
    ):
        for ask in (searcher.nearest, lambda one: searcher.within(one, 1)):
            with pytest.raises(VectorError, match=message):
                list(ask([Question("q", vector)]))
    with pytest.raises(FilterError, match="nonsense"):
        list(searcher.nearest([question], where="nonsense = 1"))


def test_an_answer_as_json_and_as_pictures(searcher: Searcher) -> None:
    (answer,) = searcher.within(stored_questions(searcher.gallery, [5]), 50, limit=2)
    shown = json.loads(json.dumps(answer.to_dict()))
    assert (shown["question"], shown["total"], shown["box"]) == ("p4.png (id 5)", 26, None)
    assert [hit["id"] for hit in shown["hits"]] == [12, 26]
    assert shown["hits"][0]["metadata"] == {"year": 2011}
    assert shown["photos"][0].endswith("p4.png")
    row = sheet_row(answer, label="c")
    assert np.array_equal(row.query.picture, GREY)  # the file is gone
    assert [tile.good for tile in row.hits] == [hit.label == "c" for hit in answer.hits]


def test_a_gallery_whose_model_is_no_model_says_so(searcher: Searcher) -> None:
    with pytest.raises(CheckpointError):
        Searcher(searcher.gallery).query_files([Path("x.png")])


def test_paths_are_shown_from_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert readable(tmp_path / "a" / ".." / "b.png") == Path("b.png")
    assert readable(tmp_path / ".." / "b.png") == tmp_path.parent / "b.png"
