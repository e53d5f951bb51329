"""Sensors of a stream that cannot be used for a while: not finite, or not moving."""

from __future__ import annotations

import numpy as np

STILL = 0.2
"""Seconds without any change after which a sensor is flat, or at the end of its range."""


class SensorWatch:
    """Mend what would poison a filter, and know since when each sensor can be trusted again.

    A value that is not finite is replaced by the sensor's last one, so that filters go on. A sensor that had one, or did not move for
    0.2 s, is masked in every epoch that begins before it was well again.

    Parameters
    ----------
    n_sensors : int
    sfreq : float
    missing : array of bool of shape (sensors,)
        Sensors that the stream lacks.
    """

    def __init__(self, n_sensors: int, sfreq: float, missing: np.ndarray) -> None:
        self.missing, self._limit = missing, max(int(STILL * sfreq), 2)
        self._last = np.zeros(n_sensors)
        self._still = np.zeros(n_sensors, np.int64)
        self._bad_until = np.full(n_sensors, np.iinfo(np.int64).min)

    def mend(self, data: np.ndarray, first: int) -> np.ndarray:
        """Return samples of shape (sensors, samples) that are all finite; `first` is the number of the first one."""
        n = data.shape[1]
        if n == 0:
            return data
        wrong = ~np.isfinite(data)
        if wrong.any():
            data = data.copy()
            for sensor in np.flatnonzero(wrong.any(axis=1)):
                good = np.maximum.accumulate(np.where(wrong[sensor], -1, np.arange(n)))
                data[sensor] = np.where(good >= 0, data[sensor, good], self._last[sensor])
            self._bad_until[wrong.any(axis=1)] = first + n
        moved = np.diff(data, axis=1, prepend=self._last[:, None]) != 0
        # samples since the last change
        quiet = np.where(moved.any(axis=1), np.argmax(moved[:, ::-1], axis=1), self._still + n)
        self._bad_until[(quiet >= self._limit) & ~self.missing] = first + n
        self._still, self._last = quiet, data[:, -1].copy()
        return data

    def masked(self, start: float) -> np.ndarray:
        """Return which sensors an epoch that begins at sample `start` has to do without, array of bool of shape (sensors,)."""
        return np.asarray(self.missing | (self._bad_until > start))
