"""Two-way identification: is a reconstruction more like its own truth than like another true image?

For reconstruction j and a distractor i the reconstruction wins if r(true_i, recon_j) < r(true_j, recon_j), r being
Pearson's correlation of network features (or pixels). The value of j is its share of wins over the distractors; a tie
is a loss, so chance is 0.5 at most. The gallery is the true images. `candidates` of the score table says which
distractors count: all, within-class (a mask), or matched (drawn for each image).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from braindecode_suite.core.checks import check_shape
from braindecode_suite.core.errors import InputError
from braindecode_suite.metrics.correlation import Floats, pairwise_pearson, rowwise_pearson
from braindecode_suite.metrics.retrieval import TIE, rank_matrix

CHANCE = 0.5

Mask = NDArray[np.bool_]


def two_way_identification(
    true_features: ArrayLike, recon_features: ArrayLike, *, distractors: ArrayLike | None = None
) -> Floats:
    """Return each reconstruction's share of distractors that lose against its truth.

    Parameters
    ----------
    true_features, recon_features : array of shape (images, features)
    distractors : array of bool of shape (images, images), optional
        Row j marks the true images that stand against truth j (`same_class`); the truth itself never does. By default
        all others.

    Returns
    -------
    array of shape (images,)
        Chance 0.5. NaN where an image has no distractor.

    Examples
    --------
    >>> import numpy as np
    >>> features = np.random.default_rng(0).standard_normal((5, 20))
    >>> two_way_identification(features, features).tolist()
    [1.0, 1.0, 1.0, 1.0, 1.0]
    """
    r = correlations(true_features, recon_features)
    if len(r) != r.shape[1]:
        raise InputError("`recon_features`", expected=f"{r.shape[1]} rows, one per truth", found=str(len(r)))
    own = np.diag(r)
    wins = r < own[:, None] - TIE
    allowed = _mask(distractors, len(r))
    counts = allowed.sum(axis=1)
    with np.errstate(invalid="ignore"):
        return np.asarray((wins & allowed).sum(axis=1) / counts, dtype=np.float64)


def identification_pairs(
    true_features: ArrayLike, recon_features: ArrayLike, *, distractors: ArrayLike | None = None
) -> Floats:
    """Return the value that each reconstruction would have if its truth were each image, for permutation tests.

    Parameters
    ----------
    true_features : array of shape (images, features)
    recon_features : array of shape (reconstructions, features)
    distractors : array of bool of shape (images, images), optional

    Returns
    -------
    array of shape (reconstructions, images)
        Its diagonal is `two_way_identification`.
    """
    r = correlations(true_features, recon_features)
    n = r.shape[1]
    if distractors is None:
        if n < 2:
            raise InputError("`true_features`", expected="at least 2 images", found=str(n))
        return 1 - rank_matrix(r) / (n - 1)
    allowed = _mask(distractors, n)
    counts = allowed.sum(axis=1)  # (images,)
    wins = np.stack([((row[None, :] < row[:, None] - TIE) & allowed).sum(axis=1) for row in r])
    with np.errstate(invalid="ignore"):
        return np.asarray(wins / counts, dtype=np.float64)


def matched_identification(
    true_features: ArrayLike, recon_features: ArrayLike, candidate_features: ArrayLike
) -> Floats:
    """Two-way identification against distractors chosen for each image, e.g. of the same category and place.

    Parameters
    ----------
    true_features, recon_features : array of shape (images, features)
    candidate_features : array of shape (images, candidates, features)
        Features of the distractors of each image; the truth is not among them.

    Returns
    -------
    array of shape (images,)
        Share of the candidates that lose against the truth; chance 0.5.
    """
    true, recon = np.asarray(true_features), np.asarray(recon_features)
    candidates = _candidates(true, candidate_features)
    check_shape("recon_features", recon, "images features", images=len(true), features=true.shape[1])
    own = _rowwise(true, recon)
    against = np.stack([correlations(c, r[None])[0] for c, r in zip(candidates, recon, strict=True)])
    return np.asarray((against < own[:, None] - TIE).mean(axis=1), dtype=np.float64)


def matched_identification_pairs(
    true_features: ArrayLike, recon_features: ArrayLike, candidate_features: ArrayLike
) -> Floats:
    """Return the matched value of each reconstruction if its truth, with that truth's candidates, were each image.

    Returns
    -------
    array of shape (reconstructions, images)
    """
    true = np.asarray(true_features)
    candidates = _candidates(true, candidate_features)
    own = correlations(true, recon_features)  # (reconstructions, images)
    against = correlations(candidates.reshape(-1, candidates.shape[2]), recon_features)
    against = against.reshape(len(own), *candidates.shape[:2])  # (reconstructions, images, candidates)
    return np.asarray((against < own[:, :, None] - TIE).mean(axis=2), dtype=np.float64)


def correlation_distance(true_features: ArrayLike, recon_features: ArrayLike) -> Floats:
    """Return 1 - Pearson's r of each pair's features (the published EffNet-B and SwAV scores); lower is better.

    Parameters
    ----------
    true_features, recon_features : array of shape (images, features)

    Returns
    -------
    array of shape (images,)
    """
    return 1 - rowwise_pearson(true_features, recon_features)


def correlation_distance_pairs(true_features: ArrayLike, recon_features: ArrayLike) -> Floats:
    """Return the distance that each reconstruction would have from each image, for permutation tests.

    Returns
    -------
    array of shape (reconstructions, images)
        Its diagonal is `correlation_distance`.
    """
    return 1 - correlations(true_features, recon_features)


def correlations(true_features: ArrayLike, recon_features: ArrayLike) -> Floats:
    """Return Pearson's r of every reconstruction with every truth, (reconstructions, images); uniform truths refused."""
    r = pairwise_pearson(true_features, recon_features)
    undefined = np.isnan(r).any(axis=0)
    if undefined.any():
        raise InputError(
            "`true_features`",
            expected="features that vary within each image",
            found=f"{int(undefined.sum())} constant rows, the first at {int(np.argmax(undefined))}",
        )
    return r


def same_class(labels: ArrayLike) -> Mask:
    """Return the mask of `candidates` ``within-class``: distractors that share the truth's label."""
    names = np.asarray(labels)
    check_shape("labels", names, "images")
    return np.asarray(names[:, None] == names[None, :])


def _mask(distractors: ArrayLike | None, n: int) -> Mask:
    mask = np.ones((n, n), dtype=bool) if distractors is None else np.array(distractors, dtype=bool)
    check_shape("distractors", mask, "images images", images=n)
    np.fill_diagonal(mask, False)
    return mask


def _rowwise(true: NDArray[np.generic], recon: NDArray[np.generic]) -> Floats:
    r = rowwise_pearson(true, recon)
    if np.isnan(r).any():
        raise InputError(
            "`true_features`", expected="features that vary within each image", found="a constant row"
        )
    return r


def _candidates(true: NDArray[np.generic], candidate_features: ArrayLike) -> NDArray[np.generic]:
    candidates = np.asarray(candidate_features)
    check_shape("true_features", true, "images features")
    check_shape(
        "candidate_features",
        candidates,
        "images candidates features",
        images=len(true),
        features=true.shape[1],
    )
    if not candidates.shape[1]:
        raise InputError("`candidate_features`", expected="at least one candidate an image", found="none")
    return candidates
