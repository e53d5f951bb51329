"""Ridge regression of many targets with a penalty per target, chosen by grouped k-fold cross-validation.

The folds' Gram matrices are made once, in one pass over the rows; a fold's training Gram is the total minus its own.
Everything after that happens in an eigenbasis, so that a further penalty costs one product and a further target one column.
With fewer rows than features the same is done on the rows' side (the dual form).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from braindecode_suite.core.cache import ArrayCache
from braindecode_suite.core.checks import check_shape
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.files import data_hash

RELATIVE_ALPHAS = tuple(float(alpha) for alpha in np.logspace(-3, 4, 15))
"""Penalties in units of the mean eigenvalue of the Gram matrix of the centred predictors."""


class GridEdgeWarning(UserWarning):
    """The best penalty of a predictable target lies at the edge of the grid."""


@dataclass(frozen=True, kw_only=True)
class RidgeFit:
    """A fitted linear map ``X @ coef + intercept``.

    Attributes
    ----------
    coef : array of shape (features, targets)
    intercept : array of shape (targets,)
    alpha : array of shape (targets,)
        The penalty of each target.
    alphas : array of shape (alphas,)
        The grid that was searched; empty when nothing was searched.
    cv_r2 : array of shape (alphas, targets)
        Cross-validated coefficient of determination, against the training mean of each fold.
    """

    coef: np.ndarray
    intercept: np.ndarray
    alpha: np.ndarray
    alphas: np.ndarray
    cv_r2: np.ndarray

    def predict(self, X: Any) -> np.ndarray:
        """Return predictions of shape (rows, targets) for `X` of shape (rows, features)."""
        X = as_numpy(X)
        check_shape("X", X, "rows features", features=self.coef.shape[0])
        return np.asarray(X, dtype=self.coef.dtype) @ self.coef + self.intercept


def as_numpy(array: Any) -> np.ndarray:
    """Return `array` as numpy without copying where that is possible; torch tensors are taken off their device."""
    if hasattr(array, "detach"):
        array = array.detach().cpu().numpy()
    return array if isinstance(array, np.ndarray) else np.asarray(array)


def group_folds(groups: Sequence[Any] | np.ndarray, n_folds: int, *, seed: int = 0) -> np.ndarray:
    """Assign every row to a fold so that no group lies in two folds.

    Parameters
    ----------
    groups : array of shape (rows,)
        For instance the stimulus id of each row.
    n_folds : int
    seed : int
        Order in which the groups are dealt out.

    Returns
    -------
    array of int of shape (rows,)

    Examples
    --------
    >>> folds = group_folds(["a", "b", "a", "c"], 2)
    >>> bool(folds[0] == folds[2])
    True
    """
    names, which = np.unique(np.asarray(groups), return_inverse=True)
    if not 2 <= n_folds <= len(names):
        raise InputError("`n_folds`", expected=f"2 to {len(names)}, the number of groups", found=str(n_folds))
    order = np.random.default_rng(seed).permutation(len(names))
    fold_of_group = np.empty(len(names), dtype=np.int64)
    fold_of_group[order] = np.arange(len(names)) % n_folds
    return fold_of_group[which]


def solve_ridge(X: Any, Y: Any, alpha: float | np.ndarray, *, block: int = 4096) -> RidgeFit:
    """Solve ``argmin_W ||X W + b - Y||^2 + sum_t alpha_t ||w_t||^2`` with an unpenalised intercept.

    Parameters
    ----------
    X : array of shape (rows, features)
    Y : array of shape (rows, targets)
    alpha : float or array of shape (targets,)
        Penalty of each target, in the units of ``X.T @ X``.
    block : int
        Rows read at once; `X` and `Y` may be memory-mapped.

    Returns
    -------
    RidgeFit
    """
    X, Y = _check(X, Y)
    alpha = np.broadcast_to(np.asarray(alpha, dtype=np.float64), (Y.shape[1],)).copy()
    one_fold = np.zeros(len(X), dtype=np.int64)
    problem = _make_problem(X, Y, one_fold, 1, block)
    coef, intercept = problem.refit(alpha)
    empty = np.empty(0)
    return RidgeFit(
        coef=coef, intercept=intercept, alpha=alpha, alphas=empty, cv_r2=np.empty((0, Y.shape[1]))
    )


def ridge_cv(
    X: Any,
    Y: Any,
    *,
    folds: np.ndarray,
    alphas: Sequence[float] | np.ndarray = RELATIVE_ALPHAS,
    relative: bool = True,
    block: int = 4096,
) -> RidgeFit:
    """Fit ridge with the penalty of each target that has the least squared error on held-out folds.

    Parameters
    ----------
    X : array of shape (rows, features)
    Y : array of shape (rows, targets)
    folds : array of int of shape (rows,)
        Fold of each row, 0 to k - 1; see `group_folds`.
    alphas : sequence of float
        Grid of penalties.
    relative : bool
        Whether `alphas` are in units of the mean eigenvalue of the centred ``X.T @ X``.
    block : int
        Rows read at once; `X` and `Y` may be memory-mapped.

    Returns
    -------
    RidgeFit

    Warns
    -----
    GridEdgeWarning
        If targets that can be predicted have their best penalty at an edge of the grid.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((40, 3))
    >>> fit = ridge_cv(X, X @ np.ones((3, 2)) + rng.standard_normal((40, 2)), folds=np.arange(40) % 4)
    >>> fit.coef.shape, fit.alpha.shape
    ((3, 2), (2,))
    """
    X, Y = _check(X, Y)
    folds = np.asarray(folds)
    check_shape("folds", folds, "rows", rows=len(X))
    n_folds = int(folds.max()) + 1
    if n_folds < 2 or np.bincount(folds, minlength=n_folds).min() == 0:
        raise InputError(
            "`folds`", expected="at least two folds, none empty", found=f"counts {np.bincount(folds)}"
        )
    problem = _make_problem(X, Y, folds, n_folds, block)
    grid = np.sort(np.asarray(alphas, dtype=np.float64))
    if len(grid) == 0 or grid[0] <= 0:
        raise InputError("`alphas`", expected="positive penalties", found=str(list(alphas)))
    if relative:
        grid = grid * problem.mean_eigenvalue()
    error = np.zeros((len(grid), Y.shape[1]))
    total = np.zeros(Y.shape[1])
    for fold in range(n_folds):
        fold_error, fold_total = problem.heldout_error(fold, grid)
        error += fold_error
        total += fold_total
    best = error.argmin(axis=0)
    cv_r2 = 1 - error / np.where(total > 0, total, 1)
    _warn_at_edges(best, cv_r2, len(grid))
    coef, intercept = problem.refit(grid[best])
    return RidgeFit(coef=coef, intercept=intercept, alpha=grid[best], alphas=grid, cv_r2=cv_r2)


def cached_ridge_cv(
    cache_dir: Path,
    X: Any,
    Y: Any,
    *,
    folds: np.ndarray,
    alphas: Sequence[float] | np.ndarray = RELATIVE_ALPHAS,
) -> RidgeFit:
    """Return `ridge_cv`, kept in a folder under a hash of all it was given: models that start from ridge share it."""
    X, Y = _check(X, Y)
    key = {"ridge": data_hash(X, Y, np.asarray(folds), np.asarray(alphas, dtype=np.float64))}

    def compute() -> np.ndarray:
        fit = ridge_cv(X, Y, folds=folds, alphas=alphas)
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


class RidgeCV:
    """Estimator around `ridge_cv`.

    Parameters
    ----------
    alphas : sequence of float
        Penalties relative to the mean eigenvalue of the centred ``X.T @ X``.
    n_folds : int
    seed : int
        Order in which groups are dealt to folds.

    Attributes
    ----------
    fit_ : RidgeFit
    """

    def __init__(
        self, *, alphas: Sequence[float] | np.ndarray = RELATIVE_ALPHAS, n_folds: int = 5, seed: int = 0
    ) -> None:
        self.alphas, self.n_folds, self.seed = tuple(alphas), n_folds, seed

    def fit(self, X: Any, Y: Any, groups: Sequence[Any] | np.ndarray | None = None) -> RidgeCV:
        """Fit to `X` (rows, features) and `Y` (rows, targets); rows of one group share a fold."""
        folds = group_folds(np.arange(len(X)) if groups is None else groups, self.n_folds, seed=self.seed)
        self.fit_ = ridge_cv(X, Y, folds=folds, alphas=self.alphas)
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Return predictions of shape (rows, targets)."""
        return self.fit_.predict(X)


def _check(X: Any, Y: Any) -> tuple[np.ndarray, np.ndarray]:
    X, Y = as_numpy(X), as_numpy(Y)
    check_shape("X", X, "rows features")
    check_shape("Y", Y, "rows targets", rows=len(X))
    return X, Y


def _warn_at_edges(best: np.ndarray, cv_r2: np.ndarray, n_alphas: int) -> None:
    if n_alphas < 3:
        return
    for edge, inner, side in ((0, 1, "smallest"), (n_alphas - 1, n_alphas - 2, "largest")):
        rising = (
            cv_r2[edge] - cv_r2[inner] > 1e-3
        )  # a flat edge, or noise that wants the largest penalty, is no news
        count = int(((best == edge) & rising & (cv_r2[edge] > 0.01)).sum())
        if count:
            text = f"the {side} penalty of the grid is the best for {count} of {len(best)} targets: widen the grid"
            warnings.warn(text, GridEdgeWarning, stacklevel=3)


def _precision(X: np.ndarray) -> type[np.floating[Any]]:
    return np.float64 if X.dtype == np.float64 else np.float32


def _row_blocks(n_rows: int, block: int) -> Iterator[slice]:
    return (slice(start, min(start + block, n_rows)) for start in range(0, n_rows, block))


def _column_means(X: np.ndarray, block: int) -> np.ndarray:
    total = np.zeros(X.shape[1])
    for rows in _row_blocks(len(X), block):
        total += np.asarray(X[rows]).sum(axis=0, dtype=np.float64)
    return total / len(X)


def _eigh(gram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    values, vectors = np.linalg.eigh(gram)
    return np.maximum(values, 0), vectors


class _Problem:
    """One ridge problem, shifted by the column means so that float32 products lose nothing to large means."""

    def __init__(self, X: np.ndarray, Y: np.ndarray, folds: np.ndarray, n_folds: int, block: int) -> None:
        self.X, self.Y, self.folds, self.block = X, Y, folds, block
        self.dtype = _precision(X)
        self.x_mean, self.y_mean = _column_means(X, block), _column_means(Y, block)
        self.count = np.bincount(folds, minlength=n_folds)

    def rows(self, rows: slice | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return shifted predictors and targets of some rows, in the precision of the products."""
        x = np.asarray(self.X[rows], dtype=self.dtype) - self.x_mean.astype(self.dtype)
        y = np.asarray(self.Y[rows], dtype=self.dtype) - self.y_mean.astype(self.dtype)
        return x, y


class _Primal(_Problem):
    """At least as many rows as features: everything from p x p Grams and p x v cross-products of the folds."""

    def __init__(self, X: np.ndarray, Y: np.ndarray, folds: np.ndarray, n_folds: int, block: int) -> None:
        super().__init__(X, Y, folds, n_folds, block)
        p, v = X.shape[1], Y.shape[1]
        self.gram, self.cross = np.zeros((n_folds, p, p)), np.zeros((n_folds, p, v))
        self.x_sum, self.y_sum, self.y_square = (
            np.zeros((n_folds, p)),
            np.zeros((n_folds, v)),
            np.zeros((n_folds, v)),
        )
        for rows in _row_blocks(len(X), block):
            x_all, y_all = self.rows(rows)
            for fold in np.unique(folds[rows]):
                mine = folds[rows] == fold
                x, y = x_all[mine], y_all[mine]
                self.gram[fold] += x.T @ x
                self.cross[fold] += x.T @ y
                self.x_sum[fold] += x.sum(axis=0, dtype=np.float64)
                self.y_sum[fold] += y.sum(axis=0, dtype=np.float64)
                self.y_square[fold] += np.square(y, dtype=np.float64).sum(axis=0)
        self.gram_all, self.cross_all = self.gram.sum(axis=0), self.cross.sum(axis=0)

    def mean_eigenvalue(self) -> float:
        return float(np.trace(self.gram_all) / len(self.gram_all)) or 1.0

    def heldout_error(self, fold: int, alphas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        n_val, n = self.count[fold], self.count.sum() - self.count[fold]
        x_val, y_val = self.x_sum[fold], self.y_sum[fold]
        x_mean, y_mean = (self.x_sum.sum(axis=0) - x_val) / n, (self.y_sum.sum(axis=0) - y_val) / n
        gram = self.gram_all - self.gram[fold] - n * np.outer(x_mean, x_mean)
        cross = self.cross_all - self.cross[fold] - n * np.outer(x_mean, y_mean)
        values, basis = _eigh(gram)
        projected = basis.T @ cross  # (p, v)
        total = self.y_square[fold] - 2 * y_mean * y_val + n_val * y_mean**2
        error = np.empty((len(alphas), len(total)))
        if n_val < len(values):  # fewer held-out rows than features: predict them
            x, y = self.rows(np.flatnonzero(self.folds == fold))
            scores = ((x - x_mean.astype(self.dtype)) @ basis.astype(self.dtype)).astype(
                self.dtype
            )  # (n_val, p)
            y = y - y_mean.astype(self.dtype)
            for i, alpha in enumerate(alphas):
                weights = (projected / (values + alpha)[:, None]).astype(self.dtype)
                error[i] = np.square(y - scores @ weights, dtype=np.float64).sum(axis=0)
            return error, total
        shift = np.outer(x_val, x_mean)
        gram_val = self.gram[fold] - shift - shift.T + n_val * np.outer(x_mean, x_mean)
        cross_val = (
            self.cross[fold]
            - np.outer(x_val, y_mean)
            - np.outer(x_mean, y_val)
            + n_val * np.outer(x_mean, y_mean)
        )
        inner = (basis.T @ gram_val @ basis).astype(self.dtype)
        cross_val = basis.T @ cross_val
        for i, alpha in enumerate(alphas):
            weights = projected / (values + alpha)[:, None]
            quadratic = weights * (inner @ weights.astype(self.dtype))
            error[i] = total - 2 * (weights * cross_val).sum(axis=0) + quadratic.sum(axis=0)
        return error, total

    def refit(self, alpha: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        values, basis = _eigh(self.gram_all)
        coef = basis @ ((basis.T @ self.cross_all) / (values[:, None] + alpha))
        return coef.astype(self.dtype), (self.y_mean - self.x_mean @ coef).astype(self.dtype)


class _Dual(_Problem):
    """Fewer rows than features: everything from the n x n Gram of the rows."""

    def __init__(self, X: np.ndarray, Y: np.ndarray, folds: np.ndarray, n_folds: int, block: int) -> None:
        super().__init__(X, Y, folds, n_folds, block)
        self.kernel = np.empty((len(X), len(X)))
        for i in _row_blocks(len(X), block):
            x = self.rows(i)[0]
            for j in _row_blocks(i.stop, block):
                self.kernel[i, j] = x @ (x if j == i else self.rows(j)[0]).T
                self.kernel[j, i] = self.kernel[i, j].T
        self.targets = self.rows(slice(None))[1]

    def mean_eigenvalue(self) -> float:
        return float(np.trace(self.kernel) / self.X.shape[1]) or 1.0

    def heldout_error(self, fold: int, alphas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        val, train = np.flatnonzero(self.folds == fold), np.flatnonzero(self.folds != fold)
        kernel, kernel_val = self.kernel[np.ix_(train, train)], self.kernel[np.ix_(val, train)]
        column = kernel.mean(axis=0)
        kernel_val = kernel_val - kernel_val.mean(axis=1, keepdims=True) - column + column.mean()
        kernel = kernel - column - column[:, None] + column.mean()
        values, basis = _eigh(kernel)
        y_mean = self.targets[train].mean(axis=0, dtype=np.float64)
        y_val = self.targets[val] - y_mean
        projected = basis.T @ (self.targets[train] - y_mean)
        scores = (kernel_val @ basis).astype(self.dtype)
        error = np.empty((len(alphas), len(y_mean)))
        for i, alpha in enumerate(alphas):
            weights = (projected / (values + alpha)[:, None]).astype(self.dtype)
            error[i] = np.square(y_val - scores @ weights, dtype=np.float64).sum(axis=0)
        return error, np.square(y_val, dtype=np.float64).sum(axis=0)

    def refit(self, alpha: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        values, basis = _eigh(self.kernel)
        dual = basis @ ((basis.T @ self.targets) / (values[:, None] + alpha))
        coef = np.zeros((self.X.shape[1], len(alpha)))
        for rows in _row_blocks(len(self.X), self.block):
            coef += self.rows(rows)[0].T @ dual[rows].astype(self.dtype)
        return coef.astype(self.dtype), (self.y_mean - self.x_mean @ coef).astype(self.dtype)


def _make_problem(
    X: np.ndarray, Y: np.ndarray, folds: np.ndarray, n_folds: int, block: int
) -> _Primal | _Dual:
    return (_Primal if len(X) >= X.shape[1] else _Dual)(X, Y, folds, n_folds, block)
