"""Wide latents through a few principal components of the training images' latents."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from braindecode_suite.core.checks import check_shape

BLOCK = 512
MOST_IMAGES = 4096
"""Images that the components are computed from, evenly spaced over those there are."""


def principal_basis(rows: Callable[[np.ndarray], np.ndarray], n_rows: int, rank: int) -> np.ndarray:
    """Return the leading principal directions of centred rows that are too wide to be held at once.

    From the eigenvectors of the Gram matrix of the rows, in double precision.

    Parameters
    ----------
    rows : callable
        Numbers of rows to an array of shape (rows, width); centred.
    n_rows, rank : int
        At most so many directions as the rows span come back.

    Returns
    -------
    array of float32 of shape (rank, width)
        Orthonormal rows, the strongest first.
    """
    some = np.unique(np.linspace(0, n_rows - 1, min(n_rows, MOST_IMAGES)).astype(int))
    blocks = [some[start : start + BLOCK] for start in range(0, len(some), BLOCK)]
    gram = np.empty((len(some), len(some)))
    for a, left in enumerate(blocks):
        x = rows(left).astype(np.float64)
        for b, right in enumerate(blocks[a:], start=a):
            y = x if a == b else rows(right).astype(np.float64)
            i, j = slice(a * BLOCK, a * BLOCK + len(left)), slice(b * BLOCK, b * BLOCK + len(right))
            gram[i, j] = x @ y.T
            gram[j, i] = gram[i, j].T
    values, vectors = np.linalg.eigh(gram)
    spanned = int((values > 1e-7 * max(values[-1], 1e-30)).sum())
    values, vectors = values[::-1][: min(rank, spanned)], vectors[:, ::-1][:, : min(rank, spanned)]
    parts = (
        vectors[a * BLOCK : a * BLOCK + len(block)].T @ rows(block).astype(np.float64)
        for a, block in enumerate(blocks)
    )
    basis = next(parts)
    for part in parts:
        basis += part
    return np.asarray(basis / np.sqrt(values)[:, None], dtype=np.float32)


class LowRankLatents:
    """Scaled true latents of images as coefficients on a basis, and what of each the basis leaves out.

    Parameters
    ----------
    of : callable
        Stimulus ids to scaled latents of shape (ids, tokens, width).
    ids : sequence of str
        All that will be asked for.
    basis : array of float32 of shape (rank, tokens * width)
        Orthonormal rows.
    """

    def __init__(
        self, of: Callable[[Sequence[str]], np.ndarray], ids: Sequence[str], basis: np.ndarray
    ) -> None:
        check_shape("basis", basis, "rank dimensions")
        unique = list(dict.fromkeys(ids))
        self.position = {stimulus_id: k for k, stimulus_id in enumerate(unique)}
        self.coefficients = np.empty((len(unique), len(basis)), np.float32)
        self.square = np.empty(len(unique), np.float64)
        for start in range(0, len(unique), BLOCK):
            rows = of(unique[start : start + BLOCK])
            flat = rows.reshape(len(rows), -1)
            self.coefficients[start : start + BLOCK] = flat @ basis.T
            self.square[start : start + BLOCK] = np.square(flat, dtype=np.float64).sum(axis=1)

    def of(self, ids: Sequence[str]) -> np.ndarray:
        """Return coefficients of shape (ids, rank)."""
        return self.coefficients[[self.position[i] for i in ids]]

    def squares(self, ids: Sequence[str]) -> np.ndarray:
        """Return the squared length of each image's whole latents, of shape (ids,)."""
        return self.square[[self.position[i] for i in ids]]
