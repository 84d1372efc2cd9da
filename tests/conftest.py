"""What tests share. One thread each for their small sums: two would only wait for each other."""

import os

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture
def draw_no_curves(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing curves takes most of the time of a tiny run; tests of a whole run look at them."""
    if "whole_run" not in request.node.name:
        monkeypatch.setattr("retrieval.checkpoint.training_curves", lambda *_: None)


@pytest.fixture(autouse=True)
def no_gallery_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test asks the gallery of whoever runs it."""
    monkeypatch.delenv("RETRIEVAL_GALLERY", raising=False)
