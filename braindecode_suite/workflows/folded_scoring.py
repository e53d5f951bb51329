"""Reconstructions of repeated cross-validation to scores: every image is decoded once a repetition, all folds pooled.

Repetitions of an image are averaged before anything is resampled: they are not units. The folds share training images
and there is one subject, so that intervals are conditional on both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from braindecode_suite.core.checks import check_shape
from braindecode_suite.core.score import Score
from braindecode_suite.metrics.bootstrap import bootstrap_mean, paired_difference
from braindecode_suite.metrics.identification import (
    CHANCE,
    identification_pairs,
    same_class,
    two_way_identification,
)
from braindecode_suite.metrics.images import pixcorr, pixcorr_pairs, ssim, ssim_pairs
from braindecode_suite.metrics.permutation import permute_images

METRICS = ("identification", "ssim", "pixcorr")
PIXELS = "pixels"
SHUFFLED = ("shuffled-test", "shuffled-within-class")
PIXELS_ONLY = (
    "flat-grey",
    "blurred-truth",
)  # they answer what PixCorr and SSIM give for nothing, not which image it was

Key = tuple[str, str]  # model, control


@dataclass(frozen=True, kw_only=True, eq=False)
class Folded:
    """Reconstructions of the same images in every repetition.

    Attributes
    ----------
    ids : object array of str of shape (images,)
    truth : array of uint8 of shape (images, height, width)
    classes : array of shape (images,)
    recon : dict of (model, control) to array of uint8 of shape (repetitions, images, height, width)
        The first model with control ``brain`` is compared with everything else. Controls without a model have ''.
    near_duplicates : array of bool of shape (images,)
        Images that look like one that some fold trained on.
    """

    ids: np.ndarray
    truth: np.ndarray
    classes: np.ndarray
    recon: Mapping[Key, np.ndarray]
    near_duplicates: np.ndarray

    def __post_init__(self) -> None:
        images, height, width = self.truth.shape
        for key, stack in self.recon.items():
            name = f"recon[{key!r}]"
            check_shape(
                name, stack, "repetitions images height width", images=images, height=height, width=width
            )


@dataclass(frozen=True, kw_only=True)
class FoldedSettings:
    """How they are scored, and what is written beside each score (`n_repeats`: trials averaged for each image)."""

    subject: str
    split: str
    target: str
    n_repeats: float = 1.0
    seed: int = 0
    n_bootstrap: int = 10_000
    n_permutations: int = 1000


@dataclass(kw_only=True, eq=False)
class FoldedScores:
    """Score rows, values per image, and matrices of every reconstruction against every truth.

    Attributes
    ----------
    scores : list of Score
    values : dict of (model, control) to dict of metric to array of shape (repetitions, images)
    pairs : dict of (model, metric) to array of shape (images, images)
        Decoded images against true ones, averaged over repetitions.
    """

    scores: list[Score] = field(default_factory=list)
    values: dict[Key, dict[str, np.ndarray]] = field(default_factory=dict)
    pairs: dict[tuple[str, str], np.ndarray] = field(default_factory=dict)


def score_folded(folded: Folded, settings: FoldedSettings) -> FoldedScores:
    """Score all reconstructions by identification within the class (pixels), SSIM and PixCorr.

    Parameters
    ----------
    folded : Folded
    settings : FoldedSettings

    Returns
    -------
    FoldedScores
    """
    found = FoldedScores()
    for key, stack in folded.recon.items():
        found.values[key] = values_per_image(folded, stack)
    for key in folded.recon:
        if key[1] == "brain":
            _score_decoded(found, folded, key, settings)
        else:
            for metric in _metrics_of(key):
                found.scores.append(
                    _mean(_base(key, metric, folded, settings), found.values[key][metric], settings)
                )
    _differences(found, folded, settings)
    return found


def values_per_image(folded: Folded, stack: np.ndarray) -> dict[str, np.ndarray]:
    """Return metric to values of shape (repetitions, images), each reconstruction against its own truth.

    Identification: share of the other true images of the class that are less like the reconstruction than its truth is,
    by Pearson's r of pixels.
    """
    within = same_class(folded.classes)
    functions: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "identification": lambda recon: two_way_identification(
            _flat(folded.truth), _flat(recon), distractors=within
        ),
        "ssim": lambda recon: ssim(folded.truth, recon),
        "pixcorr": lambda recon: pixcorr(folded.truth, recon),
    }
    return {metric: np.stack([function(recon) for recon in stack]) for metric, function in functions.items()}


def _metrics_of(key: Key) -> tuple[str, ...]:
    return tuple(m for m in METRICS if not (m == "identification" and key[1] in PIXELS_ONLY))


def _flat(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1).astype(np.float64)


def _base(key: Key, metric: str, folded: Folded, settings: FoldedSettings) -> Score:
    model, control = key
    return Score(
        subject=settings.subject,
        metric=metric,
        value=float("nan"),
        ci_over="image",
        chance=CHANCE if metric == "identification" else None,
        n=len(folded.ids),
        n_repeats=settings.n_repeats,
        n_subjects=1,
        candidates="within-class" if metric == "identification" else "",
        level="" if not model else "single" if settings.n_repeats == 1 else "mean-prediction",
        stage="final" if model else "",
        control=control,
        scorer=PIXELS if metric == "identification" else "",
        model=model,
        target=settings.target if model else "",
        split=settings.split,
    )


def _mean(base: Score, values: np.ndarray, settings: FoldedSettings) -> Score:
    interval = bootstrap_mean(values, seed=settings.seed, n_resamples=settings.n_bootstrap)
    return replace(base, value=interval.value, ci_low=interval.low, ci_high=interval.high, n=interval.n_rows)


def _score_decoded(found: FoldedScores, folded: Folded, key: Key, settings: FoldedSettings) -> None:
    """Add a decoder's scores with permutation tests, its shuffled controls, and one row a repetition."""
    stack, model = folded.recon[key], key[0]
    for metric in METRICS:
        values = found.values[key][metric]
        pairs = np.mean([_pairs(folded, recon, metric) for recon in stack], axis=0)
        found.pairs[model, metric] = pairs
        base = _base(key, metric, folded, settings)
        within = folded.classes if metric == "identification" else None
        test = permute_images(
            pairs, seed=settings.seed, n_permutations=settings.n_permutations, within=within
        )
        row = replace(_mean(base, values, settings), p_value=test.p_value, p_correction=test.correction)
        found.scores.append(row if metric == "identification" else replace(row, chance=test.chance))
        for control in SHUFFLED:
            shuffled = shuffled_values(pairs, folded.classes, within_class=control == "shuffled-within-class")
            found.values.setdefault((model, control), {})[metric] = shuffled
            found.scores.append(_mean(replace(base, control=control), shuffled, settings))
        alone = ~folded.near_duplicates
        if alone.any() and not alone.all():
            rest = replace(base, candidates="no-near-duplicates")
            found.scores.append(_mean(rest, values[:, alone], settings))
        if len(stack) > 1:
            for repetition, one in enumerate(values):
                found.scores.append(_mean(replace(base, seed=str(repetition)), one, settings))


def _pairs(folded: Folded, recon: np.ndarray, metric: str) -> np.ndarray:
    if metric == "identification":
        within = same_class(folded.classes)
        return identification_pairs(_flat(folded.truth), _flat(recon), distractors=within)
    return (ssim_pairs if metric == "ssim" else pixcorr_pairs)(folded.truth, recon)


def shuffled_values(pairs: np.ndarray, classes: np.ndarray, *, within_class: bool) -> np.ndarray:
    """Return what each reconstruction scores on average against the other truths: a shuffle without its chance.

    Parameters
    ----------
    pairs : array of shape (reconstructions, truths)
    classes : array of shape (images,)
    within_class : bool
        Whether only truths of the own class count.

    Returns
    -------
    array of shape (reconstructions,)

    Examples
    --------
    >>> shuffled_values(np.array([[9., 1, 2], [3, 9, 4], [5, 6, 9]]), np.array([0, 0, 1]), within_class=False).tolist()
    [1.5, 3.5, 5.5]
    """
    allowed = same_class(classes) if within_class else np.ones(pairs.shape, bool)
    np.fill_diagonal(allowed, False)
    count = allowed.sum(axis=1)
    return np.asarray(np.where(count > 0, (pairs * allowed).sum(axis=1) / np.maximum(count, 1), np.nan))


def _differences(found: FoldedScores, folded: Folded, settings: FoldedSettings) -> None:
    """Add paired differences of the first decoder minus every other decoder and every control."""
    first = next(key for key in folded.recon if key[1] == "brain")
    others: Sequence[Key] = [
        key for key in found.values if key != first and (key[1] == "brain" or key[0] in ("", first[0]))
    ]
    for metric in METRICS:
        base = replace(_base(first, metric, folded, settings), chance=None)
        for model, control in others:
            if metric not in _metrics_of((model, control)):
                continue
            interval = paired_difference(
                found.values[first][metric],
                found.values[model, control][metric],
                seed=settings.seed,
                n_resamples=settings.n_bootstrap,
            )
            versus = model if control == "brain" else control
            found.scores.append(
                replace(base, versus=versus, value=interval.value, ci_low=interval.low, ci_high=interval.high)
            )
