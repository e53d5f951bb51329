"""A ring buffer: the latest samples of a stream, by their number."""

from __future__ import annotations

import numpy as np

from braindecode_suite.core.checks import check_shape
from braindecode_suite.core.errors import InputError


class RingBuffer:
    """Keep the last `capacity` samples of shape (channels, samples), with the time of each.

    Parameters
    ----------
    n_channels, capacity : int
    dtype : numpy dtype

    Attributes
    ----------
    stop : int
        Number of samples so far: the number of the next one.

    Examples
    --------
    >>> ring = RingBuffer(1, 3)
    >>> ring.push(np.arange(5.0)[None], np.arange(5) / 10)
    >>> ring.start, ring.stop, ring.read(3, 5)
    (2, 5, array([[3., 4.]]))
    """

    def __init__(self, n_channels: int, capacity: int, dtype: type = np.float64) -> None:
        if capacity < 1:
            raise InputError("`capacity`", expected="at least 1 sample", found=str(capacity))
        self.values: np.ndarray = np.zeros((n_channels, capacity), dtype)
        self.times = np.zeros(capacity)
        self.stop, self._first = 0, 0

    @property
    def capacity(self) -> int:
        """How many samples there is room for."""
        return self.values.shape[1]

    @property
    def start(self) -> int:
        """Number of the oldest sample that is still there."""
        return max(self.stop - self.capacity, self._first)

    def push(self, values: np.ndarray, times: np.ndarray) -> None:
        """Append samples of shape (channels, samples) and their times of shape (samples,)."""
        check_shape("values", values, "channels samples", channels=len(self.values), samples=len(times))
        fit = min(values.shape[1], self.capacity)
        numbers = np.arange(self.stop + values.shape[1] - fit, self.stop + values.shape[1])
        places = numbers % self.capacity
        self.values[:, places] = values[:, values.shape[1] - fit :]
        self.times[places] = times[len(times) - fit :]
        self.stop += values.shape[1]

    def restart(self, at: int) -> None:
        """Go on at sample number `at`, with nothing before it."""
        if at < self.stop:
            raise InputError("`at`", expected=f"at least {self.stop}", found=str(at))
        self.stop = self._first = at

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return samples `start` to ``stop - 1``, a copy of shape (channels, samples)."""
        return self.values[:, self._places(start, stop)]

    def read_times(self, start: int, stop: int) -> np.ndarray:
        """Return the times of samples `start` to ``stop - 1``."""
        return self.times[self._places(start, stop)]

    def _places(self, start: int, stop: int) -> np.ndarray:
        if not self.start <= start <= stop <= self.stop:
            raise InputError(
                "ring buffer",
                expected=f"samples between {self.start} and {self.stop}",
                found=f"{start} to {stop}",
            )
        return np.arange(start, stop) % self.capacity
