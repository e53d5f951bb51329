"""`haxby`: Haxby 2001 as PyMVPA and nilearn distribute it: one 4-D NIfTI a subject, a label and a run for every volume.

Rows are volumes, rest included. Which exemplar was on the screen is not recorded, so the stimulus of a volume is its
category and there are no images; `block` numbers the stretches of one label, which is what a decoder averages over.
"""

from __future__ import annotations

import re
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from braindecode_suite.core.checks import check_finite, check_folder, check_option
from braindecode_suite.core.config import Config, NoOptions, build_options
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.files import file_sha256
from braindecode_suite.core.protocols import DatasetCard, FileCheck
from braindecode_suite.core.spaces import VoxelSpace
from braindecode_suite.core.study import Study
from braindecode_suite.datasets.lab_files import check_inside, one_line
from braindecode_suite.datasets.volumes import check_grid, open_volume, read_inside, read_mask, scale

BOLD, MASK = "bold.nii.gz", "mask.nii.gz"
LABELS = ("labels.txt", "attributes_literal.txt")
REST = "rest"
TREE = """\
bold.nii.gz                   4-D: a volume a row of the labels; its header holds the repetition time
labels.txt                    or attributes_literal.txt: a label and a run number for every volume, separated by a space
mask.nii.gz                   voxels above 0 are read; here or one folder up
mask*_*.nii.gz                optional: regions by name (mask4_vt.nii.gz becomes mask4_vt)

For several subjects the files lie in folders subj1, subj2...
"""


class Haxby:
    """Loader of Haxby 2001; opening reads the labels, the masks and the header of the recordings."""

    card = DatasetCard(
        name="haxby",
        title="Haxby 2001: eight categories of objects in blocks",
        modality="fMRI",
        terms="CC BY-SA 3.0; released with PyMVPA (http://data.pymvpa.org/datasets/haxby2001)",
        size="6 subjects, 12 runs of 121 volumes at 2.5 s; 8 categories, one block a run",
        tree=TREE,
        citation="Haxby, Gobbini, Furey, Ishai, Schouten, Pietrini 2001, Science 293, 2425-2430, "
        "doi:10.1126/science.1063736",
        protocols=("leave-one-run-out",),
        workflow="classical-decoding",
        preset="blocks",
        source="The subjects' archives of PyMVPA (data.pymvpa.org/datasets/haxby2001, subj1-2010.01.14.tar.gz ...), unpacked into one folder. "
        "OpenNeuro ds000105 holds the same study as raw BIDS runs, which this loader does not read: `bds fetch ds000105` is for "
        "bids-fmri, once fMRIPrep has been run.",
    )

    options_class: ClassVar[type[Config]] = NoOptions

    def subjects(self, data_dir: Path) -> list[str]:
        """Return ``01`` for a folder with its own recordings, else one label a folder ``subj1``, ``subj2``..."""
        if (data_dir / BOLD).is_file():
            return ["01"]
        found = [
            re.fullmatch(r"sub(?:j|-)?0*(\d+)", path.parent.name) for path in data_dir.glob(f"sub*/{BOLD}")
        ]
        return sorted(f"{int(match[1]):02d}" for match in found if match)

    def open(self, data_dir: Path, subject: str, work_dir: Path, **options: Any) -> Study:
        """Return one subject's study, a row a volume in the order of the file.

        Parameters
        ----------
        data_dir : Path
        subject : str
        work_dir : Path
            Unused: nothing is cached.

        Raises
        ------
        InputError
            If a file is missing or unreadable, labels and volumes differ in number, a run comes twice, a mask lies on
            another grid, or an option is given (there are none).
        """
        build_options(NoOptions, options, self.card.name)
        folder = self._folder(data_dir, subject)
        for path in (
            folder / BOLD,
            folder / MASK,
            *folder.glob("mask*_*.nii.gz"),
            *(folder / n for n in LABELS),
        ):
            check_inside(data_dir, path)
        check_inside(folder.parent, folder.parent / MASK)
        image = open_volume(folder / BOLD, "the recordings")
        repetition_time = _repetition_time(folder / BOLD, image)
        space = _space(folder, image)
        path = _labels_path(folder)
        trials = _trials(path, int(image.shape[3]), repetition_time)
        return Study(
            dataset="haxby",
            subject=subject,
            responses=_Volumes(folder / BOLD, image, space.mask),
            trials=trials,
            stimuli=None,
            space=space,
            unit="scanner units",
            provenance={
                "files": {path.name: file_sha256(path)},
                "repetition time (s)": repetition_time,
                "terms": self.card.terms,
                "warnings": [
                    "Which exemplar was shown is not recorded: the stimulus of a volume is its category, and every category "
                    "is on both sides of a split by run."
                ],
            },
        )

    def check(self, data_dir: Path) -> list[FileCheck]:
        """Return for every subject whether the files are there, whole and of one shape; reads all volumes."""
        labels = self.subjects(data_dir) if data_dir.is_dir() else []
        if not labels:
            return [FileCheck(BOLD, "missing"), FileCheck(LABELS[0], "missing"), FileCheck(MASK, "missing")]
        lines = []
        for label in labels:
            folder = self._folder(data_dir, label)
            try:
                study = self.open(data_dir, label, data_dir)
                study.read(slice(None))
            except InputError as error:
                lines.append(FileCheck(error.where, "bad", f"{error.found} instead of {error.expected}"))
                continue
            shape = (
                f"{len(study.trials)} volumes, {study.n_units} voxels, {study.trials['run'].nunique()} runs"
            )
            lines.append(FileCheck(str((folder / BOLD).relative_to(data_dir)), "ok", shape))
            names = ", ".join(study.space.rois) or "none"
            lines.append(
                FileCheck(
                    str((folder / "mask*_*.nii.gz").relative_to(data_dir)),
                    "ok" if study.space.rois else "optional-missing",
                    names,
                )
            )
        return lines

    def _folder(self, data_dir: Path, subject: str) -> Path:
        check_folder(data_dir, "the folder of haxby")
        known = self.subjects(data_dir)
        if not known:
            raise InputError(data_dir / BOLD, expected="the recordings of haxby", found="nothing there")
        check_option("subject", subject, known)
        if (data_dir / BOLD).is_file():
            return data_dir
        folders = {
            f"{int(re.sub(r'[^0-9]', '', p.parent.name)):02d}": p.parent
            for p in data_dir.glob(f"sub*/{BOLD}")
        }
        return folders[subject]


HAXBY = Haxby()


class _Volumes:
    """Voxels inside the mask, volume by volume; the file is read once, when the first row is asked for."""

    def __init__(self, path: Path, image: Any, mask: np.ndarray) -> None:
        self.path, self._image, self._mask = path, image, mask
        self.shape = (int(image.shape[3]), int(np.count_nonzero(mask)))
        self.dtype = np.dtype(np.float32)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> np.ndarray:
        return np.asarray(self._values[rows])

    @cached_property
    def _values(self) -> np.ndarray:
        values = scale(read_inside(self.path, self._image, self._mask, np.float32), self._image)
        check_finite(self.path, values)
        return values


def _repetition_time(path: Path, image: Any) -> float:
    """Return the seconds from one volume to the next; the header must say them."""
    if len(image.shape) != 4:
        raise InputError(path, expected="four dimensions: x, y, z, volumes", found=f"shape {image.shape}")
    unit, step = image.header.get_xyzt_units()[1], float(image.header.get_zooms()[3])
    seconds = {"sec": step, "msec": step / 1000, "usec": step / 1e6}.get(unit, 0.0)
    if seconds <= 0:
        raise InputError(path, expected="a repetition time in the header", found=f"{step:g} {unit}")
    return seconds


def _space(folder: Path, image: Any) -> VoxelSpace:
    """Return the voxels of the mask, with the regions whose masks lie in the folder."""
    beside = folder / MASK
    path = beside if beside.is_file() else folder.parent / MASK
    mask = _mask(path, "the mask of the voxels to read", folder / BOLD, image)
    rois = {
        other.name.removesuffix(".nii.gz"): _mask(other, "a region", folder / BOLD, image, may_be_empty=True)[
            mask
        ]
        for other in sorted(folder.glob("mask*_*.nii.gz"))
    }
    return VoxelSpace(mask, image.affine, rois, name="haxby")


def _mask(path: Path, what: str, bold: Path, image: Any, *, may_be_empty: bool = False) -> np.ndarray:
    inside, affine = read_mask(path, what, may_be_empty=may_be_empty)
    check_grid(path, inside.shape, affine, bold, image)
    return inside


def _labels_path(folder: Path) -> Path:
    for name in LABELS:
        if (folder / name).is_file():
            return folder / name
    raise InputError(folder / LABELS[0], expected="a label and a run for every volume", found="nothing there")


def _trials(path: Path, n_volumes: int, repetition_time: float) -> pd.DataFrame:
    """Return one row a volume: stimulus_id, session, run, repeat, onset, and category, volume (in its run), block, run_seconds."""
    try:
        table = pd.read_csv(path, sep=r"\s+", header=None, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:  # pandas' own errors are ValueErrors
        raise InputError(path, expected="a label and a run in every row", found=one_line(error)) from error
    if table.shape[1] != 2:
        raise InputError(path, expected="two columns, label and run", found=f"{table.shape[1]} columns")
    if table.iloc[0].tolist() == ["labels", "chunks"]:
        table = table.iloc[1:].reset_index(drop=True)
    if len(table) != n_volumes:
        raise InputError(path, expected=f"{n_volumes} rows, one a volume", found=str(len(table)))
    runs = pd.to_numeric(table[1], errors="coerce")
    if runs.isna().any():
        row = int(np.flatnonzero(runs.isna())[0])
        raise InputError(
            path, expected="run numbers in column 2", found=f"{table[1][row]!r} in row {row + 1}"
        )
    run, label = runs.to_numpy(int), table[0].to_numpy(object)
    starts = np.flatnonzero(np.r_[True, run[1:] != run[:-1]])
    again = [int(r) for r, n in zip(*np.unique(run[starts], return_counts=True), strict=True) if n > 1]
    if again:
        raise InputError(
            path, expected="the volumes of a run together", found=f"run {again[0]} in two places"
        )
    changes = np.r_[True, (label[1:] != label[:-1]) | (run[1:] != run[:-1])]
    trials = pd.DataFrame({"stimulus_id": label, "session": 1, "run": run})
    trials["repeat"] = trials.groupby("stimulus_id").cumcount() + 1
    trials["volume"] = trials.groupby("run").cumcount()
    trials["onset"] = trials["volume"] * repetition_time
    trials["category"] = label
    trials["block"] = np.cumsum(changes)
    trials["run_seconds"] = trials.groupby("run")["volume"].transform("size") * repetition_time
    first = ["stimulus_id", "session", "run", "repeat", "onset"]
    return trials[[*first, "category", "volume", "block", "run_seconds"]]
