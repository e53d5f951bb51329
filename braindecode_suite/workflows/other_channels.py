"""What channels that are not the brain's say alone: eyes and reference channels, by the linear baseline on the same trials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from braindecode_suite.core.errors import InputError, MissingChannels
from braindecode_suite.core.sensors import SensorSpace
from braindecode_suite.core.study import Study
from braindecode_suite.workflows.job import Job

OtherKind = Literal["eog", "eyegaze", "pupil", "misc", "ref_meg"]
CONTROL_OF: Mapping[str, str] = {
    "eog": "eye",
    "eyegaze": "eye",
    "pupil": "eye",
    "misc": "eye",
    "ref_meg": "reference",
}
"""Control by MNE's type of channel; eye trackers at the analogue inputs of a CTF system are misc."""
BY_DEFAULT: tuple[OtherKind, ...] = ("eog", "eyegaze", "pupil", "ref_meg")
"""Types that hold nothing else; what misc channels hold only those know who plugged them in."""
SAME_TRIALS = ("stimulus_id", "session", "run", "onset")


@dataclass(frozen=True)
class OtherChannels:
    """The trials of a study as other channels recorded them.

    Attributes
    ----------
    control : str
        ``eye`` or ``reference``.
    study : Study
        Not filtered yet.
    """

    control: str
    study: Study

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the channels."""
        assert isinstance(self.study.space, SensorSpace)
        return self.study.space.names


def find_other_channels(
    job: Job, options: Mapping[str, Any], wanted: Literal["auto", "none"] | Sequence[OtherKind], like: Study
) -> tuple[list[OtherChannels], dict[str, str]]:
    """Open the channels of each control, headers only.

    Parameters
    ----------
    job : Job
    options : mapping
        Of the dataset.
    wanted : {'auto', 'none'} or sequence of str
        MNE's types of channels; by 'auto', those of `BY_DEFAULT` that were recorded.
    like : Study
        The sensors' own, whose trials these must be.

    Returns
    -------
    found : list of OtherChannels
    missing : dict of control to str
        Why there are none: not recorded, or what is wrong with them.

    Raises
    ------
    InputError
        If types were named and one of them was not recorded or cannot be read, or the dataset reads no other channels.
    """
    kinds: Sequence[str] = BY_DEFAULT if wanted == "auto" else () if wanted == "none" else wanted
    named = wanted not in ("auto", "none")
    found, missing = [], dict[str, str]()
    by_control: dict[str, list[str]] = {}
    for kind in kinds:
        by_control.setdefault(CONTROL_OF[kind], []).append(kind)
    for control, of_control in by_control.items():
        try:
            study = _open_recorded(job, options, of_control, like, named)
        except MissingChannels as error:
            if named:
                raise InputError("`controls_from`", expected=error.expected, found=error.found) from error
            missing[control] = f"no {error.expected}"
        except InputError as error:
            if named:
                raise
            missing[control] = str(error)
        else:
            found.append(OtherChannels(control, study))
    return found, missing


def _open_recorded(
    job: Job, options: Mapping[str, Any], kinds: Sequence[str], like: Study, named: bool
) -> Study:
    """Open the channels of those types that every run has; `MissingChannels` where none is left, or one that was named."""
    name, fields = job.dataset.card.name, type(job.dataset).options_class.model_fields
    if "kinds" not in fields:
        raise MissingChannels("option kinds", expected=f"other channels in {name}", found="sensors alone")
    study, recorded = None, list[str]()
    for kind in kinds:
        try:
            study = _open(job, options, [kind])
            recorded.append(kind)
        except MissingChannels as error:
            if named:
                expected = f"channels of type {kind} in every run"
                raise MissingChannels(error.where, expected=expected, found=error.found) from error
    if study is None:
        expected = f"channels of type {', '.join(kinds)} in every run"
        raise MissingChannels(name, expected=expected, found="none")
    if len(recorded) > 1:
        study = _open(job, options, recorded)
    if not same_trials(study, like):
        raise InputError(
            f"channels of type {', '.join(recorded)}",
            expected=f"the {len(like.trials)} trials of the sensors",
            found=f"{len(study.trials)} that are not the same",
            hint="annotations of single channels leave out trials; controls_from: none goes without",
        )
    return study


def _open(job: Job, options: Mapping[str, Any], kinds: Sequence[str]) -> Study:
    return job.dataset.open(job.data_dir, job.subject, job.work_dir, **{**options, "kinds": list(kinds)})


def same_trials(one: Study, other: Study) -> bool:
    """Say whether two studies have the same trials, row by row."""
    if len(one.trials) != len(other.trials):
        return False
    columns = list(SAME_TRIALS)
    a, b = one.trials[columns], other.trials[columns]
    return bool(np.array_equal(a.to_numpy(object).astype(str), b.to_numpy(object).astype(str)))
