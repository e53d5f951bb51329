"""A searchlight fast enough to be relabelled a thousand times: ridge classification whose penalty needs no labels.

For given features the scores of test rows are a fixed matrix times the columns of the classes. That matrix is made once for
each sphere and fold; all labellings are then one matrix product, each an exact refit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from braindecode_suite.core.checks import check_finite, check_shape
from braindecode_suite.core.errors import InputError
from braindecode_suite.learning.shrinkage_lda import ledoit_wolf_shrinkage

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
SPHERES_AT_ONCE = 512


class Part(Protocol):
    """A fold: which examples train, which are tested, and the features of all of them as this fold prepares them."""

    @property
    def train(self) -> np.ndarray: ...

    @property
    def test(self) -> np.ndarray: ...

    @property
    def features(self) -> np.ndarray: ...


@dataclass(frozen=True, kw_only=True, eq=False)
class SearchlightScores:
    """Accuracies around every unit.

    Attributes
    ----------
    accuracy : array of shape (units,)
        Of the first labelling.
    null_mean : array of shape (units,)
        Mean over the other labellings; NaN without any.
    null_largest : array of shape (labellings - 1,)
        The best accuracy anywhere under each other labelling.
    """

    accuracy: Floats
    null_mean: Floats
    null_largest: Floats


def spheres(coordinates: Floats, radius: float) -> list[Indices]:
    """Return the units within a distance of each unit, itself included.

    Parameters
    ----------
    coordinates : array of shape (units, 3)
        In millimetres.
    radius : float
        In millimetres.
    """
    from scipy.spatial import cKDTree

    check_shape("coordinates", coordinates, "units dimensions", dimensions=3)
    if not radius > 0:
        raise InputError("`radius`", expected="millimetres above 0", found=str(radius))
    tree = cKDTree(coordinates)
    return [np.sort(np.asarray(near)) for near in tree.query_ball_point(coordinates, radius)]


def searchlight(
    folds: Sequence[Part], members: Sequence[Indices], labellings: Indices, n_classes: int
) -> SearchlightScores:
    """Classify from the units around each unit (Kriegeskorte et al. 2006), under the true labels and any others.

    The columns of the classes (1 for the class, -1 for the others) are regressed on the units, ``w = C^-1 cov(x, y)``, and the
    largest fitted column names the class. C is the covariance of the training rows as Ledoit and Wolf (2004) shrink it: no label
    is used and nothing is chosen, so that a relabelling changes nothing but the labels. For classes equally frequent this
    decides as scikit-learn's ``RidgeClassifier`` with the penalty ``n g m / (1 - g)``, g being the shrinkage, m the mean variance
    and n the number of training rows.

    Parameters
    ----------
    folds : sequence of Part
        ``features`` of shape (examples, units).
    members : sequence of int array
        Units around each unit (`spheres`).
    labellings : array of int of shape (labellings, examples)
        Classes from 0; the true labels first.
    n_classes : int

    Returns
    -------
    SearchlightScores
        Accuracies over all tested examples together.
    """
    check_shape("labellings", labellings, "labellings examples", examples=len(folds[0].features))
    for fold in folds:
        check_finite("`features`", fold.features)
    n_tested = sum(len(fold.test) for fold in folds)
    observed, mean = np.empty(len(members)), np.empty(len(members))
    largest = np.zeros(len(labellings) - 1, np.int64)
    for start in range(0, len(members), SPHERES_AT_ONCE):
        some = members[start : start + SPHERES_AT_ONCE]
        hits = np.zeros((len(some), len(labellings)), np.int64)
        for fold in folds:
            columns = _columns(labellings[:, fold.train], n_classes)
            truth = labellings[:, fold.test].T
            for k, units in enumerate(some):
                hits[k] += _hits(fold, units, columns, truth)
        observed[start : start + len(some)] = hits[:, 0] / n_tested
        if len(largest):
            mean[start : start + len(some)] = hits[:, 1:].mean(axis=1) / n_tested
            largest = np.maximum(largest, hits[:, 1:].max(axis=0))
    return SearchlightScores(
        accuracy=observed,
        null_mean=mean if len(largest) else np.full(len(members), np.nan),
        null_largest=largest / n_tested,
    )


def _columns(labels: Indices, n_classes: int) -> NDArray[np.float32]:
    """Return 1 for the class of a row and -1 for the others, of shape (rows, classes, labellings)."""
    member = labels.T[:, None, :] == np.arange(n_classes)[:, None]
    return np.where(member, np.float32(1), np.float32(-1))


def _hits(fold: Part, units: Indices, columns: NDArray[np.float32], truth: Indices) -> Indices:
    """Return how many test rows are named rightly under each labelling."""
    smoother = _smoother(
        fold.features[np.ix_(fold.train, units)].astype(np.float64),
        fold.features[np.ix_(fold.test, units)].astype(np.float64),
    )
    n_train, n_classes, n_labellings = columns.shape
    scores = smoother.astype(np.float32) @ columns.reshape(n_train, -1)
    named = scores.reshape(-1, n_classes, n_labellings).argmax(axis=1)
    return np.asarray(np.count_nonzero(named == truth, axis=0))


def _smoother(train: Floats, test: Floats) -> Floats:
    """Return the matrix that turns training columns into scores of the test rows, of shape (test, train)."""
    centre = train.mean(axis=0)
    train, test = train - centre, test - centre
    n, p = train.shape
    shrinkage, mean = ledoit_wolf_shrinkage(train)
    if not mean > 0:
        return np.full((len(test), n), 1 / n)
    covariance = (1 - shrinkage) / n * train.T @ train
    covariance[np.diag_indices(p)] += shrinkage * mean
    return np.asarray((test @ np.linalg.lstsq(covariance, train.T, rcond=None)[0] + 1) / n)
