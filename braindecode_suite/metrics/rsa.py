"""Representational similarity: do two systems find the same images alike?

Dissimilarities are compared by rank (Spearman's rho, Kendall's tau-a) or by Pearson's r. tau-a is the one that does not favour
models whose dissimilarities are tied (Nili et al. 2014, doi:10.1371/journal.pcbi.1003553). Images and subjects are resampled as
wholes; two copies of one image are at distance 0 by construction, so that a resample leaves such self-pairs out.
"""

from __future__ import annotations

from math import factorial
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import kendalltau, rankdata

from braindecode_suite.core.checks import check_finite, check_option, check_shape
from braindecode_suite.core.errors import InputError
from braindecode_suite.metrics.correlation import Floats, pairwise_pearson, standardise_rows
from braindecode_suite.metrics.permutation import MIN_PERMUTATIONS, PermutationTest

Method = Literal["spearman", "kendall", "pearson"]
METHODS: tuple[Method, ...] = ("spearman", "kendall", "pearson")
MIN_RESAMPLES = 100


def dissimilarity(features: ArrayLike) -> Floats:
    """Return 1 - Pearson's r between all rows.

    Parameters
    ----------
    features : array of shape (images, features)

    Returns
    -------
    array of shape (images, images)
        Symmetric, 0 on the diagonal; NaN for a row that does not vary.
    """
    r = pairwise_pearson(features, features)
    rdm = 1 - (r + r.T) / 2
    np.fill_diagonal(rdm, np.where(np.isnan(np.diag(rdm)), np.nan, 0.0))
    return rdm


def rsa(first: ArrayLike, second: ArrayLike, *, method: Method = "spearman") -> float:
    """Correlate the upper triangles of two dissimilarity matrices.

    Parameters
    ----------
    first, second : array of shape (images, images)
    method : {"spearman", "kendall", "pearson"}
        kendall is tau-a.

    Returns
    -------
    float
        Chance is the permutation mean (whole image ids of one matrix relabelled), not 0.
    """
    check_option("method", method, METHODS)
    n_images = len(np.asarray(first))
    for name, matrix in (("first", first), ("second", second)):
        check_shape(name, np.asarray(matrix), "images images", images=n_images)
    a, b = check_rdms("first", first), check_rdms("second", second)
    return float(_scores(_upper(a), _upper(b), method)[0, 0])


def rsa_scores(models: ArrayLike, subjects: ArrayLike, *, method: Method = "spearman") -> Floats:
    """Correlate the dissimilarities of each model with those of each subject.

    Parameters
    ----------
    models : array of shape (models, images, images)
    subjects : array of shape (subjects, images, images)
    method : {"spearman", "kendall", "pearson"}

    Returns
    -------
    array of shape (models, subjects)
    """
    a, b = _check_pair(models, subjects, method)
    return _scores(_upper(a), _upper(b), method)


def rsa_noise_ceiling(subjects: ArrayLike, *, method: Method = "spearman") -> tuple[Floats, Floats]:
    """Return what no model can be expected to fall short of, and what none can exceed, if it is the same for all subjects.

    The lower ceiling of a subject is its correlation with the mean of the others, the upper one that with the mean of all,
    itself included. Matrices are ranked (spearman, kendall) or standardised (pearson) before they are averaged; their mean then has
    the highest mean correlation that any matrix can have, but for ties and for kendall, where it comes close.

    Parameters
    ----------
    subjects : array of shape (subjects, images, images)
        At least two.
    method : {"spearman", "kendall", "pearson"}

    Returns
    -------
    lower, upper : array of shape (subjects,)
    """
    check_option("method", method, METHODS)
    rdms = check_rdms("subjects", subjects)
    if len(rdms) < 2:
        raise InputError("`subjects`", expected="at least 2 subjects", found=str(len(rdms)))
    return _ceilings(_upper(rdms), method)


def bootstrap_rsa(
    models: ArrayLike,
    subjects: ArrayLike,
    *,
    method: Method = "spearman",
    over_subjects: bool = True,
    n_resamples: int = 2000,
    seed: int,
) -> Floats:
    """Draw images, and subjects with them, and return each model's mean correlation over subjects.

    Images are drawn with replacement, pairs of two copies of one image are left out, and dissimilarities are ranked anew.
    Comparisons of a pair with its own copy do not count in kendall's denominator. All models see the same draws, so that the
    difference of two columns is a paired one. Drawing both factors at once counts their noise more than once: the interval is
    rather too wide (Schuett et al. 2023, doi:10.7554/eLife.82566).

    Parameters
    ----------
    models : array of shape (models, images, images)
    subjects : array of shape (subjects, images, images)
    method : {"spearman", "kendall", "pearson"}
    over_subjects : bool
        Whether subjects are drawn too.
    n_resamples, seed : int

    Returns
    -------
    array of shape (resamples, models)
    """
    a, b = _check_pair(models, subjects, method)
    if n_resamples < MIN_RESAMPLES:
        raise InputError("`n_resamples`", expected=f"at least {MIN_RESAMPLES}", found=str(n_resamples))
    rng = np.random.default_rng(seed)
    n_images, n_subjects = a.shape[1], len(b)
    found = np.empty((n_resamples, len(a)))
    for k in range(n_resamples):
        drawn = draw_images(rng, n_images)
        weights = np.full(n_subjects, 1 / n_subjects)
        if over_subjects:
            weights = rng.multinomial(n_subjects, weights) / n_subjects
        there = weights > 0
        first, second = _resampled(drawn, a, b[there])
        scores = _scores(first, second, method, copies=_pair_numbers(drawn, n_images))
        found[k] = scores @ weights[there]
    return found


def bootstrap_noise_ceiling(
    subjects: ArrayLike, *, method: Method = "spearman", n_resamples: int = 2000, seed: int
) -> tuple[Floats, Floats]:
    """Draw images and return the mean lower and upper ceiling over subjects, each of shape (resamples,).

    Subjects stay as they are: a copy of the subject left out would be among the others.
    """
    check_option("method", method, METHODS)
    rdms = check_rdms("subjects", subjects)
    rng = np.random.default_rng(seed)
    found = np.empty((n_resamples, 2))
    for k in range(n_resamples):
        drawn = draw_images(rng, rdms.shape[1])
        (data,) = _resampled(drawn, rdms)
        lower, upper = _ceilings(data, method, copies=_pair_numbers(drawn, rdms.shape[1]))
        found[k] = lower.mean(), upper.mean()
    return found[:, 0], found[:, 1]


def permute_rsa(
    model: ArrayLike,
    subjects: ArrayLike,
    *,
    method: Method = "spearman",
    n_permutations: int = MIN_PERMUTATIONS,
    seed: int,
) -> PermutationTest:
    """Test a model's mean correlation over subjects against relabellings of its images, the same for all subjects.

    Parameters
    ----------
    model : array of shape (images, images)
    subjects : array of shape (subjects, images, images)
    method : {"spearman", "kendall", "pearson"}
    n_permutations : int
        At least 1000.
    seed : int

    Returns
    -------
    PermutationTest
    """
    a, b = _check_pair(model, subjects, method)
    if n_permutations < MIN_PERMUTATIONS:
        raise InputError(
            "`n_permutations`", expected=f"at least {MIN_PERMUTATIONS}", found=str(n_permutations)
        )
    data, rng, n_images = _upper(b), np.random.default_rng(seed), a.shape[1]
    if method == "spearman":  # ranks move with their images
        a, data, method = _ranked(a), rankdata(data, axis=1), "pearson"
    null = np.empty(n_permutations)
    for k in range(n_permutations):
        order = rng.permutation(n_images)
        null[k] = _scores(_upper(a[:, order][:, :, order]), data, method).mean()
    observed = float(_scores(_upper(a), data, method).mean())
    return PermutationTest.of(observed, null, n_distinct=factorial(n_images))


def check_rdms(name: str, rdms: ArrayLike) -> Floats:
    """Return dissimilarity matrices as (matrices, images, images), or raise `InputError`: square, symmetric, finite, three images."""
    found = np.asarray(rdms, dtype=np.float64)
    found = found[None] if found.ndim == 2 else found
    check_shape(name, found, "matrices images images", images=found.shape[-1])
    check_finite(f"`{name}`", found)
    if found.shape[1] < 3 or not len(found) or not np.allclose(found, found.swapaxes(1, 2)):
        raise InputError(
            f"`{name}`", expected="a symmetric matrix of at least 3 images", found="another matrix"
        )
    return found


def draw_images(rng: np.random.Generator, n_images: int) -> np.ndarray:
    """Draw as many images as there are, with replacement; again where fewer than three are different."""
    while True:
        drawn = np.sort(rng.integers(n_images, size=n_images))
        if len(np.unique(drawn)) >= 3:
            return np.asarray(drawn)


def kendall_tau_a(x: ArrayLike, y: ArrayLike, copies: ArrayLike | None = None) -> float:
    """Return (concordant - discordant) / all comparisons; ties count as neither.

    Parameters
    ----------
    x, y : array of shape (pairs,)
    copies : array of int of shape (pairs,), optional
        Pairs of one number are copies of each other, and not compared.

    Examples
    --------
    >>> round(kendall_tau_a([1, 2, 3], [1, 2, 2]), 3)
    0.667
    """
    a, b = np.asarray(x, np.float64), np.asarray(y, np.float64)
    comparisons = _n_ties(np.zeros(len(a)))
    possible = comparisons - (0 if copies is None else _n_ties(np.asarray(copies)))
    uneven = (comparisons - _n_ties(a)) * (comparisons - _n_ties(b))
    if not uneven:
        return 0.0
    return float(kendalltau(a, b, variant="b").statistic * np.sqrt(uneven) / possible)


def _n_ties(values: np.ndarray) -> float:
    counts = np.unique(values, return_counts=True)[1].astype(np.float64)
    return float((counts * (counts - 1) / 2).sum())


def _check_pair(models: ArrayLike, subjects: ArrayLike, method: str) -> tuple[Floats, Floats]:
    check_option("method", method, METHODS)
    a, b = check_rdms("models", models), check_rdms("subjects", subjects)
    check_shape("subjects", b, "subjects images images", images=a.shape[1])
    return a, b


def _upper(rdms: Floats) -> Floats:
    rows, columns = np.triu_indices(rdms.shape[1], k=1)
    return np.asarray(rdms[:, rows, columns])


def _ranked(rdms: Floats) -> Floats:
    """Return matrices with their dissimilarities ranked."""
    rows, columns = np.triu_indices(rdms.shape[1], k=1)
    ranked = np.zeros_like(rdms)
    ranked[:, rows, columns] = ranked[:, columns, rows] = rankdata(rdms[:, rows, columns], axis=1)
    return ranked


def _resampled(drawn: np.ndarray, *rdms: Floats) -> list[Floats]:
    """Return the dissimilarities of each pair of drawn images, but for those of an image with its own copy."""
    rows, columns = np.triu_indices(len(drawn), k=1)
    i, j = drawn[rows], drawn[columns]
    return [np.asarray(some[:, i[i != j], j[i != j]]) for some in rdms]


def _pair_numbers(drawn: np.ndarray, n_images: int) -> np.ndarray:
    rows, columns = np.triu_indices(len(drawn), k=1)
    i, j = drawn[rows], drawn[columns]
    return np.asarray((i * n_images + j)[i != j])  # `drawn` ascends, so that i < j


def _scores(a: Floats, b: Floats, method: Method, copies: np.ndarray | None = None) -> Floats:
    """Correlate rows of pairs: (first, pairs) and (second, pairs) to (first, second)."""
    if method == "kendall":
        return np.array([[kendall_tau_a(x, y, copies) for y in b] for x in a])
    if method == "spearman":
        a, b = rankdata(a, axis=1), rankdata(b, axis=1)
    x, y = standardise_rows(a)[0], standardise_rows(b)[0]
    return np.asarray(np.clip(x @ y.T, -1.0, 1.0))


def _ceilings(data: Floats, method: Method, copies: np.ndarray | None = None) -> tuple[Floats, Floats]:
    levelled = standardise_rows(data)[0] if method == "pearson" else rankdata(data, axis=1)
    total, n = levelled.sum(axis=0), len(data)
    lower = [
        _scores((total - own)[None] / (n - 1), row[None], method, copies)[0, 0]
        for own, row in zip(levelled, data, strict=True)
    ]
    upper = _scores(total[None] / n, data, method, copies)[0]
    return np.array(lower), upper
