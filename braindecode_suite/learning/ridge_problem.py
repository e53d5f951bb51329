"""What the forms of the ridge solution share: the data, and what a form can do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from braindecode_suite.core.checks import check_shape
from braindecode_suite.core.device import resolve_device
from braindecode_suite.learning.block_reader import (
    BlockReader,
    as_table,
    consecutive,
    device_of,
    precision_of,
)
from braindecode_suite.learning.folds import NEVER, check_folds


@dataclass(frozen=True)
class RidgeData:
    """Predictors, targets, the fold of each row and the band of each feature.

    Attributes
    ----------
    X : BlockReader
        (rows, features)
    Y : BlockReader
        (rows, targets)
    folds : array of int of shape (rows,)
        -1 for rows that are never held out.
    counts : array of int of shape (folds,)
        Rows of each fold.
    bands : array of int of shape (features,)
    n_bands : int
    """

    X: BlockReader
    Y: BlockReader
    folds: np.ndarray
    counts: np.ndarray
    bands: np.ndarray
    n_bands: int

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return len(self.folds)

    @property
    def n_folds(self) -> int:
        """Number of folds."""
        return len(self.counts)

    @property
    def n_targets(self) -> int:
        """Number of targets."""
        return int(self.Y.table.shape[1])

    @property
    def n_features(self) -> int:
        """Number of features."""
        return len(self.bands)

    def held(self, fold: int) -> slice | np.ndarray:
        """Return the rows of a fold, as a slice where they are consecutive."""
        return consecutive(np.flatnonzero(self.folds == fold))

    def n_held(self, fold: int) -> int:
        """Return the number of rows of a fold."""
        return int(self.counts[fold])

    def n_train(self, fold: int) -> int:
        """Return the number of rows outside a fold."""
        return self.n_rows - self.n_held(fold)

    def scale(self, gamma: tuple[float, ...]) -> Tensor:
        """Return what each feature is multiplied by: the root of its band's weight; float64 of shape (features,)."""
        return torch.from_numpy(np.sqrt(np.array(gamma))[self.bands]).to(self.device)

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the products."""
        return self.X.dtype

    @property
    def device(self) -> torch.device:
        """Where everything is computed."""
        return self.X.device

    @property
    def tile(self) -> int:
        """Columns of a product whose result should stay in the cache, or fill a GPU."""
        return 512 if self.device.type == "cpu" else 16384


def make_data(
    X: Any,
    Y: Any,
    *,
    folds: np.ndarray | None = None,
    bands: np.ndarray | None = None,
    device: str | None = None,
) -> RidgeData:
    """Check the shapes and choose precision and device: those of the predictors, unless a device is named.

    Parameters
    ----------
    X : array of shape (rows, features)
    Y : array of shape (rows, targets)
    folds : array of int of shape (rows,), optional
        Without them no row is held out.
    bands : array of int of shape (features,), optional
        Without them all features are one band.
    device : {'auto', 'cpu', 'cuda'}, optional
    """
    X, Y = as_table(X), as_table(Y)
    check_shape("X", X, "rows features")
    check_shape("Y", Y, "rows targets", rows=len(X))
    if folds is None:
        folds = np.full(len(X), NEVER)
    else:
        check_folds(folds, len(X))
    bands = np.zeros(X.shape[1], int) if bands is None else bands
    where = device_of(X) if device is None else torch.device(resolve_device(device))
    dtype = precision_of(X)
    return RidgeData(
        X=BlockReader(X, dtype, where),
        Y=BlockReader(Y, dtype, where),
        folds=folds,
        counts=np.bincount(folds + 1)[1:],
        bands=bands,
        n_bands=int(bands.max(initial=0)) + 1,
    )


class Trial(Protocol):
    """A weighting of the bands applied to a batch of targets."""

    def largest_eigenvalue(self) -> float:
        """Return the largest eigenvalue of the centred Gram of all rows."""
        ...

    def errors(self, fold: int, alphas: Tensor, which: Tensor | None = None) -> Tensor:
        """Return squared errors summed over the fold's rows, of shape (alphas, targets), float64.

        `alphas` is float64 of shape (alphas,); `which` are numbers of targets of the batch, all by default.
        """
        ...

    def solve(self, alpha: Tensor, which: Tensor | None = None) -> Tensor:
        """Return the solution on all rows at the penalty of each target, of shape (solution, targets)."""
        ...


class Batch(Protocol):
    """A batch of targets.

    Attributes
    ----------
    total : Tensor of float64 of shape (folds, targets)
        Squared deviations of each fold's rows from the mean of the others.
    mean : Tensor of float64 of shape (targets,)
    spread : Tensor of float64 of shape (targets,)
        Squared deviations of all rows from their mean.
    """

    total: Tensor
    mean: Tensor
    spread: Tensor

    def trial(self, gamma: tuple[float, ...]) -> Trial:
        """Weight the bands: their features are multiplied by the root of `gamma`."""
        ...

    def write(self, solution: Tensor, gamma: Tensor, out: Tensor) -> None:
        """Write weights (features, targets) to `out`, from solutions and the weighting (bands, targets) of each."""
        ...


class Problem(Protocol):
    """One form of the solution of one ridge problem.

    Attributes
    ----------
    x_mean : Tensor of float64 of shape (features,)
    solution_size : int
        Length of what `Trial.solve` returns for a target.
    """

    x_mean: Tensor
    solution_size: int

    def mean_eigenvalue(self) -> float:
        """Return the mean eigenvalue of the Gram matrix of the centred features."""
        ...

    def batch(self, columns: slice) -> Batch:
        """Read some targets."""
        ...


def eigh(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Return eigenvalues, ascending and none negative, and eigenvectors of a symmetric matrix in double precision."""
    if gram.is_cuda:
        try:
            values, vectors = torch.linalg.eigh(gram)
        except RuntimeError:  # cusolver does not always converge
            values, vectors = eigh(gram.cpu())
            return values.to(gram.device), vectors.to(gram.device)
    else:
        values, vectors = (torch.from_numpy(part) for part in np.linalg.eigh(gram.numpy()))
    return values.clamp(min=0), vectors


def pick(matrix: Tensor, which: Tensor | None) -> Tensor:
    """Return some columns of a matrix."""
    return matrix if which is None else matrix[:, which]
