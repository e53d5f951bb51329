"""The raw recordings of THINGS-MEG: runs with their onsets and without their dropouts, as a study."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from braindecode_suite.core.errors import InputError
from braindecode_suite.core.study import Study
from braindecode_suite.datasets.bad_segments import BadSegment
from braindecode_suite.datasets.meg_runs import Run
from braindecode_suite.datasets.recording_files import Recording, find_recordings, open_recording
from braindecode_suite.datasets.recording_runs import make_run
from braindecode_suite.datasets.recording_space import make_space, unit_of
from braindecode_suite.datasets.recording_study import flag, prepare
from braindecode_suite.datasets.recording_trials import cut_recordings
from braindecode_suite.datasets.stimulus_events import check_onsets
from braindecode_suite.datasets.things_meg_onsets import (
    Onsets,
    Source,
    align,
    choose_onsets,
    read_event_onsets,
    read_triggers,
    summarise_offsets,
)
from braindecode_suite.datasets.things_meg_options import ThingsMegOptions
from braindecode_suite.datasets.things_meg_table import open_images, read_trials

DROPOUTS = {("P1", "11", 5): 13.4, ("P2", "10", 3): 59.8}
"""Subject, session and run of the two recordings that drop out for 0.2 s, and about when, in seconds."""
DROPOUT_REACH = 0.2
"""Seconds mended before and after: the moment is known to a tenth of a second."""


def bids_label(label: str) -> str:
    """Return the label that a subject has in the folders of the recordings.

    Examples
    --------
    >>> bids_label("P1")
    'BIGMEG1'
    """
    return f"BIGMEG{label.removeprefix('P')}"


def rows_of_run(trials: pd.DataFrame, recording: Recording) -> pd.DataFrame:
    """Return the trials of one run, catch trials too."""
    run = int(recording.run) if recording.run.isdecimal() else -1
    rows = trials[(trials["session"] == recording.session) & (trials["run"] == run)]
    if not len(rows):
        raise InputError(
            recording.path, expected="trials of this session and run in sample_attributes", found="no rows"
        )
    return rows


def open_raw(data_dir: Path, label: str, work_dir: Path, options: ThingsMegOptions) -> Study:
    """Open the raw recordings of one subject as a study."""
    attributes, warnings = read_trials(data_dir, label)
    chosen = options.recording()
    recordings = find_recordings(
        data_dir, bids_label(label), datatype="meg", task="main", sessions=options.sessions
    )
    runs, infos, tables, report = [], [], [], {}
    for one in recordings:
        raw, told = open_recording(one)
        run, marked = make_run(one, raw, chosen, work_dir / "runs")
        run = _without_dropout(run, label, one, options)
        rows = rows_of_run(attributes, one)
        table, facts, more = _onsets_of(one, raw, run, rows, options.onsets)
        report[one.name] = facts
        warnings += [*told, *marked, *more]
        if run.repair is not None:
            warnings.append(f"{one.name}: the dropout {run.repair_name} is replaced by each channel's median")
        runs.append(run)
        infos.append(raw.info)
        tables.append(table)
    cut = cut_recordings(recordings, runs, tables, options)
    space, unplaced = make_space(runs, infos, cut.responses.names, cut.windows)
    stimuli, missing = open_images(data_dir, cut.trials, options)
    study = Study(
        dataset="things-meg",
        subject=label,
        responses=cut.responses,
        trials=cut.trials,
        stimuli=stimuli,
        space=space,
        unit=unit_of(space.kinds),
        signal=runs[0].signal,
        provenance={
            "folder": str(data_dir),
            "files": [one.path.name for one in recordings],
            "onsets": report,
            "own_warnings": [*summarise_offsets(report), *warnings, *cut.warnings, *unplaced, *missing],
            "warnings": [],
        },
    )
    return prepare(study) if options.prepare else flag(study)


def _onsets_of(
    recording: Recording, raw: Any, run: Run, rows: pd.DataFrame, wanted: Source
) -> tuple[pd.DataFrame, dict[str, Any], list[str]]:
    """Return the pictures of one run with their onsets, which source they are from, and warnings."""
    sfreq = float(raw.info["sfreq"])
    pictures = (rows["published"] != "").to_numpy()
    triggers = read_triggers(recording.path, raw, run.folder, run.fingerprint)
    sources: dict[Source, Onsets | None] = {
        "trigger": None if triggers is None else align(triggers / sfreq, pictures)
    }
    others, warnings = read_event_onsets(
        recording.events, pictures, rows["things_image_nr"].to_numpy(float), sfreq
    )
    used, onsets, offsets = choose_onsets(recording.path, sources | others, wanted)
    shown = rows[pictures].assign(onset=onsets[pictures])
    times = shown["onset"].to_numpy()
    if not (np.diff(times) > 0).all():
        raise InputError(
            recording.path, expected=f"onsets by {used} that ascend", found="some that go back or are missing"
        )
    check_onsets(recording.path, times, raw.n_times / sfreq)
    columns = ["stimulus_id", "onset", "duration", "concept", "published"]
    facts = {"used": used, "wanted": wanted, "offsets": offsets}
    return shown[columns].reset_index(drop=True), facts, warnings


def mend(samples: np.ndarray, start: int, stop: int) -> None:
    """Replace samples `start` to `stop` of an array of shape (sensors, samples) by each sensor's median, in place."""
    for channel in samples:
        channel[start:stop] = np.median(channel)


def _without_dropout(run: Run, label: str, recording: Recording, options: ThingsMegOptions) -> Run:
    """Return the run with its dropout marked as bad and to be mended, if it is one of the two that have one."""
    number = int(recording.run) if recording.run.isdecimal() else -1
    at = DROPOUTS.get((label, recording.session, number))
    if at is None:
        return run
    if options.reject_by_annotation:
        dropout = BadSegment(at - DROPOUT_REACH, at + DROPOUT_REACH, "BAD_dropout")
        run = replace(run, segments=(*run.segments, dropout))
    if not options.mend:
        return run
    sfreq = run.signal.sfreq_in
    start, stop = (
        min(max(0, round((at + reach) * sfreq)), run.n_samples) for reach in (-DROPOUT_REACH, DROPOUT_REACH)
    )
    return replace(
        run,
        repair=partial(mend, start=start, stop=stop),
        repair_name=f"from {at - DROPOUT_REACH:.1f} to {at + DROPOUT_REACH:.1f} s",
    )
