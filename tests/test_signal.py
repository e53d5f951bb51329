"""Continuous preprocessing: chunks give what the whole gives, against scipy and mne, and what is refused."""

from __future__ import annotations

import json
import warnings
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy import signal as dsp

from braindecode_suite.core.errors import InputError
from braindecode_suite.core.signal import Filter, Resample, SignalRecipe

BAND = Filter(0.5, 40.0, notch=(50.0, 100.0), phase="causal")


def draw_signal(n_samples: int, n_channels: int = 3, offset: float = 50.0) -> np.ndarray:
    rng = np.random.default_rng(0)
    return offset + np.cumsum(rng.standard_normal((n_channels, n_samples)), axis=1)


def run_in_chunks(recipe: SignalRecipe, signal: np.ndarray, sizes: list[int]) -> np.ndarray:
    edges = np.minimum(np.cumsum([0, *sizes]), signal.shape[1])
    state, made = recipe.start(len(signal)), []
    for start, stop in pairwise(edges):
        out, state = recipe.step(signal[:, start:stop], state)
        made.append(out)
    return np.concatenate([*made, recipe.step(signal[:, edges[-1] :], state)[0]], axis=1)


@settings(deadline=None, max_examples=60)
@given(
    sizes=st.lists(st.integers(0, 400), max_size=12),
    rates=st.sampled_from(
        [(1200.0, 120.0), (1000.0, 300.0), (250.0, 600.0), (1024.0, 1024.0), (500.0, 333.0)]
    ),
    n_samples=st.integers(1, 1500),
)
def test_any_chunks_give_what_the_whole_gives(sizes, rates, n_samples):
    before, after = rates
    recipe = SignalRecipe((BAND, Resample(after, phase="causal")), before)
    signal = draw_signal(n_samples)
    whole = recipe.apply(signal)
    assert whole.shape == (3, recipe.length(n_samples))
    assert SignalRecipe((Resample(after),), before).apply(signal).shape == whole.shape
    assert_allclose(run_in_chunks(recipe, signal, sizes), whole, rtol=0, atol=1e-6 * np.abs(whole).max())


def test_a_state_can_be_used_twice():
    recipe = SignalRecipe((BAND, Resample(100.0, phase="causal")), 1000.0)
    signal = draw_signal(2000)
    _, state = recipe.step(signal[:, :777], recipe.start(3))
    first, _ = recipe.step(signal[:, 777:], state)
    again, _ = recipe.step(signal[:, 777:], state)
    assert_array_equal(first, again)


def test_output_does_not_depend_on_later_samples():
    recipe = SignalRecipe((BAND, Resample(100.0, phase="causal")), 1000.0)
    signal = draw_signal(2000)
    changed = signal.copy()
    changed[:, 1234:] += 1e3
    assert_array_equal(recipe.apply(signal)[:, :124], recipe.apply(changed)[:, :124])
    assert not np.allclose(recipe.apply(signal)[:, 124:], recipe.apply(changed)[:, 124:])


def test_a_causal_filter_is_scipys_from_rest_on_the_first_sample():
    signal = draw_signal(3000)
    sos = np.concatenate(
        [dsp.butter(4, 0.5, "high", fs=1000, output="sos"), dsp.butter(4, 40, fs=1000, output="sos")]
    )
    held = np.concatenate([np.repeat(signal[:, :1], 20000, axis=1), signal], axis=1)  # long at rest
    expected = dsp.sosfilt(sos, held - held[:, :1], axis=1)[:, 20000:]
    found = Filter(0.5, 40.0, phase="causal").apply(signal, 1000.0)
    assert_allclose(found, expected, atol=1e-7)


def test_a_zero_phase_filter_is_mnes_away_from_the_ends():
    import mne

    signal = draw_signal(20000)
    params = {"order": 4, "ftype": "butter", "output": "sos"}
    expected = mne.filter.filter_data(
        signal, 1000.0, 1.0, None, method="iir", iir_params=dict(params), phase="zero", verbose="error"
    )
    expected = mne.filter.filter_data(
        expected, 1000.0, None, 40.0, method="iir", iir_params=dict(params), phase="zero", verbose="error"
    )
    found = Filter(1.0, 40.0).apply(signal, 1000.0)
    assert_allclose(found[:, 5000:15000], expected[:, 5000:15000], atol=1e-6 * np.abs(signal).max())


def test_a_notch_takes_out_the_mains_and_leaves_the_rest():
    times = np.arange(10000) / 1000
    wanted, mains = np.sin(2 * np.pi * 11 * times), np.sin(2 * np.pi * 50 * times)
    found = Filter(notch=(50.0,)).apply((wanted + mains)[None], 1000.0)[0]
    assert_allclose(found[2000:8000], wanted[2000:8000], atol=0.01)


@pytest.mark.parametrize("rates", [(1200.0, 120.0), (1000.0, 300.0), (250.0, 600.0)])
def test_zero_phase_resampling_is_scipys(rates):
    signal = draw_signal(3000)
    step = Resample(rates[1])
    up, down = step.factors(rates[0])
    expected = dsp.resample_poly(signal, up, down, axis=1, padtype="edge")
    assert_allclose(step.apply(signal, rates[0]), expected, atol=1e-9)


@pytest.mark.parametrize("rates", [(1200.0, 120.0), (1000.0, 300.0)])
def test_causal_resampling_is_the_zero_phase_one_later_by_its_delay(rates):
    signal = draw_signal(3000)
    causal = Resample(rates[1], phase="causal", width=6)
    late = causal.apply(signal, rates[0])
    early = Resample(rates[1], width=6).apply(signal, rates[0])
    shift = round(causal.delay(rates[0]) * rates[1])
    assert shift == 6
    assert_allclose(late[:, shift:], early[:, : late.shape[1] - shift], atol=1e-9)
    assert_allclose(late[:, 0], signal[:, 0], rtol=1e-3)


def test_resampling_keeps_a_sine_and_moves_it_by_the_delay():
    recipe = SignalRecipe((Resample(120.0, phase="causal", width=10),), 1200.0)
    sine = np.sin(2 * np.pi * 7 * np.arange(12000) / 1200)[None]
    made = recipe.apply(sine)[0]
    expected = np.sin(2 * np.pi * 7 * (np.arange(1200) / 120 - recipe.delay))
    assert recipe.delay == pytest.approx(10 / 120)
    assert recipe.group_delay(7.0) == pytest.approx(recipe.delay)
    assert_allclose(made[100:], expected[100:], atol=2e-3)


def test_group_delay_is_by_how_much_a_slow_envelope_comes_later():
    sfreq, carrier = 1000.0, 20.0
    recipe = SignalRecipe((Filter(1.0, 40.0, phase="causal"),), sfreq)
    times = np.arange(8000) / sfreq
    envelope = np.exp(-((times - 4) ** 2) / (2 * 0.3**2))
    out = recipe.apply((envelope * np.cos(2 * np.pi * carrier * (times - 4)))[None])[0]
    energy = np.abs(dsp.hilbert(out)) ** 2
    centre = (energy * times).sum() / energy.sum()
    assert recipe.delay == 0
    assert recipe.group_delay(carrier) == pytest.approx(centre - 4, abs=5e-4)
    assert SignalRecipe((Filter(1.0, 40.0),), sfreq).group_delay(carrier) == 0


def test_a_recipe_comes_back_from_its_description_in_json():
    recipe = SignalRecipe((Filter(0.1, 40.0, (50.0,), "causal"), Resample(120.0, "causal")), 1200.0)
    back = SignalRecipe.from_description(json.loads(json.dumps(recipe.describe())))
    assert back == recipe
    assert back.hash == recipe.hash
    assert back.hash != SignalRecipe((Filter(0.1, 40.0, (50.0,)), Resample(120.0)), 1200.0).hash


def test_a_rate_that_is_nearly_a_ratio_is_stated_exactly():
    assert Resample(100.0).rate(1000.0) == 100.0
    rate = Resample(100.0).rate(1000.0003)
    assert rate != 100.0
    assert rate == pytest.approx(1000.0003 / 10)
    with pytest.raises(InputError, match=r"1000 Hz times a ratio .* found 999.5 Hz \(as 1000\)"):
        SignalRecipe((Resample(999.5),), 1000.0)
    with pytest.raises(InputError, match=r"found 0.9 Hz \(as 0.9000900"):
        SignalRecipe((Resample(0.9),), 1000.0)


def test_a_zero_phase_step_refuses_chunks():
    recipe = SignalRecipe((BAND, Resample(100.0)), 1000.0)
    assert not recipe.causal
    with pytest.raises(InputError, match="'resample': expected phase 'causal', to run chunk by chunk"):
        recipe.start(3)
    with pytest.raises(InputError, match="'filter': expected phase 'causal'"):
        SignalRecipe((Filter(1.0),), 1000.0).start(3)


def test_steps_that_do_not_fit_are_refused_when_the_recipe_is_made():
    with pytest.raises(InputError, match=r"between 0 and half the sampling rate, 60 Hz; found 75 Hz"):
        SignalRecipe((Resample(120.0), Filter(0.1, 75.0)), 1200.0)
    with pytest.raises(InputError, match=r"`highpass`: expected Hz below the low-pass, 10; found 40"):
        Filter(40.0, 10.0)
    with pytest.raises(InputError, match="found none of them"):
        Filter()
    with pytest.raises(InputError, match=r"expected shape \(channels=3, samples\); found \(2, 5\)"):
        BAND.step(np.zeros((2, 5)), BAND.start(3, 1000.0))
    with pytest.raises(InputError, match="`phase`: expected one of causal, zero"):
        Resample(100.0, phase="linear")


def test_a_recipe_of_no_steps_changes_nothing():
    recipe = SignalRecipe((), 1000.0)
    signal = draw_signal(100)
    assert_array_equal(recipe.apply(signal), signal)
    assert recipe.sfreq == 1000.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert recipe.step(signal, recipe.start(3))[0].shape == (3, 100)
