"""One way to the series of a run, whether it lies in a volume or on the surface."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from braindecode_suite.core.errors import InputError
from braindecode_suite.core.spaces import SurfaceSpace, VoxelSpace
from braindecode_suite.datasets.bids_bold import BoldHeader, read_bold_header, read_brain_mask, read_series
from braindecode_suite.datasets.bids_layout import RunFiles, is_surface
from braindecode_suite.datasets.bids_surface import (
    SurfaceHeader,
    check_whole_surface,
    read_surface_header,
    read_surface_series,
    surface_space,
)
from braindecode_suite.datasets.volumes import check_whole

Header = BoldHeader | SurfaceHeader
BoldSpace = VoxelSpace | SurfaceSpace


def read_header(run: RunFiles) -> Header:
    """Read what headers and sidecars say of a run."""
    return read_surface_header(run) if is_surface(run.bold) else read_bold_header(run)


def open_space(runs: Sequence[RunFiles], headers: Sequence[Header], mask: str = "") -> BoldSpace:
    """Return the voxels that are brain, or the vertices that have values, in every run; or those of the mask named."""
    surfaces = [header for header in headers if isinstance(header, SurfaceHeader)]
    if len(surfaces) == len(headers):
        return surface_space(runs, surfaces, mask)
    volumes: list[Any] = list(headers)
    inside, affine = read_brain_mask(list(runs), volumes, mask)
    return VoxelSpace(inside, affine, name=runs[0].space)


def read_run(header: Header, space: BoldSpace) -> NDArray[np.float32]:
    """Read a run inside a space, of shape (volumes, units)."""
    if isinstance(header, SurfaceHeader) and isinstance(space, SurfaceSpace):
        return read_surface_series(header, space)
    if isinstance(header, BoldHeader) and isinstance(space, VoxelSpace):
        return read_series(header, space.mask)
    raise InputError(header.path, expected="a run of the study's space", found=type(space).__name__)


def check_complete(header: Header) -> None:
    """Raise if a file of the run ends early."""
    if isinstance(header, SurfaceHeader):
        check_whole_surface(header)
    else:
        check_whole(header.path)
