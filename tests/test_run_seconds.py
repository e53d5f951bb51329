"""How long each run was recorded, as every loader knows it, and what is said where nobody does."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from braindecode_suite.core.errors import InputError
from braindecode_suite.core.minutes import timeline
from braindecode_suite.datasets.algonauts2023 import ALGONAUTS2023
from braindecode_suite.datasets.bids_fmri import BIDS_FMRI
from braindecode_suite.datasets.bold5000 import BOLD5000_DATASET
from braindecode_suite.datasets.god import GOD_DATASET
from braindecode_suite.datasets.haxby import HAXBY
from braindecode_suite.datasets.parcels import PARCELS
from braindecode_suite.datasets.simulate_bold import BoldParameters, write_bold_study
from braindecode_suite.datasets.simulated_nsd import SIMULATED_NSD
from braindecode_suite.datasets.table import read_trials
from braindecode_suite.datasets.things_fmri import THINGS_FMRI
from tests.haxby_files import write_haxby
from tests.release_writers import write_algonauts, write_bold5000, write_god, write_things
from tests.test_parcels import write_ragged

SHARED = Path(os.environ.get("BDS_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))


def test_nsds_runs_last_five_minutes(simulated_folder: Path, tmp_path: Path) -> None:
    study = SIMULATED_NSD.open(simulated_folder, "01", tmp_path)
    times = timeline(study)
    assert (times.seconds == 300).all()
    assert len(times.seconds) == 24
    assert times.stated
    bare = tmp_path / "bare"
    shutil.copytree(simulated_folder, bare, copy_function=os.link)
    (bare / "nsddata/ppdata/subj01/behav/responses.tsv").unlink()
    unknown = SIMULATED_NSD.open(
        bare, "01", tmp_path / "work"
    )  # 60 trials a session: no release's, so its runs are unknown
    with pytest.raises(InputError, match=r"simulated-nsd sub-01: .* run_seconds, .*; found neither"):
        timeline(unknown)


def test_haxbys_runs_last_as_long_as_their_volumes(tmp_path: Path) -> None:
    write_haxby(tmp_path, tr=2.0)
    study = HAXBY.open(tmp_path, "01", tmp_path)
    np.testing.assert_allclose(timeline(study).seconds, 26 * 2.0)


def test_a_bids_run_lasts_as_long_as_its_bold_also_when_read_back(tmp_path: Path) -> None:
    write_bold_study(tmp_path / "study", BoldParameters(shape=(6, 5, 4), images=24), subjects=("01",))
    study = BIDS_FMRI.open(tmp_path / "study", "01", tmp_path / "work", prepare=True)
    bold = next((tmp_path / "study").rglob("*preproc_bold.nii.gz"))
    import nibabel as nib

    image = nib.nifti1.load(bold)
    np.testing.assert_allclose(timeline(study).seconds, image.shape[3] * float(image.header.get_zooms()[3]))
    root = Path(study.provenance["derivative"])
    again = BIDS_FMRI.open(root, "01", tmp_path / "unused", stimuli=str(tmp_path / "study" / "stimuli"))
    np.testing.assert_allclose(timeline(again).seconds, timeline(study).seconds)


def test_gods_runs_last_as_long_as_their_events_and_without_events_nobody_knows(tmp_path: Path) -> None:
    write_god(tmp_path)
    study = GOD_DATASET.open(tmp_path, "01", tmp_path / "work")
    training = study.trials[study.trials["kind"] == "training"]
    design = GOD_DATASET.design(tmp_path, "01")
    shown = design[design["kind"] == "training"].groupby(["session", "run"]).size()
    lengths = training.groupby(["session", "run"])["run_seconds"].first()
    np.testing.assert_allclose(lengths, 33 + 9.0 * shown)  # the rest before, nine seconds a picture
    for folder in tmp_path.glob("sub-01"):
        shutil.rmtree(folder)
    with pytest.raises(InputError, match=r"god sub-01: .*; found neither"):
        timeline(GOD_DATASET.open(tmp_path, "01", tmp_path / "work"))


@pytest.mark.skipif(not (SHARED / "god_events").is_dir(), reason="../shared/data/god_events is not here")
def test_a_real_run_of_training_pictures_lasts_534_seconds() -> None:
    design = GOD_DATASET.design(SHARED / "god_events", "01")
    assert set(design.loc[design["kind"] == "training", "run_seconds"]) == {534.0}


def test_bold5000s_runs_end_with_their_last_trial_where_the_bold_is_absent(tmp_path: Path) -> None:
    write_bold5000(tmp_path)
    study = BOLD5000_DATASET.open(tmp_path, "CSI1", tmp_path / "work")
    assert study.trials["run_seconds"].isna().all()
    times = timeline(study)
    last = (study.trials["onset"] + study.trials["duration"]).groupby(times.run).max()
    np.testing.assert_allclose(times.seconds, last)
    assert not times.stated


def test_releases_without_times_say_so(tmp_path: Path) -> None:
    write_algonauts(tmp_path / "algonauts")
    with pytest.raises(
        InputError, match=r"algonauts2023 sub-01: expected when its trials were recorded: .*neither"
    ):
        timeline(ALGONAUTS2023.open(tmp_path / "algonauts", "01", tmp_path))
    write_things(tmp_path / "things")
    with pytest.raises(
        InputError, match=r"things-fmri sub-01: expected when its trials were recorded: .*neither"
    ):
        timeline(THINGS_FMRI.open(tmp_path / "things", "01", tmp_path))


def test_a_table_may_hold_the_lengths_of_its_runs(tmp_path: Path) -> None:
    rows = pd.DataFrame(
        {"stimulus_id": list("abcd"), "run": [1, 1, 2, 2], "run_seconds": [310, 310, 305.5, 305.5]}
    )
    rows.to_csv(tmp_path / "trials.tsv", sep="\t", index=False)
    assert read_trials(tmp_path / "trials.tsv", 4)["run_seconds"].tolist() == [310, 310, 305.5, 305.5]


def test_runs_of_series_last_as_long_as_their_samples(tmp_path: Path) -> None:
    trials = PARCELS.open(write_ragged(tmp_path), "01", tmp_path).trials
    time = PARCELS.open(tmp_path, "01", tmp_path).space.repetition_time  # type: ignore[attr-defined]
    np.testing.assert_allclose(trials["run_seconds"], np.array([14, 11, 9]) * time)
