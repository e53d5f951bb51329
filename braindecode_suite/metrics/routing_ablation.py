"""Does what attention points at matter? Tokens are replaced by what is usual at their place, and the prediction is compared.

Attention weights say what a query looked at. They explain a prediction only where it changes more without the tokens
that were looked at most than without as many others (Jain & Wallace 2019, https://arxiv.org/abs/1902.10186; DeYoung et al.
2020, https://arxiv.org/abs/1911.03429, comprehensiveness).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from braindecode_suite.core.checks import check_shape
from braindecode_suite.core.errors import InputError
from braindecode_suite.metrics.correlation import Floats

Chosen = NDArray[np.bool_]


def count_ablated(share: float, n_allowed: int) -> int:
    """Return how many of the allowed tokens a share is: at least one, and never all.

    Examples
    --------
    >>> count_ablated(0.1, 64), count_ablated(0.001, 64)
    (6, 1)
    """
    if not 0 < share < 1:
        raise InputError("`share`", expected="above 0 and below 1", found=f"{share:g}")
    if n_allowed < 2:
        raise InputError("tokens that show the image", expected="at least two", found=str(n_allowed))
    return min(max(1, round(share * n_allowed)), n_allowed - 1)


def most_and_least(maps: ArrayLike, share: float, allowed: ArrayLike) -> tuple[Chosen, Chosen]:
    """Return the tokens of each image that get most, and those that get least, of a map's weight.

    Parameters
    ----------
    maps : array of shape (images, tokens)
    share : float
        Of the allowed tokens.
    allowed : array of bool of shape (tokens,)
        Tokens that show the image: neither the class token nor padding.

    Returns
    -------
    most, least : array of bool of shape (images, tokens)

    Examples
    --------
    >>> most, least = most_and_least([[9.0, 0.3, 0.5, 0.2]], 0.4, [False, True, True, True])
    >>> most.astype(int).tolist(), least.astype(int).tolist()
    ([[0, 0, 1, 0]], [[0, 0, 0, 1]])
    """
    values, may = _check(maps, allowed)
    count = count_ablated(share, int(may.sum()))
    order = np.argsort(values[:, may], axis=1, kind="stable")  # rising
    return _chosen(order[:, -count:], may), _chosen(order[:, :count], may)


def random_tokens(n_images: int, share: float, allowed: ArrayLike, n_draws: int, *, seed: int) -> Chosen:
    """Draw as many tokens of each image at random.

    Parameters
    ----------
    n_images : int
    share : float
    allowed : array of bool of shape (tokens,)
    n_draws, seed : int

    Returns
    -------
    array of bool of shape (draws, images, tokens)

    Examples
    --------
    >>> random_tokens(3, 0.5, [False, True, True, True, True], 2, seed=0).sum(axis=2).tolist()
    [[2, 2, 2], [2, 2, 2]]
    """
    may = np.asarray(allowed, bool)
    count = count_ablated(share, int(may.sum()))
    keys = np.random.default_rng([seed, 19]).random((n_draws, n_images, int(may.sum())))
    return np.stack([_chosen(np.argsort(key, axis=1)[:, :count], may) for key in keys])


def prediction_change(intact: ArrayLike, ablated: ArrayLike) -> Floats:
    """Return how far the prediction of each image moved: the squared difference, summed over units.

    Parameters
    ----------
    intact, ablated : array of shape (images, units)

    Returns
    -------
    array of shape (images,)
    """
    before, after = np.asarray(intact, np.float64), np.asarray(ablated, np.float64)
    check_shape("intact", before, "images units")
    check_shape("ablated", after, "images units", images=len(before), units=before.shape[1])
    return np.asarray(np.square(after - before).sum(axis=1))


def prediction_spread(intact: ArrayLike) -> Floats:
    """Return how far the prediction of each image lies from the mean prediction, squared and summed over units.

    The mean over images is the variance of the predictions: a change of 1 is as large as that from one image to the mean.
    """
    before = np.asarray(intact, np.float64)
    return prediction_change(np.broadcast_to(before.mean(axis=0), before.shape), before)


def resampled_ratio(above: ArrayLike, below: ArrayLike, weights: Floats) -> Floats:
    """Return the ratio of the weighted means of two values of each image.

    Parameters
    ----------
    above, below : array of shape (images,)
    weights : array of shape (resamples, images)
        How often each image counts, see `draw_weights`.

    Returns
    -------
    array of shape (resamples,)
        NaN where nothing is below the line.

    Examples
    --------
    >>> resampled_ratio([2.0, 4.0], [1.0, 1.0], np.array([[1.0, 1.0], [2.0, 0.0]])).tolist()
    [3.0, 2.0]
    """
    top, bottom = weights @ np.asarray(above, np.float64), weights @ np.asarray(below, np.float64)
    return np.asarray(np.divide(top, bottom, out=np.full_like(top, np.nan), where=bottom > 0))


def _check(maps: ArrayLike, allowed: ArrayLike) -> tuple[Floats, Chosen]:
    values, may = np.asarray(maps, np.float64), np.asarray(allowed, bool)
    check_shape("maps", values, "images tokens")
    check_shape("allowed", may, "tokens", tokens=values.shape[1])
    return values, may


def _chosen(order: NDArray[np.intp], may: Chosen) -> Chosen:
    """Return which tokens are meant by places among the allowed ones, booleans of shape (images, tokens)."""
    chosen = np.zeros((len(order), len(may)), bool)
    np.put_along_axis(chosen, np.flatnonzero(may)[order], True, axis=1)
    return chosen
