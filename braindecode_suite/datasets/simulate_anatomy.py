"""A small visual brain: which voxels exist, and the regions they belong to, as contiguous slabs and caps.

The volume's axes are left to right, posterior to anterior, inferior to superior. `nsdgeneral` is the posterior cap of an
ellipsoid; its streams and regions are cut from it in each hemisphere, so that every region is a patch on each side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from braindecode_suite.core.errors import InputError
from braindecode_suite.datasets.simulate_parameters import STREAMS
from braindecode_suite.datasets.simulate_scenes import CATEGORIES

LABELS: dict[str, tuple[str, ...]] = {
    "prf-visualrois": ("V1v", "V1d", "V2v", "V2d", "V3v", "V3d", "hV4"),
    "floc-faces": ("OFA", "FFA-1", "FFA-2", "mTL-faces", "aTL-faces"),
    "floc-bodies": ("EBA", "FBA-1", "FBA-2", "mTL-bodies"),
    "floc-places": ("OPA", "PPA", "RSC"),
    "floc-words": ("OWFA", "VWFA-1", "VWFA-2", "mfs-words", "mTL-words"),
    "streams": STREAMS,
}
"""Regions of each label file, in the order of their values from 1; of the release."""

PREFERRED = {"floc-faces": "face", "floc-bodies": "person", "floc-places": "house", "floc-words": "word"}
"""Category that the regions of a localiser prefer."""

_EARLY = (("V1", 0.42), ("V2", 0.33), ("V3", 0.25))
_SLABS: dict[
    str, tuple[tuple[str, float], ...]
] = {  # posterior to anterior; the rest of a stream has no region
    "ventral": (
        ("FFA-1", 0.14),
        ("FBA-1", 0.08),
        ("VWFA-1", 0.08),
        ("PPA", 0.22),
        ("FFA-2", 0.12),
        ("FBA-2", 0.07),
        ("VWFA-2", 0.07),
        ("mfs-words", 0.04),
        ("mTL-faces", 0.04),
        ("mTL-bodies", 0.04),
        ("mTL-words", 0.04),
        ("aTL-faces", 0.04),
    ),
    "lateral": (("OFA", 0.12), ("OWFA", 0.08), ("EBA", 0.25), ("OPA", 0.15)),
    "parietal": (("RSC", 0.2),),
}


@dataclass(frozen=True, eq=False, kw_only=True)
class Anatomy:
    """One subject's voxels.

    Attributes
    ----------
    brain, general : array of bool of shape (x, y, z)
        The brain and, inside it, nsdgeneral.
    volumes : dict of str to array of int16 of shape (x, y, z)
        Label volumes by file name: -1 outside the brain, 0 unlabelled, then the values of `LABELS`.
    stream, area : arrays of str of shape (voxels,)
        Of each voxel of nsdgeneral, in C order; area is ``V1``, ``V2``, ``V3``, ``hV4`` or ``other``.
    region : array of str of shape (voxels,)
        File of the localiser region (``floc-faces``...), empty outside.
    own_category : array of int of shape (voxels,)
        Category that the region prefers, -1 for none.
    """

    brain: NDArray[np.bool_]
    general: NDArray[np.bool_]
    volumes: Mapping[str, NDArray[np.int16]]
    stream: NDArray[np.str_]
    area: NDArray[np.str_]
    region: NDArray[np.str_]
    own_category: NDArray[np.int64]


def make_anatomy(
    volume: tuple[int, int, int], n_voxels: int, stream_shares: Mapping[str, float], empty: Sequence[str] = ()
) -> Anatomy:
    """Cut a brain of `volume` into regions.

    Parameters
    ----------
    volume : tuple of int
        Voxels along x, y, z.
    n_voxels : int
        Size of nsdgeneral.
    stream_shares : dict of str to float
        Share of nsdgeneral in each stream.
    empty : sequence of str
        Regions that get no voxel.
    """
    brain = _ellipsoid(volume)
    if n_voxels > brain.sum():
        raise InputError("`voxels`", expected=f"at most the brain's {int(brain.sum())}", found=str(n_voxels))
    where = np.argwhere(brain)
    general = np.zeros(volume, bool)
    middle = (np.array(volume) - 1) / 2
    from_axis = np.hypot(where[:, 0] - middle[0], where[:, 2] - middle[2])
    general[tuple(where[np.lexsort((from_axis, where[:, 1]))[:n_voxels]].T)] = True

    places = np.argwhere(general)  # (voxels, 3), C order
    stream, name = np.full(n_voxels, "", "U16"), np.full(n_voxels, "", "U16")
    for side in (places[:, 0] < volume[0] / 2, places[:, 0] >= volume[0] / 2):
        _cut_streams(places, np.flatnonzero(side), stream_shares, stream)
        _cut_early(places, np.flatnonzero(side & (stream == "early")), name)
        name[side & (stream == "midventral")] = "hV4"
        for where_stream, slabs in _SLABS.items():
            inside = _ordered(places, np.flatnonzero(side & (stream == where_stream)), (1, 2, 0))
            for label, rows in zip(
                [s[0] for s in slabs], _slices(inside, [s[1] for s in slabs]), strict=True
            ):
                name[rows] = label
    name[np.isin(name, empty)] = ""

    file_of = {label: file for file, labels in LABELS.items() if file != "streams" for label in labels}
    region = np.array([file_of[n] if n and file_of[n].startswith("floc") else "" for n in name])
    volumes = {
        file: _label_volume(brain, general, stream if file == "streams" else name, labels)
        for file, labels in LABELS.items()
    }
    volumes["nsdgeneral"] = np.where(general, 1, np.where(brain, 0, -1)).astype(np.int16)
    prefer = {file: CATEGORIES.index(category) for file, category in PREFERRED.items()}
    return Anatomy(
        brain=brain,
        general=general,
        volumes=volumes,
        stream=stream,
        area=np.array([n[:2] if n[:2] in ("V1", "V2", "V3") else n if n == "hV4" else "other" for n in name]),
        region=region,
        own_category=np.array([prefer.get(r, -1) for r in region]),
    )


def _ellipsoid(volume: tuple[int, int, int]) -> NDArray[np.bool_]:
    axes = [(np.arange(n) - (n - 1) / 2) / (0.49 * n) for n in volume]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    return np.asarray(x**2 + y**2 + z**2 <= 1)


def _ordered(
    places: NDArray[np.int64], rows: NDArray[np.int64], axes: tuple[int, int, int]
) -> NDArray[np.int64]:
    """Sort rows by the first of `axes`, then the second, then the third, turning at every end, so that cuts stay whole."""
    first, second, third = (places[rows, axis] for axis in axes)
    turn = 1 - 2 * (first % 2)
    return rows[np.lexsort((third * turn * (1 - 2 * (second % 2)), second * turn, first))]


def _slices(rows: NDArray[np.int64], shares: Sequence[float]) -> list[NDArray[np.int64]]:
    """Cut ordered rows into consecutive pieces of the given shares; what is left over belongs to none."""
    ends = np.round(np.cumsum(shares) * len(rows)).astype(int)
    return [rows[a:b] for a, b in zip(np.concatenate([[0], ends[:-1]]), ends, strict=True)]


def _cut_streams(
    places: NDArray[np.int64], rows: NDArray[np.int64], shares: Mapping[str, float], stream: NDArray[np.str_]
) -> None:
    """Early at the back; before it ventral, lateral and parietal one above the other, their mid part at the back."""
    by_depth = _ordered(places, rows, (1, 2, 0))
    n_early = round(shares["early"] * len(rows))
    stream[by_depth[:n_early]] = "early"
    rest = _ordered(places, by_depth[n_early:], (2, 1, 0))
    above = ("ventral", "lateral", "parietal")
    bands = np.array([shares["mid" + name] + shares[name] for name in above])
    for name, band in zip(above, _slices(rest, list(bands / bands.sum())), strict=True):
        n_mid = round(len(band) * shares["mid" + name] / (shares["mid" + name] + shares[name]))
        ordered = _ordered(places, band, (1, 2, 0))
        stream[ordered[:n_mid]], stream[ordered[n_mid:]] = "mid" + name, name


def _cut_early(places: NDArray[np.int64], rows: NDArray[np.int64], name: NDArray[np.str_]) -> None:
    pieces = _slices(_ordered(places, rows, (1, 2, 0)), [share for _, share in _EARLY])
    for (area, _), piece in zip(_EARLY, pieces, strict=True):
        by_height = _ordered(places, piece, (2, 1, 0))
        name[by_height[: len(piece) // 2]], name[by_height[len(piece) // 2 :]] = f"{area}v", f"{area}d"


def _label_volume(
    brain: NDArray[np.bool_], general: NDArray[np.bool_], names: NDArray[np.str_], labels: Sequence[str]
) -> NDArray[np.int16]:
    volume = np.where(brain, 0, -1).astype(np.int16)
    value = {label: k for k, label in enumerate(labels, start=1)}
    volume[general] = [value.get(str(n), 0) for n in names]
    return volume
