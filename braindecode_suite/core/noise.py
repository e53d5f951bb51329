"""How much of a response is signal: variance ratios from repeats, and the noise ceilings that follow.

One-way random effects: trial j of image i is ``m + s_i + e_ij`` with signal variance S and noise variance N. `repeat_variances`
estimates both without bias for any mixture of repeats, `signal_to_noise` their ratio. NSD's own `ncsnr` is rectified at 0 and
so biased upwards where there is little signal: it is for comparison with what is released.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from braindecode_suite.core.checks import check_finite, check_shape
from braindecode_suite.core.errors import InputError

Floats = NDArray[np.float64]
IMAGES_AT_ONCE = 256


@dataclass(frozen=True, kw_only=True, eq=False)
class RepeatVariances:
    """Analysis of variance of repeated images, unit by unit.

    Attributes
    ----------
    between : array of shape (units,)
        Mean square between images, ``N + n0 S`` on average.
    noise : array of shape (units,)
        Mean square within images: N without bias.
    total : array of shape (units,)
        Variance of all trials around their mean.
    noise_by_image : array of shape (units,)
        Mean over repeated images of the variance within each, every image with the same weight (NSD's noise variance).
    n0 : float
        What a repeat counts on average: n for n repeats of each image.
    degrees : int
        Trials minus images, the degrees of freedom of `noise`.
    n_images, n_trials : int
    """

    between: Floats
    noise: Floats
    total: Floats
    noise_by_image: Floats
    n0: float
    degrees: int
    n_images: int
    n_trials: int

    @property
    def signal(self) -> Floats:
        """Signal variance S without bias; below 0 where chance made it so, of shape (units,)."""
        return (self.between - self.noise) / self.n0


def repeat_variances(
    responses: Any, ids: ArrayLike, rows: NDArray[np.int64] | None = None
) -> RepeatVariances:
    """Split the variance of repeated images into signal and noise; reads a few hundred images at a time.

    Parameters
    ----------
    responses : Responses of shape (trials, units)
    ids : array of shape (trials,)
        Image of each trial. Images seen once count for the signal, not for the noise.
    rows : int array, optional
        Trials to use, such as the training rows; all by default.

    Returns
    -------
    RepeatVariances

    Raises
    ------
    InputError
        If there are fewer than two images, or too few repeats for a ratio (at least 3 more trials than images).
    """
    labels = np.asarray(ids)
    check_shape("ids", labels, "trials", trials=len(responses))
    used = np.arange(len(labels)) if rows is None else np.asarray(rows, np.int64)
    names, index = np.unique(labels[used].astype(str), return_inverse=True)
    counts = np.bincount(index, minlength=len(names))
    n_trials, n_images = len(used), len(names)
    if n_images < 2 or n_trials - n_images < 3:
        raise InputError(
            "repeats",
            expected="at least two images and three repetitions among them",
            found=f"{n_images} images in {n_trials} trials",
        )
    order = np.argsort(index, kind="stable")
    starts = np.r_[0, np.cumsum(counts)]
    n_units = int(responses.shape[1])
    within, by_image = np.zeros(n_units), np.zeros(n_units)
    means_squared, means = np.zeros(n_units), np.zeros(n_units)
    shift: Floats | None = None  # any constant near the mean keeps the sums of squares small
    for first in range(0, n_images, IMAGES_AT_ONCE):
        last = min(first + IMAGES_AT_ONCE, n_images)
        here = order[starts[first] : starts[last]]
        ascending = np.sort(used[here])  # files are read in order
        block = np.asarray(responses[ascending], np.float64)[np.searchsorted(ascending, used[here])]
        check_finite("`responses`", block)
        shift = block.mean(axis=0) if shift is None else shift
        block -= shift
        n = counts[first:last]
        sums = np.add.reduceat(block, starts[first:last] - starts[first], axis=0)
        mean = sums / n[:, None]
        residual = block - np.repeat(mean, n, axis=0)
        squares = np.add.reduceat(residual**2, starts[first:last] - starts[first], axis=0)
        within += squares.sum(axis=0)
        several = n > 1
        by_image += (squares[several] / (n[several, None] - 1)).sum(axis=0)
        means_squared += (n[:, None] * mean**2).sum(axis=0)
        means += sums.sum(axis=0)
    spread = np.maximum(means_squared - means**2 / n_trials, 0)
    return RepeatVariances(
        between=spread / (n_images - 1),
        noise=within / (n_trials - n_images),
        total=(spread + within) / (n_trials - 1),
        noise_by_image=by_image / np.count_nonzero(counts > 1),
        n0=float((n_trials - np.sum(counts**2) / n_trials) / (n_images - 1)),
        degrees=n_trials - n_images,
        n_images=n_images,
        n_trials=n_trials,
    )


def signal_to_noise(variances: RepeatVariances) -> Floats:
    """Return S / N of a single trial, not rectified and without bias for normal noise.

    The mean squares between and within images are independent and ``E[1 / within] = v / ((v - 2) N)`` for v degrees of
    freedom, so that ``((v - 2) / v between / within - 1) / n0`` is S / N on average, also where S is 0.

    Returns
    -------
    array of shape (units,)
        NaN where a unit does not vary within images.
    """
    v = variances.degrees
    if v < 3:
        raise InputError("repeats", expected="at least three repetitions", found=str(v))
    noise = np.where(variances.noise > 0, variances.noise, np.nan)
    return np.asarray(((v - 2) / v * variances.between / noise - 1) / variances.n0)


def nsd_ncsnr(variances: RepeatVariances) -> Floats:
    """Return NSD's ncsnr: the signal's standard deviation over the noise's, the signal rectified at 0.

    The noise variance is the mean over repeated images of the variance within each, the signal variance what is left of the
    variance of all trials (Allen et al. 2022, Nature Neuroscience 25, Methods; responses z-scored within sessions).

    Returns
    -------
    array of shape (units,)
        0 where the noise explains everything or a unit does not vary.
    """
    noise = variances.noise_by_image
    signal = np.maximum(variances.total - noise, 0)
    return np.sqrt(np.divide(signal, noise, out=np.zeros_like(signal), where=noise > 0))


def noise_ceiling(ncsnr: ArrayLike, n_repeats: ArrayLike) -> Floats:
    """Return the share of variance that could be explained, NC = ncsnr^2 / (ncsnr^2 + mean(1 / n)).

    Parameters
    ----------
    ncsnr : array of shape (units,)
        Signal over noise standard deviation of a single trial, as released.
    n_repeats : int or array of shape (images,)
        Repeats averaged in each scored image; 1 for single trials.

    Returns
    -------
    array of shape (units,)

    Examples
    --------
    >>> noise_ceiling([1.0], [1, 3, 3, 3]).round(3).tolist()
    [0.667]
    """
    snr = np.asarray(ncsnr, dtype=np.float64)
    if snr.size and np.nanmin(snr) < 0:
        raise InputError("`ncsnr`", expected="values of at least 0", found=f"{np.nanmin(snr):.3g}")
    return ceiling_of_ratio(snr**2, n_repeats)


def ceiling_of_ratio(ratio: ArrayLike, n_repeats: ArrayLike) -> Floats:
    """Return the noise ceiling that a ratio of `signal_to_noise` means; below 0 where the ratio is.

    Parameters
    ----------
    ratio : array of shape (units,)
    n_repeats : int or array of shape (images,)

    Returns
    -------
    array of shape (units,)
    """
    n = np.atleast_1d(np.asarray(n_repeats, dtype=np.float64))
    if n.min() < 1:
        raise InputError("`n_repeats`", expected="at least one repeat an image", found=f"{n.min():g}")
    r = np.asarray(ratio, dtype=np.float64)
    return r / (r + np.mean(1 / n))


def split_half_reliability(
    responses: Any, ids: ArrayLike, rows: NDArray[np.int64] | None = None, *, seed: int, n_splits: int = 20
) -> Floats:
    """Correlate, over images, the mean of one half of an image's repeats with the mean of the other half.

    Parameters
    ----------
    responses : Responses of shape (trials, units)
    ids, rows
        As in `repeat_variances`; images seen once are left out.
    seed : int
        Which repeats go to which half; the halves of an odd number differ by one.
    n_splits : int
        Divisions to average over.

    Returns
    -------
    array of shape (units,)
        Correlation of halves (`spearman_brown` extrapolates it); NaN where a half does not vary.
    """
    labels = np.asarray(ids)
    check_shape("ids", labels, "trials", trials=len(responses))
    used = np.arange(len(labels)) if rows is None else np.asarray(rows, np.int64)
    names, index = np.unique(labels[used].astype(str), return_inverse=True)
    members = [used[index == k] for k in range(len(names))]
    members = [m for m in members if len(m) > 1]
    if len(members) < 3:
        raise InputError("repeats", expected="at least three repeated images", found=str(len(members)))
    rng = np.random.default_rng(seed)
    total = np.zeros(int(responses.shape[1]))
    for _ in range(n_splits):
        halves: list[list[Floats]] = [[], []]
        for trials in members:
            shuffled = rng.permutation(trials)
            cut = len(trials) // 2
            for half, part in zip(halves, (shuffled[:cut], shuffled[cut:]), strict=True):
                half.append(np.asarray(responses[np.sort(part)], np.float64).mean(axis=0))
        a, b = (np.stack(half) for half in halves)
        a, b = a - a.mean(axis=0), b - b.mean(axis=0)
        length = np.sqrt(np.sum(a**2, axis=0) * np.sum(b**2, axis=0))
        total += np.where(length > 0, np.sum(a * b, axis=0) / np.where(length > 0, length, 1), np.nan)
    return total / n_splits


def spearman_brown(reliability: ArrayLike, factor: float = 2.0) -> Floats:
    """Return the reliability of `factor` times as many repeats: ``f r / (1 + (f - 1) r)``.

    Examples
    --------
    >>> spearman_brown([0.5]).round(3).tolist()
    [0.667]
    """
    r = np.asarray(reliability, dtype=np.float64)
    return factor * r / (1 + (factor - 1) * r)
