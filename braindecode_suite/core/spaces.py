"""Where a unit lies: the way back from a vector of units to the brain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from braindecode_suite.core.checks import check_option, check_shape
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.files import data_hash

if TYPE_CHECKING:
    import nibabel as nib


@runtime_checkable
class Space(Protocol):
    """What every space can tell: how many units, which ROIs, who it is, and the way back."""

    @property
    def rois(self) -> Mapping[str, np.ndarray]: ...

    @property
    def n_units(self) -> int: ...

    def describe(self) -> dict[str, Any]: ...

    def inverse_transform(self, values: np.ndarray) -> Any: ...


def check_rois(rois: Mapping[str, np.ndarray], n_units: int) -> None:
    """Raise unless every ROI is a boolean vector over the units."""
    for name, member in rois.items():
        check_shape(f"rois[{name!r}]", member, "units", units=n_units)
        if member.dtype != np.bool_:
            raise InputError(f"`rois[{name!r}]`", expected="booleans", found=str(member.dtype))


@dataclass(frozen=True, eq=False)
class VoxelSpace:
    """Voxels of a volume inside a mask, in C order of the mask's array.

    Attributes
    ----------
    mask : array of bool of shape (x, y, z)
    affine : array of shape (4, 4)
        Voxel indices to millimetres.
    rois : dict of str to array of bool of shape (voxels,)
        Regions by name; they may overlap and may be empty.
    name : str
        Name of the grid, e.g. ``func1pt8mm``.
    """

    mask: np.ndarray
    affine: np.ndarray
    rois: Mapping[str, np.ndarray] = field(default_factory=dict)
    name: str = "voxels"

    def __post_init__(self) -> None:
        check_shape("mask", self.mask, "x y z")
        check_shape("affine", self.affine, "rows columns", rows=4, columns=4)
        check_rois(self.rois, self.n_units)

    @property
    def n_units(self) -> int:
        """Number of voxels inside the mask."""
        return int(np.count_nonzero(self.mask))

    def describe(self) -> dict[str, Any]:
        """Return what identifies the space: kind, shape and a hash of mask and affine."""
        return {
            "kind": "voxels",
            "name": self.name,
            "shape": list(self.mask.shape),
            "n_units": self.n_units,
            "hash": data_hash(self.mask, np.round(self.affine, 4)),
        }

    def unmask(self, values: np.ndarray, fill: float = 0.0) -> np.ndarray:
        """Put values per voxel back into the volume.

        Parameters
        ----------
        values : array of shape (voxels,) or (maps, voxels)
        fill : float
            Value outside the mask.

        Returns
        -------
        array of shape (x, y, z) or (x, y, z, maps)
        """
        values = np.asarray(values)
        if values.shape[-1:] != (self.n_units,) or values.ndim > 2:
            raise InputError(
                "`values`",
                expected=f"shape (voxels={self.n_units}) or (maps, voxels={self.n_units})",
                found=str(values.shape),
            )
        volume = np.full(self.mask.shape + values.shape[:-1], fill, np.result_type(values.dtype, np.float32))
        volume[self.mask] = values.T
        return volume

    def inverse_transform(self, values: np.ndarray) -> nib.Nifti1Image:
        """Return values per voxel, of shape (voxels,) or (maps, voxels), as a NIfTI image."""
        import nibabel as nib

        return nib.Nifti1Image(self.unmask(values).astype(np.float32), self.affine)


@dataclass(frozen=True, eq=False)
class UnitSpace:
    """Units whose place in the brain is not recorded (a table of responses); ROIs by name where given.

    Attributes
    ----------
    n_units : int
    rois : dict of str to array of bool of shape (units,)
    unit : str
        What one unit is: voxel, channel, parcel...
    """

    n_units: int
    rois: Mapping[str, np.ndarray] = field(default_factory=dict)
    unit: str = "voxel"

    def __post_init__(self) -> None:
        check_rois(self.rois, self.n_units)

    def describe(self) -> dict[str, Any]:
        """Return what identifies the space."""
        return {
            "kind": "units",
            "name": self.unit,
            "n_units": self.n_units,
            "hash": data_hash([self.n_units, self.unit]),
        }

    def inverse_transform(self, values: np.ndarray) -> Any:
        """Refuse: nothing says where these units lie."""
        raise InputError(
            "`space`",
            expected="units with a recorded place",
            found="a table of units",
            hint="give a mask.nii.gz",
        )


def select_rois(space: Space, names: list[str]) -> np.ndarray:
    """Return the union of named ROIs, a boolean vector of shape (units,)."""
    union = np.zeros(space.n_units, bool)
    for name in names:
        check_option("roi", name, space.rois)
        union |= space.rois[name]
    return union
