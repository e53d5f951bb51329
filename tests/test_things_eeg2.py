"""THINGS-EEG2 from both preprocessed layouts: values, times, images, the split, and what is refused."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from braindecode_suite.core.errors import InputError
from braindecode_suite.datasets.protocols_eeg import things_eeg2_200way
from braindecode_suite.datasets.things_eeg2 import THINGS_EEG2, repair_times
from tests.eeg2_files import CHANNELS, write_eeg2


@pytest.mark.parametrize("layout", ["released", "nice"])
def test_every_row_is_its_conditions_repeat_in_either_layout(tmp_path, layout):
    data = write_eeg2(tmp_path, layout=layout)
    study = THINGS_EEG2.open(tmp_path, "01", tmp_path / "work")
    assert study.space.names == tuple(CHANNELS)
    row = 4 * 17 + 2
    assert_array_equal(study.read(np.array([row]))[0], data["train"][17, 2].astype(np.float32))
    assert study.trials.loc[row, "stimulus_id"] == "thing8_17b"
    assert study.trials.loc[row, "concept"] == "00009_thing8"
    assert study.trials.loc[row, "repeat"] == 3
    last = len(study.trials) - 1
    assert_array_equal(study.read(slice(last, None))[0], data["test"][7, 5].astype(np.float32))
    assert study.trials.loc[last, "published"] == "test"
    assert len(study.trials) == 60 * 4 + 8 * 6
    whole = np.concatenate([part.reshape(-1, *part.shape[2:]) for part in data.values()])
    assert_array_equal(study.read(slice(None)), whole.astype(np.float32))


def test_the_times_that_were_not_cut_with_the_data_are_repaired_and_told(tmp_path):
    write_eeg2(tmp_path, layout="nice")
    study = THINGS_EEG2.open(tmp_path, "01", tmp_path / "work")
    assert_allclose(study.space.times, np.arange(250) / 250, atol=1e-12)
    assert study.space.sfreq == 250
    assert any("300 times were saved with 250 samples" in text for text in study.provenance["warnings"])


def test_the_released_times_are_kept(tmp_path):
    write_eeg2(tmp_path)
    study = THINGS_EEG2.open(tmp_path, "01", tmp_path / "work")
    assert_allclose(study.space.times, np.arange(-4, 16) / 100)
    assert not any("times" in text for text in study.provenance["warnings"])
    assert any("noise normalisation" in text for text in study.provenance["warnings"])


@pytest.mark.parametrize(
    ("times", "match"),
    [
        (np.arange(10) / 100, r"expected times of 20 samples; found 10 from 0 to 0\.09 s"),
        (np.arange(-20, 20) / 100 + 0.1, r"expected times of 20 samples; found 40 from -0\.1"),
        (np.zeros(20), r"expected times that ascend"),
    ],
)
def test_times_that_cannot_be_repaired_are_refused(times, match):
    with pytest.raises(InputError, match=match):
        repair_times(Path("epochs.npy"), times, 20)


def test_electrodes_lie_where_the_ten_twenty_system_has_them(tmp_path):
    write_eeg2(tmp_path)
    where = THINGS_EEG2.open(tmp_path, "01", tmp_path / "work").space.positions["1"]
    place = dict(zip(CHANNELS, where, strict=True))
    assert np.isfinite(where).all()
    assert place["O1"][0] < place["Oz"][0] < place["O2"][0]
    assert place["Oz"][1] < place["Pz"][1]


def test_the_split_tests_on_new_concepts_and_holds_whole_concepts_out(tmp_path):
    write_eeg2(tmp_path, subjects=("01", "02"))
    studies = [THINGS_EEG2.open(tmp_path, label, tmp_path / "work") for label in ("01", "02")]
    (split,) = things_eeg2_200way(studies, seed=3)
    trials = studies[0].trials
    concepts = {
        part: set(trials["concept"].iloc[rows])
        for part, rows in (("train", split.train[0]), ("val", split.validation[0]), ("test", split.test[0]))
    }
    assert not concepts["train"] & concepts["val"]
    assert not (concepts["train"] | concepts["val"]) & concepts["test"]
    assert len(concepts["test"]) == 8
    assert len(concepts["train"] | concepts["val"]) == 30
    assert_array_equal(split.train[0], split.train[1])
    assert "concept" in split.disjoint


def test_images_are_found_by_the_conditions_files(tmp_path):
    write_eeg2(tmp_path)
    study = THINGS_EEG2.open(tmp_path, "01", tmp_path / "work")
    assert len(study.stimuli.ids) == 68
    assert study.stimuli.attributes.loc["other3_03b", "category"] == "00104_other3"
    without = tmp_path / "without"
    write_eeg2(without, images=False)
    study = THINGS_EEG2.open(without, "01", tmp_path / "work")
    assert study.stimuli is None
    assert any("images of all 68 stimuli are not there" in text for text in study.provenance["warnings"])


def change(path: Path, **entries) -> None:
    content = {"preprocessed_eeg_data": np.ones((60, 4, 7, 20)), "ch_names": CHANNELS}
    content |= {"times": np.arange(-4, 16) / 100} | entries
    path.write_bytes(pickle.dumps({k: v for k, v in content.items() if v is not None}, protocol=4))


@pytest.mark.parametrize(
    ("entries", "match"),
    [
        ({"times": None}, r"training\.npy: expected an entry 'times'"),
        ({"ch_names": CHANNELS[:-1]}, r"expected 7 names of channels; found 6"),
        ({"preprocessed_eeg_data": np.ones((60, 7, 20))}, r"expected numbers of conditions x repeats"),
        (
            {"preprocessed_eeg_data": np.ones((59, 4, 7, 20))},
            r"expected 59 entries of 'train_img_files'; found 60",
        ),
        (
            {"ch_names": [*CHANNELS[:-1], "Fz"]},
            r"test\.npy: expected channels and times of the training part",
        ),
    ],
)
def test_files_that_do_not_fit_together_are_refused(tmp_path, entries, match):
    write_eeg2(tmp_path)
    change(tmp_path / "preprocessed_data/sub-01/preprocessed_eeg_training.npy", **entries)
    with pytest.raises(InputError, match=match):
        THINGS_EEG2.open(tmp_path, "01", tmp_path / "work")
    assert "bad" in {line.status for line in THINGS_EEG2.check(tmp_path)}


def test_rows_with_nan_are_refused_when_they_are_read(tmp_path):
    write_eeg2(tmp_path)
    data = np.ones((60, 4, 7, 20))
    data[3, 1, 2, 5] = np.nan
    change(tmp_path / "preprocessed_data/sub-01/preprocessed_eeg_training.npy", preprocessed_eeg_data=data)
    study = THINGS_EEG2.open(tmp_path, "01", tmp_path / "work")
    assert study.read(np.arange(13)).shape == (13, 7, 20)
    with pytest.raises(InputError, match=r"row 13: expected finite values; found NaN"):
        study.read(np.arange(20))
