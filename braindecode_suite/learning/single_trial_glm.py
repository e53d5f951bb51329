"""One response per trial from a run's time series: ordinary least squares, all trials at once or each on its own.

Both estimators are linear in the time series, so each is a matrix of weights (trials, volumes) that depends on the design
alone; a run of any number of voxels is then one matrix product.

- least squares, all (LSA): one model with a regressor a trial.
- least squares, separate (LSS): one model a trial, with a regressor for it, one for the sum of all other trials, and the
  nuisance regressors (Mumford, Turner, Ashby & Poldrack 2012, NeuroImage 59, 2636-2643).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from braindecode_suite.core.checks import check_finite, check_option, check_shape
from braindecode_suite.core.errors import InputError

Estimator = Literal["lss", "lsa"]
ESTIMATORS: tuple[Estimator, ...] = ("lss", "lsa")
COLLINEAR = 1e-8
"""Below this share of its squared length left by the other regressors, a regressor has no estimate of its own."""
BLOCK = 8192

Floats = NDArray[np.float64]


def orthonormal_basis(columns: Floats) -> Floats:
    """Return an orthonormal basis of what nuisance columns span, of shape (volumes, rank).

    Parameters
    ----------
    columns : array of shape (volumes, regressors)
        May be rank-deficient, and may have no regressor at all.
    """
    length = np.linalg.norm(columns, axis=0)
    columns = columns[:, length > 0] / length[length > 0]
    if not columns.shape[1]:
        return columns
    left, values, _ = np.linalg.svd(columns, full_matrices=False)
    return np.asarray(left[:, values > values[0] * len(columns) * np.finfo(float).eps])


def trial_weights(trials: Floats, nuisance: Floats, estimator: Estimator = "lss") -> Floats:
    """Return the weights that turn a run's time series into one response per trial.

    LSS in closed form: with the nuisance projected out of the trial's regressor a and of the sum b of the others,
    ``beta = ((b'b) a - (a'b) b)' y / ((a'a)(b'b) - (a'b)^2)``. LSA: the rows of the pseudo-inverse that belong to trials.

    Parameters
    ----------
    trials : array of shape (volumes, trials)
        One regressor a trial.
    nuisance : array of shape (volumes, regressors)
        Intercept, drifts, confounds, other events.
    estimator : {'lss', 'lsa'}

    Returns
    -------
    array of shape (trials, volumes)
        ``weights @ series`` are the responses; every row is orthogonal to the nuisance.

    Raises
    ------
    InputError
        If a trial's regressor is a combination of the others (two trials at the same time, a trial after the last volume,
        more regressors than volumes).
    """
    check_option("estimator", estimator, ESTIMATORS)
    check_shape("trials", trials, "volumes trials")
    check_shape("nuisance", nuisance, "volumes regressors", volumes=len(trials))
    check_finite("`trials`", trials)
    check_finite("`nuisance`", nuisance)
    trials, nuisance = np.asarray(trials, np.float64), np.asarray(nuisance, np.float64)
    if not trials.shape[1]:
        return np.zeros((0, len(trials)))
    basis = orthonormal_basis(nuisance)
    residual = trials - basis @ (basis.T @ trials)
    residual -= basis @ (basis.T @ residual)  # twice is enough to be orthogonal to rounding
    length = np.sum(np.square(trials), axis=0)
    alone = np.sum(np.square(residual), axis=0)
    _refuse_collinear(alone <= COLLINEAR * length, "the nuisance regressors")
    weights = _separate(residual) if estimator == "lss" else _together(residual)
    return weights - (weights @ basis) @ basis.T


def _separate(residual: Floats) -> Floats:
    total = residual.sum(axis=1, keepdims=True)
    others = total - residual
    aa = np.sum(residual * residual, axis=0)
    bb = np.sum(others * others, axis=0)
    ab = np.sum(residual * others, axis=0)
    if residual.shape[1] == 1:
        return (residual / aa).T
    # what the nuisance alone explains of the others leaves nothing to take into account
    empty = bb <= COLLINEAR * aa
    determinant = aa * bb - ab * ab
    _refuse_collinear(~empty & (determinant <= COLLINEAR * aa * bb), "the sum of the other trials")
    safe = np.where(empty, 1.0, determinant)
    weights = np.where(empty, residual / aa, (bb * residual - ab * others) / safe)
    return np.asarray(weights.T)


def _together(residual: Floats) -> Floats:
    scale = np.linalg.norm(residual, axis=0)
    left, values, right = np.linalg.svd(residual / scale, full_matrices=False)
    if len(values) < residual.shape[1] or values[-1] <= np.sqrt(COLLINEAR) * values[0]:
        worst = np.zeros(residual.shape[1], bool)
        worst[int(np.argmax(np.abs(right[-1])))] = True
        _refuse_collinear(worst, "the other trials")
    return np.asarray((right.T / values) @ left.T / scale[:, None])


def _refuse_collinear(bad: NDArray[np.bool_], others: str) -> None:
    if bad.any():
        raise InputError(
            "single-trial design",
            expected="a regressor for each trial that the others cannot make up",
            found=f"trial {int(np.flatnonzero(bad)[0]) + 1} explained by {others}",
            hint="trials at the same time, after the last volume, or more regressors than volumes",
        )


def estimate_responses(weights: Floats, series: NDArray[np.floating], block: int = BLOCK) -> Floats:
    """Return the responses of every trial and voxel: ``weights @ series``, in double precision.

    Parameters
    ----------
    weights : array of shape (trials, volumes)
    series : array of shape (volumes, voxels)
    block : int
        Voxels at a time.

    Returns
    -------
    array of float64 of shape (trials, voxels)
    """
    check_shape("weights", weights, "trials volumes", volumes=len(series))
    betas = np.empty((len(weights), series.shape[1]))
    for voxels in _blocks(series.shape[1], block):
        betas[:, voxels] = weights @ series[:, voxels].astype(np.float64)
    return betas


def explained_squares(
    trials: Floats, nuisance: Floats, series: NDArray[np.floating], block: int = BLOCK
) -> tuple[Floats, Floats]:
    """Return how much of each voxel's series the trials explain beyond the nuisance, all trials fitted together.

    Parameters
    ----------
    trials : array of shape (volumes, trials)
    nuisance : array of shape (volumes, regressors)
    series : array of shape (volumes, voxels)

    Returns
    -------
    explained, total : arrays of shape (voxels,)
        Sums of squares; total is what is left after the nuisance. They add up over runs, so that a haemodynamic response
        can be chosen on any set of runs by ``explained.sum(runs) / total.sum(runs)``.
    """
    basis = orthonormal_basis(np.asarray(nuisance, np.float64))
    residual = trials - basis @ (basis.T @ trials)
    directions = orthonormal_basis(residual - basis @ (basis.T @ residual))
    explained, total = np.empty(series.shape[1]), np.empty(series.shape[1])
    for voxels in _blocks(series.shape[1], block):
        some = series[:, voxels].astype(np.float64)
        some -= basis @ (basis.T @ some)
        total[voxels] = np.sum(np.square(some), axis=0)
        explained[voxels] = np.sum(np.square(directions.T @ some), axis=0)
    return explained, total


def choose_response(explained: Floats, total: Floats) -> NDArray[np.int64]:
    """Return, for every voxel, the haemodynamic response that explains most over the runs given.

    Parameters
    ----------
    explained : array of shape (runs, responses, voxels)
    total : array of shape (runs, voxels)

    Returns
    -------
    array of int of shape (voxels,)
        Index of the response; ties and voxels without variance take the first.
    """
    check_shape("explained", explained, "runs responses voxels")
    check_shape("total", total, "runs voxels", runs=len(explained), voxels=explained.shape[2])
    if not len(explained):
        raise InputError("`explained`", expected="at least one training run", found="none")
    return np.argmax(explained.sum(axis=0), axis=0)


def _blocks(length: int, block: int) -> Iterator[slice]:
    for start in range(0, length, block):
        yield slice(start, min(start + block, length))
