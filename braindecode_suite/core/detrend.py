"""`Detrend`: take slow drifts out of every run, by polynomials of time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from braindecode_suite.core.errors import InputError


@dataclass(frozen=True, eq=False)
class Detrend:
    """Subtract from every unit the polynomial of time that fits it best within each run.

    The fit uses all rows of a run, whatever part of a split they are in, and no label: scope ``heldout-block``. It is not
    causal, since a run's drift is known only at its end.

    Parameters
    ----------
    order : int
        Order of the polynomial; 0 takes out the mean only, 1 the mean and the slope.
    by : tuple of str
        Columns of ``trials`` that name a run.
    time : str
        Column of ``trials`` with the time of each row within its run.
    """

    order: int = 1
    by: tuple[str, ...] = ("session", "run")
    time: str = "onset"
    runs: tuple[tuple[str, ...], ...] = ()
    centre: np.ndarray | None = None  # (runs,)
    width: np.ndarray | None = None  # (runs,)
    weights: np.ndarray | None = None  # (runs, order + 1, units)
    name: str = "detrend"
    scope: str = "heldout-block"
    causal: bool = False

    def fit(self, responses: Any, trials: pd.DataFrame, rows: np.ndarray) -> Detrend:
        """Return a copy with the polynomial of every run of `trials`; `rows` are not asked for.

        Raises
        ------
        InputError
            If `order` is negative, times are unknown, or a run has too few rows.
        """
        if self.order < 0:
            raise InputError("`order`", expected="at least 0", found=str(self.order))
        keys = self._keys(trials)
        when = trials[self.time].to_numpy(float)
        if not np.isfinite(when).all():
            raise InputError(
                f"column {self.time!r}",
                expected="the time of every row, to detrend by",
                found="unknown times",
            )
        runs = tuple(dict.fromkeys(keys))
        centre, width, weights = [], [], []
        for run in runs:
            inside = np.flatnonzero([key == run for key in keys])
            if len(inside) < self.order + 2:
                raise InputError(
                    f"run {'-'.join(map(str, run))}",
                    expected=f"at least {self.order + 2} rows for a polynomial of order {self.order}",
                    found=str(len(inside)),
                )
            middle = float(when[inside].mean())
            spread = float(np.abs(when[inside] - middle).max()) or 1.0
            design = np.vander((when[inside] - middle) / spread, self.order + 1, increasing=True)
            values = np.asarray(responses[inside], np.float64)
            centre.append(middle)
            width.append(spread)
            weights.append(np.linalg.lstsq(design, values, rcond=None)[0])
        return Detrend(
            self.order,
            self.by,
            self.time,
            runs,
            np.array(centre),
            np.array(width),
            np.stack(weights).astype(np.float32),
        )

    def apply(self, values: np.ndarray, trials: pd.DataFrame) -> np.ndarray:
        """Return `values` of shape (rows, units) without their run's drift; `trials` are the same rows."""
        if self.centre is None or self.width is None or self.weights is None:
            raise InputError(
                "recipe step 'detrend'", expected="a fitted step", found="an unfitted one", hint="call fit"
            )
        place = {run: k for k, run in enumerate(self.runs)}
        keys = self._keys(trials)
        unknown = [key for key in keys if key not in place]
        if unknown:
            raise InputError(
                "recipe step 'detrend'",
                expected="runs that were there when it was fitted",
                found=f"run {'-'.join(map(str, unknown[0]))}",
            )
        at = np.array([place[key] for key in keys], np.int64)
        time = (trials[self.time].to_numpy(float) - self.centre[at]) / self.width[at]
        clean = np.array(values, np.float32)
        for power in range(self.order + 1):
            clean -= (time**power)[:, None].astype(np.float32) * self.weights[at, power]
        return clean

    def state(self) -> dict[str, np.ndarray]:
        """Return the fitted arrays, for a checkpoint."""
        if self.centre is None or self.width is None or self.weights is None:
            return {}
        runs = np.array(["\t".join(run) for run in self.runs])
        return {"runs": runs, "centre": self.centre, "width": self.width, "weights": self.weights}

    def describe(self) -> dict[str, Any]:
        """Return the step's parameters."""
        return {
            "name": self.name,
            "order": self.order,
            "by": list(self.by),
            "time": self.time,
            "scope": self.scope,
        }

    @classmethod
    def restore(cls, facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Detrend:
        """Return the step that `describe` and `state` came from."""
        runs = tuple(tuple(run.split("\t")) for run in arrays.get("runs", np.empty(0, str)).tolist())
        parts = (arrays.get("centre"), arrays.get("width"), arrays.get("weights"))
        return cls(facts["order"], tuple(facts["by"]), facts["time"], runs, *parts)

    def _keys(self, trials: pd.DataFrame) -> list[tuple[str, ...]]:
        return list(zip(*(trials[column].astype(str) for column in self.by), strict=True))
