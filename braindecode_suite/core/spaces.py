"""Where a unit lies: the way back from a vector of units to the brain."""

from __future__ import annotations

from collections import Counter
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

    @property
    def template(self) -> str:
        """Template that the grid lies in, e.g. ``MNI152NLin2009cAsym``; empty for a space of the subject's own."""
        return self.name.split(":")[0] if self.name.startswith("MNI152") else ""

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


MESH_VERTICES = {
    "fsaverage": 163_842,
    "fsaverage6": 40_962,
    "fsaverage5": 10_242,
    "fsaverage4": 2_562,
    "fsaverage3": 642,
    "fsLR-32k": 32_492,
    "fsLR-59k": 59_292,
}
HEMISPHERES = ("left", "right")


@dataclass(frozen=True, eq=False)
class SurfaceSpace:
    """Vertices of a pair of cortical meshes: those of the left hemisphere first, each in the mesh's order.

    Attributes
    ----------
    left, right : array of bool of shape (vertices,)
        Which vertices of the hemisphere's mesh are units.
    rois : dict of str to array of bool of shape (units,)
    mesh : str
        Name of the mesh; those of `MESH_VERTICES` must have their number of vertices.
    """

    left: np.ndarray
    right: np.ndarray
    rois: Mapping[str, np.ndarray] = field(default_factory=dict)
    mesh: str = "fsaverage"

    def __post_init__(self) -> None:
        for side, member in zip(HEMISPHERES, (self.left, self.right), strict=True):
            check_shape(side, member, "vertices")
            if member.dtype != np.bool_:
                raise InputError(f"`{side}`", expected="booleans", found=str(member.dtype))
            wanted = MESH_VERTICES.get(self.mesh, len(member))
            if len(member) != wanted:
                raise InputError(
                    f"`{side}`", expected=f"{wanted} vertices, as {self.mesh} has", found=str(len(member))
                )
        check_rois(self.rois, self.n_units)

    @property
    def n_units(self) -> int:
        """Number of vertices that are units, of both hemispheres."""
        return int(np.count_nonzero(self.left) + np.count_nonzero(self.right))

    def describe(self) -> dict[str, Any]:
        """Return what identifies the space: mesh, number of units, and a hash of the vertices."""
        return {
            "kind": "surface",
            "name": self.mesh,
            "vertices": [len(self.left), len(self.right)],
            "n_units": self.n_units,
            "hash": data_hash([self.mesh], self.left, self.right),
        }

    @property
    def template(self) -> str:
        """The mesh."""
        return self.mesh

    def unmask(self, values: np.ndarray, fill: float = np.nan) -> dict[str, np.ndarray]:
        """Put values per unit back onto the meshes.

        Parameters
        ----------
        values : array of shape (units,) or (maps, units)
        fill : float
            Value of vertices that are no unit.

        Returns
        -------
        dict of ``left`` and ``right`` to array of shape (vertices,) or (maps, vertices)
        """
        values = np.asarray(values)
        if values.shape[-1:] != (self.n_units,) or values.ndim > 2:
            raise InputError(
                "`values`",
                expected=f"shape (units={self.n_units}) or (maps, units={self.n_units})",
                found=str(values.shape),
            )
        cut = int(np.count_nonzero(self.left))
        found = {}
        for side, member, part in (
            ("left", self.left, values[..., :cut]),
            ("right", self.right, values[..., cut:]),
        ):
            full = np.full((*values.shape[:-1], len(member)), fill, np.result_type(values.dtype, np.float32))
            full[..., member] = part
            found[side] = full
        return found

    def inverse_transform(self, values: np.ndarray) -> dict[str, nib.GiftiImage]:
        """Return values of shape (units,) or (maps, units) as one GIFTI image a hemisphere, NaN outside."""
        import nibabel as nib

        images = {}
        for side, full in self.unmask(values).items():
            arrays = [
                nib.gifti.GiftiDataArray(row, intent="NIFTI_INTENT_SHAPE", datatype="NIFTI_TYPE_FLOAT32")
                for row in np.atleast_2d(full).astype(np.float32)
            ]
            structure = {"AnatomicalStructurePrimary": f"Cortex{side.capitalize()}"}
            images[side] = nib.gifti.GiftiImage(darrays=arrays, meta=nib.gifti.GiftiMetaData(structure))
        return images


@dataclass(frozen=True, eq=False)
class ParcelSpace:
    """Parcels of an atlas, in the order of the recordings, and the time between two samples.

    Attributes
    ----------
    atlas : str
    labels : tuple of str
        Name of each parcel; their order is part of the data.
    repetition_time : float
        Seconds.
    rois : dict of str to array of bool of shape (parcels,)
        Networks by name.
    volume : array of int of shape (x, y, z) or None
        Where parcel k has the value k + 1; without it nothing can be drawn.
    affine : array of shape (4, 4) or None
    template : str
        Template that the volume lies in, e.g. ``MNI152NLin6Asym``; empty where it is not known.
    """

    atlas: str
    labels: tuple[str, ...]
    repetition_time: float
    rois: Mapping[str, np.ndarray] = field(default_factory=dict)
    volume: np.ndarray | None = None
    affine: np.ndarray | None = None
    template: str = ""

    def __post_init__(self) -> None:
        if not self.repetition_time > 0:
            raise InputError("`repetition_time`", expected="seconds above 0", found=str(self.repetition_time))
        again = [label for label, n in Counter(self.labels).items() if n > 1]
        if again or not self.labels:
            raise InputError(
                "`labels`",
                expected="one name for each parcel",
                found=f"{again[0]!r} twice" if again else "none",
            )
        check_rois(self.rois, self.n_units)
        if self.volume is None:
            return
        check_shape("volume", self.volume, "x y z")
        if self.affine is None or self.affine.shape != (4, 4):
            found = "none" if self.affine is None else str(self.affine.shape)
            raise InputError("`affine`", expected="shape (4, 4) beside a volume", found=found)
        highest = int(self.volume.max())
        if highest > self.n_units or self.volume.min() < 0:
            raise InputError(
                "`volume`", expected=f"values from 0 to {self.n_units}, one a parcel", found=str(highest)
            )

    @property
    def n_units(self) -> int:
        """Number of parcels."""
        return len(self.labels)

    def describe(self) -> dict[str, Any]:
        """Return what identifies the space: atlas, order of parcels and repetition time."""
        return {
            "kind": "parcels",
            "name": self.atlas,
            "n_units": self.n_units,
            "repetition_time": self.repetition_time,
            "hash": data_hash([self.atlas, list(self.labels), self.repetition_time]),
        }

    def inverse_transform(self, values: np.ndarray) -> nib.Nifti1Image:
        """Return values of shape (parcels,) or (maps, parcels) as a NIfTI image, 0 outside."""
        import nibabel as nib

        values = np.asarray(values)
        if values.shape[-1:] != (self.n_units,) or values.ndim > 2:
            raise InputError(
                "`values`",
                expected=f"shape (parcels={self.n_units}) or (maps, parcels={self.n_units})",
                found=str(values.shape),
            )
        if self.volume is None:
            raise InputError(
                "`space`", expected=f"the volume of {self.atlas}", found="none", hint="give the atlas's image"
            )
        rows = np.concatenate([np.zeros((*values.shape[:-1], 1)), values], axis=-1).astype(np.float32)
        volume = rows[..., self.volume]  # (x, y, z) or (maps, x, y, z)
        return nib.Nifti1Image(volume if values.ndim == 1 else np.moveaxis(volume, 0, -1), self.affine)


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
