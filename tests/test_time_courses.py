"""Bands, latencies and their intervals against closed forms, other implementations and simulated studies."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import norm

from braindecode_suite.core.errors import InputError
from braindecode_suite.core.windows import sliding_windows
from braindecode_suite.metrics.bootstrap import bootstrap_mean
from braindecode_suite.metrics.time_courses import (
    ends_before_onset,
    onset_latency,
    peak_latency,
    simultaneous_half_width,
    time_course,
)

WINDOWS, STRIDE = 20, 0.05
CENTRES = np.arange(WINDOWS) * STRIDE - 0.3
BEFORE = CENTRES < -0.04


def correlated(rng, rho, n_images, windows=WINDOWS):
    """Draw standard normal series that remember the window before."""
    noise = rng.standard_normal((windows, n_images))
    series = [noise[0]]
    for row in noise[1:]:
        series.append(rho * series[-1] + np.sqrt(1 - rho**2) * row)
    return np.array(series)


def course_of(values, **options):
    return time_course(values, CENTRES, **{"chance": 0.0, "before": BEFORE, "seed": 0} | options)


def test_the_band_of_independent_windows_has_the_closed_form():
    rng = np.random.default_rng(0)
    drawn = 3 * rng.standard_normal((20_000, 10))
    critical = norm.ppf((1 + 0.95 ** (1 / 10)) / 2)
    for pooled in (False, True):
        width = simultaneous_half_width(np.zeros(10), drawn, pooled=pooled)
        assert_allclose(width, 3 * critical, rtol=0.03)


def test_width_is_shared_out_by_the_deviations():
    drawn = np.random.default_rng(1).standard_normal((20_000, 10)) * np.arange(1, 11)
    width = simultaneous_half_width(np.zeros(10), drawn)
    assert_allclose(width[5:] / width[5], np.arange(6, 11) / 6, rtol=0.03)
    assert_allclose(width[0] / width[5], np.sqrt((1 + (25 + 36) / 2) / 2) / 6, rtol=0.03)
    assert np.mean((np.abs(drawn) <= width).all(axis=1)) == pytest.approx(0.95, abs=1e-3)
    assert np.ptp(simultaneous_half_width(np.zeros(10), drawn, pooled=True)) == 0


def test_the_band_of_windows_that_say_the_same_is_the_pointwise_interval():
    values = np.tile(np.random.default_rng(1).standard_normal(400), (WINDOWS, 1))
    course = course_of(values, n_resamples=10_000)
    error = values[0].std() / np.sqrt(400)
    assert_allclose(course.band_high - course.mean, norm.ppf(0.975) * error, rtol=0.03)
    assert_allclose(course.before_high[BEFORE] - course.mean[BEFORE], norm.ppf(0.975) * error, rtol=0.03)
    assert_allclose(course.high - course.mean, norm.ppf(0.975) * error, rtol=0.06)


def test_pointwise_intervals_match_the_bootstrap_of_one_window():
    rng = np.random.default_rng(2)
    values = rng.exponential(size=(WINDOWS, 120)) + rng.standard_normal(30)[np.arange(120) // 4]
    concept = np.arange(120) // 4
    course = course_of(values, units=concept, over="concept", n_resamples=8000)
    alone = bootstrap_mean(values[3], concept, over="concept", seed=5, n_resamples=8000)
    assert (course.n_units, course.over) == (30, "concept")
    assert_allclose(
        (course.mean[3], course.low[3], course.high[3]), (alone.value, alone.low, alone.high), atol=0.03
    )


@pytest.mark.parametrize("rho", [0.0, 0.8])
@pytest.mark.parametrize("kind", ["hits", "normal"])
def test_bands_hold_at_all_windows_at_once_as_often_as_they_say(rho, kind):
    rng, n = np.random.default_rng(3), 200
    rate = np.full(WINDOWS, 0.025)
    rate[8:14] = np.linspace(0.05, 0.6, 6)
    inside, early, pointwise = [], [], []
    for study in range(120):
        values = correlated(rng, rho, n)
        values = (values < norm.ppf(rate)[:, None]) * 1.0 if kind == "hits" else values + rate[:, None]
        course = course_of(values, chance=0.025, seed=study, n_resamples=400)
        inside.append(((course.band_low <= rate) & (rate <= course.band_high)).all())
        early.append(((course.before_low <= rate) & (rate <= course.before_high))[BEFORE].all())
        pointwise.append(((course.low <= rate) & (rate <= course.high)).all())
    assert 0.88 <= np.mean(inside) <= 1.0  # 0.95 less three standard errors and the skewness of rare hits
    assert 0.88 <= np.mean(early) <= 1.0
    assert np.mean(pointwise) < np.mean(inside) - 0.15


def test_a_window_without_a_hit_gets_a_width_and_leaves_the_others_theirs():
    values = (np.random.default_rng(4).random((WINDOWS, 200)) < 0.3) * 1.0
    values[0] = 0.0
    course = course_of(values)
    width = course.band_high - course.mean
    usual = np.median(width[1:])
    assert course.low[0] == course.high[0] == 0.0
    assert_allclose(width[0], usual / np.sqrt(2), rtol=0.05)
    rest = simultaneous_half_width(course.mean[1:], course.resampled[:, 1:])
    assert_allclose(width[1:], rest, rtol=0.03)


def test_where_nothing_varies_there_is_no_band():
    course = course_of(np.full((WINDOWS, 50), 1 / 3))
    assert np.isnan(course.band_high).all()
    assert np.isnan(course.before_upper)
    assert_allclose(course.high, 1 / 3)


def test_a_single_image_has_no_interval():
    course = course_of(np.random.default_rng(0).random((WINDOWS, 1)))
    assert np.isnan(course.low).all()
    assert np.isnan(course.band_low).all()
    assert np.isnan(peak_latency(course).low)


def test_the_band_before_the_picture_knows_of_no_window_after_it():
    rng = np.random.default_rng(5)
    values = rng.random((WINDOWS, 100))
    other = values.copy()
    other[~BEFORE] += rng.standard_normal((np.sum(~BEFORE), 100)) * 7
    first, second = course_of(values), course_of(other)
    assert_array_equal(first.before_high, second.before_high)
    assert np.isnan(first.before_high[~BEFORE]).all()
    assert first.before_upper == first.before_high[BEFORE].max()
    assert first.before_upper < first.band_high[BEFORE].max()  # fewer windows, less to be sure of
    assert np.isnan(time_course(values, CENTRES, chance=0, seed=0).before_upper)


def test_windows_end_before_the_picture_by_their_last_sample():
    windows = sliding_windows(np.arange(-30, 50) / 100, width=0.1, stride=0.05)
    before = ends_before_onset(windows)
    assert before.sum() == 5  # -0.3, -0.25, -0.2, -0.15 and -0.1 to 0 s
    assert windows[4].time_stop == pytest.approx(0.0)
    assert ends_before_onset(windows, reach=0.1).sum() == 3


# Latencies


def bump(peak, width=0.08):
    return np.exp(-0.5 * ((CENTRES - peak) / width) ** 2)


def test_latencies_without_noise_are_those_put_in():
    values = np.tile(bump(0.25)[:, None], (1, 30))
    course = course_of(values)
    peak, onset = peak_latency(course), onset_latency(course)
    assert (peak.value, peak.low, peak.high) == pytest.approx((0.25, 0.25, 0.25))
    assert onset.value == pytest.approx(0.2)  # exp(-0.5 (0.05 / 0.08)^2) = 0.82, one window earlier 0.46
    assert onset_latency(course, fraction=0.4).value == pytest.approx(0.15)


def test_a_peak_lies_in_the_middle_of_its_plateau():
    values = np.zeros((WINDOWS, 10))
    values[8:13] = 1.0
    assert peak_latency(course_of(values)).value == pytest.approx(CENTRES[10])
    values[16:19] = 1.0
    assert peak_latency(course_of(values)).value == pytest.approx(CENTRES[10])
    assert peak_latency(course_of(values), start=CENTRES[15]).value == pytest.approx(CENTRES[17])


def test_a_lone_window_is_no_onset():
    values = np.zeros((WINDOWS, 10))
    values[8], values[11:14] = 0.8, 1.0
    assert onset_latency(course_of(values)).value == pytest.approx(CENTRES[11])
    assert onset_latency(course_of(values), consecutive=1).value == pytest.approx(CENTRES[8])


def test_the_onset_is_relative_to_the_level_before_the_picture():
    ramp = np.clip((CENTRES - 0.05) / 0.4, 0, 1)
    at_0, at_5 = (onset_latency(course_of(np.tile(v[:, None], (1, 5)))).value for v in (ramp, ramp + 5))
    assert at_0 == at_5 == pytest.approx(0.25)
    no_baseline = time_course(np.tile(ramp[:, None] + 5, (1, 5)), CENTRES, chance=5.0, seed=0)
    assert onset_latency(no_baseline).value == pytest.approx(0.25)


def test_intervals_of_latencies_hold_the_truth_as_often_as_they_say():
    rng, peaks, onsets = np.random.default_rng(6), [], []
    for study in range(80):
        values = 0.4 * bump(0.25)[:, None] + correlated(rng, 0.6, 300)
        course = course_of(values, seed=study, n_resamples=300)
        peak, onset = peak_latency(course), onset_latency(course)
        peaks.append(peak.low - 1e-9 <= 0.25 <= peak.high + 1e-9)
        onsets.append(onset.low - 1e-9 <= 0.2 <= onset.high + 1e-9)
        assert peak.high - peak.low < 0.5
    assert np.mean(peaks) >= 0.88
    assert np.mean(onsets) >= 0.88


def test_a_course_that_never_rises_has_no_onset():
    onset = onset_latency(course_of(np.zeros((WINDOWS, 10))))
    assert np.isnan(onset.value)
    assert onset.high == np.inf
    falling = np.tile(-np.arange(WINDOWS)[:, None], (1, 10)) * 1.0
    assert np.isnan(onset_latency(course_of(falling)).value)


def test_the_same_seed_draws_the_same_images():
    values = np.random.default_rng(0).random((WINDOWS, 40))
    assert_array_equal(course_of(values).resampled, course_of(values).resampled)
    assert not np.array_equal(course_of(values).resampled, course_of(values, seed=1).resampled)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"values": np.full((WINDOWS, 3), np.nan)}, "finite values"),
        ({"values": np.zeros((WINDOWS, 0))}, "one image"),
        ({"centres": CENTRES[::-1]}, "ascending"),
        ({"centres": CENTRES[1:]}, "`centres`"),
        ({"before": np.zeros(WINDOWS)}, "true or false"),
        ({"n_resamples": 10}, "at least 100"),
        ({"level": 95}, "share"),
    ],
)
def test_bad_courses_are_refused(change, message):
    good = {"values": np.zeros((WINDOWS, 3)), "centres": CENTRES, "chance": 0.0, "seed": 0}
    with pytest.raises(InputError, match=message):
        time_course(**(good | change))


def test_bad_latencies_are_refused():
    course = course_of(np.random.default_rng(0).random((WINDOWS, 4)))
    with pytest.raises(InputError, match="centres between them"):
        peak_latency(course, start=9.0)
    with pytest.raises(InputError, match="`fraction`"):
        onset_latency(course, fraction=1.0)
    with pytest.raises(InputError, match="`consecutive`"):
        onset_latency(course, consecutive=0)
    with pytest.raises(InputError, match="`reach`"):
        ends_before_onset([], reach=-1.0)
