"""Preprocessed rows written once to a memory map: a recipe that filters sensors costs more than a batch has time for."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from braindecode_suite import __version__
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.files import data_hash, write_aside
from braindecode_suite.core.study import Study

BLOCK = 256
SPARE_BYTES = 1 << 30
"""Left free on the disk of a map, for checkpoints and results."""


class NoRoom(InputError):
    """The disk does not hold a memory map that would be written to it."""


def mapped_bytes(study: Study, rows: np.ndarray) -> int:
    """Return the size of preprocessed rows in bytes: 4 x trials x sensors x times."""
    return 4 * len(rows) * int(np.prod(_shape(study)))


def rows_key(study: Study, rows: np.ndarray) -> str:
    """Return a hash of what preprocessed rows are made of: every response of them, their trials, the fitted recipe.

    Which picture was shown is not among it, so that models of shuffled pairs read what the others do.
    """
    trials = study.trials.iloc[rows].drop(columns="stimulus_id").to_csv(index=False)
    blocks = [
        data_hash(np.asarray(study.responses[rows[start : start + BLOCK]], np.float32))
        for start in range(0, len(rows), BLOCK)
    ]
    return data_hash(__version__, "" if study.recipe is None else study.recipe.hash, trials, blocks)


def map_rows(path: Path, study: Study, rows: np.ndarray, used: np.ndarray | None = None) -> np.ndarray:
    """Return preprocessed rows, memory-mapped read-only from a file that is written if it is not there.

    Written block by block, aside and renamed, so that the file is whole or not there at all, and memory holds one block.

    Parameters
    ----------
    path : Path
        Of the ``.npy``; its name has to tell these rows from others (`rows_key`).
    study : Study
    rows : int array
    used : array of bool of shape (rows,), optional
        Rows that are read at all; by default all of them.

    Returns
    -------
    array of float32 of shape (rows, sensors, times)
        NaN in rows that are not read. ``4 x rows x sensors x times`` bytes on disk.

    Raises
    ------
    NoRoom
        If the disk has less free than the map and `SPARE_BYTES` together, or is filled by others meanwhile.
    """
    if not path.is_file():
        needed = mapped_bytes(study, rows)
        path.parent.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(path.parent).free < needed + SPARE_BYTES:
            raise _no_room(path.parent, needed)
        header = {"descr": "<f4", "fortran_order": False, "shape": (len(rows), *_shape(study))}
        try:
            # a file that grows says when the disk is full; a store into a map of a full disk ends the process
            with write_aside(path) as aside, aside.open("wb") as stream:
                np.lib.format.write_array_header_1_0(stream, header)
                for start in range(0, len(rows), BLOCK):
                    part = slice(start, start + BLOCK)
                    stream.write(_block(study, rows[part], None if used is None else used[part]).data)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise _no_room(path.parent, needed) from error
    return np.load(path, mmap_mode="r", allow_pickle=False).view(np.ndarray)


def _block(study: Study, rows: np.ndarray, used: np.ndarray | None) -> np.ndarray:
    """Return preprocessed rows as little-endian float32, NaN where they are not used."""
    if used is None or used.all():
        return np.ascontiguousarray(study.read(rows), "<f4")
    block = np.full((len(rows), *_shape(study)), np.nan, "<f4")
    if used.any():
        block[used] = study.read(rows[used])
    return block


def _shape(study: Study) -> tuple[Any, ...]:
    return (int(study.kept.sum()), *(int(n) for n in study.responses.shape[2:]))


def _no_room(folder: Path, needed: int) -> NoRoom:
    return NoRoom(
        folder,
        expected=f"{(needed + SPARE_BYTES) / 1e9:.1f} GB of free space, {needed / 1e9:.1f} GB of them for preprocessed trials",
        found=f"{shutil.disk_usage(folder).free / 1e9:.1f} GB",
        hint="--work-dir names another disk",
    )
