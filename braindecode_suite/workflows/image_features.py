"""What is early and what is late in images, each without what the other says: targets for windows of an epoch.

Early are colours and edges on a grid, low-level and bound to their place, as early visual cortex carries them; late are the category and the
kind of place. Photographs of one category share colours, so each set is taken apart from the other: what a regression on the other set
predicts is subtracted. Every number that this takes (components, regressions, scales) is of training images; test images are only projected.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from braindecode_suite.core.study import Stimuli

GRID, COMPONENTS = 4, 12
"""Colours and edges are averaged over a grid of 4 by 4, and the 12 leading components of either over training images kept."""
IMAGES_AT_ONCE = 256
KINDS = ("category", "place")
"""Columns of the attributes that are late."""
ROUNDING = 1e-6


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureSet:
    """Features of images, of mean 0 and variance 1 over training images.

    Attributes
    ----------
    train, test : array of float64 of shape (images, features)
        In the order of the ids that were given.
    """

    train: np.ndarray
    test: np.ndarray


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageFeatures:
    """Sets of features by name.

    Attributes
    ----------
    sets : dict of ``early`` and ``late`` to FeatureSet
        Each without what the other says, where both are known.
    missing : dict of name to str
        Why a set is not there.
    """

    sets: dict[str, FeatureSet] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


def image_features(stimuli: Stimuli, train: Sequence[str], test: Sequence[str]) -> ImageFeatures:
    """Return the early and late features of training and test images.

    Parameters
    ----------
    stimuli : Stimuli
    train, test : sequence of str
        Ids of the images, each once.

    Returns
    -------
    ImageFeatures
        Without ``late`` where a test image's category is unknown, or is none of the training images'; ``early`` is then as it is.
    """
    found, missing = {}, {}
    for name, made in (("early", _early(stimuli, train, test)), ("late", _late(stimuli, train, test))):
        if isinstance(made, str):
            missing[name] = made
        else:
            found[name] = made
    if len(found) == 2:
        early, late = found["early"], found["late"]
        found = {"early": _without(early, late), "late": _without(late, early)}
    sets = {name: _standardised(made) for name, made in found.items()}
    for name in [name for name, made in sets.items() if not made.train.shape[1]]:
        missing[name] = "no feature varies between training images"
        del sets[name]
    return ImageFeatures(sets=sets, missing=missing)


def _early(stimuli: Stimuli, train: Sequence[str], test: Sequence[str]) -> FeatureSet | str:
    """Return the leading components of colours and of edges on the grid, or why there are none."""
    parts = [_on_grid(stimuli, ids) for ids in (train, test)]
    if any(part is None for part in parts):
        return f"images are smaller than the grid of {GRID} by {GRID}"
    known, new = (np.asarray(part) for part in parts)
    found = [_components(known[:, kind], new[:, kind]) for kind in range(known.shape[1])]
    return FeatureSet(train=np.hstack([a for a, _ in found]), test=np.hstack([b for _, b in found]))


def _components(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Project on the leading components of training images."""
    mean = train.mean(axis=0)
    _, size, axes = np.linalg.svd(train - mean, full_matrices=False)
    kept = axes[: min(COMPONENTS, int((size > ROUNDING * max(size[0], ROUNDING)).sum()))]
    return (train - mean) @ kept.T, (test - mean) @ kept.T


def _on_grid(stimuli: Stimuli, ids: Sequence[str]) -> np.ndarray | None:
    """Return colours and edges averaged over the grid, of shape (ids, 2, places x 3), or None where images are too small for it.

    Edges are the sizes of the differences of luminance to the pixel on the right and to the one below, and the length of both.
    """
    found = []
    for start in range(0, len(ids), IMAGES_AT_ONCE):
        images = stimuli.images(list(ids[start : start + IMAGES_AT_ONCE]))
        height, width = (size // GRID for size in images.shape[1:3])
        if not height or not width:
            return None
        shown = images[:, : GRID * height, : GRID * width].astype(np.float32) / 255
        grey = np.pad(shown.mean(axis=3), ((0, 0), (0, 1), (0, 1)), mode="edge")
        across = np.abs(grey[:, :-1, 1:] - grey[:, :-1, :-1])
        down = np.abs(grey[:, 1:, :-1] - grey[:, :-1, :-1])
        edges = np.stack([across, down, np.hypot(across, down)], axis=3)
        kinds = [
            part.reshape(len(part), GRID, height, GRID, width, 3)
            .mean(axis=(2, 4), dtype=np.float64)
            .reshape(len(part), -1)
            for part in (shown, edges)
        ]
        found.append(np.stack(kinds, axis=1))
    return np.concatenate(found)


def _late(stimuli: Stimuli, train: Sequence[str], test: Sequence[str]) -> FeatureSet | str:
    """Return a column for each category and kind of place of the training images, or why there are none."""
    attributes = stimuli.attributes
    if attributes is None or KINDS[0] not in attributes.columns:
        return "the categories of the images are not known"
    parts: list[tuple[np.ndarray, np.ndarray]] = []
    for kind in (kind for kind in KINDS if kind in attributes.columns):
        known, new = (attributes[kind].reindex([str(i) for i in ids]) for ids in (train, test))
        reason = _unknown(kind, known, new)
        if not reason:
            names = np.unique(known.astype(str))
            one, other = (c.astype(str).to_numpy()[:, None] == names for c in (known, new))
            parts.append((one.astype(np.float64), other.astype(np.float64)))
        elif kind == KINDS[0]:
            return reason
    return FeatureSet(**dict(zip(("train", "test"), map(np.hstack, zip(*parts, strict=True)), strict=True)))


def _unknown(kind: str, train: pd.Series, test: pd.Series) -> str:
    """Return why a kind of label cannot be decoded, empty where it can."""
    empty = int(train.isna().sum() + test.isna().sum())
    if empty:
        return f"the {kind} of {empty} images is not known"
    strange = int((~test.isin(train)).sum())
    return f"{strange} of {len(test)} test images have a {kind} that no training image has" if strange else ""


def _without(features: FeatureSet, other: FeatureSet) -> FeatureSet:
    """Subtract what a regression on the other set, fitted to training images, predicts."""
    known, new = (np.column_stack([np.ones(len(part)), part]) for part in (other.train, other.test))
    weights = np.linalg.lstsq(known, features.train, rcond=None)[0]
    return FeatureSet(train=features.train - known @ weights, test=features.test - new @ weights)


def _standardised(features: FeatureSet) -> FeatureSet:
    """Bring features to mean 0 and variance 1 over training images; those that do not vary there are left out."""
    mean, deviation = features.train.mean(axis=0), features.train.std(axis=0)
    varies = deviation > ROUNDING * max(1.0, float(np.abs(features.train).max(initial=0.0)))
    train, test = ((part - mean)[:, varies] / deviation[varies] for part in (features.train, features.test))
    return FeatureSet(train=train, test=test)
