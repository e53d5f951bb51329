"""Tables of any kind (numpy, memory-mapped, torch on any device) read block by block as tensors of one precision."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

HEAD = 256  # rows whose mean is the shift


def as_table(array: Any) -> Any:
    """Return `array` as it is where it can be read in blocks (numpy, torch, h5py...), else as a numpy array."""
    return array if hasattr(array, "shape") and hasattr(array, "dtype") else np.asarray(array)


def precision_of(array: Any) -> torch.dtype:
    """Return double precision for a table in double precision, single precision for any other."""
    return torch.float64 if str(array.dtype).removeprefix("torch.") == "float64" else torch.float32


def device_of(array: Any) -> torch.device:
    """Return the device a table lies on."""
    return array.device if isinstance(array, Tensor) else torch.device("cpu")


def like(reference: Any, tensor: Tensor) -> Any:
    """Return `tensor` as `reference` came: a tensor on its device, or numpy."""
    return tensor.to(reference.device) if isinstance(reference, Tensor) else tensor.cpu().numpy()


def as_kind(reference: Any, array: Any) -> Any:
    """Return numpy or torch values as `reference` is: a tensor on its device, or numpy."""
    if isinstance(reference, Tensor):
        return torch.as_tensor(array, device=reference.device)
    return array.cpu().numpy() if isinstance(array, Tensor) else array


class BlockReader:
    """Reads blocks of a table, less a shift near the column means, in the precision of the products.

    Without the shift, single precision would lose what is small beside a large mean. It is the mean of the first rows only,
    so that nothing is read twice; exact means follow from the sums of what was read.

    Parameters
    ----------
    table : array of shape (rows, columns)
    dtype : torch.dtype
    device : torch.device

    Attributes
    ----------
    shift : Tensor of float64 of shape (columns,)
    """

    def __init__(self, table: Any, dtype: torch.dtype, device: torch.device) -> None:
        self.table, self.dtype, self.device = table, dtype, device
        head = table[: min(HEAD, len(table))]
        if isinstance(table, Tensor):
            self._work: Any = torch.promote_types(table.dtype, torch.float32)
            self._shift: Any = head.to(torch.float64).mean(dim=0).to(self._work)
            self.shift = self._shift.to(device, torch.float64)
        else:
            self._work = np.result_type(head.dtype, np.float32)
            with np.errstate(invalid="ignore"):  # infinity is found in the sums, and named
                self._shift = np.mean(head, axis=0, dtype=np.float64).astype(self._work)
            self.shift = torch.from_numpy(self._shift.astype(np.float64)).to(device)

    def read(self, rows: Any = slice(None), columns: Any = slice(None)) -> Tensor:
        """Return some rows or some columns (slices or ascending numbers, one of them a slice) as a new tensor."""
        rows, columns = consecutive(rows), consecutive(columns)
        values = self.table[rows, columns]
        if isinstance(values, Tensor):
            return (values.to(self._work) - self._shift[columns]).to(self.device, self.dtype)
        with np.errstate(invalid="ignore"):
            shifted = np.subtract(values, self._shift[columns], dtype=self._work)
        return torch.from_numpy(shifted).to(self.device, self.dtype)


def fold_blocks(folds: np.ndarray, size: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (fold, row numbers) over all rows in order, at most `size` rows at once, each time of one fold."""
    for start in range(0, len(folds), size):
        block = folds[start : start + size]
        for fold in np.unique(block):
            yield int(fold), start + np.flatnonzero(block == fold)


def column_blocks(n_columns: int, size: int) -> Iterator[slice]:
    """Yield slices over all columns, of equal width but for the last."""
    return (slice(start, min(start + size, n_columns)) for start in range(0, n_columns, size))


def consecutive(numbers: Any) -> Any:
    """Return ascending numbers as a slice where none is left out; anything else as it is."""
    if isinstance(numbers, np.ndarray) and len(numbers) and numbers[-1] - numbers[0] == len(numbers) - 1:
        return slice(int(numbers[0]), int(numbers[-1]) + 1)
    return numbers
