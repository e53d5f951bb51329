"""Pickled dicts of arrays are read as data, arrays mapped in place; whatever would run is refused and does not run."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from braindecode_suite.core.errors import InputError
from braindecode_suite.datasets.pickled_arrays import LARGE, read_arrays


def some_content(n: int = 5) -> dict:
    rng = np.random.default_rng(0)
    return {
        "data": rng.normal(size=(n, 3, 4)),
        "turned": np.asfortranarray(rng.normal(size=(4, 6)).astype(np.float32)),
        "swapped": np.arange(5, dtype=">i4"),
        "text": np.array(["Oz", "POz"]),
        "names": ["Oz", "Fp1"],
        "sfreq": 250.0,
        "n": 3,
        "nothing": None,
    }


def check_equal(found: dict, content: dict) -> None:
    assert list(found) == list(content)
    for name, value in content.items():
        if isinstance(value, np.ndarray):
            assert_array_equal(found[name], value)
        else:
            assert found[name] == value


@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize("n", [5, 3000])
def test_a_bare_pickle_and_a_saved_dict_give_what_was_written(tmp_path, protocol, n):
    content = some_content(n)
    (tmp_path / "bare.npy").write_bytes(pickle.dumps(content, protocol=protocol))
    check_equal(read_arrays(tmp_path / "bare.npy"), content)
    np.save(tmp_path / "saved.npy", np.array(content), allow_pickle=True)
    check_equal(read_arrays(tmp_path / "saved.npy"), content)


def test_a_large_array_is_a_map_of_the_file_and_cannot_be_written(tmp_path):
    content = some_content(3000)
    assert content["data"].nbytes > LARGE
    np.save(tmp_path / "saved.npy", np.array(content), allow_pickle=True)
    found = read_arrays(tmp_path / "saved.npy")["data"]
    assert isinstance(found, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        found[0] = 1


class Runs:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("protocol", [0, 2, 3, 4, 5])
def test_a_file_that_tries_to_run_code_is_refused_and_does_not(tmp_path, protocol):
    path = tmp_path / "bad.npy"
    path.write_bytes(pickle.dumps({"data": Runs(tmp_path / "ran")}, protocol=protocol))
    with pytest.raises(
        InputError,
        match=r"bad\.npy: expected a dict of numbers and names; found a pickle that would call|was not run",
    ):
        read_arrays(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("share", [0.2, 0.6, 0.99])
def test_a_file_cut_short_is_refused(tmp_path, share):
    whole = pickle.dumps(some_content(3000), protocol=4)
    (tmp_path / "cut.npy").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(InputError, match=r"cut\.npy: expected"):
        read_arrays(tmp_path / "cut.npy")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ([1, 2], r"expected a dict with names as keys; found list"),
        ({1: "a"}, r"expected a dict with names as keys; found dict"),
        ({"a": np.array([{}, {}], object)}, r"expected arrays of numbers; found an array of objects"),
        ({"a": np.zeros(2, complex)}, r"expected arrays of numbers or text; found an array of complex128"),
    ],
)
def test_other_content_is_refused(tmp_path, content, match):
    (tmp_path / "other.npy").write_bytes(pickle.dumps(content, protocol=4))
    with pytest.raises(InputError, match=match):
        read_arrays(tmp_path / "other.npy")


def test_a_plain_array_is_refused(tmp_path):
    np.save(tmp_path / "plain.npy", np.zeros(3))
    with pytest.raises(
        InputError, match=r"expected one dict saved as \.npy; found an array of float64, shape \(3,\)"
    ):
        read_arrays(tmp_path / "plain.npy")
