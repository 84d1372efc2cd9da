from pathlib import Path

import numpy as np
import pytest
from galleries import grid_vectors, make_gallery, new_items, slow_distance

from index import calibration as pairs_module
from index.calibration import PairHistogram
from index.gallery import Gallery
from index.neighbors import METRICS
from retrieval import calibration as module
from retrieval.calibration import LabelledQueries, calibrate
from retrieval.errors import ConfigError, DataError


def filled(folder: Path, vectors: np.ndarray, labels: list[str | None], metric: str) -> Gallery:
    made = make_gallery(folder / "g.gallery", metric=metric, dim=vectors.shape[1])
    items = [new_items(i, 1, label=label)[0] for i, label in enumerate(labels)]
    with made.writer() as writer:
        writer.add(vectors, items)
    return made


def slow_precision(
    pairs: list[tuple[float, bool]], target: float
) -> tuple[float, float, int, float] | None:
    """Distance, precision, pairs and recall: every distance that occurs is tried."""
    best = None
    for distance in sorted({d for d, _ in pairs}):
        within = [same for d, same in pairs if d <= distance]
        if sum(within) / len(within) >= target:
            recall = sum(within) / max(sum(same for _, same in pairs), 1)
            best = (distance, sum(within) / len(within), len(within), recall)
    return best


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("tiles", [(256, 8192), (3, 7)])
def test_the_distance_equals_the_best_of_all_that_occur(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metric: str, seed: int, tiles: tuple[int, int]
) -> None:
    monkeypatch.setattr(module, "TILE_QUERIES", tiles[0])
    monkeypatch.setattr(module, "TILE_PICTURES", tiles[1])
    rng = np.random.default_rng(seed)
    labels = [None if one == "d" else one for one in rng.choice(list("abcd"), 40)]
    centres = {"a": 0.0, "b": 2.0, "c": 4.0, None: 0.0}
    vectors = grid_vectors(rng, 40) + np.array([[centres[name]] * 4 for name in labels], np.float32)
    made = filled(tmp_path, vectors, labels, metric)
    pairs = [
        (float(np.float32(slow_distance(vectors[i], vectors[j], metric))), labels[i] == labels[j])
        for i in range(40)
        for j in range(40)
        if i != j and labels[i] is not None and labels[j] is not None
    ]
    if metric == "cosine":  # distances that only rounding tells apart are one
        pairs = [(round(max(d, 0), 6), same) for d, same in pairs]
    expected = slow_precision(pairs, 0.7)
    if expected is None:
        with pytest.raises(DataError, match="no distance reaches"):
            calibrate(made, 0.7)
        return
    found = calibrate(made, 0.7)
    if metric == "cosine":
        assert found.distance == pytest.approx(expected[0], rel=1 / 1024, abs=1e-5)
    else:
        assert expected[0] <= found.distance <= expected[0] * (1 + 1 / 2048) + 1e-30
    assert (found.precision, found.pairs, found.recall) == pytest.approx(expected[1:])
    assert (found.queries, found.own) == (40 - labels.count(None), True)


def test_what_it_promises_holds_of_the_answers(tmp_path: Path) -> None:
    """Within the distance, as a search finds it, stand as many pictures of the label as was said."""
    rng = np.random.default_rng(5)
    labels = ["abc"[i % 3] for i in range(90)]
    vectors = rng.normal(size=(90, 4)).astype(np.float32)
    vectors[:, 0] += np.array([3 * "abc".index(name) for name in labels])
    made = filled(tmp_path, vectors, list(labels), "l2")
    found = calibrate(made, 0.9)
    ids = np.arange(1, 91)
    answers = made.within(made.vectors(ids), found.distance, own_ids=ids)
    hits = [(labels[q], labels[i - 1]) for q, one in enumerate(answers) for i in one.ids]
    assert len(hits) == found.pairs
    assert sum(a == b for a, b in hits) / len(hits) == found.precision >= 0.9


def test_pictures_from_outside_ask_and_do_not_find_themselves(tmp_path: Path) -> None:
    vectors = np.array([[0, 0], [1, 0], [5, 0], [6, 0]], np.float32)
    made = filled(tmp_path, vectors, ["a", "a", "b", "b"], "l2")
    asked = np.array([[0, 0], [5.5, 0], [2, 0]], np.float32)
    names = np.array(["a", "b", "never seen"])
    found = calibrate(made, 1.0, LabelledQueries(asked, names, np.array([1, -1, -1])))
    # right: 0–1 at 1 (0–0 is itself), 5.5–5 and 5.5–6 at 0.5; the first wrong one: 2–1 at 1
    assert (found.pairs, found.own, found.queries) == (2, False, 3)
    assert 0.5 <= found.distance < 0.5005
    assert found.recall == pytest.approx(2 / 3)


def test_of_many_pictures_some_ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_QUERIES", 10)
    vectors = np.repeat(np.array([[0, 0], [9, 0]], np.float32), 20, axis=0)
    made = filled(tmp_path, vectors, ["a"] * 20 + ["b"] * 20, "l2")
    found = calibrate(made)
    assert (found.queries, found.pictures, found.pairs, found.precision) == (10, 40, 190, 1.0)
    assert found == calibrate(made)


@pytest.mark.parametrize("labels", [[], [None] * 3, ["a"], ["a", "b", "c"]])
def test_without_pairs_of_one_label_there_is_nothing_to_learn(
    tmp_path: Path, labels: list[str | None]
) -> None:
    made = filled(tmp_path, np.zeros((len(labels), 2), np.float32), labels, "l2")
    with pytest.raises(DataError, match="no two have the same label"):
        calibrate(made)


def test_targets_out_of_reach_name_the_best_there_is(tmp_path: Path) -> None:
    vectors = np.array([[0, 0], [0, 0], [0, 0]], np.float32)
    made = filled(tmp_path, vectors, ["a", "a", "b"], "l2")
    with pytest.raises(DataError, match=r"the best is 0\.3333"):
        calibrate(made)
    for target in (0, -1, 1.1, float("nan")):
        with pytest.raises(ConfigError, match="above 0 and up to 1"):
            calibrate(made, target)


def test_bins_hold_every_distance_and_keep_their_order() -> None:
    edges = np.array([0, 1e-45, 1e-20, 0.5, 1, 1.001, 3e38], np.float32)[:, None]
    histogram = PairHistogram()
    one, no = np.ones((7, 1), bool), np.zeros((7, 1), bool)
    histogram.add(edges, np.zeros((1, 1), np.float32), no, one, "l2")
    thresholds = [t.distance for t in histogram.thresholds()][::-1]
    assert thresholds == sorted(thresholds)
    assert [sum(e <= t for e in edges[:, 0]) for t in thresholds] == [2, 3, 4, 5, 6, 7]
    huge = np.full((1, 4), 3e38, np.float32)
    for metric in ("l1", "l2"):
        assert np.isfinite(pairs_module.distances(huge, -huge, metric)).all()
