"""Gaussian receptive fields on the image, and features pooled by them (St-Yves & Naselaris 2018).

Places are shares of the image: x from 0 (left) to 1 (right), y from 0 (top) to 1 (bottom); sizes are shares of its width and
height alike. Feature maps of any resolution are pooled by the same field.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from braindecode_suite.core.checks import check_shape
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.features import Grid, Rows
from braindecode_suite.learning.regressors import token_blocks


def candidate_fields(n_centres: int, sigmas: Sequence[float]) -> np.ndarray:
    """Return candidate fields: for each size, centres on a square grid over the image.

    Parameters
    ----------
    n_centres : int
        Along each side; the first and the last lie half a step inside the image.
    sigmas : sequence of float
        Standard deviations.

    Returns
    -------
    array of shape (fields, 3)
        x, y and sigma of each.

    Examples
    --------
    >>> candidate_fields(2, [0.1]).tolist()
    [[0.25, 0.25, 0.1], [0.75, 0.25, 0.1], [0.25, 0.75, 0.1], [0.75, 0.75, 0.1]]
    """
    if not sigmas or min(sigmas) <= 0:
        raise InputError("`sigmas`", expected="positive sizes", found=str(list(sigmas)))
    centres = (np.arange(n_centres) + 0.5) / n_centres
    sigma, y, x = np.meshgrid(np.asarray(sigmas, float), centres, centres, indexing="ij")
    return np.stack([x.ravel(), y.ravel(), sigma.ravel()], axis=1)


def token_places(grid: Grid) -> np.ndarray:
    """Return x and y of the middle of each token of the grid, (height * width, 2); padding at the borders is no image."""
    seen = grid.mask[int(grid.has_cls) :].reshape(grid.height, grid.width)
    across, down = np.flatnonzero(seen.any(axis=0)), np.flatnonzero(seen.any(axis=1))
    if not len(across):
        raise InputError("`features`", expected="tokens that lie on the image", found="none")
    x = (np.arange(grid.width) - across[0] + 0.5) / (across[-1] - across[0] + 1)
    y = (np.arange(grid.height) - down[0] + 0.5) / (down[-1] - down[0] + 1)
    return np.stack([np.tile(x, grid.height), np.repeat(y, grid.width)], axis=1)


def field_weights(grid: Grid, fields: np.ndarray) -> np.ndarray:
    """Return the weight of each token in each field: its Gaussian at the token's middle, with sum 1.

    Fields smaller than a token take the nearest. The class token and tokens that show padding weigh nothing.

    Parameters
    ----------
    grid : Grid
    fields : array of shape (fields, 3)

    Returns
    -------
    array of float32 of shape (fields, tokens)

    Examples
    --------
    >>> field_weights(Grid(1, 2), np.array([[0.25, 0.5, 0.01], [0.5, 0.5, 1.0]])).tolist()
    [[1.0, 0.0], [0.5, 0.5]]
    """
    check_shape("fields", fields, "fields 3")
    places = token_places(grid)
    square = np.square(places[None] - fields[:, None, :2]).sum(axis=2)  # (fields, placed tokens)
    exponent = -square / (2 * fields[:, 2:] ** 2)
    exponent[:, ~grid.mask[int(grid.has_cls) :]] = -np.inf
    raised = np.exp(exponent - exponent.max(axis=1, keepdims=True))
    weights = np.zeros((len(fields), grid.tokens), np.float32)
    weights[:, int(grid.has_cls) :] = raised / raised.sum(axis=1, keepdims=True)
    return weights


def pool_by_fields(features: Rows, weights: np.ndarray) -> np.ndarray:
    """Pool tokens by fields, in one pass over the images.

    Parameters
    ----------
    features : Rows of shape (images, tokens, width)
    weights : array of shape (fields, tokens)

    Returns
    -------
    array of float32 of shape (fields, images, width)
    """
    check_shape("weights", weights, "fields tokens", tokens=features.shape[1])
    pooled = np.empty((len(weights), len(features), features.shape[2]), np.float32)
    for places, block in token_blocks(features):
        pooled[:, places] = (weights @ block).swapaxes(0, 1)
    return pooled
