"""Rows as fast as a plain memory map gives them: a copy that is made once, maps side by side, every row looked at for NaN once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from braindecode_suite.core.files import write_aside
from braindecode_suite.datasets.lab_files import as_float32


class MappedCopy:
    """An array that is written once into the work folder and mapped from there, in every process anew.

    Parameters
    ----------
    path : Path
    shape : tuple of int
    write : callable
        Fills the array that it gets, if the file is not there yet; an error in it leaves nothing behind.
    dtype : dtype
    """

    def __init__(
        self,
        path: Path,
        shape: tuple[int, ...],
        write: Callable[[NDArray[Any]], None],
        dtype: Any = np.float32,
    ) -> None:
        self.path, self.shape, self.write, self.dtype = path, shape, write, np.dtype(dtype)
        self._mapped: NDArray[Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave the map out: a copy in another process opens its own."""
        return {**self.__dict__, "_mapped": None}

    def prepare(self) -> None:
        """Write the file unless it is there."""
        if self.path.is_file():
            return
        with write_aside(self.path) as aside:
            out = np.lib.format.open_memmap(aside, mode="w+", dtype=self.dtype, shape=self.shape)
            self.write(out)
            out.flush()

    @property
    def mapped(self) -> NDArray[Any]:
        """The array, read-only; prepares first."""
        if self._mapped is None:
            self.prepare()
            self._mapped = np.load(self.path, mmap_mode="r", allow_pickle=False).view(np.ndarray)
        return self._mapped


def gather(arrays: Sequence[NDArray[Any]], rows: NDArray[np.integer]) -> NDArray[np.float32]:
    """Return rows of arrays side by side, each value copied once.

    Parameters
    ----------
    arrays : sequence of array of shape (rows of all, columns)
    rows : int array of shape (rows,)

    Returns
    -------
    array of float32 of shape (rows, columns of all arrays)

    Examples
    --------
    >>> gather([np.arange(6).reshape(3, 2), np.ones((3, 1))], np.array([2, 0])).tolist()
    [[4.0, 5.0, 1.0], [0.0, 1.0, 1.0]]
    """
    edges = np.cumsum([0, *(array.shape[1] for array in arrays)]).tolist()
    out = np.empty((len(rows), edges[-1]), np.float32)
    for array, start, stop in zip(arrays, edges, edges[1:], strict=False):
        plain = array.view(np.ndarray)  # a memmap makes a new memmap of every row
        for k, row in enumerate(rows.tolist()):
            out[k, start:stop] = plain[row]
    return out


class FiniteRows:
    """Looks at every row of some responses once, the first time it is read.

    Parameters
    ----------
    n_rows : int

    Examples
    --------
    >>> look = FiniteRows(3)
    >>> look.find_bad(np.array([[1.0, 2.0], [np.inf, np.nan]]), np.array([2, 0]))
    (2, 1, 0)
    """

    def __init__(self, n_rows: int) -> None:
        self.seen = np.zeros(n_rows, bool)

    def find_bad(self, values: NDArray[Any], rows: NDArray[np.integer]) -> tuple[int, int, int] | None:
        """Return how many values are NaN, infinite or too large for float32, and place in `rows` and column of the first; None if none is.

        Parameters
        ----------
        values : array of shape (rows, columns)
            Of the rows named.
        rows : int array of shape (rows,)
        """
        if self.seen[rows].all():
            return None
        fresh = np.flatnonzero(~self.seen[rows])
        bad = ~np.isfinite(as_float32(values[fresh]))
        if bad.any():
            row, column = np.argwhere(bad)[0]
            return int(bad.sum()), int(fresh[row]), int(column)
        self.seen[rows] = True
        return None
