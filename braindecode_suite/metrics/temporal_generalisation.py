"""Temporal generalisation: maps of one window tried on the samples of another (King and Dehaene 2014, Trends Cogn. Sci. 18).

A code that holds still fills a square of the matrix, a chain of codes that replace each other only its diagonal. The diagonal is the
course of the windows decoded each by its own map.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from braindecode_suite.core.checks import check_shape
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.windows import EDGE
from braindecode_suite.metrics.bootstrap import Interval
from braindecode_suite.metrics.correlation import Floats
from braindecode_suite.metrics.time_clusters import Score, scores_by_rank
from braindecode_suite.metrics.time_courses import resample_means


@dataclass(frozen=True, kw_only=True, eq=False)
class Generalisation:
    """Mean scores of every map on every window.

    Attributes
    ----------
    centres : array of shape (windows,)
        Seconds, of maps and samples alike.
    values : array of shape (trained, tested, images)
    low, high : array of shape (trained, tested)
        Pointwise interval over images.
    chance : float
    """

    centres: Floats
    values: Floats
    low: Floats
    high: Floats
    chance: float

    @property
    def mean(self) -> Floats:
        """Mean scores, of shape (trained, tested)."""
        return np.asarray(self.values.mean(axis=2))

    @property
    def course(self) -> Floats:
        """Scores of each map on its own window, of shape (windows, images), for `time_course`."""
        return np.diagonal(self.values).T


def score_ranks(
    ranks: ArrayLike, gallery: int, *, score: Score = "top-k", k: int = 1, gallery_size: int | None = None
) -> Floats:
    """Return the score of each rank, whatever the shape.

    Parameters
    ----------
    ranks : array of int of any shape
        Distractors above the truth.
    gallery : int
        Items that were ranked.
    score, k, gallery_size
        As in `time_clusters.cluster_test`.

    Returns
    -------
    array of the same shape

    Examples
    --------
    >>> score_ranks([[0, 1], [2, 3]], 4, k=2).tolist()
    [[1.0, 1.0], [0.0, 0.0]]
    >>> score_ranks([0, 3], 4, score="relative-rank").tolist()
    [1.0, 0.0]
    """
    places = np.asarray(ranks)
    if not np.issubdtype(places.dtype, np.integer) or (
        places.size and not 0 <= places.min() <= places.max() < gallery
    ):
        raise InputError(
            "`ranks`", expected=f"whole numbers from 0 to {gallery - 1}", found=str(places.ravel()[:5])
        )
    return np.asarray(scores_by_rank(gallery, score, k, gallery_size)[places])


def generalise(
    ranks: ArrayLike,
    centres: ArrayLike,
    gallery: int,
    *,
    score: Score = "top-k",
    k: int = 1,
    gallery_size: int | None = None,
    units: ArrayLike | None = None,
    seed: int,
    n_resamples: int = 2_000,
    level: float = 0.95,
) -> Generalisation:
    """Score every map on every window.

    Parameters
    ----------
    ranks : array of int of shape (trained, tested, images)
    centres : array of shape (windows,)
    gallery : int
        Items that were ranked.
    score, k, gallery_size
        As in `time_clusters.cluster_test`.
    units : array of shape (images,), optional
    seed, n_resamples : int
    level : float

    Returns
    -------
    Generalisation

    Examples
    --------
    >>> ranks = np.zeros((2, 2, 30), int)
    >>> ranks[0, 1] = ranks[1, 0] = np.arange(30)
    >>> generalise(ranks, [0.1, 0.2], 30, k=3, seed=0).mean.tolist()
    [[1.0, 0.1], [0.1, 1.0]]
    """
    places, when = np.asarray(ranks), np.asarray(centres, np.float64)
    check_shape("ranks", places, "trained tested images", trained=len(when), tested=len(when))
    values = score_ranks(places, gallery, score=score, k=k, gallery_size=gallery_size)
    n = len(when)
    drawn, _ = resample_means(values.reshape(n * n, -1), units, seed=seed, n_resamples=n_resamples)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0).reshape(2, n, n)
    chance = float(scores_by_rank(gallery, score, k, gallery_size).mean())
    return Generalisation(centres=when, values=values, low=low, high=high, chance=chance)


def off_diagonal(
    found: Generalisation,
    *,
    start: float = 0.0,
    stop: float = np.inf,
    apart: float = 0.0,
    units: ArrayLike | None = None,
    over: str = "image",
    seed: int,
    n_resamples: int = 2_000,
    level: float = 0.95,
) -> Interval:
    """Return how much of what is decoded by a window's own map the other windows' maps still decode.

    ``(mean off the diagonal - chance) / (mean on it - chance)``, windows with centres from `start` to `stop`: 1 for a code that does not
    change, 0 for one that is gone a window later.

    Parameters
    ----------
    found : Generalisation
    start, stop : float
        Seconds.
    apart : float
        Least seconds between the centres of two windows that count as different: the width of windows that overlap.
    units, over, seed, n_resamples, level
        As in `time_courses.time_course`.

    Returns
    -------
    Interval
        NaN where nothing is decoded on the diagonal: its interval holds chance.
    """
    inside = np.flatnonzero((found.centres >= start - EDGE) & (found.centres <= stop + EDGE))
    if len(inside) < 2:
        raise InputError(
            "`start` and `stop`", expected="at least 2 windows between them", found=str(len(inside))
        )
    values = found.values[np.ix_(inside, inside)] - found.chance
    own = np.diagonal(values).T.mean(axis=0)  # (images,)
    away = np.abs(np.subtract.outer(found.centres[inside], found.centres[inside]))
    different = (away >= apart - EDGE) & ~np.eye(len(inside), dtype=bool)
    if not different.any():
        raise InputError("`apart`", expected=f"at most {away.max():g} s", found=f"{apart:g}")
    other = values[different].mean(axis=0)
    pair = np.stack([other, own])
    drawn, n_units = resample_means(pair, units, seed=seed, n_resamples=n_resamples)
    tails = [(1 - level) / 2, (1 + level) / 2]
    value = low = high = float("nan")
    if np.quantile(drawn[:, 1], tails[0]) > 0:
        value = float(other.mean() / own.mean())
        low, high = (float(end) for end in np.quantile(drawn[:, 0] / drawn[:, 1], tails))
    return Interval(
        value=value, low=low, high=high, level=level, over=over, n_units=n_units, n_rows=pair.shape[1]
    )
