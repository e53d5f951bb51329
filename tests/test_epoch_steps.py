"""Steps of epochs: robust scaling, baseline, clipping; missing sensors stay missing; a recipe comes back from its files."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from safetensors.numpy import load, save
from sklearn.preprocessing import RobustScaler

from braindecode_suite.core.detrend import Detrend
from braindecode_suite.core.epoch_steps import Baseline, Clip, RobustScale
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.recipe import Recipe, SelectUnits, ZScore
from braindecode_suite.core.reliability import KeepReliable
from braindecode_suite.core.sensors import SensorSpace
from braindecode_suite.core.signal import Filter, SignalRecipe
from braindecode_suite.core.study import Cohort, Study
from braindecode_suite.core.whitening import Whiten
from braindecode_suite.learning.checkpoints import check_cohort, describe_fit, recipe_tensors, restore_recipe

TIMES = np.arange(-5, 11) / 100


@pytest.fixture
def trials() -> pd.DataFrame:
    n = 24
    return pd.DataFrame(
        {
            "stimulus_id": [f"i{k % 12}" for k in range(n)],
            "session": np.repeat(["a", "b"], n // 2),
            "run": np.tile([1, 2], n // 2),
            "repeat": np.arange(n) // 12 + 1,
            "onset": np.arange(n, dtype=float),
        }
    )


@pytest.fixture
def responses(trials) -> np.ndarray:
    rng = np.random.default_rng(0)
    values = rng.standard_normal((len(trials), 4, len(TIMES))) * 1e-13 + 3e-12
    values[12:] *= 5  # session b
    values[:12, 1] = np.nan  # absent in session a
    values[12:, 2] = 7e-12  # flat in session b
    return values.astype(np.float32)


def test_robust_scaling_is_scikit_learns_on_the_training_rows_of_each_session(responses, trials):
    rows = np.array([0, 2, 3, 5, 12, 14, 19])
    step = RobustScale().fit(responses, trials, rows)
    scaled = step.apply(responses, trials)
    for inside, sensors in ((np.arange(12), [0, 2, 3]), (np.arange(12, 24), [0, 1, 3])):
        for sensor in sensors:
            train = responses[np.intersect1d(rows, inside), sensor].reshape(-1, 1).astype(float)
            expected = (
                RobustScaler().fit(train).transform(responses[inside, sensor].reshape(-1, 1).astype(float))
            )
            assert_allclose(scaled[inside, sensor].reshape(-1, 1), expected, rtol=1e-4, atol=1e-5)


def test_an_absent_sensor_stays_missing_and_a_flat_one_becomes_so(responses, trials):
    step = RobustScale().fit(responses, trials, np.arange(24))
    scaled = step.apply(responses, trials)
    missing = np.isnan(scaled).all(axis=2)
    assert missing[:12, 1].all()
    assert missing[12:, 2].all()
    assert missing.sum() == 24
    assert_array_equal(step.constant, [[False] * 4, [False, False, True, False]])


def test_test_rows_do_not_move_the_scaling(responses, trials):
    rows = np.array([0, 1, 2, 13, 14])
    changed = responses.copy()
    changed[np.setdiff1d(np.arange(24), rows)] = 1.0
    first, second = (RobustScale().fit(x, trials, rows) for x in (responses, changed))
    assert_array_equal(first.centre, second.centre)


def test_a_level_is_fitted_on_few_rows_evenly_spaced(responses, trials):
    asked = []

    class Spy:
        def __getitem__(self, rows):
            asked.append(list(rows))
            return responses[rows]

    RobustScale(by=None, most_rows=3).fit(Spy(), trials, np.arange(24))
    assert asked == [[0, 12, 23]]


def test_a_session_without_training_rows_is_refused_unless_it_may_be_used_without_labels(responses, trials):
    with pytest.raises(
        InputError, match=r"expected rows of session a; found session b \(a held-out block needs"
    ):
        RobustScale().fit(responses, trials, np.arange(12)).apply(responses, trials)
    step = RobustScale(scope="heldout-block").fit(responses, trials, np.arange(12))
    assert np.isfinite(step.apply(responses, trials)[12:, 0]).all()


def test_the_baseline_is_the_mean_before_the_picture(responses, trials):
    step = Baseline(TIMES, -0.05, 0.0)
    values = step.apply(responses, trials)
    expected = responses - responses[:, :, :6].astype(float).mean(axis=2, keepdims=True)
    assert_allclose(values, expected, atol=1e-18)
    shorter = step.apply(responses[:, :, :9], trials)  # a window that still grows
    assert_array_equal(shorter, values[:, :, :9])
    with pytest.raises(InputError, match=r"rows of 6 to 16 times; found shape \(24, 4, 5\)"):
        step.apply(responses[:, :, :5], trials)
    with pytest.raises(InputError, match=r"a sample between None and -1 s; found epochs from -0.05 to 0.1 s"):
        Baseline(TIMES, None, -1)


def test_clipping_keeps_what_is_missing():
    assert_array_equal(Clip(2).apply(np.array([-3.0, 1, np.nan, 9]), pd.DataFrame()), [-2, 1, np.nan, 2])
    with pytest.raises(InputError, match="`limit`: expected a number above 0; found 0"):
        Clip(0)


def test_steps_can_be_ordered_at_will(responses, trials):
    rows = np.arange(24)
    scale, baseline = RobustScale(), Baseline(TIMES)
    first = Recipe((scale, baseline, Clip(2))).fit(responses, trials, rows)
    second = Recipe((baseline, scale, Clip(2))).fit(responses, trials, rows)
    assert first.hash != second.hash
    assert not np.allclose(first.apply(responses, trials), second.apply(responses, trials), equal_nan=True)
    assert np.nanmax(np.abs(first.apply(responses, trials))) == 2


def test_of_a_row_that_is_not_over_steps_see_and_give_only_what_is_there(responses, trials, monkeypatch):
    steps = (RobustScale(), Whiten(TIMES), Baseline(TIMES), Clip(5))
    recipe = Recipe(steps).fit(responses, trials, np.arange(24))
    whole, n = recipe.apply(responses, trials), len(TIMES) - 2
    assert n > np.sum(TIMES <= 0)
    seen, whiten = [], Whiten.apply
    monkeypatch.setattr(Whiten, "apply", lambda *args: seen.append(args[1].shape) or whiten(*args))
    growing = recipe.until(n)
    so_far = growing.apply(np.where(np.arange(len(TIMES)) < n, responses, 1e9), trials)
    assert seen == [(*responses.shape[:2], n)]
    assert_allclose(so_far[:, :, :n], whole[:, :, :n], rtol=1e-6)
    assert_array_equal(so_far[:, :, n:], np.zeros((*responses.shape[:2], 2), np.float32))
    assert growing.hash == recipe.hash
    assert growing.frozen()[0] == recipe.frozen()[0]


def test_a_step_that_looks_ahead_is_not_for_rows_that_are_not_over():
    with pytest.raises(
        InputError, match=r"recipe step 'detrend'.*expected a causal step; found a non-causal"
    ):
        Recipe((Clip(), Detrend())).until(3)


def test_a_recipe_comes_back_from_json_and_safetensors(responses, trials):
    recipe = Recipe((RobustScale(), Baseline(TIMES), Clip(5))).fit(responses, trials, np.arange(24))
    facts, numbers = recipe.frozen()
    back = Recipe.from_frozen(json.loads(json.dumps(facts)), load(save(numbers)))
    assert back.hash == recipe.hash
    assert_array_equal(back.step(responses, trials), recipe.apply(responses, trials))


@pytest.mark.parametrize(
    "step",
    [
        ZScore(),
        ZScore(by=("session", "run")),
        ZScore(by=None),
        SelectUnits(np.array([True, False, True, True])),
        Detrend(),
        KeepReliable(-1e9),
    ],
    ids=lambda step: f"{step.name}-{getattr(step, 'by', '')}",
)
def test_every_step_comes_back_from_json_and_safetensors(step, trials):
    values = np.random.default_rng(1).standard_normal((24, 4)).astype(np.float32)
    recipe = Recipe((step,)).fit(values, trials, np.arange(24))
    facts, numbers = recipe.frozen()
    back = Recipe.from_frozen(json.loads(json.dumps(facts)), load(save(numbers)))
    assert back.hash == recipe.hash
    assert_array_equal(back.apply(values, trials), recipe.apply(values, trials))


def make_study(responses, trials, signal) -> Study:
    where = {s: np.full((4, 2), 0.5) for s in ("a", "b")}
    space = SensorSpace(tuple("wxyz"), ("mag",) * 4, where, 100.0, TIMES)
    return Study(
        dataset="x",
        subject="01",
        responses=responses,
        trials=trials,
        stimuli=None,
        space=space,
        unit="tesla",
        signal=signal,
    )


def test_a_model_folder_carries_signal_and_recipe(responses, trials):
    signal = SignalRecipe((Filter(0.1, 40.0, phase="causal"),), 100.0)
    study = make_study(responses, trials, signal).prepared(Recipe((RobustScale(), Clip())), np.arange(24))
    cohort = Cohort.of(study)
    facts = json.loads(json.dumps(describe_fit(cohort, {}, "")))
    back, recipe = restore_recipe(facts, recipe_tensors(cohort)["01"], "01")
    assert back == signal
    assert recipe is not None
    assert recipe.hash == study.recipe.hash
    check_cohort(facts, cohort, "model")
    other = make_study(responses, trials, SignalRecipe((Filter(0.1, 30.0),), 100.0))
    other = other.prepared(Recipe((RobustScale(), Clip())), np.arange(24))
    with pytest.raises(
        InputError, match=r"sub-01 with signal .*'lowpass': 40.0.*found signal .*'lowpass': 30.0"
    ):
        check_cohort(facts, Cohort.of(other), "model")


def test_an_unfitted_scaling_is_refused(responses, trials):
    with pytest.raises(InputError, match="'robust-scale': expected a fitted step"):
        RobustScale().apply(responses, trials)
