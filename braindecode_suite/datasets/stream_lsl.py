"""A running recording on the network, by Lab Streaming Layer (LSL); and a recording sent there. Needs the extra ``realtime``."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np

from braindecode_suite.core.errors import InputError
from braindecode_suite.core.stream import Chunk, Marker, StreamFacts, StreamSource

MOST_SAMPLES = 65536
"""Samples taken from the inlet at a time."""
POLL = 0.001
"""Seconds between two looks at an inlet that has nothing: a tenth of what a picture's onset can be known to."""


def lsl() -> Any:
    """Return mne-lsl's low-level module, or say how to install it."""
    try:
        import mne_lsl.lsl as module
    except ImportError as error:
        raise InputError(
            "lsl",
            expected="the library mne-lsl",
            found=str(error),
            hint="pip install 'braindecode_suite[realtime]'",
        ) from error
    return module


class LslSource:
    """Receive a stream of regular samples, and a stream of markers if it has one.

    Timestamps stay those of the sender, mapped onto this machine's LSL clock; they are neither smoothed nor forced to rise, so that
    gaps and jumps are seen.

    Parameters
    ----------
    name : str
        Of the stream of samples.
    markers : str
        Of the stream of markers (text, or whole numbers); empty: none.
    timeout : float
        Seconds to look for the streams.
    clock : callable
        Of this machine.
    """

    waits = False

    def __init__(
        self,
        name: str,
        markers: str = "",
        *,
        timeout: float = 10.0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._clock = clock
        self._inlet = _open(name, timeout)
        self._markers = _open(markers, timeout) if markers else None
        info = self._inlet.get_sinfo(timeout=timeout)
        names = info.get_channel_names()
        if names is None:
            raise InputError(
                f"lsl stream {name!r}", expected="names of its channels in its description", found="none"
            )
        self.facts = StreamFacts(f"lsl {name}", tuple(names), float(info.sfreq))

    @property
    def ended(self) -> bool:
        """False: a stream of LSL does not say that it is over, it falls silent."""
        return False

    def read(self, timeout: float) -> Chunk | None:
        """Return all samples that are there, or the first that come within `timeout` seconds."""
        until = self._clock() + timeout
        while True:
            data, times = self._inlet.pull_chunk(timeout=0.0, max_samples=MOST_SAMPLES)
            if len(times):
                return Chunk(
                    np.array(data.T, np.float64), times.copy(), self._clock(), None, self._read_markers()
                )
            left = until - self._clock()
            if left <= 0:
                return None
            time.sleep(min(POLL, left))

    def _read_markers(self) -> tuple[Marker, ...]:
        if self._markers is None:
            return ()
        labels, times = self._markers.pull_chunk(timeout=0.0)
        return tuple(
            Marker(float(at), str(label[0] if isinstance(label[0], str) else int(label[0])))
            for label, at in zip(labels, times, strict=True)
        )

    def close(self) -> None:
        """Leave the streams."""
        for inlet in (self._inlet, self._markers):
            if inlet is not None:
                with suppress(RuntimeError):
                    inlet.close_stream()


class LslOutlet:
    """Send a source over LSL: a recording to rehearse with, on the same machine or another.

    Parameters
    ----------
    source : StreamSource
    name : str
        Of the stream; its markers are called ``<name>-markers``.
    """

    def __init__(self, source: StreamSource, name: str) -> None:
        module, facts = lsl(), source.facts
        info = module.StreamInfo(name, "MEG", len(facts.names), facts.sfreq, "float64", f"{name}-samples")
        info.set_channel_names(list(facts.names))
        self.source, self._module = source, module
        self._samples = module.StreamOutlet(info)
        self._markers = module.StreamOutlet(
            module.StreamInfo(f"{name}-markers", "Markers", 1, 0.0, "string", f"{name}-markers")
        )
        self._shift: float | None = None

    def wait(self, timeout: float) -> bool:
        """Wait until somebody listens to the samples; say whether somebody does."""
        return bool(self._samples.wait_for_consumers(timeout))

    def send(self, timeout: float = 1.0) -> bool:
        """Send the source's next chunk; say whether there was one."""
        chunk = self.source.read(timeout)
        if chunk is None:
            return False
        if self._shift is None:  # the recording's clock on LSL's
            self._shift = self._module.local_clock() - float(chunk.timestamps[-1])
        for marker in chunk.markers:  # first, so that they are there when their samples are
            self._markers.push_sample([marker.label], marker.time + self._shift)
        data, times = np.ascontiguousarray(chunk.data.T, np.float64), chunk.timestamps + self._shift
        if len(data) == 1:
            self._samples.push_sample(data[0].copy(), float(times[0]))
        else:
            self._samples.push_chunk(data.copy(), np.ascontiguousarray(times))
        return True


def _open(name: str, timeout: float) -> Any:
    module = lsl()
    found = module.resolve_streams(timeout=timeout, name=name)
    if len(found) != 1:
        others = (
            ", ".join(sorted({info.name for info in module.resolve_streams(timeout=1.0)})) or "no streams"
        )
        raise InputError(
            "lsl",
            expected=f"one stream named {name!r}",
            found=f"{len(found)} of them" if found else others,
        )
    inlet = module.StreamInlet(found[0], processing_flags=["clocksync"])
    inlet.open_stream(timeout=timeout)
    return inlet
