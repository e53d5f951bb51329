"""What channels that are not the brain's say alone: eyes and reference channels, by the linear baseline on the same trials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from braindecode_suite.core.errors import InputError
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
        Why there are none.

    Raises
    ------
    InputError
        If types were named and one of them was not recorded, or the dataset reads no other channels.
    """
    kinds: Sequence[str] = BY_DEFAULT if wanted == "auto" else () if wanted == "none" else wanted
    named = wanted not in ("auto", "none")
    found, missing = [], dict[str, str]()
    by_control: dict[str, list[str]] = {}
    for kind in kinds:
        by_control.setdefault(CONTROL_OF[kind], []).append(kind)
    for control, of_control in by_control.items():
        opened = None
        if "kinds" not in type(job.dataset).options_class.model_fields:
            missing[control] = f"{job.dataset.card.name} reads no other channels"
        else:
            recorded = []
            for kind in of_control:
                study = _open(job, {**options, "kinds": [kind]})
                if isinstance(study, Study):
                    recorded.append(kind)
                    opened = study
                elif named:
                    raise InputError(
                        "`controls_from`", expected=f"channels of type {kind} in every run", found=study
                    )
            if not recorded:
                missing[control] = f"no channels of type {', '.join(of_control)} in every run"
            elif len(recorded) > 1:
                both = _open(job, {**options, "kinds": recorded})
                opened = both if isinstance(both, Study) else None
                if not isinstance(both, Study):
                    missing[control] = both
        if opened is not None and not same_trials(opened, like):
            missing[control] = "their trials are not those of the sensors (annotations of single channels)"
        elif opened is not None:
            found.append(OtherChannels(control, opened))
        if named and control in missing:
            raise InputError(
                "`controls_from`", expected="channels that go with the trials", found=missing[control]
            )
    return found, missing


def _open(job: Job, options: Mapping[str, Any]) -> Study | str:
    try:
        return job.dataset.open(job.data_dir, job.subject, job.work_dir, **options)
    except InputError as error:
        return error.found


def same_trials(one: Study, other: Study) -> bool:
    """Say whether two studies have the same trials, row by row."""
    if len(one.trials) != len(other.trials):
        return False
    columns = list(SAME_TRIALS)
    a, b = one.trials[columns], other.trials[columns]
    return bool(np.array_equal(a.to_numpy(object).astype(str), b.to_numpy(object).astype(str)))
