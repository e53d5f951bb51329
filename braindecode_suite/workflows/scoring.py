"""Latents to retrieval scores: every model raw, centred and with CSLS, in both directions, with chance, interval and p.

Centring takes the means of training images. CSLS takes its hubs from validation images: they belong to the training part,
but no model was fitted on them, so that their predictions lie about as far from their truths as those of new images do.

A query's values are averaged over seeds before anything is resampled. Intervals come from a bootstrap of images and are
conditional on the gallery and the models; permutations move whole images with the models fixed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from braindecode_suite.core.latents import Latents, check_same_target
from braindecode_suite.core.score import Score
from braindecode_suite.metrics.bootstrap import bootstrap_mean, bootstrap_statistic, paired_difference
from braindecode_suite.metrics.permutation import permute_images
from braindecode_suite.metrics.retrieval import (
    CSLS_NEIGHBOURS,
    SIMILARITIES,
    Direction,
    TrainingReference,
    chance_top_k,
    hub_skewness,
    rank_matrix,
    ranks,
    relative_rank,
    retrieval_pairs,
    retrieval_values,
    similarity,
)

HEADLINE_SCORER = "cosine-centred"
BRAIN_TO_IMAGE: Direction = "brain_to_image"
IMAGE_TO_BRAIN: Direction = "image_to_brain"
PARTS = {"brain_to_image": (1, 5, 10), "image_to_brain": (1,)}


@dataclass(frozen=True, kw_only=True, eq=False)
class Predicted:
    """What one fitted model says in one latent space.

    Attributes
    ----------
    model, seed : str
    test : Latents
        One row a test trial.
    train : Latents
        One row a training image (averaged over its trials).
    validation : Latents, optional
        One row a validation image, which the model was not fitted on; CSLS needs them.
    control : str
        ``brain``, or ``shuffled-train`` for a model that was fitted on shuffled pairs.
    """

    model: str
    seed: str
    test: Latents
    train: Latents
    validation: Latents | None = None
    control: str = "brain"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How retrieval is scored.

    Attributes
    ----------
    subject, split : str
    gallery_sizes : tuple of int
        Exact random galleries, beside the full one; sizes beyond the full gallery are left out.
    n_bootstrap, n_permutations : int
    seed : int
    ceilings : mapping of (direction, gallery size) to float
        The oracle's top-1, where there is one.
    near_duplicates : frozenset of str
        Test images that look like a training image.
    unit, units : str, array of shape (gallery,) or None
        What intervals resample: images, or the concept of each gallery image where several share one.
    brief : bool
        Centred top-1 only (second protocols).
    """

    subject: str
    split: str
    gallery_sizes: tuple[int, ...] = (200, 300)
    n_bootstrap: int = 2000
    n_permutations: int = 1000
    seed: int = 0
    ceilings: Mapping[tuple[str, int], float] = field(default_factory=dict)
    near_duplicates: frozenset[str] = frozenset()
    unit: str = "image"
    units: np.ndarray | None = None
    brief: bool = False


@dataclass(kw_only=True, eq=False)
class RetrievalScores:
    """Rows for the score table, similarity matrices, the rank of every query, what was left out and why, and what models had to say."""

    scores: list[Score] = field(default_factory=list)
    similarity: dict[str, np.ndarray] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    hub_skewness: dict[str, float] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def score_retrieval(
    models: Sequence[Predicted],
    train_true: Latents,
    gallery: Latents,
    settings: Settings,
    *,
    validation_true: Latents | None = None,
) -> RetrievalScores:
    """Score all models on one gallery of unique test images.

    Parameters
    ----------
    models : sequence of Predicted
        Several seeds of a model share its name; the first model is compared with all others.
    train_true : Latents
        True latents of the training images.
    gallery : Latents
        True latents of the test images, each once.
    settings : Settings
    validation_true : Latents, optional
        True latents of the validation images. With fewer of them than CSLS has neighbours, or without the predictions of a
        model, CSLS is left out for all models and `missing` says so.

    Returns
    -------
    RetrievalScores
    """
    found = RetrievalScores()
    scorers: tuple[str, ...] = HEADLINE_ONLY if settings.brief else SIMILARITIES
    n_hubs = min(0 if of is None else len(of) for of in (validation_true, *(m.validation for m in models)))
    if not settings.brief and n_hubs < CSLS_NEIGHBOURS:
        scorers = tuple(how for how in scorers if how != "csls")
        found.missing.append(
            f"CSLS: it takes its hubs from validation images and needs at least {CSLS_NEIGHBOURS} of them; {n_hubs} were given"
        )
    groups: dict[tuple[str, str], list[Queries]] = {}
    for predicted in models:
        queries = Queries(predicted, train_true, validation_true, gallery, scorers)
        groups.setdefault((predicted.model, predicted.control), []).append(queries)
    score_groups(found, list(groups.values()), settings)
    return found


HEADLINE_ONLY = (HEADLINE_SCORER,)


def score_groups(found: RetrievalScores, groups: Sequence[Sequence[Queries]], settings: Settings) -> None:
    """Add the scores of models, each a group of seeds, and paired differences of the first from all others."""
    for seeds in groups:
        _score_model(found, seeds, settings)
    for other in groups[1:]:
        compare(found, groups[0], other, settings)


class Queries:
    """One model and seed against the gallery: similarity and values under every scorer.

    Parameters
    ----------
    predicted : Predicted
    train_true, validation_true, gallery : Latents
        See `score_retrieval`; validation images are for CSLS alone.
    scorers : sequence of str
    """

    def __init__(
        self,
        predicted: Predicted,
        train_true: Latents,
        validation_true: Latents | None,
        gallery: Latents,
        scorers: Sequence[str],
    ) -> None:
        check_same_target(predicted.test, predicted.train, train_true, gallery)
        self.predicted, self.gallery, self.target = predicted, gallery, gallery.target
        means = TrainingReference(predicted=predicted.train.flat, true=train_true.flat)
        references = dict.fromkeys(scorers, means)
        if "csls" in references:
            assert predicted.validation is not None
            assert validation_true is not None
            check_same_target(gallery, predicted.validation, validation_true)
            references["csls"] = TrainingReference(
                predicted=predicted.validation.flat, true=validation_true.flat
            )
        mean = predicted.test.mean_by_stimulus().select(gallery.ids)
        self.truth = np.arange(len(gallery))
        self.scorers = tuple(scorers)
        self.similarity = {
            how: similarity(mean.flat, gallery.flat, how, of) for how, of in references.items()
        }
        self.single = similarity(predicted.test.flat, gallery.flat, HEADLINE_SCORER, means)
        column = {stimulus_id: k for k, stimulus_id in enumerate(gallery.ids)}
        self.single_truth = np.array([column[i] for i in predicted.test.ids], int)
        self.n_repeats = len(predicted.test) / len(gallery)

    def fused(self, other: Queries, weight: float, model: str) -> Queries:
        """Return queries by ``(1 - weight) * own + weight * other`` centred similarity, of the same trials and images, as `model`."""
        mixed = copy(self)
        mixed.predicted = replace(self.predicted, model=model)
        mixed.target, mixed.scorers = f"{self.target} + {other.target}", HEADLINE_ONLY
        own, others = self.similarity[HEADLINE_SCORER], other.similarity[HEADLINE_SCORER]
        mixed.similarity = {HEADLINE_SCORER: (1 - weight) * own + weight * others}
        mixed.single = (1 - weight) * self.single + weight * other.single
        return mixed

    @property
    def size(self) -> int:
        return len(self.gallery)

    def values(self, how: str, direction: Direction, size: int | None) -> dict[str, np.ndarray]:
        n = self.size if size is None else size
        ks = tuple(k for k in PARTS[direction] if k < n)
        return retrieval_values(self.similarity[how], self.truth, direction, ks=ks, gallery_size=size)

    def pairs(self, how: str, direction: Direction, size: int | None) -> np.ndarray:
        return retrieval_pairs(self.similarity[how], direction, gallery_size=size)


def _sizes(full: int, settings: Settings) -> list[int | None]:
    return [None, *(size for size in settings.gallery_sizes if size < full)]


def _base(seeds: Sequence[Queries], settings: Settings) -> Score:
    one = seeds[0]
    return Score(
        subject=settings.subject,
        metric="",
        value=float("nan"),
        ci_over=settings.unit,
        n=one.size,
        n_repeats=one.n_repeats,
        n_subjects=1,
        candidates="all",
        level="mean-prediction",
        control=one.predicted.control,
        scorer=HEADLINE_SCORER,
        model=one.predicted.model,
        target=one.target,
        seed=",".join(queries.predicted.seed for queries in seeds),
        split=settings.split,
    )


def _interval(values: np.ndarray, settings: Settings, keep: np.ndarray | None = None) -> dict[str, Any]:
    units = settings.units if settings.units is None or keep is None else settings.units[keep]
    found = bootstrap_mean(values, units, seed=settings.seed, n_resamples=settings.n_bootstrap)
    return {"value": found.value, "ci_low": found.low, "ci_high": found.high}


def _score_model(found: RetrievalScores, seeds: Sequence[Queries], settings: Settings) -> None:
    base = _base(seeds, settings)
    for queries in seeds:
        _keep(found, queries)
    for how in seeds[0].scorers:
        for direction in (BRAIN_TO_IMAGE, IMAGE_TO_BRAIN):
            for size in _sizes(seeds[0].size, settings):
                _score_gallery(found, seeds, replace(base, scorer=how), direction, size, settings)
        if how == HEADLINE_SCORER:
            found.scores.append(_median_rank(seeds, base, settings))
    _score_without_duplicates(found, seeds, base, settings)
    if not settings.brief:
        _score_seeds(found, seeds, base, settings)
        _score_single(found, seeds, base, settings)


def _score_gallery(
    found: RetrievalScores,
    seeds: Sequence[Queries],
    base: Score,
    direction: Direction,
    size: int | None,
    settings: Settings,
) -> None:
    how, gallery = base.scorer, size or seeds[0].size
    by_seed = [queries.values(how, direction, size) for queries in seeds]
    for metric in by_seed[0]:
        k = int(metric.rsplit("top", 1)[1])
        score = replace(
            base,
            metric=metric,
            gallery=gallery,
            chance=chance_top_k(gallery, k),
            **_interval(np.stack([values[metric] for values in by_seed]), settings),
        )
        if k == 1:
            pairs = np.mean([queries.pairs(how, direction, size) for queries in seeds], axis=0)
            test = permute_images(pairs, seed=settings.seed, n_permutations=settings.n_permutations)
            known = how == HEADLINE_SCORER and base.control == "brain"
            ceiling = settings.ceilings.get((direction, gallery)) if known else None
            score = replace(score, p_value=test.p_value, p_correction=test.correction, ceiling=ceiling)
            if how == HEADLINE_SCORER and direction == BRAIN_TO_IMAGE and base.control == "brain":
                low, high = np.quantile(test.null, [0.025, 0.975])
                found.scores.append(
                    replace(
                        score,
                        control="shuffled-test",
                        value=test.chance,
                        ci_low=float(low),
                        ci_high=float(high),
                        ci_over="permutation",
                        p_value=None,
                        p_correction="",
                        ceiling=None,
                    )
                )
        found.scores.append(score)


def _median_rank(seeds: Sequence[Queries], base: Score, settings: Settings) -> Score:
    size = seeds[0].size

    def of(queries: Queries) -> np.ndarray:
        return relative_rank(ranks(queries.similarity[HEADLINE_SCORER], queries.truth), size)

    interval = bootstrap_statistic(
        np.stack([of(queries) for queries in seeds]),
        lambda drawn: float(np.median(drawn)),
        settings.units,
        seed=settings.seed,
        n_resamples=min(settings.n_bootstrap, 1000),
    )
    pairs = np.mean(
        [rank_matrix(queries.similarity[HEADLINE_SCORER]) / (size - 1) for queries in seeds], axis=0
    )
    test = permute_images(
        pairs,
        seed=settings.seed,
        n_permutations=settings.n_permutations,
        tail="less",
        statistic=lambda drawn: float(np.median(drawn)),
    )
    return replace(
        base,
        metric="median_relative_rank",
        gallery=size,
        value=interval.value,
        ci_low=interval.low,
        ci_high=interval.high,
        chance=0.5,
        p_value=test.p_value,
        p_correction=test.correction,
    )


def _score_seeds(found: RetrievalScores, seeds: Sequence[Queries], base: Score, settings: Settings) -> None:
    """Add one row a seed, so that the spread of training shows."""
    if len(seeds) < 2:
        return
    for queries in seeds:
        for size in _sizes(queries.size, settings):
            gallery = size or queries.size
            for direction in (BRAIN_TO_IMAGE, IMAGE_TO_BRAIN):
                metric = f"retrieval_{direction}_top1"
                values = queries.values(HEADLINE_SCORER, direction, size)[metric]
                found.scores.append(
                    replace(
                        base,
                        metric=metric,
                        gallery=gallery,
                        chance=chance_top_k(gallery),
                        seed=queries.predicted.seed,
                        **_interval(values, settings),
                    )
                )


def _score_single(found: RetrievalScores, seeds: Sequence[Queries], base: Score, settings: Settings) -> None:
    """Add level ``single``: every trial a query, whole images resampled and permuted."""
    one = seeds[0]
    if one.n_repeats <= 1:
        return
    metric = "retrieval_brain_to_image_top1"
    trial_units = one.single_truth if settings.units is None else settings.units[one.single_truth]
    for size in _sizes(one.size, settings):
        gallery = size or one.size
        values = np.stack(
            [
                retrieval_values(q.single, q.single_truth, BRAIN_TO_IMAGE, gallery_size=size)[metric]
                for q in seeds
            ]
        )
        interval = bootstrap_mean(
            values, units=trial_units, seed=settings.seed, n_resamples=settings.n_bootstrap
        )
        pairs = np.mean([retrieval_pairs(q.single, BRAIN_TO_IMAGE, gallery_size=size) for q in seeds], axis=0)
        test = permute_images(
            pairs, one.single_truth, seed=settings.seed, n_permutations=settings.n_permutations
        )
        found.scores.append(
            replace(
                base,
                metric=metric,
                gallery=gallery,
                level="single",
                n_repeats=1,
                value=interval.value,
                ci_low=interval.low,
                ci_high=interval.high,
                chance=chance_top_k(gallery),
                p_value=test.p_value,
                p_correction=test.correction,
            )
        )


def _score_without_duplicates(
    found: RetrievalScores, seeds: Sequence[Queries], base: Score, settings: Settings
) -> None:
    """Add the headline without the queries whose image looks like a training image; the gallery stays."""
    one = seeds[0]
    keep = np.array([stimulus_id not in settings.near_duplicates for stimulus_id in one.gallery.ids])
    if keep.all() or not keep.any():
        return
    metric = "retrieval_brain_to_image_top1"
    for size in _sizes(one.size, settings):
        gallery = size or one.size
        values = np.stack([q.values(HEADLINE_SCORER, BRAIN_TO_IMAGE, size)[metric][keep] for q in seeds])
        found.scores.append(
            replace(
                base,
                metric=metric,
                gallery=gallery,
                n=int(keep.sum()),
                candidates="no-near-duplicates",
                chance=chance_top_k(gallery),
                **_interval(values, settings, keep),
            )
        )


def compare(
    found: RetrievalScores, first: Sequence[Queries], other: Sequence[Queries], settings: Settings
) -> None:
    """Add paired differences, first minus other, image by image."""
    base = _base(first, settings)
    theirs = other[0].predicted
    versus = theirs.control if theirs.control != "brain" else theirs.model
    for how in first[0].scorers:
        for direction in (BRAIN_TO_IMAGE, IMAGE_TO_BRAIN):
            metric = f"retrieval_{direction}_top1"
            for size in _sizes(first[0].size, settings):
                a, b = (
                    np.stack([queries.values(how, direction, size)[metric] for queries in seeds])
                    for seeds in (first, other)
                )
                interval = paired_difference(
                    a, b, settings.units, seed=settings.seed, n_resamples=settings.n_bootstrap
                )
                found.scores.append(
                    replace(
                        base,
                        metric=metric,
                        scorer=how,
                        gallery=size or first[0].size,
                        versus=versus,
                        value=interval.value,
                        ci_low=interval.low,
                        ci_high=interval.high,
                    )
                )


def _keep(found: RetrievalScores, queries: Queries) -> None:
    """Keep similarity matrices, ranks with the first five of every query, and how strong the hubs are."""
    predicted, ids = queries.predicted, queries.gallery.ids
    control = "" if predicted.control == "brain" else f"-{predicted.control}"
    stem = f"{predicted.model}{control}_seed-{predicted.seed}"
    for how, matrix in queries.similarity.items():
        found.similarity[f"{stem}_{how}"] = matrix.astype(np.float32)
        found.hub_skewness[f"{stem}_{how}"] = hub_skewness(matrix, k=min(10, queries.size))
        if predicted.control != "brain":
            continue
        for direction in (BRAIN_TO_IMAGE, IMAGE_TO_BRAIN):
            oriented = matrix if direction == BRAIN_TO_IMAGE else matrix.T
            order = np.argsort(-oriented, axis=1, kind="stable")[:, :5]
            for row, rank in enumerate(ranks(matrix, queries.truth, direction=direction)):
                first_five = {f"top{k + 1}": ids[order[row, k]] for k in range(order.shape[1])}
                found.rows.append(
                    {
                        "stimulus_id": ids[row],
                        "model": predicted.model,
                        "seed": predicted.seed,
                        "scorer": how,
                        "direction": direction,
                        "rank": int(rank),
                        "gallery": queries.size,
                        **first_five,
                    }
                )
