"""BAD annotations: the trials that MNE's own epochs would drop are left out, and single channels are masked in theirs."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import mne
import mne_bids
import numpy as np
import pandas as pd
import pytest
from mne.io.ctf.res4 import _read_res4
from numpy.testing import assert_array_equal

from braindecode_suite.core.errors import InputError
from braindecode_suite.datasets.bad_segments import BadSegment, find_rejected, summarise_rejected
from braindecode_suite.datasets.bids_meg import BIDS_MEG
from braindecode_suite.datasets.meg_runs import EpochRows
from braindecode_suite.datasets.recording_study import prepare
from braindecode_suite.datasets.things_meg import THINGS_MEG
from braindecode_suite.datasets.things_meg_raw import DROPOUTS
from tests.meg_files import SENSORS, SFREQ, make_events, make_raw, write_run
from tests.things_meg_files import write_things_meg

SHARED_DATA = Path(os.environ.get("BDS_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data")) / "meg"
AS_RECORDED = {"highpass": None, "sfreq": None, "tmin": -0.1, "tmax": 0.2}
N = 12


def draw(seed: int = 0) -> np.ndarray:
    return 1e-13 * np.random.default_rng(seed).standard_normal((len(SENSORS), 2400))


def open_study(folder: Path, work: Path, **options):
    return BIDS_MEG.open(folder, "01", work, **(AS_RECORDED | options))


def add_events(path: Path, rows: list[dict]) -> None:
    """Put further rows, which name no picture, among the events of a run."""
    events = path.with_name(path.name.replace("_meg.fif", "_events.tsv"))
    table = pd.concat([pd.read_csv(events, sep="\t"), pd.DataFrame(rows)]).sort_values("onset")
    table.to_csv(events, sep="\t", index=False, na_rep="n/a")


def shown(study) -> list[str]:
    return study.trials["stimulus_id"].tolist()


@pytest.mark.parametrize("cropped", [False, True])
def test_trials_are_those_that_mne_epochs_keep(tmp_path, cropped):
    rng = np.random.default_rng(1)
    raw = make_raw(np.tile(draw(), 2))
    raw.set_meas_date(1_000_000_000)
    starts = np.sort(rng.uniform(0, 11, 9))
    kinds = ["BAD_jump", "bad blink", "BADmuscle", "edge", "rest, not bad"]
    raw.set_annotations(
        mne.Annotations(
            starts, rng.uniform(0, 0.2, 9) * (np.arange(9) % 3 > 0), [kinds[k % 5] for k in range(9)]
        )
    )
    if cropped:
        raw.crop(tmin=3.0)  # the clock of the annotations is no longer that of the samples
    events = make_events(24, every=0.27)
    write_run(tmp_path, raw, events)
    kept = mne.Epochs(
        raw,
        np.stack(
            [raw.first_samp + np.round(events["onset"] * SFREQ), np.zeros(24), np.ones(24)], axis=1
        ).astype(int),
        tmin=-0.1,
        tmax=0.2,
        baseline=None,
        preload=True,
        verbose="error",
    ).selection
    study = open_study(tmp_path, tmp_path / "work")
    assert 3 < len(kept) < 22
    assert shown(study) == events["stimulus_id"][kept].tolist()
    assert shown(open_study(tmp_path, tmp_path / "work", reject_by_annotation=False)) == list(
        events["stimulus_id"]
    )
    (told,) = (text for text in study.provenance["warnings"] if "rejected" in text)
    assert told.startswith(f"{24 - len(kept)} of 24 trials rejected by BAD annotations (")


def test_bad_rows_of_the_events_reject_and_pictures_of_badgers_do_not(tmp_path):
    path = write_run(tmp_path, make_raw(draw()), make_events(N).assign(trial_type="badger"))
    add_events(
        path,
        [
            {"onset": 1.72, "duration": 0.02, "trial_type": "bad_cough"},
            {"onset": 3.22, "duration": "n/a", "trial_type": "BAD_jump"},
            {"onset": 2.3, "duration": 0.4, "trial_type": "response"},
        ],
    )
    study = open_study(tmp_path, tmp_path / "work")
    # windows from 0.1 s before to 0.2 s after 0.75, 1, ... 3.5: the cough touches 1.75, the jump at 3.22 touches 3.25
    assert shown(study) == [f"image-{k:02d}" for k in range(N) if k not in (4, 10)]
    assert study.trials["repeat"].eq(1).all()
    assert (
        "2 of 12 trials rejected by BAD annotations (bad_cough 1, BAD_jump 1); reject_by_annotation: false keeps them"
        in study.provenance["warnings"]
    )
    assert len(study.read(slice(None))) == N - 2
    add_events(path, [{"onset": 0, "duration": 10, "trial_type": "BAD"}])
    with pytest.raises(
        InputError, match=r"overlaps no BAD annotation; found none \(.*reject_by_annotation\)"
    ):
        open_study(tmp_path, tmp_path / "work")


def test_annotations_of_single_channels_mask_these_in_the_trials_they_touch(tmp_path):
    data, raw = draw(), make_raw(draw())
    raw.set_annotations(
        mne.Annotations(
            [1.0, 2.0, 2.0],
            [0.01, 0.3, 0.3],
            ["BAD_squid", "bad", "bad"],
            ch_names=[SENSORS[2:4], [SENSORS[5]], [SENSORS[0]]],
        )
    )
    path = write_run(tmp_path, raw, make_events(N))
    add_events(
        path,
        [
            {
                "onset": 1.0,
                "duration": 0.01,
                "trial_type": "BAD_squid",
            },  # as mne-bids writes the one of the file
            {
                "onset": 3.0,
                "duration": 0.01,
                "trial_type": "BAD_squid",
                "channel": f"{SENSORS[1]}, {SENSORS[7]}",
            },
        ],
    )
    study = prepare(open_study(tmp_path, tmp_path / "work"))
    assert len(study.trials) == N
    expected = np.zeros((N, len(SENSORS)), bool)
    expected[1, 2:4] = True
    expected[np.ix_([5, 6], [0, 5])] = True  # 2 to 2.3 s touches the windows around 2 and 2.25
    expected[9, [1, 7]] = True
    values = study.read(slice(None))
    assert_array_equal(np.isnan(values).any(axis=2), expected)
    assert_array_equal(np.isnan(values).all(axis=2), expected)
    at = round(2.0 * SFREQ)
    assert_array_equal(values[5, 1], data[1, at - 24 : at + 49].astype(np.float32))
    told = "4 trials have sensors that BAD annotations of single channels take: missing there, 8 in all"
    assert told in study.provenance["warnings"]
    assert study.valid.all()
    assert study.space.usable("01").all()
    rows = study.responses
    assert isinstance(rows, EpochRows)
    later = rows.window(48, 12)[slice(None)]  # from 0.1 s after the picture: 1.0 + 0.01 is past
    assert not np.isnan(later[1]).any()
    whole = open_study(tmp_path, tmp_path / "work", reject_by_annotation=False)
    assert np.isfinite(whole.read(slice(None))).all()


def test_a_trial_without_any_sensor_left_is_rejected():
    segments = [BadSegment(0, 1, "BAD a", ("x",)), BadSegment(0.5, 1, "BAD b", ("y", "other"))]
    reasons = find_rejected(segments, ["x", "y"], np.array([0, 50, 200]), 40, 100.0)
    assert reasons.tolist() == ["", "BAD b", ""]
    assert summarise_rejected([np.array(["", ""], object)], [None]) == []


def test_known_dropouts_reject_their_trials_unless_they_are_to_be_kept(tmp_path, monkeypatch):
    write_things_meg(tmp_path)
    monkeypatch.setitem(DROPOUTS, ("P1", "01", 1), 3.0)
    kept = THINGS_MEG.open(tmp_path, "P1", tmp_path / "work", **AS_RECORDED, reject_by_annotation=False)
    study = THINGS_MEG.open(tmp_path, "P1", tmp_path / "work", **AS_RECORDED)
    onsets = kept.trials["onset"].to_numpy()
    first = (kept.trials["session"] == "01").to_numpy()
    touched = first & (onsets - 0.1 < 3.2) & (onsets + 0.2 > 2.8 - 1 / SFREQ)
    assert touched.sum() >= 2
    assert_array_equal(study.trials["onset"], onsets[~touched])
    told = (
        f"{touched.sum()} of {len(onsets)} trials rejected by BAD annotations (BAD_dropout {touched.sum()})"
    )
    assert any(text.startswith(told) for text in study.provenance["warnings"])


def test_bad_segments_of_a_real_ctf_folder_reject_trials(tmp_path):
    path = SHARED_DATA / "testdata_ctf_short_discontinuous.ds"
    if not path.exists():
        pytest.skip(f"{path} is not there: real recordings are not part of the project")
    where = mne_bids.BIDSPath(subject="01", task="noise", run="01", datatype="meg", root=tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        raw = mne.io.read_raw_ctf(path, system_clock="ignore", verbose="error")
        mne_bids.write_raw_bids(raw, where, overwrite=True, verbose="error")
    (folder,) = tmp_path.glob("sub-01/meg/*.ds")
    make_events(3, first=0.2, every=0.3).to_csv(
        folder.with_name("sub-01_task-noise_run-01_events.tsv"), sep="\t", index=False
    )
    options = {"highpass": None, "sfreq": None, "tmin": 0, "tmax": 0.1}
    assert shown(BIDS_MEG.open(tmp_path, "01", tmp_path / "work", **options)) == [
        "image-00",
        "image-01",
        "image-02",
    ]
    res4 = _read_res4(str(folder))
    at = 0.55 - res4["pre_trig_pts"] / res4["sfreq"]  # the file counts from the trigger of its first trial
    (folder / "bad.segments").write_text(f"1\t{at}\t{at + 0.01}\t\n")
    assert shown(BIDS_MEG.open(tmp_path, "01", tmp_path / "work", **options)) == ["image-00", "image-02"]
