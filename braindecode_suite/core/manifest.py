"""What was run: versions, seed, hashes, memory and seconds, written to ``logs/<run>.json``."""

from __future__ import annotations

import platform
import resource
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from braindecode_suite import __version__
from braindecode_suite.core.files import write_json
from braindecode_suite.core.protocols import StepRecord

LIBRARIES = [
    "numpy",
    "scipy",
    "pandas",
    "scikit-learn",
    "torch",
    "torchvision",
    "lightning",
    "diffusers",
    "open_clip_torch",
    "transformers",
    "nibabel",
    "nilearn",
    "h5py",
    "scikit-image",
]


def library_versions() -> dict[str, str]:
    """Return the versions of this package, Python and the libraries that make numbers."""
    found = {"braindecode_suite": __version__, "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


class PeakMemory:
    """Peak anonymous memory (RssAnon) of this process, sampled at 20 Hz; None where /proc does not say."""

    def __init__(self) -> None:
        self.peak_kb: int | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        while True:
            found = anonymous_kb()
            if found is None:
                return
            self.peak_kb = max(self.peak_kb or 0, found)
            if self._stop.wait(0.05):
                return


def anonymous_kb(pid: str | int = "self") -> int | None:
    """Return a process's anonymous memory in kB, or None where the system does not tell."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return None
    for line in status.splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1])
    return None


class RunLog:
    """Collects what a run did. `step` times a block and records whether it was done, resumed, skipped or failed."""

    def __init__(self, command: list[str] | None = None) -> None:
        self.started = datetime.now(UTC)
        self.command = command if command is not None else [Path(sys.argv[0]).name, *sys.argv[1:]]
        self.steps: list[StepRecord] = []
        self.facts: dict[str, Any] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[dict[str, Any]]:
        """Time a block. The block may set ``status`` (done, resumed, skipped), ``detail`` and figures in what it gets."""
        notes: dict[str, Any] = {"status": "done"}
        clock = time.perf_counter()
        try:
            yield notes
        except BaseException as error:
            notes |= {"status": "failed", "detail": " ".join(str(error).split())[:300]}
            raise
        finally:
            status, detail = notes.pop("status"), notes.pop("detail", "")
            self.steps.append(
                StepRecord(
                    name=name,
                    status=status,
                    seconds=time.perf_counter() - clock,
                    detail=detail,
                    figures=notes,
                )
            )

    def skip(self, name: str, reason: str) -> None:
        """Record a step that was not done, and why."""
        self.steps.append(StepRecord(name=name, status="skipped", detail=reason))

    def as_dict(self, peak_kb: int | None = None) -> dict[str, Any]:
        """Return everything, ready for JSON."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return {
            "started": self.started.isoformat(timespec="seconds"),
            "command": self.command,
            "versions": library_versions(),
            "machine": {"system": platform.system(), "processor": platform.machine()},
            "cpu_seconds": usage.ru_utime + usage.ru_stime,
            "peak_anonymous_kb": peak_kb,
            "steps": [
                {
                    "name": s.name,
                    "status": s.status,
                    "seconds": round(s.seconds, 3),
                    "detail": s.detail,
                    **s.figures,
                }
                for s in self.steps
            ],
            **self.facts,
        }

    def write(self, path: Path, peak_kb: int | None = None) -> None:
        """Write the log as JSON."""
        write_json(path, self.as_dict(peak_kb))
