"""Write a folder in the layout of Haxby 2001 with nibabel alone: nothing of the loader is imported."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np

CATEGORIES = ("bottle", "cat", "chair", "face")
AFFINE = np.array([[-3.1, 0, 0, 60], [0, 3.75, 0, -35], [0, 0, 3.75, 0], [0, 0, 0, 1.0]])
SHAPE = (6, 5, 2)


def write_haxby(
    folder: Path,
    *,
    n_runs: int = 6,
    block: int = 4,
    rest: int = 2,
    signal: float = 1.0,
    seed: int = 0,
    header: bool = False,
    tr: float = 2.5,
) -> dict[str, np.ndarray]:
    """Write bold.nii.gz, mask.nii.gz and the labels; return what was written.

    Every run has one block of each category in random order between stretches of rest, a straight drift and an offset of
    its own. Only voxels in the left half of the mask carry the category.
    """
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    mask = np.ones(SHAPE, bool)
    mask[0, 0] = mask[5, 4] = False
    n_voxels = int(mask.sum())
    left = np.zeros(SHAPE, bool)
    left[:3] = True
    patterns = rng.standard_normal((len(CATEGORIES), n_voxels)) * left[mask]
    labels, runs, rows = [], [], []
    for run in range(n_runs):
        in_run: list[int] = []
        for category in rng.permutation(len(CATEGORIES)):
            in_run += [-1] * rest + [int(category)] * block
        in_run += [-1] * rest
        drift = np.linspace(0, 3, len(in_run))[:, None] * rng.standard_normal(n_voxels)
        values = drift + 10 * rng.standard_normal(n_voxels) + rng.standard_normal((len(in_run), n_voxels))
        for k, category in enumerate(in_run):
            if category >= 0:
                values[k] += signal * patterns[category]
        labels += ["rest" if k < 0 else CATEGORIES[k] for k in in_run]
        runs += [run] * len(in_run)
        rows.append(values)
    bold = np.zeros((*SHAPE, len(labels)), np.float32)
    bold[mask] = 100 + np.concatenate(rows).T
    image = nib.Nifti1Image(bold, AFFINE)
    image.header.set_zooms((3.1, 3.75, 3.75, tr))
    image.header.set_xyzt_units("mm", "sec")
    image.to_filename(folder / "bold.nii.gz")
    nib.Nifti1Image(mask.astype(np.int16), AFFINE).to_filename(folder / "mask.nii.gz")
    lines = [f"{label} {run}" for label, run in zip(labels, runs, strict=True)]
    name = "labels.txt" if header else "attributes_literal.txt"
    (folder / name).write_text("\n".join(["labels chunks", *lines] if header else lines) + "\n")
    return {"bold": bold, "mask": mask, "labels": np.array(labels), "runs": np.array(runs), "left": left}


def write_roi(folder: Path, name: str, member: np.ndarray) -> None:
    """Write a region's mask on the grid of the recordings."""
    nib.Nifti1Image(member.astype(np.uint8), AFFINE).to_filename(folder / f"{name}.nii.gz")
