"""Haxby 2001: volumes with their labels as they lie on disk, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from braindecode_suite.core.errors import InputError
from braindecode_suite.datasets import PROTOCOLS
from braindecode_suite.datasets.haxby import HAXBY
from tests.haxby_files import AFFINE, SHAPE, write_haxby, write_roi

SHARED = Path(os.environ.get("BDS_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
REAL = SHARED / "haxby2001_slice"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason=f"{REAL} is not here")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("haxby")
    return folder, write_haxby(folder)


def test_one_voxel_of_one_volume_is_where_bare_nibabel_put_it(tmp_path):
    bold = np.zeros((3, 2, 2, 4), np.float32)
    bold[2, 0, 1, 3] = 7.5
    image = nib.Nifti1Image(bold, np.diag([2.0, 2, 2, 1]))
    image.header.set_zooms((2, 2, 2, 1.5))
    image.header.set_xyzt_units("mm", "sec")
    image.to_filename(tmp_path / "bold.nii.gz")
    mask = np.zeros((3, 2, 2), np.uint8)
    mask[0, 1, 0] = mask[2, 0, 1] = mask[1, 1, 1] = 1  # in C order: (0, 1, 0), (1, 1, 1), (2, 0, 1)
    nib.Nifti1Image(mask, np.diag([2.0, 2, 2, 1])).to_filename(tmp_path / "mask.nii.gz")
    (tmp_path / "attributes_literal.txt").write_text("rest 0\nface 0\nrest 1\ncat 1\n")
    study = HAXBY.open(tmp_path, "01", tmp_path)
    np.testing.assert_array_equal(study.read(np.array([3, 0])), [[0, 0, 7.5], [0, 0, 0]])
    assert study.trials["stimulus_id"].tolist() == ["rest", "face", "rest", "cat"]
    assert study.trials["onset"].tolist() == [0.0, 1.5, 0.0, 1.5]
    assert study.trials["block"].tolist() == [1, 2, 3, 4]
    back = np.asarray(study.space.inverse_transform(np.array([1.0, 2.0, 3.0])).dataobj)
    assert back[2, 0, 1] == 3
    assert back[1, 1, 1] == 2


def test_rows_are_the_masked_volumes_and_blocks_are_stretches_of_one_label(made):
    folder, written = made
    study = HAXBY.open(folder, "01", folder)
    np.testing.assert_array_equal(study.read(slice(None)), written["bold"][written["mask"]].T)
    assert study.stimuli is None
    blocks = study.trials[study.trials["category"] != "rest"].groupby("block")
    assert len(blocks) == 6 * 4
    assert (blocks.size() == 4).all()
    assert (blocks[["category", "run"]].nunique() == 1).all(axis=None)


def test_opening_reads_no_volume(made, monkeypatch):
    folder, _ = made
    study = HAXBY.open(folder, "01", folder)
    assert "_values" not in vars(study.responses)
    study.read(slice(0, 1))
    assert "_values" in vars(study.responses)


def test_folders_of_several_subjects_and_regions_are_read(tmp_path):
    write_haxby(tmp_path / "subj1", header=True)
    written = write_haxby(tmp_path / "subj2", header=True, seed=1)
    (tmp_path / "subj1" / "mask.nii.gz").rename(tmp_path / "mask.nii.gz")
    write_roi(tmp_path / "subj2", "mask4_vt", written["left"])
    assert HAXBY.subjects(tmp_path) == ["01", "02"]
    assert HAXBY.open(tmp_path, "01", tmp_path).space.rois == {}
    second = HAXBY.open(tmp_path, "02", tmp_path)
    np.testing.assert_array_equal(second.space.rois["mask4_vt"], written["left"][written["mask"]])
    assert [line.status for line in HAXBY.check(tmp_path)] == ["ok", "optional-missing", "ok", "ok"]


def test_leaving_a_run_out_proves_runs_disjoint_and_counts_shared_categories(made):
    folder, _ = made
    splits = PROTOCOLS["leave-one-run-out"]([HAXBY.open(folder, "01", folder)])
    assert len(splits) == 6
    card = splits[0].card()
    assert card["disjoint"] == ["run"]
    assert card["shared"]["run"]["train/test"] == 0
    assert card["shared"]["stimulus"]["train/test"] == 5


def other_affine(folder: Path) -> None:
    nib.Nifti1Image(np.ones(SHAPE, np.int16), AFFINE + 0.1).to_filename(folder / "mask.nii.gz")


def flipped(folder: Path) -> None:
    nib.Nifti1Image(np.ones(SHAPE, np.int16), AFFINE @ np.diag([-1.0, 1, 1, 1])).to_filename(
        folder / "mask.nii.gz"
    )


def smaller(folder: Path) -> None:
    nib.Nifti1Image(np.ones((6, 5, 1), np.int16), AFFINE).to_filename(folder / "mask.nii.gz")


def fewer_labels(folder: Path) -> None:
    (folder / "attributes_literal.txt").write_text("rest 0\nface 0\n")


def words_for_runs(folder: Path) -> None:
    path = folder / "attributes_literal.txt"
    path.write_text(path.read_text().replace("rest 0", "rest first", 1))


def runs_mixed(folder: Path) -> None:
    path = folder / "attributes_literal.txt"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[1:], lines[0]]) + "\n")


def no_time(folder: Path) -> None:
    write_haxby(folder, tr=0.0)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            other_affine,
            r"mask.nii.gz: expected the affine of bold.nii.gz \(-3.1 in row 1, column 1\); found -3",
        ),
        (flipped, r"mask.nii.gz: expected the orientation LAS of bold.nii.gz; found RAS: an axis is flipped"),
        (smaller, r"expected the grid \(6, 5, 2\) of bold.nii.gz; found shape \(6, 5, 1\)"),
        (fewer_labels, "expected 156 rows, one a volume; found 2"),
        (words_for_runs, "expected run numbers in column 2; found 'first' in row 1"),
        (runs_mixed, "expected the volumes of a run together; found run 0 in two places"),
        (no_time, "expected a repetition time in the header; found 0 sec"),
    ],
)
def test_files_that_do_not_fit_together_are_refused(tmp_path, damage, message):
    write_haxby(tmp_path)
    damage(tmp_path)
    with pytest.raises(InputError, match=message):
        HAXBY.open(tmp_path, "01", tmp_path)
    assert "bad" in {line.status for line in HAXBY.check(tmp_path)}


def test_a_truncated_file_is_refused_when_it_is_read(tmp_path):
    write_haxby(tmp_path)
    path = tmp_path / "bold.nii.gz"
    path.write_bytes(path.read_bytes()[:-2000])
    study = HAXBY.open(tmp_path, "01", tmp_path)
    with pytest.raises(
        InputError, match=r"bold.nii.gz: expected 156 whole volumes; found Compressed file ended"
    ):
        study.read(np.array([0]))
    assert [line.status for line in HAXBY.check(tmp_path)] == ["bad"]


def test_missing_files_and_options_are_refused(tmp_path):
    write_haxby(tmp_path)
    with pytest.raises(InputError, match="`dataset_options` of haxby: expected none; found 'runs'"):
        HAXBY.open(tmp_path, "01", tmp_path, runs=3)
    (tmp_path / "attributes_literal.txt").unlink()
    with pytest.raises(
        InputError, match=r"labels.txt: expected a label and a run for every volume; found nothing"
    ):
        HAXBY.open(tmp_path, "01", tmp_path)
    (tmp_path / "mask.nii.gz").unlink()
    with pytest.raises(InputError, match="expected the mask of the voxels to read; found nothing there"):
        HAXBY.open(tmp_path, "01", tmp_path)


@needs_real
def test_the_real_slice_agrees_with_bare_nibabel():
    study = HAXBY.open(REAL, "01", REAL)
    bold = np.asarray(nib.load(REAL / "bold.nii.gz").dataobj)
    mask = np.asarray(nib.load(REAL / "mask.nii.gz").dataobj) > 0
    np.testing.assert_array_equal(study.read(np.array([0, 1451])), bold[mask].T[[0, 1451]])
    assert (len(study.trials), study.n_units, study.trials["run"].nunique()) == (1452, 530, 12)
    blocks = study.trials[study.trials["category"] != "rest"].groupby("block")
    assert len(blocks) == 96
    assert set(blocks.size()) == {9}
    assert study.trials["onset"].max() == 120 * 2.5
