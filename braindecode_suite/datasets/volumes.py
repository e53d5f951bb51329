"""NIfTI files of a release: headers, grids that must agree, files that must be whole, runs that have a length."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from braindecode_suite.core.checks import check_file
from braindecode_suite.core.errors import InputError
from braindecode_suite.datasets.lab_files import DAMAGED, one_line

COMPRESSED = (".gz", ".mgz")
_BLOCK = 4 * 2**20


def open_volume(path: Path, what: str) -> Any:
    """Return a NIfTI image whose values have not been read yet; a damaged header is an `InputError`."""
    check_file(path, what)
    try:
        return nib.load(path)
    except DAMAGED as error:
        raise InputError(path, expected=f"{what} as NIfTI", found=one_line(error)) from error


def read_mask(
    path: Path, what: str = "a mask", *, may_be_empty: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Return voxels above 0, bool of shape (x, y, z), and the affine, of shape (4, 4)."""
    image = open_volume(path, what)
    values = read_values(path, image, what)
    if values.ndim == 4 and values.shape[3] == 1:
        values = values[..., 0]
    if values.ndim != 3 or not (may_be_empty or (values > 0).any()):
        raise InputError(
            path,
            expected=f"{what} of 3 dimensions" + ("" if may_be_empty else " with voxels above 0"),
            found=f"shape {values.shape}, none above 0" if values.ndim == 3 else f"shape {values.shape}",
        )
    return values > 0, np.asarray(image.affine, float)


def read_values(path: Path, image: Any, what: str) -> np.ndarray:
    """Return the values of a small volume; a compressed one is held against its checksum."""
    try:
        if path.suffix in COMPRESSED:
            with gzip.open(path, "rb") as stream:
                _read_to_end(stream)
        return np.asarray(image.dataobj)
    except DAMAGED as error:
        raise InputError(path, expected=f"{what}, a whole file", found=one_line(error)) from error


def read_inside(path: Path, image: Any, mask: np.ndarray, dtype: Any = None, *, hint: str = "") -> np.ndarray:
    """Read all volumes of a 4-D file inside a mask, in one sequential pass with one volume in memory.

    Parameters
    ----------
    path : Path
    image : image of nibabel
        Its header says where the values begin and what they are.
    mask : array of bool of shape (x, y, z)
    dtype : dtype, optional
        Of the result; by default the file's own, in the machine's byte order.
    hint : str
        For the messages.

    Returns
    -------
    array of shape (volumes, voxels)
        As stored, not scaled (see `scale`); voxels in C order of the mask.

    Raises
    ------
    InputError
        If the file ends early or is damaged: a compressed one is read to its end and held against its checksum.
    """
    stored, n_volumes = image.header.get_data_dtype(), int(image.shape[3])
    size = int(np.prod(mask.shape)) * stored.itemsize
    inside: Any = np.ravel_multi_index(tuple(np.argwhere(mask).T), mask.shape, order="F")
    out = np.empty((n_volumes, len(inside)), stored.newbyteorder("=") if dtype is None else dtype)
    opener: Callable[..., Any] = gzip.open if path.suffix in COMPRESSED else open
    try:
        with opener(path, "rb") as stream:
            stream.read(image.dataobj.offset)
            for volume in range(n_volumes):
                content = stream.read(size)
                if len(content) < size:
                    raise InputError(
                        path,
                        expected=f"{n_volumes} volumes",
                        found=f"the file ends in volume {volume + 1}",
                        hint=hint,
                    )
                with np.errstate(over="ignore"):  # too large for float32 is infinite, and found by the caller
                    out[volume] = np.frombuffer(content, stored)[inside]
            _read_to_end(stream)
    except InputError:
        raise
    except DAMAGED as error:
        raise InputError(
            path, expected=f"{n_volumes} whole volumes", found=one_line(error), hint=hint
        ) from error
    return out


def scale(values: np.ndarray, image: Any) -> np.ndarray:
    """Apply slope and intercept of a header to float32 values as stored, in place."""
    slope, intercept = image.header.get_slope_inter()
    if slope is not None and (slope, intercept) != (1.0, 0.0):
        values *= np.float32(slope)
        values += np.float32(intercept or 0.0)
    return values


def _read_to_end(stream: Any) -> None:
    """Read what is left of a stream: gzip compares its checksum only when nothing is left."""
    while stream.read(_BLOCK):
        pass


def check_grid(path: Path, shape: tuple[int, ...], affine: np.ndarray, other: Path, image: Any) -> None:
    """Raise unless a mask lies on the grid of `image`, saying whether left and right are flipped.

    Parameters
    ----------
    path : Path
        The mask's file, for the message.
    shape, affine
        Of the mask.
    other : Path
    image : NIfTI image
        Its first three axes are the grid.
    """
    grid = tuple(int(n) for n in image.shape[:3])
    if tuple(shape) != grid:
        raise InputError(path, expected=f"the grid {grid} of {other.name}", found=f"shape {tuple(shape)}")
    expected = np.asarray(image.affine, float)
    if np.allclose(affine, expected, atol=1e-3):
        return
    check_orientation(path, affine, other, expected)
    row, column = np.argwhere(~np.isclose(affine, expected, atol=1e-3))[0]
    raise InputError(
        path,
        expected=f"the affine of {other.name} ({expected[row, column]:.4g} in row {row + 1}, column {column + 1})",
        found=f"{affine[row, column]:.4g}",
    )


def check_orientation(path: Path, affine: np.ndarray, other: Path, expected: np.ndarray) -> None:
    """Raise if the axes of a mask run another way than those of `other`: left and right may be flipped."""
    ours, theirs = nib.aff2axcodes(affine), nib.aff2axcodes(expected)
    if ours != theirs:
        raise InputError(
            path,
            expected=f"the orientation {''.join(map(str, theirs))} of {other.name}",
            found=f"{''.join(map(str, ours))}: an axis is flipped or swapped",
        )


def check_whole(path: Path) -> None:
    """Raise if a NIfTI file is shorter than its header says.

    A ``.gz`` names the length of its content in its last four bytes; only where that disagrees the whole file is
    decompressed.
    """
    image = open_volume(path, "a volume")
    expected = int(image.dataobj.offset) + int(np.prod(image.shape)) * image.header.get_data_dtype().itemsize
    if path.suffix != ".gz":
        found = path.stat().st_size
    else:
        with path.open("rb") as stream:
            stream.seek(-4, 2)
            if int.from_bytes(stream.read(), "little") == expected % 2**32:
                return
        found = _decompressed_bytes(path)
    if found < expected:
        raise InputError(
            path,
            expected=f"{expected} bytes of content",
            found=f"a file that ends after {found}",
            hint="download it again",
        )


def _decompressed_bytes(path: Path) -> int:
    count = 0
    try:
        with gzip.open(path, "rb") as stream:
            while block := stream.read(_BLOCK):
                count += len(block)
    except (EOFError, OSError, zlib.error):
        pass
    return count


def read_run_length(bold: Path, sidecars: list[Path]) -> float | None:
    """Return the length of a run in seconds from the header of its BOLD file, or None where that is absent.

    Parameters
    ----------
    bold : Path
    sidecars : list of Path
        JSON files that may name the ``RepetitionTime``, the nearest first.

    Raises
    ------
    InputError
        If the header's repetition time is not the sidecar's.
    """
    if not bold.is_file():
        return None
    image = open_volume(bold, "a BOLD run")
    if len(image.shape) != 4:
        raise InputError(bold, expected="a BOLD run of 4 dimensions", found=f"shape {image.shape}")
    tr = float(image.header.get_zooms()[3])
    for path in sidecars:
        if path.is_file():
            try:
                stated = float(json.loads(path.read_text(encoding="utf-8"))["RepetitionTime"])
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise InputError(path, expected="a RepetitionTime", found=one_line(error)) from error
            if not np.isclose(stated, tr, atol=1e-3):
                raise InputError(
                    bold,
                    expected=f"a repetition time of {stated:g} s, as in {path.name}",
                    found=f"{tr:g} s in the header",
                )
            break
    return tr * int(image.shape[3])
