"""Steps that are done once: results kept in the work folder under a key that names their making.

A step whose key is found again is read back; anything in the key that changed (config, split, code) means another key,
so that the step is computed anew. Everything on disk is ``.npz`` without objects and JSON.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from braindecode_suite import __version__
from braindecode_suite.core.files import data_hash, write_aside, write_json
from braindecode_suite.core.manifest import RunLog

Arrays = dict[str, np.ndarray]


@cache
def code_version() -> str:
    """Return the package's version with a hash of its source files, so that changed code never reads old results."""
    package = Path(__file__).resolve().parents[1]
    sources = sorted(package.rglob("*.py"))
    return f"{__version__}+{data_hash([[str(s.relative_to(package)), s.read_text(encoding='utf-8')] for s in sources])}"


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray], compress: bool = False) -> None:
    """Write arrays as ``.npz``, whole or not at all; arrays of objects are refused, since reading them could run code."""
    objects = [name for name, array in arrays.items() if array.dtype == object]
    if objects:
        raise TypeError(f"arrays of objects cannot be kept: {', '.join(objects)}")
    save: Any = np.savez_compressed if compress else np.savez
    with write_aside(path) as aside, aside.open("wb") as stream:
        save(stream, **arrays)


class Steps:
    """The steps of one subject in one workflow.

    Parameters
    ----------
    folder : Path
        Work folder of this subject and workflow.
    log : RunLog
    base : mapping
        Part of every key: dataset, subject, device, precision...
    fresh : bool
        Discard what earlier runs left.

    Examples
    --------
    >>> import tempfile
    >>> steps = Steps(Path(tempfile.mkdtemp()), RunLog([]), {"subject": "01"})
    >>> arrays, facts = steps.arrays("square", {"n": 3}, lambda: ({"x": np.arange(3) ** 2}, {"n": 3}))
    >>> steps.arrays("square", {"n": 3}, lambda: ({}, {}))[0]["x"].tolist()
    [0, 1, 4]
    """

    def __init__(self, folder: Path, log: RunLog, base: Mapping[str, Any], fresh: bool = False) -> None:
        self.folder, self.log, self.base = folder, log, dict(base)
        if fresh and folder.exists():
            shutil.rmtree(folder)

    def path(self, name: str, key: Mapping[str, Any], suffix: str = "") -> Path:
        """Return where a step of this name and key keeps its things."""
        digest = data_hash({"step": name, "code": code_version(), **self.base, **key})
        return self.folder / f"{name.replace(' ', '-')}-{digest}{suffix}"

    def arrays(
        self, name: str, key: Mapping[str, Any], compute: Callable[[], tuple[Arrays, dict[str, Any]]]
    ) -> tuple[Arrays, dict[str, Any]]:
        """Return the arrays and JSON-like facts of a step, computing them if they are not there.

        Parameters
        ----------
        name : str
            For people, in the log and the report.
        key : mapping
            JSON-like; together with `base` and the code's version it decides whether an earlier result is the same.
        compute : callable
            Returns (arrays, facts). Text must be unicode arrays, not objects. What the facts have under ``figures`` goes into
            the log too.
        """
        path = self.path(name, key, ".npz")
        manifest = path.with_suffix(".json")
        with self.log.step(name) as notes:
            if path.is_file() and manifest.is_file():
                notes["status"] = "resumed"
                with np.load(path, allow_pickle=False) as stored:
                    return {k: stored[k] for k in stored.files}, json.loads(
                        manifest.read_text(encoding="utf-8")
                    )["facts"]
            arrays, facts = compute()
            notes.update(facts.get("figures", {}))
            write_arrays(path, arrays)
            write_json(manifest, {"key": {**self.base, **key}, "code": code_version(), "facts": facts})
            return arrays, json.loads(manifest.read_text(encoding="utf-8"))["facts"]

    @contextmanager
    def block(self, name: str) -> Iterator[dict[str, Any]]:
        """Time a step that keeps nothing."""
        with self.log.step(name) as notes:
            yield notes

    def skip(self, name: str, reason: str) -> None:
        """Record a step that was not done, and why."""
        self.log.skip(name, reason)
