"""Scores of windows: what was planted when, in rows and in what the report draws."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest

from braindecode_suite.core.windows import growing_windows, sliding_windows
from braindecode_suite.workflows.scoring import Settings
from braindecode_suite.workflows.time_scoring import feature_sets, score_course, score_unique_variance

TIMES = np.arange(-20, 60) / 100
WINDOWS = sliding_windows(TIMES, width=0.1, stride=0.1)
SETTINGS = Settings(subject="01", split="drawn", n_bootstrap=300, n_permutations=1000)
IMAGES = 60


class Pictures:
    """Images whose top left corner has a colour of its own, and whose category is drawn apart from it."""

    def __init__(self, categories: bool = True) -> None:
        rng = np.random.default_rng(0)
        self.ids: Sequence[str] = [str(k) for k in range(IMAGES)]
        self.colour = rng.random(IMAGES)
        self.category = rng.integers(0, 3, IMAGES)
        table = {"category": self.category.astype(str)} if categories else {"x": self.colour}
        self.attributes: pd.DataFrame | None = pd.DataFrame(table, index=list(self.ids))
        self.fingerprint = "drawn"

    def images(self, ids: Sequence[str]) -> np.ndarray:
        found = np.full((len(ids), 16, 18, 3), 100, np.uint8)
        found[:, :4, :4] = (255 * self.colour[[int(i) for i in ids]])[:, None, None, None]
        return found

    def captions(self, stimulus_id: str) -> list[str]:
        return []

    def distractors(self, stimulus_id: str) -> np.ndarray | None:
        return None


def test_a_course_is_high_where_the_truth_is_near_and_its_cluster_has_a_p() -> None:
    rng = np.random.default_rng(1)
    similarity = rng.standard_normal((len(WINDOWS), IMAGES, IMAGES))
    similarity[3:5] += 5 * np.eye(IMAGES)
    shown = np.repeat(np.arange(IMAGES), 2)
    single = np.full((len(WINDOWS), len(shown)), 3)
    single[3, ::2] = 0  # one of the two trials of each image
    rows, facts = score_course(
        WINDOWS, similarity, SETTINGS, model="ridge", target="t", n_repeats=2, single=single, shown=shown
    )
    by = {(row.level, row.time_start): row for row in rows}
    assert by["mean-prediction", 0.1].value > 0.9
    assert by["mean-prediction", 0.1].p_value == pytest.approx(1 / 1001)
    assert by["mean-prediction", -0.2].value < 0.2
    assert by["single", 0.1].value == 0.5
    assert by["single", 0.0].value == 0
    assert {row.chance for row in rows} == {1 / IMAGES}
    levels = {level["level"]: level for level in facts["levels"]}
    assert levels["mean-prediction"]["before_onset"]["windows"] == 2
    assert levels["mean-prediction"]["peak_time"] == pytest.approx(0.2)  # both are at 1
    assert [c["time_start"] for c in facts["clusters"] if c["p_value"] < 0.01] == [pytest.approx(0.15)]


def test_growing_windows_are_named_by_their_end() -> None:
    windows = growing_windows(TIMES, first=0.1, stride=0.1)
    similarity = np.random.default_rng(2).standard_normal((len(windows), IMAGES, IMAGES))
    _, facts = score_course(windows, similarity, SETTINGS, model="m", target="t", named="end")
    assert facts["times"] == pytest.approx([w.time_stop for w in windows])
    similarity[3:5] += 5 * np.eye(IMAGES)
    _, facts = score_course(windows, similarity, SETTINGS, model="m", target="t", named="end")
    found = [cluster for cluster in facts["clusters"] if cluster["p_value"] < 0.01]
    assert [(c["time_start"], c["time_stop"]) for c in found] == [
        (pytest.approx(windows[3].time_stop), pytest.approx(windows[4].time_stop))
    ]


def test_colours_and_categories_are_told_apart_in_predictions() -> None:
    pictures = Pictures()
    sets = feature_sets(pictures, pictures.ids)
    assert not isinstance(sets, str)
    assert sets["early"].shape == (IMAGES, 1)  # one corner varies
    assert sets["late"].shape == (IMAGES, 3)
    rng = np.random.default_rng(3)
    onehot = np.eye(3)[pictures.category]
    predicted = 0.2 * rng.standard_normal((len(WINDOWS), IMAGES, 4))
    predicted[3] += pictures.colour[:, None] * [1.0, -1.0, 2.0, 0.0]
    predicted[5] += onehot @ rng.standard_normal((3, 4))
    rows, facts = score_unique_variance(WINDOWS, predicted, sets, SETTINGS, model="ridge", target="t")
    early, late = (np.array(level["value"]) for level in facts["levels"])
    assert early.argmax() == 3
    assert late.argmax() == 5
    assert early[3] > 0.5
    assert late[5] > 0.5
    assert abs(early[5]) < 0.1
    assert abs(late[3]) < 0.1
    assert {row.metric for row in rows} == {"unique_variance_early", "unique_variance_late"}


def test_images_without_categories_have_no_sets_and_say_why() -> None:
    pictures = Pictures(categories=False)
    assert feature_sets(pictures, pictures.ids) == "the categories of the images are not known"
