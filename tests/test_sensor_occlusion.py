"""Sensors that are occluded are as if they had never recorded, also where a whitening mixes sensors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from braindecode_suite.core.manifest import RunLog
from braindecode_suite.core.recipe import Recipe
from braindecode_suite.core.sensors import SensorSpace
from braindecode_suite.core.study import Study
from braindecode_suite.metrics.occlusion import occlude
from braindecode_suite.report.sensors import occlusion_figure
from braindecode_suite.report.wording import quantity
from braindecode_suite.workflows.meg import MegWorkflow
from braindecode_suite.workflows.meg_config import MegWorkflowConfig
from braindecode_suite.workflows.sensor_occlusion import _facts, spread_sensors, without_sensors
from braindecode_suite.workflows.sensor_recipe import SensorRecipe
from braindecode_suite.workflows.steps import Steps

SENSORS, TIMES, ROWS = 8, np.arange(-10, 20) / 100, 60


@pytest.fixture
def study() -> Study:
    rng = np.random.default_rng(0)
    mixed = rng.normal(size=(SENSORS, SENSORS)) @ rng.normal(size=(ROWS, SENSORS, len(TIMES)))
    places = rng.random((SENSORS, 2))
    return Study(
        dataset="drawn",
        subject="01",
        responses=(mixed * 1e-13).astype(np.float32),
        trials=pd.DataFrame(
            {
                "stimulus_id": "a",
                "session": np.repeat(["1", "2"], ROWS // 2),
                "run": 1,
                "repeat": 1,
                "onset": 0.0,
            }
        ),
        stimuli=None,
        space=SensorSpace(
            tuple(f"S{k}" for k in range(SENSORS)),
            ("mag",) * SENSORS,
            {"1": places, "2": places},
            100.0,
            TIMES,
        ),
        unit="tesla",
    )


def test_an_occluded_sensor_leaves_nothing_with_its_neighbours(study: Study) -> None:
    recipe = SensorRecipe(order=("scale", "whiten", "baseline", "clip"))
    prepared = study.prepared(Recipe(tuple(recipe.steps(study.space))), np.arange(ROWS))  # type: ignore[arg-type]
    gone = np.isin(np.arange(SENSORS), [2, 5])
    rows = np.array([0, 4, 59])
    occluded = without_sensors(prepared, gone)
    found = occluded.read(rows)
    assert np.isnan(found[:, gone]).all()
    changed = np.array(study.responses)
    changed[:, gone] *= 30  # whatever these sensors say
    silent = without_sensors(
        Study(**{**vars(prepared), "responses": changed}),
        gone,
    )
    assert_array_equal(silent.read(rows), found)
    assert np.isfinite(found[:, ~gone]).all()
    # the mapped epochs of all sensors do hold something of them: that is what must not be left
    assert not np.allclose(prepared.read(rows)[:, ~gone], found[:, ~gone])
    assert isinstance(occluded.space, SensorSpace)
    for where in occluded.space.positions.values():
        assert_array_equal(np.isnan(where).any(axis=1), gone)
    assert np.isfinite(study.read(rows)).all()


def test_the_largest_loss_is_told_with_the_band_of_all_places_since_it_was_chosen_after_the_fact(
    study: Study,
) -> None:
    rng = np.random.default_rng(1)
    scores = rng.normal(size=(ROWS, SENSORS))  # no sensor is read: what is largest is luck
    found = occlude(lambda gone: scores[:, ~gone].mean(axis=1), np.eye(SENSORS, dtype=bool), seed=0)
    assert isinstance(study.space, SensorSpace)
    most = _facts(found, study.space, np.arange(SENSORS), 1)["most"]
    k = int(found.mean.argmax())
    assert most["sensor"] == f"S{k}"
    assert (most["ci_low"], most["ci_high"]) == (found.band_low[k], found.band_high[k])
    assert most["ci_low"] < found.low[k] <= found.mean[k] <= found.high[k] < most["ci_high"]
    facts = {"score": 0.5, "n_masked": 1, "n_places": SENSORS, "n_read": 0, "most": most}
    locations = np.zeros((SENSORS, 12))
    locations[:, :3] = rng.uniform(-0.07, 0.07, (SENSORS, 3)) + np.array([0, 0, 0.05])
    evoked = replace(study.space, locations=locations).inverse_transform(found.topography)
    caption = occlusion_figure(evoked, facts).caption
    assert f"[{quantity('', most['ci_low'])}, {quantity('', most['ci_high'])}]" in caption
    assert "chance 0.5, with all sensors 0.5" in caption


def test_sensors_without_places_are_a_skipped_step(study: Study, tmp_path: Path) -> None:
    assert isinstance(study.space, SensorSpace)
    nowhere = {session: np.full((SENSORS, 2), np.nan) for session in "12"}
    nowhere["2"][3] = 0.5
    study = replace(study, space=replace(study.space, positions=nowhere))
    workflow = object.__new__(MegWorkflow)
    workflow.config = MegWorkflowConfig(encoder="ridge")  # which does without places
    log = RunLog([])
    decoded = SimpleNamespace(prepared=SimpleNamespace(study=study))
    workflow._occlusion(Steps(tmp_path, log, {}), decoded)  # type: ignore[arg-type]
    assert [(step.name, step.detail) for step in log.steps] == [
        ("ridge without sensors", "fewer than two sensors have a place")
    ]


def test_places_lie_far_from_each_other_and_have_a_position() -> None:
    line = np.column_stack([np.linspace(0, 1, 11), np.zeros(11)])
    line[10] = np.nan
    chosen = spread_sensors(line, 3)
    assert 10 not in chosen
    assert_allclose(sorted(line[chosen, 0]), [0.0, 0.4, 0.9], atol=0.11)
