"""Time series of parcels: every format there and back, what must be declared, and what is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.io import savemat

from braindecode_suite.core.errors import InputError
from braindecode_suite.core.recipe import Recipe, ZScore
from braindecode_suite.datasets import DATASETS, PROTOCOLS
from braindecode_suite.datasets.parcels import PARCELS

SHARED = Path(os.environ.get("BDS_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
REAL = SHARED / "hcp_rest"
NAMES = ("7Networks_LH_Vis_1", "7Networks_LH_Vis_2", "7Networks_RH_Default_1")


def series(n_times: int = 11, seed: int = 0) -> np.ndarray:
    """Return samples of shape (parcels, times)."""
    return np.random.default_rng(seed).standard_normal((3, n_times)).astype(np.float32)


def describe(folder: Path, **changed) -> Path:
    known = {"RepetitionTime": 1.5, "Atlas": "three", "Axes": "parcels times"} | changed
    text = json.dumps({key: value for key, value in known.items() if value is not None})
    (folder / "parcels.json").write_text(text)
    return folder


def write_tsv(path: Path, values: np.ndarray, names=NAMES, **sidecar) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = ["\t".join(names), *("\t".join(f"{v:.7g}" for v in sample) for sample in values.T)]
    path.write_text("\n".join(rows) + "\n")
    if sidecar:
        path.with_suffix(".json").write_text(json.dumps(sidecar))


def write_ptseries(path: Path, values: np.ndarray, step: float = 0.8) -> None:
    """Write CIFTI-2 with bare nibabel: three parcels of a voxel each in a small volume."""
    parcels = nib.cifti2.ParcelsAxis(
        NAMES,
        voxels=[np.array([[k, 0, 0]]) for k in range(3)],
        vertices=[{} for _ in range(3)],
        affine=np.eye(4),
        volume_shape=(3, 1, 1),
        nvertices={},
    )
    time = nib.cifti2.SeriesAxis(0, step, values.shape[1])
    nib.save(nib.Cifti2Image(values.T, (time, parcels)), path)


def test_npy_and_mat_are_read_as_the_description_says(tmp_path):
    np.save(tmp_path / "a.npy", series().T)
    savemat(tmp_path / "b.mat", {"tc": series(seed=1).T.astype(float), "note": "text"})
    describe(tmp_path, Axes="times parcels")
    assert PARCELS.subjects(tmp_path) == ["a", "b"]
    for subject, seed in (("a", 0), ("b", 1)):
        study = PARCELS.open(tmp_path, subject, tmp_path)
        assert study.responses.shape == (1, 3, 11)
        assert_array_equal(study.read(np.array([0]))[0], series(seed=seed))
        assert (study.space.atlas, study.space.repetition_time) == ("three", 1.5)
        assert study.space.labels == ("three-0001", "three-0002", "three-0003")
        assert "not named" in study.provenance["warnings"][0]


def test_a_table_holds_its_names_and_its_sidecar_the_time(tmp_path):
    write_tsv(
        tmp_path / "sub-07/func/sub-07_task-rest_seg-mine_timeseries.tsv", series(), SamplingFrequency=2.0
    )
    (tmp_path / "sub-07/func/sub-07_task-rest_desc-confounds_timeseries.tsv").write_text("csf\n1\n")
    (tmp_path / "sub-07/func/sub-07_task-rest_events.tsv").write_text("onset\n1\n")
    (tmp_path / "participants.tsv").write_text("participant_id\nsub-07\n")
    study = PARCELS.open(tmp_path, "07", tmp_path)
    assert PARCELS.subjects(tmp_path) == ["07"]
    assert_allclose(study.read(slice(None))[0], series(), rtol=1e-6)
    assert (study.space.atlas, study.space.repetition_time, study.space.labels) == ("mine", 0.5, NAMES)
    assert_array_equal(study.space.rois["Vis"], [True, True, False])
    assert_array_equal(study.space.rois["Default"], [False, False, True])


def test_cifti_holds_names_and_time(tmp_path):
    write_ptseries(tmp_path / "sub-1_task-movie_run-1_seg-three.ptseries.nii", series(7))
    study = PARCELS.open(tmp_path, "1", tmp_path)
    assert_array_equal(study.read(slice(None))[0], series(7))
    assert (study.space.labels, study.space.repetition_time) == (NAMES, 0.8)
    assert study.trials["stimulus_id"].tolist() == ["movie"]


def write_ragged(folder: Path) -> Path:
    for task, run, n in (("rest", 1, 11), ("rest", 2, 9), ("movie", 1, 14)):
        path = folder / f"sub-01/ses-a/func/sub-01_ses-a_task-{task}_run-{run}_seg-three_timeseries.tsv"
        write_tsv(path, series(n, seed=n), RepetitionTime=1.0)
    return folder


def test_runs_of_differing_length_come_as_they_are(tmp_path):
    study = PARCELS.open(write_ragged(tmp_path), "01", tmp_path)
    assert study.responses.shape == (3, 3)
    assert study.n_units == 3
    assert study.trials["stimulus_id"].tolist() == ["movie", "rest", "rest"]
    assert study.trials["samples"].tolist() == [14, 11, 9]
    assert study.trials["run"].tolist() == [1, 2, 3]
    values = study.read(np.array([2, 0]))
    assert [v.shape for v in values] == [(3, 9), (3, 14)]
    assert_allclose(values[1], series(14, seed=14), rtol=1e-6)
    assert values[0].dtype == np.float32
    split = PROTOCOLS["leave-one-run-out"]([study])[0]
    assert split.card()["shared"]["run"]["train/test"] == 0


def test_a_recipe_on_ragged_runs_is_refused(tmp_path):
    study = PARCELS.open(write_ragged(tmp_path), "01", tmp_path)
    prepared = study.prepared(Recipe(()), np.array([0]))
    with pytest.raises(
        InputError, match="expected rows of one length, to be preprocessed by a recipe; found rows of"
    ):
        prepared.read(slice(None))
    assert ZScore().describe()["by"] == "session"


def test_opening_reads_no_samples(tmp_path, monkeypatch):
    np.save(tmp_path / "a.npy", series())
    savemat(tmp_path / "b.mat", {"tc": series()})
    describe(tmp_path)
    monkeypatch.setattr("braindecode_suite.datasets.parcels_files.loadmat", None)
    monkeypatch.setattr("braindecode_suite.datasets.parcels_files.check_finite", None)
    assert PARCELS.open(tmp_path, "a", tmp_path).n_units == 3
    assert PARCELS.open(tmp_path, "b", tmp_path).n_units == 3


def test_another_time_or_atlas_is_an_error(tmp_path):
    np.save(tmp_path / "a.npy", series())
    describe(tmp_path)
    same = PARCELS.open(tmp_path, "a", tmp_path, repetition_time=1.5, atlas="three")
    assert same.space.repetition_time == 1.5
    with pytest.raises(InputError, match=r"`repetition_time`: expected 1\.5 s, as the data are; found 2 s"):
        PARCELS.open(tmp_path, "a", tmp_path, repetition_time=2.0)
    with pytest.raises(InputError, match="`atlas`: expected three, as the data are; found AAL2"):
        PARCELS.open(tmp_path, "a", tmp_path, atlas="AAL2")


def test_of_two_atlases_one_must_be_chosen(tmp_path):
    for atlas, names in (("three", NAMES), ("two", NAMES[:2])):
        write_tsv(tmp_path / f"sub-1_task-rest_seg-{atlas}_timeseries.tsv", series()[: len(names)], names)
        describe(tmp_path, Atlas=None)
    with pytest.raises(InputError, match="`atlas`: expected one of three, two; found none chosen"):
        PARCELS.open(tmp_path, "1", tmp_path)
    assert PARCELS.open(tmp_path, "1", tmp_path, atlas="two").n_units == 2


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"Atlas": None},
            "parcels.json: expected Atlas: the name of the atlas; found no atlas named anywhere",
        ),
        ({"RepetitionTime": None}, r"expected RepetitionTime in seconds; found none for a\.npy"),
        ({"RepetitionTime": -1}, "expected RepetitionTime in seconds, above 0; found -1"),
        ({"Axes": None}, r"to be told which axis is time; found shape \(3, 11\) \(write Axes"),
        ({"Axes": "rows"}, "Axes 'parcels times' or 'times parcels'; found 'rows'"),
        ({"Atlas": "Schaefer2018_100Parcels"}, "expected 100 parcels of Schaefer2018_100Parcels; found 3"),
        ({"Labels": ["a", "b"]}, r"a\.npy: expected 2 parcels, as the others; found 3"),
        ({"TR": 1.0}, "expected keys RepetitionTime, Atlas, Labels, Axes, Variable; found TR"),
    ],
)
def test_what_is_not_declared_or_cannot_be_is_refused(tmp_path, changed, message):
    np.save(tmp_path / "a.npy", series())
    describe(tmp_path, **changed)
    with pytest.raises(InputError, match=message):
        PARCELS.open(tmp_path, "a", tmp_path)


def test_labels_tell_the_axes(tmp_path):
    np.save(tmp_path / "a.npy", series().T)
    describe(tmp_path, Axes=None, Labels=list(NAMES))
    study = PARCELS.open(tmp_path, "a", tmp_path)
    assert_array_equal(study.read(slice(None))[0], series())
    assert study.space.labels == NAMES


def test_runs_that_disagree_are_refused(tmp_path):
    describe(tmp_path, RepetitionTime=None)
    write_tsv(tmp_path / "sub-1_run-1_timeseries.tsv", series(), RepetitionTime=2.0)
    write_tsv(tmp_path / "sub-1_run-2_timeseries.tsv", series(), NAMES[::-1], RepetitionTime=2.0)
    with pytest.raises(
        InputError, match="the parcels in one order, '7Networks_LH_Vis_1' in place 1; found '7Net"
    ):
        PARCELS.open(tmp_path, "1", tmp_path)
    write_tsv(tmp_path / "sub-1_run-2_timeseries.tsv", series(), RepetitionTime=1.0)
    with pytest.raises(
        InputError, match=r"run-2_timeseries\.tsv: expected a repetition time of 2 s; found 1 s"
    ):
        PARCELS.open(tmp_path, "1", tmp_path)


def test_broken_files_are_refused(tmp_path):
    describe(tmp_path)
    np.save(tmp_path / "cut.npy", series(500))
    whole = (tmp_path / "cut.npy").read_bytes()
    (tmp_path / "cut.npy").write_bytes(whole[:-100])
    np.save(tmp_path / "pickled.npy", np.array([{"a": 1}], object), allow_pickle=True)
    broken = series()
    broken[1, 4] = np.nan
    np.save(tmp_path / "nan.npy", broken)
    (tmp_path / "text.mat").write_text("no matrix " * 50)
    for subject, message in (
        ("cut", r"cut\.npy: expected time series of parcels; found mmap length"),
        (
            "pickled",
            r"pickled\.npy: expected time series of parcels; found .*Python objects",
        ),
        ("text", r"text\.mat: expected time series of parcels"),
    ):
        with pytest.raises(InputError, match=message):
            PARCELS.open(tmp_path, subject, tmp_path)
    study = PARCELS.open(tmp_path, "nan", tmp_path)
    with pytest.raises(InputError, match=r"nan\.npy: expected finite values; found 1 NaN .* at \(1, 4\)"):
        study.read(slice(None))
    assert {line.status for line in PARCELS.check(tmp_path)} == {"bad"}


def test_an_empty_folder_and_unknown_subjects_are_refused(tmp_path):
    assert DATASETS["parcels"] is PARCELS
    with pytest.raises(InputError, match="of parcel series; found none of them"):
        PARCELS.open(tmp_path, "1", tmp_path)
    np.save(describe(tmp_path) / "a.npy", series())
    with pytest.raises(InputError, match="`subject`: expected one of a; found 'b'"):
        PARCELS.open(tmp_path, "b", tmp_path)


@pytest.mark.skipif(not REAL.is_dir(), reason=f"{REAL} is not here")
def test_the_real_series_are_five_subjects_of_94_parcels_at_720_ms():
    from scipy.io import loadmat

    subjects = PARCELS.subjects(REAL)
    assert len(subjects) == 5
    for subject in subjects:
        study = PARCELS.open(REAL, subject, REAL)
        assert study.responses.shape == (1, 94, 1200)
        assert (study.space.repetition_time, study.space.atlas) == (0.72, "AAL2")
    bare = loadmat(str(REAL / f"{subjects[2]}.mat"))["tc"].astype(np.float32)
    assert_array_equal(PARCELS.open(REAL, subjects[2], REAL).read(np.array([0]))[0], bare)
    with pytest.raises(InputError, match=r"expected 0\.72 s, as the data are; found 2 s"):
        PARCELS.open(REAL, subjects[0], REAL, repetition_time=2.0)
    with pytest.raises(InputError, match="expected AAL2, as the data are; found Schaefer2018_100Parcels"):
        PARCELS.open(REAL, subjects[0], REAL, atlas="Schaefer2018_100Parcels")


def test_the_image_of_the_atlas_takes_values_back_to_the_brain(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    write_tsv(data / "a.tsv", series(), RepetitionTime=1.5)
    describe(data)
    values = np.zeros((3, 2, 2), np.int16)
    values[0, 1, 0], values[2, 0, 1], values[1, 1, 1] = 3, 1, 2
    nib.Nifti1Image(values, np.diag([2.0, 2, 2, 1])).to_filename(tmp_path / "atlas.nii.gz")
    options = {"atlas_image": str(tmp_path / "atlas.nii.gz"), "atlas_template": "MNI152NLin6Asym"}
    study = PARCELS.open(data, "a", tmp_path, **options)
    assert study.space.template == "MNI152NLin6Asym"
    back = np.asarray(study.space.inverse_transform(np.array([10.0, 20, 30])).dataobj)
    assert (back[2, 0, 1], back[1, 1, 1], back[0, 1, 0]) == (10, 20, 30)
    assert PARCELS.open(data, "a", tmp_path).space.volume is None
    nib.Nifti1Image(np.where(values == 3, 7, values), np.eye(4)).to_filename(tmp_path / "atlas.nii.gz")
    with pytest.raises(InputError, match=r"values 1 to 3, one a parcel in order; found 3 values from 0 to 7"):
        PARCELS.open(data, "a", tmp_path, **options)
