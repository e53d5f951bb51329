"""Damage to any file of any dataset: one line that names a file, or data as they were; never a traceback, never half a file.

Files are cut short, emptied, replaced by text, and overwritten by random bytes in random places, one after the other.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from braindecode_suite.core.errors import InputError
from braindecode_suite.datasets import DATASETS
from braindecode_suite.datasets.digits69 import FILE as DIGITS
from braindecode_suite.datasets.simulate_bold import BoldParameters, write_bold_study
from tests.category_files import write_bonner81, write_kriegeskorte92
from tests.haxby_files import write_haxby
from tests.release_writers import (
    god_bdata,
    god_order,
    write_algonauts,
    write_bdata_mat,
    write_bold5000,
    write_god,
    write_things,
)


def write_table(folder: Path, *, as_hdf5: bool = False) -> None:
    rng = np.random.default_rng(0)
    (folder / "images").mkdir()
    ids = [f"im{k:02d}" for k in range(6)]
    for name in ids:
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / f"images/{name}.png")
    (folder / "trials.tsv").write_text("stimulus_id\tsession\n" + "".join(f"{i}\t{1}\n" for i in ids * 2))
    (folder / "captions.tsv").write_text("stimulus_id\tcaption\nim01\ta dog\n")
    (folder / "attributes.tsv").write_text("stimulus_id\tcategory\n" + "".join(f"{i}\tdog\n" for i in ids))
    (folder / "rois.tsv").write_text("unit\troi\n1\tV1\n2\tV2\n")
    mask = np.zeros((3, 4, 2), np.uint8)
    mask.flat[rng.permutation(24)[:7]] = 1
    nib.save(nib.Nifti1Image(mask, np.eye(4)), folder / "mask.nii.gz")
    values = rng.normal(size=(12, 7)).astype(np.float32)
    if as_hdf5:
        with h5py.File(folder / "responses.h5", "w") as file:
            file.create_dataset("responses", data=values, chunks=(4, 7), compression="gzip")
    else:
        np.save(folder / "responses.npy", values)


def write_god_mat(folder: Path) -> None:
    rng = np.random.default_rng(0)
    order = god_order(rng)
    write_bdata_mat(folder / "Subject1.mat", *god_bdata(order, rng))


def write_parcels_mat(folder: Path) -> None:
    values = np.random.default_rng(0).normal(size=(5, 60))
    savemat(folder / "a.mat", {"tc": values}, do_compression=True)
    known = {"RepetitionTime": 0.8, "Atlas": "five", "Axes": "parcels times"}
    (folder / "parcels.json").write_text(json.dumps(known))


def write_parcels_npy(folder: Path) -> None:
    write_parcels_mat(folder)
    (folder / "a.mat").unlink()
    np.save(folder / "a.npy", np.random.default_rng(0).normal(size=(5, 60)))


def write_digits(folder: Path) -> None:
    rng = np.random.default_rng(0)
    content: dict[str, Any] = {}
    for part, n in (("Trn", 90), ("Test", 10)):
        content[f"fmri{part}"] = rng.normal(size=(n, 3092))
        content[f"stim{part}"] = rng.integers(0, 256, (n, 784)).astype(np.uint8)
        content[f"label{part}"] = np.tile([[1], [2]], (n // 2, 1))
    savemat(folder / DIGITS, content, do_compression=True)


def write_nsd(folder: Path) -> None:
    DATASETS["simulated-nsd"].write(folder, size="seconds", subjects=1, formats=["hdf5", "nii.gz"])


@dataclass(frozen=True)
class Case:
    """A dataset, who writes it, which of its files are damaged, and how it is opened."""

    name: str
    write: Callable[[Path], object]
    files: tuple[str, ...]
    label: str = "01"
    options: dict[str, Any] = field(default_factory=dict)


NSD = "nsddata/ppdata/subj01/func1pt8mm"
NSD_BETAS = "nsddata_betas/ppdata/subj01/func1pt8mm/betas_fithrf_GLMdenoise_RR"
BIDS = "derivatives/fmriprep/sub-01/func/sub-01_task-images_run-1"
SMALL = BoldParameters(shape=(4, 4, 3), images=12, repeats=1, sessions=(), runs=2)
CASES = {
    "table": Case("table", write_table, ("*.npy", "*.tsv", "*.nii.gz")),
    "table in HDF5": Case("table", lambda folder: write_table(folder, as_hdf5=True), ("*.h5",)),
    "god": Case("god", write_god, ("*.h5", "sub-01/ses-perceptionTest01/func/*_run-01_events.tsv")),
    "god in MATLAB": Case("god", write_god_mat, ("*.mat",)),
    "digits69": Case("digits69", write_digits, ("*.mat",)),
    "bonner81": Case("bonner81", write_bonner81, ("*.npz",)),
    "kriegeskorte92": Case("kriegeskorte92", write_kriegeskorte92, ("*.mat",), "BE"),
    "parcels in MATLAB": Case("parcels", write_parcels_mat, ("*.mat", "*.json"), "a"),
    "parcels in numpy": Case("parcels", write_parcels_npy, ("*.npy",), "a"),
    "haxby": Case("haxby", write_haxby, ("*.nii.gz", "*.txt")),
    "bold5000": Case(
        "bold5000",
        lambda folder: write_bold5000(folder, images=False),
        ("*_ses-02.nii.gz", "*mask.nii.gz", "*.txt", "sub-CSI1/ses-01/func/*run-01_events.tsv"),
        "CSI1",
    ),
    "algonauts2023": Case(
        "algonauts2023",
        lambda folder: write_algonauts(folder, n_train=6, n_test=2),
        (
            "subj01/training_split/training_fmri/lh*.npy",
            "subj01/roi_masks/mapping_streams.npy",
            "subj01/roi_masks/lh.streams*.npy",
            "subj01/test_split/noise_ceiling/lh*.npy",
        ),
    ),
    "things-fmri": Case(
        "things-fmri",
        lambda folder: write_things(folder, images=False),
        ("betas_csv/*", "brainmasks/*.nii.gz"),
    ),
    "bids-fmri": Case(
        "bids-fmri",
        lambda folder: write_bold_study(folder, SMALL),
        (
            f"{BIDS}_space-MNI*bold.nii.gz",
            f"{BIDS}_space-MNI*mask.nii.gz",
            f"{BIDS}_space-MNI*bold.json",
            f"{BIDS}*timeseries.tsv",
            "sub-01/func/*run-1_events.tsv",
        ),
        options={"prepare": True},
    ),
    "nsd": Case(
        "nsd",
        write_nsd,
        (
            f"{NSD_BETAS}/betas_session02.hdf5",
            f"{NSD}/roi/nsdgeneral.nii.gz",
            "nsddata/experiments/nsd/nsd_expdesign.mat",
            "nsddata/ppdata/subj01/behav/responses.tsv",
            "nsddata/freesurfer/subj01/label/streams.mgz.ctab",
        ),
    ),
    "nsd in NIfTI": Case(
        "nsd", write_nsd, (f"{NSD_BETAS}/betas_session02.nii.gz",), options={"format": "nii.gz"}
    ),
}


@pytest.fixture(scope="module", params=list(CASES))
def case(request) -> Case:
    return CASES[request.param]


@pytest.fixture(scope="module")
def folder(case, tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("whole") / "data"
    made.mkdir()
    case.write(made)
    return made


def read_all(case: Case, folder: Path, work: Path) -> np.ndarray:
    """Open the study, read every response and some images, and the design where it can be read apart."""
    dataset = DATASETS[case.name]
    study = dataset.open(folder, case.label, work, **case.options)
    values = study.read(slice(None))
    if study.stimuli is not None and case.name != "bonner81":  # which has no images
        study.stimuli.images(list(study.stimuli.ids[:2]))
    if hasattr(dataset, "design") and list(folder.glob("sub-*/ses-*")):
        dataset.design(folder, case.label)
    return np.asarray(values)


def damages(whole: bytes, n: int) -> list[bytes]:
    """Return damaged copies of a file."""
    rng = np.random.default_rng(len(whole))
    copies = [b"", whole[:10], whole[: len(whole) // 2], whole[:-1], b"not what it was\n" * 3]
    for _ in range(n):
        at, length = int(rng.integers(0, len(whole))), int(rng.choice([1, 8, 64]))
        copies.append((whole[:at] + rng.bytes(length) + whole[at + length :])[: len(whole)])
    return copies


def test_no_damage_ends_in_a_traceback_or_in_half_a_file(case, folder, tmp_path):
    expected = read_all(case, folder, tmp_path / "whole")
    paths = [path for pattern in case.files for path in sorted(folder.glob(pattern))]
    assert len(paths) >= len(case.files)
    refused = 0
    for path in paths:
        whole = path.read_bytes()
        for number, content in enumerate(damages(whole, 10)):
            path.write_bytes(content)
            work = tmp_path / f"{path.name}-{number}"
            refusal, found = "", expected
            try:
                found = read_all(case, folder, work)
            except InputError as error:
                refusal = str(error)
            refused += bool(refusal)
            assert "\n" not in refusal
            finished = [
                p for p in work.rglob("*.*") if p.suffix in (".npy", ".h5") and "partial" not in p.name
            ]
            assert not (refusal and finished), f"{finished} after {refusal}"
            same = found.shape == expected.shape and np.array_equal(found, expected)
            assert same or not path.name.endswith(".gz"), f"{path.name}: damage {number} went unnoticed"
            DATASETS[case.name].check(folder)
            shutil.rmtree(work, ignore_errors=True)
        path.write_bytes(whole)
    assert refused >= 4 * len(paths)
    np.testing.assert_array_equal(read_all(case, folder, tmp_path / "again"), expected)


CHECKSUMS = {
    "nsd in NIfTI": r"betas_session02\.nii\.gz: expected 60 whole volumes; found CRC check failed",
    "bold5000": r"ses-02\.nii\.gz: expected \d+ whole volumes; found CRC check failed",
    "haxby": r"bold\.nii\.gz: expected 156 whole volumes; found CRC check failed",
    "bids-fmri": r"run-1.*bold\.nii\.gz: expected \d+ whole volumes; found CRC check failed",
    "table": r"mask\.nii\.gz: expected a mask",
    "things-fmri": r"brainmask\.nii\.gz: expected the brain mask",
    "nsd": r"nsdgeneral\.nii\.gz: expected a mask of regions, a whole file; found CRC check failed",
}


@pytest.mark.parametrize("name", list(CHECKSUMS))
def test_a_compressed_file_is_held_against_its_checksum(name, tmp_path):
    """The stream itself is whole and decodes to as many volumes as there should be; only the checksum tells."""
    case, data = CASES[name], tmp_path / "data"
    data.mkdir()
    case.write(data)
    pattern = next(pattern for pattern in case.files if pattern.endswith(".nii.gz"))
    path = next(p for p in sorted(data.glob(pattern)) if "bold" in p.name or name != "haxby")
    content = bytearray(path.read_bytes())
    content[-8] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(InputError, match=CHECKSUMS[name]):
        read_all(case, data, tmp_path / "work")
    assert not [p for p in (tmp_path / "work").rglob("*.npy") if "partial" not in p.name]
