"""Single trials of sensors on their way into a model: where the sensors lie in each, and their values block by block."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from braindecode_suite.core.errors import InputError
from braindecode_suite.core.sensors import SensorSpace
from braindecode_suite.core.study import Cohort, Study
from braindecode_suite.learning.mapped_rows import BLOCK, NoRoom, map_rows, mapped_bytes, rows_key
from braindecode_suite.learning.responses import PRELOAD_BYTES, read_blocks


class SlowReading(UserWarning):
    """Trials are preprocessed again whenever they are read."""


def sensor_space(study: Study) -> SensorSpace:
    """Return the study's space, or raise `InputError` unless it is one of sensors with responses of (trials, sensors, times)."""
    space = study.space
    who = f"{study.dataset} sub-{study.subject}"
    if not isinstance(space, SensorSpace):
        raise InputError(who, expected="sensors with places (MEG or EEG)", found=type(space).__name__)
    shape = tuple(study.responses.shape)
    if len(shape) != 3 or shape[2] != len(space.times):
        expected = f"responses of shape (trials, sensors={space.n_units}, times={len(space.times)})"
        raise InputError(who, expected=expected, found=str(shape))
    return space


@dataclass(frozen=True, eq=False)
class SensorLayouts:
    """The different layouts of a cohort, and which one each trial has.

    Attributes
    ----------
    positions : array of float32 of shape (layouts, sensors, 2)
        NaN where a layout has no such sensor; people with fewer sensors than others have NaN at the end.
    of_trial : list of int arrays of shape (trials,)
        By study; -1 for trials of sessions that the cohort does not ask for.
    absent : dict of str to int
        By subject: sensors without a place, summed over the sessions that are asked for.
    """

    positions: np.ndarray
    of_trial: list[np.ndarray]
    absent: dict[str, int]

    @property
    def n_sensors(self) -> int:
        """Number of sensors of the person who has the most."""
        return int(self.positions.shape[1])


def find_layouts(cohort: Cohort) -> SensorLayouts:
    """Collect the layouts of the sessions that the rows of a cohort come from; equal ones are one.

    Raises
    ------
    InputError
        Of a space without sensors, a session that it does not know, or one without a single usable sensor.
    """
    spaces = [sensor_space(study) for study in cohort.studies]
    widest = max((int(study.kept.sum()) for study in cohort.studies), default=0)
    known: dict[bytes, int] = {}
    positions: list[np.ndarray] = []
    of_trial: list[np.ndarray] = []
    absent: dict[str, int] = {}
    for (study, rows), space in zip(cohort, spaces, strict=True):
        sessions = study.trials["session"].astype(str).to_numpy()
        layout, missing = np.full(len(sessions), -1), 0
        for session in dict.fromkeys(sessions[rows]):
            usable = space.usable(session)[study.kept]
            if not usable.any():
                raise InputError(
                    f"{study.dataset} sub-{study.subject}, session {session}",
                    expected="at least one sensor with a place",
                    found=f"none of {len(usable)}",
                )
            missing += int((~usable).sum())
            where = np.full((widest, 2), np.nan, np.float32)
            where[: len(usable)][usable] = np.asarray(space.positions[session])[study.kept][usable]
            number = known.setdefault(where.tobytes(), len(positions))
            if number == len(positions):
                positions.append(where)
            layout[sessions == session] = number
        of_trial.append(layout)
        absent[study.subject] = missing
    stacked = np.stack(positions) if positions else np.empty((0, widest, 2), np.float32)
    return SensorLayouts(stacked, of_trial, absent)


class SubjectTrials:
    """Preprocessed trials of one person by row: a small study is held in memory, a large one in a memory map.

    Above `PRELOAD_BYTES` the recipe is applied once and the trials are written to ``<folder>/<key>.npy``, which is found again by what
    it is made of (`rows_key`). Where the disk does not hold that, `SlowReading` is warned of and the recipe is applied whenever a
    trial is read.

    Parameters
    ----------
    study : Study
        Of responses (trials, sensors, times).
    rows : int array
        Rows that will be asked for.
    folder : Path, optional
        Of memory maps; without it nothing is written, and the recipe applied at every reading.

    Attributes
    ----------
    values : array of float32 of shape (kept rows, sensors, times) or None
        In memory or mapped; None where the recipe is applied at every reading.
    """

    def __init__(self, study: Study, rows: np.ndarray, folder: Path | None = None) -> None:
        self.study, self.kept = study, np.unique(rows)
        self.shape = (int(study.kept.sum()), int(study.responses.shape[2]))
        self.values: np.ndarray | None = None
        if mapped_bytes(study, self.kept) <= PRELOAD_BYTES:
            self.values = np.empty((len(self.kept), *self.shape), np.float32)
            for places, block in read_blocks(study, self.kept, BLOCK):
                self.values[places] = block
        elif folder is not None and study.recipe is not None:  # without a recipe there is nothing to spare
            try:
                self.values = map_rows(folder / f"{rows_key(study, self.kept)}.npy", study, self.kept)
            except NoRoom as error:
                text = f"{error}: every batch of sub-{study.subject} goes through its recipe again, with the same results"
                warnings.warn(text, SlowReading, stacklevel=2)

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Return trials of shape (rows, sensors, times), float32, NaN where a sensor is missing."""
        if self.values is not None:
            return self.values[np.searchsorted(self.kept, rows)]
        order = np.argsort(rows, kind="stable")  # ascending reads are kinder to a disk
        values = np.empty((len(rows), *self.shape), np.float32)
        values[order] = self.study.read(rows[order])
        return values


def pad_sensors(parts: Sequence[np.ndarray], n_sensors: int) -> np.ndarray:
    """Put trials of people with different numbers of sensors one after another; those that some lack are NaN.

    Parameters
    ----------
    parts : sequence of arrays of shape (trials, sensors of the person, times)
    n_sensors : int

    Returns
    -------
    array of float32 of shape (trials of all, n_sensors, times)
    """
    if len(parts) == 1 and parts[0].shape[1] == n_sensors:
        return parts[0]
    whole = np.full((sum(len(p) for p in parts), n_sensors, parts[0].shape[2]), np.nan, np.float32)
    start = 0
    for part in parts:
        whole[start : start + len(part), : part.shape[1]] = part
        start += len(part)
    return whole
