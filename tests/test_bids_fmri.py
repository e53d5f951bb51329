"""bids-fmri: from a BIDS folder with fMRIPrep derivatives to single-trial betas, and back from the files it writes."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import h5py
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nilearn.glm.first_level import compute_regressor
from numpy.testing import assert_allclose, assert_array_equal

from braindecode_suite.core.errors import InputError
from braindecode_suite.core.recipe import Recipe
from braindecode_suite.datasets import PROTOCOLS
from braindecode_suite.datasets.bids_events import read_run_events
from braindecode_suite.datasets.bids_fmri import BIDS_FMRI
from braindecode_suite.datasets.bids_study import SHARED_NOISE, prepare
from braindecode_suite.datasets.simulate_bold import BoldParameters, true_regressors, write_bold_study
from braindecode_suite.datasets.single_trial_files import ncsnr
from braindecode_suite.learning.single_trial_glm import ESTIMATORS, Estimator, trial_weights

SMALL = BoldParameters(shape=(6, 5, 4), images=24, spaces=("MNI152NLin2009cAsym", "T1w"))
MNI = {"space": "MNI152NLin2009cAsym"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bids") / "study"
    return folder, write_bold_study(folder, SMALL, subjects=("01", "02"))


@pytest.fixture
def folder(made) -> Path:
    return made[0]


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(0), b - b.mean(0)
    return float(np.mean(np.sum(a * b, 0) / np.sqrt(np.sum(a * a, 0) * np.sum(b * b, 0))))


def write_golden(root: Path, amplitudes: np.ndarray) -> Path:
    """Write one run without sessions by bare nibabel, pandas and json: two voxels without noise, one outside the mask."""
    times = 0.4 + 2.0 * np.arange(80)
    onsets = 5.0 + 11.0 * np.arange(len(amplitudes))
    regressors = [compute_regressor(([o], [3.0], [1.0]), "glover", times)[0][:, 0] for o in onsets]
    signal = np.column_stack(regressors) @ amplitudes  # (volumes, voxels), percent
    drift = np.cos(np.pi * (np.arange(80) + 0.5) / 80)
    volumes = np.zeros((3, 2, 2, 80), np.float32)
    mask = np.zeros((3, 2, 2), np.uint8)
    for number, place in enumerate([(0, 1, 0), (2, 0, 1)]):  # in C order of the array
        mask[place] = 1
        volumes[place] = 500 + 5 * (signal[:, number] + drift)
    volumes[1, 1, 1] = 7000
    stem = "sub-x1_task-look"
    derived = root / "derivatives/fmriprep/sub-x1/func"
    derived.mkdir(parents=True)
    (root / "sub-x1/func").mkdir(parents=True)
    (root / "dataset_description.json").write_text('{"Name": "golden", "BIDSVersion": "1.9.0"}')
    affine = np.array([[-2.0, 0, 0, 10], [0, 2, 0, -20], [0, 0, 3, 5], [0, 0, 0, 1]])
    bold = nib.Nifti1Image(volumes, affine)
    bold.header.set_zooms((2, 2, 3, 2.0))
    nib.save(bold, derived / f"{stem}_space-T1w_desc-preproc_bold.nii.gz")
    nib.save(nib.Nifti1Image(mask, affine), derived / f"{stem}_space-T1w_desc-brain_mask.nii.gz")
    sidecar = {"RepetitionTime": 2.0, "StartTime": 0.4}
    (derived / f"{stem}_space-T1w_desc-preproc_bold.json").write_text(json.dumps(sidecar))
    lines = ["onset\tduration\tpicture", *(f"{o}\t3.0\tpicture{k % 3}" for k, o in enumerate(onsets))]
    (root / f"sub-x1/func/{stem}_events.tsv").write_text("\n".join(lines) + "\n")
    return root


@pytest.mark.parametrize("estimator", ["lss", "lsa"])
def test_a_run_without_noise_gives_its_amplitudes_back(tmp_path, estimator):
    amplitudes = np.random.default_rng(0).standard_normal((13, 2))
    root = write_golden(tmp_path / "golden", amplitudes)
    options = {"stimulus_column": "picture", "confounds": (), "estimator": estimator}
    study = BIDS_FMRI.open(root, "sub-x1", tmp_path / "work", **options)
    betas = study.read(slice(None))
    # percent of the voxel's own mean over the run, which the signal itself moves a little
    image = nib.load(
        root / "derivatives/fmriprep/sub-x1/func/sub-x1_task-look_space-T1w_desc-preproc_bold.nii.gz"
    )
    mean = image.get_fdata()[[0, 2], [1, 0], [0, 1]].mean(axis=1)
    expected = amplitudes * 500 / mean
    if estimator == "lss":  # one least-squares fit a trial, with the two cosines slower than 128 s
        times = 0.4 + 2.0 * np.arange(80)
        trials = [
            compute_regressor(([5 + 11 * k], [3.0], [1.0]), "glover", times)[0][:, 0] for k in range(13)
        ]
        waves = [np.cos(np.pi * k * (np.arange(80) + 0.5) / 80) for k in (0, 1, 2)]
        signal = np.column_stack(trials) @ expected
        for number, trial in enumerate(trials):
            columns = np.column_stack([trial, sum(trials) - trial, *waves])
            expected[number] = np.linalg.lstsq(columns, signal, rcond=None)[0][0]
    assert_allclose(betas, expected, atol=2e-3)
    assert list(study.trials["stimulus_id"]) == [f"picture{k % 3}" for k in range(13)]
    assert list(study.trials["repeat"][:6]) == [1, 1, 1, 2, 2, 2]
    assert (study.trials["session"] == 1).all()
    assert study.stimuli is None
    assert (
        "images of all 3 stimuli are not there (e.g. picture0): the study has no stimuli"
        in study.provenance["warnings"]
    )
    back = study.space.inverse_transform(betas[0])
    assert back.affine[0, 0] == -2
    assert back.get_fdata()[2, 0, 1] == pytest.approx(betas[0, 1])


def test_opening_reads_no_bold(folder, tmp_path, monkeypatch):
    def refuse(*arguments):
        raise AssertionError("BOLD was read")

    monkeypatch.setattr("braindecode_suite.datasets.single_trial_betas.read_run", refuse)
    study = BIDS_FMRI.open(folder, "01", tmp_path, **MNI)
    assert study.responses.shape == (72, study.n_units)
    assert not any(tmp_path.iterdir())
    with pytest.raises(AssertionError, match="BOLD was read"):
        study.read([0])
    assert not list(tmp_path.rglob("*.h5"))


def test_only_the_asked_participant_is_walked(made, tmp_path):
    folder = tmp_path / "study"
    shutil.copytree(made[0], folder)
    for damaged in folder.rglob("sub-02_*"):
        damaged.write_bytes(b"not what it was")
    assert BIDS_FMRI.subjects(folder) == ["01", "02"]
    assert len(BIDS_FMRI.open(folder, "01", tmp_path / "work", **MNI).read([0, 1])) == 2


def test_trials_follow_sessions_runs_and_onsets(made, tmp_path):
    folder, truth = made
    study = BIDS_FMRI.open(folder, "02", tmp_path, **MNI)
    assert list(study.trials["stimulus_id"]) == truth["02"].stimulus_ids
    assert study.trials.groupby(["session", "run"]).ngroups == 6
    assert study.trials.groupby(["session", "run"])["onset"].apply(lambda o: (np.diff(o) > 0).all()).all()
    assert {"task", "duration", "trial_type", "response_time"} <= set(study.trials.columns)
    assert study.stimuli.attributes["category"].loc["images/tool_002.png"] == "tool"


def test_space_task_and_session_are_chosen(folder, tmp_path):
    with pytest.raises(
        InputError, match="option space: expected one of MNI152NLin2009cAsym, T1w; found none named"
    ):
        BIDS_FMRI.open(folder, "01", tmp_path)
    study = BIDS_FMRI.open(folder, "01", tmp_path, space="T1w", task="images", sessions=["02", "03"])
    assert study.space.name == "T1w"
    assert set(study.trials["session"]) == {2, 3}
    with pytest.raises(InputError, match="`sessions`: expected one of 01, 02, 03; found '07'"):
        BIDS_FMRI.open(folder, "01", tmp_path, **MNI, sessions=["07"])
    with pytest.raises(InputError, match="`task`: expected one of images; found 'rest'"):
        BIDS_FMRI.open(folder, "01", tmp_path, **MNI, task="rest")
    with pytest.raises(InputError, match=r"`space`: expected one of .*; found 'MNI'"):
        BIDS_FMRI.open(folder, "01", tmp_path, space="MNI")


def test_repeats_are_those_of_the_named_column(folder, tmp_path):
    by_category = BIDS_FMRI.open(folder, "01", tmp_path, **MNI, stimulus_column="category")
    assert set(by_category.trials["stimulus_id"]) == {"face", "house", "tool", "animal"}
    assert by_category.trials["repeat"].max() == 18
    with pytest.raises(
        InputError, match=r"expected a column 'picture'.*found columns onset, duration, trial_type"
    ):
        BIDS_FMRI.open(folder, "01", tmp_path, **MNI, stimulus_column="picture")


def test_a_mask_and_regions_on_the_grid_are_taken(made, tmp_path):
    folder, truth = made
    mask = truth["01"].mask
    affine = nib.load(next(folder.rglob("*desc-brain_mask.nii.gz"))).affine
    half, region = mask.copy(), np.zeros(mask.shape)
    half[:, :, 2:] = False
    region[2:4, 2, 1] = 1
    nib.save(nib.Nifti1Image(half.astype(np.uint8), affine), tmp_path / "half.nii.gz")
    nib.save(nib.Nifti1Image(region, affine), tmp_path / "region.nii.gz")
    options = {"mask": str(tmp_path / "half.nii.gz"), "rois": {"spot": str(tmp_path / "region.nii.gz")}}
    study = BIDS_FMRI.open(folder, "01", tmp_path / "a", **MNI, **options)
    assert study.n_units == half.sum()
    assert study.space.rois["spot"].sum() == 2
    whole = BIDS_FMRI.open(folder, "01", tmp_path / "b", **MNI)
    assert_array_equal(study.read([3]), whole.read([3])[:, half[mask]])


def test_estimators_responses_filters_and_confounds_each_change_the_betas(folder, tmp_path):
    variants = [
        {},
        {"estimator": "lsa"},
        {"hrf": "spm"},
        {"hrf": "library"},
        {"high_pass": 0.0},
        {"confounds": ["motion", "wm_csf"]},
        {"confounds": ["motion", "high_pass"]},
        {"motion": "full"},
        {"model_others": False},
        {"duration": 1.0},
    ]
    found = [BIDS_FMRI.open(folder, "01", tmp_path, **MNI, **v).read([5]) for v in variants]
    assert len(list(tmp_path.glob("singletrial_*"))) == len(variants)
    for first in range(len(found)):
        for second in range(first):
            assert np.abs(found[first] - found[second]).max() > 1e-3, (variants[first], variants[second])


def test_the_library_is_chosen_on_training_runs_only(made, tmp_path):
    folder = tmp_path / "study"
    shutil.copytree(made[0], folder)
    study = BIDS_FMRI.open(folder, "01", tmp_path / "work", **MNI, hrf="library")
    train = np.flatnonzero(study.trials["session"] != 3)
    chosen = study.prepared(Recipe(()), train).responses.chosen
    assert len(np.unique(chosen)) > 2
    # what the held-out session holds cannot matter
    for path in folder.rglob("*ses-03*MNI*desc-preproc_bold.nii.gz"):
        image = nib.load(path)
        noise = np.random.default_rng(0).normal(1000, 30, image.shape).astype(np.float32)
        nib.save(nib.Nifti1Image(noise, image.affine, image.header), path)
    again = BIDS_FMRI.open(folder, "01", tmp_path / "other", **MNI, hrf="library")
    assert_array_equal(again.prepared(Recipe(()), train).responses.chosen, chosen)
    every = np.arange(len(study.trials))
    assert not np.array_equal(again.prepared(Recipe(()), every).responses.chosen, chosen)
    # rows read are those of the chosen responses
    with h5py.File(study.responses.files.betas) as file:
        stored = file["betas"][:]
    tuned = study.prepared(Recipe(()), train)
    expected = stored[7][chosen, np.arange(study.n_units)]
    assert_array_equal(tuned.read([7])[0], expected)
    assert_array_equal(np.asarray(tuned.responses[7]), expected)
    with pytest.raises(InputError, match="option hrf: expected whole runs for training"):
        study.prepared(Recipe(()), every[::2])


def test_the_default_split_is_by_run_and_a_random_one_warns(folder, tmp_path):
    study = BIDS_FMRI.open(folder, "01", tmp_path, **MNI)
    assert BIDS_FMRI.card.protocols[0] == "leave-one-run-out"
    splits = PROTOCOLS["leave-one-run-out"]([study])
    assert len(splits) == 6
    assert SHARED_NOISE not in splits[0].card()["notes"]
    assert SHARED_NOISE in PROTOCOLS["random-by-image"]([study])[0].card()["notes"]


def test_the_derivative_is_bids_and_reads_back_as_the_same_study(folder, tmp_path):
    study = BIDS_FMRI.open(folder, "01", tmp_path / "work", **MNI, hrf="library", prepare=True)
    root = Path(study.provenance["derivative"])
    assert json.loads((root / "dataset_description.json").read_text())["DatasetType"] == "derivative"
    stem = "sub-01_task-images_space-MNI152NLin2009cAsym"
    assert sorted(path.name for path in (root / "sub-01/func").iterdir()) == [
        f"{stem}_desc-brain_mask.nii.gz",
        f"{stem}_desc-singletrial_betas.h5",
        f"{stem}_desc-singletrial_betas.json",
        f"{stem}_desc-singletrial_events.tsv",
        f"{stem}_stat-ncsnr_statmap.nii.gz",
    ]
    with h5py.File(root / f"sub-01/func/{stem}_desc-singletrial_betas.h5") as file:
        assert file["betas"].shape == (72, 10, study.n_units)
        assert_array_equal(file["betas"][:, 3], study.read(slice(None)))  # the one that peaks at 5 s
    volume = nib.load(root / f"sub-01/func/{stem}_stat-ncsnr_statmap.nii.gz")
    assert_array_equal(volume.get_fdata(dtype=np.float32)[study.space.mask], study.noise.ncsnr)

    assert BIDS_FMRI.subjects(root) == ["01"]
    again = BIDS_FMRI.open(root, "01", tmp_path / "unused", stimuli=str(folder / "stimuli"))
    pd.testing.assert_frame_equal(again.trials, study.trials)
    assert again.space.describe() == study.space.describe()
    assert_array_equal(again.noise.ncsnr, study.noise.ncsnr)
    assert_array_equal(again.valid, study.valid)
    assert_array_equal(again.read([9, 2]), study.read([9, 2]))
    assert again.stimuli.ids == study.stimuli.ids
    train = np.flatnonzero(study.trials["session"] == 1)
    tuned = [one.prepared(Recipe(()), train).read([40]) for one in (study, again)]
    assert_array_equal(*tuned)
    assert {line.status for line in BIDS_FMRI.check(root)} == {"ok"}


def test_betas_are_made_once_and_again_when_their_input_changes(made, tmp_path, monkeypatch):
    folder = tmp_path / "study"
    shutil.copytree(made[0], folder)
    first = BIDS_FMRI.open(folder, "01", tmp_path / "work", **MNI)
    betas, stamp = first.read([0]), first.responses.files.betas.stat().st_mtime_ns
    again = BIDS_FMRI.open(folder, "01", tmp_path / "work", **MNI)
    again.read([0])
    assert again.responses.files.betas.stat().st_mtime_ns == stamp
    events = next(folder.glob("sub-01/ses-01/func/*run-1_events.tsv"))
    table = pd.read_csv(events, sep="\t", keep_default_na=False)
    table["onset"] += 1.0
    table.to_csv(events, sep="\t", index=False)
    changed = BIDS_FMRI.open(folder, "01", tmp_path / "work", **MNI)
    assert np.abs(changed.read([0]) - betas).max() > 1e-2


def test_nothing_half_written_is_taken_for_betas(made, tmp_path):
    folder = tmp_path / "study"
    shutil.copytree(made[0], folder)
    last = sorted(folder.rglob("sub-01_ses-03*MNI*desc-preproc_bold.nii.gz"))[-1]
    whole = last.read_bytes()
    last.write_bytes(whole[: len(whole) // 2])
    study = BIDS_FMRI.open(folder, "01", tmp_path / "work", **MNI)
    with pytest.raises(InputError, match=r"desc-preproc_bold.nii.gz: expected \d+ (whole )?volumes"):
        study.read([0])
    assert [path.name for path in (tmp_path / "work").rglob("*") if path.is_file()] == [
        "dataset_description.json"
    ]
    last.write_bytes(whole)
    repaired = BIDS_FMRI.open(folder, "01", tmp_path / "work", **MNI)
    assert repaired.read([0]).shape == (1, study.n_units)


def test_signal_over_noise_is_nsds():
    rng = np.random.default_rng(0)
    trials = pd.DataFrame(
        {"session": np.repeat([1, 2], 300), "stimulus_id": np.tile(np.arange(200), 3).astype(str)}
    )
    signal = rng.standard_normal((200, 4)) * [0.0, 0.5, 1.0, 2.0]
    betas = (
        signal[np.tile(np.arange(200), 3)]
        + rng.standard_normal((600, 4))
        + 5 * trials[["session"]].to_numpy()
    )
    found = np.square(ncsnr(betas, trials))
    assert_allclose(found / (found + 1), [0, 0.2, 0.5, 0.8], atol=0.1)
    assert ncsnr(betas[:200], trials[:200]) is None


def test_scrubbed_and_unsteady_volumes_are_left_out(made, tmp_path):
    folder = tmp_path / "study"
    shutil.copytree(made[0], folder)
    path = sorted(folder.rglob("sub-01_ses-01*run-1_desc-confounds_timeseries.tsv"))[0]
    table = pd.read_csv(path, sep="\t")
    table["non_steady_state_outlier00"] = (np.arange(len(table)) == 0).astype(float)
    table.to_csv(path, sep="\t", index=False, na_rep="n/a")
    bold = sorted(folder.rglob("sub-01_ses-01*run-1*MNI*desc-preproc_bold.nii.gz"))[0]
    plain = BIDS_FMRI.open(folder, "01", tmp_path / "a", **MNI).read([0, 1])
    image = nib.load(bold)
    values = image.get_fdata(dtype=np.float32)
    values[..., 0] += 500  # as the first volumes of a run are
    nib.save(nib.Nifti1Image(values, image.affine, image.header), bold)
    study = BIDS_FMRI.open(folder, "01", tmp_path / "b", **MNI)
    assert_allclose(study.read([0, 1]), plain, atol=1e-5)
    sidecar = json.loads(study.responses.files.sidecar.read_text())
    assert sidecar["VolumesLeftOut"] == [1, 0, 0, 0, 0, 0]


def test_glmsingles_betas_are_read_where_asked_for(made, tmp_path):
    folder = tmp_path / "study"
    shutil.copytree(made[0], folder)
    mask = made[1]["01"].mask
    rng = np.random.default_rng(0)
    values = rng.standard_normal((*mask.shape, 72)).astype(np.float32)
    first = tuple(int(i) for i in np.argwhere(mask)[0])
    values[(*first, 4)] = np.nan
    home = folder / "derivatives/glmsingle/sub-01"
    home.mkdir(parents=True)
    with h5py.File(home / "TYPED_FITHRF_GLMDENOISE_RR.hdf5", "w") as file:
        file["betasmd"] = values
    plain = BIDS_FMRI.open(folder, "01", tmp_path / "a", **MNI)
    assert "GLMsingle's betas are there too: estimator=glmsingle reads them" in plain.provenance["warnings"]
    study = BIDS_FMRI.open(folder, "01", tmp_path / "b", **MNI, estimator="glmsingle", prepare=True)
    assert_array_equal(study.read([71, 5])[:, 1:], values[mask].T[[71, 5], 1:])
    assert study.valid.tolist() == [False] + [True] * (study.n_units - 1)
    notes = PROTOCOLS["leave-one-run-out"]([study])[0].card()["notes"]
    assert any("tuned on all trials" in note for note in notes)

    with h5py.File(home / "TYPED_FITHRF_GLMDENOISE_RR.hdf5", "w") as file:
        file["betasmd"] = values[..., :60]
    with pytest.raises(InputError, match=r"expected betasmd of shape \(6, 5, 4, 72\).*found \(6, 5, 4, 60\)"):
        BIDS_FMRI.open(folder, "01", tmp_path / "c", **MNI, estimator="glmsingle")
    (home / "TYPED_FITHRF_GLMDENOISE_RR.hdf5").rename(home / "TYPED_FITHRF_GLMDENOISE_RR.npy")
    with pytest.raises(
        InputError, match=r"\.npy: expected GLMsingle's betas as HDF5.*found a pickled dictionary"
    ):
        BIDS_FMRI.open(folder, "01", tmp_path / "d", **MNI, estimator="glmsingle")
    with pytest.raises(InputError, match="expected GLMsingle's outputs"):
        BIDS_FMRI.open(folder, "02", tmp_path / "e", **MNI, estimator="glmsingle")


def test_glmsingles_betas_may_lie_session_by_session(made, tmp_path):
    folder = tmp_path / "study"
    shutil.copytree(made[0], folder)
    values = np.random.default_rng(0).standard_normal((*made[1]["01"].mask.shape, 72)).astype(np.float32)
    for number in range(3):
        home = tmp_path / "glm" / "sub-01" / f"ses-{number + 1:02d}"
        home.mkdir(parents=True)
        with h5py.File(home / "TYPEB_FITHRF.hdf5", "w") as file:
            file["betasmd"] = values[..., 24 * number : 24 * number + 24]
    options = {**MNI, "estimator": "glmsingle", "glmsingle": str(tmp_path / "glm")}
    study = BIDS_FMRI.open(folder, "01", tmp_path / "a", **options)
    assert_array_equal(study.read(slice(None)), values[study.space.mask].T)
    (tmp_path / "glm" / "sub-01" / "ses-02" / "TYPEB_FITHRF.hdf5").unlink()
    with pytest.raises(InputError, match="expected GLMsingle's outputs for session 02; found ses-01, ses-03"):
        BIDS_FMRI.open(folder, "01", tmp_path / "b", **options)


def test_links_into_the_datasets_own_annex_are_followed(made, tmp_path):
    folder = tmp_path / "study"
    shutil.copytree(made[0], folder)
    annex = folder / ".git" / "annex" / "objects"
    annex.mkdir(parents=True)
    for number, path in enumerate(sorted(folder.glob("derivatives/fmriprep/sub-01/*/func/*.nii.gz"))):
        stored = annex / f"object{number}"
        path.rename(stored)
        path.symlink_to(stored)
    linked = BIDS_FMRI.open(folder, "01", tmp_path / "a", **MNI).read([3])
    assert_array_equal(linked, BIDS_FMRI.open(made[0], "01", tmp_path / "b", **MNI).read([3]))


def test_a_copy_in_another_process_opens_its_own_map(folder, tmp_path):
    study = BIDS_FMRI.open(folder, "01", tmp_path, **MNI, hrf="library")
    rows = study.read([2, 9])
    again = pickle.loads(pickle.dumps(study.responses))
    assert not again.opened
    assert_array_equal(again[np.array([2, 9])], rows)


def test_a_bids_folder_is_a_dataset_of_the_command_line(folder):
    from braindecode_suite.workflows.inputs import find_dataset

    assert find_dataset(str(folder), None) == (BIDS_FMRI, folder)


def test_preparing_another_loaders_study_is_refused(folder, tmp_path):
    from dataclasses import replace

    study = BIDS_FMRI.open(folder, "01", tmp_path, **MNI)
    with pytest.raises(InputError, match="expected a study of bids-fmri"):
        prepare(replace(study, responses=np.zeros((72, study.n_units), np.float32)))


def test_a_bids_folder_goes_through_to_a_decoding_report(folder, tmp_path):
    from braindecode_suite.cli import main

    words = ["run", str(folder), str(tmp_path / "out"), "participant", "--participant-label", "sub-01"]
    options = "dataset_options={space: MNI152NLin2009cAsym, hrf: library, estimator: lsa}"
    assert (
        main([*words, "--device", "cpu", "--set", options, "--set", "beside=[]", "--set", "n_bootstrap=1000"])
        == 0
    )
    (scores,) = (tmp_path / "out" / "sub-01" / "decoding").glob("*_scores.tsv")
    table = pd.read_csv(scores, sep="\t")
    headline = table[
        (table["metric"] == "accuracy") & table["versus"].isna() & (table["control"] == "brain")
    ].iloc[0]
    assert headline["split"] == "leave-one-run-out"
    assert headline["value"] > 0.4  # chance is a quarter
    assert headline["p_value"] < 0.01
    report = (tmp_path / "out" / "sub-01.html").read_text()
    assert "LSA, library, from BOLD" in report
    # the images come back in other runs: chance says so, and new images are scored beside
    new = table[(table["split"] == "leave-one-run-out-new-images") & (table["metric"] == "accuracy")].iloc[0]
    assert headline["chance"] > 0.26
    assert new["chance"] < headline["chance"] - 0.02
    assert "Names the class of new images" in report
    assert "100 % of the test examples show an image that the training part shows too" in report


@pytest.mark.parametrize("spacing", [4.0, 10.0])
def test_betas_come_close_to_what_the_true_responses_would_give(tmp_path, spacing):
    given = BoldParameters(shape=(6, 6, 4), images=90, spacing=spacing)
    truth = write_bold_study(tmp_path / "study", given, seed=3)["01"]
    for estimator in ESTIMATORS:
        study = BIDS_FMRI.open(tmp_path / "study", "01", tmp_path, estimator=estimator, hrf="library")
        train = np.flatnonzero(study.trials["session"] < 3)
        ours = correlation(study.prepared(Recipe(()), train).read(slice(None)), truth.amplitudes)
        best = correlation(with_true_responses(tmp_path / "study", truth, given, estimator), truth.amplitudes)
        assert ours >= 0.9 * best, (estimator, spacing)
        assert ours > 0.3
        signal = ncsnr(study.read(slice(None)), study.trials)
        assert signal is not None
        assert np.median(signal) > 0.3


def with_true_responses(folder: Path, truth, given: BoldParameters, estimator: Estimator) -> np.ndarray:
    """Return betas of the same estimator with each voxel's true response; nuisance made here, by nilearn."""
    from nilearn.glm.first_level import make_first_level_design_matrix
    from nilearn.interfaces.fmriprep import load_confounds

    betas = []
    for path in sorted(folder.rglob("*desc-preproc_bold.nii.gz")):
        name = path.name.split("_space-")[0]
        raw = folder / "/".join(path.parent.relative_to(folder / "derivatives/fmriprep").parts)
        events = read_run_events(raw / f"{name}_events.tsv", 1e4)
        image: Any = nib.load(path)
        series = image.get_fdata()[truth.mask].T
        times = given.start_time + given.t_r * np.arange(len(series))
        confounds, _ = load_confounds(str(path), strategy=("motion",), motion="basic")
        cue = compute_regressor(([1.0], [2.0], [1.0]), "glover", times)[0]
        drifts = make_first_level_design_matrix(times, drift_model="cosine", high_pass=1 / 128)
        nuisance = np.hstack([drifts.to_numpy(), confounds.to_numpy(), cue])
        found = np.empty((len(events.trials), series.shape[1]))
        for peak in np.unique(truth.peaks):
            here = truth.peaks == peak
            trials = true_regressors(times, events.trials["onset"].to_numpy(), given.duration, peak)
            found[:, here] = (
                trial_weights(trials, nuisance, estimator) @ series[:, here] / series[:, here].mean(0)
            )
        betas.append(found)
    return np.concatenate(betas)
