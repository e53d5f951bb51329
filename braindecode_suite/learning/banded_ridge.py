"""Banded ridge: every target weights the bands of features (layers, models, delays) as suits it, chosen by cross-validation.

A random search over the weights (Nunez-Elizalde, Huth and Gallant 2019, doi:10.1016/j.neuroimage.2019.04.012; Dupre la Tour et al.
2022, doi:10.1016/j.neuroimage.2022.119728). A weighting multiplies each band's features by the root of its weight, which only
rescales Gram matrices and cross-products (or adds up the bands' kernels): they are made once for all weightings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from braindecode_suite.core.checks import check_shape
from braindecode_suite.core.errors import InputError
from braindecode_suite.learning.block_reader import as_kind, as_table, column_blocks, like
from braindecode_suite.learning.folds import group_folds
from braindecode_suite.learning.linear_map import LinearMap, predict_linear
from braindecode_suite.learning.penalties import RELATIVE_ALPHAS, penalty_grid, resolved, warn_at_edges
from braindecode_suite.learning.ridge_form import MAX_MEMORY, make_problem
from braindecode_suite.learning.ridge_problem import Batch, RidgeData, make_data

HOPELESS = 2.0  # errors on the first fold may be larger by this share, over the root of its rows


@dataclass(frozen=True, kw_only=True)
class BandedRidgeFit:
    """A fitted linear map whose features come in bands; numpy, or torch where the predictors were.

    Attributes
    ----------
    coef : array of shape (features, targets)
        NaN for targets that hold NaN, zero for targets that never vary.
    intercept : array of shape (targets,)
    alpha : array of shape (targets,)
        The penalty of each target; NaN where the target is missing (it holds NaN or never varies).
    gamma : array of shape (bands, targets)
        The weights of the bands; a band's own penalty is ``alpha / gamma``.
    alphas : array of shape (alphas,)
        The grid that was searched.
    gammas : array of shape (candidates, bands)
        The weightings that were searched.
    cv_r2 : array of shape (candidates, targets)
        Cross-validated coefficient of determination of each weighting at its best penalty, against the training mean of each
        fold; NaN where the target is missing and where the weighting was given up after the first fold.
    x_mean : array of shape (features,)
        Mean of the predictors.
    bands : array of int of shape (features,)
        Number of each feature's band.
    names : tuple of str
        Names of the bands.
    """

    coef: Any
    intercept: Any
    alpha: Any
    gamma: Any
    alphas: Any
    gammas: Any
    cv_r2: Any
    x_mean: Any
    bands: np.ndarray
    names: tuple[str, ...]

    def predict(self, X: Any) -> Any:
        """Return predictions of shape (rows, targets) for `X` of shape (rows, features), numpy or torch as `X` is."""
        return predict_linear(X, self.coef, self.intercept)

    def predict_bands(self, X: Any) -> Any:
        """Return what each band adds to the mean training response, of shape (bands, rows, targets).

        Their sum over bands, plus the mean response, is what `predict` returns. `metrics.encoding.encoding_r2_split` says
        how much of the variance each explains.
        """
        X = as_table(X)
        check_shape("X", X, "rows features", features=len(self.bands))
        parts = []
        for band in range(len(self.names)):
            mine = np.flatnonzero(self.bands == band)
            mean, coef = as_kind(X, self.x_mean[mine]), self.coef[mine]
            parts.append(predict_linear(X[:, mine] - mean, coef, self.intercept * 0))
        return torch.stack(parts) if isinstance(X, Tensor) else np.stack(parts)


def number_bands(
    bands: int | Sequence[Any] | np.ndarray, n_features: int
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the number of each feature's band, and the names of the bands.

    Parameters
    ----------
    bands : array of shape (features,), or int
        Name of each feature's band, in order of appearance, or its number, in numerical order. A single number cuts the
        features into so many neighbouring bands of equal width.
    n_features : int

    Raises
    ------
    InputError
        If there are more bands than features, or the features cannot be cut evenly.

    Examples
    --------
    >>> number_bands(["late", "late", "early"], 3)
    (array([0, 0, 1]), ('late', 'early'))
    """
    if isinstance(bands, int | np.integer):
        if not 1 <= bands <= n_features or n_features % bands:
            raise InputError(
                "`bands`",
                expected=f"a divisor of the {n_features} features, or the name of each feature's band",
                found=f"{bands} bands" + (", more than features" if bands > n_features else ""),
            )
        return np.arange(n_features) // (n_features // bands), tuple(f"band-{b}" for b in range(bands))
    labels = np.asarray(bands).tolist()
    if len(labels) != n_features:
        names = len(set(labels))
        raise InputError(
            "`bands`",
            expected=f"the name of the band of each of {n_features} features",
            found=f"{len(labels)} names of {names} bands"
            + (", more than features" if names > n_features else ""),
        )
    found = list(dict.fromkeys(labels))
    if all(isinstance(name, int) for name in found):
        found.sort()
    return np.array([found.index(label) for label in labels]), tuple(str(name) for name in found)


def sample_gammas(
    n_bands: int, n_candidates: int, *, concentration: Sequence[float] = (0.1, 1.0), seed: int = 0
) -> np.ndarray:
    """Draw weightings of bands that sum to one from Dirichlet distributions in turn; the first is uniform.

    Parameters
    ----------
    n_bands, n_candidates : int
    concentration : sequence of float
        Below 1 most of the weight lies on few bands; 1 is uniform on the simplex.
    seed : int

    Returns
    -------
    array of shape (candidates, bands)

    Examples
    --------
    >>> sample_gammas(2, 3).shape
    (3, 2)
    """
    if n_candidates < 1:
        raise InputError("`gammas`", expected="at least one candidate", found=str(n_candidates))
    rng = np.random.default_rng(seed)
    draws = [rng.dirichlet(np.full(n_bands, c)) for c in islice(cycle(concentration), n_candidates - 1)]
    return np.stack([np.full(n_bands, 1 / n_bands), *draws])


@torch.no_grad()
def banded_ridge_cv(
    X: Any,
    Y: Any,
    *,
    bands: int | Sequence[Any] | np.ndarray,
    folds: int | np.ndarray,
    gammas: int | np.ndarray = 100,
    alphas: Sequence[float] | np.ndarray = RELATIVE_ALPHAS,
    relative: bool = True,
    prune: bool = True,
    seed: int = 0,
    max_memory: int = MAX_MEMORY,
    device: str | None = None,
) -> BandedRidgeFit:
    """Fit ridge with the weighting of the bands and the penalty of each target that have the least error on held-out folds.

    Parameters
    ----------
    X : array of shape (rows, features)
        Bands side by side, features standardised: weights and penalty compare what they are given.
    Y : array of shape (rows, targets)
    bands : array of shape (features,), or int
        See `number_bands`.
    folds : int or array of int of shape (rows,)
    gammas : int or array of shape (candidates, bands)
        How many weightings `sample_gammas` draws, or the weightings to try.
    alphas : sequence of float
    relative : bool
        Whether `alphas` are in units of the mean eigenvalue of the centred ``X.T @ X``, before any weighting.
    prune : bool
        Give a weighting up for those targets whose error on the first fold, at the best penalty there, is above that of the
        best so far by more than ``2 error / sqrt(rows)``: a standard error of the difference of two independent sums of
        squares, and those of one target are far from independent.
    seed : int
    max_memory, device
        See `ridge_cv`, as for all else.

    Returns
    -------
    BandedRidgeFit

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((60, 6))
    >>> Y = X[:, :3] @ np.ones((3, 2)) + rng.standard_normal((60, 2))
    >>> fit = banded_ridge_cv(X, Y, bands=2, folds=4, gammas=20)
    >>> (fit.gamma[0] > fit.gamma[1]).tolist()
    [True, True]
    """
    X = as_table(X)
    check_shape("X", X, "rows features")
    numbers, names = number_bands(bands, X.shape[1])
    folds = group_folds(np.arange(len(X)), folds) if isinstance(folds, int) else np.asarray(folds)
    candidates = _candidates(gammas, len(names), seed)
    data = make_data(X, Y, folds=folds, bands=numbers, device=device)
    penalty_grid(alphas)
    problem, at_once = make_problem(data, len(alphas), len(candidates), max_memory)
    fitted = LinearMap(problem, data)
    grid = penalty_grid(alphas, problem.mean_eigenvalue() if relative else 1.0).to(data.device)
    search = _Search(data, candidates, grid, prune=prune)
    for columns in column_blocks(data.n_targets, at_once):
        batch = problem.batch(columns)
        missing = fitted.note_missing(columns, batch)
        solution = search.run(columns, batch, problem.solution_size)
        search.forget(columns, missing)
        fitted.add(columns, batch, solution, search.gamma[:, columns])
    fitted.check()
    warn_at_edges(*(part.cpu().numpy() for part in (search.best, search.path, search.first)))
    alpha = grid[search.best].masked_fill_(fitted.missing.to(data.device), torch.nan)
    parts = {
        "coef": fitted.coef,
        "intercept": fitted.intercept,
        "alpha": alpha,
        "gamma": search.gamma,
        "alphas": grid,
        "gammas": torch.from_numpy(candidates),
        "cv_r2": search.scores,
        "x_mean": problem.x_mean.to(data.dtype),
    }
    return BandedRidgeFit(**{name: like(X, part) for name, part in parts.items()}, bands=numbers, names=names)


class _Search:
    """The best weighting and penalty of each target so far; errors are kept as shares of the variance explained."""

    def __init__(self, data: RidgeData, candidates: np.ndarray, grid: Tensor, *, prune: bool) -> None:
        self.data, self.candidates, self.grid, self.prune = data, candidates, grid, prune
        v, where = data.n_targets, data.device
        nan = partial(torch.full, fill_value=torch.nan, dtype=torch.float64, device=where)
        self.gamma, self.path, self.scores = (
            nan((data.n_bands, v)),
            nan((len(grid), v)),
            nan((len(candidates), v)),
        )
        self.best = torch.zeros(v, dtype=torch.int64, device=where)
        self.first = torch.zeros(v, dtype=torch.int64, device=where)

    def run(self, columns: slice, batch: Batch, solution_size: int) -> Tensor:
        """Try all weightings on a batch of targets; return the solutions at the best ones."""
        data, total = self.data, batch.total.sum(dim=0)
        v = len(total)
        least, least_first = (torch.full_like(total, torch.inf) for _ in range(2))
        solution = torch.full((solution_size, v), torch.nan, dtype=data.dtype, device=data.device)
        for number, weights in enumerate(self.candidates):
            trial = batch.trial(tuple(weights))
            first = resolved(self.grid, trial.largest_eigenvalue(), data.dtype)
            error = trial.errors(0, self.grid[first:])  # (alphas, targets)
            which, first_fold = torch.arange(v, device=data.device), error
            if self.prune and number:
                margin = 1 + HOPELESS / data.n_held(0) ** 0.5
                which = torch.nonzero(error.amin(dim=0) <= margin * least_first).ravel()
                error, first_fold = error[:, which], error[:, which]
                if len(which) == 0:
                    continue
            for fold in range(1, data.n_folds):
                error = error + trial.errors(fold, self.grid[first:], None if len(which) == v else which)
            value, alpha = error.min(dim=0)
            self.scores[number, columns.start + which] = 1 - value / total[which]
            better = value < least[which]
            which, alpha = which[better], alpha[better]
            if len(which):
                least[which], least_first[which] = value[better], first_fold[alpha, better.nonzero().ravel()]
                where = columns.start + which
                self.best[where], self.first[where] = first + alpha, first
                self.gamma[:, where] = torch.from_numpy(weights).to(data.device)[:, None]
                self.path[:first, where] = torch.nan
                self.path[first:, where] = 1 - error[:, better] / total[which]
                solution[:, which] = trial.solve(self.grid[first + alpha], which)
        return solution

    def forget(self, columns: slice, missing: Tensor) -> None:
        """Score missing targets as such."""
        for table in (self.gamma, self.path, self.scores):
            table[:, columns].masked_fill_(missing, torch.nan)


def _candidates(gammas: int | np.ndarray, n_bands: int, seed: int) -> np.ndarray:
    if isinstance(gammas, int | np.integer):
        return sample_gammas(n_bands, int(gammas), seed=seed) if n_bands > 1 else np.ones((1, 1))
    found = np.asarray(gammas, dtype=np.float64)
    check_shape("gammas", found, "candidates bands", bands=n_bands)
    if len(found) == 0 or not np.isfinite(found).all() or found.min() < 0 or (found.sum(axis=1) == 0).any():
        raise InputError(
            "`gammas`", expected="weights, none negative and none all zero", found=str(found.tolist())
        )
    return found
