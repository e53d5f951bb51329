"""Ridge against scikit-learn, the normal equations, brute-force cross-validation and himalaya."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.linear_model import Ridge
from sklearn.linear_model import RidgeCV as LeaveOneOutRidge
from sklearn.model_selection import PredefinedSplit

from braindecode_suite.core.errors import InputError
from braindecode_suite.core.manifest import PeakMemory, anonymous_kb
from braindecode_suite.learning import ridge as ridge_module
from braindecode_suite.learning import ridge_form
from braindecode_suite.learning.fold_gram import FoldGram
from braindecode_suite.learning.folds import group_folds
from braindecode_suite.learning.leave_fold_out import DualRows, PrimalRows
from braindecode_suite.learning.ridge import cached_ridge_cv, ridge_cv, solve_ridge
from braindecode_suite.learning.ridge_problem import make_data
from braindecode_suite.learning.ridge_warnings import (
    ConditioningWarning,
    GridEdgeWarning,
)

SHAPES = [(60, 8), (12, 30), (40, 30)]
FORMS = [(60, 8, FoldGram), (60, 8, PrimalRows), (60, 8, DualRows), (40, 30, FoldGram), (12, 30, DualRows)]


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """Leave one form to choose from."""
    everything = ridge_form.forms

    def keep(form: Any) -> None:
        monkeypatch.setattr(ridge_form, "forms", lambda *a: [f for f in everything(*a) if f.build is form])

    return keep


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


@pytest.mark.parametrize(("n_rows", "n_features", "form"), FORMS)
def test_each_target_matches_scikit_learn_at_its_own_penalty(n_rows, n_features, form, only) -> None:
    only(form)
    X, Y = problem(n_rows, n_features)
    alpha = np.array([0.1, 1.0, 10.0, 100.0, 1000.0])
    fit = solve_ridge(X, Y, alpha)
    for t in range(Y.shape[1]):
        expected = Ridge(alpha=alpha[t], solver="cholesky").fit(X, Y[:, t])
        assert_allclose(fit.coef[:, t], expected.coef_, rtol=1e-6, atol=1e-8)
        assert_allclose(fit.intercept[t], expected.intercept_, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("n_rows", "n_features", "form"), FORMS)
def test_each_target_matches_the_normal_equations(n_rows, n_features, form, only) -> None:
    only(form)
    X, Y = problem(n_rows, n_features)
    Xc, Yc = X - X.mean(axis=0), Y - Y.mean(axis=0)
    expected = np.linalg.solve(Xc.T @ Xc + 2.5 * np.eye(n_features), Xc.T @ Yc)
    assert_allclose(solve_ridge(X, Y, 2.5).coef, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("n_rows", "n_features", "form"), FORMS)
def test_cross_validation_equals_brute_force(n_rows, n_features, form, only) -> None:
    only(form)
    X, Y = problem(n_rows, n_features)
    folds = group_folds(np.arange(n_rows) // 2, 4, seed=1)
    alphas = np.logspace(-3, 6, 10)
    fit = ridge_cv(X, Y, folds=folds, alphas=alphas, relative=False)
    errors = brute_force_errors(X, Y, folds, alphas)
    assert_array_equal(fit.alpha, alphas[errors.argmin(axis=0)])
    total = sum(((Y[folds == f] - Y[folds != f].mean(axis=0)) ** 2).sum(axis=0) for f in range(4))
    assert_allclose(fit.cv_r2, 1 - errors / total, rtol=1e-7, atol=1e-9)
    assert len(set(fit.alpha)) > 1, "the targets of this problem want different penalties"


@pytest.mark.parametrize("form", [FoldGram, PrimalRows, DualRows])
def test_folds_of_very_different_size_and_rows_never_held_out_equal_brute_force(form, only) -> None:
    only(form)
    X, Y = problem(60, 8)
    folds = np.repeat([0, 1, 2, -1], [1, 9, 30, 20])[np.random.default_rng(0).permutation(60)]
    alphas = np.logspace(-2, 4, 5)
    fit = ridge_cv(X, Y, folds=folds, alphas=alphas, relative=False)
    held = folds >= 0
    errors = np.zeros((5, 5))
    for fold in range(3):
        for i, alpha in enumerate(alphas):
            model = Ridge(alpha=alpha, solver="svd").fit(X[folds != fold], Y[folds != fold])
            errors[i] += ((Y[folds == fold] - model.predict(X[folds == fold])) ** 2).sum(axis=0)
    total = sum(((Y[folds == f] - Y[folds != f].mean(axis=0)) ** 2).sum(axis=0) for f in range(3))
    assert held.sum() == 40
    assert_allclose(fit.cv_r2, 1 - errors / total, rtol=1e-7, atol=1e-9)


def test_leaving_single_rows_out_equals_scikit_learns_closed_form() -> None:
    X, Y = problem(50, 7)
    alphas = np.logspace(-1, 4, 8)
    X, Y = X - X.mean(axis=0), Y - Y.mean(axis=0)
    theirs = LeaveOneOutRidge(alphas=alphas, alpha_per_target=True, store_cv_results=True).fit(X, Y)
    ours = ridge_cv(X, Y, folds=np.arange(50), alphas=alphas, relative=False)
    assert_array_equal(ours.alpha, theirs.alpha_)
    assert_allclose(ours.coef, theirs.coef_.T, rtol=1e-8, atol=1e-10)
    errors = theirs.cv_results_.sum(axis=0).T  # (alphas, targets)
    left_out_mean = (np.square(Y * 50 / 49)).sum(axis=0)
    assert_allclose(ours.cv_r2, 1 - errors / left_out_mean, rtol=1e-9)


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


def test_himalayas_kernel_ridge_predicts_the_same_from_more_features_than_rows() -> None:
    himalaya = pytest.importorskip("himalaya.kernel_ridge", reason="himalaya is not installed")
    X, Y = problem(40, 300)
    X, Y = X - X.mean(axis=0), Y - Y.mean(axis=0)
    alphas = np.logspace(-1, 6, 8)
    theirs = himalaya.KernelRidgeCV(
        alphas=alphas, kernel="linear", fit_intercept=True, cv=PredefinedSplit(np.arange(40) % 5), warn=False
    ).fit(X, Y)
    ours = ridge_cv(X, Y, folds=np.arange(40) % 5, alphas=alphas, relative=False)
    assert_allclose(ours.alpha, np.asarray(theirs.best_alphas_), rtol=1e-10)
    assert_allclose(ours.predict(X), np.asarray(theirs.predict(X)), rtol=1e-6, atol=1e-6)


def test_the_cheapest_form_is_chosen() -> None:
    def chosen(n: int, p: int, v: int, k: int) -> Any:
        data = make_data(np.zeros((n, p), np.float32), np.zeros((n, v), np.float32), folds=np.arange(n) % k)
        return ridge_form.forms(data, 10, 1)[0].build

    assert chosen(1000, 20, 500, 5) is FoldGram  # many rows
    assert chosen(300, 150, 20, 12) is PrimalRows  # many folds
    assert chosen(50, 400, 20, 5) is DualRows  # many features


def test_single_precision_with_large_means_agrees_with_double_precision() -> None:
    X, Y = problem(300, 40)
    X += 1000.0
    folds = np.arange(300) % 5
    double = ridge_cv(X, Y, folds=folds)
    single = ridge_cv(X.astype(np.float32), Y.astype(np.float32), folds=folds)
    assert single.coef.dtype == np.float32
    assert_allclose(single.alpha, double.alpha, rtol=1e-3)
    assert_allclose(single.predict(X.astype(np.float32)), double.predict(X), atol=2e-2)


@pytest.mark.parametrize(("n_rows", "n_features", "form"), FORMS)
def test_a_fit_in_the_least_memory_reads_in_batches_and_is_the_same(
    n_rows, n_features, form, only, monkeypatch, tmp_path: Path
) -> None:
    only(form)
    X, Y = problem(n_rows, n_features)
    for name, table in (("X", X), ("Y", Y)):
        np.save(tmp_path / name, table)
    mapped = [np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in ("X", "Y")]
    folds, limit, at_once = np.arange(n_rows) % 3, 1000.0, []

    def make(*args: Any, **kwargs: Any) -> Any:
        found = ridge_form.make_problem(*args, **kwargs)
        at_once.append(found[1])
        return found

    monkeypatch.setattr(ridge_module, "make_problem", make)
    streamed = None
    while streamed is None:
        limit *= 1.02
        with suppress(InputError):
            streamed = ridge_cv(*mapped, folds=folds, max_memory=int(limit))
    assert at_once[-1] <= 2
    whole = ridge_cv(X, Y, folds=folds)
    assert at_once[-1] == 5
    for name in ("coef", "intercept", "alpha", "cv_r2"):
        assert_allclose(getattr(streamed, name), getattr(whole, name), rtol=1e-7, atol=1e-9)


def test_a_memory_limit_too_small_for_one_target_is_an_error() -> None:
    X, Y = problem(60, 8)
    with pytest.raises(
        InputError, match=r"`max_memory`: expected at least [\d,]+ bytes, what one target .*; found 100$"
    ):
        ridge_cv(X, Y, folds=3, max_memory=100)


def test_memory_stays_within_the_limit(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, columns in (("X", 128), ("Y", 12000)):
        np.save(tmp_path / name, rng.standard_normal((1500, columns), dtype=np.float32))
    X, Y = (np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in ("X", "Y"))
    ridge_cv(X[:, :8], Y[:, :8], folds=5)  # libraries allocate what they keep
    before, limit = anonymous_kb(), 24 * 2**20
    if before is None:
        pytest.skip("the system does not tell")
    with PeakMemory() as memory:
        fit = ridge_cv(X, Y, folds=5, max_memory=limit)
    results = sum(part.nbytes for part in (fit.coef, fit.intercept, fit.alpha, fit.cv_r2))
    assert memory.peak_kb is not None
    assert (memory.peak_kb - before) * 1024 <= limit + 1.5 * results + 4 * 2**20
    assert limit < Y.nbytes / 2


def test_a_cached_fit_is_the_same_fit_and_made_once(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    X, Y = problem(60, 8)
    folds = np.arange(60) % 3
    direct, first = ridge_cv(X, Y, folds=folds), cached_ridge_cv(tmp_path, X, Y, folds=folds)
    monkeypatch.setattr(ridge_module, "make_problem", None)  # a second fit would fail
    second = cached_ridge_cv(tmp_path, X, Y, folds=folds)
    for name in ("coef", "intercept", "alpha", "alphas", "cv_r2"):
        assert_array_equal(getattr(first, name), getattr(direct, name))
        assert_array_equal(getattr(second, name), getattr(direct, name))
    with pytest.raises(TypeError, match="not callable"):
        cached_ridge_cv(tmp_path, X + 1, Y, folds=folds)


@pytest.mark.parametrize(("n_rows", "n_features", "form"), FORMS)
def test_torch_in_gives_torch_out_and_the_same(n_rows, n_features, form, only) -> None:
    only(form)
    X, Y = problem(n_rows, n_features)
    folds = np.arange(n_rows) % 3
    fit, expected = (
        ridge_cv(torch.from_numpy(X), torch.from_numpy(Y), folds=folds),
        ridge_cv(X, Y, folds=folds),
    )
    for name in ("coef", "intercept", "alpha", "alphas", "cv_r2"):
        assert isinstance(getattr(fit, name), torch.Tensor)
        assert_allclose(getattr(fit, name).numpy(), getattr(expected, name), rtol=1e-7, atol=1e-10)
    assert_allclose(fit.predict(torch.from_numpy(X)).numpy(), expected.predict(X), rtol=1e-9)
    assert isinstance(fit.predict(X), np.ndarray)
    assert isinstance(expected.predict(torch.from_numpy(X)), torch.Tensor)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize(("n_rows", "n_features", "form"), FORMS)
def test_a_gpu_gives_the_same_fit_where_the_data_are(n_rows, n_features, form, only) -> None:
    only(form)
    X, Y = problem(n_rows, n_features)
    folds, expected = np.arange(n_rows) % 3, ridge_cv(X, Y, folds=np.arange(n_rows) % 3)
    there = ridge_cv(torch.from_numpy(X).cuda(), torch.from_numpy(Y).cuda(), folds=folds)
    here = ridge_cv(X, Y, folds=folds, device="cuda")
    assert there.coef.is_cuda
    for name in ("coef", "intercept", "alpha", "cv_r2"):
        assert_allclose(getattr(there, name).cpu().numpy(), getattr(expected, name), rtol=1e-6, atol=1e-8)
        assert_allclose(getattr(here, name), getattr(expected, name), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("dtype", [np.float16, np.int16])
def test_other_number_types_are_read_as_single_precision(dtype: Any) -> None:
    X, Y = problem(60, 8)
    X = (10 * X).astype(dtype)
    fit = ridge_cv(X, Y, folds=np.arange(60) % 3)
    expected = ridge_cv(X.astype(np.float64), Y, folds=np.arange(60) % 3)
    assert fit.coef.dtype == np.float32
    assert_allclose(fit.coef, expected.coef, rtol=1e-3, atol=1e-5)


def test_a_group_never_lies_in_two_folds() -> None:
    groups = np.random.default_rng(0).integers(0, 20, 100).astype(str)
    folds = group_folds(groups, 5, seed=3)
    assert all(len(set(folds[groups == g])) == 1 for g in set(groups))
    assert set(folds) == set(range(5))


@pytest.mark.parametrize(("n_rows", "n_features", "form"), FORMS)
def test_targets_with_nan_are_missing_and_spoil_no_other(n_rows, n_features, form, only) -> None:
    only(form)
    X, Y = problem(n_rows, n_features)
    folds, whole = np.arange(n_rows) % 3, ridge_cv(X, Y, folds=np.arange(n_rows) % 3)
    broken = Y.copy()
    broken[-1, 1], broken[:, 3] = np.nan, 7.0
    fit = ridge_cv(X, broken, folds=folds)
    assert np.isnan(fit.coef[:, 1]).all()
    assert np.isnan(fit.intercept[1])
    assert_array_equal(np.isnan(fit.alpha), [False, True, False, True, False])
    assert_array_equal(np.isnan(fit.cv_r2).all(axis=0), [False, True, False, True, False])
    assert_allclose(fit.predict(X)[:, 3], 7.0, rtol=1e-9)
    for name in ("coef", "intercept", "alpha", "cv_r2"):
        assert_allclose(getattr(fit, name)[..., ::2], getattr(whole, name)[..., ::2], rtol=1e-7, atol=1e-9)


def test_constant_features_do_no_harm() -> None:
    X, Y = problem(60, 8)
    X[:, 2] = 4.0
    fit = ridge_cv(X, Y, folds=np.arange(60) % 3)
    without = ridge_cv(np.delete(X, 2, axis=1), Y, folds=np.arange(60) % 3, alphas=fit.alphas, relative=False)
    assert_allclose(fit.coef[2], 0, atol=1e-12)
    assert_allclose(fit.predict(X), without.predict(np.delete(X, 2, axis=1)), rtol=1e-8)


def test_an_edge_of_the_grid_is_warned_about() -> None:
    X, Y = problem(60, 50)
    with pytest.warns(
        GridEdgeWarning, match=r"the smallest penalty of the grid is the best for \d of 5 targets \(\d+ %\)"
    ):
        ridge_cv(X, Y, folds=np.arange(60) % 4, alphas=[1e2, 1e3, 1e4])
    with pytest.warns(
        GridEdgeWarning, match=r"the largest penalty of the grid is the best for \d of 5 targets"
    ):
        ridge_cv(X, Y, folds=np.arange(60) % 4, alphas=[1e-4, 1e-3, 1e-2])


def test_penalties_that_single_precision_cannot_resolve_are_not_tried_and_that_is_said_where_it_matters() -> (
    None
):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((200, 20)) * np.logspace(0, -4, 20)
    Y = X @ (rng.standard_normal((20, 4)) * np.logspace(0, 4, 20)[:, None])  # all features matter as much
    alphas = np.logspace(-12, 2, 8)
    with pytest.warns(
        ConditioningWarning, match=r"resolves is the best for 4 of 4 targets .*double precision"
    ):
        single = ridge_cv(X.astype(np.float32), Y, folds=np.arange(200) % 5, alphas=alphas)
    double = ridge_cv(X, Y, folds=np.arange(200) % 5, alphas=alphas)
    untried = np.isnan(single.cv_r2)
    assert_array_equal(untried, untried[:, :1].repeat(4, axis=1))
    assert 0 < untried[:, 0].sum() < 8
    assert (double.alpha < single.alpha).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"folds": np.zeros(60, int)}, "at least two folds"),
        ({"folds": np.array([0, 2] * 30)}, r"none empty; found counts \[30, 0, 30\]"),
        ({"folds": np.full(60, 0.5)}, "a fold number for each row"),
        ({"folds": np.arange(59) % 3}, r"shape \(rows=60\); found \(59\)"),
        ({"folds": 61}, "2 to 60, the number of groups; found 61"),
        ({"alphas": [0.0, 1.0]}, "positive penalties"),
        ({"alphas": []}, "positive penalties"),
        ({"device": "tpu"}, "expected one of auto, cpu, cuda; found 'tpu'"),
    ],
)
def test_bad_arguments_are_named(change: dict, message: str) -> None:
    X, Y = problem(60, 8)
    with pytest.raises(InputError, match=message):
        ridge_cv(X, Y, **({"folds": np.arange(60) % 3} | change))


@pytest.mark.parametrize("shape", SHAPES)
def test_different_lengths_nan_features_and_hopeless_targets_are_refused(shape: tuple[int, int]) -> None:
    X, Y = problem(*shape)
    folds = np.arange(len(X)) % 3
    with pytest.raises(
        InputError, match=rf"`Y`: expected shape \(rows={len(X)}, targets\); found \({len(X) - 1}, 5\)"
    ):
        ridge_cv(X, Y[1:], folds=folds)
    with pytest.raises(InputError, match="`Y`: expected at least one target without NaN; found NaN in all 5"):
        ridge_cv(X, np.full_like(Y, np.nan), folds=folds)
    infinite = Y.copy()
    infinite[3, 2] = np.inf
    with pytest.raises(InputError, match="`Y`: expected finite values, or NaN where missing; found infinity"):
        ridge_cv(X, infinite, folds=folds)
    X[4, 1] = np.nan
    with pytest.raises(InputError, match="`X`: expected finite values; found NaN or infinity in 1 features"):
        ridge_cv(X, Y, folds=folds)


def test_too_many_folds_are_refused() -> None:
    with pytest.raises(InputError, match="2 to 3, the number of groups; found 4"):
        group_folds([1, 2, 3], 4)


def test_another_number_of_features_or_penalties_is_refused() -> None:
    X, Y = problem(60, 8)
    fit = solve_ridge(X, Y, 1.0)
    with pytest.raises(InputError, match=r"shape \(rows, features=8\); found \(60, 7\)"):
        fit.predict(X[:, 1:])
    with pytest.raises(InputError, match=r"`alpha`: expected shape \(targets=5\); found \(4\)"):
        solve_ridge(X, Y, np.ones(4))
    with pytest.raises(InputError, match="positive penalties"):
        solve_ridge(X, Y, 0.0)
