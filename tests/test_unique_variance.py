"""Unique and shared variance against statsmodels, known mixtures, and refits without each image."""

import numpy as np
import pytest
import statsmodels.api as sm
from numpy.testing import assert_allclose

from braindecode_suite.core.errors import InputError
from braindecode_suite.metrics.time_courses import peak_latency, time_course
from braindecode_suite.metrics.unique_variance import unique_variance


def adjusted(y, *features):
    return sm.OLS(y, sm.add_constant(np.column_stack(features))).fit().rsquared_adj


def test_shares_are_differences_of_the_adjusted_r2_of_statsmodels():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((60, 3)), rng.standard_normal((60, 4)) + 5
    y = a[:, :1] + b[:, :1] + rng.standard_normal((60, 1))
    found = unique_variance([y], a, b)
    full, alone_a, alone_b = adjusted(y, a, b), adjusted(y, a), adjusted(y, b)
    assert_allclose(found.first.mean(), full - alone_b)
    assert_allclose(found.second.mean(), full - alone_a)
    assert_allclose(found.shared.mean(), alone_a + alone_b - full)
    assert_allclose(found.total, found.first + found.second + found.shared)
    assert found.n_features == (3, 4, 7)


def test_known_mixtures_are_taken_apart():
    rng = np.random.default_rng(1)
    n, r, (alpha, beta, noise) = 20_000, 0.6, (1.0, 0.5, 2.0)
    a = rng.standard_normal((n, 1))
    b = r * a + np.sqrt(1 - r**2) * rng.standard_normal((n, 1))
    y = alpha * a + beta * b + noise * rng.standard_normal((n, 1))
    variance = alpha**2 + beta**2 + 2 * alpha * beta * r + noise**2
    found = unique_variance([y], a, b)
    assert found.first.mean() == pytest.approx(alpha**2 * (1 - r**2) / variance, abs=0.01)
    assert found.second.mean() == pytest.approx(beta**2 * (1 - r**2) / variance, abs=0.01)
    assert found.total.mean() == pytest.approx(1 - noise**2 / variance, abs=0.01)


def test_latents_count_by_their_variance():
    rng = np.random.default_rng(2)
    a, b = rng.standard_normal((2, 5000, 1))
    latents = np.concatenate([3 * a, b], axis=1)
    found = unique_variance([latents], a, b)
    assert found.first.mean() == pytest.approx(0.9, abs=0.01)
    assert found.second.mean() == pytest.approx(0.1, abs=0.01)


def test_the_value_of_an_image_is_what_the_share_loses_without_it():
    rng = np.random.default_rng(3)
    n = 25
    a, b, y = (rng.standard_normal((n, k)) for k in (2, 3, 1))
    y = y + a[:, :1]
    found = unique_variance([y], a, b)
    without = []
    for i in range(n):
        rest = np.arange(n) != i
        without.append(adjusted(y[rest], a[rest], b[rest]) - adjusted(y[rest], b[rest]))
    whole = adjusted(y, a, b) - adjusted(y, b)
    assert_allclose(found.first[0], whole + (n - 1) * (np.mean(without) - np.array(without)))


def test_features_that_say_nothing_explain_nothing_on_average():
    rng = np.random.default_rng(4)
    shares, inside = [], 0
    for study in range(200):
        predicted, a, b = (rng.standard_normal((60, k)) for k in (4, 6, 6))
        found = unique_variance([predicted + b[:, :4]], a, b)
        shares.append(found.first.mean())
        course = time_course(found.first, [0.1], chance=0.0, seed=study, n_resamples=300)
        inside += course.low[0] <= 0 <= course.high[0]
    assert abs(np.mean(shares)) < 3 * np.std(shares) / np.sqrt(200)
    assert inside / 200 >= 0.9


def test_intervals_hold_the_share_as_often_as_they_say():
    rng, inside = np.random.default_rng(5), 0
    for study in range(200):
        a, b, noise = (rng.standard_normal((80, 3)) for _ in range(3))
        found = unique_variance([a + b + noise], a, b)
        course = time_course(found.second, [0.1], chance=0.0, seed=study, n_resamples=300)
        inside += course.low[0] <= 1 / 3 <= course.high[0]
    assert 0.88 <= inside / 200 <= 0.99


def test_early_and_late_features_peak_when_they_were_put_there():
    rng, centres = np.random.default_rng(6), np.arange(12) / 20 - 0.1
    low, category = rng.standard_normal((2, 150, 4))
    low += 0.5 * category  # related, as in photographs
    early, late = (np.exp(-0.5 * ((centres - t) / 0.06) ** 2)[:, None, None] for t in (0.1, 0.3))
    predicted = early * low + late * category + rng.standard_normal((12, 150, 4))
    found = unique_variance(predicted, low, category)
    courses = [time_course(v, centres, chance=0.0, seed=0) for v in (found.first, found.second)]
    peaks = [peak_latency(course) for course in courses]
    assert peaks[0].value == pytest.approx(0.1)
    assert peaks[1].value == pytest.approx(0.3)
    assert peaks[0].high < peaks[1].low
    assert abs(courses[1].mean[0]) < 0.02


def test_a_prediction_that_does_not_vary_has_no_share():
    a, b = np.random.default_rng(7).standard_normal((2, 20, 2))
    assert_allclose(unique_variance([np.full((20, 3), 0.1)], a, b).total, 0.0)


def test_repeated_features_count_once_and_constant_ones_not_at_all():
    rng = np.random.default_rng(8)
    a, b, y = (rng.standard_normal((40, k)) for k in (2, 2, 3))
    plain = unique_variance([y], a, b)
    wider = unique_variance([y], np.column_stack([a, a[:, 0] * 1e-6 + 1, np.full(40, 0.3)]), b)
    assert wider.n_features == (2, 2, 4)
    assert_allclose(wider.first, plain.first, atol=1e-8)
    assert_allclose(unique_variance([y], a, a).first, 0.0, atol=1e-8)


def test_bad_sets_are_refused():
    rng = np.random.default_rng(10)
    a, b = rng.standard_normal((20, 6)), rng.standard_normal((20, 5))
    with pytest.raises(InputError, match="at most 10 independent features for 20 images; found 11"):
        unique_variance([a], a, b)
    with pytest.raises(InputError, match=r"`second`.*images=20"):
        unique_variance([a], a, b[1:])
    with pytest.raises(InputError, match=r"`predicted`.*images=20"):
        unique_variance([a[1:]], a[:, :2], b[:, :2])
    with pytest.raises(InputError, match="finite values"):
        unique_variance([a * np.nan], a[:, :2], b[:, :2])
    with pytest.raises(InputError, match="at least one window"):
        unique_variance([], a[:, :2], b[:, :2])
