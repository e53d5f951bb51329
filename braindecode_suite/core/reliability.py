"""`KeepReliable`: drop the units that do not answer alike to repeats, judged on training repeats only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from braindecode_suite.core.errors import InputError
from braindecode_suite.core.noise import ceiling_of_ratio, repeat_variances, signal_to_noise


@dataclass(frozen=True, eq=False)
class KeepReliable:
    """Keep the units whose single trials are signal to at least a share of their variance.

    The share is the unrectified noise ceiling of a single trial, S / (S + N), estimated from the repeats of training images.
    It changes the number of units, so it is the last step of a recipe.

    Parameters
    ----------
    threshold : float
        Least share, below 1.
    by : str
        Column of ``trials`` whose repeats are compared.
    """

    threshold: float = 0.1
    by: str = "stimulus_id"
    keep: np.ndarray | None = None  # (units,)
    share: np.ndarray | None = None  # (units,)
    name: str = "keep-reliable"
    scope: str = "train"
    causal: bool = True

    def fit(self, responses: Any, trials: pd.DataFrame, rows: np.ndarray) -> KeepReliable:
        """Return a copy that knows which units to keep, from the repeats among training `rows`.

        Raises
        ------
        InputError
            If `threshold` is 1 or more, too little is repeated, or no unit is left.
        """
        if not self.threshold < 1:
            raise InputError("`threshold`", expected="a share below 1", found=str(self.threshold))
        try:
            variances = repeat_variances(
                _Rows(responses, len(trials)), trials[self.by].to_numpy(), np.asarray(rows)
            )
        except InputError as error:
            if error.where != "repeats":
                raise
            raise InputError(
                "recipe step 'keep-reliable'",
                expected=f"repeats among the training rows, {error.expected}",
                found=error.found,
                hint="without repeats no unit can be judged",
            ) from error
        share = ceiling_of_ratio(signal_to_noise(variances), 1)
        keep = np.nan_to_num(share, nan=-np.inf) >= self.threshold
        if not keep.any():
            raise InputError(
                "recipe step 'keep-reliable'",
                expected=f"a unit whose single trials are signal to at least {self.threshold:g}",
                found=f"at most {np.nanmax(share):.3g}"
                if np.isfinite(share).any()
                else "units that never vary",
            )
        return KeepReliable(self.threshold, self.by, keep, share.astype(np.float32))

    def apply(self, values: np.ndarray, trials: pd.DataFrame) -> np.ndarray:
        """Return the kept units, of shape (rows, kept)."""
        if self.keep is None:
            raise InputError(
                "recipe step 'keep-reliable'",
                expected="a fitted step",
                found="an unfitted one",
                hint="call fit",
            )
        return values[:, self.keep]

    def state(self) -> dict[str, np.ndarray]:
        """Return the mask and the shares it was drawn from."""
        if self.keep is None or self.share is None:
            return {}
        return {"keep": self.keep.astype(np.uint8), "share": self.share}

    def describe(self) -> dict[str, Any]:
        """Return the step's parameters, and how many units it keeps once fitted."""
        facts: dict[str, Any] = {
            "name": self.name,
            "threshold": self.threshold,
            "by": self.by,
            "scope": self.scope,
        }
        if self.keep is not None:
            facts |= {"kept": int(self.keep.sum()), "of": len(self.keep)}
        return facts

    @classmethod
    def restore(cls, facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> KeepReliable:
        """Return the step that `describe` and `state` came from."""
        keep = arrays["keep"].astype(bool) if "keep" in arrays else None
        return cls(facts["threshold"], facts["by"], keep, arrays.get("share"))


class _Rows:
    """Responses with the shape that `repeat_variances` asks for, whatever steps they are read through."""

    def __init__(self, responses: Any, n_trials: int) -> None:
        self.responses = responses
        self.shape = (n_trials, int(np.asarray(responses[np.array([0])]).shape[1]))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> np.ndarray:
        return np.asarray(self.responses[rows])
