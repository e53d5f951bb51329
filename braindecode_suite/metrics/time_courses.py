"""Scores over time: intervals at one window, bands over all of them, and latencies, from one bootstrap of images.

Images are drawn for all windows together, so that what neighbouring windows share is kept. Two kinds of interval come from the same
draws. The pointwise one holds at a window chosen beforehand. The simultaneous band holds at all windows at once: its half width at
window w is ``c s_w`` with ``c`` the 95 % quantile, over draws, of ``max_w |m*_w - m_w| / s_w`` (the sup-t band: Mandel and Betensky
2008, Comput. Stat. Data Anal. 52; Montiel Olea and Plagborg-Moller 2019, J. Appl. Econometrics 34).

Scores of rare hits have windows without a single one: their bootstrap deviation is 0 although the rate need not be. Whatever positive
``s_w`` stands there, ``c`` is the quantile of the maximum that uses it and the band stays simultaneous; ``s_w`` only says how width is
shared out. Variances below the median of those windows that vary are therefore raised half way to it: that window is given a width,
and no window that varies more than the median changes. Before the picture all windows have the same rate, as far as anyone should
know, and so the same deviation: the band over these alone takes the root of their mean variance, or else the luckiest window would
also be the widest. Where no window varies there is no band (NaN), not one of width 0.

An interval is conditional on the gallery and on the model. Windows are labelled by their centres.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from braindecode_suite.core.checks import check_finite, check_shape
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.windows import EDGE, Window
from braindecode_suite.metrics.bootstrap import Interval
from braindecode_suite.metrics.correlation import Floats

DRAWS_AT_ONCE = 256
Bools = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, eq=False)
class TimeCourse:
    """Mean scores of windows, with what is known of them.

    Attributes
    ----------
    centres : array of shape (windows,)
        Seconds from the picture.
    mean : array of shape (windows,)
    low, high : array of shape (windows,)
        Pointwise interval: for a window chosen beforehand. It has no width where all images score the same.
    band_low, band_high : array of shape (windows,)
        Simultaneous band over all windows.
    before : array of bool of shape (windows,)
        Windows that end before the picture.
    before_low, before_high : array of shape (windows,)
        Simultaneous band over the windows before the picture alone; NaN at all others.
    resampled : array of shape (resamples, windows)
        Means of the drawn images.
    chance, level : float
    over : str
        What was drawn.
    n_units, n_rows : int
    """

    centres: Floats
    mean: Floats
    low: Floats
    high: Floats
    band_low: Floats
    band_high: Floats
    before: Bools
    before_low: Floats
    before_high: Floats
    resampled: Floats
    chance: float
    level: float
    over: str
    n_units: int
    n_rows: int

    @property
    def before_upper(self) -> float:
        """The most that the score before the picture could be: the band's largest upper bound there; NaN without such windows."""
        return float(self.before_high[self.before].max()) if self.before.any() else float("nan")


def ends_before_onset(windows: Sequence[Window], *, reach: float = 0.0) -> Bools:
    """Tell which windows hold no sample from the picture on.

    Parameters
    ----------
    windows : sequence of Window
    reach : float
        Seconds that a filter carries backwards: windows must end that much earlier.

    Returns
    -------
    array of bool of shape (windows,)

    Examples
    --------
    >>> from braindecode_suite.core.windows import sliding_windows
    >>> ends_before_onset(sliding_windows(np.arange(-3, 3) / 10, width=0.2, stride=0.1)).tolist()
    [True, True, False, False, False]
    """
    if not reach >= 0:
        raise InputError("`reach`", expected="seconds, 0 or more", found=f"{reach:g}")
    return np.array([w.time_stop <= EDGE - reach for w in windows], dtype=bool)


def time_course(
    values: ArrayLike,
    centres: ArrayLike,
    *,
    chance: float,
    before: ArrayLike | None = None,
    units: ArrayLike | None = None,
    over: str = "image",
    seed: int,
    n_resamples: int = 2_000,
    level: float = 0.95,
) -> TimeCourse:
    """Return the course of the mean score with pointwise intervals and simultaneous bands.

    Parameters
    ----------
    values : array of shape (windows, images)
        Score of each image in each window (a hit or its probability, a relative rank).
    centres : array of shape (windows,)
        Seconds, ascending.
    chance : float
        Level where nothing is decoded.
    before : array of bool of shape (windows,), optional
        Windows that end before the picture (`ends_before_onset`); none by default.
    units : array of shape (images,), optional
        What each image belongs to (a concept): drawn together. By default each image is a unit.
    over : str
        Name of the unit.
    seed : int
    n_resamples : int
    level : float

    Returns
    -------
    TimeCourse

    Examples
    --------
    >>> values = np.random.default_rng(0).random((3, 50)) + [[0.0], [0.0], [1.0]]
    >>> course = time_course(values, [-0.1, 0.0, 0.1], chance=0.5, before=[True, False, False], seed=0)
    >>> bool(course.band_low[2] > 1.2), bool((course.band_high >= course.high).all())
    (True, True)
    >>> peak_latency(course).value
    0.1
    """
    scores, when = np.asarray(values, np.float64), np.asarray(centres, np.float64)
    check_shape("values", scores, "windows images")
    check_finite("`values`", scores)
    check_shape("centres", when, "windows", windows=len(scores))
    if not scores.size:
        raise InputError("`values`", expected="at least one window and one image", found=str(scores.shape))
    if (np.diff(when) <= 0).any():
        raise InputError("`centres`", expected="ascending seconds", found=str(when.tolist()))
    early = np.zeros(len(when), bool) if before is None else np.asarray(before)
    check_shape("before", early, "windows", windows=len(when))
    if early.dtype != bool:
        raise InputError("`before`", expected="true or false for each window", found=str(early.dtype))
    if n_resamples < 100:
        raise InputError("`n_resamples`", expected="at least 100", found=str(n_resamples))
    if not 0 < level < 1:
        raise InputError("`level`", expected="a share between 0 and 1", found=str(level))

    mean = scores.mean(axis=1)
    drawn, n_units = resample_means(scores, units, seed=seed, n_resamples=n_resamples)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0)
    band = simultaneous_half_width(mean, drawn, level=level)
    reserved = np.full(len(mean), np.nan)
    if early.any():
        reserved[early] = simultaneous_half_width(mean[early], drawn[:, early], level=level, pooled=True)
    return TimeCourse(
        centres=when,
        mean=mean,
        low=low,
        high=high,
        band_low=mean - band,
        band_high=mean + band,
        before=early,
        before_low=mean - reserved,
        before_high=mean + reserved,
        resampled=drawn,
        chance=float(chance),
        level=level,
        over=over,
        n_units=n_units,
        n_rows=scores.shape[1],
    )


def resample_means(
    values: Floats, units: ArrayLike | None = None, *, seed: int, n_resamples: int
) -> tuple[Floats, int]:
    """Return the means of drawn images, the same draw at all windows, and the number of units.

    Parameters
    ----------
    values : array of shape (windows, images)
    units : array of shape (images,), optional
    seed, n_resamples : int

    Returns
    -------
    array of shape (resamples, windows)
        NaN where there are fewer than two units.
    int
    """
    n = values.shape[1]
    labels = np.arange(n) if units is None else np.asarray(units)
    check_shape("units", labels, "images", images=n)
    names, index = np.unique(labels, return_inverse=True)
    n_units = len(names)
    if n_units < 2:
        return np.full((n_resamples, len(values)), np.nan), n_units
    totals = np.stack([np.bincount(index, weights=row, minlength=n_units) for row in values], axis=1)
    sizes = np.bincount(index, minlength=n_units).astype(np.float64)
    rng, share = np.random.default_rng(seed), np.full(n_units, 1 / n_units)
    drawn = np.empty((n_resamples, len(values)))
    for start in range(0, n_resamples, DRAWS_AT_ONCE):
        part = slice(start, min(start + DRAWS_AT_ONCE, n_resamples))
        times = rng.multinomial(n_units, share, size=part.stop - start).astype(np.float64)
        drawn[part] = (times @ totals) / (times @ sizes)[:, None]
    return drawn, n_units


def simultaneous_half_width(
    mean: Floats, resampled: Floats, *, level: float = 0.95, pooled: bool = False
) -> Floats:
    """Return the half width of the sup-t band over all windows given.

    Parameters
    ----------
    mean : array of shape (windows,)
    resampled : array of shape (resamples, windows)
    level : float
    pooled : bool
        One deviation for all windows.

    Returns
    -------
    array of shape (windows,)
        NaN where no window varies.
    """
    variance = resampled.var(axis=0)
    varies = variance > 1e-12 * np.maximum(1e-12, mean**2)
    if not varies.any() or np.isnan(variance).any():
        return np.full(len(mean), np.nan)
    if pooled:
        deviation = np.full(len(mean), np.sqrt(variance.mean()))
    else:
        usual = np.median(variance[varies])
        deviation = np.sqrt(np.maximum(variance, (variance + usual) / 2))
    largest = (np.abs(resampled - mean) / deviation).max(axis=1)
    return np.asarray(np.quantile(largest, level) * deviation)


def peak_latency(course: TimeCourse, *, start: float = 0.0, stop: float = np.inf) -> Interval:
    """Return when the score is highest, with an interval over images.

    Of several windows that reach the maximum, the middle of the first unbroken run of them counts.

    Parameters
    ----------
    course : TimeCourse
    start, stop : float
        Seconds between which centres are looked at: by default from the picture on.

    Returns
    -------
    Interval
        Seconds; percentiles of the peaks of drawn images.
    """
    inside = _inside(course, start, stop)
    centres = course.centres[inside]
    value = _peaks(course.mean[None, inside], centres)
    return _latency(course, float(value[0]), _peaks(course.resampled[:, inside], centres))


def onset_latency(
    course: TimeCourse,
    *,
    fraction: float = 0.5,
    consecutive: int = 2,
    start: float = 0.0,
    stop: float = np.inf,
) -> Interval:
    """Return when the score first rises to a share of its peak, with an interval over images.

    The onset is the first of `consecutive` windows in a row whose mean is at least ``base + fraction (peak - base)``, ``base`` being the
    mean of the windows before the picture, or chance where there are none (fractional peak latency: Kiesel et al. 2008,
    Psychophysiology 45). Unlike the first significant window it does not wait for more images; unlike a cluster's edge it has an
    interval.

    Parameters
    ----------
    course : TimeCourse
    fraction : float
        Share of the height of the peak.
    consecutive : int
        Windows that must be as high.
    start, stop : float
        As in `peak_latency`.

    Returns
    -------
    Interval
        Seconds. Draws without an onset count as later than all others: `high` is infinite where they are too many. `value` is NaN
        where the course has none.
    """
    if not 0 < fraction < 1:
        raise InputError("`fraction`", expected="a share between 0 and 1", found=f"{fraction:g}")
    if consecutive < 1:
        raise InputError("`consecutive`", expected="at least 1", found=str(consecutive))
    inside = _inside(course, start, stop)
    found = []
    for means in (course.mean[None], course.resampled):
        base = means[:, course.before].mean(axis=1) if course.before.any() else course.chance
        found.append(_onsets(means[:, inside], course.centres[inside], base, fraction, consecutive))
    value = float(found[0][0])
    return _latency(course, value if np.isfinite(value) else float("nan"), found[1])


def _inside(course: TimeCourse, start: float, stop: float) -> NDArray[np.intp]:
    inside = np.flatnonzero((course.centres >= start - EDGE) & (course.centres <= stop + EDGE))
    if not len(inside):
        raise InputError(
            "`start` and `stop`",
            expected=f"centres between them, of {course.centres[0]:g} to {course.centres[-1]:g} s",
            found=f"{start:g} to {stop:g} s",
        )
    return inside


def _peaks(means: Floats, centres: Floats) -> Floats:
    """Return the peak of each row, NaN for rows of NaN."""
    largest = means.max(axis=1, keepdims=True)
    reached = means >= largest - 1e-12 * np.maximum(1.0, np.abs(largest))
    first = reached.argmax(axis=1)
    left = ~reached & (np.arange(means.shape[1]) > first[:, None])
    last = np.where(left.any(axis=1), left.argmax(axis=1), means.shape[1]) - 1
    return np.where(np.isnan(largest[:, 0]), np.nan, (centres[first] + centres[last]) / 2)


def _onsets(
    means: Floats, centres: Floats, base: Floats | float, fraction: float, consecutive: int
) -> Floats:
    """Return the onset of each row, infinity where there is none."""
    floor = np.broadcast_to(np.asarray(base, np.float64), (len(means),))
    height = means.max(axis=1) - floor
    high = means >= (floor + fraction * height)[:, None] - 1e-12
    n = means.shape[1] - consecutive + 1
    if n < 1:
        return np.full(len(means), np.inf)
    held = np.logical_and.reduce([high[:, k : k + n] for k in range(consecutive)])
    some = held.any(axis=1) & (height > 0)
    return np.where(some, centres[held.argmax(axis=1)], np.inf)


def _latency(course: TimeCourse, value: float, drawn: Floats) -> Interval:
    if np.isnan(drawn).any():
        low = high = float("nan")
    else:
        tails = [(1 - course.level) / 2, (1 + course.level) / 2]
        low, high = (float(end) for end in np.quantile(drawn, tails, method="inverted_cdf"))
    return Interval(
        value=value,
        low=low,
        high=high,
        level=course.level,
        over=course.over,
        n_units=course.n_units,
        n_rows=course.n_rows,
    )
