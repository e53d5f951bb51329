"""Where attention goes in simulated scenes: mass on the object of a region's own category against the other objects."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from braindecode_suite.core.features import Grid
from braindecode_suite.core.score import Score
from braindecode_suite.datasets.simulate_anatomy import LABELS, PREFERRED
from braindecode_suite.datasets.simulate_scenes import Scene, object_masks, scene_from_params
from braindecode_suite.metrics.routing_maps import Parts, excess, mass_per_area, routing_ratio
from braindecode_suite.workflows.encode_scoring import FEWEST_IMAGES, Settings

PIXELS_A_TOKEN = 8
ALL_CATEGORY_ROIS = "category regions"
SCORER = "own object over the others, per area, above the mean map"
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

    def of_region(self, roi: str) -> np.ndarray | None:
        """Return the mean map of a region's queries, of shape (images, height * width), or None where it has none."""
        at = [
            k for k, query in enumerate(self.queries) if query.removeprefix("lh.").removeprefix("rh.") == roi
        ]
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
        ``routing_ratio``; a region has none with fewer than `FEWEST_IMAGES` images, or with maps that never change.
    """
    if look.grid.height != look.grid.width or not look.grid.height:
        return []
    parts = {c: object_parts(scenes, c, look.grid) for c in dict.fromkeys(OWN_CATEGORY.values())}
    pooled: list[tuple[np.ndarray, np.ndarray, Parts]] = []
    rows = []
    for roi, category in OWN_CATEGORY.items():
        maps, found = look.of_region(roi), parts[category]
        if maps is None or found is None:
            continue
        images, covered = found
        above = excess(maps)
        pooled.append((images, above, covered))
        if len(images) >= FEWEST_IMAGES:
            rows.append(_row(look, roi, above[images], covered, settings))
    together = _together(pooled)
    if together is not None and len(together[0]) >= FEWEST_IMAGES:
        rows.append(_row(look, ALL_CATEGORY_ROIS, *together, settings))
    return [row for row in rows if row is not None]


def _together(pooled: Sequence[tuple[np.ndarray, np.ndarray, Parts]]) -> tuple[np.ndarray, Parts] | None:
    """Return maps and parts with one row an image, the tokens of all regions side by side.

    A region says nothing of an image without an object of its category: both parts are empty there.
    """
    if not pooled:
        return None
    maps = np.concatenate([above for _, above, _ in pooled], axis=1)
    sides = []
    for side in ("own", "other"):
        table = np.zeros((len(maps), len(pooled), pooled[0][1].shape[1]))
        for k, (images, _, parts) in enumerate(pooled):
            table[images, k] = getattr(parts, side)
        sides.append(table.reshape(len(maps), -1))
    there = sides[0].any(axis=1)
    return maps[there], Parts(own=sides[0][there], other=sides[1][there])


def _row(look: Look, roi: str, maps: np.ndarray, parts: Parts, settings: Settings) -> Score | None:
    if not mass_per_area(maps, parts.other).any():
        return None  # maps that are the same for every image: there is no ratio
    interval, test = routing_ratio(
        maps,
        parts,
        seed=settings.seed,
        n_resamples=settings.n_bootstrap,
        n_permutations=settings.n_permutations,
    )
    return Score(
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
        scorer=SCORER,
        model=look.model,
        target=look.target,
        seed=look.seed,
        split=settings.split,
    )
