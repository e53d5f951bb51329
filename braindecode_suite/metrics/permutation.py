"""Permutation tests that move whole images, and the correction for many tests.

p = (1 + number of permuted values at least as good as the observed one) / (1 + number of permutations). All rows of an
image (repeats, subjects) move together. With the model fixed the test is conditional on the model; linear models also
relabel their training rows and are fitted again (`relabel_training`).

A metric that can be computed between every decoded row and every image needs no recomputing: with ``pairs[i, j]`` the
value of row i if it had seen image j (`retrieval_pairs`, `identification_pairs`, `pixcorr_pairs`, `ssim_pairs`), a
permutation only picks other entries of the matrix.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import factorial, prod
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import false_discovery_control

from braindecode_suite.core.checks import check_finite, check_option, check_shape
from braindecode_suite.core.errors import InputError
from braindecode_suite.metrics.correlation import Floats

Tail = Literal["greater", "less"]
MIN_PERMUTATIONS, MIN_REFITS = 1000, 200


@dataclass(frozen=True, kw_only=True)
class PermutationTest:
    """What a permutation test found.

    Attributes
    ----------
    observed : float
    p_value : float
    null : array of shape (permutations,)
    n_distinct : int
        How many different relabellings there are; p cannot be trusted below 1 / n_distinct.
    tail : str
    """

    observed: float
    p_value: float
    null: Floats
    n_distinct: int
    tail: Tail

    @classmethod
    def of(
        cls, observed: float, null: ArrayLike, *, n_distinct: int, tail: Tail = "greater"
    ) -> PermutationTest:
        """Put an observed score beside those of relabelled data."""
        values = np.asarray(null, dtype=np.float64)
        p_value = permutation_p(observed, values, tail=tail)
        return cls(observed=observed, p_value=p_value, null=values, n_distinct=n_distinct, tail=tail)

    @property
    def chance(self) -> float:
        """Mean of the null, the chance level wherever none is known analytically."""
        return float(self.null.mean())

    @property
    def correction(self) -> str:
        """What is said beside the p-value: nothing was corrected, and how few permutations there are, if so."""
        if self.n_distinct > len(self.null):
            return "uncorrected"
        return f"uncorrected, {self.n_distinct} distinct permutations"


def permutation_p(observed: float, null: ArrayLike, *, tail: Tail = "greater") -> float:
    """Return (1 + #{null >= observed}) / (1 + m), or with <= for scores where less is better.

    Values within rounding of the observed one count as reaching it.

    Examples
    --------
    >>> permutation_p(3.0, [0.0, 1.0, 3.0])
    0.5
    """
    check_option("tail", tail, ("greater", "less"))
    values = np.asarray(null, dtype=np.float64)
    check_shape("null", values, "permutations")
    check_finite("`null`", values)
    sign = 1.0 if tail == "greater" else -1.0
    slack = 1e-12 * max(1.0, abs(observed))
    return float((1 + np.sum(sign * values >= sign * observed - slack)) / (1 + len(values)))


def max_statistic_p(observed: ArrayLike, null_largest: ArrayLike) -> Floats:
    """Return p-values corrected for the number of tests: (1 + #{largest null anywhere >= observed}) / (1 + m).

    The chance that any test at all passes where nothing is there is then at most the level chosen (family-wise error), however
    the tests depend on each other, as long as all were permuted together (Nichols and Holmes 2002, Human Brain Mapping 15).

    Parameters
    ----------
    observed : array of shape (tests,)
    null_largest : array of shape (permutations,)
        The largest value over all tests under each permutation.

    Returns
    -------
    array of shape (tests,)

    Examples
    --------
    >>> max_statistic_p([0.9, 0.2], [0.3, 0.5, 0.2]).tolist()
    [0.25, 1.0]
    """
    values, null = np.asarray(observed, np.float64), np.sort(np.asarray(null_largest, np.float64))
    check_shape("observed", values, "tests")
    check_shape("null_largest", null, "permutations")
    check_finite("`observed`", values)
    check_finite("`null_largest`", null)
    reached = len(null) - np.searchsorted(null, values - 1e-12 * np.maximum(1.0, np.abs(values)), side="left")
    return np.asarray((1 + reached) / (1 + len(null)))


def permute_images(
    pairs: ArrayLike,
    truth: ArrayLike | None = None,
    *,
    seed: int,
    n_permutations: int = MIN_PERMUTATIONS,
    within: ArrayLike | None = None,
    tail: Tail = "greater",
    statistic: Callable[[Floats], float] | None = None,
) -> PermutationTest:
    """Test the mean score against relabellings of whole image ids, the model fixed.

    Parameters
    ----------
    pairs : array of shape (rows, images)
        Value of each row if it had seen each image.
    truth : array of int of shape (rows,), optional
        Column of the image that each row saw; rows of the same image keep sharing one. By default row i saw image i.
    seed : int
    n_permutations : int
        At least 1000.
    within : array of shape (images,), optional
        Images are exchanged only inside these groups (e.g. classes).
    tail : {"greater", "less"}
    statistic : callable, optional
        (rows,) -> float, by default the mean.

    Returns
    -------
    PermutationTest
    """
    values = np.asarray(pairs, dtype=np.float64)
    check_shape("pairs", values, "rows images")
    check_finite("`pairs`", values)
    seen = np.arange(len(values)) if truth is None else np.asarray(truth)
    check_shape("truth", seen, "rows", rows=len(values))
    if (
        not len(seen)
        or not np.issubdtype(seen.dtype, np.integer)
        or not 0 <= seen.min() <= seen.max() < values.shape[1]
    ):
        raise InputError(
            "`truth`", expected=f"column numbers from 0 to {values.shape[1] - 1}", found=str(seen[:5])
        )
    if n_permutations < MIN_PERMUTATIONS:
        raise InputError(
            "`n_permutations`", expected=f"at least {MIN_PERMUTATIONS}", found=str(n_permutations)
        )
    groups = np.zeros(values.shape[1], int) if within is None else np.asarray(within)
    check_shape("within", groups, "images", images=values.shape[1])

    images, index = np.unique(seen, return_inverse=True)  # only the images that were shown change places
    rng, rows = np.random.default_rng(seed), np.arange(len(values))
    score = np.mean if statistic is None else statistic
    members = _members(groups[images])
    null = np.empty(n_permutations)
    for k in range(n_permutations):
        null[k] = score(values[rows, images[_shuffle(rng, len(images), members)][index]])
    observed = float(score(values[rows, seen]))
    return PermutationTest.of(observed, null, n_distinct=n_distinct_permutations(groups[images]), tail=tail)


def n_distinct_permutations(groups: ArrayLike) -> int:
    """Count the relabellings of images that are exchanged inside groups: the product of the groups' factorials.

    Examples
    --------
    >>> n_distinct_permutations(["a", "a", "a", "b", "b"])
    12
    """
    _, sizes = np.unique(np.asarray(groups), return_counts=True)
    return prod(factorial(int(size)) for size in sizes)


def relabel_training(ids: ArrayLike, *, seed: int) -> NDArray[np.generic]:
    """Give the training rows other image ids: all rows of an image get the same other one.

    Parameters
    ----------
    ids : array of shape (rows,)
        Image id of each training row.
    seed : int

    Returns
    -------
    array of shape (rows,)
        The new ids, from which the targets of a refit are taken.
    """
    labels = np.asarray(ids)
    check_shape("ids", labels, "rows")
    rng = np.random.default_rng(seed)
    names, index = np.unique(labels, return_inverse=True)
    return np.asarray(names[rng.permutation(len(names))][index])


def false_discovery_rate(p_values: ArrayLike, *, method: Literal["bh", "by"] = "bh") -> Floats:
    """Adjust p-values for the false discovery rate (Benjamini-Hochberg, or -Yekutieli under any dependence).

    Parameters
    ----------
    p_values : array of shape (tests,)
        NaN marks a test that was not done: it stays NaN and does not count.
    method : {"bh", "by"}

    Returns
    -------
    array of shape (tests,)
    """
    check_option("method", method, ("bh", "by"))
    p = np.asarray(p_values, dtype=np.float64)
    check_shape("p_values", p, "tests")
    done = ~np.isnan(p)
    adjusted = np.full(len(p), np.nan)
    if done.any():
        adjusted[done] = false_discovery_control(p[done], method=method)
    return adjusted


def _members(groups: NDArray[np.generic]) -> list[NDArray[np.intp]]:
    return [np.flatnonzero(groups == name) for name in np.unique(groups)]


def _shuffle(rng: np.random.Generator, n: int, members: list[NDArray[np.intp]]) -> NDArray[np.intp]:
    order = np.empty(n, dtype=np.intp)
    for group in members:
        order[group] = rng.permutation(group)
    return order
