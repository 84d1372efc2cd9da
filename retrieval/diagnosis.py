"""Is training healthy? How many dimensions an embedding fills, and whether it has collapsed."""

from collections.abc import Callable
from typing import Any

import numpy as np

from retrieval.errors import TrainingError

POINT = 0.02
"""Spread under which the embeddings count as one point: pairs then differ by under 12°."""
APART = 0.05
"""Share by which negatives must be farther than positives, else nothing tells them apart."""


def effective_rank(embeddings: np.ndarray) -> float:
    """How many dimensions vectors (N,D) fill evenly: exp of the entropy of their covariance spectrum.

    Between 1 and D; 0 where there are fewer than two vectors or all are equal. C classes that are
    fully learnt settle near C − 1. Source: Roy and Vetterli, "The Effective Rank", eq. 4 (on
    the eigenvalues of the covariance here, the squares of theirs).
    """
    if len(embeddings) < 2:
        return 0.0
    centred = embeddings.astype(np.float64) - embeddings.mean(axis=0, dtype=np.float64)
    values = np.linalg.eigvalsh(centred.T @ centred).clip(min=0)
    if values.sum() <= 1e-12 * len(embeddings):
        return 0.0
    shares = values / values.sum()
    shares = shares[shares > 0]
    return float(np.exp(-(shares * np.log(shares)).sum()))


WINDOW = 100
"""Steps over which figures are averaged before they are judged."""


class CollapseAlarm:
    """Watches the figures of each batch; speaks where the embedding has collapsed.

    Figures are averaged over windows of ``WINDOW`` steps, of which the first is not judged, because
    an untrained network looks collapsed too. The first bad window calls ``warn``; the second one in a
    row raises TrainingError where ``stop``. A loss at the margin alone is no sign: the mean over
    active triplets stays there in healthy runs too.
    """

    def __init__(self, warn: Callable[[str], None], *, stop: bool = True) -> None:
        self.warn, self.stop, self.window = warn, stop, WINDOW
        self.steps, self.bad = 0, 0
        self.sums = dict.fromkeys(("spread", "positive_distance", "negative_distance"), 0.0)

    def __call__(self, figures: dict[str, float]) -> None:
        """Take the figures of one batch. Raises TrainingError where training has collapsed."""
        for name in self.sums:
            self.sums[name] += figures[name] / self.window
        self.steps += 1
        if self.steps % self.window:
            return
        finding = self._finding() if self.steps > self.window else None
        self.sums = dict.fromkeys(self.sums, 0.0)
        self.bad = self.bad + 1 if finding else 0
        if finding and self.bad > 1 and self.stop:
            raise TrainingError(f"{finding} {REMEDY} (--no-stop-on-collapse goes on regardless)")
        if finding and self.bad == 1:
            self.warn(f"Warning: {finding} {REMEDY}")

    def state_dict(self) -> dict[str, Any]:
        """Where the watch stands, so that a resumed run ends as one that was never stopped."""
        return {"steps": self.steps, "bad": self.bad, "sums": dict(self.sums)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.steps, self.bad, self.sums = state["steps"], state["bad"], dict(state["sums"])

    def _finding(self) -> str | None:
        spread, near, far = self.sums.values()
        if not spread >= POINT:
            return (
                f"the embedding has collapsed: all pictures lie at almost one point (spread "
                f"{spread:.4f} of at most 1; healthy is above {POINT})."
            )
        if not far >= near * (1 + APART):
            return (
                f"the embedding does not tell classes apart: pictures of one class lie {near:.3f} "
                f"from each other on average, those of two {far:.3f}, so that training sits at the "
                "margin."
            )
        return None


REMEDY = (
    "Remedy: --mining semi-hard, a lower --lr (a quarter), a --softmax-weight above 0 where there are "
    "labels, and a check that the labels are right."
)
