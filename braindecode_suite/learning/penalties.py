"""The grid of penalties: its units, what of it the precision allows, and whether it was wide enough."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from braindecode_suite.core.errors import InputError
from braindecode_suite.learning.ridge_warnings import ConditioningWarning, GridEdgeWarning, warn

RELATIVE_ALPHAS = tuple(float(alpha) for alpha in np.logspace(-3, 4, 15))
"""Penalties in units of the mean eigenvalue of the Gram matrix of the centred predictors."""

PREDICTABLE, RISING = 0.01, 1e-3  # R2 that counts as predicted, and a step of it that is more than noise


def penalty_grid(alphas: float | Sequence[float] | np.ndarray, unit: float = 1.0) -> Tensor:
    """Return positive penalties, ascending, times `unit`; float64 of shape (alphas,)."""
    grid = np.sort(np.asarray(alphas, dtype=np.float64).ravel())
    if len(grid) == 0 or not (grid[0] > 0 and np.isfinite(grid[-1])):
        raise InputError("`alphas`", expected="positive penalties", found=str(list(np.ravel(alphas))))
    return torch.from_numpy(grid * (unit or 1.0))


def resolved(grid: Tensor, largest_eigenvalue: float, dtype: torch.dtype) -> int:
    """Return the number of the first penalty that products in this precision can tell from none at all."""
    limit = 8 * torch.finfo(dtype).eps * largest_eigenvalue
    return min(int((grid < limit).sum()), len(grid) - 1)


def warn_at_edges(best: Any, cv_r2: Any, first: Any) -> None:
    """Warn if predictable targets have their best penalty at an edge.

    Parameters
    ----------
    best : array of int of shape (targets,)
        Number of the chosen penalty.
    cv_r2 : array of shape (alphas, targets)
    first : int or array of int of shape (targets,)
        Number of the smallest penalty that was tried.
    """
    n_alphas, n_targets = cv_r2.shape
    first, targets = np.broadcast_to(first, n_targets), np.arange(n_targets)
    wide = n_alphas - first >= 3
    inner = np.minimum(first + 1, n_alphas - 1)
    low = (best == first) & wide & _rises(cv_r2[inner, targets], cv_r2[first, targets])
    high = (best == n_alphas - 1) & wide & _rises(cv_r2[max(n_alphas - 2, 0)], cv_r2[-1])
    for at_edge, which, category, hint in (
        (low & (first == 0), "smallest penalty of the grid", GridEdgeWarning, "widen the grid"),
        (high, "largest penalty of the grid", GridEdgeWarning, "widen the grid"),
        (
            low & (first > 0),
            "smallest penalty that single precision resolves",
            ConditioningWarning,
            "pass predictors in double precision",
        ),
    ):
        count = int(at_edge.sum())
        if count:
            share = f"{count} of {n_targets} targets ({100 * count / n_targets:.2g} %)"
            warn(f"the {which} is the best for {share}: {hint}", category)


def _rises(inner: np.ndarray, edge: np.ndarray) -> Any:
    """Return where the edge is clearly better: a flat edge, or noise that wants the largest penalty, is no news."""
    return (edge - inner > RISING) & (edge > PREDICTABLE)
