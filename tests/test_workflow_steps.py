"""Steps are done once, read back under the same key, and computed anew under another."""

from pathlib import Path

import numpy as np
import pytest

from braindecode_suite.core.manifest import RunLog
from braindecode_suite.workflows.steps import Steps, code_version


def make_steps(folder: Path, fresh: bool = False, **base: str) -> Steps:
    return Steps(folder, RunLog([]), base, fresh)


class Counted:
    """A computation that counts how often it is done."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> tuple[dict[str, np.ndarray], dict[str, object]]:
        self.calls += 1
        return {"x": np.arange(3.0), "ids": np.array(["a", "bc"])}, {"call": self.calls}


def test_a_finished_step_is_read_back_with_its_facts_and_marked_as_resumed(tmp_path: Path) -> None:
    compute = Counted()
    first = make_steps(tmp_path).arrays("fit it", {"seed": 0}, compute)
    again = make_steps(tmp_path)
    second = again.arrays("fit it", {"seed": 0}, compute)
    assert compute.calls == 1
    np.testing.assert_array_equal(first[0]["x"], second[0]["x"])
    assert second[0]["ids"].tolist() == ["a", "bc"]
    assert second[1] == {"call": 1}
    assert [step.status for step in again.log.steps] == ["resumed"]


@pytest.mark.parametrize("changed", [{"key": {"seed": 1}}, {"base": {"subject": "02"}}, {"name": "other"}])
def test_anything_that_changes_in_the_key_computes_the_step_anew(tmp_path: Path, changed: dict) -> None:
    compute = Counted()
    make_steps(tmp_path, subject="01").arrays("fit", {"seed": 0}, compute)
    base = changed.get("base", {"subject": "01"})
    make_steps(tmp_path, **base).arrays(changed.get("name", "fit"), changed.get("key", {"seed": 0}), compute)
    assert compute.calls == 2


def test_fresh_discards_what_earlier_runs_left(tmp_path: Path) -> None:
    compute = Counted()
    make_steps(tmp_path / "work").arrays("fit", {}, compute)
    make_steps(tmp_path / "work", fresh=True).arrays("fit", {}, compute)
    assert compute.calls == 2


def test_a_step_that_fails_leaves_nothing_that_would_be_read_back(tmp_path: Path) -> None:
    def fail() -> tuple[dict[str, np.ndarray], dict[str, object]]:
        raise RuntimeError("no luck")

    steps = make_steps(tmp_path)
    with pytest.raises(RuntimeError, match="no luck"):
        steps.arrays("fit", {}, fail)
    assert steps.log.steps[0].status == "failed"
    assert not steps.path("fit", {}, ".npz").exists()
    compute = Counted()
    make_steps(tmp_path).arrays("fit", {}, compute)
    assert compute.calls == 1


def test_arrays_without_their_manifest_are_not_trusted(tmp_path: Path) -> None:
    compute = Counted()
    steps = make_steps(tmp_path)
    steps.arrays("fit", {}, compute)
    steps.path("fit", {}, ".json").unlink()
    make_steps(tmp_path).arrays("fit", {}, compute)
    assert compute.calls == 2


def test_objects_are_refused_so_that_nothing_is_ever_unpickled(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="arrays of objects cannot be kept: x"):
        make_steps(tmp_path).arrays("objects", {}, lambda: ({"x": np.array(["a", None], dtype=object)}, {}))
    assert not list(tmp_path.glob("objects*.npz"))


def test_the_code_version_names_the_package_and_its_sources() -> None:
    from braindecode_suite import __version__

    assert code_version().startswith(f"{__version__}+")
    assert code_version() == code_version()
