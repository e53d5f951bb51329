"""Betas that GLMsingle has estimated (Prince et al. 2022, eLife 11, e77599), from its Python version's HDF5 files.

Known of the format: ``TYPED_FITHRF_GLMDENOISE_RR.hdf5`` (or types C and B) holds ``betasmd`` of shape (x, y, z, trials), in the
order in which the trials were shown, run after run. Where the files lie is the user's choice; everything is held against
the BIDS design. Its ``.npy`` files are pickled and are never read, MATLAB's are not either.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from braindecode_suite.core.errors import InputError
from braindecode_suite.core.files import data_hash
from braindecode_suite.core.spaces import VoxelSpace
from braindecode_suite.datasets.bids_layout import RunFiles
from braindecode_suite.datasets.lab_files import DAMAGED, check_inside, one_line
from braindecode_suite.datasets.single_trial_files import BetaFiles, write_derivative

TYPES = ("TYPED_FITHRF_GLMDENOISE_RR", "TYPEC_FITHRF_GLMDENOISE", "TYPEB_FITHRF")
TUNED = (
    "GLMsingle betas: haemodynamic response, noise regressors and ridge were tuned on all trials, by cross-validation over "
    "repeats that include test images"
)


def find_outputs(data_dir: Path, folder: str, subject: str) -> list[Path]:
    """Return GLMsingle's output folders of one participant: ``sub-01``, or one a session, ``sub-01/ses-01``.

    Parameters
    ----------
    data_dir : Path
    folder : str
        Relative to `data_dir`, or absolute; ``derivatives/glmsingle`` where empty.
    subject : str
    """
    home = data_dir / (folder or "derivatives/glmsingle") / f"sub-{subject}"
    places = [home, *sorted(home.glob("ses-*"))]
    found = [
        place
        for place in places
        if any((place / f"{name}{end}").is_file() for name in TYPES for end in (".hdf5", ".npy"))
    ]
    return [place if folder else check_inside(data_dir, place) for place in found]


def pick_file(folder: Path) -> Path:
    """Return the most refined type of betas in a folder, as HDF5.

    Raises
    ------
    InputError
        If there are only pickled ``.npy`` files.
    """
    for name in TYPES:
        if (folder / f"{name}.hdf5").is_file():
            return folder / f"{name}.hdf5"
    pickled = sorted(folder.glob("TYPE*.npy"))
    raise InputError(
        pickled[0] if pickled else folder,
        expected=f"GLMsingle's betas as HDF5 ({TYPES[0]}.hdf5)",
        found="a pickled dictionary" if pickled else "none",
        hint="pickled files can run code and are not read: run GLMsingle with wanthdf5=1",
    )


@dataclass(frozen=True, eq=False, kw_only=True)
class Conversion:
    """Masked rows of GLMsingle's volumes, written as a derivative.

    Attributes
    ----------
    sources : tuple of (Path, int)
        Each file and how many trials the design has for it, in order.
    space : VoxelSpace
    files, trials, run_of_trial
        As for `Estimation`; ``run_of_trial`` is an int array of shape (trials,).
    """

    sources: tuple[tuple[Path, int], ...]
    space: VoxelSpace
    files: BetaFiles
    trials: pd.DataFrame
    run_of_trial: NDArray[np.int64]

    @property
    def key(self) -> str:
        """Hash of name, size and time of the files, of mask and trials."""
        stamps = [[str(p), p.stat().st_size, p.stat().st_mtime_ns] for p, _ in self.sources]
        return data_hash(stamps, self.space.mask, self.trials.to_csv())

    def check(self) -> Conversion:
        """Read the headers and hold them against the design and the mask."""
        for path, expected in self.sources:
            try:
                with h5py.File(path, "r") as file:
                    if "betasmd" not in file:
                        raise InputError(
                            path, expected="a dataset 'betasmd'", found=", ".join(file) or "nothing"
                        )
                    shape = tuple(int(n) for n in file["betasmd"].shape)
            except InputError:
                raise
            except DAMAGED as error:
                raise InputError(path, expected="a whole HDF5 file", found=one_line(error)) from error
            if shape != (*self.space.mask.shape, expected):
                raise InputError(
                    path,
                    expected=f"betasmd of shape {(*self.space.mask.shape, expected)}: the BOLD's grid and the design's trials",
                    found=str(shape),
                )
        return self

    def write(self) -> None:
        """Write the derivative."""
        write_derivative(
            self.files,
            self._fill,
            trials=self.trials,
            space=self.space,
            n_responses=1,
            default=0,
            sidecar={
                "Description": "Responses estimated by GLMsingle, rows of the brain mask",
                "Units": "percent signal change",
                "Estimator": "glmsingle",
                "HaemodynamicResponses": ["glmsingle"],
                "DefaultResponse": 0,
                "Sources": [path.name for path, _ in self.sources],
                "TunedOnTest": TUNED,
                "InputHash": self.key,
            },
        )

    def _fill(self, file: Any) -> dict[str, Any]:
        valid = np.ones(int(self.space.mask.sum()), bool)
        columns = np.cumsum([0, *self.space.mask.sum(axis=(1, 2))])
        start = 0
        for path, n_trials in self.sources:
            try:
                with h5py.File(path, "r") as source:
                    for x in np.flatnonzero(np.diff(columns)):
                        some = np.asarray(source["betasmd"][int(x)], np.float32)[
                            self.space.mask[x]
                        ]  # (voxels, trials)
                        here = slice(int(columns[x]), int(columns[x + 1]))
                        finite = np.isfinite(some).all(axis=1)
                        valid[here] &= finite & (np.ptp(np.where(np.isfinite(some), some, 0), axis=1) > 0)
                        file["betas"][start : start + n_trials, 0, here] = np.where(
                            finite[:, None], some, 0
                        ).T
            except DAMAGED as error:
                raise InputError(path, expected="a whole HDF5 file", found=one_line(error)) from error
            start += n_trials
        file["run"] = self.run_of_trial
        file["valid"] = valid.astype(np.uint8)
        return {"VoxelsWithoutSignal": int((~valid).sum())}


def match_runs(
    outputs: Sequence[Path], runs: Sequence[RunFiles], counts: Sequence[int]
) -> tuple[tuple[Path, int], ...]:
    """Return each file with the number of trials that the design has for it.

    Parameters
    ----------
    outputs : sequence of Path
        See `find_outputs`: one folder for all runs, or one a session.
    runs : sequence of RunFiles
    counts : sequence of int
        Trials of each run.

    Raises
    ------
    InputError
        If sessions and folders do not match.
    """
    by_session = [place for place in outputs if place.name.startswith("ses-")]
    whole = [place for place in outputs if not place.name.startswith("ses-")]
    if whole:
        return ((pick_file(whole[0]), sum(counts)),)
    sessions = list(dict.fromkeys(run.session for run in runs))
    places = {place.name.removeprefix("ses-"): place for place in by_session}
    missing = [session for session in sessions if session not in places]
    if missing:
        raise InputError(
            by_session[0].parent if by_session else "estimator glmsingle",
            expected=f"GLMsingle's outputs for session {missing[0]}",
            found=", ".join(place.name for place in by_session) or "none",
        )
    total = {s: sum(n for run, n in zip(runs, counts, strict=True) if run.session == s) for s in sessions}
    return tuple((pick_file(places[session]), total[session]) for session in sessions)
