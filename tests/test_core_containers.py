"""Study, cohort, spaces, recipe, latents, scores."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from braindecode_suite.core.errors import InputError, UnknownName
from braindecode_suite.core.latents import Latents, check_same_target
from braindecode_suite.core.manifest import RunLog, anonymous_kb
from braindecode_suite.core.recipe import Recipe, SelectUnits, ZScore
from braindecode_suite.core.score import COLUMNS, Score, read_scores, write_scores
from braindecode_suite.core.spaces import UnitSpace, VoxelSpace, select_rois
from braindecode_suite.core.study import Cohort, Noise, Study


@pytest.fixture
def study() -> Study:
    rng = np.random.default_rng(0)
    trials = pd.DataFrame(
        {
            "stimulus_id": [str(i % 10) for i in range(40)],
            "session": np.repeat([1, 2], 20),
            "run": np.tile(np.repeat([1, 2], 10), 2),
            "repeat": np.repeat([1, 2, 3, 4], 10),
            "onset": np.arange(40.0),
        }
    )
    responses = rng.normal(size=(40, 6)).astype(np.float32) * 3 + np.repeat([[5.0], [-5.0]], 20, axis=0)
    return Study(
        dataset="table",
        subject="01",
        responses=responses.astype(np.float32),
        trials=trials,
        stimuli=None,
        space=UnitSpace(6),
        unit="z-score",
    )


def test_the_z_score_uses_training_rows_of_its_session_only(study):
    train = np.r_[0:12, 20:32]
    ready = study.prepared(Recipe((ZScore(),)), train)
    block = study.responses[20:32].astype(np.float64)
    expected = (study.responses[35:38] - block.mean(0)) / block.std(0)
    assert_allclose(ready.read(np.arange(35, 38)), expected, rtol=1e-4)
    changed = study.responses.copy()
    changed[32:] += 100
    from dataclasses import replace

    again = replace(study, responses=changed).prepared(Recipe((ZScore(),)), train)
    assert again.recipe is not None
    assert ready.recipe is not None
    assert again.recipe.hash == ready.recipe.hash


def test_a_session_without_training_rows_is_refused_unless_declared_transductive(study):
    train = np.arange(20)
    ready = study.prepared(Recipe((ZScore(),)), train)
    with pytest.raises(InputError, match="expected rows of session 1; found session 2"):
        ready.read(np.array([30]))
    loose = study.prepared(Recipe((ZScore(scope="heldout-block"),)), train)
    assert_allclose(loose.read(np.arange(20, 40)).mean(0), 0, atol=1e-5)


def test_blocks_of_two_columns_are_named_and_saved_as_words(study):
    trials = study.trials.assign(run=np.where(np.arange(len(study.trials)) % 20 < 10, 9, 10))
    step = ZScore(by=("session", "run")).fit(study.responses, trials, np.r_[0:10, 20:30])
    assert step.state()["levels"].tolist() == ["1/9", "2/9"]
    assert step.state()["levels"].dtype.kind == "U"
    assert ZScore.restore({**step.describe(), "by": ["session", "run"]}, step.state()).by == step.by
    with pytest.raises(InputError, match="expected rows of session/run 1/9, 2/9; found session/run 1/10"):
        step.apply(study.responses[10:12], trials.iloc[10:12])


def test_a_constant_unit_becomes_zero_and_the_last_step_may_select(study):
    study.responses[:, 2] = 7
    keep = np.array([True, False, True, True, False, False])
    ready = study.prepared(Recipe((ZScore(), SelectUnits(keep))), np.arange(40))
    values = ready.read(slice(0, 5))
    assert values.shape == (5, 3)
    assert_allclose(values[:, 1], 0)


def test_trials_and_responses_of_different_length_are_refused(study):
    from dataclasses import replace

    with pytest.raises(InputError, match="expected 40 rows, one a response; found 39"):
        replace(study, trials=study.trials.iloc[:39])
    with pytest.raises(InputError, match="found no repeat"):
        replace(study, trials=study.trials.drop(columns="repeat"))


def test_a_cohort_keeps_the_order_of_its_rows(study):
    cohort = Cohort.of(study, np.array([3, 1, 12]))
    assert len(cohort) == 3
    assert list(cohort.stimulus_ids) == ["3", "1", "2"]
    with pytest.raises(InputError, match="expected stimuli; found unlabelled recordings"):
        _ = cohort.stimuli


def test_voxels_go_back_to_where_nibabel_and_numpy_put_them():
    rng = np.random.default_rng(1)
    mask = rng.random((4, 5, 3)) > 0.5
    affine = np.diag([1.8, 1.8, 1.8, 1.0])
    space = VoxelSpace(mask, affine)
    values = rng.normal(size=(2, space.n_units)).astype(np.float32)
    image = space.inverse_transform(values)
    assert isinstance(image, nib.Nifti1Image)
    assert image.shape == (4, 5, 3, 2)
    assert_allclose(image.get_fdata()[mask].T, values)
    assert_allclose(image.affine, affine)
    with pytest.raises(InputError, match=r"voxels=\d+\); found \(3,\)"):
        space.inverse_transform(np.zeros(3))


def test_rois_are_found_by_name_and_a_wrong_one_is_refused():
    space = UnitSpace(3, {"V1": np.array([True, False, False]), "PPA": np.array([False, False, True])})
    assert list(select_rois(space, ["V1", "PPA"])) == [True, False, True]
    with pytest.raises(UnknownName, match="expected one of PPA, V1; found 'V2'"):
        select_rois(space, ["V2"])
    with pytest.raises(InputError, match="expected booleans; found int64"):
        UnitSpace(2, {"V1": np.array([1, 0])})


def test_the_ceiling_follows_the_release_formula():
    noise = Noise(np.array([0.0, 1.0, 0.5]), "test")
    assert_allclose(noise.ceiling(np.array([3, 3])), [0, 1 / (1 + 1 / 3), 0.25 / (0.25 + 1 / 3)])
    assert_allclose(noise.ceiling(np.array([1, 3]))[1], 1 / (1 + (1 + 1 / 3) / 2))


def test_predictions_are_averaged_by_stimulus_in_order_of_appearance():
    values = np.arange(8, dtype=np.float32).reshape(4, 1, 2)
    latents = Latents(values, np.array(["b", "a", "b", "a"], dtype=object), "t", "predicted")
    mean = latents.mean_by_stimulus()
    assert list(mean.ids) == ["b", "a"]
    assert_allclose(mean.flat, [[2, 3], [4, 5]])
    assert_allclose(latents.select(["a"]).flat, [[2, 3]])
    with pytest.raises(InputError, match=r"found 1 others, e\.g\. 'z'"):
        latents.select(["a", "z"])


def test_latents_of_two_targets_do_not_mix():
    one = Latents(np.zeros((1, 1, 2), np.float32), np.array(["a"], dtype=object), "clip", "true")
    two = Latents(np.zeros((1, 1, 2), np.float32), np.array(["a"], dtype=object), "other", "true")
    with pytest.raises(InputError, match=r"one target space, 'clip'; found also 'other'"):
        check_same_target(one, two)


def test_scores_survive_the_round_trip_with_their_leading_zeros(tmp_path):
    path = tmp_path / "scores.tsv"
    write_scores(path, [Score(subject="01", metric="pixcorr", value=0.5, seed="0", n=20, stage="final")])
    table = read_scores(path)
    assert list(table.columns) == list(COLUMNS)
    assert table.loc[0, "subject"] == "01"
    assert table.loc[0, "control"] == "brain"
    assert table.loc[0, "roi"] == ""
    assert np.isnan(table.loc[0, "ci_low"])
    with pytest.raises(UnknownName, match="`control`"):
        Score(subject="01", metric="pixcorr", value=0.1, control="none")


def test_a_log_records_done_skipped_and_failed_steps():
    log = RunLog(["bds"])
    with log.step("fit") as notes:
        notes["rows"] = 3
    log.skip("generate", "no generator installed")
    with pytest.raises(ValueError, match="broken"), log.step("score"):
        raise ValueError("broken")
    steps = log.as_dict()["steps"]
    assert [(s["name"], s["status"]) for s in steps] == [
        ("fit", "done"),
        ("generate", "skipped"),
        ("score", "failed"),
    ]
    assert steps[0]["rows"] == 3
    found = anonymous_kb()
    assert found is None or found > 1000


def test_values_of_the_units_kept_go_back_to_all_units_of_the_space(study):
    keep = np.arange(study.n_units) % 3 == 1
    some = study.prepared(Recipe((ZScore(by=None), SelectUnits(keep))), np.arange(len(study.trials)))
    assert_array_equal(some.kept, keep)
    assert study.kept.all()
    values = some.read(slice(None))
    assert values.shape == (len(study.trials), keep.sum())
    whole = some.in_space(values[0], fill=np.nan)
    assert_array_equal(whole[keep], values[0])
    assert np.isnan(whole[~keep]).all()
    assert some.in_space(values[:2]).shape == (2, study.n_units)
    with pytest.raises(InputError, match=rf"`values`: expected shape \(maps, units={keep.sum()}\)"):
        some.in_space(np.zeros(study.n_units))
