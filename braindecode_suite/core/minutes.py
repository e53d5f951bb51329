"""The first minutes of a recording, as rows of a split: what a person who has been recorded for that long would have.

Minutes are recording time, blanks and rests of a run included, not time with a stimulus. Only runs with training or
validation rows count: a run that a fold leaves out for testing is not what the model learned from. Runs follow each other
by session and run number (labels that are no numbers: in the order of the trials).

An amount is the whole runs that fit into it, so that no run is cut (a hundredth more is allowed, since runs are rarely whole
minutes). Only where not even the first run fits is that run cut, after the last trial that is over by then. Smaller
amounts are part of larger ones; test rows stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from braindecode_suite.core.errors import InputError, about
from braindecode_suite.core.split import Split
from braindecode_suite.core.study import Study

RUN_SECONDS = "run_seconds"
EXCESS = 0.01


@dataclass(frozen=True, eq=False, kw_only=True)
class Timeline:
    """When the trials of a study were recorded.

    Attributes
    ----------
    run : int array of shape (trials,)
        Number of each trial's run in the order of recording, from 0.
    seconds : array of float of shape (runs,)
        Length of each run.
    over : array of float of shape (trials,)
        Seconds from the start of its run at which a trial is over; NaN where onsets are unknown.
    stated : bool
        Whether the length of every run is known, rather than taken to end with its last trial.
    """

    run: NDArray[np.int64]
    seconds: NDArray[np.float64]
    over: NDArray[np.float64]
    stated: bool


@dataclass(frozen=True, kw_only=True)
class Amount:
    """Splits whose training and validation rows are the first minutes of the recording.

    Attributes
    ----------
    asked : float
    splits : tuple of Split
    """

    asked: float
    splits: tuple[Split, ...]

    @property
    def minutes(self) -> float:
        """Minutes used: those of the whole runs that fit, averaged over folds whose runs differ in length."""
        return round(float(np.mean([split.minutes for split in self.splits])), 2)


def timeline(study: Study) -> Timeline:
    """Return when the trials were recorded: from the column ``run_seconds``, else from onsets within runs.

    Where a run's length is not in the table it ends with its last trial, which lasts as long as its duration, or as the
    trials of the run usually follow each other.

    Raises
    ------
    InputError
        If neither is known, saying which study and what is missing.
    """
    trials = study.trials
    where = f"{study.dataset} sub-{study.subject}"
    places = [_order(trials[column]) for column in ("session", "run")]
    run = np.unique(np.stack(places), axis=1, return_inverse=True)[1].reshape(-1)
    over = _over(trials, run)
    seconds = _stated(trials, run, where)
    unknown = np.flatnonzero(np.isnan(seconds))
    if len(unknown):
        rows = np.isin(run, unknown)
        found = _why_not(over[rows], trials["onset"].to_numpy(float)[rows], run[rows], places[0][rows])
        if found:
            raise InputError(
                where,
                expected=f"when its trials were recorded: a column {RUN_SECONDS}, or onset in seconds within each run",
                found=found,
            )
        seconds[unknown] = pd.Series(over[rows]).groupby(run[rows]).max().to_numpy()
    return Timeline(run=run.astype(np.int64), seconds=seconds, over=over, stated=not len(unknown))


def recorded_minutes(splits: Sequence[Split]) -> float:
    """Return the minutes of the runs with training or validation rows, of the subject with most, averaged over splits."""
    times = [timeline(study) for study in splits[0].studies]
    totals = [
        max(float(_runs_used(split, k, one)[1][-1:].sum()) for k, one in enumerate(times)) for split in splits
    ]
    return round(float(np.mean(totals)) / 60, 2)


def restrict(split: Split, minutes: float, times: Sequence[Timeline] | None = None) -> Split:
    """Return a split whose training and validation rows lie in the first minutes of every subject's recording.

    Parameters
    ----------
    split : Split
    minutes : float
    times : sequence of Timeline, optional
        Of the split's studies, where they are known already.

    Returns
    -------
    Split
        With the minutes used in its label, its note and `Split.minutes`.

    Raises
    ------
    InputError
        If recording times are unknown, the amount is not above 0, or all there is or more.
    """
    if not minutes > 0:
        raise InputError("`minutes`", expected="minutes above 0", found=f"{minutes:g}")
    train, validation, used, notes = [], [], [], []
    known = [timeline(study) for study in split.studies] if times is None else times
    for k, study in enumerate(split.studies):
        keep, some, note = _first(split, k, known[k], minutes)
        train.append(split.train[k][keep[split.train[k]]])
        validation.append(split.validation[k][keep[split.validation[k]]])
        used.append(some)
        if note:
            notes.append(f"training and validation rows of sub-{study.subject} are restricted to {note}")
    label = "_".join(part for part in (split.label, f"minutes-{max(used):.4g}") if part)
    return replace(
        split,
        train=tuple(train),
        validation=tuple(validation),
        label=label,
        notes=(*split.notes, *notes),
        minutes=round(max(used), 2),
    )


def first_minutes(splits: Sequence[Split], amounts: Sequence[float]) -> list[Amount]:
    """Return the splits restricted to each amount, ascending.

    Parameters
    ----------
    splits : sequence of Split
        Of the same studies (folds).
    amounts : sequence of float

    Raises
    ------
    InputError
        As `restrict`, and if two amounts are the same whole runs.
    """
    if not amounts:
        return []
    found: list[Amount] = []
    times = [timeline(study) for study in splits[0].studies]
    for asked in sorted(amounts):
        amount = Amount(asked=asked, splits=tuple(restrict(split, asked, times) for split in splits))
        if found and _same_rows(found[-1].splits, amount.splits):
            raise InputError(
                "`minutes`",
                expected="amounts that differ by whole runs",
                found=f"{found[-1].asked:g} and {asked:g}, both {amount.minutes:g} minutes of {splits[0].protocol!r}",
            )
        found.append(amount)
    return found


def naming(minutes: float) -> AbstractContextManager[None]:
    """Say in the errors of a block which amount of data they are about."""
    return about(f"`minutes` {minutes:g}", hint="give a larger amount")


def _order(labels: pd.Series) -> NDArray[np.int64]:
    """Return the place of each label: by number where all are numbers, by first appearance otherwise."""
    numbers = pd.to_numeric(labels, errors="coerce")
    if numbers.notna().all():
        return np.unique(numbers.to_numpy(float), return_inverse=True)[1].astype(np.int64)
    return np.asarray(pd.factorize(labels.astype(str))[0], np.int64)


def _over(trials: pd.DataFrame, run: NDArray[np.integer]) -> NDArray[np.float64]:
    """Return when each trial is over, in seconds from the start of its run."""
    onset = trials["onset"].astype(float)
    usual = onset.groupby(run).transform(lambda times: times.sort_values().diff().median())
    lasts = usual
    if "duration" in trials.columns:
        lasts = pd.to_numeric(trials["duration"], errors="coerce").fillna(usual)
    return np.asarray(onset + lasts, np.float64)


def _stated(trials: pd.DataFrame, run: NDArray[np.integer], where: str) -> NDArray[np.float64]:
    """Return the length of each run as the table has it, NaN where it has none."""
    n_runs = int(run.max()) + 1
    if RUN_SECONDS not in trials.columns:
        return np.full(n_runs, np.nan)
    values = pd.to_numeric(trials[RUN_SECONDS], errors="coerce").astype(float)
    by_run = values.groupby(run)
    bad = np.flatnonzero((by_run.nunique(dropna=False) > 1) | (by_run.min() <= 0))
    if len(bad):
        row = trials.iloc[int(np.flatnonzero(run == bad[0])[0])]
        raise InputError(
            where,
            expected=f"one {RUN_SECONDS} above 0 for all trials of a run",
            found=f"{', '.join(f'{v:g}' for v in values[run == bad[0]].unique())} in session {row['session']}, run {row['run']}",
        )
    return np.array(by_run.first(), np.float64)


def _why_not(over: NDArray[Any], onset: NDArray[Any], run: NDArray[Any], session: NDArray[Any]) -> str:
    """Return why the lengths of runs cannot be told from the trials, empty if they can."""
    if np.isnan(onset).any():
        return "neither"
    if np.isnan(over).any():
        return "a run of one trial, whose duration is unknown"
    runs = pd.DataFrame({"onset": onset, "session": session}).groupby(run)
    first, last, of = runs["onset"].min(), runs["onset"].max(), runs["session"].first()
    together = (of == of.shift()).to_numpy()
    if together.any() and (first >= last.shift()).to_numpy()[together].all():
        return "onsets that go on from run to run"
    return ""


def _runs_used(split: Split, k: int, times: Timeline) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Return the runs with training or validation rows in order, and the seconds recorded at the end of each."""
    rows = np.concatenate([split.train[k], split.validation[k]])
    used = np.unique(times.run[rows])
    return used, np.cumsum(times.seconds[used])


def _first(split: Split, k: int, times: Timeline, minutes: float) -> tuple[NDArray[np.bool_], float, str]:
    """Return which trials lie in the first minutes, how many minutes that is, and a note."""
    study, limit = split.studies[k], 60 * minutes
    used, ends = _runs_used(split, k, times)
    if not len(used):
        return np.ones(len(times.run), bool), 0.0, ""
    if ends[-1] <= limit * (1 + EXCESS):
        raise InputError(
            f"`minutes` {minutes:g}",
            expected=f"less than the {ends[-1] / 60:.4g} minutes recorded for training, which are scored anyway",
            found=f"{minutes:g} for {study.dataset} sub-{study.subject}, {split.protocol}",
        )
    fits = int(np.sum(ends <= limit * (1 + EXCESS)))
    if fits:
        note = (
            f"the first {fits} of {len(used)} runs, {ends[fits - 1] / 60:.4g} of {ends[-1] / 60:.4g} minutes"
        )
        return np.isin(times.run, used[:fits]), float(ends[fits - 1] / 60), note
    inside = times.run == used[0]
    if np.isnan(times.over[inside]).any():
        raise InputError(
            f"`minutes` {minutes:g}",
            expected=f"onsets within the first run of {study.dataset} sub-{study.subject}, to cut it",
            found=f"a run of {ends[0] / 60:.4g} minutes without onsets",
        )
    note = f"the first {minutes:g} minutes of the first run, which is cut (it lasts {ends[0] / 60:.4g} of {ends[-1] / 60:.4g})"
    return inside & (times.over <= limit), minutes, note


def _same_rows(first: Sequence[Split], second: Sequence[Split]) -> bool:
    return all(
        np.array_equal(a, b)
        for one, other in zip(first, second, strict=True)
        for a, b in zip((*one.train, *one.validation), (*other.train, *other.validation), strict=True)
    )
