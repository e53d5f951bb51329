"""From the weights of a linear decoder to what it says of the brain: activation patterns."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from braindecode_suite.core.checks import check_shape

Floats = NDArray[np.float64]


def activation_patterns(X: Floats, outputs: Floats) -> Floats:
    """Return how strongly each feature goes along with each output of a linear decoder, ``cov(X) w / sd(X w)``.

    A weight may be large on a feature that only cancels noise, and small on one that carries the signal twice; the pattern
    shows where the signal is (Haufe et al. 2014, NeuroImage 87, 96-110, equation 6 for one output, with the output at unit
    variance). ``cov(X) w`` is the covariance of the features with the output, so that the weights themselves are not needed.

    Parameters
    ----------
    X : array of shape (examples, features)
        The rows that the decoder was fitted on.
    outputs : array of shape (examples, outputs)
        ``X w`` plus a constant, a column an output.

    Returns
    -------
    array of shape (outputs, features)
        Change of the feature, in its own unit, with one standard deviation of the output; 0 for an output that is constant.

    Examples
    --------
    >>> X = np.array([[1.0, 0.0], [-1.0, 0.0], [1.0, 2.0], [-1.0, 2.0]])
    >>> activation_patterns(X, X @ np.array([[2.0], [0.0]])).tolist()
    [[1.0, 0.0]]
    """
    check_shape("X", X, "examples features")
    check_shape("outputs", outputs, "examples outputs", examples=len(X))
    centred = outputs - outputs.mean(axis=0)
    deviation = np.sqrt(np.mean(centred**2, axis=0))
    scaled = np.divide(centred, deviation, out=np.zeros_like(centred), where=deviation > 1e-12)
    return np.asarray(scaled.T @ (X - X.mean(axis=0)) / len(X))
