"""Activation patterns against their formula and a known source, and the outputs of the classifiers against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import RidgeClassifier
from sklearn.svm import SVC

from braindecode_suite.core.errors import InputError
from braindecode_suite.learning.classifiers import CLASSIFIERS
from braindecode_suite.learning.patterns import activation_patterns
from tests.test_classifiers import examples


def test_patterns_are_the_covariance_times_the_weights_at_unit_output():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((50, 6)) @ rng.standard_normal((6, 6)) + 3
    weights = rng.standard_normal((6, 4))
    covariance = np.cov(X, rowvar=False, bias=True)
    expected = covariance @ weights / np.sqrt(np.diag(weights.T @ covariance @ weights))
    assert_allclose(activation_patterns(X, X @ weights - 5), expected.T, rtol=1e-10)
    assert_allclose(activation_patterns(X, np.full((50, 2), 4.0)), 0)
    with pytest.raises(InputError, match=r"`outputs`: expected shape \(examples=50, outputs\)"):
        activation_patterns(X, np.zeros((49, 2)))


def test_a_unit_that_only_cancels_noise_has_weight_but_no_pattern():
    """The example of Haufe et al. 2014: the second unit holds noise alone, which the first shares."""
    rng = np.random.default_rng(1)
    y = np.repeat([0, 1], 400)
    noise = rng.standard_normal(800)
    X = np.column_stack([y - 0.5 + noise, noise + 0.1 * rng.standard_normal(800)])
    machine = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(X, y)
    weights = machine.coef_[0]
    assert abs(weights[1]) > 0.5 * abs(weights[0])
    first, second = activation_patterns(X, CLASSIFIERS["lda"](X, X, y % 2).outputs(y))[1]
    assert first > 0.2
    assert abs(second) < 0.2 * first


def test_outputs_are_what_scikit_learns_decision_functions_say():
    X, y, groups, _ = examples(7, 20, signal=0.5)
    lda = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(X, y).decision_function(X)
    ours = CLASSIFIERS["lda"](X, X, groups).outputs(y)
    assert_allclose(
        ours - ours.mean(1, keepdims=True), lda - lda.mean(1, keepdims=True), rtol=1e-5, atol=1e-6
    )

    ready = CLASSIFIERS["ridge"](X, X, groups)
    penalty = float(ready.predict(y)[1].split()[1])
    ridge = RidgeClassifier(alpha=penalty).fit(X, y).decision_function(X)
    assert_allclose(ready.outputs(y), ridge, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("n_classes", [2, 4])
def test_outputs_of_the_machine_are_sums_over_the_pairs(n_classes):
    X, y, groups, _ = examples(8, 20, n_classes=n_classes, signal=0.8)
    ready = CLASSIFIERS["linear-svm"](X, X, groups)
    cost = float(ready.predict(y)[1].split()[1])
    outputs = ready.outputs(y)
    expected = np.zeros((len(X), n_classes))
    for i in range(n_classes):
        for j in range(i + 1, n_classes):
            kept = (y == i) | (y == j)
            margin = (
                SVC(C=cost, kernel="linear").fit(X[kept], y[kept]).decision_function(X)
            )  # above 0: class j
            expected[:, i] -= margin
            expected[:, j] += margin
    assert_allclose(outputs, expected, atol=2e-3 * np.abs(expected).max())
    assert np.mean(outputs.argmax(1) == y) > 0.8
