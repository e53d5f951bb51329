"""Rows side by side, rows looked at once, and what loaders keep in the work folder to read them fast."""

from __future__ import annotations

import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from braindecode_suite.core.errors import InputError
from braindecode_suite.core.recipe import Recipe
from braindecode_suite.datasets.bids_fmri import BIDS_FMRI
from braindecode_suite.datasets.god import GOD_DATASET
from braindecode_suite.datasets.mapped_rows import FiniteRows, gather
from braindecode_suite.datasets.nsd_betas import SessionHeader, percent_rows
from braindecode_suite.datasets.parcels import PARCELS
from braindecode_suite.datasets.simulate_bold import BoldParameters, write_bold_study
from braindecode_suite.datasets.table import TableResponses
from tests.release_writers import write_god
from tests.test_parcels import write_ragged


def test_rows_of_several_arrays_stand_side_by_side(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((9, n)).astype(np.float32) for n in (3, 1, 4)]
    np.save(tmp_path / "a.npy", arrays[0])
    mapped = [np.load(tmp_path / "a.npy", mmap_mode="r"), *arrays[1:]]
    for rows in (np.array([5, 0, 5, 8]), np.array([], int)):
        assert_array_equal(gather(mapped, rows), np.hstack(arrays)[rows])


def test_a_bad_row_is_found_whenever_it_is_read_and_others_are_looked_at_once() -> None:
    values = np.ones((6, 3), np.float32)
    values[4, 1] = np.inf
    look = FiniteRows(6)
    assert look.find_bad(values[[0, 5]], np.array([0, 5])) is None
    for _ in range(2):
        assert look.find_bad(values[[5, 4, 0]], np.array([5, 4, 0])) == (1, 1, 1)
    assert_array_equal(look.seen, [True, False, False, False, False, True])
    assert look.find_bad(np.full((1, 3), np.nan, np.float32), np.array([5])) is None  # has been seen


def test_rows_of_integers_become_percent_whatever_the_order_in_memory() -> None:
    stored = np.random.default_rng(1).integers(-30_000, 30_000, (150, 300), dtype=np.int16)
    header = SessionHeader(Path("x"), 150, (300, 1, 1), integer=True)
    for values in (stored, np.asfortranarray(stored)):
        rows = np.concatenate(list(percent_rows(values, header)))
        assert rows.dtype == np.float32
        np.testing.assert_allclose(rows, stored / 300, rtol=1e-6)
    plain = SessionHeader(Path("x"), 150, (300, 1, 1), integer=False)
    assert_array_equal(np.concatenate(list(percent_rows(stored.astype(">f4"), plain))), stored)


def test_hdf5_responses_are_copied_once_and_again_when_the_file_changes(tmp_path: Path) -> None:
    values = np.random.default_rng(2).standard_normal((50, 7))
    path = tmp_path / "responses.h5"
    for factor in (1, 2):
        path.unlink(missing_ok=True)
        with h5py.File(path, "w") as file:
            file["responses"] = factor * values
            file["changed"] = np.zeros(factor)
        responses = TableResponses(path, tmp_path / "work")
        assert not list((tmp_path / "work").rglob("*.npy")) or factor == 2
        assert_array_equal(responses[[30, 2, 30]], factor * values[[30, 2, 30]])
        assert len(list((tmp_path / "work").rglob("*.npy"))) == factor
        assert_array_equal(pickle.loads(pickle.dumps(responses))[4], factor * values[4])
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"responses.h5: expected a whole array of numbers"):
        TableResponses(path, tmp_path / "work")


def test_the_labs_matrix_is_copied_once(tmp_path: Path) -> None:
    write_god(tmp_path / "data")
    study = GOD_DATASET.open(tmp_path / "data", "01", tmp_path / "work")
    assert not (tmp_path / "work").exists()
    rows = study.read(np.array([3, 60, 0]))
    (path,) = (tmp_path / "work").rglob("*.npy")
    made = path.stat().st_mtime_ns
    again = GOD_DATASET.open(tmp_path / "data", "01", tmp_path / "work")
    assert_array_equal(again.read(np.array([3, 60, 0])), rows)
    assert_array_equal(pickle.loads(pickle.dumps(again.responses))[60], rows[1])
    assert path.stat().st_mtime_ns == made


def test_series_are_copied_into_the_work_folder_and_checked_without(tmp_path: Path) -> None:
    folder = write_ragged(tmp_path / "data")
    assert {line.status for line in PARCELS.check(folder)} == {"ok"}
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    study = PARCELS.open(folder, "01", tmp_path / "work")
    values = study.read(np.array([1, 0]))
    (made,) = (tmp_path / "work").rglob("*.npy")
    assert np.load(made).size == sum(file.n_parcels * file.n_times for file in study.responses.files)  # type: ignore
    assert_array_equal(PARCELS.open(folder, "01", tmp_path / "work").read(np.array([1]))[0], values[0])
    values[0][:] = 7  # a reader may write into what it got
    assert not (study.read(np.array([1]))[0] == 7).any()
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_the_chosen_responses_are_those_of_the_file_and_leave_no_file(tmp_path: Path) -> None:
    write_bold_study(tmp_path / "study", BoldParameters(shape=(6, 5, 4), images=24), subjects=("01",))
    study = BIDS_FMRI.open(tmp_path / "study", "01", tmp_path / "work", hrf="library", prepare=True)
    train = np.flatnonzero(study.trials["session"] == study.trials["session"].iloc[0])
    before = sorted((tmp_path / "work").rglob("*.*"))
    tuned = study.prepared(Recipe(()), train)
    chosen = tuned.responses.chosen  # type: ignore[attr-defined]
    assert len(set(chosen)) > 1
    with h5py.File(next((tmp_path / "work").rglob("*betas.h5"))) as file:
        stored = file["betas"][:]
    expected = np.take_along_axis(stored, chosen[None, None], axis=1)[:, 0]
    assert_array_equal(tuned.read(slice(None)), expected)
    assert_array_equal(tuned.read(np.array([9, 2])), expected[[9, 2]])
    assert_array_equal(study.read(np.array([9])), stored[[9], 3])  # the untuned study reads the default still
    assert sorted((tmp_path / "work").rglob("*.*")) == before
