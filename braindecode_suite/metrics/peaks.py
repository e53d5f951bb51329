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
    """Return the peak between two times, with doubts where the course is flat or still falling from an earlier response.

    A course is flat where the simultaneous band at its highest window reaches down to chance: any course has a maximum somewhere.
    A highest window at either end, with a higher one beyond, is the slope of another peak.

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
    doubt = ""
    low = course.band_low[best]
    if not low > course.chance:
        doubt = "the band reaches chance"
    elif (best == inside[0] and best > 0 and course.mean[best - 1] > course.mean[best]) or (
        best == inside[-1] and best + 1 < len(course.mean) and course.mean[best + 1] > course.mean[best]
    ):
        doubt = "the slope of another peak"
    return Peak(
        latency=peak_latency(course, start=start, stop=stop), value=float(course.mean[best]), doubt=doubt
    )
