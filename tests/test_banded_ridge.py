"""Banded ridge against brute force, himalaya and plain ridge; what each band is said to explain."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.linear_model import Ridge
from sklearn.model_selection import PredefinedSplit

from braindecode_suite.core.errors import InputError
from braindecode_suite.learning import ridge_form
from braindecode_suite.learning.banded_ridge import banded_ridge_cv, number_bands, sample_gammas
from braindecode_suite.learning.fold_gram import FoldGram
from braindecode_suite.learning.leave_fold_out import DualRows, PrimalRows
from braindecode_suite.learning.ridge import ridge_cv

pytestmark = pytest.mark.filterwarnings("ignore::braindecode_suite.learning.ridge_warnings.GridEdgeWarning")
ALPHAS = np.logspace(-2, 4, 7)
FORMS = [(60, FoldGram), (60, PrimalRows), (60, DualRows), (15, DualRows)]
BANDS = np.array([1, 0, 1, 2, 2, 0, 1, 2, 0, 0, 1, 2])  # neighbours of different bands


def problem(n_rows: int, n_targets: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Targets that each depend on some of three bands."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n_rows, 12)) + 5
    strength = rng.dirichlet([0.5, 0.5, 0.5], n_targets).T  # (bands, targets)
    weights = rng.standard_normal((12, n_targets)) * np.sqrt(strength[BANDS])
    return X, X @ weights + np.linspace(0.3, 2, n_targets) * rng.standard_normal((n_rows, n_targets))


def only(monkeypatch: pytest.MonkeyPatch, form: Any) -> None:
    everything = ridge_form.forms
    monkeypatch.setattr(ridge_form, "forms", lambda *a: [f for f in everything(*a) if f.build is form])


@pytest.mark.parametrize(("n_rows", "form"), FORMS)
def test_weighting_penalty_and_weights_equal_a_search_by_scikit_learn(n_rows, form, monkeypatch) -> None:
    only(monkeypatch, form)
    X, Y = problem(n_rows)
    folds, gammas = np.arange(n_rows) % 4, sample_gammas(3, 8, concentration=[1.0], seed=2)
    fit = banded_ridge_cv(
        X, Y, bands=BANDS, folds=folds, gammas=gammas, alphas=ALPHAS, relative=False, prune=False
    )
    errors = np.zeros((len(gammas), len(ALPHAS), Y.shape[1]))
    for g, gamma in enumerate(gammas):
        scaled = X * np.sqrt(gamma[BANDS])
        for a, alpha in enumerate(ALPHAS):
            for fold in range(4):
                held = folds == fold
                model = Ridge(alpha=alpha, solver="svd").fit(scaled[~held], Y[~held])
                errors[g, a] += ((Y[held] - model.predict(scaled[held])) ** 2).sum(axis=0)
    total = sum(((Y[folds == f] - Y[folds != f].mean(axis=0)) ** 2).sum(axis=0) for f in range(4))
    assert_allclose(fit.cv_r2, 1 - errors.min(axis=1) / total, rtol=1e-6, atol=1e-9)
    best = errors.min(axis=1).argmin(axis=0)
    assert len(set(best)) > 2, "the targets of this problem want different weightings"
    assert_allclose(fit.gamma, gammas[best].T)
    for t, g in enumerate(best):
        assert fit.alpha[t] == ALPHAS[errors[g, :, t].argmin()]
        scale = np.sqrt(gammas[g][BANDS])
        expected = Ridge(alpha=fit.alpha[t], solver="cholesky").fit(X * scale, Y[:, t])
        assert_allclose(fit.coef[:, t], expected.coef_ * scale, rtol=1e-6, atol=1e-9)
        assert_allclose(fit.intercept[t], expected.intercept_, rtol=1e-6)


def test_himalaya_finds_the_same_weightings() -> None:
    himalaya = pytest.importorskip("himalaya.ridge", reason="himalaya is not installed")
    X, Y = problem(60, n_targets=20)
    folds, gammas = np.arange(60) % 4, sample_gammas(3, 12, concentration=[1.0])
    theirs = himalaya.GroupRidgeCV(
        groups=BANDS,
        fit_intercept=True,
        cv=PredefinedSplit(folds),
        solver_params={"n_iter": gammas, "alphas": ALPHAS, "progress_bar": False, "warn": False},
    ).fit(X, Y)
    ours = banded_ridge_cv(
        X, Y, bands=BANDS, folds=folds, gammas=gammas, alphas=ALPHAS, relative=False, prune=False
    )
    deltas = np.log(ours.gamma / ours.alpha)
    assert_allclose(deltas, np.asarray(theirs.deltas_), rtol=1e-8)
    by_band = np.argsort(BANDS, kind="stable")  # himalaya's weights lie band by band
    assert_allclose(ours.coef[by_band], np.asarray(theirs.coef_), rtol=1e-6, atol=1e-8)


def test_one_band_is_plain_ridge() -> None:
    X, Y = problem(60)
    folds = np.arange(60) % 4
    plain, banded = ridge_cv(X, Y, folds=folds), banded_ridge_cv(X, Y, bands=1, folds=folds)
    assert_array_equal(banded.alpha, plain.alpha)
    assert_allclose(banded.coef, plain.coef, rtol=1e-9)
    assert_allclose(banded.cv_r2[0], plain.cv_r2.max(axis=0), rtol=1e-9)


@pytest.mark.parametrize(("n_rows", "form"), FORMS)
def test_batches_of_targets_give_the_same_fit(n_rows, form, monkeypatch) -> None:
    only(monkeypatch, form)
    X, Y = problem(n_rows)
    settings: dict[str, Any] = {"bands": BANDS, "folds": np.arange(n_rows) % 3, "gammas": 7}
    whole = banded_ridge_cv(X, Y, **settings)
    make, at_once = ridge_form.make_problem, []

    def two_at_a_time(*args: Any, **kwargs: Any) -> Any:
        found, width = make(*args, **kwargs)
        at_once.append(width)
        return found, 2

    monkeypatch.setattr("braindecode_suite.learning.banded_ridge.make_problem", two_at_a_time)
    batched = banded_ridge_cv(X, Y, **settings)
    assert at_once == [6]
    for name in ("coef", "intercept", "alpha", "gamma", "cv_r2"):
        assert_allclose(getattr(batched, name), getattr(whole, name), rtol=1e-8, atol=1e-10)


def test_pruning_gives_up_much_and_changes_almost_no_winner() -> None:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((600, 60))
    strength = rng.dirichlet([0.3, 0.3, 0.3], 300).T.repeat(20, axis=0)
    Y = X @ (rng.standard_normal((60, 300)) * np.sqrt(strength)) + 5 * rng.standard_normal((600, 300))
    settings: dict[str, Any] = {"bands": 3, "folds": 5, "gammas": 30}
    full, pruned = (banded_ridge_cv(X, Y, prune=prune, **settings) for prune in (False, True))
    assert not np.isnan(full.cv_r2).any()
    assert np.isnan(pruned.cv_r2).mean() > 0.1
    same = (full.gamma == pruned.gamma).all(axis=0)
    assert same.mean() >= 0.99
    assert_allclose(pruned.coef[:, same], full.coef[:, same], rtol=1e-9)
    assert (np.nanmax(full.cv_r2, axis=0) - np.nanmax(pruned.cv_r2, axis=0)).max() < 0.01


def test_bands_that_matter_get_the_weight_and_explain_the_variance() -> None:
    from braindecode_suite.metrics.encoding import encoding_r2, encoding_r2_split

    rng = np.random.default_rng(1)
    X = rng.standard_normal((900, 40))
    Y = X[:, :20] @ rng.standard_normal((20, 8)) + 2 * rng.standard_normal((900, 8))
    fit = banded_ridge_cv(X[:600], Y[:600], bands=["early"] * 20 + ["late"] * 20, folds=5, gammas=30)
    assert (fit.gamma[0] > 0.9).all()
    parts = fit.predict_bands(X[600:])
    assert parts.shape == (2, 300, 8)
    assert_allclose(parts.sum(axis=0) + Y[:600].mean(axis=0), fit.predict(X[600:]), rtol=1e-9)
    shares = encoding_r2_split(Y[600:], parts)
    assert_allclose(shares.sum(axis=0), encoding_r2(Y[600:], fit.predict(X[600:])), atol=0.01)
    assert (shares[0] > 0.7).all()
    assert (np.abs(shares[1]) < 0.02).all()


def test_missing_targets_are_scored_as_missing() -> None:
    X, Y = problem(60)
    settings: dict[str, Any] = {"bands": BANDS, "folds": np.arange(60) % 3, "gammas": 5}
    whole = banded_ridge_cv(X, Y, **settings)
    Y[4, 0], Y[:, 2] = np.nan, 3.0
    fit = banded_ridge_cv(X, Y, **settings)
    missing = np.array([True, False, True, False, False, False])
    assert_array_equal(np.isnan(fit.cv_r2).all(axis=0), missing)
    assert_array_equal(np.isnan(fit.alpha), missing)
    assert_array_equal(np.isnan(fit.gamma).all(axis=0), missing)
    assert np.isnan(fit.coef[:, 0]).all()
    assert_allclose(fit.predict(X)[:, 2], 3.0)
    assert_allclose(fit.coef[:, ~missing], whole.coef[:, ~missing], rtol=1e-9)


def test_torch_in_gives_torch_out_and_the_same() -> None:
    X, Y = problem(60)
    settings: dict[str, Any] = {"bands": BANDS, "folds": np.arange(60) % 3, "gammas": 5}
    expected = banded_ridge_cv(X, Y, **settings)
    fit = banded_ridge_cv(torch.from_numpy(X), torch.from_numpy(Y), **settings)
    for name in ("coef", "intercept", "alpha", "gamma", "gammas", "cv_r2", "x_mean"):
        assert isinstance(getattr(fit, name), torch.Tensor)
        assert_allclose(getattr(fit, name).numpy(), getattr(expected, name), rtol=1e-7, atol=1e-10)
    parts = fit.predict_bands(torch.from_numpy(X))
    assert isinstance(parts, torch.Tensor)
    assert_allclose(parts.numpy(), expected.predict_bands(X), rtol=1e-7, atol=1e-9)


def test_weightings_are_drawn_on_the_simplex_by_the_seed() -> None:
    gammas = sample_gammas(4, 50, seed=3)
    assert_allclose(gammas.sum(axis=1), 1)
    assert_allclose(gammas[0], 0.25)
    assert_array_equal(gammas, sample_gammas(4, 50, seed=3))
    assert not (gammas == sample_gammas(4, 50, seed=4)).all(axis=1)[1:].any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bands": 13}, r"a divisor of the 12 features.*; found 13 bands, more than features"),
        ({"bands": 5}, "a divisor of the 12 features, or the name of each feature's band; found 5 bands"),
        ({"bands": list(range(20))}, "found 20 names of 20 bands, more than features"),
        ({"bands": ["a"] * 11}, "the name of the band of each of 12 features; found 11 names of 1 bands"),
        ({"gammas": np.ones((4, 2))}, r"`gammas`: expected shape \(candidates, bands=3\); found \(4, 2\)"),
        ({"gammas": -np.ones((4, 3))}, "weights, none negative and none all zero"),
        ({"gammas": 0}, "at least one candidate; found 0"),
        ({"max_memory": 10}, "what one target of this problem takes; found 10"),
        ({"alphas": [-1.0]}, "positive penalties"),
    ],
)
def test_bad_arguments_are_named(change: dict, message: str) -> None:
    X, Y = problem(60)
    with pytest.raises(InputError, match=message):
        banded_ridge_cv(X, Y, **({"bands": BANDS, "folds": 4} | change))


def test_named_bands_come_in_order_of_appearance_and_numbered_ones_in_their_own() -> None:
    numbers, names = number_bands(np.array(["b", "a", "b"]), 3)
    assert (numbers.tolist(), names) == ([0, 1, 0], ("b", "a"))
    numbers, names = number_bands([12, 5, 12], 3)
    assert (numbers.tolist(), names) == ([1, 0, 1], ("5", "12"))
    numbers, names = number_bands(2, 4)
    assert (numbers.tolist(), names) == ([0, 0, 1, 1], ("band-0", "band-1"))
