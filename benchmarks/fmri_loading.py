"""How fast and in how much memory each fMRI layout is read, beside plain reads of the same files.

Each layout is written at the size of its release (see `shared/layouts.py`; where a release has many sessions, some of them,
since files are opened and prepared one by one), measured and deleted:

- opening the study;
- preparation, where the loader makes a memory map: seconds over one sequential pass that reads the same files in one call
  each with h5py, nibabel, numpy or pandas and keeps nothing; and over that pass plus writing the rows as one ``.npy``;
- an epoch of shuffled batches of 32 rows, over the same batches of a plain memory-mapped ``.npy`` of the same rows;
- anonymous memory (RssAnon, sampled at 20 Hz) that opening, preparing and reading take on top.

All ratios are of minima over interleaved runs in one process, one thread; the page cache is warm for every side. Every layout is
measured in a process of its own.

    python benchmarks/fmri_loading.py --json fmri_loading.json          # 20 GB of disk at most at a time
    python benchmarks/fmri_loading.py --scale 0.01 --only algonauts2023 god
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent))

from shared.layouts import LAYOUTS
from shared.measure import measure

from braindecode_suite.core.files import write_json

BY_NAME = {layout.name: layout for layout in LAYOUTS}
BARS = {"epoch_over_memmap": 1.3, "extra_peak_gb": 1.0}


def write(name: str, folder: Path, scale: float) -> None:
    """Write a layout into ``folder/data``."""
    (folder / "data").mkdir()
    BY_NAME[name].write(folder / "data", scale)


def look(name: str, folder: Path, runs: int) -> dict[str, float]:
    """Measure a layout that has been written."""
    return measure(BY_NAME[name], folder, runs)


def main() -> int:
    """Run the benchmark, print its figures, and return 1 if one misses its bar at full size."""
    names = list(BY_NAME)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", type=float, default=1.0, help="1 is full size; 0.01 a quick look")
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="LAYOUT")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where to write; a temporary folder by default")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    figures: dict[str, float] = {"scale": options.scale}
    missed = []
    processes = ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1)  # a fresh one each time
    for layout in options.only:
        folder = Path(tempfile.mkdtemp(prefix="fmri-loading-", dir=options.folder))
        start = time.perf_counter()
        try:
            processes.submit(write, layout, folder, options.scale).result()
            found = processes.submit(look, layout, folder, options.runs).result()
        finally:
            shutil.rmtree(folder)
        print(f"{layout} ({time.perf_counter() - start:.0f} s in all)", flush=True)
        for name, value in found.items():
            figure = name.removeprefix(f"{layout}_")
            over = figure in BARS and value > BARS[figure]
            missed += [name] * over
            print(f"  {figure:32} {value:10.4g}{'  above ' + format(BARS[figure], 'g') if over else ''}")
        figures |= found
    if options.json:
        write_json(options.json, figures)
    return 1 if missed and options.scale == 1 else 0


if __name__ == "__main__":
    sys.exit(main())
