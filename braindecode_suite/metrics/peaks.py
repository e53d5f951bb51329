"""Peaks of a score over time: when, with an interval, and whether there is one at all."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from braindecode_suite.core.windows import EDGE
from braindecode_suite.metrics.bootstrap import Interval
from braindecode_suite.metrics.time_courses import TimeCourse, peak_latency


@dataclass(frozen=True, kw_only=True)
class Peak:
    """The highest window between two times.

    Attributes
    ----------
    latency : Interval
        Seconds; percentiles of the peaks of drawn images.
    value : float
        Score there.
    doubt : str
        Why it is not to be read as a peak; empty where it is one.
    """

    latency: Interval
    value: float
    doubt: str


def find_peak(course: TimeCourse, *, start: float = 0.0, stop: float = np.inf) -> Peak | None:
    """Return the peak between two times, with doubts where the course is flat, on its way from or to another peak, or cut off.

    A course is flat where the simultaneous band at its highest window reaches down to chance: any course has a maximum somewhere.
    A highest window at either end, with a higher one beyond, is the slope of another peak. One that has no window beyond, because the
    course ends or begins there, may be on its way to a peak that was not recorded. Windows as high as the highest, side by side with
    it, count as one with it.

    Parameters
    ----------
    course : TimeCourse
    start, stop : float
        Seconds, both included.

    Returns
    -------
    Peak or None
        None where no window has its centre there.

    Examples
    --------
    >>> from braindecode_suite.metrics.time_courses import time_course
    >>> values = np.random.default_rng(0).random((3, 50)) + [[0.0], [1.0], [0.0]]
    >>> peak = find_peak(time_course(values, [0.0, 0.1, 0.2], chance=0.5, seed=0))
    >>> peak.latency.value, peak.doubt
    (0.1, '')
    """
    inside = np.flatnonzero((course.centres >= start - EDGE) & (course.centres <= stop + EDGE))
    if not len(inside):
        return None
    best = int(inside[course.mean[inside].argmax()])
    return Peak(
        latency=peak_latency(course, start=start, stop=stop),
        value=float(course.mean[best]),
        doubt=_doubt(course, best),
    )


def _doubt(course: TimeCourse, best: int) -> str:
    """Return why the highest window between two times is no peak, empty where it is one; a higher neighbour is outside of these times."""
    if not course.band_low[best] > course.chance:
        return "the band reaches chance"
    same = np.isclose(course.mean, course.mean[best], rtol=0, atol=1e-12 * max(1.0, abs(course.mean[best])))
    others = np.flatnonzero(~same)
    before, after = others[others < best], others[others > best]
    neighbours = [side[at] for side, at in ((before, -1), (after, 0)) if len(side)]
    if any(course.mean[k] > course.mean[best] for k in neighbours):
        return "the slope of another peak"
    if not len(after):
        return "not falling yet where the course ends"
    return "" if len(before) else "falling already where the course begins"
