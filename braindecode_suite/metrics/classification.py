"""Scores of predicted classes."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from braindecode_suite.core.checks import check_shape
from braindecode_suite.metrics.correlation import Floats


def accuracy(truth: ArrayLike, predicted: ArrayLike) -> Floats:
    """Say for each row whether the class is right (1) or wrong (0).

    Parameters
    ----------
    truth, predicted : array of shape (rows,)

    Returns
    -------
    array of shape (rows,)
        Its mean is the accuracy. Chance is analytic only for `balanced_accuracy`.
    """
    a, b = np.asarray(truth), np.asarray(predicted)
    check_shape("truth", a, "rows")
    check_shape("predicted", b, "rows", rows=len(a))
    return (a == b).astype(np.float64)


def balanced_accuracy(truth: ArrayLike, predicted: ArrayLike) -> float:
    """Average the accuracy over the classes present in `truth`; chance is 1 / number of classes.

    Examples
    --------
    >>> balanced_accuracy(["cat", "cat", "cat", "dog"], ["cat", "cat", "cat", "cat"])
    0.5
    """
    right, labels = accuracy(truth, predicted), np.asarray(truth)
    return float(np.mean([right[labels == label].mean() for label in np.unique(labels)]))
