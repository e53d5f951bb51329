"""Ridge against scikit-learn, the normal equations, brute-force cross-validation and himalaya."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.linear_model import Ridge
from sklearn.model_selection import PredefinedSplit

from braindecode_suite.core.errors import InputError
from braindecode_suite.learning.ridge import (
    GridEdgeWarning,
    RidgeCV,
    _Problem,
    cached_ridge_cv,
    group_folds,
    ridge_cv,
    solve_ridge,
)

SHAPES = [(60, 8), (12, 30), (40, 30)]  # primal by moments, dual, primal by held-out predictions


def problem(n_rows: int, n_features: int, n_targets: int = 5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n_rows, n_features)) * rng.uniform(0.5, 2, n_features) + 3.0
    noise = np.linspace(0.5, 20.0, n_targets)
    Y = (
        X @ rng.standard_normal((n_features, n_targets))
        + noise * rng.standard_normal((n_rows, n_targets))
        - 1.0
    )
    return X, Y


def brute_force_errors(X: np.ndarray, Y: np.ndarray, folds: np.ndarray, alphas: np.ndarray) -> np.ndarray:
    errors = np.zeros((len(alphas), Y.shape[1]))
    for fold in np.unique(folds):
        held = folds == fold
        for i, alpha in enumerate(alphas):
            model = Ridge(alpha=alpha, solver="svd").fit(X[~held], Y[~held])
            errors[i] += ((Y[held] - model.predict(X[held])) ** 2).sum(axis=0)
    return errors


@pytest.mark.parametrize(("n_rows", "n_features"), SHAPES)
def test_each_target_matches_scikit_learn_at_its_own_penalty(n_rows: int, n_features: int) -> None:
    X, Y = problem(n_rows, n_features)
    alpha = np.array([0.1, 1.0, 10.0, 100.0, 1000.0])
    fit = solve_ridge(X, Y, alpha, block=7)
    for t in range(Y.shape[1]):
        expected = Ridge(alpha=alpha[t], solver="cholesky").fit(X, Y[:, t])
        assert_allclose(fit.coef[:, t], expected.coef_, rtol=1e-6, atol=1e-8)
        assert_allclose(fit.intercept[t], expected.intercept_, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("n_rows", "n_features"), SHAPES)
def test_each_target_matches_the_normal_equations(n_rows: int, n_features: int) -> None:
    X, Y = problem(n_rows, n_features)
    Xc, Yc = X - X.mean(axis=0), Y - Y.mean(axis=0)
    expected = np.linalg.solve(Xc.T @ Xc + 2.5 * np.eye(n_features), Xc.T @ Yc)
    assert_allclose(solve_ridge(X, Y, 2.5).coef, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("n_rows", "n_features"), SHAPES)
def test_cross_validation_equals_brute_force(n_rows: int, n_features: int) -> None:
    X, Y = problem(n_rows, n_features)
    folds = group_folds(np.arange(n_rows) // 2, 4, seed=1)
    alphas = np.logspace(-3, 6, 10)
    fit = ridge_cv(X, Y, folds=folds, alphas=alphas, relative=False, block=11)
    errors = brute_force_errors(X, Y, folds, alphas)
    assert_array_equal(fit.alpha, alphas[errors.argmin(axis=0)])
    total = sum(((Y[folds == f] - Y[folds != f].mean(axis=0)) ** 2).sum(axis=0) for f in range(4))
    assert_allclose(fit.cv_r2, 1 - errors / total, rtol=1e-7, atol=1e-9)
    assert len(set(fit.alpha)) > 1, "the targets of this problem want different penalties"


@pytest.mark.parametrize(("n_rows", "n_features"), SHAPES)
def test_himalaya_chooses_the_same_penalties(n_rows: int, n_features: int) -> None:
    himalaya = pytest.importorskip("himalaya.ridge", reason="himalaya is not installed")
    X, Y = problem(n_rows, n_features)
    X, Y = X - X.mean(axis=0), Y - Y.mean(axis=0)
    folds = np.arange(n_rows) % 4
    alphas = np.logspace(-3, 6, 10)
    theirs = himalaya.RidgeCV(
        alphas=alphas, fit_intercept=True, cv=PredefinedSplit(folds), solver_params={"warn": False}
    ).fit(X, Y)
    ours = ridge_cv(X, Y, folds=folds, alphas=alphas, relative=False)
    assert_allclose(ours.alpha, np.asarray(theirs.best_alphas_), rtol=1e-10)
    assert_allclose(ours.coef, np.asarray(theirs.coef_), rtol=1e-5, atol=1e-6)


def test_single_precision_with_large_means_agrees_with_double_precision() -> None:
    X, Y = problem(300, 40)
    X += 1000.0
    folds = np.arange(300) % 5
    double = ridge_cv(X, Y, folds=folds)
    single = ridge_cv(X.astype(np.float32), Y.astype(np.float32), folds=folds)
    assert single.coef.dtype == np.float32
    assert_allclose(single.alpha, double.alpha, rtol=1e-3)
    assert_allclose(single.predict(X.astype(np.float32)), double.predict(X), atol=2e-2)


def test_memory_mapped_rows_give_the_same_fit(tmp_path) -> None:
    X, Y = problem(60, 8)
    np.save(tmp_path / "X.npy", X)
    folds = np.arange(60) % 3
    mapped = ridge_cv(np.load(tmp_path / "X.npy", mmap_mode="r"), Y, folds=folds, block=13)
    assert_allclose(mapped.coef, ridge_cv(X, Y, folds=folds).coef, rtol=1e-10)


def test_a_cached_fit_is_the_same_fit_and_made_once(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    X, Y = problem(60, 8)
    folds = np.arange(60) % 3
    direct, first = ridge_cv(X, Y, folds=folds), cached_ridge_cv(tmp_path, X, Y, folds=folds)
    monkeypatch.setattr(_Problem, "__init__", None)  # a second fit would fail
    second = cached_ridge_cv(tmp_path, X, Y, folds=folds)
    for name in ("coef", "intercept", "alpha", "alphas", "cv_r2"):
        assert_array_equal(getattr(first, name), getattr(direct, name))
        assert_array_equal(getattr(second, name), getattr(direct, name))
    with pytest.raises(TypeError, match="not callable"):
        cached_ridge_cv(tmp_path, X + 1, Y, folds=folds)


def test_torch_tensors_are_accepted() -> None:
    torch = pytest.importorskip("torch")
    X, Y = problem(60, 8)
    folds = np.arange(60) % 3
    fit = ridge_cv(torch.from_numpy(X), torch.from_numpy(Y), folds=folds)
    assert_array_equal(fit.coef, ridge_cv(X, Y, folds=folds).coef)
    assert_array_equal(fit.predict(torch.from_numpy(X)), fit.predict(X))


def test_a_group_never_lies_in_two_folds() -> None:
    groups = np.random.default_rng(0).integers(0, 20, 100).astype(str)
    folds = group_folds(groups, 5, seed=3)
    assert all(len(set(folds[groups == g])) == 1 for g in set(groups))
    assert set(folds) == set(range(5))


def test_repeats_in_one_fold_keep_memorised_images_from_looking_predictable() -> None:
    rng = np.random.default_rng(0)
    images = np.repeat(np.arange(30), 4)
    X = rng.standard_normal((30, 200))[images] + 0.1 * rng.standard_normal((120, 200))
    Y = rng.standard_normal((30, 3))[images]  # nothing to learn but the images themselves
    alphas = np.logspace(-4, 4, 9)
    grouped = RidgeCV(alphas=alphas).fit(X, Y, groups=images).fit_.cv_r2.max(axis=0)
    leaky = RidgeCV(alphas=alphas).fit(X, Y).fit_.cv_r2.max(axis=0)
    assert (leaky > 0.8).all()
    assert (grouped < 0.2).all()


def test_an_edge_of_the_grid_is_warned_about() -> None:
    X, Y = problem(60, 50)
    with pytest.warns(
        GridEdgeWarning, match=r"the smallest penalty of the grid is the best for \d of 5 targets"
    ):
        ridge_cv(X, Y, folds=np.arange(60) % 4, alphas=[1e2, 1e3, 1e4])


def test_constant_features_and_targets_do_no_harm() -> None:
    X, Y = problem(60, 8)
    X[:, 2], Y[:, 1] = 4.0, 7.0
    fit = ridge_cv(X, Y, folds=np.arange(60) % 3)
    assert np.isfinite(fit.coef).all()
    assert_allclose(fit.predict(X)[:, 1], 7.0, rtol=1e-9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"folds": np.zeros(60, int)}, "at least two folds"),
        ({"folds": np.arange(59) % 3}, r"shape \(rows=60\); found \(59\)"),
        ({"alphas": [0.0, 1.0]}, "positive penalties"),
        ({"alphas": []}, "positive penalties"),
    ],
)
def test_bad_arguments_are_named(change: dict, message: str) -> None:
    X, Y = problem(60, 8)
    with pytest.raises(InputError, match=message):
        ridge_cv(X, Y, **({"folds": np.arange(60) % 3} | change))


def test_too_many_folds_are_refused() -> None:
    with pytest.raises(InputError, match="2 to 3, the number of groups; found 4"):
        group_folds([1, 2, 3], 4)


def test_another_number_of_features_is_refused() -> None:
    X, Y = problem(60, 8)
    fit = solve_ridge(X, Y, 1.0)
    with pytest.raises(InputError, match=r"shape \(rows, features=8\); found \(60, 7\)"):
        fit.predict(X[:, 1:])
