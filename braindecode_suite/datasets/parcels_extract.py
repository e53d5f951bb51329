"""From BOLD to parcel time series: mean over the voxels of each parcel (Schaefer, AAL) or least squares on maps (DiFuMo)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd

from braindecode_suite.core.checks import check_file, check_finite, check_shape
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.files import write_aside, write_json
from braindecode_suite.datasets.lab_files import DAMAGED, one_line

SAME_TIME = 1e-3  # seconds


def extract_parcels(
    bold: Path,
    atlas: Path,
    labels: Sequence[str],
    out: Path,
    *,
    confounds: pd.DataFrame | None = None,
    high_pass: float | None = None,
    repetition_time: float | None = None,
) -> Path:
    """Write the time series of an atlas's parcels as ``.tsv`` with its ``.json``, in the layout that `parcels` reads.

    Parcels are averaged by nilearn's labels masker where the atlas is a volume of whole numbers, and fitted by its maps masker
    where it is 4-D. The atlas must be in the space of the recordings; it is resampled to their grid (nearest neighbour for
    labels). Nothing is smoothed or standardised.

    Parameters
    ----------
    bold : Path
        4-D NIfTI.
    atlas : Path
        Labels from 1 to n, all of them present, or n maps.
    labels : sequence of str
        Name of each parcel, in the order of the atlas.
    out : Path
        Ends in ``.tsv``.
    confounds : DataFrame, optional
        A row a volume; taken out by regression.
    high_pass : float, optional
        Hertz.
    repetition_time : float, optional
        Seconds; must be that of the header, or takes its place where the header has none.

    Returns
    -------
    Path
        `out`.

    Raises
    ------
    InputError
        If a file cannot be read, labels and atlas disagree, a parcel has no voxel in the recordings, or times disagree.
    """
    if out.suffix != ".tsv":
        raise InputError("`out`", expected="a file .tsv", found=out.name)
    image, parcels = (_load(check_file(path, what)) for path, what in ((bold, "BOLD"), (atlas, "an atlas")))
    if len(image.shape) != 4:
        raise InputError(bold, expected="four dimensions: x, y, z, volumes", found=f"shape {image.shape}")
    seconds = _repetition_time(bold, image, repetition_time)
    if confounds is not None:
        check_shape("confounds", confounds, "volumes columns", volumes=image.shape[3])
        check_finite("`confounds`", confounds.to_numpy(float))
    _check_atlas(atlas, parcels, len(labels))
    options: dict[str, Any] = {"standardize": False, "t_r": seconds, "high_pass": high_pass}
    try:
        series = _masked(image, parcels, confounds, options)
    except DAMAGED as error:
        raise InputError(
            bold, expected="whole volumes, and an atlas that covers them", found=one_line(error)
        ) from error
    if series.shape != (image.shape[3], len(labels)):
        raise InputError(
            atlas,
            expected=f"{len(labels)} parcels with voxels in {bold.name}",
            found=f"{series.shape[1]}",
        )
    check_finite(bold, series)
    with write_aside(out) as aside:
        pd.DataFrame(series, columns=list(labels)).to_csv(aside, sep="\t", index=False, float_format="%.8g")
    sidecar = {
        "RepetitionTime": seconds,
        "Atlas": atlas.name,
        "HighPassHz": high_pass,
        "Confounds": [] if confounds is None else [str(column) for column in confounds.columns],
    }
    write_json(out.with_suffix(".json"), sidecar)
    return out


def _masked(image: Any, parcels: Any, confounds: pd.DataFrame | None, options: dict[str, Any]) -> np.ndarray:
    from nilearn.maskers import NiftiLabelsMasker, NiftiMapsMasker

    with (
        warnings.catch_warnings()
    ):  # nilearn tells of resampling and of parcels that vanish: the latter is checked after
        warnings.simplefilter("ignore")
        if len(parcels.shape) == 4:
            masker = NiftiMapsMasker(parcels, resampling_target="data", **options)
        else:
            masker = NiftiLabelsMasker(parcels, resampling_target="data", keep_masked_labels=False, **options)
        return np.asarray(masker.fit_transform(image, confounds=confounds), np.float64)


def _load(path: Path) -> Any:
    try:
        return nib.load(path)
    except DAMAGED as error:
        raise InputError(path, expected="a NIfTI image", found=one_line(error)) from error


def _repetition_time(path: Path, image: Any, given: float | None) -> float:
    unit, step = image.header.get_xyzt_units()[1], float(image.header.get_zooms()[3])
    known = {"sec": step, "msec": step / 1000, "usec": step / 1e6}.get(unit, 0.0)
    if known <= 0 and (given is None or given <= 0):
        raise InputError(path, expected="a repetition time in the header", found=f"{step:g} {unit}")
    if known > 0 and given is not None and abs(known - given) > SAME_TIME:
        raise InputError(
            path, expected=f"a repetition time of {given:g} s", found=f"{known:g} s in the header"
        )
    return known if known > 0 else float(given or 0)


def _check_atlas(path: Path, parcels: Any, n_labels: int) -> None:
    if len(parcels.shape) == 4:
        if parcels.shape[3] != n_labels:
            raise InputError(path, expected=f"{n_labels} maps, one a label", found=str(parcels.shape[3]))
        return
    values = np.unique(np.asarray(parcels.dataobj))
    inside = values[values != 0]
    if (
        len(parcels.shape) != 3
        or len(inside) != n_labels
        or not np.array_equal(inside, np.arange(1, n_labels + 1))
    ):
        raise InputError(
            path,
            expected=f"the values 1 to {n_labels}, one a label",
            found=f"{len(inside)} values from {inside.min():g} to {inside.max():g}"
            if len(inside)
            else "none",
        )


def read_confounds(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Read columns of a confounds table; a first row without a value (derivatives) takes the column's mean."""
    check_file(path, "a table of confounds")
    try:
        table = pd.read_csv(path, sep="\t", na_values=["n/a"])
    except DAMAGED as error:
        raise InputError(path, expected="a tab-separated table", found=one_line(error)) from error
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise InputError(path, expected=f"columns {', '.join(columns)}", found=f"no {missing[0]}")
    chosen = table[list(columns)].astype(float)
    late = chosen.iloc[1:].isna().any()
    if late.any():
        raise InputError(path, expected="values after the first row", found=f"none in {late.idxmax()}")
    return chosen.fillna(chosen.mean())
