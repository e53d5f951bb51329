"""Where attention goes: mass per area on some parts of an image against others, beyond what every image gets."""

from __future__ import annotations

from dataclasses import dataclass
from math import factorial

import numpy as np
from numpy.typing import ArrayLike

from braindecode_suite.core.checks import check_shape
from braindecode_suite.core.errors import InputError
from braindecode_suite.metrics.bootstrap import Interval
from braindecode_suite.metrics.correlation import Floats
from braindecode_suite.metrics.encoding_resampling import draw_weights
from braindecode_suite.metrics.permutation import MIN_PERMUTATIONS, PermutationTest, permutation_p


@dataclass(frozen=True, eq=False, kw_only=True)
class Parts:
    """How much of each token two parts of each image cover: the object in question, and what it is compared with.

    Attributes
    ----------
    own, other : array of shape (images, tokens)
        Shares of a token's area, 0 to 1. Both parts are there in every image.
    """

    own: Floats
    other: Floats

    def __post_init__(self) -> None:
        check_shape("own", self.own, "images tokens")
        check_shape("other", self.other, "images tokens", images=len(self.own), tokens=self.own.shape[1])
        for name, part in (("own", self.own), ("other", self.other)):
            if (part.sum(axis=1) <= 0).any():
                raise InputError(f"`{name}`", expected="a part of every image", found="an image without it")


def excess(maps: ArrayLike) -> Floats:
    """Return what each map puts on a token above the mean map over images; 0 where it puts less there.

    Parameters
    ----------
    maps : array of shape (images, ..., tokens)

    Examples
    --------
    >>> excess([[0.5, 0.5], [0.9, 0.1]]).round(2).tolist()
    [[0.0, 0.2], [0.2, 0.0]]
    """
    values = np.asarray(maps, np.float64)
    above = values - values.mean(axis=0)
    rounding = 1e-9 * np.abs(values).max(initial=0)
    return np.where(above > rounding, above, 0.0)


def mass_per_area(maps: Floats, part: Floats) -> Floats:
    """Return the mass on a part of each image over the part's area: ``sum_t m_t c_t / sum_t c_t``, of shape (images,)."""
    return np.asarray(np.einsum("it,it->i", maps, part) / part.sum(axis=1))


def routing_ratio(
    maps: Floats,
    parts: Parts,
    reference: Floats | None = None,
    *,
    seed: int,
    n_resamples: int = 2000,
    n_permutations: int = MIN_PERMUTATIONS,
) -> tuple[Interval, PermutationTest]:
    """Compare the mass per area on one part with that on the other: the ratio of their means over images.

    Some objects draw the attention of any query, trained or not: they differ more from their surroundings. The ratio of a
    model that knows nothing is then not 1. With `reference` it is divided by the same ratio of maps that have no business
    with the own part, and what draws every query alike cancels.

    Parameters
    ----------
    maps : array of shape (images, tokens)
        From `excess`, of the images of `parts`.
    parts : Parts
    reference : array of shape (images, tokens), optional
        From `excess`, such as the mean map of regions with another preference.
    seed, n_resamples, n_permutations : int

    Returns
    -------
    interval : Interval
        Over images. An image without any excess on the other part does no harm: means are taken first.
    test : PermutationTest
        Maps are exchanged between whole images, whose objects stay; chance is what places that objects share would give.

    Raises
    ------
    InputError
        If no map puts anything on the other part (or none of `reference` on the own), so that there is no ratio.
    """
    above, below = _sides(maps, parts, reference)
    for name, sides in (("maps", below[:1]), ("reference", below[1:])):
        if any(not mass_per_area(*side).sum() > 0 for side in sides):
            raise InputError(name, expected="some mass on the other part of some image", found="none")
    n = len(maps)
    weights = np.concatenate([np.ones((1, n)), draw_weights(n, n_resamples, seed=seed)])
    sums = [[weights @ mass_per_area(*side) for side in sides] for sides in (above, below)]
    resampled = _ratios(*(np.prod(side, axis=0) for side in sums))
    low, high = np.nanquantile(resampled[1:], [0.025, 0.975])
    value = float(resampled[0])
    rng = np.random.default_rng([seed, 1])
    orders, places = np.stack([rng.permutation(n) for _ in range(n_permutations)]), np.arange(n)
    exchanged = [
        np.prod(
            [
                (own @ (part / part.sum(axis=1, keepdims=True)).T)[orders, places].sum(axis=1)
                for own, part in sides
            ],
            axis=0,
        )
        for sides in (above, below)
    ]
    null = np.nan_to_num(_ratios(*exchanged), nan=1.0)
    interval = Interval(
        value=value, low=float(low), high=float(high), level=0.95, over="image", n_units=n, n_rows=n
    )
    test = PermutationTest(
        observed=value, p_value=permutation_p(value, null), null=null, n_distinct=factorial(n), tail="greater"
    )
    return interval, test


def _sides(
    maps: Floats, parts: Parts, reference: Floats | None
) -> tuple[list[tuple[Floats, Floats]], list[tuple[Floats, Floats]]]:
    """Return maps with the part that each is measured on: those whose masses stand above the line, and below it."""
    above, below = [(maps, parts.own)], [(maps, parts.other)]
    if reference is not None:
        above.append((reference, parts.other))
        below.append((reference, parts.own))
    for own, part in above:
        check_shape("maps", own, "images tokens", images=len(part), tokens=part.shape[1])
    return above, below


def _ratios(above: Floats, below: Floats) -> Floats:
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)


def map_measures(maps: ArrayLike, weights: Floats) -> dict[str, Floats]:
    """Describe maps: do they follow the image or a place, how wide are they, to which side do they lean?

    Parameters
    ----------
    maps : array of shape (images, height, width)
        Attention; each map is scaled to a sum of 1.
    weights : array of shape (resamples, images)
        How often each image counts, see `draw_weights`; a row of ones gives the measures themselves.

    Returns
    -------
    dict of str to array of shape (resamples,)
        ``location_share``: the share of the maps' deviation from the uniform map that their mean has, 1 for a map that is the
        same for every image, near 0 for one that only follows content (NaN for uniform maps). ``entropy``: over that of the
        uniform map, the mean over images. ``left_minus_right``, ``upper_minus_lower``: mass in one half of the image less that
        in the other; a middle row or column counts for neither.

    Examples
    --------
    >>> same = np.tile([[1.0, 0.0], [0.0, 0.0]], (3, 1, 1))
    >>> {name: float(value[0]) for name, value in map_measures(same, np.ones((1, 3))).items()}
    {'location_share': 1.0, 'entropy': 0.0, 'left_minus_right': 1.0, 'upper_minus_lower': 1.0}
    """
    values = np.asarray(maps, np.float64)
    check_shape("maps", values, "images height width")
    check_shape("weights", weights, "resamples images", images=len(values))
    height, width = values.shape[1:]
    values = values / values.sum(axis=(1, 2), keepdims=True)
    flat = values.reshape(len(values), -1)
    uniform, n = 1 / flat.shape[1], weights.sum(axis=1)
    spread = weights @ np.square(flat - uniform).sum(axis=1) / n
    mean = np.square(weights @ flat / n[:, None] - uniform).sum(axis=1)
    logs = np.log(np.where(flat > 0, flat, 1.0))
    left, right = values[:, :, : width // 2].sum(axis=(1, 2)), values[:, :, -(width // 2) :].sum(axis=(1, 2))
    upper, lower = values[:, : height // 2].sum(axis=(1, 2)), values[:, -(height // 2) :].sum(axis=(1, 2))
    return {
        "location_share": np.divide(mean, spread, out=np.full_like(mean, np.nan), where=spread > 1e-12),
        "entropy": np.abs(weights @ (flat * logs).sum(axis=1)) / n / -np.log(uniform),
        "left_minus_right": weights @ (left - right) / n,
        "upper_minus_lower": weights @ (upper - lower) / n,
    }
