"""Ridge regression of many targets with a penalty per target, chosen by grouped k-fold cross-validation.

What does not depend on targets and penalties is decomposed once, on the side of the features or of the rows, whichever is
cheaper (`ridge_form`); a further penalty then costs one product and a further target one column. Data are read in blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from braindecode_suite.core.cache import ArrayCache
from braindecode_suite.core.checks import check_shape
from braindecode_suite.core.files import data_hash
from braindecode_suite.learning.block_reader import column_blocks, like
from braindecode_suite.learning.folds import group_folds
from braindecode_suite.learning.linear_map import LinearMap, predict_linear
from braindecode_suite.learning.penalties import RELATIVE_ALPHAS, penalty_grid, resolved, warn_at_edges
from braindecode_suite.learning.ridge_form import MAX_MEMORY, make_problem
from braindecode_suite.learning.ridge_problem import RidgeData, make_data

ONE_BAND = (1.0,)


@dataclass(frozen=True, kw_only=True)
class RidgeFit:
    """A fitted linear map ``X @ coef + intercept``; numpy, or torch where the predictors were.

    Attributes
    ----------
    coef : array of shape (features, targets)
        NaN for targets that hold NaN, zero for targets that never vary.
    intercept : array of shape (targets,)
    alpha : array of shape (targets,)
        The penalty of each target; NaN where the target is missing (it holds NaN or never varies).
    alphas : array of shape (alphas,)
        The grid that was searched; empty when nothing was searched.
    cv_r2 : array of shape (alphas, targets)
        Cross-validated coefficient of determination, against the training mean of each fold; NaN where the target is
        missing, and at penalties too small for the precision.
    """

    coef: Any
    intercept: Any
    alpha: Any
    alphas: Any
    cv_r2: Any

    def predict(self, X: Any) -> Any:
        """Return predictions of shape (rows, targets) for `X` of shape (rows, features), numpy or torch as `X` is."""
        return predict_linear(X, self.coef, self.intercept)


@torch.no_grad()
def solve_ridge(
    X: Any, Y: Any, alpha: float | np.ndarray, *, max_memory: int = MAX_MEMORY, device: str | None = None
) -> RidgeFit:
    """Solve ``argmin_W ||X W + b - Y||^2 + sum_t alpha_t ||w_t||^2`` with an unpenalised intercept.

    Parameters
    ----------
    X : array of shape (rows, features)
    Y : array of shape (rows, targets)
    alpha : float or array of shape (targets,)
        Penalty of each target, in the units of ``X.T @ X``.
    max_memory, device
        See `ridge_cv`.

    Returns
    -------
    RidgeFit
    """
    data = make_data(X, Y, device=device)
    if np.ndim(alpha):
        check_shape("alpha", alpha, "targets", targets=data.n_targets)
    problem, at_once = make_problem(data, n_alphas=0, n_candidates=1, max_memory=max_memory)
    fitted = LinearMap(problem, data)
    penalty_grid(alpha)
    given = torch.ones(data.n_targets, dtype=torch.float64, device=data.device)
    given *= torch.as_tensor(alpha, device=data.device)
    for columns in column_blocks(data.n_targets, at_once):
        batch = problem.batch(columns)
        fitted.note_missing(columns, batch)
        fitted.add(columns, batch, batch.trial(ONE_BAND).solve(given[columns]))
    fitted.check()
    given[fitted.missing.to(given.device)] = torch.nan
    nothing = given.new_empty(0, data.n_targets)
    return _fit(data, fitted, given, nothing[:, 0], nothing)


@torch.no_grad()
def ridge_cv(
    X: Any,
    Y: Any,
    *,
    folds: int | np.ndarray,
    alphas: Sequence[float] | np.ndarray = RELATIVE_ALPHAS,
    relative: bool = True,
    max_memory: int = MAX_MEMORY,
    device: str | None = None,
) -> RidgeFit:
    """Fit ridge with the penalty of each target that has the least squared error on held-out folds.

    Parameters
    ----------
    X : array of shape (rows, features)
        numpy, memory-mapped or torch. Products are in double precision if it is, else in single precision; Gram matrices
        and decompositions are in double precision.
    Y : array of shape (rows, targets)
        A target that holds NaN, or never varies, is missing: its score and penalty are NaN.
    folds : int or array of int of shape (rows,)
        Fold of each row, 0 to k - 1, or -1 for rows never held out; see `group_folds`. A number deals single rows out.
    alphas : sequence of float
        Grid of penalties.
    relative : bool
        Whether `alphas` are in units of the mean eigenvalue of the centred ``X.T @ X``.
    max_memory : int
        Bytes that may be taken beyond data and results. Targets, rows and features are read in batches that fit.
    device : {'auto', 'cpu', 'cuda'}, optional
        Where to compute; by default where `X` is. Results come back there in any case.

    Returns
    -------
    RidgeFit

    Raises
    ------
    InputError
        If shapes do not agree, `X` is not finite, `Y` is infinite or NaN in all targets, a fold is empty, or not even one
        target fits in `max_memory`.

    Warns
    -----
    GridEdgeWarning
        If targets that can be predicted have their best penalty at an edge of the grid.
    ConditioningWarning
        If it is the smallest that single precision can tell from none.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((40, 3))
    >>> fit = ridge_cv(X, X @ np.ones((3, 2)) + rng.standard_normal((40, 2)), folds=4)
    >>> fit.coef.shape, fit.alpha.shape
    ((3, 2), (2,))
    """
    folds = group_folds(np.arange(len(X)), folds) if isinstance(folds, int) else np.asarray(folds)
    data = make_data(X, Y, folds=folds, device=device)
    penalty_grid(alphas)
    problem, at_once = make_problem(data, len(alphas), n_candidates=1, max_memory=max_memory)
    fitted = LinearMap(problem, data)
    grid = penalty_grid(alphas, problem.mean_eigenvalue() if relative else 1.0).to(data.device)
    best = torch.empty(data.n_targets, dtype=torch.int64, device=data.device)
    cv_r2 = torch.full((len(grid), data.n_targets), torch.nan, dtype=torch.float64, device=data.device)
    first = 0
    for columns in column_blocks(data.n_targets, at_once):
        batch = problem.batch(columns)
        missing = fitted.note_missing(columns, batch)
        trial = batch.trial(ONE_BAND)
        first = resolved(grid, trial.largest_eigenvalue(), data.dtype)
        error = trial.errors(0, grid[first:])
        for fold in range(1, data.n_folds):
            error += trial.errors(fold, grid[first:])
        best[columns] = first + error.argmin(dim=0)
        fitted.add(columns, batch, trial.solve(grid[best[columns]]))
        cv_r2[first:, columns] = (1 - error / batch.total.sum(dim=0)).masked_fill_(missing, torch.nan)
    fitted.check()
    warn_at_edges(best.cpu().numpy(), cv_r2.cpu().numpy(), first)
    alpha = grid[best].masked_fill_(fitted.missing.to(grid.device), torch.nan)
    return _fit(data, fitted, alpha, grid, cv_r2)


def cached_ridge_cv(
    cache_dir: Path,
    X: np.ndarray,
    Y: np.ndarray,
    *,
    folds: np.ndarray,
    alphas: Sequence[float] | np.ndarray = RELATIVE_ALPHAS,
    max_memory: int = MAX_MEMORY,
) -> RidgeFit:
    """Return `ridge_cv`, kept in a folder under a hash of all it was given: models that start from ridge share it."""
    key = {"ridge": data_hash(X, Y, np.asarray(folds), np.asarray(alphas, dtype=np.float64))}

    def compute() -> np.ndarray:
        fit = ridge_cv(X, Y, folds=folds, alphas=alphas, max_memory=max_memory)
        rows = np.vstack([fit.coef, fit.intercept[None], fit.alpha[None], fit.cv_r2])
        grid = np.concatenate([np.zeros(len(fit.coef) + 2), fit.alphas])
        return np.column_stack([rows, grid]).astype(fit.coef.dtype)

    table, p = np.array(ArrayCache(cache_dir).get(key, compute)), X.shape[1]
    values = table[:, :-1]
    return RidgeFit(
        coef=np.ascontiguousarray(values[:p]),
        intercept=values[p],
        alpha=values[p + 1].astype(np.float64),
        alphas=table[p + 2 :, -1].astype(np.float64),
        cv_r2=values[p + 2 :].astype(np.float64),
    )


def _fit(data: RidgeData, fitted: LinearMap, alpha: Tensor, alphas: Tensor, cv_r2: Tensor) -> RidgeFit:
    parts = (like(data.X.table, part) for part in (fitted.coef, fitted.intercept, alpha, alphas, cv_r2))
    coef, intercept, alpha, alphas, cv_r2 = parts
    return RidgeFit(coef=coef, intercept=intercept, alpha=alpha, alphas=alphas, cv_r2=cv_r2)
