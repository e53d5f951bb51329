"""The NSD loader on a simulated release: laziness, resuming, options, and every bad input in one line."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from scipy.io import loadmat, savemat

from braindecode_suite.core.config import build
from braindecode_suite.core.errors import InputError, UnknownName
from braindecode_suite.datasets import nsd_betas
from braindecode_suite.datasets.nsd import NSD, NSDOptions, prepare
from braindecode_suite.datasets.simulated_nsd import SIMULATED_NSD

BETAS = Path("nsddata_betas/ppdata/subj01/func1pt8mm/betas_fithrf_GLMdenoise_RR")
FUNCTIONAL = Path("nsddata/ppdata/subj01/func1pt8mm")
DESIGN = Path("nsddata/experiments/nsd/nsd_expdesign.mat")


@pytest.fixture
def copy(simulated_folder, tmp_path) -> Path:
    """The study as links to its files; a test that breaks one replaces the link by a file of its own."""
    folder = tmp_path / "data"
    shutil.copytree(simulated_folder, folder, copy_function=os.link)
    for path in (folder / BETAS).glob("*.nii.gz"):
        if path.name.startswith("betas"):
            path.unlink()
    return folder


@pytest.fixture(scope="module")
def study(simulated_folder, tmp_path_factory):
    return SIMULATED_NSD.open(simulated_folder, "01", tmp_path_factory.mktemp("work"))


def own(path: Path) -> Path:
    """Replace a link by a copy that may be changed."""
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)
    return path


def replace_volume(path: Path, values: np.ndarray) -> None:
    path.unlink()
    nib.save(nib.Nifti1Image(values, np.eye(4)), path)


def open_copy(folder: Path, **options):
    return NSD.open(folder, "01", folder.parent / "work", **options)


def test_opening_reads_no_betas(simulated_folder, tmp_path, monkeypatch):
    def refuse(*arguments):
        raise AssertionError("betas were read")

    monkeypatch.setattr(nsd_betas, "read_session", refuse)
    opened = SIMULATED_NSD.open(simulated_folder, "01", tmp_path / "work")
    assert opened.responses.shape == (360, 300)
    assert not (tmp_path / "work").exists()
    with pytest.raises(AssertionError, match="betas were read"):
        opened.read(np.array([0]))


def test_both_formats_of_the_simulated_study_are_the_same(simulated_folder, tmp_path):
    first, second = (
        SIMULATED_NSD.open(simulated_folder, "02", tmp_path / name, format=name).read(slice(None))
        for name in ("hdf5", "nii.gz")
    )
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("arrangement", ["plain", "whole planes", "compressed"])
def test_other_arrangements_of_the_hdf5_file_read_the_same(copy, study, arrangement):
    path = own(copy / BETAS / "betas_session02.hdf5")
    with h5py.File(path, "r") as file:
        betas = file["betas"][:]
    how = {
        "plain": {},
        "whole planes": {"chunks": (betas.shape[0], 1, *betas.shape[2:])},
        "compressed": {"chunks": (betas.shape[0], 1, 1, 1), "compression": "gzip"},
    }[arrangement]
    with h5py.File(path, "w") as file:
        file.create_dataset("betas", data=betas, **how)
    np.testing.assert_array_equal(open_copy(copy).read(slice(60, 120)), study.read(slice(60, 120)))


def test_a_chunk_that_was_never_written_holds_zeros(copy):
    opened = open_copy(copy)
    x, y, z = np.argwhere(opened.space.mask)[7]
    path = own(copy / BETAS / "betas_session02.hdf5")
    with h5py.File(path, "r") as file:
        betas = file["betas"][:]
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("betas", betas.shape, np.int16, chunks=(betas.shape[0], 1, 1, 1))
        for k, j, i in np.ndindex(betas.shape[1:]):
            if (i, j, k) != (x, y, z):
                dataset[:, k, j, i] = betas[:, k, j, i]
    rows = open_copy(copy).read(slice(60, 120))
    assert not rows[:, 7].any()
    assert rows[:, 8].any()


def test_rows_are_float32_percent_signal_change_in_session_order(study, simulated_folder):
    with h5py.File(simulated_folder / BETAS / "betas_session03.hdf5", "r") as file:
        raw = file["betas"][:]  # (trials, z, y, x)
    x, y, z = np.argwhere(study.space.mask).T
    expected = raw[:, z, y, x].astype(np.float64) / 300
    rows = study.read(np.flatnonzero(study.trials["session"] == 3))
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows, expected, rtol=1e-6)


def test_shuffled_rows_come_in_the_order_asked_for(study):
    rows = np.array([300, 4, 4, 77])
    np.testing.assert_array_equal(study.read(rows), study.read(slice(None))[rows])


def test_an_interrupted_preparation_goes_on_where_it_stopped(copy, monkeypatch, study):
    read, seen = nsd_betas.read_session, []

    def stop_at_the_third(header, mask):
        seen.append(header.path.name)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return read(header, mask)

    monkeypatch.setattr(nsd_betas, "read_session", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        open_copy(copy).read(slice(0, 1))
    assert not list((copy.parent / "work" / "betas").glob("*[!l].npy"))  # only the partial one
    seen.clear()
    monkeypatch.setattr(nsd_betas, "read_session", lambda h, m: (seen.append(h.path.name), read(h, m))[1])
    again = open_copy(copy)
    np.testing.assert_array_equal(again.read(slice(None)), study.read(slice(None)))
    assert seen == [f"betas_session{k:02d}.hdf5" for k in (3, 4, 5, 6)]


def test_a_session_that_changed_is_read_again(copy):
    before = open_copy(copy).read(slice(None))
    path = own(copy / BETAS / "betas_session02.hdf5")
    with h5py.File(path, "r+") as file:
        file["betas"][...] = file["betas"][...] + 300
    os.utime(path, (1, 1))
    after = open_copy(copy).read(slice(None))
    np.testing.assert_allclose(after[60:120], before[60:120] + 1, atol=1e-5)
    np.testing.assert_array_equal(after[120:], before[120:])


def test_prepared_betas_are_not_read_twice(copy, monkeypatch):
    open_copy(copy, prepare=True)
    monkeypatch.setattr(nsd_betas, "read_session", lambda *a: pytest.fail("betas were read again"))
    assert open_copy(copy).read(slice(0, 2)).shape == (2, 300)


def test_the_awkward_subject_says_what_is_wrong_with_it(simulated_folder, tmp_path):
    study = SIMULATED_NSD.open(simulated_folder, "03", tmp_path)
    warnings = " | ".join(study.provenance["warnings"])
    for told in ("sessions 6 of the 6 planned", "mTL-words", "lack repeats", "voxels carry no signal"):
        assert told in warnings
    assert not study.space.rois["mTL-words"].any()
    constant = np.ptp(study.read(slice(None)), axis=0) == 0
    np.testing.assert_array_equal(study.valid, ~constant)
    assert 0 < constant.sum() < 20


def test_constant_voxels_are_found_in_the_data_where_no_map_tells_them(copy):
    for name in ("ncsnr.nii.gz",):
        (copy / BETAS / name).unlink()
    lazy = open_copy(copy)
    assert lazy.noise is None
    assert lazy.valid.all()
    x, y, z = np.argwhere(lazy.space.mask)[5]
    for session in range(1, 7):
        path = own(copy / BETAS / f"betas_session{session:02d}.hdf5")
        with h5py.File(path, "r+") as file:
            file["betas"][:, z, y, x] = 17
    for exact in (prepare(open_copy(copy)), open_copy(copy, prepare=True)):
        assert np.flatnonzero(~exact.valid).tolist() == [5]


def test_any_region_or_several_can_be_read(simulated_folder, tmp_path, study):
    one = SIMULATED_NSD.open(simulated_folder, "01", tmp_path, roi="V1v")
    two = SIMULATED_NSD.open(simulated_folder, "01", tmp_path, roi=["V1v", "V1d"])
    assert two.n_units == study.space.rois["V1v"].sum() + study.space.rois["V1d"].sum()
    np.testing.assert_array_equal(two.read(slice(0, 9))[:, two.space.rois["V1v"]], one.read(slice(0, 9)))
    np.testing.assert_array_equal(study.read(slice(0, 9))[:, study.space.rois["V1v"]], one.read(slice(0, 9)))


def test_the_whole_brain_can_be_read(simulated_folder, tmp_path, study):
    brain = SIMULATED_NSD.open(simulated_folder, "01", tmp_path, roi="brainmask")
    assert brain.n_units > 2 * study.n_units
    np.testing.assert_array_equal(
        brain.read(slice(0, 5))[:, brain.space.rois["nsdgeneral"]], study.read(slice(0, 5))
    )


def test_some_sessions_can_be_left_out(simulated_folder, tmp_path, study):
    some = SIMULATED_NSD.open(simulated_folder, "01", tmp_path, sessions=[2, 5])
    assert some.trials["session"].unique().tolist() == [2, 5]
    np.testing.assert_array_equal(some.read(slice(60, 120)), study.read(slice(240, 300)))
    np.testing.assert_array_equal(
        some.stimulus_ids, study.stimulus_ids[study.trials["session"].isin([2, 5]).to_numpy()]
    )


def test_a_missing_session_is_fine_and_told(copy, study):
    (copy / BETAS / "betas_session03.hdf5").unlink()
    gapped = open_copy(copy)
    assert any("sessions 3 of the 6 planned" in w for w in gapped.provenance["warnings"])
    kept = study.trials["session"].to_numpy() != 3
    np.testing.assert_array_equal(gapped.stimulus_ids, study.stimulus_ids[kept])
    np.testing.assert_array_equal(gapped.read(slice(None)), study.read(np.flatnonzero(kept)))
    assert gapped.trials["repeat"].max() == 3


def test_without_behaviour_runs_are_computed(copy, study):
    (copy / "nsddata/ppdata/subj01/behav/responses.tsv").unlink()
    bare = open_copy(copy)
    np.testing.assert_array_equal(bare.stimulus_ids, study.stimulus_ids)
    assert any("onsets unknown" in w for w in bare.provenance["warnings"])
    assert bare.trials["onset"].isna().all()


def test_nsds_runs_have_63_and_62_trials_in_turn():
    from braindecode_suite.datasets.nsd_files import compute_runs

    assert np.bincount(compute_runs(750))[1:].tolist() == [63, 62] * 6


@pytest.mark.parametrize("written", ["1", "01", "subj01", "sub-01"])
def test_a_subject_may_be_written_in_any_way(simulated_folder, tmp_path, written):
    assert SIMULATED_NSD.open(simulated_folder, written, tmp_path).subject == "01"


def test_the_betas_note_says_what_was_tuned_on_test_images(study, simulated_folder, tmp_path):
    read_as_released = NSD.open(simulated_folder, "01", tmp_path)
    words = "tuned by cross-validation over repeats that include test images"
    assert words in read_as_released.provenance["tuned_on_test"]
    assert study.provenance["tuned_on_test"] == ""  # simulated betas come from no GLM


def test_the_check_lists_every_file_as_fine(simulated_folder):
    lines = SIMULATED_NSD.check(simulated_folder)
    assert {line.status for line in lines} == {"ok"}
    assert sum("betas_session" in line.path for line in lines) == 6 + 6 + 5


def test_the_check_tells_truncated_and_missing_files(copy):
    path = own(copy / BETAS / "betas_session02.hdf5")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    (copy / BETAS / "betas_session04.hdf5").unlink()
    (copy / DESIGN).unlink()
    lines = {line.path: line for line in NSD.check(copy)}
    assert lines[str(BETAS / "betas_session02.hdf5")].status == "bad"
    assert lines[str(DESIGN)].status == "missing"
    assert "sessions 4" in lines[str(BETAS)].found


# --- bad input: one line that names the file, what was expected and what was found


def refused(folder: Path, match: str, **options) -> InputError:
    with pytest.raises(InputError, match=match) as caught:
        open_copy(folder, **options).read(slice(None))
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("share", [0.01, 0.6])
def test_a_truncated_hdf5_session_is_refused(copy, share):
    path = own(copy / BETAS / "betas_session02.hdf5")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    refused(copy, r"betas_session02\.hdf5: expected a whole beta file; found .*")


def test_a_truncated_nifti_session_is_refused(simulated_folder, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(simulated_folder, folder, copy_function=os.link)
    path = own(folder / BETAS / "betas_session02.nii.gz")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    refused(
        folder,
        r"betas_session02\.nii\.gz: expected 60 (whole )?volumes; .*\(download it again\)",
        format="nii.gz",
    )


def test_a_file_that_is_no_hdf5_is_refused(copy):
    own(copy / BETAS / "betas_session01.hdf5").write_text("not betas", encoding="utf-8")
    refused(copy, r"betas_session01\.hdf5: expected a whole beta file")


def test_nan_in_the_betas_is_refused_with_its_voxel(copy):
    x, y, z = (int(i) for i in np.argwhere(open_copy(copy).space.mask)[11])
    path = own(copy / BETAS / "betas_session04.hdf5")
    with h5py.File(path, "r") as file:
        betas = file["betas"][:].astype(np.float32) / 300
    betas[9, z, y, x] = np.nan
    with h5py.File(path, "w") as file:
        file.create_dataset("betas", data=betas, chunks=(betas.shape[0], 1, 1, 1))
    refused(copy, rf"betas_session04\.hdf5: expected finite betas.*1 NaN.*voxel \({x}, {y}, {z}\), trial 10")


def test_nan_outside_the_mask_does_not_matter(copy, study):
    path = own(copy / BETAS / "betas_session04.hdf5")
    with h5py.File(path, "r") as file:
        betas = file["betas"][:].astype(np.float32) / 300
    betas[:, 0, 0, 0] = np.nan
    with h5py.File(path, "w") as file:
        file["betas"] = betas
    opened = open_copy(copy)
    np.testing.assert_allclose(opened.read(slice(180, 240)), study.read(slice(180, 240)), rtol=1e-6)
    assert any("stored as floats" in w for w in opened.provenance["warnings"])


def test_a_mask_of_another_shape_is_refused(copy):
    for path in (copy / FUNCTIONAL / "roi").glob("*.nii.gz"):
        replace_volume(path, np.ones((3, 4, 5), np.int16))
    refused(
        copy,
        r"nsdgeneral\.nii\.gz: expected a mask of the betas' shape \(12, 14, 10\).*found shape \(3, 4, 5\)",
    )


def test_one_region_file_of_another_shape_is_refused(copy):
    replace_volume(copy / FUNCTIONAL / "roi" / "streams.nii.gz", np.ones((3, 4, 5), np.int16))
    refused(copy, r"streams\.nii\.gz: expected a volume of shape \(12, 14, 10\); found shape \(3, 4, 5\)")


def test_a_mask_that_is_no_nifti_is_refused(copy):
    own(copy / FUNCTIONAL / "roi" / "streams.nii.gz").write_bytes(b"nothing")
    refused(copy, r"streams\.nii\.gz: expected a mask of regions as NIfTI")


@pytest.mark.parametrize(
    ("variable", "value"),
    [("subjectim", 281), ("subjectim", 0), ("masterordering", 121), ("sharedix", 99999)],
)
def test_an_image_id_out_of_range_is_refused(copy, variable, value):
    content = {k: v for k, v in loadmat(copy / DESIGN).items() if not k.startswith("_")}
    content[variable] = content[variable].astype(np.int64)
    content[variable][0, 5] = value
    (copy / DESIGN).unlink()
    savemat(copy / DESIGN, content)
    refused(copy, rf"nsd_expdesign\.mat: expected {variable} from 1 to \d+ .*found image id {value}")


def test_a_design_without_a_variable_is_refused(copy):
    (copy / DESIGN).unlink()
    savemat(copy / DESIGN, {"masterordering": np.arange(1, 5)})
    refused(copy, r"nsd_expdesign\.mat: expected variables .*found no subjectim, sharedix")


def test_a_missing_design_is_refused(copy):
    (copy / DESIGN).unlink()
    refused(copy, r"nsd_expdesign\.mat: expected the experiment's design; found nothing there")


def test_behaviour_of_another_subject_is_refused(copy):
    path = copy / "nsddata/ppdata/subj01/behav/responses.tsv"
    path.unlink()
    shutil.copy(copy / "nsddata/ppdata/subj02/behav/responses.tsv", path)
    refused(copy, r"responses\.tsv: expected 73KID \d+ in trial \d+, as in nsd_expdesign\.mat; found \d+")


def test_behaviour_that_counts_from_zero_is_told(copy, study):
    path = own(copy / "nsddata/ppdata/subj01/behav/responses.tsv")
    table = pd.read_csv(path, sep="\t")
    table["73KID"] -= 1
    table.to_csv(path, sep="\t", index=False)
    opened = open_copy(copy)
    assert any("counts from 0" in w for w in opened.provenance["warnings"])
    np.testing.assert_array_equal(opened.stimulus_ids, study.stimulus_ids)


def test_behaviour_without_a_column_is_refused(copy):
    path = own(copy / "nsddata/ppdata/subj01/behav/responses.tsv")
    pd.read_csv(path, sep="\t").drop(columns="RUN").to_csv(path, sep="\t", index=False)
    refused(copy, r"responses\.tsv: expected columns SESSION, RUN, TRIAL, 73KID; found no RUN")


def test_only_matlab_betas_are_refused_with_the_reason(copy):
    for path in (copy / BETAS).glob("betas_session*"):
        path.rename(path.with_name(path.name.split(".")[0] + ".mat"))
    refused(
        copy,
        r"expected betas_sessionSS\.hdf5 or .*found only \.mat files \(the release holds the same numbers",
    )


def test_missing_images_are_refused(copy):
    (copy / "nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5").unlink()
    refused(copy, r"nsd_stimuli\.hdf5: expected the images of the experiment .*; found nothing there")


def test_truncated_images_are_refused(copy):
    path = own(copy / "nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5")
    path.write_bytes(path.read_bytes()[:5000])
    refused(copy, r"nsd_stimuli\.hdf5: expected a whole HDF5 file")


def test_a_session_of_another_size_is_refused(copy):
    path = copy / BETAS / "betas_session05.hdf5"
    path.unlink()
    with h5py.File(path, "w") as file:
        file["betas"] = np.zeros((59, 10, 14, 12), np.int16)
    refused(
        copy, r"betas_session05\.hdf5: expected 60 trials .* as in betas_session01\.hdf5; found 59 trials"
    )


def test_a_session_beyond_the_design_is_refused(copy):
    shutil.copy(copy / BETAS / "betas_session05.hdf5", copy / BETAS / "betas_session09.hdf5")
    refused(
        copy, r"betas_session09\.hdf5: expected a session of the 360 trials planned; found trials 481 to 540"
    )


def test_a_damaged_label_table_is_refused(copy):
    own(copy / "nsddata/freesurfer/subj01/label/streams.mgz.ctab").write_text(
        "0 Unknown\nearly 1\n", encoding="utf-8"
    )
    refused(copy, r"streams\.mgz\.ctab: expected lines of a whole number and a name; found line 2: 'early 1'")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"roi": "V9"}, r"`roi`: expected one of .*V1v.*; found 'V9'"),
        ({"betas": "b4"}, r"`dataset_options` of nsd: expected betas: .*'b1', 'b2', 'b3'.*; found 'b4'"),
        ({"betas": "b2"}, r"betas_fithrf: expected a folder .* \(there are betas_fithrf_GLMdenoise_RR\)"),
        ({"sessions": [2, 31]}, r"expected sessions 2, 31; found no session 31"),
        ({"format": "nii"}, r"found no beta file"),
        (
            {"region": "V1v"},
            r"`dataset_options` of nsd: expected one of betas, format, prepare, roi, sessions, space; found 'region'",
        ),
        ({"format": "mat"}, r"`dataset_options` of nsd: expected format: .*'hdf5'.*; found 'mat'"),
    ],
)
def test_an_unknown_option_is_refused(copy, options, match):
    refused(copy, match, **options)


def test_an_empty_region_is_refused(simulated_folder, tmp_path):
    with pytest.raises(InputError, match=r"expected voxels in roi mTL-words; found an empty region"):
        SIMULATED_NSD.open(simulated_folder, "03", tmp_path, roi="mTL-words")


def test_an_unknown_subject_is_refused(simulated_folder, tmp_path):
    with pytest.raises(UnknownName, match=r"`subject`: expected one of 01, 02, 03; found '07'"):
        SIMULATED_NSD.open(simulated_folder, "7", tmp_path)


def test_a_folder_without_a_release_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"expected folders subj01 to subj08; found no subject's betas"):
        NSD.open(tmp_path, "01", tmp_path)
    with pytest.raises(InputError, match=r"expected the folder of the release; found nothing there"):
        NSD.open(tmp_path / "nowhere", "01", tmp_path)


def test_an_unknown_stimulus_is_refused(study):
    with pytest.raises(UnknownName, match=r"expected a 73k id from 0 to 279; found '280'"):
        study.stimuli.images(["280"])


def test_a_work_folder_that_cannot_be_written_is_refused(simulated_folder, tmp_path):
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    study = SIMULATED_NSD.open(simulated_folder, "01", tmp_path / "file")
    with pytest.raises(InputError, match=r"expected a work folder with room for the prepared betas"):
        study.read(slice(0, 1))


def test_a_damaged_manifest_only_means_preparing_again(copy, study):
    open_copy(copy, prepare=True)
    (manifest,) = (copy.parent / "work" / "betas").glob("*.json")
    manifest.write_text(json.dumps({"shape": [1, 2]}), encoding="utf-8")
    np.testing.assert_array_equal(open_copy(copy).read(slice(None)), study.read(slice(None)))


def test_options_hold_what_they_were_given():
    assert build(NSDOptions, {"roi": ["V1v", "V1d"]}).roi == ("V1v", "V1d")


def test_a_copy_for_another_process_opens_its_own_map(study):
    import pickle

    study.read(slice(0, 1))
    content = pickle.dumps(study.responses)
    assert len(content) < 100_000  # the rows are not in it
    np.testing.assert_array_equal(pickle.loads(content)[np.array([3])], study.read(np.array([3])))


def test_a_subject_whose_betas_cannot_be_read_does_not_hinder_the_others(copy, study):
    for path in (copy / "nsddata_betas/ppdata/subj03/func1pt8mm/betas_fithrf_GLMdenoise_RR").glob("betas_*"):
        path.unlink()
    assert open_copy(copy).trials["repeats_everywhere"].min() == 3  # subjects 1 and 2 did all six sessions
    assert study.trials["repeats_everywhere"].min() < 3
