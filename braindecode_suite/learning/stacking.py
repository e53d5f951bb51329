"""Stacking: one convex combination of several models' predictions for every unit (Wolpert 1992; Breiman 1996).

The weights of a unit minimise ``||sum_m w_m p_m - y||^2`` with ``w_m >= 0`` and ``sum_m w_m = 1``. As the weights sum to one
that is ``w' G w``, G being the Gram matrix of the models' errors: a small quadratic program for each unit, solved exactly for
all units at once by active sets.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from braindecode_suite.core.checks import check_shape
from braindecode_suite.core.errors import InputError

UNITS_AT_ONCE = 4096
JITTER = 1e-8
TOLERANCE = 1e-11


def stacking_weights(
    predicted: Sequence[np.ndarray],
    measured: np.ndarray,
    groups: np.ndarray | None = None,
    *,
    pooled: float = 0.0,
) -> np.ndarray:
    """Return the convex weights of every unit with the least squared error.

    A hundred images say little of one unit's weights. With `pooled` the errors of a unit count for what is left of 1, and the
    mean of those of all units of its group (each unit's to the same total) for `pooled`: at 1 a group has one set of weights.

    The rows must be of images that neither fitted nor stopped any of the models: out-of-fold predictions of training rows,
    or validation rows that were set aside.

    Parameters
    ----------
    predicted : sequence of arrays of shape (images, units)
        One a model.
    measured : array of shape (images, units)
    groups : array of int of shape (units,), optional
        Group of each unit, such as its region; all units are one by default.
    pooled : float
        0 to 1.

    Returns
    -------
    array of float32 of shape (models, units)
        Not negative, sums to 1 over models; the most even ones where several do equally well. Equal weights where a
        prediction or a response is missing (NaN).

    Examples
    --------
    >>> y = np.array([[0.0], [1.0], [2.0]])
    >>> stacking_weights([y + 1, y - 3, 9 + 2 * y], y).ravel().round(3).tolist()
    [0.75, 0.25, 0.0]
    """
    if not predicted:
        raise InputError("`predicted`", expected="predictions of at least one model", found="none")
    check_shape("measured", measured, "images units")
    n_images, n_units = measured.shape
    if not n_images:
        raise InputError("`measured`", expected="at least one image", found="none")
    for number, array in enumerate(predicted):
        check_shape(f"predicted[{number}]", array, "images units", images=n_images, units=n_units)
    if not 0 <= pooled <= 1:
        raise InputError("`pooled`", expected="a share from 0 to 1", found=f"{pooled:g}")
    index = np.zeros(n_units, np.intp) if groups is None else np.unique(groups, return_inverse=True)[1]
    check_shape("groups", index, "units", units=n_units)
    weights = np.full((len(predicted), n_units), 1 / len(predicted), np.float32)
    gram = np.empty((n_units, len(predicted), len(predicted)))
    for start in range(0, n_units, UNITS_AT_ONCE):
        units = slice(start, start + UNITS_AT_ONCE)
        target = np.asarray(measured[:, units], np.float64)
        errors = np.stack([array[:, units] - target for array in predicted])  # (models, images, units)
        gram[units] = np.einsum("aiu,biu->uab", errors, errors)
    whole = np.isfinite(gram).all(axis=(1, 2))
    weights[:, whole] = solve_simplex(_pool(gram[whole], index[whole], pooled)).T
    return weights


def _pool(gram: np.ndarray, index: np.ndarray, share: float) -> np.ndarray:
    """Return a mixture of each matrix with the mean of those of its group, all scaled to a trace of 1 before."""
    if not share or not len(gram):
        return gram
    trace = np.trace(gram, axis1=1, axis2=2)[:, None, None]
    unit = gram / np.where(trace > 0, trace, 1)
    total = np.zeros((index.max() + 1, *gram.shape[1:]))
    np.add.at(total, index, unit)
    mean = total / np.maximum(np.bincount(index), 1)[:, None, None]
    return np.asarray((1 - share) * unit + share * mean[index])


def combine(weights: np.ndarray, predicted: Sequence[np.ndarray]) -> np.ndarray:
    """Return the weighted sum of predictions.

    Parameters
    ----------
    weights : array of shape (models, units)
    predicted : sequence of arrays of shape (images, units)

    Returns
    -------
    array of float32 of shape (images, units)
    """
    total = np.zeros(predicted[0].shape, np.float64)
    for weight, array in zip(weights, predicted, strict=True):
        total += weight * array
    return total.astype(np.float32)


def solve_simplex(gram: np.ndarray) -> np.ndarray:
    """Minimise ``w' G w`` over weights that are not negative and sum to 1, for a batch of matrices.

    On its support the solution is proportional to ``G^-1 1``. The support grows by the model whose multiplier is violated
    most, and loses the first that the way to the next solution would make negative (Lawson & Hanson 1974, chapter 23).

    Parameters
    ----------
    gram : array of shape (batch, models, models)
        Symmetric, positive semi-definite; `JITTER` of the mean diagonal is added, which makes the solution unique.

    Returns
    -------
    array of shape (batch, models)

    Examples
    --------
    >>> solve_simplex(np.array([[[1.0, 0.0], [0.0, 3.0]], [[1.0, 2.0], [2.0, 9.0]]])).round(6).tolist()
    [[0.75, 0.25], [1.0, 0.0]]
    """
    n, m = gram.shape[:2]
    scale = np.trace(gram, axis1=1, axis2=2)[:, None, None] / m
    unit = gram / np.where(scale > 0, scale, 1) + JITTER * np.eye(m)
    weights = np.zeros((n, m))
    weights[np.arange(n), np.diagonal(unit, axis1=1, axis2=2).argmin(axis=1)] = 1
    active = weights > 0
    left = np.arange(n)  # problems not yet solved
    for _ in range(20 * m * m):
        slope = np.einsum("nab,nb->na", unit[left], weights[left])
        least = (slope * weights[left]).sum(axis=1)
        gap = np.where(active[left], np.inf, slope - least[:, None])
        worst = gap.argmin(axis=1)
        enters = gap[np.arange(len(left)), worst] < -TOLERANCE
        left, worst = left[enters], worst[enters]
        if not len(left):
            return weights
        active[left, worst] = True
        _move(unit, weights, active, left)
    raise ArithmeticError("the active sets of the stacking weights do not settle")


def _move(unit: np.ndarray, weights: np.ndarray, active: np.ndarray, left: np.ndarray) -> None:
    """Bring problems `left` to the solution on their support, dropping models that would become negative, in place."""
    while len(left):
        goal = _on_support(unit[left], active[left])
        now = weights[left]
        falls = active[left] & (goal <= 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            reach = np.where(falls, now / (now - goal), np.inf)
        step = np.minimum(reach.min(axis=1), 1)
        weights[left] = now + step[:, None] * (goal - now)
        dropped = falls & (reach <= step[:, None])
        active[left] &= ~dropped
        weights[left] = np.where(active[left], weights[left], 0)
        left = left[dropped.any(axis=1)]


def _on_support(unit: np.ndarray, active: np.ndarray) -> np.ndarray:
    """Return the weights that sum to 1 with the least error on their support, whatever their signs; (batch, models)."""
    both = active[:, :, None] & active[:, None, :]
    matrix = np.where(both, unit, np.eye(unit.shape[1]))
    raised = np.linalg.solve(matrix, active[:, :, None].astype(float))[:, :, 0] * active
    return np.asarray(raised / raised.sum(axis=1, keepdims=True))
