"""A table of responses in HDF5 as pandas stores it, a row a voxel and a column a trial, turned once into rows a trial.

Pandas' fixed format keeps columns of one type together in ``blockN_values`` (rows, columns of the block); names of mixed types are
pickled there, and are not read. `TrialRows` makes one sequential pass over the voxels asked for and maps the result.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from braindecode_suite.core.checks import check_file
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.files import data_hash
from braindecode_suite.datasets.lab_files import as_float32, one_line
from braindecode_suite.datasets.mapped_rows import MappedCopy

_BLOCK_BYTES = 192 * 2**20


@dataclass(frozen=True, eq=False)
class VoxelTable:
    """Where the responses are in the file.

    Attributes
    ----------
    path : Path
    dataset : str
        HDF5 dataset of shape (voxels, columns).
    shape : tuple of int
        (voxels, trials)
    first : int
        Column of the first trial.
    voxel_ids : array of int of shape (voxels,) or None
        As the file has them.
    named : bool
        Whether the names of the columns could be read, and were the trials' numbers in order.
    """

    path: Path
    dataset: str
    shape: tuple[int, int]
    first: int
    voxel_ids: np.ndarray | None
    named: bool


def open_voxel_table(path: Path, n_voxels: int, n_trials: int) -> VoxelTable:
    """Find the responses in a file that ``DataFrame.to_hdf`` wrote in its fixed format.

    Parameters
    ----------
    path : Path
    n_voxels, n_trials : int
        As the metadata have them.

    Raises
    ------
    InputError
        If the file is damaged, holds no block of numbers of that shape, or its columns are named in another order.
    """
    check_file(path, "the responses")
    try:
        with h5py.File(path, "r") as file:
            return _find(path, file, n_voxels, n_trials)
    except InputError:
        raise
    except (OSError, KeyError, ValueError, RuntimeError, TypeError, AttributeError) as error:
        raise InputError(
            path, expected="a whole HDF5 file", found=one_line(error), hint="download it again"
        ) from error


def _find(path: Path, file: Any, n_voxels: int, n_trials: int) -> VoxelTable:
    blocks: list[tuple[Any, Any]] = []
    for group in file.values():
        if isinstance(group, h5py.Group):
            for k in range(int(group.attrs.get("nblocks", 0))):
                blocks.append((group[f"block{k}_values"], group.get(f"block{k}_items")))
    if not blocks:
        raise InputError(
            path,
            expected="a table in pandas' fixed format (block0_values)",
            found=", ".join(file) or "nothing",
        )
    shapes = [tuple(values.shape) for values, _ in blocks]
    ids: np.ndarray | None = None
    for values, _ in blocks:
        if values.shape == (n_voxels, 1) and values.dtype.kind in "iu":
            ids = np.asarray(values[:, 0])
    for values, items in blocks:
        if values.dtype.kind != "f" or values.ndim != 2 or values.shape[0] != n_voxels:
            continue
        if values.shape[1] == n_trials:
            return VoxelTable(
                path, values.name, (n_voxels, n_trials), 0, ids, _check_names(path, items, n_trials)
            )
        if values.shape[1] == n_trials + 1 and ids is None:  # the voxels' ids are numbers among the others
            return VoxelTable(path, values.name, (n_voxels, n_trials), 1, np.asarray(values[:, 0]), False)
    raise InputError(
        path,
        expected=f"{n_voxels} voxels x {n_trials} trials, as the metadata",
        found=" and ".join(str(shape) for shape in shapes),
    )


def _check_names(path: Path, items: Any, n_trials: int) -> bool:
    if items is None or items.shape != (n_trials,) or items.dtype.kind not in "iuS":
        return False
    names = [name.decode() if isinstance(name, bytes) else str(name) for name in items[:].tolist()]
    for k, name in enumerate(names):
        if name != str(k):
            raise InputError(path, expected=f"column {k} named '{k}'", found=repr(name))
    return True


class TrialRows:
    """Responses, a row a trial, of some voxels of a `VoxelTable`: float32, mapped; made when the first row is asked for.

    Parameters
    ----------
    table : VoxelTable
    voxels : array of int of shape (units,)
        Rows of the table, in the order of the units.
    work_dir : Path
        The map goes to ``<work_dir>/betas``.
    """

    def __init__(self, table: VoxelTable, voxels: np.ndarray, work_dir: Path) -> None:
        self._table, self._voxels = table, voxels
        self.shape, self.dtype = (table.shape[1], len(voxels)), np.dtype(np.float32)
        status = table.path.stat()
        key = data_hash([str(table.path.resolve()), status.st_size, status.st_mtime_ns], voxels)
        path = work_dir / "betas" / f"{table.path.stem}_{key}.npy"
        self._copy = MappedCopy(path, self.shape, self._write)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> np.ndarray:
        return np.asarray(self._copy.mapped[rows])

    def prepare(self) -> TrialRows:
        """Make the map in one sequential pass over the voxels, blocks of 192 MB at a time; nothing is left half written."""
        self._copy.prepare()
        return self

    def _write(self, out: np.ndarray) -> None:
        row_size = (self._table.shape[1] + self._table.first) * 8
        step = max(_BLOCK_BYTES // row_size, 1)
        unit_of = np.full(self._table.shape[0], -1)
        unit_of[self._voxels] = np.arange(len(self._voxels))
        out[:] = 0  # its pages in order, before columns are written all over it
        try:
            with h5py.File(self._table.path, "r") as file:
                values = file[self._table.dataset]
                for start in range(0, self._table.shape[0], step):
                    units = unit_of[start : start + step]
                    inside = np.flatnonzero(units >= 0)
                    if not len(inside):
                        continue
                    block = as_float32(values[start : start + step, self._table.first :][inside])
                    self._check(block, start + inside)
                    out[:, units[inside]] = block.T
        except (OSError, KeyError, ValueError, RuntimeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                self._table.path,
                expected="a whole HDF5 file",
                found=one_line(error),
                hint="download it again",
            ) from error

    def _check(self, block: np.ndarray, voxels: np.ndarray) -> None:
        bad = ~np.isfinite(block)
        if bad.any():
            voxel, trial = np.argwhere(bad)[0]
            found = f"{int(bad.sum())} NaN or infinite values, the first of voxel {int(voxels[voxel])}, trial {int(trial)}"
            raise InputError(self._table.path, expected="finite responses", found=found)
