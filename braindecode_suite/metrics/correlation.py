"""Pearson's r, row by row and all pairs, with one rule for rows that do not vary.

A prediction that does not vary scores 0: it carries nothing about the truth, and dropping it would reward the decoder
that gave up. A truth that does not vary gives NaN: there is nothing to be right about.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from braindecode_suite.core.checks import check_finite, check_shape

Floats = NDArray[np.float64]


def standardise_rows(rows: ArrayLike) -> tuple[Floats, NDArray[np.bool_]]:
    """Centre each row and scale it to unit length, so that Pearson's r is a dot product.

    Parameters
    ----------
    rows : array of shape (rows, features)

    Returns
    -------
    standardised : array of shape (rows, features)
        Zero where the row does not vary.
    constant : array of bool of shape (rows,)
        Rows whose spread is within the rounding error of their own type.
    """
    given = np.asarray(rows)
    rounding = 8 * np.finfo(given.dtype).eps if np.issubdtype(given.dtype, np.floating) else 0.0
    values = given.astype(np.float64)
    constant = np.ptp(values, axis=1) <= rounding * np.abs(values).max(axis=1)
    values -= values.mean(axis=1, keepdims=True)
    values[constant] = 0.0
    peak = np.abs(values).max(axis=1, keepdims=True)  # tiny units (tesla) must not underflow when squared
    values /= np.where(peak > 0, peak, 1.0)
    length = np.linalg.norm(values, axis=1, keepdims=True)
    return values / np.where(length > 0, length, 1.0), constant


def rowwise_pearson(truth: ArrayLike, predicted: ArrayLike) -> Floats:
    """Correlate row i of `truth` with row i of `predicted`.

    Parameters
    ----------
    truth, predicted : array of shape (rows, features)

    Returns
    -------
    array of shape (rows,)
        0 where only the prediction is constant, NaN where the truth is.

    Examples
    --------
    >>> rowwise_pearson([[1, 2, 3], [1, 2, 3]], [[2, 4, 6], [5, 5, 5]]).round(6).tolist()
    [1.0, 0.0]
    """
    a, b = _pair(truth, predicted)
    check_shape("predicted", b, "rows features", rows=len(a), features=a.shape[1])
    a, constant = standardise_rows(a)
    b, _ = standardise_rows(b)
    r = np.clip(np.einsum("rf,rf->r", a, b), -1.0, 1.0)
    r[constant] = np.nan
    return r


def pairwise_pearson(truth: ArrayLike, predicted: ArrayLike) -> Floats:
    """Correlate every row of `predicted` with every row of `truth`.

    Parameters
    ----------
    truth : array of shape (true rows, features)
    predicted : array of shape (predicted rows, features)

    Returns
    -------
    array of shape (predicted rows, true rows)
        Row i belongs to prediction i. A column is NaN where that truth is constant.
    """
    a, b = _pair(truth, predicted)
    check_shape("predicted", b, "rows features", features=a.shape[1])
    a, constant = standardise_rows(a)
    b, _ = standardise_rows(b)
    r = np.clip(b @ a.T, -1.0, 1.0)  # (predicted rows, true rows)
    r[:, constant] = np.nan
    return r


def _pair(truth: ArrayLike, predicted: ArrayLike) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
    a, b = np.asarray(truth), np.asarray(predicted)
    check_shape("truth", a, "rows features")
    check_finite("`truth`", a)
    check_finite("`predicted`", b)
    return a, b
