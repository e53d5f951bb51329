"""Steps of a `Recipe` for responses of shape (rows, sensors, times): robust scaling, baseline, clipping; all of them causal.

NaN marks a sensor that is absent or bad in a session; every step leaves it NaN.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from braindecode_suite.core.checks import check_option, check_shape
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.step_levels import (
    MOST_ROWS,
    By,
    level_keys,
    level_places,
    level_rows,
    restored_columns,
    unfitted,
)


@dataclass(frozen=True, eq=False)
class RobustScale:
    """``(x - median) / (q75 - q25)`` of every sensor within each level of the trials, over training rows and times.

    The semantics of scikit-learn's ``RobustScaler``, except that a sensor that never varies becomes NaN, to be masked (see
    `constant`), and is not left as it is. A session without training rows cannot be fitted: its rows are refused, unless `scope` is
    ``heldout-block``, which uses label-free statistics of all rows of that session (printed as transductive).

    Parameters
    ----------
    by : str, tuple of str or None
        Column of ``trials`` to scale within, or several that name a block together; None takes all training rows together.
    scope : {'train', 'heldout-block'}
    most_rows : int
        A level is fitted on at most so many of its rows, evenly spaced, so that its epochs fit into memory.
    """

    by: By = "session"
    scope: str = "train"
    most_rows: int = MOST_ROWS
    levels: tuple[str, ...] = ()
    centre: np.ndarray | None = None  # (levels, sensors)
    spread: np.ndarray | None = None  # (levels, sensors)
    name: str = "robust-scale"
    causal: bool = True

    def __post_init__(self) -> None:
        check_option("scope", self.scope, ("train", "heldout-block"))
        if self.most_rows < 1:
            raise InputError("`most_rows`", expected="at least 1", found=str(self.most_rows))

    def fit(self, responses: Any, trials: pd.DataFrame, rows: np.ndarray) -> RobustScale:
        """Return a copy with median and interquartile range of each level's training rows.

        Parameters
        ----------
        responses : Responses of shape (trials, sensors, times)
        trials : DataFrame
        rows : int array
            Training rows.
        """
        keys = level_keys(trials, self.by)
        groups = level_rows(keys, rows, self.scope, self.most_rows, self.name)
        centres, spreads = [], []
        for few in groups.values():
            block = np.asarray(responses[few], np.float32)
            check_shape("responses", block, "rows sensors times")
            quartiles = [_quartiles(block[:, sensor]) for sensor in range(block.shape[1])]
            low, middle, high = np.array(quartiles).T  # (sensors,) each
            centres.append(middle)
            spreads.append(np.where(high > low, high - low, np.nan))
        return RobustScale(
            self.by,
            self.scope,
            self.most_rows,
            tuple(groups),
            np.stack(centres),
            np.stack(spreads),
        )

    @property
    def constant(self) -> np.ndarray:
        """Sensors that have values in a level but never vary there, array of bool of shape (levels, sensors)."""
        if self.centre is None or self.spread is None:
            return np.zeros((0, 0), bool)
        return np.isfinite(self.centre) & ~np.isfinite(self.spread)

    def apply(self, values: np.ndarray, trials: pd.DataFrame) -> np.ndarray:
        """Return scaled `values` of shape (rows, sensors, times); `trials` are the same rows."""
        if self.centre is None or self.spread is None:
            raise unfitted(self.name)
        check_shape("values", values, "rows sensors times", sensors=self.centre.shape[1])
        at = level_places(level_keys(trials, self.by), self.levels, self.by, self.name)
        # in double precision: tesla over femtotesla would lose digits, and rows are few at a time
        scaled = (values - self.centre[at][:, :, None]) / self.spread[at][:, :, None]
        return np.asarray(scaled, np.float32)

    def state(self) -> dict[str, np.ndarray]:
        """Return the fitted arrays, for a checkpoint."""
        if self.centre is None or self.spread is None:
            return {}
        return {"centre": self.centre, "spread": self.spread}

    def describe(self) -> dict[str, Any]:
        """Return the step's parameters, with the levels it was fitted on."""
        return {
            "name": self.name,
            "by": self.by,
            "scope": self.scope,
            "most_rows": self.most_rows,
            "levels": list(self.levels),
        }

    @classmethod
    def restore(cls, facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> RobustScale:
        """Return the step that `describe` and `state` came from."""
        return cls(
            restored_columns(facts["by"]),
            facts["scope"],
            facts["most_rows"],
            tuple(facts["levels"]),
            arrays.get("centre"),
            arrays.get("spread"),
        )


@dataclass(frozen=True, eq=False)
class Baseline:
    """Subtract from every row and sensor its mean over some times before the picture.

    Parameters
    ----------
    times : sequence of float
        Seconds of the samples, as in `SensorSpace.times`. Rows may be shorter: they hold the first of these times.
    tmin, tmax : float or None
        Both ends are included; None is the first time.
    """

    times: Sequence[float] | np.ndarray
    tmin: float | None = None
    tmax: float = 0.0
    name: str = "baseline"
    scope: str = "as-released"
    causal: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "times", np.asarray(self.times, np.float64))
        if not self._inside().any():
            raise InputError(
                "recipe step 'baseline'",
                expected=f"a sample between {self.tmin} and {self.tmax} s",
                found=f"epochs from {self.times[0]:g} to {self.times[-1]:g} s"
                if len(self.times)
                else "no times",
            )

    def _inside(self) -> np.ndarray:
        times, edge = np.asarray(self.times), 1e-9
        return (times >= (-np.inf if self.tmin is None else self.tmin - edge)) & (times <= self.tmax + edge)

    def fit(self, responses: Any, trials: pd.DataFrame, rows: np.ndarray) -> Baseline:
        """Return itself: every row has its own baseline."""
        return self

    def apply(self, values: np.ndarray, trials: pd.DataFrame) -> np.ndarray:
        """Return `values` of shape (rows, sensors, times) without their baseline."""
        inside = np.flatnonzero(self._inside())
        if values.ndim != 3 or values.shape[2] > len(self.times) or values.shape[2] <= inside[-1]:
            raise InputError(
                "recipe step 'baseline'",
                expected=f"rows of {inside[-1] + 1} to {len(self.times)} times",
                found=f"shape {values.shape}",
            )
        middle = values[:, :, inside].mean(axis=2, keepdims=True, dtype=np.float64)
        return np.asarray(values - middle, np.float32)

    def state(self) -> dict[str, np.ndarray]:
        """Return the times."""
        return {"times": np.asarray(self.times)}

    def describe(self) -> dict[str, Any]:
        """Return the step's parameters."""
        return {"name": self.name, "tmin": self.tmin, "tmax": self.tmax}

    @classmethod
    def restore(cls, facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Baseline:
        """Return the step that `describe` and `state` came from."""
        return cls(arrays["times"], facts["tmin"], facts["tmax"])


@dataclass(frozen=True, eq=False)
class Clip:
    """Keep values within plus and minus `limit`, in units of the scaling before."""

    limit: float = 20.0
    name: str = "clip"
    scope: str = "as-released"
    causal: bool = True

    def __post_init__(self) -> None:
        if not self.limit > 0:
            raise InputError("`limit`", expected="a number above 0", found=str(self.limit))

    def fit(self, responses: Any, trials: pd.DataFrame, rows: np.ndarray) -> Clip:
        """Return itself: nothing is fitted."""
        return self

    def apply(self, values: np.ndarray, trials: pd.DataFrame) -> np.ndarray:
        """Return `values` within the limits; NaN stays NaN."""
        return np.clip(values, -self.limit, self.limit)

    def state(self) -> dict[str, np.ndarray]:
        """Return nothing: the limit is a parameter."""
        return {}

    def describe(self) -> dict[str, Any]:
        """Return the step's parameters."""
        return {"name": self.name, "limit": self.limit}

    @classmethod
    def restore(cls, facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Clip:
        """Return the step that `describe` came from."""
        return cls(facts["limit"])


def _quartiles(values: np.ndarray) -> np.ndarray:
    """Return the quartiles of the finite values, three numbers; NaN where there are none."""
    finite = values[np.isfinite(values)].astype(np.float64)
    return np.percentile(finite, [25, 50, 75]) if len(finite) else np.full(3, np.nan)
