"""Maps of the results folder: their files, their words and how they are coloured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError

from braindecode_suite.core.errors import InputError

SIDES = {"L": "left", "R": "right"}
MOST_LABELS = 8
SHOWN_QUANTILE = 0.99
"""Share of the values inside the colour scale where the map does not name its ends: one wild voxel may not dim the rest."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How values become colours.

    Attributes
    ----------
    low, high : float
    palette : str
        Of matplotlib.
    label : str
        Of the colour bar, the unit.
    threshold : float or None
        Values beyond it are not coloured.
    hides : {'below', 'above'}
    """

    low: float
    high: float
    palette: str
    label: str
    threshold: float | None = None
    hides: str = "below"

    def visible(self, values: np.ndarray) -> np.ndarray:
        """Say which values are coloured."""
        known = np.isfinite(values)
        if self.threshold is None:
            return known
        if self.hides == "above":
            return known & (values <= self.threshold)
        size = np.abs(values) if self.low < 0 else values
        return known & (size >= self.threshold)


@dataclass(frozen=True, kw_only=True)
class StatMap:
    """One map of the results: one image, or one a hemisphere, with what its sidecar says.

    Attributes
    ----------
    name : str
        The ``stat-`` label.
    title, description, units, note : str
        Note: what the threshold means.
    labels : tuple of str
        Names of several maps.
    space, template : str
        Name of the grid or mesh, and of the template it lies in, empty where none is known.
    volume : Path or None
    left, right : Path or None
    sidecar : mapping
    """

    name: str
    title: str
    description: str
    units: str
    note: str
    labels: tuple[str, ...]
    space: str
    template: str
    volume: Path | None = None
    left: Path | None = None
    right: Path | None = None
    sidecar: Mapping[str, Any]

    def scale(self, values: np.ndarray) -> Scale:
        """Return the colours for all values shown."""
        finite = values[np.isfinite(values)]
        given, threshold, hides = (
            self.sidecar,
            self.sidecar.get("Threshold"),
            self.sidecar.get("ThresholdHides"),
        )
        if given.get("Diverging"):
            top = _given(given, "High", float(np.quantile(np.abs(finite), SHOWN_QUANTILE)) or 1.0)
            return Scale(low=-top, high=top, palette="RdBu_r", label=self.units, threshold=threshold)
        low = _given(given, "Low", float(np.quantile(finite, 1 - SHOWN_QUANTILE)))
        high = _given(given, "High", float(np.quantile(finite, SHOWN_QUANTILE)))
        high = high if high > low else low + 1.0
        if hides == "above" and threshold is not None:
            return Scale(
                low=low,
                high=threshold,
                palette="viridis_r",
                label=self.units,
                threshold=threshold,
                hides="above",
            )
        return Scale(low=low, high=high, palette="viridis", label=self.units, threshold=threshold)

    @property
    def shown_labels(self) -> tuple[str, ...]:
        """Labels of the maps that a figure has room for."""
        return self.labels[:MOST_LABELS]


def find_maps(folder: Path, stem: str, read_json: Any, order: Sequence[str] = ()) -> dict[str, StatMap]:
    """Return the maps of one subject and workflow by name: those of `order` first, the others by name.

    Parameters
    ----------
    folder : Path
    stem : str
        What all files begin with.
    read_json : callable
        Path to mapping.
    order : sequence of str
    """
    found: dict[str, StatMap] = {}
    volumes = {_label(p, stem, ""): p for p in folder.glob(f"{stem}_stat-*_statmap.nii.gz")}
    lefts = {_label(p, stem, "_hemi-L"): p for p in folder.glob(f"{stem}_hemi-L_stat-*_statmap.shape.gii")}
    names = sorted({*volumes, *lefts})
    for name in [*(n for n in order if n in names), *(n for n in names if n not in order)]:
        first = volumes.get(name) or lefts[name]
        beside = first.with_name(first.name.split(".")[0] + ".json")
        told = read_json(beside) if beside.is_file() else {}
        space = told.get("Space")
        found[name] = StatMap(
            name=name,
            title=str(told.get("Title") or name),
            description=str(told.get("Description") or ""),
            units=str(told.get("Units") or name),
            note=str(told.get("ThresholdNote") or ""),
            labels=tuple(map(str, told.get("Labels") or ())),
            space=str(space.get("name", "")) if isinstance(space, Mapping) else "",
            template=str(told.get("Template") or ""),
            volume=volumes.get(name),
            left=lefts.get(name) if name not in volumes else None,
            right=first.with_name(first.name.replace("_hemi-L_", "_hemi-R_", 1))
            if name not in volumes
            else None,
            sidecar=told,
        )
    return found


def _label(path: Path, stem: str, side: str) -> str:
    return path.name.removeprefix(f"{stem}{side}_stat-").split("_statmap.")[0]


def _given(sidecar: Mapping[str, Any], key: str, otherwise: float) -> float:
    value = sidecar.get(key)
    return otherwise if value is None else float(value)


@dataclass(frozen=True, kw_only=True, eq=False)
class Volume:
    """A map in a volume, turned so that axes run left to right, posterior to anterior, inferior to superior.

    Attributes
    ----------
    values : array of shape (maps, x, y, z)
        NaN outside.
    inside : array of bool of shape (x, y, z)
    affine : array of shape (4, 4)
    """

    values: np.ndarray
    inside: np.ndarray
    affine: np.ndarray

    def image(self, number: int) -> Any:
        """Return one map as an image, 0 where it has no value."""
        return nib.Nifti1Image(np.nan_to_num(self.values[number]), self.affine)


def read_volume(path: Path, mask_file: Path | None) -> Volume:
    """Read a map and what lies inside the mask: where it is not 0, if no mask is there."""
    try:
        image: Any = nib.as_closest_canonical(nib.nifti1.load(path))
        values = np.asarray(image.dataobj, np.float32)
        mask = None
        if mask_file is not None:
            mask = np.asarray(nib.as_closest_canonical(nib.nifti1.load(mask_file)).dataobj) > 0
    except (OSError, EOFError, ValueError, ImageFileError) as error:
        raise InputError(path, expected="a map as NIfTI", found=" ".join(str(error).split())) from error
    values = values[None] if values.ndim == 3 else np.moveaxis(values, -1, 0)
    inside = mask if mask is not None and mask.shape == values.shape[1:] else (values != 0).any(axis=0)
    return Volume(
        values=np.where(inside, values, np.nan), inside=inside, affine=np.asarray(image.affine, float)
    )


def read_surface(path: Path) -> np.ndarray:
    """Return the maps of one hemisphere, of shape (maps, vertices)."""
    try:
        image: Any = nib.gifti.GiftiImage.from_filename(path)
    except (OSError, ValueError, ImageFileError) as error:
        raise InputError(path, expected="a map as GIFTI", found=" ".join(str(error).split())) from error
    return np.stack([np.asarray(array.data, np.float32) for array in image.darrays])


def map_values(one: StatMap, mask_file: Path | None) -> np.ndarray:
    """Return the finite values of all units of a map, of shape (values,)."""
    if one.volume is not None:
        values = read_volume(one.volume, mask_file).values
    else:
        sides = [path for path in (one.left, one.right) if path is not None and path.is_file()]
        values = np.concatenate([read_surface(path) for path in sides], axis=1)
    return np.asarray(values[np.isfinite(values)])
