"""Lines over the logarithm of the data against scipy and numpy, their intervals against simulation, and where they end."""

import numpy as np
import pytest
import scipy.stats
from numpy.testing import assert_allclose

from braindecode_suite.core.errors import InputError
from braindecode_suite.metrics.learning_curve import learning_curve

AMOUNTS = np.array([100.0, 300.0, 1000.0, 3000.0, 10_000.0, 10_000.0])


def draw(rng, images=200, slope=0.08, bend=0.0):
    x = np.log10(AMOUNTS)[:, None]
    ability = rng.standard_normal(images) * 0.3
    return 0.05 + slope * x + bend * x**2 + ability + 0.2 * rng.standard_normal((len(x), images))


def test_the_line_is_that_of_scipy():
    scores = draw(np.random.default_rng(0))
    curve = learning_curve(AMOUNTS, scores, seed=0)
    theirs = scipy.stats.linregress(np.log10(AMOUNTS), scores.mean(axis=1))
    assert_allclose((curve.slope.value, curve.intercept.value), (theirs.slope, theirs.intercept))
    assert_allclose(curve.predict(500).value, theirs.intercept + theirs.slope * np.log10(500))
    fitted = theirs.intercept + theirs.slope * np.log10(AMOUNTS)
    assert_allclose(curve.residual, np.sqrt(np.mean((scores.mean(axis=1) - fitted) ** 2)))


def test_the_bend_is_that_of_a_parabola():
    scores = draw(np.random.default_rng(1), bend=-0.02)
    curve = learning_curve(AMOUNTS, scores, seed=0)
    assert_allclose(curve.bend.value, np.polyfit(np.log10(AMOUNTS), scores.mean(axis=1), 2)[0])


def test_three_amounts_have_the_bend_of_their_second_difference_and_two_have_none():
    scores = draw(np.random.default_rng(8))
    three = learning_curve([1, 2, 4], scores[:3], seed=0)
    first, middle, last = scores[:3].mean(axis=1)
    assert_allclose(three.bend.value, (first - 2 * middle + last) / (2 * np.log10(2) ** 2))
    two = learning_curve([1, 2], scores[:2], seed=0)
    assert two.bend is None
    assert_allclose(two.slope.value, (middle - first) / np.log10(2))
    assert_allclose(two.predict(4).value, 2 * middle - first)
    assert_allclose(two.residual, 0, atol=1e-9)


def test_a_curve_that_flattens_is_told_from_a_line():
    rng = np.random.default_rng(2)
    flattens = learning_curve(AMOUNTS, draw(rng, 800, slope=0.3, bend=-0.05), seed=0)
    straight = learning_curve(AMOUNTS, draw(rng, 800), seed=0)
    assert flattens.bend.high < 0
    assert straight.bend.low < 0 < straight.bend.high


def test_intervals_hold_the_line_as_often_as_they_say():
    rng, slopes, points = np.random.default_rng(3), 0, 0
    for study in range(100):
        curve = learning_curve(AMOUNTS, draw(rng, 60), seed=study)
        point = curve.predict(20_000)
        slopes += curve.slope.low <= 0.08 <= curve.slope.high
        points += point.low <= 0.05 + 0.08 * np.log10(20_000) <= point.high
    assert 0.87 <= slopes / 100 <= 1.0
    assert 0.87 <= points / 100 <= 1.0


def test_images_of_a_concept_are_drawn_together():
    scores = np.repeat(draw(np.random.default_rng(4), 20), 10, axis=1)
    alone = learning_curve(AMOUNTS, scores, seed=0).predict(1000)
    together = learning_curve(AMOUNTS, scores, np.repeat(np.arange(20), 10), over="concept", seed=0).predict(
        1000
    )
    assert (together.over, together.n_units) == ("concept", 20)
    assert (together.high - together.low) > 2.5 * (alone.high - alone.low)


def test_the_line_ends_at_twice_the_data():
    curve = learning_curve(AMOUNTS, draw(np.random.default_rng(5)), seed=0)
    assert curve.limits == (50.0, 20_000.0)
    assert curve.predict(20_000).value > curve.predict(50).value
    for amount in (20_001, 49, 0, np.nan):
        with pytest.raises(InputError, match="at most 2 times the data"):
            curve.predict(amount)


def test_the_amount_for_a_score_is_where_the_line_reaches_it():
    curve = learning_curve(AMOUNTS, draw(np.random.default_rng(6)), seed=0)
    score = curve.predict(15_000).value
    assert curve.needed(score) == pytest.approx(15_000)
    for beyond in (score + 0.1, 1e9):
        with pytest.raises(InputError, match="the line reaches from 50 to 20000"):
            curve.needed(beyond)
    falling = learning_curve(AMOUNTS, draw(np.random.default_rng(7), slope=-0.1), seed=0)
    with pytest.raises(InputError, match="the line reaches"):
        falling.needed(falling.predict(1000).value)


@pytest.mark.parametrize(
    ("amounts", "scores", "message"),
    [
        ([1], np.zeros((1, 3)), "at least 2 different"),
        ([5, 5, 5], np.zeros((3, 3)), "at least 2 different"),
        ([0, 1, 10], np.zeros((3, 3)), "above 0"),
        ([1, 10, 100], np.zeros((2, 3)), "points=3"),
        ([1, 10, 100], np.full((3, 3), np.nan), "finite values"),
    ],
)
def test_bad_curves_are_refused(amounts, scores, message):
    with pytest.raises(InputError, match=message):
        learning_curve(amounts, scores, seed=0)
