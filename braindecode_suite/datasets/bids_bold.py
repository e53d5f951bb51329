"""The BOLD of a run: its header beside its sidecar and mask, and its series inside a mask in one pass."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from braindecode_suite.core.errors import InputError
from braindecode_suite.datasets.bids_layout import RunFiles
from braindecode_suite.datasets.volumes import check_grid, open_volume, read_inside, read_mask, scale

TR_TOLERANCE = 1e-3


@dataclass(frozen=True, eq=False)
class BoldHeader:
    """What header and sidecar say of a run.

    Attributes
    ----------
    path : Path
    image : NIfTI image
        Its values have not been read.
    t_r, start_time : float
        Seconds from volume to volume, and the time within each that slice timing was corrected to.
    warnings : tuple of str
    """

    path: Path
    image: Any
    t_r: float
    start_time: float
    warnings: tuple[str, ...] = ()

    @property
    def n_volumes(self) -> int:
        """Number of volumes."""
        return int(self.image.shape[3])

    @property
    def frame_times(self) -> NDArray[np.float64]:
        """Seconds at which each volume was taken, of shape (volumes,)."""
        return self.start_time + self.t_r * np.arange(self.n_volumes, dtype=np.float64)


def read_bold_header(run: RunFiles) -> BoldHeader:
    """Read the header of a run and hold it against the sidecars.

    Raises
    ------
    InputError
        If the file is no 4-D NIfTI, states another repetition time than its sidecar, or places left and right
        differently in its two transforms.
    """
    image = open_volume(run.bold, "preprocessed BOLD")
    if len(image.shape) != 4 or image.shape[3] < 2:
        raise InputError(run.bold, expected="a run of 4 dimensions", found=f"shape {tuple(image.shape)}")
    _check_handedness(run.bold, image)
    in_header = float(image.header.get_zooms()[3])
    if image.header.get_xyzt_units()[1] == "msec":
        in_header /= 1000
    warnings: tuple[str, ...] = ()
    if "RepetitionTime" in run.metadata:
        t_r = seconds_of(run, "RepetitionTime", 0.0)
        if abs(in_header - t_r) > TR_TOLERANCE:
            raise InputError(
                run.bold,
                expected=f"a repetition time of {t_r:g} s, as in {run.sidecars[0].name}",
                found=f"{in_header:g} s in the header",
            )
    else:
        t_r = in_header
        warnings = (f"{run.name}: no sidecar states the repetition time, {t_r:g} s taken from the header",)
    if not t_r > 0:
        raise InputError(run.bold, expected="a repetition time above 0", found=f"{t_r:g} s")
    return BoldHeader(run.bold, image, t_r, seconds_of(run, "StartTime", 0.0), warnings)


def seconds_of(run: RunFiles, key: str, default: float) -> float:
    """Return a number of the sidecars; anything else there is an `InputError`."""
    value = run.metadata.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(run.sidecars[0], expected=f"{key} in seconds", found=repr(value))
    return float(value)


def _check_handedness(path: Path, image: Any) -> None:
    """Refuse a file whose sform and qform are mirror images: nobody can say which side is left."""
    sform, sform_code = image.header.get_sform(coded=True)
    qform, qform_code = image.header.get_qform(coded=True)
    if sform_code > 0 and qform_code > 0 and np.linalg.det(sform[:3, :3]) * np.linalg.det(qform[:3, :3]) < 0:
        raise InputError(
            path,
            expected="sform and qform with left and right on the same sides",
            found=f"{''.join(nib.aff2axcodes(sform))} and {''.join(nib.aff2axcodes(qform))}",
            hint="left and right are flipped in one of them",
        )


def read_brain_mask(
    runs: list[RunFiles], headers: list[BoldHeader], mask: str = ""
) -> tuple[NDArray[np.bool_], Any]:
    """Return voxels that are in the brain in every run, or in the mask named, and their affine.

    Parameters
    ----------
    runs, headers : list
    mask : str
        A NIfTI file on the grid of the BOLD; the intersection of the runs' brain masks where empty.

    Raises
    ------
    InputError
        If runs or masks do not lie on one grid, naming flipped axes.
    """
    first = headers[0]
    for header in headers[1:]:
        check_grid(
            header.path,
            header.image.shape[:3],
            np.asarray(header.image.affine, float),
            first.path,
            first.image,
        )
    inside = np.ones(first.image.shape[:3], bool)
    for path in [Path(mask)] if mask else [run.mask for run in runs if run.mask is not None]:
        values, affine = read_mask(path, "a brain mask")
        check_grid(path, values.shape, affine, first.path, first.image)
        inside &= values
    if not inside.any():
        raise InputError(
            str(runs[0].mask), expected="voxels that are in the brain in every run", found="none"
        )
    return inside, np.asarray(first.image.affine, float)


def read_series(header: BoldHeader, mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Read a run inside a mask, a volume at a time.

    Parameters
    ----------
    header : BoldHeader
    mask : array of bool of shape (x, y, z)

    Returns
    -------
    array of float32 of shape (volumes, voxels)
        Voxels in C order of the mask.

    Raises
    ------
    InputError
        If the file ends early, is damaged, or holds NaN or infinity inside the mask.
    """
    image, path = header.image, header.path
    series = scale(read_inside(path, image, mask, np.float32), image)
    bad = ~np.isfinite(series)
    if bad.any():
        volume, voxel = np.argwhere(bad)[0]
        place = tuple(int(i) for i in np.argwhere(mask)[voxel])
        raise InputError(
            path,
            expected="finite BOLD inside the mask",
            found=f"{int(bad.sum())} NaN or infinite values, the first in voxel {place}, volume {int(volume) + 1}",
        )
    return series
