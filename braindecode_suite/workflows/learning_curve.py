"""What more training data add: models fitted to more and more of them, such as shares of the training images, and a line in the logarithm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from braindecode_suite.core.shares import Portion, naming_share, portions
from braindecode_suite.core.split import Split
from braindecode_suite.core.study import Study
from braindecode_suite.metrics.bootstrap import Interval, bootstrap_mean
from braindecode_suite.metrics.learning_curve import REACH, LearningCurve, learning_curve
from braindecode_suite.metrics.retrieval import chance_top_k
from braindecode_suite.workflows.decoding import Decoded, Decoding
from braindecode_suite.workflows.fitting import Prepared
from braindecode_suite.workflows.oracle import Ceilings
from braindecode_suite.workflows.steps import Steps

METRIC = "retrieval_brain_to_image_top1"
DRAWN_AT = 25
"""Amounts at which the line is drawn."""
NOTES = (
    "Amounts are random shares of the training images, whole and over all sessions; smaller ones are part of larger ones. Validation and test "
    "images are the same everywhere.",
    "Every point is of one fit to one draw, for retrieval alone: the encoder's first seed, and the baseline. Intervals are over images, "
    "conditional on these models.",
    f"The line is drawn to {REACH:g} times the data either way, and not beyond.",
)


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """What there is more and more of along a curve.

    Attributes
    ----------
    name : str
    unit : str
        The same in short.
    times : int
        What so many times the amount adds is told, and the bend is in the same unit.
    least : float
        The line starts no lower.
    """

    name: str
    unit: str
    times: int
    least: float = 0.0


TRIALS = Quantity(name="training trials", unit="trials", times=10)


def prepare_portions(
    decoding: Decoding, study: Study, split: Split, shares: Sequence[float]
) -> list[tuple[Portion, Prepared]]:
    """Prepare shares of the training images before anything is fitted: one that cannot be had ends the run at once."""
    found = []
    for portion in portions(split, shares, seed=decoding.job.seed):
        with naming_share(portion.share):
            found.append((portion, decoding.prepare(study, portion.split)))
    return found


def score_portions(
    steps: Steps, decoding: Decoding, decoded: Decoded, some: Sequence[tuple[Portion, Prepared]]
) -> dict[str, Any]:
    """Add the scores of fits to shares of the training images; return what `curve_facts` does, with lines through them."""
    gallery, settings, config = decoded.true["test"], decoded.settings, decoding.config
    oracle = Ceilings(retrieval=settings.ceilings)  # the same however much is trained on
    values: dict[str, list[np.ndarray]] = {config.encoder: [], config.baseline: []}
    for portion, prepared in some:
        where = f" ({portion.trials} training trials)"
        # images that look like a training image of the whole, so that the same are left out at every share
        similar = settings.near_duplicates
        scored = decoding.brief(steps, prepared, decoded.targets, where, similar, oracle)
        decoded.results.scores += [replace(score, split=named(portion)) for score in scored.scores]
        for model, found in values.items():
            found.append(hits(scored.rows, model, gallery.ids))
    return curve_facts(
        TRIALS,
        [portion_facts(portion) for portion, _ in some],
        {model: np.stack(found) for model, found in values.items()},
        settings.units,
        over=settings.unit,
        seed=decoding.job.seed,
        notes=NOTES,
    )


def portion_facts(portion: Portion) -> dict[str, Any]:
    """Return a portion as a point of a curve over training trials."""
    return {
        "amount": portion.trials,
        "share": portion.share,
        "trials": portion.trials,
        "images": portion.images,
        "split": named(portion),
    }


def named(portion: Portion) -> str:
    """Return the name that a portion's rows have in the column ``split``.

    Examples
    --------
    The names of two portions of one split differ by their trials: ``as-given (240 training trials)``.
    """
    return f"{portion.split.protocol} ({portion.trials} training trials)"


def hits(rows: Sequence[Mapping[str, Any]], model: str, ids: np.ndarray) -> np.ndarray:
    """Return whether each image came first in the full gallery, centred: array of shape (images,).

    Parameters
    ----------
    rows : sequence of mapping
        Of `RetrievalScores.rows`, of one fit a model.
    model : str
    ids : array of shape (images,)
    """
    ranks = {
        row["stimulus_id"]: row["rank"]
        for row in rows
        if row["model"] == model
        and row["scorer"] == "cosine-centred"
        and row["direction"] == "brain_to_image"
    }
    return np.array([ranks[i] == 0 for i in ids], float)


def curve_facts(
    quantity: Quantity,
    points: Sequence[Mapping[str, Any]],
    values: Mapping[str, np.ndarray],
    units: np.ndarray | None,
    *,
    over: str,
    seed: int,
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """Fit a line for each model and return what the report draws.

    Parameters
    ----------
    quantity : Quantity
    points : sequence of mapping
        Each with ``amount`` of the quantity, and whatever else is to be known of it.
    values : mapping of model to array of shape (points, images)
        Whether each test image came first.
    units : array of shape (images,) or None
        What images belong to, drawn together.
    over : str
        Name of that.
    seed : int
    notes : sequence of str
    """
    gallery = next(iter(values.values())).shape[1]
    amounts = [float(point["amount"]) for point in points]
    return {
        "of": quantity.name,
        "unit": quantity.unit,
        "times": quantity.times,
        "metric": METRIC,
        "gallery": gallery,
        "chance": chance_top_k(gallery, 1),
        "over": over,
        "amounts": [dict(point) for point in points],
        "models": [
            {
                "model": model,
                "points": [_plain(bootstrap_mean(v, units, over=over, seed=seed)) for v in scores],
                **_line(quantity, learning_curve(amounts, scores, units, over=over, seed=seed)),
            }
            for model, scores in values.items()
        ],
        "notes": list(notes),
    }


def _line(quantity: Quantity, curve: LearningCurve) -> dict[str, Any]:
    limits = (max(curve.limits[0], quantity.least), curve.limits[1])
    amounts = np.geomspace(*limits, DRAWN_AT)
    amounts[[0, -1]] = limits  # rounding must not lead beyond them
    step = float(np.log10(quantity.times))
    return {
        "slope": _plain(curve.slope),
        "adds": _plain(curve.slope, step),
        "bend": None if curve.bend is None else _plain(curve.bend, step**2),
        "residual": None if len(curve.amounts) == 2 else curve.residual,  # a line goes through any two points
        "doubled": _plain(curve.predict(limits[1])),
        "line": [{"amount": float(n), **_plain(curve.predict(float(n)))} for n in amounts],
    }


def _plain(interval: Interval, scale: float = 1.0) -> dict[str, float]:
    return {"value": scale * interval.value, "low": scale * interval.low, "high": scale * interval.high}
