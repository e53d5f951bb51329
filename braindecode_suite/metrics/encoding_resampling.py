"""How sure encoding scores are: r of all units at once over resampled images, permuted images and swapped models.

A bootstrap of images is a matrix of weights, so that the r of every unit in every resample follows from five products of
that matrix with moments of the data (Pearson's r of weighted rows). A swap of two models' predictions, image by image, is
linear in the same way. Sets of units (regions) are summarised only then, so that what is resampled is the image, never the
unit, and two models are compared on the same resamples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from braindecode_suite.core.checks import check_shape
from braindecode_suite.core.errors import InputError
from braindecode_suite.metrics.correlation import Floats, standardise_rows
from braindecode_suite.metrics.encoding import normalise_clipped

UNITS_AT_ONCE = 1024
ROWS_AT_ONCE = 256
R_MEAN, R_MEDIAN = "r, mean", "r, median"
CLIPPED, UNCLIPPED, THRESHOLDED = "r2, clipped", "r2, unclipped", "r2, thresholded"
R_STATISTICS, R2_STATISTICS = (R_MEAN, R_MEDIAN), (CLIPPED, UNCLIPPED, THRESHOLDED)


def draw_weights(n_images: int, n_resamples: int, *, seed: int, units: ArrayLike | None = None) -> Floats:
    """Draw how often each image is in each bootstrap resample.

    Parameters
    ----------
    n_images, n_resamples, seed : int
    units : array of shape (images,), optional
        What each image belongs to (a concept); images of the same unit are drawn together.

    Returns
    -------
    array of shape (resamples, images)

    Examples
    --------
    >>> draw_weights(4, 3, seed=0).sum(axis=1).tolist()
    [4.0, 4.0, 4.0]
    """
    labels = np.arange(n_images) if units is None else np.asarray(units)
    check_shape("units", labels, "images", images=n_images)
    names, index = np.unique(labels, return_inverse=True)
    share = np.full(len(names), 1 / len(names))
    times = np.random.default_rng(seed).multinomial(len(names), share, size=n_resamples)
    return times[:, index].astype(np.float64)


def leave_one_out(n_images: int, units: ArrayLike | None = None) -> Floats:
    """Return the weights that leave out one image at a time (all images of a unit, where units are given).

    Returns
    -------
    array of shape (units, images)

    Examples
    --------
    >>> leave_one_out(3, ["a", "b", "a"]).tolist()
    [[0.0, 1.0, 0.0], [1.0, 0.0, 1.0]]
    """
    labels = np.arange(n_images) if units is None else np.asarray(units)
    check_shape("units", labels, "images", images=n_images)
    return (labels != np.unique(labels)[:, None]).astype(np.float64)


def resampled_r(truth: ArrayLike, predicted: ArrayLike, weights: Floats) -> NDArray[np.float32]:
    """Correlate over weighted images, unit by unit.

    Parameters
    ----------
    truth, predicted : array of shape (images, units)
    weights : array of shape (resamples, images)
        How often each image counts.

    Returns
    -------
    array of float32 of shape (resamples, units)
        0 where only the prediction is constant, NaN where the measurement is.
    """
    a, b = _pair(truth, predicted)
    check_shape("weights", weights, "resamples images", images=len(a))
    r = np.empty((len(weights), a.shape[1]), np.float32)
    n = weights.sum(axis=1, keepdims=True)
    for block in _blocks(a.shape[1]):
        x, constant = _columns(a[:, block])
        y, _ = _columns(b[:, block])
        mean_x, mean_y = weights @ x, weights @ y  # times n
        covariance = n * (weights @ (x * y)) - mean_x * mean_y
        spread = (n * (weights @ x**2) - mean_x**2) * (n * (weights @ y**2) - mean_y**2)
        r[:, block] = _ratio(covariance, spread, constant, len(a))
    return r


def permuted_r(truth: ArrayLike, predicted: ArrayLike, orders: NDArray[np.intp]) -> NDArray[np.float32]:
    """Correlate predictions with the responses to other images: whole images are exchanged, all units together.

    Parameters
    ----------
    truth, predicted : array of shape (images, units)
    orders : array of int of shape (permutations, images)
        Image whose responses stand at each place.

    Returns
    -------
    array of float32 of shape (permutations, units)
        0 where only the prediction is constant, NaN where the measurement is.
    """
    a, b = _pair(truth, predicted)
    check_shape("orders", orders, "permutations images", images=len(a))
    r = np.empty((len(orders), a.shape[1]), np.float32)
    for block in _blocks(a.shape[1]):
        x, constant = _columns(a[:, block])
        y, _ = _columns(b[:, block])
        for k, order in enumerate(orders):
            r[k, block] = np.einsum("iu,iu->u", x[order], y)
        r[:, block][:, constant] = np.nan
    return r


def swapped_r(
    truth: ArrayLike, first: ArrayLike, second: ArrayLike, swaps: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Correlate after two models exchanged their predictions of some images, all units together.

    Predictions are standardised unit by unit before, since models shrink differently and r does not see it.

    Parameters
    ----------
    truth, first, second : array of shape (images, units)
    swaps : array of bool of shape (permutations, images)
        Images whose predictions are exchanged.

    Returns
    -------
    first, second : array of float32 of shape (permutations, units)
        r of what stands at the place of either model.
    """
    a, b = _pair(truth, first)
    _, c = _pair(truth, second)
    check_shape("swaps", swaps, "permutations images", images=len(a))
    exchanged, n = swaps.astype(np.float64), len(a)
    found = tuple(np.empty((len(swaps), a.shape[1]), np.float32) for _ in range(2))
    for block in _blocks(a.shape[1]):
        x, constant = _columns(a[:, block])
        y, _ = _columns(b[:, block])
        z, _ = _columns(c[:, block])
        moved = [exchanged @ part for part in (x * (z - y), z - y, z**2 - y**2)]
        for r, own, sign in zip(found, (y, z), (1, -1), strict=True):
            product = (x * own).sum(axis=0) + sign * moved[0]
            total, square = sign * moved[1], (own**2).sum(axis=0) + sign * moved[2]
            r[:, block] = _ratio(n * product, n * (n * square - total**2), constant, n)
    return found[0], found[1]


@dataclass(frozen=True, eq=False, kw_only=True)
class UnitSets:
    """Sets of units (regions), and what is said of each.

    Attributes
    ----------
    names : tuple of str
    members : array of bool of shape (sets, units)
        Scored units only; no set is empty.
    ceiling : array of shape (units,) or None
        Share of variance that could be explained.
    threshold : float
        Least ceiling of the units that `THRESHOLDED` is about.
    """

    names: tuple[str, ...]
    members: NDArray[np.bool_]
    ceiling: Floats | None = None
    threshold: float = 0.05

    def __post_init__(self) -> None:
        check_shape("members", self.members, "sets units", sets=len(self.names))
        empty = [n for n, member in zip(self.names, self.members, strict=True) if not member.any()]
        if empty:
            raise InputError(f"set of units {empty[0]!r}", expected="at least one scored unit", found="none")
        if self.ceiling is not None:
            check_shape("ceiling", self.ceiling, "units", units=self.members.shape[1])

    @property
    def statistics(self) -> tuple[str, ...]:
        """Names of what `summarise` gives."""
        return R_STATISTICS if self.ceiling is None else (*R_STATISTICS, *R2_STATISTICS)

    @property
    def above(self) -> NDArray[np.bool_]:
        """Units of each set whose ceiling reaches the threshold, of shape (sets, units)."""
        if self.ceiling is None:
            return np.zeros_like(self.members)
        return self.members & (self.ceiling >= self.threshold)

    def summarise(self, r: ArrayLike, statistics: tuple[str, ...] | None = None) -> dict[str, Floats]:
        """Return each statistic of r in each set of units.

        Parameters
        ----------
        r : array of shape (rows, units)
            NaN in units that are not scored.
        statistics : tuple of str, optional
            Some of them, for speed.

        Returns
        -------
        dict of str to array of shape (rows, sets)
            NaN where no unit of a set reaches the threshold, or all its ceilings are 0.
        """
        scores = np.asarray(r)
        check_shape("r", scores, "rows units", units=self.members.shape[1])
        wanted = self.statistics if statistics is None else statistics
        parts = [
            self._summarise(scores[k : k + ROWS_AT_ONCE], wanted) for k in range(0, len(scores), ROWS_AT_ONCE)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in wanted}

    def ceilings(self) -> dict[str, Floats]:
        """Return the best value of each statistic in each set: the root of the ceiling for r, 1 for what is normalised."""
        if self.ceiling is None:
            return {}
        best = self.summarise(np.sqrt(np.maximum(self.ceiling, 0))[None], R_STATISTICS)
        ones = np.ones(len(self.names))
        return {name: value[0] for name, value in best.items()} | dict.fromkeys(R2_STATISTICS, ones)

    def _summarise(self, r: NDArray[np.floating], wanted: tuple[str, ...]) -> Mapping[str, Floats]:
        used = self.members.any(axis=0)
        scores = np.where(used, r, 0.0)
        found: dict[str, Floats] = {}
        if R_MEAN in wanted:
            found[R_MEAN] = scores @ self.members.T.astype(np.float64) / self.members.sum(axis=1)
        if R_MEDIAN in wanted:
            medians = [np.median(scores[:, member], axis=1) for member in self.members]
            found[R_MEDIAN] = np.stack(medians, axis=1).astype(np.float64)
        if self.ceiling is None or not set(wanted) & set(R2_STATISTICS):
            return found
        ceiling = np.where(used, self.ceiling, 0.0)
        explained = np.sign(scores) * scores**2
        if CLIPPED in wanted:
            clipped = normalise_clipped(scores, ceiling)
            found[CLIPPED] = clipped @ self.members.T.astype(np.float64) / self.members.sum(axis=1)
        for name, members in ((UNCLIPPED, self.members), (THRESHOLDED, self.above)):
            if name in wanted:
                columns = members.T.astype(np.float64)
                possible = ceiling @ columns
                found[name] = explained @ columns / np.where(possible > 0, possible, np.nan)
        return found


def _pair(truth: ArrayLike, predicted: ArrayLike) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
    a, b = np.asarray(truth), np.asarray(predicted)
    check_shape("truth", a, "images units")
    check_shape("predicted", b, "images units", images=a.shape[0], units=a.shape[1])
    return a, b


def _blocks(n_units: int) -> Iterator[slice]:
    return (slice(k, min(k + UNITS_AT_ONCE, n_units)) for k in range(0, n_units, UNITS_AT_ONCE))


def _columns(values: NDArray[np.generic]) -> tuple[Floats, NDArray[np.bool_]]:
    """Return columns of mean 0 and length 1, and which of them do not vary; those with NaN count as such."""
    known = np.isfinite(values).all(axis=0)
    rows, constant = standardise_rows(np.where(known, values, 0).T)
    return np.ascontiguousarray(rows.T), constant


def _ratio(covariance: Floats, spread: Floats, constant: NDArray[np.bool_], n: int) -> Floats:
    varies = spread > 1e-9 * n
    r = np.divide(
        covariance, np.sqrt(np.where(varies, spread, 1)), out=np.zeros_like(covariance), where=varies
    )
    r[:, constant] = np.nan
    return np.clip(r, -1, 1)
