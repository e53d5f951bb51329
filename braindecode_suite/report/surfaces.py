"""Maps on the inflated cortex of nilearn's packaged fsaverage5; nothing is downloaded.

The vertices of fsaverage meshes are nested: those of fsaverage5 are the first 10,242 of fsaverage6 and of fsaverage. A coarser
mesh gives each vertex of fsaverage5 the value of the nearest of its own.
"""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import matplotlib
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize

from braindecode_suite.core.spaces import MESH_VERTICES
from braindecode_suite.report.figures import STYLE, new_figure
from braindecode_suite.report.slices import colour_bar, name_row
from braindecode_suite.report.stat_maps import Scale, Volume

SHOWN = "fsaverage5"
VIEWS = ("lateral", "medial", "ventral")
PIXELS = 330


@cache
def meshes() -> dict[str, Any]:
    """Return paths of the packaged meshes and of the folding of the cortex."""
    from nilearn.datasets import fetch_surf_fsaverage

    return dict(fetch_surf_fsaverage(SHOWN))


def drawable(mesh: str) -> bool:
    """Say whether maps of a mesh can be drawn on fsaverage5."""
    return mesh in MESH_VERTICES and mesh.startswith("fsaverage")


def on_shown_mesh(values: np.ndarray, mesh: str, side: str) -> np.ndarray:
    """Return values of shape (maps, vertices of fsaverage5), of another fsaverage mesh's (maps, vertices)."""
    n = MESH_VERTICES[SHOWN]
    if values.shape[1] >= n:
        return values[:, :n]
    from nilearn.surface import load_surf_mesh
    from scipy.spatial import cKDTree

    sphere = np.asarray(load_surf_mesh(meshes()[f"sphere_{side}"]).coordinates)
    return values[:, cKDTree(sphere[: values.shape[1]]).query(sphere)[1]]


def sampled(volume: Volume, side: str) -> np.ndarray:
    """Sample a volume in MNI space between the white and the pial surface; NaN where no voxel of the map lies.

    Parameters
    ----------
    volume : Volume
    side : {'left', 'right'}

    Returns
    -------
    array of shape (maps, vertices of fsaverage5)
    """
    import nibabel as nib
    from nilearn.surface import vol_to_surf
    from scipy.ndimage import distance_transform_edt

    rows = []
    for values in volume.values:
        known = np.isfinite(values)
        if not known.any():
            rows.append(np.full(MESH_VERTICES[SHOWN], np.nan))
            continue
        nearest = distance_transform_edt(~known, return_distances=False, return_indices=True)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Mean of empty slice")  # vertices without any voxel
            rows.append(
                vol_to_surf(
                    nib.Nifti1Image(values[tuple(nearest)], volume.affine),  # the mask's edge is no dip to 0
                    meshes()[f"pial_{side}"],
                    inner_mesh=meshes()[f"white_{side}"],
                    mask_img=nib.Nifti1Image(known.astype(np.uint8), volume.affine),
                )
            )
    return np.stack(rows)


def surface_figure(left: np.ndarray, right: np.ndarray, scale: Scale, labels: tuple[str, ...] = ()) -> Any:
    """Draw maps on both hemispheres: one map in two rows of three views, several in a row of six each.

    Parameters
    ----------
    left, right : array of shape (maps, vertices of fsaverage5)
    scale : Scale
    labels : tuple of str
        Names of several maps, one a row.

    Returns
    -------
    Figure
    """
    several = len(labels) > 1
    columns = 2 * len(VIEWS) if several else len(VIEWS)
    rows = len(labels) if several else 2
    with matplotlib.rc_context(STYLE):
        figure = new_figure(8.5, 0.3 + (1.05 if several else 2.0) * rows)
        axes = figure.subplots(rows, columns, squeeze=False)
        for axis in axes.flat:
            axis.set_axis_off()
        for number in range(len(left)):
            for h, (side, values) in enumerate((("left", left[number]), ("right", right[number]))):
                for v, view in enumerate(VIEWS):
                    axis = axes[number, h * len(VIEWS) + v] if several else axes[h, v]
                    axis.imshow(render(values, side, view, scale))
                    if number == 0:
                        axis.set_title(f"{side} {view}", fontsize=9)
        for row, label in enumerate(labels if several else ()):
            name_row(axes[row, 0], label)
        colours = ScalarMappable(norm=Normalize(scale.low, scale.high), cmap=scale.palette)
        colour_bar(figure, colours, axes, scale)
    return figure


def render(values: np.ndarray, side: str, view: str, scale: Scale) -> np.ndarray:
    """Return one view of one hemisphere as pixels (height, width, 4), the margins cut off; uncoloured cortex is grey."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from nilearn.plotting import plot_surf

    figure = Figure(figsize=(2, 2), dpi=PIXELS / 2)
    canvas = FigureCanvasAgg(figure)
    figure.patch.set_alpha(0)
    axis: Any = figure.add_axes((0, 0, 1, 1), projection="3d")
    axis.patch.set_alpha(0)
    coloured = np.where(scale.visible(values), np.clip(values, scale.low, scale.high), np.nan)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Mean of empty slice")  # faces without any value
        plot_surf(
            meshes()[f"infl_{side}"],
            coloured if np.isfinite(coloured).any() else None,
            bg_map=meshes()[f"sulc_{side}"],
            hemi=side,
            view=view,
            cmap=scale.palette,
            vmin=scale.low,
            vmax=scale.high,
            avg_method="nanmean",
            colorbar=False,
            axes=axis,
            figure=figure,
            engine="matplotlib",
        )
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())
    rows, columns = (np.flatnonzero((pixels[..., 3] > 0).any(axis=a)) for a in (1, 0))
    return pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
