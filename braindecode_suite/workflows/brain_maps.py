"""Back to the brain: a value for every unit, what it means, and the files it goes into."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from braindecode_suite.core.checks import check_shape
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.files import write_aside, write_json
from braindecode_suite.core.spaces import ParcelSpace, Space, SurfaceSpace, VoxelSpace

NO_PLACE = "the dataset does not record where its units lie"
NO_ATLAS = "the image of the atlas is not known: values stand in a table, a parcel a row"


@dataclass(frozen=True, kw_only=True, eq=False)
class BrainMap:
    """One or several values for every unit.

    Attributes
    ----------
    values : array of shape (units,) or (maps, units)
        NaN where there is none.
    title : str
        What the report calls it.
    units : str
        For the colour bar.
    description : str
        What it is and how it was made.
    labels : tuple of str
        A name for each of several maps.
    low, high : float or None
        Ends of the colour scale; from the values where None.
    diverging : bool
        Whether the scale is symmetric around 0.
    threshold : float or None
        Values beyond it are not shown (they stay in the file).
    hides : {'below', 'above'}
        On which side of the threshold values are hidden; of a diverging map, absolute values.
    threshold_note : str
        What the threshold means.
    """

    values: np.ndarray
    title: str
    units: str
    description: str = ""
    labels: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    diverging: bool = False
    threshold: float | None = None
    hides: Literal["below", "above"] = "below"
    threshold_note: str = ""

    def sidecar(self, space: Space) -> dict[str, Any]:
        """Return the content of the JSON beside the map."""
        return {
            "Title": self.title,
            "Description": self.description,
            "Units": self.units,
            "Labels": list(self.labels),
            "Space": space.describe(),
            "Template": getattr(space, "template", ""),
            "Low": self.low,
            "High": self.high,
            "Diverging": self.diverging,
            "Threshold": self.threshold,
            "ThresholdHides": self.hides,
            "ThresholdNote": self.threshold_note,
        }


def ncsnr_map(ncsnr: np.ndarray, source: str) -> BrainMap:
    """Return the signal-to-noise ratio of every unit as a map."""
    return BrainMap(
        values=np.nan_to_num(np.asarray(ncsnr, np.float32)),
        title="Signal to noise",
        units="ncsnr",
        description=f"Standard deviation of the signal over that of the noise (ncsnr): {source}.",
        low=0.0,
    )


def as_map(name: str, given: BrainMap | np.ndarray) -> BrainMap:
    """Return a map with its words; a bare array is called by its name."""
    if isinstance(given, BrainMap):
        return given
    return BrainMap(values=np.asarray(given), title=name, units=name)


def why_not_drawn(space: Space | None) -> str:
    """Return why maps of a space cannot go back to an image, or an empty string."""
    if isinstance(space, VoxelSpace | SurfaceSpace):
        return ""
    if isinstance(space, ParcelSpace):
        return "" if space.volume is not None else NO_ATLAS
    return NO_PLACE


def brain_facts(space: Space | None, maps: Mapping[str, BrainMap | np.ndarray]) -> dict[str, Any]:
    """Return which maps there are and, where they could not be written as images, why."""
    return {
        "maps": {name: as_map(name, given).title for name, given in maps.items()},
        "reason": why_not_drawn(space),
    }


def write_maps(
    space: Space | None, maps: Mapping[str, BrainMap | np.ndarray], path: Callable[[str], Path]
) -> None:
    """Write every map through its space, with a JSON sidecar.

    ``stat-<name>_statmap.nii.gz`` of a volume, or of parcels whose image is known; ``hemi-L_stat-<name>_statmap.shape.gii`` and
    ``hemi-R`` of a surface; ``stat-<name>_parcels.tsv`` of parcels without an image. Units without a place are left out.

    Parameters
    ----------
    space : Space or None
    maps : mapping of BIDS label to BrainMap or array
    path : callable
        Suffix of a file to its path.
    """
    if space is None or not maps:
        return
    for name, given in maps.items():
        if not name.isalnum():
            raise InputError("`maps`", expected="BIDS labels, letters and digits only", found=repr(name))
        one = as_map(name, given)
        check_shape(f"maps[{name!r}]", np.atleast_2d(one.values), "maps units", units=space.n_units)
        if isinstance(space, SurfaceSpace):
            for side, image in space.inverse_transform(one.values).items():
                base = f"hemi-{side[0].upper()}_stat-{name}_statmap"
                image.to_filename(path(f"{base}.shape.gii"))
                write_json(path(f"{base}.json"), one.sidecar(space))
        elif not why_not_drawn(space):
            space.inverse_transform(one.values).to_filename(path(f"stat-{name}_statmap.nii.gz"))
            write_json(path(f"stat-{name}_statmap.json"), one.sidecar(space))
        elif isinstance(space, ParcelSpace):
            columns = list(one.labels) or ["value"]
            table = pd.DataFrame(np.atleast_2d(one.values).T, columns=columns)
            table.insert(0, "parcel", space.labels)
            with write_aside(path(f"stat-{name}_parcels.tsv")) as aside:
                table.to_csv(aside, sep="\t", index=False, na_rep="n/a")
    if not isinstance(space, SurfaceSpace) and not why_not_drawn(space):
        space.inverse_transform(np.ones(space.n_units, np.float32)).to_filename(path("mask.nii.gz"))
