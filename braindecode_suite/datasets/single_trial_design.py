"""The regressors of a run: one a trial and haemodynamic response, and the nuisance that both estimators project out."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from braindecode_suite.core.errors import InputError
from braindecode_suite.datasets.bids_events import Events
from braindecode_suite.datasets.bids_layout import BOLD, output_stem
from braindecode_suite.datasets.bids_series import Header
from braindecode_suite.datasets.lab_files import one_line
from braindecode_suite.learning.hrf import PEAKS, boxcar_response

Hrf = Literal["glover", "spm", "library"]
Strategy = Literal["motion", "wm_csf", "global_signal", "compcor", "high_pass", "scrub"]
MotionModel = Literal["basic", "power2", "derivatives", "full"]
DEFAULT_PEAK = 5.0
OVERSAMPLING = 50


@dataclass(frozen=True, eq=False)
class RunDesign:
    """What is fitted to one run.

    Attributes
    ----------
    trials : array of shape (responses, volumes, trials)
        A regressor a trial, for each haemodynamic response tried.
    nuisance : array of shape (volumes, regressors)
        Intercept, cosine drifts, confounds, events that are not trials.
    kept : int array of shape (volumes,)
        Volumes of the run that are used: without non-steady-state and scrubbed ones.
    """

    trials: NDArray[np.float64]
    nuisance: NDArray[np.float64]
    kept: NDArray[np.int64]


def response_names(hrf: Hrf) -> tuple[str, ...]:
    """Return the haemodynamic responses tried, by name."""
    return tuple(f"peak-{peak:g}s" for peak in PEAKS) if hrf == "library" else (hrf,)


def default_response(hrf: Hrf) -> int:
    """Return which of `response_names` is used where none has been chosen: of a library, the one that peaks at 5 s."""
    return PEAKS.index(DEFAULT_PEAK) if hrf == "library" else 0


def make_run_design(
    header: Header,
    events: Events,
    *,
    hrf: Hrf = "glover",
    high_pass: float = 1 / 128,
    confounds: Sequence[Strategy] = ("motion",),
    motion: MotionModel = "basic",
    model_others: bool = True,
) -> RunDesign:
    """Make the regressors of one run.

    Parameters
    ----------
    header : BoldHeader or SurfaceHeader
    events : Events
    hrf : {'glover', 'spm', 'library'}
        nilearn's canonical responses, or a family of double gammas with peaks from 3.5 to 8 s.
    high_pass : float
        Cut-off of the cosine drifts in Hz, as nilearn's; 0 for none. With the strategy ``high_pass`` fMRIPrep's own
        cosines are taken instead.
    confounds : sequence of str
        Strategies of nilearn's ``load_confounds``; empty for none.
    motion : {'basic', 'power2', 'derivatives', 'full'}
    model_others : bool
        Whether events that are not trials get a regressor, one for each of their names.

    Raises
    ------
    InputError
        If the confounds cannot be read, or have another length than the run.
    """
    times = header.frame_times
    parts = [_drifts(times, 0.0 if "high_pass" in confounds else high_pass)]
    kept = np.arange(header.n_volumes)
    if confounds:
        values, kept = read_confounds(header, confounds, motion)
        full = np.zeros((header.n_volumes, values.shape[1]))
        full[kept] = values
        parts.append(full)
    if model_others and len(events.others):
        which = default_response(hrf)
        for _, group in events.others.groupby("name", sort=True):
            parts.append(_regressors(times, group, hrf)[which].sum(axis=1, keepdims=True))
    trials = _regressors(times, events.trials, hrf)
    return RunDesign(trials[:, kept], np.hstack(parts)[kept], kept)


def _drifts(times: NDArray[np.float64], high_pass: float) -> NDArray[np.float64]:
    from nilearn.glm.first_level import make_first_level_design_matrix

    model = {"drift_model": "cosine", "high_pass": high_pass} if high_pass else {"drift_model": None}
    return np.asarray(make_first_level_design_matrix(times, **model).to_numpy(float))


def _regressors(times: NDArray[np.float64], events: pd.DataFrame, hrf: Hrf) -> NDArray[np.float64]:
    """Return regressors of shape (responses, volumes, events)."""
    from nilearn.glm.first_level import compute_regressor

    rows = [(float(o), float(d)) for o, d in zip(events["onset"], events["duration"], strict=True)]
    if hrf == "library":
        columns = [[boxcar_response(times - onset, length, peak) for onset, length in rows] for peak in PEAKS]
    else:
        columns = [
            [
                compute_regressor(([o], [d], [1.0]), hrf, times, oversampling=OVERSAMPLING)[0][:, 0]
                for o, d in rows
            ]
        ]
    return np.asarray(columns).transpose(0, 2, 1)


def read_confounds(
    header: Header, strategies: Sequence[Strategy], motion: MotionModel
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return confounds of the volumes kept, of shape (kept, confounds), and which volumes those are, by nilearn.

    Raises
    ------
    InputError
        If nilearn cannot read them, or they have another length than the run.
    """
    from nilearn.interfaces.fmriprep import load_confounds

    # nilearn goes by the name of the image alone; all outputs of a run share its confounds
    named = header.path.with_name(f"{output_stem(header.path)}{BOLD}.nii.gz")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # advice on strategies; what was chosen is in the sidecar
            table, sample = load_confounds(str(named), strategy=tuple(strategies), motion=motion)
    except (ValueError, OSError, KeyError, IndexError, pd.errors.ParserError) as error:
        raise InputError(
            _confounds_file(header.path),
            expected=f"fMRIPrep's confounds for {', '.join(strategies)}",
            found=one_line(error),
        ) from error
    kept = np.arange(header.n_volumes) if sample is None else np.asarray(sample, np.int64)
    values = np.zeros((header.n_volumes, 0)) if table is None else table.to_numpy(float)
    if len(values) != header.n_volumes or (len(kept) and kept.max() >= header.n_volumes):
        raise InputError(
            _confounds_file(header.path),
            expected=f"{header.n_volumes} rows, one a volume of {header.path.name}",
            found=f"{len(values)}",
        )
    values = values[kept]
    if not np.isfinite(values).all():
        column = int(np.argwhere(~np.isfinite(values))[0, 1])
        name = "" if table is None else str(table.columns[column])
        raise InputError(_confounds_file(header.path), expected="finite confounds", found=f"NaN in {name!r}")
    return values, kept


def _confounds_file(bold: Path) -> Path:
    return bold.with_name(f"{output_stem(bold)}_desc-confounds_timeseries.tsv")
