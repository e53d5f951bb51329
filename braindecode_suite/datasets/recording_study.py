"""Studies of continuous recordings, with what is known by now of their sensors: some faults show only once a run was filtered."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from braindecode_suite.core.errors import InputError
from braindecode_suite.core.sensors import SensorSpace
from braindecode_suite.core.study import Study
from braindecode_suite.datasets.meg_runs import EpochRows, gather_flags, usable_positions

MOST_WARNINGS = 12


def flag(study: Study) -> Study:
    """Return the study with what is known by now of its sensors: warnings, places and which are valid at all."""
    responses = study.responses
    assert isinstance(responses, EpochRows)
    assert isinstance(study.space, SensorSpace)
    positions = usable_positions(responses.runs, responses.names, dict(study.space.positions))
    usable = {name for run in responses.runs for name in set(run.names) - set(run.flagged() or run.bad)}
    warnings = [*study.provenance["own_warnings"], *keep_few(gather_flags(responses.runs))]
    return replace(
        study,
        space=replace(study.space, positions=positions),
        valid=np.array([name in usable for name in responses.names]),
        provenance={**study.provenance, "warnings": warnings},
    )


def prepare(study: Study) -> Study:
    """Filter every run that has not been, and return the study with the sensors that turned out to be unusable flagged.

    Raises
    ------
    InputError
        If `study` has not come from raw recordings, or one of them cannot be read.
    """
    if not isinstance(study.responses, EpochRows):
        raise InputError("`study`", expected="a study of raw MEG or EEG", found=study.dataset)
    study.responses.prepare()
    return flag(study)


def keep_few(warnings: list[str], most: int = MOST_WARNINGS) -> list[str]:
    """Keep a list of warnings of many runs short."""
    more = len(warnings) - most
    return warnings if more <= 0 else [*warnings[:most], f"and {more} more like these"]
