"""bold5000: the design in BIDS, the betas of release 2.0, and what is refused."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from braindecode_suite.core.errors import InputError
from braindecode_suite.core.protocols import DesignedDataset
from braindecode_suite.datasets.bold5000 import BOLD5000_DATASET
from braindecode_suite.datasets.protocols_releases import bold5000_repeats
from tests.release_writers import BOLD5000_AFFINE, bold5000_names, write_bold5000

SHARED = Path(os.environ.get("BDS_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
REAL = SHARED / "bold5000_events"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason=f"{REAL} is not here")
BETAS = "CSI1_GLMbetas-TYPED-FITHRF-GLMDENOISE-RR_ses-{:02d}.nii.gz"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bold5000")
    write_bold5000(folder)
    return folder


@pytest.fixture
def copy(made, tmp_path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "data"))


def events_of(folder: Path, run: int = 1) -> Path:
    return folder / f"sub-CSI1/ses-01/func/sub-CSI1_ses-01_task-5000scenes_run-{run:02d}_events.tsv"


def change_events(folder: Path, change) -> Path:
    path = events_of(folder)
    table = pd.read_csv(path, sep="\t")
    change(table).to_csv(path, sep="\t", index=False)
    return path


def test_a_known_voxel_of_a_known_trial_comes_back(tmp_path):
    """Golden: written with bare nibabel and text, axes x, y, z, trial, two runs of a session in order."""
    header = "onset\tduration\tImgName\tImgType\n"
    func = tmp_path / "sub-CSI2" / "ses-03" / "func"
    func.mkdir(parents=True)
    for run, names in ((1, ["a.jpg", "b.jpg"]), (2, ["c.jpg", "a.jpg"])):
        rows = f"6\t1\t{names[0]}\tcoco\n16\t1\t{names[1]}\t{'rep_coco' if run == 2 else 'coco'}\n"
        path = func / f"sub-CSI2_ses-03_task-5000scenes_run-{run:02d}_events.tsv"
        path.write_text(header + rows, encoding="utf-8")
    values = np.zeros((4, 3, 2, 4), np.float32)
    values[3, 1, 0, 2] = -1.25
    mask = np.zeros((4, 3, 2), np.uint8)
    mask[0, 2, 1] = mask[3, 1, 0] = mask[3, 2, 0] = 1
    nib.save(
        nib.Nifti1Image(values, BOLD5000_AFFINE),
        tmp_path / "CSI2_GLMbetas-TYPED-FITHRF-GLMDENOISE-RR_ses-03.nii.gz",
    )
    nib.save(nib.Nifti1Image(mask, BOLD5000_AFFINE), tmp_path / "CSI2_brainmask.nii.gz")
    study = BOLD5000_DATASET.open(tmp_path, "CSI2", tmp_path / "work")
    assert list(study.stimulus_ids) == ["a.jpg", "b.jpg", "c.jpg", "a.jpg"]
    assert list(study.trials["repeat"]) == [1, 1, 1, 2]
    assert list(study.trials["repeated"]) == [True, False, False, True]
    assert list(study.trials["run"]) == [1, 1, 2, 2]
    np.testing.assert_array_equal(study.read(np.array([2])), [[0, -1.25, 0]])
    back = study.space.inverse_transform(study.read(np.array([2]))[0])
    assert back.get_fdata()[3, 1, 0] == -1.25
    np.testing.assert_array_equal(back.affine, BOLD5000_AFFINE)
    assert study.stimuli is None
    assert any("have no stimuli" in w or "has no stimuli" in w for w in study.provenance["warnings"])
    assert any("imgnames" in w for w in study.provenance["warnings"])


def test_regions_lie_on_the_voxels_of_the_mask(made, tmp_path):
    study = BOLD5000_DATASET.open(made, "CSI1", tmp_path)
    region = study.space.rois["LHPPA"]
    x = np.argwhere(study.space.mask)[:, 0]
    np.testing.assert_array_equal(region, (x >= 2) & (x < 4))


def test_the_repeats_are_the_test_images_and_nothing_else(made, tmp_path):
    study = BOLD5000_DATASET.open(made, "CSI1", tmp_path)
    (split,) = bold5000_repeats([study], seed=3)
    repeated, once = bold5000_names()
    assert split.keys("test", "stimulus") == set(repeated)
    assert split.keys("train", "stimulus") | split.keys("validation", "stimulus") == set(once)
    assert len(split.test[0]) == 16
    assert any("type D" in note for note in split.notes)
    assert any("same runs" in note for note in split.notes)


def test_an_image_repeated_for_one_subject_trains_nobody(made, tmp_path):
    one = BOLD5000_DATASET.open(made, "CSI1", tmp_path)
    trials = one.trials.copy()
    first = trials["stimulus_id"] == bold5000_names()[0][0]
    trials.loc[first, "repeated"] = False
    from dataclasses import replace

    other = replace(one, subject="CSI4", trials=trials)
    (split,) = bold5000_repeats([one, other])
    assert bold5000_names()[0][0] in split.keys("test", "stimulus")
    assert not split.shared("stimulus")["train/test"]


@needs_real
def test_the_real_design_has_18870_trials_of_4916_images():
    assert isinstance(BOLD5000_DATASET, DesignedDataset)
    designs = {label: BOLD5000_DATASET.design(REAL, label) for label in BOLD5000_DATASET.subjects(REAL)}
    assert list(designs) == ["CSI1", "CSI2", "CSI3", "CSI4"]
    assert [len(design) for design in designs.values()] == [5254, 5254, 5254, 3108]
    together = pd.concat(designs.values())
    assert len(together) == 18870
    assert together["stimulus_id"].nunique() == 4916
    for label in ("CSI1", "CSI2"):
        counts = designs[label].groupby("stimulus_id").size()
        assert counts.value_counts().to_dict() == {1: 4803, 4: 112, 3: 1}
        assert designs[label].groupby("stimulus_id")["repeated"].first().sum() == 113
        assert designs[label]["repeat"].max() == 4
    counts = {
        label: designs[label].groupby("stimulus_id").size().value_counts().to_dict() for label in designs
    }
    assert counts["CSI3"] == {1: 4803, 2: 1, 3: 2, 4: 107, 5: 3}
    assert counts["CSI4"] == {1: 2862, 2: 39, 3: 37, 4: 13, 5: 1}
    assert designs["CSI4"]["session"].nunique() == 9


@needs_real
def test_without_betas_the_check_and_the_loader_say_so(tmp_path):
    lines = BOLD5000_DATASET.check(REAL)
    missing = [line for line in lines if line.status == "missing"]
    assert [line.path[:4] for line in missing] == ["CSI1", "CSI2", "CSI3", "CSI4"]
    assert "the design can be read" in missing[0].found
    assert any(line.found == "18870 trials of 4 subjects, 4916 image names" for line in lines)
    with pytest.raises(InputError, match="found none: only the design of 5254 trials is here"):
        BOLD5000_DATASET.open(REAL, "CSI1", tmp_path)


def test_sessions_that_are_absent_are_named(copy, tmp_path):
    (copy / BETAS.format(2)).unlink()
    study = BOLD5000_DATASET.open(copy, "CSI1", tmp_path)
    assert set(study.trials["session"]) == {1, 3}
    assert "no betas of sessions 2" in study.provenance["warnings"]
    with pytest.raises(InputError, match="expected betas of session 2; found sessions 1, 3"):
        BOLD5000_DATASET.open(copy, "CSI1", tmp_path, sessions=[2])


def test_one_session_can_be_chosen(made, tmp_path):
    whole = BOLD5000_DATASET.open(made, "CSI1", tmp_path)
    study = BOLD5000_DATASET.open(made, "CSI1", tmp_path, sessions=[3])
    rows = np.flatnonzero(whole.trials["session"] == 3)
    np.testing.assert_array_equal(study.read(slice(None)), whole.read(rows))
    assert list(study.trials["repeat"]) == list(whole.trials["repeat"].iloc[rows])


def test_a_session_of_too_few_volumes_is_refused(copy, tmp_path):
    path = copy / BETAS.format(1)
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[..., :-1], image.affine), path)
    with pytest.raises(InputError, match="expected 32 volumes, one a trial of the events; found 31"):
        BOLD5000_DATASET.open(copy, "CSI1", tmp_path)


def test_a_flipped_mask_is_refused(copy, tmp_path):
    path = copy / "CSI1_brainmask.nii.gz"
    mask = np.asarray(nib.load(path).dataobj)
    flipped = BOLD5000_AFFINE.copy()
    flipped[0, 0], flipped[0, 3] = 2, 60
    nib.save(nib.Nifti1Image(mask, flipped), path)
    with pytest.raises(
        InputError, match=r"expected the orientation LAS of .*; found RAS: an axis is flipped"
    ):
        BOLD5000_DATASET.open(copy, "CSI1", tmp_path)


def test_a_mask_that_lies_elsewhere_is_refused_and_a_region_left_out(copy, tmp_path):
    moved = BOLD5000_AFFINE.copy()
    moved[1, 3] += 4
    region = copy / "derivatives/spm/sub-CSI1/sub-CSI1_mask-LHPPA.nii.gz"
    nib.save(nib.Nifti1Image(np.asarray(nib.load(region).dataobj), moved), region)
    study = BOLD5000_DATASET.open(copy, "CSI1", tmp_path)
    assert "LHPPA" not in study.space.rois
    assert any("region LHPPA is left out" in warning for warning in study.provenance["warnings"])
    mask = copy / "CSI1_brainmask.nii.gz"
    nib.save(nib.Nifti1Image(np.asarray(nib.load(mask).dataobj), moved), mask)
    with pytest.raises(InputError, match=r"expected the affine of .* \(-90 in row 2, column 4\); found -86"):
        BOLD5000_DATASET.open(copy, "CSI1", tmp_path)


def test_truncated_betas_are_found_by_the_check(copy):
    path = copy / BETAS.format(2)
    path.write_bytes(path.read_bytes()[:-200])
    bad = [line for line in BOLD5000_DATASET.check(copy) if line.status == "bad"]
    assert [Path(line.path).name for line in bad] == [path.name]
    assert "ends after" in bad[0].found


def test_names_in_another_order_are_refused(copy, tmp_path):
    path = copy / "CSI1_imgnames.txt"
    names = path.read_text().splitlines()
    path.write_text("\n".join(names[1:] + names[:1]))
    with pytest.raises(InputError, match=r"imgnames.txt: expected '.*' in line 1, as the events; found"):
        BOLD5000_DATASET.open(copy, "CSI1", tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns="ImgName"), "expected a column 'ImgName'; found columns onset, duration"),
        (lambda t: t.iloc[::-1], r"expected onsets that ascend; found 146 s after 156 s \(row 2\)"),
        (
            lambda t: t.assign(duration=12),
            "events that do not overlap; found row 1 lasts to 18 s, row 2 begins at 16 s",
        ),
        (lambda t: t.assign(onset="soon"), "numbers in column 'onset'; found 'soon' in row 1"),
    ],
)
def test_events_that_make_no_sense_are_refused(copy, change, message):
    path = change_events(copy, change)
    with pytest.raises(InputError, match=message) as error:
        BOLD5000_DATASET.design(copy, "CSI1")
    assert error.value.where == str(path)
    assert any(line.status == "bad" and line.path == str(path) for line in BOLD5000_DATASET.check(copy))


def write_bold(folder: Path, n_volumes: int, tr: float) -> None:
    image = nib.Nifti1Image(np.zeros((2, 2, 2, n_volumes), np.int16), np.eye(4))
    image.header.set_zooms((2, 2, 2, tr))
    nib.save(image, str(events_of(folder)).replace("_events.tsv", "_bold.nii.gz"))


def test_events_past_the_end_of_the_run_are_refused(copy):
    write_bold(copy, 78, 2.0)
    with pytest.raises(InputError, match="events before the end of the run at 156 s; found one at 156 s"):
        BOLD5000_DATASET.design(copy, "CSI1")
    write_bold(copy, 79, 2.0)
    assert len(BOLD5000_DATASET.design(copy, "CSI1")) == 96


def test_a_header_that_disagrees_with_the_sidecar_is_refused(copy):
    write_bold(copy, 60, 2.5)
    with pytest.raises(
        InputError, match=r"a repetition time of 2 s, as in task-5000scenes_bold.json; found 2.5 s"
    ):
        BOLD5000_DATASET.design(copy, "CSI1")


def test_one_name_with_two_images_is_refused(copy, tmp_path):
    folder = copy / "BOLD5000_Stimuli/Scene_Stimuli/Presented_Stimuli"
    name = bold5000_names()[0][0]
    other = next(p for p in sorted((folder / "COCO").iterdir()) if p.name != name)
    shutil.copy(other, folder / "Scene" / name)
    with pytest.raises(
        InputError, match=f"expected one image named '{name}'; found another one at COCO/{name}"
    ):
        BOLD5000_DATASET.open(copy, "CSI1", tmp_path)
    shutil.copy(folder / "COCO" / name, folder / "Scene" / name)  # the same image twice is no harm
    assert BOLD5000_DATASET.open(copy, "CSI1", tmp_path).stimuli is not None


def test_a_link_out_of_the_folder_is_refused(copy, tmp_path):
    path = copy / BETAS.format(1)
    path.rename(tmp_path / "elsewhere.nii.gz")
    path.symlink_to(tmp_path / "elsewhere.nii.gz")
    with pytest.raises(InputError, match=r"expected a file inside .*; found a link to .*elsewhere.nii.gz"):
        BOLD5000_DATASET.open(copy, "CSI1", tmp_path)


def test_voxels_without_numbers_are_left_out_and_named(copy, tmp_path):
    path = copy / BETAS.format(1)
    image = nib.load(path)
    mask = np.asarray(nib.load(copy / "CSI1_brainmask.nii.gz").dataobj) > 0
    values = np.asarray(image.dataobj).copy()
    values[tuple(np.argwhere(mask)[0])] = np.nan
    nib.save(nib.Nifti1Image(values, image.affine), path)
    study = BOLD5000_DATASET.open(copy, "CSI1", tmp_path)
    assert study.n_units == mask.sum() - 1
    assert any(f"1 of {mask.sum()} voxels" in warning for warning in study.provenance["warnings"])
    assert np.isfinite(study.read(slice(None))).all()


def test_images_of_different_sizes_are_resized_only_when_asked(copy, tmp_path):
    from PIL import Image

    folder = copy / "BOLD5000_Stimuli/Scene_Stimuli/Presented_Stimuli"
    name = bold5000_names()[0][0]
    Image.new("RGB", (20, 16)).save(folder / "COCO" / name)
    names = [bold5000_names()[0][1], name]
    stimuli = BOLD5000_DATASET.open(copy, "CSI1", tmp_path).stimuli
    with pytest.raises(
        InputError, match=r"expected 12 x 12 pixels, .*; found 20 x 16 \(the dataset option image_side"
    ):
        stimuli.images(names)
    resized = BOLD5000_DATASET.open(copy, "CSI1", tmp_path, image_side=10).stimuli
    assert resized.images(names).shape == (2, 10, 10, 3)
    assert resized.fingerprint != stimuli.fingerprint
