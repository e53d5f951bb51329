"""The layouts of public releases at their size, written with bare libraries from cheap random numbers."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import nibabel as nib
import numpy as np
import pandas as pd
from PIL import Image
from scipy.io import savemat
from shared.measure import Layout, scaled

from braindecode_suite.core.study import Study
from braindecode_suite.datasets.algonauts2023 import ALGONAUTS2023
from braindecode_suite.datasets.bids_fmri import BIDS_FMRI
from braindecode_suite.datasets.bold5000 import BOLD5000_DATASET
from braindecode_suite.datasets.god import GOD_DATASET
from braindecode_suite.datasets.nsd import NSD
from braindecode_suite.datasets.parcels import PARCELS
from braindecode_suite.datasets.table import TABLE
from braindecode_suite.datasets.things_fmri import THINGS_FMRI

NSD_TRIALS = 750
NSD_BETAS = "nsddata_betas/ppdata/subj01/{}/betas_fithrf_GLMdenoise_RR"
POOL = np.random.default_rng(0).standard_normal(2**22).astype(np.float32)
"""Random numbers that are used again and again, at another offset each time."""


def noise(n: int, seed: int, dtype: Any = np.float32) -> np.ndarray:
    """Return `n` numbers of the pool from an offset on."""
    start = (seed * 7919) % len(POOL)
    times = -(-(start + n) // len(POOL))
    return np.tile(POOL, times)[start : start + n].astype(dtype)


def rows_of_noise(n_rows: int, n_columns: int, dtype: Any = np.float32) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield blocks of rows that fit into 64 MB."""
    step = max(2**26 // (n_columns * np.dtype(dtype).itemsize), 1)
    for start in range(0, n_rows, step):
        stop = min(start + step, n_rows)
        yield slice(start, stop), noise((stop - start) * n_columns, start, dtype).reshape(-1, n_columns)


# ------------------------------------------------------------------------------------------- the Natural Scenes Dataset


def write_nsd_design(root: Path, n_sessions: int, n_trials: int = NSD_TRIALS) -> None:
    """Write the design, and images that nobody looks at."""
    rng = np.random.default_rng(0)
    n_images = n_sessions * n_trials // 3
    folder = root / "nsddata/experiments/nsd"
    folder.mkdir(parents=True)
    savemat(
        folder / "nsd_expdesign.mat",
        {
            "masterordering": rng.permutation(np.tile(np.arange(1, n_images + 1), 3))[None],
            "subjectim": np.arange(1, n_images + 1)[None],
            "sharedix": np.arange(1, n_images // 10 + 1)[None],
        },
    )
    images = root / "nsddata_stimuli/stimuli/nsd"
    images.mkdir(parents=True)
    with h5py.File(images / "nsd_stimuli.hdf5", "w") as file:
        file.create_dataset("imgBrick", (n_images, 2, 2, 3), np.uint8)


def write_nsd_volumes(root: Path, shape: tuple[int, ...], n_voxels: int, n_sessions: int) -> None:
    """Write betas and mask of one subject: int16 HDF5, one chunk a voxel and session."""
    rng = np.random.default_rng(0)
    mask = np.zeros(shape, np.int16)
    mask.ravel()[np.sort(rng.choice(mask.size, n_voxels, replace=False))] = 1
    roi = root / "nsddata/ppdata/subj01/func1pt8mm/roi"
    roi.mkdir(parents=True)
    nib.save(nib.Nifti1Image(mask, np.diag([1.8, 1.8, 1.8, 1.0])), roi / "nsdgeneral.nii.gz")
    write_nsd_design(root, n_sessions)
    folder = root / NSD_BETAS.format("func1pt8mm")
    folder.mkdir(parents=True)
    series = (1000 * POOL).astype(np.int16)
    for session in range(1, n_sessions + 1):
        with h5py.File(folder / f"betas_session{session:02d}.hdf5", "w") as file:
            chunks = (NSD_TRIALS, 1, 1, 1)
            betas = file.create_dataset("betas", (NSD_TRIALS, *shape[::-1]), np.int16, chunks=chunks)
            for number, place in enumerate(np.ndindex(shape[::-1])):
                start = (number * 769 + session) % (len(series) - NSD_TRIALS)
                betas.id.write_direct_chunk((0, *place), series[start : start + NSD_TRIALS].tobytes())


def read_hdf5(root: Path, dataset: str) -> None:
    """Read one dataset of every HDF5 file in one call each."""
    for path in sorted([*root.rglob("betas_session*.hdf5"), *root.rglob("*.h5")]):
        with h5py.File(path, "r") as file:
            file[dataset][...]


def read_arrays(root: Path, pattern: str) -> None:
    """Read every array in one call each."""
    for path in sorted(root.rglob(pattern)):
        np.load(path)


def read_images(root: Path, pattern: str) -> None:
    """Read every image in one call each."""
    for path in sorted(root.rglob(pattern)):
        np.array(nib.load(path).dataobj)  # type: ignore[attr-defined]


def nsd_volumes(roi: str) -> Layout:
    """Subject 1 at 1.8 mm: the whole volume; the region's voxels of 2 of 40 sessions, or all of the brain's of one."""

    def write(root: Path, scale: float) -> None:
        side = scale ** (1 / 3)
        shape = scaled((81, 104, 83), side, 6)
        inside = 15_724 / (81 * 104 * 83) if roi == "nsdgeneral" else 226_000 / (81 * 104 * 83)
        write_nsd_volumes(
            root, shape, max(round(inside * np.prod(shape)), 20), 2 if roi == "nsdgeneral" else 1
        )

    return Layout(
        name="nsd_volume" if roi == "nsdgeneral" else "nsd_brain",
        write=write,
        open=lambda root, work: NSD.open(root, "01", work),
        prepare=lambda study: study.responses.prepare(),
        sequential=lambda root: read_hdf5(root, "betas"),
    )


def nsd_surface() -> Layout:
    """Subject 1 on fsaverage: 163,842 vertices a hemisphere, 2 of 40 sessions, float ``.mgh``."""

    def write(root: Path, scale: float) -> None:
        n_trials = scaled(NSD_TRIALS, scale, 12)
        write_nsd_design(root, 2, n_trials)
        folder = root / NSD_BETAS.format("fsaverage")
        folder.mkdir(parents=True)
        n_vertices = 163_842
        for session in (1, 2):
            for k, side in enumerate(("lh", "rh")):
                values = noise(n_vertices * n_trials, 2 * session + k)
                image = nib.freesurfer.MGHImage(values.reshape(n_vertices, 1, 1, n_trials), np.eye(4))
                image.to_filename(folder / f"{side}.betas_session{session:02d}.mgh")

    return Layout(
        name="nsd_surface",
        write=write,
        open=lambda root, work: NSD.open(root, "01", work, space="fsaverage", roi="all"),
        prepare=lambda study: study.responses.prepare(),
        sequential=lambda root: read_images(root, "?h.betas_session*.mgh"),
    )


# ------------------------------------------------------------------------------------------------ other public releases


def algonauts2023() -> Layout:
    """Subject 1: 9,841 training and 159 test images (pictures of 8 pixels), 19,004 + 20,544 vertices."""

    def write(root: Path, scale: float) -> None:
        part = scale**0.5
        folder, picture = root / "subj01", Image.new("RGB", (8, 8))
        number = 0
        for name, split, full in (("train", "training", 9841), ("test", "test", 159)):
            n = scaled(full, part, 4)
            images = folder / f"{split}_split/{split}_images"
            images.mkdir(parents=True)
            for k in range(1, n + 1):
                picture.save(images / f"{name}-{k:04d}_nsd-{number:05d}.png")
                number += 1
            (folder / f"{split}_split/{split}_fmri").mkdir()
            for side, count in (("lh", 19_004), ("rh", 20_544)):
                path = folder / f"{split}_split/{split}_fmri/{side}_{split}_fmri.npy"
                columns = scaled(count, part, 5)
                out = np.lib.format.open_memmap(path, "w+", np.float32, (n, columns))
                for rows, values in rows_of_noise(n, columns):
                    out[rows] = values
                out.flush()

    return Layout(
        name="algonauts2023",
        write=write,
        open=lambda root, work: ALGONAUTS2023.open(root, "01", work),
        prepare=lambda study: study.responses.prepare(),
        sequential=lambda root: read_arrays(root, "?h_*_fmri.npy"),
    )


def bold5000() -> Layout:
    """CSI1: 2 of 15 sessions of 350 trials in volumes of 71 x 89 x 72, compressed; a quarter of them brain."""

    def write(root: Path, scale: float) -> None:
        side = scale ** (1 / 3)
        shape, n_trials = scaled((71, 89, 72), side, 6), scaled(35, side, 3)
        affine = np.diag([2.0, 2.0, 2.0, 1.0])
        mask = np.zeros(shape, np.uint8)
        mask[tuple(slice(n // 5, n - n // 5) for n in shape)] = 1
        nib.save(nib.Nifti1Image(mask, affine), root / "CSI1_brainmask.nii.gz")
        (root / "task-5000scenes_bold.json").write_text(json.dumps({"RepetitionTime": 2}))
        name = iter(range(10**6))
        for session in (1, 2):
            func = root / f"sub-CSI1/ses-{session:02d}/func"
            func.mkdir(parents=True)
            for run in range(1, 11):
                events = pd.DataFrame({"onset": 6.0 + 10 * np.arange(n_trials), "duration": 1.0})
                events["ImgName"] = [f"scene{next(name)}.jpg" for _ in range(n_trials)]
                events["ImgType"] = "scenes"
                stem = f"sub-CSI1_ses-{session:02d}_task-5000scenes_run-{run:02d}_events.tsv"
                events.to_csv(func / stem, sep="\t", index=False)
            header = nib.Nifti1Header()
            header.set_data_shape((*shape, 10 * n_trials))
            header.set_data_dtype(np.float32)
            header.set_sform(affine, 1)
            header["vox_offset"], header["magic"] = 352, b"n+1"
            path = root / f"CSI1_GLMbetas-TYPED-FITHRF-GLMDENOISE-RR_ses-{session:02d}.nii.gz"
            inside = mask.ravel(order="F") > 0
            with gzip.open(path, "wb", compresslevel=1) as stream:
                stream.write(header.binaryblock + b"\0" * 4)
                volume = np.zeros(mask.size, np.float32)
                for trial in range(10 * n_trials):
                    volume[inside] = noise(int(inside.sum()), trial + 1000 * session)
                    stream.write(volume.tobytes())

    return Layout(
        name="bold5000",
        write=write,
        open=lambda root, work: BOLD5000_DATASET.open(root, "CSI1", work),
        prepare=lambda study: study.responses.prepare(),
        sequential=lambda root: read_images(root, "CSI1_GLMbetas-*.nii.gz"),
    )


def god() -> Layout:
    """Subject 1 of the lab's BData: 3,745 samples (one-back repeats among them), 4,500 voxels, float64."""

    def write(root: Path, scale: float) -> None:
        part = scale**0.5
        n_samples, n_voxels = scaled(3745, part, 40), scaled(4500, part, 30)
        keys = ["DataType", "Session", "Run", "stimulus_id", "VoxelData", "voxel_x", "voxel_y", "voxel_z"]
        values = np.full((len(keys), 4 + n_voxels), np.nan)
        for k in range(4):
            values[k, k] = 1
        values[4, 4:] = 1
        values[5:, 4:] = 3.0 * np.stack(np.unravel_index(np.arange(n_voxels), (20, 20, 20)))
        with h5py.File(root / "Subject1.h5", "w") as file:
            matrix = file.create_dataset("dataset", (n_samples, 4 + n_voxels), np.float64)
            for rows, block in rows_of_noise(n_samples, 4 + n_voxels, np.float64):
                block[:, :3] = 1
                block[:, 3] = 1440000 + (1 + np.arange(rows.start, rows.stop)) * 1e-6
                matrix[rows] = block
            file["metadata/key"] = np.array(keys, dtype="S")
            file["metadata/description"] = np.array(["written for a benchmark"] * len(keys), dtype="S")
            file["metadata/value"] = values

    return Layout(
        name="god",
        write=write,
        open=lambda root, work: GOD_DATASET.open(root, "01", work),
        prepare=lambda study: study.responses.prepare(),
        sequential=lambda root: read_hdf5(root, "dataset"),
    )


def things_fmri() -> Layout:
    """Subject 1 in table form: 9,840 trials of 40,000 of about 211,000 voxels, float64; 12,000 of them in regions."""

    def write(root: Path, scale: float) -> None:
        part = scale**0.5
        n_trials, n_voxels = scaled(9840, part, 40), scaled(40_000, part, 30)
        folder = root / "betas_csv"
        folder.mkdir()
        trials = pd.DataFrame({"trial_type": "train", "session": 1 + 12 * np.arange(n_trials) // n_trials})
        trials["run"] = 1
        trials["stimulus"] = [f"thing{k % 720}_{k // 720:02d}s.jpg" for k in range(n_trials)]
        trials.loc[::50, "trial_type"] = "test"
        trials.to_csv(folder / "sub-01_StimulusMetadata.csv", index=False)
        voxels = pd.DataFrame({"voxel_id": np.arange(n_voxels)})
        for name, index in zip("xyz", np.unravel_index(np.arange(n_voxels), (40, 40, 40)), strict=True):
            voxels[f"voxel_{name}"] = index
        voxels["V1"] = (np.arange(n_voxels) % 10 < 3).astype(int)
        voxels.to_csv(folder / "sub-01_VoxelMetadata.csv", index=False)
        with h5py.File(folder / "sub-01_ResponseData.h5", "w") as file:
            group = file.create_group("ResponseData")
            group.attrs.update({"pandas_type": np.bytes_(b"frame"), "ndim": 2, "nblocks": 1})
            table = group.create_dataset("block0_values", (n_voxels, n_trials), np.float64)
            group["block0_items"] = np.array([str(k) for k in range(n_trials)], dtype="S")
            for rows, block in rows_of_noise(n_voxels, n_trials, np.float64):
                table[rows] = block

    return Layout(
        name="things_fmri",
        write=write,
        open=lambda root, work: THINGS_FMRI.open(root, "01", work),
        prepare=lambda study: study.responses.prepare(),
        sequential=lambda root: read_hdf5(root, "ResponseData/block0_values"),
    )


# --------------------------------------------------------------------------------------------------- a lab's own files


def parcels(suffix: str) -> Layout:
    """64 runs of 1,200 samples of 400 parcels as ``.npy``, or 12 of them as ``.tsv``."""

    def write(root: Path, scale: float) -> None:
        part = scale**0.5
        n_runs, n_parcels, n_times = (
            scaled(full, part, 8) for full in (64 if suffix == ".npy" else 12, 400, 1200)
        )
        labels = [f"parcel{k}" for k in range(n_parcels)]
        about = {"RepetitionTime": 0.72, "Atlas": "benchmark", "Axes": "times parcels", "Labels": labels}
        (root / "parcels.json").write_text(json.dumps(about))
        for run in range(1, n_runs + 1):
            values = noise(n_times * n_parcels, run).reshape(n_times, n_parcels)
            path = root / f"sub-01_task-rest_run-{run}_timeseries{suffix}"
            if suffix == ".npy":
                np.save(path, values)
            else:
                pd.DataFrame(values, columns=labels).to_csv(path, sep="\t", index=False, float_format="%.5g")

    def sequential(root: Path) -> None:
        for path in sorted(root.glob(f"*{suffix}")):
            np.load(path) if suffix == ".npy" else pd.read_csv(path, sep="\t").to_numpy()

    return Layout(
        name=f"parcels_{suffix[1:]}",
        write=write,
        open=lambda root, work: PARCELS.open(root, "01", work),
        prepare=lambda study: study.responses.prepare(),
        sequential=sequential,
    )


def bids_fmri(hrf: str) -> Layout:
    """Single-trial betas that were written before: 720 trials of 230,000 voxels, or 240 with ten responses each."""
    n_responses, full = (10, 240) if hrf == "library" else (1, 720)

    def write(root: Path, scale: float) -> None:
        side, part = scale ** (1 / 3), scale**0.5
        shape, n_trials = scaled((97, 115, 97), side, 8), scaled(full, part, 24)
        mask = np.zeros(shape, bool)
        mask[tuple(slice(n // 5, n - n // 5) for n in shape)] = True
        n_voxels, folder = int(mask.sum()), root / "sub-01/func"
        folder.mkdir(parents=True)
        (root / "dataset_description.json").write_text(
            json.dumps({"Name": "betas", "BIDSVersion": "1.9.0", "DatasetType": "derivative"})
        )
        stem = folder / "sub-01_task-x_space-T1w"
        run = np.arange(n_trials) * 12 // n_trials
        with h5py.File(f"{stem}_desc-singletrial_betas.h5", "w") as file:
            betas = file.create_dataset("betas", (n_trials, n_responses, n_voxels), np.float32)
            for trial in range(n_trials):
                betas[trial] = noise(n_responses * n_voxels, trial).reshape(n_responses, -1)
            file["run"], file["valid"] = run, np.ones(n_voxels, np.uint8)
            file["explained"] = noise(12 * n_responses * n_voxels, 3).reshape(12, n_responses, -1) ** 2
            file["total"] = np.ones((12, n_voxels), np.float32)
        names = [f"peak-{k}s" for k in range(n_responses)]
        about = {"Estimator": "lss", "HaemodynamicResponses": names, "DefaultResponse": 0}
        Path(f"{stem}_desc-singletrial_betas.json").write_text(json.dumps(about))
        trials = pd.DataFrame({"stimulus_id": [f"image{k // 2}" for k in range(n_trials)], "session": 1})
        trials["run"], trials["repeat"], trials["onset"] = run + 1, 1 + np.arange(n_trials) % 2, 0.0
        trials.to_csv(f"{stem}_desc-singletrial_events.tsv", sep="\t", index=False)
        nib.save(nib.Nifti1Image(mask.astype(np.uint8), np.eye(4)), f"{stem}_desc-brain_mask.nii.gz")

    def open_(root: Path, work: Path) -> Study:
        study = BIDS_FMRI.open(root, "01", work)
        if hrf != "library":
            return study
        return replace(study, responses=study.responses.tuned(study.trials, np.arange(len(study.trials))))

    return Layout(
        name="bids_fmri" if hrf != "library" else "bids_fmri_library",
        write=write,
        open=open_,
        prepare=None,
        sequential=lambda root: read_hdf5(root, "betas"),
    )


def table(suffix: str) -> Layout:
    """A folder of one's own: 10,000 trials of 15,000 units, float32, as ``.npy`` or ``.h5``."""

    def write(root: Path, scale: float) -> None:
        part = scale**0.5
        n_trials, n_units = scaled(10_000, part, 40), scaled(15_000, part, 20)
        if suffix == ".npy":
            out: Any = np.lib.format.open_memmap(
                root / "responses.npy", "w+", np.float32, (n_trials, n_units)
            )
        else:
            out = h5py.File(root / "responses.h5", "w").create_dataset(
                "responses", (n_trials, n_units), np.float32
            )
        for rows, block in rows_of_noise(n_trials, n_units):
            out[rows] = block
        out.flush() if suffix == ".npy" else out.file.close()
        (root / "images").mkdir()
        for k in range(20):
            Image.new("RGB", (8, 8), (k, 0, 0)).save(root / f"images/image{k}.png")
        trials = pd.DataFrame({"stimulus_id": [f"image{k % 20}" for k in range(n_trials)]})
        trials.to_csv(root / "trials.tsv", sep="\t", index=False)

    return Layout(
        name=f"table_{suffix[1:]}",
        write=write,
        open=lambda root, work: TABLE.open(root, "01", work),
        prepare=lambda study: study.responses.prepare() if suffix == ".h5" else None,
        sequential=lambda root: read_hdf5(root, "responses"),
    )


LAYOUTS = (
    nsd_volumes("nsdgeneral"),
    nsd_volumes("brain"),
    nsd_surface(),
    algonauts2023(),
    bold5000(),
    god(),
    things_fmri(),
    parcels(".npy"),
    parcels(".tsv"),
    bids_fmri("glover"),
    bids_fmri("library"),
    table(".npy"),
    table(".h5"),
)
