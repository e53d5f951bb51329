"""Latents in the units that models learn in: centred, and scaled by one number, or each dimension by its own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from braindecode_suite.core.checks import check_finite, check_shape

BLOCK = 1024


@dataclass(frozen=True, eq=False)
class TargetScaler:
    """``(latent - mean) / scale``: afterwards a token's mean squared length over the training images is one.

    Multiplied by the square root of the width (the usual scale of a diffusion prior) every number then has a mean square
    of one. With one scale the shape of the space is kept: no dimension is stretched against another.

    Attributes
    ----------
    mean : array of float32 of shape (tokens, width)
    scale : float or array of float32 of shape (tokens, width)
    """

    mean: np.ndarray
    scale: float | np.ndarray

    def apply(self, latents: np.ndarray) -> np.ndarray:
        """Scale latents of shape (rows, tokens, width)."""
        return (np.asarray(latents, dtype=np.float32) - self.mean) / np.float32(self.scale)

    def undo(self, scaled: np.ndarray) -> np.ndarray:
        """Bring scaled latents of shape (rows, tokens, width) back to the target's own units."""
        return (scaled * np.float32(self.scale) + self.mean).astype(np.float32)


def fit_target_scaler(latents: np.ndarray, *, each_dimension: bool = False) -> TargetScaler:
    """Fit to the latents of training images.

    Parameters
    ----------
    latents : array of shape (images, tokens, width)
        May be memory-mapped.
    each_dimension : bool
        Whether every dimension is brought to the same variance, for a squared error that counts all alike. One that never
        varies stays as it is.

    Returns
    -------
    TargetScaler
    """
    check_shape("latents", latents, "images tokens width")
    total = np.zeros(latents.shape[1:])
    for start in range(0, len(latents), BLOCK):
        block = np.asarray(latents[start : start + BLOCK])
        check_finite("target latents", block)
        total += block.sum(axis=0, dtype=np.float64)
    mean = total / len(latents)
    if each_dimension:
        squares = np.zeros(latents.shape[1:])
        for start in range(0, len(latents), BLOCK):
            squares += np.square(latents[start : start + BLOCK] - mean, dtype=np.float64).sum(axis=0)
        deviation = np.sqrt(squares / len(latents) * latents.shape[2])
        still = deviation <= 1e-6 * np.maximum(np.abs(mean), 1e-30)
        return TargetScaler(mean.astype(np.float32), np.where(still, 1.0, deviation).astype(np.float32))
    square = 0.0
    for start in range(0, len(latents), BLOCK):
        square += float(np.square(latents[start : start + BLOCK] - mean, dtype=np.float64).sum())
    scale = float(np.sqrt(square / (len(latents) * latents.shape[1])))
    return TargetScaler(mean.astype(np.float32), scale or 1.0)
