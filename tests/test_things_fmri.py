"""things-fmri: the table of responses without unpickling, concepts that stay apart, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from braindecode_suite.core.errors import InputError
from braindecode_suite.core.protocols import DesignedDataset
from braindecode_suite.core.spaces import UnitSpace
from braindecode_suite.datasets import voxel_table
from braindecode_suite.datasets.protocols_releases import things_fmri_original, things_fmri_zero_shot
from braindecode_suite.datasets.things_fmri import THINGS_FMRI
from tests.release_writers import THINGS_AFFINE, THINGS_CONCEPTS, write_pandas_table, write_things

RESPONSES = "betas_csv/sub-01_ResponseData.h5"
TRIALS = "betas_csv/sub-01_StimulusMetadata.csv"
VOXELS = "betas_csv/sub-01_VoxelMetadata.csv"
MASK = "brainmasks/sub-01_space-T1w_brainmask.nii.gz"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("things")
    write_things(folder)
    return folder


@pytest.fixture
def copy(made, tmp_path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "data"))


def test_a_known_voxel_of_a_known_trial_comes_back(tmp_path):
    """Golden: rows are voxels, columns trials; the volume is indexed by voxel_x, voxel_y, voxel_z."""
    folder = tmp_path / "betas_csv"
    folder.mkdir()
    rows = ["train,1,1,2,0,dog_12s.jpg", "test,1,1,2,1,candelabra_14s.jpg", "train,1,2,2,2,ice_cream_03n.jpg"]
    text = "\n".join(["trial_type,session,run,subject_id,trial_id,stimulus", *rows])
    (folder / "sub-02_StimulusMetadata.csv").write_text(text, encoding="utf-8")
    header = "voxel_id,subject_id,voxel_x,voxel_y,voxel_z,nc_singletrial,V1,LO1 (prf)"
    voxels = ["0,2,3,1,0,50.0,1,0", "1,2,0,1,1,0.0,0,0", "2,2,1,2,0,20.0,0,1"]
    (folder / "sub-02_VoxelMetadata.csv").write_text("\n".join([header, *voxels]), encoding="utf-8")
    with h5py.File(folder / "sub-02_ResponseData.h5", "w") as file:
        file.create_group("ResponseData").attrs["nblocks"] = 2
        file["ResponseData/block0_values"] = [[1.0, 2, 3], [4, 5, 6], [7, 8, -9.5]]
        file["ResponseData/block1_values"] = [[0], [1], [2]]
    brain = np.zeros((4, 3, 2), np.uint8)
    brain[3, 1, 0] = brain[0, 1, 1] = brain[1, 2, 0] = 1
    nib.save(nib.Nifti1Image(brain, THINGS_AFFINE), tmp_path / "mask.nii.gz")
    study = THINGS_FMRI.open(
        tmp_path, "02", tmp_path / "work", mask=str(tmp_path / "mask.nii.gz"), roi="brain"
    )
    assert list(study.stimulus_ids) == ["dog_12s", "candelabra_14s", "ice_cream_03n"]
    assert list(study.trials["concept"]) == ["dog", "candelabra", "ice_cream"]
    values = study.read(np.array([2, 0]))
    image = study.space.inverse_transform(values)
    np.testing.assert_array_equal(image.get_fdata()[3, 1, 0], [3, 1])
    np.testing.assert_array_equal(image.get_fdata()[1, 2, 0], [-9.5, 7])
    np.testing.assert_array_equal(image.affine, THINGS_AFFINE)
    ceiling = nib.Nifti1Image(study.space.unmask(study.noise.ceiling(np.ones(1))), THINGS_AFFINE).get_fdata()
    assert ceiling[3, 1, 0] == pytest.approx(0.5)
    assert ceiling[1, 2, 0] == pytest.approx(0.2)
    only = THINGS_FMRI.open(tmp_path, "02", tmp_path / "work", roi=["LO1 (prf)"])
    np.testing.assert_array_equal(only.read(slice(None)), [[7], [8], [-9.5]])


def test_the_default_voxels_are_those_of_the_regions(made, tmp_path):
    study = THINGS_FMRI.open(made, "01", tmp_path)
    assert study.n_units == 20
    assert set(study.space.rois) == {"V1", "lFFA", "rPPA"}
    assert (study.space.rois["V1"] & study.space.rois["lFFA"]).sum() == 2
    assert not study.space.rois["rPPA"].any()
    whole = THINGS_FMRI.open(made, "01", tmp_path, roi="brain")
    assert whole.n_units == len(pd.read_csv(made / VOXELS))
    np.testing.assert_array_equal(
        study.space.unmask(study.read(np.array([5])))[study.space.mask][:, 0], study.read(np.array([5]))[0]
    )
    back = whole.space.unmask(whole.read(np.array([5])))[study.space.mask][:, 0]
    np.testing.assert_array_equal(back, study.read(np.array([5]))[0])
    with pytest.raises(InputError, match="`roi`: expected one of V1, brain, lFFA, rPPA, regions; found 'V2'"):
        THINGS_FMRI.open(made, "01", tmp_path, roi="V2")
    with pytest.raises(InputError, match="expected voxels in rPPA; found none"):
        THINGS_FMRI.open(made, "01", tmp_path, roi="rPPA")


def test_blocks_of_voxels_make_the_same_rows(made, tmp_path, monkeypatch):
    one = THINGS_FMRI.open(made, "01", tmp_path / "one", roi="brain").read(slice(None))
    monkeypatch.setattr(voxel_table, "_BLOCK_BYTES", 3 * 8 * len(one))
    other = THINGS_FMRI.open(made, "01", tmp_path / "other", roi="brain").read(slice(None))
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("names", ["pickled", "text"])
@pytest.mark.parametrize("ids", ["apart", "first column", "absent"])
def test_all_ways_of_storing_the_table_give_the_same_study(copy, tmp_path, names, ids):
    expected = THINGS_FMRI.open(copy, "01", tmp_path / "one").read(slice(None))
    with h5py.File(copy / RESPONSES) as file:
        values = file["ResponseData/block0_values"][:]
    numbers = np.arange(len(values))
    if ids == "first column":
        values = np.concatenate([numbers[:, None], values], axis=1)
    write_pandas_table(copy / RESPONSES, values, numbers if ids == "apart" else None, names=names)
    study = THINGS_FMRI.open(copy, "01", tmp_path / "other")
    np.testing.assert_array_equal(study.read(slice(None)), expected)
    told = any("pickled and were not read" in warning for warning in study.provenance["warnings"])
    assert told == (names == "pickled" or ids == "first column")


def test_no_concept_of_the_test_images_trains(made, tmp_path):
    study = THINGS_FMRI.open(made, "01", tmp_path)
    (split,) = things_fmri_zero_shot([study], seed=5)
    assert split.keys("test", "concept") == set(THINGS_CONCEPTS[:3])
    assert {"stimulus", "concept"} <= split.disjoint
    assert not split.keys("train", "concept") & split.keys("validation", "concept")
    assert split.keys("train", "concept") | split.keys("validation", "concept") == set(THINGS_CONCEPTS[3:])
    assert len(split.test[0]) == 9
    assert any(note.startswith("12 training trials") for note in split.notes)


def test_the_original_split_says_that_it_is_not_zero_shot(made, tmp_path):
    study = THINGS_FMRI.open(made, "01", tmp_path)
    (split,) = things_fmri_original([study])
    assert split.card()["shared"]["concept"]["train/test"] == 3
    assert any("not zero-shot" in note for note in split.notes)
    assert not split.shared("stimulus")["train/test"]


def test_the_design_is_there_without_responses(tmp_path):
    write_things(tmp_path, responses=False, images=False)
    assert isinstance(THINGS_FMRI, DesignedDataset)
    assert len(THINGS_FMRI.design(tmp_path, "01")) == 65
    lines = THINGS_FMRI.check(tmp_path)
    assert [line.status for line in lines] == ["ok", "ok", "missing", "optional-missing"]
    assert lines[0].found == (
        "3 sessions, 56 train images of 14 concepts (56 trials), 3 test images of 3 concepts (9 trials)"
    )
    with pytest.raises(
        InputError, match=r"sub-01_ResponseData.h5: expected the responses; found nothing there"
    ):
        THINGS_FMRI.open(tmp_path, "01", tmp_path)


def test_without_a_mask_there_is_no_brain_map(copy, tmp_path):
    (copy / MASK).unlink()
    study = THINGS_FMRI.open(copy, "01", tmp_path)
    assert isinstance(study.space, UnitSpace)
    assert any("no brain mask" in warning for warning in study.provenance["warnings"])
    assert study.space.rois["V1"].sum() == 12


def change(path: Path, edit) -> None:
    edit(pd.read_csv(path)).to_csv(path, index=False)


def edit_values(folder: Path, edit) -> None:
    with h5py.File(folder / RESPONSES) as file:
        values, ids = file["ResponseData/block0_values"][:], file["ResponseData/block1_values"][:, 0]
    write_pandas_table(folder / RESPONSES, *edit(values, ids))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: change(f / TRIALS, lambda t: t.drop(columns="stimulus")), "expected a column 'stimulus'"),
        (lambda f: change(f / TRIALS, lambda t: t.assign(trial_type="catch")), "trial_type train or test; found 'catch'"),
        (lambda f: change(f / TRIALS, lambda t: t.assign(session=1.5)), "whole numbers in column 'session'"),
        (lambda f: change(f / TRIALS, lambda t: t.assign(concept=t.index)), "one concept an image; found several of"),
        (lambda f: change(f / TRIALS, lambda t: t[:-1]), r"voxels x 64 trials, as the metadata; found \(\d+, 65\)"),
        (lambda f: change(f / VOXELS, lambda t: t[:-1]), r"expected \d+ voxels x 65 trials"),
        (lambda f: change(f / VOXELS, lambda t: t.assign(voxel_x=t.voxel_x + 9)), r"a volume that holds voxel"),
        (lambda f: change(f / VOXELS, lambda t: t.assign(voxel_x=t.voxel_x[0], voxel_y=t.voxel_y[0], voxel_z=t.voxel_z[0])), "found two in one place"),
        (lambda f: edit_values(f, lambda v, i: (v, i[::-1])), r"expected voxel_id 0 in row 0, as VoxelMetadata; found"),
        (lambda f: edit_values(f, lambda v, i: (v.astype(int), i)), "expected .* voxels x 65 trials"),
        (lambda f: (f / RESPONSES).write_bytes((f / RESPONSES).read_bytes()[:5000]), "expected a whole HDF5 file"),
    ],
)  # fmt: skip
def test_files_that_do_not_fit_are_refused(copy, tmp_path, damage, message):
    damage(copy)
    with pytest.raises(InputError, match=message):
        THINGS_FMRI.open(copy, "01", tmp_path)
    assert any(line.status == "bad" for line in THINGS_FMRI.check(copy))


def test_a_response_that_is_no_number_leaves_nothing_half_written(copy, tmp_path):
    def spoil(values, ids):
        values[3, 7] = np.nan
        return values, ids

    edit_values(copy, spoil)
    study = THINGS_FMRI.open(copy, "01", tmp_path / "work")
    with pytest.raises(InputError, match="found 1 NaN or infinite values, the first of voxel 3, trial 7"):
        study.read(slice(None))
    assert not [path for path in (tmp_path / "work").rglob("*") if path.is_file()]


def test_columns_in_another_order_are_refused(copy, tmp_path):
    write_order = np.array([str(k) for k in range(65)], dtype="S")[::-1]
    with h5py.File(copy / RESPONSES, "r+") as file:
        del file["ResponseData/block0_items"]
        file["ResponseData/block0_items"] = write_order
    with pytest.raises(InputError, match="expected column 0 named '0'; found '64'"):
        THINGS_FMRI.open(copy, "01", tmp_path)


@pytest.mark.filterwarnings("ignore::pandas.errors.PerformanceWarning")
def test_what_pandas_itself_writes_is_read(copy, tmp_path):
    pytest.importorskip("tables", reason="pandas needs PyTables to write HDF5")
    with h5py.File(copy / RESPONSES) as file:
        values = file["ResponseData/block0_values"][:]
    expected = THINGS_FMRI.open(copy, "01", tmp_path / "one").read(slice(None))
    for columns in (list(range(values.shape[1])), [str(k) for k in range(values.shape[1])]):
        table = pd.DataFrame(values, columns=columns)
        table.insert(0, "voxel_id", np.arange(len(values)))
        table.to_hdf(copy / RESPONSES, key="ResponseData", mode="w")
        study = THINGS_FMRI.open(copy, "01", tmp_path / str(columns[0].__class__))
        np.testing.assert_array_equal(study.read(slice(None)), expected)
