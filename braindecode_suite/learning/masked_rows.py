"""Trials of sensors as rows of numbers for a linear model: windows flattened, missing sensors imputed and counted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import numpy as np

from braindecode_suite.core.checks import check_shape
from braindecode_suite.core.study import Study
from braindecode_suite.learning.responses import PRELOAD_BYTES, ImageRows, UnitScaler, read_blocks

BLOCK = 256


@dataclass(frozen=True, eq=False)
class MaskedScaler(UnitScaler):
    """A `UnitScaler` that puts the training mean, which is 0 after scaling, where a value is missing (NaN)."""

    def apply(self, responses: np.ndarray) -> np.ndarray:
        """Scale responses of shape (rows, units); NaN becomes 0, a unit that training never saw is 0 throughout."""
        check_shape("responses", responses, "rows units", units=len(self.mean))
        scaled = (responses - self.mean) * self.gain
        return np.nan_to_num(scaled, copy=False, nan=0.0, posinf=np.inf, neginf=-np.inf)


def fit_masked_scaler(study: Study, rows: np.ndarray) -> tuple[MaskedScaler, np.ndarray]:
    """Standardise units by those training rows in which they are not missing.

    Parameters
    ----------
    study : Study
        Of responses (trials, units), see `learning.responses.flatten_times`.
    rows : int array
        Training rows.

    Returns
    -------
    (MaskedScaler, array of int of shape (units,))
        The scaler, with a gain of 0 where a unit is missing in all rows or never varies; how often each unit is missing.
    """
    shift: np.ndarray | None = None
    for _, block in read_blocks(study, np.sort(rows), BLOCK):
        seen = ~np.isnan(block)
        if shift is None:
            n, total, square = (np.zeros(block.shape[1]) for _ in range(3))
            shift = np.where(seen, block, 0).sum(axis=0) / np.maximum(seen.sum(axis=0), 1)
        centred = np.where(seen, block - shift, 0.0)
        n += seen.sum(axis=0)
        total += centred.sum(axis=0)
        square += np.square(centred).sum(axis=0)
    assert shift is not None
    count = np.maximum(n, 1)
    mean = total / count
    variance = np.maximum(square / count - mean**2, 0)
    alive = (n > 1) & (variance > 1e-10 * np.maximum(square / count, 1e-30))
    gain = np.where(alive, 1 / np.sqrt(np.where(alive, variance, 1)), 0)
    scaler = MaskedScaler((mean + shift).astype(np.float32), gain.astype(np.float32))
    return scaler, (len(rows) - n).astype(int)


@contextmanager
def scratch_rows(folder: Path, n_rows: int, n_units: int) -> Iterator[np.ndarray]:
    """Give room for rows of float32, in memory where they are few, else in a file below `folder` that is removed after."""
    if n_rows * n_units * 4 <= PRELOAD_BYTES:
        yield np.empty((n_rows, n_units), np.float32)
        return
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f".rows-{uuid4().hex}.npy"
    try:
        yield np.lib.format.open_memmap(path, "w+", np.float32, (n_rows, n_units))
    finally:
        path.unlink(missing_ok=True)


def write_rows(
    study: Study, images: ImageRows, scaler: UnitScaler, units: np.ndarray, out: np.ndarray, *, mean: bool
) -> None:
    """Write scaled rows of some units into `out`: the mean of each image's repeats, or every repeat, image by image.

    Parameters
    ----------
    study : Study
    images : ImageRows
    scaler : UnitScaler
    units : int array
    out : array of float32 of shape (images or trials, len(units))
    mean : bool
    """
    if not mean:
        for places, block in read_blocks(study, np.concatenate(images.rows), BLOCK):
            out[places] = scaler.apply(block)[:, units]
        return
    start = 0
    while start < len(images):  # whole images, about a block of trials at once
        stop, n = start, 0
        while stop < len(images) and (stop == start or n + len(images.rows[stop]) <= BLOCK):
            n, stop = n + len(images.rows[stop]), stop + 1
        groups = images.rows[start:stop]
        scaled = scaler.apply(study.read(np.concatenate(groups)))[:, units]
        first = np.cumsum([0] + [len(group) for group in groups[:-1]])
        sizes = np.array([len(group) for group in groups], np.float32)[:, None]
        out[start:stop] = np.add.reduceat(scaled, first) / sizes
        start = stop
