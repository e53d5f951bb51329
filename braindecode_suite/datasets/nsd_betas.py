"""Betas of the release: read once, masked, session by session, into one memory-mapped array of rows.

The release keeps a voxel's whole session contiguous (HDF5) or a whole volume per trial (NIfTI), and most of the volume is
not brain. `MaskedBetas` makes one sequential pass over each session, keeps the voxels of the mask and writes them row
by row as float32 percent signal change: training then reads shuffled rows as fast as the disk gives them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from braindecode_suite.core.errors import InputError
from braindecode_suite.core.files import data_hash, write_json
from braindecode_suite.datasets.lab_files import DAMAGED, as_float32
from braindecode_suite.datasets.nsd_files import short
from braindecode_suite.datasets.volumes import read_inside

INT16_SCALE = 300.0
"""Integers are percent signal change times this."""
_PLANE_BYTES = 128 * 2**20
_LISTED_SHARE = 0.1
_TRIALS_AT_A_TIME, _VOXELS_AT_A_TIME = 64, 256


@dataclass(frozen=True)
class SessionHeader:
    """What the header of a beta file says.

    Attributes
    ----------
    path : Path
    n_trials : int
    volume : tuple of int
        Voxels along x, y, z.
    integer : bool
        Whether the values are plain integers (percent signal change x 300); floats, and integers with a scale factor of
        their own, are percent signal change.
    """

    path: Path
    n_trials: int
    volume: tuple[int, int, int]
    integer: bool


def read_header(path: Path) -> SessionHeader:
    """Read the header of one session, HDF5 or NIfTI by its name; no betas are read."""
    scaled = False
    try:
        if path.suffix == ".hdf5":
            with h5py.File(path, "r") as file:
                if "betas" not in file:
                    raise InputError(
                        path, expected="a dataset 'betas'", found=", ".join(file) or "an empty file"
                    )
                shape, dtype = file["betas"].shape, file["betas"].dtype
            trials_first = shape[:1] + shape[:0:-1]  # (trials, z, y, x) -> (trials, x, y, z)
        else:
            image: Any = nib.load(path)
            shape, dtype = image.shape, image.header.get_data_dtype()
            scaled = image.header.get_slope_inter()[0] not in (None, 1.0)
            trials_first = shape[-1:] + shape[:-1]
    except InputError:
        raise
    except DAMAGED as error:
        raise InputError(
            path, expected="a whole beta file", found=short(error), hint="download it again"
        ) from error
    if len(shape) != 4:
        raise InputError(path, expected="betas of 4 dimensions, trials and x, y, z", found=f"shape {shape}")
    n_trials, x, y, z = (int(length) for length in trials_first)
    return SessionHeader(path, n_trials, (x, y, z), np.issubdtype(dtype, np.integer) and not scaled)


def read_session(header: SessionHeader, mask: NDArray[np.bool_]) -> NDArray[Any]:
    """Read the betas of one session inside a mask, in one sequential pass, as they are stored (see `percent_rows`).

    Parameters
    ----------
    header : SessionHeader
    mask : array of bool of shape (x, y, z)

    Returns
    -------
    array of shape (trials, voxels)
        Percent signal change, or integers that are `INT16_SCALE` times it; voxels in C order of the mask.

    Raises
    ------
    InputError
        If the file is truncated, or holds NaN or infinity inside the mask.
    """
    try:
        values = _read_hdf5(header, mask) if header.path.suffix == ".hdf5" else _read_nifti(header, mask)
    except InputError:
        raise
    except DAMAGED as error:
        raise InputError(
            header.path, expected="a whole beta file", found=short(error), hint="download it again"
        ) from error
    if header.integer:
        return values
    values = as_float32(values)
    finite = np.isfinite(values)
    if not finite.all():
        bad = ~finite
        trial, voxel = np.argwhere(bad)[0]
        x, y, z = (int(i) for i in np.argwhere(mask)[voxel])
        raise InputError(
            header.path,
            expected="finite betas inside the mask",
            found=f"{int(bad.sum())} NaN or infinite values, the first in voxel ({x}, {y}, {z}), trial {int(trial) + 1}",
        )
    return values


def percent_rows(values: NDArray[Any], header: SessionHeader) -> Iterator[NDArray[np.float32]]:
    """Yield a session's rows as percent signal change, some trials at a time, so that no session is in memory twice.

    Parameters
    ----------
    values : array of shape (trials, voxels)
        Of `read_session`.
    header : SessionHeader
    """
    for first in range(0, len(values), _TRIALS_AT_A_TIME):
        block = values[first : first + _TRIALS_AT_A_TIME]
        if not header.integer:
            yield np.ascontiguousarray(block, np.float32)
            continue
        scaled = np.empty(block.shape, np.float32)  # row by row, whatever the order of the file
        for start in range(0, block.shape[1], _VOXELS_AT_A_TIME):
            some = slice(start, start + _VOXELS_AT_A_TIME)
            np.multiply(block[:, some], np.float32(1 / INT16_SCALE), out=scaled[:, some], dtype=np.float32)
        yield scaled


def _read_hdf5(header: SessionHeader, mask: NDArray[np.bool_]) -> NDArray[Any]:
    voxels = np.argwhere(mask)
    with h5py.File(header.path, "r") as file:
        betas = file["betas"]
        if betas.chunks == (header.n_trials, 1, 1, 1) and betas.compression is None and not betas.shuffle:
            return _read_voxel_chunks(betas, voxels, header.path)
        # any other arrangement: planes of z, as many at a time as fit
        out = np.empty((header.n_trials, len(voxels)), betas.dtype)
        plane = betas.dtype.itemsize * int(np.prod([betas.shape[0], *betas.shape[2:]]))
        step = max(_PLANE_BYTES // max(plane, 1), 1)
        for start in range(int(voxels[:, 2].min()), int(voxels[:, 2].max()) + 1, step):
            inside = (voxels[:, 2] >= start) & (voxels[:, 2] < start + step)
            if inside.any():
                block = betas[:, start : start + step]
                x, y, z = voxels[inside].T
                out[:, inside] = block[:, z - start, y, x]
        return out


def _read_voxel_chunks(betas: Any, voxels: NDArray[np.int64], path: Path) -> NDArray[Any]:
    """Read one chunk a voxel, in the order in which the file has them; only what lies inside the mask is read.

    Where the mask covers a fair part of the volume, all places in the file are listed at once and neighbours are read
    together; otherwise the library looks each voxel up.
    """
    n_trials, z_size, y_size, x_size = betas.shape
    by_voxel = np.full(
        (len(voxels), n_trials), betas.fillvalue, betas.dtype
    )  # what was never written is the fill value
    raw = by_voxel.view(np.uint8).reshape(len(voxels), -1)
    if len(voxels) < _LISTED_SHARE * z_size * y_size * x_size or betas.file.userblock_size:
        for row in np.lexsort((voxels[:, 0], voxels[:, 1], voxels[:, 2])):
            x, y, z = (int(i) for i in voxels[row])
            try:
                betas.id.read_direct_chunk((0, z, y, x), out=raw[row])
            except (
                OSError,
                ValueError,
                RuntimeError,
            ):  # a chunk never written is filled; a lost one raises again
                by_voxel[row] = betas[:, z, y, x]
        return by_voxel.T

    row_of = np.full((z_size, y_size, x_size), -1)
    row_of[voxels[:, 2], voxels[:, 1], voxels[:, 0]] = np.arange(len(voxels))
    found: list[tuple[int, int]] = []  # byte offset, row

    def note(chunk: Any) -> None:
        row = row_of[chunk.chunk_offset[1:]]
        if row >= 0:
            found.append((chunk.byte_offset, row))

    betas.id.chunk_iter(note)
    if not found:
        return by_voxel.T
    found.sort()
    offsets, rows = np.array(found).T
    size = raw.shape[1]
    starts = np.flatnonzero(np.diff(offsets, prepend=offsets[0] - size - 1) != size)
    with path.open("rb") as stream:
        for start, stop in zip(starts, [*starts[1:], len(offsets)], strict=True):
            stream.seek(int(offsets[start]))
            content = stream.read((stop - start) * size)
            if len(content) < (stop - start) * size:
                raise InputError(
                    path,
                    expected="a whole beta file",
                    found="a file that ends early",
                    hint="download it again",
                )
            raw[rows[start:stop]] = np.frombuffer(content, np.uint8).reshape(-1, size)
    return by_voxel.T


def _read_nifti(header: SessionHeader, mask: NDArray[np.bool_]) -> NDArray[Any]:
    """Read a volume at a time through the decompressor, so that a session is never whole in memory."""
    image: Any = nib.load(header.path)
    out = read_inside(header.path, image, mask, hint="download it again")
    slope, intercept = image.header.get_slope_inter()
    if slope not in (None, 1.0) or intercept not in (None, 0.0):
        return out * np.float32(slope or 1.0) + np.float32(intercept or 0.0)
    return out


class MaskedBetas:
    """Rows of all sessions, read from a memory map that is made the first time a row is asked for (or by `prepare`).

    Parameters
    ----------
    sessions : dict of int to SessionHeader
        In order; rows follow each other.
    mask : array of bool of shape (x, y, z)
    folder : Path
        Where the memory map goes: ``<name>.npy`` and its manifest ``<name>.json``.
    name : str
    """

    def __init__(
        self, sessions: Mapping[int, SessionHeader], mask: NDArray[np.bool_], folder: Path, name: str
    ) -> None:
        self.sessions, self.mask = dict(sessions), mask
        self._stamps = {str(number): _stamp(header.path) for number, header in self.sessions.items()}
        key = data_hash(mask, [str(h.path.resolve()) for h in self.sessions.values()])
        self.path = folder / f"{name}_{key}.npy"
        self._rows: NDArray[np.float32] | None = None
        self._varies: NDArray[np.bool_] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """(trials, voxels)"""
        return sum(h.n_trials for h in self.sessions.values()), int(np.count_nonzero(self.mask))

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32, percent signal change."""
        return np.dtype(np.float32)

    def __len__(self) -> int:
        return self.shape[0]

    def __getstate__(self) -> dict[str, Any]:
        """Leave the memory map out: a copy in another process opens its own."""
        return {**self.__dict__, "_rows": None}

    def __getitem__(self, rows: Any) -> NDArray[np.float32]:
        return self.mapped[rows]

    @property
    def is_prepared(self) -> bool:
        """Whether the memory map is there, whole and of these very files."""
        return self.path.is_file() and self._done(self._manifest) == set(self._stamps)

    @property
    def varies(self) -> NDArray[np.bool_]:
        """Voxels that are not constant in every session, of shape (voxels,); prepares first."""
        self.prepare()
        if self._varies is None:
            packed = self._read_manifest(self._manifest)["varies"]
            sessions = [np.frombuffer(bytes.fromhex(packed[number]), np.uint8) for number in self._stamps]
            self._varies = np.unpackbits(np.bitwise_or.reduce(sessions), count=self.shape[1]).astype(bool)
        return self._varies

    def prepare(self, progress: Callable[[str], None] | None = None) -> MaskedBetas:
        """Make the memory map: one sequential masked pass over each session that is not done yet.

        The map is written beside its final name and renamed when whole. A pass that was interrupted goes on with the
        sessions that are missing; a session whose file has changed in size or time since is read again.
        """
        if self.is_prepared:
            return self
        partial = self.path.with_suffix(".partial.npy")
        manifest = partial.with_suffix(".json")
        try:
            partial.parent.mkdir(parents=True, exist_ok=True)
            done = self._done(manifest) if partial.is_file() else set()
            varies: dict[str, str] = self._read_manifest(manifest)["varies"] if done else {}
            if not done:
                np.lib.format.open_memmap(partial, mode="w+", dtype=np.float32, shape=self.shape)
            offset = np.load(partial, mmap_mode="r", allow_pickle=False).offset
            start = 0
            for number, header in self.sessions.items():
                if str(number) not in done:
                    if progress is not None:
                        progress(f"session {number}")
                    place = offset + start * self.shape[1] * self.dtype.itemsize
                    varies[str(number)] = self._copy(header, partial, place)
                    done.add(str(number))
                    self._write_manifest(manifest, done, varies)
                start += header.n_trials
            self._write_manifest(self._manifest, done, varies)
            os.replace(partial, self.path)
            manifest.unlink(missing_ok=True)
        except OSError as error:
            raise InputError(
                self.path.parent,
                expected="a work folder with room for the prepared betas",
                found=short(error),
            ) from error
        return self

    def _copy(self, header: SessionHeader, partial: Path, place: int) -> str:
        """Write one session at a byte of the map; return which voxels vary in it, packed."""
        values = read_session(header, self.mask)
        with partial.open("r+b") as stream:
            stream.seek(place)
            for rows in percent_rows(values, header):
                rows.tofile(stream)
        return np.packbits(values.max(axis=0) != values.min(axis=0)).tobytes().hex()

    @property
    def _manifest(self) -> Path:
        return self.path.with_suffix(".json")

    @property
    def mapped(self) -> NDArray[np.float32]:
        """All rows as a memory map, of shape (trials, voxels); prepares first."""
        if self._rows is None:
            self.prepare()
            self._rows = np.load(self.path, mmap_mode="r", allow_pickle=False)
        return self._rows

    def _write_manifest(self, path: Path, done: set[str], varies: dict[str, str]) -> None:
        stamps = {number: self._stamps[number] for number in self._stamps if number in done}
        write_json(path, {"shape": list(self.shape), "sources": stamps, "varies": varies})

    def _read_manifest(self, path: Path) -> dict[str, Any]:
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def _done(self, manifest: Path) -> set[str]:
        """Return the sessions that a manifest says are written, from the very files that are there now."""
        content = self._read_manifest(manifest)
        if content.get("shape") != list(self.shape):
            return set()
        sources = content.get("sources", {})
        return {number for number, stamp in self._stamps.items() if sources.get(number) == stamp}


def _stamp(path: Path) -> list[Any]:
    """Name, size and time of a file: what a cheap look can tell of its content."""
    status = path.stat()
    return [path.name, status.st_size, status.st_mtime_ns]
