"""What tells one study from another, settings of an encoder, and pictures drawn again at the study's own size."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from braindecode_suite.core.errors import InputError
from braindecode_suite.learning.synthetic import make_latents, make_study
from braindecode_suite.workflows.fitting import HASHED_ROWS, encoder_config, study_identity
from braindecode_suite.workflows.reconstruction import _redraw


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


def test_without_a_preset_an_encoders_first_is_taken_and_a_wrong_one_names_the_encoder() -> None:
    assert encoder_config("ridge", "", {}).model_dump()["n_folds"] == 5
    with pytest.raises(InputError, match=r"encoder_preset \(of ridge"):
        encoder_config("ridge", "tiny", {})


def test_the_generators_scenes_are_drawn_again_at_the_size_of_the_study() -> None:
    assert _redraw(48, 64)(np.array([3, 5])).shape == (2, 48, 64, 3)
