"""Windows of an epoch: which samples they hold, and the seconds by which they are named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from braindecode_suite.core.checks import check_shape
from braindecode_suite.core.errors import InputError

EDGE = 1e-6
"""Seconds within which a sample belongs to a boundary: times are written in floating point."""


@dataclass(frozen=True, kw_only=True)
class Window:
    """Consecutive samples of an epoch.

    Attributes
    ----------
    first, stop : int
        Samples ``first`` to ``stop - 1``.
    time_start, time_stop : float
        Seconds of the first sample, and of the one after the last.
    """

    first: int
    stop: int
    time_start: float
    time_stop: float

    @property
    def centre(self) -> float:
        """Seconds by which the window is named."""
        return (self.time_start + self.time_stop) / 2

    @property
    def samples(self) -> slice:
        """The samples, for the last axis of an epoch."""
        return slice(self.first, self.stop)


def sliding_windows(times: np.ndarray, *, width: float = 0.1, stride: float = 0.025) -> list[Window]:
    """Return windows of one width all along an epoch, the first of them at its first sample.

    Parameters
    ----------
    times : array of shape (times,)
        Seconds of the samples, evenly spaced.
    width, stride : float
        Seconds, rounded to samples: at least one each.

    Returns
    -------
    list of Window

    Examples
    --------
    >>> [(w.first, w.stop) for w in sliding_windows(np.arange(5) / 10, width=0.2, stride=0.1)]
    [(0, 2), (1, 3), (2, 4), (3, 5)]
    """
    step = _step(times)
    n, every = _samples("width", width, step), _samples("stride", stride, step)
    if n > len(times):
        raise InputError(
            "`width`", expected=f"at most the epoch's {len(times) * step:g} s", found=f"{width:g} s"
        )
    return [_window(times, first, first + n, step) for first in range(0, len(times) - n + 1, every)]


def growing_windows(
    times: np.ndarray, *, start: float | None = None, first: float = 0.1, stride: float = 0.025
) -> list[Window]:
    """Return windows that start together and end one stride later each, the last with the epoch.

    Parameters
    ----------
    times : array of shape (times,)
    start : float or None
        Seconds from the picture; None is the start of the epoch.
    first : float
        Seconds of the shortest window.
    stride : float
        Seconds.

    Examples
    --------
    >>> [(w.first, w.stop) for w in growing_windows(np.arange(-1, 4) / 10, start=0.0, first=0.2, stride=0.1)]
    [(1, 3), (1, 4), (1, 5)]
    """
    step = _step(times)
    begin = 0 if start is None else int(np.searchsorted(times, start - EDGE))
    n, every = _samples("first", first, step), _samples("stride", stride, step)
    if begin + n > len(times):
        raise InputError(
            "`first`",
            expected=f"at most {(len(times) - begin) * step:g} s, what is left of the epoch from {start or times[0]:g} s",
            found=f"{first:g} s",
        )
    stops = range(begin + n, len(times) + 1, every)
    return [_window(times, begin, stop, step) for stop in stops]


def window_matrix(epochs: np.ndarray, window: Window, rows: np.ndarray | None = None) -> np.ndarray:
    """Return the samples of a window side by side, sensor by sensor; no others are read.

    Parameters
    ----------
    epochs : array of shape (rows, sensors, times)
        NaN where a sensor is masked; it counts as 0, which is the middle of a scaled sensor.
    window : Window
    rows : int array, optional
        Of the epochs, in the order wanted; all by default.

    Returns
    -------
    array of float32 of shape (rows, sensors * samples)
    """
    check_shape("epochs", epochs, "rows sensors times")
    if window.stop > epochs.shape[2]:
        raise InputError("`window`", expected=f"at most {epochs.shape[2]} samples", found=str(window.stop))
    part = epochs[:, :, window.samples]  # a view, so that picking rows copies nothing but the window
    part = np.asarray(part if rows is None else part[rows], np.float32)
    return np.nan_to_num(part, nan=0.0).reshape(len(part), -1)


def _step(times: Sequence[float] | np.ndarray) -> float:
    check_shape("times", np.asarray(times), "times")
    if len(times) < 2:
        raise InputError("`times`", expected="at least 2 samples", found=str(len(times)))
    return float(times[-1] - times[0]) / (len(times) - 1)


def _samples(name: str, seconds: float, step: float) -> int:
    if not seconds > 0:
        raise InputError(f"`{name}`", expected="seconds above 0", found=f"{seconds:g}")
    return max(1, round(seconds / step))


def _window(times: np.ndarray, first: int, stop: int, step: float) -> Window:
    return Window(
        first=first, stop=stop, time_start=float(times[first]), time_stop=float(times[stop - 1]) + step
    )
