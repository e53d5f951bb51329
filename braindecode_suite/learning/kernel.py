"""Linear kernels of features too wide to hold: inner products streamed over blocks of images, and ridge in the images' space.

Ridge regression on n images needs no more than their inner products: with ``K = U S^2 U'`` the coordinates ``Z = U S`` of the
images have the same inner products as the features, so that every ridge solution, and every held-out error, is the same on Z,
which has n rows and fewer than n columns.
"""

from __future__ import annotations

import numpy as np
import torch

from braindecode_suite.learning.regressors import BLOCK_BYTES, FlatTokens

REGRESSORS_AT_ONCE = 16384
SMALLEST = 1e-6
"""Directions whose variance is a smaller share of the largest's are lost in single precision, and left out."""


def inner_products(
    left: FlatTokens, right: FlatTokens | None = None, *, device: str = "cpu", block_bytes: int = BLOCK_BYTES
) -> np.ndarray:
    """Return inner products of images; those of a block of images with another block at a time.

    Products of a run of regressors are in single precision, their sums in double. Memory is a few times `block_bytes`
    besides the result.

    Parameters
    ----------
    left, right : FlatTokens
        Without `right`, the products of `left` with itself.
    device : str

    Returns
    -------
    array of float64 of shape (left images, right images)
    """
    other = left if right is None else right
    out = np.empty((len(left), len(other)))
    for rows in left.blocks(block_bytes):
        a = torch.from_numpy(left.read(rows)).to(device)
        for columns in other.blocks(block_bytes):
            if right is None and columns.start > rows.start:
                break
            b = a if right is None and columns == rows else torch.from_numpy(other.read(columns)).to(device)
            out[rows, columns] = _product(a, b).cpu().numpy()
            if right is None:
                out[columns, rows] = out[rows, columns].T
    return out


def _product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    total = torch.zeros(len(a), len(b), dtype=torch.float64, device=a.device)
    for part, other in zip(a.split(REGRESSORS_AT_ONCE, 1), b.split(REGRESSORS_AT_ONCE, 1), strict=True):
        total += part @ other.T
    return total


def kernel_coordinates(kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return coordinates of the images of a kernel, and the map to them from inner products with these images.

    Parameters
    ----------
    kernel : array of shape (images, images)
        Of centred features.

    Returns
    -------
    coordinates : array of shape (images, rank)
        ``coordinates @ coordinates.T`` is the kernel, but for directions below `SMALLEST`.
    projection : array of shape (images, rank)
        ``products @ projection`` are the coordinates of images whose inner products (images, training images) are given.

    Examples
    --------
    >>> X = np.array([[1.0, 0.0], [0.0, 2.0], [-1.0, -2.0]])
    >>> Z, projection = kernel_coordinates(X @ X.T)
    >>> Z.shape, bool(np.allclose(X @ X.T @ projection, Z))
    ((3, 2), True)
    """
    values, vectors = np.linalg.eigh(kernel)
    kept = values > SMALLEST * values[-1]
    root = np.sqrt(values[kept])
    return vectors[:, kept] * root, vectors[:, kept] / root
