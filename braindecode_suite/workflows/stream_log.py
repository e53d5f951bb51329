"""The log of a live run: one JSON object a line, written as it happens, and enough to run it again.

Every chunk has a line (its place, times and markers). Where the recording is not a file that can be read again, its samples are kept
beside the log, in ``<log>.samples``: for each sample the time and then all channels, as float64.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from braindecode_suite.core.checks import check_file, check_match
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.files import data_hash
from braindecode_suite.core.stream import Chunk, Marker, StreamFacts
from braindecode_suite.datasets.stream_file import open_recording
from braindecode_suite.workflows.stream_bundle import StreamBundle
from braindecode_suite.workflows.stream_engine import Answer

FORMAT = "braindecode_suite-stream-log-1"


class StreamLog:
    """Write what happens; a path of None writes nothing.

    Parameters
    ----------
    path : Path or None
        A file that must not be there yet: no run overwrites another.
    header : dict
        Of the run.
    samples : bool
        Whether the samples are kept too.
    """

    def __init__(self, path: Path | None, header: dict[str, Any], *, samples: bool = False) -> None:
        self.path = path
        self._file: IO[str] | None = None
        self._samples: IO[bytes] | None = None
        if path is None:
            return
        if path.exists():
            raise InputError(path, expected="a new file for the log", found="a file that is there already")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("x", encoding="utf-8")
        if samples:
            self._samples = samples_path(path).open("wb")
        self.write("header", {"format": FORMAT, "samples": samples, **header})

    def write(self, kind: str, facts: dict[str, Any]) -> None:
        """Write one line; it is on its way to the disk when this returns."""
        if self._file is not None:
            line = {"kind": kind, "at": round(time.time(), 4), **facts}
            self._file.write(json.dumps(line, default=_plain) + "\n")
            self._file.flush()

    def chunk(self, chunk: Chunk) -> None:
        """Write a chunk's line, and its samples where they are kept."""
        if self._file is None:
            return
        if self._samples is not None:
            self._samples.write(np.vstack([chunk.timestamps, chunk.data]).T.astype("<f8").tobytes())
            self._samples.flush()
        times = chunk.timestamps
        self.write(
            "chunk",
            {
                "n": len(times),
                "first": chunk.first,
                "times": [float(times[0]), float(times[-1])] if len(times) else [],
                "arrived": chunk.arrived,
                "markers": [[marker.time, marker.label] for marker in chunk.markers],
            },
        )

    def answer(self, answer: Answer, ids: np.ndarray) -> None:
        """Write an answer: the first candidates with their scores, evidence and latency."""
        self.write("hop", answer_facts(answer, ids))

    def close(self) -> None:
        """Close the files."""
        for file in (self._file, self._samples):
            if file is not None:
                file.close()
        self._file = self._samples = None


def answer_facts(answer: Answer, ids: np.ndarray) -> dict[str, Any]:
    """Return an answer as a line of the log holds it."""
    return {
        "trial": answer.trial,
        "label": answer.label,
        "window": answer.window,
        "time": answer.time,
        "ranked": [str(ids[k]) for k in answer.ranked],
        "scores": [round(float(answer.scores[k]), 6) for k in answer.ranked],
        "probabilities": [float(f"{answer.probabilities[k]:.4g}") for k in answer.ranked],
        "confidence": float(f"{answer.probabilities.max():.4g}"),
        "likeliest": str(ids[int(answer.probabilities.argmax())]),
        "decided": answer.decided,
        "last": answer.last,
        "flags": list(answer.flags),
        "ms": {stage: round(1000 * seconds, 3) for stage, seconds in answer.seconds.items()},
    }


def header_of(
    bundle: StreamBundle, facts: StreamFacts, recording: Path | None, options: dict[str, Any]
) -> dict[str, Any]:
    """Return the first line of a log: the model, the stream and how it is decoded."""
    return {
        "model": bundle.model,
        "seed": bundle.seed,
        "subject": bundle.subject,
        "bundle": bundle_hash(bundle),
        "source": facts.source,
        "recording": None if recording is None else str(recording.resolve()),
        "names": list(facts.names),
        "sfreq": facts.sfreq,
        "gallery": len(bundle.gallery),
        "options": options,
    }


def bundle_hash(bundle: StreamBundle) -> str:
    """Return a hash of what is frozen and answers depend on: whose block it is, recipes, windows, gallery with both means, evidence."""
    space = bundle.space
    block = {
        key: getattr(bundle, key) for key in ("model", "seed", "subject", "session", "run", "role", "target")
    }
    arrays = (bundle.windows, bundle.predicted_mean, bundle.true_mean, bundle.gallery.values)
    positions = np.asarray(space.positions[bundle.session], np.float64)
    return data_hash(_recipes(bundle), block, list(space.names), positions, *arrays)


def is_log_of(header: Mapping[str, Any], bundle: StreamBundle) -> bool:
    """Say whether a log was made with a bundle; logs of earlier versions know less of it.

    Parameters
    ----------
    header : dict
        The first line of the log.
    bundle : StreamBundle
    """
    earlier = data_hash(_recipes(bundle), bundle.windows, bundle.predicted_mean)
    return header["bundle"] in (bundle_hash(bundle), earlier)


def _recipes(bundle: StreamBundle) -> list[Any]:
    evidence = [
        [m, one.memory, np.round(one.weights, 9).tolist()] for m, one in sorted(bundle.evidence.items())
    ]
    recipe = "" if bundle.recipe is None else bundle.recipe.hash
    return [bundle.signal.hash, recipe, list(bundle.gallery.ids), evidence]


def samples_path(log: Path) -> Path:
    """Return where the samples of a log lie."""
    return log.with_name(log.name + ".samples")


def read_log(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of a log; a last line that was cut short is left out."""
    with check_file(path, "the log of a live run").open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                facts = json.loads(line)
            except json.JSONDecodeError as error:
                if not line.endswith("\n"):
                    return
                raise InputError(
                    path, expected="JSON in every line", found=f"line {number}: {error}"
                ) from error
            if number == 1:
                check_match(path, {"format": FORMAT}, facts if isinstance(facts, dict) else {})
            yield facts


class LogSource:
    """The stream of a finished run, chunk for chunk as it arrived, as fast as it is read.

    Parameters
    ----------
    path : Path
        Of the log.
    """

    waits = True

    def __init__(self, path: Path) -> None:
        self._lines = read_log(path)
        self.header = next(self._lines, {})
        check_match(path, {"format": FORMAT}, self.header)
        self.facts = StreamFacts(f"log {path.name}", tuple(self.header["names"]), float(self.header["sfreq"]))
        self.options: dict[str, Any] = self.header["options"]
        self._ended, self._at = False, 0
        self._samples: Any = None
        if self.header["samples"]:
            file = check_file(samples_path(path), "the samples of the log")
            width = len(self.facts.names) + 1
            n = file.stat().st_size // (8 * width)
            self._samples = np.memmap(file, "<f8", "r", shape=(n, width)) if n else np.empty((0, width))
        else:
            self._raw = open_recording(Path(self.header["recording"]))

    @property
    def ended(self) -> bool:
        """Whether the last chunk has been handed out."""
        return self._ended

    def read(self, timeout: float) -> Chunk | None:
        """Return the next chunk."""
        for line in self._lines:
            if line["kind"] == "chunk":
                return self._chunk(line)
        self._ended = True
        return None

    def _chunk(self, line: dict[str, Any]) -> Chunk | None:
        n = line["n"]
        if self._samples is not None:
            rows = np.array(self._samples[self._at : self._at + n], np.float64)
            self._at += n
            if len(rows) < n:
                self._ended = True
                return None
            data, times = rows[:, 1:].T, rows[:, 0]
        else:
            data = self._raw.get_data(start=line["first"], stop=line["first"] + n, verbose="error")
            times = np.linspace(line["times"][0], line["times"][1], n) if n else np.empty(0)
        markers = tuple(Marker(at, label) for at, label in line["markers"])
        return Chunk(data, times, line["arrived"], line["first"], markers, time.perf_counter())

    def close(self) -> None:
        """Let go of the samples."""
        self._samples = None


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)
