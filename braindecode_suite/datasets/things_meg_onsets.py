"""When each picture of THINGS-MEG came on: the trigger channel, and two columns of ``events.tsv``, held against each other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from braindecode_suite.core.errors import InputError
from braindecode_suite.core.files import data_hash, write_aside
from braindecode_suite.datasets.lab_files import DAMAGED, one_line, read_numbers, read_table
from braindecode_suite.datasets.meg_runs import READ_BYTES

Source = Literal["trigger", "sample", "onset"]
SOURCES: tuple[Source, ...] = ("trigger", "sample", "onset")
"""Hardware first; then the sample in ``events.tsv`` (corrected by an optical sensor), then its onset in seconds."""
TRIGGER_CHANNEL, TRIGGER = "UPPT001", 64
MOST_MISMATCHES = 20
"""Numbers of images in a run that may differ between the two tables; the release has up to these."""
TOLD_MS = 20.0

Onsets = NDArray[np.float64]


def find_triggers(channel: np.ndarray, code: int = TRIGGER) -> NDArray[np.int64]:
    """Return the samples at which a trigger channel of shape (samples,) becomes `code`.

    Examples
    --------
    >>> find_triggers(np.array([0, 64, 64, 0, 64, 32, 64])).tolist()
    [1, 4, 6]
    """
    on = np.round(np.asarray(channel)) == code
    return np.flatnonzero(on & ~np.concatenate([[False], on[:-1]]))


def read_triggers(path: Path, raw: Any, folder: Path, fingerprint: str) -> NDArray[np.int64] | None:
    """Return the triggers of a run, None if it has no such channel; the channel is read once and what was found is kept.

    Parameters
    ----------
    path : Path
        Named in errors.
    raw : mne.io.BaseRaw
    folder : Path
        Where the samples found are kept.
    fingerprint : str
        Of the recording.
    """
    if TRIGGER_CHANNEL not in raw.ch_names:
        return None
    kept = folder / f"triggers_{data_hash([fingerprint, TRIGGER_CHANNEL, TRIGGER])}.npy"
    if kept.is_file():
        return np.asarray(np.load(kept, allow_pickle=False))
    pick, step = raw.ch_names.index(TRIGGER_CHANNEL), max(1, READ_BYTES // (8 * len(raw.ch_names)))
    try:
        parts = [
            raw[[pick], start : min(start + step, raw.n_times)][0][0] for start in range(0, raw.n_times, step)
        ]
    except DAMAGED as error:
        raise InputError(path, expected="a whole recording", found=one_line(error)) from error
    found = find_triggers(np.concatenate(parts))
    folder.mkdir(parents=True, exist_ok=True)
    with write_aside(kept) as aside, aside.open("wb") as file:
        np.save(file, found, allow_pickle=False)
    return found


def read_event_onsets(
    path: Path, pictures: np.ndarray, numbers: np.ndarray, sfreq: float
) -> tuple[dict[Source, Onsets | None], list[str]]:
    """Read both onsets of ``events.tsv``; snapshots of the release have or lack ``sample``.

    Parameters
    ----------
    path : Path
        It need not be there.
    pictures : bool array of shape (trials,)
        Trials that are no catch trials.
    numbers : array of shape (trials,)
        ``things_image_nr`` of each, NaN where unknown.
    sfreq : float

    Returns
    -------
    onsets : dict of source to array of shape (trials,) or None
        Seconds from the first sample, NaN for trials without a row; None where there is no such column, or the rows do not count up.
    warnings : list of str

    Raises
    ------
    InputError
        If more than 20 images of the run have another number than in the table of trials.
    """
    if not path.is_file():
        return {"sample": None, "onset": None}, []
    events = read_table(path, ["onset"])
    onsets: dict[Source, Onsets | None] = {"sample": None, "onset": None}
    if "sample" in events.columns:
        onsets["sample"] = align(read_numbers(path, events, "sample") / sfreq, pictures)
    onsets["onset"] = align(read_numbers(path, events, "onset"), pictures)
    if onsets["onset"] is None:
        return onsets, [f"{path.name}: {len(events)} rows for {len(pictures)} trials: not used"]
    if "value" not in events.columns:
        return onsets, []
    told = align(pd.to_numeric(events["value"], errors="coerce").to_numpy(float), pictures)
    assert told is not None
    both = pictures & np.isfinite(told) & np.isfinite(numbers)
    n = int((told[both] != numbers[both]).sum())
    if n > MOST_MISMATCHES:
        raise InputError(
            path,
            expected=f"values that are things_image_nr of the trials ({MOST_MISMATCHES} may differ)",
            found=f"{n} of {int(both.sum())} that are not",
            hint="its rows belong to other trials",
        )
    return onsets, [f"{path.name}: {n} images have another number in the table of trials"] * bool(n)


def align(times: np.ndarray, pictures: np.ndarray) -> Onsets | None:
    """Give times to trials: to all of them, or to all but the catch trials, whichever counts up; None if neither does.

    Examples
    --------
    >>> align(np.array([1.0, 2.0]), np.array([True, False, True])).tolist()
    [1.0, nan, 2.0]
    """
    if len(times) == len(pictures):
        return np.asarray(times, np.float64)
    if len(times) != pictures.sum():
        return None
    out = np.full(len(pictures), np.nan)
    out[pictures] = times
    return out


def choose_onsets(
    where: Path, sources: Mapping[Source, Onsets | None], wanted: Source
) -> tuple[Source, Onsets, dict[str, dict[str, float]]]:
    """Take the onsets of one source, the wanted one if the run has it, and hold the others against it.

    Parameters
    ----------
    where : Path
        Named in errors.
    sources : dict of source to array of shape (trials,) or None
        Seconds from the first sample of the run.
    wanted : {'trigger', 'sample', 'onset'}

    Returns
    -------
    used : str
    onsets : array of shape (trials,)
    offsets : dict of source to dict
        Of the other sources: ``median_ms`` of their times minus those used, and ``max_ms``, the one largest in size.
    """
    there = [name for name in (wanted, *SOURCES) if sources.get(name) is not None]
    if not there:
        raise InputError(
            where,
            expected=f"an onset for every trial of the run, from {TRIGGER_CHANNEL} or events.tsv",
            found="none that count up",
        )
    used = there[0]
    onsets = sources[used]
    assert onsets is not None
    offsets: dict[str, dict[str, float]] = {}
    for name in SOURCES:
        other = sources.get(name)
        if other is None or name == used:
            continue
        ms = 1000 * (other - onsets)
        ms = ms[np.isfinite(ms)]
        if len(ms):
            offsets[name] = {
                "median_ms": round(float(np.median(ms)), 3),
                "max_ms": round(float(ms[np.abs(ms).argmax()]), 3),
            }
    return used, onsets, offsets


def summarise_offsets(runs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return warnings about onsets over all runs: sources that are apart, and runs that lack the one wanted.

    Parameters
    ----------
    runs : dict of run to dict
        ``used``, ``wanted`` and ``offsets`` (see `choose_onsets`).
    """
    warnings = []
    fallen = [name for name, run in runs.items() if run["used"] != run["wanted"]]
    if fallen:
        first = runs[fallen[0]]
        warnings.append(
            f"{len(fallen)} of {len(runs)} runs have no onsets by {first['wanted']} that count up and go by {first['used']}: "
            + ", ".join(fallen[:5])
        )
    for name in SOURCES:
        found = [run["offsets"][name] for run in runs.values() if name in run["offsets"]]
        largest = max((one["max_ms"] for one in found), key=abs, default=0.0)
        if abs(largest) > TOLD_MS:
            median = float(np.median([one["median_ms"] for one in found]))
            warnings.append(
                f"onsets by {name} lie {median:+.1f} ms (median of {len(found)} runs, at most {largest:+.1f}) from those used"
            )
    return warnings
