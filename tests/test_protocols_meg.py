"""Splits of THINGS-MEG: no test concept in training, both test sets, whole images in validation, the leak of the original said."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from braindecode_suite.core.errors import InputError
from braindecode_suite.core.spaces import UnitSpace
from braindecode_suite.core.study import Study
from braindecode_suite.datasets import PROTOCOLS

CONCEPTS, EXEMPLARS, TESTED, REPEATS = 30, 12, 5, 3


def make_study(subject: str) -> Study:
    """The design of the release, smaller: every image once, one more of some concepts in every session."""
    rows = [
        {"stimulus_id": f"c{c:02d}/{e:02d}", "concept": f"c{c:02d}", "session": str(e), "published": "train"}
        for e in range(EXEMPLARS)
        for c in range(CONCEPTS)
    ]
    rows += [
        {"stimulus_id": f"c{c:02d}/test", "concept": f"c{c:02d}", "session": str(s), "published": "test"}
        for s in range(REPEATS)
        for c in range(TESTED)
    ]
    order = np.random.default_rng(int(subject)).permutation(len(rows))
    trials = pd.DataFrame(rows).iloc[order].reset_index(drop=True)
    trials.insert(2, "run", 1)
    trials["repeat"] = trials.groupby("stimulus_id").cumcount() + 1
    trials["onset"] = np.nan
    return Study(
        dataset="x",
        subject=subject,
        responses=np.zeros((len(trials), 1), np.float32),
        trials=trials,
        stimuli=None,
        space=UnitSpace(1),
        unit="z-score",
    )


@pytest.fixture
def studies() -> list[Study]:
    return [make_study("1"), make_study("2")]


def test_both_test_sets_hold_concepts_that_no_training_row_has(studies):
    small, large = PROTOCOLS["things-meg-zero-shot"](studies, seed=3)
    assert (small.label, large.label) == ("small", "large")
    tested = {f"c{c:02d}" for c in range(TESTED)}
    for split in (small, large):
        assert split.disjoint == {"stimulus", "concept"}
        assert split.keys("test", "concept") == tested
        assert not tested & (split.keys("train", "concept") | split.keys("validation", "concept"))
    assert [len(rows) for rows in small.test] == [TESTED * REPEATS] * 2
    assert [len(rows) for rows in large.test] == [TESTED * EXEMPLARS] * 2
    assert not small.keys("test", "stimulus") & large.keys("test", "stimulus")
    for part in ("train", "validation"):
        for a, b in zip(getattr(small, part), getattr(large, part), strict=True):
            np.testing.assert_array_equal(a, b)
    kept = sum(len(rows) for part in (small.train, small.validation) for rows in part)
    assert kept == 2 * (CONCEPTS - TESTED) * EXEMPLARS


def test_validation_holds_a_fifth_of_the_images_whole_for_all_subjects(studies):
    split = PROTOCOLS["things-meg-zero-shot"](studies)[0]
    assert not split.keys("train", "stimulus") & split.keys("validation", "stimulus")
    assert len(split.keys("validation", "stimulus")) == round(0.2 * (CONCEPTS - TESTED) * EXEMPLARS)


def test_the_original_split_says_that_its_concepts_train(studies):
    (split,) = PROTOCOLS["things-meg-original"](studies)
    assert split.disjoint == {"stimulus"}
    assert split.shared("concept")["train/test"] == TESTED
    assert "5 of 5 concepts of the test images train with other photographs: not zero-shot" in split.notes[0]
    kept = sum(len(rows) for part in (split.train, split.validation) for rows in part)
    assert kept == 2 * CONCEPTS * EXEMPLARS


@pytest.mark.parametrize("name", ["things-meg-zero-shot", "things-meg-original"])
def test_trials_without_a_published_test_set_are_refused(studies, name):
    studies[1].trials["published"] = "train"
    with pytest.raises(InputError, match=rf"protocol '{name}': expected test trials of every subject"):
        PROTOCOLS[name](studies)
