"""The trials of continuous recordings: one table for all runs, and the window of each trial in its run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from braindecode_suite.core.errors import InputError
from braindecode_suite.datasets.bad_segments import find_masked, find_rejected, summarise_rejected
from braindecode_suite.datasets.lab_files import count_repeats
from braindecode_suite.datasets.meg_runs import EpochRows, Run, Windows, common_rate
from braindecode_suite.datasets.recording_files import Recording
from braindecode_suite.datasets.recording_options import RecordingOptions
from braindecode_suite.datasets.sensor_positions import merge_names


@dataclass(frozen=True)
class CutRecordings:
    """The continuous recordings of one person, cut into windows.

    Attributes
    ----------
    responses : EpochRows
    trials : DataFrame
        A row a window.
    windows : Windows
    warnings : list of str
        Of windows that do not fit or are bad.
    """

    responses: EpochRows
    trials: pd.DataFrame
    windows: Windows
    warnings: list[str]


def cut_recordings(
    recordings: Sequence[Recording],
    runs: Sequence[Run],
    tables: Sequence[pd.DataFrame],
    options: RecordingOptions,
) -> CutRecordings:
    """Lay windows around the pictures of all runs; no samples are read.

    Parameters
    ----------
    recordings : sequence of Recording
    runs : sequence of Run
        One a recording.
    tables : sequence of DataFrame
        Pictures of each run: ``stimulus_id``, ``onset``, ``duration`` and the dataset's own.
    options : RecordingOptions
        Of which the window holds.

    Raises
    ------
    InputError
        If runs end up at different rates, or no window is left.
    """
    windows = Windows.of(options.tmin, options.tmax, common_rate(runs))
    names = merge_names([run.names for run in runs])
    trials, run_of_row, first, warnings = lay_out_trials(recordings, runs, tables, windows)
    responses = EpochRows(runs, run_of_row, first, windows.n_times, names)
    return CutRecordings(responses, trials, windows, warnings)


def lay_out_trials(
    recordings: Sequence[Recording], runs: Sequence[Run], tables: Sequence[pd.DataFrame], windows: Windows
) -> tuple[pd.DataFrame, np.ndarray, np.ndarray, list[str]]:
    """Return the trials of all runs in one table, each one's run and first sample, and warnings of windows that do not fit or are bad.

    Sessions keep their labels, as text; runs keep their numbers where they have numbers that name them, and are counted within the
    session otherwise.
    """
    sessions = [run.session for run in runs]
    named = [(session, one.run) for session, one in zip(sessions, recordings, strict=True)]
    if len(set(named)) == len(named) and all(one.run.isdecimal() for one in recordings):
        numbers = [int(one.run) for one in recordings]
    else:
        numbers = [sessions[: k + 1].count(session) for k, session in enumerate(sessions)]
    own = ("session", "run", "repeat", "task", "run_seconds")
    parts, run_of_row, firsts, warnings = [], [], [], []
    rejected, masked = [], []
    for k, (one, run, table, number) in enumerate(zip(recordings, runs, tables, numbers, strict=True)):
        first = windows.first(table["onset"].to_numpy())
        fits = (first >= 0) & (first + windows.n_times <= run.length)
        if not fits.all():
            warnings.append(
                f"{run.name}: {int((~fits).sum())} of {len(fits)} trials left out, whose window from {windows.times[0]:g} to "
                f"{windows.times[-1]:g} s is not all in the recording"
            )
        usable = [name for name in run.names if name not in run.bad]
        shape = (windows.n_times, windows.sfreq)
        reasons = find_rejected(run.segments, usable, first[fits], *shape)
        rejected.append(reasons)
        fits[fits] = reasons == ""
        masked.append(find_masked(run.segments, usable, first[fits], *shape))
        lasts = run.n_samples / run.signal.sfreq_in
        table = table.rename(columns={name: f"events_{name}" for name in own})
        parts.append(table[fits].assign(session=run.session, run=number, task=one.task, run_seconds=lasts))
        run_of_row.append(np.full(int(fits.sum()), k))
        firsts.append(first[fits])
    warnings = [*summarise_rejected(rejected, masked), *warnings]
    trials = pd.concat(parts, ignore_index=True)
    if not len(trials):
        bad = any(len(reasons) for reasons in rejected)
        raise InputError(
            recordings[0].events,
            expected=f"trials whose window from {windows.times[0]:g} to {windows.times[-1]:g} s lies in the recording"
            + (" and overlaps no BAD annotation" if bad else ""),
            found="none",
            hint=f"options tmin and tmax{', or reject_by_annotation' if bad else ''}",
        )
    trials["repeat"] = count_repeats(trials["stimulus_id"])
    head = ["stimulus_id", "session", "run", "repeat", "onset", "duration", "task", "run_seconds"]
    rest = [column for column in trials.columns if column not in head]
    trials = trials[head + rest].fillna(dict.fromkeys(rest, "n/a"))
    return trials, np.concatenate(run_of_row), np.concatenate(firsts), warnings
