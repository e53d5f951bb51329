"""How fast and in how much memory a study is read: opening, preparation, epochs, each beside a plain read of the same files."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from braindecode_suite.core.manifest import PeakMemory, anonymous_kb
from braindecode_suite.core.study import Study

BATCH = 32
SECONDS, MOST_RUNS = 2.0, 60
"""Short epochs are run again until they have taken this long together, since their minimum is noisy."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One way in which recordings lie on disk.

    Attributes
    ----------
    name : str
        What its figures begin with.
    write : callable
        Gets an empty folder and the scale; writes the files with bare libraries.
    open : callable
        Gets the folder and a work folder; returns the study as the loader opens it.
    prepare : callable or None
        Makes what the loader keeps in the work folder; None where it reads the files as they lie.
    sequential : callable
        Reads the same files in one call each, with the library of their format.
    """

    name: str
    write: Callable[[Path, float], None]
    open: Callable[[Path, Path], Study]
    prepare: Callable[[Study], Any] | None
    sequential: Callable[[Path], None]


def seconds(run: Callable[[], object]) -> float:
    """Time one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def epoch(read: Callable[[np.ndarray], np.ndarray], n_rows: int, seed: int, most: int | None = None) -> None:
    """Read all rows once (or the first `most` of them) in shuffled batches."""
    order = np.random.default_rng(seed).permutation(n_rows)[:most]
    for start in range(0, len(order), BATCH):
        read(order[start : start + BATCH])


def gigabytes(folder: Path) -> float:
    """Return the size of a folder's files in GB."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e9


def measure(layout: Layout, folder: Path, runs: int) -> dict[str, float]:
    """Return the figures of a layout that lies in ``folder/data``, named ``<layout>_<figure>``.

    To be called in a process of its own, since memory that was freed may stay with a process.
    """
    root, work = folder / "data", folder / "work"
    figures: dict[str, float] = {"disk_gb": gigabytes(root)}
    opening: list[float] = []
    preparing: list[float] = []
    passing: list[float] = []
    writing: list[float] = []
    before = anonymous_kb() or 0
    with PeakMemory() as memory:
        for _ in range(runs):
            shutil.rmtree(work, ignore_errors=True)
            opening.append(seconds(lambda: layout.open(root, work)))
            study = layout.open(root, work)
            if layout.prepare is not None:
                preparing.append(seconds(partial(layout.prepare, study)))
            epoch(study.read, len(study.trials), seed=0, most=20 * BATCH)
    figures["extra_peak_gb"] = ((memory.peak_kb or 0) - before) / 2**20
    plain = _plain_copy(study, folder / "plain.npy")
    for _ in range(runs if preparing else 0):
        passing.append(seconds(lambda: layout.sequential(root)))
        writing.append(seconds(lambda: np.save(folder / "written.npy", plain)))
        (folder / "written.npy").unlink()
    figures |= {"rows": len(study.trials), "units": study.n_units, "open_s": min(opening)}
    if preparing:
        figures |= {
            "prepare_s": min(preparing),
            "prepare_over_sequential_pass": min(preparing) / min(passing),
            "prepare_over_pass_and_write": min(preparing) / (min(passing) + min(writing)),
        }
    ours: list[float] = []
    theirs: list[float] = []
    while len(ours) < runs or (sum(ours) < SECONDS and len(ours) < MOST_RUNS):
        run = len(ours)
        theirs.append(seconds(lambda run=run: epoch(lambda rows: np.asarray(plain[rows]), len(plain), run)))
        ours.append(seconds(lambda run=run: epoch(study.read, len(plain), run)))
    figures |= {"epoch_s": min(ours), "epoch_over_memmap": min(ours) / min(theirs)}
    return {f"{layout.name}_{name}": value for name, value in figures.items()}


def _plain_copy(study: Study, path: Path) -> np.ndarray:
    """Write the study's rows as one ``.npy`` and map it."""
    first = study.read(np.array([0]))
    out = np.lib.format.open_memmap(path, "w+", first.dtype, (len(study.trials), *first.shape[1:]))
    for start in range(0, len(out), BATCH):
        out[start : start + BATCH] = study.read(np.arange(start, min(start + BATCH, len(out))))
    out.flush()
    mapped: np.ndarray = np.load(path, mmap_mode="r")
    return mapped


def scaled(full: int | Sequence[int], scale: float, least: int = 1) -> Any:
    """Return sizes times a factor, whole and not below `least`."""
    if isinstance(full, int):
        return max(round(full * scale), least)
    return tuple(scaled(n, scale, least) for n in full)
