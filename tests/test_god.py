"""god: the design in BIDS, the lab's files without the lab's library, and what is refused."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

from braindecode_suite.core.errors import InputError
from braindecode_suite.core.protocols import DesignedDataset
from braindecode_suite.core.spaces import UnitSpace
from braindecode_suite.datasets.god import GOD_DATASET, stimulus_name
from braindecode_suite.datasets.protocols_releases import god_imagery, god_test50
from tests.release_writers import (
    GOD_TEST,
    GOD_TRAINING,
    god_bdata,
    god_number,
    god_order,
    write_bdata_h5,
    write_bdata_mat,
    write_god,
)

SHARED = Path(os.environ.get("BDS_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
REAL = SHARED / "god_events"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason=f"{REAL} is not here")
TEST_RUN = "sub-01/ses-perceptionTest01/func/sub-01_ses-perceptionTest01_task-perception_run-01_events.tsv"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("god")
    write_god(folder)
    return folder


@pytest.fixture
def copy(made, tmp_path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "data"))


@pytest.fixture
def content():
    rng = np.random.default_rng(4)
    order = god_order(rng)
    return god_bdata(order, rng)


def test_a_known_voxel_of_a_known_sample_comes_back(tmp_path):
    """Golden: written with bare h5py; voxels are neither first nor in the order of the volume."""
    voxels = {0: (4.0, -3.0, 9.0), 2: (1.0, 0.0, 9.0), 3: (1.0, -3.0, 9.0)}  # column: millimetres
    with h5py.File(tmp_path / "Subject3.h5", "w") as file:
        file["dataSet"] = [[0.5, 1, 7, 8, 1443537.022563], [-2.5, 3, 6, 5, 1443537.0]]
        keys = ["DataType", "stimulus_id", "VoxelData", "voxel_x", "voxel_y", "voxel_z", "ROI_LOC"]
        values = np.full((7, 5), np.nan)
        values[0, 1] = values[1, 4] = values[6, 3] = 1
        for column, point in voxels.items():
            values[2, column], values[3:6, column] = 1, point
        file["metaData/key"], file["metaData/value"] = np.array(keys, dtype="S"), values
    study = GOD_DATASET.open(tmp_path, "03", tmp_path / "work")
    assert list(study.stimulus_ids) == ["n01443537_22563", "n01443537"]
    assert list(study.trials["kind"]) == ["training", "imagery"]
    np.testing.assert_array_equal(study.read(np.array([1, 0])), [[5, 6, -2.5], [8, 7, 0.5]])
    image = study.space.inverse_transform(study.read(np.array([1]))[0])
    for column, point in voxels.items():
        x, y, z = np.linalg.solve(image.affine, [*point, 1])[:3].round().astype(int)
        assert image.get_fdata()[x, y, z] == {0: -2.5, 2: 6, 3: 5}[column]
    np.testing.assert_array_equal(study.space.rois["LOC"], [True, False, False])
    assert any("names no runs" in warning for warning in study.provenance["warnings"])


def test_mat_and_h5_of_the_same_data_are_the_same_study(made, content, tmp_path):
    studies = []
    for write, name in ((write_bdata_h5, "Subject1.h5"), (write_bdata_mat, "Subject1.mat")):
        folder = tmp_path / name
        folder.mkdir()
        write(folder / name, *content)
        studies.append(GOD_DATASET.open(folder, "01", tmp_path / "work"))
    one, other = studies
    pd.testing.assert_frame_equal(one.trials, other.trials)
    np.testing.assert_array_equal(one.read(slice(None)), other.read(slice(None)))
    assert one.space.describe() == other.space.describe()
    assert set(one.space.rois) == {"V1", "V2", "FFA"}
    assert one.space.rois["V1"].sum() == 8
    assert (one.space.rois["V1"] & one.space.rois["V2"]).sum() == 2
    assert not one.space.rois["FFA"].any()
    np.testing.assert_array_equal(one.space.rois["V1"], other.space.rois["V1"])


def test_one_back_repeats_are_dropped_or_kept(made, tmp_path):
    study = GOD_DATASET.open(made, "01", tmp_path)
    kept = GOD_DATASET.open(made, "01", tmp_path, one_back="keep")
    assert len(kept.trials) - len(study.trials) == kept.trials["one_back"].sum() == 7
    assert study.trials.groupby("kind").size().to_dict() == {"training": 48, "test": 30, "imagery": 12}
    rows = np.flatnonzero(~kept.trials["one_back"])
    np.testing.assert_array_equal(study.read(slice(None)), kept.read(rows))


def test_file_and_events_agree(made, tmp_path):
    study = GOD_DATASET.open(made, "01", tmp_path)
    design = GOD_DATASET.design(made, "01")
    shown = design[~design["one_back"]]
    assert list(shown["stimulus_id"]) == list(study.stimulus_ids)
    assert list(shown["session"]) == list(study.trials["session"])
    assert not any("differ" in warning for warning in study.provenance["warnings"])


def test_an_imagined_category_has_its_test_image(made, tmp_path):
    stimuli = GOD_DATASET.open(made, "01", tmp_path).stimuli
    category = GOD_TEST[2].partition("_")[0]
    one, other, third = stimuli.images([category, GOD_TEST[2], GOD_TEST[3]])
    np.testing.assert_array_equal(one, other)
    assert not np.array_equal(one, third)


def test_the_test_images_are_of_categories_nobody_trained_on(made, tmp_path):
    study = GOD_DATASET.open(made, "01", tmp_path)
    (split,) = god_test50([study], seed=2)
    assert split.keys("test", "stimulus") == set(GOD_TEST)
    assert split.keys("train", "stimulus") | split.keys("validation", "stimulus") == set(GOD_TRAINING)
    assert {"concept", "session", "run"} <= split.disjoint
    assert not split.keys("train", "concept") & split.keys("validation", "concept")
    assert len(split.keys("validation", "concept")) == 1
    assert len(split.test[0]) == 30


def test_imagery_is_tested_on_what_perception_taught(made, tmp_path):
    study = GOD_DATASET.open(made, "01", tmp_path)
    (split,) = god_imagery([study])
    assert set(study.trials["kind"].iloc[split.test[0]]) == {"imagery"}
    assert set(study.trials["kind"].iloc[split.train[0]]) == {"training"}
    assert any("no picture" in note for note in split.notes)
    without = god_bdata_without_imagery(tmp_path)
    with pytest.raises(
        InputError, match="protocol 'god-imagery': expected trials of kind imagery; found none"
    ):
        god_imagery([GOD_DATASET.open(without, "01", tmp_path)])


def god_bdata_without_imagery(folder: Path) -> Path:
    rng = np.random.default_rng(1)
    order = [row for row in god_order(rng) if row[0] != "imageryTest"]
    (folder / "seen").mkdir()
    write_bdata_h5(folder / "seen" / "Subject1.h5", *god_bdata(order, rng))
    return folder / "seen"


@needs_real
def test_the_real_design_has_1200_training_and_50_test_stimuli_and_imagery_apart():
    assert isinstance(GOD_DATASET, DesignedDataset)
    assert GOD_DATASET.subjects(REAL) == ["01", "02", "03", "04", "05"]
    for label in GOD_DATASET.subjects(REAL):
        design = GOD_DATASET.design(REAL, label)
        assert design.groupby("kind")["stimulus_id"].nunique().to_dict() == {
            "training": 1200,
            "test": 50,
            "imagery": 50,
        }
        once = design[~design["one_back"]]
        assert once.groupby("kind").size().to_dict() == {"training": 1200, "test": 1750, "imagery": 500}
        assert set(once[once["kind"] == "test"].groupby("stimulus_id").size()) == {35}
        assert set(once[once["kind"] == "imagery"].groupby("stimulus_id").size()) == {10}
        concepts = once.groupby("kind")["concept"].agg(set)
        assert len(concepts["training"]) == 150
        assert concepts["test"] == concepts["imagery"]
        assert not concepts["test"] & concepts["training"]


@needs_real
def test_the_labs_numbers_name_the_real_stimuli():
    seen = 0
    for path in sorted(REAL.glob("sub-01/ses-*/func/*_events.tsv")):
        table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
        imagery = "imageryTest" in path.name
        number, name = ("category_id", "category_name") if imagery else ("stimulus_id", "stimulus_name")
        for text, expected in zip(table[number], table[name], strict=True):
            if text != "n/a":
                assert stimulus_name(float(text), imagery=imagery) == expected
                seen += 1
    assert seen == 1320 + 1925 + 500 * 4


@needs_real
def test_without_responses_the_check_and_the_loader_say_so(tmp_path):
    lines = GOD_DATASET.check(REAL)
    assert [line.path for line in lines if line.status == "missing"] == [
        f"Subject{k}.h5" for k in range(1, 6)
    ]
    assert any("1200 training stimuli" in line.found and "50 test stimuli" in line.found for line in lines)
    with pytest.raises(InputError, match="only the design of 3745 trials is here"):
        GOD_DATASET.open(REAL, "01", tmp_path)


@pytest.mark.parametrize("name", [*GOD_TRAINING[:3], *GOD_TEST, "n13111881_9170", "n07758680_22370"])
def test_numbers_name_stimuli(name):
    assert stimulus_name(god_number(name)) == name
    assert stimulus_name(god_number(name.partition("_")[0]), imagery=True) == name.partition("_")[0]
    assert stimulus_name(god_number(name), imagery=True) is None


def damaged(content, change) -> tuple:
    matrix, keys, values = (content[0].copy(), list(content[1]), content[2].copy())
    return change(matrix, keys, values) or (matrix, keys, values)


def drop_key(name):
    def change(matrix, keys, values):
        k = keys.index(name)
        return matrix, keys[:k] + keys[k + 1 :], np.delete(values, k, axis=0)

    return change


def set_label(column, value):
    def change(matrix, keys, values):
        matrix[5, column] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop_key("DataType"), "a metadata key 'DataType'; found VoxelData, Session"),
        (drop_key("stimulus_id"), "a metadata key 'stimulus_id'"),
        (drop_key("VoxelData"), "a metadata key 'VoxelData'"),
        (set_label(0, 4), "expected DataType 1, 2 or 3; found 4"),
        (
            set_label(3, 17.5000003),
            r"expected stimulus_id as synset.image .*; found .*17.5000003.* in sample 6",
        ),
        (lambda m, k, v: (m.astype(np.float32), k, v), "expected a matrix of float64 .*; found float32"),
        (
            lambda m, k, v: (m, k, v[:, :-1]),
            r"metadata values of shape \(11 keys, 24 columns\); found \(11, 23\)",
        ),
        (lambda m, k, v: (m[0], k, v), "a matrix of numbers, samples by columns"),
    ],
)
def test_files_that_are_not_as_expected_are_refused(content, tmp_path, change, message):
    write_bdata_h5(tmp_path / "Subject1.h5", *damaged(content, change))
    with pytest.raises(InputError, match=message):
        GOD_DATASET.open(tmp_path, "01", tmp_path)
    (line,) = [line for line in GOD_DATASET.check(tmp_path) if line.status != "optional-missing"]
    assert line.status == "bad"


@pytest.mark.parametrize("suffix", ["h5", "mat"])
def test_a_truncated_file_is_refused(content, tmp_path, suffix):
    path = tmp_path / f"Subject1.{suffix}"
    (write_bdata_h5 if suffix == "h5" else write_bdata_mat)(path, *content)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=rf"Subject1.{suffix}: expected a.*"):
        GOD_DATASET.open(tmp_path, "01", tmp_path).read(slice(None))


def test_an_entry_of_another_name_is_refused(tmp_path):
    with h5py.File(tmp_path / "Subject1.h5", "w") as file:
        file["data"] = np.zeros((3, 3))
    with pytest.raises(InputError, match="expected an entry 'dataset' or 'dataSet'; found data"):
        GOD_DATASET.open(tmp_path, "01", tmp_path)


def test_a_response_that_is_no_number_is_named(content, tmp_path):
    write_bdata_h5(tmp_path / "Subject1.h5", *damaged(content, set_label(10, np.nan)))
    study = GOD_DATASET.open(tmp_path, "01", tmp_path)
    with pytest.raises(InputError, match="found 1 NaN or infinite values, the first in sample 6, column 11"):
        study.read(slice(None))


def test_voxels_on_no_grid_have_no_brain_map(content, tmp_path):
    matrix, keys, values = content
    values[keys.index("voxel_y"), 9] += 1.1
    write_bdata_h5(tmp_path / "Subject1.h5", matrix, keys, values)
    study = GOD_DATASET.open(tmp_path, "01", tmp_path)
    assert isinstance(study.space, UnitSpace)
    assert any("no grid" in warning for warning in study.provenance["warnings"])


def test_stimuli_that_differ_from_the_events_are_a_named_warning(copy, tmp_path):
    for path in sorted((copy / TEST_RUN).parent.glob("*.tsv")):
        path.write_text(path.read_text().replace(GOD_TEST[0], "n09999999_1"), encoding="utf-8")
    study = GOD_DATASET.open(copy, "01", tmp_path)
    assert (
        "stimuli of file and events differ (test: 1 only in the file, 1 only in the events)"
        in study.provenance["warnings"]
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns="event_type"), "expected a column 'event_type'"),
        (lambda t: t.assign(onset=t["onset"][::-1].to_numpy()), "expected onsets that ascend"),
        (lambda t: t.assign(duration=10), "expected events that do not overlap"),
    ],
)
def test_events_that_make_no_sense_are_refused(copy, change, message):
    table = pd.read_csv(copy / TEST_RUN, sep="\t", keep_default_na=False)
    change(table).to_csv(copy / TEST_RUN, sep="\t", index=False)
    with pytest.raises(InputError, match=message):
        GOD_DATASET.design(copy, "01")
