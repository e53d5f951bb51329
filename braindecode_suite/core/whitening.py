"""`Whiten`: multivariate noise normalisation, a step of a `Recipe` for responses of shape (rows, sensors, times)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from braindecode_suite.core.checks import check_option, check_shape
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.step_levels import (
    MOST_ROWS,
    By,
    level_keys,
    level_places,
    level_rows,
    level_word,
    restored_columns,
    unfitted,
)

SPARE_ROOTS = 16
"""Roots that are kept beyond one a level: of rows that lack sensors which others of their level have."""


@dataclass(frozen=True, eq=False)
class Whiten:
    """Turn sensors so that their noise is uncorrelated and of variance one: ``x -> C^(-1/2) x``.

    C is the covariance of sensors over training rows and the samples up to `tmax`, the mean over rows of every sensor and
    sample taken out, shrunk towards a multiple of the identity by the rule of Ledoit and Wolf. The symmetric root keeps
    every output as near to its own sensor as a whitening can; it is a sum over sensors all the same, so that places on the helmet
    stand for filters and no longer for points.

    A sensor without values (NaN) in a row has no part in it: the covariance of two sensors is that over the rows that have both, the row
    is whitened by the covariance of the sensors that it has, and the others stay NaN. So does, in all rows of a level, a sensor that
    lacks values in most of those that C is fitted on, or never varies there.

    Parameters
    ----------
    times : sequence of float
        Seconds of the samples, as in `SensorSpace.times`. Rows may be shorter: they hold the first of these times.
    tmax : float or None
        Last sample that counts as noise, seconds from the picture; None takes all of them.
    by : str, tuple of str or None
        As in `RobustScale`.
    scope : {'train', 'heldout-block'}
        As in `RobustScale`.
    most_rows : int
        A level is fitted on at most so many of its rows, evenly spaced.

    References
    ----------
    Guggenmos, Sterzer & Cichy, NeuroImage 173, 434-447 (2018), multivariate noise normalisation; Ledoit & Wolf, J. Multivariate
    Analysis 88, 365-411 (2004).
    """

    times: Sequence[float] | np.ndarray
    tmax: float | None = 0.0
    by: By = "session"
    scope: str = "train"
    most_rows: int = MOST_ROWS
    levels: tuple[str, ...] = ()
    covariance: np.ndarray | None = None  # (levels, sensors, sensors)
    name: str = "whiten"
    causal: bool = True
    _root: Callable[[int, bytes], NDArray[np.float64]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_option("scope", self.scope, ("train", "heldout-block"))
        object.__setattr__(self, "times", np.asarray(self.times, np.float64))
        if not self._noise().any():
            raise InputError(
                "recipe step 'whiten'",
                expected=f"a sample up to {self.tmax:g} s" if self.tmax is not None else "samples",
                found=f"epochs from {self.times[0]:g} to {self.times[-1]:g} s"
                if len(self.times)
                else "no times",
                hint="`noise_until: null` takes whole epochs",
            )
        object.__setattr__(self, "_root", lru_cache(len(self.levels) + SPARE_ROOTS)(self._compute_root))

    def __reduce__(self) -> tuple[Any, ...]:
        """Leave the roots out: a copy in another process computes its own."""
        given = (self.times, self.tmax, self.by, self.scope, self.most_rows, self.levels, self.covariance)
        return type(self), given

    def _noise(self) -> NDArray[np.bool_]:
        times = np.asarray(self.times)
        return np.asarray(times <= np.inf if self.tmax is None else times <= self.tmax + 1e-9)

    def fit(self, responses: Any, trials: pd.DataFrame, rows: np.ndarray) -> Whiten:
        """Return a copy with the covariance of each level's training rows.

        Parameters
        ----------
        responses : Responses of shape (trials, sensors, times)
        trials : DataFrame
        rows : int array
            Training rows.

        Raises
        ------
        InputError
            A level has fewer than two rows with values, or no sensor that varies.
        """
        inside = np.flatnonzero(self._noise())
        keys = level_keys(trials, self.by)
        found = {}
        for level, own in level_rows(keys, rows, self.scope, self.most_rows, self.name, fewest=2).items():
            block = np.asarray(responses[own], np.float64)
            check_shape("responses", block, "rows sensors times", times=len(np.asarray(self.times)))
            found[level] = _covariance(block[:, :, inside], f"{level_word(self.by)} {level}")
        return Whiten(
            self.times,
            self.tmax,
            self.by,
            self.scope,
            self.most_rows,
            tuple(found),
            np.stack(list(found.values())),
        )

    def apply(self, values: np.ndarray, trials: pd.DataFrame) -> np.ndarray:
        """Return whitened `values` of shape (rows, sensors, times); `trials` are the same rows."""
        if self.covariance is None:
            raise unfitted(self.name)
        check_shape("values", values, "rows sensors times", sensors=self.covariance.shape[1])
        at = level_places(level_keys(trials, self.by), self.levels, self.by, self.name)
        known = np.isfinite(np.diagonal(self.covariance, axis1=1, axis2=2))  # (levels, sensors)
        there = np.isfinite(values).all(axis=2) & known[at]  # (rows, sensors)
        alike: dict[tuple[int, bytes], list[int]] = {}
        for row, (level, own) in enumerate(zip(at, there, strict=True)):
            alike.setdefault((int(level), own.tobytes()), []).append(row)
        whitened = np.full(values.shape, np.nan, np.float32)
        for (level, own), rows in alike.items():
            sensors = np.flatnonzero(np.frombuffer(own, bool))
            if not len(sensors):
                continue
            inside = np.ix_(np.array(rows), sensors)
            # in double precision: sensors that are nearly alike cancel in the sum
            whitened[inside] = self._root(level, own) @ np.asarray(values[inside], np.float64)
        return whitened

    def _compute_root(self, level: int, there: bytes) -> NDArray[np.float64]:
        """Return the symmetric inverse root of the covariance of the sensors that are there."""
        assert self.covariance is not None
        sensors = np.flatnonzero(np.frombuffer(there, bool))
        variances, directions = np.linalg.eigh(self.covariance[level][np.ix_(sensors, sensors)])
        return np.asarray(directions / np.sqrt(variances) @ directions.T)

    def state(self) -> dict[str, np.ndarray]:
        """Return the times and the fitted covariances."""
        fitted = {} if self.covariance is None else {"covariance": self.covariance}
        return {"times": np.asarray(self.times), **fitted}

    def describe(self) -> dict[str, Any]:
        """Return the step's parameters, with the levels it was fitted on."""
        return {
            "name": self.name,
            "tmax": self.tmax,
            "by": self.by,
            "scope": self.scope,
            "most_rows": self.most_rows,
            "levels": list(self.levels),
        }

    @classmethod
    def restore(cls, facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Whiten:
        """Return the step that `describe` and `state` came from."""
        return cls(
            arrays["times"],
            facts["tmax"],
            restored_columns(facts["by"]),
            facts["scope"],
            facts["most_rows"],
            tuple(facts["levels"]),
            arrays.get("covariance"),
        )


def _covariance(block: NDArray[np.float64], what: str) -> NDArray[np.float64]:
    """Return the shrunk covariance of a block (rows, sensors, times); NaN for sensors that mostly lack values, or never vary.

    Any two sensors that have values in more than half of the rows have them in a row together.
    """
    there: NDArray[np.bool_] = np.all(np.isfinite(block), axis=2)  # (rows, sensors)
    usual = there.mean(axis=0) > 0.5
    if len(block) < 2 or not usual.any():
        raise InputError(
            what,
            expected="at least 2 rows to whiten by, with a sensor that has values in most of them",
            found=f"{int(there.any(axis=1).sum())} of {len(there)} rows with values",
            hint="whiten over all rows together (scale_by: null), or leave 'whiten' out of the order",
        )
    block, there = block[:, usual], there[:, usual]
    known = np.where(there[:, :, None], block, 0.0)
    mean = known.sum(axis=0) / there.sum(axis=0)[:, None]
    deviations = np.where(there[:, :, None], known - mean, 0.0)
    varies = np.ptp(deviations, axis=(0, 2)) > 0
    if not varies.any():
        raise InputError(
            what,
            expected="sensors that vary in the samples that are taken for noise",
            found="none that does",
            hint="`noise_until: null` takes whole epochs; a baseline of one sample leaves nothing of it",
        )
    sensors = np.flatnonzero(usual)[varies]
    full = np.full((len(usual), len(usual)), np.nan)
    full[np.ix_(sensors, sensors)] = _shrunk(deviations[:, varies], there[:, varies])
    return full


def _shrunk(deviations: NDArray[np.float64], there: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the covariance of deviations (rows, sensors, times), shrunk by the rule of Ledoit and Wolf.

    Each covariance is that of the rows that have both sensors, and so is its own variance, which the rule sums; where rows lack none that
    is scikit-learn's ``ledoit_wolf``. Covariances of different rows may contradict each other, which shows as a direction of less
    variance than the shrinkage alone gives it: it is given that much.
    """
    unit = np.sqrt(np.square(deviations).mean())  # tesla squared would underflow in fourth powers
    samples = np.moveaxis(deviations / unit, 1, 2).reshape(-1, deviations.shape[1])
    n = there.T.astype(np.float64) @ there * deviations.shape[2]
    empirical = samples.T @ samples / n
    squares = np.square(samples)
    usual = np.trace(empirical) / len(empirical)
    away = np.square(empirical - usual * np.eye(len(empirical))).sum()
    error = min(((squares.T @ squares / n - np.square(empirical)) / n).sum(), away)
    shrinkage = error / away if error > 0 else 0.0
    shrunk = (1 - shrinkage) * empirical + shrinkage * usual * np.eye(len(empirical))
    if not there.all():
        variances, directions = np.linalg.eigh(shrunk)
        shrunk = directions * np.maximum(variances, shrinkage * usual) @ directions.T
    return np.asarray(shrunk * unit**2)
