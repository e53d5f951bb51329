"""Checks, registry, config, files and cache."""

from __future__ import annotations

import json
import platform
import sys

import numpy as np
import pytest
from pydantic import field_validator

from braindecode_suite.core.cache import ArrayCache
from braindecode_suite.core.checks import check_file, check_finite, check_match, check_option, check_shape
from braindecode_suite.core.config import Config, apply_settings, build, read_yaml
from braindecode_suite.core.errors import InputError, UnknownName
from braindecode_suite.core.files import data_hash, file_sha256, write_aside, write_json
from braindecode_suite.core.manifest import anonymous_kb
from braindecode_suite.core.memory import reuse_freed_memory
from braindecode_suite.core.registry import Registry


class Inner(Config):
    epochs: int = 3


class Outer(Config):
    name: str
    train: Inner = Inner()


def test_a_wrong_option_is_answered_with_the_nearest_one():
    with pytest.raises(UnknownName, match=r"found 'rigde' \(did you mean 'ridge'\?\)"):
        check_option("encoder", "rigde", ["ridge", "mindeye"])


def test_a_wrong_shape_names_axes_and_sizes():
    with pytest.raises(InputError, match=r"`x`: expected shape \(batch, voxels=5\); found \(2, 7\)"):
        check_shape("x", np.zeros((2, 7)), "batch voxels", voxels=5)


def test_the_first_bad_value_is_named():
    values = np.zeros((3, 4))
    values[1, 2] = np.nan
    with pytest.raises(InputError, match=r"betas: expected finite values; found 1 NaN .* at \(1, 2\)"):
        check_finite("betas", values)
    check_finite("betas", np.zeros(3))


def test_a_missing_file_and_a_folder_in_its_place_are_told_apart(tmp_path):
    with pytest.raises(InputError, match="found nothing there"):
        check_file(tmp_path / "x.npy")
    with pytest.raises(InputError, match="found a folder"):
        check_file(tmp_path)


def test_a_mismatch_names_both_sides():
    with pytest.raises(InputError, match=r"model: expected subject = '01'; found subject = '02'"):
        check_match("model", {"subject": "01"}, {"subject": "02"})


def test_a_registry_reads_underscores_as_hyphens_and_suggests():
    shelf = Registry("encoder", {"brain-mlp": "math:pi"})
    assert shelf["brain_mlp"] == pytest.approx(3.14159265)
    assert "brain_mlp" in shelf
    assert "x" not in shelf
    with pytest.raises(
        UnknownName, match=r"encoder: expected one of brain-mlp; found 'brain-mpl' \(did you mean"
    ):
        shelf["brain-mpl"]


def test_an_unknown_config_key_is_one_line():
    with pytest.raises(
        InputError,
        match=r"my.yaml: expected a known config key; found 'train.epoch' \(did you mean 'epochs'\?\)",
    ):
        build(Outer, {"name": "a", "train": {"epoch": 3}}, "my.yaml")
    with pytest.raises(InputError, match=r"train.epochs: Input should be a valid integer.*found 'many'"):
        build(Outer, {"name": "a", "train": {"epochs": "many"}})


class Texts(Config):
    name: str = ""
    names: tuple[str, ...] = ()
    share: float = 0.5

    @field_validator("share")
    @classmethod
    def _below_one(cls, value: float) -> float:
        if value >= 1:
            raise ValueError("below 1")
        return value


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"name": None}, r"name: Input should be a valid string; found None \(an empty text is \"\"\)"),
        ({"names": [7]}, r"names.0: .* found 7 \(YAML reads it as no text: quote it, '01'\)"),
        ({"names": 7}, r"names: .* found 7 \(a list is written \[7\]\)"),
        ({"share": 1.0}, r"my.yaml: expected share: below 1; found 1.0$"),
        ({"nmae": "a"}, r"found 'nmae' \(did you mean 'name'\?\)"),
        ({"nothing-like-it": "a"}, r"found 'nothing-like-it' \(one of name, names, share\)"),
        ({"size": "a"}, r"found 'size' \(one of name, names, share\)"),
    ],
)
def test_a_config_that_cannot_be_says_the_way_out(data, message):
    with pytest.raises(InputError, match=message):
        build(Texts, data, "my.yaml")


def test_settings_reach_nested_keys_and_leave_the_original_alone():
    data = {"name": "a", "train": {"epochs": 1}}
    assert build(Outer, apply_settings(data, ["train.epochs=7"])).train.epochs == 7
    assert data["train"]["epochs"] == 1
    with pytest.raises(InputError, match="expected KEY=VALUE; found 'epochs'"):
        apply_settings(data, ["epochs"])


def test_yaml_that_could_run_code_is_refused(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("a: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(InputError, match="expected a readable YAML file"):
        read_yaml(path)
    path.write_text("- 1\n")
    with pytest.raises(InputError, match="expected a YAML mapping; found list"):
        read_yaml(path)


def test_a_failed_write_leaves_the_earlier_file_and_no_litter(tmp_path):
    path = tmp_path / "scores.tsv"
    path.write_text("earlier")

    def fail() -> None:
        with write_aside(path) as aside:
            aside.write_text("half")
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        fail()
    assert path.read_text() == "earlier"
    assert [p.name for p in tmp_path.iterdir()] == ["scores.tsv"]


def test_hashes_see_values_types_and_not_key_order(tmp_path):
    assert data_hash({"a": 1, "b": 2}) == data_hash({"b": 2, "a": 1})
    assert data_hash(np.zeros(2, np.float32)) != data_hash(np.zeros(2, np.float64))
    write_json(tmp_path / "x.json", {"n": np.int64(3), "v": np.arange(2)})
    assert json.loads((tmp_path / "x.json").read_text()) == {"n": 3, "v": [0, 1]}
    assert len(file_sha256(tmp_path / "x.json")) == 64


def test_the_cache_computes_once_and_maps_after(tmp_path):
    calls = []

    def compute() -> np.ndarray:
        calls.append(1)
        return np.arange(6.0).reshape(2, 3)

    cache = ArrayCache(tmp_path / "cache")
    first, second = cache.get({"k": 1}, compute), cache.get({"k": 1}, compute)
    assert len(calls) == 1
    assert isinstance(second, np.memmap)
    np.testing.assert_array_equal(first, second)
    cache.get({"k": 2}, compute)
    assert len(calls) == 2


# --- freed memory


@pytest.mark.skipif(sys.platform != "linux" or platform.libc_ver()[0] != "glibc", reason="glibc only")
def test_freed_memory_is_kept_inside_and_returned_at_the_end():
    def use_64_mb() -> None:
        block = np.empty(2**26, np.uint8)
        block[:] = 1

    with reuse_freed_memory():
        pass  # what other tests left free is returned
    before = anonymous_kb() or 0
    with reuse_freed_memory():
        use_64_mb()
        assert (anonymous_kb() or 0) - before > 60_000
        use_64_mb()  # the same block
        assert (anonymous_kb() or 0) - before < 100_000
    assert (anonymous_kb() or 0) - before < 10_000
