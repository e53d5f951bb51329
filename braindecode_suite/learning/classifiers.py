"""Linear classifiers by name, made for permutations: what does not depend on the labels is computed once a fold.

``CLASSIFIERS[name](train, test, groups)`` prepares one fold; ``predict(labels)`` then fits on these labels, with the strength of
its regularisation chosen inside the training rows, and classifies the test rows. ``outputs(labels)`` gives what the fitted
functions of the classes say of the training rows, from which activation patterns are made (`learning/patterns.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from braindecode_suite.core.checks import check_finite, check_shape
from braindecode_suite.core.errors import InputError
from braindecode_suite.learning.shrinkage_lda import discriminants, shrinkage_lda

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]
RIDGE_PENALTIES = tuple(10.0**k for k in range(-1, 7))  # on features of unit variance
SVM_COSTS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


class FoldClassifier(Protocol):
    """A fold made ready: its training and test rows are fixed, the labels are not."""

    def predict(self, labels: Labels) -> tuple[Labels, str]:
        """Fit on the labels of the training rows; return the classes of the test rows and what was chosen inside."""
        ...

    def outputs(self, labels: Labels) -> Floats:
        """Fit the same way; return the linear functions of the training rows, of shape (train, classes in order)."""
        ...


class LDA:
    """Linear discriminant analysis; the shrinkage is Ledoit and Wolf's, from the training rows alone."""

    def __init__(self, train: Floats, test: Floats, groups: NDArray[np.generic]) -> None:
        _check(train, test, groups)
        self.train, self.test = train, test

    def predict(self, labels: Labels) -> tuple[Labels, str]:
        """Return the classes of the test rows; nothing is left to choose."""
        return shrinkage_lda(self.train, labels, self.test), "Ledoit-Wolf shrinkage"

    def outputs(self, labels: Labels) -> Floats:
        """Return the discriminant functions of the training rows."""
        _, weights, offsets = discriminants(self.train, labels)
        return self.train @ weights.T + offsets


class Ridge:
    """Ridge regression to one column of -1 and 1 for each class; the penalty is chosen by leaving training groups out.

    The same as scikit-learn's ``RidgeClassifier``. For given features the scores are a fixed matrix times the columns, so
    that all penalties and inner folds are computed before the labels are known.
    """

    def __init__(self, train: Floats, test: Floats, groups: NDArray[np.generic]) -> None:
        _check(train, test, groups)
        self.train, self.smoothers = train, _smoothers(train, test)
        self.inner = []
        for group in np.unique(groups):
            left, kept = np.flatnonzero(groups == group), np.flatnonzero(groups != group)
            self.inner.append((left, kept, _smoothers(train[kept], train[left])))

    def predict(self, labels: Labels) -> tuple[Labels, str]:
        """Return the classes of the test rows and the penalty chosen; ties go to the stronger penalty."""
        classes, columns, best = self._fit(labels)
        chosen = f"penalty {RIDGE_PENALTIES[best]:g}"
        return np.asarray(classes[(self.smoothers[best] @ columns).argmax(axis=-1)]), chosen

    def outputs(self, labels: Labels) -> Floats:
        """Return the fitted column of each class."""
        _, columns, best = self._fit(labels)
        return np.asarray(_smoothers(self.train, self.train, RIDGE_PENALTIES[best : best + 1])[0] @ columns)

    def _fit(self, labels: Labels) -> tuple[Labels, Floats, int]:
        """Return the classes, their columns of -1 and 1, and which penalty the inner folds choose."""
        classes, index = np.unique(labels, return_inverse=True)
        columns = 2.0 * (index[:, None] == np.arange(len(classes))) - 1.0  # (train, classes)
        right = np.zeros(len(RIDGE_PENALTIES))
        for left, kept, smoothers in self.inner:
            scores = smoothers @ columns[kept]  # (penalties, left out, classes)
            right += np.sum(scores.argmax(axis=-1) == index[left], axis=1)
        return classes, columns, len(right) - 1 - int(np.argmax(right[::-1]))


class LinearSVM:
    """Linear support vector machine (scikit-learn's ``SVC``, one against one); the cost is chosen by leaving groups out."""

    def __init__(self, train: Floats, test: Floats, groups: NDArray[np.generic]) -> None:
        _check(train, test, groups)
        self.kernel, self.cross = train @ train.T, test @ train.T
        self.folds = [(np.flatnonzero(groups != g), np.flatnonzero(groups == g)) for g in np.unique(groups)]

    def predict(self, labels: Labels) -> tuple[Labels, str]:
        """Return the classes of the test rows and the cost chosen; ties go to the smaller cost."""
        machine, cost = self._fit(labels)
        return np.asarray(machine.predict(self.cross)), f"cost {cost:g}"

    def outputs(self, labels: Labels) -> Floats:
        """Return, for each class, the sum over the other classes of the machine that tells the two apart."""
        machine, _ = self._fit(labels)
        n = len(machine.classes_)
        machine.decision_function_shape = "ovo"
        between = machine.decision_function(self.kernel)  # (train, pairs); above 0 for the first of a pair
        pairs = list(combinations(range(n), 2))
        between = -between[:, None] if n == 2 else between
        summed = np.zeros((len(self.kernel), n))
        for column, (first, second) in zip(between.T, pairs, strict=True):
            summed[:, first] += column
            summed[:, second] -= column
        return summed

    def _fit(self, labels: Labels) -> tuple[Any, float]:
        """Return the machine at the cost that the inner folds choose, and that cost."""
        from sklearn.svm import SVC

        right = np.zeros(len(SVM_COSTS))
        for kept, left in self.folds:
            for k, cost in enumerate(SVM_COSTS):
                machine = SVC(C=cost, kernel="precomputed").fit(self.kernel[np.ix_(kept, kept)], labels[kept])
                right[k] += np.sum(machine.predict(self.kernel[np.ix_(left, kept)]) == labels[left])
        cost = SVM_COSTS[int(np.argmax(right))]
        return SVC(C=cost, kernel="precomputed").fit(self.kernel, labels), cost


CLASSIFIERS: Mapping[str, Callable[[Floats, Floats, NDArray[np.generic]], FoldClassifier]] = {
    "lda": LDA,
    "ridge": Ridge,
    "linear-svm": LinearSVM,
}


def _smoothers(train: Floats, test: Floats, penalties: Sequence[float] = RIDGE_PENALTIES) -> Floats:
    """Return the matrices that turn training columns into ridge predictions, of shape (penalties, test, train)."""
    centre = train.mean(axis=0)
    values, vectors = np.linalg.eigh((train - centre) @ (train - centre).T)
    values = np.maximum(values, 0)
    cross = (test - centre) @ (train - centre).T @ vectors  # (test, train)
    mean = np.full((len(train), len(train)), 1 / len(train))
    found = []
    for penalty in penalties:
        centred = (cross / (values + penalty)) @ vectors.T
        found.append(centred @ (np.eye(len(train)) - mean) + 1 / len(train))
    return np.stack(found)


def _check(train: Floats, test: Floats, groups: NDArray[np.generic]) -> None:
    check_shape("train", train, "train features")
    check_shape("test", test, "test features", features=train.shape[1])
    check_shape("groups", groups, "train", train=len(train))
    check_finite("`train`", train)
    check_finite("`test`", test)
    if len(np.unique(groups)) < 2:
        raise InputError(
            "`groups`", expected="at least two groups of training rows, to choose by", found="one"
        )
