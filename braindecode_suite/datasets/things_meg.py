"""`things-meg`: four people, 1,854 object concepts of THINGS with twelve photographs each and 200 repeated test images, MEG of a CTF-275 system.

Facts: Hebart et al. 2023. Raw recordings are filtered and cut as those of ``bids-meg`` are; the authors' own epochs are read as they are.
"""

from __future__ import annotations

import re
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
from braindecode_suite.core.protocols import DatasetCard, FileCheck
from braindecode_suite.core.sensors import SensorSpace
from braindecode_suite.core.study import Study
from braindecode_suite.datasets.bad_segments import BadSegment
from braindecode_suite.datasets.bids_meg import (
    BidsMegOptions,
    Kind,
    flag,
    lay_out_trials,
    make_run,
    make_space,
    unit_of,
    with_segments,
)
from braindecode_suite.datasets.epoch_files import (
    OF_RECORDINGS,
    EpochFileRows,
    open_epochs,
    refuse_recording_options,
)
from braindecode_suite.datasets.image_files import ImageFiles, find_images, match_images
from braindecode_suite.datasets.lab_files import check_inside, count_repeats, read_table
from braindecode_suite.datasets.meg_runs import EpochRows, Run, Windows, common_rate
from braindecode_suite.datasets.recording_files import (
    Recording,
    describe_raw,
    find_recordings,
    open_recording,
    read_last,
)
from braindecode_suite.datasets.sensor_positions import layout_positions, merge_names
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
from braindecode_suite.datasets.things_meg_table import tidy_attributes

BROKEN = "MRO11-1609"
DROPOUTS = {("P1", "11", 5): 13.4, ("P2", "10", 3): 59.8}
"""Subject, session and run of the two recordings that drop out for 0.2 s, and about when, in seconds."""
DROPOUT_REACH = 0.2
"""Seconds mended before and after: the moment is known to a tenth of a second."""
IMAGES = ("images_meg", "images_test_meg")
TREE = """\
sub-BIGMEG1/ses-01/meg/sub-BIGMEG1_ses-01_task-main_run-01_meg.ds        raw recordings of subject P1, and their events.tsv
sourcedata/sample_attributes_P1.csv                                      what was shown; needed with raw recordings
derivatives/preprocessed/preprocessed_P1-epo.fif                         the authors' epochs (and -epo-1.fif ...), in place of raw recordings
images_meg/aardvark/aardvark_01b.jpg, images_test_meg/...                optional: the images
"""


class ThingsMegOptions(Config):
    """How a subject is read.

    Attributes
    ----------
    files : {'', 'raw', 'epochs'}
        Raw recordings, or the authors' epochs; raw ones where there are any, by default.
    sessions : list of str, optional
        Two digits each.
    onsets : {'trigger', 'sample', 'onset'}
        Where onsets of raw recordings come from: trigger channel, or a column of events.tsv.
    drop : list of str
        Channels left out, with or without serial number; the broken MRO11-1609 by default.
    kinds : list of str, optional
        Channels of raw recordings by MNE's type, as in ``bids-meg``; the eye tracker's are misc. MEG by default.
    mend : bool
        Replace the two known dropouts by each channel's median before anything is filtered.
    reject_by_annotation : bool
        Leave out trials of raw recordings whose window overlaps an annotation that starts with BAD or one of the two dropouts, and mask the
        sensors of annotations that name channels.
    tmin, tmax : float
        Window of raw recordings in seconds, both ends included.
    highpass, lowpass : float, optional
        Cut-offs in Hz.
    notch : list of float
        Frequencies taken out, in Hz.
    sfreq : float, optional
        Samples a second of raw recordings after resampling; None keeps theirs.
    phase : {'zero', 'causal'}
        Filters that need the future, or those a live decoder can run.
    stimuli : str
        Folder of the images, such as THINGS' own, where they are not in the dataset.
    image_side : int, optional
        Resize images to squares of this many pixels.
    prepare : bool
        Filter all runs at once rather than when their first row is read.
    """

    files: Literal["", "raw", "epochs"] = ""
    sessions: tuple[str, ...] | None = None
    onsets: Source = "trigger"
    drop: tuple[str, ...] = (BROKEN,)
    kinds: tuple[Kind, ...] | None = None
    mend: bool = True
    reject_by_annotation: bool = True
    tmin: float = -0.5
    tmax: float = 1.0
    highpass: PositiveFloat | None = 0.1
    lowpass: PositiveFloat | None = None
    notch: tuple[PositiveFloat, ...] = ()
    sfreq: PositiveFloat | None = 120.0
    phase: Literal["zero", "causal"] = "zero"
    stimuli: str = ""
    image_side: PositiveInt | None = None
    prepare: bool = False

    def recording(self) -> BidsMegOptions:
        """Return how a run is preprocessed."""
        shared = (
            "sessions",
            "kinds",
            "reject_by_annotation",
            "tmin",
            "tmax",
            "highpass",
            "lowpass",
            "notch",
            "sfreq",
            "phase",
        )
        drop = (*self.drop, *(name.split("-")[0] for name in self.drop))
        return BidsMegOptions(
            datatype="meg", task="main", drop=drop, **{name: getattr(self, name) for name in shared}
        )


class ThingsMegDataset:
    """Reads raw recordings or released epochs (catalogue entry ``things-meg``)."""

    card = DatasetCard(
        name="things-meg",
        title="THINGS-MEG: photographs of 1,854 object concepts, four people",
        modality="MEG: one response a trial, sensor and time",
        terms="Recordings: public, OpenNeuro ds004212, see the licence given there. The images of THINGS have terms of their own (osf.io/jum2f).",
        size="4 subjects, 12 sessions of 10 runs; 22,248 images once, 200 test images twelve times each",
        tree=TREE,
        citation="Hebart et al. 2023, THINGS-data, a multimodal collection of large-scale datasets for investigating object representations in "
        "human brain and behavior, eLife 12, e82580",
        protocols=(
            "things-meg-zero-shot",
            "things-meg-original",
            "random-by-image",
            "leave-one-subject-out",
        ),
        workflow="meg",
        preset="default",
        source="The images of THINGS: osf.io/jum2f, with the password given there.",
        openneuro="ds004212",
        openneuro_files=(
            "sub-BIGMEG*/*_task-main_*",
            "sourcedata/sample_attributes_P*.csv",
            "derivatives/preprocessed/preprocessed_P*-epo*.fif",
        ),
    )
    options_class: ClassVar[type[Config]] = ThingsMegOptions

    def subjects(self, data_dir: Path) -> list[str]:
        """Return the labels (``P1``...) of the subjects with raw recordings or epochs."""
        raw = [path.name.removeprefix("sub-BIGMEG") for path in data_dir.glob("sub-BIGMEG*") if path.is_dir()]
        epochs = [
            path.name.removeprefix("preprocessed_P").removesuffix("-epo.fif") for path in _epochs(data_dir)
        ]
        return sorted({f"P{number}" for number in [*raw, *epochs]})

    def open(self, data_dir: Path, subject: str, work_dir: Path, **options: Any) -> Study:
        """Open one subject: headers and tables are read, and once the trigger channel of raw recordings."""
        chosen = build_options(ThingsMegOptions, options, self.card.name)
        label = re.sub(r"^(sub-)?(BIGMEG|P)", "P", str(subject))
        labels = self.subjects(check_folder(data_dir, "the folder of the dataset"))
        if not labels:
            raise InputError(data_dir, expected="sub-BIGMEG1 or preprocessed_P1-epo.fif", found="neither")
        check_option("subject", label, labels)
        if _source(data_dir, label, chosen.files) == "raw":
            return open_raw(data_dir, label, work_dir, chosen)
        return open_released(data_dir, label, chosen)

    def check(self, data_dir: Path) -> list[FileCheck]:
        """Return, run by run or file by file, what is there."""
        labels = self.subjects(data_dir)
        if not labels:
            return [FileCheck("sub-BIGMEG1 or derivatives/preprocessed/preprocessed_P1-epo.fif", "missing")]
        return [line for label in labels for line in check_subject(data_dir, label)]


def _home(label: str) -> str:
    return f"BIGMEG{label.removeprefix('P')}"


def _epochs(data_dir: Path, label: str = "P*") -> list[Path]:
    """Return the first file of the released epochs of a subject, or of all."""
    name = f"preprocessed_{label}-epo.fif"
    return sorted({*data_dir.glob(f"derivatives/preprocessed/{name}"), *data_dir.glob(name)})


def _source(data_dir: Path, label: str, files: str) -> str:
    """Return what a subject is read from."""
    raw = (data_dir / f"sub-{_home(label)}").is_dir()
    epochs = bool(_epochs(data_dir, label))
    if (files == "raw" and not raw) or (files == "epochs" and not epochs):
        raise InputError("option files", expected="raw" if raw else "epochs", found=files)
    return files or ("raw" if raw else "epochs")


def read_trials(data_dir: Path, label: str) -> tuple[pd.DataFrame, list[str]]:
    """Read what was shown to a subject, from ``sourcedata`` (see `tidy_attributes`)."""
    path = check_inside(data_dir, data_dir / "sourcedata" / f"sample_attributes_{label}.csv")
    return tidy_attributes(path, read_table(path, [], separator=","))


def check_subject(data_dir: Path, label: str) -> list[FileCheck]:
    """Return a line for the table of a subject, and one for each run or for the epochs."""

    def bad(error: InputError) -> FileCheck:
        status = "missing" if error.found in ("nothing there", "none") else "bad"
        return FileCheck(error.where, status, f"expected {error.expected}; found {error.found}")

    lines = []
    for path in _epochs(data_dir, label):
        try:
            epochs = open_epochs(check_inside(data_dir, path))
            trials, _ = _trials_of(data_dir, label, path, epochs)
            text = f"{len(epochs.events)} epochs, {len(epochs.ch_names)} channels, {len(epochs.times)} times at {epochs.info['sfreq']:g} Hz"
            lines.append(
                FileCheck(str(path), "ok", f"{text}, {int((trials['published'] != '').sum())} pictures")
            )
        except InputError as error:
            lines.append(bad(error))
    if not (data_dir / f"sub-{_home(label)}").is_dir():
        return lines
    try:
        trials, _ = read_trials(data_dir, label)
        recordings = find_recordings(data_dir, _home(label), datatype="meg", task="main")
    except InputError as error:
        return [*lines, bad(error)]
    for one in recordings:
        try:
            rows = _rows_of(trials, one)
            raw, _ = open_recording(one)
            read_last(one, raw)
            lines.append(FileCheck(str(one.path), "ok", f"{describe_raw(raw)}, {len(rows)} trials"))
        except InputError as error:
            lines.append(bad(error))
    return lines


def _rows_of(trials: pd.DataFrame, recording: Recording) -> pd.DataFrame:
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
        data_dir, _home(label), datatype="meg", task="main", sessions=options.sessions
    )
    runs, infos, tables, report = [], [], [], {}
    for one in recordings:
        raw, told = open_recording(one)
        run, marked = with_segments(make_run(one, raw, chosen, work_dir / "runs"), one, chosen)
        run = _without_dropout(run, label, one, options)
        rows = _rows_of(attributes, one)
        table, facts, more = _onsets_of(one, raw, run, rows, options.onsets)
        report[one.name] = facts
        warnings += [*told, *marked, *more]
        if run.repair is not None:
            warnings.append(f"{one.name}: the dropout {run.repair_name} is replaced by each channel's median")
        runs.append(run)
        infos.append(raw.info)
        tables.append(table)
    windows = Windows.of(options.tmin, options.tmax, common_rate(runs))
    names = merge_names([run.names for run in runs])
    trials, run_of_row, first, cut = lay_out_trials(recordings, runs, tables, windows)
    space, unplaced = make_space(runs, infos, names, windows)
    stimuli, missing = open_images(data_dir, trials, options)
    study = Study(
        dataset="things-meg",
        subject=label,
        responses=EpochRows(runs, run_of_row, first, windows.n_times, names),
        trials=trials,
        stimuli=stimuli,
        space=space,
        unit=unit_of(space.kinds),
        signal=runs[0].signal,
        provenance={
            "folder": str(data_dir),
            "files": [one.path.name for one in recordings],
            "terms": ThingsMegDataset.card.terms,
            "onsets": report,
            "own_warnings": [*summarise_offsets(report), *warnings, *cut, *unplaced, *missing],
            "warnings": [],
        },
    )
    if options.prepare:
        study.responses.prepare()  # type: ignore[attr-defined]
    return flag(study)


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


def _trials_of(data_dir: Path, label: str, path: Path, epochs: Any) -> tuple[pd.DataFrame, list[str]]:
    """Return a trial for every epoch: the metadata in the file, or the table of the subject where it has none."""
    if epochs.metadata is not None:
        trials, warnings = tidy_attributes(path, epochs.metadata.astype(str).reset_index(drop=True))
    else:
        trials, warnings = read_trials(data_dir, label)
    if len(trials) != len(epochs.events):
        raise InputError(
            path, expected=f"{len(trials)} epochs, one a trial of the table", found=str(len(epochs.events))
        )
    return trials, warnings


def open_released(data_dir: Path, label: str, options: ThingsMegOptions) -> Study:
    """Open the epochs that the authors preprocessed as a study."""
    if options.kinds is not None:
        raise MissingChannels(
            "option kinds",
            expected="null for released epochs, which hold MEG alone",
            found=", ".join(options.kinds),
        )
    refuse_recording_options(options, OF_RECORDINGS)
    path = check_inside(data_dir, _epochs(data_dir, label)[0])
    epochs = open_epochs(path)
    trials, warnings = _trials_of(data_dir, label, path, epochs)
    keep = (trials["published"] != "").to_numpy()
    for session in options.sessions or ():
        check_option("sessions", session, set(trials["session"]))
    if options.sessions is not None:
        keep &= trials["session"].isin(options.sessions).to_numpy()
    trials = trials[keep].drop(columns="things_image_nr").reset_index(drop=True)
    trials["repeat"], trials["onset"] = count_repeats(trials["stimulus_id"]), np.nan
    head = ["stimulus_id", "session", "run", "repeat", "onset", "duration"]
    trials = trials[[*head, *(name for name in trials.columns if name not in head)]]
    dropped = options.recording().drop
    kinds = dict(zip(epochs.ch_names, epochs.get_channel_types(), strict=True))
    names = tuple(name for name, kind in kinds.items() if kind in ("mag", "grad") and name not in dropped)
    if not names:
        raise InputError(path, expected="MEG channels", found=", ".join(sorted(set(kinds.values()))))
    where, layout = layout_positions(epochs.info, names)
    where[[name in epochs.info["bads"] for name in names]] = np.nan
    channels = [epochs.info["chs"][epochs.ch_names.index(name)] for name in names]
    space = SensorSpace(
        names=names,
        kinds=tuple(kinds[name] for name in names),
        positions={session: where.copy() for session in dict.fromkeys(trials["session"])},
        sfreq=float(epochs.info["sfreq"]),
        times=np.asarray(epochs.times, np.float64),
        locations=np.array([channel["loc"] for channel in channels], np.float64),
        coil_types=np.array([int(channel["coil_type"]) for channel in channels]),
        layout=layout,
    )
    unknown = int((~np.isfinite(where).all(axis=1)).sum())
    if unknown:
        warnings.append(
            f"{unknown} of {len(names)} sensors have no place in the 2-D layout or are marked bad"
        )
    stimuli, missing = open_images(data_dir, trials, options)
    return Study(
        dataset="things-meg",
        subject=label,
        responses=EpochFileRows(path, names, np.flatnonzero(keep), len(epochs.times)),
        trials=trials,
        stimuli=stimuli,
        space=space,
        unit="z-score",
        provenance={
            "folder": str(data_dir),
            "files": [path.name],
            "terms": ThingsMegDataset.card.terms,
            "normalised": "as released: 0.1 to 40 Hz, each epoch z-scored by the time before its picture",
            "warnings": [*warnings, *missing],
        },
    )


def open_images(
    data_dir: Path, trials: pd.DataFrame, options: ThingsMegOptions
) -> tuple[ImageFiles | None, list[str]]:
    """Find the image of every stimulus by the name of its file."""
    folders = [Path(options.stimuli)] if options.stimuli else [data_dir / name for name in IMAGES]
    found: dict[str, Path] = {}
    for folder in folders:
        place = data_dir / folder
        if options.stimuli:
            check_folder(place, "the folder of the images (option stimuli)")
        if place.is_dir():
            found |= find_images(place if options.stimuli else data_dir, place, stems=True)
    shown = trials.drop_duplicates("stimulus_id").set_index("stimulus_id")
    return match_images(
        found, list(shown.index), pd.DataFrame({"category": shown["concept"]}), options.image_side
    )


THINGS_MEG = ThingsMegDataset()
