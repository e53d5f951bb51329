"""Group statistics: every subject listed, an interval where there are enough of them, and how common the effect is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.stats import beta, binomtest, t

from braindecode_suite.core.checks import check_finite, check_shape
from braindecode_suite.core.errors import InputError
from braindecode_suite.metrics.bootstrap import Interval, bootstrap_mean

MIN_FOR_T, MIN_FOR_BOOTSTRAP = 4, 10


@dataclass(frozen=True, kw_only=True)
class Prevalence:
    """How common an effect is in the population that the subjects come from.

    Attributes
    ----------
    k, n : int
        Subjects significant, and tested.
    alpha : float
        Level of each subject's test.
    value : float
        Most probable prevalence.
    low, high : float
        Highest posterior density interval.
    level : float
        Its probability.
    p_value : float
        Of k or more among n under no effect in anybody (binomial).
    """

    k: int
    n: int
    alpha: float
    value: float
    low: float
    high: float
    level: float
    p_value: float

    def __str__(self) -> str:
        return (
            f"{self.k} of {self.n} significant at {self.alpha:g}; prevalence {self.value:.2f}, "
            f"{self.level:.0%} interval [{self.low:.2f}, {self.high:.2f}]"
        )


@dataclass(frozen=True, kw_only=True)
class GroupSummary:
    """A score over subjects.

    Attributes
    ----------
    subjects : tuple of str
    values : tuple of float
        One per subject, all of them listed.
    interval : Interval
        Its value is the mean over subjects; its ends are NaN with fewer than four.
    method : str
        ``none``, ``t`` or ``bootstrap``.
    prevalence : Prevalence or None
        None without p-values.
    """

    subjects: tuple[str, ...]
    values: tuple[float, ...]
    interval: Interval
    method: str
    prevalence: Prevalence | None


def group_summary(
    subjects: Sequence[str],
    values: ArrayLike,
    p_values: ArrayLike | None = None,
    *,
    seed: int,
    alpha: float = 0.05,
    level: float = 0.95,
) -> GroupSummary:
    """Summarise one score over subjects: no interval below 4, Student's t from 4, a bootstrap of subjects from 10.

    Parameters
    ----------
    subjects : sequence of str
    values, p_values : array of shape (subjects,)
    seed : int
        For the bootstrap.
    alpha : float
        Level at which a subject counts as significant.
    level : float
        Of the interval.

    Returns
    -------
    GroupSummary
    """
    scores = np.asarray(values, dtype=np.float64)
    check_shape("values", scores, "subjects", subjects=len(subjects))
    check_finite("`values`", scores)
    if len(set(subjects)) < len(subjects) or not len(subjects):
        raise InputError("`subjects`", expected="each subject once", found=", ".join(subjects) or "none")
    method = "none"
    interval = Interval(
        value=float(scores.mean()),
        low=np.nan,
        high=np.nan,
        level=level,
        over="subject",
        n_units=len(scores),
        n_rows=len(scores),
    )
    if len(scores) >= MIN_FOR_BOOTSTRAP:
        method, interval = "bootstrap", bootstrap_mean(scores, over="subject", seed=seed, level=level)
    elif len(scores) >= MIN_FOR_T:
        method, interval = "t", t_interval(scores, level=level)
    found = None
    if p_values is not None:
        p = np.asarray(p_values, dtype=np.float64)
        check_shape("p_values", p, "subjects", subjects=len(subjects))
        check_finite("`p_values`", p)
        found = prevalence(int((p <= alpha).sum()), len(p), alpha=alpha)
    return GroupSummary(
        subjects=tuple(subjects),
        values=tuple(scores.tolist()),
        interval=interval,
        method=method,
        prevalence=found,
    )


def t_interval(values: ArrayLike, *, level: float = 0.95, over: str = "subject") -> Interval:
    """Return the mean with Student's interval, mean +- t sd / sqrt(n).

    Parameters
    ----------
    values : array of shape (subjects,)
        At least four.

    Returns
    -------
    Interval
    """
    scores = np.asarray(values, dtype=np.float64)
    check_shape("values", scores, "subjects")
    check_finite("`values`", scores)
    n = len(scores)
    if n < MIN_FOR_T:
        raise InputError("`values`", expected=f"at least {MIN_FOR_T} subjects for a t-interval", found=str(n))
    half = float(t.ppf((1 + level) / 2, n - 1) * scores.std(ddof=1) / np.sqrt(n))
    mean = float(scores.mean())
    return Interval(
        value=mean, low=mean - half, high=mean + half, level=level, over=over, n_units=n, n_rows=n
    )


def prevalence(k: int, n: int, *, alpha: float = 0.05, level: float = 0.95) -> Prevalence:
    """Estimate the share of the population that shows an effect, from k of n subjects significant.

    With a flat prior on the prevalence g and tests that never miss, each subject is significant with probability
    q = alpha + (1 - alpha) g, so q has a Beta(k + 1, n - k + 1) posterior cut to [alpha, 1] (Ince, Paton, Kay and
    Schyns 2021, eLife 10:e62461). Since tests do miss, this is a lower bound in spirit.

    Parameters
    ----------
    k, n : int
    alpha : float
    level : float
        Probability of the highest posterior density interval.

    Returns
    -------
    Prevalence

    Examples
    --------
    >>> print(prevalence(4, 4))
    4 of 4 significant at 0.05; prevalence 1.00, 95% interval [0.53, 1.00]
    """
    if not (n >= 1 and 0 <= k <= n):
        raise InputError("`k`", expected=f"between 0 and the {n} subjects tested", found=str(k))
    for name, share in (("alpha", alpha), ("level", level)):
        if not 0 < share < 1:
            raise InputError(f"`{name}`", expected="a share between 0 and 1", found=str(share))
    posterior = beta(k + 1, n - k + 1)
    floor = float(posterior.cdf(alpha))
    mass = 1 - floor
    mode = max(k / n, alpha)

    def end(low: float) -> float:
        """Return where an interval that starts at `low` holds `level` of the truncated posterior."""
        return float(posterior.ppf(min(posterior.cdf(low) + level * mass, 1.0)))

    latest = min(mode, float(posterior.ppf(floor + (1 - level) * mass)))

    def excess(low: float) -> float:
        return float(posterior.pdf(low) - posterior.pdf(end(low)))

    if excess(alpha) >= 0:  # falls from alpha on: the interval starts there
        low = alpha
    elif excess(latest) <= 0:  # still rising: the interval ends at 1
        low = latest
    else:
        low = float(brentq(excess, alpha, latest, xtol=1e-12))
    return Prevalence(
        k=k,
        n=n,
        alpha=alpha,
        value=(mode - alpha) / (1 - alpha),
        low=(low - alpha) / (1 - alpha),
        high=(end(low) - alpha) / (1 - alpha),
        level=level,
        p_value=float(binomtest(k, n, alpha, alternative="greater").pvalue),
    )
