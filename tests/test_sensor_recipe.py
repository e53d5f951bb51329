"""Which steps epochs go through, and which they are spared."""

from __future__ import annotations

import numpy as np
import pytest

from braindecode_suite.core.errors import InputError
from braindecode_suite.core.sensors import SensorSpace
from braindecode_suite.workflows.sensor_recipe import SensorRecipe


def names(recipe: SensorRecipe, start: float, kinds: tuple[str, str] = ("eeg", "eeg")) -> list[str]:
    times = start + np.arange(50) / 100
    space = SensorSpace(("a", "b"), kinds, {"1": np.eye(2)}, 100.0, times)
    return [step.name for step in recipe.steps(space)]


@pytest.mark.parametrize(("start", "spared"), [(-0.2, False), (-0.01, False), (0.0, True), (0.05, True)])
def test_epochs_that_begin_with_the_picture_are_not_shifted_by_their_first_sample(
    start: float, spared: bool
) -> None:
    expected = ["robust-scale", "clip"] if spared else ["robust-scale", "baseline", "clip"]
    assert names(SensorRecipe(), start) == expected


def test_a_baseline_that_was_asked_for_is_never_left_out() -> None:
    asked = SensorRecipe(baseline=(0.0, 0.05))
    assert names(asked, 0.0) == ["robust-scale", "baseline", "clip"]
    with pytest.raises(
        InputError, match=r"a sample between None and -0\.1 s; found epochs from 0 to 0\.49 s"
    ):
        names(SensorRecipe(baseline=(None, -0.1)), 0.0)


def test_sensors_of_several_units_are_not_whitened_before_they_are_scaled() -> None:
    both = ("mag", "grad")
    assert names(SensorRecipe(order=("scale", "whiten")), -0.1, both) == ["robust-scale", "whiten"]
    assert names(SensorRecipe(order=("whiten", "scale")), -0.1) == ["whiten", "robust-scale"]
    for order in (("whiten", "scale"), ("whiten",)):
        with pytest.raises(InputError, match=r"'scale' before 'whiten' .* several kinds \(mag, grad\)"):
            names(SensorRecipe(order=order), -0.1, both)


def test_steps_come_in_their_order() -> None:
    order = SensorRecipe(order=("baseline", "whiten", "scale", "clip"), scale_by=None)
    assert names(order, -0.1) == ["baseline", "whiten", "robust-scale", "clip"]
