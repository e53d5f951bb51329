"""A family of haemodynamic responses: differences of two gamma densities whose peak lies where it is asked to."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from braindecode_suite.core.errors import InputError

PEAKS = (3.5, 4.0, 4.5, 5.0, 5.5, 6.0, 6.5, 7.0, 7.5, 8.0)
"""Seconds to the peak of each response in the library; ours, spanning what is reported over visual cortex."""
DISPERSION = 0.9
UNDERSHOOT_LAG = 6.0
UNDERSHOOT_SHARE = 0.35


def double_gamma(times: NDArray[np.floating], peak: float) -> NDArray[np.float64]:
    """Return a response that peaks `peak` seconds after an impulse, with an undershoot 6 s later.

    ``h(t) = g(t; peak) - 0.35 g(t; peak + 6)``, where g is a gamma density with scale 0.9 s and mode at the time given;
    scale, ratio and lag are those of Glover (1999, NeuroImage 9, 416-429) as nilearn sets them. The undershoot
    brings the mode forward by less than 0.2 s.

    Parameters
    ----------
    times : array
        Seconds after the impulse; 0 before it.
    peak : float
        Seconds, above 0.

    Returns
    -------
    array of the shape of `times`, summing to 1

    Examples
    --------
    >>> times = np.arange(0, 32, 0.25)
    >>> float(times[np.argmax(double_gamma(times, 5.0))])
    5.0
    """
    if peak <= 0:
        raise InputError("`peak`", expected="seconds above 0", found=str(peak))
    rise = stats.gamma.pdf(times, peak / DISPERSION + 1, scale=DISPERSION)
    fall = stats.gamma.pdf(times, (peak + UNDERSHOOT_LAG) / DISPERSION + 1, scale=DISPERSION)
    response = rise - UNDERSHOOT_SHARE * fall
    return np.asarray(response / response.sum())


def boxcar_response(lags: NDArray[np.floating], duration: float, peak: float) -> NDArray[np.float64]:
    """Return what an event of some length leaves in the signal `lags` seconds after its onset, in closed form.

    The convolution of `double_gamma` (of unit area) with a boxcar of height 1 is a difference of its integral:
    ``H(t) - H(t - duration)``. A stimulus that never ends comes to 1, as with nilearn's regressors.

    Parameters
    ----------
    lags : array
        Seconds after the onset; 0 before it.
    duration : float
        Seconds, above 0.
    peak : float
        Seconds to the peak of the response to an impulse.

    Returns
    -------
    array of the shape of `lags`
    """
    if duration <= 0:
        raise InputError("`duration`", expected="seconds above 0", found=str(duration))
    return _integral(lags, peak) - _integral(lags - duration, peak)


def _integral(times: NDArray[np.floating], peak: float) -> NDArray[np.float64]:
    rise = stats.gamma.cdf(times, peak / DISPERSION + 1, scale=DISPERSION)
    fall = stats.gamma.cdf(times, (peak + UNDERSHOOT_LAG) / DISPERSION + 1, scale=DISPERSION)
    return np.asarray((rise - UNDERSHOOT_SHARE * fall) / (1 - UNDERSHOOT_SHARE))
