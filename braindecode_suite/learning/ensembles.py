"""Models combined unit by unit."""

from __future__ import annotations

import numpy as np

from braindecode_suite.core.checks import check_shape


def softmax_weights(scores: np.ndarray, temperature: float) -> np.ndarray:
    """Weigh models by ``softmax(temperature * score)``, unit by unit (Adeli et al. 2025: temperature 50, r as the score).

    The scores must be of rows that neither fitted nor stopped any of the models.

    Parameters
    ----------
    scores : array of shape (models, units)
    temperature : float
        0 is the plain mean; a large one takes the best model of each unit.

    Returns
    -------
    array of float32 of shape (models, units)
        Sums to 1 over models.

    Examples
    --------
    >>> softmax_weights(np.array([[0.5, 0.1], [0.5, 0.3]]), 50.0).round(3).tolist()
    [[0.5, 0.0], [0.5, 1.0]]
    """
    check_shape("scores", scores, "models units")
    raised = np.exp(temperature * (scores - scores.max(axis=0)))
    return np.asarray(raised / raised.sum(axis=0), np.float32)
