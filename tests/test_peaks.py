"""When a highest window is a peak: flat, sloping and cut-off courses are doubted, each for its own reason."""

from __future__ import annotations

import numpy as np
import pytest

from braindecode_suite.metrics.peaks import find_peak
from braindecode_suite.metrics.time_courses import TimeCourse, time_course

FLAT = "the band reaches chance"
SLOPE = "the slope of another peak"
RISING = "not falling yet where the course ends"
FALLING = "falling already where the course begins"


def course_of(means: list[float], spread: float = 0.05) -> TimeCourse:
    """Draw a course with exactly these means over 60 images, windows every 100 ms from 0."""
    noise = np.random.default_rng(0).standard_normal((len(means), 60))
    noise -= noise.mean(axis=1, keepdims=True)
    values = np.array(means)[:, None] + spread * noise
    return time_course(values, np.arange(len(means)) / 10, chance=0.5, seed=0, n_resamples=300)


@pytest.mark.parametrize(
    ("means", "at", "doubt"),
    [
        ([0.5, 0.8, 0.6, 0.5], 0.1, ""),
        ([0.5, 0.6, 0.7, 0.8], 0.3, RISING),
        ([0.5, 0.6, 0.8, 0.8], 0.25, RISING),  # as high as it gets, and no end of it
        ([0.5, 0.6, 0.8, 0.79], 0.2, ""),
        ([0.8, 0.7, 0.6, 0.5], 0.0, FALLING),
        ([0.8, 0.8, 0.6, 0.5], 0.05, FALLING),
        ([0.79, 0.8, 0.6, 0.5], 0.1, ""),
        ([0.8, 0.6, 0.5, 0.8], 0.0, FALLING),  # the first of two that are alike
        ([0.8, 0.8, 0.8, 0.8], 0.15, RISING),  # neither end is in sight
    ],
)
def test_a_course_that_is_cut_off_at_its_highest_has_a_doubtful_peak(means, at, doubt):
    peak = find_peak(course_of(means))
    assert peak is not None
    assert (peak.latency.value, peak.doubt) == (pytest.approx(at), doubt)
    assert peak.value == pytest.approx(0.8)


def test_a_flat_course_is_flat_before_it_is_anything_else():
    peak = find_peak(course_of([0.5, 0.5, 0.5, 0.51], spread=0.3))
    assert peak is not None
    assert peak.doubt == FLAT


@pytest.mark.parametrize(
    ("start", "stop", "at", "doubt"),
    [
        (0.0, 0.2, 0.2, SLOPE),  # on the way up to 0.3
        (0.4, 0.6, 0.4, SLOPE),  # on the way down from it
        (0.0, 0.3, 0.3, ""),
        (0.3, 0.6, 0.3, ""),
        (0.5, 0.6, 0.5, SLOPE),
        (0.7, 0.8, 0.8, RISING),
        (0.8, 0.8, 0.8, RISING),
        (0.0, 0.0, 0.0, SLOPE),
    ],
)
def test_windows_beyond_the_times_asked_for_tell_a_slope_from_the_end_of_the_course(start, stop, at, doubt):
    course = course_of([0.6, 0.65, 0.7, 0.9, 0.75, 0.7, 0.6, 0.7, 0.8])
    peak = find_peak(course, start=start, stop=stop)
    assert peak is not None
    assert (peak.latency.value, peak.doubt) == (pytest.approx(at), doubt)


def test_a_plateau_that_rises_on_beyond_the_times_asked_for_is_a_slope():
    course = course_of([0.6, 0.8, 0.8, 0.9, 0.6])
    assert [getattr(find_peak(course, stop=stop), "doubt", None) for stop in (0.1, 0.2, 0.3)] == [
        SLOPE,
        SLOPE,
        "",
    ]


def test_there_is_no_peak_where_no_window_is():
    assert find_peak(course_of([0.5, 0.8, 0.5]), start=1.0) is None
