"""``bds stream``: a fitted decoder on a running recording."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from braindecode_suite.core.checks import check_folder, check_match, check_option
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.files import write_json
from braindecode_suite.core.protocols import BrainEncoder, Generator
from braindecode_suite.core.stream import Marker, StreamSource
from braindecode_suite.core.study import Study
from braindecode_suite.datasets import DATASETS
from braindecode_suite.datasets.bids_layout import entities
from braindecode_suite.datasets.meg_runs import EpochRows
from braindecode_suite.datasets.recording_files import find_recordings
from braindecode_suite.datasets.recording_files import open_recording as open_bids
from braindecode_suite.datasets.stimulus_events import read_stimulus_events
from braindecode_suite.datasets.stream_file import open_recording, replay_raw
from braindecode_suite.datasets.stream_lsl import LslSource
from braindecode_suite.workflows.stream_bundle import StreamBundle, read_stream_bundle
from braindecode_suite.workflows.stream_engine import Answer, EngineOptions, StreamEngine, choose_multiple
from braindecode_suite.workflows.stream_log import (
    LogSource,
    StreamLog,
    answer_facts,
    bundle_hash,
    header_of,
    is_log_of,
)
from braindecode_suite.workflows.stream_page import StreamPage
from braindecode_suite.workflows.stream_parity import TOLERANCE, Parity, compare
from braindecode_suite.workflows.stream_preview import Preview
from braindecode_suite.workflows.stream_run import SILENCE, StreamSummary, run_stream

SOURCES = ("file", "lsl", "log")
CHUNK = 0.025
"""Seconds in a chunk of a replayed file."""

UNKNOWN_LIVE = {"reject_by_annotation": False, "mend": False}
"""Options of datasets that use what is known of a recording afterwards; a stream leaves nothing out and mends nothing."""

DRIFT_SECONDS = 60.0
"""Seconds of a stream before its drift is more than the jitter of arrivals."""


@dataclass(frozen=True, kw_only=True)
class StreamJob:
    """What ``bds stream`` was asked for; see its help.

    Attributes
    ----------
    model_dir : Path
    source : {'file', 'lsl', 'log'}
    recording : Path or None
        The file to replay, or the log.
    data_dir : Path or None
        BIDS folder of `recording`; needed for `parity`.
    events : Path or None
    stream, markers : str
        Names of the streams of LSL.
    speed : float or None
        None is as fast as it can.
    hop : float or None
        Milliseconds; None chooses.
    """

    model_dir: Path
    source: str = "file"
    recording: Path | None = None
    data_dir: Path | None = None
    events: Path | None = None
    stream: str = ""
    markers: str = ""
    speed: float | None = 1.0
    chunk: int | None = None
    hop: float | None = None
    confidence: float | None = None
    top: int = 5
    offset: float = 0.0
    trigger: str = ""
    trigger_values: tuple[int, ...] = ()
    bad: tuple[str, ...] = ()
    seconds: float | None = None
    silence: float = SILENCE
    page: int | None = None
    preview: bool = False
    log: Path | None = None
    json: Path | None = None
    parity: bool = False
    device: str = "cpu"


def stream(job: StreamJob) -> int:
    """Decode, print what it came to, and return the exit code.

    Returns
    -------
    int
        0: decoded to the end. 1: the stream fell silent while a trial was open, or the stream and the offline pipeline differ.

    Raises
    ------
    InputError
        If nothing can start: no stream bundle, another sampling rate, sensors that the model cannot do without...
    """
    check_option("source", job.source, SOURCES)
    _check_job(job)
    check_folder(job.model_dir, "a model folder")
    bundle, encoder = read_stream_bundle(job.model_dir, job.device)
    source, bad = open_source(job, bundle)
    _check_bad(job, bundle, source)
    options = find_options(job, bundle, encoder, source, bad)
    StreamEngine(
        bundle, encoder, source.facts, options
    )  # a stream that does not fit is refused before anything is opened
    page = _open_page(job, bundle, options, source)
    preview = _open_preview(job, bundle, encoder, page)

    def notify(kind: str, facts: dict[str, Any]) -> None:
        log.write(kind, facts)
        if page is not None:
            page.publish(kind, facts)
        if kind not in ("trial", "skip"):
            names = f": {', '.join(facts['names'][:6])}" if facts.get("names") else ""
            words = facts.get("text") or ", ".join(f"{k} {v}" for k, v in facts.items() if k != "names")
            print(f"{kind}: {words}{names}", flush=True)

    header = header_of(bundle, source.facts, _path(job) if job.source == "file" else None, vars(options))
    log = StreamLog(job.log, header, samples=job.source == "lsl")
    engine = StreamEngine(bundle, encoder, source.facts, options, notify)
    _print_start(bundle, engine, page)
    other = entities(_path(job)).get("sub", bundle.subject) if job.source == "file" else bundle.subject
    if other != bundle.subject:
        notify(
            "flag", {"text": f"the recording is of subject {other}, the model of subject {bundle.subject}"}
        )

    def show(answer: Answer) -> None:
        facts = answer_facts(answer, bundle.gallery.ids)
        if page is not None:
            page.publish("hop", facts)
        if answer.last:
            what = f"decided at {1000 * answer.time:.0f} ms" if answer.decided else "all windows"
            known = "" if options.trigger or answer.label in engine.places else ", no candidate"
            shown = f" (shown: {answer.label}{known})" if answer.label else ""
            flags = f" [{'; '.join(answer.flags)}]" if answer.flags else ""
            best = f"{facts['likeliest']} {100 * facts['confidence']:.0f} %"
            print(
                f"{answer.trial}: {best}, {what}{shown}; first {', '.join(facts['ranked'][:3])}{flags}",
                flush=True,
            )

    try:
        summary = run_stream(
            engine,
            source,
            log=log,
            on_answer=show,
            preview=preview,
            silence=job.silence,
            seconds=job.seconds,
            keep=job.parity,
        )
    finally:
        log.close()
        if page is not None:
            page.publish("end", {"why": "the stream is over"})
            page.close()
    print(report(bundle, engine, summary))
    facts = {**summary.facts(), "hop_ms": 1000 * bundle.stride * options.multiple}
    code = 1 if summary.why == "silent" and summary.open_trials else 0
    if job.parity:
        parity = check_parity(job, bundle, encoder, summary)
        print(
            f"parity with the offline pipeline: largest difference of a score {parity.parity_max_abs:.3g} over "
            f"{parity.n_answers} windows of {parity.n_trials} trials, ranked lists {'equal' if parity.lists_equal else 'DIFFERENT'}"
        )
        facts |= {"parity_max_abs": parity.parity_max_abs, "lists_equal": parity.lists_equal}
        code = code or (0 if parity.holds else 1)
        if not parity.holds:
            print(f"DIFFERENT: more than {TOLERANCE:g}, or other lists")
    if job.json is not None:
        write_json(job.json, facts)
    return code


def open_source(job: StreamJob, bundle: StreamBundle) -> tuple[StreamSource, tuple[str, ...]]:
    """Return the stream, and the sensors that its own files call bad."""
    if job.source == "lsl":
        return LslSource(job.stream, job.markers), ()
    assert job.recording is not None
    if job.source == "log":
        source = LogSource(job.recording)
        if not is_log_of(source.header, bundle):
            raise InputError(
                job.recording,
                expected=f"a log of this model (stream {bundle_hash(bundle)})",
                found=f"one of another (stream {source.header['bundle']})",
            )
        return source, tuple(source.options.get("bad", ()))
    path, raw, bad = _path(job), None, ()
    if job.data_dir is not None:
        subject = entities(path).get("sub", bundle.subject)
        for one in find_recordings(job.data_dir, subject):
            if one.path.resolve() == path.resolve():
                raw, _ = open_bids(one)
                bad = tuple(raw.info["bads"])
    raw = open_recording(path) if raw is None else raw
    events = job.events or path.with_name(path.name.rpartition("_")[0] + "_events.tsv")
    markers: list[Marker] = []
    if events.is_file() or job.events is not None:
        chosen = bundle.facts.get("dataset_options", {})
        table = read_stimulus_events(
            events,
            stimulus_column=chosen.get("stimulus_column", ""),
            trial_types=chosen.get("trial_types"),
        )
        markers = [
            Marker(float(onset), str(name))
            for onset, name in zip(table["onset"], table["stimulus_id"], strict=True)
        ]
    elif not job.trigger:
        raise InputError(
            events,
            expected="the events of the recording",
            found="nothing there",
            hint="--events names another file, --trigger a channel",
        )
    if job.trigger:
        markers = []
    chunk = job.chunk or max(round(CHUNK * raw.info["sfreq"]), 1)
    return replay_raw(raw, path.name, markers, chunk=chunk, speed=job.speed), bad


def find_options(
    job: StreamJob, bundle: StreamBundle, encoder: BrainEncoder, source: StreamSource, bad: tuple[str, ...]
) -> EngineOptions:
    """Return how to decode: as the log says, or as asked, with a hop that this machine keeps up with."""
    if isinstance(source, LogSource):
        facts = {**source.options, "trigger_values": tuple(source.options["trigger_values"]), "bad": bad}
        return EngineOptions(**facts)
    options = EngineOptions(
        confidence=job.confidence,
        top=job.top,
        offset=job.offset,
        trigger=job.trigger,
        trigger_values=job.trigger_values,
        bad=(*job.bad, *bad),
    )

    def of(multiple: int) -> EngineOptions:
        return EngineOptions(**{**vars(options), "multiple": multiple})

    if job.hop is None:

        def make(multiple: int) -> StreamEngine:
            return StreamEngine(bundle, encoder, source.facts, of(multiple))

        return of(choose_multiple(make, list(bundle.evidence)))
    multiple = round(job.hop / (1000 * bundle.stride))
    if multiple not in bundle.evidence or abs(multiple * 1000 * bundle.stride - job.hop) > 0.5:
        hops = ", ".join(f"{1000 * bundle.stride * m:g}" for m in bundle.evidence)
        raise InputError("`hop`", expected=f"one of {hops} ms", found=f"{job.hop:g} ms")
    return of(multiple)


def report(bundle: StreamBundle, engine: StreamEngine, summary: StreamSummary) -> str:
    """Return what a run came to, in lines."""
    long = summary.n_samples >= DRIFT_SECONDS * engine.facts.sfreq and not np.isnan(summary.drift_ppm)
    drift = f", clock drift {summary.drift_ppm:.0f} ppm" if long else ""
    lines = [
        f"over ({summary.why}): {summary.n_samples} samples, {summary.n_missing} missing, {summary.n_jumps} clock jumps{drift}",
        f"{summary.n_trials} pictures, {summary.n_answers} windows decoded, {summary.n_skipped} skipped, "
        f"{summary.n_decided} pictures decided, {summary.n_lost} lost",
    ]
    if summary.n_known:
        chance = summary.n_known / len(bundle.gallery)
        top = min(engine.options.top, len(bundle.gallery))
        lines.append(
            f"of {summary.n_known} pictures that are candidates, {summary.n_top1} first and {summary.n_top} among the first "
            f"{engine.options.top} on the last window (chance {chance:.1f} first and {chance * top:.1f} among the first {engine.options.top})"
        )
    if summary.n_decided_known:
        lines.append(f"of {summary.n_decided_known} decided, {summary.n_decided_right} right")
    if summary.previews:
        lines.append("previews: " + ", ".join(f"{k} {v}" for k, v in summary.previews.items() if v != ""))
    if not summary.n_trials:
        lines.append("no picture appeared: see --events, --trigger and --trigger-values, --markers")
    if summary.n_answers:
        lines.append(f"processing takes {summary.mean_over_hop:.2f} of a hop on average")
    return "\n".join([*lines, summary.latencies.report()])


def check_parity(
    job: StreamJob, bundle: StreamBundle, encoder: BrainEncoder, summary: StreamSummary
) -> Parity:
    """Compare the answers with the offline causal pipeline on the same recording, of the same trials and sensors: annotations ignored."""
    assert job.data_dir is not None
    path = _path(job)
    dataset = DATASETS[bundle.dataset]
    known = dataset.options_class.model_fields
    options = {
        **bundle.facts.get("dataset_options", {}),
        **{name: value for name, value in UNKNOWN_LIVE.items() if name in known},
    }
    with tempfile.TemporaryDirectory() as work_dir:
        subject = entities(path).get("sub", bundle.subject)
        study: Study = dataset.open(job.data_dir, subject, Path(work_dir), **options)
        rows, trials = match_trials(study, path, bundle, summary.starts)
        return compare(bundle, encoder, as_live(study, bundle), rows, summary.answers, trials)


def as_live(study: Study, bundle: StreamBundle) -> Study:
    """Return the study as a live run sees it: through the frozen recipe, all trials in the calibration run."""
    return replace(
        study,
        trials=study.trials.assign(session=bundle.session, run=bundle.run),
        space=bundle.space,
        recipe=bundle.recipe,
    )


def match_trials(
    study: Study, path: Path, bundle: StreamBundle, starts: dict[int, int]
) -> tuple[np.ndarray, list[int]]:
    """Return the rows of one recording that the stream decoded, and the number of each one's trial."""
    responses = study.responses
    if not isinstance(responses, EpochRows):
        raise InputError("parity", expected="a study cut from raw recordings", found=study.dataset)
    mine = [k for k, run in enumerate(responses.runs) if run.path.resolve() == path.resolve()]
    number_of = {start: number for number, start in starts.items()}
    rows = [
        row
        for row in np.flatnonzero(np.isin(responses.run_of_row, mine))
        if int(responses.first[row]) in number_of
    ]
    return np.array(rows, np.int64), [number_of[int(responses.first[row])] for row in rows]


def _path(job: StreamJob) -> Path:
    """Return where the recording lies."""
    assert job.recording is not None
    return (
        job.recording if job.data_dir is None or job.recording.is_absolute() else job.data_dir / job.recording
    )


def _check_job(job: StreamJob) -> None:
    needed = {
        "file": ("recording", "a recording to replay (`--recording`)"),
        "log": ("recording", "the log to run again (`--recording`)"),
        "lsl": ("stream", "the name of a stream (`--stream`)"),
    }
    key, words = needed[job.source]
    if not getattr(job, key):
        raise InputError(f"source {job.source!r}", expected=words, found="none")
    if job.source == "lsl" and not (job.markers or job.trigger):
        raise InputError(
            "source 'lsl'",
            expected="what says when a picture appears: `--markers` or `--trigger`",
            found="neither",
        )
    if job.parity and (job.source != "file" or job.data_dir is None):
        raise InputError(
            "`parity`",
            expected="source 'file' and the BIDS folder (`--data-dir`)",
            found=f"source {job.source!r}" + ("" if job.data_dir is not None else " and no folder"),
        )
    for name, number in (("top", job.top), ("chunk", job.chunk)):
        if number is not None and number < 1:
            raise InputError(f"`{name}`", expected="a whole number of at least 1", found=str(number))
    if job.parity and job.confidence is not None and job.confidence <= 0:
        raise InputError("`confidence`", expected="a probability above 0", found=str(job.confidence))


def _check_bad(job: StreamJob, bundle: StreamBundle, source: StreamSource) -> None:
    """Refuse to mask a sensor by a name that is not the stream's, unless the stream lacks that sensor of the model anyway."""
    stream = list(source.facts.names)
    for name in job.bad:
        same = [one for one in stream if one.split("-")[0] == name.split("-")[0]]
        same = same if len(same) == 1 else []  # as `match_channels` has it
        if name in stream or (name in bundle.space.names and not same):
            continue
        close = same or get_close_matches(name, stream, n=1)
        raise InputError(
            "`bad`",
            expected="sensors by their names in the stream",
            found=repr(name),
            hint=f"did you mean {close[0]!r}?" if close else "",
        )


def _open_page(
    job: StreamJob, bundle: StreamBundle, options: EngineOptions, source: StreamSource
) -> StreamPage | None:
    if job.page is None:
        return None
    ends = bundle.ends()[bundle.windows_of(options.multiple)]
    facts = {
        "about": f"{bundle.model}, subject {bundle.subject}, {source.facts.source}, {len(bundle.gallery)} candidates",
        "gallery": list(bundle.gallery.ids),
        "pictures": bundle.pictures is not None,
        "first": float(ends[0]),
        "last": float(ends[-1]),
        "hop_ms": round(1000 * bundle.stride * options.multiple, 3),
        "confidence": options.confidence,
    }
    return StreamPage(facts, bundle.pictures, job.page)


def _open_preview(
    job: StreamJob, bundle: StreamBundle, encoder: Any, page: StreamPage | None
) -> Preview | None:
    if not job.preview:
        return None
    chosen = bundle.facts.get("generator")
    if page is None or not chosen:
        raise InputError(
            "`preview`",
            expected="a page to show it on (`--page`), and a generator saved with the model",
            found="no page" if page is None else "a model without a generator",
        )
    from braindecode_suite.decoders.generators import make_generator

    paths: dict[str, Any] = {k: Path(v) for k, v in chosen.items() if k in ("weights", "clip_weights") and v}
    generator: Any = make_generator(chosen["name"], job.model_dir / "cache", device=job.device, **paths)
    return Preview(make_draw(generator, encoder.facts_["targets"]), page.show_preview)


def make_draw(generator: Generator, targets: Mapping[str, Any]) -> Callable[[Any], np.ndarray]:
    """Return what draws one image of an answer's latents; a generator of other targets than the encoder's is refused.

    Parameters
    ----------
    generator : Generator
    targets : dict of role to dict
        Of the encoder: the ``name`` of each.
    """
    names = {role: target["name"] for role, target in targets.items()}
    check_match("`preview`", dict(generator.inputs), names)
    roles = list(generator.inputs)
    if generator.init_target is not None and names.get("init") == generator.init_target.name:
        roles.append("init")

    def draw(latents: Any) -> np.ndarray:
        return np.asarray(generator.generate({role: latents[role] for role in roles}, [0])[0])

    return draw


def _print_start(bundle: StreamBundle, engine: StreamEngine, page: StreamPage | None) -> None:
    evidence = engine.evidence
    print(
        f"{bundle.model} of subject {bundle.subject} on {engine.facts.source}: {len(bundle.space.names) - len(engine.missing)} of "
        f"{len(bundle.space.names)} sensors, {len(engine.windows)} windows every {1000 * bundle.stride * engine.options.multiple:g} ms, "
        f"{len(bundle.gallery)} candidates"
    )
    print(
        f"evidence calibrated on {evidence.n_trials} trials: expected calibration error {100 * evidence.calibration_error:.1f} % "
        f"(held out), log loss {evidence.log_loss[-1]:.2f} on the last window (knowing nothing: {np.log(evidence.n_candidates):.2f})"
    )
    if bundle.facts.get("calibration_chose_model"):
        print(
            "the calibration trials chose the epoch at which training stopped: evidence is slightly optimistic"
        )
    delay = bundle.signal.delay
    print(f"causal filtering is late by {1000 * delay:.0f} ms by resampling alone")
    if page is not None:
        print(f"page: {page.url}", flush=True)
