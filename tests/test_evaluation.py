import json
import math

import numpy as np
import pytest
from galleries import grid_vectors, slow_distance
from sklearn.metrics import average_precision_score

from retrieval.errors import DataError
from retrieval.evaluation import evaluate_retrieval


def slow_figures(queries, q_labels, gallery, g_labels, q_ids, g_ids, distance, ks, ties):
    """Straight from the definitions: one list of figures for each query that has an answer."""
    scored, left_out = [], 0
    for q, query in enumerate(queries):
        others = [g for g in range(len(gallery)) if q_ids is None or g_ids[g] != q_ids[q]]
        relevant = sum(g_labels[g] == q_labels[q] for g in others)
        if relevant == 0:
            left_out += 1
            continue

        def key(g, query=query, q=q):
            d = slow_distance(query, gallery[g], distance)
            wrong_first = g_labels[g] == q_labels[q] if ties == "pessimistic" else 0
            return (d, wrong_first, g if g_ids is None else g_ids[g])

        hits = [g_labels[g] == q_labels[q] for g in sorted(others, key=key)]
        precision = [sum(hits[: i + 1]) / (i + 1) for i in range(len(hits))]
        row = {}
        for k in ks:
            row[f"recall@{k}"] = float(any(hits[:k]))
            row[f"precision@{k}"] = sum(hits[:k]) / k
        row["r_precision"] = sum(hits[:relevant]) / relevant
        row["mAP"] = sum(p for p, h in zip(precision, hits, strict=True) if h) / relevant
        top = list(zip(precision, hits, strict=True))[:relevant]
        row["mAP@R"] = sum(p for p, h in top if h) / relevant
        scored.append((q_labels[q], row))
    return scored, left_out


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("distance", ["l2", "l1", "cosine"])
@pytest.mark.parametrize("ties", ["id", "pessimistic"])
@pytest.mark.parametrize("selves", [False, True])
def test_figures_equal_their_definitions(seed: int, distance: str, ties, selves: bool) -> None:
    rng = np.random.default_rng(seed)
    gallery = grid_vectors(rng, 70)
    if distance == "cosine":  # equal angles of different lengths tie but for rounding: avoid them
        gallery = rng.normal(size=(70, 4)).astype(np.float32)
    gallery[10:20] = gallery[0]  # duplicates
    g_labels = rng.integers(0, 5, 70)
    g_labels[3] = 77  # a class of one
    g_ids = rng.permutation(1000)[:70]
    g_ids[30:40] = g_ids[40:50]  # pictures that are there twice
    g_ids[31] = g_ids[30]
    if selves:
        rows = rng.permutation(70)[:40]
        queries, q_labels, q_ids = gallery[rows], g_labels[rows], g_ids[rows]
        q_ids = np.where(np.arange(40) % 7 == 0, 5000, q_ids)  # some are not in the gallery
    else:
        queries = grid_vectors(rng, 40) if distance != "cosine" else rng.normal(size=(40, 4))
        q_labels, q_ids = rng.integers(0, 6, 40), None
    ks = (1, 2, 7, 200)
    report = evaluate_retrieval(
        queries, q_labels, gallery, g_labels, query_ids=q_ids, gallery_ids=g_ids,
        distance=distance, ks=ks, ties=ties,
    )  # fmt: skip
    scored, left_out = slow_figures(
        queries, q_labels, gallery, g_labels, q_ids, g_ids, distance, ks, ties
    )
    assert report.without_relevant == left_out
    for name, figure in report.figures.items():
        expected = math.fsum(row[name] for _, row in scored) / len(scored)
        assert figure.mean == pytest.approx(expected, abs=1e-6), name
        assert figure.low <= figure.mean <= figure.high
    for label, row in report.per_class.items():
        mine = [r for one, r in scored if str(one) == label]
        assert row["queries"] == len(mine)
        assert row["mAP"] == pytest.approx(sum(r["mAP"] for r in mine) / len(mine), abs=1e-6)
    averages = [row["recall@1"] for row in report.per_class.values()]
    assert report.class_average["recall@1"] == pytest.approx(sum(averages) / len(averages))


def test_a_hand_drawn_case() -> None:
    """On a line: query at 0 (class a); gallery at 1 a, 2 b, 3 a, 4 b. R = 2."""
    report = evaluate_retrieval(
        np.array([[0.0]]), np.array(["a"]), np.array([[1.0], [2], [3], [4]]), np.array(list("abab")),
        ks=(1, 2, 3),
    )  # fmt: skip
    figures = {name: figure.mean for name, figure in report.figures.items()}
    assert report.recall_at_k == {1: 1.0, 2: 1.0, 3: 1.0}
    assert figures["precision@2"] == 1 / 2
    assert figures["precision@3"] == 2 / 3
    assert figures["r_precision"] == 1 / 2
    assert figures["mAP"] == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert figures["mAP@R"] == pytest.approx((1 / 1) / 2)


def test_average_precision_agrees_with_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    gallery, labels = rng.normal(size=(300, 6)).astype(np.float32), rng.integers(0, 3, 300)
    query = rng.normal(size=(1, 6)).astype(np.float32)
    report = evaluate_retrieval(query, np.array([1]), gallery, labels)
    scores = -np.linalg.norm(gallery - query, axis=1)
    assert report.figures["mAP"].mean == pytest.approx(average_precision_score(labels == 1, scores))


def test_a_collapsed_embedding_looks_bad_when_ties_count_against_it() -> None:
    same, labels = np.ones((60, 4)), np.arange(60) // 20
    ids = np.arange(60)
    report = evaluate_retrieval(
        same, labels, same, labels, query_ids=ids, gallery_ids=ids, ties="pessimistic"
    )
    assert report.recall_at_k[1] == 0.0
    by_id = evaluate_retrieval(same, labels, same, labels, query_ids=ids, gallery_ids=ids)
    assert by_id.recall_at_k[1] == pytest.approx(1 / 3)  # everybody finds the first class


@pytest.mark.parametrize("distance", ["l2", "l1", "cosine"])
@pytest.mark.parametrize(("n", "dim"), [(190, 65), (250, 16), (131, 7)])
def test_equal_vectors_tie_wherever_they_stand(distance: str, n: int, dim: int) -> None:
    rng = np.random.default_rng(n)
    one, other = rng.normal(size=(2, dim)).astype(np.float32)
    vectors = np.tile(one, (n, 1))
    labels = np.arange(n) % 10
    found = evaluate_retrieval(
        vectors, labels, vectors, labels, query_ids=np.arange(n), gallery_ids=np.arange(n),
        distance=distance, ks=(1, 10), ties="pessimistic", intervals=False,
    )  # fmt: skip
    assert found.figures["recall@10"].mean == 0
    assert found.figures["r_precision"].mean == 0
    # Two points, and each query is one of them: all of the nearer one first, in the order of ids.
    vectors[::2] = other
    ids = rng.permutation(n)
    queries = vectors[:40]
    found = evaluate_retrieval(
        queries, labels[:40], vectors, labels, gallery_ids=ids, distance=distance, ks=(1,),
        intervals=False,
    )  # fmt: skip
    first = [
        labels[min(np.flatnonzero((vectors == query).all(1)), key=lambda row: ids[row])]
        for query in queries
    ]
    assert found.recall_at_k[1] == np.mean(np.array(first) == labels[:40])


@pytest.mark.parametrize("far", [0.0, 1e3, 5e4, -3e6])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 100.0])
def test_figures_do_not_depend_on_where_the_vectors_lie(far: float, scale: float) -> None:
    rng = np.random.default_rng(3)
    labels = np.arange(300) % 10
    around = rng.normal(size=(10, 8))[labels] * 4 + rng.normal(size=(300, 8))
    vectors = (scale * (around + far)).astype(np.float32)  # what float32 loses is lost for both
    apart = vectors.astype(np.float64)
    distances = ((apart[:, None] - apart) ** 2).sum(2)
    np.fill_diagonal(distances, np.inf)
    expected = labels[distances.argmin(1)] == labels
    found = evaluate_retrieval(
        vectors, labels, vectors, labels, query_ids=np.arange(300), gallery_ids=np.arange(300),
        ks=(1,), intervals=False,
    )  # fmt: skip
    assert found.recall_at_k[1] == pytest.approx(expected.mean(), abs=0.011)
    assert expected.mean() > 0.8


@pytest.mark.parametrize("distance", ["l2", "l1", "cosine"])
@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_figures_do_not_depend_on_how_long_the_vectors_are(distance: str, scale: float) -> None:
    """Neither where squares of float32 are zero nor where they are infinite."""
    rng = np.random.default_rng(4)
    labels = np.arange(200) % 10
    vectors = (rng.normal(size=(10, 8))[labels] + rng.normal(size=(200, 8))).astype(np.float32)
    plain, scaled = (
        evaluate_retrieval(v[:50], labels[:50], v[50:], labels[50:], distance=distance)
        for v in (vectors, vectors * np.float32(scale))
    )
    assert 0.3 < plain.figures["mAP"].mean < 0.9
    for name, figure in plain.figures.items():
        assert scaled.figures[name].mean == pytest.approx(figure.mean, abs=0.01), name


@pytest.mark.parametrize("distance", ["l2", "l1", "cosine"])
def test_the_sign_of_zero_tells_no_vectors_apart(distance: str) -> None:
    rng = np.random.default_rng(5)
    for _ in range(20):
        one = rng.normal(size=64).astype(np.float32)
        one[rng.random(64) < 0.5] = 0
        same = np.repeat(one[None], 90, axis=0)
        signed = np.where((same == 0) & (rng.random(same.shape) < 0.5), np.float32(-0.0), same)
        labels = rng.integers(0, 3, 90)
        query = rng.normal(size=(5, 64)).astype(np.float32)
        figures = [
            evaluate_retrieval(
                query, labels[:5], vectors, labels, distance=distance, ties="pessimistic", ks=(1,),
                intervals=False,
            ).figures
            for vectors in (same, signed)
        ]  # fmt: skip
        assert (np.signbit(signed) != np.signbit(same)).any()
        assert figures[0] == figures[1]


def test_a_perfect_embedding_is_perfect_and_order_of_rows_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(50) % 5
    vectors = np.eye(5, dtype=np.float32)[labels] + rng.normal(size=(50, 5)) * 0.01
    ids = np.arange(50)
    report = evaluate_retrieval(vectors, labels, vectors, labels, query_ids=ids, gallery_ids=ids)
    assert all(report.figures[name].mean == 1.0 for name in ("recall@1", "mAP", "mAP@R"))
    order = rng.permutation(50)
    noisy = rng.normal(size=(50, 5))
    one = evaluate_retrieval(vectors, labels, noisy, labels)
    two = evaluate_retrieval(vectors, labels, noisy[order], labels[order], gallery_ids=ids[order])
    assert one.figures == two.figures


def test_blocks_give_what_one_piece_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    queries, gallery = rng.normal(size=(37, 4)), rng.normal(size=(50, 4))
    q_labels, g_labels = rng.integers(0, 3, 37), rng.integers(0, 3, 50)
    whole = evaluate_retrieval(queries, q_labels, gallery, g_labels)
    monkeypatch.setattr("retrieval.evaluation.BLOCK", 5)
    assert evaluate_retrieval(queries, q_labels, gallery, g_labels).figures == whole.figures


def test_the_interval_is_about_the_binomial_one() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 800)
    gallery, g_labels = np.array([[0.0], [1.0]]), np.array([0, 1])
    wrong = rng.random(800) < 0.2
    queries = (labels ^ wrong).astype(float)[:, None]
    recall = evaluate_retrieval(queries, labels, gallery, g_labels, ks=(1,)).figures["recall@1"]
    half = 1.96 * math.sqrt(recall.mean * (1 - recall.mean) / 800)
    assert recall.low == pytest.approx(recall.mean - half, abs=0.004)
    assert recall.high == pytest.approx(recall.mean + half, abs=0.004)
    bare = evaluate_retrieval(queries, labels, gallery, g_labels, intervals=False)
    assert bare.figures["recall@1"].low is None


def test_labels_beyond_float_precision_stay_apart() -> None:
    labels = np.array([2**53, 2**53 + 1])
    report = evaluate_retrieval(np.eye(2), labels, np.eye(2)[::-1], labels)
    assert report.recall_at_k[1] == 0.0


def test_the_report_prints_and_is_json() -> None:
    rng = np.random.default_rng(0)
    labels = np.array(["cat", "dog"] * 10)
    report = evaluate_retrieval(rng.normal(size=(20, 3)), labels, rng.normal(size=(20, 3)), labels)
    assert json.loads(json.dumps(report.to_dict()))["figures"]["mAP"]["mean"] > 0
    table = report.table()
    assert "recall@1" in table
    assert "cat" in table
    assert "20 queries, 20 gallery pictures, l2 distance" in table


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"queries": np.zeros((2, 4))}, "4 dimensions, the gallery has 3"),
        ({"queries": np.zeros(3)}, "shape"),
        ({"query_labels": np.zeros(5, int)}, "5 query labels for 2"),
        ({"gallery_ids": np.array([1])}, "1 gallery ids for 2"),
        ({"gallery_ids": np.array([0.2, 0.7])}, "ids are float64"),
        ({"query_labels": np.zeros((2, 1), int)}, r"shapes \(2, 1\)"),
        ({"distance": "L1"}, "distance is 'L1'"),
        ({"ties": "random"}, "ties are 'random'"),
        ({"confidence": 95}, "confidence is 95"),
        ({"ks": ()}, "ks are"),
        ({"ks": (0,)}, "ks are"),
        ({"gallery": np.full((2, 3), np.nan)}, "2 of 2 gallery"),
        ({"query_labels": np.array([7, 8])}, "none of 2 queries"),
        (
            {"query_labels": np.array([4, 4]), "gallery_labels": np.array([4, 4])},
            "all 2 pictures that are searched are of one class, 4, so that every answer is right",
        ),
        ({"queries": np.zeros((0, 3)), "query_labels": np.zeros(0, int)}, "none of 0 queries"),
        ({"gallery": np.zeros((0, 3)), "gallery_labels": np.zeros(0, int)}, "among the 0"),
    ],
)
def test_bad_input_is_named(change: dict, message: str) -> None:
    good = {
        "queries": np.zeros((2, 3)), "query_labels": np.array([0, 1]),
        "gallery": np.zeros((2, 3)), "gallery_labels": np.array([0, 1]),
    }  # fmt: skip
    with pytest.raises(DataError, match=message):
        evaluate_retrieval(**{**good, **change})
