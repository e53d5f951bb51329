"""Every map of the results on the brain: slices where it is a volume, fsaverage where it lies there, and why where not."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from braindecode_suite.report.figures import FigureBlock, draw
from braindecode_suite.report.render import slug
from braindecode_suite.report.results import Results, mapping
from braindecode_suite.report.slices import slice_figure, template_behind
from braindecode_suite.report.stat_maps import Scale, StatMap, read_surface, read_volume
from braindecode_suite.report.surfaces import SHOWN, drawable, on_shown_mesh, sampled, surface_figure
from braindecode_suite.report.wording import integer, listed

IN_DATA_CARD = ("ncsnr",)
LOOK_FOR = {
    "searchlight": "bright patches of several voxels. Spheres overlap: neighbours are no independent findings.",
    "searchlightpfwe": "whether the coloured voxels form patches where the anatomy lets one expect them.",
    "pattern": "which regions go up (red) and down (blue) with each class; regions with the same sign in all rows tell no classes apart.",
    "regions": "regions well above chance. Where regions overlap the smaller one is painted.",
    "ncsnr": "bright patches; dark regions carry little. In real recordings neighbours are alike, simulated voxels may lie in any order.",
    "singletrialceiling": "red where single trials answer alike to repeats; blue is noise around 0, where nothing is told apart.",
    "reliability": "high values where the decoder is expected to find something; near 0 nothing can be decoded.",
}


@dataclass(frozen=True, kw_only=True)
class BrainView:
    """One map as the report shows it: its figures, and why it is not shown in another way."""

    title: str
    figures: list[FigureBlock]
    reason: str


def brain_views(results: Results) -> list[BrainView]:
    """Return all maps but those of the data card."""
    return [view(results, one) for name, one in results.maps.items() if name not in IN_DATA_CARD]


def reasons(views: list[BrainView]) -> list[str]:
    """Return why maps are not shown in some way, each reason once with the maps it holds for."""
    found: dict[str, list[str]] = {}
    for one in views:
        if one.reason:
            found.setdefault(one.reason, []).append(one.title)
    return [
        reason if len(titles) == len(views) else f"{listed(titles)}: {reason}"
        for reason, titles in found.items()
    ]


def no_brain(results: Results) -> str:
    """Return why maps that were made are not on any brain, or an empty string."""
    told = mapping(results.facts.get("brain"))
    titles = [str(title) for title in mapping(told.get("maps")).values()]
    reason = str(told.get("reason") or "")
    return f"{listed(titles)}: made, but not shown: {reason}." if titles and reason else ""


def view(results: Results, one: StatMap) -> BrainView:
    """Return one map's figures and the reason for those that are missing."""
    figures, reason = _of_volume(one, results) if one.volume is not None else _of_surface(one)
    return BrainView(title=one.title, figures=figures, reason=reason)


def _of_volume(one: StatMap, results: Results) -> tuple[list[FigureBlock], str]:
    assert one.volume is not None
    volume = read_volume(one.volume, results.mask)
    if not np.isfinite(volume.values).any():
        return [], "The map holds no finite value inside the mask."
    labels = one.shown_labels
    volume = replace(volume, values=volume.values[: max(len(labels), 1)])
    scale = one.scale(volume.values)
    in_mni = one.template.startswith("MNI152")
    figure, n = slice_figure(volume, scale, labels, template_behind(volume) if in_mni else None)
    where = "axial slices; the left of a slice is the subject's left"
    behind = f", on the {one.template} template" if in_mni else ""
    slices = draw(
        f"{slug(one.name)}-slices",
        figure,
        f"{n} axial slices: {_alt(one, scale, volume.values)}",
        f"{_caption(one, volume.values, scale)} On {where}{behind}.",
        LOOK_FOR.get(one.name, "patches of neighbouring voxels."),
    )
    if not in_mni:
        place = f" ({one.space})" if one.space else ""
        return [slices], (
            f"Not shown on a surface: the volume lies in the subject's own space{place}, and how that lies in a template is "
            "not recorded."
        )
    left, right = sampled(volume, "left"), sampled(volume, "right")
    if not (np.isfinite(left).any() or np.isfinite(right).any()):
        return [slices], f"Not shown on a surface: no voxel of the map lies in the cortex of {SHOWN}."
    caption = (
        f"The same on the inflated cortex of {SHOWN}: voxels between its white and its pial surface, averaged. MNI152 and "
        "fsaverage agree only roughly; edges may be off by some millimetres."
    )
    return [slices, _on_surface(one, left, right, scale, caption)], ""


def _of_surface(one: StatMap) -> tuple[list[FigureBlock], str]:
    if one.left is None or one.right is None or not one.right.is_file():
        return [], "Not shown: one hemisphere's file is missing."
    if not drawable(one.template):
        return [], (
            f"Not shown: nilearn holds the mesh of {SHOWN} only, and how {one.template or 'this mesh'} lies on it needs files of "
            "others. The GIFTI files open in any viewer with their own mesh."
        )
    maps = {side: read_surface(path) for side, path in (("left", one.left), ("right", one.right))}
    both = np.concatenate([maps["left"], maps["right"]], axis=1)
    if not np.isfinite(both).any():
        return [], "The map holds no finite value."
    scale = one.scale(both)
    left, right = (on_shown_mesh(values, one.template, side) for side, values in maps.items())
    n = int(np.isfinite(both).any(axis=0).sum())
    where = f"On the inflated cortex of {SHOWN}"
    if maps["left"].shape[1] > left.shape[1]:
        where += (
            f", whose vertices are every {round(maps['left'].shape[1] / left.shape[1])}th of {one.template}'s"
        )
    elif maps["left"].shape[1] < left.shape[1]:
        where += f", each vertex with the value of the nearest of {one.template}'s"
    caption = (
        f"{_caption(one, both, scale)} {where}; {integer(n)} vertices have a value, the others are grey."
    )
    return [_on_surface(one, left, right, scale, caption)], ""


def _on_surface(one: StatMap, left: np.ndarray, right: np.ndarray, scale: Scale, caption: str) -> FigureBlock:
    labels = one.shown_labels
    shown = slice(0, max(len(labels), 1))
    figure = surface_figure(left[shown], right[shown], scale, labels)
    both = np.concatenate([left[shown], right[shown]], axis=1)
    return draw(
        f"{slug(one.name)}-surface",
        figure,
        f"Lateral, medial and ventral views of both hemispheres: {_alt(one, scale, both)}",
        caption,
        LOOK_FOR.get(one.name, "patches of neighbouring vertices."),
    )


def _alt(one: StatMap, scale: Scale, values: np.ndarray) -> str:
    rows = f" of {listed(list(one.shown_labels))}" if len(one.labels) > 1 else ""
    coloured = scale.visible(values)
    if not coloured.any():
        return f"{one.title}{rows}; no value is beyond the threshold."
    seen = values[coloured]
    return f"{one.title}{rows}, from {seen.min():.2g} to {seen.max():.2g} {one.units}."


def _caption(one: StatMap, values: np.ndarray, scale: Scale) -> str:
    words = one.description or f"{one.title}."
    if scale.threshold is not None:
        coloured = int(scale.visible(values).any(axis=0).sum())
        known = int(np.isfinite(values).any(axis=0).sum())
        words += f" {one.note} {integer(coloured)} of {integer(known)} units are coloured."
    if len(one.labels) > len(one.shown_labels):
        words += f" The first {len(one.shown_labels)} of {len(one.labels)} maps; all are in the file."
    return words
