"""bids-meg: known samples back from every format, what a session lacks, what is refused; and real recordings."""

from __future__ import annotations

import json
import os
import pickle
import threading
import warnings
from pathlib import Path

import mne
import mne_bids
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from braindecode_suite.core.errors import InputError
from braindecode_suite.core.signal import Filter, Resample, SignalRecipe
from braindecode_suite.datasets.bids_meg import BIDS_MEG
from braindecode_suite.datasets.meg_runs import EpochRows, Run, find_fault
from braindecode_suite.datasets.recording_study import prepare
from braindecode_suite.datasets.sensor_positions import layout_positions
from braindecode_suite.workflows.inputs import find_dataset
from tests.meg_files import SENSORS, SFREQ, make_events, make_raw, write_meg, write_run

SHARED_DATA = Path(os.environ.get("BDS_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data")) / "meg"
AS_RECORDED = {"highpass": None, "sfreq": None, "tmin": -0.1, "tmax": 0.2}


def draw(n_samples: int = 2400, seed: int = 0) -> np.ndarray:
    return 1e-13 * np.random.default_rng(seed).standard_normal((len(SENSORS), n_samples))


def open_study(folder: Path, work: Path, **options):
    return BIDS_MEG.open(folder, "01", work, **(AS_RECORDED | options))


def test_windows_are_the_recorded_samples_around_each_onset(tmp_path):
    data, events = draw(), make_events(8)
    write_run(tmp_path, make_raw(data), events)
    study = open_study(tmp_path, tmp_path / "work")
    assert study.space.names == SENSORS
    assert study.unit == "tesla"
    assert_allclose(study.space.times, np.arange(-24, 49) / SFREQ)
    for row, onset in zip([5, 0], events["onset"].to_numpy()[[5, 0]], strict=True):
        at = round(onset * SFREQ)
        expected = data[:, at - 24 : at + 49].astype(np.float32)
        assert_array_equal(study.read(np.array([row]))[0], expected)
    assert study.read(slice(None)).shape == (8, 8, 73)
    assert study.read(np.array([], int)).shape == (0, 8, 73)


@pytest.mark.parametrize("phase", ["zero", "causal"])
def test_runs_are_preprocessed_by_the_recipe_that_the_study_carries(tmp_path, phase, monkeypatch):
    data, events = draw(), make_events(8)
    write_run(tmp_path, make_raw(data), events)
    for name in ("READ_BYTES", "BLOCK_BYTES"):  # a few samples and a few channels at a time
        monkeypatch.setattr(f"braindecode_suite.datasets.meg_runs.{name}", 60_000)
    study = open_study(
        tmp_path, tmp_path / "work", highpass=1.0, lowpass=40.0, notch=[50.0], sfreq=120, phase=phase
    )
    assert study.signal == SignalRecipe((Filter(1.0, 40.0, (50.0,), phase), Resample(120.0, phase)), SFREQ)
    whole = study.signal.apply(data)
    at = round(events["onset"][3] * 120)
    expected = whole[:, at - 12 : at + 25]
    assert_allclose(study.read(np.array([3]))[0], expected, atol=1e-6 * np.abs(expected).max())


def test_a_run_is_preprocessed_once_and_again_when_it_or_the_recipe_changes(tmp_path):
    path = write_run(tmp_path, make_raw(draw()), make_events(8))
    work = tmp_path / "work"
    first = open_study(tmp_path, work).read(slice(None))
    (made,) = (work / "runs").glob("*.npy")
    stamp = made.stat().st_mtime_ns
    open_study(tmp_path, work, tmin=-0.2).read(slice(None))  # another window of the same samples
    assert made.stat().st_mtime_ns == stamp
    open_study(tmp_path, work, highpass=1.0).read(slice(None))
    assert len(list((work / "runs").glob("*.npy"))) == 2
    make_raw(draw(seed=1)).save(path, fmt="double", overwrite=True, verbose="error")
    assert not np.allclose(open_study(tmp_path, work).read(slice(None)), first, atol=0)
    assert not [p for p in (work / "runs").iterdir() if p.name.startswith(".")]


def test_opening_reads_no_samples(tmp_path, monkeypatch):
    write_run(tmp_path, make_raw(draw()), make_events(8))

    def refuse(*arguments):
        raise AssertionError("samples were read")

    monkeypatch.setattr(Run, "_copy", refuse)
    study = open_study(tmp_path, tmp_path / "work")
    assert study.responses.shape == (8, 8, 73)
    assert not (tmp_path / "work").exists()


def test_the_table_says_session_run_repeat_and_what_the_events_add(tmp_path):
    write_meg(tmp_path, n=10)
    trials = open_study(tmp_path, tmp_path / "work").trials
    assert list(trials.columns) == [
        *("stimulus_id", "session", "run", "repeat", "onset", "duration", "task", "run_seconds"),
        *("trial_type", "category"),
    ]
    assert trials["session"].unique().tolist() == ["01", "02"]
    assert trials["run"].unique().tolist() == [1, 2]
    assert trials["repeat"].tolist() == (trials.groupby("stimulus_id").cumcount() + 1).tolist()
    assert trials["run_seconds"].unique().tolist() == [4.5]
    assert (trials["task"] == "look").all()


def test_rows_survive_a_trip_to_another_process(tmp_path):
    write_run(tmp_path, make_raw(draw()), make_events(8))
    rows = open_study(tmp_path, tmp_path / "work").responses
    first = rows[np.array([2, 1])]
    again = pickle.loads(pickle.dumps(rows))
    assert not again._maps
    assert_array_equal(again[np.array([2, 1])], first)


def test_other_windows_come_without_another_filtering(tmp_path):
    write_run(tmp_path, make_raw(draw()), make_events(8))
    rows = open_study(tmp_path, tmp_path / "work").responses
    assert isinstance(rows, EpochRows)
    later = rows.window(10, 20)
    assert_array_equal(later[slice(None)], rows[slice(None)][:, :, 10:30])
    with pytest.raises(InputError, match="windows inside their runs"):
        rows.window(-10_000, 20)


def test_flat_saturated_and_broken_channels_are_missing_in_their_run_only(tmp_path):
    data, events = draw(), make_events(8)
    broken = data.copy()
    broken[1] = 3e-12
    broken[2] = np.clip(broken[2], -1e-13, 1e-13)
    broken[3, 700] = np.nan
    write_run(tmp_path, make_raw(data), events, run=1)
    write_run(tmp_path, make_raw(broken), events, run=2, bad=[SENSORS[4]])
    write_run(tmp_path, make_raw(broken), events, session="02", run=1, bad=[SENSORS[4]])
    study = prepare(open_study(tmp_path, tmp_path / "work"))
    missing = np.isnan(study.read(slice(None))).all(axis=2)
    assert not missing[:8].any()
    for rows in (slice(8, 16), slice(16, 24)):
        assert_array_equal(missing[rows], [[False, True, True, True, True, False, False, False]] * 8)
    told = " ".join(study.provenance["warnings"])
    for name, reason in zip(SENSORS[1:5], ("flat", "saturated", "NaN", "marked bad"), strict=True):
        assert f"ses-01_task-look_run-02: sensor {name} {reason}: missing in its trials" in told
    assert study.space.usable("01").all()
    assert_array_equal(study.space.usable("02"), ~missing[-1])
    assert study.valid.all()
    again = open_study(tmp_path, tmp_path / "work")  # what is known by now is known when it is opened
    assert again.provenance["warnings"] == study.provenance["warnings"]


def test_a_fault_is_named_and_ordinary_noise_is_not():
    rng = np.random.default_rng(0)
    assert find_fault(rng.standard_normal(100_000)) == ""
    assert find_fault(np.round(20 * rng.standard_normal(100_000))) == ""  # few bits, no clipping
    assert find_fault(np.clip(rng.standard_normal(1000), -9, 1.5)) == "saturated"
    half = rng.standard_normal(1000)
    half[:600] = 0.1
    assert find_fault(half) == "flat"
    assert find_fault(np.array([0.0, np.inf])) == "NaN"


def test_a_recording_without_any_usable_sensor_is_refused_and_leaves_nothing(tmp_path):
    path = write_run(tmp_path, make_raw(0 * draw()), make_events(8))
    study = open_study(tmp_path, tmp_path / "work")
    with pytest.raises(
        InputError, match=rf"{path.name}: expected a sensor with a usable signal; found 8 that are flat"
    ):
        study.read([0])
    assert not list((tmp_path / "work").rglob("*.*"))


def test_a_sensor_that_one_run_lacks_is_missing_there(tmp_path):
    data, events = draw(), make_events(8)
    write_run(
        tmp_path, make_raw(np.delete(data, 2, axis=0), names=[*SENSORS[:2], *SENSORS[3:]]), events, run=1
    )
    write_run(tmp_path, make_raw(data), events, run=2)
    study = prepare(open_study(tmp_path, tmp_path / "work"))
    assert study.space.names == SENSORS  # in the system's order
    values = study.read(slice(None))
    assert np.isnan(values[:8, 2]).all()
    assert np.isfinite(values[8:]).all()
    assert_array_equal(values[:8, 3], study.read(slice(8, 16))[:, 3])
    told = f"ses-01_task-look_run-01: sensor {SENSORS[2]} not recorded: missing in its trials"
    assert told in study.provenance["warnings"]


def test_runs_at_different_rates_need_resampling(tmp_path):
    write_run(tmp_path, make_raw(draw()), make_events(8), run=1)
    write_run(tmp_path, make_raw(draw(3000), sfreq=300.0), make_events(8), run=2)
    with pytest.raises(
        InputError, match=r"run-02_meg\.fif: expected 240 Hz, as .*run-01_meg\.fif; found 300 Hz"
    ):
        open_study(tmp_path, tmp_path / "work")
    study = open_study(tmp_path, tmp_path / "work", sfreq=120)
    assert study.space.sfreq == 120
    assert "runs were recorded at 240, 300 Hz and are resampled to one rate" in study.provenance["warnings"]
    with pytest.raises(
        InputError, match=r"option sfreq: expected at most the 240 Hz of the recording; found 250"
    ):
        open_study(tmp_path, tmp_path / "work", sfreq=250)


def test_trials_whose_window_leaves_the_recording_are_left_out_with_a_warning(tmp_path):
    write_run(tmp_path, make_raw(draw(2400)), make_events(10, first=0.05, every=1.1))
    study = open_study(tmp_path, tmp_path / "work")
    assert study.trials["stimulus_id"].tolist() == [f"image-{k:02d}" for k in range(1, 9)]
    told = "2 of 10 trials left out, whose window from -0.1 to 0.2 s is not all in the recording"
    assert told in " ".join(study.provenance["warnings"])
    with pytest.raises(
        InputError, match=r"trials whose window from -9 to 9 s lies in the recording; found none"
    ):
        open_study(tmp_path, tmp_path / "work", tmin=-9, tmax=9)


def write_events(path: Path, change) -> None:
    events = path.with_name(path.name.replace("_meg.fif", "_events.tsv"))
    change(pd.read_csv(events, sep="\t")).to_csv(events, sep="\t", index=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.rename(columns={"stimulus_id": "stim_file"}),
            r"a column 'stimulus_id' that names the picture; found columns onset, .* \(name one by .* as stim_file\)",
        ),
        (lambda t: t.drop(columns="onset"), r"expected a column 'onset'; found columns duration"),
        (
            lambda t: t.assign(stimulus_id="n/a"),
            r"expected pictures in column 'stimulus_id'; found none in 8 rows",
        ),
        (
            lambda t: t.assign(onset=t["onset"][::-1].to_numpy()),
            r"onsets that ascend.*found 2.25 s after 2.5 s",
        ),
        (
            lambda t: t.assign(onset=t["onset"] + 9),
            r"onsets within the run of 10 s; found 7 outside, the first at 10",
        ),
        (lambda t: t.assign(onset="soon"), r"expected numbers in column 'onset'; found 'soon' in row 1"),
    ],
)
def test_events_that_make_no_sense_are_refused(tmp_path, change, message):
    path = write_run(tmp_path, make_raw(draw()), make_events(8))
    write_events(path, change)
    with pytest.raises(InputError, match=message):
        open_study(tmp_path, tmp_path / "work")


def test_the_column_and_the_types_of_trials_can_be_chosen(tmp_path):
    path = write_run(tmp_path, make_raw(draw()), make_events(8))
    kinds = ["test", "catch"] * 4
    write_events(path, lambda t: t.rename(columns={"stimulus_id": "image_path"}).assign(trial_type=kinds))
    options = {"stimulus_column": "image_path", "trial_types": ["test"]}
    study = open_study(tmp_path, tmp_path / "work", **options)
    assert study.trials["stimulus_id"].tolist() == ["image-00", "image-02", "image-04", "image-06"]
    options["trial_types"] = ["test", "rest"]
    with pytest.raises(InputError, match="expected trials of trial_type 'rest'; found none in any run"):
        open_study(tmp_path, tmp_path / "work", **options)


def test_a_dropped_channel_that_no_run_has_is_warned_of(tmp_path):
    write_run(tmp_path, make_raw(draw()), make_events(4))
    names = open_study(tmp_path, tmp_path / "work").space.names
    study = open_study(tmp_path, tmp_path / "work", drop=[names[0], "MLC99"])
    assert study.space.names == names[1:]
    told = [one for one in study.provenance["warnings"] if "option drop" in one]
    assert told == ["option drop: no run has a channel MLC99"]


def test_a_type_of_trial_that_is_not_there_is_named_beside_those_that_are(tmp_path):
    path = write_run(tmp_path, make_raw(draw()), make_events(4))
    write_events(path, lambda t: t.assign(trial_type=["face", "face", "tool", "tool"]))
    message = r"pictures of trial_type 'house' \(option trial_types\); found pictures of face, tool"
    with pytest.raises(InputError, match=message):
        open_study(tmp_path, tmp_path / "work", trial_types=["house"])


def test_a_folder_of_images_that_is_not_there_is_refused(tmp_path):
    write_run(tmp_path, make_raw(draw()), make_events(4))
    with pytest.raises(InputError, match=r"pictures: expected the folder of the images .*found nothing"):
        open_study(tmp_path, tmp_path / "work", stimuli="pictures")


def test_runs_without_events_are_left_out_and_a_participant_without_any_is_refused(tmp_path):
    first, second = (write_run(tmp_path, make_raw(draw()), make_events(8), run=run) for run in (1, 2))
    second.with_name(second.name.replace("_meg.fif", "_events.tsv")).unlink()
    study = open_study(tmp_path, tmp_path / "work")
    assert "1 runs without events left out: ses-01_task-look_run-02" in study.provenance["warnings"]
    first.with_name(first.name.replace("_meg.fif", "_events.tsv")).unlink()
    with pytest.raises(InputError, match=r"events\.tsv: expected the events of the run.*found nothing there"):
        open_study(tmp_path, tmp_path / "work")


def test_a_table_of_channels_that_does_not_fit_is_told_and_a_missing_one_is_not(tmp_path):
    path = write_run(tmp_path, make_raw(draw()), make_events(8), bad=[SENSORS[1]])
    channels = path.with_name(path.name.replace("_meg.fif", "_channels.tsv"))
    fits = open_study(tmp_path, tmp_path / "work")
    assert not [text for text in fits.provenance["warnings"] if "channels.tsv" in text]
    channels.write_text(channels.read_text().replace("EOG 061", "EOG 062"))
    told = f"{path.name}: Channel mismatch between {channels.relative_to(tmp_path)} and the raw data file. Skipping"
    study = open_study(tmp_path, tmp_path / "work")
    assert told in " ".join(study.provenance["warnings"])
    channels.unlink()
    assert "channels.tsv" not in " ".join(open_study(tmp_path, tmp_path / "work").provenance["warnings"])


def test_a_fif_cut_in_half_is_refused_and_leaves_nothing(tmp_path):
    path = write_run(tmp_path, make_raw(draw(60_000)), make_events(8))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=rf"{path.name}: expected a whole recording; found \w+"):
        open_study(tmp_path, tmp_path / "work").read([0])
    assert not list((tmp_path / "work").rglob("*.*"))
    assert "bad" in {line.status for line in BIDS_MEG.check(tmp_path)}


def test_a_ctf_folder_without_its_header_is_refused(tmp_path):
    write_run(tmp_path, make_raw(draw()), make_events(8)).unlink()
    folder = tmp_path / "sub-01/ses-01/meg/sub-01_ses-01_task-look_run-01_meg.ds"
    folder.mkdir()
    (folder / "x.meg4").write_bytes(b"MEG41CP")
    with pytest.raises(
        InputError, match=r"meg\.ds: expected a CTF folder with its \.res4 file; found none in it"
    ):
        open_study(tmp_path, tmp_path / "work")


def test_control_channels_are_read_by_their_kind(tmp_path):
    write_run(tmp_path, make_raw(draw()), make_events(8))
    study = open_study(tmp_path, tmp_path / "work", kinds=["eog"])
    assert study.space.names == ("EOG 061",)
    assert study.unit == "volt"
    at = round(0.75 * SFREQ)
    assert_allclose(study.read([0])[0, 0], np.sin(np.arange(at - 24, at + 49) / 50), atol=1e-6)
    with pytest.raises(InputError, match=r"channels of type eyegaze \(option kinds\); found eog, mag, stim"):
        open_study(tmp_path, tmp_path / "work", kinds=["eyegaze"])
    left = open_study(tmp_path, tmp_path / "work", drop=[SENSORS[0]])
    assert left.space.names == SENSORS[1:]


def test_an_eye_channel_at_the_end_of_its_range_is_kept(tmp_path):
    raw = make_raw(draw())
    eye = raw.ch_names.index("EOG 061")
    raw._data[eye] = np.clip(np.random.default_rng(3).standard_normal(raw.n_times), -1, 1)
    write_run(tmp_path, raw, make_events(8))
    study = prepare(open_study(tmp_path, tmp_path / "work", kinds=["eog"]))
    assert np.isfinite(study.read(slice(None))).all()
    assert find_fault(raw._data[eye]) == "saturated"


def test_positions_are_the_layouts_scaled_to_the_unit_square(tmp_path):
    write_run(tmp_path, make_raw(draw()), make_events(8))
    study = open_study(tmp_path, tmp_path / "work")
    layout = mne.channels.read_layout("Vectorview-mag")
    names = [name.replace(" ", "") for name in layout.names]
    where = np.array([layout.pos[names.index(name.replace(" ", ""))][:2] for name in SENSORS])
    expected = (where - where.min(0)) / np.ptp(where, axis=0)
    assert_allclose(study.space.positions["01"], expected)
    assert study.space.layout == "Vectorview-mag"
    assert study.space.info()["chs"][0]["coil_type"] == 3024


def test_a_folder_of_meg_is_read_as_such(tmp_path):
    write_meg(tmp_path, sessions=1, runs=1, n=4)
    dataset, folder = find_dataset(str(tmp_path), None)
    assert dataset is BIDS_MEG
    assert folder == tmp_path
    (tmp_path / "sub-01" / "func").mkdir()
    assert find_dataset(str(tmp_path), None)[0].card.name == "bids-fmri"


def write_eeg(root: Path, format: str) -> tuple[np.ndarray, pd.DataFrame]:
    """Write electrodes of the 10-20 system with mne-bids and give them pictures."""
    names = ["Fz", "Cz", "Pz", "Oz", "O1", "O2"]
    rng = np.random.default_rng(2)
    data = 2e-5 * rng.standard_normal((6, 2000))
    raw = mne.io.RawArray(data, mne.create_info(names, 200.0, "eeg", verbose="error"), verbose="error")
    raw.set_montage("biosemi32")
    where = mne_bids.BIDSPath(subject="01", task="look", run="01", datatype="eeg", root=root)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mne_bids.write_raw_bids(
            raw, where, format=format, allow_preload=True, overwrite=True, verbose="error"
        )
    events = make_events(8)
    events.to_csv(root / "sub-01/eeg/sub-01_task-look_run-01_events.tsv", sep="\t", index=False)
    return data, events


@pytest.mark.parametrize(
    ("format", "suffix"), [("BrainVision", "vhdr"), ("EDF", "edf"), ("BDF", "bdf"), ("EEGLAB", "set")]
)
def test_every_eeg_format_gives_the_samples_and_the_electrodes(tmp_path, format, suffix):
    data, _ = write_eeg(tmp_path, format)
    assert list(tmp_path.glob(f"sub-01/eeg/*_eeg.{suffix}"))
    study = BIDS_MEG.open(tmp_path, "01", tmp_path / "work", **AS_RECORDED)
    assert study.unit == "volt"
    assert set(study.space.kinds) == {"eeg"}
    assert_allclose(study.read([0])[0], data[:, 130:191], atol=3e-8)
    where = dict(zip(study.space.names, study.space.positions["1"], strict=True))
    assert where["Fz"][1] > where["Cz"][1] > where["Pz"][1] > where["Oz"][1]
    assert where["O1"][0] < where["Oz"][0] < where["O2"][0]


def test_electrodes_without_a_place_are_flagged_and_a_montage_places_them(tmp_path):
    write_eeg(tmp_path, "BrainVision")
    for path in tmp_path.glob("sub-01/eeg/*electrodes.tsv"):
        path.unlink()
    study = BIDS_MEG.open(tmp_path, "01", tmp_path / "work", **AS_RECORDED)
    assert np.isnan(study.space.positions["1"]).all()
    told = (
        "6 of 6 sensors have no place in the 2-D layout; the option montage places electrodes by their names"
    )
    assert told in study.provenance["warnings"]
    placed = BIDS_MEG.open(tmp_path, "01", tmp_path / "work", montage="biosemi32", **AS_RECORDED)
    assert np.isfinite(placed.space.positions["1"]).all()
    with pytest.raises(InputError, match="option montage: expected a montage of MNE"):
        BIDS_MEG.open(tmp_path, "01", tmp_path / "work", montage="standard_9", **AS_RECORDED)


class FakeRaw:
    """A recording whose samples are made when they are asked for, of any size."""

    def __init__(self, n_channels: int) -> None:
        self.ch_names = [f"s{k}" for k in range(n_channels)]

    def __getitem__(self, item):
        picks, samples = item
        noise = np.random.default_rng(samples.start).standard_normal(
            (len(picks), samples.stop - samples.start)
        )
        return (noise,)


def peak_anonymous_mb(work) -> tuple[float, object]:
    """Return by how much anonymous memory grew while `work` ran, at most, sampled; and what it returned."""

    def resident() -> int:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("RssAnon"):
                return int(line.split()[1])
        return 0

    stop, seen, before = threading.Event(), [0], resident()

    def watch() -> None:
        while not stop.wait(0.01):
            seen.append(resident() - before)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        result = work()
    finally:
        stop.set()
        thread.join()
    return max(seen) / 1024, result


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="anonymous memory is read from /proc")
def test_neither_a_long_run_nor_many_trials_need_memory(tmp_path):
    n_channels, sfreq, n_samples = 60, 1200.0, 360_000  # 173 MB as float64
    names = tuple(f"s{k}" for k in range(n_channels))
    signal = SignalRecipe((Filter(0.5, 40.0, phase="causal"), Resample(120.0, phase="causal")), sfreq)
    run = Run(
        name="long",
        session="1",
        path=tmp_path / "long",
        read=lambda: FakeRaw(n_channels),
        names=names,
        kinds=("mag",) * n_channels,
        bad=(),
        n_samples=n_samples,
        signal=signal,
        fingerprint="",
        folder=tmp_path,
    )
    grown, _ = peak_anonymous_mb(run.prepare)
    assert grown < 0.9 * n_samples * n_channels * 8 / 2**20
    # 79,392 trials of 181 times cut out of it: 3.4 GB if they were written out
    rows = EpochRows(
        [run], np.zeros(79_392, int), np.random.default_rng(0).integers(0, 35_000, 79_392), 181, names
    )
    assert np.prod(rows.shape) * 4 > 3e9
    grown, _ = peak_anonymous_mb(lambda: [rows[slice(k, k + 128)].mean() for k in range(0, 79_392, 8192)])
    assert grown < 100


def real(name: str) -> Path:
    path = SHARED_DATA / name
    if not path.exists():
        pytest.skip(f"{path} is not there: real recordings are not part of the project")
    return path


def write_real(root: Path, raw: mne.io.BaseRaw, events: pd.DataFrame | None) -> None:
    where = mne_bids.BIDSPath(subject="01", task="noise", run="01", datatype="meg", root=root)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mne_bids.write_raw_bids(raw, where, overwrite=True, verbose="error")
    if events is not None:
        events.to_csv(root / "sub-01/meg/sub-01_task-noise_run-01_events.tsv", sep="\t", index=False)


@pytest.mark.parametrize(
    ("name", "reader", "layout"),
    [
        ("testdata_ctf_short_discontinuous.ds", mne.io.read_raw_ctf, "CTF-275"),
        ("sample_audvis_trunc_raw_sss.fif", mne.io.read_raw_fif, "Vectorview-all"),
    ],
)
def test_real_recordings_keep_their_channels_rate_and_layout(tmp_path, name, reader, layout):
    """They hold no pictures: the events are made up, to see that what is read is what was recorded."""
    raw = reader(real(name), verbose="error")
    seconds = raw.n_times / raw.info["sfreq"]
    write_real(tmp_path, raw, make_events(5, first=0.25, every=0.1))
    study = BIDS_MEG.open(tmp_path, "01", tmp_path / "work", **(AS_RECORDED | {"tmin": -0.05, "tmax": 0.05}))
    picks = mne.pick_types(raw.info, meg=True, ref_meg=False, exclude=())
    assert list(study.space.names) == [raw.ch_names[k] for k in picks]
    assert study.space.sfreq == raw.info["sfreq"]
    assert study.trials["run_seconds"].iloc[0] == pytest.approx(seconds)
    at, reach = round(0.25 * raw.info["sfreq"]), round(0.05 * raw.info["sfreq"])
    expected = raw[picks, at - reach : at + reach + 1][0]
    study = prepare(study)
    flagged = np.isnan(study.read([0])[0]).all(axis=1)
    assert flagged.sum() <= 2
    assert_allclose(study.read([0])[0][~flagged], expected[~flagged], rtol=1e-6)
    assert study.space.layout == layout
    here = mne.find_layout(mne.pick_info(raw.info, picks, verbose="error"))
    index = {label.replace(" ", ""): k for k, label in enumerate(here.names)}
    where = np.array([here.pos[index[n.split("-")[0].replace(" ", "")], :2] for n in study.space.names])
    expected = (where - where.min(0)) / np.ptp(where, axis=0)
    assert_allclose(layout_positions(raw.info, study.space.names)[0], expected)
    (line,) = BIDS_MEG.check(tmp_path)
    assert line.status == "ok"
    assert line.found.startswith(f"{len(raw.ch_names)} channels, {raw.info['sfreq']:g} Hz")


def test_the_real_averaged_recording_is_refused_because_nothing_in_it_can_be_decoded(tmp_path):
    write_real(tmp_path, mne.io.read_raw_ctf(real("somMDYO-18av.ds"), verbose="error"), None)
    with pytest.raises(
        InputError, match=r"found nothing there \(a recording without events, such as noise or an average"
    ):
        BIDS_MEG.open(tmp_path, "01", tmp_path / "work")
    (line,) = BIDS_MEG.check(tmp_path)
    assert line.status in ("bad", "missing")


def test_a_real_ctf_recording_without_its_header_is_refused(tmp_path):
    write_real(
        tmp_path,
        mne.io.read_raw_ctf(real("testdata_ctf_short_discontinuous.ds"), verbose="error"),
        make_events(2),
    )
    next(tmp_path.rglob("*.res4")).unlink()
    with pytest.raises(InputError, match=r"\.ds: expected a CTF folder with its \.res4 file"):
        BIDS_MEG.open(tmp_path, "01", tmp_path / "work")


def test_identity_follows_events_and_recordings_not_the_place(tmp_path):
    write_meg(tmp_path / "a", sessions=1, runs=1, n=4)
    write_meg(tmp_path / "b", sessions=1, runs=1, n=4)
    first, second = (BIDS_MEG.identity(tmp_path / name, ["01", "99"]) for name in "ab")
    assert first == second
    assert set(first) == {"01"}
    path = next((tmp_path / "b").rglob("*_events.tsv"))
    path.write_text(path.read_text().replace("image-01", "image-03"))
    assert BIDS_MEG.identity(tmp_path / "b", ["01"]) != first
    assert json.dumps(first)
