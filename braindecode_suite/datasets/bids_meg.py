"""`bids-meg`: any raw MEG or EEG in BIDS, CTF to EEGLAB, as windows around the pictures (see ``docs/meg.md``)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
from pydantic import PositiveFloat, PositiveInt

from braindecode_suite.core.checks import check_folder, check_option
from braindecode_suite.core.config import Config, build_options
from braindecode_suite.core.errors import InputError, MissingChannels
from braindecode_suite.core.files import data_hash, file_sha256
from braindecode_suite.core.protocols import DatasetCard, FileCheck
from braindecode_suite.core.sensors import SensorSpace
from braindecode_suite.core.signal import Filter, Resample, SignalRecipe, SignalStep
from braindecode_suite.core.study import Study
from braindecode_suite.datasets.bad_segments import (
    find_masked,
    find_rejected,
    read_bad_segments,
    summarise_rejected,
)
from braindecode_suite.datasets.bids_layout import participants
from braindecode_suite.datasets.image_files import open_stimuli
from braindecode_suite.datasets.lab_files import count_repeats
from braindecode_suite.datasets.meg_runs import (
    EpochRows,
    Run,
    Windows,
    common_rate,
    gather_flags,
    usable_positions,
)
from braindecode_suite.datasets.recording_files import (
    Recording,
    describe_raw,
    find_recordings,
    open_recording,
    read_last,
)
from braindecode_suite.datasets.sensor_positions import layout_positions, merge_names
from braindecode_suite.datasets.stimulus_events import (
    STIMULUS_COLUMN,
    check_onsets,
    check_types,
    read_stimulus_events,
)

Kind = Literal["meg", "mag", "grad", "eeg", "eog", "ecg", "emg", "ref_meg", "eyegaze", "pupil", "misc"]
UNITS = {
    "mag": "tesla",
    "grad": "tesla per metre",
    "ref_meg": "tesla",
    "eyegaze": "radian",
    "pupil": "as given",
}
MOST_WARNINGS = 12
TREE = """\
dataset_description.json
sub-01/[ses-01/]meg/sub-01_[ses-01_]task-x_run-01_meg.ds             or .fif, .con, .sqd; below eeg: _eeg.vhdr, .edf, .bdf, .set
sub-01/[ses-01/]meg/sub-01_[ses-01_]task-x_run-01_events.tsv         onset, and a column that names the picture (stimulus_id)
sub-01/[ses-01/]meg/sub-01_[ses-01_]task-x_run-01_channels.tsv       optional: bad channels, types
stimuli/...                                                          the images, by the names in that column; optional
"""


class BidsMegOptions(Config):
    """How a participant is read.

    Attributes
    ----------
    datatype : {'', 'meg', 'eeg'}
        MEG where there is any, by default.
    task : str
    sessions : list of str, optional
        Labels.
    stimulus_column : str
        Column of the events that names the picture; ``stimulus_id`` by default.
    trial_types : list of str, optional
        Only events with one of these in trial_type are trials.
    kinds : list of str, optional
        Channels by MNE's type: meg (mag and grad), eeg; eog, ecg, emg, ref_meg, eyegaze, pupil and misc for controls. By default the
        sensors of the data type.
    drop : list of str
        Channels left out by name.
    reject_by_annotation : bool
        Leave out trials whose window overlaps an annotation that starts with BAD, in the events or in the recording, and mask the sensors of
        those that name channels.
    tmin, tmax : float
        Window in seconds from the onset, both ends included (Benchetrit et al. 2023: -0.5 to 1).
    highpass, lowpass : float, optional
        Cut-offs in Hz.
    notch : list of float
        Frequencies taken out, in Hz.
    sfreq : float, optional
        Samples a second of the responses; None keeps those of the recording.
    phase : {'zero', 'causal'}
        Filters that delay nothing and need the future, or those that a live decoder can run.
    montage : str
        One of MNE's standard montages, by the names of electrodes, where no sidecar says where they were.
    stimuli : str
        Folder of the images, where it is not ``stimuli``.
    image_side : int, optional
        Resize images to squares of this many pixels.
    prepare : bool
        Filter all runs at once rather than when their first row is read; sensors that are flat, saturated or NaN are known
        only then.
    """

    datatype: Literal["", "meg", "eeg"] = ""
    task: str = ""
    sessions: tuple[str, ...] | None = None
    stimulus_column: str = ""
    trial_types: tuple[str, ...] | None = None
    kinds: tuple[Kind, ...] | None = None
    drop: tuple[str, ...] = ()
    reject_by_annotation: bool = True
    tmin: float = -0.5
    tmax: float = 1.0
    highpass: PositiveFloat | None = 0.1
    lowpass: PositiveFloat | None = None
    notch: tuple[PositiveFloat, ...] = ()
    sfreq: PositiveFloat | None = 120.0
    phase: Literal["zero", "causal"] = "zero"
    montage: str = ""
    stimuli: str = ""
    image_side: PositiveInt | None = None
    prepare: bool = False

    def signal(self, sfreq: float) -> SignalRecipe:
        """Return the preprocessing of a recording of this rate: filters first, then resampling."""
        steps: list[SignalStep] = []
        if self.highpass is not None or self.lowpass is not None or self.notch:
            steps.append(Filter(self.highpass, self.lowpass, self.notch, self.phase))
        if self.sfreq is not None:
            if self.sfreq > sfreq * (1 + 1e-6):
                raise InputError(
                    "option sfreq",
                    expected=f"at most the {sfreq:g} Hz of the recording",
                    found=f"{self.sfreq:g}",
                    hint="sfreq=null keeps the recording's rate",
                )
            steps.append(Resample(self.sfreq, self.phase))
        return SignalRecipe(tuple(steps), sfreq)


class BidsMegDataset:
    """Reads raw MEG and EEG in BIDS (catalogue entry ``bids-meg``)."""

    card = DatasetCard(
        name="bids-meg",
        title="Any raw MEG or EEG in BIDS with events that name the pictures",
        modality="MEG or EEG: one response a trial, sensor and time",
        terms="Those of the dataset: see its README, LICENSE or dataset_description.json, and ask those who recorded it.",
        size="the dataset's; the work folder takes 4 bytes a sensor and sample after resampling",
        tree=TREE,
        citation="BIDS: Gorgolewski et al. 2016, Scientific Data 3, 160044; MEG-BIDS: Niso et al. 2018, Scientific Data 5, 180110; "
        "EEG-BIDS: Pernet et al. 2019, Scientific Data 6, 103. MNE-BIDS: Appelhoff et al. 2019, JOSS 4, 1896. And the dataset's own.",
        protocols=(
            "random-by-image",
            "leave-one-run-out",
            "leave-one-session-out",
            "leave-one-subject-out",
        ),
        workflow="meg",
        preset="default",
        source="Yours; or any MEG or EEG dataset of OpenNeuro by its number, `bds fetch ds004212 --data-dir DIR`.",
    )

    options_class: ClassVar[type[Config]] = BidsMegOptions

    def subjects(self, data_dir: Path) -> list[str]:
        """Return the labels of the participants; their folders are listed, not read."""
        return [label for label in participants(data_dir) if label != "emptyroom"]

    def open(self, data_dir: Path, subject: str, work_dir: Path, **options: Any) -> Study:
        """Open one participant: headers, sidecars and events are read, no samples (see `BidsMegOptions`)."""
        chosen = build_options(BidsMegOptions, options, self.card.name)
        check_folder(data_dir, "a BIDS dataset")
        label = re.sub(r"^sub-", "", str(subject))
        known = self.subjects(data_dir)
        if not known:
            raise InputError(data_dir, expected="folders sub-* of participants", found="none")
        check_option("subject", label, known)
        return open_participant(data_dir, label, work_dir, chosen)

    def identity(self, data_dir: Path, subjects: Sequence[str]) -> dict[str, str]:
        """Return a hash of each participant's events, and of names and sizes of the recordings."""
        found = {}
        for subject in subjects:
            try:
                recordings = find_recordings(data_dir, subject)
            except InputError:
                continue
            events = [[one.name, file_sha256(one.events)] for one in recordings if one.events.is_file()]
            sizes = [[one.name, sorted(path.stat().st_size for path in one.files())] for one in recordings]
            found[subject] = data_hash(events, sizes)
        return found

    def check(self, data_dir: Path) -> list[FileCheck]:
        """Return what is there, missing or unreadable, run by run."""
        labels = self.subjects(data_dir)
        if not labels:
            return [FileCheck(str(data_dir / "sub-*"), "missing", "no participant")]
        return [line for label in labels for line in check_participant(data_dir, label)]


def check_participant(data_dir: Path, subject: str) -> list[FileCheck]:
    """Return a line for every run of a participant: its recording and its events."""

    def bad(error: InputError) -> FileCheck:
        status = "missing" if error.found in ("nothing there", "none") else "bad"
        text = f"expected {error.expected}; found {error.found}" + (f" ({error.hint})" if error.hint else "")
        return FileCheck(error.where, status, text)

    try:
        recordings = find_recordings(data_dir, subject)
    except InputError as error:
        return [bad(error)]
    lines = []
    for one in recordings:
        try:
            events = read_stimulus_events(one.events)
            raw, warnings = open_recording(one)
            check_onsets(one.events, events["onset"].to_numpy(), raw.n_times / raw.info["sfreq"])
            read_last(one, raw)
            found = "; ".join([f"{describe_raw(raw)}, {len(events)} pictures", *warnings])
            lines.append(FileCheck(str(one.path), "ok", found))
        except InputError as error:
            lines.append(bad(error))
    return lines


def open_participant(data_dir: Path, subject: str, work_dir: Path, options: BidsMegOptions) -> Study:
    """Open the recordings of one participant as a study."""
    recordings = find_recordings(
        data_dir, subject, datatype=options.datatype, task=options.task, sessions=options.sessions
    )
    without = [one for one in recordings if not one.events.is_file()]
    recordings = [one for one in recordings if one.events.is_file()]
    if not recordings:
        raise InputError(
            without[0].events,
            expected="the events of the run, with onset and the picture shown",
            found="nothing there",
            hint="a recording without events, such as noise or an average, has nothing to decode",
        )
    warnings = [
        f"{len(without)} runs without events left out: {', '.join(one.name for one in without[:5])}"
    ] * bool(without)
    runs, infos, tables = [], [], []
    for one in recordings:
        table = read_stimulus_events(
            one.events, stimulus_column=options.stimulus_column, trial_types=options.trial_types
        )
        raw, told = open_recording(one, options.montage)
        check_onsets(one.events, table["onset"].to_numpy(), raw.n_times / raw.info["sfreq"])
        run, more = with_segments(make_run(one, raw, options, work_dir / "runs"), one, options)
        warnings += [*told, *more]
        runs.append(run)
        infos.append(raw.info)
        tables.append(table)
    windows = Windows.of(options.tmin, options.tmax, common_rate(runs))
    names = merge_names([run.names for run in runs])
    rates = sorted({run.signal.sfreq_in for run in runs})
    if len(rates) > 1:
        warnings.append(
            f"runs were recorded at {', '.join(f'{rate:g}' for rate in rates)} Hz and are resampled to one rate"
        )
    trials, run_of_row, first, cut = lay_out_trials(recordings, runs, tables, windows)
    warnings = [*cut, *warnings]
    if options.trial_types is not None:
        check_types(data_dir / f"sub-{subject}", trials, options.trial_types)
    responses = EpochRows(runs, run_of_row, first, windows.n_times, names)
    space, unplaced = make_space(runs, infos, names, windows)
    stimuli, missing = open_stimuli(data_dir, trials, options.stimuli, options.image_side)
    study = Study(
        dataset="bids-meg",
        subject=subject,
        responses=responses,
        trials=trials,
        stimuli=stimuli,
        space=space,
        unit=unit_of(space.kinds),
        signal=runs[0].signal,
        provenance={
            "folder": str(data_dir),
            "files": [one.path.name for one in recordings],
            "recorded": f"{infos[0]['sfreq']:g} Hz, {len(infos[0]['ch_names'])} channels",
            "own_warnings": [*_few(warnings), *unplaced, *missing],
            "warnings": [],
        },
    )
    if options.prepare:
        responses.prepare()
    return flag(study)


def make_run(recording: Recording, raw: Any, options: BidsMegOptions, folder: Path) -> Run:
    """Return the run as it is to be preprocessed, with the channels that are asked for."""
    wanted = options.kinds or (recording.datatype,)
    kinds = {kind for name in wanted for kind in (("mag", "grad") if name == "meg" else (name,))}
    types = raw.get_channel_types()
    kept = [
        (name, kind)
        for name, kind in zip(raw.ch_names, types, strict=True)
        if kind in kinds and name not in options.drop
    ]
    if not kept:
        raise MissingChannels(
            recording.path,
            expected=f"channels of type {', '.join(wanted)} (option kinds)",
            found=", ".join(sorted(set(types))),
        )
    names = tuple(name for name, _ in kept)
    return Run(
        name=recording.name,
        session=recording.session or "1",
        path=recording.path,
        read=partial(_read, recording),
        names=names,
        kinds=tuple(kind for _, kind in kept),
        bad=tuple(name for name in raw.info["bads"] if name in names),
        n_samples=int(raw.n_times),
        signal=options.signal(float(raw.info["sfreq"])),
        fingerprint=recording.fingerprint(),
        folder=folder,
    )


def with_segments(run: Run, recording: Recording, options: BidsMegOptions) -> tuple[Run, list[str]]:
    """Return the run with the stretches that are marked as bad, unless the options say to keep them, and warnings."""
    if not options.reject_by_annotation:
        return run, []
    segments, warnings = read_bad_segments(recording, options.stimulus_column or STIMULUS_COLUMN)
    return replace(run, segments=segments), warnings


def _read(recording: Recording) -> Any:
    return open_recording(recording)[0]


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


def make_space(
    runs: Sequence[Run], infos: Sequence[Any], names: tuple[str, ...], windows: Windows
) -> tuple[SensorSpace, list[str]]:
    """Return the sensors of all runs with their places in each session, and warnings of those without a place."""
    kinds: dict[str, str] = {}
    channels: dict[str, Any] = {}
    for run, info in zip(runs, infos, strict=True):
        for name, kind in zip(run.names, run.kinds, strict=True):
            if kinds.setdefault(name, kind) != kind:
                raise InputError(
                    run.path, expected=f"{name} of type {kinds[name]}, as in other runs", found=f"type {kind}"
                )
            channels.setdefault(name, info["chs"][info["ch_names"].index(name)])
    positions, layout = {}, ""
    for session in dict.fromkeys(run.session for run in runs):
        where = np.full((len(names), 2), np.nan)
        # the run with most sensors sets the scale, the others add what it lacks
        mine = [k for k, run in enumerate(runs) if run.session == session]
        for k in sorted(mine, key=lambda k: -len(runs[k].names)):
            found, title = layout_positions(infos[k], runs[k].names)
            layout = layout or title
            for name, place in zip(runs[k].names, found, strict=True):
                at = names.index(name)
                if np.isnan(where[at]).any():
                    where[at] = place
        positions[session] = where
    space = SensorSpace(
        names=names,
        kinds=tuple(kinds[name] for name in names),
        positions=positions,
        sfreq=windows.sfreq,
        times=windows.times,
        locations=np.array([channels[name]["loc"] for name in names], np.float64),
        coil_types=np.array([int(channels[name]["coil_type"]) for name in names]),
        layout=layout,
    )
    known = np.any([np.isfinite(where).all(axis=1) for where in positions.values()], axis=0)
    if known.all():
        return space, []
    hint = "; the option montage places electrodes by their names" if "eeg" in space.kinds else ""
    return space, [f"{int((~known).sum())} of {len(names)} sensors have no place in the 2-D layout{hint}"]


def unit_of(kinds: Sequence[str]) -> str:
    """Return the unit of the samples of these kinds of channels.

    Examples
    --------
    >>> unit_of(["mag", "eeg", "mag"])
    'tesla, volt'
    """
    return ", ".join(dict.fromkeys(UNITS.get(kind, "volt") for kind in kinds))


def flag(study: Study) -> Study:
    """Return the study with what is known by now of its sensors: warnings, places and which are valid at all."""
    responses = study.responses
    assert isinstance(responses, EpochRows)
    assert isinstance(study.space, SensorSpace)
    positions = usable_positions(responses.runs, responses.names, dict(study.space.positions))
    usable = {name for run in responses.runs for name in set(run.names) - set(run.flagged() or run.bad)}
    warnings = [*study.provenance["own_warnings"], *_few(gather_flags(responses.runs))]
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


def _few(warnings: list[str], most: int = MOST_WARNINGS) -> list[str]:
    """Keep a list of warnings of many runs short."""
    more = len(warnings) - most
    return warnings if more <= 0 else [*warnings[:most], f"and {more} more like these"]


BIDS_MEG = BidsMegDataset()
