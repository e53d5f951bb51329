"""Preprocessing of a continuous recording: filters and resampling, over a whole run or chunk by chunk as it arrives.

A step holds numbers only. With ``phase='causal'`` the output at a sample depends on that sample and those before it, so that
`step` over any chunks gives what `apply` gives over the whole; with ``phase='zero'`` nothing is delayed, the future is needed,
and `step` refuses. What is before the first sample is taken to be as the first sample, so that an offset starts no transient.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import signal as dsp

from braindecode_suite.core.checks import check_option, check_shape
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.files import data_hash

PHASES = ("causal", "zero")
RATE_TOLERANCE = 1e-6
"""By how much of itself a resampled rate may differ from the one asked for: less than two clocks do."""
LARGEST_FACTOR = 1000
BETA = 5.0
"""Kaiser window of the anti-aliasing filter, as in `scipy.signal.resample_poly`."""

Signal = NDArray[np.float64]


class SignalStep(Protocol):
    """One step: `apply` takes a whole run of shape (channels, samples), `step` a chunk and what the last call left behind."""

    @property
    def phase(self) -> str: ...

    def rate(self, sfreq: float) -> float: ...

    def length(self, n_samples: int, sfreq: float) -> int: ...

    def delay(self, sfreq: float) -> float: ...

    def group_delay(self, frequency: float, sfreq: float) -> float: ...

    def apply(self, signal: np.ndarray, sfreq: float) -> Signal: ...

    def start(self, n_channels: int, sfreq: float) -> Any: ...

    def step(self, chunk: np.ndarray, state: Any) -> tuple[Signal, Any]: ...

    def describe(self) -> dict[str, Any]: ...


@dataclass(frozen=True, eq=False)
class FilterState:
    """Memory of a causal filter; `zi` is None before the first sample.

    Attributes
    ----------
    sos : array of shape (sections, 6)
    zi : array of shape (sections, channels, 2) or None
    """

    n_channels: int
    sos: np.ndarray
    zi: np.ndarray | None = None


@dataclass(frozen=True)
class Filter:
    """Butterworth high-pass and low-pass, and notches, as second-order sections.

    ``phase='zero'`` runs them forward and backward: the gain is squared, -6 dB instead of -3 dB at a cut-off.

    Parameters
    ----------
    highpass, lowpass : float or None
        Cut-offs in Hz; both make a band-pass.
    notch : tuple of float
        Frequencies to take out, in Hz (the mains and its harmonics).
    phase : {'zero', 'causal'}
    order : int
        Of the high-pass and of the low-pass.
    quality : float
        Frequency of a notch over its width at -3 dB.

    Examples
    --------
    >>> step = Filter(highpass=1.0, phase="causal")
    >>> first, state = step.step(np.ones((2, 3)), step.start(2, 100.0))
    >>> bool(np.allclose(first, 0))
    True
    """

    highpass: float | None = None
    lowpass: float | None = None
    notch: tuple[float, ...] = ()
    phase: str = "zero"
    order: int = 4
    quality: float = 30.0

    def __post_init__(self) -> None:
        check_option("phase", self.phase, PHASES)
        object.__setattr__(self, "notch", tuple(float(f) for f in self.notch))
        if self.highpass is None and self.lowpass is None and not self.notch:
            raise InputError("filter", expected="`highpass`, `lowpass` or `notch`", found="none of them")
        for name, value in (("highpass", self.highpass), ("lowpass", self.lowpass)):
            if value is not None and not value > 0:
                raise InputError(f"`{name}`", expected="Hz above 0, or None", found=str(value))
        if self.highpass is not None and self.lowpass is not None and self.highpass >= self.lowpass:
            raise InputError(
                "`highpass`", expected=f"Hz below the low-pass, {self.lowpass:g}", found=f"{self.highpass:g}"
            )

    def sections(self, sfreq: float) -> np.ndarray:
        """Return the second-order sections at a sampling rate, array of shape (sections, 6)."""
        wanted = [f for f in (self.highpass, self.lowpass, *self.notch) if f is not None]
        if max(wanted) >= sfreq / 2 or min(wanted) <= 0:
            raise InputError(
                "filter",
                expected=f"frequencies between 0 and half the sampling rate, {sfreq / 2:g} Hz",
                found=f"{max(wanted) if max(wanted) >= sfreq / 2 else min(wanted):g} Hz",
            )
        parts = []
        if self.highpass is not None:
            parts.append(dsp.butter(self.order, self.highpass, "highpass", fs=sfreq, output="sos"))
        if self.lowpass is not None:
            parts.append(dsp.butter(self.order, self.lowpass, "lowpass", fs=sfreq, output="sos"))
        parts += [dsp.tf2sos(*dsp.iirnotch(f, self.quality, fs=sfreq)) for f in self.notch]
        return np.concatenate(parts)

    def rate(self, sfreq: float) -> float:
        """Return the sampling rate after the step: the same."""
        return sfreq

    def length(self, n_samples: int, sfreq: float) -> int:
        """Return how many samples a run has after the step: as many."""
        return n_samples

    def delay(self, sfreq: float) -> float:
        """Return 0: the delay of an IIR filter depends on the frequency, see `group_delay`."""
        return 0.0

    def group_delay(self, frequency: float, sfreq: float) -> float:
        """Return by how many seconds a component of this frequency (Hz) comes later."""
        if self.phase == "zero":
            return 0.0
        edge = 1e-4 * frequency
        around = np.array([frequency - edge, frequency + edge])
        angle = np.zeros(2)  # section by section: the angle of each is well below a turn
        for section in self.sections(sfreq):
            response = dsp.freqz(section[:3], section[3:], worN=around, fs=sfreq)[1]
            angle += np.unwrap(np.angle(response))
        return float(-(angle[1] - angle[0]) / (2 * np.pi * 2 * edge))

    def apply(self, signal: np.ndarray, sfreq: float) -> Signal:
        """Filter a whole run of shape (channels, samples)."""
        signal = _check(signal)
        if self.phase == "causal":
            return self.step(signal, self.start(len(signal), sfreq))[0]
        sos = self.sections(sfreq)
        slowest = min(f for f in (self.highpass, self.lowpass, *self.notch) if f is not None)
        pad = min(signal.shape[1] - 1, ceil(sfreq / slowest) + 6 * len(sos))
        return np.asarray(dsp.sosfiltfilt(sos, signal, axis=1, padtype="odd", padlen=max(pad, 0)))

    def start(self, n_channels: int, sfreq: float) -> FilterState:
        """Return the state before the first sample."""
        _refuse_zero_phase(self.phase, "filter")
        return FilterState(n_channels, self.sections(sfreq))

    def step(self, chunk: np.ndarray, state: FilterState) -> tuple[Signal, FilterState]:
        """Filter the next samples of shape (channels, samples)."""
        _refuse_zero_phase(self.phase, "filter")
        chunk = _check(chunk, state.n_channels)
        if chunk.shape[1] == 0:
            return chunk, state
        zi = state.zi
        if zi is None:
            zi = dsp.sosfilt_zi(state.sos)[:, None, :] * chunk[:, :1]  # at rest on the first sample
        filtered, zi = dsp.sosfilt(state.sos, chunk, axis=1, zi=zi)
        return filtered, FilterState(state.n_channels, state.sos, zi)

    def describe(self) -> dict[str, Any]:
        """Return the step's parameters."""
        return {
            "name": "filter",
            "highpass": self.highpass,
            "lowpass": self.lowpass,
            "notch": list(self.notch),
            "phase": self.phase,
            "order": self.order,
            "quality": self.quality,
        }


@dataclass(frozen=True, eq=False)
class ResampleState:
    """Memory of a causal resampling.

    Attributes
    ----------
    up, down : int
    taps : array
        Anti-aliasing filter at `up` times the rate of the input.
    tail : array of shape (channels, samples) or None
        The last samples, as many as the filter reaches back; None before the first sample.
    start : int
        Number of the first sample of `tail` in the recording, a multiple of `down`.
    made : int
        Samples given out so far.
    """

    n_channels: int
    up: int
    down: int
    taps: np.ndarray
    tail: np.ndarray | None = None
    start: int = 0
    made: int = 0


@dataclass(frozen=True)
class Resample:
    """Another sampling rate, by a linear-phase Kaiser low-pass at half the lower rate and every n-th sample (polyphase).

    ``phase='causal'`` is the same filter, late by `delay`: `width` samples of the lower rate.

    Parameters
    ----------
    sfreq : float
        Samples a second to arrive at. The ratio of both rates must be one of whole numbers up to 1000.
    phase : {'zero', 'causal'}
    width : int or None
        Reach of the filter to either side, in samples of the lower rate: 10, as in scipy, or 4 where causal, for a shorter delay
        at a softer edge (half the amplitude at half the lower rate in both; apply a low-pass of your own before).

    Examples
    --------
    >>> Resample(120.0, phase="causal").delay(1200.0) * 1000
    33.3...
    """

    sfreq: float
    phase: str = "zero"
    width: int | None = None

    def __post_init__(self) -> None:
        check_option("phase", self.phase, PHASES)
        if not self.sfreq > 0:
            raise InputError("`sfreq`", expected="samples a second above 0", found=str(self.sfreq))
        if self.width is not None and self.width < 1:
            raise InputError("`width`", expected="at least 1 sample", found=str(self.width))

    def factors(self, sfreq: float) -> tuple[int, int]:
        """Return by how much to sample up and down, in lowest terms."""
        ratio = Fraction(self.sfreq / sfreq).limit_denominator(LARGEST_FACTOR)
        close = ratio > 0 and abs(float(ratio) * sfreq / self.sfreq - 1) <= RATE_TOLERANCE
        if not close or ratio.numerator > LARGEST_FACTOR:
            whole = max(round(sfreq / self.sfreq), 1)
            raise InputError(
                "`sfreq`",
                expected=f"{sfreq:.10g} Hz times a ratio of whole numbers up to {LARGEST_FACTOR}",
                found=f"{self.sfreq:.10g} Hz",
                hint=f"as {sfreq / whole:.10g}",
            )
        return ratio.numerator, ratio.denominator

    def rate(self, sfreq: float) -> float:
        """Return the sampling rate after the step, exactly."""
        up, down = self.factors(sfreq)
        exact = sfreq * up / down
        return self.sfreq if abs(exact / self.sfreq - 1) < 1e-12 else exact

    def length(self, n_samples: int, sfreq: float) -> int:
        """Return how many samples a run has after the step."""
        up, down = self.factors(sfreq)
        return -(-n_samples * up // down)

    def delay(self, sfreq: float) -> float:
        """Return by how many seconds everything comes later."""
        if self.phase == "zero":
            return 0.0
        up, down = self.factors(sfreq)
        return (len(self.taps(up, down)) - 1) / 2 / up / sfreq

    def group_delay(self, frequency: float, sfreq: float) -> float:
        """Return the same as `delay`: the phase is linear."""
        return self.delay(sfreq)

    def taps(self, up: int, down: int) -> np.ndarray:
        """Return the anti-aliasing filter, of unit gain at 0 Hz after sampling up."""
        if up == down:
            return np.ones(1)
        width = self.width or (4 if self.phase == "causal" else 10)
        slower = max(up, down)
        taps: np.ndarray = up * dsp.firwin(2 * width * slower + 1, 1 / slower, window=("kaiser", BETA))
        return taps

    def apply(self, signal: np.ndarray, sfreq: float) -> Signal:
        """Resample a whole run of shape (channels, samples)."""
        signal = _check(signal)
        if self.phase == "causal":
            return self.step(signal, self.start(len(signal), sfreq))[0]
        up, down = self.factors(sfreq)
        if up == down:
            return signal.copy()
        window = self.taps(up, down) / up  # scipy multiplies by `up` itself
        resampled = dsp.resample_poly(signal, up, down, axis=1, window=window, padtype="edge")
        return np.asarray(resampled)

    def start(self, n_channels: int, sfreq: float) -> ResampleState:
        """Return the state before the first sample."""
        _refuse_zero_phase(self.phase, "resample")
        up, down = self.factors(sfreq)
        return ResampleState(n_channels, up, down, self.taps(up, down))

    def step(self, chunk: np.ndarray, state: ResampleState) -> tuple[Signal, ResampleState]:
        """Return the samples that the next ones of shape (channels, samples) complete; there may be none."""
        _refuse_zero_phase(self.phase, "resample")
        chunk = _check(chunk, state.n_channels)
        if chunk.shape[1] == 0:
            return chunk, state
        up, down, taps = state.up, state.down, state.taps
        reach = -(-len(taps) // up)  # samples of the input behind one of the output
        start, tail = state.start, state.tail
        if tail is None:
            start = -down * -(-reach // down)
            tail = np.repeat(chunk[:, :1], -start, axis=1)
        known = np.concatenate([tail, chunk], axis=1)
        stop = start + known.shape[1]  # samples of the recording so far
        total = -(-stop * up // down)  # output k needs the input up to floor(k down / up) < stop
        first = start * up // down  # number of the output that stands at the first known sample
        made = dsp.upfirdn(taps, known, up, down, axis=1)[:, state.made - first : total - first]
        kept = max(down * ((stop - reach) // down), start)
        return np.asarray(made), ResampleState(
            state.n_channels, up, down, taps, known[:, kept - start :].copy(), kept, total
        )

    def describe(self) -> dict[str, Any]:
        """Return the step's parameters."""
        return {"name": "resample", "sfreq": self.sfreq, "phase": self.phase, "width": self.width}


STEPS: Mapping[str, type[Any]] = {"filter": Filter, "resample": Resample}


@dataclass(frozen=True)
class SignalRecipe:
    """Steps that every run of a recording goes through, in order; offline and live use the same object.

    Parameters
    ----------
    steps : sequence of SignalStep
        None at all is a recording as it was made.
    sfreq_in : float
        Samples a second of the recording.

    Examples
    --------
    >>> recipe = SignalRecipe((Filter(0.1, 40.0, phase="causal"), Resample(120.0, phase="causal")), 1200.0)
    >>> state = recipe.start(n_channels=2)
    >>> made, state = recipe.step(np.zeros((2, 30)), state)
    >>> made.shape, recipe.sfreq, recipe.causal
    ((2, 3), 120.0, True)
    """

    steps: Sequence[SignalStep]
    sfreq_in: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", tuple(self.steps))
        if not self.sfreq_in > 0:
            raise InputError("`sfreq_in`", expected="samples a second above 0", found=str(self.sfreq_in))
        for step, sfreq in self._rates():  # a step that does not fit the rate is refused here, not in an hour
            if isinstance(step, Filter):
                step.sections(sfreq)
            step.rate(sfreq)

    def _rates(self) -> list[tuple[SignalStep, float]]:
        """Return each step with the rate of what goes into it."""
        pairs, sfreq = [], self.sfreq_in
        for step in self.steps:
            pairs.append((step, sfreq))
            sfreq = step.rate(sfreq)
        return pairs

    @property
    def sfreq(self) -> float:
        """Samples a second of what comes out."""
        sfreq = self.sfreq_in
        for step in self.steps:
            sfreq = step.rate(sfreq)
        return sfreq

    def length(self, n_samples: int) -> int:
        """Return how many samples come out of a run of so many."""
        for step, sfreq in self._rates():
            n_samples = step.length(n_samples, sfreq)
        return n_samples

    @property
    def causal(self) -> bool:
        """Whether it can run while the recording goes on."""
        return all(step.phase == "causal" for step in self.steps)

    @property
    def delay(self) -> float:
        """Seconds by which everything comes later, whatever its frequency (resampling); filters add `group_delay`."""
        return float(sum(step.delay(sfreq) for step, sfreq in self._rates()))

    def group_delay(self, frequency: float) -> float:
        """Return by how many seconds a component of this frequency (Hz) comes later, all steps together."""
        return float(sum(step.group_delay(frequency, sfreq) for step, sfreq in self._rates()))

    def apply(self, signal: np.ndarray) -> Signal:
        """Return a whole run of shape (channels, samples) after all steps, float64.

        Channels do not meet each other, so that a run can be done some channels at a time.
        """
        out = _check(signal)
        for step, sfreq in self._rates():
            out = step.apply(out, sfreq)
        return out

    def start(self, n_channels: int) -> tuple[Any, ...]:
        """Return the state before the first sample; a recipe that is not causal refuses."""
        return tuple(step.start(n_channels, sfreq) for step, sfreq in self._rates())

    def step(self, chunk: np.ndarray, state: tuple[Any, ...]) -> tuple[Signal, tuple[Any, ...]]:
        """Return what the next samples of shape (channels, samples) give, and the state after them; `state` itself stays as it is.

        All that `step` has given, end to end, is what `apply` gives of all chunks end to end.
        """
        out, after = _check(chunk), []
        for one, memory in zip(self.steps, state, strict=True):
            out, memory = one.step(out, memory)
            after.append(memory)
        return out, tuple(after)

    def describe(self) -> dict[str, Any]:
        """Return all parameters, as JSON would hold them; `from_description` reads them back."""
        return {"sfreq_in": self.sfreq_in, "steps": [step.describe() for step in self.steps]}

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> SignalRecipe:
        """Return the recipe that `describe` described."""
        steps = []
        for facts in description["steps"]:
            check_option("signal step", facts["name"], STEPS)
            values = {key: value for key, value in facts.items() if key != "name"}
            if "notch" in values:
                values["notch"] = tuple(values["notch"])
            steps.append(STEPS[facts["name"]](**values))
        return cls(tuple(steps), float(description["sfreq_in"]))

    @property
    def hash(self) -> str:
        """Hash of all parameters."""
        return data_hash(self.describe())


def _check(signal: np.ndarray, n_channels: int | None = None) -> Signal:
    """Return the signal as float64, or say that it is not of shape (channels, samples)."""
    sizes = {} if n_channels is None else {"channels": n_channels}
    check_shape("signal", signal, "channels samples", **sizes)
    return np.asarray(signal, dtype=np.float64)


def _refuse_zero_phase(phase: str, name: str) -> None:
    if phase != "causal":
        raise InputError(
            f"signal step {name!r}",
            expected="phase 'causal', to run chunk by chunk",
            found=f"phase {phase!r}, which needs the future",
        )
