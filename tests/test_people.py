"""Several people in training: who trains, who is tested, what is proved, and what a person left out is scaled by."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from braindecode_suite.core.errors import InputError, LeakageError
from braindecode_suite.core.spaces import UnitSpace
from braindecode_suite.core.split import PARTS, Split
from braindecode_suite.core.study import Study
from braindecode_suite.learning.synthetic import make_latents, make_sensor_study
from braindecode_suite.workflows.fitting import prepare_sensors
from braindecode_suite.workflows.meg_config import MegWorkflowConfig
from braindecode_suite.workflows.people import (
    alone,
    check_sensors,
    find_others,
    groups,
    left_out,
    near_duplicates,
    only_first_tested,
)
from braindecode_suite.workflows.scoring import Settings
from braindecode_suite.workflows.sensor_recipe import SensorRecipe

LATENTS = make_latents(60, 1, 6)
RECIPE = SensorRecipe(order=("scale", "clip"))


def study(subject: str, n_sensors: int = 5) -> Study:
    """60 images twice; runs of 10 trials and one minute, a session for each time."""
    made = make_sensor_study(
        LATENTS, subject=subject, seed=int(subject), n_sensors=n_sensors, n_times=16, n_repeats=2, n_missing=0
    )
    n = len(made.trials)
    table = made.trials.copy()
    table["run"] = np.arange(n) // 10
    table["run_seconds"], table["onset"] = 60.0, 6.0 * (np.arange(n) % 10)
    return replace(made, trials=table)


@pytest.fixture
def split() -> Split:
    return split_of("01", "02", "03")


def split_of(*subjects: str) -> Split:
    """40 images of training, 8 of validation and 12 of test, in all people alike."""
    studies = tuple(study(subject) for subject in subjects)
    rows: dict[str, list[np.ndarray]] = {part: [] for part in PARTS}
    for one in studies:
        number = one.stimulus_ids.astype(int)
        rows["test"].append(np.flatnonzero(number < 12))
        rows["validation"].append(np.flatnonzero((number >= 12) & (number < 20)))
        rows["train"].append(np.flatnonzero(number >= 20))
    return Split(
        protocol="any",
        studies=studies,
        disjoint=frozenset({"stimulus"}),
        **{part: tuple(found) for part, found in rows.items()},  # type: ignore[arg-type]
    )


def test_others_train_and_validate_and_the_first_alone_is_tested(split: Split) -> None:
    found = only_first_tested(split)
    assert [len(rows) for rows in found.test] == [24, 0, 0]
    assert [len(rows) for rows in found.train] == [80, 80, 80]
    own = alone(split)
    assert own.studies == split.studies[:1]
    for part in PARTS:
        assert_array_equal(getattr(own, part)[0], getattr(split, part)[0])


def test_a_person_left_out_is_on_one_side_and_that_is_proved(split: Split) -> None:
    found = left_out(split, 0)
    assert [len(rows) for rows in found.train] == [0, 80, 80]
    assert [len(rows) for rows in found.validation] == [0, 16, 16]
    assert found.keys("test", "subject") == {"01"}
    assert found.disjoint == {"stimulus", "subject"}
    assert found.hash != only_first_tested(split).hash
    with pytest.raises(LeakageError, match="declares subject disjoint; train/test share 1"):
        replace(found, train=split.train)


def test_calibration_is_the_first_minutes_declared_and_no_more(split: Split) -> None:
    found = left_out(split, 3)
    run = split.studies[0].trials["run"].to_numpy()
    whole, some = (np.concatenate([part.train[0], part.validation[0]]) for part in (split, found))
    assert set(run[some]) == set(np.unique(run[whole])[:3])
    assert_array_equal(np.sort(some), np.sort(whole[np.isin(run[whole], run[some])]))
    assert found.minutes == 3
    assert_array_equal(found.train[1], split.train[1])
    assert found.disjoint == {"stimulus"}
    note = found.notes[-1]
    assert (
        f"{len(found.train[0])} training and {len(found.validation[0])} validation trials of sub-01, its first 3 minutes"
        in note
    )


def test_more_calibration_than_was_recorded_is_refused(split: Split) -> None:
    with pytest.raises(InputError, match="`minutes` 30: expected less than the"):
        left_out(split, 30)


def test_groups_are_alone_with_others_and_left_out(split: Split) -> None:
    found = [group for series in groups(split, (0.0, 3.0), RECIPE) for group in series.ends]
    assert [group.title for group in found] == [
        "alone",
        "with sub-02, sub-03",
        "from sub-02, sub-03, 0 minutes of calibration",
        "from sub-02, sub-03, 3 minutes of calibration",
    ]
    assert [group.pooled for group in found] == [False, True, True, True]
    train, validation = found[2].prepared.fitting(found[2].prepared.study)
    assert train.subjects == validation.subjects == ["02", "03"]
    assert found[2].prepared.cohort("test").subjects == ["01"]
    assert found[1].prepared.fitting(found[1].prepared.study)[0].subjects == ["01", "02", "03"]
    assert [group.facts()["transductive"] for group in found[:3]] == [[], [], ["01"]]
    assert len({str(group.prepared.identity) for group in found}) == 4


def test_a_person_left_out_is_scaled_without_labels_and_others_by_their_training_rows(split: Split) -> None:
    one, rows = split.studies[0], np.concatenate([split.train[0], split.test[0]])
    by_training = prepare_sensors(one, split.train[0], rows, RECIPE)
    other = one.trials.copy()
    other["stimulus_id"] = other["stimulus_id"].to_numpy()[::-1]
    nothing = split.train[0][:0]
    values = prepare_sensors(one, nothing, split.test[0], RECIPE).read(split.test[0])
    assert_array_equal(
        values,
        prepare_sensors(replace(one, trials=other), nothing, split.test[0], RECIPE).read(split.test[0]),
    )
    assert by_training.recipe is not None
    assert by_training.recipe.describe()[0]["scope"] == "train"
    session = one.trials["session"].to_numpy()
    first = one.responses[np.flatnonzero(session == session[0])]
    low, middle, high = np.nanquantile(first[:, 0], [0.25, 0.5, 0.75])
    expected = (one.responses[split.test[0]][0, 0] - middle) / (high - low)
    np.testing.assert_allclose(values[0, 0], np.clip(expected, -20, 20), rtol=1e-4, atol=1e-5)


def test_people_of_voxels_are_refused(split: Split) -> None:
    one = replace(split.studies[0], space=UnitSpace(5))
    with pytest.raises(InputError, match="expected recordings of sensors"):
        prepare_sensors(one, split.train[0], split.test[0], RECIPE)


def test_images_that_look_alike_are_left_out_only_where_they_were_looked_for(split: Split) -> None:
    settings = Settings(subject="01", split="any", near_duplicates=frozenset({"3"}))
    fewer = replace(split, train=(split.train[0][:10], *split.train[1:]))
    assert near_duplicates(fewer, split, settings) == {"3"}
    fewer = alone(fewer)
    assert split.keys("train", "stimulus") > fewer.keys("train", "stimulus")
    assert near_duplicates(split, fewer, settings) == frozenset()


def test_people_with_other_sensors_are_refused_where_one_map_is_shared() -> None:
    config, first = MegWorkflowConfig(), study("01")
    check_sensors(config, first, [study("02")])
    with pytest.raises(
        InputError,
        match="the sensors and times of sub-01, as 'ridge' has one map for all; found others of sub-02",
    ):
        check_sensors(config, first, [study("02", n_sensors=4)])
    check_sensors(config.model_copy(update={"baseline": "meg-module"}), first, [study("02", n_sensors=4)])


def test_a_dataset_of_one_person_has_nobody_to_train_with() -> None:
    job = SimpleNamespace(subject="01", data_dir=Path(), dataset=SimpleNamespace(subjects=lambda _: ["01"]))
    config = MegWorkflowConfig(people=("02",))
    with pytest.raises(InputError, match="expected none, in a dataset of one person; found 02"):
        find_others(config, job)  # type: ignore[arg-type]
