"""Variance ratios and ceilings from repeats against simulated truth, and the filter that is fitted on training repeats."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from braindecode_suite.core.errors import InputError
from braindecode_suite.core.noise import (
    ceiling_of_ratio,
    noise_ceiling,
    nsd_ncsnr,
    repeat_variances,
    signal_to_noise,
    spearman_brown,
    split_half_reliability,
)
from braindecode_suite.core.recipe import Recipe, ZScore
from braindecode_suite.core.reliability import KeepReliable

REPEATS = {
    "two": np.full(40, 2),
    "three": np.full(40, 3),
    "one to three": np.array([1] * 15 + [2] * 15 + [3] * 15),
    "mostly one": np.array([1] * 60 + [2] * 10 + [5] * 3),
}
N_SIMULATIONS = 400


def simulate(counts: np.ndarray, ncsnr: float, n_units: int, rng: np.random.Generator):
    """Return responses of shape (trials, units) and the image of each trial, in random order."""
    ids = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    signal = ncsnr * rng.standard_normal((len(counts), n_units))
    return 5.0 + 2.0 * (signal[ids] + rng.standard_normal((len(ids), n_units))), ids


def deviations(values: np.ndarray, truth: float) -> float:
    """Return how many standard errors the mean over simulations lies from the truth."""
    return float((values.mean() - truth) / (values.std(ddof=1) / np.sqrt(len(values))))


@pytest.mark.parametrize("ncsnr", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("design", list(REPEATS))
def test_the_ratio_has_no_bias(design, ncsnr):
    responses, ids = simulate(REPEATS[design], ncsnr, N_SIMULATIONS, np.random.default_rng(0))
    variances = repeat_variances(responses, ids)
    assert abs(deviations(signal_to_noise(variances), ncsnr**2)) < 2
    assert abs(deviations(variances.noise, 4.0)) < 2
    assert abs(deviations(variances.signal, 4.0 * ncsnr**2)) < 2


@pytest.mark.parametrize("design", list(REPEATS))
def test_the_rectified_one_is_biased_upwards_without_signal(design):
    responses, ids = simulate(REPEATS[design], 0.0, N_SIMULATIONS, np.random.default_rng(1))
    assert deviations(nsd_ncsnr(repeat_variances(responses, ids)) ** 2, 0.0) > 5


def test_variances_are_those_of_a_plain_analysis_of_variance():
    rng = np.random.default_rng(2)
    responses, ids = simulate(REPEATS["one to three"], 0.7, 3, rng)
    variances = repeat_variances(responses, ids)
    groups = [responses[ids == i] for i in np.unique(ids)]
    within = sum(((g - g.mean(0)) ** 2).sum(0) for g in groups) / (len(ids) - len(groups))
    between = sum(len(g) * (g.mean(0) - responses.mean(0)) ** 2 for g in groups) / (len(groups) - 1)
    assert_allclose(variances.noise, within)
    assert_allclose(variances.between, between)
    assert_allclose(variances.total, responses.var(0, ddof=1))
    assert_allclose(
        repeat_variances(responses, ids, np.arange(60)).noise,
        repeat_variances(responses[:60], ids[:60]).noise,
    )


def test_images_may_be_more_than_are_read_at_once(monkeypatch):
    responses, ids = simulate(np.full(50, 2), 0.5, 4, np.random.default_rng(3))
    whole = repeat_variances(responses, ids)
    monkeypatch.setattr("braindecode_suite.core.noise.IMAGES_AT_ONCE", 7)
    assert_allclose(signal_to_noise(repeat_variances(responses, ids)), signal_to_noise(whole))


def test_nsds_ncsnr_is_its_own_formula():
    rng = np.random.default_rng(4)
    responses, ids = simulate(np.full(300, 3), 0.6, 5, rng)
    grouped = np.stack([responses[ids == i] for i in range(300)])  # (images, repeats, units)
    noise = grouped.var(axis=1, ddof=1).mean(axis=0)
    signal = np.maximum(responses.var(axis=0, ddof=1) - noise, 0)
    assert_allclose(nsd_ncsnr(repeat_variances(responses, ids)), np.sqrt(signal / noise))
    assert_allclose(nsd_ncsnr(repeat_variances(responses, ids)), 0.6, atol=0.15)


def test_ceilings_of_single_and_averaged_responses():
    assert_allclose(ceiling_of_ratio([1.0, 0.0, -0.1], 1), [0.5, 0, -1 / 9])
    assert_allclose(ceiling_of_ratio([0.49], 3), noise_ceiling([0.7], 3))
    rng = np.random.default_rng(5)
    signal = 0.7 * rng.standard_normal((20_000, 1))
    mean = signal + rng.standard_normal((20_000, 3)).mean(axis=1, keepdims=True)
    explained = np.corrcoef(signal[:, 0], mean[:, 0])[0, 1] ** 2
    assert_allclose(explained, ceiling_of_ratio([0.49], 3)[0], atol=0.02)


def test_split_halves_correlate_as_the_ratio_says():
    responses, ids = simulate(np.full(3000, 4), 0.8, 6, np.random.default_rng(6))
    r = split_half_reliability(responses, ids, seed=0, n_splits=3)
    assert_allclose(r, np.repeat(ceiling_of_ratio([0.64], 2), 6), atol=0.05)
    assert_allclose(spearman_brown(r), np.repeat(ceiling_of_ratio([0.64], 4), 6), atol=0.05)
    assert_array_equal(r, split_half_reliability(responses, ids, seed=0, n_splits=3))


def test_images_seen_once_and_units_that_never_vary_are_no_evidence():
    responses, ids = simulate(np.full(20, 2), 1.0, 3, np.random.default_rng(7))
    responses[:, 1] = 3.0
    more = np.vstack([responses, 100 * np.ones((1, 3))])
    r = split_half_reliability(responses, ids, seed=1)
    assert_array_equal(split_half_reliability(more, np.r_[ids, 99], seed=1), r)
    assert np.isnan(r[1])
    assert np.isnan(signal_to_noise(repeat_variances(responses, ids))[1])
    assert nsd_ncsnr(repeat_variances(responses, ids))[1] == 0


def test_too_few_repeats_are_refused():
    with pytest.raises(
        InputError, match="two images and three repetitions among them; found 4 images in 6 trials"
    ):
        repeat_variances(np.zeros((6, 2)), [0, 0, 1, 1, 2, 3])
    with pytest.raises(InputError, match="at least three repeated images; found 2"):
        split_half_reliability(np.zeros((6, 2)), [0, 0, 1, 1, 2, 3], seed=0)
    with pytest.raises(InputError, match="at least one repeat an image; found 0"):
        ceiling_of_ratio([0.5], [0, 3])


def reliable_first(seed: int = 8):
    """Four units with signal, four without; a third of the images is for testing."""
    rng = np.random.default_rng(seed)
    ids = np.tile(np.arange(60), 3)
    strength = np.repeat([1.5, 0.0], 4)
    responses = (strength * rng.standard_normal((60, 8)))[ids] + rng.standard_normal((180, 8))
    trials = pd.DataFrame({"stimulus_id": ids.astype(str), "session": np.repeat([1, 2, 3], 60)})
    return responses.astype(np.float32), trials, np.flatnonzero(ids < 40)


def test_the_filter_keeps_what_answers_alike():
    responses, trials, train = reliable_first()
    recipe = Recipe((ZScore(), KeepReliable(0.3))).fit(responses, trials, train)
    assert_array_equal(recipe.steps[1].keep, np.repeat([True, False], 4))
    assert recipe.apply(responses[:5], trials[:5]).shape == (5, 4)
    assert recipe.describe()[1] == {
        "name": "keep-reliable",
        "threshold": 0.3,
        "by": "stimulus_id",
        "scope": "train",
        "kept": 4,
        "of": 8,
    }


def test_the_filter_never_sees_test_repeats():
    responses, trials, train = reliable_first()
    fitted = KeepReliable(0.1).fit(responses, trials, train)
    changed = responses.copy()
    test = np.setdiff1d(np.arange(180), train)
    changed[test] = (
        50 * np.random.default_rng(0).standard_normal((60, 8))[trials["stimulus_id"].astype(int)[test]]
    )
    other = KeepReliable(0.1).fit(changed, trials, train)
    assert_array_equal(fitted.share, other.share)
    assert not np.allclose(KeepReliable(0.1).fit(changed, trials, np.arange(180)).share, fitted.share)


def test_a_filter_that_keeps_nothing_is_refused():
    responses, trials, train = reliable_first()
    with pytest.raises(InputError, match=r"single trials are signal to at least 0.9; found at most 0\.\d+"):
        KeepReliable(0.9).fit(responses, trials, train)
    with pytest.raises(InputError, match=r"`threshold`: expected a share below 1; found 1\.5"):
        KeepReliable(1.5).fit(responses, trials, train)
    with pytest.raises(InputError, match="expected a fitted step"):
        KeepReliable().apply(responses, trials)
    with pytest.raises(
        InputError,
        match=r"step 'keep-reliable': expected repeats among the training rows, .* found 40 images in 40 trials",
    ):
        KeepReliable().fit(responses, trials, train[:40])
