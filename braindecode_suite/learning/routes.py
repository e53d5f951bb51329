"""Which query speaks for which unit: learned queries per region and hemisphere, per unit, per channel or per time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from braindecode_suite.core.checks import check_option, check_shape
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.spaces import ParcelSpace, Space, SurfaceSpace, VoxelSpace

Queries = Literal["rois", "streams", "hemispheres", "units", "parcels", "channels", "times"]
Overlap = Literal["first", "mean", "sum"]

NSD_ROIS = (
    *("V1v", "V1d", "V2v", "V2d", "V3v", "V3d", "hV4"),
    *("EBA", "FBA-1", "FBA-2", "mTL-bodies"),
    *("OFA", "FFA-1", "FFA-2", "mTL-faces", "aTL-faces"),
    *("OPA", "PPA", "RSC"),
    *("OWFA", "VWFA-1", "VWFA-2", "mfs-words", "mTL-words"),
)
"""The regions of the Natural Scenes Dataset that have a query each in the paper."""

STREAMS = ("early", "midventral", "midlateral", "midparietal", "ventral", "lateral", "parietal")
REST = "rest"


@dataclass(frozen=True, eq=False)
class Routes:
    """Queries, and which of them each unit is read from.

    Units that are read from the same queries form a segment. Queries and segments without units do not exist.

    Attributes
    ----------
    names : tuple of str
        Of the queries, e.g. ``lh.FFA-1``.
    segment : array of int of shape (units,)
        Segment of each unit, -1 where none: such a unit is not modelled.
    mixing : array of float32 of shape (segments, queries) or None
        Weights with which a segment's token is made of those of the queries; None: segment k is query k.
    """

    names: tuple[str, ...]
    segment: np.ndarray
    mixing: np.ndarray | None = None

    @property
    def modelled(self) -> np.ndarray:
        """Which units are modelled, booleans of shape (units,)."""
        return np.asarray(self.segment >= 0)

    @property
    def sizes(self) -> np.ndarray:
        """Number of units of each segment."""
        return np.bincount(self.segment[self.modelled])


def route_units(
    space: Space,
    n_times: int = 1,
    *,
    queries: Queries = "rois",
    rois: Sequence[str] = (),
    overlap: Overlap = "first",
    rest: bool = True,
    hemispheres: bool = True,
    alive: np.ndarray | None = None,
    option: str = "queries",
) -> Routes:
    """Work out the queries of a space.

    Parameters
    ----------
    space : Space
    n_times : int
        Samples per unit of the space (MEG and EEG); units are then channels with their times side by side.
    queries : {'rois', 'streams', 'hemispheres', 'units', 'parcels', 'channels', 'times'}
        What has a query: a region, a stream of the NSD's ``streams``, a hemisphere, a unit, a parcel, a channel with all its
        times, or a time with all its channels.
    rois : sequence of str
        Regions that have a query. By default those of `NSD_ROIS` that the space has, or all it has where that is none.
    overlap : {'first', 'mean', 'sum'}
        Of a unit in several regions: it is read from the first of them, or from the mean or the sum of their tokens.
    rest : bool
        Whether units in no region have a query of their own; otherwise they are not modelled.
    hemispheres : bool
        Whether regions are split in left and right where the space tells them apart.
    alive : array of bool of shape (units * times,), optional
        Units that can be modelled at all.
    option : str
        What `queries` is called where the user sets it, for errors.

    Returns
    -------
    Routes

    Raises
    ------
    InputError
        If a region does not exist, or if no unit would be modelled.
    """
    check_option("queries", queries, Queries.__args__)  # type: ignore[attr-defined]
    check_option("overlap", overlap, Overlap.__args__)  # type: ignore[attr-defined]
    n = space.n_units * n_times
    alive = np.ones(n, bool) if alive is None else alive
    check_shape("alive", alive, "units", units=n)
    if queries in ("units", "parcels", "channels", "times"):
        names, query = _partition(space, n_times, queries, option)
        return _without_empty(names, np.where(alive, query, -1), option)
    members = {
        name: np.repeat(member, n_times) & alive
        for name, member in _regions(space, queries, rois, rest, hemispheres, option).items()
    }
    members = {name: member for name, member in members.items() if member.any()}
    if not members:
        raise InputError("`rois`", expected="regions with units", found="none")
    table = np.stack(list(members.values()))  # (queries, units)
    if overlap == "first":
        first = np.where(table.any(axis=0), table.argmax(axis=0), -1)
        return _without_empty(tuple(members), first, option)
    return _mixed(tuple(members), table, overlap)


def _partition(
    space: Space, n_times: int, queries: Queries, option: str
) -> tuple[tuple[str, ...], np.ndarray]:
    """Return names of the queries and the query of each unit, where units are in one each."""
    n = space.n_units
    if queries == "parcels" and not isinstance(space, ParcelSpace):
        raise InputError(
            f"`{option}`", expected="a space of parcels, for 'parcels'", found=type(space).__name__
        )
    own = space.labels if isinstance(space, ParcelSpace) else getattr(space, "names", None)
    names = tuple(own) if own is not None else tuple(f"unit-{k}" for k in range(n))
    if queries == "times":
        return tuple(f"time-{t}" for t in range(n_times)), np.tile(np.arange(n_times), n)
    if queries == "units" and n_times > 1:
        names = tuple(f"{name}.time-{t}" for name in names for t in range(n_times))
        return names, np.arange(n * n_times)
    return names, np.repeat(np.arange(n), n_times)


def _regions(
    space: Space, queries: Queries, rois: Sequence[str], rest: bool, hemispheres: bool, option: str
) -> dict[str, np.ndarray]:
    """Return the units of the space of each query by name, booleans; they may overlap and be empty."""
    sides = find_hemispheres(space) if hemispheres or queries == "hemispheres" else {}
    if queries == "hemispheres":
        if not sides:
            raise InputError(
                f"`{option}`", expected="a space that tells hemispheres apart", found=type(space).__name__
            )
        return dict(sides)
    chosen = list(rois)
    if not chosen:
        known = STREAMS if queries == "streams" else NSD_ROIS
        chosen = [name for name in known if name in space.rois]
        if not chosen and queries == "rois":
            chosen = [name for name in space.rois if name not in sides]
    for name in chosen:
        check_option("roi", name, space.rois)
    if not chosen:
        raise InputError(
            "`rois`", expected=f"a space with regions, for {queries!r}", found="none", hint="name them"
        )
    regions = {name: np.asarray(space.rois[name], bool) for name in chosen}
    if rest:
        regions[REST] = ~np.any(list(regions.values()), axis=0)
    if not sides:
        return regions
    return {
        f"{side}.{name}": half & member for side, half in sides.items() for name, member in regions.items()
    }


def find_hemispheres(space: Space) -> Mapping[str, np.ndarray]:
    """Return the units of the left (``lh``) and the right hemisphere (``rh``), or nothing where the space does not tell.

    Surfaces have two meshes, a volume is cut at x = 0 of its affine, any space may have regions ``lh`` and ``rh``.
    """
    if "lh" in space.rois and "rh" in space.rois:
        return {side: np.asarray(space.rois[side], bool) for side in ("lh", "rh")}
    if isinstance(space, SurfaceSpace):
        left = np.arange(space.n_units) < int(np.count_nonzero(space.left))
    elif isinstance(space, VoxelSpace):
        places = np.argwhere(space.mask)  # (voxels, 3), in C order as the units are
        left = places @ space.affine[0, :3] + space.affine[0, 3] < 0
    else:
        return {}
    return {"lh": left, "rh": ~left}


def _without_empty(names: Sequence[str], query: np.ndarray, option: str) -> Routes:
    """Drop queries that no unit is read from."""
    used = np.unique(query[query >= 0])
    if not len(used):
        raise InputError(f"`{option}`", expected="at least one unit to model", found="none")
    number = np.full(len(names), -1)
    number[used] = np.arange(len(used))
    return Routes(tuple(names[k] for k in used), np.where(query >= 0, number[query], -1))


def _mixed(names: tuple[str, ...], table: np.ndarray, overlap: Overlap) -> Routes:
    """Make a segment of every set of regions that some unit is in; `table` is (queries, units)."""
    inside = table.any(axis=0)
    sets, which = np.unique(table[:, inside].T, axis=0, return_inverse=True)  # (segments, queries)
    segment = np.full(table.shape[1], -1)
    segment[inside] = which.ravel()
    mixing = sets.astype(np.float32)
    if overlap == "mean":
        mixing /= mixing.sum(axis=1, keepdims=True)
    return Routes(names, segment, mixing)
