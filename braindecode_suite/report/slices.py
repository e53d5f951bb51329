"""Maps of a volume on axial slices."""

from __future__ import annotations

from typing import Any

import matplotlib
import numpy as np

from braindecode_suite.report.figures import INK, STYLE, new_figure
from braindecode_suite.report.stat_maps import Scale, Volume

MOST_SLICES, COLUMNS, FEW_COLUMNS = 12, 6, 3
BESIDE = 0.28  # share of a mid grey that shows where the mask is, on a light and on a dark page


def slice_figure(
    volume: Volume, scale: Scale, labels: tuple[str, ...] = (), template: np.ndarray | None = None
) -> tuple[Any, int]:
    """Draw slices: up to twelve of one map; a row of up to six for each of several.

    Parameters
    ----------
    volume : Volume
    scale : Scale
    labels : tuple of str
        Names of several maps, one a row.
    template : array of shape (x, y, z), optional
        Anatomy to draw behind, on the same grid.

    Returns
    -------
    figure, number of slices
    """
    box: Any = tuple(slice(int(axis.min()), int(axis.max()) + 1) for axis in np.nonzero(volume.inside))
    shown, inside = volume.values[(slice(None), *box)], volume.inside[box]
    behind = None if template is None else template[box]
    filled = np.flatnonzero(inside.any((0, 1)))
    most = COLUMNS if len(labels) > 1 else MOST_SLICES
    chosen = filled[np.unique(np.linspace(0, len(filled) - 1, min(most, len(filled))).round().astype(int))]
    several = len(labels) > 1
    by_row = several and len(chosen) > 1
    panels = [(k, int(z)) for k in range(len(labels) if several else 1) for z in chosen]
    columns = len(chosen) if by_row else min(COLUMNS if not several else FEW_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    step = np.sqrt(np.sum(volume.affine[:3, :3] ** 2, axis=0))
    width = min(8.5, 1.2 + 3.4 * columns)
    tall = (width - 1.2) / columns * inside.shape[1] * step[1] / (inside.shape[0] * step[0])
    tall = min(max(tall, 0.5), 3.5 if rows < 3 else 1.6)
    with matplotlib.rc_context(STYLE):
        figure = new_figure(width, 0.2 + (tall + 0.25) * rows)
        axes = figure.subplots(rows, columns, squeeze=False)
        drawn = None
        for axis in axes.flat:
            axis.set_axis_off()
        for axis, (k, z) in zip(axes.flat, panels, strict=False):
            look: dict[str, Any] = {
                "origin": "lower",
                "interpolation": "nearest",
                "aspect": step[1] / step[0],
            }
            axis.imshow(_backdrop(inside[:, :, z], None if behind is None else behind[:, :, z]), **look)
            values = shown[k, :, :, z]
            drawn = axis.imshow(
                np.where(scale.visible(values), values, np.nan).T,
                cmap=scale.palette,
                vmin=scale.low,
                vmax=scale.high,
                **look,
            )
            place = _place(volume.affine, z + box[2].start)
            if not by_row:
                axis.set_title(f"{labels[k]}, {place}" if several else place, fontsize=9, parse_math=False)
            elif k == 0:
                axis.set_title(place, fontsize=9)
        for row, label in enumerate(labels if by_row else ()):
            name_row(axes[row, 0], label)
        if drawn is not None:
            colour_bar(figure, drawn, axes, scale)
    return figure, len(chosen)


def name_row(axis: Any, label: str) -> None:
    """Write the name of a row to the left of its first panel."""
    look: dict[str, Any] = {
        "rotation": 90,
        "ha": "right",
        "va": "center",
        "fontsize": 9.5,
        "color": INK,
        "parse_math": False,
    }
    axis.text(-0.06, 0.5, label, transform=axis.transAxes, **look)


def colour_bar(figure: Any, drawn: Any, axes: Any, scale: Scale) -> None:
    """Add the colour bar with its unit beside some axes."""
    bar = figure.colorbar(
        drawn, ax=axes, fraction=0.03, pad=0.02, shrink=min(1.0, 4 / figure.get_figheight())
    )
    bar.set_label(scale.label, parse_math=False)
    bar.outline.set_visible(False)


def _backdrop(inside: np.ndarray, anatomy: np.ndarray | None) -> np.ndarray:
    """Return pixels behind a slice: the template in grey, or a faint shape of the mask."""
    pixels = np.zeros((*inside.T.shape, 4))
    if anatomy is None:
        pixels[..., :3], pixels[..., 3] = 0.5, BESIDE * inside.T
        return pixels
    grey = np.clip(anatomy.T, 0, 1)
    pixels[..., :3], pixels[..., 3] = grey[..., None], grey > 0.05
    return pixels


def _place(affine: np.ndarray, z: int) -> str:
    """Return where a slice lies: in millimetres where the axis is straight, else its number."""
    if np.abs(affine[2, :2]).max() < 1e-3:
        return f"z = {affine[2, 3] + affine[2, 2] * z:.0f} mm".replace("-", "\u2212")
    return f"slice {z}"


def template_behind(volume: Volume) -> np.ndarray:
    """Return the MNI152 template that nilearn holds, resampled to a volume's grid, from 0 to 1."""
    import nibabel as nib
    from nilearn.datasets import load_mni152_template
    from nilearn.image import resample_to_img

    grid = nib.Nifti1Image(volume.inside.astype(np.float32), volume.affine)
    anatomy = resample_to_img(
        load_mni152_template(resolution=2),
        grid,
        interpolation="linear",
        force_resample=True,
        copy_header=True,
    )
    values = np.asarray(anatomy.dataobj, np.float32)
    return values / max(float(values.max()), 1e-6)
