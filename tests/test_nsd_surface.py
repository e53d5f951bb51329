"""The release's betas on fsaverage: known vertices, trials and regions written with bare nibabel."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from braindecode_suite.core.errors import InputError
from braindecode_suite.core.spaces import SurfaceSpace
from braindecode_suite.datasets.nsd import NSD, prepare
from tests.test_nsd_golden import BETAS, N_TRIALS, write_release

N_VERTICES = 163_842
GENERAL = {"lh": [7, 500, 163_841], "rh": [0, 42]}


def write_mgh(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.MGHImage(values.reshape(N_VERTICES, 1, 1, *values.shape[1:]), np.eye(4)), path)


def write_surface(root: Path) -> dict[str, np.ndarray]:
    """Two sessions of six trials for both hemispheres, ncsnr, and one region of five vertices; return the betas."""
    write_release(root, "hdf5")
    rng = np.random.default_rng(0)
    betas = {}
    for side, inside in GENERAL.items():
        folder = root / "nsddata_betas" / "ppdata" / "subj02" / "fsaverage" / BETAS
        values = np.zeros((N_VERTICES, 2 * N_TRIALS), np.float32)
        values[inside] = rng.standard_normal((len(inside), 2 * N_TRIALS))
        for session in (1, 2):
            write_mgh(
                folder / f"{side}.betas_session{session:02d}.mgh",
                values[:, (session - 1) * N_TRIALS :][:, :N_TRIALS],
            )
        ncsnr = np.full(N_VERTICES, np.nan, np.float32)
        ncsnr[inside] = 0.1 * np.arange(1, len(inside) + 1)
        write_mgh(folder / f"{side}.ncsnr.mgh", ncsnr)
        labels = root / "nsddata" / "freesurfer" / "fsaverage" / "label"
        general, streams = np.zeros(N_VERTICES, np.int32), np.zeros(N_VERTICES, np.int32)
        general[inside] = 1
        streams[inside[0]] = 5
        write_mgh(labels / f"{side}.nsdgeneral.mgz", general)
        write_mgh(labels / f"{side}.streams.mgz", streams)
        betas[side] = values
    (labels / "streams.mgz.ctab").write_text("0 Unknown\n5 ventral\n6 lateral\n")
    return betas


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    root = tmp_path_factory.mktemp("surface") / "nsd"
    return root, write_surface(root)


@pytest.fixture(scope="module")
def study(release, tmp_path_factory):
    return NSD.open(release[0], "02", tmp_path_factory.mktemp("work"), space="fsaverage")


def test_rows_are_left_then_right_vertices_of_the_region(study, release):
    expected = np.concatenate([release[1][side][inside] for side, inside in GENERAL.items()]).T
    assert_array_equal(study.read(slice(None)), expected)
    assert_array_equal(study.read(np.array([11, 0])), expected[[11, 0]])
    assert study.responses.shape == (12, 5)


def test_the_trials_are_those_of_the_volumes(study, release, tmp_path):
    volumes = NSD.open(release[0], "02", tmp_path)
    assert study.trials.equals(volumes.trials)


def test_values_go_back_to_their_vertices_as_gifti(study):
    assert isinstance(study.space, SurfaceSpace)
    images = study.space.inverse_transform(np.arange(1.0, 6))
    assert_array_equal(images["left"].darrays[0].data[GENERAL["lh"]], [1, 2, 3])
    assert_array_equal(images["right"].darrays[0].data[GENERAL["rh"]], [4, 5])


def test_regions_and_noise_are_read_for_both_hemispheres(study):
    assert_array_equal(study.space.rois["ventral"], [True, False, False, True, False])
    assert not study.space.rois["lateral"].any()
    assert_allclose(study.noise.ncsnr, [0.1, 0.2, 0.3, 0.1, 0.2])
    assert study.valid.all()


def test_all_vertices_may_be_asked_for_and_other_regions_not(release, tmp_path):
    every = NSD.open(release[0], "02", tmp_path, space="fsaverage", roi="all")
    assert every.n_units == 2 * N_VERTICES
    assert every.valid.sum() == 5
    with pytest.raises(
        InputError, match="`roi`: expected one of all, lateral, nsdgeneral, streams, ventral; found 'V9'"
    ):
        NSD.open(release[0], "02", tmp_path, space="fsaverage", roi="V9")


def test_preparing_finds_the_vertices_that_vary(study, release):
    assert prepare(study).valid.all()
    assert study.responses.is_prepared
    assert {line.status for line in NSD.check(release[0])} <= {"ok", "optional-missing"}


def test_files_that_do_not_fit_together_are_refused(tmp_path):
    root = tmp_path / "nsd"
    write_surface(root)
    folder = root / "nsddata_betas" / "ppdata" / "subj02" / "fsaverage" / BETAS
    with pytest.raises(
        InputError, match=r"`format`: expected auto, for the surface's \.mgh files; found hdf5"
    ):
        NSD.open(root, "02", tmp_path, space="fsaverage", format="hdf5")
    whole = (folder / "rh.betas_session02.mgh").read_bytes()
    (folder / "rh.betas_session02.mgh").write_bytes(whole[:-1000])
    cut = NSD.open(root, "02", tmp_path, space="fsaverage")
    with pytest.raises(InputError, match=r"rh\.betas_session02\.mgh: expected .*; found"):
        cut.read(np.array([11]))
    write_mgh(folder / "rh.betas_session02.mgh", np.zeros((N_VERTICES, 5), np.float32))
    with pytest.raises(InputError, match="expected 6 trials of 163842 vertices; found 5 of 163842"):
        NSD.open(root, "02", tmp_path, space="fsaverage")
    (folder / "rh.betas_session02.mgh").unlink()
    with pytest.raises(
        InputError, match=r"rh\.betas_session02\.mgh: expected the right hemisphere's betas; found nothing"
    ):
        NSD.open(root, "02", tmp_path, space="fsaverage")
