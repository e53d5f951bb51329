"""`Recipe`: preprocessing as ordered steps, fitted on training rows only and frozen after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import pandas as pd

from braindecode_suite.core.errors import InputError
from braindecode_suite.core.files import data_hash
from braindecode_suite.core.registry import Registry
from braindecode_suite.core.step_levels import By, level_keys, level_word, restored_columns, unfitted

SCOPES = ("train", "heldout-block", "as-released")
STEPS = Registry(
    "recipe step",
    {
        "z-score": "braindecode_suite.core.recipe:ZScore",
        "select-units": "braindecode_suite.core.recipe:SelectUnits",
        "detrend": "braindecode_suite.core.detrend:Detrend",
        "keep-reliable": "braindecode_suite.core.reliability:KeepReliable",
        "robust-scale": "braindecode_suite.core.epoch_steps:RobustScale",
        "whiten": "braindecode_suite.core.whitening:Whiten",
        "baseline": "braindecode_suite.core.epoch_steps:Baseline",
        "clip": "braindecode_suite.core.epoch_steps:Clip",
    },
)


class Step(Protocol):
    """One step of a recipe. `fit` returns a fitted copy; `apply` never looks beyond the rows it is given."""

    @property
    def name(self) -> str: ...

    @property
    def scope(self) -> str: ...

    @property
    def causal(self) -> bool: ...

    def fit(self, responses: Any, trials: pd.DataFrame, rows: np.ndarray) -> Step: ...

    def apply(self, values: np.ndarray, trials: pd.DataFrame) -> np.ndarray: ...

    def state(self) -> dict[str, np.ndarray]: ...

    def describe(self) -> dict[str, Any]: ...

    @classmethod
    def restore(cls, facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Step: ...


@dataclass(frozen=True, eq=False)
class ZScore:
    """Z-score every unit within each level of a trials column (NSD: within session) by training-row statistics.

    A session without training rows cannot be fitted: its rows are refused, unless `scope` is ``heldout-block``, which
    uses label-free statistics of all rows of that session (printed as transductive) where it has less than two for training.

    Parameters
    ----------
    by : str, tuple of str or None
        Column of ``trials`` to normalise within, or several that name a block together; None takes all training rows
        together.
    scope : {'train', 'heldout-block'}
    """

    by: By = "session"
    scope: str = "train"
    levels: np.ndarray | None = None
    mean: np.ndarray | None = None  # (levels, units)
    scale: np.ndarray | None = None  # (levels, units)
    name: str = "z-score"
    causal: bool = True

    def fit(self, responses: Any, trials: pd.DataFrame, rows: np.ndarray) -> ZScore:
        """Return a copy with mean and standard deviation of each level's training rows.

        Parameters
        ----------
        responses : Responses of shape (trials, units)
        trials : DataFrame
        rows : int array
            Training rows.
        """
        keys = self._keys(trials)
        levels = np.unique(keys if self.scope == "heldout-block" else keys[rows])
        means, scales = [], []
        for level in levels:
            inside = rows[keys[rows] == level]
            if self.scope == "heldout-block" and len(inside) < 2:
                inside = np.flatnonzero(keys == level)
            if len(inside) < 2:
                raise InputError(
                    f"{level_word(self.by)} {level}",
                    expected="at least 2 training rows to z-score by",
                    found=str(len(inside)),
                )
            block = np.asarray(responses[np.sort(inside)], np.float64)
            means.append(block.mean(0))
            deviation = block.std(0)
            scales.append(np.where(deviation > 0, deviation, np.inf))  # a constant unit becomes 0
        return ZScore(
            self.by,
            self.scope,
            levels,
            np.stack(means).astype(np.float32),
            np.stack(scales).astype(np.float32),
        )

    def apply(self, values: np.ndarray, trials: pd.DataFrame) -> np.ndarray:
        """Return z-scored `values` of shape (rows, units); `trials` are the same rows."""
        if self.levels is None or self.mean is None or self.scale is None:
            raise unfitted(self.name)
        keys = self._keys(trials)
        index = np.searchsorted(self.levels, keys)
        known = (index < len(self.levels)) & (self.levels[np.minimum(index, len(self.levels) - 1)] == keys)
        if not known.all():
            raise InputError(
                "recipe step 'z-score'",
                expected=f"rows of {level_word(self.by)} {', '.join(map(str, self.levels))}",
                found=f"{level_word(self.by)} {keys[~known][0]}",
                hint="a held-out block needs scope 'heldout-block'",
            )
        return (values - self.mean[index]) / self.scale[index]

    def state(self) -> dict[str, np.ndarray]:
        """Return the fitted arrays, for a checkpoint."""
        if self.levels is None or self.mean is None or self.scale is None:
            return {}
        levels = np.asarray(self.levels)
        return {
            "levels": levels.astype(str) if levels.dtype == object else levels,
            "mean": self.mean,
            "scale": self.scale,
        }

    def describe(self) -> dict[str, Any]:
        """Return the step's parameters."""
        return {"name": self.name, "by": self.by, "scope": self.scope}

    @classmethod
    def restore(cls, facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> ZScore:
        """Return the step that `describe` and `state` came from."""
        by = restored_columns(facts["by"])
        return cls(by, facts["scope"], arrays.get("levels"), arrays.get("mean"), arrays.get("scale"))

    def _keys(self, trials: pd.DataFrame) -> np.ndarray:
        """Return levels as they are saved and hashed: those of one column as it holds them, not as str."""
        if self.by is None:
            return np.zeros(len(trials), int)
        if isinstance(self.by, str):
            return np.asarray(trials[self.by].to_numpy())
        return level_keys(trials, self.by).astype(str)


@dataclass(frozen=True, eq=False)
class SelectUnits:
    """Keep the units of a boolean mask (an ROI, the valid voxels)."""

    keep: np.ndarray
    name: str = "select-units"
    scope: str = "as-released"
    causal: bool = True

    def fit(self, responses: Any, trials: pd.DataFrame, rows: np.ndarray) -> SelectUnits:
        """Return itself: the mask is given, not fitted."""
        return self

    def apply(self, values: np.ndarray, trials: pd.DataFrame) -> np.ndarray:
        """Return the kept units, of shape (rows, kept)."""
        return values[:, self.keep]

    def state(self) -> dict[str, np.ndarray]:
        """Return the mask."""
        return {"keep": self.keep.astype(np.uint8)}

    def describe(self) -> dict[str, Any]:
        """Return the number of units kept."""
        return {"name": self.name, "kept": int(self.keep.sum()), "of": len(self.keep)}

    @classmethod
    def restore(cls, facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> SelectUnits:
        """Return the step that `state` came from."""
        return cls(arrays["keep"].astype(bool))


@dataclass(frozen=True, eq=False)
class Recipe:
    """Ordered preprocessing steps; offline and live use the same object.

    Parameters
    ----------
    steps : sequence of Step
        The number of units may change only through the last step.
    n_samples : int or None
        Samples of a row that are there, see `until`; None where all of them are.
    """

    steps: Sequence[Step] = field(default_factory=tuple)
    n_samples: int | None = None

    def fit(self, responses: Any, trials: pd.DataFrame, rows: np.ndarray) -> Recipe:
        """Return a recipe fitted on training `rows` only; each step sees the output of those before it."""
        fitted: list[Step] = []
        for step in self.steps:
            view = _Through(responses, trials, Recipe(tuple(fitted)))
            fitted.append(step.fit(view if fitted else responses, trials, rows))
        return Recipe(tuple(fitted))

    def apply(self, values: np.ndarray, trials: pd.DataFrame) -> np.ndarray:
        """Return preprocessed `values` of shape (rows, units); `trials` are the same rows."""
        there = values if self.n_samples is None else values[..., : self.n_samples]
        for step in self.steps:
            there = step.apply(there, trials)
        there = there.astype(np.float32, copy=False)
        missing = 0 if self.n_samples is None else values.shape[-1] - there.shape[-1]
        return np.pad(there, [(0, 0)] * (there.ndim - 1) + [(0, missing)]) if missing else there

    def until(self, n_samples: int) -> Recipe:
        """Return the same recipe for rows (units, times) whose later samples are still to come, and are 0 in what it gives.

        Steps see nothing of them: causal ones give of the first samples what they give of them in whole rows, for less work.
        """
        for step in self.steps:
            self._check_causal(step)
        return Recipe(self.steps, n_samples)

    def step(self, chunk: np.ndarray, trials: pd.DataFrame) -> np.ndarray:
        """Apply to one chunk as it arrives; a non-causal step refuses."""
        for step in self.steps:
            self._check_causal(step)
        return self.apply(chunk, trials)

    @staticmethod
    def _check_causal(step: Step) -> None:
        if not step.causal:
            raise InputError(f"recipe step {step.name!r}", expected="a causal step", found="a non-causal one")

    def describe(self) -> list[dict[str, Any]]:
        """Return the parameters of every step, in order."""
        return [step.describe() for step in self.steps]

    def state(self) -> dict[str, np.ndarray]:
        """Return all fitted arrays, named ``<position>.<array>``."""
        return {
            f"{i}.{key}": value for i, step in enumerate(self.steps) for key, value in step.state().items()
        }

    def frozen(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return the fitted recipe as what a model folder holds: facts for JSON, numbers for safetensors; see `from_frozen`."""
        arrays = {name: np.asarray(value) for name, value in self.state().items()}
        words = {name: value.tolist() for name, value in arrays.items() if value.dtype.kind in "OU"}
        numbers = {name: value for name, value in arrays.items() if name not in words}
        return {"steps": self.describe(), "words": words}, numbers

    @classmethod
    def from_frozen(cls, facts: Mapping[str, Any], numbers: Mapping[str, np.ndarray]) -> Recipe:
        """Return the recipe that `frozen` took apart."""
        arrays = {**{name: np.array(words, str) for name, words in facts["words"].items()}, **numbers}
        steps = []
        for k, step in enumerate(facts["steps"]):
            own = {n.partition(".")[2]: a for n, a in arrays.items() if n.partition(".")[0] == str(k)}
            steps.append(STEPS[step["name"]].restore(step, own))
        return cls(tuple(steps))

    @property
    def keep(self) -> np.ndarray | None:
        """Units that the last step keeps, array of bool of shape (units,), or None where it keeps all."""
        return getattr(self.steps[-1], "keep", None) if self.steps else None

    @cached_property
    def hash(self) -> str:
        """Hash of parameters and fitted arrays, computed once."""
        return data_hash(self.describe(), *[value for _, value in sorted(self.state().items())])


class _Through:
    """Responses read through the steps fitted so far."""

    def __init__(self, responses: Any, trials: pd.DataFrame, recipe: Recipe) -> None:
        self.responses, self.trials, self.recipe = responses, trials, recipe

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        return self.recipe.apply(np.asarray(self.responses[rows], np.float32), self.trials.iloc[rows])
