"""Mappings saved as pickles are read as data; whatever would run is refused and does not run."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from braindecode_suite.core.errors import InputError
from braindecode_suite.datasets.pickled_mapping import MAX_BYTES, read_mapping

NAMES = {0: "Unknown", 1: "V1v", 2: "FFA-1", 300: "hV4", 70000: "a place", -3: "né"}


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "mapping.npy"


def write(
    path: Path, content: bytes, header: str = "{'descr': '|O', 'fortran_order': False, 'shape': (), }"
) -> Path:
    text = header.ljust(117) + "\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + content)
    return path


@pytest.mark.parametrize("mapping", [NAMES, {}, {5: "five"}, {k: f"region {k % 3}" for k in range(400)}])
def test_what_numpy_saved_is_read(path, mapping):
    np.save(path, np.array(mapping), allow_pickle=True)
    assert read_mapping(path) == mapping


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_both_names_of_numpys_module_and_all_protocols_are_read(path, protocol, module):
    content = pickle.dumps(np.array(NAMES), protocol=protocol)
    ours = next(name for name in (b"numpy._core.multiarray", b"numpy.core.multiarray") if name in content)
    if protocol == 3:  # names of length-prefixed strings cannot be swapped in place
        content = content.replace(ours, module)
    assert read_mapping(write(path, content)) == NAMES


class Runs:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("place", ["alone", "value", "key", "array"])
def test_a_mapping_that_tries_to_run_code_is_refused_and_does_not(tmp_path, path, protocol, place):
    marker = tmp_path / "ran"
    content = {
        "alone": Runs(marker),
        "value": {1: Runs(marker)},
        "key": {Runs(marker): "V1"},
        "array": np.array({1: Runs(marker)}),
    }[place]
    write(path, pickle.dumps(content, protocol=protocol))
    with pytest.raises(InputError, match=r"mapping.npy: expected .*\(it was not run\)"):
        read_mapping(path)
    assert not marker.exists()
    if place != "key":  # the file itself is armed: unpickling would have run it
        pickle.loads(pickle.dumps(content, protocol=protocol))
        assert marker.exists()


@pytest.mark.parametrize(
    "name", [b"os\nsystem", b"builtins\neval", b"numpy\nload", b"numpy.core.multiarray\nfromfile"]
)
def test_no_other_name_is_let_through(path, name):
    write(path, b"\x80\x03c" + name + b"\nX\x04\x00\x00\x00boom\x85R.")
    found = name.decode().replace("\n", ".")
    with pytest.raises(InputError, match=rf"a pickle that would call {found}"):
        read_mapping(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "expected a dict; found list"),
        ("V1", "expected a dict; found str"),
        ({"V1": 1}, "expected whole numbers to names; found 'V1': 1"),
        ({1: 2}, "expected whole numbers to names; found 1: 2"),
        ({True: "V1"}, "expected whole numbers to names; found True"),
        ({1: {2: "V1"}}, "expected whole numbers to names"),
        ({1.5: "V1"}, "pickle instruction BINFLOAT"),
        ({1: b"V1"}, "expected whole numbers to names; found 1: b'V1'"),
    ],
)
def test_anything_but_numbers_to_names_is_refused(path, content, message):
    with pytest.raises(InputError, match=message):
        read_mapping(write(path, pickle.dumps(content, protocol=4)))


@pytest.mark.parametrize("cut", [1, 5, 40, 100])
def test_a_truncated_file_is_refused(path, cut):
    np.save(path, np.array(NAMES), allow_pickle=True)
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(InputError, match=r"expected a whole pickled dict|expected a \.npy file"):
        read_mapping(path)


def test_other_arrays_and_files_are_refused(path):
    np.save(path, np.arange(3))
    with pytest.raises(
        InputError, match=r"expected one dict saved as .npy; found an array of int64, shape \(3,\)"
    ):
        read_mapping(path)
    path.write_bytes(b"not numpy")
    with pytest.raises(InputError, match=r"expected a \.npy file"):
        read_mapping(path)
    path.write_bytes(bytes(MAX_BYTES + 1))
    with pytest.raises(InputError, match=f"at most {MAX_BYTES} bytes"):
        read_mapping(path)
    path.unlink()
    with pytest.raises(InputError, match="found nothing there"):
        read_mapping(path)


@pytest.mark.parametrize("seed", range(60))
def test_random_damage_ends_in_a_mapping_or_one_line(path, seed):
    rng = np.random.default_rng(seed)
    np.save(path, np.array(NAMES), allow_pickle=True)
    content = bytearray(path.read_bytes())
    for place in rng.integers(80, len(content), 3):
        content[place] = rng.integers(256)
    path.write_bytes(bytes(content))
    try:
        mapping, message = read_mapping(path), ""
    except InputError as error:
        mapping, message = {}, str(error)
    assert "\n" not in message
    assert all(type(k) is int and type(v) is str for k, v in mapping.items())
