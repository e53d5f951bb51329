"""Which stretches of a time course are above chance: the max-cluster test, images permuted alike at all windows.

The model is fixed. A permutation gives every query the place of another image (images of a concept stay together where concepts are the
unit of resampling) and moves it at all windows together, so that the null
courses are as smooth in time as the observed one (Maris and Oostenveld 2007, J. Neurosci. Methods 164). Rank every query against every
item once and a permutation only reads other entries of the matrix.

A cluster says that the course is above chance somewhere in it. It neither shows that windows outside it are at chance nor dates an
onset: that is what the band before the picture and `onset_latency` are for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import factorial, prod
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from braindecode_suite.core.checks import check_finite, check_option, check_shape
from braindecode_suite.core.errors import InputError
from braindecode_suite.metrics.correlation import Floats
from braindecode_suite.metrics.permutation import MIN_PERMUTATIONS
from braindecode_suite.metrics.retrieval import rank_matrix, ranks, relative_rank, top_k_random_gallery

Score = Literal["top-k", "relative-rank"]
SCORES = ("relative-rank", "top-k")
READ_AT_ONCE = 1 << 22
"""Entries of a matrix that permutations read at a time."""

SLACK = 1e-9
"""Deviations within which two values are the same: sums of the same scores in another order differ by rounding."""


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Neighbouring windows above the threshold.

    Attributes
    ----------
    first, last : int
        Windows, both inside.
    mass : float
        Sum of the course over them.
    p_value : float
        (1 + #{largest mass of a permuted course >= mass}) / (1 + m): corrected for all windows.
    """

    first: int
    last: int
    mass: float
    p_value: float


@dataclass(frozen=True, kw_only=True, eq=False)
class ClusterTest:
    """What a max-cluster test found.

    Attributes
    ----------
    clusters : tuple of Cluster
        In the order of time, significant or not.
    null : array of shape (permutations,)
        Largest mass of each permuted course, 0 where it has no cluster.
    score, chance, threshold : array of shape (windows,)
        Mean score, its mean over permutations, and what a window had to exceed to belong to a cluster.
    n_distinct : int
        How many different relabellings there are; p cannot be trusted below 1 / n_distinct.
    """

    clusters: tuple[Cluster, ...]
    null: Floats
    score: Floats
    chance: Floats
    threshold: Floats
    n_distinct: int

    @property
    def p_value(self) -> float:
        """Smallest p of any cluster, 1 where there is none: whether there is an effect at any time."""
        return min((cluster.p_value for cluster in self.clusters), default=1.0)

    def significant(self, level: float = 0.05) -> tuple[Cluster, ...]:
        """Return the clusters whose p is at most `level`."""
        return tuple(cluster for cluster in self.clusters if cluster.p_value <= level)


def cluster_test(
    similarity: Iterable[ArrayLike],
    truth: ArrayLike | None = None,
    *,
    units: ArrayLike | None = None,
    score: Score = "top-k",
    k: int = 1,
    gallery_size: int | None = None,
    seed: int,
    n_permutations: int = MIN_PERMUTATIONS,
    forming: float = 0.95,
) -> ClusterTest:
    """Test a course of retrieval scores against permutations of whole image ids, or of whole units of several images.

    Courses are standardised window by window, ``z_w = (score_w - mean_w) / deviation_w`` over permutations, so that mass counts all
    windows alike; a window belongs to a cluster where its score exceeds the `forming` quantile of the permuted scores. Mean, deviation
    and quantile are taken over the permuted and the observed course together: it is one of them where nothing is decoded, and the
    level is exact.

    Parameters
    ----------
    similarity : iterable of array of shape (queries, items), or array of shape (windows, queries, items)
        One matrix a window. One at a time is held, with its ranks.
    truth : array of int of shape (queries,), optional
        Column of the image that each query saw; queries of the same image (repeats, subjects) move together. By default query i saw
        item i.
    units : array of shape (queries,), optional
        What the image of each query belongs to (its concept), where that is the unit of resampling. Whole units change places with units of as
        many images, image by image: what images of a unit share by anything but the effect would make a permutation of images too sure of
        itself. A unit with no other of its size stays where it is.
    score : {"top-k", "relative-rank"}
        Whether the truth is among the first `k`, exactly in random galleries of `gallery_size`, or 1 minus its relative rank.
    k : int
    gallery_size : int, optional
        The whole gallery by default.
    seed : int
    n_permutations : int
        At least 1000.
    forming : float
        Quantile above which windows form clusters.

    Returns
    -------
    ClusterTest

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> similarity = rng.standard_normal((6, 30, 30))
    >>> similarity[3:5] += 4 * np.eye(30)
    >>> found = cluster_test(similarity, seed=0)
    >>> [(c.first, c.last, c.p_value < 0.01) for c in found.significant()]
    [(3, 4, True)]
    """
    check_option("score", score, SCORES)
    if n_permutations < MIN_PERMUTATIONS:
        raise InputError(
            "`n_permutations`", expected=f"at least {MIN_PERMUTATIONS}", found=str(n_permutations)
        )
    if not 0.5 <= forming < 1:
        raise InputError("`forming`", expected="a quantile from 0.5 to below 1", found=f"{forming:g}")
    columns: NDArray[np.intp] | None = (
        None  # (1 + permutations, queries): what each query is taken to have seen
    )
    shape: tuple[int, ...] = ()
    by_rank = np.empty(0)
    by_window: list[Floats] = []
    n_distinct = 1
    for matrix in similarity:
        values = np.asarray(matrix, np.float64)
        if columns is None:
            check_shape("similarity", values, "queries items")
            shape = values.shape
            seen = _truth(truth, shape)
            blocks = _blocks(seen, units)
            n_distinct = prod(factorial(len(some)) for some in blocks)
            columns = _permute(seen, blocks, n_permutations, seed)
            by_rank = scores_by_rank(shape[1], score, k, gallery_size)
        check_shape("similarity", values, "queries items", queries=shape[0], items=shape[1])
        check_finite("`similarity`", values)
        by_window.append(_mean_scores(by_rank[rank_matrix(values)], columns))
    if not by_window:
        raise InputError("`similarity`", expected="at least one window", found="none")
    courses = np.stack(by_window, axis=1)  # (1 + permutations, windows), the observed one first
    chance, deviation = courses.mean(axis=0), courses.std(axis=0)
    limit = np.maximum(np.quantile(courses, forming, axis=0, method="inverted_cdf"), chance)
    scale = np.where(deviation > 0, deviation, 1.0)
    z, bar = (courses - chance) / scale, (limit - chance) / scale
    clusters, null = max_clusters(z[0], z[1:], bar)
    return ClusterTest(
        clusters=clusters,
        null=null,
        score=courses[0],
        chance=chance,
        threshold=limit,
        n_distinct=n_distinct,
    )


def score_windows(
    similarity: Iterable[ArrayLike],
    truth: ArrayLike | None = None,
    *,
    score: Score = "top-k",
    k: int = 1,
    gallery_size: int | None = None,
) -> Floats:
    """Return the score of each query in each window, for `time_course`.

    Parameters
    ----------
    similarity, truth, score, k, gallery_size
        As in `cluster_test`.

    Returns
    -------
    array of shape (windows, queries)

    Examples
    --------
    >>> score_windows([np.eye(3), -np.eye(3)], score="relative-rank").tolist()
    [[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]
    """
    found = []
    for matrix in similarity:
        values = np.asarray(matrix)
        check_shape("similarity", values, "queries items")
        by_rank = scores_by_rank(values.shape[1], score, k, gallery_size)
        found.append(by_rank[ranks(values, _truth(truth, values.shape))])
    if not found:
        raise InputError("`similarity`", expected="at least one window", found="none")
    return np.stack(found)


def max_clusters(
    course: ArrayLike, null: ArrayLike, threshold: ArrayLike
) -> tuple[tuple[Cluster, ...], Floats]:
    """Compare the mass of each cluster of a course with the largest mass of each null course.

    Parameters
    ----------
    course : array of shape (windows,)
    null : array of shape (permutations, windows)
    threshold : float or array of shape (windows,)
        At least 0: a cluster is a run of windows above it.

    Returns
    -------
    clusters : tuple of Cluster
    null : array of shape (permutations,)
        Largest mass, 0 without a cluster.

    Examples
    --------
    >>> clusters, largest = max_clusters([0, 3, 2, 0, 2], [[0, 4, 0, 0, 0], [1, 0, 0, 0, 6]], 1.0)
    >>> [(c.first, c.last, c.mass, round(c.p_value, 2)) for c in clusters], largest.tolist()
    ([(1, 2, 5.0, 0.67), (4, 4, 2.0, 1.0)], [4.0, 6.0])
    """
    observed, permuted = np.asarray(course, np.float64), np.asarray(null, np.float64)
    check_shape("course", observed, "windows")
    check_shape("null", permuted, "permutations windows", windows=len(observed))
    check_finite("`course`", observed)
    check_finite("`null`", permuted)
    bar = np.broadcast_to(np.asarray(threshold, np.float64), observed.shape)
    if not (bar >= 0).all():
        raise InputError("`threshold`", expected="0 or more in every window", found=f"{bar.min():g}")
    largest = np.zeros(len(permuted))
    mass = np.zeros(len(permuted))
    for w in range(len(observed)):
        mass = np.where(permuted[:, w] > bar[w] + SLACK, mass + permuted[:, w], 0.0)
        largest = np.maximum(largest, mass)
    found = []
    for first, last in _runs(observed > bar + SLACK):
        own = float(observed[first : last + 1].sum())
        reached = int((largest >= own - SLACK * max(1.0, own)).sum())
        p_value = (1 + reached) / (1 + len(largest))
        found.append(Cluster(first=first, last=last, mass=own, p_value=p_value))
    return tuple(found), largest


def scores_by_rank(items: int, score: Score, k: int = 1, gallery_size: int | None = None) -> Floats:
    """Return the score of a truth that has 0, 1, ... items above it; their mean is chance.

    Parameters
    ----------
    items : int
        Of the whole gallery.
    score, k, gallery_size
        As in `cluster_test`.

    Returns
    -------
    array of shape (items,)

    Examples
    --------
    >>> scores_by_rank(4, "top-k", 2).tolist(), scores_by_rank(3, "relative-rank").tolist()
    ([1.0, 1.0, 0.0, 0.0], [1.0, 0.5, 0.0])
    """
    check_option("score", score, SCORES)
    places = np.arange(items)
    if score == "relative-rank":
        return 1 - relative_rank(places, items)
    return top_k_random_gallery(places, items, items if gallery_size is None else gallery_size, k)


def _runs(above: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return the first and the last place of every unbroken run."""
    edges = np.diff(np.concatenate([[0], above.astype(np.int8), [0]]))
    starts, stops = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    return [(int(a), int(b) - 1) for a, b in zip(starts, stops, strict=True)]


def _truth(truth: ArrayLike | None, shape: tuple[int, ...]) -> NDArray[np.intp]:
    if truth is None:
        if shape[0] > shape[1]:
            raise InputError("`truth`", expected="the column of each query", found="more queries than items")
        return np.arange(shape[0])
    seen = np.asarray(truth)
    check_shape("truth", seen, "queries", queries=shape[0])
    if not np.issubdtype(seen.dtype, np.integer) or not 0 <= seen.min() <= seen.max() < shape[1]:
        raise InputError(
            "`truth`", expected=f"column numbers from 0 to {shape[1] - 1}", found=str(seen[:5].tolist())
        )
    return seen.astype(np.intp)


def _blocks(seen: NDArray[np.intp], units: ArrayLike | None) -> list[NDArray[np.intp]]:
    """Return what changes places, an array (units, images) of places among the images shown for each size of unit."""
    images, first, index = np.unique(seen, return_index=True, return_inverse=True)
    if units is None:
        return [np.arange(len(images))[:, None]]
    named = np.asarray(units)
    check_shape("units", named, "queries", queries=len(seen))
    own = named[first]
    if not (named == own[index]).all():
        torn = images[index[np.flatnonzero(named != own[index])[0]]]
        raise InputError(
            "`units`", expected="one unit for an image", found=f"several for that of column {torn}"
        )
    members = [np.flatnonzero(own == name) for name in np.unique(own)]
    sizes = sorted({len(some) for some in members})
    return [np.stack([some for some in members if len(some) == size]) for size in sizes]


def _permute(
    seen: NDArray[np.intp], blocks: Sequence[NDArray[np.intp]], n_permutations: int, seed: int
) -> NDArray[np.intp]:
    """Return the columns of the queries as observed (row 0) and under each permutation of the blocks of images shown."""
    images, index = np.unique(seen, return_inverse=True)
    places, rng = np.empty((n_permutations, len(images)), np.intp), np.random.default_rng(seed)
    for some in blocks:
        orders = rng.permuted(np.tile(np.arange(len(some)), (n_permutations, 1)), axis=1)
        places[:, some.ravel()] = some[orders].reshape(n_permutations, -1)
    return np.concatenate([seen[None], images[places][:, index]])


def _mean_scores(pairs: Floats, columns: NDArray[np.intp]) -> Floats:
    """Return the mean score of each row of `columns`."""
    queries, found = np.arange(len(pairs)), np.empty(len(columns))
    step = max(1, READ_AT_ONCE // len(pairs))
    for start in range(0, len(columns), step):
        found[start : start + step] = pairs[queries, columns[start : start + step]].mean(axis=1)
    return found
