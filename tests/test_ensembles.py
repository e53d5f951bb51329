"""Weights of models, unit by unit."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.special import softmax

from braindecode_suite.core.errors import InputError
from braindecode_suite.learning.ensembles import softmax_weights


def test_weights_are_the_softmax_of_temperature_times_score():
    scores = np.random.default_rng(0).uniform(-1, 1, (4, 9))
    weights = softmax_weights(scores, 50.0)
    assert_allclose(weights, softmax(50 * scores, axis=0), atol=1e-6)
    assert_allclose(weights.sum(axis=0), 1, atol=1e-6)


def test_a_temperature_of_zero_is_the_plain_mean():
    assert_allclose(softmax_weights(np.array([[0.1, 0.9], [0.5, 0.2]]), 0.0), 0.5)


def test_scores_of_one_model_without_an_axis_are_refused():
    with pytest.raises(InputError, match=r"`scores`: expected shape \(models, units\); found \(3\)"):
        softmax_weights(np.zeros(3), 1.0)
