"""Continuous runs of MEG and EEG: filtered and resampled once into the work folder, and read from there window by window.

A run of any length takes bounded memory: samples are copied into a scratch file some seconds at a time, then preprocessed some channels
at a time. What is written is float32 of shape (samples, sensors), so that a window is one piece of the file.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from braindecode_suite.core.errors import InputError
from braindecode_suite.core.files import data_hash, write_aside, write_json
from braindecode_suite.core.signal import SignalRecipe
from braindecode_suite.datasets.bad_segments import BadSegment, find_masked
from braindecode_suite.datasets.bids_layout import read_json
from braindecode_suite.datasets.lab_files import DAMAGED, one_line

READ_BYTES = 32 << 20
BLOCK_BYTES = 32 << 20
STUCK_SHARE = 0.5
SATURATED_SHARE = 0.01
SENSORS = ("mag", "grad", "eeg")
VERSION = 1


@dataclass(frozen=True)
class Run:
    """One run to be preprocessed.

    Attributes
    ----------
    name, session : str
    path : Path
        Named in errors.
    read : callable
        Opens the recording: anything with ``ch_names`` and ``raw[channels, start:stop][0]``, as MNE's.
    names, kinds : tuple of str
        Sensors, in the order of the file, and MNE's type of each.
    bad : tuple of str
        Those marked bad by whoever recorded.
    n_samples : int
    signal : SignalRecipe
        At the run's own rate.
    fingerprint : str
        Of the files.
    folder : Path
        Where what is made is kept.
    repair : callable or None
        Gets the scratch array of shape (sensors, samples) before anything is filtered, to mend what is known to be broken.
    segments : tuple of BadSegment
        Stretches marked as bad. Samples are made all the same; windows are cut without them.
    """

    name: str
    session: str
    path: Path
    read: Callable[[], Any]
    names: tuple[str, ...]
    kinds: tuple[str, ...]
    bad: tuple[str, ...]
    n_samples: int
    signal: SignalRecipe
    fingerprint: str
    folder: Path
    repair: Callable[[np.ndarray], None] | None = None
    repair_name: str = ""
    segments: tuple[BadSegment, ...] = ()

    @property
    def file(self) -> Path:
        """The memory map that holds, or will hold, the samples; its JSON beside it comes last."""
        key = [
            VERSION,
            self.fingerprint,
            list(self.names),
            list(self.bad),
            self.signal.describe(),
            self.repair_name,
        ]
        return self.folder / f"{self.name or 'run'}_{data_hash(key)}.npy"

    @property
    def length(self) -> int:
        """Samples after preprocessing."""
        return self.signal.length(self.n_samples)

    def flagged(self) -> dict[str, str] | None:
        """Return sensors without a usable signal in this run, with the reason; None before `prepare`."""
        facts = self.file.with_suffix(".json")
        if not (facts.is_file() and self.file.is_file()):
            return None
        flagged: dict[str, str] = read_json(facts)["flagged"]
        return flagged

    def prepare(self) -> dict[str, str]:
        """Filter and resample the run unless that has been done, and return what `flagged` does."""
        flagged = self.flagged()
        if flagged is None:
            flagged = self._convert()
        return flagged

    def open(self) -> NDArray[np.float32]:
        """Return the samples, a read-only memory map of shape (samples, sensors)."""
        self.prepare()
        return np.load(self.file, mmap_mode="r", allow_pickle=False).view(np.ndarray)

    def _convert(self) -> dict[str, str]:
        self.folder.mkdir(parents=True, exist_ok=True)
        flagged = dict.fromkeys(self.bad, "marked bad")
        block = max(1, BLOCK_BYTES // (8 * self.n_samples))
        with tempfile.TemporaryDirectory(dir=self.folder, prefix=".scratch-") as scratch:
            samples = np.lib.format.open_memmap(
                Path(scratch) / "samples.npy", "w+", np.float64, (len(self.names), self.n_samples)
            ).view(np.ndarray)
            self._copy(samples)
            if self.repair is not None:
                self.repair(samples)
            with write_aside(self.file) as aside:
                out = np.lib.format.open_memmap(aside, "w+", np.float32, (self.length, len(self.names)))
                for start in range(0, len(self.names), block):
                    inside = slice(start, start + block)
                    values = np.array(samples[inside])
                    for name, kind, channel in zip(
                        self.names[inside], self.kinds[inside], values, strict=True
                    ):
                        reason = find_fault(channel)
                        if reason == "saturated" and kind not in SENSORS:
                            reason = ""  # an eye tracker's range has an end
                        if reason:
                            flagged.setdefault(name, reason)
                            channel[:] = 0  # written as NaN below; NaN would not pass a filter
                    out[:, inside] = self.signal.apply(values).T
                at = [k for k, name in enumerate(self.names) if name in flagged]
                out[:, at] = np.nan
                out.flush()
        if len(flagged) == len(self.names):
            self.file.unlink()
            reasons = ", ".join(sorted(set(flagged.values())))
            raise InputError(
                self.path,
                expected="a sensor with a usable signal",
                found=f"{len(self.names)} that are {reasons}",
            )
        write_json(
            self.file.with_suffix(".json"),
            {"flagged": flagged, "sensors": self.names, **self.signal.describe()},
        )
        return flagged

    def _copy(self, samples: np.ndarray) -> None:
        """Copy the recording, some seconds at a time."""
        try:
            raw = self.read()
            picks = [raw.ch_names.index(name) for name in self.names]
            step = max(1, READ_BYTES // (8 * len(raw.ch_names)))
            for start in range(0, self.n_samples, step):
                stop = min(start + step, self.n_samples)
                samples[:, start:stop] = raw[picks, start:stop][0]
        except InputError:
            raise
        except DAMAGED as error:
            raise InputError(self.path, expected="a whole recording", found=one_line(error)) from error


def find_fault(channel: np.ndarray) -> str:
    """Return why the samples of a channel are of no use, empty where they are.

    ``NaN``: a sample is not finite. ``flat``: half of all samples are the same as the one before. ``saturated``: more than one in a
    hundred lies exactly at the smallest or at the largest value, at both ends of an amplifier's range or at one.

    Examples
    --------
    >>> noise = np.random.default_rng(0).standard_normal(1000)
    >>> find_fault(noise), find_fault(np.clip(noise, -1.5, 1.5)), find_fault(noise * 0)
    ('', 'saturated', 'flat')
    """
    if not np.isfinite(channel).all():
        return "NaN"
    if len(channel) < 2 or np.mean(np.diff(channel) == 0) > STUCK_SHARE:
        return "flat"
    most = max(np.mean(channel == channel.min()), np.mean(channel == channel.max()))
    return "saturated" if most > SATURATED_SHARE and most * len(channel) > 2 else ""


class EpochRows:
    """Windows of continuous runs, cut when they are asked for: shape (trials, sensors, times), NaN where a sensor is missing.

    A sensor that an annotation of single channels marks as bad is missing in the whole of each window that it touches.

    Parameters
    ----------
    runs : sequence of Run
    run_of_row : int array of shape (trials,)
    first : int array of shape (trials,)
        Sample of the run, after preprocessing, with which each window begins.
    n_times : int
    names : tuple of str
        Sensors of the study; a run may lack some.
    """

    dtype = np.dtype(np.float32)

    def __init__(
        self,
        runs: Sequence[Run],
        run_of_row: np.ndarray,
        first: np.ndarray,
        n_times: int,
        names: tuple[str, ...],
    ) -> None:
        self.runs, self.names = tuple(runs), names
        self.run_of_row, self.first, self.n_times = np.asarray(run_of_row), np.asarray(first), n_times
        place = {name: k for k, name in enumerate(names)}
        self.columns = [np.array([place[name] for name in run.names], np.int64) for run in self.runs]
        self.shape = (len(self.first), len(names), n_times)
        last = self.first + n_times
        lengths = np.array([run.length for run in self.runs])[self.run_of_row] if len(self.first) else last
        if len(self.first) and (self.first.min() < 0 or (last > lengths).any()):
            raise InputError("`first`", expected="windows inside their runs", found="one that is not")
        self.masked = self._find_masked()
        self._maps: dict[int, NDArray[np.float32]] = {}

    def _find_masked(self) -> dict[int, np.ndarray]:
        """Return the columns, of the run's, that are bad in a row, by row; rows without any are left out."""
        found: dict[int, np.ndarray] = {}
        for k, run in enumerate(self.runs):
            if not any(one.channels for one in run.segments):
                continue
            rows = np.flatnonzero(self.run_of_row == k)
            masked = find_masked(run.segments, run.names, self.first[rows], self.n_times, run.signal.sfreq)
            if masked is not None:
                found |= {int(rows[j]): np.flatnonzero(masked[j]) for j in np.flatnonzero(masked.any(axis=1))}
        return found

    def __getstate__(self) -> dict[str, Any]:
        """Leave the maps out: a copy in another process opens its own."""
        return {**self.__dict__, "_maps": {}}

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> np.ndarray:
        """Return windows of shape (rows, sensors, times), in the order asked for."""
        numbers = np.arange(len(self))[rows]
        if numbers.ndim == 0:
            return np.asarray(self[numbers[None]][0])
        out = np.full((len(numbers), *self.shape[1:]), np.nan, np.float32)
        for k, row in enumerate(numbers.tolist()):
            run = int(self.run_of_row[row])
            start = int(self.first[row])
            out[k, self.columns[run]] = self._map(run)[start : start + self.n_times].T
            if row in self.masked:
                out[k, self.columns[run][self.masked[row]]] = np.nan
        return out

    def prepare(self) -> list[dict[str, str]]:
        """Preprocess every run that has not been; return each one's unusable sensors with the reason."""
        return [run.prepare() for run in self.runs]

    def window(self, offset: int, n_times: int) -> EpochRows:
        """Return other windows of the same trials, beginning `offset` samples later; runs are not preprocessed again."""
        return EpochRows(self.runs, self.run_of_row, self.first + offset, n_times, self.names)

    def _map(self, run: int) -> NDArray[np.float32]:
        if run not in self._maps:
            self._maps[run] = self.runs[run].open()
        return self._maps[run]


@dataclass(frozen=True)
class Windows:
    """Times of an epoch around the onset, in whole samples.

    Attributes
    ----------
    start, n_times : int
        First sample, from the onset's own, and number of samples; both ends of the window are included.
    sfreq : float
    """

    start: int
    n_times: int
    sfreq: float

    @classmethod
    def of(cls, tmin: float, tmax: float, sfreq: float) -> Windows:
        """Return the window from `tmin` to `tmax` seconds.

        Examples
        --------
        >>> Windows.of(-0.5, 1.0, 120.0).n_times
        181
        """
        start, stop = round(tmin * sfreq), round(tmax * sfreq)
        if stop < start:
            raise InputError("`tmax`", expected=f"seconds above tmin, {tmin:g}", found=f"{tmax:g}")
        return cls(start, stop - start + 1, sfreq)

    @property
    def times(self) -> np.ndarray:
        """Seconds from the onset, array of shape (times,)."""
        return (self.start + np.arange(self.n_times)) / self.sfreq

    def first(self, onsets: np.ndarray) -> np.ndarray:
        """Return the first sample of the window of each onset, given in seconds of the run (to the nearest sample)."""
        return np.round(np.asarray(onsets, float) * self.sfreq).astype(np.int64) + self.start


def gather_flags(runs: Sequence[Run]) -> list[str]:
    """Return a warning for each kind of fault of each run that has been preprocessed, and for sensors that a run lacks."""
    texts = []
    every = {name for run in runs for name in run.names}
    for run in runs:
        absent = every - set(run.names)
        if absent:
            texts.append(f"{run.name}: {_list(absent)} not recorded: missing in its trials")
        by_reason: dict[str, set[str]] = {}
        for name, reason in (run.flagged() or dict.fromkeys(run.bad, "marked bad")).items():
            by_reason.setdefault(reason, set()).add(name)
        texts += [
            f"{run.name}: {_list(names)} {reason}: missing in its trials"
            for reason, names in by_reason.items()
        ]
    return texts


def _list(names: set[str], most: int = 5) -> str:
    shown = sorted(names)[:most]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{len(names)} sensors ({', '.join(shown)}{more})" if len(names) > 1 else f"sensor {shown[0]}"


def common_rate(runs: Sequence[Run]) -> float:
    """Return the rate of all runs after preprocessing; runs that end up at different ones are an error."""
    first = runs[0]
    for run in runs[1:]:
        if abs(run.signal.sfreq / first.signal.sfreq - 1) > 1e-5:
            raise InputError(
                run.path,
                expected=f"{first.signal.sfreq:.10g} Hz, as {first.path.name}",
                found=f"{run.signal.sfreq:.10g} Hz",
                hint="the option sfreq resamples all runs to one rate",
            )
    return first.signal.sfreq


def usable_positions(
    runs: Sequence[Run], names: tuple[str, ...], positions: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Return positions by session with NaN for sensors that no run of the session has a usable signal of."""
    out = {}
    for session, where in positions.items():
        usable: set[str] = set()
        for run in runs:
            if run.session == session:
                usable |= set(run.names) - set(run.flagged() or run.bad)
        out[session] = np.where(np.array([name in usable for name in names])[:, None], where, np.nan)
    return out
