"""The head for captions: images retrieved by their captions, and by image and caption together.

A gallery item is the mean of the unit vectors of an image's captions. Images with the same captions are the same item twice:
their similarities to a query are equal, and a tie counts against the truth as everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from braindecode_suite.core.errors import InputError
from braindecode_suite.core.latents import ROLES, Latents
from braindecode_suite.core.study import Stimuli
from braindecode_suite.encoders import ENCODERS
from braindecode_suite.encoders.targets import split_name
from braindecode_suite.metrics.retrieval import TrainingReference, ranks, relative_rank, similarity
from braindecode_suite.workflows.fitting import Fitted
from braindecode_suite.workflows.scoring import (
    HEADLINE_ONLY,
    HEADLINE_SCORER,
    Queries,
    RetrievalScores,
    Settings,
    compare,
    score_groups,
)

FEWEST_VALIDATION_IMAGES = 2
"""The least by which captions can be weighted against images."""
WEIGHTS = tuple(k / 10 for k in range(11))
"""Weights of captions against images that are tried on validation images."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TextScores:
    """What captions add.

    Attributes
    ----------
    retrieval : RetrievalScores
        Of the head for captions, and of image and caption together.
    weights : dict of str to float
        Of captions, by model.
    ranks : dict of str to list of float
        Mean relative rank of validation images at each of `WEIGHTS`, by model.
    """

    retrieval: RetrievalScores = field(default_factory=RetrievalScores)
    weights: dict[str, float] = field(default_factory=dict)
    ranks: dict[str, list[float]] = field(default_factory=dict)


def check_text_target(name: str, encoders: Sequence[str]) -> None:
    """Raise unless a target is one of captions, and encoders have a head for it."""
    if split_name(name)[2] != "text":
        raise InputError(
            "`text_target`",
            expected="a target of captions",
            found=repr(name),
            hint="e.g. tiny-clip:text or open-clip:ViT-L-14/openai:text",
        )
    for encoder in encoders:
        if "text" not in getattr(ENCODERS[encoder], "ROLES", ROLES):
            raise InputError(
                "`text_target`",
                expected="encoders with a head for captions",
                found=repr(encoder),
                hint="e.g. encoder: brain-routing for voxels, meg-module for sensors",
            )


def check_captions(stimuli: Stimuli, parts: Mapping[str, np.ndarray]) -> None:
    """Raise unless each image of every part has a caption, and there are validation images to choose the weight by."""
    n_validation = len(parts["validation"])
    if n_validation < FEWEST_VALIDATION_IMAGES:
        raise InputError(
            "`text_target`",
            expected=f"at least {FEWEST_VALIDATION_IMAGES} validation images",
            found=str(n_validation),
        )
    ids = [stimulus_id for part in parts.values() for stimulus_id in part]
    silent = [stimulus_id for stimulus_id in ids if not stimuli.captions(stimulus_id)]
    if silent:
        raise InputError(
            "`text_target`",
            expected="images with captions",
            found=f"none for {len(silent)} of {len(ids)}, e.g. {str(silent[0])!r}",
            hint="leave text_target out for these data",
        )


def tie_captions(latents: Latents, captions: Sequence[Sequence[str]]) -> tuple[Latents, int]:
    """Give images with the same captions, in whatever order, exactly the same latents, so that rounding breaks no tie.

    Parameters
    ----------
    latents : Latents
        True latents of the captions, one row an image.
    captions : sequence of sequence of str
        Of each row.

    Returns
    -------
    latents : Latents
    tied : int
        Images that share all their captions with another one.
    """
    first: dict[tuple[str, ...], int] = {}
    rows = np.array([first.setdefault(tuple(sorted(texts)), k) for k, texts in enumerate(captions)], int)
    tied = int((np.bincount(rows, minlength=len(rows))[rows] > 1).sum())
    return replace(latents, values=np.asarray(latents.values)[rows]), tied


def choose_weight(images: Sequence[np.ndarray], texts: Sequence[np.ndarray]) -> tuple[float, list[float]]:
    """Choose how much captions weigh: the least mean relative rank of validation images, of equal ones the smallest weight.

    Parameters
    ----------
    images, texts : sequence of array of shape (brains, images)
        Similarities of validation images, the truth on the diagonal, one a seed.

    Returns
    -------
    weight : float
    ranks : list of float
        Mean relative rank at each of `WEIGHTS`, over images and seeds.
    """
    found = []
    for weight in WEIGHTS:
        mixed = [(1 - weight) * image + weight * text for image, text in zip(images, texts, strict=True)]
        n = len(mixed[0])
        found.append(float(np.mean([relative_rank(ranks(matrix, np.arange(n)), n) for matrix in mixed])))
    return WEIGHTS[int(np.argmin(np.round(found, 12)))], found


def score_text(
    models: Sequence[Fitted],
    images: Mapping[str, Latents],
    captions: Mapping[str, Latents],
    settings: Settings,
) -> TextScores:
    """Score the head for captions, and a weighted sum of both heads' centred similarities, with its difference from images alone.

    Parameters
    ----------
    models : sequence of Fitted
        Several seeds of a model share its name and one weight; a model on shuffled pairs takes the weight of the one on true pairs.
    images, captions : mapping of part to Latents
        True latents of the training, validation and test images. Centring takes the means of training images.
    settings : Settings
        What the oracle reaches with images is not told of captions.

    Returns
    -------
    TextScores
    """
    settings = replace(settings, ceilings={})
    groups: dict[tuple[str, str], list[Fitted]] = {}
    for model in sorted(models, key=lambda model: model.control != "brain"):  # weights are of true pairs
        groups.setdefault((model.name, model.control), []).append(model)
    scores = TextScores()
    by_image, by_text, by_both = [], [], []
    for (name, _), seeds in groups.items():
        if name not in scores.weights:
            scores.weights[name], scores.ranks[name] = choose_weight(*_validation(seeds, images, captions))
        own = [
            Queries(model.predicted, images["train"], None, images["test"], HEADLINE_ONLY) for model in seeds
        ]
        said = [_text_queries(model, captions) for model in seeds]
        by_image.append(own)
        by_text.append(said)
        by_both.append(
            [
                image.fused(text, scores.weights[name], f"{name}, image and text")
                for image, text in zip(own, said, strict=True)
            ]
        )
    score_groups(scores.retrieval, by_text, settings)
    score_groups(scores.retrieval, by_both, settings)
    for both, image in zip(by_both, by_image, strict=True):
        if both[0].predicted.control == "brain":
            compare(scores.retrieval, both, image, settings)
    return scores


def text_facts(scores: TextScores, target: str, tied: int, images: Mapping[str, Latents]) -> dict[str, Any]:
    """Return what the report says of captions: the target, the weights, and the sentences."""
    n_test, n_validation = len(images["test"]), len(images["validation"])
    notes = [
        f"Rows of models `, text` retrieve images by their captions ({target}); {tied} of {n_test} test images have the captions of another "
        "one, and such ties count against the truth.",
        *(
            f"{name}, image and text: {1 - weight:.1f} times the similarity of images and {weight:.1f} times that of captions, chosen by the "
            f"mean relative rank of {n_validation} validation images."
            for name, weight in scores.weights.items()
        ),
    ]
    return {
        "target": target,
        "tied": tied,
        "weights": scores.weights,
        "tried": list(WEIGHTS),
        "validation_relative_rank": scores.ranks,
        "notes": notes,
    }


def _text_queries(model: Fitted, captions: Mapping[str, Latents]) -> Queries:
    predicted = model.predicted_text
    assert predicted is not None
    return Queries(predicted, captions["train"], None, captions["test"], HEADLINE_ONLY)


def _validation(
    seeds: Sequence[Fitted], images: Mapping[str, Latents], captions: Mapping[str, Latents]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return centred similarities of validation images for images and for captions, one matrix a seed."""

    def of(validation: Latents | None, train: Latents | None, true: Mapping[str, Latents]) -> np.ndarray:
        assert validation is not None
        assert train is not None
        ids = true["validation"].ids
        reference = TrainingReference(predicted=train.flat, true=true["train"].flat)
        return np.asarray(
            similarity(validation.select(ids).flat, true["validation"].flat, HEADLINE_SCORER, reference)
        )

    return (
        [of(model.validation, model.train, images) for model in seeds],
        [of(model.validation_text, model.train_text, captions) for model in seeds],
    )
