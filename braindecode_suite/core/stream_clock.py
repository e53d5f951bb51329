"""The clocks of a stream: samples that are missing, clocks that jump, and how fast the recording's clock runs beside ours."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from braindecode_suite.core.stream import Chunk

JUMP_SECONDS = 0.05
"""Timestamps that are off by more than this, although no sample is missing, are a clock that was set."""


@dataclass(frozen=True)
class ClockEvent:
    """Something that a clock or counter did.

    Attributes
    ----------
    kind : {'gap', 'jump', 'overlap'}
        Samples that never came; timestamps that moved against the samples; samples that came twice.
    sample : int
        Number of the first sample after it.
    samples : int
        How many are missing, or came twice; 0 for a jump.
    seconds : float
        By how much timestamps moved.
    """

    kind: str
    sample: int
    samples: int
    seconds: float


class StreamClock:
    """Count samples, chunk by chunk, and compare the recording's clock with this machine's.

    With a sample counter, a number that is missing is a sample that is missing, and timestamps that move while the numbers do not
    are a clock that jumped. Without one, timestamps that run ahead are missing samples if as much time went by here too, and a
    clock that jumped otherwise.

    Parameters
    ----------
    sfreq : float
        Samples a second.

    Attributes
    ----------
    n_missing : int
        Samples that never came.
    n_jumps : int
    """

    def __init__(self, sfreq: float) -> None:
        self.sfreq = sfreq
        self.next, self.n_missing, self.n_jumps = 0, 0, 0
        self._base: int | None = None  # the system's number of our sample 0
        self._last_time = self._last_arrived = np.nan
        self._origin = 0.0, 0.0
        self._sums = np.zeros(5)  # n, x, y, xx, xy of arrivals against samples

    def take(self, chunk: Chunk) -> tuple[int, list[ClockEvent]]:
        """Return the number of the chunk's first sample, counted from the first that came, and what happened before it."""
        events: list[ClockEvent] = []
        n = chunk.data.shape[1]
        if n == 0:
            return self.next, events
        first = self.next
        if np.isfinite(self._last_time):
            ahead = float(chunk.timestamps[0] - self._last_time) - 1 / self.sfreq
            missing = self._count_missing(chunk, ahead)
            if missing:
                events.append(
                    ClockEvent("gap" if missing > 0 else "overlap", first + missing, missing, ahead)
                )
                self.n_missing += max(missing, 0)
                first += missing
            moved = ahead - missing / self.sfreq
            if abs(moved) > JUMP_SECONDS:
                events.append(ClockEvent("jump", first, 0, moved))
                self.n_jumps += 1
        elif chunk.first is not None:
            self._base = chunk.first
        self.next = first + n
        self._last_time, self._last_arrived = float(chunk.timestamps[-1]), chunk.arrived
        self._add(self.next, chunk.arrived)
        return first, events

    def _count_missing(self, chunk: Chunk, ahead: float) -> int:
        if chunk.first is not None and self._base is not None:
            return chunk.first - self._base - self.next
        if ahead < -JUMP_SECONDS or abs(ahead) < 0.5 / self.sfreq:
            return 0
        waited = chunk.arrived - self._last_arrived
        # a chunk's worth of samples arrives at once, so that waiting is only roughly what the stamps say
        passed = waited >= 0.5 * ahead or ahead <= JUMP_SECONDS
        return max(round(ahead * self.sfreq), 0) if passed else 0

    def _add(self, sample: int, arrived: float) -> None:
        if self._sums[0] == 0:
            self._origin = float(sample), arrived
        x, y = (sample - self._origin[0]) / self.sfreq, arrived - self._origin[1]
        self._sums += (1, x, y, x * x, x * y)

    @property
    def drift(self) -> float:
        """By how much slower than this machine's clock the samples come, in parts per million; NaN before three chunks.

        Slope of the regression of times of arrival on times of recording, minus one.
        """
        n, x, y, xx, xy = self._sums
        spread = n * xx - x * x
        if n < 3 or spread <= 0:
            return float("nan")
        return float(((n * xy - x * y) / spread - 1) * 1e6)
