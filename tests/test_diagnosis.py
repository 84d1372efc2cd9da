import numpy as np
import pytest

from retrieval import diagnosis
from retrieval.diagnosis import CollapseAlarm, effective_rank
from retrieval.errors import TrainingError


@pytest.fixture(autouse=True)
def windows_of_two_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "WINDOW", 2)


HEALTHY = {"spread": 0.9, "positive_distance": 0.5, "negative_distance": 1.3}
POINT = {"spread": 0.001, "positive_distance": 0.01, "negative_distance": 0.011}
MARGIN = {"spread": 0.9, "positive_distance": 1.2, "negative_distance": 1.21}


def test_the_effective_rank_of_known_shapes() -> None:
    cross = np.concatenate([np.eye(5), -np.eye(5)])
    assert effective_rank(cross) == pytest.approx(5)
    assert effective_rank(cross + 7) == pytest.approx(5)  # where the centre is does not matter
    line = np.outer(np.linspace(-1, 1, 9), [1.0, 2.0, 3.0])
    assert effective_rank(line) == pytest.approx(1)
    # Spectrum ½, ¼, ¼: the entropy is 1.5 bits.
    uneven = np.array([[2**0.5, 0, 0], [0, 1, 0], [0, 0, 1]])
    assert effective_rank(np.concatenate([uneven, -uneven])) == pytest.approx(2**1.5)


def test_fewer_than_two_vectors_or_equal_ones_have_no_rank() -> None:
    assert effective_rank(np.empty((0, 4))) == 0
    assert effective_rank(np.ones((1, 4))) == 0
    assert effective_rank(np.full((6, 4), 0.3, np.float32)) == 0


def listen(figures: list[dict[str, float]], stop: bool = True) -> tuple[list[str], str | None]:
    warnings: list[str] = []
    alarm = CollapseAlarm(warnings.append, stop=stop)
    try:
        for one in figures:
            alarm(one)
    except TrainingError as error:
        return warnings, str(error)
    return warnings, None


@pytest.mark.parametrize(("bad", "words"), [(POINT, "one point"), (MARGIN, "tell classes apart")])
def test_it_warns_first_and_ends_the_run_when_it_stays_bad(bad: dict, words: str) -> None:
    warnings, error = listen([HEALTHY] * 4 + [bad] * 4)
    assert len(warnings) == 1
    assert words in warnings[0]
    assert "--mining semi-hard" in warnings[0]
    assert words in error
    assert listen([HEALTHY] * 4 + [bad] * 8, stop=False) == (warnings, None)


def test_it_is_silent_in_health_at_the_start_and_after_one_bad_batch() -> None:
    assert listen([HEALTHY] * 40) == ([], None)
    assert listen([POINT] * 2 + [HEALTHY] * 10) == ([], None)  # untrained networks look like this
    assert listen([HEALTHY] * 4 + [MARGIN] + [HEALTHY] * 10) == ([], None)
    warnings, error = listen([HEALTHY] * 4 + [POINT] * 2 + [HEALTHY] * 2 + [POINT] * 2)
    assert len(warnings) == 2
    assert error is None


@pytest.mark.parametrize("cut", range(1, 8))
def test_it_goes_on_where_it_stood(cut: int) -> None:
    figures = [HEALTHY] * 2 + [POINT] * 6
    _, expected = listen(figures)
    before = CollapseAlarm(lambda text: None, stop=True)
    after = CollapseAlarm(lambda text: None, stop=True)
    said = None
    try:
        for one in figures[:cut]:
            before(one)
        after.load_state_dict(before.state_dict())
        for one in figures[cut:]:
            after(one)
    except TrainingError as error:
        said = str(error)
    assert said == expected
    assert expected is not None


def test_not_a_number_counts_as_collapsed() -> None:
    nan = {**HEALTHY, "spread": float("nan")}
    assert listen([HEALTHY] * 2 + [nan] * 4)[1] is not None
