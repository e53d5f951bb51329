"""The group level: every subject listed, a mean, k of n, and an interval only where there are enough subjects."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from braindecode_suite.cli import main
from braindecode_suite.core.score import Score, read_scores, scores_table, write_scores
from braindecode_suite.workflows.group import summarise
from braindecode_suite.workflows.results import result_path

BASE = Score(
    subject="01",
    metric="retrieval_brain_to_image_top1",
    value=0.5,
    chance=0.005,
    p_value=0.001,
    n=100,
    gallery=200,
    candidates="all",
    level="mean-prediction",
    scorer="cosine-centred",
    model="mindeye",
    split="nsd-shared1000",
)


def tables(values: list[float], **changed: object):
    return {
        f"{k:02d}": scores_table([replace(BASE, subject=f"{k:02d}", value=value, **changed)])  # type: ignore[arg-type]
        for k, value in enumerate(values, 1)
    }


def test_all_subjects_stay_listed_and_the_group_row_is_their_mean() -> None:
    table, prevalences = summarise(tables([0.2, 0.4, 0.6]))
    assert table["subject"].tolist() == ["01", "02", "03", "group"]
    group = table.iloc[-1]
    assert group["value"] == pytest.approx(0.4)
    assert np.isnan(group["ci_low"])  # three subjects carry no interval
    assert (group["n_subjects"], group["n"], group["chance"]) == (3, 300, 0.005)
    assert prevalences[0]["statement"].startswith("3 of 3 significant at 0.05; prevalence 1.00")


def test_from_four_subjects_the_interval_is_students() -> None:
    values = [0.2, 0.4, 0.6, 0.7]
    group = summarise(tables(values))[0].iloc[-1]
    low, high = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert group["ci_low"] == pytest.approx(low)
    assert group["ci_high"] == pytest.approx(high)
    assert group["ci_over"] == "subject"


def test_scores_that_differ_in_anything_but_the_subject_are_not_averaged() -> None:
    mixed = tables([0.2, 0.4])
    mixed["02"]["gallery"] = 150
    table, _ = summarise(mixed)
    assert "group" not in set(table["subject"])


def test_scores_without_p_values_make_no_statement_of_prevalence() -> None:
    table, prevalences = summarise(tables([0.2, 0.4], p_value=None, versus="ridge"))
    assert table.iloc[-1]["subject"] == "group"
    assert prevalences == []


def test_the_group_command_reports_all_subjects(finished_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished_run, out, ignore=shutil.ignore_patterns("work"))
    scores = read_scores(result_path(out, "01", "mindeye", "scores.tsv"))
    (out / "sub-02" / "decoding").mkdir(parents=True)
    facts = result_path(out, "01", "mindeye", "facts.json").read_text()
    result_path(out, "02", "mindeye", "facts.json").write_text(
        facts.replace('"subject": "01"', '"subject": "02"')
    )
    fields = [name for name in scores.columns if name != "subject"]
    second = [
        Score(subject="02", **{name: row[name] for name in fields if row[name] == row[name]})
        for row in scores.to_dict("records")
    ]
    write_scores(result_path(out, "02", "mindeye", "scores.tsv"), second)
    assert main(["run", "simulated-nsd", str(out), "group"]) == 0
    table = read_scores(out / "desc-mindeye_scores.tsv")
    assert set(table["subject"]) == {"01", "02", "group"}
    page = (out / "group.html").read_text()
    assert "01" in page
    assert "02" in page


def test_a_group_of_nobody_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "simulated-nsd", str(tmp_path), "group"]) == 2
    assert "run the participant level first" in capsys.readouterr().err


def test_options_of_the_participant_level_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["run", "simulated-nsd", str(tmp_path), "group", "--dry-run", "--set", "n_seeds=1"]
    assert main(words) == 2
    assert "found --set, --dry-run" in capsys.readouterr().err
