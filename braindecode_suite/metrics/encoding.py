"""Scores of predicted brain responses: correlation and explained variance per unit, split over bands, over the noise ceiling.

A unit whose measurement holds NaN or never varies, or whose prediction is NaN throughout, is missing: it scores NaN, never 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from braindecode_suite.core.checks import check_finite, check_shape
from braindecode_suite.metrics.correlation import Floats, rowwise_pearson, standardise_rows


def encoding_r(truth: ArrayLike, predicted: ArrayLike) -> Floats:
    """Correlate predicted with measured responses over images, unit by unit.

    Parameters
    ----------
    truth, predicted : array of shape (images, units)

    Returns
    -------
    array of shape (units,)
        0 where only the prediction is constant, NaN where the unit is missing.
    """
    a, b = np.asarray(truth), np.asarray(predicted)
    check_shape("truth", a, "images units")
    check_shape("predicted", b, "images units", images=a.shape[0], units=a.shape[1])
    r, known = np.full(a.shape[1], np.nan), _known(a, b)
    if known.any():
        r[known] = rowwise_pearson(a[:, known].T, b[:, known].T)
    return r


def encoding_r2(truth: ArrayLike, predicted: ArrayLike) -> Floats:
    """Return the share of each unit's variance over images that is predicted, ``1 - sum (y - p)^2 / sum (y - mean y)^2``.

    Parameters
    ----------
    truth, predicted : array of shape (images, units)

    Returns
    -------
    array of shape (units,)
        Below 0 for a prediction worse than the mean; NaN where the unit is missing.
    """
    a, b = np.asarray(truth), np.asarray(predicted)
    check_shape("truth", a, "images units")
    check_shape("predicted", b, "images units", images=a.shape[0], units=a.shape[1])
    r2, known = np.full(a.shape[1], np.nan), _known(a, b)
    y, p = a[:, known].astype(np.float64), b[:, known].astype(np.float64)
    check_finite("`predicted`", p)
    r2[known] = 1 - np.square(y - p).sum(axis=0) / np.square(y - y.mean(axis=0)).sum(axis=0)
    return r2


def encoding_r2_split(truth: ArrayLike, parts: ArrayLike) -> Floats:
    """Split the explained variance of a summed prediction over its parts, by the product measure.

    With y and the parts p_b centred over images and p their sum, part b gets ``sum p_b (2 y - p) / sum y^2``. The shares add
    up to the R2 of p about its own mean; one may be negative, where a part only makes up for another.

    Parameters
    ----------
    truth : array of shape (images, units)
    parts : array of shape (bands, images, units)
        For instance of `BandedRidgeCV.predict_bands`.

    Returns
    -------
    array of shape (bands, units)
        NaN where the unit is missing.
    """
    a, b = np.asarray(truth), np.asarray(parts)
    check_shape("truth", a, "images units")
    check_shape("parts", b, "bands images units", images=a.shape[0], units=a.shape[1])
    known = _known(a, b.sum(axis=0))
    y, p = a[:, known].astype(np.float64), b[:, :, known].astype(np.float64)
    check_finite("`parts`", p)
    y, p = y - y.mean(axis=0), p - p.mean(axis=1, keepdims=True)
    shares = np.full((len(b), a.shape[1]), np.nan)
    shares[:, known] = np.einsum("biu,iu->bu", p, 2 * y - p.sum(axis=0)) / np.square(y).sum(axis=0)
    return shares


@dataclass(frozen=True, kw_only=True)
class NormalisedScores:
    """Explained variance over the noise ceiling, the three ways it is printed.

    Attributes
    ----------
    clipped : float
        The challenge's way (Algonauts 2023): negative r set to 0, a ceiling of 0 set to 1e-14, each unit's ratio
        clipped at 1, then averaged. A unit without any signal scores 1 as soon as its r is positive.
    unclipped : float
        sum(sign(r) r^2) / sum(NC), which no clipping biases.
    thresholded : float
        `unclipped` over the units whose ceiling is at least `threshold`; NaN where there is none.
    threshold : float
    n_units, n_above, n_missing : int
        Units scored, those of them above the threshold, and those left out because r or ceiling is NaN.
    """

    clipped: float
    unclipped: float
    thresholded: float
    threshold: float
    n_units: int
    n_above: int
    n_missing: int


def encoding_r2_nc(r: ArrayLike, ceiling: ArrayLike, *, threshold: float = 0.05) -> NormalisedScores:
    """Divide the variance explained by the variance that could be.

    Parameters
    ----------
    r : array of shape (units,)
        From `encoding_r`; NaN units are left out.
    ceiling : array of shape (units,)
        From `core.noise.noise_ceiling`.
    threshold : float

    Returns
    -------
    NormalisedScores
    """
    scores, ceilings = np.asarray(r, dtype=np.float64), np.asarray(ceiling, dtype=np.float64)
    check_shape("r", scores, "units")
    check_shape("ceiling", ceilings, "units", units=len(scores))
    known = np.isfinite(scores) & np.isfinite(ceilings)
    scores, ceilings = scores[known], ceilings[known]
    if not len(scores):
        nan = float("nan")
        return NormalisedScores(
            clipped=nan,
            unclipped=nan,
            thresholded=nan,
            threshold=threshold,
            n_units=0,
            n_above=0,
            n_missing=len(known),
        )
    above = ceilings >= threshold
    return NormalisedScores(
        clipped=float(normalise_clipped(scores, ceilings).mean()),
        unclipped=_ratio_of_sums(scores, ceilings),
        thresholded=_ratio_of_sums(scores[above], ceilings[above]),
        threshold=threshold,
        n_units=len(scores),
        n_above=int(above.sum()),
        n_missing=int((~known).sum()),
    )


def normalise_clipped(r: ArrayLike, ceiling: ArrayLike) -> Floats:
    """Return min(max(r, 0)^2 / max(NC, 1e-14), 1) for each unit."""
    positive = np.maximum(np.asarray(r, dtype=np.float64), 0) ** 2
    return np.minimum(positive / np.maximum(np.asarray(ceiling, dtype=np.float64), 1e-14), 1.0)


def _ratio_of_sums(r: Floats, ceiling: Floats) -> float:
    return float((np.sign(r) * r**2).sum() / ceiling.sum()) if ceiling.sum() > 0 else float("nan")


def _known(truth: NDArray[np.generic], predicted: NDArray[np.generic]) -> NDArray[np.bool_]:
    known = ~np.isnan(truth).any(axis=0) & ~np.isnan(predicted).all(axis=0)
    check_finite("`truth`", truth[:, known])
    known[known] = ~standardise_rows(truth[:, known].T)[1] if known.any() else False
    return np.asarray(known)


def resampled_r2_split(truth: ArrayLike, parts: ArrayLike, weights: ArrayLike) -> Floats:
    """Split the explained variance over weighted images, for intervals: `encoding_r2_split` where images are drawn repeatedly.

    Parameters
    ----------
    truth : array of shape (images, units)
    parts : array of shape (bands, images, units)
    weights : array of shape (resamples, images)
        How often each image counts.

    Returns
    -------
    array of shape (resamples, bands, units)
        NaN where the unit is missing, or does not vary in a resample.
    """
    a, b, w = np.asarray(truth), np.asarray(parts), np.asarray(weights, dtype=np.float64)
    check_shape("truth", a, "images units")
    check_shape("parts", b, "bands images units", images=a.shape[0], units=a.shape[1])
    check_shape("weights", w, "resamples images", images=len(a))
    known = _known(a, b.sum(axis=0))
    y, p = a[:, known].astype(np.float64), b[:, :, known].astype(np.float64)
    check_finite("`parts`", p)
    y, p = y - y.mean(axis=0), p - p.mean(axis=1, keepdims=True)
    total, n = p.sum(axis=0), w.sum(axis=1, keepdims=True)
    mean_y = w @ y / n  # (resamples, units)
    spread = w @ np.square(y) - n * np.square(mean_y)
    spread[spread <= 1e-9 * np.square(y).sum(axis=0)] = np.nan
    shares = np.full((len(w), len(b), a.shape[1]), np.nan)
    for k, part in enumerate(p):
        about = n * (w @ part / n) * (2 * mean_y - w @ total / n)
        shares[:, k, known] = (w @ (part * (2 * y - total)) - about) / spread
    return shares
