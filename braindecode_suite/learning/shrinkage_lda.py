"""Linear discriminant analysis with a shrunk covariance, in closed form for more features than examples."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from braindecode_suite.core.checks import check_shape
from braindecode_suite.core.errors import InputError

Floats = NDArray[np.float64]
SMALLEST = 1e-10  # share of the mean variance below which a feature carries nothing


def ledoit_wolf_shrinkage(X: Floats) -> tuple[float, float]:
    """Return the shrinkage that Ledoit and Wolf (2004) derive for the covariance of centred rows, and the mean variance.

    Everything comes from the smaller of the Gram matrix of the rows and that of the columns.

    Parameters
    ----------
    X : array of shape (examples, features)
        Centred columns.

    Returns
    -------
    shrinkage, mean variance : float
    """
    n, p = X.shape
    trace = float(np.sum(X**2)) / n
    mean = trace / p
    gram = X @ X.T if n <= p else X.T @ X
    squares = float(np.sum(gram**2)) / n**2  # squared Frobenius norm of the covariance
    fourth = float(np.sum(np.sum(X**2, axis=1) ** 2)) / n
    beta = (fourth - squares) / (p * n)
    delta = (squares - 2 * mean * trace + p * mean**2) / p
    return (min(beta, delta) / delta if delta > 0 and beta > 0 else 0.0), mean


def shrinkage_lda(X: Floats, y: NDArray[np.int64], Z: Floats) -> NDArray[np.int64]:
    """Classify rows of `Z` by the largest of the discriminant functions fitted on `X` (`discriminants`).

    Parameters
    ----------
    X : array of shape (train, features)
    y : array of int of shape (train,)
        Classes; every one that occurs must occur at least twice.
    Z : array of shape (test, features)

    Returns
    -------
    array of int of shape (test,)

    Examples
    --------
    >>> X = np.array([[0.0, 1.0], [0.2, 0.0], [3.0, 1.0], [3.3, 0.1]])
    >>> shrinkage_lda(X, np.array([4, 4, 7, 7]), np.array([[0.1, 0.4], [2.9, 0.6]])).tolist()
    [4, 7]
    """
    check_shape("Z", Z, "test features", features=X.shape[1])
    classes, weights, offsets = discriminants(X, y)
    return np.asarray(classes[np.argmax(Z @ weights.T + offsets, axis=1)])


def discriminants(X: Floats, y: NDArray[np.int64]) -> tuple[NDArray[np.int64], Floats, Floats]:
    """Return the linear discriminant functions ``x' S^-1 m_k - m_k' S^-1 m_k / 2 + log p_k``.

    The covariance S is the mean over classes, weighted by their frequency, of each class's own Ledoit-Wolf estimate on
    standardised features: what scikit-learn's ``LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")`` does. S is a
    diagonal plus a matrix of rank below the number of examples, so that S^-1 follows from Woodbury's identity.

    Parameters
    ----------
    X : array of shape (train, features)
    y : array of int of shape (train,)

    Returns
    -------
    classes : array of int of shape (classes,)
    weights : array of shape (classes, features)
    offsets : array of shape (classes,)
    """
    check_shape("X", X, "train features")
    check_shape("y", y, "train", train=len(X))
    classes, index, counts = np.unique(y, return_inverse=True, return_counts=True)
    if len(classes) < 2 or counts.min() < 2:
        raise InputError(
            "`y`",
            expected="at least two classes, each with at least two training examples",
            found=", ".join(f"{n} of class {k}" for k, n in zip(classes, counts, strict=True)),
        )
    means = np.stack([X[index == k].mean(axis=0) for k in range(len(classes))])  # (classes, features)
    residuals = X - means[index]
    diagonal = np.zeros(X.shape[1])
    factor = np.empty_like(residuals)  # factor' factor is the part of S that is not diagonal
    for k, n in enumerate(counts):
        own = residuals[index == k]
        variance = np.mean(own**2, axis=0)
        scale = np.where(variance > 0, np.sqrt(variance), 1.0)
        shrinkage, mean = ledoit_wolf_shrinkage(own / scale)
        share = n / len(X)
        diagonal += share * shrinkage * mean * scale**2
        factor[index == k] = own * np.sqrt(share * (1 - shrinkage) / n)
    total = diagonal + np.sum(factor**2, axis=0)
    diagonal = np.maximum(diagonal, SMALLEST * (total.mean() or 1.0))
    scaled = means / diagonal  # (classes, features)
    inner = (factor / diagonal) @ factor.T  # (train, train)
    inner[np.diag_indices_from(inner)] += 1
    weights = scaled - (np.linalg.solve(inner, factor @ scaled.T).T @ factor) / diagonal
    offsets = -0.5 * np.sum(weights * means, axis=1) + np.log(counts / len(X))
    return classes, weights, offsets
