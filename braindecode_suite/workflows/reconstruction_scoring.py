"""Reconstructed images to scores, every control beside the brain on the same images and seeds.

Identification is two-way over a network that was neither target, nor condition, nor chooser; among all test images and
among distractors matched to each. Paired differences say whether the brain beats each control, image by image. Whatever a
scorer sees, truths and distractors as much as reconstructions, has come to its size by the same function.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isqrt
from typing import Any

import numpy as np
import pandas as pd

from braindecode_suite.core.errors import InputError, MissingWeights
from braindecode_suite.core.score import FIRST_FIVE, Score
from braindecode_suite.metrics.bootstrap import bootstrap_mean, paired_difference
from braindecode_suite.metrics.identification import (
    CHANCE,
    correlation_distance_pairs,
    identification_pairs,
    matched_identification,
    matched_identification_pairs,
    two_way_identification,
)
from braindecode_suite.metrics.images import (
    Protocol,
    blurred,
    flat_grey,
    mean_image,
    pixcorr,
    pixcorr_pairs,
    ssim,
    ssim_pairs,
)
from braindecode_suite.metrics.permutation import PermutationTest, Tail, permute_images
from braindecode_suite.metrics.scenes import MainObjects, scene_errors

PIXEL_CONTROLS = ("mean-image", "flat-grey", "blurred-truth")
SCENE_COLUMNS = ("category", "colour", "x", "y", "size")
TINY_EVAL = "tiny-eval"
MOST_SSIM_PIXELS = 100 * 100 * 425 * 425
"""All-pairs SSIM is computed for as many images as make at most this many pixels, about a minute of one core."""
BLOCK = 100

Features = Callable[[np.ndarray], np.ndarray]
Values = dict[tuple[str, str, str], dict[str, np.ndarray]]
"""Set to candidates to the value of each image."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ReconstructionSet:
    """One image for each scored test image, all made in the same way.

    Attributes
    ----------
    control : str
        ``brain`` or one of `core.score.CONTROLS`.
    images : array of uint8 of shape (images, height, width, 3)
    model, seed, stage : str
    sources : tuple of str
        Of ``nearest-train``: where each image comes from.
    """

    control: str
    images: np.ndarray
    model: str = ""
    seed: str = ""
    stage: str = "final"
    sources: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[str, str, str]:
        """Control, model and stage."""
        return self.control, self.model, self.stage


@dataclass(frozen=True, kw_only=True)
class ReconstructionSettings:
    """How reconstructions are scored.

    Attributes
    ----------
    subject, split, target : str
    scorer : str
        ``tiny-eval`` or one of the published networks, for identification; empty for none.
    circular : frozenset of str
        Scorers that are also target, condition or chooser: their scores are printed as circular.
    protocol : {'native', 'nsd'}
        Size at which pixels are scored.
    published : bool
        Whether to add the published networks whose weights are here.
    n_repeats : float
    ceiling : float or None
        The oracle's identification among matched distractors.
    near_duplicates : array of bool of shape (images,) or None
        Which test images look like a training image.
    unit, units : str, array of shape (images,) or None
        What intervals resample: images, or the concept of each where several share one.
    n_bootstrap, n_permutations, seed : int
    """

    subject: str
    split: str
    target: str
    scorer: str = TINY_EVAL
    circular: frozenset[str] = frozenset()
    protocol: Protocol = "native"
    published: bool = True
    n_repeats: float = 1.0
    ceiling: float | None = None
    near_duplicates: np.ndarray | None = None
    unit: str = "image"
    units: np.ndarray | None = None
    n_bootstrap: int = 2000
    n_permutations: int = 1000
    seed: int = 0


@dataclass(kw_only=True, eq=False)
class ReconstructionScores:
    """Score rows, the values of each image by set and metric, and notes on scorers that are missing."""

    scores: list[Score] = field(default_factory=list)
    per_image: dict[tuple[str, str, str], dict[str, np.ndarray]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)


def pixel_controls(truth: np.ndarray, train: np.ndarray) -> list[ReconstructionSet]:
    """Return the three images without a brain that stand beside PixCorr and SSIM.

    Parameters
    ----------
    truth : array of uint8 of shape (images, height, width, 3)
    train : array of uint8 of shape (training images, height, width, 3)
    """
    made = {
        "mean-image": mean_image(train, len(truth)),
        "flat-grey": flat_grey(truth),
        "blurred-truth": blurred(truth),
    }
    return [
        ReconstructionSet(control=name, images=to_uint8(images), stage="") for name, images in made.items()
    ]


def at_one_size(
    sets: Sequence[ReconstructionSet],
    truth: np.ndarray,
    train: np.ndarray,
    distractors: np.ndarray | None,
    protocol: Protocol,
) -> tuple[list[ReconstructionSet], np.ndarray, np.ndarray, np.ndarray | None]:
    """Bring everything that is scored to one size by one function: to the size of what is drawn, that of the first set.

    Under protocol ``nsd`` all images stay as they are: every scorer brings them to 256 pixels itself, all alike.

    Parameters
    ----------
    sets : sequence of ReconstructionSet
    truth, train : array of uint8 of shape (images, height, width, 3)
    distractors : array of uint8 of shape (images, candidates, height, width, 3) or None
    protocol : {'native', 'nsd'}

    Returns
    -------
    sets, truth, train, distractors
    """
    if protocol == "nsd":
        return list(sets), truth, train, distractors
    height, width = sets[0].images.shape[1:3]
    if distractors is not None:
        flat = to_size(distractors.reshape(-1, *distractors.shape[2:]), height, width)
        distractors = flat.reshape(*distractors.shape[:2], *flat.shape[1:])
    return (
        [replace(one, images=to_size(one.images, height, width)) for one in sets],
        to_size(truth, height, width),
        to_size(train, height, width),
        distractors,
    )


def to_size(images: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return uint8 images squeezed or stretched to a size, bicubic with antialiasing, as generators see their stimuli."""
    from PIL import Image

    if images.shape[1:3] == (height, width):
        return images
    return np.stack(
        [np.asarray(Image.fromarray(i).resize((width, height), Image.Resampling.BICUBIC)) for i in images]
    )


def to_uint8(images: np.ndarray) -> np.ndarray:
    """Return images in [0, 1] as uint8."""
    return np.round(np.clip(images, 0, 1) * 255).astype(np.uint8)


def score_reconstructions(
    sets: Sequence[ReconstructionSet],
    truth: np.ndarray,
    settings: ReconstructionSettings,
    *,
    distractors: np.ndarray | None = None,
    attributes: pd.DataFrame | None = None,
    features: Features | None = None,
    networks: Mapping[str, Features] | None = None,
) -> ReconstructionScores:
    """Score all sets; the first is the brain that is compared with the others.

    Parameters
    ----------
    sets : sequence of ReconstructionSet
        Of the size of the truth, see `at_one_size`.
    truth : array of uint8 of shape (images, height, width, 3)
    settings : ReconstructionSettings
    distractors : array of uint8 of shape (images, candidates, height, width, 3), optional
        Matched to each test image.
    attributes : DataFrame, optional
        One row a test image, with the columns of SCENE_COLUMNS: the true main object.
    features : callable, optional
        Images to the features that identification compares; by default those of `settings.scorer`.
    networks : dict of str to callable, optional
        Published networks by name, images to features; by default those whose weights are here.

    Returns
    -------
    ReconstructionScores

    Raises
    ------
    InputError
        If images differ in size, but for protocol ``nsd``.
    """
    _check_sizes(sets, truth, distractors, settings.protocol)
    found = ReconstructionScores()
    for one in sets:
        found.per_image[one.key] = {}
    _pixels(found, sets, truth, settings)
    if settings.scorer:
        _identification(found, sets, truth, distractors, settings, features)
    if settings.published:
        _published(found, sets, truth, settings, networks)
    if attributes is not None and settings.scorer == TINY_EVAL:
        try:
            _scene(found, sets, truth, attributes, settings)
        except MissingWeights as error:
            found.missing.append(f"errors of the decoded object: {error}")
    return found


def _check_sizes(
    sets: Sequence[ReconstructionSet], truth: np.ndarray, distractors: np.ndarray | None, protocol: Protocol
) -> None:
    sizes = [(one.control, one.images.shape[1:3]) for one in sets]
    if distractors is not None:
        sizes.append(("distractors", distractors.shape[2:4]))
    for name, size in sizes:
        if protocol != "nsd" and size != truth.shape[1:3]:
            raise InputError(
                f"images of {name}",
                expected=f"the truth's {truth.shape[1]} x {truth.shape[2]} pixels",
                found=f"{size[0]} x {size[1]}",
                hint="bring all images to one size by `at_one_size`",
            )


def feature_function(scorer: str, protocol: Protocol) -> Features:
    """Return the function from uint8 images to features of a scoring network.

    Raises
    ------
    MissingWeights
        If the network's weights are not on this machine.
    """
    if scorer == TINY_EVAL:
        from braindecode_suite.core.tiny_eval import load_tiny_eval
        from braindecode_suite.metrics.tiny_eval import tiny_eval_features

        network = load_tiny_eval()
        return lambda images: tiny_eval_features(images, network, protocol=protocol)
    from braindecode_suite.core.networks_scoring import feature_network
    from braindecode_suite.metrics.networks import network_features

    opened = feature_network(scorer)
    return lambda images: network_features(scorer, images, protocol=protocol, network=opened)


def _base(one: ReconstructionSet, n: int, settings: ReconstructionSettings) -> Score:
    return Score(
        subject=settings.subject,
        metric="",
        value=float("nan"),
        ci_over=settings.unit,
        n=n,
        n_repeats=settings.n_repeats,
        n_subjects=1,
        candidates="",
        level="mean-prediction" if one.model else "",
        stage=one.stage,
        control=one.control,
        model=one.model,
        target=settings.target if one.model else "",
        seed=one.seed,
        split=settings.split,
    )


def _plain(base: Score, values: np.ndarray, settings: ReconstructionSettings, **changed: Any) -> Score:
    interval = bootstrap_mean(values, settings.units, seed=settings.seed, n_resamples=settings.n_bootstrap)
    return replace(base, value=interval.value, ci_low=interval.low, ci_high=interval.high, **changed)


def _without_duplicates(row: Score, values: np.ndarray, settings: ReconstructionSettings) -> list[Score]:
    """Return the row again over the images that look like no training image, where there are both kinds."""
    similar = settings.near_duplicates
    if similar is None or similar.all() or not similar.any():
        return []
    units = None if settings.units is None else settings.units[~similar]
    interval = bootstrap_mean(values[~similar], units, seed=settings.seed, n_resamples=settings.n_bootstrap)
    return [
        replace(
            row,
            n=int((~similar).sum()),
            candidates="no-near-duplicates",
            chance=row.chance if row.candidates else None,  # a permutation mean is of all images
            value=interval.value,
            ci_low=interval.low,
            ci_high=interval.high,
            p_value=None,
            p_correction="",
            ceiling=None,
        )
    ]


def _difference(
    base: Score, first: np.ndarray, second: np.ndarray, settings: ReconstructionSettings, **changed: Any
) -> Score:
    interval = paired_difference(
        first, second, settings.units, seed=settings.seed, n_resamples=settings.n_bootstrap
    )
    return replace(base, value=interval.value, ci_low=interval.low, ci_high=interval.high, **changed)


def _pairs(function: Any, truth: np.ndarray, recon: np.ndarray, protocol: Protocol) -> np.ndarray:
    """Return the scores of all (reconstruction, truth) pairs, in blocks so that large images fit in memory."""
    return np.concatenate(
        [
            np.concatenate(
                [
                    function(truth[j : j + BLOCK], recon[i : i + BLOCK], protocol=protocol)
                    for j in range(0, len(truth), BLOCK)
                ],
                axis=1,
            )
            for i in range(0, len(recon), BLOCK)
        ]
    )


def _pixels(
    found: ReconstructionScores,
    sets: Sequence[ReconstructionSet],
    truth: np.ndarray,
    settings: ReconstructionSettings,
) -> None:
    metrics: Mapping[str, Any] = {"pixcorr": pixcorr, "ssim": ssim}
    for one in sets:
        base = _base(one, len(truth), settings)
        for metric, score_of in metrics.items():
            values = score_of(truth, one.images, protocol=settings.protocol)
            found.per_image[one.key][metric] = values
            row = _plain(base, values, settings, metric=metric)
            if one.control == "brain":
                row = replace(row, **_pixel_test(metric, truth, one.images, settings))
            found.scores.append(row)
            if one.control == "brain":
                found.scores += _without_duplicates(row, values, settings)
    for one in sets:
        if one.control == "brain":
            _pixel_differences(found, one, sets, len(truth), settings)


def _pixel_test(
    metric: str, truth: np.ndarray, recon: np.ndarray, settings: ReconstructionSettings
) -> dict[str, Any]:
    """Return chance and p by permutation; of SSIM on a random part of the images where all pairs are too many."""
    chosen, pairs_of = np.arange(len(truth)), pixcorr_pairs
    if metric == "ssim":
        chosen, pairs_of = _affordable(truth, settings), ssim_pairs
    pairs = _pairs(pairs_of, truth[chosen], recon[chosen], settings.protocol)
    test = permute_images(pairs, seed=settings.seed, n_permutations=settings.n_permutations)
    correction = test.correction
    if len(chosen) < len(truth):
        correction += f", chance and p from {len(chosen)} of {len(truth)} images drawn at random"
    return {"chance": test.chance, "p_value": test.p_value, "p_correction": correction}


def _affordable(truth: np.ndarray, settings: ReconstructionSettings) -> np.ndarray:
    """Return the images whose pairs all-pairs SSIM can afford, drawn with the seed: the same ones for every set."""
    pixels = 425 * 425 if settings.protocol == "nsd" else truth.shape[1] * truth.shape[2]
    most = max(2, isqrt(MOST_SSIM_PIXELS // pixels))
    if most >= len(truth):
        return np.arange(len(truth))
    rng = np.random.default_rng([settings.seed, 19])
    return np.sort(rng.choice(len(truth), most, replace=False))


def _pixel_differences(
    found: ReconstructionScores,
    brain: ReconstructionSet,
    sets: Sequence[ReconstructionSet],
    n: int,
    settings: ReconstructionSettings,
) -> None:
    base = _base(brain, n, settings)
    for other in sets:
        if other is brain or (other.control == "brain" and other.stage != brain.stage):
            continue
        if other.control != "brain" and other.control not in PIXEL_CONTROLS and other.stage != brain.stage:
            continue
        if brain.key != sets[0].key and other.control == "brain" and other.model == sets[0].model:
            continue  # the first model is compared with the others, not they with it
        for metric in ("pixcorr", "ssim"):
            found.scores.append(
                _difference(
                    base,
                    found.per_image[brain.key][metric],
                    found.per_image[other.key][metric],
                    settings,
                    metric=metric,
                    versus=other.model if other.control == "brain" else other.control,
                )
            )


def _compared(sets: Sequence[ReconstructionSet]) -> list[ReconstructionSet]:
    """Return the sets that networks look at."""
    return [one for one in sets if one.stage == "final" or one.control in ("mean-image", "blurred-truth")]


def _identification(
    found: ReconstructionScores,
    sets: Sequence[ReconstructionSet],
    truth: np.ndarray,
    distractors: np.ndarray | None,
    settings: ReconstructionSettings,
    features: Features | None,
) -> None:
    try:
        features = features or feature_function(settings.scorer, settings.protocol)
    except MissingWeights as error:
        found.missing.append(f"identification by {settings.scorer}: {error}")
        return
    true = features(truth)
    candidates = None
    if distractors is not None:
        flat = features(distractors.reshape(-1, *distractors.shape[2:]))
        candidates = flat.reshape(*distractors.shape[:2], -1)
    scorer = f"{settings.scorer} (circular)" if settings.scorer in settings.circular else settings.scorer
    scored, values = _compared(sets), Values()
    for one in scored:
        recon = features(one.images)
        base = replace(
            _base(one, len(truth), settings), metric="identification", scorer=scorer, chance=CHANCE
        )
        by = {"all": two_way_identification(true, recon)}
        pairs = {"all": identification_pairs(true, recon)}
        if candidates is not None:
            by["matched"] = matched_identification(true, recon, candidates)
            pairs["matched"] = matched_identification_pairs(true, recon, candidates)
        values[one.key] = by
        found.per_image[one.key]["identification"] = by.get("matched", by["all"])
        for name, per_image in by.items():
            row = _plain(base, per_image, settings, candidates=name)
            if one.control == "brain":
                test = permute_images(pairs[name], seed=settings.seed, n_permutations=settings.n_permutations)
                ceiling = settings.ceiling if name == "matched" else None
                row = replace(row, p_value=test.p_value, p_correction=test.correction, ceiling=ceiling)
            found.scores.append(row)
            if one.control == "brain" and name == ("all" if candidates is None else "matched"):
                found.scores += _without_duplicates(row, per_image, settings)
    base = replace(_base(scored[0], len(truth), settings), metric="identification", scorer=scorer)
    _network_differences(found, scored, values, base, settings)


def _network_differences(
    found: ReconstructionScores,
    scored: Sequence[ReconstructionSet],
    values: Values,
    base: Score,
    settings: ReconstructionSettings,
) -> None:
    """Add what a network sees of the first set minus what it sees of every control and of the baseline."""
    brain = scored[0]
    for other in scored[1:]:
        if other.control not in (*FIRST_FIVE, "brain", "true-latent", "mean-image"):
            continue
        if other.control == "nearest-train" and other.model != brain.model:
            continue
        versus = other.model if other.control == "brain" else other.control
        for name in values[brain.key]:
            found.scores.append(
                _difference(
                    base,
                    values[brain.key][name],
                    values[other.key][name],
                    settings,
                    versus=versus,
                    candidates=name,
                )
            )


def _published(
    found: ReconstructionScores,
    sets: Sequence[ReconstructionSet],
    truth: np.ndarray,
    settings: ReconstructionSettings,
    networks: Mapping[str, Features] | None,
) -> None:
    from braindecode_suite.metrics.networks import PUBLISHED, available_scorers

    if networks is not None:
        for name, features in networks.items():
            _published_score(found, sets, truth, settings, name, features)
        return
    for scorer in available_scorers():
        if scorer.name not in PUBLISHED:
            continue
        if scorer.available:
            features = feature_function(scorer.name, settings.protocol)
            _published_score(found, sets, truth, settings, scorer.name, features)
        else:
            found.missing.append(f"{scorer.name}: {scorer.note}")


def _published_score(
    found: ReconstructionScores,
    sets: Sequence[ReconstructionSet],
    truth: np.ndarray,
    settings: ReconstructionSettings,
    name: str,
    features: Features,
) -> None:
    from braindecode_suite.metrics.networks import PUBLISHED

    published = PUBLISHED[name]
    identifies = published.kind == "identification"
    pairs_of = identification_pairs if identifies else correlation_distance_pairs
    tail: Tail = "greater" if identifies else "less"
    candidates = "all" if identifies else ""
    scorer = f"{published.network} (circular)" if name in settings.circular else published.network
    true = features(truth)
    scored, values = _compared(sets), Values()
    for one in scored:
        pairs = pairs_of(true, features(one.images))
        per_image = np.diag(pairs)
        values[one.key] = {candidates: per_image}
        base = replace(
            _base(one, len(truth), settings),
            metric=name,
            scorer=scorer,
            candidates=candidates,
            chance=published.chance,
        )
        row = _plain(base, per_image, settings)
        if one.control == "brain":
            test = permute_images(
                pairs, seed=settings.seed, n_permutations=settings.n_permutations, tail=tail
            )
            chance = test.chance if published.chance is None else published.chance
            row = replace(row, chance=chance, p_value=test.p_value, p_correction=test.correction)
        found.scores.append(row)
        if one.control == "brain":
            found.scores += _without_duplicates(row, per_image, settings)
    base = replace(_base(scored[0], len(truth), settings), metric=name, scorer=scorer)
    _network_differences(found, scored, values, base, settings)


def _scene(
    found: ReconstructionScores,
    sets: Sequence[ReconstructionSet],
    truth: np.ndarray,
    attributes: pd.DataFrame,
    settings: ReconstructionSettings,
) -> None:
    """Add errors of the decoded main object, with the scoring network's own errors on the true images beside."""
    from braindecode_suite.core.tiny_eval import load_tiny_eval
    from braindecode_suite.metrics.tiny_eval import read_main_objects

    missing = [column for column in SCENE_COLUMNS if column not in attributes.columns]
    if missing:
        found.missing.append(f"errors of the decoded object: the stimuli tell no {', '.join(missing)}")
        return
    network = load_tiny_eval()
    true = MainObjects(
        category=attributes["category"].to_numpy(str),
        colour=attributes["colour"].to_numpy(str),
        position=attributes[["x", "y"]].to_numpy(float),
        size=attributes["size"].to_numpy(float),
    )
    perfect = ReconstructionSet(control="true-image", images=truth, stage="")
    for one in [perfect, *(s for s in sets if s.stage == "final")]:
        decoded = read_main_objects(one.images, network, protocol=settings.protocol)
        errors = scene_errors(true, decoded)
        values = {
            "category_accuracy": errors.category_right,
            "colour_accuracy": errors.colour_right,
            "position_error": errors.position_error,
            "size_error": errors.size_error,
        }
        base = replace(_base(one, len(truth), settings), scorer=TINY_EVAL)
        for metric, per_image in values.items():
            test = _scene_test(metric, true, decoded, settings)
            row = _plain(base, per_image, settings, metric=metric, chance=test.chance)
            if one.control == "brain":
                row = replace(row, p_value=test.p_value, p_correction=test.correction)
            found.scores.append(row)


def _scene_test(
    metric: str, true: MainObjects, decoded: MainObjects, settings: ReconstructionSettings
) -> PermutationTest:
    """Test a scene error: decoded objects against the other images' true ones."""
    if metric == "category_accuracy":
        pairs = (decoded.category[:, None] == true.category[None, :]).astype(float)
    elif metric == "colour_accuracy":
        pairs = (decoded.colour[:, None] == true.colour[None, :]).astype(float)
    elif metric == "position_error":
        pairs = np.linalg.norm(decoded.position[:, None] - true.position[None, :], axis=2)
    else:
        smallest = 1e-3
        sizes = np.maximum(decoded.size, smallest)[:, None] / np.maximum(true.size, smallest)[None, :]
        pairs = np.abs(np.log2(sizes))
    tail: Tail = "greater" if metric.endswith("accuracy") else "less"
    return permute_images(pairs, seed=settings.seed, n_permutations=settings.n_permutations, tail=tail)
