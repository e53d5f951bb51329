"""The continuous recordings of THINGS-EEG2: a pickled dict of (channels, samples) a session and part, as runs and their trials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from braindecode_suite.core.errors import InputError
from braindecode_suite.core.files import data_hash
from braindecode_suite.datasets.lab_files import check_inside
from braindecode_suite.datasets.meg_runs import Run
from braindecode_suite.datasets.pickled_arrays import read_arrays
from braindecode_suite.datasets.recording_files import Recording, check_sessions
from braindecode_suite.datasets.recording_options import RecordingOptions
from braindecode_suite.datasets.recording_trials import CutRecordings, cut_recordings

FILES = {"train": "raw_eeg_training.npy", "test": "raw_eeg_test.npy"}
FOLDERS = ("raw_data", "Raw_data", ".")
TARGET = 99999
"""Code of the images that people had to find; no trial of theirs is used."""
DURATION = 0.1
ENTRIES = ("raw_eeg_data", "ch_names", "ch_types", "sfreq")


class MappedRaw:
    """A recording whose samples lie in a mapped array, read as MNE's are.

    Parameters
    ----------
    names : sequence of str
    samples : array of shape (channels, samples)
    """

    def __init__(self, names: Sequence[str], samples: NDArray[Any]) -> None:
        self.ch_names, self.samples = list(names), samples

    def __getitem__(self, at: tuple[Any, slice]) -> tuple[NDArray[Any]]:
        return (np.asarray(self.samples[at[0], at[1]]),)


@dataclass(frozen=True)
class RawSubject:
    """The continuous recordings of one person, and where they come from.

    Attributes
    ----------
    cut : CutRecordings
    sfreq : float
        As recorded.
    files, warnings : list of str
    """

    cut: CutRecordings
    sfreq: float
    files: list[str]
    warnings: list[str]


def find_raw(data_dir: Path, label: str = "*") -> dict[tuple[str, str, str], Path]:
    """Return the recordings by label, session and part."""
    found: dict[tuple[str, str, str], Path] = {}
    for folder in FOLDERS:
        for part, name in FILES.items():
            for path in sorted((data_dir / folder).glob(f"sub-{label}/ses-*/{name}")):
                who = path.parents[1].name.removeprefix("sub-")
                found.setdefault((who, path.parent.name.removeprefix("ses-"), part), path)
    return dict(sorted(found.items(), key=lambda item: (item[0][:2], list(FILES).index(item[0][2]))))


def read_recording(data_dir: Path, path: Path) -> tuple[MappedRaw, list[str], NDArray[np.int64], float]:
    """Map one recording.

    Returns
    -------
    raw : MappedRaw
    names : list of str
        Electrodes.
    codes : int array of shape (samples,)
        The stimulus channel.
    sfreq : float
    """
    content = read_arrays(check_inside(data_dir, path))
    missing = [key for key in ENTRIES if key not in content]
    if missing:
        raise InputError(path, expected=f"an entry {missing[0]!r}", found=", ".join(content) or "none")
    samples = content["raw_eeg_data"]
    for key in ("ch_names", "ch_types"):
        if not isinstance(content[key], list | np.ndarray):
            raise InputError(path, expected=f"a list in {key!r}", found=type(content[key]).__name__)
    names, kinds = ([str(value) for value in content[key]] for key in ("ch_names", "ch_types"))
    if not isinstance(samples, np.ndarray) or samples.ndim != 2 or samples.dtype.kind not in "fi":
        found = f"shape {samples.shape}" if isinstance(samples, np.ndarray) else type(samples).__name__
        raise InputError(path, expected="numbers of channels x samples", found=found)
    if not len(names) == len(kinds) == len(samples):
        raise InputError(
            path,
            expected=f"names and types of {len(samples)} channels",
            found=f"{len(names)} and {len(kinds)}",
        )
    if kinds.count("stim") != 1 or "eeg" not in kinds:
        raise InputError(
            path,
            expected="electrodes and one channel of type 'stim'",
            found=f"{kinds.count('eeg')} and {kinds.count('stim')}",
        )
    sfreq = content["sfreq"]
    if not (isinstance(sfreq, int | float | np.number) and np.isfinite(sfreq) and sfreq > 0):
        raise InputError(path, expected="a sampling rate in Hz", found=str(sfreq))
    codes = np.asarray(samples[kinds.index("stim")], float)
    if not np.isfinite(codes).all() or (codes != np.round(codes)).any():
        raise InputError(path, expected="whole numbers in the stimulus channel", found="others")
    electrodes = [name for name, kind in zip(names, kinds, strict=True) if kind == "eeg"]
    return MappedRaw(names, samples), electrodes, codes.astype(np.int64), float(sfreq)


def find_events(
    path: Path, codes: NDArray[np.int64], n_conditions: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the samples at which images came on, and their conditions counted from 0; targets are left out.

    Examples
    --------
    >>> find_events(Path("x"), np.array([0, 2, 0, 99999, 0, 1, 1]), 2)
    (array([1, 5]), array([1, 0]))
    """
    begins = (codes != 0) & (np.diff(codes, prepend=0) != 0)
    at = np.flatnonzero(begins & (codes != TARGET))
    wrong = (codes[at] < 1) | (codes[at] > n_conditions)
    if wrong.any():
        raise InputError(
            path,
            expected=f"codes from 1 to {n_conditions}, or {TARGET} for targets",
            found=str(codes[at][wrong][0]),
        )
    if not len(at):
        raise InputError(path, expected="images in the stimulus channel", found="none")
    return at, codes[at] - 1


def open_raw(
    data_dir: Path,
    label: str,
    work_dir: Path,
    options: RecordingOptions,
    conditions: Mapping[str, pd.DataFrame],
) -> RawSubject:
    """Lay out the windows of one person's recordings: stimulus channels are read, nothing else.

    Parameters
    ----------
    data_dir : Path
    label : str
    work_dir : Path
    options : RecordingOptions
    conditions : mapping of part to DataFrame
        ``stimulus_id``, ``concept`` and ``published``, a row a condition, in order.
    """
    found = {key: path for key, path in find_raw(data_dir, label).items() if key[0] == label}
    if options.sessions is not None:
        check_sessions(options.sessions, {session for _, session, _ in found})
        found = {key: path for key, path in found.items() if key[1] in options.sessions}
    runs: list[Run] = []
    recordings, tables, rates = [], [], []
    for (_, session, part), path in found.items():
        raw, names, codes, sfreq = read_recording(data_dir, path)
        if runs and tuple(names) != runs[0].names:
            raise InputError(path, expected=f"the channels of {runs[0].path}", found="others")
        recording = Recording(data_dir, path, "eeg", session, part, str(1 + list(FILES).index(part)), path)
        at, condition = find_events(path, codes, len(conditions[part]))
        table = conditions[part].iloc[condition].reset_index(drop=True)
        tables.append(table.assign(onset=at / sfreq, duration=DURATION))
        status = path.stat()
        runs.append(
            Run(
                name=recording.name,
                session=session,
                path=path,
                read=partial(_reopen, data_dir, path),
                names=tuple(names),
                kinds=("eeg",) * len(names),
                bad=(),
                n_samples=raw.samples.shape[1],
                signal=options.signal(sfreq),
                fingerprint=data_hash([str(path), status.st_size, status.st_mtime_ns]),
                folder=work_dir / "runs" / f"sub-{label}",
            )
        )
        recordings.append(recording)
        rates.append(sfreq)
    cut = cut_recordings(recordings, runs, tables, options)
    lacking = [part for part in FILES if part not in {part for _, _, part in found}]
    return RawSubject(
        cut=cut,
        sfreq=rates[0],
        files=[f"ses-{session}/{path.name}" for (_, session, _), path in found.items()],
        warnings=[*cut.warnings, *(f"no recordings of the {part} part" for part in lacking)],
    )


def _reopen(data_dir: Path, path: Path) -> MappedRaw:
    return read_recording(data_dir, path)[0]
