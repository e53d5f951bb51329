"""How fast an NSD subject is read, beside plain h5py and a plain memory map.

Writes a subject in the release's HDF5 layout (int16, one chunk a voxel and session, a volume just large enough), then

- prepares it: one sequential masked pass per session into one memory map, beside reading each session in one h5py call;
- reads one epoch of shuffled batches of 32, beside the same rows of a plain memory-mapped ``.npy``;
- reads single trials from the HDF5 files, as a loader without preparation would.

All ratios are of minima over interleaved runs in this process; the page cache is warm for every side.

    python benchmarks/nsd_reading.py --json nsd_reading.json
    python benchmarks/nsd_reading.py --sessions 3 --voxels 4000
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent))

import h5py
import numpy as np
from shared.layouts import NSD_BETAS, NSD_TRIALS, read_hdf5, write_nsd_volumes
from shared.measure import BATCH, epoch, seconds

from braindecode_suite.core.files import write_json
from braindecode_suite.core.manifest import PeakMemory, anonymous_kb
from braindecode_suite.core.study import Study
from braindecode_suite.datasets.nsd import NSD

BETAS = Path(NSD_BETAS.format("func1pt8mm"))


def read_trials(root: Path, study: Study, rows: np.ndarray) -> None:
    """Read single trials from the HDF5 files, masked: what a loader without preparation does."""
    inside = study.space.mask.transpose(2, 1, 0)  # type: ignore[attr-defined]
    for row in rows:
        with h5py.File(root / BETAS / f"betas_session{row // NSD_TRIALS + 1:02d}.hdf5", "r") as file:
            file["betas"][row % NSD_TRIALS][inside]


def main() -> None:
    """Run the benchmark and print its figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sessions", type=int, default=40)
    parser.add_argument("--voxels", type=int, default=15724)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument(
        "--folder", type=Path, help="where to write (4 GB at full size); a temporary folder by default"
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="nsd-reading-", dir=options.folder))
    try:
        figures = measure(folder, options.sessions, options.voxels, options.runs)
    finally:
        shutil.rmtree(folder)
    for name, value in figures.items():
        print(f"{name:32} {value:.4g}")
    if options.json:
        write_json(options.json, figures)


def measure(folder: Path, n_sessions: int, n_voxels: int, runs: int) -> dict[str, float]:
    """Return all figures."""
    root, work = folder / "data", folder / "work"
    side = int(np.ceil((1.02 * n_voxels) ** (1 / 3)))
    shape = (side, side, int(np.ceil(1.02 * n_voxels / side**2)))  # x, y, z: just large enough
    write_nsd_volumes(root, shape, n_voxels, n_sessions)
    figures: dict[str, float] = {"sessions": n_sessions, "voxels": n_voxels}
    opening, prepare, plain_pass = [], [], []
    before = anonymous_kb() or 0
    with PeakMemory() as memory:
        for _ in range(runs):
            shutil.rmtree(work, ignore_errors=True)
            opening.append(seconds(lambda: NSD.open(root, "01", work)))
            study = NSD.open(root, "01", work)
            prepare.append(seconds(study.responses.prepare))  # type: ignore[attr-defined]
            epoch(study.read, len(study.trials), seed=0, most=50 * BATCH)
    figures["extra_peak_gb"] = ((memory.peak_kb or 0) - before) / 2**20
    plain_pass = [seconds(lambda: read_hdf5(root, "betas")) for _ in range(runs)]

    mapped = np.load(study.responses.path, mmap_mode="r")  # type: ignore[attr-defined]
    ours, theirs = [], []
    for run in range(runs):
        theirs.append(seconds(lambda run=run: epoch(lambda rows: np.asarray(mapped[rows]), len(mapped), run)))
        ours.append(seconds(lambda run=run: epoch(study.read, len(mapped), run)))
    some = np.random.default_rng(0).permutation(len(mapped))[: 2 * BATCH]
    trialwise = min(seconds(lambda: read_trials(root, study, some)) for _ in range(runs)) / len(some)
    figures |= {
        "open_s": min(opening),
        "prepare_s": min(prepare),
        "prepare_over_sequential_pass": min(prepare) / min(plain_pass),
        "epoch_s": min(ours),
        "epoch_over_memmap": min(ours) / min(theirs),
        "speedup_vs_trialwise_h5py": trialwise / (min(ours) / len(mapped)),
    }
    return figures


if __name__ == "__main__":
    main()
