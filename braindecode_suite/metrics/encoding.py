"""Scores of predicted brain responses: correlation per unit, and explained variance over the noise ceiling."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from braindecode_suite.core.checks import check_shape
from braindecode_suite.metrics.correlation import Floats, rowwise_pearson


def encoding_r(truth: ArrayLike, predicted: ArrayLike) -> Floats:
    """Correlate predicted with measured responses over images, unit by unit.

    Parameters
    ----------
    truth, predicted : array of shape (images, units)

    Returns
    -------
    array of shape (units,)
        0 where only the prediction is constant, NaN where the measurement is.
    """
    a, b = np.asarray(truth), np.asarray(predicted)
    check_shape("truth", a, "images units")
    check_shape("predicted", b, "images units", images=a.shape[0], units=a.shape[1])
    return rowwise_pearson(a.T, b.T)


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
    n_units, n_above : int
        Units scored, and those above the threshold. Units whose measurement is constant are left out.
    """

    clipped: float
    unclipped: float
    thresholded: float
    threshold: float
    n_units: int
    n_above: int


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
            clipped=nan, unclipped=nan, thresholded=nan, threshold=threshold, n_units=0, n_above=0
        )
    above = ceilings >= threshold
    return NormalisedScores(
        clipped=float(normalise_clipped(scores, ceilings).mean()),
        unclipped=_ratio_of_sums(scores, ceilings),
        thresholded=_ratio_of_sums(scores[above], ceilings[above]),
        threshold=threshold,
        n_units=len(scores),
        n_above=int(above.sum()),
    )


def normalise_clipped(r: ArrayLike, ceiling: ArrayLike) -> Floats:
    """Return min(max(r, 0)^2 / max(NC, 1e-14), 1) for each unit."""
    positive = np.maximum(np.asarray(r, dtype=np.float64), 0) ** 2
    return np.minimum(positive / np.maximum(np.asarray(ceiling, dtype=np.float64), 1e-14), 1.0)


def _ratio_of_sums(r: Floats, ceiling: Floats) -> float:
    return float((np.sign(r) * r**2).sum() / ceiling.sum()) if ceiling.sum() > 0 else float("nan")
