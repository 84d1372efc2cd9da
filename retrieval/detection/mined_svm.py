"""A linear SVM that tells regions of one class from all others, with hard negatives mined."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from sklearn.svm import LinearSVC

REFIT_AFTER = 2000
"""New hard negatives after which the SVM is learnt anew."""
HARD, EASY = -1.0, -1.2
"""Negatives that score above the one are kept when they come; below the other they are forgotten."""


class MinedSVM:
    """scikit-learn's ``LinearSVC`` on all positives and on those negatives that it gets nearly wrong.

    There are far more negatives than memory holds: they come picture by picture through ``add``, and
    ``fit`` learns from those that were hard. Rates, thresholds and weights are those of the published
    code of Girshick et al. 2014, "Rich feature hierarchies for accurate object detection", appendix B,
    for features whose mean length is 20.
    """

    def __init__(self, positives: np.ndarray) -> None:
        self.positives = positives
        self.negatives = np.empty((0, positives.shape[1]), positives.dtype)
        self.fresh = 0
        self.svm: LinearSVC | None = None

    def add(self, negatives: np.ndarray) -> None:
        """Take the hard ones of these features (N,D), and learn anew once there are many new ones."""
        if self.svm is not None and len(negatives):
            negatives = negatives[self.svm.decision_function(negatives) > HARD]
        self.negatives = np.concatenate([self.negatives, negatives])
        self.fresh += len(negatives)
        if self.fresh >= REFIT_AFTER:
            self.fit()
            assert self.svm is not None
            self.negatives = self.negatives[self.svm.decision_function(self.negatives) > EASY]

    def fit(self) -> "LinearSVC":
        """The SVM of all that is kept. Raises ValueError without negatives or without positives."""
        from sklearn.svm import LinearSVC  # slow to import, and only learning needs it

        if not len(self.positives) or not len(self.negatives):
            raise ValueError(
                f"an SVM needs positives and negatives; there are {len(self.positives)} and "
                f"{len(self.negatives)}"
            )
        # The primal form is solved without random draws. Its bias is shrunk too, hence the scaling.
        self.svm = LinearSVC(C=1e-3, dual=False, class_weight={1: 2.0}, intercept_scaling=10.0)
        features = np.concatenate([self.positives, self.negatives])
        self.svm.fit(features, np.arange(len(features)) < len(self.positives))
        self.fresh = 0
        return self.svm
