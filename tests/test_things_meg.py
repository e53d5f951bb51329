"""THINGS-MEG: onsets by three sources, raw runs in the release's tree, the released epochs, splits, and what is refused."""

from __future__ import annotations

import pickle
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from braindecode_suite.core.errors import InputError
from braindecode_suite.datasets import PROTOCOLS
from braindecode_suite.datasets.meg_runs import EpochRows
from braindecode_suite.datasets.things_meg import THINGS_MEG
from braindecode_suite.datasets.things_meg_onsets import (
    align,
    choose_onsets,
    find_triggers,
    read_event_onsets,
)
from braindecode_suite.datasets.things_meg_raw import DROPOUTS
from braindecode_suite.datasets.things_meg_table import concept_of, tidy_attributes
from braindecode_suite.workflows.inputs import find_dataset
from tests.meg_files import SENSORS, SFREQ
from tests.things_meg_files import (
    CONCEPTS,
    EVENTS_LATE,
    SAMPLE_LATE,
    TESTED,
    make_table,
    write_things_epochs,
    write_things_meg,
)

AS_RECORDED = {"highpass": None, "sfreq": None, "tmin": -0.1, "tmax": 0.2}


def open_study(folder: Path, work: Path, **options):
    return THINGS_MEG.open(folder, "P1", work, **(AS_RECORDED | options))


def test_a_trigger_is_where_the_line_becomes_64_and_no_other_code():
    line = np.zeros(40)
    line[5:9] = line[20:21] = 64
    line[12:15] = 32
    line[30:33], line[33:36] = 32, 64
    assert find_triggers(line).tolist() == [5, 20, 33]
    assert find_triggers(np.full(3, 64.0)).tolist() == [0]


def test_the_other_sources_are_held_against_the_one_used():
    trigger = np.array([1.0, 2.0, np.nan, 4.0])
    sources = {
        "trigger": trigger,
        "sample": trigger + np.array([0.008, 0.010, 0, -0.012]),
        "onset": trigger - 0.15,
    }
    used, onsets, offsets = choose_onsets(Path("run"), sources, "trigger")
    assert used == "trigger"
    assert_array_equal(onsets, trigger)
    assert offsets["sample"] == {"median_ms": 8.0, "max_ms": -12.0}
    assert offsets["onset"] == {"median_ms": -150.0, "max_ms": -150.0}
    assert choose_onsets(Path("run"), sources, "onset")[2]["trigger"]["median_ms"] == 150
    assert choose_onsets(Path("run"), sources | {"trigger": None}, "trigger")[0] == "sample"
    with pytest.raises(InputError, match=r"run: expected an onset for every trial.*found none that count up"):
        choose_onsets(Path("run"), dict.fromkeys(sources), "trigger")


def test_times_go_to_all_trials_or_to_the_pictures_and_never_to_a_part():
    pictures = np.array([True, False, True])
    assert_array_equal(align(np.arange(3.0), pictures), [0, 1, 2])
    assert_array_equal(align(np.array([5.0, 6.0]), pictures), [5, np.nan, 6])
    assert align(np.arange(4.0), pictures) is None


def test_windows_begin_at_the_trigger_and_the_distance_of_the_others_is_told(tmp_path):
    data = write_things_meg(tmp_path)
    study = open_study(tmp_path, tmp_path / "work")
    table = make_table()
    shown = table[(table["session_nr"] == 1) & (table["trial_type"] != "catch")].reset_index(drop=True)
    for row in (0, 7, len(shown) - 1):
        at = round(shown["image_on"][row] * SFREQ)
        assert_array_equal(study.read([row])[0], data[:, at - 24 : at + 49].astype(np.float32))
        assert study.trials["stimulus_id"][row] == Path(shown["image_path"][row]).stem
    facts = study.provenance["onsets"]["ses-01_task-main_run-01"]
    assert facts["used"] == "trigger"
    assert facts["offsets"]["sample"]["median_ms"] == pytest.approx(1000 * SAMPLE_LATE / SFREQ, abs=0.001)
    assert facts["offsets"]["onset"]["max_ms"] == pytest.approx(1000 * EVENTS_LATE, abs=0.001)
    told = "onsets by onset lie +150.0 ms (median of 3 runs, at most +150.0) from those used"
    assert told in study.provenance["warnings"]
    assert not any("by sample" in text for text in study.provenance["warnings"])


def test_the_samples_of_the_events_are_used_where_asked_for_or_without_a_trigger(tmp_path):
    data = write_things_meg(tmp_path / "a")
    first = make_table().query("trial_type != 'catch'").iloc[0]
    at = round(first["image_on"] * SFREQ) + SAMPLE_LATE
    late = open_study(tmp_path / "a", tmp_path / "work", onsets="sample")
    assert_array_equal(late.read([0])[0], data[:, at - 24 : at + 49].astype(np.float32))
    write_things_meg(tmp_path / "b", trigger=False)
    study = open_study(tmp_path / "b", tmp_path / "work-b")
    assert {run["used"] for run in study.provenance["onsets"].values()} == {"sample"}
    assert "3 of 3 runs have no onsets by trigger that count up and go by sample" in " ".join(
        study.provenance["warnings"]
    )
    write_things_meg(tmp_path / "c", trigger=False, sample=False)
    study = open_study(tmp_path / "c", tmp_path / "work-c")
    assert {run["used"] for run in study.provenance["onsets"].values()} == {"onset"}


def test_the_trigger_channel_is_read_once(tmp_path, monkeypatch):
    write_things_meg(tmp_path)
    first = open_study(tmp_path, tmp_path / "work")

    def refuse(line):
        raise AssertionError("the channel was read again")

    monkeypatch.setattr("braindecode_suite.datasets.things_meg_onsets.find_triggers", refuse)
    again = open_study(tmp_path, tmp_path / "work")
    pd.testing.assert_frame_equal(again.trials, first.trials)


def test_catch_trials_are_left_out_and_both_test_sets_are_of_new_concepts(tmp_path):
    write_things_meg(tmp_path)
    study = open_study(tmp_path, tmp_path / "work")
    assert len(study.trials) == 3 * (CONCEPTS + TESTED)
    assert study.trials.groupby("stimulus_id")["repeat"].max().value_counts().to_dict() == {
        1: 3 * CONCEPTS,
        3: TESTED,
    }
    assert study.trials["session"].unique().tolist() == ["01", "02", "03"]
    assert (study.trials["duration"] == 0.5).all()
    small, large = PROTOCOLS["things-meg-zero-shot"]([study])
    assert len(small.keys("test", "stimulus")) == TESTED
    assert len(large.keys("test", "stimulus")) == 3 * TESTED
    for split in (small, large):
        assert split.shared("concept")["train/test"] == split.shared("stimulus")["train/test"] == 0


def test_a_count_of_triggers_that_fits_no_trials_is_not_used(tmp_path):
    write_things_meg(tmp_path)
    path = tmp_path / "sourcedata/sample_attributes_P1.csv"
    table = pd.read_csv(path)
    table.drop(index=table.index[table["session_nr"] == 2][:2]).to_csv(path, index=False)
    with pytest.raises(InputError, match=r"ses-02.*expected an onset for every trial of the run"):
        open_study(tmp_path, tmp_path / "work")


@pytest.mark.parametrize("wrong", [20, 21])
def test_up_to_twenty_other_numbers_of_images_in_a_run_are_a_warning(tmp_path, wrong):
    numbers = np.arange(30.0)
    events = pd.DataFrame({"onset": np.arange(30.0), "value": np.where(np.arange(30) < wrong, 999, numbers)})
    path = tmp_path / "x_events.tsv"
    events.to_csv(path, sep="\t", index=False)
    if wrong <= 20:
        assert read_event_onsets(path, np.ones(30, bool), numbers, SFREQ)[1] == [
            "x_events.tsv: 20 images have another number in the table of trials"
        ]
        return
    with pytest.raises(InputError, match=r"expected values that are things_image_nr.*found 21 of 30"):
        read_event_onsets(path, np.ones(30, bool), numbers, SFREQ)


@pytest.mark.parametrize("write", [write_things_meg, write_things_epochs])
def test_a_folder_of_the_release_is_recognised_without_a_name(tmp_path, write):
    write(tmp_path)
    dataset, folder = find_dataset(str(tmp_path), None)
    assert dataset is THINGS_MEG
    assert folder == tmp_path


def test_the_broken_channel_is_dropped_by_default_only(tmp_path):
    write_things_meg(tmp_path)
    assert open_study(tmp_path, tmp_path / "work").space.names == SENSORS
    assert THINGS_MEG.options_class().drop == ("MRO11-1609",)
    assert {"MRO11", "MRO11-1609"} <= set(THINGS_MEG.options_class().recording().drop)
    assert open_study(tmp_path, tmp_path / "work", drop=[SENSORS[2]]).space.names == (
        *SENSORS[:2],
        *SENSORS[3:],
    )


def test_a_known_dropout_is_replaced_by_each_channels_median(tmp_path, monkeypatch):
    data = write_things_meg(tmp_path)
    monkeypatch.setitem(DROPOUTS, ("P1", "01", 1), 3.0)
    study = open_study(tmp_path, tmp_path / "work")
    assert isinstance(study.responses, EpochRows)
    run = study.responses.runs[0].open()
    assert_allclose(run[round(2.9 * SFREQ)], np.median(data, axis=1), rtol=1e-6)
    outside = np.r_[0 : round(2.8 * SFREQ), round(3.2 * SFREQ) : data.shape[1]]
    assert_array_equal(run[outside], data.T[outside].astype(np.float32))
    assert any("dropout from 2.8 to 3.2 s is replaced" in text for text in study.provenance["warnings"])
    as_it_was = open_study(tmp_path, tmp_path / "work", mend=False).responses.runs[0].open()
    assert_array_equal(as_it_was, data.T.astype(np.float32))


@pytest.mark.parametrize(("split_size", "n_times"), [("2GB", 57), ("2MB", 900)])
def test_every_released_epoch_is_its_trial_whole_or_in_parts(tmp_path, split_size, n_times):
    data = write_things_epochs(tmp_path, split_size=split_size, n_times=n_times)
    files = list((tmp_path / "derivatives/preprocessed").iterdir())
    assert (len(files) > 1) == (split_size == "2MB")
    study = THINGS_MEG.open(tmp_path, "P1", tmp_path / "work")
    table = make_table()
    kept = np.flatnonzero(table["trial_type"] != "catch")
    assert_allclose(study.read(slice(None)), data[kept], rtol=1e-6)
    order = np.array([9, 2, 9])
    assert_allclose(pickle.loads(pickle.dumps(study.responses))[order], data[kept][order], rtol=1e-6)
    assert study.trials["stimulus_id"][9] == Path(table["image_path"][kept[9]]).stem
    assert study.space.times[0] == pytest.approx(-0.1)
    assert study.unit == "z-score"
    assert len(PROTOCOLS["things-meg-zero-shot"]([study])) == 2


def test_epochs_without_metadata_take_the_table_and_must_be_as_many(tmp_path):
    write_things_epochs(tmp_path, metadata=False)
    with pytest.raises(InputError, match=r"sample_attributes_P1\.csv"):
        THINGS_MEG.open(tmp_path, "P1", tmp_path / "work")
    (tmp_path / "sourcedata").mkdir()
    path = tmp_path / "sourcedata/sample_attributes_P1.csv"
    make_table().to_csv(path, index=False)
    assert len(THINGS_MEG.open(tmp_path, "P1", tmp_path / "work").trials) == 3 * (CONCEPTS + TESTED)
    make_table().iloc[:-1].to_csv(path, index=False)
    with pytest.raises(InputError, match=r"expected 101 epochs, one a trial of the table; found 102"):
        THINGS_MEG.open(tmp_path, "P1", tmp_path / "work")


def test_sensors_with_nan_are_masked_in_their_epoch_and_an_epoch_of_nan_is_refused(tmp_path):
    kept = np.flatnonzero(make_table()["trial_type"] != "catch")
    write_things_epochs(tmp_path, missing=[(kept[5], 2), (kept[11], slice(None))])
    study = THINGS_MEG.open(tmp_path, "P1", tmp_path / "work")
    values = study.read([5])[0]
    assert np.isnan(values[2]).all()
    assert np.isfinite(np.delete(values, 2, axis=0)).all()
    with pytest.raises(InputError, match=rf"a finite sensor in every epoch; found none in epoch {kept[11]}"):
        study.read(slice(0, 20))


def test_a_part_of_the_epochs_that_ends_early_is_refused(tmp_path):
    write_things_epochs(tmp_path)
    path = tmp_path / "derivatives/preprocessed/preprocessed_P1-epo.fif"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"preprocessed_P1-epo\.fif: expected whole epochs"):
        THINGS_MEG.open(tmp_path, "P1", tmp_path / "work")
    assert "bad" in {line.status for line in THINGS_MEG.check(tmp_path)}


def test_raw_recordings_come_before_epochs_unless_these_are_asked_for(tmp_path):
    write_things_meg(tmp_path)
    assert THINGS_MEG.open(tmp_path, "BIGMEG1", tmp_path / "work").subject == "P1"
    with pytest.raises(InputError, match="option files: expected raw; found epochs"):
        open_study(tmp_path, tmp_path / "work", files="epochs")
    write_things_epochs(tmp_path)
    assert open_study(tmp_path, tmp_path / "work").unit == "tesla"
    assert THINGS_MEG.open(tmp_path, "P1", tmp_path / "work", files="epochs").unit == "z-score"
    for option in ({"phase": "causal"}, {"sfreq": 60}):
        with pytest.raises(InputError, match=rf"option {next(iter(option))}: .* preprocessed before; found"):
            THINGS_MEG.open(tmp_path, "P1", tmp_path / "work", files="epochs", **option)
    for files in ("raw", "epochs"):
        with pytest.raises(InputError, match=r"option sessions: expected some of 01.*; found none"):
            THINGS_MEG.open(tmp_path, "P1", tmp_path / "work", files=files, sessions=[])
    assert {line.status for line in THINGS_MEG.check(tmp_path)} == {"ok"}


def test_other_channels_are_in_raw_recordings_alone(tmp_path):
    write_things_meg(tmp_path / "raw")
    assert open_study(tmp_path / "raw", tmp_path / "work", kinds=["eog"]).space.names == ("EOG 061",)
    write_things_epochs(tmp_path / "epochs")
    with pytest.raises(InputError, match=r"option kinds: expected null for released epochs.*found eog"):
        THINGS_MEG.open(tmp_path / "epochs", "P1", tmp_path / "work", kinds=["eog"])


@pytest.mark.parametrize(
    ("path", "concept"),
    [
        ("images_meg/bat1/bat1_03s.jpg", "bat1"),
        ("images_test_meg/bat1_14n.jpg", "bat1"),
        ("images_test_meg/alarm_clock/alarm_clock_13s.jpg", "alarm_clock"),
        ("alarm_clock_01b.jpg", "alarm_clock"),
    ],
)
def test_the_concept_is_the_folder_or_the_name_without_its_exemplar(path, concept):
    assert concept_of(PurePosixPath(path)) == concept


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns="run_nr"), r"t\.csv: expected a column 'run_nr'; found trial_type"),
        (lambda t: t.assign(trial_type="rest"), r"expected trial_type exp, test, catch; found 'rest'"),
        (
            lambda t: t.assign(
                image_path=t["image_path"].str.replace("images_test_meg/thing", "images_test_meg/Thing")
            ),
            r"concept of every test image among those of the other images; found 5 that are not, such as 'Thing0'",
        ),
        (lambda t: t.assign(session_nr="one"), r"expected numbers in column 'session_nr'; found 'one'"),
    ],
)
def test_tables_that_make_no_sense_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        tidy_attributes(Path("t.csv"), change(make_table().astype(str)))


def test_odd_durations_and_names_of_concepts_are_told():
    table = make_table()
    table.loc[3, "image_off"] += 0.2
    table["things_category_nr"] = 1
    told = " ".join(tidy_attributes(Path("t.csv"), table.astype(str))[1])
    assert "1 of 102 pictures were not on for 0.45 to 0.55 s" in told
    assert "1 numbers of things_category_nr have several concepts" in told
