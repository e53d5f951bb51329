"""Where attention goes in simulated scenes: mass on the object of a region's own category against the other objects."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd

from braindecode_suite.core.features import Grid
from braindecode_suite.core.score import Score
from braindecode_suite.datasets.simulate_anatomy import LABELS, PREFERRED
from braindecode_suite.datasets.simulate_scenes import Scene, object_masks, scene_from_params
from braindecode_suite.metrics.encoding_resampling import draw_weights
from braindecode_suite.metrics.gaussian_maps import fit_gaussians
from braindecode_suite.metrics.routing_maps import Parts, excess, map_measures, mass_per_area, routing_ratio
from braindecode_suite.workflows.encode_scoring import FEWEST_IMAGES, Settings

PIXELS_A_TOKEN = 8
ALL_CATEGORY_ROIS = "category regions"
SCORER = "own object over the others, per area, above the mean map"
RELATIVE = f"{SCORER}, relative to regions of other categories"
FIELD_RESAMPLES = 200
SIDES: Mapping[str, tuple[str, ...]] = {
    "": ("lh.", "rh.", ""),
    "left hemisphere": ("lh.",),
    "right hemisphere": ("rh.",),
}
OWN_CATEGORY: Mapping[str, str] = {
    roi: category for file, category in PREFERRED.items() for roi in LABELS[file]
}
"""Category that each region of the simulated brain prefers."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Look:
    """Where the queries of one model look.

    Attributes
    ----------
    model, seed, control : str
    target : str
        Source of the features.
    maps : array of shape (test images, queries, tokens)
        Attention, summing to 1 over tokens; the mean over seeds.
    queries : tuple of str
        E.g. ``lh.FFA-1``.
    grid : Grid
    """

    model: str
    seed: str
    control: str
    target: str
    maps: np.ndarray
    queries: tuple[str, ...]
    grid: Grid

    def of_region(self, roi: str, sides: Sequence[str] = ("lh.", "rh.", "")) -> np.ndarray | None:
        """Return the mean map of a region's queries, of shape (images, height * width), or None where it has none.

        Of the queries of some hemispheres only, where `sides` names them.
        """
        at = [k for k, query in enumerate(self.queries) if query in {f"{side}{roi}" for side in sides}]
        if not at:
            return None
        mean = np.asarray(self.maps[:, at], np.float64).mean(axis=1)
        return self.grid.on_image(mean).reshape(len(mean), -1)


def read_scenes(attributes: pd.DataFrame | None, ids: Sequence[str]) -> list[Scene] | None:
    """Return what each image shows, from the attribute ``scene`` of simulated studies; None where it is not known."""
    if attributes is None or "scene" not in attributes.columns:
        return None
    texts = attributes["scene"].reindex(list(ids))
    if not texts.notna().all():
        return None
    return [scene_from_params(**json.loads(text)) for text in texts]


def object_parts(scenes: Sequence[Scene], category: str, grid: Grid) -> tuple[np.ndarray, Parts] | None:
    """Return the images that show an object of a category and another one, and what either covers of each token.

    Parameters
    ----------
    scenes : sequence of Scene
    category : str
    grid : Grid
        Square, over the whole image.

    Returns
    -------
    images : array of int of shape (images,)
        Places in `scenes`.
    parts : Parts
        Without what later objects hide. None instead of both where there is no such image.
    """
    images, own, other = [], [], []
    for k, scene in enumerate(scenes):
        mine = np.array([o.category == category for o in scene.objects])
        if not mine.any() or mine.all():
            continue
        masks = object_masks(scene, PIXELS_A_TOKEN * grid.height)
        n = len(masks)
        shares = masks.reshape(n, grid.height, PIXELS_A_TOKEN, grid.width, PIXELS_A_TOKEN).mean(axis=(2, 4))
        parts = [shares[side].sum(axis=0).ravel() for side in (mine, ~mine)]
        if all(part.any() for part in parts):
            images.append(k)
            own.append(parts[0])
            other.append(parts[1])
    if not images:
        return None
    return np.array(images), Parts(own=np.stack(own), other=np.stack(other))


@dataclass(frozen=True, eq=False, kw_only=True)
class _Region:
    """What a region's maps have beyond their mean, what others' have, and the images with an object of its category."""

    above: np.ndarray
    others: np.ndarray | None
    images: np.ndarray
    parts: Parts


def map_rows(look: Look, settings: Settings) -> list[Score]:
    """Describe the maps of every region, both hemispheres together, with intervals over images.

    Parameters
    ----------
    look : Look
    settings : Settings

    Returns
    -------
    list of Score
        See `metrics.routing_maps.map_measures`; none where tokens lie on no grid of at least two by two.
    """
    height, width = look.grid.height, look.grid.width
    if min(height, width) < 2:
        return []
    n, units = len(look.maps), settings.units
    weights = draw_weights(n, settings.n_bootstrap, seed=settings.seed, units=units)
    weights = np.concatenate([np.ones((1, n)), weights])
    rows = []
    regions = dict.fromkeys(query.removeprefix("lh.").removeprefix("rh.") for query in look.queries)
    for roi in regions:
        maps = look.of_region(roi)
        if maps is None or not (maps.sum(axis=1) > 0).all():
            continue
        for name, values in map_measures(maps.reshape(n, height, width), weights).items():
            low, high = np.quantile(values[1:], [0.025, 0.975])
            if np.isfinite(values).all():
                rows.append(
                    Score(
                        subject=settings.subject,
                        metric=f"routing_{name}",
                        value=float(values[0]),
                        roi=roi,
                        ci_low=float(low),
                        ci_high=float(high),
                        ci_over=settings.unit,
                        n=n,
                        n_subjects=1,
                        control=look.control,
                        model=look.model,
                        target=look.target,
                        seed=look.seed,
                        split=settings.split,
                    )
                )
    return rows


def field_rows(look: Look, settings: Settings) -> list[Score]:
    """Fit a Gaussian to the mean map of every region, and of its queries in each hemisphere, with intervals over images.

    Parameters
    ----------
    look : Look
    settings : Settings
        At most `FIELD_RESAMPLES` resamples are fitted.

    Returns
    -------
    list of Score
        ``routing_field_x``, ``_y`` (from the upper left) and ``_sd`` in image widths, ``routing_field_explained``: the
        share of the mean map's variance over tokens. `scorer` says which hemisphere, where there are two; it is empty for all.
    """
    if min(look.grid.height, look.grid.width) < 2:
        return []
    seen = np.ones((look.grid.height, look.grid.width), bool) if look.grid.seen is None else look.grid.seen
    shown = np.ix_(seen.any(axis=1), seen.any(axis=0))  # padding is no part of the image
    n = len(look.maps)
    resamples = min(settings.n_bootstrap, FIELD_RESAMPLES)
    weights = draw_weights(n, resamples, seed=settings.seed, units=settings.units)
    weights = np.concatenate([np.ones((1, n)), weights])
    weights /= weights.sum(axis=1, keepdims=True)
    rows = []
    regions = dict.fromkeys(query.removeprefix("lh.").removeprefix("rh.") for query in look.queries)
    both = all(any(query.startswith(side) for query in look.queries) for side in ("lh.", "rh."))
    sides_of = SIDES if both else {"": SIDES[""]}
    for roi, (scorer, sides) in product(regions, sides_of.items()):
        maps = look.of_region(roi, sides)
        if maps is None:
            continue
        means = (weights @ maps).reshape(-1, look.grid.height, look.grid.width)
        fit = fit_gaussians(means[:, *shown])
        for name in ("x", "y", "sd", "explained"):
            values = getattr(fit, name)
            if np.isfinite(values).all():
                low, high = np.quantile(values[1:], [0.025, 0.975])
                rows.append(
                    Score(
                        subject=settings.subject,
                        metric=f"routing_field_{name}",
                        value=float(values[0]),
                        roi=roi,
                        ci_low=float(low),
                        ci_high=float(high),
                        ci_over=settings.unit,
                        n=n,
                        n_subjects=1,
                        control=look.control,
                        scorer=scorer,
                        model=look.model,
                        target=look.target,
                        seed=look.seed,
                        split=settings.split,
                    )
                )
    return rows


def routing_rows(look: Look, scenes: Sequence[Scene], settings: Settings) -> list[Score]:
    """Score the routing of every region that prefers a category, and of all of them together.

    Parameters
    ----------
    look : Look
        Its images are those of `scenes`.
    scenes : sequence of Scene
    settings : Settings

    Returns
    -------
    list of Score
        ``routing_ratio``, plain and relative to the mean map of the regions that prefer other categories; a region has none
        with fewer than `FEWEST_IMAGES` images, or with maps that never change.
    """
    if look.grid.height != look.grid.width or not look.grid.height:
        return []
    parts = {c: object_parts(scenes, c, look.grid) for c in dict.fromkeys(OWN_CATEGORY.values())}
    above = {roi: excess(maps) for roi in OWN_CATEGORY if (maps := look.of_region(roi)) is not None}
    regions = {}
    for roi, own in above.items():
        category = OWN_CATEGORY[roi]
        strangers = [maps for other, maps in above.items() if OWN_CATEGORY[other] != category]
        found = parts[category]
        if found is not None:
            mean = np.mean(strangers, axis=0) if strangers else None
            regions[roi] = _Region(above=own, others=mean, images=found[0], parts=found[1])
    rows: list[Score] = []
    for roi, region in regions.items():
        if len(region.images) >= FEWEST_IMAGES:
            others = None if region.others is None else region.others[region.images]
            rows += _rows(look, roi, region.above[region.images], others, region.parts, settings)
    if regions:
        maps, others, covered = _together(list(regions.values()))
        if len(maps) >= FEWEST_IMAGES:
            rows += _rows(look, ALL_CATEGORY_ROIS, maps, others, covered, settings)
    return rows


def _together(regions: Sequence[_Region]) -> tuple[np.ndarray, np.ndarray | None, Parts]:
    """Return maps, those of other regions, and parts with one row an image, the tokens of all regions side by side.

    A region says nothing of an image without an object of its category: both parts are empty there.
    """
    n_images, n_tokens = regions[0].above.shape
    sides = []
    for side in ("own", "other"):
        table = np.zeros((n_images, len(regions), n_tokens))
        for k, region in enumerate(regions):
            table[region.images, k] = getattr(region.parts, side)
        sides.append(table.reshape(n_images, -1))
    there = sides[0].any(axis=1)
    maps = np.concatenate([region.above for region in regions], axis=1)[there]
    others = [region.others for region in regions if region.others is not None]
    beside = np.concatenate(others, axis=1)[there] if len(others) == len(regions) else None
    return maps, beside, Parts(own=sides[0][there], other=sides[1][there])


def _rows(
    look: Look, roi: str, maps: np.ndarray, others: np.ndarray | None, parts: Parts, settings: Settings
) -> list[Score]:
    """Return the plain and the relative ratio; nothing for maps that are the same for every image: there is no ratio."""
    if not mass_per_area(maps, parts.other).any():
        return []
    rows = []
    for scorer, reference in ((SCORER, None), (RELATIVE, others)):
        if scorer == RELATIVE and (reference is None or not mass_per_area(reference, parts.own).any()):
            continue
        interval, test = routing_ratio(
            maps,
            parts,
            reference,
            seed=settings.seed,
            n_resamples=settings.n_bootstrap,
            n_permutations=settings.n_permutations,
        )
        rows.append(
            Score(
                subject=settings.subject,
                metric="routing_ratio",
                value=interval.value,
                roi=roi,
                ci_low=interval.low,
                ci_high=interval.high,
                ci_over="image",
                chance=test.chance,
                p_value=test.p_value,
                p_correction=test.correction,
                n=interval.n_rows,
                n_subjects=1,
                control=look.control,
                scorer=scorer,
                model=look.model,
                target=look.target,
                seed=look.seed,
                split=settings.split,
            )
        )
    return rows
