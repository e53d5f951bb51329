"""From BOLD runs to single-trial betas: every run is read once, fitted, and written into the derivative."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from braindecode_suite.core.errors import InputError
from braindecode_suite.core.files import data_hash
from braindecode_suite.datasets.bids_events import Events
from braindecode_suite.datasets.bids_layout import RunFiles, output_stem
from braindecode_suite.datasets.bids_series import BoldSpace, Header, read_run
from braindecode_suite.datasets.lab_files import count_repeats
from braindecode_suite.datasets.single_trial_design import (
    Hrf,
    MotionModel,
    Strategy,
    default_response,
    make_run_design,
    response_names,
)
from braindecode_suite.datasets.single_trial_files import BetaFiles, plain_labels, write_derivative
from braindecode_suite.learning.single_trial_glm import (
    Estimator,
    estimate_responses,
    explained_squares,
    trial_weights,
)


@dataclass(frozen=True, kw_only=True)
class Model:
    """What is fitted to every run; see `make_run_design` and `trial_weights`."""

    estimator: Estimator
    hrf: Hrf
    high_pass: float
    confounds: tuple[Strategy, ...]
    motion: MotionModel
    model_others: bool


@dataclass(frozen=True, eq=False, kw_only=True)
class Estimation:
    """All that is needed to make one participant's betas; nothing but headers and tables has been read.

    Attributes
    ----------
    runs, headers, events : tuples, one item a run
    space : VoxelSpace or SurfaceSpace
    model : Model
    files : BetaFiles
        Where the derivative goes.
    trials : DataFrame
        See `combine_trials`.
    """

    runs: tuple[RunFiles, ...]
    headers: tuple[Header, ...]
    events: tuple[Events, ...]
    space: BoldSpace
    model: Model
    files: BetaFiles
    trials: pd.DataFrame

    @property
    def key(self) -> str:
        """Hash of the model and of name, size and time of every file it reads."""
        paths: list[Path] = []
        for run in self.runs:
            around = sorted(run.bold.parent.glob(f"{output_stem(run.bold)}_desc-confounds_*"))
            files = (run.bold, run.right, run.mask, run.events)
            paths += [*(path for path in files if path is not None), *run.sidecars, *around]
        stamps = [[str(p), p.stat().st_size, p.stat().st_mtime_ns] for p in paths]
        tables = [events.trials.to_csv() + events.others.to_csv() for events in self.events]
        return data_hash(vars(self.model), stamps, tables, self.space.describe())

    def write(self) -> None:
        """Estimate all runs and write the derivative."""
        model = self.model
        write_derivative(
            self.files,
            self._fill,
            trials=self.trials,
            space=self.space,
            n_responses=len(response_names(model.hrf)),
            default=default_response(model.hrf),
            sidecar={
                "Description": f"One response a trial and unit, by least squares ({model.estimator.upper()})",
                "Units": "percent signal change",
                "Estimator": model.estimator,
                "HaemodynamicResponses": list(response_names(model.hrf)),
                "DefaultResponse": default_response(model.hrf),
                "HighPassCutoffHz": model.high_pass,
                "Confounds": list(model.confounds),
                "MotionModel": model.motion,
                "OtherEventsModelled": model.model_others,
                "RepetitionTime": [header.t_r for header in self.headers],
                "Sources": [header.path.name for header in self.headers],
                "Shape": [len(self.trials), len(response_names(model.hrf)), self.space.n_units],
                "InputHash": self.key,
            },
        )

    def _fill(self, file: Any) -> dict[str, Any]:
        """Fit run by run; memory holds one run's series and betas."""
        model = self.model
        n_responses, n_voxels = len(response_names(model.hrf)), self.space.n_units
        valid = np.ones(n_voxels, bool)
        file["run"] = np.repeat(np.arange(len(self.runs)), [len(events.trials) for events in self.events])
        explained = file.create_dataset("explained", (len(self.runs), n_responses, n_voxels), np.float32)
        total = file.create_dataset("total", (len(self.runs), n_voxels), np.float32)
        start, dropped = 0, []
        for number, (header, events) in enumerate(zip(self.headers, self.events, strict=True)):
            design = make_run_design(
                header,
                events,
                hrf=model.hrf,
                high_pass=model.high_pass,
                confounds=model.confounds,
                motion=model.motion,
                model_others=model.model_others,
            )
            series = read_run(header, self.space)
            if len(design.kept) < len(series):
                series = series[design.kept]
            mean = series.mean(axis=0, dtype=np.float64)
            varies = (np.ptp(series, axis=0) > 0) & (mean > 0)
            valid &= varies
            series -= mean.astype(np.float32)
            series *= np.where(varies, 100 / np.where(varies, mean, 1), 0).astype(np.float32)
            stop = start + len(events.trials)
            for response, trials in enumerate(design.trials):
                try:
                    weights = trial_weights(trials, design.nuisance, model.estimator)
                except InputError as error:
                    raise InputError(
                        self.runs[number].events, expected=error.expected, found=error.found, hint=error.hint
                    ) from error
                file["betas"][start:stop, response] = estimate_responses(weights, series)
                if n_responses > 1:
                    explained[number, response], total[number] = explained_squares(
                        trials, design.nuisance, series
                    )
            dropped.append(header.n_volumes - len(design.kept))
            start = stop
        file["valid"] = valid.astype(np.uint8)
        return {"VolumesLeftOut": dropped, "VoxelsWithoutSignal": int((~valid).sum())}


def combine_trials(
    runs: tuple[RunFiles, ...], headers: tuple[Header, ...], events: tuple[Events, ...]
) -> pd.DataFrame:
    """Return the trials of all runs in one table.

    Sessions and runs keep their labels, as numbers where all are; runs are counted within the session where labels are
    absent or would name two runs alike (several tasks).

    Returns
    -------
    DataFrame
        ``stimulus_id, session, run, repeat, onset, duration, task, run_seconds`` and the other columns of the events.
    """
    sessions = [run.session or "1" for run in runs]
    named = [(session, run.run) for session, run in zip(sessions, runs, strict=True)]
    if len(set(named)) == len(named) and all(run.run for run in runs):
        labels = [run.run for run in runs]
    else:
        labels = [str(sessions[: k + 1].count(session)) for k, session in enumerate(sessions)]
    own = ("session", "run", "repeat", "task", "run_seconds")
    tables = []
    for run, header, session, label, some in zip(runs, headers, sessions, labels, events, strict=True):
        table = some.trials.rename(columns={name: f"events_{name}" for name in own})
        lasts = header.n_volumes * header.t_r
        tables.append(table.assign(session=session, run=label, task=run.task, run_seconds=lasts))
    trials = pd.concat(tables, ignore_index=True)
    trials["repeat"] = count_repeats(trials["stimulus_id"])
    first = ["stimulus_id", "session", "run", "repeat", "onset", "duration", "task", "run_seconds"]
    rest = [column for column in trials.columns if column not in first]
    return plain_labels(trials[first + rest].fillna(dict.fromkeys(rest, "n/a")))
