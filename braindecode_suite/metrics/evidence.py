"""From similarities on growing windows to the probability of each candidate, calibrated on trials whose picture is known.

Windows that grow from one onset share most of their samples, so that what they say is not independent and the logarithms of their
probabilities may not be added. Instead one cumulative score is kept for each candidate, ``c_w = s_w + memory * c_(w-1)``, and how
much such a score is worth after window w is learned: ``p = softmax(b_w c_w)``, with ``b_w`` of greatest likelihood over the
calibration trials (temperature scaling, Guo et al. 2017, window by window), and `memory` the one of a few under which
held-out calibration trials are likeliest; 0 forgets everything but the newest window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from braindecode_suite.core.checks import check_finite, check_shape
from braindecode_suite.core.errors import InputError

Floats = NDArray[np.float64]

MEMORIES = (0.0, 0.5, 0.8, 1.0)
FOLDS = 5
BINS = 10
FEWEST = 10
"""Calibration trials that there must be."""
LARGEST = 1e4
"""Inverse temperatures are at most this times one over the standard deviation of the scores."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """What cumulative scores are worth.

    Attributes
    ----------
    memory : float
        How much of the last window's cumulative score enters the next.
    weights : array of shape (windows,)
        Inverse temperature after each window; 0 where the scores say nothing.
    calibration_error : float
        Expected calibration error of the most probable candidate over all windows, of held-out calibration trials.
    log_loss : array of shape (windows,)
        Mean of ``-log p`` of the picture seen, of held-out calibration trials; ``log(candidates)`` is knowing nothing.
    n_trials, n_candidates : int
        Of the calibration.
    """

    memory: float
    weights: Floats
    calibration_error: float
    log_loss: Floats
    n_trials: int
    n_candidates: int

    def add(self, before: Floats | None, scores: Floats, windows: int = 1) -> Floats:
        """Return the cumulative score after the next window, array of shape (candidates,).

        Parameters
        ----------
        before : array of shape (candidates,) or None
            After the last window, None before the first.
        scores : array of shape (candidates,)
            Similarities on the window.
        windows : int
            How many windows further this one is; those that were skipped count as if they had said the same.
        """
        total = np.zeros_like(scores) if before is None else before
        for _ in range(windows if self.memory else 1):
            total = scores + self.memory * total
        return total

    def probabilities(self, total: Floats, window: int) -> Floats:
        """Return the probability of each candidate after a window, given that one of them was seen."""
        logits = self.weights[window] * total
        return np.asarray(np.exp(logits - logsumexp(logits)))


def cumulative(similarities: ArrayLike, memory: float) -> Floats:
    """Return cumulative scores of shape (trials, windows, candidates) from similarities of that shape.

    Examples
    --------
    >>> cumulative([[[1.0], [1.0], [1.0]]], 0.5).ravel().tolist()
    [1.0, 1.5, 1.75]
    """
    total = np.array(similarities, np.float64)
    for window in range(1, total.shape[1]):
        total[:, window] += memory * total[:, window - 1]
    return total


def fit_evidence(
    similarities: ArrayLike,
    truth: ArrayLike,
    groups: ArrayLike | None = None,
    memories: Sequence[float] = MEMORIES,
) -> Evidence:
    """Learn from calibration trials what similarities on growing windows are worth.

    Parameters
    ----------
    similarities : array of shape (trials, windows, candidates)
        Calibration trials: none that the encoder was fitted on.
    truth : array of int of shape (trials,)
        Candidate that was seen.
    groups : array of shape (trials,), optional
        Trials of a group are held out together; by default each is its own. The stimulus id keeps repeats together.
    memories : sequence of float

    Returns
    -------
    Evidence
        Fitted on all trials; `calibration_error` and `log_loss` are of trials held out in five folds.
    """
    values, seen = np.asarray(similarities, np.float64), np.asarray(truth)
    check_shape("similarities", values, "trials windows candidates")
    check_finite("`similarities`", values)
    n, n_windows, n_candidates = values.shape
    check_shape("truth", seen, "trials", trials=n)
    if n < FEWEST or n_candidates < 2:
        raise InputError(
            "calibration",
            expected=f"at least {FEWEST} trials and 2 candidates",
            found=f"{n} trials, {n_candidates} candidates",
        )
    if seen.min() < 0 or seen.max() >= n_candidates:
        raise InputError("`truth`", expected=f"numbers from 0 to {n_candidates - 1}", found=str(seen.max()))
    _, group = np.unique(
        np.arange(n) if groups is None else np.asarray(groups).astype(str), return_inverse=True
    )
    fold = group % min(FOLDS, group.max() + 1)
    if fold.max() < 1:
        raise InputError("calibration", expected="trials of at least 2 groups", found="1")
    best: tuple[float, float, Floats] | None = None
    for memory in memories:
        total = cumulative(values, memory)
        held_out = np.empty((n, n_windows, n_candidates))
        for k in range(fold.max() + 1):
            weights = fit_weights(total[fold != k], seen[fold != k])
            held_out[fold == k] = _log_probabilities(weights, total[fold == k])
        loss = float(-held_out[np.arange(n), :, seen].mean())
        if best is None or loss < best[0] - 1e-12:
            best = loss, memory, held_out
    assert best is not None
    _, memory, logs = best
    return Evidence(
        memory=memory,
        weights=fit_weights(cumulative(values, memory), seen),
        calibration_error=calibration_error(
            np.exp(logs).reshape(-1, n_candidates), np.repeat(seen, n_windows)
        ),
        log_loss=-logs[np.arange(n), :, seen].mean(axis=0),
        n_trials=n,
        n_candidates=n_candidates,
    )


def fit_weights(total: Floats, truth: NDArray[np.int64]) -> Floats:
    """Return for each window the inverse temperature of greatest likelihood, at least 0.

    The likelihood is concave in it: one maximum.

    Parameters
    ----------
    total : array of shape (trials, windows, candidates)
    truth : array of int of shape (trials,)
    """
    weights = np.zeros(total.shape[1])
    for window in range(total.shape[1]):
        scores = total[:, window]
        own = scores[np.arange(len(scores)), truth]
        scale = float((scores - scores.mean(axis=1, keepdims=True)).std())
        if scale == 0 or not _rises(scores, own):
            continue

        def loss(log_weight: float, scores: Floats = scores, own: Floats = own) -> float:
            weight = np.exp(log_weight)
            return float((logsumexp(weight * scores, axis=1) - weight * own).mean())

        middle, reach = -np.log(scale), np.log(LARGEST)
        weights[window] = np.exp(
            minimize_scalar(loss, bounds=(middle - reach, middle + reach), method="bounded").x
        )
    return weights


def _rises(scores: Floats, own: Floats) -> bool:
    """Say whether the likelihood rises at weight 0: the picture seen scores above the mean candidate."""
    return bool((own - scores.mean(axis=1)).mean() > 0)


def _log_probabilities(weights: Floats, total: Floats) -> Floats:
    logits = weights[None, :, None] * total
    return np.asarray(logits - logsumexp(logits, axis=2, keepdims=True))


def calibration_error(probabilities: ArrayLike, truth: ArrayLike, bins: int = BINS) -> float:
    """Return the expected calibration error: the mean, over bins of confidence, of |share right - confidence| (Guo et al. 2017).

    Bins hold equally many trials.

    Parameters
    ----------
    probabilities : array of shape (trials, candidates)
    truth : array of int of shape (trials,)
    bins : int

    Examples
    --------
    >>> calibration_error([[0.75, 0.25]] * 4, [0, 0, 0, 1], bins=1)
    0.0
    """
    p, seen = np.asarray(probabilities, np.float64), np.asarray(truth)
    check_shape("probabilities", p, "trials candidates")
    check_shape("truth", seen, "trials", trials=len(p))
    confidence, right = p.max(axis=1), p.argmax(axis=1) == seen
    order = np.argsort(confidence, kind="stable")
    parts = np.array_split(order, min(bins, len(p)))
    gaps = [abs(right[part].mean() - confidence[part].mean()) * len(part) for part in parts]
    return float(sum(gaps) / len(p))
