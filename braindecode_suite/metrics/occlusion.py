"""Which sensors a decoder reads: how much its score drops when groups of them are masked, the model fixed.

A drop says that the model uses what the sensors say, not that the brain makes it there: fields spread, and what one sensor loses its
neighbours may still tell, so that groups of neighbours are masked, not sensors one by one. A masked sensor is absent, as one that was
bad in the recording: how a model treats that is the model's own affair.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from braindecode_suite.core.checks import check_finite, check_shape
from braindecode_suite.core.errors import InputError
from braindecode_suite.metrics.correlation import Floats
from braindecode_suite.metrics.time_courses import resample_means, simultaneous_half_width

Bools = NDArray[np.bool_]
ScoreWithout = Callable[[Bools], ArrayLike]


@dataclass(frozen=True, kw_only=True, eq=False)
class Occlusion:
    """Drops in the score.

    Attributes
    ----------
    groups : array of bool of shape (groups, sensors)
        What was masked.
    score : array of shape (images,)
        With all sensors.
    drop : array of shape (groups, images)
        Score with all sensors less that without the group; NaN for empty groups.
    mean, low, high : array of shape (groups,)
        Mean drop with its pointwise interval over images.
    band_low, band_high : array of shape (groups,)
        Simultaneous band over all groups: a group whose `band_low` is above 0 is read.
    """

    groups: Bools
    score: Floats
    drop: Floats
    mean: Floats
    low: Floats
    high: Floats
    band_low: Floats
    band_high: Floats

    @property
    def topography(self) -> Floats:
        """Mean drop over the groups that each sensor belongs to, of shape (sensors,); NaN in none."""
        used = self.groups & np.isfinite(self.mean)[:, None]
        total = np.where(np.isfinite(self.mean), self.mean, 0.0) @ used
        count = used.sum(axis=0)
        return np.asarray(np.where(count > 0, total / np.maximum(count, 1), np.nan))


def occlude(
    score_without: ScoreWithout,
    groups: ArrayLike,
    *,
    units: ArrayLike | None = None,
    seed: int,
    n_resamples: int = 2_000,
    level: float = 0.95,
) -> Occlusion:
    """Score a decoder without each group of sensors.

    Parameters
    ----------
    score_without : callable
        From the sensors that are masked, an array of bool of shape (sensors,), to the score of each image, (images,): predicts from the
        masked recordings and scores the predictions, by the same model and on the same gallery each time.
    groups : array of bool of shape (groups, sensors)
        `neighbourhoods`, regions of the helmet, kinds of sensor. A group without sensors is not scored.
    units : array of shape (images,), optional
        What images belong to, drawn together.
    seed, n_resamples : int
    level : float

    Returns
    -------
    Occlusion

    Examples
    --------
    >>> x = np.random.default_rng(0).random((30, 3)) * [5.0, 1.0, 0.0]
    >>> found = occlude(lambda gone: x[:, ~gone].sum(axis=1), np.eye(3, dtype=bool), seed=0)
    >>> found.mean.argmax(), bool((found.mean[1] > 0.3) & (found.mean[2] == 0))
    (np.int64(0), True)
    """
    masks = np.asarray(groups)
    check_shape("groups", masks, "groups sensors")
    if masks.dtype != bool:
        raise InputError("`groups`", expected="true or false for each sensor", found=str(masks.dtype))
    if masks.all(axis=1).any():
        raise InputError(
            "`groups`",
            expected="groups that leave sensors to decode from",
            found=f"group {int(masks.all(axis=1).argmax())} of all {masks.shape[1]}",
        )
    score = _score(score_without, np.zeros(masks.shape[1], bool))
    some = masks.any(axis=1)
    drop = np.full((len(masks), len(score)), np.nan)
    for k in np.flatnonzero(some):
        without = _score(score_without, masks[k].copy())
        check_shape("score_without(...)", without, "images", images=len(score))
        drop[k] = score - without
    mean, low, high, half = (np.full(len(masks), np.nan) for _ in range(4))
    if some.any():
        mean[some] = drop[some].mean(axis=1)
        drawn, _ = resample_means(drop[some], units, seed=seed, n_resamples=n_resamples)
        low[some], high[some] = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0)
        half[some] = simultaneous_half_width(mean[some], drawn, level=level)
    return Occlusion(
        groups=masks,
        score=score,
        drop=drop,
        mean=mean,
        low=low,
        high=high,
        band_low=mean - half,
        band_high=mean + half,
    )


def neighbourhoods(
    positions: ArrayLike, *, radius: float | None = None, n_nearest: int | None = None
) -> Bools:
    """Return one group a sensor: itself and its neighbours by distance.

    Parameters
    ----------
    positions : array of shape (sensors, 2) or (sensors, 3)
        On the layout, or in the head. NaN for a sensor that is absent: its group is empty and it is in no other.
    radius : float, optional
        In units of `positions`; sensors at most that far away are neighbours.
    n_nearest : int, optional
        Instead of `radius`: the nearest so many, the sensor itself among them; sensors at the same place (two gradiometers and a
        magnetometer) stay together, so that there may be more.

    Returns
    -------
    array of bool of shape (sensors, sensors)

    Examples
    --------
    >>> neighbourhoods([[0.0, 0], [1, 0], [3, 0]], radius=1.5).astype(int).tolist()
    [[1, 1, 0], [1, 1, 0], [0, 0, 1]]
    """
    where = np.asarray(positions, np.float64)
    check_shape("positions", where, "sensors coordinates")
    known = np.isfinite(where).all(axis=1)
    if (radius is None) == (n_nearest is None):
        raise InputError("`radius` and `n_nearest`", expected="one of the two", found="both or none")
    away = np.linalg.norm(
        where[:, None] - where[None], axis=2
    )  # NaN from and to absent sensors: never within reach
    if radius is not None:
        if not 0 <= radius < np.inf:
            raise InputError("`radius`", expected="a distance, 0 or more", found=f"{radius:g}")
        reach = np.full(len(where), radius)
    else:
        assert n_nearest is not None
        if not 1 <= n_nearest <= known.sum():
            raise InputError(
                "`n_nearest`", expected=f"from 1 to the {int(known.sum())} sensors", found=str(n_nearest)
            )
        reach = np.sort(away, axis=1)[:, n_nearest - 1]
    return np.asarray(away <= (reach * (1 + 1e-9))[:, None])


def _score(score_without: ScoreWithout, mask: Bools) -> Floats:
    score = np.asarray(score_without(mask), np.float64)
    check_shape("score_without(...)", score, "images")
    check_finite("`score_without(...)`", score)
    return score
