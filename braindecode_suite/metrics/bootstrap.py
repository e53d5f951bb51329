"""Confidence intervals by resampling the units that were sampled: images, concepts, categories, runs or subjects.

Rows of the same unit (several images of a concept, several subjects who saw an image) are always drawn together. Trials,
voxels and time points are never units. An interval over queries is conditional on the gallery and on the model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, ndtri

from braindecode_suite.core.checks import check_finite, check_option, check_shape
from braindecode_suite.core.errors import InputError
from braindecode_suite.metrics.correlation import Floats

Method = Literal["percentile", "bca"]
Statistic = Callable[[Floats], float]
BLOCK = 256  # resamples drawn at once


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An estimate with its confidence interval.

    Attributes
    ----------
    value, low, high : float
        `low` and `high` are NaN where there are fewer than two units.
    level : float
        Coverage aimed at.
    over : str
        What was resampled (``ci_over`` of the score table).
    n_units, n_rows : int
    """

    value: float
    low: float
    high: float
    level: float
    over: str
    n_units: int
    n_rows: int


def bootstrap_mean(
    values: ArrayLike,
    units: ArrayLike | None = None,
    *,
    over: str = "image",
    seed: int,
    n_resamples: int = 10_000,
    level: float = 0.95,
    method: Method = "percentile",
) -> Interval:
    """Return the mean of the rows with an interval over units.

    Parameters
    ----------
    values : array of shape (rows,) or (repeats, rows)
        Seeds or repeats of the same rows are averaged first: they are not units.
    units : array of shape (rows,), optional
        What each row belongs to; by default each row is a unit of its own.
    over : str
        Name of the unit.
    seed : int
    n_resamples : int
    level : float
    method : {"percentile", "bca"}
        BCa corrects the bias and the skewness of the resampled means (Efron 1987).

    Returns
    -------
    Interval

    Examples
    --------
    >>> interval = bootstrap_mean([1.0, 2.0, 3.0, 4.0], seed=0)
    >>> interval.value, interval.low < 2.5 < interval.high, interval.n_units
    (2.5, True, 4)
    """
    rows, index, n_units = _rows(values, units)
    _check_settings(n_resamples, level, method)
    totals = np.bincount(index, weights=rows, minlength=n_units)
    sizes = np.bincount(index, minlength=n_units).astype(np.float64)
    value = float(rows.mean())
    if n_units < 2:
        return _interval(value, (np.nan, np.nan), level, over, n_units, len(rows))
    rng = np.random.default_rng(seed)
    resampled = np.empty(n_resamples)
    for start in range(0, n_resamples, BLOCK):
        stop = min(start + BLOCK, n_resamples)
        times = _draw(rng, stop - start, n_units)
        resampled[start:stop] = (times @ totals) / (times @ sizes)
    left_out = (totals.sum() - totals) / (sizes.sum() - sizes)
    return _interval(
        value, interval_ends(value, resampled, left_out, level, method), level, over, n_units, len(rows)
    )


def bootstrap_statistic(
    values: ArrayLike,
    statistic: Statistic,
    units: ArrayLike | None = None,
    *,
    over: str = "image",
    seed: int,
    n_resamples: int = 2_000,
    level: float = 0.95,
    method: Method = "percentile",
) -> Interval:
    """Return any statistic of the rows, such as the median rank, with an interval over units.

    Parameters
    ----------
    values : array of shape (rows,) or (repeats, rows)
        Repeats are averaged first.
    statistic : callable
        (drawn rows,) -> float, e.g. ``numpy.median``.
    units, over, seed, n_resamples, level, method
        As in `bootstrap_mean`.

    Returns
    -------
    Interval
    """
    rows, index, n_units = _rows(values, units)
    _check_settings(n_resamples, level, method)
    value = float(statistic(rows))
    if n_units < 2:
        return _interval(value, (np.nan, np.nan), level, over, n_units, len(rows))
    order = np.argsort(index, kind="stable")
    members = np.split(rows[order], np.cumsum(np.bincount(index, minlength=n_units))[:-1])
    rng = np.random.default_rng(seed)
    resampled = np.array(
        [
            statistic(np.concatenate([members[u] for u in rng.integers(n_units, size=n_units)]))
            for _ in range(n_resamples)
        ]
    )
    left_out = np.array([])
    if method == "bca":
        left_out = np.array([statistic(rows[index != unit]) for unit in range(n_units)])
    return _interval(
        value, interval_ends(value, resampled, left_out, level, method), level, over, n_units, len(rows)
    )


def paired_difference(
    first: ArrayLike,
    second: ArrayLike,
    units: ArrayLike | None = None,
    *,
    over: str = "image",
    seed: int,
    n_resamples: int = 10_000,
    level: float = 0.95,
    method: Method = "percentile",
) -> Interval:
    """Return the mean difference of two scores of the same images, first minus second, with its interval.

    Parameters
    ----------
    first, second : array of shape (rows,) or (repeats, rows)
        Row i of both is the same image. Each is averaged over its seeds or repeats first; these may differ in number.
    units, over, seed, n_resamples, level, method
        As in `bootstrap_mean`.

    Returns
    -------
    Interval
    """
    a, b = average_repeats("first", first), average_repeats("second", second)
    check_shape("second", b, "rows", rows=len(a))
    return bootstrap_mean(
        a - b, units, over=over, seed=seed, n_resamples=n_resamples, level=level, method=method
    )


def average_repeats(name: str, values: ArrayLike) -> Floats:
    """Average (repeats, rows) over repeats; (rows,) passes through. NaN is refused, not skipped."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim == 2 and len(array):
        array = array.mean(axis=0)
    check_shape(name, array, "rows")
    if not len(array):
        raise InputError(f"`{name}`", expected="at least one row", found="none")
    check_finite(f"`{name}`", array)
    return array


def _rows(values: ArrayLike, units: ArrayLike | None) -> tuple[Floats, NDArray[np.intp], int]:
    rows = average_repeats("values", values)
    if units is None:
        return rows, np.arange(len(rows)), len(rows)
    labels = np.asarray(units)
    check_shape("units", labels, "rows", rows=len(rows))
    names, index = np.unique(labels, return_inverse=True)
    return rows, index, len(names)


def _draw(rng: np.random.Generator, n_resamples: int, n_units: int) -> Floats:
    """Return how often each unit is drawn in each resample, of shape (n_resamples, n_units)."""
    drawn = rng.integers(n_units, size=(n_resamples, n_units)) + n_units * np.arange(n_resamples)[:, None]
    return (
        np.bincount(drawn.ravel(), minlength=n_resamples * n_units)
        .reshape(n_resamples, n_units)
        .astype(float)
    )


def interval_ends(
    value: float, resampled: Floats, left_out: Floats, level: float, method: Method
) -> tuple[float, float]:
    """Return the ends of an interval from a statistic's resamples.

    Parameters
    ----------
    value : float
        Observed.
    resampled : array of shape (resamples,)
    left_out : array of shape (units,)
        The statistic without each of the units: its jackknife, from which BCa takes the skewness.
    level : float
    method : {"percentile", "bca"}
        Percentile where BCa is undefined: all resamples on one side of the value, or no unit with any influence.
    """
    tails = np.array([(1 - level) / 2, (1 + level) / 2])
    if method == "bca":
        share = (np.sum(resampled < value) + 0.5 * np.sum(resampled == value)) / len(resampled)
        influence = left_out.mean() - left_out
        spread = np.sum(influence**2) ** 1.5
        if spread > 0 and 0 < share < 1:
            bias, skew = ndtri(share), np.sum(influence**3) / (6 * spread)
            z = bias + ndtri(tails)
            tails = ndtr(bias + z / (1 - skew * z))
    low, high = np.quantile(resampled, tails)
    return float(low), float(high)


def _interval(
    value: float, ends: tuple[float, float], level: float, over: str, n_units: int, n_rows: int
) -> Interval:
    low, high = ends
    return Interval(value=value, low=low, high=high, level=level, over=over, n_units=n_units, n_rows=n_rows)


def _check_settings(n_resamples: int, level: float, method: str) -> None:
    check_option("method", method, ("percentile", "bca"))
    if n_resamples < 100:
        raise InputError("`n_resamples`", expected="at least 100", found=str(n_resamples))
    if not 0 < level < 1:
        raise InputError("`level`", expected="a share between 0 and 1", found=str(level))
