"""Small folders in the layouts of public releases, written with bare libraries; nothing of the loaders is used."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pandas as pd
from PIL import Image
from scipy.io import savemat

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


GOD_TRAINING = [f"n0{1440000 + 7 * c}_{100 * c + k + 1}" for c in range(12) for k in range(4)]
GOD_TEST = [f"n0{2500000 + 11 * c}_{9 * c + 5}" for c in range(6)]
GOD_RUNS = {"perceptionTraining": 2, "perceptionTest": 5, "imageryTest": 2}


def god_number(name: str) -> float:
    """Return the lab's number of a stimulus: the digits of the synset, a point, six digits of the image."""
    synset, _, image = name[1:].partition("_")
    return float(f"{int(synset)}.{int(image or 0):06d}")


def god_order(rng: np.random.Generator) -> list[tuple[str, int, str]]:
    """Return session kind, run and stimulus of every trial, with one one-back repeat in each perception run."""
    order = []
    halves = np.split(rng.permutation(GOD_TRAINING), 2)
    imagined = [name.partition("_")[0] for name in GOD_TEST]
    for kind, n_runs in GOD_RUNS.items():
        for run in range(1, n_runs + 1):
            if kind == "perceptionTraining":
                names = list(halves[run - 1])
            else:
                names = list(rng.permutation(GOD_TEST if kind == "perceptionTest" else imagined))
            if kind != "imageryTest":
                names.insert(3, names[2])
            order += [(kind, run, str(name)) for name in names]
    return order


def write_god_events(root: Path, order: list[tuple[str, int, str]], subject: str = "01") -> None:
    for (kind, run), rows in pd.DataFrame(order, columns=["kind", "run", "name"]).groupby(
        ["kind", "run"], sort=False
    ):
        imagery = kind == "imageryTest"
        task = "imagery" if imagery else "perception"
        name = "category_name" if imagery else "stimulus_name"
        events = [[0, 33, 1, "rest", "n/a", "n/a", "n/a"]]
        for trial, stimulus in enumerate(rows["name"]):
            start = 33 + (24 if imagery else 9) * trial
            if imagery:
                events.append([start, 3, trial + 2, "cue", stimulus, "n/a", "4.0"])
                events.append([start + 3, 15, trial + 2, "imagery", stimulus, "n/a", "4.0"])
            else:
                events.append([start, 9, trial + 2, "stimulus", stimulus, "n/a", "n/a"])
        columns = ["onset", "duration", "trial_no", "event_type", name, "response_time", "evaluation"]
        folder = root / f"sub-{subject}" / f"ses-{kind}01" / "func"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"sub-{subject}_ses-{kind}01_task-{task}_run-{run:02d}_events.tsv"
        pd.DataFrame(events, columns=columns).to_csv(path, sep="\t", index=False)


def god_bdata(
    order: list[tuple[str, int, str]], rng: np.random.Generator
) -> tuple[np.ndarray, list[str], np.ndarray]:
    """Return matrix, keys and values of a BData file: 4 labels before 20 voxels, of which one is on no region."""
    n_voxels, labels = 20, ["DataType", "Session", "Run", "stimulus_id"]
    grid = np.argwhere(np.ones((5, 4, 2)))[rng.permutation(40)[:n_voxels]]
    points = grid * 3.0 + [-40.5, -90.0, 2.5]
    kinds = {"perceptionTraining": 1, "perceptionTest": 2, "imageryTest": 3}
    matrix = np.zeros((len(order), len(labels) + n_voxels))
    matrix[:, 0] = [kinds[kind] for kind, _, _ in order]
    matrix[:, 1] = 1
    matrix[:, 2] = [run for _, run, _ in order]
    matrix[:, 3] = [god_number(name) for _, _, name in order]
    matrix[:, 4:] = rng.normal(size=(len(order), n_voxels))
    keys = ["VoxelData", *labels, "ROI_V1", "ROI_V2", "ROI_FFA", "voxel_x", "voxel_y", "voxel_z"]
    values = np.full((len(keys), matrix.shape[1]), np.nan)
    values[0, 4:] = 1
    for k in range(len(labels)):
        values[1 + k, k] = 1
    values[5, 4:12], values[6, 10:16] = 1, 1  # V1 and V2 overlap, FFA is empty
    values[8:, 4:] = points.T
    return matrix, keys, values


def write_bdata_h5(path: Path, matrix: np.ndarray, keys: list[str], values: np.ndarray) -> None:
    with h5py.File(path, "w") as file:
        file["dataset"] = matrix
        file["metadata/key"] = np.array(keys, dtype="S")
        file["metadata/description"] = np.array(["made for a test"] * len(keys), dtype="S")
        file["metadata/value"] = values


def write_bdata_mat(path: Path, matrix: np.ndarray, keys: list[str], values: np.ndarray) -> None:
    cells = np.empty((1, len(keys)), dtype=object)
    cells[0] = keys
    savemat(path, {"dataSet": matrix, "metaData": {"key": cells, "value": values, "description": cells}})


def write_god(root: Path, *, responses: bool = True, seed: int = 0) -> None:
    """Write the events of subject 01, its BData file and the images."""
    rng = np.random.default_rng(seed)
    order = god_order(rng)
    write_god_events(root, order)
    if responses:
        write_bdata_h5(root / "Subject1.h5", *god_bdata(order, rng))
    for name in GOD_TRAINING:
        write_image(root / "images" / "training" / f"{name}.JPEG", rng)
    for name in GOD_TEST:
        write_image(root / "images" / "test" / f"{name}.JPEG", rng)


ALGONAUTS_ROIS = {
    "prf-visualrois": {0: "Unknown", 1: "V1v", 2: "V1d"},
    "floc-bodies": {0: "Unknown", 1: "EBA", 2: "mTL-bodies"},
    "floc-faces": {0: "Unknown", 1: "OFA"},
    "floc-places": {0: "Unknown", 1: "OPA"},
    "floc-words": {0: "Unknown", 1: "OWFA"},
    "streams": {0: "Unknown", 1: "early", 2: "midventral"},
}
N_FSAVERAGE = 163842


def write_algonauts(
    root: Path,
    *,
    subject: str = "01",
    counts: tuple[int, int] = (7, 9),
    n_train: int = 50,
    n_test: int = 8,
    test: bool = True,
    seed: int = 0,
) -> None:
    """Write one subject of the challenge: V1v and EBA overlap, mTL-bodies is empty."""
    rng = np.random.default_rng(seed)
    folder = root / f"subj{subject}"
    nsd = rng.permutation(73000)[: n_train + n_test]
    for part, name, some in (("train", "training", nsd[:n_train]), ("test", "test", nsd[n_train:])):
        for k, number in enumerate(some, 1):
            place = folder / f"{name}_split" / f"{name}_images"
            write_image(place / f"{part}-{k:04d}_nsd-{number:05d}.png", rng, side=6)
        if part == "test" and not test:
            continue
        (folder / f"{name}_split" / f"{name}_fmri").mkdir(parents=True, exist_ok=True)
        for side, count in zip(("lh", "rh"), counts, strict=True):
            values = rng.normal(size=(len(some), count)).astype(np.float32)
            np.save(folder / f"{name}_split" / f"{name}_fmri" / f"{side}_{name}_fmri.npy", values)
    masks = folder / "roi_masks"
    masks.mkdir()
    for side, count in zip(("lh", "rh"), counts, strict=True):
        if test:
            (folder / "test_split" / "noise_ceiling").mkdir(exist_ok=True)
            np.save(
                folder / "test_split" / "noise_ceiling" / f"{side}_noise_ceiling.npy",
                rng.uniform(0, 0.9, count),
            )
        for name in ALGONAUTS_ROIS:
            labels = np.zeros(count, np.int32)
            labels[: count // 2] = 1
            labels[count // 2 : count - 1] = (
                0 if name == "floc-bodies" else 2 if 2 in ALGONAUTS_ROIS[name] else 0
            )
            np.save(masks / f"{side}.{name}_challenge_space.npy", labels)
        vertices = np.zeros(N_FSAVERAGE, np.int32)
        vertices[rng.permutation(N_FSAVERAGE)[:count]] = 1
        np.save(masks / f"{side}.all-vertices_fsaverage_space.npy", vertices)
    for name, mapping in ALGONAUTS_ROIS.items():
        np.save(masks / f"mapping_{name}.npy", np.array(mapping), allow_pickle=True)


THINGS_CONCEPTS = [f"thing_{k}" if k % 3 else f"thing{k}" for k in range(14)]
THINGS_GRID = (6, 5, 4)
THINGS_AFFINE = np.array([[2.0, 0, 0, -60], [0, 2, 0, -80], [0, 0, 2, -40], [0, 0, 0, 1]])


def things_trials(n_sessions: int = 3) -> list[tuple[str, int, int, str]]:
    """Return trial type, session, run and file name: four images a concept once, test images of three concepts each session."""
    train = [f"{concept}_{k:02d}s.jpg" for concept in THINGS_CONCEPTS for k in range(1, 5)]
    rows = []
    for session in range(1, n_sessions + 1):
        shown = [("train", name) for name in train[session - 1 :: n_sessions]]
        shown[4:4] = [("test", f"{concept}_14s.jpg") for concept in THINGS_CONCEPTS[:3]]
        rows += [(kind, session, 1 + 2 * k // len(shown), name) for k, (kind, name) in enumerate(shown)]
    return rows


def write_pandas_table(
    path: Path, values: np.ndarray, ids: np.ndarray | None, *, names: str = "pickled"
) -> None:
    """Write what ``DataFrame.to_hdf`` writes of float columns 0, 1, ... after an integer column voxel_id."""
    with h5py.File(path, "w") as file:
        group = file.create_group("ResponseData")
        group.attrs.update({"pandas_type": np.bytes_(b"frame"), "ndim": 2, "nblocks": 1 + (ids is not None)})
        group["axis1"] = np.arange(len(values))
        group["block0_values"] = values
        if names == "pickled":
            objects = h5py.vlen_dtype(np.uint8)
            group.create_dataset("block0_items", (1,), dtype=objects)[0] = np.frombuffer(
                b"never read", np.uint8
            )
        else:
            group["block0_items"] = np.array([str(k) for k in range(values.shape[1])], dtype="S")
        if ids is not None:
            group["block1_values"] = ids[:, None]
            group["block1_items"] = np.array(["voxel_id"], dtype="S")


def write_things(
    root: Path, *, subject: str = "01", responses: bool = True, images: bool = True, seed: int = 0
) -> None:
    """Write metadata, responses, brain mask and images of one subject; V1 and lFFA overlap, rPPA is empty."""
    rng = np.random.default_rng(seed)
    folder = root / "betas_csv"
    folder.mkdir(parents=True)
    trials = pd.DataFrame(things_trials(), columns=["trial_type", "session", "run", "stimulus"])
    trials.insert(3, "subject_id", 1)
    trials.insert(4, "trial_id", np.arange(len(trials)))
    trials.to_csv(folder / f"sub-{subject}_StimulusMetadata.csv", index=False)
    brain = rng.random(THINGS_GRID) > 0.3
    indices = rng.permutation(np.argwhere(brain))
    n_voxels = len(indices)
    voxels = pd.DataFrame({"voxel_id": np.arange(n_voxels), "subject_id": 1})
    voxels[["voxel_x", "voxel_y", "voxel_z"]] = indices
    snr = rng.uniform(0, 0.4, n_voxels) ** 2
    voxels["nc_singletrial"] = 100 * snr / (snr + 1)
    voxels["nc_testset"] = 100 * snr / (snr + 1 / 3)
    voxels["prf-size"] = rng.uniform(0, 5, n_voxels)
    voxels["V1"] = (np.arange(n_voxels) < 12).astype(int)
    voxels["lFFA"] = ((np.arange(n_voxels) >= 10) & (np.arange(n_voxels) < 20)).astype(int)
    voxels["rPPA"] = 0
    voxels.to_csv(folder / f"sub-{subject}_VoxelMetadata.csv", index=False)
    if responses:
        values = rng.normal(size=(n_voxels, len(trials)))
        write_pandas_table(folder / f"sub-{subject}_ResponseData.h5", values, np.arange(n_voxels))
        (root / "brainmasks").mkdir()
        mask = nib.Nifti1Image(brain.astype(np.uint8), THINGS_AFFINE)
        nib.save(mask, root / "brainmasks" / f"sub-{subject}_space-T1w_brainmask.nii.gz")
    if images:
        for name in trials["stimulus"].unique():
            write_image(root / "object_images" / name.rpartition("_")[0] / name, rng, side=8)
