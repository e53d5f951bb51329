"""`bids-meg`: any raw MEG or EEG in BIDS, CTF to EEGLAB, as windows around the pictures (see ``docs/meg.md``)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from braindecode_suite.core.checks import check_folder, check_option
from braindecode_suite.core.config import Config, build_options
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.files import data_hash, file_sha256
from braindecode_suite.core.protocols import DatasetCard, FileCheck
from braindecode_suite.core.study import Study
from braindecode_suite.datasets.bids_layout import participants
from braindecode_suite.datasets.image_files import open_stimuli
from braindecode_suite.datasets.recording_files import (
    describe_raw,
    find_recordings,
    open_recording,
    read_last,
)
from braindecode_suite.datasets.recording_options import ChannelOptions
from braindecode_suite.datasets.recording_runs import make_run
from braindecode_suite.datasets.recording_space import make_space, unit_of
from braindecode_suite.datasets.recording_study import flag, keep_few, prepare
from braindecode_suite.datasets.recording_trials import cut_recordings
from braindecode_suite.datasets.stimulus_events import check_onsets, check_types, read_stimulus_events

TREE = """\
dataset_description.json
sub-01/[ses-01/]meg/sub-01_[ses-01_]task-x_run-01_meg.ds             or .fif, .con, .sqd; below eeg: _eeg.vhdr, .edf, .bdf, .set
sub-01/[ses-01/]meg/sub-01_[ses-01_]task-x_run-01_events.tsv         onset, and a column that names the picture (stimulus_id)
sub-01/[ses-01/]meg/sub-01_[ses-01_]task-x_run-01_channels.tsv       optional: bad channels, types
stimuli/...                                                          the images, by the names in that column; optional
"""


class BidsMegOptions(ChannelOptions):
    """How a participant is read.

    Attributes
    ----------
    datatype : {'', 'meg', 'eeg'}
        MEG where there is any, by default.
    task : str
    stimulus_column : str
        Column of the events that names the picture; ``stimulus_id`` by default.
    trial_types : list of str, optional
        Only events with one of these in trial_type are trials.
    montage : str
        One of MNE's standard montages, by the names of electrodes, where no sidecar says where they were.
    stimuli : str
        Folder of the images, where it is not ``stimuli``.
    sessions, kinds, drop, reject_by_annotation, tmin, tmax, highpass, lowpass, notch, sfreq, phase, image_side, prepare
        As in `ChannelOptions` and `RecordingOptions`.
    """

    datatype: Literal["", "meg", "eeg"] = ""
    task: str = ""
    stimulus_column: str = ""
    trial_types: tuple[str, ...] | None = None
    montage: str = ""
    stimuli: str = ""


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
        run, more = make_run(one, raw, options, work_dir / "runs", options.stimulus_column)
        warnings += [*told, *more]
        runs.append(run)
        infos.append(raw.info)
        tables.append(table)
    dropped = [name for name in options.drop if not any(name in info["ch_names"] for info in infos)]
    if dropped:
        warnings.append(f"option drop: no run has a channel {', '.join(dropped)}")
    rates = sorted({run.signal.sfreq_in for run in runs})
    if len(rates) > 1:
        warnings.append(
            f"runs were recorded at {', '.join(f'{rate:g}' for rate in rates)} Hz and are resampled to one rate"
        )
    cut = cut_recordings(recordings, runs, tables, options)
    trials, responses = cut.trials, cut.responses
    warnings = [*cut.warnings, *warnings]
    if options.trial_types is not None:
        check_types(data_dir / f"sub-{subject}", trials, options.trial_types)
    space, unplaced = make_space(runs, infos, responses.names, cut.windows)
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
            "own_warnings": [*keep_few(warnings), *unplaced, *missing],
            "warnings": [],
        },
    )
    return prepare(study) if options.prepare else flag(study)


BIDS_MEG = BidsMegDataset()
