"""A statistic of every voxel on axial slices."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import nibabel as nib
import numpy as np

from braindecode_suite.report.figures import STYLE, FigureBlock, draw, new_figure


def statistic_slices(
    path: Path,
    mask_file: Path | None,
    *,
    name: str,
    what: str,
    label: str,
    caption: str,
    look_for: str,
    lowest: float | None = 0.0,
    most: int = 12,
) -> FigureBlock | None:
    """Return axial slices of a map, or None if it holds nothing.

    Parameters
    ----------
    path : Path
        NIfTI file.
    mask_file : Path or None
        Where the map is defined; where it is not zero by default.
    name : str
        Unique on the page.
    what, label : str
        What the map is called in words, and beside its colours.
    caption, look_for : str
    lowest : float or None
        Value of the darkest colour; None for colours around zero.
    most : int
        Slices shown.
    """
    image = nib.as_closest_canonical(nib.nifti1.load(path))
    volume = np.asarray(image.dataobj, np.float32)
    inside = volume != 0
    if mask_file is not None:
        inside = np.asarray(nib.as_closest_canonical(nib.nifti1.load(mask_file)).dataobj) > 0
    if not inside.any():
        return None
    box = tuple(slice(int(axis.min()), int(axis.max()) + 1) for axis in np.nonzero(inside))
    shown = np.where(inside, volume, np.nan)[box]
    filled = np.flatnonzero(np.isfinite(shown).any((0, 1)))
    chosen = filled[np.unique(np.linspace(0, len(filled) - 1, min(most, len(filled))).round().astype(int))]
    columns = min(6, len(chosen))
    rows = -(-len(chosen) // columns)
    width = min(8.5, 1.2 + 3.4 * columns)
    step = image.header.get_zooms()[:3]
    tall = (width - 1.2) / columns * shown.shape[1] * step[1] / (shown.shape[0] * step[0])
    top = float(np.nanmax(np.abs(shown))) if lowest is None else float(np.nanmax(shown))
    with matplotlib.rc_context(STYLE):
        figure = new_figure(width, 0.2 + (min(tall, 3.5) + 0.25) * rows)
        axes = figure.subplots(rows, columns, squeeze=False)
        for axis in axes.flat:
            axis.set_axis_off()
        for axis, z in zip(axes.flat, chosen, strict=False):
            drawn = axis.imshow(
                shown[:, :, z].T,
                origin="lower",
                cmap="RdBu_r" if lowest is None else "viridis",
                vmin=-top if lowest is None else lowest,
                vmax=top,
                interpolation="nearest",
                aspect=step[1] / step[0],
            )
            axis.set_title(f"z = {z + box[2].start}", fontsize=9)
        bar = figure.colorbar(drawn, ax=axes, fraction=0.03, pad=0.02)
        bar.set_label(label)
        bar.outline.set_visible(False)
    ends = f"{float(np.nanmin(shown)):.2f} to {float(np.nanmax(shown)):.2f}"
    return draw(
        name,
        figure,
        f"{len(chosen)} axial slices of {what}; {label} from {ends}.",
        f"{caption}; the left of a slice is the subject's left.",
        look_for,
    )
