"""Scores of windows: what was planted when, in rows and in what the report draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from braindecode_suite.core.windows import growing_windows, sliding_windows
from braindecode_suite.report.time_courses import course_table, generalisation_figure
from braindecode_suite.report.wording import number
from braindecode_suite.workflows.image_features import image_features
from braindecode_suite.workflows.scoring import Settings
from braindecode_suite.workflows.time_resolved import Sliding
from braindecode_suite.workflows.time_scoring import (
    generalisation_facts,
    score_course,
    score_features,
    score_identification,
    score_unique_variance,
)

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
    assert levels["mean-prediction"]["onset_time"] == pytest.approx(0.15)
    assert levels["mean-prediction"]["onset_interval"] == [pytest.approx(0.15)] * 2
    assert "onset_time" not in levels["single"]  # images do not differ: there is no band
    line = course_table({**facts, "axis": "", "windows_are": ""}).rows[0]
    assert "150 ms [150, 150]" in line
    assert [c["time_start"] for c in facts["clusters"] if c["p_value"] < 0.01] == [pytest.approx(0.15)]


def test_the_p_of_a_course_is_over_whole_concepts_where_its_interval_is() -> None:
    similarity = np.random.default_rng(1).standard_normal((len(WINDOWS), IMAGES, IMAGES))
    similarity[3:5] += 5 * np.eye(IMAGES)
    concepts = np.repeat(["a", "b", "c", "d"], IMAGES // 4)  # 24 relabellings
    settings = replace(SETTINGS, unit="concept", units=concepts)
    p = {}
    for name, some in (("image", SETTINGS), ("concept", settings)):
        rows, _ = score_course(WINDOWS, similarity, some, model="ridge", target="t")
        row = next(row for row in rows if row.time_start == 0.1)
        assert row.p_correction == f"largest cluster over windows, whole {name}s permuted"
        p[name] = row.p_value
    assert p["image"] == pytest.approx(1 / 1001)
    assert p["concept"] == pytest.approx(1 / 24, abs=0.02)


@pytest.mark.parametrize(("reach", "kept"), [(0, 0.0), (9, 1.0)])
def test_generalisation_says_how_much_other_times_keep_of_what_a_map_decodes(reach: int, kept: float) -> None:
    n, rng = len(WINDOWS), np.random.default_rng(4)
    ranks = rng.integers(1, IMAGES, (n, n, IMAGES))
    late = [k for k, window in enumerate(WINDOWS) if window.time_start >= -1e-9]
    for i in late:
        for j in late:
            if abs(i - j) <= reach:
                ranks[i, j, : IMAGES // 2] = 0  # half of the images, always the same
    sliding = Sliding(
        windows=WINDOWS,
        similarity=np.empty((n, IMAGES, IMAGES)),
        single=np.empty((n, 0)),
        features={},
        generalisation=list(range(n)),
        ranks=ranks,
    )
    facts = generalisation_facts(sliding, SETTINGS)
    assert facts["chance"] == pytest.approx(1 / IMAGES)
    assert np.array(facts["values"])[late[1], late[1]] == 0.5
    share = facts["off_diagonal"]
    assert share["low"] <= share["value"] <= share["high"]
    assert share["value"] == pytest.approx(kept, abs=0.05)
    assert f"keep {number(share['value'])} [" in generalisation_figure(facts).caption
    ranks[:] = 5
    nothing = generalisation_facts(sliding, SETTINGS)
    assert "off_diagonal" not in nothing
    assert "keep" not in generalisation_figure(nothing).caption


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


def test_colours_and_categories_are_told_apart_in_decoded_features() -> None:
    rng = np.random.default_rng(3)
    true = {"early": rng.standard_normal((IMAGES, 4)), "late": rng.standard_normal((IMAGES, 5))}
    decoded = {name: 0.5 * rng.standard_normal((len(WINDOWS), *v.shape)) for name, v in true.items()}
    decoded["early"][3] += true["early"]
    decoded["late"][5] += true["late"]
    simulated = {"early": [0.15, 0.1], "late": [0.15, 0.1]}
    rows, facts = score_features(
        WINDOWS, decoded, true, SETTINGS, model="ridge", n_repeats=4, stop=0.5, simulated=simulated
    )
    early, late = (np.array(level["value"]) for level in facts["levels"])
    assert early.argmax() == 3
    assert late.argmax() == 5
    assert min(early[3], late[5]) > 0.8
    assert abs(early[5] - 0.5) < 0.15
    first, last = (level["peaks"][0] for level in facts["levels"])
    assert (first["time"], first["inside"], first["doubt"]) == (pytest.approx(0.15), True, "")
    assert (last["time"], last["inside"]) == (pytest.approx(0.35), False)
    after = facts["levels"][0]["peaks"][1]
    assert (after["name"], after["simulated"]) == ("after offset", pytest.approx([0.6, 0.6]))
    assert after["doubt"] == "the band reaches chance"
    assert {row.metric for row in rows} == {"feature_identification_early", "feature_identification_late"}
    assert {row.chance for row in rows} == {0.5}
    shares = score_unique_variance(WINDOWS, decoded, true, SETTINGS, model="ridge", n_repeats=4)
    assert {row.n_repeats for row in [*rows, *shares]} == {4}
    by = {(row.metric, row.time_start): row.value for row in shares}
    assert by["unique_variance_early", 0.1] > 0.5
    assert by["unique_variance_late", 0.3] > 0.5
    assert abs(by["unique_variance_early", 0.3]) < 0.15


def test_the_graded_score_has_a_peak_on_either_side_of_the_offset() -> None:
    rng = np.random.default_rng(4)
    similarity = rng.standard_normal((len(WINDOWS), IMAGES, IMAGES))
    for k in (3, 6):
        similarity[k] += 3 * np.eye(IMAGES)
    rows, facts = score_identification(
        WINDOWS,
        similarity,
        SETTINGS,
        model="ridge",
        target="t",
        n_repeats=2.5,
        stop=0.3,
        simulated={"early": [0.05, 0.22], "late": [0.25, 0.3]},
    )
    peaks = facts["levels"][0]["peaks"]
    assert peaks[1]["simulated"] == pytest.approx([0.52, 0.6])
    assert [p["time"] for p in peaks] == [pytest.approx(0.15), pytest.approx(0.45)]
    assert [p["inside"] for p in peaks] == [True, False]
    assert not any(p["doubt"] for p in peaks)
    assert {row.n_repeats for row in rows} == {2.5}
    assert rows[3].value == pytest.approx(
        np.mean([(similarity[3, i] < similarity[3, i, i]).sum() / (IMAGES - 1) for i in range(IMAGES)])
    )


def test_the_slope_of_another_peak_is_not_a_peak() -> None:
    similarity = np.random.default_rng(5).standard_normal((len(WINDOWS), IMAGES, IMAGES))
    for k, height in ((4, 6), (5, 3), (6, 2)):
        similarity[k] += height * np.eye(IMAGES)
    _, facts = score_identification(WINDOWS, similarity, SETTINGS, model="m", target="t", stop=0.3)
    assert facts["levels"][0]["peaks"][1]["doubt"] == "the slope of another peak"


def test_each_set_is_without_what_a_regression_on_training_images_says_of_it() -> None:
    pictures = Pictures()
    train, test = pictures.ids[:40], pictures.ids[40:]
    found = image_features(pictures, train, test)
    assert not found.missing
    early, late = found.sets["early"], found.sets["late"]
    assert early.train.shape == (40, 2)  # one corner varies, in colour and at its edges
    assert late.test.shape == (20, 3)
    for values in (early.train, late.train):
        assert np.allclose(values.mean(axis=0), 0)
        assert np.allclose(values.std(axis=0), 1)
    onehot = pictures.category[:, None] == np.arange(3)
    assert np.allclose(early.train.T @ onehot[:40], 0, atol=1e-8)
    corner = np.floor(255 * pictures.colour)
    means = np.array([corner[:40][pictures.category[:40] == k].mean() for k in range(3)])
    expected = corner - means[pictures.category]
    sign = np.sign(early.train[:, 0] @ expected[:40])
    assert np.allclose(sign * early.test[:, 0], expected[40:] / expected[:40].std())


def test_test_images_change_nothing_of_the_features() -> None:
    pictures = Pictures()
    some, more = (image_features(pictures, pictures.ids[:40], pictures.ids[40:stop]) for stop in (50, 60))
    assert np.allclose(some.sets["early"].test, more.sets["early"].test[:10])
    assert np.allclose(some.sets["late"].test, more.sets["late"].test[:10])


def test_without_categories_colours_stand_alone_and_the_reason_is_told() -> None:
    pictures = Pictures(categories=False)
    found = image_features(pictures, pictures.ids[:40], pictures.ids[40:])
    assert set(found.sets) == {"early"}
    assert found.missing == {"late": "the categories of the images are not known"}
    pictures = Pictures()
    assert pictures.attributes is not None
    pictures.attributes.loc[pictures.ids[-1], "category"] = "strange"
    found = image_features(pictures, pictures.ids[:40], pictures.ids[40:])
    assert found.missing == {"late": "1 of 20 test images have a category that no training image has"}
