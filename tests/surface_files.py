"""Write fMRIPrep's surface outputs of a BIDS study with nibabel, pandas and json alone: nothing of the loader is imported."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from nilearn.glm.first_level import compute_regressor

SIDES = ("L", "R")
T_R, START = 2.0, 0.4
TRIALS, SPACING, DURATION = 8, 11.0, 3.0
VOLUMES = 56
FSLR_32K = 32_492
CORTEX = {"L": "CIFTI_STRUCTURE_CORTEX_LEFT", "R": "CIFTI_STRUCTURE_CORTEX_RIGHT"}


def onsets() -> np.ndarray:
    return 5.0 + SPACING * np.arange(TRIALS)


def regressors() -> np.ndarray:
    """Return the canonical response to each trial, of shape (volumes, trials)."""
    times = START + T_R * np.arange(VOLUMES)
    return np.column_stack(
        [compute_regressor(([o], [DURATION], [1.0]), "glover", times)[0][:, 0] for o in onsets()]
    )


def series_of(amplitudes: np.ndarray, noise: float = 0.0, seed: int = 0) -> np.ndarray:
    """Return BOLD of shape (volumes, vertices) around 500 for amplitudes (trials, vertices) in percent, with a slow drift."""
    drift = np.cos(np.pi * (np.arange(VOLUMES) + 0.5) / VOLUMES)[:, None]
    random = noise * np.random.default_rng(seed).standard_normal((VOLUMES, amplitudes.shape[1]))
    return (500 + 5 * (regressors() @ amplitudes + drift + random)).astype(np.float32)


def write_gifti(path: Path, series: np.ndarray, side: str) -> None:
    """Write a functional GIFTI file as fMRIPrep does: an array a volume."""
    arrays = [
        nib.gifti.GiftiDataArray(v, intent="NIFTI_INTENT_TIME_SERIES", datatype="NIFTI_TYPE_FLOAT32")
        for v in series
    ]
    meta = nib.gifti.GiftiMetaData(
        {"AnatomicalStructurePrimary": "CortexLeft" if side == "L" else "CortexRight"}
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.gifti.GiftiImage(darrays=arrays, meta=meta).to_filename(path)


def write_region(path: Path, member: np.ndarray) -> None:
    """Write a region of one hemisphere as GIFTI."""
    array = nib.gifti.GiftiDataArray(
        member.astype(np.float32), intent="NIFTI_INTENT_SHAPE", datatype="NIFTI_TYPE_FLOAT32"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.gifti.GiftiImage(darrays=[array]).to_filename(path)


def write_cifti(
    path: Path,
    parts: dict[str, tuple[np.ndarray, np.ndarray]],
    n_voxels: int = 0,
    *,
    t_r: float = T_R,
    size: int = FSLR_32K,
) -> None:
    """Write a dense series: of each side (vertices, series of shape (volumes, vertices)), and some voxels of the thalamus."""
    models, columns = [], []
    for side, (vertices, series) in parts.items():
        models.append(nib.cifti2.BrainModelAxis.from_surface(vertices, size, name=CORTEX[side]))
        columns.append(series)
    if n_voxels:
        voxels = np.column_stack([np.arange(n_voxels), np.zeros((n_voxels, 2), int)])
        models.append(
            nib.cifti2.BrainModelAxis(
                "CIFTI_STRUCTURE_THALAMUS_LEFT",
                voxel=voxels,
                affine=np.diag([2.0, 2, 2, 1]),
                volume_shape=(91, 109, 91),
            )
        )
        columns.append(np.full((VOLUMES, n_voxels), 7000.0))
    axis = models[0]
    for other in models[1:]:
        axis = axis + other
    time = nib.cifti2.SeriesAxis(0, t_r, VOLUMES, unit="SECOND")
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Cifti2Image(np.hstack(columns).astype(np.float32), (time, axis)), path)


def write_raw(root: Path, stem: str, stimuli: Sequence[str], **columns: Sequence[str]) -> None:
    """Write the events of a run and, beside its derivatives, still confounds of a person who hardly moves."""
    (root / "sub-01/func").mkdir(parents=True, exist_ok=True)
    description = root / "dataset_description.json"
    description.write_text('{"Name": "surfaces", "BIDSVersion": "1.9.0"}')
    table = pd.DataFrame({"onset": onsets(), "duration": DURATION, "stim_id": list(stimuli), **columns})
    table.to_csv(root / f"sub-01/func/{stem}_events.tsv", sep="\t", index=False)
    rng = np.random.default_rng(len(stem))
    names = ("trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z")
    motion = pd.DataFrame({name: 0.01 * rng.standard_normal(VOLUMES) for name in names})
    place = derived(root)
    place.mkdir(parents=True, exist_ok=True)
    motion.to_csv(place / f"{stem}_desc-confounds_timeseries.tsv", sep="\t", index=False)
    (place / f"{stem}_desc-confounds_timeseries.json").write_text("{}")


def derived(root: Path) -> Path:
    return root / "derivatives/fmriprep/sub-01/func"


def write_sidecar(root: Path, name: str) -> None:
    (derived(root) / f"{name}.json").write_text(json.dumps({"RepetitionTime": T_R, "StartTime": START}))


def write_surface_study(
    root: Path,
    amplitudes: Sequence[dict[str, np.ndarray]],
    stimuli: Sequence[Sequence[str]],
    *,
    space: str = "fsaverage5",
    noise: float = 0.0,
    name: str = "{stem}_hemi-{side}_space-{space}_bold",
    categories: Sequence[Sequence[str]] | None = None,
) -> Path:
    """Write one GIFTI pair a run; `amplitudes` are of shape (trials, vertices) for each run and side."""
    for number, run in enumerate(amplitudes):
        stem = f"sub-01_task-look_run-{number + 1}"
        write_raw(root, stem, stimuli[number], **({"category": categories[number]} if categories else {}))
        for side in SIDES:
            file = name.format(stem=stem, side=side, space=space)
            seed = 2 * number + (side == "R")
            write_gifti(derived(root) / f"{file}.func.gii", series_of(run[side], noise, seed), side)
            write_sidecar(root, file)
    return root
