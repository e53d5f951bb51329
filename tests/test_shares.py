"""Shares of the training images: whole, nested, for all people alike; and the learning curve's facts against a line through points."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from braindecode_suite.core.config import build
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.shares import Portion, naming_share, portions
from braindecode_suite.core.spaces import UnitSpace
from braindecode_suite.core.split import Split
from braindecode_suite.core.study import Study
from braindecode_suite.report.learning_curve import curve_panel
from braindecode_suite.report.results import Results
from braindecode_suite.workflows.learning_curve import NOTES, TRIALS, curve_facts, hits, named, portion_facts
from braindecode_suite.workflows.meg_config import MegWorkflowConfig


def study_of(subject: str, n_images: int = 60, repeats: int = 2) -> Study:
    n = n_images * repeats
    table = pd.DataFrame({"stimulus_id": [f"{k % n_images:03d}" for k in range(n)]})
    table["session"], table["run"], table["onset"] = 1, 1, np.arange(n, dtype=float)
    table["repeat"] = table.groupby("stimulus_id").cumcount() + 1
    return Study(
        dataset="any",
        subject=subject,
        responses=np.zeros((n, 3), np.float32),
        trials=table,
        stimuli=None,
        space=UnitSpace(3),
        unit="none",
    )


@pytest.fixture
def split() -> Split:
    studies = (study_of("01"), study_of("02", repeats=3))
    parts: dict[str, list[np.ndarray]] = {"train": [], "validation": [], "test": []}
    for study in studies:
        number = study.stimulus_ids.astype(int)
        parts["test"].append(np.flatnonzero(number < 10))
        parts["validation"].append(np.flatnonzero((number >= 10) & (number < 20)))
        parts["train"].append(np.flatnonzero(number >= 20))
    rows: dict[str, Any] = {part: tuple(found) for part, found in parts.items()}
    return Split(protocol="any", studies=studies, disjoint=frozenset({"stimulus"}), **rows)


def test_shares_are_whole_images_for_all_people_and_part_of_each_other(split: Split) -> None:
    found = portions(split, [0.5, 0.25, 1.0], seed=0)
    assert [(p.share, p.images, p.trials) for p in found] == [(0.25, 10, 50), (0.5, 20, 100), (1.0, 40, 200)]
    images = [p.split.keys("train", "stimulus") for p in found]
    assert images[0] < images[1] < images[2]
    for study, rows in zip(split.studies, found[0].split.train, strict=True):
        own = study.stimulus_ids
        assert_array_equal(rows, [k for k in range(len(own)) if own[k] in images[0]])
    for part in ("validation", "test"):
        for whole, some in zip(getattr(split, part), getattr(found[0].split, part), strict=True):
            assert_array_equal(whole, some)


def test_a_share_is_drawn_by_its_seed_and_told_apart(split: Split) -> None:
    first, again, other = (portions(split, [0.25], seed=seed)[0].split for seed in (0, 0, 1))
    assert first.hash == again.hash != other.hash
    assert first.hash != split.hash
    assert first.card()["notes"] == ["training rows are those of 10 of 40 training images, drawn at random"]
    assert portions(split, [1.0], seed=0)[0].split is split


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ([0.0], "expected shares above 0, up to 1; found 0"),
        ([1.5], "expected shares above 0, up to 1; found 1.5"),
        ([0.5, 0.501], "found 0.5 and 0.501, both 20 of 40"),
    ],
)
def test_shares_that_mean_nothing_are_refused(split: Split, shares: list[float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        portions(split, shares, seed=0)


def test_an_error_says_which_share_it_is_about(split: Split) -> None:
    few = portions(split, [0.1], seed=0)[0].split
    with (
        pytest.raises(
            InputError, match=r"share 0.1 of the training images.*at least 20 training images; found 4"
        ),
        naming_share(0.1),
    ):
        few.check_training_size()


@pytest.mark.parametrize("shares", [[0.5], [0.5, 0.5], [0.5, 1.0], [0.0, 0.5]])
def test_a_line_needs_two_shares_beside_all_images(shares: list[float]) -> None:
    with pytest.raises(InputError, match="learning_curve"):
        build(MegWorkflowConfig, {"learning_curve": shares}, "config")


def facts_of(split: Split, per_decade: float = 0.3) -> tuple[list[Portion], dict[str, Any]]:
    found = portions(split, [0.25, 0.5, 0.75, 1.0], seed=0)
    rise = np.array([per_decade * np.log10(p.trials / 50) for p in found])
    values = {"deep": 0.2 + rise[:, None] + np.zeros(10), "ridge": np.full((4, 10), 0.1)}
    points = [portion_facts(p) for p in found]
    return found, curve_facts(TRIALS, points, values, None, over="image", seed=0, notes=NOTES)


def test_the_line_goes_through_points_on_it_and_ends_at_twice_the_data(split: Split) -> None:
    found, facts = facts_of(split)
    deep, ridge = facts["models"]
    assert_allclose(deep["slope"]["value"], 0.3)
    assert_allclose([ridge["slope"]["value"], deep["bend"]["value"], deep["residual"]], 0, atol=1e-9)
    assert_allclose(deep["doubled"]["value"], 0.2 + 0.3 * np.log10(8))
    assert deep["adds"] == deep["slope"]  # ten times the trials, one unit of the logarithm
    trials = [point["amount"] for point in deep["line"]]
    assert (trials[0], trials[-1]) == (25, 400)
    assert facts["chance"] == 0.1
    assert [line["split"] for line in facts["amounts"]] == [named(p) for p in found]
    assert named(found[0]) == "any (50 training trials)"


def test_hits_are_those_of_the_model_brain_to_image_in_order() -> None:
    rows = [
        {"stimulus_id": i, "model": m, "scorer": s, "direction": d, "rank": r}
        for i, m, s, d, r in [
            ("b", "deep", "cosine-centred", "brain_to_image", 0),
            ("a", "deep", "cosine-centred", "brain_to_image", 2),
            ("a", "deep", "cosine-centred", "image_to_brain", 0),
            ("a", "deep", "cosine", "brain_to_image", 0),
            ("a", "ridge", "cosine-centred", "brain_to_image", 0),
        ]
    ]
    assert hits(rows, "deep", np.array(["a", "b"])).tolist() == [0, 1]


def test_the_section_shows_points_lines_and_notes(split: Split, tmp_path: Any) -> None:
    known = {"learning_curve": facts_of(split)[1]}
    results = Results(
        output_dir=tmp_path, folder=tmp_path, subject="01", workflow="meg", scores=pd.DataFrame(), facts=known
    )
    panel = curve_panel(results)
    assert panel is not None
    figure, table = panel.parts[0].figure, panel.parts[1].table
    assert figure is not None
    assert table is not None
    assert "0.200 at 50" in figure.alt
    assert table.rows[0][1].startswith("0.300 [0.300")
    assert "2 times the data" in table.note
    empty = Results(
        output_dir=tmp_path, folder=tmp_path, subject="01", workflow="meg", scores=pd.DataFrame(), facts={}
    )
    assert curve_panel(empty) is None
