"""How fast single-trial responses are estimated, beside one nilearn model per trial.

One run of 300 volumes, 50,000 voxels and 70 trials: Glover's response, cosine drifts, six confounds. The peer is
``FirstLevelModel(noise_model='ols')`` fitted once per trial with a regressor for the trial and one for all the others, on the
same design matrices, drifts and confounds. Both sides start from the same 4-D image in memory and its mask; making the
regressors is outside both times. The peer is run over all voxels for some of the trials (`--peer-trials`), and its time
is the smallest of them, times the number of trials. Runs are interleaved, one thread each.

    python benchmarks/single_trial_glm.py --json single_trial_glm.json
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import nibabel as nib
import numpy as np
import pandas as pd
from nilearn.glm.first_level import FirstLevelModel, make_first_level_design_matrix

from braindecode_suite.core.files import write_json
from braindecode_suite.learning.single_trial_glm import estimate_responses, trial_weights

TR, VOLUMES, VOXELS, TRIALS, REPEATS = 1.6, 300, 50_000, 70, 3
SIDE = 37


def make_run(rng: np.random.Generator) -> tuple[Any, Any, np.ndarray, np.ndarray]:
    """Return a run as a 4-D image, its mask, and the regressors of trials and nuisance."""
    events = pd.DataFrame(
        {
            "onset": 4 + 6.6 * np.arange(TRIALS),
            "duration": 2.0,
            "trial_type": [f"t{k:02d}" for k in range(TRIALS)],
        }
    )
    matrix = make_first_level_design_matrix(
        np.arange(VOLUMES) * TR,
        events,
        hrf_model="glover",
        drift_model="cosine",
        high_pass=0.008,
        add_regs=rng.standard_normal((VOLUMES, 6)),
    )
    names = list(events["trial_type"])
    trials, nuisance = matrix[names].to_numpy(), matrix.drop(columns=names).to_numpy()
    mask = np.zeros(SIDE**3, np.int8)
    mask[:VOXELS] = 1
    volumes = np.zeros((SIDE**3, VOLUMES), np.float32)
    for start in range(0, VOXELS, 5000):
        signal = trials @ rng.standard_normal((TRIALS, 5000)) * 60 + nuisance @ rng.standard_normal(
            (nuisance.shape[1], 5000)
        )
        volumes[start : start + 5000] = (1e4 + signal + 100 * rng.standard_normal((VOLUMES, 5000))).T
    image = nib.Nifti1Image(volumes.reshape(SIDE, SIDE, SIDE, VOLUMES), np.eye(4))
    return image, nib.Nifti1Image(mask.reshape(SIDE, SIDE, SIDE), np.eye(4)), trials, nuisance


def ours(image: Any, mask: Any, trials: np.ndarray, nuisance: np.ndarray) -> np.ndarray:
    """Return all trials' responses of shape (trials, voxels)."""
    series = np.asarray(image.dataobj)[np.asarray(mask.dataobj) > 0].T
    return estimate_responses(trial_weights(trials, nuisance, "lss"), series)


def peer(image: Any, mask: Any, trials: np.ndarray, nuisance: np.ndarray, trial: int) -> np.ndarray:
    """Return one trial's responses of shape (voxels,), by one nilearn model."""
    others = trials.sum(axis=1) - trials[:, trial]
    names = ["trial", "others", *(f"nuisance{k}" for k in range(nuisance.shape[1]))]
    matrix = pd.DataFrame(np.column_stack([trials[:, trial], others, nuisance]), columns=names)
    model = FirstLevelModel(mask_img=mask, noise_model="ols", signal_scaling=False, n_jobs=1)
    model.fit(image, design_matrices=matrix)
    estimate = model.compute_contrast("trial", output_type="effect_size")
    return np.asarray(estimate.dataobj)[np.asarray(mask.dataobj) > 0]


def timed(run: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    """Return seconds and result of one call."""
    start = time.perf_counter()
    result = run()
    return time.perf_counter() - start, result


def main() -> None:
    """Time both, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--peer-trials", type=int, default=4, help="trials for which the peer is run; at least 3"
    )
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if not 3 <= arguments.peer_trials <= TRIALS:
        parser.error(f"--peer-trials: expected 3 to {TRIALS}")
    warnings.filterwarnings("ignore", message=".*Generation of a mask has been requested.*")
    run = make_run(np.random.default_rng(0))
    chosen = np.linspace(0, TRIALS - 1, arguments.peer_trials).round().astype(int)
    our_seconds, peer_seconds, worst = [], [], 0.0
    for turn, trial in enumerate(chosen):
        if turn < REPEATS or turn == 0:
            seconds, betas = timed(lambda: ours(*run))
            our_seconds.append(seconds)
        seconds, estimate = timed(lambda trial=trial: peer(*run, trial))  # type: ignore[misc]
        peer_seconds.append(seconds)
        worst = max(worst, float(np.abs(betas[trial] - estimate).max() / betas.std()))
        print(
            f"trial {trial + 1}: nilearn {seconds:.2f} s for this trial, ours {our_seconds[-1]:.2f} s for all"
        )
    figures = {
        "volumes": VOLUMES,
        "voxels": VOXELS,
        "trials": TRIALS,
        "peer_trials_run": len(chosen),
        "seconds": min(our_seconds),
        "nilearn_seconds_a_trial": min(peer_seconds),
        "nilearn_seconds_all_trials_scaled": min(peer_seconds) * TRIALS,
        "speedup_vs_nilearn": min(peer_seconds) * TRIALS / min(our_seconds),
        "max_difference_sd": worst,
    }
    print(
        f"{VOLUMES} volumes, {VOXELS} voxels, {TRIALS} trials: ours {figures['seconds']:.2f} s; nilearn "
        f"{figures['nilearn_seconds_a_trial']:.2f} s a trial over all voxels ({len(chosen)} of {TRIALS} trials run), so "
        f"{figures['nilearn_seconds_all_trials_scaled']:.0f} s for all"
    )
    print(f"speedup_vs_nilearn {figures['speedup_vs_nilearn']:.1f} (bar 10)")
    print(f"max_difference_sd {worst:.1e} (bar 1e-4), over the trials run, all voxels")
    if arguments.json:
        write_json(arguments.json, figures)


if __name__ == "__main__":
    main()
