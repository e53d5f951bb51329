"""One known voxel, trial and image in the release's layout, written from its description with bare libraries."""

from __future__ import annotations

from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from scipy.io import savemat

from braindecode_suite.datasets.nsd import NSD

SHAPE = (5, 4, 3)  # x, y, z
N_TRIALS, N_SESSIONS, N_IMAGES = 6, 2, 9
GENERAL = [(1, 2, 0), (4, 1, 2), (1, 0, 2), (3, 3, 1)]
KNOWN_VOXEL, KNOWN_TRIAL, KNOWN_SESSION, KNOWN_VALUE = (4, 1, 2), 3, 2, -345
BETAS = "betas_fithrf_GLMdenoise_RR"


def write_release(root: Path, file_format: str) -> None:
    """Two sessions of six trials, four voxels in nsdgeneral, nine images of 4 x 4; subject 2."""
    rng = np.random.default_rng(7)
    experiment = root / "nsddata" / "experiments" / "nsd"
    experiment.mkdir(parents=True)
    order = np.array([1, 3, 2, 1, 4, 3, 2, 4, 1, 3, 2, 4])
    subjectim = np.array([[5, 9, 1, 2], [5, 9, 7, 3]])  # 1-based 73k ids; the first two are shared
    savemat(
        experiment / "nsd_expdesign.mat",
        {"masterordering": order[None], "subjectim": subjectim, "sharedix": np.array([[5, 9]])},
    )
    stimuli = root / "nsddata_stimuli" / "stimuli" / "nsd"
    stimuli.mkdir(parents=True)
    with h5py.File(stimuli / "nsd_stimuli.hdf5", "w") as file:
        bricks = np.zeros((N_IMAGES, 4, 4, 3), np.uint8)
        bricks[:] = np.arange(N_IMAGES)[:, None, None, None]
        bricks[6, 0, 3] = 10, 20, 30  # row 0, column 3 of the image with 1-based id 7
        file["imgBrick"] = bricks

    subject = root / "nsddata" / "ppdata" / "subj02"
    (subject / "behav").mkdir(parents=True)
    shown = subjectim[1][order - 1]
    pd.DataFrame(
        {
            "SUBJECT": 2,
            "SESSION": np.repeat([1, 2], N_TRIALS),
            "RUN": np.tile([1, 1, 1, 2, 2, 2], 2),
            "TRIAL": np.tile([1, 2, 3], 4),
            "73KID": shown,
            "10KID": order,
            "TIME": 736000 + np.repeat([0, 7], N_TRIALS) + np.tile([0, 4, 8, 300, 304, 312], 2) / 86400,
        }
    ).to_csv(subject / "behav" / "responses.tsv", sep="\t", index=False)

    affine = np.diag([1.8, 1.8, 1.8, 1.0])
    affine[:3, 3] = -10, 20, 5
    roi = subject / "func1pt8mm" / "roi"
    roi.mkdir(parents=True)
    general = np.full(SHAPE, -1, np.int16)
    general[:3] = 0
    general[tuple(np.array(GENERAL).T)] = 1
    nib.save(nib.Nifti1Image(general, affine), roi / "nsdgeneral.nii.gz")
    visual = np.where(general == 1, 0, -1).astype(np.int16)
    visual[KNOWN_VOXEL] = 7
    visual[1, 0, 2] = 1
    nib.save(nib.Nifti1Image(visual, affine), roi / "prf-visualrois.nii.gz")
    labels = root / "nsddata" / "freesurfer" / "subj02" / "label"
    labels.mkdir(parents=True)
    names = ["0 Unknown", "1 V1v", "2 V1d", "7 hV4"]
    (labels / "prf-visualrois.mgz.ctab").write_text("\n".join(names) + "\n", encoding="utf-8")

    folder = root / "nsddata_betas" / "ppdata" / "subj02" / "func1pt8mm" / BETAS
    folder.mkdir(parents=True)
    for session in (1, 2):
        betas = rng.integers(-3000, 3000, (*SHAPE, N_TRIALS), dtype=np.int16)  # x, y, z, trials
        if session == KNOWN_SESSION:
            betas[(*KNOWN_VOXEL, KNOWN_TRIAL)] = KNOWN_VALUE
        stem = folder / f"betas_session{session:02d}"
        if file_format == "hdf5":
            with h5py.File(f"{stem}.hdf5", "w") as file:
                file.create_dataset("betas", data=betas.transpose(3, 2, 1, 0), chunks=(N_TRIALS, 1, 1, 1))
        else:
            nib.save(nib.Nifti1Image(betas, affine), f"{stem}.nii.gz")
    ncsnr = np.full(SHAPE, np.nan, np.float32)
    ncsnr[tuple(np.array(GENERAL).T)] = 0.1
    ncsnr[KNOWN_VOXEL] = 0.5
    nib.save(nib.Nifti1Image(ncsnr, affine), folder / "ncsnr.nii.gz")


@pytest.fixture(params=["hdf5", "nii.gz"])
def study(request, tmp_path):
    write_release(tmp_path / "nsd", request.param)
    return NSD.open(tmp_path / "nsd", "02", tmp_path / "work")


@pytest.fixture
def voxel(study) -> int:
    """Row of the known voxel among the voxels of nsdgeneral."""
    inside = [tuple(int(i) for i in place) for place in np.argwhere(study.space.mask)]
    return inside.index(KNOWN_VOXEL)


def test_the_known_beta_is_the_stored_integer_over_300(study, voxel):
    row = (KNOWN_SESSION - 1) * N_TRIALS + KNOWN_TRIAL
    assert study.read(np.array([row]))[0, voxel] == pytest.approx(KNOWN_VALUE / 300, rel=1e-6)
    assert study.responses.shape == (N_SESSIONS * N_TRIALS, len(GENERAL))


def test_the_known_trial_showed_the_designs_image_in_its_run(study):
    trial = study.trials.iloc[(KNOWN_SESSION - 1) * N_TRIALS + KNOWN_TRIAL]
    # masterordering has 3 at position 10; the third entry of subject 2's list is 7, counted from 1
    assert (trial["stimulus_id"], trial["session"], trial["run"], trial["repeat"]) == ("6", 2, 2, 3)
    assert trial["onset"] == pytest.approx(0.0)
    assert not trial["shared"]
    assert study.trials["shared"].tolist() == [i in ("4", "8") for i in study.stimulus_ids]


def test_the_known_pixel_is_in_row_and_column_of_its_image(study):
    picture = study.stimuli.images(["8", "6", "8"])
    assert picture[1, 0, 3].tolist() == [10, 20, 30]
    assert picture[1, 3, 0].tolist() == [6, 6, 6]
    assert picture[0].max() == 8


def test_regions_come_by_name_from_the_label_table(study, voxel):
    assert study.space.rois["hV4"].tolist() == [k == voxel for k in range(len(GENERAL))]
    assert study.space.rois["V1v"].sum() == 1
    assert study.space.rois["V1d"].sum() == 0
    assert any("V1d" in warning for warning in study.provenance["warnings"])


def test_the_way_back_puts_the_voxel_where_it_was(study, voxel):
    values = np.zeros(len(GENERAL))
    values[voxel] = 2.5
    image = study.space.inverse_transform(values)
    assert image.get_fdata()[KNOWN_VOXEL] == 2.5
    assert np.count_nonzero(image.get_fdata()) == 1
    assert image.affine[:3, 3].tolist() == [-10, 20, 5]


def test_the_noise_ceiling_of_the_known_voxel_follows_the_formula(study, voxel):
    assert study.noise.ncsnr[voxel] == pytest.approx(0.5)
    expected = 0.25 / (0.25 + (1 / 3 + 1 / 3 + 1) / 3)
    assert study.noise.ceiling(np.array([3, 3, 1]))[voxel] == pytest.approx(expected)


def test_both_beta_formats_give_the_same_study(tmp_path):
    studies = []
    for file_format in ("hdf5", "nii.gz"):
        write_release(tmp_path / file_format, file_format)
        studies.append(NSD.open(tmp_path / file_format, "subj02", tmp_path / f"work-{file_format}"))
    first, second = studies
    np.testing.assert_array_equal(first.read(slice(None)), second.read(slice(None)))
    pd.testing.assert_frame_equal(first.trials, second.trials)
    assert first.space.describe() == second.space.describe()
