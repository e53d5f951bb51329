"""The NSD release as files: where each lies, and how the small ones are read and checked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.io import loadmat

from braindecode_suite.core.checks import check_file, check_option
from braindecode_suite.core.errors import InputError
from braindecode_suite.datasets.lab_files import (
    DAMAGED,
    check_inside,
    read_numbers,
    read_table,
    read_whole_numbers,
)
from braindecode_suite.datasets.volumes import open_volume, read_values

GRID, SURFACE = "func1pt8mm", "fsaverage"
TRIALS_A_SESSION, RUNS_A_SESSION, RUN_SECONDS = 750, 12, 300.0
BETA_VERSIONS = {
    "b1": "betas_assumehrf",
    "b2": "betas_fithrf",
    "b3": "betas_fithrf_GLMdenoise_RR",
}
BETA_SUFFIXES = {"hdf5": ".hdf5", "nii.gz": ".nii.gz", "nii": ".nii"}


@dataclass(frozen=True)
class Layout:
    """Paths of one subject below the release's folder.

    Attributes
    ----------
    root : Path
    subject : str
        ``01`` to ``08``.
    betas : str
        Folder name of the beta version.
    grid : {'func1pt8mm', 'fsaverage'}
        Where the betas lie: voxels or vertices.
    """

    root: Path
    subject: str
    betas: str = BETA_VERSIONS["b3"]
    grid: str = GRID

    @property
    def name(self) -> str:
        return f"subj{self.subject}"

    @property
    def number(self) -> int:
        return int(self.subject)

    @property
    def expdesign(self) -> Path:
        return self.root / "nsddata" / "experiments" / "nsd" / "nsd_expdesign.mat"

    @property
    def stim_info(self) -> Path:
        return self.root / "nsddata" / "experiments" / "nsd" / "nsd_stim_info_merged.csv"

    @property
    def stimuli(self) -> Path:
        return self.root / "nsddata_stimuli" / "stimuli" / "nsd" / "nsd_stimuli.hdf5"

    @property
    def behaviour(self) -> Path:
        return self.root / "nsddata" / "ppdata" / self.name / "behav" / "responses.tsv"

    @property
    def functional(self) -> Path:
        return self.root / "nsddata" / "ppdata" / self.name / GRID

    @property
    def labels(self) -> Path:
        return self.root / "nsddata" / "freesurfer" / self.name / "label"

    @property
    def beta_folder(self) -> Path:
        return self.root / "nsddata_betas" / "ppdata" / self.name / self.grid / self.betas

    @property
    def surface_labels(self) -> Path:
        return self.root / "nsddata" / "freesurfer" / SURFACE / "label"

    def check_links(self) -> None:
        """Raise if a file of this subject, or of the experiment, is a link that leads out of the release's folder."""
        folders = (self.functional / "roi", self.labels, self.beta_folder, self.surface_labels)
        single = (self.expdesign, self.stimuli, self.behaviour, self.functional / "brainmask.nii.gz")
        for path in (*single, *(path for folder in folders for path in sorted(folder.glob("*")))):
            check_inside(self.root, path)

    def session_files(self, file_format: str = "auto") -> dict[int, Path]:
        """Return the beta file of each session that is there, by session number from 1; on the surface the left one.

        Raises
        ------
        InputError
            If there is none, or only MATLAB files.
        """
        if not self.beta_folder.is_dir():
            others = (
                sorted(p.name for p in self.beta_folder.parent.glob("betas_*"))
                if self.beta_folder.parent.is_dir()
                else []
            )
            raise InputError(
                self.beta_folder,
                expected="a folder of betas_sessionSS.hdf5 or .nii.gz",
                found="nothing there",
                hint=f"there are {', '.join(others)}" if others else "download the betas of this subject",
            )
        if self.grid == SURFACE:
            return self._surface_files()
        wanted = list(BETA_SUFFIXES) if file_format == "auto" else [file_format]
        found: dict[int, Path] = {}
        for name in wanted:
            suffix = BETA_SUFFIXES[name]
            for path in sorted(self.beta_folder.glob(f"betas_session*{suffix}")):
                match = re.fullmatch(rf"betas_session(\d+){re.escape(suffix)}", path.name)
                if match:
                    found.setdefault(int(match[1]), path)
        if not found:
            matlab = any(self.beta_folder.glob("betas_session*.mat"))
            raise InputError(
                self.beta_folder,
                expected="betas_sessionSS.hdf5 or betas_sessionSS.nii.gz",
                found="only .mat files" if matlab else "no beta file",
                hint="the release holds the same numbers as .hdf5 and .nii.gz; the .mat cannot be read by the piece"
                if matlab
                else "",
            )
        return dict(sorted(found.items()))

    def _surface_files(self) -> dict[int, Path]:
        found = {
            int(match[1]): path
            for path in sorted(self.beta_folder.glob("lh.betas_session*.mgh"))
            if (match := re.fullmatch(r"lh\.betas_session(\d+)\.mgh", path.name))
        }
        if not found:
            raise InputError(
                self.beta_folder, expected="lh.betas_sessionSS.mgh and rh.betas_sessionSS.mgh", found="none"
            )
        return dict(sorted(found.items()))


@dataclass(frozen=True, eq=False)
class Design:
    """The experiment's design, 0-based.

    Attributes
    ----------
    order : array of int of shape (trials planned,)
        Position in a subject's own list of images, for each trial.
    images : array of int of shape (subjects, images)
        73k id of each entry of each subject's list.
    shared : array of int of shape (shared images,)
        73k ids of the images all subjects see.
    """

    order: NDArray[np.int64]
    images: NDArray[np.int64]
    shared: NDArray[np.int64]


def read_design(path: Path, n_stimuli: int) -> Design:
    """Read nsd_expdesign.mat and check that every index is in range.

    Parameters
    ----------
    path : Path
    n_stimuli : int
        Images in nsd_stimuli.hdf5.
    """
    check_file(path, "the experiment's design")
    try:
        content = loadmat(path, variable_names=["masterordering", "subjectim", "sharedix"])
    except DAMAGED as error:
        raise InputError(path, expected="a MATLAB file", found=short(error)) from error
    missing = [key for key in ("masterordering", "subjectim", "sharedix") if key not in content]
    if missing:
        raise InputError(
            path, expected="variables masterordering, subjectim, sharedix", found=f"no {', '.join(missing)}"
        )
    order = np.asarray(content["masterordering"], np.int64).ravel() - 1
    images = np.atleast_2d(np.asarray(content["subjectim"], np.int64)) - 1
    shared = np.asarray(content["sharedix"], np.int64).ravel() - 1
    for name, values, limit, unit in (
        ("masterordering", order, images.shape[1], "images of a subject"),
        ("subjectim", images, n_stimuli, "images in nsd_stimuli.hdf5"),
        ("sharedix", shared, n_stimuli, "images in nsd_stimuli.hdf5"),
    ):
        outside = values[(values < 0) | (values >= limit)]
        if outside.size:
            raise InputError(
                path,
                expected=f"{name} from 1 to {limit} ({limit} {unit})",
                found=f"image id {int(outside[0]) + 1}",
            )
    return Design(order, images, shared)


def read_behaviour(path: Path) -> pd.DataFrame | None:
    """Read RUN, 73KID and, where it is there, TIME of responses.tsv, or return None where that is missing."""
    if not path.is_file():
        return None
    table = read_table(path, ())
    missing = [column for column in ("SESSION", "RUN", "TRIAL", "73KID") if column not in table.columns]
    if missing:
        raise InputError(
            path, expected="columns SESSION, RUN, TRIAL, 73KID", found=f"no {', '.join(missing)}"
        )
    numbers = {column: read_whole_numbers(path, table, column) for column in ("RUN", "73KID")}
    if "TIME" in table.columns:
        numbers["TIME"] = read_numbers(path, table, "TIME")
    return pd.DataFrame(numbers)


def read_volume(path: Path, what: str) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Return a volume's values and affine."""
    image = open_volume(path, what)
    return read_values(path, image, what), np.asarray(image.affine)


def read_label_table(path: Path) -> dict[int, str]:
    """Read a label table: value and name separated by spaces, further columns ignored; 0 is no label."""
    table: dict[int, str] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(path, expected="a text table of values and names", found=short(error)) from error
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) < 2 or not re.fullmatch(r"-?\d+", words[0]):
            raise InputError(
                path, expected="lines of a whole number and a name", found=f"line {number}: {line.strip()!r}"
            )
        if int(words[0]) > 0:
            table[int(words[0])] = words[1]
    return table


def read_rois(
    layout: Layout, shape: tuple[int, ...] | None = None
) -> tuple[dict[str, NDArray[np.bool_]], NDArray[np.float64] | None, list[str]]:
    """Read every region of the subject's `roi` folder by name.

    Each file is itself a region (all its labels together). A region's name is the one in its label table; where two files
    use a name, the later one (in alphabetical order) becomes ``<file>:<name>``; values without a name become
    ``<file>:<value>``. `nsdgeneral` and other binary masks have no table. ``lh.`` and ``rh.`` halves are left out.

    Returns
    -------
    regions : dict of str to array of bool of shape (x, y, z)
    affine : array of shape (4, 4), or None without any file
    warnings : list of str
    """
    folder = layout.functional / "roi"
    if not folder.is_dir():
        raise InputError(folder, expected="a folder of roi/*.nii.gz", found="nothing there")
    regions: dict[str, NDArray[np.bool_]] = {}
    warnings: list[str] = []
    affine: NDArray[np.float64] | None = None
    for path in sorted(folder.glob("*.nii.gz")):
        file = path.name.removesuffix(".nii.gz")
        if file.startswith(("lh.", "rh.")):
            continue
        values, file_affine = read_volume(path, "a mask of regions")
        if shape is None:
            shape = values.shape
        if values.shape != shape:
            raise InputError(path, expected=f"a volume of shape {shape}", found=f"shape {values.shape}")
        if affine is None or file == "nsdgeneral":
            affine = file_affine
        regions[file] = values > 0
        table_path = layout.labels / f"{file}.mgz.ctab"
        present = {int(v) for v in np.unique(values) if v > 0}
        if not table_path.is_file():
            if present - {1}:
                warnings.append(
                    f"{path.name} has no label table {table_path.name}: its regions are named by number"
                )
                for value in sorted(present):
                    regions[f"{file}:{value}"] = values == value
            continue
        table = read_label_table(table_path)
        for value in sorted(present | set(table)):
            name = table.get(value, f"{file}:{value}")
            regions[name if name not in regions else f"{file}:{name}"] = values == value
    return regions, affine, warnings


def compute_runs(n_trials: int, n_runs: int = RUNS_A_SESSION) -> NDArray[np.int64]:
    """Return the run (from 1) of each trial of a session whose runs are as equal as they can be, longer ones alternating."""
    short, longer = divmod(n_trials, n_runs)
    first_odd = sorted(range(n_runs), key=lambda k: (k % 2, k))
    lengths = [short + (k in first_odd[:longer]) for k in range(n_runs)]
    return np.repeat(np.arange(1, n_runs + 1), lengths)


def region_mask(regions: Mapping[str, NDArray[np.bool_]], names: list[str], where: Path) -> NDArray[np.bool_]:
    """Return the union of regions by name; unknown and empty ones are an `InputError`."""
    mask: NDArray[np.bool_] | None = None
    for name in names:
        check_option("roi", name, regions)
        mask = regions[name].copy() if mask is None else mask | regions[name]
    if mask is None or not mask.any():
        raise InputError(
            where, expected=f"voxels in roi {', '.join(names) or '(none named)'}", found="an empty region"
        )
    return mask


def short(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
