"""What two sets of features explain of predicted latents, each after the other is partialled out, window by window.

With ``R2(S)`` the share of variance over test images that a regression on the features S explains, adjusted for their number
(``1 - (1 - R2) (n - 1) / (n - p - 1)``, Ezekiel), set A explains ``R2(A, B) - R2(B)`` uniquely, B ``R2(A, B) - R2(A)``, and both share
``R2(A) + R2(B) - R2(A, B)`` (commonality analysis: Newton and Spurrell 1967, J. R. Stat. Soc. C 16). The adjusted share of features that
say nothing is 0 on average, not above: windows before the picture lie at 0.

Images are the unit. The share without image i has a closed form (``SS(-i) = SS - e_i^2 / (1 - h_i)``, h being the leverage), and with it
each image's influence, which is written as a value per image whose mean is the share: bands, intervals and latencies then come from
`time_courses.time_course`, as for any score. (Drawing images with replacement and fitting again would inflate every share: an image
that is drawn twice explains itself.)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from braindecode_suite.core.checks import check_finite, check_shape
from braindecode_suite.core.errors import InputError
from braindecode_suite.metrics.correlation import Floats

LEAST_IMAGES_PER_FEATURE = 2
CONSTANT = 1e-12
"""Share of the squared values below which a variance is rounding."""

INDEPENDENT = 1e-6
"""Share of the largest singular value below which a direction is rounding: features come in float32."""


@dataclass(frozen=True, kw_only=True, eq=False)
class UniqueVariance:
    """Shares of the variance of predicted latents, as values per image: means over images are the shares.

    Attributes
    ----------
    first, second : array of shape (windows, images)
        Explained by one set of features and not by the other.
    shared : array of shape (windows, images)
        Explained by either; below 0 where one set hides what the other explains.
    total : array of shape (windows, images)
        Explained by both sets together, the sum of the three.
    n_features : tuple of int
        Independent features of the first set, of the second, and of both.
    """

    first: Floats
    second: Floats
    shared: Floats
    total: Floats
    n_features: tuple[int, int, int]


def unique_variance(predicted: Iterable[ArrayLike], first: ArrayLike, second: ArrayLike) -> UniqueVariance:
    """Return what each of two sets of features explains of the predictions alone.

    Parameters
    ----------
    predicted : iterable of array of shape (images, latents), or array of shape (windows, images, latents)
        Predicted latents of the test images, one array a window. Latents count by their variance. A prediction that does not vary has
        no share explained, 0.
    first, second : array of shape (images, features)
        E.g. what is early (low-level) and late (category) in the images; at most half as many in all as there are images.

    Returns
    -------
    UniqueVariance

    Examples
    --------
    >>> edges, animal, noise = np.random.default_rng(0).standard_normal((3, 5000, 1))
    >>> found = unique_variance([edges + noise, 2 * animal + noise], edges, animal)
    >>> [part.mean(axis=1).round(1) + 0.0 for part in (found.first, found.second)]
    [array([0.5, 0. ]), array([0. , 0.8])]
    """
    sets = [np.asarray(s, np.float64) for s in (first, second)]
    for name, features in zip(("first", "second"), sets, strict=True):
        check_shape(name, features, "images features", images=len(sets[0]))
        check_finite(f"`{name}`", features)
    n = len(sets[0])
    bases = [_basis(s) for s in (*sets, np.concatenate(sets, axis=1))]
    p_first, p_second, p_both = (basis.shape[1] - 1 for basis in bases)
    if LEAST_IMAGES_PER_FEATURE * p_both > n or n < 4:
        raise InputError(
            "`first` and `second`",
            expected=f"at most {n // LEAST_IMAGES_PER_FEATURE} independent features for {n} images",
            found=str(p_both),
            hint="take their leading components",
        )
    shares: list[list[Floats]] = [[], [], []]
    for matrix in predicted:
        latents = np.asarray(matrix, np.float64)
        check_shape("predicted", latents, "images latents", images=n)
        check_finite("`predicted`", latents)
        for basis, share in zip(bases, shares, strict=True):
            share.append(_adjusted_share(latents, basis))
    if not shares[0]:
        raise InputError("`predicted`", expected="at least one window", found="none")
    a, b, both = (np.stack(share) for share in shares)
    return UniqueVariance(
        first=both - b,
        second=both - a,
        shared=a + b - both,
        total=both,
        n_features=(p_first, p_second, p_both),
    )


def _basis(features: Floats) -> Floats:
    """Return orthonormal columns that span the intercept and the features, of shape (images, rank)."""
    centred = features - features.mean(axis=0)
    scale = np.abs(centred).max(axis=0)
    varies = scale > CONSTANT * np.abs(features).max(axis=0)
    centred = centred[:, varies] / scale[varies]
    left, size, _ = np.linalg.svd(centred, full_matrices=False)
    independent = left[:, : _rank(size)]
    ones = np.full((len(features), 1), 1 / np.sqrt(len(features)))
    return np.concatenate([ones, independent], axis=1)


def _rank(size: Floats) -> int:
    """Return how many singular values are more than rounding."""
    return int((size > INDEPENDENT * size.max()).sum()) if size.size else 0


def _adjusted_share(latents: Floats, basis: Floats) -> Floats:
    """Return values per image whose mean is the adjusted share that the basis explains, of shape (images,)."""
    n, rank = basis.shape
    ones = basis[:, :1]
    around_mean, around_fit = (_residuals(latents, columns) for columns in (ones, basis))
    total, left = around_mean.sum(), around_fit.sum()
    if total <= CONSTANT * np.square(latents).sum():
        return np.zeros(n)
    keeps = np.maximum(1 - np.square(basis).sum(axis=1), CONSTANT)  # 1 - leverage
    total_without = np.maximum(total - around_mean / (1 - 1 / n), CONSTANT * total)
    left_without = np.maximum(left - around_fit / keeps, 0.0)
    share = 1 - left / total * (n - 1) / (n - rank)
    without = 1 - left_without / total_without * (n - 2) / (n - 1 - rank)
    return np.asarray(share + (n - 1) * (without.mean() - without))


def _residuals(latents: Floats, basis: Floats) -> Floats:
    """Return the squared residual of each image, summed over latents."""
    return np.asarray(np.square(latents - basis @ (basis.T @ latents)).sum(axis=1))
