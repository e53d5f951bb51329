"""The searchlight against nilearn's with the same classifier, its refits one by one, and the error rate of its correction."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from nilearn.decoding import SearchLight
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.covariance import ledoit_wolf, ledoit_wolf_shrinkage
from sklearn.linear_model import RidgeClassifier
from sklearn.model_selection import LeaveOneGroupOut

from braindecode_suite.core.errors import InputError
from braindecode_suite.learning.searchlight import searchlight, spheres
from braindecode_suite.metrics.permutation import max_statistic_p

AFFINE = np.array([[-2.0, 0.1, 0, 5], [0, 3, 0, -4], [0, 0, 2.5, 1], [0, 0, 0, 1]])


class RidgeByLedoitAndWolf(ClassifierMixin, BaseEstimator):
    """scikit-learn's ridge classifier with the penalty that Ledoit and Wolf's shrinkage means."""

    def fit(self, X, y):
        X = X.astype(np.float64)
        shrinkage = min(ledoit_wolf_shrinkage(X), 1 - 1e-9)
        variance = X.var(axis=0).mean()
        self.machine_ = RidgeClassifier(alpha=len(X) * shrinkage * variance / (1 - shrinkage)).fit(X, y)
        self.classes_ = self.machine_.classes_
        return self

    def predict(self, X):
        return self.machine_.predict(X)


def examples(seed: int, n_units: int, n_runs: int = 5, signal: float = 0.0, n_classes: int = 3):
    """Return features, labels and runs: every class twice a run, told apart by the first five units."""
    rng = np.random.default_rng(seed)
    y = np.tile(np.repeat(np.arange(n_classes), 2), n_runs)
    run = np.repeat(np.arange(n_runs), 2 * n_classes)
    patterns = rng.standard_normal((n_classes, n_units)) * (np.arange(n_units) < 5)
    return (signal * patterns[y] + rng.standard_normal((len(y), n_units))).astype(np.float32), y, run


def folds_of(features: np.ndarray, run: np.ndarray) -> list[SimpleNamespace]:
    return [
        SimpleNamespace(train=np.flatnonzero(run != k), test=np.flatnonzero(run == k), features=features)
        for k in np.unique(run)
    ]


def within_runs(y: np.ndarray, run: np.ndarray, n: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    drawn = [y]
    for _ in range(n):
        new = y.copy()
        for k in np.unique(run):
            new[run == k] = rng.permutation(y[run == k])
        drawn.append(new)
    return np.stack(drawn)


def test_the_map_is_nilearns_with_the_same_classifier():
    mask = np.ones((4, 3, 3), bool)
    mask[0, 0] = mask[3, 2, 2] = False
    features, y, run = examples(0, int(mask.sum()), signal=0.8)
    volume = np.zeros((*mask.shape, len(y)), np.float32)
    volume[mask] = features.T
    theirs = SearchLight(
        nib.Nifti1Image(mask.astype(np.uint8), AFFINE),
        radius=3.2,
        estimator=RidgeByLedoitAndWolf(),
        scoring="accuracy",
        cv=LeaveOneGroupOut(),
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Use a custom estimator")
        theirs.fit(nib.Nifti1Image(volume, AFFINE), y, groups=run)
    millimetres = np.argwhere(mask) @ AFFINE[:3, :3].T
    members = spheres(millimetres, 3.2)
    assert len({len(units) for units in members}) > 3
    ours = searchlight(folds_of(features, run), members, y[None], 3)
    assert_allclose(ours.accuracy, theirs.scores_[mask], atol=1e-12)
    assert ours.accuracy.max() > 0.6
    assert np.isnan(ours.null_mean).all()
    assert len(ours.null_largest) == 0


def test_scores_regress_on_the_shrunken_covariance_also_where_classes_are_not_equally_frequent():
    features, y, run = examples(6, 5, n_runs=9, signal=0.7)
    kept = np.flatnonzero((y != 0) | (run % 3 == 0))
    features, y, run = features[kept], y[kept], run[kept]
    right = 0
    for k in np.unique(run):
        X, Z = features[run != k].astype(float), features[run == k].astype(float)
        columns = 2.0 * (y[run != k][:, None] == np.arange(3)) - 1
        covariance, _ = ledoit_wolf(X)
        weights = np.linalg.solve(covariance, (X - X.mean(0)).T @ (columns - columns.mean(0)) / len(X))
        scores = (Z - X.mean(0)) @ weights + columns.mean(0)
        right += np.sum(scores.argmax(1) == y[run == k])
    found = searchlight(folds_of(features, run), [np.arange(5)], y[None], 3).accuracy[0]
    assert found == pytest.approx(right / len(y))
    assert found > 0.5


def test_a_relabelling_is_a_refit_on_its_labels():
    features, y, run = examples(1, 20, signal=0.6)
    members = spheres(np.column_stack([np.arange(20.0), np.zeros((20, 2))]), 2.0)
    labellings = within_runs(y, run, 7, seed=3)
    together = searchlight(folds_of(features, run), members, labellings, 3)
    alone = [searchlight(folds_of(features, run), members, one[None], 3).accuracy for one in labellings]
    assert_allclose(together.accuracy, alone[0])
    assert_allclose(together.null_largest, [one.max() for one in alone[1:]])
    assert_allclose(together.null_mean, np.mean(alone[1:], axis=0))


def test_each_fold_uses_its_own_features():
    features, y, run = examples(2, 8, signal=1.5)
    folds = folds_of(features, run)
    members = [np.arange(8)]
    folds[0].features = np.random.default_rng(0).standard_normal(features.shape).astype(np.float32)
    mixed = searchlight(folds, members, y[None], 3).accuracy[0]
    parts = [searchlight([fold], members, y[None], 3).accuracy[0] for fold in folds]
    assert mixed == pytest.approx(np.mean(parts))
    assert parts[0] < np.mean(parts[1:])


def test_units_that_never_vary_are_at_the_first_class_and_not_right_by_a_tie():
    features, y, run = examples(3, 4)
    features[:, :2] = 7.0
    found = searchlight(folds_of(features, run), [np.array([0, 1]), np.array([2, 3])], y[None], 3)
    assert found.accuracy[0] == pytest.approx(1 / 3)


def test_the_correction_keeps_false_alarms_anywhere_at_its_level():
    smallest = []
    for seed in range(60):
        features, y, run = examples(100 + seed, 12, n_runs=4, n_classes=2)
        members = spheres(np.column_stack([np.arange(12.0), np.zeros((12, 2))]), 1.0)
        found = searchlight(folds_of(features, run), members, within_runs(y, run, 99, seed), 2)
        smallest.append(max_statistic_p(found.accuracy, found.null_largest).min())
    assert 0.05 <= np.mean(np.array(smallest) <= 0.25) <= 0.42
    assert np.mean(np.array(smallest) <= 0.05) <= 0.15


def test_signal_is_found_where_it_is_after_correction():
    features, y, run = examples(4, 30, n_runs=8, signal=1.2)
    members = spheres(np.column_stack([np.arange(30.0), np.zeros((30, 2))]), 1.0)
    found = searchlight(folds_of(features, run), members, within_runs(y, run, 200, 0), 3)
    p = max_statistic_p(found.accuracy, found.null_largest)
    assert (p[1:5] < 0.05).all()
    assert (p[8:] > 0.05).all()
    assert abs(found.null_mean.mean() - 1 / 3) < 0.03


def test_corrected_p_values_count_what_they_say():
    rng = np.random.default_rng(0)
    observed, null = rng.integers(0, 12, 40) / 12, rng.integers(0, 12, 30) / 12
    expected = [(1 + sum(value >= one for value in null)) / 31 for one in observed]
    assert_array_equal(max_statistic_p(observed, null), expected)
    with pytest.raises(InputError, match="1 NaN or infinite values"):
        max_statistic_p([np.nan], null)


def test_wrong_radii_shapes_and_values_are_refused():
    features, y, run = examples(5, 4)
    with pytest.raises(InputError, match="`radius`: expected millimetres above 0; found 0"):
        spheres(np.zeros((2, 3)), 0)
    with pytest.raises(InputError, match=r"`coordinates`: expected shape \(units, dimensions=3\)"):
        spheres(np.zeros((2, 2)), 1)
    with pytest.raises(InputError, match=r"`labellings`: expected shape \(labellings, examples=30\)"):
        searchlight(folds_of(features, run), [np.arange(4)], y[None, :5], 3)
    features[2, 1] = np.nan
    with pytest.raises(InputError, match="`features`: expected finite values"):
        searchlight(folds_of(features, run), [np.arange(4)], y[None], 3)
