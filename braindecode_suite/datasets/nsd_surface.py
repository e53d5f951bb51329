"""The release's betas on the fsaverage surface: two ``.mgh`` files a session, one a hemisphere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from braindecode_suite.core.checks import check_file, check_option
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.spaces import SurfaceSpace
from braindecode_suite.core.study import Noise
from braindecode_suite.datasets.mapped_rows import gather
from braindecode_suite.datasets.nsd_betas import MaskedBetas, SessionHeader, read_header
from braindecode_suite.datasets.nsd_files import Layout, read_label_table
from braindecode_suite.datasets.volumes import open_volume, read_values

SIDES = ("lh", "rh")
ALL = "all"
"""Name of the region that holds every vertex."""


class SurfaceBetas:
    """Rows of all sessions, left vertices then right ones; each hemisphere is a memory map of its own.

    Parameters
    ----------
    left, right : MaskedBetas
        Masks of shape (vertices, 1, 1).
    """

    def __init__(self, left: MaskedBetas, right: MaskedBetas) -> None:
        self.left, self.right = left, right

    @property
    def shape(self) -> tuple[int, ...]:
        """(trials, vertices)"""
        return len(self.left), self.left.shape[1] + self.right.shape[1]

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32, percent signal change."""
        return np.dtype(np.float32)

    def __len__(self) -> int:
        return len(self.left)

    def __getitem__(self, rows: Any) -> NDArray[np.float32]:
        wanted = np.arange(len(self))[rows]
        if wanted.ndim == 0:
            return np.concatenate([self.left[rows], self.right[rows]])
        return gather([self.left.mapped, self.right.mapped], wanted)

    @property
    def is_prepared(self) -> bool:
        """Whether both memory maps are there, whole and of these very files."""
        return self.left.is_prepared and self.right.is_prepared

    @property
    def varies(self) -> NDArray[np.bool_]:
        """Vertices that are not constant in every session, of shape (vertices,); prepares first."""
        return np.concatenate([self.left.varies, self.right.varies])

    def prepare(self, progress: Callable[[str], None] | None = None) -> SurfaceBetas:
        """Make both memory maps, as `MaskedBetas.prepare` does."""
        self.left.prepare(progress)
        self.right.prepare(progress)
        return self


def open_hemispheres(
    sessions: Mapping[int, SessionHeader],
) -> tuple[dict[int, SessionHeader], tuple[int, int]]:
    """Return the headers of the right hemisphere, and the vertices of both.

    Parameters
    ----------
    sessions : dict of int to SessionHeader
        Of the left hemisphere.

    Raises
    ------
    InputError
        If a right file is missing, has other trials, or a hemisphere has other vertices than in the first session.
    """
    right: dict[int, SessionHeader] = {}
    for number, header in sessions.items():
        path = check_file(header.path.with_name(f"rh{header.path.name[2:]}"), "the right hemisphere's betas")
        right[number] = read_header(path)
        first = next(iter(right.values()))
        if (right[number].n_trials, right[number].volume) != (header.n_trials, first.volume):
            raise InputError(
                path,
                expected=f"{header.n_trials} trials of {first.volume[0]} vertices",
                found=f"{right[number].n_trials} of {right[number].volume[0]}",
            )
    left_shape, right_shape = (next(iter(side.values())).volume for side in (sessions, right))
    for header in (*sessions.values(), *right.values()):
        if header.volume[1:] != (1, 1):
            raise InputError(header.path, expected="shape (vertices, 1, 1, trials)", found=str(header.volume))
    return right, (left_shape[0], right_shape[0])


def open_surface(
    layout: Layout, names: list[str], vertices: tuple[int, int]
) -> tuple[SurfaceSpace, list[str]]:
    """Read the regions drawn on fsaverage; the vertices of the chosen ones become the space.

    Regions come from ``nsddata/freesurfer/fsaverage/label/{lh,rh}.<name>.mgz`` with the label table ``<name>.mgz.ctab``, where
    these are there; `all` is always one.
    """
    regions, warnings = _regions(layout, vertices)
    inside = np.zeros(sum(vertices), bool)
    for name in names:
        check_option("roi", name, regions)
        inside |= regions[name]
    if not inside.any():
        raise InputError("`roi`", expected="regions with vertices", found=f"none in {', '.join(names)}")
    rois = {name: member[inside] for name, member in regions.items() if name != ALL}
    left, right = inside[: vertices[0]], inside[vertices[0] :]
    return SurfaceSpace(left, right, rois, "fsaverage"), warnings


def masked_betas(
    left: Mapping[int, SessionHeader],
    right: Mapping[int, SessionHeader],
    space: SurfaceSpace,
    folder: Path,
    name: str,
) -> SurfaceBetas:
    """Return the rows of all sessions inside a space."""
    sides = [
        MaskedBetas(headers, member[:, None, None], folder, f"{name}_fsaverage-{side}")
        for headers, member, side in ((left, space.left, "lh"), (right, space.right, "rh"))
    ]
    return SurfaceBetas(*sides)


def open_surface_noise(
    layout: Layout, space: SurfaceSpace
) -> tuple[Noise | None, NDArray[np.bool_], list[str]]:
    """Read ncsnr of both hemispheres; vertices without one get 0 and are not valid."""
    paths = [layout.beta_folder / f"{side}.ncsnr.mgh" for side in SIDES]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        return None, np.ones(space.n_units, bool), [f"{missing[0]} is not there: no noise ceiling"]
    parts = [
        _values(path, len(member))[member]
        for path, member in zip(paths, (space.left, space.right), strict=True)
    ]
    ncsnr = np.concatenate(parts).astype(np.float32)
    known = np.isfinite(ncsnr)
    source = (
        f"fsaverage/{layout.betas}/?h.ncsnr.mgh as released: over all sessions and images, rectified at 0"
    )
    return Noise(np.where(known, ncsnr, np.float32(0)), source), known, []


def _regions(layout: Layout, vertices: tuple[int, int]) -> tuple[dict[str, NDArray[np.bool_]], list[str]]:
    folder = layout.surface_labels
    regions: dict[str, NDArray[np.bool_]] = {ALL: np.ones(sum(vertices), bool)}
    warnings: list[str] = []
    for path in sorted(folder.glob("lh.*.mgz")):
        file = path.name.removeprefix("lh.").removesuffix(".mgz")
        other = folder / f"rh.{file}.mgz"
        if not other.is_file():
            warnings.append(f"{path.name} has no {other.name}: left out")
            continue
        values = np.concatenate([_values(p, n) for p, n in zip((path, other), vertices, strict=True)])
        regions[file] = values > 0
        table_path = folder / f"{file}.mgz.ctab"
        table = read_label_table(table_path) if table_path.is_file() else {}
        present = {int(v) for v in np.unique(values) if v > 0}
        if not table and not present - {1}:
            continue
        for value in sorted(present | set(table)):
            name = table.get(value, f"{file}:{value}")
            regions[name if name not in regions else f"{file}:{name}"] = values == value
    if len(regions) == 1:
        warnings.append(
            f"no regions of both hemispheres in {folder.name}/ of fsaverage: only all vertices together"
        )
    return regions, warnings


def _values(path: Path, n_vertices: int) -> NDArray[Any]:
    """Return one value a vertex."""
    values = read_values(path, open_volume(path, "a map of the surface"), "a map of the surface")
    if values.size != n_vertices:
        raise InputError(path, expected=f"{n_vertices} vertices, as the betas", found=f"shape {values.shape}")
    return values.reshape(-1)
