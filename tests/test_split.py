"""What a split proves of itself."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from braindecode_suite.core.errors import InputError, LeakageError
from braindecode_suite.core.spaces import UnitSpace
from braindecode_suite.core.split import Split
from braindecode_suite.core.study import Study


def make_study(subject: str, ids: list[str]) -> Study:
    trials = pd.DataFrame(
        {"stimulus_id": ids, "session": 1, "run": np.arange(len(ids)) // 3, "repeat": 1, "onset": 0.0}
    )
    return Study(
        dataset="table",
        subject=subject,
        responses=np.zeros((len(ids), 2), np.float32),
        trials=trials,
        stimuli=None,
        space=UnitSpace(2),
        unit="z-score",
    )


def make_split(studies: list[Study], parts: list[list[list[int]]], disjoint: set[str] | None = None) -> Split:
    train, validation, test = ([np.array(rows, int) for rows in part] for part in parts)
    return Split(
        protocol="p",
        studies=tuple(studies),
        train=tuple(train),
        validation=tuple(validation),
        test=tuple(test),
        disjoint=frozenset({"stimulus"} if disjoint is None else disjoint),
    )


def test_an_image_in_training_and_test_is_refused_also_across_subjects():
    one, two = make_study("01", ["a", "b", "c"]), make_study("02", ["b", "d", "e"])
    with pytest.raises(LeakageError, match="declares stimulus disjoint; train/test share 1"):
        make_split([one, two], [[[0, 1], [2]], [[], []], [[2], [0, 1]]])
    assert (
        make_split([one, two], [[[0, 1], [0]], [[], []], [[2], [1, 2]]]).shared("stimulus")["train/test"] == 0
    )


def test_a_shared_validation_image_is_refused_too():
    study = make_study("01", ["a", "b", "a"])
    with pytest.raises(LeakageError, match="train/validation share 1"):
        make_split([study], [[[0]], [[2]], [[1]]])


def test_what_is_not_declared_is_counted_in_the_card():
    study = make_study("01", ["a", "b", "c", "d"])
    card = make_split([study], [[[0, 1]], [[]], [[2, 3]]]).card()
    assert card["shared"]["run"]["train/test"] == 1
    assert card["shared"]["stimulus"]["train/test"] == 0
    with pytest.raises(LeakageError, match="declares run disjoint"):
        make_split([study], [[[0, 1]], [[]], [[2, 3]]], {"run"})


def test_a_row_in_two_parts_or_out_of_range_is_refused():
    study = make_study("01", ["a", "b"])
    with pytest.raises(LeakageError, match="rows in two parts"):
        make_split([study], [[[0]], [[]], [[0]]], set())
    with pytest.raises(InputError, match="expected rows below 2; found 2"):
        make_split([study], [[[0]], [[]], [[2]]])
    with pytest.raises(InputError, match="expected a subset of"):
        make_split([study], [[[0]], [[]], [[1]]], {"image"})


def test_the_hash_follows_rows_ids_and_subjects():
    study = make_study("01", ["a", "b", "c"])
    base = make_split([study], [[[0]], [[1]], [[2]]]).hash
    assert base == make_split([study], [[[0]], [[1]], [[2]]]).hash
    assert base != make_split([study], [[[1]], [[0]], [[2]]]).hash
    assert base != make_split([make_study("02", ["a", "b", "c"])], [[[0]], [[1]], [[2]]]).hash


def test_too_few_training_images_are_refused():
    study = make_study("01", ["a", "a", "b", "c"])
    with pytest.raises(InputError, match="expected at least 20 training images; found 2"):
        make_split([study], [[[0, 1, 2]], [[]], [[3]]]).check_training_size()
