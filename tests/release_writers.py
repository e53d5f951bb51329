"""Small folders in the layouts of public releases, written with bare libraries; nothing of the loaders is used."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from PIL import Image

BOLD5000_GRID = (6, 5, 4)
BOLD5000_AFFINE = np.array([[-2.0, 0, 0, 70], [0, 2, 0, -90], [0, 0, 2, -60], [0, 0, 0, 1]])


def write_image(path: Path, rng: np.random.Generator, side: int = 12) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(path)


def bold5000_names(n_repeated: int = 4, n_once: int = 80) -> tuple[list[str], list[str]]:
    """Return names of images shown four times and of images shown once, of the three sources."""
    kinds = ["COCO_train2014_{:012d}.jpg", "n01930112_{}.JPEG", "airplanecabin{}.jpg"]
    repeated = [kinds[k % 3].format(k) for k in range(n_repeated)]
    return repeated, [kinds[k % 3].format(100 + k) for k in range(n_once)]


def bold5000_source(name: str) -> str:
    return "coco" if name.startswith("COCO") else "imagenet" if name.endswith("JPEG") else "scenes"


def write_bold5000(
    root: Path,
    *,
    subject: str = "CSI1",
    n_sessions: int = 3,
    n_runs: int = 2,
    betas: bool = True,
    images: bool = True,
    seed: int = 0,
) -> pd.DataFrame:
    """Write events, betas of type D, brain mask, a region, names and images; return what was shown, in order."""
    rng = np.random.default_rng(seed)
    repeated, once = bold5000_names()
    shown = list(rng.permutation(repeated * 4 + once))
    n_trials = len(shown) // (n_sessions * n_runs)
    seen: set[str] = set()
    rows = []
    for session in range(1, n_sessions + 1):
        for run in range(1, n_runs + 1):
            names, shown = shown[:n_trials], shown[n_trials:]
            events = []
            for k, name in enumerate(names):
                kind = ("rep_" if name in seen else "") + bold5000_source(name)
                seen.add(name)
                onset = 6.0 + 10 * k
                events.append(
                    [onset, 1.0, 1, session, run, k + 1, name, kind, onset, onset + 1, k % 3 + 1, 2.5, name]
                )
                rows.append((session, run, name, onset))
            columns = "onset duration Subj Sess Run Trial ImgName ImgType StimOn(s) StimOff(s) Response RT stim_file"
            stem = f"sub-{subject}_ses-{session:02d}_task-5000scenes_run-{run:02d}"
            folder = root / f"sub-{subject}" / f"ses-{session:02d}" / "func"
            folder.mkdir(parents=True, exist_ok=True)
            table = pd.DataFrame(events, columns=columns.split())
            table.to_csv(folder / f"{stem}_events.tsv", sep="\t", index=False, lineterminator="\r\n")
    (root / "task-5000scenes_bold.json").write_text(
        json.dumps({"TaskName": "5000scenes", "RepetitionTime": 2})
    )
    order = pd.DataFrame(rows, columns=["session", "run", "name", "onset"])
    if betas:
        mask = rng.random(BOLD5000_GRID) > 0.4
        nib.save(
            nib.Nifti1Image(mask.astype(np.uint8), BOLD5000_AFFINE), root / f"{subject}_brainmask.nii.gz"
        )
        for session, trials in order.groupby("session"):
            values = rng.normal(size=(*BOLD5000_GRID, len(trials))).astype(np.float32)
            name = f"{subject}_GLMbetas-TYPED-FITHRF-GLMDENOISE-RR_ses-{session:02d}.nii.gz"
            nib.save(nib.Nifti1Image(values, BOLD5000_AFFINE), root / name)
        (root / f"{subject}_imgnames.txt").write_text("\n".join(order["name"]) + "\n")
        region = np.zeros(BOLD5000_GRID, np.uint8)
        region[2:4] = 1
        folder = root / "derivatives" / "spm" / f"sub-{subject}"
        folder.mkdir(parents=True)
        nib.save(nib.Nifti1Image(region, BOLD5000_AFFINE), folder / f"sub-{subject}_mask-LHPPA.nii.gz")
    if images:
        folders = {"coco": "COCO", "imagenet": "ImageNet", "scenes": "Scene"}
        for name in [*repeated, *once]:
            place = root / "BOLD5000_Stimuli" / "Scene_Stimuli" / "Presented_Stimuli"
            write_image(place / folders[bold5000_source(name)] / name, rng)
    return order
