"""How scores grow with the amount of training data: a straight line in log10 of the amount.

``score = a + b log10(n)``. Accuracy of decoding has been found log-linear in the amount of recording, without a plateau so far (Banville
et al. 2025, arXiv 2501.15322); that is a description of a range, not a law, so that the line is refused beyond twice the data it was
fitted to. Least squares is linear in the scores: every image has a line of its own, the fitted line is their mean, and the interval of any
point on it is that of a mean over images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from braindecode_suite.core.checks import check_finite, check_shape
from braindecode_suite.core.errors import InputError
from braindecode_suite.metrics.bootstrap import Interval, bootstrap_mean
from braindecode_suite.metrics.correlation import Floats

REACH = 2.0
"""How many times the most (and the fraction of the least) data the line is drawn to."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LearningCurve:
    """A fitted line, with what is needed to say how sure it is.

    Attributes
    ----------
    amounts : array of shape (points,)
        Trials, hours or subjects of each trained model.
    scores : array of shape (points, images)
    intercept, slope : Interval
        a, and b: what ten times the data add.
    bend : Interval or None
        Coefficient of ``log10(n)^2`` where it is fitted too: an interval below 0 says that the curve flattens, and the line should not be
        believed. None with two different amounts; with three the parabola goes through their means, so that the bend rests on each of them.
    residual : float
        Root mean square of the points' distances from the line; 0 with one score at each of two amounts.
    """

    amounts: Floats
    scores: Floats
    intercept: Interval
    slope: Interval
    bend: Interval | None
    residual: float
    units: Floats | None
    seed: int

    @property
    def limits(self) -> tuple[float, float]:
        """Least and largest amount that the line is drawn to."""
        return float(self.amounts.min() / REACH), float(self.amounts.max() * REACH)

    def predict(self, amount: float) -> Interval:
        """Return the line's score at an amount of data, with its interval over images.

        Raises
        ------
        InputError
            Beyond twice the data.
        """
        low, high = self.limits
        if not low <= amount <= high:
            raise InputError(
                "`amount`",
                expected=f"from {low:g} to {high:g}, at most {REACH:g} times the data either way",
                found=f"{amount:g}",
                hint="record more before saying more",
            )
        weights = np.array([1.0, np.log10(amount)]) @ _solve(self.amounts, 2)
        return self._mean_over_images(weights)

    def needed(self, score: float) -> float:
        """Return the amount at which the line reaches a score.

        Raises
        ------
        InputError
            Where that is beyond twice the data, or the line does not rise.
        """
        low, high = self.limits
        amount = np.inf
        if self.slope.value > 0:
            exponent = (score - self.intercept.value) / self.slope.value
            amount = float(10.0 ** min(exponent, 300.0))
        if not low <= amount <= high:
            ends = " to ".join(
                f"{self.intercept.value + self.slope.value * np.log10(n):.3g}" for n in (low, high)
            )
            raise InputError(
                "`score`",
                expected=f"a score that the line reaches from {low:g} to {high:g}: {ends}",
                found=f"{score:g}",
            )
        return amount

    def _mean_over_images(self, weights: Floats) -> Interval:
        first = self.intercept
        return bootstrap_mean(
            weights @ self.scores, self.units, over=first.over, seed=self.seed, level=first.level
        )


def learning_curve(
    amounts: ArrayLike,
    scores: ArrayLike,
    units: ArrayLike | None = None,
    *,
    over: str = "image",
    seed: int,
    level: float = 0.95,
) -> LearningCurve:
    """Fit a line to scores over log10 of the amount of data.

    Parameters
    ----------
    amounts : array of shape (points,)
        Trials, hours or subjects that each model was trained on; the same amount several times for several seeds or draws.
    scores : array of shape (points, images)
        Scores of the same test images by each model.
    units : array of shape (images,), optional
        What images belong to, drawn together.
    over : str
    seed : int
    level : float

    Returns
    -------
    LearningCurve
        Its intervals are over images, conditional on the models: draws of training data and seeds show in `residual`.

    Examples
    --------
    >>> curve = learning_curve([100, 1000, 10_000], [[0.1, 0.1], [0.1, 0.3], [0.1, 0.5]], seed=0)
    >>> round(curve.slope.value, 3), round(curve.predict(20_000).value, 3)
    (0.1, 0.33)
    >>> curve.predict(30_000)
    Traceback (most recent call last):
    braindecode_suite.core.errors.InputError: `amount`: expected from 50 to 20000, at most 2 times the data either way; \
found 30000. Hint: record more before saying more
    """
    n, values = np.asarray(amounts, np.float64), np.asarray(scores, np.float64)
    check_shape("amounts", n, "points")
    check_shape("scores", values, "points images", points=len(n))
    check_finite("`amounts`", n)
    check_finite("`scores`", values)
    if not (n > 0).all():
        raise InputError("`amounts`", expected="amounts above 0", found=f"{n.min():g}")
    different = len(np.unique(n))
    if different < 2:
        raise InputError("`amounts`", expected="at least 2 different amounts", found=str(different))

    def interval(weights: Floats) -> Interval:
        return bootstrap_mean(weights @ values, units, over=over, seed=seed, level=level)

    a, b = _solve(n, 2)
    mean = values.mean(axis=1)
    distance = mean - (a @ mean + b @ mean * np.log10(n))
    return LearningCurve(
        amounts=n,
        scores=values,
        intercept=interval(a),
        slope=interval(b),
        bend=interval(_solve(n, 3)[2]) if different >= 3 else None,
        residual=float(np.sqrt(np.square(distance).mean())),
        units=None if units is None else np.asarray(units),
        seed=seed,
    )


def _solve(amounts: Floats, n_terms: int) -> Floats:
    """Return the weights of the points in each coefficient of the least-squares fit, of shape (terms, points)."""
    design = np.log10(amounts)[:, None] ** np.arange(n_terms)
    return np.asarray(np.linalg.pinv(design))
