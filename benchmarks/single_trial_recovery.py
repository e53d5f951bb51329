"""How well single-trial betas recover what was put into simulated BOLD, beside the same estimator with the true responses.

Writes BIDS studies with fMRIPrep-style derivatives at 4 s and 10 s between images (drifts, motion, haemodynamic responses that
peak 4 to 7 s after an impulse), estimates betas through ``bids-fmri``, and prints for each estimator the correlation over
trials with the true amplitudes (mean over voxels), what the estimator reaches with each voxel's true response, their
ratio, and the correlation between repeats of an image. The library's response is chosen in sessions 1 and 2. Model
recovery of a simulation, no performance on recordings.

    python benchmarks/single_trial_recovery.py --json single_trial_recovery.json
    python benchmarks/single_trial_recovery.py --images 48          # runs half as long
"""

from __future__ import annotations

import argparse
import os
import tempfile
from itertools import combinations
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from braindecode_suite.core.files import write_json
from braindecode_suite.core.recipe import Recipe
from braindecode_suite.datasets.bids_bold import read_bold_header, read_series
from braindecode_suite.datasets.bids_events import read_run_events
from braindecode_suite.datasets.bids_fmri import BIDS_FMRI
from braindecode_suite.datasets.bids_layout import find_derivatives, find_runs
from braindecode_suite.datasets.simulate_bold import (
    BoldParameters,
    BoldTruth,
    true_regressors,
    write_bold_study,
)
from braindecode_suite.datasets.single_trial_design import make_run_design
from braindecode_suite.learning.single_trial_glm import trial_weights


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Return the mean over voxels of the correlation over rows."""
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    return float(np.mean(np.sum(a * b, axis=0) / np.sqrt(np.sum(a * a, axis=0) * np.sum(b * b, axis=0))))


def oracle(folder: Path, truth: BoldTruth, duration: float, estimator: str) -> np.ndarray:
    """Return betas by the same estimator and nuisance, with each voxel's true response."""
    runs, _ = find_runs(folder, find_derivatives(folder), "01")
    betas = []
    for run in runs:
        header = read_bold_header(run)
        events = read_run_events(run.events, header.n_volumes * header.t_r)
        design = make_run_design(header, events)
        series = read_series(header, truth.mask)
        series = 100 * (series / series.mean(axis=0) - 1)
        found = np.empty((len(events.trials), series.shape[1]))
        for peak in np.unique(truth.peaks):
            here = truth.peaks == peak
            onsets = events.trials["onset"].to_numpy()
            trials = true_regressors(header.frame_times, onsets, duration, peak)
            found[:, here] = trial_weights(trials, design.nuisance, estimator) @ series[:, here]
        betas.append(found)
    return np.concatenate(betas)


def main() -> None:
    """Print the table and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=90)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    figures: dict[str, float] = {}
    print(
        f"{'seconds':>7} {'estimator':9} {'response':8} {'r':>6} {'true hrf':>8} {'ratio':>6} {'reliability':>11}"
    )
    for spacing in (4.0, 10.0):
        given = BoldParameters(spacing=spacing, images=arguments.images)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "study"
            truth = write_bold_study(folder, given, seed=arguments.seed)["01"]
            for estimator in ("lss", "lsa"):
                best = correlation(oracle(folder, truth, given.duration, estimator), truth.amplitudes)
                for hrf in ("glover", "library"):
                    study = BIDS_FMRI.open(folder, "01", Path(name), estimator=estimator, hrf=hrf)
                    trials = study.trials
                    betas = study.prepared(Recipe(()), np.flatnonzero(trials["session"] < 3)).read(
                        slice(None)
                    )
                    r = correlation(betas, truth.amplitudes)
                    by_repeat = [
                        betas[some.sort_values("stimulus_id").index] for _, some in trials.groupby("repeat")
                    ]
                    reliability = np.mean([correlation(a, b) for a, b in combinations(by_repeat, 2)])
                    print(
                        f"{spacing:7g} {estimator:9} {hrf:8} {r:6.3f} {best:8.3f} {r / best:6.3f} {reliability:11.3f}"
                    )
                    name_of = f"{estimator}_{hrf}_{spacing:g}s"
                    figures |= {
                        f"r_{name_of}": r,
                        f"ratio_{name_of}": r / best,
                        f"reliability_{name_of}": float(reliability),
                    }
    if arguments.json:
        write_json(arguments.json, figures)


if __name__ == "__main__":
    main()
