"""Parcels out of BOLD: the mean of each parcel's voxels, the fit of maps, and the way into a study."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

from braindecode_suite.core.errors import InputError
from braindecode_suite.datasets.parcels import PARCELS
from braindecode_suite.datasets.parcels_extract import extract_parcels, read_confounds

AFFINE = np.diag([2.0, 2, 2, 1])
NAMES = ("a", "b", "c")


def write(folder: Path, n_volumes: int = 30, tr: float = 0.8) -> tuple[Path, Path, np.ndarray, np.ndarray]:
    """Write BOLD and an atlas of three parcels; return their paths and contents."""
    rng = np.random.default_rng(0)
    bold = (100 + rng.standard_normal((6, 5, 4, n_volumes))).astype(np.float32)
    image = nib.Nifti1Image(bold, AFFINE)
    image.header.set_zooms((2, 2, 2, tr))
    image.header.set_xyzt_units("mm", "sec")
    image.to_filename(folder / "bold.nii.gz")
    atlas = np.zeros((6, 5, 4), np.int16)
    atlas[:2], atlas[2:4, :, :2], atlas[5] = 1, 2, 3
    nib.Nifti1Image(atlas, AFFINE).to_filename(folder / "atlas.nii.gz")
    return folder / "bold.nii.gz", folder / "atlas.nii.gz", bold, atlas


def test_every_parcel_is_the_mean_of_its_voxels_and_becomes_a_study(tmp_path):
    bold_path, atlas_path, bold, atlas = write(tmp_path)
    out = tmp_path / "study" / "sub-01_task-rest_seg-three_timeseries.tsv"
    extract_parcels(bold_path, atlas_path, NAMES, out)
    study = PARCELS.open(out.parent, "01", tmp_path)
    assert (study.space.labels, study.space.repetition_time, study.space.atlas) == (
        NAMES,
        pytest.approx(0.8),
        "three",
    )
    expected = np.stack([bold[atlas == k].mean(axis=0) for k in (1, 2, 3)])
    assert_allclose(study.read(slice(None))[0], expected, rtol=1e-5)


def test_maps_are_fitted_by_least_squares(tmp_path):
    bold_path, _, bold, _ = write(tmp_path)
    maps = np.random.default_rng(1).random((6, 5, 4, 3)).astype(np.float32)
    nib.Nifti1Image(maps, AFFINE).to_filename(tmp_path / "maps.nii.gz")
    out = extract_parcels(bold_path, tmp_path / "maps.nii.gz", NAMES, tmp_path / "sub-1.tsv")
    design, values = maps.reshape(-1, 3).astype(float), bold.reshape(-1, 30).astype(float)
    expected = np.linalg.lstsq(design, values, rcond=None)[0]
    assert_allclose(pd.read_csv(out, sep="\t").to_numpy().T, expected, rtol=1e-4)


def test_confounds_are_taken_out(tmp_path):
    bold_path, atlas_path, bold, atlas = write(tmp_path)
    table = pd.DataFrame({"x": np.sin(np.arange(30)), "d": np.r_[np.nan, np.arange(29.0)]})
    table.to_csv(tmp_path / "confounds.tsv", sep="\t", index=False, na_rep="n/a")
    confounds = read_confounds(tmp_path / "confounds.tsv", ["x", "d"])
    out = extract_parcels(bold_path, atlas_path, NAMES, tmp_path / "sub-1.tsv", confounds=confounds)
    series = pd.read_csv(out, sep="\t").to_numpy()
    for column in confounds:
        assert abs(np.corrcoef(series[:, 0], confounds[column])[0, 1]) < 1e-4
    raw = bold[atlas == 1].mean(axis=0)
    assert np.corrcoef(series[:, 0], raw)[0, 1] > 0.8


def test_what_does_not_fit_is_refused_and_nothing_is_written(tmp_path):
    bold_path, atlas_path, *_ = write(tmp_path)
    out = tmp_path / "out" / "sub-1.tsv"
    with pytest.raises(
        InputError, match="expected the values 1 to 4, one a label; found 3 values from 1 to 3"
    ):
        extract_parcels(bold_path, atlas_path, [*NAMES, "d"], out)
    with pytest.raises(InputError, match=r"expected a repetition time of 2 s; found 0\.8 s in the header"):
        extract_parcels(bold_path, atlas_path, NAMES, out, repetition_time=2.0)
    with pytest.raises(
        InputError, match=r"`confounds`: expected shape \(volumes=30, columns\); found \(29, 1\)"
    ):
        extract_parcels(bold_path, atlas_path, NAMES, out, confounds=pd.DataFrame({"x": np.zeros(29)}))
    far = np.asarray(nib.load(atlas_path).dataobj)
    shifted = AFFINE.copy()
    shifted[0, 3] = 8.0  # parcel c falls outside the recordings
    nib.Nifti1Image(far, shifted).to_filename(tmp_path / "far.nii.gz")
    with pytest.raises(
        InputError, match=r"far\.nii\.gz: expected 3 parcels with voxels in bold\.nii\.gz; found \d"
    ):
        extract_parcels(bold_path, tmp_path / "far.nii.gz", NAMES, out)
    whole = bold_path.read_bytes()
    bold_path.write_bytes(whole[:-3000])
    with pytest.raises(InputError, match=r"bold\.nii\.gz: expected whole volumes"):
        extract_parcels(bold_path, atlas_path, NAMES, out)
    assert not out.parent.exists() or not list(out.parent.iterdir())


def test_confounds_that_are_missing_are_refused(tmp_path):
    (tmp_path / "c.tsv").write_text("x\ty\n1\tn/a\n2\t3\n4\tn/a\n")
    with pytest.raises(InputError, match="expected columns x, z; found no z"):
        read_confounds(tmp_path / "c.tsv", ["x", "z"])
    with pytest.raises(InputError, match="expected values after the first row; found none in y"):
        read_confounds(tmp_path / "c.tsv", ["y"])
