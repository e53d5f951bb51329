"""Ridge from one decomposition of all rows: held-out errors by the leave-out formula, instead of one decomposition a fold.

The residuals that a fold's rows would have, had they been left out, are ``(I - H)^-1 e``: e are the residuals of the fit to all
rows, H is the fold's block of the hat matrix (for one row Allen's PRESS; Golub, Heath and Wahba 1979, doi:10.2307/1268518).
With fewer rows than features the decomposition is that of the rows' kernel (the dual form).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from braindecode_suite.learning.block_reader import column_blocks, fold_blocks
from braindecode_suite.learning.ridge_problem import RidgeData, eigh, pick

TILE_ROWS = 1024


@dataclass(frozen=True)
class Decomposition:
    """``hat matrix = 1/n + rows @ diag(f) @ rows.T``, with f from the eigenvalues and the penalty.

    Attributes
    ----------
    values : Tensor of float64 of shape (rank,)
    rows : Tensor of shape (rows, rank)
        Features in the eigenbasis (primal), or the eigenvectors themselves (dual).
    vectors : Tensor of shape (features or rows, rank)
        What turns shrunk projections into a solution.
    dual : bool
    """

    values: Tensor
    rows: Tensor
    vectors: Tensor
    dual: bool

    def residual(self, alpha: Tensor) -> tuple[float, Tensor]:
        """Return c and f such that ``I - hat matrix = c (I - 1/n) + rows @ diag(f) @ rows.T``."""
        if self.dual:
            return 0.0, alpha / (self.values + alpha)
        return 1.0, -1 / (self.values + alpha)


class PrimalRows:
    """At least as many rows as features: the decomposition of the features' Gram."""

    def __init__(self, data: RidgeData, rows_at_once: int) -> None:
        self.data, self.rows_at_once = data, rows_at_once
        p = self.solution_size = data.n_features
        self.gram = torch.zeros(p, p, dtype=torch.float64, device=data.device)
        x_sum = torch.zeros(p, dtype=torch.float64, device=data.device)
        for rows in column_blocks(data.n_rows, rows_at_once):
            x = data.X.read(rows).double()
            self.gram.addmm_(x.T, x)
            x_sum += x.sum(dim=0)
        self._mean = x_sum / data.n_rows
        self.gram.addr_(x_sum, self._mean, alpha=-1)
        self.x_mean = data.X.shift + self._mean
        self._last: tuple[tuple[float, ...], Decomposition] | None = None

    def mean_eigenvalue(self) -> float:
        """Return the mean eigenvalue of the centred Gram."""
        return float(torch.trace(self.gram)) / self.data.n_features

    def batch(self, columns: slice) -> RowBatch:
        """Read some targets."""
        return RowBatch(self, columns)

    def decompose(self, gamma: tuple[float, ...]) -> Decomposition:
        """Decompose all rows, the bands weighted; the last one is kept."""
        if self._last is None or self._last[0] != gamma:
            self._last, data, scale = None, self.data, self.data.scale(gamma)
            values, vectors = eigh(self.gram * scale * scale[:, None])
            vectors = vectors.mul_(scale[:, None]).to(data.dtype)
            rotated = torch.empty(data.n_rows, data.n_features, dtype=data.dtype, device=data.device)
            for rows in column_blocks(data.n_rows, self.rows_at_once):
                torch.mm(data.X.read(rows) - self._mean.to(data.dtype), vectors, out=rotated[rows])
            self._last = gamma, Decomposition(values, rotated, vectors, dual=False)
        return self._last[1]

    def write(self, solution: Tensor, gamma: Tensor, out: Tensor) -> None:
        """Write the solution: it holds weights of features already."""
        out.copy_(solution)


class DualRows:
    """Fewer rows than features: the decomposition of the rows' kernel, a weighted sum of the bands' kernels."""

    def __init__(self, data: RidgeData, features_at_once: int) -> None:
        self.data, self.features_at_once = data, features_at_once
        n = self.solution_size = data.n_rows
        self.kernels = torch.zeros(data.n_bands, n, n, dtype=torch.float64, device=data.device)
        self.x_mean = data.X.shift.clone()
        for band, columns in fold_blocks(data.bands, features_at_once):
            x = data.X.read(columns=columns)
            self.x_mean[columns] += x.mean(dim=0, dtype=torch.float64)
            for rows in column_blocks(n, TILE_ROWS):
                self.kernels[band, rows, : rows.stop] += x[rows] @ x[: rows.stop].T
        for kernel in self.kernels:
            for rows in column_blocks(n, TILE_ROWS):
                kernel[: rows.start, rows] = kernel[rows, : rows.start].T
            means = kernel.mean(dim=0)
            kernel.sub_(means).sub_(means[:, None]).add_(means.mean())
        self._last: tuple[tuple[float, ...], Decomposition] | None = None

    def mean_eigenvalue(self) -> float:
        """Return the mean eigenvalue of the centred Gram of the features."""
        return sum(float(torch.trace(kernel)) for kernel in self.kernels) / self.data.n_features

    def batch(self, columns: slice) -> RowBatch:
        """Read some targets."""
        return RowBatch(self, columns)

    def decompose(self, gamma: tuple[float, ...]) -> Decomposition:
        """Decompose all rows, the bands weighted; the last one is kept."""
        if self._last is None or self._last[0] != gamma:
            self._last = None
            kernel = torch.zeros_like(self.kernels[0])
            for weight, one in zip(gamma, self.kernels, strict=True):
                kernel.add_(one, alpha=weight)
            kernel += (2 * float(torch.trace(kernel)) or 1.0) / len(kernel)  # the constant comes last
            values, vectors = eigh(kernel)
            basis = vectors[:, :-1].to(self.data.dtype).contiguous()
            self._last = gamma, Decomposition(values[:-1], basis, basis, dual=True)
        return self._last[1]

    def write(self, solution: Tensor, gamma: Tensor, out: Tensor) -> None:
        """Write the weights of features: each band's are its features' products with the solution, weighted."""
        for band, columns in fold_blocks(self.data.bands, self.features_at_once):
            weights = self.data.X.read(columns=columns).T @ solution
            out[columns] = weights.mul_(gamma[band].to(weights.dtype)).to(out.device)


class RowBatch:
    """A batch of targets, held in memory."""

    def __init__(self, problem: PrimalRows | DualRows, columns: slice) -> None:
        self.problem, data = problem, problem.data
        y = self.y = data.Y.read(columns=columns)
        mean = y.mean(dim=0).double()
        self.mean = data.Y.shift[columns] + mean
        y -= mean.to(data.dtype)
        self.total = torch.empty(data.n_folds, y.shape[1], dtype=torch.float64, device=data.device)
        self.spread = torch.zeros(y.shape[1], dtype=torch.float64, device=data.device)
        for tile in column_blocks(y.shape[1], data.tile):
            self.spread[tile] = y[:, tile].square().sum(dim=0)
            for fold in range(data.n_folds):
                held = y[data.held(fold), tile]
                shift = held.sum(dim=0) / data.n_train(fold)  # less the mean of the other rows
                self.total[fold, tile] = (held + shift).square_().sum(dim=0)

    def trial(self, gamma: tuple[float, ...]) -> RowTrial:
        """Weight the bands."""
        return RowTrial(self, gamma)

    def write(self, solution: Tensor, gamma: Tensor, out: Tensor) -> None:
        """Write the weights of features, see `Batch`."""
        self.problem.write(solution, gamma, out)


class RowTrial:
    """A weighting of the bands, decomposed once."""

    def __init__(self, batch: RowBatch, gamma: tuple[float, ...]) -> None:
        self.batch, self.data = batch, batch.problem.data
        self.decomposition = batch.problem.decompose(gamma)
        self.projected = self.decomposition.rows.T @ batch.y  # (rank, targets)

    def largest_eigenvalue(self) -> float:
        """Return the largest eigenvalue of the centred Gram of all rows."""
        return float(self.decomposition.values[-1])

    def errors(self, fold: int, alphas: Tensor, which: Tensor | None = None) -> Tensor:
        """Return squared errors on a fold, see `Trial`."""
        data, held = self.data, self.data.held(fold)
        rows, projected, own = self.decomposition.rows[held], pick(self.projected, which), None
        errors = torch.empty(len(alphas), projected.shape[1], dtype=torch.float64, device=data.device)
        for error, alpha in zip(errors, alphas, strict=True):
            c, f = self.decomposition.residual(alpha)
            weighted = rows * f.to(data.dtype)  # (held-out, rank)
            block = (weighted @ rows.T).double()
            if c:
                block.diagonal().add_(c)
                block.sub_(c / data.n_rows)
                own = pick(self.batch.y[held], which) if own is None else own
            factor, failed = torch.linalg.cholesky_ex(block)
            if failed:
                error.fill_(torch.inf)
                continue
            inverse = torch.cholesky_inverse(factor).to(data.dtype)
            for tile in column_blocks(projected.shape[1], data.tile):
                residual = weighted @ projected[:, tile]
                if own is not None:
                    residual += own[:, tile]
                error[tile] = (inverse @ residual).square_().sum(dim=0)
        return errors

    def solve(self, alpha: Tensor, which: Tensor | None = None) -> Tensor:
        """Return weights of features (primal) or rows (dual) on all rows, see `Trial`."""
        values, dtype = self.decomposition.values, self.data.dtype
        shrunk = pick(self.projected, which) / (values.to(dtype)[:, None] + alpha.to(dtype))
        return self.decomposition.vectors @ shrunk
