"""The estimators as users of scikit-learn know them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    KFold,
    LeaveOneGroupOut,
    RepeatedKFold,
    ShuffleSplit,
    TimeSeriesSplit,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from braindecode_suite.core.errors import InputError
from braindecode_suite.learning.folds import folds_of_splits
from braindecode_suite.learning.ridge_estimators import BandedRidgeCV, RidgeCV
from braindecode_suite.learning.ridge_warnings import MissingTargetWarning

ESTIMATORS = [RidgeCV(), BandedRidgeCV(2, gammas=5)]


def problem(n_rows: int = 60, n_features: int = 8, n_targets: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n_rows, n_features))
    noise = np.linspace(0.5, 8, n_targets) * rng.standard_normal((n_rows, n_targets))
    return X, X @ rng.standard_normal((n_features, n_targets)) + noise


@pytest.mark.filterwarnings("ignore::UserWarning")
@parametrize_with_checks([RidgeCV(), BandedRidgeCV(gammas=5)])
def test_scikit_learns_contract(estimator: Any, check: Any) -> None:
    check(estimator)


def test_one_target_is_what_a_grid_search_over_scikit_learns_ridge_finds() -> None:
    X, Y = problem()
    grid = np.logspace(-2, 4, 9)
    search = GridSearchCV(Ridge(), {"alpha": grid}, cv=KFold(5), scoring="neg_mean_squared_error")
    for t in range(4):
        search.fit(X, Y[:, t])
        model = RidgeCV(grid, relative=False).fit(X, Y[:, t])
        assert model.alpha_ == pytest.approx(search.best_params_["alpha"])
        assert_allclose(model.coef_, search.best_estimator_.coef_, rtol=1e-8)
        assert_allclose(model.intercept_, search.best_estimator_.intercept_, rtol=1e-8)
        assert model.predict(X).shape == (60,)
        assert_allclose(model.score(X, Y[:, t]), search.best_estimator_.score(X, Y[:, t]), rtol=1e-10)


def test_many_targets_are_fitted_as_each_alone_and_coefficients_lie_as_scikit_learns() -> None:
    X, Y = problem()
    model = RidgeCV().fit(X, Y)
    assert model.coef_.shape == (4, 8)
    for t in range(4):
        assert_allclose(model.coef_[t], RidgeCV().fit(X, Y[:, t]).coef_, rtol=1e-10)
    assert_allclose(model.predict(X), X @ model.coef_.T + model.intercept_, rtol=1e-10)
    assert_allclose(model.score(X, Y), r2_score(Y, model.predict(X)), rtol=1e-12)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_groups_share_a_fold(estimator: Any) -> None:
    X, Y = problem()
    groups = np.random.default_rng(1).integers(0, 12, 60)
    by_number = clone(estimator).fit(X, Y, groups=groups)
    by_splitter = clone(estimator).set_params(cv=GroupKFold(5)).fit(X, Y, groups=groups)
    splits = list(GroupKFold(5).split(X, Y, groups))
    by_list = clone(estimator).set_params(cv=splits).fit(X, Y)
    without = clone(estimator).fit(X, Y)
    assert_array_equal(by_number.cv_r2_, by_splitter.cv_r2_)
    assert_array_equal(by_number.cv_r2_, by_list.cv_r2_)
    assert not np.allclose(by_number.cv_r2_, without.cv_r2_, equal_nan=True)


def test_repeats_in_one_fold_keep_memorised_images_from_looking_predictable() -> None:
    rng = np.random.default_rng(0)
    images = np.repeat(np.arange(30), 4)[rng.permutation(120)]
    X = rng.standard_normal((30, 200))[images] + 0.1 * rng.standard_normal((120, 200))
    Y = rng.standard_normal((30, 3))[images]  # nothing to learn but the images themselves
    alphas = np.logspace(-6, 4, 11)
    assert (RidgeCV(alphas).fit(X, Y, groups=images).cv_r2_.max(axis=0) < 0.2).all()
    assert (RidgeCV(alphas).fit(X, Y).cv_r2_.max(axis=0) > 0.8).all()


@pytest.mark.parametrize(
    ("cv", "message"),
    [
        (ShuffleSplit(3, test_size=0.5, random_state=0), "each row held out at most once"),
        (RepeatedKFold(n_splits=3, n_repeats=2, random_state=0), "a row held out twice"),
        (TimeSeriesSplit(3), "found 15 training and 15 held-out rows of 60 in split 0"),
    ],
)
def test_splits_that_do_not_train_on_all_the_rest_are_refused(cv: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        RidgeCV(cv=cv).fit(*problem())


def test_folds_of_a_splitter_are_its_held_out_rows() -> None:
    groups = np.array([3, 1, 1, 2, 3])
    folds = folds_of_splits(LeaveOneGroupOut().split(np.zeros((5, 1)), None, groups), 5)
    assert_array_equal(folds, [2, 0, 0, 1, 2])
    assert_array_equal(folds_of_splits([(np.array([0, 1]), np.array([2]))], 3), [-1, -1, 0])


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_missing_targets_are_counted_warned_about_and_left_out_of_the_score(estimator: Any) -> None:
    X, Y = problem()
    whole = clone(estimator).fit(X, Y)
    Y[3, 0], Y[:, 2] = np.nan, 1.5
    text = r"of 4 targets, 1 with NaN and 1 that never vary: they are scored as missing \(NaN\)"
    with pytest.warns(MissingTargetWarning, match=text):
        model = clone(estimator).fit(X, Y)
    assert model.n_missing_ == 2
    assert_array_equal(np.isnan(model.cv_r2_).all(axis=0), [True, False, True, False])
    kept = [1, 3]
    assert model.score(X, Y) == pytest.approx(r2_score(Y[:, kept], whole.predict(X)[:, kept]))
    assert np.isnan(model.score(X, np.full_like(Y, 2.0)))


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_torch_in_gives_torch_out_and_the_same(estimator: Any) -> None:
    X, Y = problem()
    expected = clone(estimator).fit(X, Y)
    model = clone(estimator).fit(torch.from_numpy(X), torch.from_numpy(Y))
    predicted = model.predict(torch.from_numpy(X))
    assert isinstance(predicted, torch.Tensor)
    assert isinstance(model.coef_, torch.Tensor)
    assert_allclose(predicted.numpy(), expected.predict(X), rtol=1e-7, atol=1e-9)
    assert model.score(torch.from_numpy(X), torch.from_numpy(Y)) == pytest.approx(expected.score(X, Y))
    assert model.n_features_in_ == 8


def test_it_stands_at_the_end_of_a_pipeline() -> None:
    X, Y = problem()
    scale = np.logspace(-3, 3, 8)
    model = make_pipeline(StandardScaler(), RidgeCV()).fit(X * scale, Y, ridgecv__groups=np.arange(60) // 2)
    assert model.score(X * scale, Y) > 0.4


def test_what_each_band_adds_sums_to_the_prediction() -> None:
    X, Y = problem()
    model = BandedRidgeCV(["early"] * 3 + ["late"] * 5, gammas=10).fit(X, Y)
    assert model.band_names_ == ("early", "late")
    assert_allclose(model.predict_bands(X).sum(axis=0) + Y.mean(axis=0), model.predict(X), rtol=1e-8)
    assert model.gamma_.shape == (2, 4)
    one = BandedRidgeCV(2, gammas=5).fit(X, Y[:, 0])
    assert one.predict_bands(X).shape == (2, 60)


def test_different_lengths_are_one_line() -> None:
    X, Y = problem()
    with pytest.raises(InputError, match=r"`Y`: expected shape \(rows=60, targets\); found \(59, 4\)"):
        RidgeCV().fit(X, Y[1:])
    with pytest.raises(InputError, match=r"`X`: expected shape \(rows, features\); found \(60\)"):
        RidgeCV().fit(torch.zeros(60), torch.zeros(60))
    with pytest.raises(InputError, match=r"`y`: expected shape \(rows=60, targets=4\); found \(60, 3\)"):
        RidgeCV().fit(X, Y).score(X, Y[:, 1:])


def test_the_example_of_the_guide_runs_and_finds_the_layer_that_counts() -> None:
    guide = (Path(__file__).parents[1] / "docs" / "ridge.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    for code in re.findall(r"```python\n(.*?)```", guide, flags=re.DOTALL):
        exec(code, names)
    assert names["r"].shape == (8,)
    assert names["r"].min() > 0.7
    first, second = names["shares"].mean(axis=1)
    assert first > 0.5 > 0.05 > abs(second)
