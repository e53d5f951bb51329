"""What can be wrong with a BIDS study: each a one-line error naming the file, or a named warning; nothing half written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import h5py
import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from braindecode_suite.cli import main
from braindecode_suite.core.errors import InputError
from braindecode_suite.datasets.bids_bold import read_bold_header, read_brain_mask, read_series
from braindecode_suite.datasets.bids_fmri import BIDS_FMRI
from braindecode_suite.datasets.bids_layout import find_derivatives, find_runs
from braindecode_suite.datasets.simulate_bold import BoldParameters, write_bold_study

GIVEN = BoldParameters(shape=(5, 5, 4), images=20, repeats=1, sessions=(), runs=2)
STEM = "sub-01_task-images_run-1"
SPACE = f"{STEM}_space-MNI152NLin2009cAsym_desc"


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("template") / "study"
    write_bold_study(folder, GIVEN)
    return folder


@pytest.fixture
def study(template, tmp_path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "study"))


def func(study: Path) -> Path:
    return study / "derivatives" / "fmriprep" / "sub-01" / "func"


def bold(study: Path) -> Path:
    return func(study) / f"{SPACE}-preproc_bold.nii.gz"


def edit_events(study: Path, change) -> None:
    path = study / "sub-01" / "func" / f"{STEM}_events.tsv"
    table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
    change(table)
    table.to_csv(path, sep="\t", index=False)


def edit_image(path: Path, change) -> None:
    image: Any = nib.load(path)
    changed = change(np.asarray(image.dataobj).copy(), image.affine.copy(), image.header.copy())
    nib.save(changed, path)


def late_event(study):
    edit_events(study, lambda table: table.__setitem__("onset", [*table["onset"][:-1], "999"]))


def backward_onsets(study):
    edit_events(
        study, lambda table: table.__setitem__("onset", [*table["onset"][:3], "2.0", *table["onset"][4:]])
    )


def onset_in_words(study):
    edit_events(study, lambda table: table.__setitem__("onset", ["soon", *table["onset"][1:]]))


def two_at_once(study):
    edit_events(
        study,
        lambda table: table.__setitem__(
            "onset", [*table["onset"][:3], *table["onset"][2:3], *table["onset"][4:]]
        ),
    )


def no_duration(study):
    edit_events(study, lambda table: table.__setitem__("duration", "0"))


def no_trials(study):
    edit_events(study, lambda table: table.__setitem__("stim_file", "n/a"))


def no_events_column(study):
    path = study / "sub-01" / "func" / f"{STEM}_events.tsv"
    path.write_text("time\twhat\n1\ta\n")


def other_tr(study):
    path = bold(study).with_suffix("").with_suffix(".json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "RepetitionTime": 2.0}))


def tr_in_words(study):
    path = bold(study).with_suffix("").with_suffix(".json")
    path.write_text('{"RepetitionTime": "fast"}')


def broken_sidecar(study):
    bold(study).with_suffix("").with_suffix(".json").write_text("{")


def shifted_mask(study):
    def change(values, affine, header):
        affine[0, 3] += 1.5
        return nib.Nifti1Image(values, affine)

    edit_image(func(study) / f"{SPACE}-brain_mask.nii.gz", change)


def other_grid(study):
    edit_image(func(study) / f"{SPACE}-brain_mask.nii.gz", lambda v, a, h: nib.Nifti1Image(v[1:], a))


def flipped_mask(study):
    def change(values, affine, header):
        affine[0] *= -1
        return nib.Nifti1Image(values, affine)

    edit_image(func(study) / f"{SPACE}-brain_mask.nii.gz", change)


def flipped_second_run(study):
    def change(values, affine, header):
        affine[0] *= -1
        return nib.Nifti1Image(values, affine, None, None)

    for path in func(study).glob("*run-2*MNI*.nii.gz"):
        t_r = nib.load(path).header.get_zooms()[3:]
        edit_image(path, change)
        image = nib.load(path)
        if t_r:
            image.header.set_zooms((*image.header.get_zooms()[:3], *t_r))
            nib.save(nib.Nifti1Image(np.asarray(image.dataobj), image.affine, image.header), path)


def mirrored_transforms(study):
    def change(values, affine, header):
        image = nib.Nifti1Image(values, affine, header)
        mirrored = affine.copy()
        mirrored[0] *= -1
        image.set_qform(mirrored, 1)
        image.set_sform(affine, 1)
        return image

    edit_image(bold(study), change)


def empty_mask(study):
    edit_image(func(study) / f"{SPACE}-brain_mask.nii.gz", lambda v, a, h: nib.Nifti1Image(v * 0, a))


def no_mask(study):
    (func(study) / f"{SPACE}-brain_mask.nii.gz").unlink()


def not_a_nifti(study):
    bold(study).write_bytes(b"\x1f\x8b" + bytes(500))


def three_dimensions(study):
    edit_image(bold(study), lambda v, a, h: nib.Nifti1Image(v[..., 0], a))


def link_out(study):
    outside = study.parent / "elsewhere.nii.gz"
    bold(study).rename(outside)
    bold(study).symlink_to(outside)


def linked_events(study):
    path = study / "sub-01" / "func" / f"{STEM}_events.tsv"
    outside = study.parent / "elsewhere.tsv"
    path.rename(outside)
    path.symlink_to(outside)


def image_outside(study):
    outside = study.parent / "secret.png"
    shutil.copy(next((study / "stimuli/images").iterdir()), outside)
    edit_events(
        study, lambda table: table.__setitem__("stim_file", ["n/a", *["../../secret.png"] * (len(table) - 1)])
    )


def no_derivatives(study):
    shutil.rmtree(study / "derivatives")


def no_events_at_all(study):
    for path in study.rglob("*_events.tsv"):
        path.unlink()


AT_OPENING = [
    (
        late_event,
        r"run-1_events.tsv: expected events within the run of \d+ s; found 1 that begin later, the first at 999 s",
    ),
    (backward_onsets, r"run-1_events.tsv: expected onsets that ascend; found 2 s after 10 s in row 4"),
    (onset_in_words, r"run-1_events.tsv: expected numbers in column 'onset'; found 'soon' in row 1"),
    (two_at_once, r"run-1_events.tsv: expected one trial at a time; found two at 10 s"),
    (
        no_duration,
        r"run-1_events.tsv: expected trials of some duration; found 0 s in row 2 \(give .* option duration",
    ),
    (no_trials, r"run-1_events.tsv: expected trials with a value in 'stim_file'; found none in \d+ rows"),
    (no_events_column, r"run-1_events.tsv: expected a column 'onset'; found columns time, what"),
    (
        other_tr,
        r"preproc_bold.nii.gz: expected a repetition time of 2 s, as in .*json; found 1.5 s in the header",
    ),
    (tr_in_words, r"preproc_bold.json: expected RepetitionTime in seconds; found 'fast'"),
    (broken_sidecar, r"preproc_bold.json: expected a JSON sidecar"),
    (shifted_mask, r"brain_mask.nii.gz: expected the affine of .*preproc_bold.nii.gz .*; found -4.5"),
    (other_grid, r"brain_mask.nii.gz: expected the grid \(5, 5, 4\) of .*; found shape \(4, 5, 4\)"),
    (flipped_mask, r"brain_mask.nii.gz: expected the orientation RAS of .*; found LAS: an axis is flipped"),
    (flipped_second_run, r"run-2.*preproc_bold.nii.gz: expected the orientation RAS of .*run-1.*; found LAS"),
    (
        mirrored_transforms,
        r"preproc_bold.nii.gz: expected sform and qform with left and right on the same sides; found RAS and LAS",
    ),
    (empty_mask, r"brain_mask.nii.gz: expected a brain mask of 3 dimensions with voxels above 0"),
    (no_mask, r"brain_mask.nii.gz: expected a file of the run; found nothing there"),
    (not_a_nifti, r"preproc_bold.nii.gz: expected preprocessed BOLD as NIfTI"),
    (three_dimensions, r"preproc_bold.nii.gz: expected a run of 4 dimensions; found shape \(5, 5, 4\)"),
    (link_out, r"preproc_bold.nii.gz: expected a file inside .*study; found a link to .*elsewhere.nii.gz"),
    (linked_events, r"events.tsv: expected a file inside .*study; found a link to .*elsewhere.tsv"),
    (image_outside, r"secret.png: expected a file inside .*study; found a link to .*secret.png"),
    (no_events_at_all, r"events.tsv: expected the events of the run; found nothing there"),
]


@pytest.mark.parametrize(
    ("damage", "message"), AT_OPENING, ids=lambda value: getattr(value, "__name__", None)
)
def test_opening_refuses_in_one_line(study, tmp_path, damage, message):
    damage(study)
    with pytest.raises(InputError, match=message) as refused:
        BIDS_FMRI.open(study, "01", tmp_path / "work")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "work").exists()
    if (
        damage is not image_outside
    ):  # pictures are looked at when a study is opened, the check is of the recordings
        assert {"bad", "missing"} & {line.status for line in BIDS_FMRI.check(study)}


def test_a_dataset_without_derivatives_says_where_they_belong(study, tmp_path):
    no_derivatives(study)
    with pytest.raises(
        InputError, match=r"derivatives: expected one folder of fMRIPrep's outputs.*; found none"
    ):
        BIDS_FMRI.open(study, "01", tmp_path)
    assert [line.status for line in BIDS_FMRI.check(study)] == ["missing"]


def truncated(study):
    content = bold(study).read_bytes()
    bold(study).write_bytes(content[: len(content) * 2 // 3])


def corrupt(study):
    content = bytearray(bold(study).read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = np.random.default_rng(5).bytes(64)
    bold(study).write_bytes(bytes(content))


def short_uncompressed(study):
    image = nib.load(bold(study))
    plain = bold(study).with_suffix("")
    nib.save(image, plain)
    bold(study).unlink()
    mask = func(study) / f"{SPACE}-brain_mask.nii.gz"
    nib.save(nib.load(mask), mask.with_suffix(""))
    with plain.open("r+b") as stream:
        stream.truncate(plain.stat().st_size - 1000)


def not_finite(study):
    def change(values, affine, header):
        values[2, 2, 2, 7] = np.nan
        return nib.Nifti1Image(values, affine, header)

    edit_image(bold(study), change)


def confounds_absent(study):
    (func(study) / f"{STEM}_desc-confounds_timeseries.tsv").unlink()


def confounds_short(study):
    path = func(study) / f"{STEM}_desc-confounds_timeseries.tsv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-2]))


def confounds_without_motion(study):
    path = func(study) / f"{STEM}_desc-confounds_timeseries.tsv"
    table = pd.read_csv(path, sep="\t")
    table.drop(columns=[name for name in table.columns if "trans_x" in name]).to_csv(
        path, sep="\t", index=False
    )


AT_ESTIMATION = [
    (truncated, r"run-1.*preproc_bold.nii.gz: expected \d+ (whole )?volumes"),
    (corrupt, r"run-1.*preproc_bold.nii.gz: expected \d+ (whole )?volumes|expected finite BOLD"),
    (short_uncompressed, r"run-1.*preproc_bold.nii: expected \d+ volumes; found the file ends in volume \d+"),
    (not_finite, r"run-1.*: expected finite BOLD inside the mask; found 1 NaN.*voxel \(2, 2, 2\), volume 8"),
    (
        confounds_absent,
        r"confounds_timeseries.tsv: expected fMRIPrep's confounds for motion; found Could not find",
    ),
    (confounds_short, r"confounds_timeseries.tsv: expected \d+ rows, one a volume of .*; found \d+"),
    (confounds_without_motion, r"confounds_timeseries.tsv: expected fMRIPrep's confounds for motion"),
]


@pytest.mark.parametrize(
    ("damage", "message"), AT_ESTIMATION, ids=lambda value: getattr(value, "__name__", None)
)
def test_estimating_refuses_in_one_line_and_leaves_no_betas(study, tmp_path, damage, message):
    damage(study)
    with pytest.raises(InputError, match=message) as refused:
        BIDS_FMRI.open(study, "01", tmp_path / "work", prepare=True)
    assert "\n" not in str(refused.value)
    left = {path.name for path in (tmp_path / "work").rglob("*") if path.is_file()}
    assert left <= {"dataset_description.json"}
    if damage not in (not_finite, corrupt):  # values are read when betas are estimated
        assert "bad" in {line.status for line in BIDS_FMRI.check(study)}


def test_no_corruption_of_a_compressed_run_goes_unnoticed(study):
    runs, _ = find_runs(study, find_derivatives(study), "01")
    header = read_bold_header(runs[0])
    mask, _ = read_brain_mask(runs[:1], [header])
    whole = bold(study).read_bytes()
    for seed in range(100):
        content = bytearray(whole)
        content[len(whole) // 2 : len(whole) // 2 + 64] = np.random.default_rng(seed).bytes(64)
        bold(study).write_bytes(bytes(content))
        with pytest.raises(InputError, match=r"run-1.*: expected"):
            read_series(header, mask)
    bold(study).write_bytes(whole)
    assert read_series(header, mask).shape == (header.n_volumes, mask.sum())


def test_overlapping_trials_are_a_warning_that_names_the_first(study, tmp_path):
    edit_events(study, lambda table: table.__setitem__("duration", "5.0"))
    opened = BIDS_FMRI.open(study, "01", tmp_path)
    assert (
        f"{STEM}_events.tsv: 9 trials overlap the next one, the first at 6 s" in opened.provenance["warnings"]
    )


def test_trials_cut_by_the_end_of_the_run_are_a_warning(study, tmp_path):
    length = nib.load(bold(study)).shape[3] * 1.5
    edit_events(study, lambda table: table.__setitem__("onset", [*table["onset"][:-1], str(length - 3)]))
    opened = BIDS_FMRI.open(study, "01", tmp_path)
    assert (
        f"{STEM}_events.tsv: 1 trials in the last 8 s, their response is cut off"
        in opened.provenance["warnings"]
    )


def test_a_run_without_events_is_left_out_with_a_warning(study, tmp_path):
    (study / "sub-01" / "func" / f"{STEM}_events.tsv").unlink()
    opened = BIDS_FMRI.open(study, "01", tmp_path)
    assert "1 runs without events left out: task-images_run-1" in opened.provenance["warnings"]
    assert len(opened.trials) == 10


def test_no_sidecar_takes_the_headers_repetition_time_and_says_so(study, tmp_path):
    for path in study.rglob("*bold.json"):
        path.unlink()
    opened = BIDS_FMRI.open(study, "01", tmp_path)
    assert any(
        "no sidecar states the repetition time, 1.5 s taken" in text for text in opened.provenance["warnings"]
    )


def test_derivatives_outside_are_read_where_they_are_named(study, tmp_path):
    elsewhere = tmp_path / "fmriprep"
    (study / "derivatives" / "fmriprep").rename(elsewhere)
    assert len(BIDS_FMRI.open(study, "01", tmp_path / "work", derivatives=str(elsewhere)).read([0])) == 1
    (study / "derivatives" / "fmriprep").symlink_to(elsewhere)
    with pytest.raises(InputError, match=r"fmriprep: expected a file inside .*; found a link to"):
        BIDS_FMRI.open(study, "01", tmp_path / "work")
    with pytest.raises(InputError, match=r"nowhere: expected the folder of fMRIPrep's outputs"):
        BIDS_FMRI.open(study, "01", tmp_path / "work", derivatives="nowhere")


def test_damaged_betas_are_refused_when_read_back(study, tmp_path):
    opened = BIDS_FMRI.open(study, "01", tmp_path / "work", prepare=True)
    files, root = opened.responses.files, Path(opened.provenance["derivative"])
    whole = files.betas.read_bytes()
    files.betas.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"betas\.h5: expected a whole HDF5 file"):
        BIDS_FMRI.open(root, "01", tmp_path)
    assert "bad" in {line.status for line in BIDS_FMRI.check(root)}
    files.betas.unlink()
    with h5py.File(files.betas, "w") as file:
        file["betas"] = np.zeros((3, 1, opened.n_units), np.float32)
        file["valid"] = np.ones(opened.n_units, np.uint8)
    with pytest.raises(
        InputError, match=r"expected betas of shape \(trials=20, responses, voxels=\d+\).*found \(3, 1,"
    ):
        BIDS_FMRI.open(root, "01", tmp_path).read([0])


def test_the_command_line_says_it_in_one_line_and_leaves_with_2(study, tmp_path, capsys):
    late_event(study)
    assert main(["check", str(study)]) == 2
    assert "1 missing or bad" in capsys.readouterr().out
