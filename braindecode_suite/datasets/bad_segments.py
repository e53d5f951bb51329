"""Stretches of a run that whoever recorded or cleaned it marked as bad, and which windows they touch.

The convention is MNE's: an annotation whose description starts with ``bad``, in any case. One of the whole recording rejects the trials
whose window it overlaps, by as little as a sample, as `mne.Epochs` does by default; one of single channels takes only those from them.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from braindecode_suite.datasets.bids_events import EMPTY
from braindecode_suite.datasets.lab_files import one_line, read_table
from braindecode_suite.datasets.recording_files import Recording

SAME = 1e-3
"""Seconds within which a row of the events and an annotation of the file are one: text has fewer digits."""
WITHOUT = (".con", ".sqd")
"""Formats that hold no annotations."""
OF_CTF = ("bad.segments", "MarkerFile.mrk")
"""Files of a CTF folder that MNE makes annotations of."""


@dataclass(frozen=True)
class BadSegment:
    """A stretch of one run.

    Attributes
    ----------
    start, stop : float
        Seconds from the first sample; the same where no length was given.
    description : str
    channels : tuple of str
        The ones that are bad; empty for all.
    """

    start: float
    stop: float
    description: str
    channels: tuple[str, ...] = ()

    def overlaps(self, first: np.ndarray, n_times: int, sfreq: float) -> np.ndarray:
        """Say which windows the segment touches.

        Parameters
        ----------
        first : int array of shape (windows,)
            Sample with which each begins.
        n_times : int
        sfreq : float
            Of those samples, in Hz.

        Returns
        -------
        bool array of shape (windows,)

        Examples
        --------
        >>> BadSegment(1.0, 1.5, "BAD_jump").overlaps(np.array([0, 50, 149, 150]), 51, 100.0)
        array([False,  True,  True, False])
        """
        begin, end = first / sfreq, (first + n_times) / sfreq
        return np.asarray((self.start < end) & (self.stop > begin))


def is_bad(description: str) -> bool:
    """Say whether a description starts with ``bad``, in any case."""
    return description.lower().startswith("bad")


def read_bad_segments(
    recording: Recording, stimulus_column: str = ""
) -> tuple[tuple[BadSegment, ...], list[str]]:
    """Read the bad segments of one run: from its ``events.tsv``, and from the recording's own annotations.

    A row of the events is one where `trial_type` starts with ``bad`` and no picture is named; a column ``channel`` holds the channels, with
    commas between them. What both have is taken once, with the channels of either. In a CTF folder the annotations are ``bad.segments``.

    Parameters
    ----------
    recording : Recording
    stimulus_column : str
        Of the events; rows with a value are pictures, whatever their type is called.

    Returns
    -------
    segments : tuple of BadSegment
        In the order of their start.
    warnings : list of str
    """
    own, told = _own_annotations(recording)
    found: list[BadSegment] = []
    for one in [*own, *_of_events(recording, stimulus_column)]:
        same = [k for k, other in enumerate(found) if _are_one(one, other)]
        if same:
            k = same[0]
            found[k] = replace(found[k], channels=found[k].channels or one.channels)
        else:
            found.append(one)
    return tuple(sorted(found, key=lambda one: (one.start, one.stop, one.description, one.channels))), told


def _are_one(one: BadSegment, other: BadSegment) -> bool:
    near = abs(one.start - other.start) < SAME and abs(one.stop - other.stop) < SAME
    compatible = not one.channels or not other.channels or one.channels == other.channels
    return near and compatible and one.description == other.description


def _of_events(recording: Recording, stimulus_column: str) -> list[BadSegment]:
    if not recording.events.is_file():
        return []
    table = read_table(recording.events, [])
    if not {"onset", "trial_type"} <= set(table.columns):
        return []
    bad = table["trial_type"].map(is_bad).to_numpy(bool)
    if stimulus_column in table.columns:
        bad = bad & table[stimulus_column].isin(EMPTY).to_numpy()
    table = table[bad]
    onsets = pd.to_numeric(table["onset"], errors="coerce").to_numpy(float)
    lasting = table["duration"] if "duration" in table.columns else pd.Series(0.0, table.index)
    durations = pd.to_numeric(lasting, errors="coerce").fillna(0.0).to_numpy(float)
    named = table["channel"] if "channel" in table.columns else pd.Series("n/a", table.index)
    return [
        BadSegment(float(onset), float(onset + duration), str(kind), _names(str(channels)))
        for onset, duration, kind, channels in zip(onsets, durations, table["trial_type"], named, strict=True)
        if np.isfinite(onset)
    ]


def _names(text: str) -> tuple[str, ...]:
    if text in EMPTY:
        return ()
    return tuple(sorted({name.strip() for name in text.split(",")} - {""}))


def _own_annotations(recording: Recording) -> tuple[list[BadSegment], list[str]]:
    """Return those in the recording itself, which mne-bids puts aside where there are events."""
    import mne

    path = recording.path
    if path.suffix in WITHOUT or (
        path.suffix == ".ds" and not any((path / name).is_file() for name in OF_CTF)
    ):
        return [], []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            raw: Any = mne.io.read_raw(path, verbose="error")
        except Exception as error:  # mne-bids has read it: only its annotations are out of reach
            return [], [f"{path.name}: annotations within the file could not be read: {one_line(error)}"]
    notes, begins = raw.annotations, raw.first_samp / raw.info["sfreq"]
    rows = zip(notes.onset - begins, notes.duration, notes.description, notes.ch_names, strict=True)
    return [
        BadSegment(float(start), float(start + lasting), str(kind), tuple(sorted(map(str, channels))))
        for start, lasting, kind, channels in rows
        if is_bad(str(kind))
    ], []


def find_rejected(
    segments: Sequence[BadSegment], names: Sequence[str], first: np.ndarray, n_times: int, sfreq: float
) -> np.ndarray:
    """Return why each window of a run is rejected, an object array of shape (windows,): a description, empty where it is kept.

    A window none of whose sensors, `names`, is left is rejected as one that is bad as a whole.
    """
    reasons = np.full(len(first), "", dtype=object)
    left = np.ones((len(first), len(names)), bool)
    for one in segments:
        touched = one.overlaps(first, n_times, sfreq)
        if one.channels:
            left[np.ix_(touched, np.isin(names, one.channels))] = False
            touched &= ~left.any(axis=1)
        reasons[touched & (reasons == "")] = one.description
    return reasons


def find_masked(
    segments: Sequence[BadSegment], names: Sequence[str], first: np.ndarray, n_times: int, sfreq: float
) -> np.ndarray | None:
    """Return which sensors of which windows annotations of single channels take, of shape (windows, sensors); None for none."""
    masked = np.zeros((len(first), len(names)), bool)
    for one in segments:
        if one.channels:
            touched = one.overlaps(first, n_times, sfreq)
            masked[np.ix_(touched, np.isin(names, one.channels))] = True
    return masked if masked.any() else None


def summarise_rejected(reasons: Sequence[np.ndarray], masked: Sequence[np.ndarray | None]) -> list[str]:
    """Return what to say of the windows that annotations took, or took sensors from, over all runs.

    Examples
    --------
    >>> summarise_rejected([np.array(["", "BAD_jump", ""], object)], [None])
    ['1 of 3 trials rejected by BAD annotations (BAD_jump 1); reject_by_annotation: false keeps them']
    """
    texts = []
    counts = Counter(str(reason) for run in reasons for reason in run if reason)
    if counts:
        by_kind = ", ".join(f"{kind} {count}" for kind, count in counts.most_common(5))
        more = f" and {len(counts) - 5} other descriptions" if len(counts) > 5 else ""
        texts.append(
            f"{sum(counts.values())} of {sum(map(len, reasons))} trials rejected by BAD annotations ({by_kind}{more}); "
            "reject_by_annotation: false keeps them"
        )
    taken = [run for run in masked if run is not None]
    if taken:
        texts.append(
            f"{sum(int(run.any(axis=1).sum()) for run in taken)} trials have sensors that BAD annotations of single channels take: "
            f"missing there, {sum(int(run.sum()) for run in taken)} in all"
        )
    return texts
