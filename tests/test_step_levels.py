"""Blocks that a recipe is fitted within: a run is one of its session, offline, in words and live."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from braindecode_suite.core.errors import InputError
from braindecode_suite.core.recipe import Recipe
from braindecode_suite.core.sensors import SensorSpace
from braindecode_suite.core.signal import Filter, Resample, SignalRecipe
from braindecode_suite.core.spaces import UnitSpace
from braindecode_suite.core.split import Split
from braindecode_suite.core.study import Study
from braindecode_suite.workflows.facts import recipe_words
from braindecode_suite.workflows.fitting import prepare, prepare_sensors
from braindecode_suite.workflows.sensor_recipe import SensorRecipe

TIMES = np.arange(-5, 11) / 100
N = 96
BY_RUN = SensorRecipe(order=("scale", "whiten"), scale_by="run")


@pytest.fixture
def study() -> Study:
    """Two sessions of two runs, each numbered 1 and 2; every run is as loud as it is late."""
    trials = pd.DataFrame(
        {
            "stimulus_id": [f"i{k}" for k in range(N)],
            "session": np.repeat(["a", "b"], N // 2),
            "run": np.tile(np.repeat([1, 2], N // 4), 2),
            "repeat": 1,
            "onset": np.arange(N, dtype=float),
        }
    )
    loud = np.repeat([1.0, 2.0, 3.0, 4.0], N // 4)
    values = np.random.default_rng(0).standard_normal((N, 3, len(TIMES))) * loud[:, None, None]
    space = SensorSpace(tuple("xyz"), ("mag",) * 3, {s: np.eye(3, 2) for s in "ab"}, 100.0, TIMES)
    return Study(
        dataset="drawn",
        subject="01",
        responses=values.astype(np.float32),
        trials=trials,
        stimuli=None,
        space=space,
        unit="tesla",
    )


def fitted(study: Study, rows: np.ndarray) -> Recipe:
    assert isinstance(study.space, SensorSpace)
    return Recipe(tuple(BY_RUN.steps(study.space))).fit(study.responses, study.trials, rows)


def split_of(study: Study) -> Split:
    rows = np.arange(N)
    return Split(
        protocol="drawn",
        studies=(study,),
        train=(rows[rows % 3 == 0],),
        validation=(rows[rows % 3 == 1],),
        test=(rows[rows % 3 == 2],),
        disjoint=frozenset({"stimulus"}),
    )


def test_runs_of_one_number_in_two_sessions_are_scaled_apart(study: Study) -> None:
    prepared = prepare(study, split_of(study), None, sensors=SensorRecipe(order=("scale",), scale_by="run"))
    values, raw = prepared.study.read(slice(None)), study.responses
    train = np.arange(0, N, 3)
    for block in np.split(np.arange(N), 4):
        own = np.asarray(raw[np.intersect1d(train, block)], np.float64)
        low, middle, high = np.percentile(own, [25, 50, 75], axis=(0, 2))
        expected = (raw[block] - middle[:, None]) / (high - low)[:, None]
        assert_allclose(values[block], expected, rtol=1e-4, atol=1e-5)
    z_scored = prepare(voxels(study), split_of(voxels(study)), "run").study
    assert z_scored.recipe is not None
    assert z_scored.recipe.state()["0.levels"].tolist() == ["a/1", "a/2", "b/1", "b/2"]


def voxels(study: Study) -> Study:
    return replace(study, responses=study.responses[:, :, 0], space=UnitSpace(3))


def test_a_run_without_training_rows_is_named_with_its_session(study: Study) -> None:
    recipe = fitted(study, np.arange(72))
    with pytest.raises(InputError, match="rows of session/run a/1, a/2, b/1; found session/run b/2"):
        recipe.apply(np.asarray(study.responses), study.trials)


def test_a_run_of_another_session_is_no_training_row_of_a_run(study: Study) -> None:
    own = np.flatnonzero((study.trials["session"] == "a").to_numpy())
    found = prepare_sensors(study, own, np.arange(N), BY_RUN)
    assert found.recipe is not None
    assert {step["scope"] for step in found.recipe.describe()} == {"heldout-block"}
    assert np.isfinite(found.read(slice(None))).all()


def test_filters_are_told_in_words() -> None:
    signal = SignalRecipe((Filter(highpass=0.1, notch=(50,)), Resample(120)), 1200)
    words = recipe_words(json.loads(json.dumps(signal.describe()))["steps"])
    assert words == (
        "Recordings were filtered in both directions in time (zero phase), Butterworth of order 4: high-pass 0.1 Hz, "
        "notch 50 Hz. They were resampled to 120 Hz."
    )
    causal = SignalRecipe((Filter(lowpass=40, phase="causal"),), 1200)
    assert "forwards only (causal)" in recipe_words(causal.describe()["steps"])


def test_scaling_by_run_comes_back_from_json_and_is_told(study: Study) -> None:
    recipe = fitted(study, np.arange(N))
    facts, numbers = recipe.frozen()
    back = Recipe.from_frozen(json.loads(json.dumps(facts)), numbers)
    assert back.hash == recipe.hash
    assert_array_equal(
        back.apply(np.asarray(study.responses), study.trials),
        recipe.apply(np.asarray(study.responses), study.trials),
    )
    words = recipe_words(json.loads(json.dumps(recipe.describe())))
    assert words.count("within each run") == 2
