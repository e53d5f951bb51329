"""What classical decoding says of every unit: signal, reliability, regions' scores, activation patterns, the searchlight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from braindecode_suite.core.errors import InputError
from braindecode_suite.core.noise import nsd_ncsnr, repeat_variances, split_half_reliability
from braindecode_suite.core.score import Score
from braindecode_suite.core.spaces import VoxelSpace
from braindecode_suite.core.study import Study
from braindecode_suite.learning.patterns import activation_patterns
from braindecode_suite.learning.searchlight import SearchlightScores, searchlight, spheres
from braindecode_suite.metrics.permutation import max_statistic_p
from braindecode_suite.workflows.brain_maps import BrainMap, ncsnr_map
from braindecode_suite.workflows.classical_examples import Examples
from braindecode_suite.workflows.classical_scoring import Decoder, Fold

LEVEL = 0.05


def noise_maps(study: Study, examples: Examples, features: np.ndarray, seed: int) -> dict[str, BrainMap]:
    """Return signal over noise and split-half reliability of every unit, where stimuli repeat.

    The dataset's own ncsnr is taken where there is one; otherwise both come from the examples as they are classified. They
    describe the recordings, test examples included, and nothing is chosen by them.

    Parameters
    ----------
    study : Study
    examples : Examples
    features : array of shape (examples, units)
    seed : int
    """
    of, all_of = ("class", "classes") if examples.repeated_conditions else ("image", "images")
    source = (
        f"repeats of each {of} among all {len(features)} examples, as they are classified; rectified at 0"
    )
    found: dict[str, BrainMap] = {}
    if study.noise is not None:
        found["ncsnr"] = ncsnr_map(study.noise.ncsnr, study.noise.source)
    try:
        if study.noise is None:
            found["ncsnr"] = ncsnr_map(nsd_ncsnr(repeat_variances(features, examples.stimulus)), source)
        reliability = split_half_reliability(features, examples.stimulus, seed=seed)
    except InputError:  # too few repeats
        return found
    found["reliability"] = BrainMap(
        values=np.nan_to_num(reliability).astype(np.float32),
        title="Reliability",
        units="correlation of halves",
        description=f"Correlation, over {all_of}, of the mean response to one half of the repeats with that to the other half (20 "
        "random halvings, all examples). It describes the recordings; nothing is chosen by it.",
        low=0.0,
    )
    return found


def region_map(scores: Sequence[Score], rois: Mapping[str, np.ndarray], chance: float) -> BrainMap:
    """Return the accuracy of each region alone on its units; where regions overlap, that of the smallest."""
    values = np.full(len(next(iter(rois.values()))), np.nan, np.float32)
    for score in sorted(scores, key=lambda score: -int(rois[score.roi].sum())):
        values[rois[score.roi]] = score.value
    return BrainMap(
        values=values,
        title="Regions alone",
        units="accuracy",
        description=f"Accuracy of a classifier that sees one region only, painted on the region; chance is {chance:.3f}.",
        low=min(chance, float(np.nanmin(values))),
    )


def pattern_map(decoder: Decoder, y: np.ndarray, classes: Sequence[str], unit: str) -> BrainMap:
    """Return the activation pattern of each class, the mean over the folds that train on it (Haufe et al. 2014).

    A unit that a fold does not keep takes no part in it; one that no fold keeps is 0.
    """
    total = np.zeros((len(classes), decoder.folds[0].n_units))
    times = np.zeros_like(total)
    for fold, fitted in zip(decoder.folds, decoder.ready, strict=True):
        labels = y[fold.train]
        trained = np.unique(labels)
        X = fold.features[fold.train].astype(np.float64)
        place = np.ix_(trained, fold.units)
        total[place] += activation_patterns(X, fitted.outputs(labels))
        times[place] += 1
    return BrainMap(
        values=np.asarray(total / np.maximum(times, 1), np.float32),
        title="Activation patterns",
        units=f"{unit} per s.d. of the output",
        description="How each unit goes along with the classifier's output for a class: the covariance of the training examples "
        "times the weights, with the output at unit variance (Haufe et al. 2014), the mean over folds. Weights are not "
        "shown: they are large also where a unit only cancels noise.",
        labels=tuple(classes),
        diverging=True,
    )


def run_searchlight(
    space: VoxelSpace, folds: Sequence[Fold], labellings: np.ndarray, radius: float
) -> SearchlightScores:
    """Classify from the sphere around every voxel, under the true labels and each relabelling."""
    millimetres = np.argwhere(space.mask) @ np.asarray(space.affine, float)[:3, :3].T
    return searchlight(folds, spheres(millimetres, radius), labellings, int(labellings.max()) + 1)


def searchlight_maps(
    found: SearchlightScores, n_classes: int, radius: float, n_distinct: int
) -> tuple[dict[str, BrainMap], dict[str, Any]]:
    """Return the maps of accuracies and of corrected p-values, and what the report says of them."""
    m, n = len(found.null_largest), len(found.accuracy)
    chance = float(np.nanmean(found.null_mean)) if m else 1 / n_classes
    words = (
        f"Accuracy of a ridge classifier that sees only the voxels within {radius:g} mm of each voxel; its penalty is Ledoit "
        f"and Wolf's shrinkage, which needs no label. Colours begin at chance, {chance:.3f}"
        f"{', the mean of the relabelled refits' if m else ' among equal guesses'}."
    )
    maps = {
        "searchlight": BrainMap(
            values=found.accuracy.astype(np.float32),
            title="Searchlight",
            units="accuracy",
            description=words if m else f"{words} Descriptive: nothing corrects for the number of spheres.",
            low=chance,
        )
    }
    facts: dict[str, Any] = {
        "spheres": n,
        "chance": round(chance, 4),
        "best accuracy": float(found.accuracy.max()),
    }
    if not m:
        return maps, facts
    p = max_statistic_p(found.accuracy, found.null_largest)
    needed = float(np.quantile(found.null_largest, 1 - LEVEL, method="higher"))
    distinct = "" if n_distinct > m else f" Only {n_distinct} relabellings are distinct."
    maps["searchlightpfwe"] = BrainMap(
        values=p.astype(np.float32),
        title="Searchlight, corrected for the number of spheres",
        units="p, family-wise",
        description=f"Share of {m:,} relabelled refits whose best sphere anywhere is at least as accurate as this one (largest "
        f"statistic, family-wise error over {n:,} spheres).{distinct}",
        low=0.0,
        threshold=LEVEL,
        hides="above",
        threshold_note=f"Coloured where p is at most {LEVEL:g}.",
    )
    return maps, facts | {
        "relabellings": m,
        f"accuracy exceeded by the best sphere of {LEVEL:.0%} of relabellings": round(needed, 4),
        f"spheres with corrected p of at most {LEVEL:g}": int(np.sum(p <= LEVEL)),
    }
