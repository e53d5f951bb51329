"""Write a folder of parcel time series with numpy alone: nothing of the loader is imported."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np


def write_parcels(folder: Path, n_sessions: int = 3, n_runs: int = 12, n_times: int = 15) -> None:
    """Write one subject's runs as .npy with BIDS names, and what the files do not say as parcels.json."""
    rng = np.random.default_rng(0)
    place = folder / "sub-01" / "func"
    place.mkdir(parents=True)
    for session in range(1, n_sessions + 1):
        for run in range(1, n_runs + 1):
            values = rng.standard_normal((5, n_times)).astype(np.float32)
            np.save(place / f"sub-01_ses-{session:02d}_task-rest_run-{run:02d}_timeseries.npy", values)
    known = {"RepetitionTime": 0.8, "Atlas": "five", "Axes": "parcels times"}
    (folder / "parcels.json").write_text(json.dumps(known))
