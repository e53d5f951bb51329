"""scikit-learn estimators around `ridge_cv` and `banded_ridge_cv`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, MultiOutputMixin, RegressorMixin
from sklearn.metrics import r2_score
from sklearn.model_selection import GroupKFold, KFold, check_cv
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from braindecode_suite.core.checks import check_shape
from braindecode_suite.learning.banded_ridge import BandedRidgeFit, banded_ridge_cv
from braindecode_suite.learning.folds import folds_of_splits
from braindecode_suite.learning.penalties import RELATIVE_ALPHAS
from braindecode_suite.learning.ridge import RidgeFit, ridge_cv
from braindecode_suite.learning.ridge_form import MAX_MEMORY
from braindecode_suite.learning.ridge_warnings import MissingTargetWarning, warn

FLOATS = [np.float64, np.float32, np.float16]


class RidgeCV(MultiOutputMixin, RegressorMixin, BaseEstimator):
    """Ridge regression of many targets, each with its own penalty, chosen by k-fold cross-validation.

    Takes numpy (also memory-mapped) or torch and answers in kind, on the same device.

    Parameters
    ----------
    alphas : sequence of float
        Grid of penalties.
    relative : bool
        Whether they are in units of the mean eigenvalue of the centred ``X.T @ X``.
    cv : int, splitter or iterable of (array of int, array of int)
        A number is that of folds: of ``GroupKFold`` if `fit` is given groups, else of ``KFold``. A split must train on all
        rows that it does not hold out.
    max_memory : int
        Bytes that may be taken beyond data and results.
    device : {'auto', 'cpu', 'cuda'}, optional
        Where to compute; by default where the data are.

    Attributes
    ----------
    coef_ : array of shape (targets, features) or (features,)
        NaN for targets that hold NaN.
    intercept_ : array of shape (targets,) or float
    alpha_ : array of shape (targets,) or float
        In the units of ``X.T @ X``; NaN for missing targets: those that hold NaN or never vary.
    alphas_ : array of shape (alphas,)
        The grid in the same units.
    cv_r2_ : array of shape (alphas, targets)
        Cross-validated coefficient of determination; NaN for missing targets.
    n_missing_ : int
        Missing targets; a `MissingTargetWarning` says how many hold NaN and how many never vary.
    fit_ : RidgeFit
    n_features_in_ : int

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X, weights = rng.standard_normal((100, 5)), rng.standard_normal((5, 30))
    >>> model = RidgeCV().fit(X[:80], X[:80] @ weights, groups=np.arange(80) // 2)
    >>> round(model.score(X[80:], X[80:] @ weights), 3)
    1.0
    """

    def __init__(
        self,
        alphas: Sequence[float] | np.ndarray = RELATIVE_ALPHAS,
        *,
        relative: bool = True,
        cv: Any = 5,
        max_memory: int = MAX_MEMORY,
        device: str | None = None,
    ) -> None:
        self.alphas, self.relative, self.cv = alphas, relative, cv
        self.max_memory, self.device = max_memory, device

    def fit(self, X: Any, y: Any, groups: Any = None) -> RidgeCV:
        """Fit to `X` (rows, features) and `y` (rows, targets) or (rows,); rows of one group share a fold."""
        X, Y = _check_training(self, X, y)
        self.fit_ = ridge_cv(
            X,
            Y,
            folds=_folds(self.cv, groups, len(X)),
            alphas=self.alphas,
            relative=self.relative,
            max_memory=self.max_memory,
            device=self.device,
        )
        self.alphas_, self.cv_r2_ = self.fit_.alphas, self.fit_.cv_r2
        _set_map(self, self.fit_)
        return self

    def predict(self, X: Any) -> Any:
        """Return predictions of shape (rows, targets), or (rows,) where `y` had that shape."""
        check_is_fitted(self)
        return _as_fitted(self, self.fit_.predict(_check_test(self, X)))

    def score(self, X: Any, y: Any) -> float:
        """Return the mean over targets of R2, as scikit-learn's; missing targets (of the fit or of `y`) are left out."""
        return _mean_r2(y, self.predict(X))


class BandedRidgeCV(MultiOutputMixin, RegressorMixin, BaseEstimator):
    """Banded ridge of many targets: each chooses its weights of the bands of features and its penalty.

    Takes numpy (also memory-mapped) or torch and answers in kind, on the same device.

    Parameters
    ----------
    bands : array of shape (features,), int or None
        Name of each feature's band, or into how many neighbouring bands of equal width to cut; None is one band.
    gammas : int or array of shape (candidates, bands)
        How many weightings are drawn, or the weightings to try.
    alphas, relative, cv, max_memory, device
        See `RidgeCV`.
    prune : bool
        Whether hopeless weightings are given up after the first fold, see `banded_ridge_cv`.
    random_state : int
        Seed of the weightings drawn.

    Attributes
    ----------
    coef_, intercept_, alpha_, alphas_, n_missing_, n_features_in_
        As of `RidgeCV`.
    gamma_ : array of shape (bands, targets)
        The weights chosen; a band's own penalty is ``alpha_ / gamma_``.
    gammas_ : array of shape (candidates, bands)
    cv_r2_ : array of shape (candidates, targets)
        Of each weighting at its best penalty; NaN for missing targets and where it was given up.
    band_names_ : tuple of str
    fit_ : BandedRidgeFit

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((100, 6))
    >>> Y = X[:, :3] @ np.ones((3, 4)) + rng.standard_normal((100, 4))
    >>> model = BandedRidgeCV(["early"] * 3 + ["late"] * 3, gammas=20).fit(X, Y)
    >>> model.band_names_, model.predict_bands(X).shape
    (('early', 'late'), (2, 100, 4))
    """

    def __init__(
        self,
        bands: Any = None,
        *,
        gammas: Any = 100,
        alphas: Sequence[float] | np.ndarray = RELATIVE_ALPHAS,
        relative: bool = True,
        cv: Any = 5,
        prune: bool = True,
        random_state: int = 0,
        max_memory: int = MAX_MEMORY,
        device: str | None = None,
    ) -> None:
        self.bands, self.gammas, self.alphas, self.relative, self.cv = bands, gammas, alphas, relative, cv
        self.prune, self.random_state, self.max_memory, self.device = prune, random_state, max_memory, device

    def fit(self, X: Any, y: Any, groups: Any = None) -> BandedRidgeCV:
        """Fit to `X` (rows, features) and `y` (rows, targets) or (rows,); rows of one group share a fold."""
        X, Y = _check_training(self, X, y)
        self.fit_ = banded_ridge_cv(
            X,
            Y,
            bands=1 if self.bands is None else self.bands,
            folds=_folds(self.cv, groups, len(X)),
            gammas=self.gammas,
            alphas=self.alphas,
            relative=self.relative,
            prune=self.prune,
            seed=self.random_state,
            max_memory=self.max_memory,
            device=self.device,
        )
        self.alphas_, self.gammas_, self.gamma_ = self.fit_.alphas, self.fit_.gammas, self.fit_.gamma
        self.cv_r2_, self.band_names_ = self.fit_.cv_r2, self.fit_.names
        _set_map(self, self.fit_)
        return self

    def predict(self, X: Any) -> Any:
        """Return predictions of shape (rows, targets), or (rows,) where `y` had that shape."""
        check_is_fitted(self)
        return _as_fitted(self, self.fit_.predict(_check_test(self, X)))

    def predict_bands(self, X: Any) -> Any:
        """Return what each band adds to the mean response: (bands, rows, targets), or (bands, rows) as of `predict`."""
        check_is_fitted(self)
        return _as_fitted(self, self.fit_.predict_bands(_check_test(self, X)))

    def score(self, X: Any, y: Any) -> float:
        """Return the mean over targets of R2, as scikit-learn's; missing targets (of the fit or of `y`) are left out."""
        return _mean_r2(y, self.predict(X))


def _check_training(model: Any, X: Any, y: Any) -> tuple[Any, Any]:
    if isinstance(X, Tensor):
        check_shape("X", X, "rows features")
        model.n_features_in_ = X.shape[1]
    else:
        numbers = {"dtype": "numeric", "ensure_2d": False, "ensure_all_finite": "allow-nan"}
        y = y.cpu().numpy() if isinstance(y, Tensor) else y
        X, y = validate_data(model, X, y, validate_separately=({"dtype": FLOATS}, numbers))
    model._one_target = y.ndim == 1
    return X, y[:, None] if y.ndim == 1 else y


def _check_test(model: Any, X: Any) -> Any:
    return X if isinstance(X, Tensor) else validate_data(model, X, reset=False, dtype=FLOATS)


def _folds(cv: Any, groups: Any, n_rows: int) -> np.ndarray:
    if isinstance(cv, int | np.integer):
        cv = KFold(cv) if groups is None else GroupKFold(cv)
    return folds_of_splits(check_cv(cv).split(np.zeros((n_rows, 1)), None, groups), n_rows)


def _set_map(model: Any, fit: RidgeFit | BandedRidgeFit) -> None:
    alpha = fit.alpha
    model.n_missing_, n_nan = (int((part != part).sum()) for part in (alpha, fit.intercept))
    if model.n_missing_:
        counts = f"{n_nan} with NaN and {model.n_missing_ - n_nan} that never vary"
        text = f"of {len(alpha)} targets, {counts}: they are scored as missing (NaN)"
        warn(text, MissingTargetWarning)
    model.coef_, model.intercept_, model.alpha_ = fit.coef.T, fit.intercept, alpha
    if model._one_target:
        model.coef_, model.intercept_, model.alpha_ = fit.coef[:, 0], fit.intercept[0], alpha[0]


def _as_fitted(model: Any, predicted: Any) -> Any:
    return predicted[..., 0] if model._one_target else predicted


def _mean_r2(y: Any, predicted: Any) -> float:
    truth, predicted = (
        np.asarray(part.cpu() if isinstance(part, torch.Tensor) else part) for part in (y, predicted)
    )
    truth, predicted = truth.reshape(len(truth), -1), predicted.reshape(len(predicted), -1)
    check_shape("y", truth, "rows targets", rows=len(predicted), targets=predicted.shape[1])
    known = np.isfinite(truth).all(axis=0) & np.isfinite(predicted).all(axis=0) & (np.ptp(truth, axis=0) > 0)
    if not known.any():
        return float("nan")
    return float(np.mean(r2_score(truth[:, known], predicted[:, known], multioutput="raw_values")))
