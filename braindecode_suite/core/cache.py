"""Arrays computed once: a memory-mapped ``.npy`` and a JSON manifest beside it, under a key that names their making.

joblib.Memory would keep results as pickles; nothing here is ever unpickled from disk, so arrays are kept as plain ``.npy``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from braindecode_suite.core.files import data_hash, write_aside, write_json


class ArrayCache:
    """Arrays in a folder, each under a JSON-like key.

    Parameters
    ----------
    folder : Path
        Made when the first array is stored.

    Examples
    --------
    >>> import tempfile
    >>> cache = ArrayCache(Path(tempfile.mkdtemp()))
    >>> cache.get({"n": 3}, lambda: np.arange(3.0)).sum()
    np.float64(3.0)
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, key: dict[str, Any]) -> Path:
        """Return the path of the ``.npy`` that holds, or will hold, the array of `key`."""
        return self.folder / f"{data_hash(key)}.npy"

    def get(self, key: dict[str, Any], compute: Callable[[], np.ndarray]) -> np.ndarray:
        """Return the array of `key`, memory-mapped read-only; compute and store it if it is not there."""
        path = self.path(key)
        manifest = path.with_suffix(".json")
        if not (path.is_file() and manifest.is_file()):
            array = np.ascontiguousarray(compute())
            with write_aside(path) as aside:
                np.save(aside, array, allow_pickle=False)
            write_json(manifest, {"key": key, "shape": list(array.shape), "dtype": str(array.dtype)})
        stored: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
        if list(stored.shape) != json.loads(manifest.read_text(encoding="utf-8"))["shape"]:
            path.unlink()
            return self.get(key, compute)
        return stored
