"""The first minutes of a recording: which rows they are, what is refused, and the curve of every workflow."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_array_equal

from braindecode_suite.cli import build_parser, main
from braindecode_suite.core.config import build
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.minutes import first_minutes, naming, recorded_minutes, restrict, timeline
from braindecode_suite.core.recipe import Recipe, ZScore
from braindecode_suite.core.score import read_scores
from braindecode_suite.core.spaces import UnitSpace
from braindecode_suite.core.split import Split
from braindecode_suite.core.study import Study
from braindecode_suite.datasets.simulated_nsd import SIMULATED_NSD
from braindecode_suite.workflows import WORKFLOWS
from braindecode_suite.workflows.classical import ClassicalConfig
from braindecode_suite.workflows.configuration import load_config
from braindecode_suite.workflows.fitting import prepare
from braindecode_suite.workflows.job import WorkflowConfig
from braindecode_suite.workflows.results import model_dir, result_path
from tests.haxby_files import write_haxby


def study_of(
    n_runs: int = 6, trials: int = 10, seconds: float | None = 120.0, subject: str = "01", **columns: object
) -> Study:
    """A study of two sessions, a trial every 10 s from 5 s on, every image twice."""
    n = n_runs * trials
    run = np.repeat(np.arange(n_runs), trials)
    table = pd.DataFrame({"stimulus_id": (np.arange(n) % (n // 2)).astype(str).astype(object)})
    table["session"], table["run"] = 1 + run // (n_runs // 2), 1 + run % (n_runs // 2)
    table["repeat"] = table.groupby("stimulus_id").cumcount() + 1
    table["onset"] = 5.0 + 10.0 * np.tile(np.arange(trials), n_runs)
    if seconds is not None:
        table["run_seconds"] = seconds
    return Study(
        dataset="any",
        subject=subject,
        responses=np.random.default_rng(0).standard_normal((n, 3)).astype(np.float32),
        trials=table.assign(**columns),
        stimuli=None,
        space=UnitSpace(3),
        unit="none",
    )


def split_of(study: Study, **rows: Any) -> Split:
    """Images 0 to 3 for testing, 4 to 6 for validation, unless rows are given."""
    number = study.stimulus_ids.astype(int)
    parts = {"test": number < 4, "validation": (number >= 4) & (number < 7), "train": number >= 7} | rows
    return Split(
        protocol="by-hand",
        studies=(study,),
        disjoint=frozenset({"stimulus"}),
        train=(np.flatnonzero(parts["train"]),),
        validation=(np.flatnonzero(parts["validation"]),),
        test=(np.flatnonzero(parts["test"]),),
    )


def test_an_amount_is_the_whole_runs_that_fit_and_leaves_the_test_rows_alone() -> None:
    study = study_of()
    split = split_of(study)
    amounts = first_minutes([split], [5, 2, 8.5])
    assert [amount.minutes for amount in amounts] == [2, 4, 8]
    assert recorded_minutes([split]) == 12
    before: set[int] = set()
    for amount, n_runs in zip(amounts, (1, 2, 4), strict=True):
        (some,) = amount.splits
        inside = np.arange(n_runs * 10)
        assert_array_equal(some.train[0], np.intersect1d(split.train[0], inside))
        assert_array_equal(some.validation[0], np.intersect1d(split.validation[0], inside))
        assert_array_equal(some.test[0], split.test[0])
        assert before < set(some.train[0].tolist())
        before = set(some.train[0].tolist())
        assert some.card()["minutes"] == 2 * n_runs
        assert f"the first {n_runs} of 6 runs, {2 * n_runs} of 12 minutes" in some.card()["notes"][-1]
    hashes = [amount.splits[0].hash for amount in amounts]
    assert len({*hashes, split.hash}) == 4
    assert "minutes" not in split.card()


def test_runs_follow_each_other_by_number_whatever_the_order_of_the_rows() -> None:
    study = study_of()
    order = np.random.default_rng(1).permutation(len(study.trials))
    mixed = replace(study, trials=study.trials.iloc[order].reset_index(drop=True))
    some = restrict(split_of(mixed), 4).train[0]
    trials = mixed.trials.iloc[some]
    assert set(zip(trials["session"], trials["run"], strict=True)) == {(1, 1), (1, 2)}
    named = study.trials.assign(session=np.where(study.trials["session"] == 1, "pre", "post"))
    times = timeline(replace(study, trials=named))
    assert_array_equal(times.run, np.repeat(np.arange(6), 10))


def test_a_first_run_longer_than_the_amount_is_cut_after_the_trials_that_are_over() -> None:
    study = study_of()
    split = split_of(study)
    some = restrict(split, 1.0)
    kept = np.flatnonzero(
        (np.arange(60) < 10) & (study.trials["onset"] + 10 <= 60)
    )  # trials follow each other every 10 s
    assert_array_equal(some.train[0], np.intersect1d(split.train[0], kept))
    assert some.minutes == 1
    assert "the first 1 minutes of the first run, which is cut" in some.notes[-1]
    short = replace(study, trials=study.trials.assign(duration=2.0))
    assert_array_equal(
        restrict(split_of(short), 57 / 60).validation[0], [4, 5]
    )  # the sixth trial ends at 57 s
    assert_array_equal(restrict(split_of(short), 56 / 60).validation[0], [4])


def test_lengths_of_runs_come_from_onsets_where_they_are_not_stated() -> None:
    times = timeline(study_of(seconds=None))
    np.testing.assert_allclose(times.seconds, 105)  # the last trial begins at 95 s, they come every 10 s
    assert not times.stated
    assert timeline(study_of()).stated
    partly = study_of()
    partly = replace(
        partly,
        trials=partly.trials.assign(run_seconds=partly.trials["run_seconds"].where(partly.trials["run"] > 1)),
    )
    np.testing.assert_allclose(timeline(partly).seconds, [105, 120, 120, 105, 120, 120])
    durations = timeline(study_of(seconds=None, duration=4.0))
    np.testing.assert_allclose(durations.seconds, 99)


def test_unknown_times_are_refused_saying_what_is_missing() -> None:
    untimed = study_of(seconds=None, onset=np.nan)
    with pytest.raises(
        InputError, match=r"any sub-01: expected when its trials .* run_seconds, or onset .*; found neither"
    ):
        restrict(split_of(untimed), 2)
    study = study_of(seconds=None)
    clock = study.trials["onset"] + 120 * (study.trials["run"] - 1)
    with pytest.raises(InputError, match="found onsets that go on from run to run"):
        timeline(replace(study, trials=study.trials.assign(onset=clock)))
    with pytest.raises(InputError, match=r"one run_seconds above 0 .* found 100, 120 in session 1, run 1"):
        timeline(study_of(run_seconds=[100.0] + [120.0] * 59))
    with pytest.raises(InputError, match=r"onsets within the first run .*; found a run of 2 minutes without"):
        restrict(split_of(study_of(onset=np.nan)), 1)
    assert restrict(split_of(study_of(onset=np.nan)), 2).minutes == 2
    assert first_minutes([split_of(untimed)], ()) == []  # nobody asked


def test_only_runs_with_training_rows_count() -> None:
    study = study_of()
    first = np.arange(60) < 10
    number = study.stimulus_ids.astype(int)
    apart = first | (number < 10)
    split = split_of(study, test=apart, validation=~apart & (number < 13), train=number >= 13)
    assert (
        recorded_minutes([split]) == 8
    )  # the first run is for testing, and all images of the fourth were in it
    some = restrict(split, 4)
    assert set(study.trials["run"].iloc[some.train[0]]) == {2, 3}
    assert "the first 2 of 4 runs, 4 of 8 minutes" in some.notes[-1]


def test_each_subject_gives_the_first_minutes_of_its_own_recording() -> None:
    slow, fast = study_of(), study_of(seconds=240.0, subject="02")
    one, other = split_of(slow), split_of(fast)
    both = Split(
        protocol="by-hand",
        studies=(slow, fast),
        train=(*one.train, *other.train),
        validation=(*one.validation, *other.validation),
        test=(*one.test, *other.test),
        disjoint=frozenset({"stimulus"}),
    )
    some = restrict(both, 8)
    assert [len(rows) for rows in some.train] == [
        len(restrict(one, 8).train[0]),
        len(restrict(other, 8).train[0]),
    ]
    assert some.train[0].max() >= 30 > 20 > some.train[1].max()
    assert len([note for note in some.notes if "restricted to" in note]) == 2


def test_runs_of_almost_the_length_asked_for_fit() -> None:
    split = split_of(study_of(seconds=121.0))
    assert restrict(split, 4).minutes == 4.03
    assert restrict(split_of(study_of(seconds=122.5)), 4).minutes == 2.04


def test_amounts_that_cannot_be_had_are_refused() -> None:
    split = split_of(study_of())
    for amount in (12.0, 11.9, 30.0):
        with pytest.raises(
            InputError,
            match=rf"`minutes` {amount:g}: expected less than the 12 minutes .* found {amount:g} for any",
        ):
            restrict(split, amount)
    with pytest.raises(InputError, match=r"`minutes`: expected minutes above 0; found 0"):
        restrict(split, 0)
    with pytest.raises(InputError, match="differ by whole runs; found 4 and 5, both 4 minutes of 'by-hand'"):
        first_minutes([split], [5, 4])
    with (
        pytest.raises(
            InputError,
            match=r"`minutes` 2, protocol 'by-hand': .* 20 training images; found \d \(give a larger",
        ),
        naming(2),
    ):
        restrict(split, 2).check_training_size()


def test_blocks_without_training_rows_are_z_scored_by_themselves_and_others_as_before() -> None:
    study = study_of(n_runs=12, trials=12)
    split = split_of(study)
    some = prepare(study, restrict(split, 8), "session")
    step: Any = some.study.recipe.steps[0]  # type: ignore[union-attr]
    assert step.scope == "heldout-block"
    values = np.asarray(study.responses, np.float64)
    train, session = some.split.train[0], study.trials["session"].to_numpy()
    np.testing.assert_allclose(step.mean[0], values[train].mean(0), rtol=1e-5)
    np.testing.assert_allclose(step.mean[1], values[session == 2].mean(0), rtol=1e-4)
    assert prepare(study, split, "session").study.recipe.steps[0].scope == "train"  # type: ignore[union-attr]
    assert prepare(study, restrict(split, 18), "session").study.recipe.steps[0].scope == "train"  # type: ignore[union-attr]


def test_a_block_of_one_training_row_has_no_statistics_of_its_own() -> None:
    study = study_of()
    rows = np.r_[np.arange(30), 30]
    fitted = ZScore(scope="heldout-block").fit(study.responses, study.trials, rows)
    np.testing.assert_allclose(fitted.mean[1], np.asarray(study.responses)[30:].mean(0), rtol=1e-4)  # type: ignore[index]
    with pytest.raises(
        InputError, match="session 2: expected at least 2 training rows to z-score by; found 1"
    ):
        Recipe((ZScore(),)).fit(study.responses, study.trials, rows)


# ------------------------------------------------------------------------------------------------------ what asks


def test_amounts_are_an_option_and_a_value_of_every_config(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", "nsd", "out", "participant", "--minutes", "40", "7.5"]
    assert build_parser().parse_args(words).minutes == [40, 7.5]
    for given, amounts in (("[40.0, 7.5]", (7.5, 40)), ("10", (10,))):
        config = load_config(WORKFLOWS["mindeye"], "tiny", None, [f"minutes={given}"])
        assert config.model_dump()["minutes"] == amounts
    assert ClassicalConfig(minutes=[3, 1]).minutes == (1, 3)  # type: ignore[arg-type]
    for bad in ("0", "-5", "ten", "inf"):
        with pytest.raises(SystemExit, match="2"):
            build_parser().parse_args([*words[:-2], bad])
        assert f"argument --minutes: expected minutes above 0; found '{bad}'" in capsys.readouterr().err
    with pytest.raises(
        InputError, match=r"--set: expected minutes\.0: Input should be greater than 0; found -1"
    ):
        load_config(WORKFLOWS["mindeye"], "tiny", None, ["minutes=[-1]"])
    with pytest.raises(InputError, match="minutes"):  # a workflow that does not score them says so
        build(WorkflowConfig, {"minutes": [10]}, "--set")
    with pytest.raises(InputError, match="each amount once"):
        load_config(WORKFLOWS["mindeye"], "tiny", None, ["minutes=[5, 5]"])


def test_a_dry_run_prints_the_amounts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "run",
        "simulated-nsd",
        str(tmp_path / "out"),
        "participant",
        "--dry-run",
        "--minutes",
        "20",
        "10",
    ]
    assert main(words) == 0
    shown = capsys.readouterr().out
    first = shown.index("first 10 minutes: ridge and mindeye seed 0, retrieval only")
    assert first < shown.index("first 20 minutes: ridge and mindeye seed 0, retrieval only")
    assert main([*words, "--workflow", "classical-decoding"]) == 0
    assert "first 20 minutes: lda and ridge" in capsys.readouterr().out


LEAN = (
    "generator=''",
    "n_relabellings=0",
    "second_protocols=[]",
    "shuffled_train=false",
    "keep_reliable=0.05",
)


def words_for(out: Path, data: Path, fast_run: list[str], *settings: str) -> list[str]:
    words = ["run", "simulated-nsd", str(out), "participant", "--participant-label", "01"]
    return [
        *words,
        "--data-dir",
        str(data),
        *fast_run,
        *(word for setting in (*LEAN, *settings) for word in ("--set", setting)),
    ]


@pytest.fixture(scope="module")
def curve_run(tmp_path_factory: pytest.TempPathFactory, simulated_folder: Path, fast_run: list[str]) -> Path:
    """A run with two amounts and a filter of reliable units."""
    out = tmp_path_factory.mktemp("minutes") / "out"
    assert main([*words_for(out, simulated_folder, fast_run), "--minutes", "60", "43"]) == 0
    return out


def facts_of(out: Path) -> dict:
    return json.loads(result_path(out, "01", "mindeye", "facts.json").read_text())


def test_the_headline_is_scored_at_every_amount_with_its_companions(curve_run: Path) -> None:
    table = read_scores(result_path(curve_run, "01", "mindeye", "scores.tsv"))
    assert list(table.columns)[-1] == "minutes"
    top1 = table[
        (table["metric"] == "retrieval_brain_to_image_top1")
        & (table["scorer"] == "cosine-centred")
        & (table["gallery"] == 20)
        & (table["candidates"] == "all")
    ]
    for minutes in (40, 60):
        here = top1[top1["minutes"] == minutes]
        brain = here[(here["control"] == "brain") & (here["versus"] == "")]
        assert list(brain["model"]) == ["mindeye", "ridge"]
        assert brain[["ci_low", "ci_high", "p_value", "chance", "n", "ceiling"]].notna().all(axis=None)
        assert set(brain["ci_over"]) == {"image"}
        assert set(brain["n"]) == {40}
        assert list(brain["seed"]) == ["0", ""]
        assert len(here[here["versus"] == "ridge"]) == 1
    whole = top1[top1["minutes"].isna() & (top1["control"] == "brain") & (top1["versus"] == "")]
    assert {"0", "1", "0,1", ""} == set(whole["seed"])


def test_the_cards_keep_the_hash_of_every_restricted_split(curve_run: Path) -> None:
    cards = facts_of(curve_run)["splits"]
    assert [card.get("minutes") for card in cards] == [None, 40, 60]
    assert [card["label"] for card in cards] == ["", "minutes-40", "minutes-60"]
    assert len({card["hash"] for card in cards}) == 3
    assert len({card["trials"]["test"] for card in cards}) == 1
    minutes = facts_of(curve_run)["minutes"]
    assert minutes["all"]["minutes"] == 120
    assert [line["asked"] for line in minutes["amounts"]] == [43, 60]
    assert any("transductive" in note for note in minutes["notes"])


def test_the_report_draws_the_curve_and_keeps_it_out_of_the_rest(curve_run: Path) -> None:
    page = (curve_run / "sub-01.html").read_text()
    assert 'id="table-minutes"' in page
    section = page[page.index('<section id="minutes"') : page.index('<section id="scores"')]
    assert "against minutes of training recording: MindEye" in section
    assert "all (120)" in section
    assert (
        "step &#39;reconstruct&#39; skipped" in page
    )  # not the refits on relabelled images, which are skipped too
    retrieval = page[page.index('<section id="retrieval"') : page.index('<section id="reconstructions"')]
    table = read_scores(result_path(curve_run, "01", "mindeye", "scores.tsv"))
    some = table[table["minutes"].notna() & (table["metric"] == "retrieval_image_to_brain_top1")]
    bounds = [f"{row.value:.3f} [{row.ci_low:.3f}, {row.ci_high:.3f}]" for row in some.itertuples()]
    whole = [f"{row.value:.3f} [" for row in table[table["minutes"].isna()].itertuples()]
    assert not [text for text in bounds if text in retrieval and f"{text.partition('[')[0]}[" not in whole]


def test_all_data_are_scored_as_without_amounts(
    curve_run: Path, simulated_folder: Path, fast_run: list[str], tmp_path: Path
) -> None:
    assert main(words_for(tmp_path / "out", simulated_folder, fast_run)) == 0
    plain = read_scores(result_path(tmp_path / "out", "01", "mindeye", "scores.tsv"))
    table = read_scores(result_path(curve_run, "01", "mindeye", "scores.tsv"))
    whole = table[table["minutes"].isna()].reset_index(drop=True)
    pd.testing.assert_frame_equal(whole, plain, rtol=1e-5, atol=1e-6)
    assert "minutes" not in facts_of(tmp_path / "out")
    assert 'id="table-minutes"' not in (tmp_path / "out" / "sub-01.html").read_text()


def test_the_group_page_keeps_amounts_apart(
    curve_run: Path, simulated_folder: Path, fast_run: list[str], tmp_path: Path
) -> None:
    import shutil

    out = tmp_path / "out"
    shutil.copytree(curve_run, out, ignore=shutil.ignore_patterns("work"))
    words = words_for(out, simulated_folder, fast_run)
    words[words.index("01")] = "03"  # the awkward subject: fewer sessions, fewer voxels
    assert main([*words, "--minutes", "40", "60"]) == 0
    assert main(["run", "simulated-nsd", str(out), "group"]) == 0
    table = read_scores(out / "desc-mindeye_scores.tsv")
    group = table[(table["subject"] == "group") & (table["metric"] == "retrieval_brain_to_image_top1")]
    assert set(group["minutes"].dropna()) == {40, 60}
    page = (out / "group.html").read_text()
    assert "against minutes of training recording: sub-01" in page


def test_an_amount_too_small_ends_the_run_before_anything_is_fitted(
    simulated_folder: Path, fast_run: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main([*words_for(out, simulated_folder, fast_run), "--minutes", "5"]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "`minutes` 5, protocol 'nsd-shared1000': expected at least 20 training images; found" in line
    assert main([*words_for(out, simulated_folder, fast_run), "--minutes", "20"]) == 2
    assert "expected at least 2 validation images; found 1" in capsys.readouterr().err
    assert main([*words_for(out, simulated_folder, fast_run), "--minutes", "500"]) == 2
    assert "`minutes` 500: expected less than the 120 minutes" in capsys.readouterr().err
    assert not list((out / "work").rglob("model"))


# ------------------------------------------------------------------------------------------- reliable units, end to end


def test_a_model_of_reliable_units_is_verified_and_says_what_it_kept(
    curve_run: Path, simulated_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = model_dir(curve_run, "01", "mindeye")
    assert main(["verify", str(folder), "--data-dir", str(simulated_folder)]) == 0
    config = json.loads((folder / "config.json").read_text())
    n = len(config["figures"])
    assert f"{n} of {n} figures verified" in capsys.readouterr().out
    assert config["run"]["keep_reliable"] == 0.05
    assert {(f["model"], f["seed"]) for f in config["figures"]} == {
        ("mindeye", "0"),
        ("mindeye", "1"),
        ("ridge", ""),
    }
    step = facts_of(curve_run)["recipe"][1]
    assert step["name"] == "keep-reliable"
    assert 0 < step["kept"] < step["of"] == 300
    page = (curve_run / "sub-01.html").read_text()
    assert f"{step['kept']} of 300: those whose single trials are signal to at least 5.0\u00a0% of" in page
    assert f"units, of which {step['kept']} are kept" in (folder / "README.md").read_text()


def test_another_threshold_is_another_recipe_and_is_refused(
    curve_run: Path, simulated_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(model_dir(curve_run, "01", "mindeye"), folder)
    config = json.loads((folder / "config.json").read_text())
    config["run"]["keep_reliable"] = 0.1
    (folder / "config.json").write_text(json.dumps(config))
    assert main(["verify", str(folder), "--data-dir", str(simulated_folder)]) == 2
    assert "expected sub-01 with recipe" in capsys.readouterr().err


def test_maps_are_of_all_units_whatever_was_kept(
    curve_run: Path, simulated_folder: Path, tmp_path: Path
) -> None:
    base = result_path(curve_run, "01", "mindeye", "")
    volumes = {
        name: np.asarray(nib.nifti1.load(f"{base}{name}.nii.gz").dataobj)
        for name in ("mask", "stat-ncsnr_statmap", "stat-singletrialceiling_statmap")
    }
    inside = volumes["mask"] > 0
    assert inside.sum() == 300
    study = SIMULATED_NSD.open(simulated_folder, "01", tmp_path)
    np.testing.assert_allclose(volumes["stat-ncsnr_statmap"][study.space.mask], study.noise.ncsnr)  # type: ignore
    kept = facts_of(curve_run)["recipe"][1]["kept"]
    assert (volumes["stat-singletrialceiling_statmap"][inside] >= 0.05).sum() == kept


# -------------------------------------------------------------------------------------------------- other workflows


def test_accuracy_at_the_first_minutes_has_its_own_refits(tmp_path: Path) -> None:
    write_haxby(tmp_path / "data", signal=1.5)
    words = ["run", "haxby", str(tmp_path / "out"), "participant", "--data-dir", str(tmp_path / "data")]
    quick = ["--set", "beside=[ridge]", "--set", "searchlight_radius=0", "--set", "rois=false"]
    # 26 volumes of 2.5 s a run: 65 s
    assert main([*words, *quick, "--minutes", "2.17", "4.4"]) == 0
    table = read_scores(result_path(tmp_path / "out", "01", "classicaldecoding", "scores.tsv"))
    for minutes in (2.17, 4.33):
        rows = table[(table["minutes"] == minutes) & (table["metric"] == "accuracy")]
        ahead, rows = rows[rows["versus"] != ""], rows[rows["versus"] == ""]
        assert list(rows["model"]) == ["lda", "ridge"]
        assert list(ahead["versus"]) == ["ridge"]
        assert abs(ahead["value"].iloc[0] + rows["value"].diff().iloc[1]) < 1e-5
        assert (rows["p_value"] < 0.05).all()
        assert (abs(rows["chance"] - 0.25) < 0.03).all()
        assert set(rows["ci_over"]) == {"run"}
        assert set(rows["n"]) == {24}
    facts = json.loads(result_path(tmp_path / "out", "01", "classicaldecoding", "facts.json").read_text())
    assert len(facts["splits"]) == 6 * 3
    assert facts["splits"][6]["label"] == "fold-1_minutes-2.167"
    assert "accuracy against minutes" in (tmp_path / "out" / "sub-01.html").read_text().lower()


def test_one_run_is_too_little_to_choose_by(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_haxby(tmp_path / "data", signal=1.5)
    words = ["run", "haxby", str(tmp_path / "out"), "participant", "--data-dir", str(tmp_path / "data")]
    assert main([*words, "--minutes", "1.1"]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert (
        "`minutes` 1.1, protocol 'leave-one-run-out', fold-1_minutes-1.083: expected at least 2 runs" in line
    )


def test_a_filter_by_repeats_of_the_label_itself_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_haxby(tmp_path / "data")
    words = ["run", "haxby", str(tmp_path / "out"), "participant", "--data-dir", str(tmp_path / "data")]
    assert main([*words, "--set", "keep_reliable=0.1"]) == 2
    assert (
        "expected stimuli that can be told apart within a class; found one stimulus a class"
        in capsys.readouterr().err
    )


def test_categories_are_decoded_from_the_reliable_units_of_each_fold(
    simulated_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = (
        "simulation={size: seconds, formats: [hdf5, nii.gz]}",
        "protocol=leave-one-session-out",
        "zscore=session",
        "label=place",
        "keep_reliable=0.1",
        "classifier=ridge",
        "beside=[]",
        "rois=false",
        "n_bootstrap=200",
    )
    words = ["run", "simulated-nsd", str(tmp_path / "out"), "participant", "--participant-label", "01"]
    words += ["--data-dir", str(simulated_folder), "--workflow", "classical-decoding", "--device", "cpu"]
    assert main([*words, *(word for setting in settings for word in ("--set", setting))]) == 0
    facts = json.loads(result_path(tmp_path / "out", "01", "classicaldecoding", "facts.json").read_text())
    step = facts["recipe"][-1]
    assert step["name"] == "keep-reliable"
    assert len(step["kept"]) == 2
    assert 0 < step["kept"][0] < step["kept"][1] < 300
    maps = sorted(
        result_path(tmp_path / "out", "01", "classicaldecoding", "").parent.glob("*_statmap.nii.gz")
    )
    values = {one.name.split("_stat-")[1].split("_")[0]: nib.nifti1.load(one).get_fdata() for one in maps}
    assert {"ncsnr", "pattern", "reliability", "singletrialceiling"} <= set(values)
    ever = values["pattern"].any(axis=-1).sum()
    assert step["kept"][1] <= ever < 300  # units that some fold keeps
    page = (tmp_path / "out" / "sub-01.html").read_text()
    assert f"{step['kept'][0]} to {step['kept'][1]} of 300: those whose single trials" in page
    assert main([*words, *(w for s in (*settings, "keep_reliable=0.99") for w in ("--set", s))]) == 2
    assert "expected a unit whose single trials are signal to at least 0.99" in capsys.readouterr().err
