"""When which picture came on in a run of MEG or EEG, from its ``events.tsv``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from braindecode_suite.core.errors import InputError
from braindecode_suite.datasets.bids_events import EMPTY
from braindecode_suite.datasets.lab_files import read_numbers, read_table

STIMULUS_COLUMN = "stimulus_id"
HINTS = ("stim_file", "stim_id", "image_path", "stimulus", "trial_type")
"""Columns that may hold what was shown, proposed where there is no `STIMULUS_COLUMN`."""


def read_stimulus_events(
    path: Path, *, stimulus_column: str = "", trial_types: Sequence[str] | None = None
) -> pd.DataFrame:
    """Read the pictures of one run; `check_onsets` holds them against its length.

    Parameters
    ----------
    path : Path
        An ``events.tsv`` of BIDS.
    stimulus_column : str
        Column that names the picture; rows without a value are other events. ``stimulus_id`` where empty.
    trial_types : sequence of str, optional
        Only rows with one of these in ``trial_type`` are trials.

    Returns
    -------
    DataFrame
        ``stimulus_id``, ``onset`` (seconds), ``duration`` (NaN where not given) and the other columns, a row a picture.

    Raises
    ------
    InputError
        For a missing column, onsets that are no numbers, go back or coincide, or no picture at all.
    """
    table = read_table(path, ["onset"])
    column = stimulus_column or STIMULUS_COLUMN
    if column not in table.columns:
        known = [name for name in HINTS if name in table.columns]
        raise InputError(
            path,
            expected=f"a column {column!r} that names the picture",
            found=f"columns {', '.join(map(str, table.columns))}",
            hint=f"name one by the option stimulus_column{f', as {known[0]}' if known else ''}",
        )
    shown = ~table[column].isin(EMPTY).to_numpy()
    if trial_types is not None:
        if "trial_type" not in table.columns:
            raise InputError(path, expected="a column 'trial_type' (option trial_types)", found="none")
        named = sorted(table.loc[shown, "trial_type"].astype(str).unique())
        shown &= table["trial_type"].isin(list(trial_types)).to_numpy()
        if named and not shown.any():
            raise InputError(
                path,
                expected=f"pictures of trial_type {' or '.join(map(repr, trial_types))} (option trial_types)",
                found=f"pictures of {', '.join(named[:10])}{', ...' if len(named) > 10 else ''}",
            )
    if not shown.any():
        raise InputError(path, expected=f"pictures in column {column!r}", found=f"none in {len(table)} rows")
    table = table[shown].reset_index(drop=True)
    onsets = read_numbers(path, table, "onset")
    steps = np.diff(onsets)
    if (steps <= 0).any():
        row = int(np.flatnonzero(steps <= 0)[0])
        raise InputError(
            path,
            expected="onsets that ascend, one picture at a time",
            found=f"{onsets[row + 1]:g} s after {onsets[row]:g} s",
            hint="onsets count from the first sample of each run",
        )
    if "duration" in table.columns:
        durations = pd.to_numeric(table["duration"], errors="coerce").to_numpy(float)
    else:
        durations = np.full(len(table), np.nan)
    own = {"stimulus_id": table[column].astype(object).to_numpy(), "onset": onsets, "duration": durations}
    rest = table.drop(columns=[name for name in own if name in table.columns])
    return pd.concat([pd.DataFrame(own), rest], axis=1)


def check_onsets(path: Path, onsets: np.ndarray, length: float) -> None:
    """Raise unless every onset of a run lies in its `length` seconds."""
    outside = (onsets < 0) | (onsets >= length)
    if outside.any():
        raise InputError(
            path,
            expected=f"onsets within the run of {length:g} s",
            found=f"{int(outside.sum())} outside, the first at {onsets[outside][0]:g} s",
        )


def check_types(where: Path, trials: pd.DataFrame, trial_types: Sequence[str] | None) -> None:
    """Raise if one of the types asked for has no trial in any run."""
    for wanted in trial_types or ():
        if not (trials["trial_type"] == wanted).any():
            raise InputError(where, expected=f"trials of trial_type {wanted!r}", found="none in any run")
