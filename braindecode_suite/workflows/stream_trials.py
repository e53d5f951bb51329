"""When a picture appeared: markers and trigger channels of a stream onto numbers of samples; trials that are open."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from braindecode_suite.core.ring import RingBuffer
from braindecode_suite.core.stream import Marker

SNAP = 0.02
"""Share of a sample by which a marker may miss one, and is taken to mean it: what the clocks of two connections disagree by."""


@dataclass
class OpenTrial:
    """A picture that appeared, and what is known of it so far.

    Attributes
    ----------
    number : int
        From 1, in the order in which they became known.
    label : str
    onset : float
        Sample of the recording, counted from the first that came, photodiode delay included.
    start : int
        First sample of its epoch, after preprocessing.
    next : int
        Next window to be decoded, as a number within the windows of the hop.
    total : array of shape (gallery,) or None
        Cumulative score.
    last : int
        Window that `total` stands for, -1 before the first.
    skipped : int
    flags : list of str
    done : bool
    """

    number: int
    label: str
    onset: float
    start: int
    next: int = 0
    total: np.ndarray | None = None
    last: int = -1
    skipped: int = 0
    flags: list[str] = field(default_factory=list)
    done: bool = False

    def flag(self, text: str) -> None:
        """Note something that a reader of the answer has to know, once."""
        if text not in self.flags:
            self.flags.append(text)


class MarkerTimes:
    """Find the sample at which a marker's time lies.

    Parameters
    ----------
    sfreq : float
    seconds : float
        How far back times are kept.
    """

    def __init__(self, sfreq: float, seconds: float = 30.0) -> None:
        self.sfreq = sfreq
        self.ring = RingBuffer(0, int(np.ceil(seconds * sfreq)))
        self.since = 0  # the first sample after the last jump of the clock
        self.waiting: list[Marker] = []

    def push(self, times: np.ndarray, jumped: bool, missing: int) -> None:
        """Note the times of the next samples; `missing` ones went before them."""
        if missing:
            step = np.arange(-missing, 0) / self.sfreq
            self.ring.push(np.empty((0, missing)), times[0] + step)
        if jumped:
            self.since = self.ring.stop
        self.ring.push(np.empty((0, len(times))), times)

    def locate(self, time: float) -> float | None:
        """Return the sample at `time`, a fraction between two; None where it has not come yet, -1 where it is long gone."""
        start = max(self.ring.start, self.since)
        if start >= self.ring.stop:
            return None
        times = self.ring.read_times(start, self.ring.stop)
        half = 0.5 / self.sfreq
        if time > times[-1] + half:
            return None
        if time < times[0] - half:
            return -1.0
        at = max(int(np.searchsorted(times, time + half)) - 1, 0)
        sample = start + at + (time - times[at]) * self.sfreq
        whole = round(sample)
        return float(whole) if abs(sample - whole) < SNAP else sample

    def resolve(self, markers: tuple[Marker, ...]) -> list[tuple[float, str]]:
        """Return sample and label of each marker that can be placed by now, -1 for one that came too late."""
        placed, later = [], []
        for marker in [*self.waiting, *markers]:
            sample = self.locate(marker.time)
            if sample is None:
                later.append(marker)
            else:
                placed.append((sample, marker.label))
        self.waiting = later
        return placed


class TriggerChannel:
    """Find onsets in a channel of the stream that holds a number for each picture and 0 (or another number) between them.

    Parameters
    ----------
    values : tuple of int
        Those that mean a picture; all but 0 by default.

    Examples
    --------
    >>> TriggerChannel((64,)).find(np.array([0, 0, 64, 64, 0, 32, 64]))
    [(2, '64'), (6, '64')]
    """

    def __init__(self, values: tuple[int, ...] = ()) -> None:
        self.values, self._last = values, 0

    def find(self, samples: np.ndarray) -> list[tuple[int, str]]:
        """Return place and value of each onset among the next samples of shape (samples,)."""
        codes = np.round(np.nan_to_num(samples)).astype(np.int64)
        before = np.concatenate([[self._last], codes[:-1]])
        self._last = int(codes[-1]) if len(codes) else self._last
        begins = (codes != before) & (np.isin(codes, self.values) if self.values else codes != 0)
        return [(int(k), str(codes[k])) for k in np.flatnonzero(begins)]
