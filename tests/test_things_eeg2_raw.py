"""Continuous recordings of THINGS-EEG2: samples and pictures back, the recipe, sessions, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from braindecode_suite.core.errors import InputError
from braindecode_suite.core.signal import Filter, Resample, SignalRecipe
from braindecode_suite.datasets.protocols_eeg import things_eeg2_200way
from braindecode_suite.datasets.recording_study import prepare
from braindecode_suite.datasets.things_eeg2 import THINGS_EEG2
from tests.eeg2_files import CHANNELS, write_eeg2

SFREQ = 1000.0
AS_RECORDED = {"files": "raw", "highpass": None, "sfreq": None, "tmin": -0.05, "tmax": 0.1}


def write_raw(
    folder: Path, sessions: tuple[str, ...] = ("01", "02"), **changes
) -> dict[tuple[str, str], tuple]:
    """Write recordings; returns samples of shape (electrodes, samples), onsets and codes by session and part."""
    rng, written = np.random.default_rng(4), {}
    for session in sessions:
        for part, n, name in (("train", 60, "training"), ("test", 8, "test")):
            codes = np.concatenate([rng.permutation(n) + 1, [99999], rng.permutation(n) + 1])
            at = 100 + 200 * np.arange(len(codes))
            samples = rng.standard_normal((len(CHANNELS) + 1, at[-1] + 300))
            samples[-1] = 0
            samples[-1, at] = codes
            content = {
                "raw_eeg_data": samples,
                "ch_names": [*CHANNELS, "stim"],
                "ch_types": ["eeg"] * len(CHANNELS) + ["stim"],
                "sfreq": 1000,
                "lowpass": 100.0,
                "highpass": 0.01,
            } | changes
            place = folder / "raw_data" / "sub-01" / f"ses-{session}"
            place.mkdir(parents=True, exist_ok=True)
            content = {key: value for key, value in content.items() if value is not None}
            np.save(place / f"raw_eeg_{name}.npy", np.array(content), allow_pickle=True)
            written[session, part] = samples[:-1], at, codes
    return written


def test_windows_are_the_samples_around_each_image_and_targets_are_left_out(tmp_path):
    write_eeg2(tmp_path)
    written = write_raw(tmp_path)
    study = THINGS_EEG2.open(tmp_path, "01", tmp_path / "work", **AS_RECORDED)
    assert len(study.trials) == 2 * 2 * (60 + 8)
    assert study.space.names == tuple(CHANNELS)
    assert set(study.space.positions) == {"01", "02"}
    samples, at, codes = written["02", "test"]
    mine = np.flatnonzero((study.trials["session"] == "02") & (study.trials["published"] == "test"))
    for row, k in ((0, 0), (9, 10)):  # the ninth is after the target
        assert_array_equal(
            study.read(mine[[row]])[0], samples[:, at[k] - 50 : at[k] + 101].astype(np.float32)
        )
        assert study.trials["stimulus_id"][mine[row]] == f"other{codes[k] - 1}_{codes[k] - 1:02d}b"
        assert study.trials["onset"][mine[row]] == at[k] / SFREQ
    assert study.trials["repeat"].max() == 4
    assert (
        len(THINGS_EEG2.open(tmp_path, "01", tmp_path / "work", **AS_RECORDED, sessions=["02"]).trials) == 136
    )
    assert not any("noise normalisation" in text for text in study.provenance["warnings"])


def test_recordings_go_through_the_recipe_that_the_study_carries(tmp_path):
    write_eeg2(tmp_path)
    written = write_raw(tmp_path, sessions=("01",))
    study = prepare(
        THINGS_EEG2.open(tmp_path, "01", tmp_path / "work", files="raw", lowpass=40, tmin=-0.04, tmax=0.1)
    )
    assert study.signal == SignalRecipe((Filter(0.1, 40.0), Resample(250.0)), SFREQ)
    samples, at, _ = written["01", "train"]
    start = round(at[3] / SFREQ * 250) - 10
    expected = study.signal.apply(samples)[:, start : start + 36]
    assert_allclose(study.read([3])[0], expected, atol=1e-5)
    assert study.space.sfreq == 250
    splits = things_eeg2_200way([study])
    assert len(splits[0].keys("test", "stimulus")) == 8


def test_epochs_come_first_unless_recordings_are_asked_for(tmp_path):
    write_eeg2(tmp_path)
    with pytest.raises(InputError, match="option files: expected epochs; found raw"):
        THINGS_EEG2.open(tmp_path, "01", tmp_path / "work", files="raw")
    write_raw(tmp_path)
    assert THINGS_EEG2.open(tmp_path, "01", tmp_path / "work").signal is None
    for option in ({"phase": "causal"}, {"tmax": 0.4}, {"sessions": ["01"]}):
        with pytest.raises(InputError, match=rf"option {next(iter(option))}: .* preprocessed before; found"):
            THINGS_EEG2.open(tmp_path, "01", tmp_path / "work", **option)
    with pytest.raises(InputError, match="option sessions: expected some of 01, 02; found none"):
        THINGS_EEG2.open(tmp_path, "01", tmp_path / "work", files="raw", sessions=[])
    assert {line.status for line in THINGS_EEG2.check(tmp_path)} == {"ok"}
    assert len(THINGS_EEG2.check(tmp_path)) == 5
    for path in tmp_path.glob("preprocessed_data/sub-01/*"):
        path.unlink()
    assert THINGS_EEG2.open(tmp_path, "01", tmp_path / "work").signal is not None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sfreq": None}, "expected an entry 'sfreq'; found raw_eeg_data"),
        ({"ch_types": ["eeg"] * (len(CHANNELS) + 1)}, "one channel of type 'stim'; found 8 and 0"),
        ({"ch_names": CHANNELS}, "names and types of 8 channels; found 7 and 8"),
        ({"raw_eeg_data": np.zeros((8, 500))}, "expected images in the stimulus channel; found none"),
        ({"raw_eeg_data": np.full((8, 500), 0.5)}, "expected whole numbers in the stimulus channel"),
        ({"raw_eeg_data": np.full((8, 500), 61.0)}, "codes from 1 to 60, or 99999 for targets; found 61"),
        (
            {"raw_eeg_data": np.zeros((2, 8, 500))},
            r"numbers of channels x samples; found shape \(2, 8, 500\)",
        ),
        ({"sfreq": 0.0}, "a sampling rate in Hz; found 0"),
        ({"sfreq": "fast"}, "a sampling rate in Hz; found fast"),
        ({"ch_names": 8}, "a list in 'ch_names'; found int"),
    ],
)
def test_recordings_that_make_no_sense_are_refused(tmp_path, changes, message):
    write_eeg2(tmp_path)
    write_raw(tmp_path, sessions=("01",), **changes)
    with pytest.raises(InputError, match=message):
        THINGS_EEG2.open(tmp_path, "01", tmp_path / "work", files="raw")
    assert "bad" in {line.status for line in THINGS_EEG2.check(tmp_path)}
