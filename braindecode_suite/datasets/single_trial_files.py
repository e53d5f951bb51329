"""Single-trial betas as a BIDS derivative: written whole, read back row by row.

::

    dataset_description.json
    sub-01/func/sub-01_task-x_space-y_desc-singletrial_betas.h5      betas (trials, responses, voxels), float32, and more
    sub-01/func/sub-01_task-x_space-y_desc-singletrial_betas.json    how they were made; written last
    sub-01/func/sub-01_task-x_space-y_desc-singletrial_events.tsv    a row a trial
    sub-01/func/sub-01_task-x_space-y_desc-brain_mask.nii.gz         which voxels, in C order
    sub-01/func/sub-01_task-x_space-y_stat-ncsnr_statmap.nii.gz      where stimuli repeat

On the surface the last two are ``sub-01_task-x_hemi-L_space-y_desc-brain_mask.shape.gii`` and
``..._hemi-L_space-y_stat-ncsnr_statmap.shape.gii``, and the same for ``hemi-R``; units are left vertices, then right ones.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any
from xml.parsers import expat

import h5py
import nibabel as nib
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from braindecode_suite.core.checks import check_file
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.files import write_aside, write_json
from braindecode_suite.core.noise import nsd_ncsnr, repeat_variances
from braindecode_suite.core.spaces import HEMISPHERES, SurfaceSpace, VoxelSpace
from braindecode_suite.datasets.bids_layout import NATIVE, read_json
from braindecode_suite.datasets.lab_files import DAMAGED, one_line, read_table
from braindecode_suite.datasets.volumes import check_grid, open_volume, read_mask
from braindecode_suite.learning.single_trial_glm import choose_response

SUFFIX = "_desc-singletrial_betas"
MASK, NCSNR = "desc-brain_mask", "stat-ncsnr_statmap"
BLOCK_BYTES = 2**26
_NUMBERS = ("repeat", "onset", "duration", "run_seconds")


@dataclass(frozen=True)
class BetaFiles:
    """Names of one participant's files.

    Attributes
    ----------
    folder : Path
        ``sub-01/func`` of the derivative.
    stem : str
        What all names begin with.
    """

    folder: Path
    stem: str

    @classmethod
    def of(cls, root: Path, subject: str, task: str, space: str) -> BetaFiles:
        """Return the names below a derivative's root."""
        place = "" if space == NATIVE else f"_space-{space.replace(':', '_')}"
        return cls(root / f"sub-{subject}" / "func", f"sub-{subject}{f'_task-{task}' if task else ''}{place}")

    @property
    def betas(self) -> Path:
        """The HDF5 file."""
        return self.folder / f"{self.stem}{SUFFIX}.h5"

    @property
    def sidecar(self) -> Path:
        """The JSON sidecar; it is there only when all other files are."""
        return self.betas.with_suffix(".json")

    @property
    def events(self) -> Path:
        """The table of trials."""
        return self.folder / f"{self.stem}_desc-singletrial_events.tsv"

    @property
    def mask(self) -> Path:
        """The brain mask of a volume."""
        return self.folder / f"{self.stem}_desc-brain_mask.nii.gz"

    @property
    def ncsnr(self) -> Path:
        """Signal over noise of each voxel."""
        return self.folder / f"{self.stem}_stat-ncsnr_statmap.nii.gz"

    def of_hemisphere(self, side: str, what: str) -> Path:
        """Return a GIFTI file of one hemisphere: ``desc-brain_mask`` or ``stat-ncsnr_statmap``."""
        start, space, rest = self.stem.partition("_space-")
        return self.folder / f"{start}_hemi-{side[0].upper()}{space}{rest}_{what}.shape.gii"


def find_betas(root: Path, subject: str) -> list[BetaFiles]:
    """Return the finished betas of one participant below a derivative's root."""
    folder = root / f"sub-{subject}" / "func"
    files = [
        BetaFiles(folder, p.name.removesuffix(f"{SUFFIX}.h5")) for p in sorted(folder.glob(f"*{SUFFIX}.h5"))
    ]
    return [one for one in files if one.sidecar.is_file()]


@dataclass(frozen=True, eq=False)
class SingleTrialBetas:
    """Rows of the HDF5 file, made the first time one is asked for if they are not there.

    Attributes
    ----------
    files : BetaFiles
    shape : tuple of int
        (trials, voxels)
    n_responses : int
        Haemodynamic responses stored beside each other.
    default : int
        The one that is read where none has been chosen.
    make : callable or None
        Writes the files.
    key : str
        What the sidecar's ``InputHash`` must be; betas of other inputs are made again. Empty takes what is there.
    chosen : int array of shape (voxels,) or None
        The response read in each voxel; see `tuned`. Their betas are gathered once into a temporary file, which goes with this
        object: a row would otherwise have to be picked from those of all responses each time.
    scratch : Path or None
        Folder of that file; the system's own by default.
    opened : dict
        The memory maps, once a row has been read.
    """

    files: BetaFiles
    shape: tuple[int, ...]
    n_responses: int = 1
    default: int = 0
    make: Callable[[], None] | None = None
    key: str = ""
    chosen: NDArray[np.int64] | None = None
    scratch: Path | None = None
    opened: dict[str, NDArray[np.float32]] = field(default_factory=dict, repr=False)

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32, percent signal change."""
        return np.dtype(np.float32)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> NDArray[np.float32]:
        if self.chosen is None:
            return np.asarray(self._map()[:, self.default][rows])
        return np.asarray(self._chosen_rows(self.chosen)[rows])

    def __getstate__(self) -> dict[str, Any]:
        """Leave the memory map out: a copy in another process opens its own."""
        return {**self.__dict__, "opened": {}}

    def tuned(self, trials: pd.DataFrame, train_rows: NDArray[np.integer]) -> SingleTrialBetas:
        """Choose the haemodynamic response of each voxel on training runs: the one that explains most of their series.

        Parameters
        ----------
        trials : DataFrame
        train_rows : int array

        Raises
        ------
        InputError
            If no run lies wholly within the training rows: the series of a run cannot be divided between trials.
        """
        if self.n_responses == 1:
            return self
        self.prepare()
        run_of, explained, total = (self._read(name) for name in ("run", "explained", "total"))
        held_out = np.delete(run_of, np.asarray(train_rows))
        runs = np.setdiff1d(run_of, held_out)
        if not len(runs):
            raise InputError(
                "option hrf",
                expected="whole runs for training, to choose the haemodynamic response in",
                found="runs divided between training and held-out trials",
                hint="split by run, or take hrf=glover",
            )
        return replace(self, chosen=choose_response(explained[runs], total[runs]), opened={})

    def prepare(self) -> SingleTrialBetas:
        """Write the files if they are not there, or were made of other inputs."""
        if not self.is_prepared:
            if self.make is None:
                raise InputError(self.files.betas, expected="finished betas", found="no sidecar beside them")
            self.make()
        return self

    @property
    def is_prepared(self) -> bool:
        """Whether the files are there, whole and of these inputs."""
        if not (self.files.sidecar.is_file() and self.files.betas.is_file()):
            return False
        return not self.key or read_json(self.files.sidecar).get("InputHash") == self.key

    @property
    def valid(self) -> NDArray[np.bool_]:
        """Voxels with a signal in every run, of shape (voxels,); prepares first."""
        self.prepare()
        return self._read("valid").astype(bool)

    def _read(self, name: str) -> NDArray[Any]:
        with self._open() as file:
            return np.asarray(file[name])

    @contextmanager
    def _open(self) -> Iterator[Any]:
        try:
            with h5py.File(self.files.betas, "r") as file:
                yield file
        except InputError:
            raise
        except DAMAGED as error:
            raise InputError(self.files.betas, expected="a whole HDF5 file", found=one_line(error)) from error

    def _map(self) -> NDArray[np.float32]:
        if "betas" not in self.opened:
            self.prepare()
            with self._open() as file:
                shape, offset = check_content(self.files.betas, file, len(self), self.shape[1])
            if shape[1] != self.n_responses:
                raise InputError(
                    self.files.betas, expected=f"{self.n_responses} responses", found=str(shape[1])
                )
            self.opened["betas"] = np.memmap(self.files.betas, np.float32, "r", offset, shape)
        return self.opened["betas"]

    def _chosen_rows(self, chosen: NDArray[np.int64]) -> NDArray[np.float32]:
        if "chosen" not in self.opened:
            stored = self._map().view(np.ndarray).reshape(len(self), -1)
            places = chosen * self.shape[1] + np.arange(self.shape[1])  # in a trial's (responses, voxels)
            if self.scratch is not None:
                self.scratch.mkdir(parents=True, exist_ok=True)
            with TemporaryFile(dir=self.scratch) as file:
                rows = np.memmap(file, np.float32, "w+", shape=(len(self), self.shape[1]))
            for row, trial in zip(rows, stored, strict=True):
                row[:] = trial[places]
            self.opened["chosen"] = rows
        return self.opened["chosen"]


def check_content(path: Path, file: Any, n_trials: int, n_voxels: int) -> tuple[tuple[int, int, int], int]:
    """Return the shape of the betas and where they begin in the file.

    Raises
    ------
    InputError
        If the dataset is absent, not float32, of another size, or the file ends before it does.
    """
    if "betas" not in file:
        raise InputError(path, expected="a dataset 'betas'", found=", ".join(file) or "an empty file")
    betas = file["betas"]
    fits = betas.ndim == 3 and betas.shape[0] == n_trials and betas.shape[2] == n_voxels
    if not fits or betas.dtype != np.dtype("<f4"):
        raise InputError(
            path,
            expected=f"betas of shape (trials={n_trials}, responses, voxels={n_voxels}), float32",
            found=f"{betas.shape}, {betas.dtype}",
        )
    offset = betas.id.get_offset()
    if offset is None:
        raise InputError(path, expected="betas stored as one block", found="chunks or nothing")
    if path.stat().st_size < offset + betas.size * 4:
        raise InputError(path, expected="a whole HDF5 file", found="a file that ends early")
    a, b, c = betas.shape
    return (int(a), int(b), int(c)), int(offset)


def write_derivative(
    files: BetaFiles,
    fill: Callable[[Any], dict[str, Any]],
    *,
    trials: pd.DataFrame,
    space: VoxelSpace | SurfaceSpace,
    n_responses: int,
    default: int,
    sidecar: dict[str, Any],
) -> None:
    """Write all files of one participant, each aside and then renamed, the sidecar last.

    Parameters
    ----------
    files : BetaFiles
    fill : callable
        Gets the open HDF5 file with an empty dataset ``betas`` (trials, responses, voxels), fills it, adds ``run``,
        ``valid``, ``explained`` and ``total``, and returns what else the sidecar should say.
    trials : DataFrame
    space : VoxelSpace or SurfaceSpace
    n_responses, default : int
    sidecar : dict
    """
    root = files.folder.parent.parent
    if not (root / "dataset_description.json").is_file():
        write_json(
            root / "dataset_description.json",
            {
                "Name": "Single-trial responses",
                "BIDSVersion": "1.9.0",
                "DatasetType": "derivative",
                "GeneratedBy": [{"Name": "braindecode_suite"}],
            },
        )
    shape = (len(trials), n_responses, space.n_units)
    with write_aside(files.betas) as aside, h5py.File(aside, "w") as file:
        file.create_dataset("betas", shape, np.float32)
        sidecar = sidecar | fill(file)
        signal = _ncsnr_by_blocks(file["betas"], default, trials)
    with write_aside(files.events) as aside:
        trials.to_csv(aside, sep="\t", index=False, na_rep="n/a")
    if isinstance(space, SurfaceSpace):
        _write_on_surface(files, space, signal)
    else:
        _write_in_volume(files, space, signal)
    write_json(files.sidecar, sidecar)


def _write_in_volume(files: BetaFiles, space: VoxelSpace, signal: NDArray[np.float32] | None) -> None:
    _write_volume(files.mask, space.mask.astype(np.uint8), space.affine)
    files.ncsnr.unlink(missing_ok=True)
    if signal is not None:
        _write_volume(files.ncsnr, space.unmask(signal), space.affine)


def _write_volume(path: Path, values: NDArray[Any], affine: NDArray[np.float64]) -> None:
    image: Any = nib.Nifti1Image(values, affine)
    image.header.set_xyzt_units("mm", "sec")
    with write_aside(path) as aside:
        aside.write_bytes(gzip.compress(image.to_bytes(), mtime=0))


def _write_on_surface(files: BetaFiles, space: SurfaceSpace, signal: NDArray[np.float32] | None) -> None:
    masks = space.unmask(np.ones(space.n_units, np.float32), fill=0)
    maps = {} if signal is None else space.inverse_transform(signal)
    for side in HEMISPHERES:
        structure = nib.gifti.GiftiMetaData({"AnatomicalStructurePrimary": f"Cortex{side.capitalize()}"})
        array = nib.gifti.GiftiDataArray(
            masks[side].astype(np.float32), intent="NIFTI_INTENT_SHAPE", datatype="NIFTI_TYPE_FLOAT32"
        )
        with write_aside(files.of_hemisphere(side, MASK)) as aside:
            nib.gifti.GiftiImage(darrays=[array], meta=structure).to_filename(aside)
        path = files.of_hemisphere(side, NCSNR)
        path.unlink(missing_ok=True)
        if side in maps:
            with write_aside(path) as aside:
                maps[side].to_filename(aside)


def read_place(files: BetaFiles, name: str, mesh: str) -> VoxelSpace | SurfaceSpace:
    """Read where the units of a derivative lie.

    Parameters
    ----------
    files : BetaFiles
    name, mesh : str
        What a volume's grid, or a surface's mesh, is called.
    """
    sides = {side: files.of_hemisphere(side, MASK) for side in HEMISPHERES}
    if not any(path.is_file() for path in sides.values()):
        mask, affine = read_mask(files.mask, "the mask of the betas")
        return VoxelSpace(mask, affine, name=name)
    members = {side: _read_shape(path, "the mask of the betas") > 0 for side, path in sides.items()}
    return SurfaceSpace(members["left"], members["right"], mesh=mesh)


def read_ncsnr(files: BetaFiles, space: VoxelSpace | SurfaceSpace) -> NDArray[np.float32] | None:
    """Read signal over noise of every unit, None where no map was written."""
    if isinstance(space, SurfaceSpace):
        paths = [files.of_hemisphere(side, NCSNR) for side in HEMISPHERES]
        if not any(path.is_file() for path in paths):
            return None
        parts = []
        for path, member in zip(paths, (space.left, space.right), strict=True):
            values = _read_shape(path, "signal over noise")
            if len(values) != len(member):
                raise InputError(path, expected=f"{len(member)} vertices", found=str(len(values)))
            parts.append(values[member])
        return np.concatenate(parts)
    if not files.ncsnr.is_file():
        return None
    image = open_volume(files.ncsnr, "signal over noise")
    grid = space.inverse_transform(np.zeros(space.n_units))
    check_grid(files.ncsnr, image.shape, np.asarray(image.affine, float), files.mask, grid)
    return np.asarray(image.dataobj, np.float32)[space.mask]


def _read_shape(path: Path, what: str) -> NDArray[np.float32]:
    check_file(path, what)
    try:
        image: Any = nib.gifti.GiftiImage.from_filename(path)
        return np.asarray(image.darrays[0].data, np.float32)
    except (*DAMAGED, expat.ExpatError, IndexError) as error:
        raise InputError(path, expected=f"{what} as GIFTI", found=one_line(error)) from error


def _ncsnr_by_blocks(betas: Any, default: int, trials: pd.DataFrame) -> NDArray[np.float32] | None:
    """Go through the voxels in blocks: a study may have more betas than memory."""
    step = max(BLOCK_BYTES // (8 * len(trials)), 1)
    blocks = [
        ncsnr(betas[:, default, start : start + step], trials) for start in range(0, betas.shape[2], step)
    ]
    found = [block for block in blocks if block is not None]
    return np.concatenate(found) if found else None


def ncsnr(betas: NDArray[np.floating], trials: pd.DataFrame) -> NDArray[np.float32] | None:
    """Return signal over noise of each voxel as NSD defines it, on betas z-scored within session (`nsd_ncsnr`).

    Parameters
    ----------
    betas : array of shape (trials, voxels)
    trials : DataFrame

    Returns
    -------
    array of float32 of shape (voxels,) or None
        None where fewer than three trials repeat a stimulus; 0 in voxels without variance.
    """
    if len(trials) - trials["stimulus_id"].nunique() < 3 or trials["stimulus_id"].nunique() < 2:
        return None
    values = np.array(betas, np.float64)
    for rows in trials.groupby("session", sort=False).indices.values():
        values[rows] -= values[rows].mean(axis=0)
        deviation = values[rows].std(axis=0)
        values[rows] /= np.where(deviation > 0, deviation, np.inf)
    found = nsd_ncsnr(repeat_variances(values, trials["stimulus_id"].to_numpy(dtype=object)))
    return np.nan_to_num(found, nan=0.0, posinf=0.0).astype(np.float32)


def read_trials(path: Path) -> pd.DataFrame:
    """Read the table of trials back as it was."""
    table = read_table(path, ["stimulus_id", "session", "run", "repeat", "onset"])
    for column in _NUMBERS:
        if column in table.columns:
            table[column] = pd.to_numeric(table[column], errors="coerce")
    table["repeat"] = table["repeat"].astype(int)
    return plain_labels(table)


def plain_labels(trials: pd.DataFrame) -> pd.DataFrame:
    """Return trials whose sessions and runs are whole numbers wherever all labels are."""
    trials = trials.astype({"stimulus_id": object})
    for column in ("session", "run"):
        labels = trials[column].astype(str)
        whole = labels.str.fullmatch(r"\d+").all()
        trials[column] = labels.astype(int) if whole else labels.astype(object)
    return trials
