"""Where a map looks, as a receptive field is described: the Gaussian of least squares, and how much of the map it explains."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from braindecode_suite.core.checks import check_finite, check_shape
from braindecode_suite.core.errors import InputError
from braindecode_suite.metrics.correlation import Floats

CENTRES, WIDTHS = 16, 12
"""Centres along each side and widths of the first, coarse search."""
WIDEST = 1.0
HALVINGS = 14
MAPS_AT_ONCE = 256


@dataclass(frozen=True, eq=False, kw_only=True)
class GaussianFit:
    """The Gaussian of each map, in image widths from the upper left corner.

    Attributes
    ----------
    x, y : array of shape (maps,)
        Centre; `y` grows downwards.
    sd : array of shape (maps,)
        Standard deviation, at least half a token and at most `WIDEST`; that end means wider than can be told.
    gain, base : array of shape (maps,)
        ``map = base + gain * exp(-d^2 / (2 sd^2))``; the gain is never negative.
    explained : array of shape (maps,)
        Share of the map's variance over tokens, 0 to 1; NaN for a map without any, which has no centre either.
    """

    x: Floats
    y: Floats
    sd: Floats
    gain: Floats
    base: Floats
    explained: Floats


def fit_gaussians(maps: ArrayLike) -> GaussianFit:
    """Fit a round Gaussian on an even ground to each map, by least squares.

    Gain and ground are the closed form for a given centre and width, so that the squared error that is left is one less
    the squared correlation of map and Gaussian: only centre and width are searched, on a grid and then around its best
    point in steps that are halved (variable projection, Golub & Pereyra 1973, https://doi.org/10.1137/0710036).

    Parameters
    ----------
    maps : array of shape (maps, height, width)
        Of an image that is as wide as `width` tokens.

    Returns
    -------
    GaussianFit

    Examples
    --------
    >>> y, x = (np.indices((8, 8)) + 0.5) / 8
    >>> fit = fit_gaussians(1 + np.exp(-((x - 0.3) ** 2 + (y - 0.6) ** 2) / (2 * 0.15**2))[None])
    >>> [round(float(v[0]), 3) for v in (fit.x, fit.y, fit.sd, fit.explained)]
    [0.3, 0.6, 0.15, 1.0]
    """
    values = np.asarray(maps, np.float64)
    check_shape("maps", values, "maps height width")
    check_finite("maps", values)
    if min(values.shape[1:]) < 2:
        raise InputError("`maps`", expected="at least two rows and two columns", found=str(values.shape[1:]))
    parts = [_fit(values[k : k + MAPS_AT_ONCE]) for k in range(0, len(values), MAPS_AT_ONCE)]
    rows = np.concatenate([np.empty((6, 0)), *parts], axis=1)
    return GaussianFit(**dict(zip(("x", "y", "sd", "gain", "base", "explained"), rows, strict=True)))


def _fit(maps: Floats) -> Floats:
    """Return x, y, sd, gain, base and explained variance of some maps, of shape (6, maps)."""
    n, height, width = maps.shape
    centred = maps - maps.mean(axis=(1, 2), keepdims=True)
    length = np.sqrt(np.square(centred).sum(axis=(1, 2)))
    varies = length > 1e-9 * np.abs(maps).max(axis=(1, 2), initial=0) * np.sqrt(height * width)
    unit = centred / np.where(varies, length, 1)[:, None, None]
    tall, least = height / width, 0.5 / width
    columns, rows = np.linspace(0, 1, CENTRES), np.linspace(0, tall, CENTRES)
    widths = np.geomspace(least, WIDEST, WIDTHS)
    grid = np.stack(np.meshgrid(columns, rows, widths, indexing="ij"), axis=-1).reshape(-1, 3)
    best = grid[_correlation(unit, grid[None]).argmax(axis=1)]  # (maps, 3)
    step = np.array([1 / CENTRES, tall / CENTRES, np.log(widths[1] / widths[0])])
    around = np.stack(np.meshgrid(*[[-1.0, 0.0, 1.0]] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    low, high = np.array([0.0, 0.0, np.log(least)]), np.array([1.0, tall, np.log(WIDEST)])
    for _ in range(HALVINGS):
        for _ in range(2):  # the best point may lie a step further
            place = np.concatenate([best[:, :2], np.log(best[:, 2:])], axis=1)
            near = np.clip(place[:, None] + step * around, low, high)  # (maps, 27, 3)
            near = np.concatenate([near[..., :2], np.exp(near[..., 2:])], axis=-1)
            best = near[np.arange(n), _correlation(unit, near).argmax(axis=1)]
        step = step / 2
    r = np.maximum(_correlation(unit, best[:, None])[:, 0], 0)
    along_y, along_x = _profiles(best[:, None], height, width)
    bump = along_y[:, 0, :, None] * along_x[:, 0, None]  # (maps, height, width)
    r = np.where(varies, r, 0.0)
    gain = r * length / np.sqrt(np.square(bump - bump.mean(axis=(1, 2), keepdims=True)).sum(axis=(1, 2)))
    base = maps.mean(axis=(1, 2)) - gain * bump.mean(axis=(1, 2))
    explained = np.where(varies, np.square(r), np.nan)
    return np.stack([*np.where(varies, best.T, np.nan), np.where(varies, gain, 0.0), base, explained])


def _profiles(candidates: Floats, height: int, width: int) -> tuple[Floats, Floats]:
    """Return the two factors of each Gaussian, of shapes (maps or 1, candidates, height) and (..., width)."""
    found = []
    for axis, tokens in ((1, height), (0, width)):
        at = (np.arange(tokens) + 0.5) / width
        found.append(np.exp(-0.5 * np.square((at - candidates[..., axis, None]) / candidates[..., 2, None])))
    return found[0], found[1]


def _correlation(unit: Floats, candidates: Floats) -> Floats:
    """Correlate maps of mean 0 and length 1 with Gaussians (maps or 1, candidates, 3): of shape (maps, candidates)."""
    height, width = unit.shape[1:]
    along_y, along_x = _profiles(candidates, height, width)
    if len(candidates) == 1:
        inner = np.einsum("nhw,cw->nhc", unit, along_x[0], optimize=True)
        product = np.einsum("nhc,ch->nc", inner, along_y[0], optimize=True)
    else:
        product = np.einsum("nch,nch->nc", along_y, np.matmul(along_x, unit.transpose(0, 2, 1)))
    total = along_y.sum(axis=-1) * along_x.sum(axis=-1)
    square = np.square(along_y).sum(axis=-1) * np.square(along_x).sum(axis=-1)
    spread = square - total**2 / (height * width)
    return np.asarray(product / np.sqrt(np.maximum(spread, 1e-300)))
