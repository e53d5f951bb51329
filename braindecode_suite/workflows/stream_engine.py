"""Decode a recording while it runs: chunks in, ranked pictures out. Knows neither where chunks come from nor where answers go."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from braindecode_suite.core.errors import InputError
from braindecode_suite.core.protocols import BrainEncoder
from braindecode_suite.core.recipe import Recipe
from braindecode_suite.core.ring import RingBuffer
from braindecode_suite.core.signal import RATE_TOLERANCE
from braindecode_suite.core.stream import Chunk, Marker, StreamFacts, match_channels
from braindecode_suite.core.stream_clock import ClockEvent, StreamClock
from braindecode_suite.core.study import Cohort
from braindecode_suite.workflows.stream_bundle import StreamBundle
from braindecode_suite.workflows.stream_sensors import SensorWatch
from braindecode_suite.workflows.stream_trials import MarkerTimes, OpenTrial, TriggerChannel

SPARE = 30.0
"""Seconds before the newest sample that epochs can still be cut from, beyond their own length."""
LONGEST_GAP = 0.5
"""Seconds of missing samples that are bridged by a straight line; after more the filters begin anew."""
MOST_STARTS = 10_000
BLOCKING = ("samples were missing", "the clock jumped")
"""Flags of a trial that no decision is made on."""

Notify = Callable[[str, dict[str, Any]], None]


@dataclass(frozen=True)
class EngineOptions:
    """How a stream is decoded.

    Attributes
    ----------
    multiple : int
        The hop, in strides of the calibration.
    confidence : float or None
        Probability at which a trial is decided and its remaining windows are left out; None looks at all of them.
    top : int
        Candidates named in an answer.
    offset : float
        Seconds from the trigger to the picture, as a photodiode shows them.
    trigger : str
        Channel that holds triggers; empty: only markers say when a picture appeared.
    trigger_values : tuple of int
        Values that mean a picture; all but 0 by default.
    bad : tuple of str
        Sensors that are known to be of no use, and are masked.
    """

    multiple: int = 1
    confidence: float | None = None
    top: int = 5
    offset: float = 0.0
    trigger: str = ""
    trigger_values: tuple[int, ...] = ()
    bad: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Due:
    """A window whose last sample is there."""

    trial: OpenTrial
    window: int
    arrived: float
    chunk: int


@dataclass(frozen=True, eq=False, kw_only=True)
class Answer:
    """What one window says.

    Attributes
    ----------
    trial : int
    label : str
        Of the marker.
    window : int
        Its number in the bundle.
    time : float
        Its end, in seconds from the onset.
    scores : array of shape (gallery,)
        Centred cosine with each candidate.
    probabilities : array of shape (gallery,)
        Evidence so far.
    ranked : array of int of shape (top,)
        Candidates by score on this window, best first; equals keep the gallery's order.
    latents : Latents
        What was predicted, for all roles.
    decided : bool
        Whether the evidence reached the confidence with this window.
    last : bool
        Whether no window of the trial will follow.
    flags : tuple of str
    seconds : dict of str to float
        What each stage took, and ``total`` from the arrival of the last sample.
    """

    trial: int
    label: str
    window: int
    time: float
    scores: np.ndarray
    probabilities: np.ndarray
    ranked: np.ndarray
    latents: dict[str, Any]
    decided: bool
    last: bool
    flags: tuple[str, ...]
    seconds: dict[str, float] = field(default_factory=dict)


class StreamEngine:
    """Turn chunks into answers.

    Signals pass the frozen causal filters chunk by chunk, epochs are cut at onsets, and at each hop the encoder is asked about the epoch
    so far; its answer is compared with the gallery and added to the evidence.

    Parameters
    ----------
    bundle : StreamBundle
    encoder : BrainEncoder
    facts : StreamFacts
        Of the stream. Another sampling rate than the model's, or sensors that it cannot do without, are errors naming both sides.
    options : EngineOptions
    notify : callable
        Gets ``(kind, facts)`` of everything that is worth a line in the log, other than answers.

    Attributes
    ----------
    trials : list of OpenTrial
        Those that are not done.
    n_trials : int
    clock : StreamClock
    places : dict of str to int
        Candidate of each stimulus id of the gallery.
    starts : dict of int to int
        First sample of the epochs of the latest trials, after preprocessing.
    missing, unknown : list of str
        Sensors that the stream lacks; channels that the model does not know.
    signal_seconds, decode_seconds : float
        Spent so far on samples, and on windows.
    """

    def __init__(
        self,
        bundle: StreamBundle,
        encoder: BrainEncoder,
        facts: StreamFacts,
        options: EngineOptions,
        notify: Notify | None = None,
    ) -> None:
        self.bundle, self.encoder, self.facts, self.options = bundle, encoder, facts, options
        self._notify = notify or (lambda kind, facts: None)
        if abs(facts.sfreq / bundle.signal.sfreq_in - 1) > RATE_TOLERANCE:
            raise InputError(
                facts.source,
                expected=f"{bundle.signal.sfreq_in:g} samples a second, as the model's recordings",
                found=f"{facts.sfreq:g}",
            )
        if options.multiple not in bundle.evidence:
            hops = ", ".join(f"{1000 * bundle.stride * m:g}" for m in bundle.evidence)
            raise InputError(
                "`hop`", expected=f"one of {hops} ms", found=f"{1000 * bundle.stride * options.multiple:g} ms"
            )
        if options.confidence is not None and not 0 < options.confidence <= 1:
            raise InputError(
                "`confidence`", expected="a probability above 0 and up to 1", found=f"{options.confidence:g}"
            )
        space = bundle.space
        names = [name for name in facts.names if name not in options.bad]
        _, self.missing, _ = match_channels(
            space.names, names, facts.source, masks_missing=bundle.masks_missing
        )
        places, _, self.unknown = match_channels(space.names, facts.names, facts.source, masks_missing=True)
        places[np.isin(space.names, self.missing)] = -1
        self._places, self._absent = np.maximum(places, 0), places < 0
        self._trigger: TriggerChannel | None = None
        if options.trigger:
            if options.trigger not in facts.names:
                raise InputError(
                    facts.source,
                    expected=f"the trigger channel {options.trigger!r}",
                    found=", ".join(self.unknown[:8]) or "no channel but sensors",
                )
            self._trigger = TriggerChannel(options.trigger_values)
            self._trigger_at = facts.names.index(options.trigger)
        self.evidence = bundle.evidence[options.multiple]
        self.windows = bundle.windows_of(options.multiple)
        self._lengths = bundle.windows[self.windows]
        self.n_times = len(space.times)
        self.clock = StreamClock(facts.sfreq)
        self._times = MarkerTimes(facts.sfreq)
        self._watch = SensorWatch(space.n_units, facts.sfreq, self._absent)
        self._state: Any = bundle.signal.start(space.n_units)
        self._ring = RingBuffer(space.n_units, self.n_times + int(SPARE * space.sfreq), np.float32)
        self._origin = (
            0,
            0,
        )  # sample of the recording, and of what is preprocessed, at which the filters began
        self._lost: list[tuple[int, int]] = []  # samples that were missing
        self._newest: np.ndarray | None = None
        self._template = replace(bundle.template(), **_one_row(bundle))
        self._recipes: dict[int, Recipe] = {}
        gallery = np.asarray(bundle.gallery.flat, np.float64) - bundle.true_mean
        self._gallery = _unit(gallery).astype(np.float32)
        self.trials: list[OpenTrial] = []
        self.places = {stimulus_id: k for k, stimulus_id in enumerate(bundle.gallery.ids)}
        self.starts: dict[int, int] = {}
        self.n_trials = self.n_chunks = self.n_answers = self.n_skipped = self.n_lost = 0
        self.signal_seconds = self.decode_seconds = 0.0
        if self.missing:
            self._notify(
                "flag",
                {"text": "sensors that the stream lacks, or that are bad, are masked", "names": self.missing},
            )
        if self.unknown:
            self._notify(
                "flag", {"text": "channels that the model does not know are ignored", "names": self.unknown}
            )
        if len(bundle.gallery) != self.evidence.n_candidates:
            text = f"evidence was calibrated with {self.evidence.n_candidates} candidates"
            self._notify("flag", {"text": text, "names": []})

    def push(self, chunk: Chunk) -> list[Due]:
        """Take the next samples and return the windows that they complete."""
        began = time.perf_counter()
        self.n_chunks += 1
        first, events = self.clock.take(chunk)
        missing = 0
        data, times = chunk.data, chunk.timestamps
        for event in events:
            self._notify(
                event.kind, {"sample": event.sample, "samples": event.samples, "seconds": event.seconds}
            )
            if event.kind == "overlap":
                again = min(-event.samples, data.shape[1])
                data, times, first = data[:, again:], times[again:], first + again
            elif event.kind == "gap":
                missing = event.samples
            else:
                self._after_jump(event)
        if data.shape[1]:
            self._take_samples(data, times, first, missing, any(event.kind == "jump" for event in events))
        onsets = self._times.resolve(chunk.markers)
        if self._trigger is not None:
            onsets += [(float(first + at), label) for at, label in self._trigger.find(data[self._trigger_at])]
        for sample, label in onsets:
            self._open(sample, label)
        self.signal_seconds += time.perf_counter() - began
        return self._complete(chunk.arrived if chunk.handed is None else chunk.handed)

    def _take_samples(
        self, data: np.ndarray, times: np.ndarray, first: int, missing: int, jumped: bool
    ) -> None:
        samples = np.asarray(data[self._places], np.float64)
        samples[self._absent] = 0
        samples = self._watch.mend(samples, first)
        if missing:
            self._lost.append((first - missing, first))
            if missing > LONGEST_GAP * self.facts.sfreq or self._newest is None:
                self._restart(first)
            else:
                share = np.arange(1, missing + 1) / (missing + 1)
                bridge = self._newest[:, None] * (1 - share) + samples[:, :1] * share
                samples = np.concatenate([bridge, samples], axis=1)
        self._times.push(times, jumped, missing)
        made, self._state = self.bundle.signal.step(samples, self._state)
        self._ring.push(made.astype(np.float32), np.full(made.shape[1], times[-1]))
        self._newest = samples[:, -1].copy()

    def _restart(self, first: int) -> None:
        """Begin the filters anew at a sample after a long gap."""
        at = max(round(first / self.facts.sfreq * self.bundle.space.sfreq), self._ring.stop)
        self._origin = first, at
        self._ring.restart(at)
        self._state = self.bundle.signal.start(self.bundle.space.n_units)
        self._notify("restart", {"sample": first})
        for trial in self.trials:
            self._close(trial, "samples were missing for too long")

    def _after_jump(self, event: ClockEvent) -> None:
        for trial in self.trials:
            trial.flag("the clock jumped")

    def _open(self, sample: float, label: str) -> None:
        space = self.bundle.space
        onset = sample + self.options.offset * self.facts.sfreq
        inside = (onset - self._origin[0]) / self.facts.sfreq * space.sfreq
        start = self._origin[1] + round(inside) + round(float(space.times[0]) * space.sfreq)
        self.n_trials += 1
        trial = OpenTrial(self.n_trials, label, onset, start)
        self.starts[trial.number] = start
        self.starts.pop(trial.number - MOST_STARTS, None)
        self._notify("trial", {"trial": trial.number, "label": label, "sample": onset})
        if sample < 0 or start < self._ring.start:
            self._close(trial, "its first samples were not recorded, or are long gone")
            return
        self.trials.append(trial)

    def _close(self, trial: OpenTrial, why: str) -> None:
        trial.done = True
        self.trials = [one for one in self.trials if not one.done]
        self.n_lost += 1
        self._notify("lost", {"trial": trial.number, "label": trial.label, "why": why})

    def _complete(self, arrived: float) -> list[Due]:
        due = []
        for trial in self.trials:
            while (
                trial.next < len(self.windows) and self._ring.stop >= trial.start + self._lengths[trial.next]
            ):
                due.append(Due(trial, trial.next, arrived, self.n_chunks))
                trial.next += 1
        return due

    def skip_overtaken(self, due: Sequence[Due]) -> list[Due]:
        """Leave out windows that a later chunk has overtaken by a further window of the same trial, and say so."""
        newest: dict[int, int] = {}
        for one in due:
            newest[one.trial.number] = max(newest.get(one.trial.number, 0), one.chunk)
        kept = []
        for one in due:
            if one.chunk == newest[one.trial.number]:
                kept.append(one)
                continue
            one.trial.skipped += 1
            self.n_skipped += 1
            one.trial.flag("windows were skipped")
            end = float(self.bundle.ends()[self.windows[one.window]])
            self._notify("skip", {"trial": one.trial.number, "time": end, "why": "overload"})
        return kept

    def decode(self, due: Due) -> Answer | None:
        """Ask the encoder about one window; None where the trial has been decided, or its samples are gone."""
        began = time.perf_counter()
        trial, n_samples = due.trial, int(self._lengths[due.window])
        if trial.done:
            return None
        if trial.start < self._ring.start:
            self._close(trial, "its samples were overwritten before they could be decoded")
            return None
        epoch = self._ring.read(trial.start, trial.start + n_samples)  # (sensors, samples)
        start = self._origin[0] + (trial.start - self._origin[1]) / self.bundle.space.sfreq * self.facts.sfreq
        stop = start + n_samples / self.bundle.space.sfreq * self.facts.sfreq
        if any(a < stop and b > start for a, b in self._lost):
            trial.flag("samples were missing")
        masked = self._watch.masked(start)
        lost = int((masked & ~self._absent).sum())
        if lost and not self.bundle.masks_missing:
            trial.flag(f"{lost} sensors were flat or not finite, and this model cannot mask them")
        elif masked.any():
            epoch[masked] = np.nan
            if lost:
                trial.flag(f"{lost} sensors were flat or not finite, and are masked")
        cut = time.perf_counter()
        window = int(self.windows[due.window])
        latents = self._predict(epoch)
        predicted = time.perf_counter()
        query = np.asarray(latents[self.bundle.role].flat[0], np.float64) - self.bundle.predicted_mean[window]
        length = np.linalg.norm(query)
        scores = self._gallery @ (query / (length if length > 0 else 1.0)).astype(np.float32)
        ranked = np.argsort(-scores, kind="stable")[: self.options.top]
        compared = time.perf_counter()
        trial.total = self.evidence.add(trial.total, scores.astype(np.float64), due.window - trial.last)
        trial.last = due.window
        probabilities = self.evidence.probabilities(trial.total, due.window)
        sure = self.options.confidence is not None and probabilities.max() >= self.options.confidence
        decided = bool(sure and not any(flag in BLOCKING for flag in trial.flags))
        last = decided or due.window == len(self.windows) - 1
        if last:
            trial.done = True
            self.trials = [one for one in self.trials if not one.done]
        done = time.perf_counter()
        self.decode_seconds += done - began
        self.n_answers += 1
        return Answer(
            trial=trial.number,
            label=trial.label,
            window=window,
            time=float(self.bundle.ends()[window]),
            scores=scores,
            probabilities=probabilities,
            ranked=ranked,
            latents=latents,
            decided=decided,
            last=last,
            flags=tuple(trial.flags),
            seconds={
                "epoch": cut - began,
                "encoder": predicted - cut,
                "retrieval": compared - predicted,
                "evidence": done - compared,
                "total": done - due.arrived,
            },
        )

    def _predict(self, epoch: np.ndarray) -> dict[str, Any]:
        space, n_samples = self.bundle.space, epoch.shape[1]
        whole = np.zeros((1, space.n_units, self.n_times), np.float32)  # what is to come is not looked at
        whole[0, :, :n_samples] = epoch
        whole[0, np.isnan(epoch[:, 0])] = np.nan
        cohort = Cohort.of(replace(self._template, responses=whole, recipe=self._recipe(n_samples)))
        if n_samples == self.n_times:
            return dict(self.encoder.predict(cohort, 0))
        growing: Any = self.encoder
        return dict(growing.predict(cohort, 0, until=float(space.times[n_samples - 1])))

    def _recipe(self, n_samples: int) -> Recipe | None:
        """Return the bundle's recipe for epochs of so many samples so far; the same again, which knows its hash."""
        if self.bundle.recipe is None or n_samples == self.n_times:
            return self.bundle.recipe
        if n_samples not in self._recipes:
            self._recipes[n_samples] = self.bundle.recipe.until(n_samples)
        return self._recipes[n_samples]

    def finish(self) -> None:
        """Close the trials that the end of the stream leaves open."""
        for trial in list(self.trials):
            self._close(trial, "the stream ended before its last window")

    def rehearse(self, n_trials: int = 2) -> float:
        """Return the mean seconds that a hop takes within a trial, its samples and its window, on noise; nothing of it is kept.

        A twin of this engine decodes pictures that follow one another without a pause, in chunks of a hop; the first warms up.
        """
        space, sfreq = self.bundle.space, self.facts.sfreq
        hop = self.bundle.stride * self.options.multiple
        n_chunk = max(round(hop * sfreq), 1)
        twin = StreamEngine(self.bundle, self.encoder, self.facts, replace(self.options, confidence=None))
        length = len(space.times) / space.sfreq
        onsets = length * np.arange(n_trials + 1) - float(space.times[0])
        rng, scale = np.random.default_rng(0), _typical(self.bundle.recipe)
        windows, signal = [], 0.0
        first, n_samples = 0, round((n_trials + 1) * length * sfreq)
        while first < n_samples:
            data = scale * rng.standard_normal((len(self.facts.names), n_chunk))
            if self._trigger is not None:
                data[self._trigger_at] = 0
            times = (first + np.arange(n_chunk)) / sfreq
            markers = tuple(Marker(float(at), "") for at in onsets if first <= at * sfreq < first + n_chunk)
            before = twin.signal_seconds
            due = twin.push(Chunk(data, times, time.perf_counter(), first, markers))
            warm = first >= length * sfreq
            signal += warm * (twin.signal_seconds - before)
            for one in due:
                before = twin.decode_seconds
                twin.decode(one)
                if warm:
                    windows.append(twin.decode_seconds - before)
            first += n_chunk
        return float(np.mean(windows)) + signal / (n_trials * length) * hop


def choose_multiple(
    make: Callable[[int], StreamEngine], multiples: Sequence[int], *, load: float = 0.7
) -> int:
    """Return the shortest hop, in strides, that processing takes at most `load` of in a rehearsal; the longest where none is enough.

    Parameters
    ----------
    make : callable
        Returns an engine of a hop.
    multiples : sequence of int
    load : float
        Below the 0.8 that a run is to stay under, since a machine is not equally fast at all times.
    """
    for multiple in sorted(multiples):
        engine = make(multiple)
        hop = engine.bundle.stride * multiple
        if engine.rehearse() <= load * hop:
            return multiple
    return max(multiples)


def _one_row(bundle: StreamBundle) -> dict[str, Any]:
    """Return responses and trials of a study of one row, in the calibration run."""
    block = {"session": [bundle.session], "run": [bundle.run]}
    trials = {"stimulus_id": [""], **block, "repeat": [1], "onset": [0.0]}
    shape = (1, bundle.space.n_units, len(bundle.space.times))
    return {"responses": np.zeros(shape, np.float32), "trials": pd.DataFrame(trials)}


def _typical(recipe: Recipe | None) -> float:
    """Return a spread that the recipe's scaling was fitted to, so that noise on the scale of the recordings can be drawn."""
    if recipe is None:
        return 1.0
    spreads = [v for k, v in recipe.state().items() if k.endswith(("spread", "scale"))]
    return float(np.nanmedian(spreads[0])) if spreads else 1.0


def _unit(rows: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(length > 0, length, 1.0))
