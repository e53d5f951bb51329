"""Small files of public releases: links that stay inside, tables with the columns they must have, events that make sense."""

from __future__ import annotations

import struct
import tokenize
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from nibabel.filebasedimages import ImageFileError
from scipy.io.matlab import MatReadError

from braindecode_suite.core.checks import check_file
from braindecode_suite.core.errors import InputError

DAMAGED = (
    OSError,
    EOFError,
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    OverflowError,
    SyntaxError,
    RuntimeError,  # h5py, and scipy where it knows a format but not how to read it
    tokenize.TokenError,
    struct.error,
    zlib.error,
    ImageFileError,
    MatReadError,
)
"""What libraries raise on truncated or foreign files."""
TRIAL_ORDER = ["stimulus_id", "session", "run", "repeat", "onset"]


def check_inside(root: Path, path: Path) -> Path:
    """Return `path` unless it is a link that leads out of the folder `root`.

    Raises
    ------
    InputError
        Naming where the link leads.
    """
    real = path.resolve()
    if not real.is_relative_to(root.resolve()):
        raise InputError(
            path,
            expected=f"a file inside {root}",
            found=f"a link to {real}",
            hint="copy the file, or give the folder that holds both as the data folder",
        )
    return path


def read_table(path: Path, columns: Sequence[str], *, separator: str = "\t") -> pd.DataFrame:
    """Read a table as text, empty cells as empty strings.

    Parameters
    ----------
    path : Path
    columns : sequence of str
        Columns that must be there; others are kept.
    separator : str

    Raises
    ------
    InputError
        If the file is missing, is no table, or lacks a column.
    """
    check_file(path, "a table")
    try:
        table = pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (ValueError, OSError) as error:  # pandas' own errors are ValueErrors
        raise InputError(path, expected="a table", found=" ".join(str(error).split())[:200]) from error
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise InputError(
            path,
            expected=f"a column {missing[0]!r}",
            found=f"columns {', '.join(map(str, table.columns))}",
        )
    return table


def read_numbers(path: Path, table: pd.DataFrame, column: str) -> np.ndarray:
    """Return a column as float64 of shape (rows,); a cell that is no finite number is an `InputError` naming its row."""
    values = pd.to_numeric(table[column], errors="coerce").to_numpy(dtype=float)
    bad = ~np.isfinite(values)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise InputError(
            path,
            expected=f"numbers in column {column!r}",
            found=f"{table[column].iloc[row]!r} in row {row + 1}",
        )
    return values


def read_whole_numbers(path: Path, table: pd.DataFrame, column: str) -> np.ndarray:
    """Return a column as int64 of shape (rows,)."""
    values = read_numbers(path, table, column)
    broken = np.flatnonzero(values % 1 != 0)
    if len(broken):
        found = f"{table[column].iloc[broken[0]]!r} in row {broken[0] + 1}"
        raise InputError(path, expected=f"whole numbers in column {column!r}", found=found)
    return values.astype(np.int64)


def read_events(
    path: Path, columns: Sequence[str], *, end: float | None = None
) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Read one ``events.tsv`` of BIDS and check its times.

    Parameters
    ----------
    path : Path
    columns : sequence of str
        Columns needed beside onset and duration.
    end : float, optional
        Length of the run in seconds, where it is known.

    Returns
    -------
    table : DataFrame of str
    onset, duration : array of float of shape (events,)
        Seconds.

    Raises
    ------
    InputError
        For a missing column, onsets that go back, events that overlap, or an event that begins after the end.
    """
    table = read_table(path, ["onset", "duration", *columns])
    onset, duration = read_numbers(path, table, "onset"), read_numbers(path, table, "duration")
    back = np.flatnonzero(np.diff(onset) < 0)
    if len(back):
        row = int(back[0]) + 1
        raise InputError(
            path,
            expected="onsets that ascend",
            found=f"{onset[row]:g} s after {onset[row - 1]:g} s (row {row + 1})",
        )
    over = np.flatnonzero(onset[:-1] + duration[:-1] > onset[1:] + 1e-3)
    if len(over):
        row = int(over[0])
        found = f"row {row + 1} lasts to {onset[row] + duration[row]:g} s, row {row + 2} begins at {onset[row + 1]:g} s"
        raise InputError(path, expected="events that do not overlap", found=found)
    if end is not None and len(onset) and onset[-1] >= end:
        raise InputError(
            path, expected=f"events before the end of the run at {end:g} s", found=f"one at {onset[-1]:g} s"
        )
    return table, onset, duration


def count_repeats(stimulus_ids: Sequence[str] | pd.Series) -> np.ndarray:
    """Return how often each stimulus has been shown so far, this time included: int array of shape (trials,).

    Examples
    --------
    >>> count_repeats(["a", "b", "a"]).tolist()
    [1, 1, 2]
    """
    ids = pd.Series(list(stimulus_ids), dtype=object)
    return (ids.groupby(ids).cumcount() + 1).to_numpy()


def as_float32(values: np.ndarray) -> np.ndarray:
    """Return numbers as float32; those too large for it become infinite, which is what callers look for."""
    with np.errstate(over="ignore"):
        return np.asarray(values, np.float32)


def one_line(error: BaseException) -> str:
    """Return the message of another library's error on one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__
