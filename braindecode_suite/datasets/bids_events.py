"""The events of a run: which are trials, what was shown in each, and whether the times make sense."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from braindecode_suite.core.errors import InputError
from braindecode_suite.datasets.lab_files import read_numbers, read_table

STIMULUS_COLUMNS = ("stim_id", "stim_file", "stimulus", "trial_type")
"""Tried in this order where no column is named: two of BIDS' own, a common one, and the condition."""
EMPTY = ("", "n/a")
TAIL = 8.0
"""Seconds after a trial within which its response peaks; a run that ends sooner cuts it."""


@dataclass(frozen=True, eq=False)
class Events:
    """Events of one run in seconds from its first volume.

    Attributes
    ----------
    trials : DataFrame
        ``stimulus_id, onset, duration`` and the other columns of the file, one row a trial, ascending.
    others : DataFrame
        ``name, onset, duration`` of events that are not trials, to be modelled beside them.
    warnings : tuple of str
    """

    trials: pd.DataFrame
    others: pd.DataFrame
    warnings: tuple[str, ...] = ()


def find_stimulus_column(path: Path, named: str, columns: Sequence[str]) -> str:
    """Return the column of the events that says what was shown."""
    if named:
        if named not in columns:
            raise InputError(
                path,
                expected=f"a column {named!r} (option stimulus_column)",
                found=f"columns {', '.join(columns)}",
            )
        return named
    for column in STIMULUS_COLUMNS:
        if column in columns:
            return column
    raise InputError(
        path,
        expected=f"a column {' or '.join(STIMULUS_COLUMNS)}",
        found=f"columns {', '.join(columns)}",
        hint="name one by the option stimulus_column",
    )


def read_run_events(
    path: Path,
    length: float,
    *,
    stimulus_column: str = "",
    trial_types: Sequence[str] | None = None,
    duration: float | None = None,
) -> Events:
    """Read one ``events.tsv``.

    Parameters
    ----------
    path : Path
    length : float
        Seconds of the run: no event may begin later.
    stimulus_column : str
        Column with one value a stimulus; the first of `STIMULUS_COLUMNS` where empty.
    trial_types : sequence of str, optional
        Only rows with one of these in ``trial_type`` are trials; by default all with a stimulus.
    duration : float, optional
        Seconds each trial lasts, instead of the column ``duration``.

    Raises
    ------
    InputError
        For a missing column, times that are no numbers, onsets that go back, an event after the end of the run, two
        trials at once, a trial of no duration, or no trial at all.
    """
    table = read_table(path, ["onset", "duration"])
    column = find_stimulus_column(path, stimulus_column, list(table.columns))
    onsets = read_numbers(path, table, "onset")
    back = np.flatnonzero(np.diff(onsets) < 0)
    if len(back):
        row = int(back[0]) + 1
        raise InputError(
            path,
            expected="onsets that ascend",
            found=f"{onsets[row]:g} s after {onsets[row - 1]:g} s in row {row + 1}",
            hint="onsets count from the start of each run",
        )
    late = np.flatnonzero(onsets >= length)
    if len(late):
        row = int(late[0])
        raise InputError(
            path,
            expected=f"events within the run of {length:g} s",
            found=f"{len(late)} that begin later, the first at {onsets[row]:g} s in row {row + 1}",
        )
    is_trial = ~table[column].isin(EMPTY).to_numpy()
    if trial_types is not None:
        if "trial_type" not in table.columns:
            raise InputError(path, expected="a column 'trial_type' (option trial_types)", found="none")
        is_trial &= table["trial_type"].isin(list(trial_types)).to_numpy()
    if not is_trial.any():
        raise InputError(
            path, expected=f"trials with a value in {column!r}", found=f"none in {len(table)} rows"
        )
    durations = _durations(path, table, is_trial, duration)
    trials = table[is_trial].reset_index(drop=True)
    trials = trials.drop(columns=["onset", "duration"])
    trials.insert(0, "duration", durations[is_trial])
    trials.insert(0, "onset", onsets[is_trial])
    trials.insert(0, "stimulus_id", table[column][is_trial].astype(object).to_numpy())
    rest = table[~is_trial]
    labels = rest["trial_type"].to_numpy() if "trial_type" in table.columns else np.full(len(rest), "")
    others = pd.DataFrame(
        {
            "name": ["other" if label in EMPTY else str(label) for label in labels],
            "onset": onsets[~is_trial],
            "duration": durations[~is_trial],
        }
    )
    return Events(trials, others, _look_at(path, trials, length))


def _durations(path: Path, table: pd.DataFrame, is_trial: np.ndarray, chosen: float | None) -> np.ndarray:
    """Return seconds for every row; trials must last, other events may be instants (taken as 0.1 s)."""
    known = table.assign(duration=table["duration"].where(is_trial | ~table["duration"].isin(EMPTY), "0"))
    if chosen is not None:
        known["duration"] = known["duration"].where(~is_trial, str(chosen))
    durations = read_numbers(path, known, "duration")
    bad = np.flatnonzero(is_trial & (durations <= 0))
    if len(bad):
        raise InputError(
            path,
            expected="trials of some duration",
            found=f"{durations[bad[0]]:g} s in row {int(bad[0]) + 1}",
            hint="give the seconds of a trial by the option duration",
        )
    return np.where(is_trial, durations, np.maximum(durations, 0.1))


def _look_at(path: Path, trials: pd.DataFrame, length: float) -> tuple[str, ...]:
    onsets, durations = trials["onset"].to_numpy(float), trials["duration"].to_numpy(float)
    together = np.flatnonzero(np.diff(onsets) == 0)
    if len(together):
        raise InputError(
            path,
            expected="one trial at a time",
            found=f"two at {onsets[together[0]]:g} s",
            hint="the option trial_types chooses which events are trials",
        )
    warnings = []
    over = np.flatnonzero(onsets[:-1] + durations[:-1] > onsets[1:] + 1e-3)
    if len(over):
        warnings.append(
            f"{path.name}: {len(over)} trials overlap the next one, the first at {onsets[over[0]]:g} s"
        )
    cut = int(np.sum(onsets + TAIL > length))
    if cut:
        warnings.append(f"{path.name}: {cut} trials in the last {TAIL:g} s, their response is cut off")
    return tuple(warnings)
