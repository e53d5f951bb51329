"""Classifiers against scikit-learn's: same classes for the same rows."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.covariance import ledoit_wolf
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import RidgeClassifier
from sklearn.model_selection import GridSearchCV, LeaveOneGroupOut
from sklearn.svm import SVC

from braindecode_suite.core.errors import InputError
from braindecode_suite.learning.classifiers import CLASSIFIERS, RIDGE_PENALTIES, SVM_COSTS
from braindecode_suite.learning.shrinkage_lda import ledoit_wolf_shrinkage, shrinkage_lda


def examples(seed: int, n_features: int, n_classes: int = 4, per_class: int = 9, signal: float = 0.7):
    rng = np.random.default_rng(seed)
    y = np.tile(np.arange(n_classes), per_class)
    groups = np.repeat(np.arange(per_class), n_classes)
    scale = rng.uniform(0.2, 3, n_features)
    X = (
        signal * rng.standard_normal((n_classes, n_features))[y] + rng.standard_normal((len(y), n_features))
    ) * scale
    Z = (signal * rng.standard_normal((50, n_features)) + rng.standard_normal((50, n_features))) * scale
    return X, y, groups, Z


@pytest.mark.parametrize("n_features", [3, 20, 120])
def test_ledoit_wolf_shrinkage_is_that_of_scikit_learn(n_features):
    X, *_ = examples(0, n_features)
    centred = X - X.mean(axis=0)
    shrinkage, mean = ledoit_wolf_shrinkage(centred)
    expected, theirs = ledoit_wolf(X)
    assert_allclose(shrinkage, theirs, rtol=1e-10)
    covariance = centred.T @ centred / len(X)
    mine = (1 - shrinkage) * covariance + shrinkage * mean * np.eye(n_features)
    assert_allclose(mine, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("n_features", "seed"), [(5, 0), (30, 1), (200, 2)])
def test_lda_decides_as_scikit_learns_does(n_features, seed):
    X, y, _, Z = examples(seed, n_features)
    keep = np.r_[0:30, 33]  # classes of unequal size
    theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(X[keep], y[keep])
    mine = shrinkage_lda(X[keep], y[keep], Z)
    margin = np.sort(theirs.decision_function(Z), axis=1)
    clear = margin[:, -1] - margin[:, -2] > 1e-6
    assert clear.mean() > 0.9
    assert_array_equal(mine[clear], theirs.predict(Z)[clear])
    assert len(set(mine)) > 1


def test_lda_is_not_disturbed_by_a_feature_that_never_varies():
    X, y, _, Z = examples(3, 12)
    with_constant = np.column_stack([X, np.full(len(X), 5.0)])
    more = np.column_stack([Z, np.full(len(Z), 5.0)])
    assert_array_equal(shrinkage_lda(with_constant, y, more), shrinkage_lda(X, y, Z))


def test_ridge_decides_as_scikit_learns_does_with_the_penalty_chosen_inside():
    X, y, groups, Z = examples(4, 60, signal=0.3)
    search = GridSearchCV(
        RidgeClassifier(), {"alpha": RIDGE_PENALTIES[::-1]}, cv=LeaveOneGroupOut()
    )  # the first of equals is the strongest
    search.fit(X, y, groups=groups)
    predicted, chosen = CLASSIFIERS["ridge"](X, Z, groups).predict(y)
    assert chosen == f"penalty {search.best_params_['alpha']:g}"
    assert_array_equal(predicted, search.predict(Z))


def test_the_machine_decides_as_scikit_learns_does_with_the_cost_chosen_inside():
    X, y, groups, Z = examples(5, 40, per_class=6, signal=0.4)
    search = GridSearchCV(SVC(kernel="linear"), {"C": SVM_COSTS}, cv=LeaveOneGroupOut())
    search.fit(X, y, groups=groups)
    predicted, chosen = CLASSIFIERS["linear-svm"](X, Z, groups).predict(y)
    assert chosen == f"cost {search.best_params_['C']:g}"
    assert_array_equal(predicted, search.predict(Z))


@pytest.mark.parametrize("name", list(CLASSIFIERS))
def test_labels_without_signal_are_not_found(name):
    hits = []
    for seed in range(6):
        X, y, groups, _ = examples(100 + seed, 50, signal=0.0)
        left = groups == 0
        predicted, _ = CLASSIFIERS[name](X[~left], X[left], groups[~left]).predict(y[~left])
        hits += list(predicted == y[left])
    assert np.mean(hits) < 0.6


@pytest.mark.parametrize("name", list(CLASSIFIERS))
def test_other_numbers_of_features_groups_and_nan_are_refused(name):
    X, _, groups, Z = examples(6, 10)
    with pytest.raises(InputError, match=r"`test`: expected shape \(test, features=10\); found \(50, 9\)"):
        CLASSIFIERS[name](X, Z[:, :9], groups)
    with pytest.raises(InputError, match="at least two groups of training rows"):
        CLASSIFIERS[name](X, Z, np.zeros(len(X)))
    broken = X.copy()
    broken[2, 3] = np.nan
    with pytest.raises(InputError, match=r"1 NaN or infinite values, the first at \(2, 3\)"):
        CLASSIFIERS[name](broken, Z, groups)


def test_a_class_with_one_example_is_refused():
    with pytest.raises(
        InputError, match="each with at least two training examples; found 2 of class 0, 1 of class 1"
    ):
        shrinkage_lda(np.eye(3), np.array([0, 0, 1]), np.eye(3))
