"""What stands beside the brain: models fitted on shuffled pairs, latents without a brain, the ridge refitted many times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import factorial

import numpy as np
import pandas as pd

from braindecode_suite.core.latents import Latents
from braindecode_suite.core.study import Cohort, Study
from braindecode_suite.learning.folds import group_folds
from braindecode_suite.learning.responses import ImageRows, fit_scaler, image_means
from braindecode_suite.learning.ridge import ridge_cv
from braindecode_suite.metrics.permutation import PermutationTest, relabel_training
from braindecode_suite.metrics.retrieval import TrainingReference, ranks, similarity, top_k_random_gallery


def shuffled_pairs(study: Study, parts: Sequence[np.ndarray], seed: int) -> Study:
    """Return the study with other images paired to the responses of some rows, each part shuffled within itself.

    All repeats of an image get the same other image, so only the pairing is lost.

    Parameters
    ----------
    study : Study
    parts : sequence of int arrays
        Rows, e.g. of training and of validation; an image stays in its part.
    seed : int
    """
    ids = study.stimulus_ids.copy()
    for number, rows in enumerate(parts):
        ids[rows] = relabel_training(ids[rows].astype(str), seed=seed + number).astype(object)
    trials = study.trials.copy()
    trials["stimulus_id"] = ids
    return replace(study, trials=trials)


def derangement(n: int, seed: int) -> np.ndarray:
    """Return a permutation that leaves nothing in its place, for ``shuffled-test``.

    Examples
    --------
    >>> bool((derangement(5, 0) == np.arange(5)).any())
    False
    """
    order = np.random.default_rng(seed).permutation(n)
    shifted = np.empty(n, int)
    shifted[order] = np.roll(order, 1)
    return shifted


def null_latents(train: Latents, ids: np.ndarray) -> Latents:
    """Return the mean training latent, once for each of `ids`: what can be said without a recording."""
    mean = np.asarray(train.values).mean(axis=0, dtype=np.float64).astype(np.float32)
    return Latents(np.repeat(mean[None], len(ids), axis=0), ids, train.target, "predicted")


def category_latents(train: Latents, attributes: pd.DataFrame | None, ids: np.ndarray) -> Latents | str:
    """Return the mean training latent of each test image's true main category, or the reason why there is none.

    Parameters
    ----------
    train : Latents
        True latents of training images.
    attributes : DataFrame or None
        Indexed by stimulus id, with a column ``category``.
    ids : object array of str of shape (images,)
        Test images.
    """
    if attributes is None or "category" not in attributes.columns:
        return "the main category of the images is not known"
    category = attributes["category"]
    train_category = category.reindex(list(train.ids)).to_numpy(dtype=object)
    values = np.asarray(train.values)
    rows = []
    for name in category.reindex(list(ids)):
        inside = train_category == name
        if not inside.any():
            return f"no training image has the category {name!r}"
        rows.append(values[inside].mean(axis=0, dtype=np.float64).astype(np.float32))
    return Latents(np.stack(rows), ids, train.target, "predicted")


def relabelled_ridge(
    train: Cohort,
    test: Cohort,
    train_true: Latents,
    gallery: Latents,
    *,
    observed: float,
    gallery_size: int,
    n_permutations: int,
    seed: int,
    alphas: Sequence[float],
    n_folds: int,
    weight_by_signal: bool = True,
    batch: int = 100,
) -> PermutationTest:
    """Refit the ridge on relabelled training images, all folds and penalties, and score each refit like the real one.

    The responses stay, so one decomposition serves many relabellings: their targets are laid side by side as columns.

    Parameters
    ----------
    train, test : Cohort
        Of one subject, prepared.
    train_true : Latents
        True latents of the training images.
    gallery : Latents
        True latents of the test images.
    observed : float
        Centred top-1 at `gallery_size` of the ridge fitted on true pairs.
    gallery_size, n_permutations, seed, n_folds, batch : int
    alphas : sequence of float
    weight_by_signal : bool
    """
    (study, rows), (test_study, test_rows) = next(iter(train)), next(iter(test))
    images = ImageRows.of(study, rows)
    scaler = fit_scaler(study, images, weight_by_signal=weight_by_signal)
    X = image_means(study, images, scaler)
    test_images = ImageRows.of(test_study, test_rows)
    order = {stimulus_id: k for k, stimulus_id in enumerate(test_images.ids)}
    X_test = image_means(test_study, test_images, scaler)[[order[i] for i in gallery.ids]]
    Y = train_true.select(images.ids).flat.astype(np.float32)
    folds = group_folds(np.arange(len(X)), min(n_folds, len(X)))
    width, truth = Y.shape[1], np.arange(len(gallery))
    size = min(gallery_size, len(gallery))
    null = []
    rng = np.random.default_rng(seed)
    for start in range(0, n_permutations, batch):
        orders = [rng.permutation(len(Y)) for _ in range(min(batch, n_permutations - start))]
        fit = ridge_cv(X, np.concatenate([Y[o] for o in orders], axis=1), folds=folds, alphas=alphas)
        predicted, seen = fit.predict(X_test), fit.predict(X)
        for k in range(len(orders)):
            columns = slice(k * width, (k + 1) * width)
            reference = TrainingReference(predicted=seen[:, columns], true=Y)
            matrix = similarity(predicted[:, columns], gallery.flat, "cosine-centred", reference)
            null.append(float(top_k_random_gallery(ranks(matrix, truth), len(gallery), size).mean()))
    return PermutationTest.of(observed, null, n_distinct=factorial(len(Y)))
