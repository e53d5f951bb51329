"""The loop of a live run: read, push, decode, tell the others; and what is left when it is over."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from braindecode_suite.core.stream import StreamSource
from braindecode_suite.workflows.stream_engine import Answer, Due, StreamEngine
from braindecode_suite.workflows.stream_latency import Latencies, facts_of
from braindecode_suite.workflows.stream_log import StreamLog
from braindecode_suite.workflows.stream_preview import Preview

SILENCE = 5.0
"""Seconds without a sample after which a stream has stopped."""
POLL = 0.25
MOST_AT_ONCE = 256
"""Chunks taken before the windows that they complete are looked at."""


@dataclass
class StreamSummary:
    """What a run came to.

    Attributes
    ----------
    why : {'ended', 'silent', 'time', 'interrupted'}
        Why it is over: the recording's end, no sample for too long, the time that was asked for, or somebody pressed Ctrl-C.
    answers : list of Answer
        Kept only where that was asked for.
    n_known, n_top1, n_top : int
        Trials whose label is a candidate, and of these, those whose last ranked list has it first, and has it at all.
    n_decided_known, n_decided_right : int
        Of these trials, those that the confidence was reached in, and those whose likeliest candidate was right.
    drift_ppm : float
        See `StreamClock.drift`; NaN for a replay at another speed than the recording's.
    mean_over_hop : float
        Mean processing of a window and of the samples of a hop, over the hop.
    starts : dict of int to int
        First sample of each trial's epoch, after preprocessing.
    """

    why: str = "ended"
    n_samples: int = 0
    n_missing: int = 0
    n_jumps: int = 0
    n_trials: int = 0
    n_answers: int = 0
    n_skipped: int = 0
    n_decided: int = 0
    n_lost: int = 0
    open_trials: int = 0
    drift_ppm: float = float("nan")
    mean_over_hop: float = float("nan")
    n_known: int = 0
    n_top1: int = 0
    n_top: int = 0
    n_decided_known: int = 0
    n_decided_right: int = 0
    previews: dict[str, Any] = field(default_factory=dict)
    latencies: Latencies = field(default_factory=Latencies)
    answers: list[Answer] = field(default_factory=list)
    starts: dict[int, int] = field(default_factory=dict)

    def facts(self) -> dict[str, Any]:
        """Return all figures, for JSON."""
        plain = {
            k: v for k, v in vars(self).items() if k not in ("latencies", "answers", "starts") and v == v
        }
        return {**plain, "latency": facts_of(self.latencies)}


def run_stream(
    engine: StreamEngine,
    source: StreamSource,
    *,
    log: StreamLog | None = None,
    on_answer: Callable[[Answer], None] | None = None,
    preview: Preview | None = None,
    silence: float = SILENCE,
    seconds: float | None = None,
    keep: bool = False,
    clock: Callable[[], float] = time.perf_counter,
) -> StreamSummary:
    """Decode a stream until it ends, falls silent, has run for `seconds`, or somebody interrupts.

    Samples are always all taken; of windows, those that a later chunk has overtaken are skipped, unless the source waits for
    its reader.

    Parameters
    ----------
    engine : StreamEngine
    source : StreamSource
    log : StreamLog, optional
    on_answer : callable, optional
        Gets every answer.
    preview : Preview, optional
        Is offered every prediction.
    silence : float
        Seconds without samples after which the stream has stopped.
    seconds : float, optional
        Of the recording.
    keep : bool
        Whether the answers are kept.
    clock : callable
        Of this machine.
    """
    summary, ids = StreamSummary(), engine.bundle.gallery.ids
    quiet_since = clock()
    try:
        while True:
            chunk = source.read(min(POLL, silence))
            if chunk is None:
                if source.ended:
                    break
                if source.waits or clock() - quiet_since > silence:
                    summary.why = "silent"
                    break
                continue
            due: list[Due] = []
            taken = 0
            while chunk is not None:
                if log is not None:
                    log.chunk(chunk)
                due += _push(engine, chunk, summary)
                taken += 1
                if source.waits or taken >= MOST_AT_ONCE:
                    break
                chunk = source.read(0.0)
            quiet_since = clock()
            for one in engine.skip_overtaken(due):
                answer = engine.decode(one)
                if answer is not None:
                    _note(engine, summary, answer, log, keep, ids)
                    if on_answer is not None:
                        on_answer(answer)
                    if preview is not None:
                        preview.offer(answer.latents, answer.trial)
            if seconds is not None and engine.clock.next >= seconds * engine.facts.sfreq:
                summary.why = "time"
                break
    except KeyboardInterrupt:
        summary.why = "interrupted"
    summary.open_trials = len(engine.trials)
    engine.finish()
    source.close()
    if preview is not None:
        preview.close()
        summary.previews = {"drawn": preview.n_drawn, "dropped": preview.n_dropped, "error": preview.error}
    _count(engine, summary)
    if source.waits or getattr(source, "speed", 1.0) != 1.0:
        summary.drift_ppm = float("nan")  # its clock is not one of seconds
    if log is not None:
        log.write("end", summary.facts())
        log.close()
    return summary


def _push(engine: StreamEngine, chunk: Any, summary: StreamSummary) -> list[Due]:
    before = engine.signal_seconds
    due = engine.push(chunk)
    summary.latencies.add({"signal": engine.signal_seconds - before})
    return due


def _note(
    engine: StreamEngine, summary: StreamSummary, answer: Answer, log: StreamLog | None, keep: bool, ids: Any
) -> None:
    summary.latencies.add(answer.seconds)
    if log is not None:
        log.answer(answer, ids)
    if keep:
        summary.answers.append(answer)
    summary.n_decided += answer.decided
    if not answer.last or answer.label not in engine.places:
        return
    truth = engine.places[answer.label]
    likeliest = int(answer.probabilities.argmax())
    summary.n_known += 1
    summary.n_top1 += int(answer.ranked[0]) == truth
    summary.n_top += truth in answer.ranked
    if answer.decided:
        summary.n_decided_known += 1
        summary.n_decided_right += likeliest == truth


def _count(engine: StreamEngine, summary: StreamSummary) -> None:
    summary.n_samples, summary.n_missing = engine.clock.next, engine.clock.n_missing
    summary.n_jumps, summary.drift_ppm = engine.clock.n_jumps, engine.clock.drift
    summary.n_trials, summary.n_answers = engine.n_trials, engine.n_answers
    summary.n_skipped, summary.n_lost = engine.n_skipped, engine.n_lost
    hop = engine.bundle.stride * engine.options.multiple
    if engine.n_answers and engine.clock.next:
        signal = engine.signal_seconds / (engine.clock.next / engine.facts.sfreq)  # a second of recording
        summary.mean_over_hop = signal + engine.decode_seconds / engine.n_answers / hop
    summary.starts = dict(engine.starts)
