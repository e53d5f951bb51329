"""A linear map filled in batch by batch of targets, and applied to numpy or torch alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from braindecode_suite.core.checks import check_shape
from braindecode_suite.core.errors import InputError
from braindecode_suite.learning.block_reader import as_kind, as_table, column_blocks, device_of
from braindecode_suite.learning.ridge_problem import Batch, Problem, RidgeData

TILE_BYTES = 2**25
COLUMNS = 256


class LinearMap:
    """Weights and intercepts of all targets, kept where the predictors are.

    Parameters
    ----------
    problem : Problem
    data : RidgeData

    Attributes
    ----------
    coef : Tensor of shape (features, targets)
        NaN for targets that hold NaN, zero for those that never vary.
    intercept : Tensor of shape (targets,)
    holds_nan, constant : Tensor of bool of shape (targets,)
    """

    def __init__(self, problem: Problem, data: RidgeData) -> None:
        finite = torch.isfinite(problem.x_mean)
        if not finite.all():
            raise InputError(
                "`X`", expected="finite values", found=f"NaN or infinity in {int((~finite).sum())} features"
            )
        self.problem, self.data = problem, data
        where, v = device_of(data.X.table), data.n_targets
        self.coef = torch.empty(data.n_features, v, dtype=data.dtype, device=where)
        self.intercept = torch.empty(v, dtype=data.dtype, device=where)
        self.holds_nan = torch.zeros(v, dtype=torch.bool, device=where)
        self.constant = torch.zeros(v, dtype=torch.bool, device=where)

    @property
    def missing(self) -> Tensor:
        """Targets that cannot be scored: NaN or constant; bool of shape (targets,)."""
        return self.holds_nan | self.constant

    def note_missing(self, columns: slice, batch: Batch) -> Tensor:
        """Find the targets of a batch that hold NaN or never vary; an infinite value is an `InputError`."""
        holds_nan = ~torch.isfinite(batch.spread)
        if holds_nan.any():
            self._refuse_infinity(columns.start + torch.nonzero(holds_nan).ravel().cpu().numpy())
        rounding = 8 * torch.finfo(self.data.dtype).eps * batch.mean.abs()
        constant = batch.spread <= self.data.n_rows * rounding.square()
        self.holds_nan[columns], self.constant[columns] = holds_nan, constant
        return holds_nan | constant

    def add(self, columns: slice, batch: Batch, solution: Tensor, gamma: Tensor | None = None) -> None:
        """Fill in a batch from its solutions, see `Batch.write`, with the intercepts that follow from the means."""
        weights = self.coef[:, columns]
        batch.write(solution, solution.new_ones(1, 1) if gamma is None else gamma, weights)
        weights[:, self.constant[columns]] = 0
        x_mean, y_mean = self.problem.x_mean.to(weights.device), batch.mean.to(weights.device)
        for tile in column_blocks(weights.shape[1], max(1, TILE_BYTES // (8 * len(weights)))):
            offset = y_mean[tile] - x_mean @ weights[:, tile].double()
            self.intercept[columns.start + tile.start : columns.start + tile.stop] = offset

    def check(self) -> None:
        """Raise if all targets hold NaN."""
        if self.holds_nan.all():
            found = f"NaN in all {len(self.holds_nan)}"
            raise InputError("`Y`", expected="at least one target without NaN", found=found)

    def _refuse_infinity(self, columns: np.ndarray) -> None:
        for start in range(0, len(columns), COLUMNS):
            values = self.data.Y.table[:, columns[start : start + COLUMNS]]
            if bool((torch.isinf(values) if isinstance(values, Tensor) else np.isinf(values)).any()):
                raise InputError("`Y`", expected="finite values, or NaN where missing", found="infinity")


def predict_linear(X: Any, coef: Any, intercept: Any) -> Any:
    """Return ``X @ coef + intercept``, numpy or torch as `X` is.

    Parameters
    ----------
    X : array of shape (rows, features)
    coef : array of shape (features, targets)
    intercept : array of shape (targets,)

    Returns
    -------
    array of shape (rows, targets)
    """
    X = as_table(X)
    check_shape("X", X, "rows features", features=coef.shape[0])
    coef, intercept = as_kind(X, coef), as_kind(X, intercept)
    X = X.to(coef.dtype) if isinstance(X, Tensor) else np.asarray(X, dtype=coef.dtype)
    return X @ coef + intercept
