"""BData: the one-matrix format of the Kamitani lab (``.h5`` and ``.mat``), read without the lab's own library.

A file holds one matrix, a row a sample, whose columns are voxels and labels side by side, and a table of metadata that says for
every column what it is: ``key`` (names), ``value`` (keys, columns) and ``description``. A key marks columns with 1 (``VoxelData``,
``ROI_V1``, ``DataType``, ``stimulus_id``) or describes them by a number (``voxel_x`` in millimetres), NaN elsewhere.
Both spellings of the two names occur: ``dataset`` and ``dataSet``, ``metadata`` and ``metaData``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from scipy.io import loadmat, whosmat

from braindecode_suite.core.checks import check_file
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.files import data_hash
from braindecode_suite.datasets.lab_files import as_float32, one_line
from braindecode_suite.datasets.mapped_rows import MappedCopy

BLOCK_BYTES = 2**26
DATA_NAMES, METADATA_NAMES = ("dataset", "dataSet"), ("metadata", "metaData")


class BData:
    """A BData file: its metadata in memory, its matrix on disk.

    Parameters
    ----------
    path : Path
        ``.h5`` or ``.mat`` (version 5; a MATLAB file cannot be read in part, see `rows`).

    Attributes
    ----------
    shape : tuple of int
        (samples, columns)
    dtype : dtype
        Of the matrix as stored.
    keys : list of str
    values : array of float of shape (keys, columns)

    Raises
    ------
    InputError
        If the file is damaged, or matrix and metadata are absent or do not fit.
    """

    def __init__(self, path: Path) -> None:
        self.path = check_file(path, "a BData file")
        try:
            if path.suffix == ".mat":
                self._open_mat()
            else:
                self._open_h5()
        except InputError:
            raise
        except (
            Exception
        ) as error:  # scipy lets zlib, struct and index errors through, h5py OSError and KeyError
            raise InputError(path, expected="a whole BData file", found=one_line(error)) from error
        if self.values.shape != (len(self.keys), self.shape[1]):
            raise InputError(
                path,
                expected=f"metadata values of shape ({len(self.keys)} keys, {self.shape[1]} columns)",
                found=str(self.values.shape),
            )

    def _open_h5(self) -> None:
        with h5py.File(self.path, "r") as file:
            self._name = _pick(self.path, list(file), DATA_NAMES)
            metadata = file[_pick(self.path, list(file), METADATA_NAMES)]
            self._check_matrix(file[self._name].shape, file[self._name].dtype)
            self.keys = [k.decode() if isinstance(k, bytes) else str(k) for k in metadata["key"][:].tolist()]
            self.values = np.asarray(metadata["value"], dtype=float)

    def _open_mat(self) -> None:
        found = {name: (shape, kind) for name, shape, kind in whosmat(str(self.path))}
        self._name = _pick(self.path, list(found), DATA_NAMES)
        name = _pick(self.path, list(found), METADATA_NAMES)
        shape, kind = found[self._name]
        kinds = {"double": "float64", "single": "float32"}
        self._check_matrix(shape, np.dtype(kinds.get(kind, "O")))
        table = loadmat(str(self.path), variable_names=[name])[name]
        self.keys = [
            str(np.asarray(key).ravel()[0]).strip() for key in np.asarray(table["key"][0, 0]).ravel()
        ]
        self.values = np.asarray(table["value"][0, 0], dtype=float)

    def _check_matrix(self, shape: Sequence[int], dtype: np.dtype[Any]) -> None:
        self.shape, self.dtype = tuple(int(n) for n in shape), dtype
        if len(self.shape) != 2 or dtype.kind not in "fiu":
            raise InputError(
                self.path,
                expected="a matrix of numbers, samples by columns",
                found=f"{dtype}, shape {self.shape}",
            )

    def columns(self, key: str) -> np.ndarray:
        """Return the columns that a key marks with 1, an int array; an unknown key is an `InputError`."""
        return np.flatnonzero(self.describe(key) == 1)

    def describe(self, key: str) -> np.ndarray:
        """Return what a key says of every column, a float array of shape (columns,)."""
        if key not in self.keys:
            raise InputError(
                self.path, expected=f"a metadata key {key!r}", found=", ".join(self.keys) or "none"
            )
        return self.values[self.keys.index(key)]

    def read(self, columns: np.ndarray) -> np.ndarray:
        """Return some columns of all samples, in the stored precision: array of shape (samples, len(columns))."""
        try:
            if self.path.suffix == ".mat":
                return np.asarray(
                    loadmat(str(self.path), variable_names=[self._name])[self._name][:, columns]
                )
            with h5py.File(self.path, "r") as file:
                matrix = file[self._name]
                return np.stack([matrix[:, int(column)] for column in columns], axis=1)
        except Exception as error:
            raise InputError(self.path, expected="a whole BData file", found=one_line(error)) from error

    def rows(self, samples: np.ndarray, columns: np.ndarray, work_dir: Path) -> BDataRows:
        """Return samples of some columns as float32, read when asked for.

        They are copied once, as ``.npy``, below `work_dir`, and mapped from there: a ``.mat`` file has to be read whole,
        and HDF5 gives scattered rows slowly.
        """
        return BDataRows(self, samples, columns, work_dir)

    def blocks(self, columns: np.ndarray) -> Iterator[np.ndarray]:
        """Yield some columns of all samples, in order, some samples at a time, in the stored precision."""
        if self.path.suffix == ".mat":
            yield self.read(columns)
            return
        step = max(BLOCK_BYTES // (self.shape[1] * self.dtype.itemsize), 1)
        try:
            with h5py.File(self.path, "r") as file:
                for start in range(0, self.shape[0], step):
                    yield np.asarray(file[self._name][start : start + step])[:, columns]
        except (OSError, KeyError, ValueError) as error:
            raise InputError(self.path, expected="a whole BData file", found=one_line(error)) from error


class BDataRows:
    """Rows of a BData matrix, without the label columns (see `BData.rows`)."""

    def __init__(self, data: BData, samples: np.ndarray, columns: np.ndarray, work_dir: Path) -> None:
        self._data, self._samples, self._columns = data, samples, columns
        self.shape, self.dtype = (len(samples), len(columns)), np.dtype(np.float32)
        status = data.path.stat()
        key = data_hash([str(data.path.resolve()), status.st_size, status.st_mtime_ns], samples, columns)
        path = work_dir / "bdata" / f"{data.path.stem}_{key}.npy"
        self._copy = MappedCopy(path, self.shape, self._write)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> np.ndarray:
        return np.asarray(self._copy.mapped[rows])

    def prepare(self) -> BDataRows:
        """Make the copy in one pass; NaN or infinity is an error that names sample and column."""
        self._copy.prepare()
        return self

    def _write(self, out: np.ndarray) -> None:
        first = 0
        for block in self._data.blocks(self._columns):
            rows = np.flatnonzero((self._samples >= first) & (self._samples < first + len(block)))
            values = as_float32(block[self._samples[rows] - first])
            self._check(values, self._samples[rows])
            out[rows] = values
            first += len(block)

    def _check(self, values: np.ndarray, samples: np.ndarray) -> None:
        bad = ~np.isfinite(values)
        if bad.any():
            row, unit = np.argwhere(bad)[0]
            raise InputError(
                self._data.path,
                expected="finite responses",
                found=f"{int(bad.sum())} NaN or infinite values, the first in sample {int(samples[row]) + 1}, "
                f"column {int(self._columns[unit]) + 1}",
            )


def _pick(path: Path, found: Sequence[str], names: Sequence[str]) -> str:
    for name in names:
        if name in found:
            return name
    raise InputError(
        path, expected=f"an entry {names[0]!r} or {names[1]!r}", found=", ".join(found) or "an empty file"
    )
