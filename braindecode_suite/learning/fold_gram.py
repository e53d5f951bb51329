"""Ridge from the folds' Gram matrices: many rows, fewer features.

Gram matrices and cross-products of the folds are made once, in one pass over the rows; those of a fold's training rows are the
total minus its own. In the eigenbasis of the training Gram the held-out error of a target at a penalty is
``|y|^2 - 2 b'c + b'Hb``, b being its weights, c and H the fold's own cross-products and Gram: no row is touched again.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from braindecode_suite.learning.block_reader import column_blocks, fold_blocks
from braindecode_suite.learning.ridge_problem import RidgeData, eigh, pick

STRIPS = 4


@dataclass(frozen=True)
class _Basis:
    """Eigenbasis of a training Gram, and the held-out Gram in it."""

    values: Tensor  # (features,)
    vectors: Tensor  # (features, features): band scale times eigenvectors
    mean: Tensor  # (features,) training mean in the basis
    held: Tensor  # (features,) sum of the held-out rows in the basis
    strips: Tensor  # (features, features): upper strips of the held-out Gram, off-diagonal blocks doubled


class FoldGram:
    """Grams of the folds, in double precision whatever the precision of the products.

    Parameters
    ----------
    data : RidgeData
    rows_at_once : int
    """

    def __init__(self, data: RidgeData, rows_at_once: int) -> None:
        self.data, self.rows_at_once = data, rows_at_once
        p, parts = data.n_features, data.n_folds + 1  # the last part: rows that are never held out
        self.gram = torch.zeros(parts, p, p, dtype=torch.float64, device=data.device)
        self.x_sum = torch.zeros(parts, p, dtype=torch.float64, device=data.device)
        for fold, rows in fold_blocks(data.folds, rows_at_once):
            x = data.X.read(rows).double()
            self.gram[fold].addmm_(x.T, x)
            self.x_sum[fold] += x.sum(dim=0)
        self.gram_all, self.x_all = self.gram.sum(dim=0), self.x_sum.sum(dim=0)
        self.x_mean = data.X.shift + self.x_all / data.n_rows
        self.solution_size = p
        self._last: tuple[tuple[float, ...], dict[int, _Basis]] | None = None

    def mean_eigenvalue(self) -> float:
        """Return the mean eigenvalue of the centred Gram."""
        square = torch.trace(self.gram_all) - self.x_all.square().sum() / self.data.n_rows
        return float(square / self.data.n_features)

    def batch(self, columns: slice) -> GramBatch:
        """Return the cross-products of some targets."""
        return GramBatch(self, columns)

    def basis(self, gamma: tuple[float, ...], fold: int | None) -> _Basis:
        """Return the basis of the training rows of a fold, or of all rows; the last weighting's are kept."""
        if self._last is None or self._last[0] != gamma:
            self._last = gamma, {}
        known, key = self._last[1], -1 if fold is None else fold
        if key not in known:
            known[key] = self._decompose(gamma, fold)
        return known[key]

    def _decompose(self, gamma: tuple[float, ...], fold: int | None) -> _Basis:
        scale = self.data.scale(gamma)
        if fold is None:
            mean = self.x_all / self.data.n_rows
            gram, held = self.gram_all.addr(self.x_all, mean, alpha=-1), torch.zeros_like(mean)
        else:
            held, n = self.x_sum[fold], self.data.n_train(fold)
            mean = (self.x_all - held) / n
            gram = (self.gram_all - self.gram[fold]).addr_(mean, mean, alpha=-n)
        values, vectors = eigh(gram.mul_(scale).mul_(scale[:, None]))
        vectors.mul_(scale[:, None])
        dtype = self.data.dtype
        strips = torch.empty(0)
        if fold is not None:
            n_held = self.data.n_held(fold)
            inner = self.gram[fold].addr(held, mean, alpha=-1).addr_(mean, held, alpha=-1)
            inner = vectors.T @ inner.addr_(mean, mean, alpha=n_held) @ vectors
            for rows in column_blocks(len(inner), _strip(len(inner))):
                inner[rows, rows.stop :] *= 2
            strips = inner.to(dtype)
        return _Basis(
            values, vectors.to(dtype), (mean @ vectors).to(dtype), (held @ vectors).to(dtype), strips
        )


class GramBatch:
    """Cross-products of the folds with a batch of targets."""

    def __init__(self, problem: FoldGram, columns: slice) -> None:
        self.problem, data = problem, problem.data
        parts, v = data.n_folds + 1, columns.stop - columns.start
        self.cross = torch.zeros(parts, data.n_features, v, dtype=data.dtype, device=data.device)
        self.y_sum = torch.zeros(parts, v, dtype=torch.float64, device=data.device)
        square = torch.zeros_like(self.y_sum)
        for fold, rows in fold_blocks(data.folds, problem.rows_at_once):
            x, y = data.X.read(rows), data.Y.read(rows, columns)
            self.cross[fold].addmm_(x.T, y)
            self.y_sum[fold] += y.sum(dim=0)
            square[fold] += y.square_().sum(dim=0)
        self.cross_all, self.y_all = self.cross.sum(dim=0), self.y_sum.sum(dim=0)
        self.mean = data.Y.shift[columns] + self.y_all / data.n_rows
        self.spread = square.sum(dim=0) - self.y_all.square() / data.n_rows
        self.total = torch.empty_like(self.y_sum[:-1])
        for fold in range(data.n_folds):
            held, mean = self.y_sum[fold], self.train_mean(fold)
            self.total[fold] = square[fold] - 2 * mean * held + data.n_held(fold) * mean.square()

    def train_mean(self, fold: int) -> Tensor:
        """Return the mean of the rows outside a fold."""
        return (self.y_all - self.y_sum[fold]) / self.problem.data.n_train(fold)

    def trial(self, gamma: tuple[float, ...]) -> GramTrial:
        """Weight the bands."""
        return GramTrial(self, gamma)

    def write(self, solution: Tensor, gamma: Tensor, out: Tensor) -> None:
        """Write the solution: it holds weights of features already."""
        out.copy_(solution)


class GramTrial:
    """A weighting of the bands: the Grams are rescaled, the data stay where they are."""

    def __init__(self, batch: GramBatch, gamma: tuple[float, ...]) -> None:
        self.batch, self.gamma, self.data = batch, gamma, batch.problem.data

    def largest_eigenvalue(self) -> float:
        """Return the largest eigenvalue of the centred Gram of all rows."""
        return float(self.batch.problem.basis(self.gamma, None).values[-1])

    def errors(self, fold: int, alphas: Tensor, which: Tensor | None = None) -> Tensor:
        """Return squared errors on a fold, see `Trial`."""
        batch, dtype = self.batch, self.data.dtype
        basis = batch.problem.basis(self.gamma, fold)
        n, n_held = self.data.n_train(fold), self.data.n_held(fold)
        mean, held = batch.train_mean(fold), batch.y_sum[fold]
        if which is not None:
            mean, held = mean[which], held[which]
        own = basis.vectors.T @ pick(batch.cross[fold], which)  # (features, targets)
        train = (basis.vectors.T @ pick(batch.cross_all, which)).sub_(own)
        train.addr_(basis.mean, mean.to(dtype), alpha=-n)
        own.addr_(basis.held - n_held * basis.mean, mean.to(dtype), alpha=-1)
        own.addr_(basis.mean, held.to(dtype), alpha=-1)
        shrink = (1 / (basis.values + alphas[:, None])).to(dtype)  # (alphas, features)
        errors = -2 * (shrink @ own.mul_(train)).double()
        for error, s in zip(errors, shrink, strict=True):
            error += _quadratic(basis.strips * s * s[:, None], train, self.data.tile)
        return errors.add_(batch.total[fold] if which is None else batch.total[fold][which])

    def solve(self, alpha: Tensor, which: Tensor | None = None) -> Tensor:
        """Return weights on all rows, see `Trial`."""
        batch, dtype = self.batch, self.data.dtype
        basis = batch.problem.basis(self.gamma, None)
        sums = batch.y_all if which is None else batch.y_all[which]
        rotated = basis.vectors.T @ pick(batch.cross_all, which)
        rotated.addr_(basis.mean, sums.to(dtype), alpha=-1)
        rotated.div_(basis.values.to(dtype)[:, None] + alpha.to(dtype))
        return basis.vectors @ rotated


def _quadratic(strips: Tensor, weights: Tensor, tile: int) -> Tensor:
    """Return ``w' H w`` of each column w; of the symmetric H only the strips on and right of the diagonal are used."""
    p, v = weights.shape
    out = torch.empty(v, dtype=torch.float64, device=weights.device)
    for columns in column_blocks(v, tile):
        w = weights[:, columns]
        product = torch.empty_like(w, memory_format=torch.contiguous_format)
        for rows in column_blocks(p, _strip(p)):
            torch.mm(strips[rows, rows.start :], w[rows.start :], out=product[rows])
        out[columns] = product.mul_(w).sum(dim=0)
    return out


def _strip(p: int) -> int:
    return max(64, -(-p // STRIPS))
