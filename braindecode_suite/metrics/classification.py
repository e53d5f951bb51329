"""Scores of predicted classes, and relabellings to test them against."""

from __future__ import annotations

from collections.abc import Sequence
from math import factorial, prod

import numpy as np
from numpy.typing import ArrayLike, NDArray

from braindecode_suite.core.checks import check_option, check_shape
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


def confusion_matrix(truth: ArrayLike, predicted: ArrayLike, classes: Sequence[str]) -> NDArray[np.int64]:
    """Count how often each true class (row) was called each class (column).

    Parameters
    ----------
    truth, predicted : array of shape (rows,)
    classes : sequence of str
        Order of rows and columns.

    Returns
    -------
    array of int of shape (classes, classes)

    Examples
    --------
    >>> confusion_matrix(["cat", "cat", "dog"], ["cat", "dog", "dog"], ["cat", "dog"]).tolist()
    [[1, 1], [0, 1]]
    """
    a, b = np.asarray(truth), np.asarray(predicted)
    check_shape("predicted", b, "rows", rows=len(a))
    place = {name: k for k, name in enumerate(classes)}
    counts = np.zeros((len(place), len(place)), np.int64)
    for true, called in zip(a.tolist(), b.tolist(), strict=True):
        check_option("truth", true, place)
        check_option("predicted", called, place)
        counts[place[true], place[called]] += 1
    return counts


def permute_labels(labels: ArrayLike, within: ArrayLike, rng: np.random.Generator) -> NDArray[np.generic]:
    """Exchange labels among rows of the same block (run, session), each block by a permutation of its own.

    Parameters
    ----------
    labels : array of shape (rows,)
    within : array of shape (rows,)
    rng : numpy Generator

    Returns
    -------
    array of shape (rows,)
    """
    given, block = np.asarray(labels), np.asarray(within)
    check_shape("within", block, "rows", rows=len(given))
    new = given.copy()
    for name in np.unique(block):
        inside = np.flatnonzero(block == name)
        new[inside] = given[rng.permutation(inside)]
    return new


def count_labellings(labels: ArrayLike, within: ArrayLike) -> int:
    """Count the different labellings that `permute_labels` can give: a multinomial for each block.

    Examples
    --------
    >>> count_labellings(["a", "b", "a", "a", "b"], [1, 1, 2, 2, 2])
    6
    """
    given, block = np.asarray(labels), np.asarray(within)
    total = 1
    for name in np.unique(block):
        _, counts = np.unique(given[block == name], return_counts=True)
        total *= factorial(int(counts.sum())) // prod(factorial(int(n)) for n in counts)
    return total
