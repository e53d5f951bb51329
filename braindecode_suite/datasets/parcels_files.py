"""One file of parcel time series: `.mat`, `.npy`, `.tsv` or `.ptseries.nii`; its header first, its samples when asked for."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
from scipy.io import loadmat, whosmat

from braindecode_suite.core.checks import check_finite
from braindecode_suite.core.errors import InputError
from braindecode_suite.datasets.lab_files import DAMAGED, as_float32, one_line

SUFFIXES = (".mat", ".npy", ".tsv", ".ptseries.nii")
AXES = ("parcels times", "times parcels")
NUMERIC = ("double", "single", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64")


@dataclass(frozen=True, kw_only=True, eq=False)
class SeriesFile:
    """Header of one run.

    Attributes
    ----------
    path : Path
    n_parcels, n_times : int
    repetition_time : float or None
        Seconds, where the file or its sidecar says.
    labels : tuple of str
        Names of the parcels, empty where the file has none.
    load : callable
        Returns the samples, of shape (parcels, times), as the file's own numbers.
    """

    path: Path
    n_parcels: int
    n_times: int
    repetition_time: float | None
    labels: tuple[str, ...]
    load: Callable[[], np.ndarray]

    def read(self) -> np.ndarray:
        """Return the samples as float32 of shape (parcels, times); a file that broke since, or NaN, is an `InputError`."""
        try:
            values = np.asarray(self.load())
        except DAMAGED as error:
            raise InputError(self.path, expected="whole time series", found=one_line(error)) from error
        if values.shape != (self.n_parcels, self.n_times):
            raise InputError(
                self.path,
                expected=f"shape (parcels={self.n_parcels}, times={self.n_times})",
                found=str(values.shape),
            )
        series = as_float32(values)
        check_finite(self.path, series)
        return series


def open_series(path: Path, description: Mapping[str, Any]) -> SeriesFile:
    """Read the header of one file.

    Parameters
    ----------
    path : Path
    description : mapping
        ``Axes`` (one of `AXES`) and ``Variable`` for formats that do not say; ``Labels`` to tell the axes by.

    Raises
    ------
    InputError
        If the file is no whole table of numbers, or which axis is time cannot be told.
    """
    try:
        if path.name.endswith(".ptseries.nii"):
            return _open_cifti(path)
        if path.suffix == ".tsv":
            return _open_tsv(path)
        if path.suffix == ".npy":
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            shape, load = array.shape, lambda: np.load(path, mmap_mode="r", allow_pickle=False)
            numeric = np.issubdtype(array.dtype, np.number) and not np.iscomplexobj(array)
        else:
            name, shape, numeric = _variable(path, str(description.get("Variable", "")))
            load = lambda: loadmat(str(path), variable_names=[name])[name]  # noqa: E731
    except InputError:
        raise
    except DAMAGED as error:
        raise InputError(path, expected="time series of parcels", found=one_line(error)) from error
    if len(shape) != 2 or not numeric:
        raise InputError(
            path, expected="numbers of two dimensions, parcels and times", found=f"shape {shape}"
        )
    turned = _axes(path, shape, description) == "times parcels"
    n_parcels, n_times = shape[::-1] if turned else shape
    return SeriesFile(
        path=path,
        n_parcels=int(n_parcels),
        n_times=int(n_times),
        repetition_time=_sidecar_time(path),
        labels=(),
        load=(lambda: np.asarray(load()).T) if turned else load,
    )


def _open_cifti(path: Path) -> SeriesFile:
    image: Any = nib.load(path)
    if not isinstance(image, nib.cifti2.Cifti2Image):
        raise InputError(path, expected="a CIFTI-2 parcel series", found=type(image).__name__)
    time, parcels = (image.header.get_axis(k) for k in (0, 1))
    if not isinstance(time, nib.cifti2.SeriesAxis) or not isinstance(parcels, nib.cifti2.ParcelsAxis):
        raise InputError(
            path,
            expected="a series axis and a parcels axis",
            found=f"{type(time).__name__} and {type(parcels).__name__}",
        )
    if time.unit != "SECOND":
        raise InputError(path, expected="a series in seconds", found=str(time.unit).lower())
    return SeriesFile(
        path=path,
        n_parcels=len(parcels),
        n_times=len(time),
        repetition_time=float(time.step),
        labels=tuple(map(str, parcels.name)),
        load=lambda: np.asarray(nib.load(path).dataobj).T,  # type: ignore[attr-defined]
    )


def _open_tsv(path: Path) -> SeriesFile:
    """Read the names of the columns, one a parcel, and count the rows, one a sample."""
    with path.open(encoding="utf-8") as stream:
        labels = tuple(stream.readline().rstrip("\r\n").split("\t"))
        n_times = sum(1 for line in stream if line.strip())
    if _is_number(labels[0]):
        raise InputError(path, expected="a first row with the names of the parcels", found=labels[0])

    def load() -> np.ndarray:
        table = pd.read_csv(path, sep="\t", na_values=["n/a"])
        return table.to_numpy(np.float64).T

    return SeriesFile(
        path=path,
        n_parcels=len(labels),
        n_times=n_times,
        repetition_time=_sidecar_time(path),
        labels=labels,
        load=load,
    )


def _variable(path: Path, wanted: str) -> tuple[str, tuple[int, ...], bool]:
    """Return name and shape of the variable that holds the series: the one asked for, or the only matrix."""
    found = {name: (tuple(shape), kind in NUMERIC) for name, shape, kind in whosmat(str(path))}
    if wanted:
        if wanted not in found:
            raise InputError(
                path, expected=f"a variable {wanted!r}", found=", ".join(sorted(found)) or "none"
            )
        return wanted, *found[wanted]
    matrices = [
        name for name, (shape, numeric) in found.items() if numeric and len(shape) == 2 and min(shape) > 1
    ]
    if len(matrices) != 1:
        raise InputError(
            path,
            expected="one matrix of numbers",
            found=", ".join(sorted(matrices or found)) or "none",
            hint="name it under Variable in parcels.json",
        )
    return matrices[0], *found[matrices[0]]


def _axes(path: Path, shape: tuple[int, ...], description: Mapping[str, Any]) -> str:
    named = description.get("Axes")
    if named is not None:
        if named not in AXES:
            raise InputError("parcels.json", expected=f"Axes {AXES[0]!r} or {AXES[1]!r}", found=repr(named))
        return str(named)
    labels = description.get("Labels") or ()
    fits = [axes for axes, n in zip(AXES, shape, strict=True) if n == len(labels)]
    if len(fits) != 1:
        raise InputError(
            path,
            expected="to be told which axis is time",
            found=f"shape {shape}",
            hint=f"write Axes: {AXES[0]!r} or {AXES[1]!r} into parcels.json",
        )
    return fits[0]


def _sidecar_time(path: Path) -> float | None:
    """Return the repetition time of the JSON file beside, if it says (``RepetitionTime``, or ``SamplingFrequency`` in Hz)."""
    sidecar = path.with_suffix(".json")
    if not sidecar.is_file():
        return None
    known = read_mapping(sidecar)
    value, inverse = known.get("RepetitionTime"), known.get("SamplingFrequency")
    if value is None and inverse in (None, 0):
        return None
    number = value if value is not None else inverse
    if not _is_number(number) or not float(number) > 0:  # type: ignore[arg-type]
        raise InputError(sidecar, expected="a repetition time above 0", found=repr(number))
    return float(number) if value is not None else 1 / float(number)  # type: ignore[arg-type]


def read_mapping(path: Path) -> dict[str, Any]:
    """Read a JSON object."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(path, expected="JSON", found=one_line(error)) from error
    if not isinstance(found, dict):
        raise InputError(path, expected="a JSON object", found=type(found).__name__)
    return found


def _is_number(value: object) -> bool:
    try:
        float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False
    return True
