"""Representational similarity: do two systems find the same images alike?"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import rankdata

from braindecode_suite.core.checks import check_finite, check_option, check_shape
from braindecode_suite.core.errors import InputError
from braindecode_suite.metrics.correlation import Floats, pairwise_pearson, rowwise_pearson


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


def rsa(first: ArrayLike, second: ArrayLike, *, method: Literal["spearman", "pearson"] = "spearman") -> float:
    """Correlate the upper triangles of two dissimilarity matrices.

    Parameters
    ----------
    first, second : array of shape (images, images)
    method : {"spearman", "pearson"}

    Returns
    -------
    float
        Chance is the permutation mean (whole image ids of one matrix relabelled), not 0.
    """
    check_option("method", method, ("spearman", "pearson"))
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    check_shape("first", a, "images images", images=len(a))
    check_shape("second", b, "images images", images=len(a))
    for name, matrix in (("first", a), ("second", b)):
        check_finite(f"`{name}`", matrix)
        if len(matrix) < 3 or not np.allclose(matrix, matrix.T):
            raise InputError(
                f"`{name}`", expected="a symmetric matrix of at least 3 images", found="another matrix"
            )
    upper = np.triu_indices(len(a), k=1)
    x, y = a[upper][None], b[upper][None]
    if method == "spearman":
        x, y = rankdata(x, axis=1), rankdata(y, axis=1)
    return float(rowwise_pearson(x, y)[0])
