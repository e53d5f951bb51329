"""People added one after another: who trains at each point, the line through known scores, and what its intervals leave out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from braindecode_suite.core.errors import InputError
from braindecode_suite.core.split import Split
from braindecode_suite.core.study import Study
from braindecode_suite.report.learning_curve import curve_panel
from braindecode_suite.report.results import Results
from braindecode_suite.report.wording import DASH
from braindecode_suite.workflows import fitting
from braindecode_suite.workflows.meg_config import MegWorkflowConfig
from braindecode_suite.workflows.people import Scored, Series, find_others, groups, planned
from braindecode_suite.workflows.people_curve import people_curves
from braindecode_suite.workflows.scoring import Settings
from tests.test_people import RECIPE, split_of

N_IMAGES = 12


@pytest.fixture(scope="module")
def split() -> Split:
    return split_of("01", "03", "02", "04")


@pytest.fixture(scope="module")
def series(split: Split) -> list[Series]:
    return groups(split, (0.0, 3.0), RECIPE, every=True)


def test_others_come_one_by_one_in_their_order(series: list[Series]) -> None:
    beside, none, some = series
    assert [group.title for group in beside.groups] == [
        "alone",
        "with sub-03",
        "with sub-03, sub-02",
        "with sub-03, sub-02, sub-04",
    ]
    assert [group.title for group in none.groups] == [
        "from sub-03, 0 minutes of calibration",
        "from sub-03, sub-02, 0 minutes of calibration",
        "from sub-03, sub-02, sub-04, 0 minutes of calibration",
    ]
    assert [one.asked for one in series] == [None, 0, 3]
    assert [group.calibration for group in some.groups] == [3, 3, 3]


def test_who_trains_at_a_point_trains_at_the_next_with_the_same_rows(
    series: list[Series], split: Split
) -> None:
    for one in series:
        for fewer, more in zip(one.groups, one.groups[1:], strict=False):
            small, large = fewer.prepared.split, more.prepared.split
            assert len(large.studies) == len(small.studies) + 1
            for part in ("train", "validation", "test"):
                for a, b in zip(getattr(small, part), getattr(large, part), strict=False):
                    assert_array_equal(a, b)
        for group in one.groups:
            assert_array_equal(group.prepared.split.test[0], split.test[0])
            assert not any(map(len, group.prepared.split.test[1:]))
    assert all("subject" in group.prepared.split.disjoint for group in series[1].groups)
    assert len({str(group.prepared.identity) for one in series for group in one.groups}) == 10


def test_the_responses_of_a_person_who_is_in_many_groups_are_read_once(split: Split, monkeypatch) -> None:
    read: list[object] = []
    whole = fitting.study_identity

    def identity(study: Study, rows: np.ndarray) -> dict[str, Any]:
        read.append(study)
        return whole(study, rows)

    monkeypatch.setattr(fitting, "study_identity", identity)
    found = [group for one in groups(split, (0.0, 3.0), RECIPE, every=True) for group in one.groups]
    together = {study for group in found for study in (group.prepared.study, *group.prepared.others)}
    assert len({str(group.prepared.identity) for group in found}) == len(found)
    assert len(read) == len(together) < sum(1 + len(group.prepared.others) for group in found)


def test_the_ends_are_the_groups_that_there_are_without_a_curve(series: list[Series], split: Split) -> None:
    without = groups(split, (0.0, 3.0), RECIPE)
    assert [len(one.groups) for one in without] == [2, 1, 1]
    for few, many in zip(without, series, strict=True):
        assert few.ends == few.groups
        for a, b in zip(few.ends, many.ends, strict=True):
            assert (a.title, a.prepared.identity) == (b.title, b.prepared.identity)


def test_a_person_is_prepared_once_however_many_groups_they_train_in(series: list[Series]) -> None:
    everyone = [study for one in series for group in one.groups for study in group.prepared.others]
    assert len({id(study) for study in everyone}) == 3
    assert len({id(group.prepared.study) for group in series[0].groups}) == 1


def test_the_plan_has_a_line_for_each_group(series: list[Series]) -> None:
    config = MegWorkflowConfig(
        people=("01", "03", "02", "04"), people_curve=True, calibration_minutes=(0.0, 3.0)
    )
    plan = planned(config, "01")
    assert plan[:5] == [
        "alone",
        "with 1 other",
        "with 2 others",
        "with 3 others",
        "left out, 0 minutes, from 1 other",
    ]
    assert len(plan) == len(set(plan)) == sum(len(one.groups) for one in series)
    assert planned(config.model_copy(update={"people_curve": False}), "01") == [
        "alone",
        "with 3 others",
        "left out, 0 minutes, from 3 others",
        "left out, 3 minutes, from 3 others",
    ]


def test_a_person_alone_with_too_few_images_is_refused_and_named(split: Split) -> None:
    few = (split.train[0], split.train[1][:10], *split.train[2:])
    with pytest.raises(
        InputError,
        match=r"`people` \(from sub-03, 0 minutes of calibration\), .*at least 20 training images; found 10 \(name people with more",
    ):
        groups(replace(split, train=few), (0.0,), RECIPE, every=True)
    assert groups(replace(split, train=few), (0.0,), RECIPE)
    unseen = (split.validation[0], split.validation[1][:1], *split.validation[2:])
    with pytest.raises(InputError, match="at least 2 validation images; found 1"):
        groups(replace(split, validation=unseen), (0.0,), RECIPE, every=True)


def test_one_other_person_is_no_curve() -> None:
    dataset = SimpleNamespace(subjects=lambda _: ["01", "02", "03"])
    job: Any = SimpleNamespace(subject="01", data_dir=Path(), dataset=dataset)
    config = MegWorkflowConfig(people=("01", "02"), people_curve=True)
    with pytest.raises(
        InputError, match="`people_curve`: expected at least two others in `people`; found 02"
    ):
        find_others(config, job)
    assert find_others(config.model_copy(update={"people": ("01", "02", "03")}), job) == ["02", "03"]


def curves_of(series: list[Series]) -> list[dict[str, Any]]:
    """Images whose scores are 0.1 + 0.2 log2 of the people counted by the deep model, and 0.3 by ridge."""
    scored = {}
    for one in series:
        for k, group in enumerate(one.groups):
            deep = np.full(N_IMAGES, 0.1 + 0.2 * np.log2(k + 1))
            hits = {"deep": deep, "ridge": np.full(N_IMAGES, 0.3)}
            scored[group] = Scored(hits=hits, facts={"split": group.split})
    return people_curves(series, scored, Settings(subject="01", split="any"))


def test_the_line_goes_through_scores_on_it_and_ends_at_twice_the_people(series: list[Series]) -> None:
    beside, none, some = curves_of(series)
    assert [point["amount"] for point in beside["amounts"]] == [1, 2, 3, 4]
    for left in (none, some):
        assert [point["amount"] for point in left["amounts"]] == [1, 2, 3]
    assert [point["split"] for point in none["amounts"]] == [group.split for group in series[1].groups]
    for curve, most in ((beside, 4), (none, 3), (some, 3)):
        deep, ridge = curve["models"]
        assert_allclose(deep["slope"]["value"], 0.2 / np.log10(2))
        assert_allclose([deep["adds"][key] for key in ("value", "low", "high")], 0.2)
        assert_allclose(deep["doubled"]["value"], 0.1 + 0.2 * np.log2(2 * most))
        assert_allclose([deep["bend"]["value"], deep["residual"], ridge["adds"]["value"]], 0, atol=1e-9)
        line = [point["amount"] for point in deep["line"]]
        assert (line[0], line[-1]) == (1, 2 * most)  # from one person, never from half of one
    assert [curve["of"] for curve in (beside, none, some)] == ["people who train", *["others who train"] * 2]


def test_two_points_have_a_slope_and_no_bend_and_say_so(split: Split) -> None:
    found = groups(split_of("01", "03", "02"), (0.0,), RECIPE, every=True)
    beside, none = curves_of(found)
    told = "Two points have a slope, and no bend"
    assert [any(note.startswith(told) for note in one["notes"]) for one in (beside, none)] == [False, True]
    deep = none["models"][0]
    assert deep["bend"] is deep["residual"] is None
    assert_allclose(deep["adds"]["value"], 0.2)
    assert beside["models"][0]["bend"] is not None


def test_intervals_are_over_images_and_the_notes_say_what_is_not_in_them(series: list[Series]) -> None:
    groups_of = {group: k for one in series for k, group in enumerate(one.groups)}
    rng = np.random.default_rng(0)
    hits = (rng.random((4, N_IMAGES)) < 0.5).astype(float)
    scored = {group: Scored(hits={"deep": hits[k]}, facts={}) for group, k in groups_of.items()}
    curve = people_curves(series, scored, Settings(subject="01", split="any"))[0]
    model = curve["models"][0]
    assert_allclose([point["value"] for point in model["points"]], hits.mean(axis=1))
    x = np.log10([1, 2, 3, 4])
    assert_allclose(model["slope"]["value"], np.polyfit(x, hits.mean(axis=1), 1)[0])
    assert_allclose(model["adds"]["value"], np.polyfit(np.log2([1, 2, 3, 4]), hits.mean(axis=1), 1)[0])
    assert_allclose(model["bend"]["value"], np.polyfit(np.log2([1, 2, 3, 4]), hits.mean(axis=1), 2)[0])
    assert model["slope"]["low"] < model["slope"]["value"] < model["slope"]["high"]
    notes = " ".join(curve["notes"])
    assert "one order, that of `people`: sub-03, sub-02, sub-04" in notes
    assert (
        "how much the curve would vary with which people were drawn, and in which order, is not in them"
        in notes
    )
    assert "more people are more trials" in notes


def test_the_section_shows_a_panel_for_each_curve_and_a_table_of_all(split: Split, tmp_path: Path) -> None:
    known = {"people_curves": curves_of(groups(split_of("01", "03", "02"), (0.0, 3.0), RECIPE, every=True))}
    results = Results(
        output_dir=tmp_path, folder=tmp_path, subject="01", workflow="meg", scores=pd.DataFrame(), facts=known
    )
    panel = curve_panel(results)
    assert panel is not None
    assert [part.title for part in panel.parts] == [
        "Score against people who train",
        "The fitted lines over people",
    ]
    figure, table = panel.parts[0].figure, panel.parts[1].table
    assert figure is not None
    assert table is not None
    assert "all of this person's trials: deep 0.100 at 1, 0.300 at 2, 0.417 at 3" in figure.alt
    assert "none of this person's trials: deep 0.100 at 1, 0.300 at 2;" in figure.alt
    assert "The line ends at twice the people." in figure.caption
    assert table.headings[2] == "twice the people add"
    assert table.caption.endswith("= a + b log10(people who train or others who train)")
    assert [row[0] for row in table.rows[::2]] == [curve["title"] for curve in known["people_curves"]]
    assert [row[2].split()[0] for row in table.rows[::2]] == ["0.200"] * 3
    assert [row[4] == DASH for row in table.rows[::2]] == [False, True, True]
    assert table.note.count("Others are added in one order") == 1
