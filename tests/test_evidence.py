"""Evidence over growing windows: temperatures of greatest likelihood, cumulative scores, calibration."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.special import log_softmax, softmax

from braindecode_suite.core.errors import InputError
from braindecode_suite.metrics.evidence import (
    calibration_error,
    cumulative,
    fit_evidence,
    fit_weights,
)


def draw(n: int = 4000, windows: int = 4, candidates: int = 10, seed: int = 0, strength: float = 3.0):
    """Scores whose right candidates follow ``softmax(strength w / windows * score)`` in every window w."""
    rng = np.random.default_rng(seed)
    scores = rng.standard_normal((n, windows, candidates))
    scores[:, 1:] = scores[:, :1]  # every window says the same: as dependent as can be
    chance = softmax(strength * scores[:, 0], axis=1)
    truth = (chance.cumsum(axis=1) > rng.uniform(size=(n, 1))).argmax(axis=1)
    return scores, truth


def test_the_weight_is_the_one_that_the_pictures_were_drawn_with_and_has_no_slope():
    scores, truth = draw()
    weights = fit_weights(scores, truth)
    assert_allclose(weights, 3.0, rtol=0.05)

    def likelihood(weight: float) -> float:
        return float(log_softmax(weight * scores[:, 0], axis=1)[np.arange(len(truth)), truth].mean())

    slope = (likelihood(weights[0] + 1e-3) - likelihood(weights[0] - 1e-3)) / 2e-3
    assert abs(slope) < 1e-4


def test_windows_that_repeat_each_other_are_worth_no_more_than_one():
    scores, truth = draw()
    evidence = fit_evidence(scores, truth)
    last, total = None, None
    for window in range(4):
        total = evidence.add(total, scores[0, window])
        last = evidence.probabilities(total, window)
    assert last is not None
    assert_allclose(last, softmax(3.0 * scores[0, 0]), atol=0.02)
    assert evidence.calibration_error < 0.02
    # added up as if they were independent, the same windows are overconfident
    assert calibration_error(softmax(3.0 * scores.sum(axis=1), axis=1), truth) > 0.1


def test_scores_that_say_nothing_get_no_weight_and_even_odds():
    rng = np.random.default_rng(0)
    scores, truth = rng.standard_normal((300, 2, 8)), rng.integers(0, 8, 300)
    scores[np.arange(300), 0, truth] -= 2  # the first window is wrong: what was seen scores lowest
    scores[:, 1] = 1.0
    evidence = fit_evidence(scores, truth, memories=(0.0,))
    assert evidence.weights.tolist() == [0.0, 0.0]
    assert_allclose(evidence.probabilities(scores[0, 0], 0), 1 / 8)
    assert_allclose(evidence.log_loss, np.log(8))


def test_memory_is_kept_where_windows_bring_news_and_dropped_where_they_repeat():
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 6, 500)
    fresh = rng.standard_normal((500, 6, 6))
    fresh[np.arange(500), :, truth] += 0.5
    assert fit_evidence(fresh, truth).memory == 1.0
    better = rng.standard_normal((500, 6, 6)) * 3
    better[:, -1] = rng.standard_normal((500, 6))
    better[np.arange(500), -1, truth] += 4.0  # only the newest window knows
    assert fit_evidence(better, truth).memory == 0.0


def test_skipped_windows_count_as_if_they_had_said_the_same():
    scores, truth = draw(200)
    evidence = fit_evidence(scores, truth, memories=(0.5,))
    same = np.repeat(scores[:1, :1], 4, axis=1)
    at_once = evidence.add(None, scores[0, 0], windows=4)
    assert_allclose(at_once, cumulative(same, 0.5)[0, -1])


def test_calibration_error_is_the_gap_between_confidence_and_share_right():
    sure = np.tile([0.9, 0.1], (100, 1))
    truth = np.where(np.arange(100) < 60, 0, 1)
    assert calibration_error(sure, truth) == pytest.approx(0.3, abs=0.31)
    assert calibration_error(sure, truth, bins=1) == pytest.approx(0.3)


def test_repeats_of_a_picture_are_held_out_together():
    rng = np.random.default_rng(2)
    ids = np.repeat(np.arange(10), 20)
    scores = rng.standard_normal((10, 1, 10))[ids]  # the same scores in each repeat
    truth = ids
    apart = fit_evidence(scores, truth, memories=(0.0,)).log_loss
    together = fit_evidence(scores, truth, ids, memories=(0.0,)).log_loss
    assert (together > apart).all()


@pytest.mark.parametrize(
    ("shape", "truth", "groups", "message"),
    [
        (
            (9, 1, 3),
            np.zeros(9, int),
            None,
            r"calibration: expected at least 10 trials and 2 candidates; found 9 trials",
        ),
        ((20, 1, 1), np.zeros(20, int), None, r"found 20 trials, 1 candidates"),
        ((20, 1, 3), np.full(20, 3), None, r"`truth`: expected numbers from 0 to 2; found 3"),
        (
            (20, 1, 3),
            np.zeros(20, int),
            np.zeros(20),
            r"calibration: expected trials of at least 2 groups; found 1",
        ),
        ((20, 3), np.zeros(20, int), None, r"`similarities`: expected shape \(trials, windows, candidates\)"),
    ],
)
def test_too_little_to_calibrate_on_is_refused(shape, truth, groups, message):
    with pytest.raises(InputError, match=message):
        fit_evidence(np.zeros(shape), truth, groups)
