"""What tells one study from another, settings of an encoder, and pictures drawn again at the study's own size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from braindecode_suite.core.errors import InputError
from braindecode_suite.core.manifest import RunLog
from braindecode_suite.core.protocols import FitContext
from braindecode_suite.core.split import Split
from braindecode_suite.encoders import ENCODERS
from braindecode_suite.learning.synthetic import TableTarget, make_latents, make_study, rows_of
from braindecode_suite.workflows.fitting import (
    HASHED_ROWS,
    encoder_config,
    fit_model,
    prepare,
    study_identity,
)
from braindecode_suite.workflows.reconstruction import _redraw
from braindecode_suite.workflows.scoring import Settings, score_retrieval
from braindecode_suite.workflows.steps import Steps


@pytest.mark.parametrize("row", [0, HASHED_ROWS + 3, -1])
def test_one_changed_response_in_any_row_makes_another_study(row: int) -> None:
    study = make_study(make_latents(2 * HASHED_ROWS, 1, 4), n_units=6)
    values = np.array(study.read(np.arange(len(study.trials))))
    assert study_identity(replace(study, responses=values.copy())) == study_identity(
        replace(study, responses=values)
    )
    changed = values.copy()
    changed[row, 2] += 1e-3
    assert study_identity(replace(study, responses=changed)) != study_identity(
        replace(study, responses=values)
    )


def test_trials_in_no_part_of_the_split_are_not_read_and_change_nothing() -> None:
    study = make_study(make_latents(40, 1, 4), n_units=6)
    in_two = np.flatnonzero(
        study.trials["session"] < 3
    )  # the third session is no part of it, and cannot be scaled
    train, validation, test = (
        np.intersect1d(rows_of(study, *ends), in_two) for ends in ((0, 20), (20, 30), (30, 40))
    )
    split = Split(
        protocol="synthetic",
        studies=(study,),
        train=(train,),
        validation=(validation,),
        test=(test,),
        disjoint=frozenset({"stimulus"}),
    )
    assert_array_equal(split.rows[0], in_two)
    values = np.array(study.read(np.arange(len(study.trials))))
    values[-1] += 1
    elsewhere = prepare(replace(study, responses=values), split, "session").identity
    prepared = prepare(study, split, "session")
    assert prepared.identity == elsewhere
    values[test[0], 2] += 1
    assert prepare(replace(study, responses=values), split, "session").identity != elsewhere
    with pytest.raises(InputError, match=r"expected rows of session 1, 2; found session 3"):
        prepared.study.read(np.arange(len(study.trials)))


def test_without_a_preset_an_encoders_first_is_taken_and_a_wrong_one_names_the_encoder() -> None:
    assert encoder_config("ridge", "", {}).model_dump()["n_folds"] == 5
    with pytest.raises(InputError, match=r"encoder_preset \(of ridge"):
        encoder_config("ridge", "tiny", {})


def test_the_generators_scenes_are_drawn_again_at_the_size_of_the_study() -> None:
    assert _redraw(48, 64)(np.array([3, 5])).shape == (2, 48, 64, 3)


def test_a_fitted_model_tells_what_it_makes_of_images_it_was_not_fitted_on(tmp_path: Path) -> None:
    study = make_study(make_latents(80, 1, 4), n_units=20, ncsnr=1.0)
    train, validation, test = (rows_of(study, *ends) for ends in ((0, 50), (50, 65), (65, 80)))
    split = Split(
        protocol="synthetic",
        studies=(study,),
        train=(train,),
        validation=(validation,),
        test=(test,),
        disjoint=frozenset({"stimulus"}),
    )
    prepared, target = prepare(study, split, "session"), TableTarget("toy", make_latents(80, 1, 4))
    fitted = fit_model(
        Steps(tmp_path, RunLog([]), {}),
        prepared,
        {"retrieval": target, "text": TableTarget("said", make_latents(80, 1, 3))},
        name="ridge",
        config=encoder_config("ridge", "", {}),
        context=FitContext(work_dir=tmp_path),
        label="fit ridge",
        seeded=False,
    )
    encoder = ENCODERS["ridge"].load(fitted.folder)
    for part, role, found in (
        ("train", "retrieval", fitted.train),
        ("validation", "retrieval", fitted.validation),
        ("train", "text", fitted.train_text),
        ("validation", "text", fitted.validation_text),
    ):
        assert found is not None
        expected = encoder.predict(prepared.cohort(part))[role].mean_by_stimulus()
        assert sorted(found.ids) == list(prepared.stimulus_ids[part])
        np.testing.assert_allclose(found.values, expected.select(found.ids).values, atol=1e-5)
    assert len(fitted.test["text"]) == len(fitted.test["retrieval"]) == len(test)
    assert fitted.predicted_text is not None
    assert fitted.predicted_text.model == "ridge, text"
    assert study.stimuli is not None
    true = {part: target.embed(study.stimuli, list(ids)) for part, ids in prepared.stimulus_ids.items()}
    settings = Settings(subject="01", split="synthetic", gallery_sizes=(5,), n_bootstrap=100)
    scored = score_retrieval(
        [fitted.predicted], true["train"], true["test"], settings, validation_true=true["validation"]
    )
    assert {score.scorer for score in scored.scores} == {"cosine", "cosine-centred", "csls"}
