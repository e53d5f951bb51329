"""Tokens on their way into a linear model: pooled over the image, standardised, sources side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import numpy as np

from braindecode_suite.core.checks import check_option, check_shape
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.features import Grid, Rows
from braindecode_suite.learning.responses import UnitScaler

Pool = Literal["cls", "mean", "max", "min"]
BLOCK_BYTES = 128 << 20


def token_blocks(features: Rows, n_bytes: int = BLOCK_BYTES) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield (places, their tokens as float32 of shape (images, tokens, width)), as many images at once as fit in `n_bytes`."""
    size = max(1, n_bytes // (4 * int(np.prod(features.shape[1:]))))
    for start in range(0, len(features), size):
        places = slice(start, min(start + size, len(features)))
        yield places, np.asarray(features[places], np.float32)


def placed_tokens(grid: Grid) -> np.ndarray:
    """Return which tokens have a place and show the image, booleans of shape (tokens,)."""
    placed = grid.mask.copy()
    placed[: int(grid.has_cls)] = False
    return placed


def pool_tokens(features: Rows, grid: Grid, pools: Sequence[Pool]) -> np.ndarray:
    """Reduce the tokens of each image to one vector for each of `pools`, side by side.

    Parameters
    ----------
    features : Rows of shape (images, tokens, width)
    grid : Grid
    pools : sequence of {'cls', 'mean', 'max', 'min'}
        The class token, or the mean, largest or smallest value over the tokens that have a place and show the image.

    Returns
    -------
    array of float32 of shape (images, pools * width)

    Examples
    --------
    >>> pool_tokens(np.array([[[9.0], [1.0], [2.0]]]), Grid(1, 2, has_cls=True), ["cls", "mean", "max"]).tolist()
    [[9.0, 1.5, 2.0]]
    """
    check_shape("features", features, "images tokens width", tokens=grid.tokens)
    placed = placed_tokens(grid)
    for pool in pools:
        check_option("pool", pool, Pool.__args__)  # type: ignore[attr-defined]
        if not (grid.has_cls if pool == "cls" else placed.any()):
            missing = "a class token" if pool == "cls" else "tokens that lie on the image"
            raise InputError("`features`", expected=missing, found="none")
    width = features.shape[2]
    pooled = np.empty((len(features), len(pools), width), np.float32)
    for places, block in token_blocks(features):
        for k, pool in enumerate(pools):
            pooled[places, k] = block[:, 0] if pool == "cls" else getattr(block[:, placed], pool)(axis=1)
    return pooled.reshape(len(features), -1)


def fit_regressors(parts: Sequence[np.ndarray], *, standardise: bool) -> UnitScaler:
    """Return the mean and the gain by which regressors enter a model, parts side by side, from training images.

    Each regressor is centred and, with `standardise`, divided by its deviation; then each part (a source of features) is
    divided by one number, so that the variances of its regressors sum to 1: under one penalty all sources count the same.

    Parameters
    ----------
    parts : sequence of arrays of shape (images, regressors)
    standardise : bool

    Returns
    -------
    UnitScaler
        Of all regressors, those of the first part first. Constant ones have gain 0.

    Examples
    --------
    >>> fit_regressors([np.array([[0.0, 1.0], [2.0, 1.0]]), np.array([[5.0], [-5.0]])], standardise=True).gain.tolist()
    [1.0, 0.0, 0.20000000298023224]
    """
    scalers = [_scaler(*_moments(part), len(part), standardise) for part in parts]
    return UnitScaler(*(np.concatenate([getattr(s, key) for s in scalers]) for key in ("mean", "gain")))


def _moments(part: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mean = part.mean(axis=0, dtype=np.float64)
    return mean, np.square(part - mean).sum(axis=0)


def _scaler(mean: np.ndarray, square: np.ndarray, n: int, standardise: bool) -> UnitScaler:
    """Return the scaler of one part from its means and its sums of squared deviations."""
    variance = square / n
    alive = variance > 1e-10 * np.maximum(variance + mean**2, 1e-30)
    deviation = np.sqrt(np.where(alive, variance, 1)) if standardise else np.ones_like(variance)
    total = (variance / deviation**2)[alive].sum()
    gain = np.where(alive, 1 / (deviation * np.sqrt(total or 1.0)), 0)
    return UnitScaler(mean.astype(np.float32), gain.astype(np.float32))


class FlatTokens:
    """All tokens of all sources side by side, read in blocks of images and scaled; nothing is held in memory.

    Parameters
    ----------
    features : mapping of source name to Rows of shape (images, tokens, width)
    masks : mapping of source name to array of bool of shape (tokens,)
        Tokens to read.
    scaler : UnitScaler, optional
        Of the regressors; see `fit`.

    Attributes
    ----------
    width : int
        Number of regressors, tokens by width of each source.
    """

    def __init__(
        self, features: Mapping[str, Rows], masks: Mapping[str, np.ndarray], scaler: UnitScaler | None = None
    ) -> None:
        self.features, self.masks, self.scaler = features, masks, scaler
        self.widths = [int(masks[name].sum()) * rows.shape[2] for name, rows in features.items()]
        self.width = sum(self.widths)

    def __len__(self) -> int:
        return len(next(iter(self.features.values())))

    def read(self, places: slice) -> np.ndarray:
        """Return regressors of some images, float32 of shape (images, regressors)."""
        parts = [
            np.asarray(rows[places], np.float32)[:, self.masks[name]] for name, rows in self.features.items()
        ]
        flat = np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)
        return flat if self.scaler is None else self.scaler.apply(flat)

    def blocks(self, n_bytes: int = BLOCK_BYTES) -> list[slice]:
        """Return slices of images whose regressors fit in `n_bytes` as float32."""
        size = max(1, n_bytes // (4 * self.width))
        return [slice(start, min(start + size, len(self))) for start in range(0, len(self), size)]

    def fit(self, *, standardise: bool) -> FlatTokens:
        """Return the same tokens scaled as `fit_regressors` does, with statistics of all their images, read once."""
        shift = self.read(slice(0, 1))[0].astype(np.float64)
        total, square = np.zeros(self.width), np.zeros(self.width)
        for places in self.blocks(BLOCK_BYTES // 2):
            centred = self.read(places) - shift
            total += centred.sum(axis=0)
            square += np.einsum("ij,ij->j", centred, centred)
        mean = total / len(self)
        square = np.maximum(square - len(self) * mean**2, 0)
        ends = np.cumsum(self.widths)[:-1]
        scalers = [
            _scaler(m, s, len(self), standardise)
            for m, s in zip(np.split(mean + shift, ends), np.split(square, ends), strict=True)
        ]
        scaler = UnitScaler(*(np.concatenate([getattr(s, key) for s in scalers]) for key in ("mean", "gain")))
        return FlatTokens(self.features, self.masks, scaler)
