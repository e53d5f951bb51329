"""Retrieval: where does the truth stand in a ranked gallery?

A similarity matrix has one row a brain and one column an image. Directions are named query -> gallery: in
`brain_to_image` a row is the query and the columns are its gallery, in `image_to_brain` the other way round. (The
official MindEye code calls image -> brain "forward", its paper calls brain -> image "image retrieval".)

A rank is the number of distractors above the truth, so 0 is best; a tie counts against the truth. Latents of several
tokens are laid side by side, then normalised as one vector. Galleries are never resampled: intervals come from the
bootstrap of queries and are conditional on the gallery and the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import hypergeom

from braindecode_suite.core.checks import check_finite, check_option, check_shape
from braindecode_suite.core.errors import InputError
from braindecode_suite.metrics.correlation import Floats

Direction = Literal["brain_to_image", "image_to_brain"]
DIRECTIONS = ("brain_to_image", "image_to_brain")
SIMILARITIES = ("cosine", "cosine-centred", "csls")

CSLS_NEIGHBOURS = 10

TIE = 1e-9
"""Similarities closer than this are tied: the same vector in two places of a matrix product differs by rounding."""

Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class TrainingReference:
    """Images of the training part that a similarity knows: their means for centring, their neighbourhoods for CSLS.

    Attributes
    ----------
    predicted : array of shape (rows, features)
        Latents predicted for the images. CSLS needs images that the decoder was not fitted on (validation images): on those
        that it was, predictions lie closer to their truths than they ever will on test images, and so do its hubs.
    true : array of shape (images, features)
        Latents of the images themselves.
    """

    predicted: NDArray[Any]
    true: NDArray[Any]


def flatten(name: str, latents: ArrayLike) -> Floats:
    """Lay the tokens of each latent side by side, (rows, tokens, width) -> (rows, tokens * width)."""
    array = np.asarray(latents)
    if array.ndim == 3:
        array = array.reshape(len(array), -1)
    check_shape(name, array, "rows features")
    check_finite(f"`{name}`", array)
    return array.astype(np.float64)


def cosine(queries: ArrayLike, gallery: ArrayLike) -> Floats:
    """Return the cosine of every query with every gallery item; a zero vector has cosine 0 with all.

    Parameters
    ----------
    queries : array of shape (queries, features) or (queries, tokens, width)
    gallery : array of shape (items, features) or (items, tokens, width)

    Returns
    -------
    array of shape (queries, items)
    """
    q, g = flatten("queries", queries), flatten("gallery", gallery)
    check_shape("gallery", g, "items features", features=q.shape[1])
    return _normalise(q) @ _normalise(g).T


def cosine_centred(queries: ArrayLike, gallery: ArrayLike, reference: TrainingReference) -> Floats:
    """Cosine after subtracting the mean prediction from the queries and the mean true latent from the gallery.

    Both means are of training rows. This is the headline for every decoder: predictions shrunk to their mean all
    point the same way, which favours whatever image lies there.
    """
    predicted, true = (
        flatten("reference.predicted", reference.predicted),
        flatten("reference.true", reference.true),
    )
    q, g = flatten("queries", queries), flatten("gallery", gallery)
    check_shape("reference.predicted", predicted, "rows features", features=q.shape[1])
    check_shape("reference.true", true, "images features", features=g.shape[1])
    return cosine(q - predicted.mean(axis=0), g - true.mean(axis=0))


def csls(
    queries: ArrayLike, gallery: ArrayLike, reference: TrainingReference, *, k: int = CSLS_NEIGHBOURS
) -> Floats:
    """Cross-domain similarity local scaling (Conneau et al. 2018), its hubs measured on images of the training part only.

    ``csls(q, g) = 2 cos(q, g) - mean cos(q, its k nearest true reference latents)
    - mean cos(g, its k nearest predicted reference latents)``

    Parameters
    ----------
    queries : array of shape (queries, features)
    gallery : array of shape (items, features)
    reference : TrainingReference
        Of images that the decoder was not fitted on.
    k : int
        Neighbours; at most the number of reference rows.

    Returns
    -------
    array of shape (queries, items)
    """
    around_queries = _mean_of_nearest(cosine(queries, reference.true), k)  # (queries,)
    around_gallery = _mean_of_nearest(cosine(gallery, reference.predicted), k)  # (items,)
    return 2 * cosine(queries, gallery) - around_queries[:, None] - around_gallery[None, :]


def similarity(
    queries: ArrayLike,
    gallery: ArrayLike,
    how: str = "cosine-centred",
    reference: TrainingReference | None = None,
) -> Floats:
    """Return the similarity named `how`: ``cosine``, ``cosine-centred`` or ``csls`` (the last two need `reference`)."""
    check_option("how", how, SIMILARITIES)
    if how == "cosine":
        return cosine(queries, gallery)
    if reference is None:
        raise InputError("`reference`", expected=f"latents of the training part for {how!r}", found="None")
    return (cosine_centred if how == "cosine-centred" else csls)(queries, gallery, reference)


def rank_matrix(similarity: ArrayLike, *, tie: float = TIE) -> Ints:
    """Return for each entry how many other entries of its row are as large or larger (within `tie`).

    Entry (i, j) is the rank that query i would have if its truth were item j; permutation tests relabel with it.

    Parameters
    ----------
    similarity : array of shape (queries, items)

    Returns
    -------
    array of int of shape (queries, items)
    """
    values = _similarity(similarity)
    n = values.shape[1]
    ordered = np.sort(values, axis=1)
    below = np.stack([np.searchsorted(o, v - tie, side="left") for o, v in zip(ordered, values, strict=True)])
    return (n - below - 1).astype(np.int64)


def ranks(
    similarity: ArrayLike, truth: ArrayLike, *, direction: Direction = "brain_to_image", tie: float = TIE
) -> Ints:
    """Return the number of distractors above the truth for each query, ties counted against it.

    Parameters
    ----------
    similarity : array of shape (brains, images)
    truth : array of int of shape (brains,)
        Column of the image that each brain saw.
    direction : {"brain_to_image", "image_to_brain"}
        `image_to_brain` queries with the images in `truth`, in the order of the brains, and needs each of them once.
    tie : float

    Returns
    -------
    array of int of shape (queries,)

    Examples
    --------
    >>> s = [[0.9, 0.1], [0.8, 0.2]]
    >>> ranks(s, [0, 1]).tolist(), ranks(s, [0, 1], direction="image_to_brain").tolist()
    ([0, 1], [0, 0])
    """
    queries, own = oriented(similarity, truth, direction)
    at_truth = queries[np.arange(len(queries)), own]
    as_large = (queries >= at_truth[:, None] - tie).sum(axis=1)
    return (as_large - 1).astype(np.int64)


def oriented(similarity: ArrayLike, truth: ArrayLike, direction: Direction) -> tuple[Floats, Ints]:
    """Return the similarity with one row a query, and the gallery index of each query's truth."""
    check_option("direction", direction, DIRECTIONS)
    values, own = _similarity(similarity), np.asarray(truth)
    check_shape("truth", own, "brains", brains=len(values))
    if not np.issubdtype(own.dtype, np.integer) or (
        len(own) and not 0 <= own.min() <= own.max() < values.shape[1]
    ):
        raise InputError(
            "`truth`", expected=f"column numbers from 0 to {values.shape[1] - 1}", found=str(own[:5])
        )
    if direction == "brain_to_image":
        return values, own.astype(np.int64)
    if len(np.unique(own)) < len(own):
        raise InputError(
            "`truth`",
            expected="each image once for 'image_to_brain'",
            found="images that several rows saw",
            hint="average the predictions of an image first",
        )
    return values.T[own], np.arange(len(own))


def relative_rank(ranks: ArrayLike, gallery: int) -> Floats:
    """Return the share of distractors above the truth, rank / (gallery - 1); its median is `median_relative_rank`."""
    r = _ranks(ranks, gallery)
    if gallery < 2:
        raise InputError("`gallery`", expected="at least 2 items", found=str(gallery))
    return r / (gallery - 1)


def median_relative_rank(ranks: ArrayLike, gallery: int) -> float:
    """Return the median share of distractors above the truth; 0 is best, chance is 0.5."""
    return float(np.median(relative_rank(ranks, gallery)))


def top_k_random_gallery(ranks: ArrayLike, gallery: int, size: int, k: int = 1) -> Floats:
    """Return each query's exact chance of finding the truth among its first `k` in a random gallery of `size`.

    The gallery holds the truth and ``size - 1`` of the N - 1 distractors, drawn without replacement. With r of these
    above the truth, ``P(top 1) = C(N-1-r, size-1) / C(N-1, size-1)``; in general it is the hypergeometric
    probability that at most k - 1 of the r are drawn.

    Parameters
    ----------
    ranks : array of int of shape (queries,)
    gallery : int
        N, the full gallery that the ranks refer to.
    size : int
    k : int

    Returns
    -------
    array of shape (queries,)

    Examples
    --------
    >>> top_k_random_gallery([0, 1, 3], gallery=4, size=2).round(3).tolist()
    [1.0, 0.667, 0.0]
    """
    r = _ranks(ranks, gallery)
    if not 1 <= size <= gallery:
        raise InputError("`size`", expected=f"between 1 and the full gallery's {gallery}", found=str(size))
    _check_k(k, size)
    probability: Floats = hypergeom.cdf(k - 1, gallery - 1, r, size - 1)
    return np.asarray(probability, dtype=np.float64)


def chance_top_k(gallery: int, k: int = 1) -> float:
    """Return k / gallery."""
    _check_k(k, gallery)
    return k / gallery


def hub_skewness(similarity: ArrayLike, *, k: int = 10, exclude_self: bool = False) -> float:
    """Return the skewness of how often each gallery item is among the `k` nearest of a query (Radovanovic 2010).

    Parameters
    ----------
    similarity : array of shape (queries, items)
        Predictions against the gallery, or the gallery against itself with `exclude_self`.
    k : int
    exclude_self : bool
        Leave the diagonal out, for a gallery against itself.

    Returns
    -------
    float
        Near 0 without hubs, above 1 with strong ones; 0 where all items are drawn equally often.
    """
    values = _similarity(similarity).copy()
    if exclude_self:
        check_shape("similarity", values, "items items", items=len(values))
        np.fill_diagonal(values, -np.inf)
    _check_k(k, values.shape[1] - int(exclude_self))
    nearest = np.argpartition(-values, k - 1, axis=1)[:, :k]
    counts = np.bincount(nearest.ravel(), minlength=values.shape[1]).astype(np.float64)
    deviation = counts - counts.mean()
    spread = counts.std()
    return float((deviation**3).mean() / spread**3) if spread > 0 else 0.0


def retrieval_values(
    similarity: ArrayLike,
    truth: ArrayLike,
    direction: Direction,
    *,
    ks: tuple[int, ...] = (1,),
    gallery_size: int | None = None,
) -> dict[str, Floats]:
    """Return the value of each query under the metric names of the score table.

    Parameters
    ----------
    similarity : array of shape (brains, images)
    truth : array of int of shape (brains,)
    direction : {"brain_to_image", "image_to_brain"}
    ks : tuple of int
    gallery_size : int, optional
        Exact in random galleries of that size; by default the full gallery.

    Returns
    -------
    dict of str to array of shape (queries,)
        ``retrieval_<direction>_top<k>`` for each k.
    """
    queries, _ = oriented(similarity, truth, direction)
    n = queries.shape[1]
    r = ranks(similarity, truth, direction=direction)
    size = n if gallery_size is None else gallery_size
    return {f"retrieval_{direction}_top{k}": top_k_random_gallery(r, n, size, k) for k in ks}


def retrieval_pairs(
    similarity: ArrayLike,
    direction: Direction = "brain_to_image",
    *,
    k: int = 1,
    gallery_size: int | None = None,
) -> Floats:
    """Return the top-k value that each query would have if its truth were each item, for permutation tests.

    Returns
    -------
    array of shape (queries, items)
    """
    check_option("direction", direction, DIRECTIONS)
    values = _similarity(similarity)
    values = values if direction == "brain_to_image" else values.T
    n = values.shape[1]
    by_rank = top_k_random_gallery(np.arange(n), n, n if gallery_size is None else gallery_size, k)
    return by_rank[rank_matrix(values)]


def retrieval_brain_to_image_top1(
    similarity: ArrayLike, truth: ArrayLike, *, gallery_size: int | None = None
) -> Floats:
    """Brain queries a gallery of images; right if the image seen comes first. Value per query."""
    return _named(similarity, truth, "brain_to_image", 1, gallery_size)


def retrieval_brain_to_image_top5(
    similarity: ArrayLike, truth: ArrayLike, *, gallery_size: int | None = None
) -> Floats:
    """Brain queries a gallery of images; right if the image seen is among the first 5. Value per query."""
    return _named(similarity, truth, "brain_to_image", 5, gallery_size)


def retrieval_brain_to_image_top10(
    similarity: ArrayLike, truth: ArrayLike, *, gallery_size: int | None = None
) -> Floats:
    """Brain queries a gallery of images; right if the image seen is among the first 10. Value per query."""
    return _named(similarity, truth, "brain_to_image", 10, gallery_size)


def retrieval_image_to_brain_top1(
    similarity: ArrayLike, truth: ArrayLike, *, gallery_size: int | None = None
) -> Floats:
    """Image queries a gallery of brains; right if the brain that saw it comes first. Value per query."""
    return _named(similarity, truth, "image_to_brain", 1, gallery_size)


def _named(
    similarity: ArrayLike, truth: ArrayLike, direction: Direction, k: int, gallery_size: int | None
) -> Floats:
    (value,) = retrieval_values(similarity, truth, direction, ks=(k,), gallery_size=gallery_size).values()
    return value


def _normalise(rows: Floats) -> Floats:
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(length > 0, length, 1.0)


def _mean_of_nearest(similarity: Floats, k: int) -> Floats:
    if not 1 <= k <= similarity.shape[1]:
        raise InputError(
            "`k`", expected=f"between 1 and the {similarity.shape[1]} reference rows", found=str(k)
        )
    nearest: Floats = -np.partition(-similarity, k - 1, axis=1)[:, :k]
    return np.asarray(nearest.mean(axis=1), dtype=np.float64)


def _similarity(similarity: ArrayLike) -> Floats:
    values = np.asarray(similarity, dtype=np.float64)
    check_shape("similarity", values, "queries items")
    check_finite("`similarity`", values)
    return values


def _ranks(ranks: ArrayLike, gallery: int) -> Ints:
    r = np.asarray(ranks)
    check_shape("ranks", r, "queries")
    if len(r) and not (np.issubdtype(r.dtype, np.integer) and 0 <= r.min() <= r.max() < gallery):
        raise InputError(
            "`ranks`", expected=f"whole numbers from 0 to {gallery - 1}", found=f"{r.min()} to {r.max()}"
        )
    return r.astype(np.int64)


def _check_k(k: int, gallery: int) -> None:
    if not 1 <= k <= gallery:
        raise InputError("`k`", expected=f"between 1 and the gallery's {gallery}", found=str(k))
