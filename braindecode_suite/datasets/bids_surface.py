"""The BOLD of a run on the cortical surface: a pair of GIFTI files, or the cortex of a CIFTI file.

Of a CIFTI file (`space-fsLR_den-91k`) the vertices of both cortices are read; its subcortical voxels are left out, and counted in a
warning: they are in every volumetric space of the same run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.parsers import expat

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from braindecode_suite.core.errors import InputError
from braindecode_suite.core.spaces import MESH_VERTICES, SurfaceSpace
from braindecode_suite.datasets.bids_bold import TR_TOLERANCE, seconds_of
from braindecode_suite.datasets.bids_layout import CIFTI, RunFiles
from braindecode_suite.datasets.lab_files import DAMAGED, one_line
from braindecode_suite.datasets.volumes import open_volume

SURFACE_DAMAGED = (*DAMAGED, expat.ExpatError, AttributeError)
MESHES = {
    "fsaverage:den-164k": "fsaverage",
    "fsaverage:den-41k": "fsaverage6",
    "fsaverage:den-10k": "fsaverage5",
    "fsaverage:den-3k": "fsaverage4",
    "fsLR:den-32k": "fsLR-32k",
    "fsLR:den-59k": "fsLR-59k",
    "fsLR:den-91k": "fsLR-32k",
    "fsLR:den-170k": "fsLR-59k",
}
"""Meshes by the output space of fMRIPrep; other spaces (``fsaverage5``, ``fsnative``) are called as they are."""
CORTEX = {"left": "CIFTI_STRUCTURE_CORTEX_LEFT", "right": "CIFTI_STRUCTURE_CORTEX_RIGHT"}
_HEAD, _LONGEST_HEAD = 2**16, 2**24
_VOLUMES_AT_ONCE = 64

Rows = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class SurfaceHeader:
    """What names, headers and sidecars say of a run on the surface.

    Attributes
    ----------
    path : Path
        The left hemisphere's GIFTI file, or the CIFTI file.
    right : Path or None
        The right hemisphere's GIFTI file.
    n_volumes : int
    t_r, start_time : float
        As in `BoldHeader`.
    vertices : tuple of two int arrays
        Which vertices of each mesh have values, ascending.
    mesh_sizes : tuple of int
        Vertices of each mesh.
    warnings : tuple of str
    """

    path: Path
    right: Path | None
    n_volumes: int
    t_r: float
    start_time: float
    vertices: tuple[NDArray[np.int64], NDArray[np.int64]]
    mesh_sizes: tuple[int, int]
    warnings: tuple[str, ...] = ()

    @property
    def frame_times(self) -> NDArray[np.float64]:
        """Seconds at which each volume was taken, of shape (volumes,)."""
        return self.start_time + self.t_r * np.arange(self.n_volumes, dtype=np.float64)


def mesh_of(space: str) -> str:
    """Return the mesh that an output space of fMRIPrep lies on.

    Examples
    --------
    >>> mesh_of("fsLR:den-91k"), mesh_of("fsaverage5")
    ('fsLR-32k', 'fsaverage5')
    """
    return MESHES.get(space, space)


def read_surface_header(run: RunFiles) -> SurfaceHeader:
    """Read how many volumes and vertices a run has, and hold them against its mesh and sidecars; no value is read.

    Raises
    ------
    InputError
        If a file is damaged, has another number of vertices than its mesh, the hemispheres differ in length, or no sidecar
        states the repetition time.
    """
    return _cifti_header(run) if run.bold.name.endswith(CIFTI) else _gifti_header(run)


def _gifti_header(run: RunFiles) -> SurfaceHeader:
    assert run.right is not None
    mesh = mesh_of(run.space)
    (n_volumes, left), (n_right, right) = read_gifti_size(run.bold), read_gifti_size(run.right)
    for path, n in ((run.bold, left), (run.right, right)):
        _check_mesh(path, mesh, n)
    if n_right != n_volumes:
        raise InputError(run.right, expected=f"{n_volumes} volumes, as {run.bold.name}", found=str(n_right))
    if "RepetitionTime" not in run.metadata:
        raise InputError(
            run.bold.with_name(run.bold.name.split(".")[0] + ".json"),
            expected="a sidecar that states the RepetitionTime",
            found="none",
        )
    return SurfaceHeader(
        run.bold,
        run.right,
        n_volumes,
        _repetition_time(run.bold, seconds_of(run, "RepetitionTime", 0.0)),
        seconds_of(run, "StartTime", 0.0),
        (np.arange(left), np.arange(right)),
        (left, right),
    )


def read_gifti_size(path: Path) -> tuple[int, int]:
    """Return volumes and vertices of a functional GIFTI file; only its first tags are read."""
    found: dict[str, dict[str, str]] = {}
    parser = expat.ParserCreate()
    parser.StartElementHandler = lambda tag, attributes: found.setdefault(tag, attributes)
    try:
        with path.open("rb") as stream:
            while "DataArray" not in found and stream.tell() < _LONGEST_HEAD:
                block = stream.read(_HEAD)
                if not block:
                    break
                parser.Parse(block, False)
        root, first = found["GIFTI"], found["DataArray"]
        n_arrays, dimensions = int(root["NumberOfDataArrays"]), int(first["Dimensionality"])
        vertices = int(first["Dim0"])
        if dimensions == 1:
            return n_arrays, vertices
        if dimensions == 2 and n_arrays == 1:
            return int(first["Dim1"]), vertices
    except KeyError as error:
        raise InputError(path, expected="BOLD as GIFTI", found=f"no {error.args[0]} in it") from error
    except (OSError, ValueError, expat.ExpatError) as error:
        raise InputError(path, expected="BOLD as GIFTI", found=one_line(error)) from error
    raise InputError(
        path,
        expected="one data array a volume, or one of vertices by volumes",
        found=f"{n_arrays} arrays of {dimensions} dimensions",
    )


def _cifti_header(run: RunFiles) -> SurfaceHeader:
    image = open_volume(run.bold, "BOLD as CIFTI")
    series, models = _cifti_axes(run.bold, image)
    mesh = mesh_of(run.space)
    vertices, sizes = [], []
    for side, name in CORTEX.items():
        if name not in models.nvertices:
            raise InputError(
                run.bold, expected="both cortices", found=", ".join(sorted(models.nvertices)) or "no surface"
            )
        _check_mesh(run.bold, mesh, int(models.nvertices[name]), f"the {side} cortex")
        vertices.append(np.sort(np.asarray(models.vertex[models.name == name], np.int64)))
        sizes.append(int(models.nvertices[name]))
    others = len(models) - sum(map(len, vertices))
    warnings = []
    if others:
        warnings.append(
            f"{run.bold.name}: {others} subcortical voxels of the CIFTI file are left out, its {len(models) - others} cortical "
            "vertices are read; a volumetric space holds the others"
        )
    step = float(series.step)
    if "RepetitionTime" in run.metadata:
        t_r = seconds_of(run, "RepetitionTime", 0.0)
        if abs(t_r - step) > TR_TOLERANCE:
            raise InputError(
                run.bold,
                expected=f"a repetition time of {t_r:g} s, as in {run.sidecars[0].name}",
                found=f"{step:g} s in the header",
            )
    else:
        t_r = step
        warnings.append(f"{run.name}: no sidecar states the repetition time, {t_r:g} s taken from the header")
    return SurfaceHeader(
        run.bold,
        None,
        len(series),
        _repetition_time(run.bold, t_r),
        seconds_of(run, "StartTime", 0.0),
        (vertices[0], vertices[1]),
        (sizes[0], sizes[1]),
        tuple(warnings),
    )


def _cifti_axes(path: Path, image: Any) -> tuple[Any, Any]:
    if not isinstance(image, nib.Cifti2Image):
        raise InputError(path, expected="BOLD as CIFTI", found=type(image).__name__)
    series, models = image.header.get_axis(0), image.header.get_axis(1)
    if not isinstance(series, nib.cifti2.SeriesAxis) or not isinstance(models, nib.cifti2.BrainModelAxis):
        raise InputError(
            path,
            expected="a dense series: time by brain models",
            found=f"{type(series).__name__} by {type(models).__name__}",
        )
    if series.unit != "SECOND":
        raise InputError(path, expected="a series in seconds", found=str(series.unit))
    if image.shape != (len(series), len(models)):
        raise InputError(path, expected=f"shape {(len(series), len(models))}", found=str(image.shape))
    return series, models


def _check_mesh(path: Path, mesh: str, found: int, what: str = "") -> None:
    wanted = MESH_VERTICES.get(mesh, found)
    if found != wanted:
        of = f" of {what}" if what else ""
        raise InputError(path, expected=f"{wanted} vertices{of}, as {mesh} has", found=str(found))


def _repetition_time(path: Path, t_r: float) -> float:
    if not t_r > 0:
        raise InputError(path, expected="a repetition time above 0", found=f"{t_r:g} s")
    return t_r


def surface_space(runs: Sequence[RunFiles], headers: Sequence[SurfaceHeader], mask: str = "") -> SurfaceSpace:
    """Return the vertices that have values in every run, or those of the masks named that do.

    Parameters
    ----------
    runs, headers : sequences
    mask : str
        A file for each hemisphere, ``{hemi}`` in its name standing for ``L`` and ``R`` (or ``lh`` and ``rh``).

    Raises
    ------
    InputError
        If runs have other meshes, or nothing is left.
    """
    first = headers[0]
    members = []
    for h in range(2):
        inside = np.ones(first.mesh_sizes[h], bool)
        for header in headers:
            if header.mesh_sizes != first.mesh_sizes:
                raise InputError(
                    header.path,
                    expected=f"meshes of {first.mesh_sizes[0]} and {first.mesh_sizes[1]} vertices, as {first.path.name}",
                    found=f"{header.mesh_sizes[0]} and {header.mesh_sizes[1]}",
                )
            here = np.zeros(first.mesh_sizes[h], bool)
            here[header.vertices[h]] = True
            inside &= here
        members.append(inside)
    if mask:
        asked = read_surface_mask(mask, first.mesh_sizes, "a mask")
        members = [inside & chosen for inside, chosen in zip(members, asked, strict=True)]
    if not any(member.any() for member in members):
        raise InputError(
            first.path, expected="vertices with values in every run and inside the mask", found="none"
        )
    return SurfaceSpace(members[0], members[1], mesh=mesh_of(runs[0].space))


def read_surface_mask(pattern: str, sizes: tuple[int, int], what: str) -> list[NDArray[np.bool_]]:
    """Read a region of both hemispheres: values above 0 of a GIFTI or ``.mgz`` file, or vertices of a ``.label`` file.

    Parameters
    ----------
    pattern : str
        Path with ``{hemi}`` where the files of both hemispheres differ.
    sizes : tuple of int
        Vertices of each mesh.
    what : str
        For the message.
    """
    if "{hemi}" not in pattern:
        raise InputError(
            pattern,
            expected=f"{what} for each hemisphere, with {{hemi}} in its name",
            found="one file",
            hint="{hemi} stands for L and R, or lh and rh",
        )
    members = []
    for size, names in zip(sizes, (("L", "lh"), ("R", "rh")), strict=True):
        candidates = [Path(pattern.replace("{hemi}", name)) for name in names]
        path = next((p for p in candidates if p.is_file()), None)
        if path is None:
            raise InputError(candidates[0], expected=what, found="nothing there")
        members.append(_read_member(path, size, what))
    return members


def _read_member(path: Path, size: int, what: str) -> NDArray[np.bool_]:
    try:
        if path.suffix == ".label":
            member = np.zeros(size, bool)
            member[np.asarray(nib.freesurfer.read_label(path), np.int64)] = True
            return member
        image: Any = nib.load(path)
        values = image.darrays[0].data if isinstance(image, nib.GiftiImage) else image.dataobj
        values = np.asarray(values).reshape(-1)
    except (*SURFACE_DAMAGED, IndexError) as error:
        raise InputError(
            path, expected=f"{what} as GIFTI, .mgz or .label, of {size} vertices", found=one_line(error)
        ) from error
    if len(values) != size:
        raise InputError(path, expected=f"{what} of {size} vertices, as the BOLD", found=str(len(values)))
    return np.asarray(values > 0)


def read_surface_series(header: SurfaceHeader, space: SurfaceSpace) -> Rows:
    """Read a run inside a space: left vertices, then right ones.

    Vertices that are NaN throughout (the medial wall) become 0.

    Returns
    -------
    array of float32 of shape (volumes, units)

    Raises
    ------
    InputError
        If a file is damaged or holds NaN or infinity at a vertex that has values too.
    """
    wanted = [np.flatnonzero(member) for member in (space.left, space.right)]
    if header.right is None:
        return _read_cifti(header, wanted)
    parts = []
    for path, vertices, size in zip((header.path, header.right), wanted, header.mesh_sizes, strict=True):
        parts.append(_finite(path, _read_gifti(path, header.n_volumes, size)[:, vertices], vertices))
    return np.concatenate(parts, axis=1)


def _read_gifti(path: Path, n_volumes: int, size: int) -> Rows:
    try:
        image: Any = nib.gifti.GiftiImage.from_filename(path)
        arrays = [np.asarray(array.data, np.float32) for array in image.darrays]
        values = arrays[0].T if len(arrays) == 1 and arrays[0].ndim == 2 else np.stack(arrays)
    except SURFACE_DAMAGED as error:
        raise InputError(path, expected=f"{n_volumes} whole volumes", found=one_line(error)) from error
    if values.shape != (n_volumes, size):
        raise InputError(
            path, expected=f"{n_volumes} volumes of {size} vertices", found=" x ".join(map(str, values.shape))
        )
    return values


def _read_cifti(header: SurfaceHeader, wanted: Sequence[NDArray[np.int64]]) -> Rows:
    image = open_volume(header.path, "BOLD as CIFTI")
    _, models = _cifti_axes(header.path, image)
    columns = []
    for name, vertices in zip(CORTEX.values(), wanted, strict=True):
        place = np.full(int(models.nvertices[name]), -1)
        place[models.vertex[models.name == name]] = np.flatnonzero(models.name == name)
        columns.append(place[vertices])
    chosen = np.concatenate(columns)
    series = np.empty((header.n_volumes, len(chosen)), np.float32)
    try:
        for start in range(0, header.n_volumes, _VOLUMES_AT_ONCE):
            block = np.asarray(image.dataobj[start : start + _VOLUMES_AT_ONCE], np.float32)
            series[start : start + len(block)] = block[:, chosen]
    except DAMAGED as error:
        raise InputError(
            header.path, expected=f"{header.n_volumes} whole volumes", found=one_line(error)
        ) from error
    return _finite(header.path, series, np.concatenate(wanted))


def _finite(path: Path, series: Rows, vertices: NDArray[np.int64]) -> Rows:
    bad = ~np.isfinite(series)
    if not bad.any():
        return series
    empty = np.isnan(series).all(axis=0)
    partly = np.argwhere(bad & ~empty)
    if len(partly):
        volume, unit = partly[0]
        raise InputError(
            path,
            expected="finite BOLD at every vertex that has values",
            found=f"{len(partly)} NaN or infinite values, the first in vertex {int(vertices[unit])}, volume {int(volume) + 1}",
        )
    series = series.copy()
    series[:, empty] = 0
    return series


def check_whole_surface(header: SurfaceHeader) -> None:
    """Raise if a file of the run ends early: a GIFTI file before its last tag, a CIFTI file before its last value."""
    for path in (header.path, header.right):
        if path is None:
            continue
        if path.name.endswith(CIFTI):
            image = open_volume(path, "BOLD as CIFTI")
            needed = image.dataobj.offset + int(np.prod(image.shape)) * image.get_data_dtype().itemsize
            if path.stat().st_size < needed:
                raise InputError(path, expected=f"{needed} bytes", found=f"a file of {path.stat().st_size}")
            continue
        with path.open("rb") as stream:
            stream.seek(max(path.stat().st_size - 64, 0))
            if not stream.read().rstrip().endswith(b"</GIFTI>"):
                raise InputError(path, expected="a whole GIFTI file", found="a file that ends early")
