"""A recording on disk as a running one: handed out in chunks on a clock of its own, at any speed, waiting for its reader."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from braindecode_suite.core.errors import InputError
from braindecode_suite.core.stream import Chunk, Marker, StreamFacts

BLOCK = 8192
"""Samples read from disk at a time."""
PATIENCE = 2.0
"""Seconds (of the recording) that a reader may be late before the clock is held back for it."""

ReadSamples = Callable[[int, int], np.ndarray]


@dataclass(frozen=True)
class Faults:
    """What goes wrong on purpose, for rehearsals and tests. Chunks are numbered from 0.

    Attributes
    ----------
    dropped : tuple of int
        Chunks that never arrive.
    jumps : dict of int to float
        By how many seconds the clock is set on, before a chunk.
    stop : int or None
        The chunk before which the stream falls silent for good, without an end.
    drift : float
        By how much slower the clock of the recording runs, in parts per million.
    counts : bool
        Whether chunks carry the number of their first sample.
    """

    dropped: tuple[int, ...] = ()
    jumps: Mapping[int, float] = field(default_factory=dict)
    stop: int | None = None
    drift: float = 0.0
    counts: bool = True


class FileSource:
    """Replay a recording as a stream.

    At a finite `speed`, a chunk is there when its last sample would have been recorded. A reader that is late finds several waiting;
    one that is late by more than two seconds of the recording holds the clock back (`held`), so that nothing is ever lost. With
    `speed` None the next chunk is there whenever it is asked for.

    Parameters
    ----------
    read : callable
        ``read(start, stop)`` returns samples of shape (channels, samples).
    facts : StreamFacts
    n_samples : int
    markers : sequence of Marker
        Their times are seconds from the first sample; each comes with the chunk that holds its time.
    chunk : int
        Samples in a chunk: what the acquisition system is set to.
    speed : float or None
        1 is as it was recorded; None is as fast as it is read.
    faults : Faults
    clock, sleep : callable
        Of this machine.

    Attributes
    ----------
    held : float
        Seconds by which the clock was held back.

    Examples
    --------
    >>> facts = StreamFacts("array", ("MEG 1",), 1000.0)
    >>> source = FileSource(lambda start, stop: np.ones((1, stop - start)), facts, 25, chunk=10)
    >>> [source.read(0.0).data.shape[1] for _ in range(3)], source.ended
    ([10, 10, 5], True)
    """

    def __init__(
        self,
        read: ReadSamples,
        facts: StreamFacts,
        n_samples: int,
        markers: Sequence[Marker] = (),
        *,
        chunk: int = 30,
        speed: float | None = None,
        faults: Faults | None = None,
        clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if chunk < 1:
            raise InputError("`chunk`", expected="at least 1 sample", found=str(chunk))
        if speed is not None and not speed > 0:
            raise InputError("`speed`", expected="a number above 0, or None", found=str(speed))
        self.facts, self.n_samples, self.chunk, self.speed = facts, n_samples, chunk, speed
        self.faults = faults or Faults()
        self.held = 0.0
        self._read, self._clock, self._sleep = read, clock, sleep
        self._markers = sorted(markers, key=lambda marker: marker.time)
        self._number, self._jumped = 0, 0.0
        self._began: float | None = None
        self._block, self._block_start = np.empty((len(facts.names), 0)), 0

    @property
    def ended(self) -> bool:
        """Whether the last sample has been handed out; a stream that falls silent never ends."""
        return self._number * self.chunk >= self.n_samples and self.faults.stop is None

    @property
    def waits(self) -> bool:
        """Whether no chunk is due before it is asked for."""
        return self.speed is None

    def read(self, timeout: float) -> Chunk | None:
        """Return the next chunk once it is due; None at the end, or where it is not due within `timeout` seconds."""
        while True:
            start = self._number * self.chunk
            stop = min(start + self.chunk, self.n_samples)
            silent = self.faults.stop is not None and self._number >= self.faults.stop
            if silent or start >= self.n_samples:
                if silent and self.speed is not None:
                    self._sleep(timeout)
                return None
            if not self._wait(stop, timeout):
                return None
            number = self._number
            self._number += 1
            self._jumped += self.faults.jumps.get(number, 0.0)
            if number not in self.faults.dropped:
                return self._make(start, stop)

    def _wait(self, stop: int, timeout: float) -> bool:
        """Wait until sample `stop` has been recorded on the clock of the replay; say whether it has."""
        if self.speed is None:
            return True
        now = self._clock()
        if self._began is None:
            self._began = now
        due = self._began + stop / self.facts.sfreq / self.speed
        late = now - due - PATIENCE / self.speed
        if late > 0:
            self._began, self.held = self._began + late, self.held + late
        if due - now > timeout:
            self._sleep(timeout)
            return False
        if due > now:
            self._sleep(due - now)
        return True

    def _make(self, start: int, stop: int) -> Chunk:
        rate = self.facts.sfreq / (1 + self.faults.drift * 1e-6)
        known = [marker for marker in self._markers if marker.time < stop / self.facts.sfreq]
        self._markers = self._markers[len(known) :]
        pace = self.facts.sfreq / rate
        return Chunk(
            self._samples(start, stop),
            np.arange(start, stop) / rate + self._jumped,
            self._clock(),
            start if self.faults.counts else None,
            tuple(Marker(marker.time * pace + self._jumped, marker.label) for marker in known),
        )

    def _samples(self, start: int, stop: int) -> np.ndarray:
        if start < self._block_start or stop > self._block_start + self._block.shape[1]:
            self._block = self._read(start, min(start + max(BLOCK, stop - start), self.n_samples))
            self._block_start = start
        return self._block[:, start - self._block_start : stop - self._block_start]

    def close(self) -> None:
        """Let go of the samples."""
        self._block = np.empty((len(self.facts.names), 0))


def open_recording(path: Path) -> Any:
    """Open a recording of any format that mne reads, without reading its samples; what cannot be read is an `InputError`.

    Returns
    -------
    mne.io.BaseRaw
    """
    import mne

    if not path.exists():
        raise InputError(path, expected="a recording", found="nothing there")
    try:
        return mne.io.read_raw(path, preload=False, verbose="error")
    except Exception as error:  # mne's readers raise whatever their format's code raises
        raise InputError(
            path,
            expected="a continuous recording that mne can read",
            found=f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}",
        ) from error


def replay_raw(raw: Any, name: str, markers: Sequence[Marker] = (), **options: Any) -> FileSource:
    """Return an open recording as a stream; `options` are those of `FileSource`.

    Parameters
    ----------
    raw : mne.io.BaseRaw
    name : str
        For the log.
    markers : sequence of Marker
    """
    facts = StreamFacts(f"file {name}", tuple(raw.ch_names), float(raw.info["sfreq"]))
    return FileSource(
        lambda start, stop: raw.get_data(start=start, stop=stop, verbose="error"),
        facts,
        len(raw.times),
        markers,
        **options,
    )
