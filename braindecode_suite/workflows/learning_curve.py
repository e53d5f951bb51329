"""What more training trials add: models fitted to shares of the training images, and a line in the logarithm of the trials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
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
        [portion for portion, _ in some],
        {model: np.stack(found) for model, found in values.items()},
        settings.units,
        over=settings.unit,
        seed=decoding.job.seed,
    )


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
    portions: Sequence[Portion],
    values: Mapping[str, np.ndarray],
    units: np.ndarray | None,
    *,
    over: str,
    seed: int,
) -> dict[str, Any]:
    """Fit a line for each model and return what the report draws.

    Parameters
    ----------
    portions : sequence of Portion
    values : mapping of model to array of shape (portions, images)
        Whether each test image came first.
    units : array of shape (images,) or None
        What images belong to, drawn together.
    over : str
        Name of that.
    seed : int
    """
    gallery = next(iter(values.values())).shape[1]
    trials = [portion.trials for portion in portions]
    return {
        "metric": METRIC,
        "gallery": gallery,
        "chance": chance_top_k(gallery, 1),
        "over": over,
        "amounts": [
            {"share": p.share, "trials": p.trials, "images": p.images, "split": named(p)} for p in portions
        ],
        "models": [
            {
                "model": model,
                "points": [_plain(bootstrap_mean(v, units, over=over, seed=seed)) for v in scores],
                **_line(learning_curve(trials, scores, units, over=over, seed=seed)),
            }
            for model, scores in values.items()
        ],
        "notes": list(NOTES),
    }


def _line(curve: LearningCurve) -> dict[str, Any]:
    amounts = np.geomspace(*curve.limits, DRAWN_AT)
    amounts[[0, -1]] = curve.limits  # rounding must not lead beyond them
    return {
        "slope": _plain(curve.slope),
        "bend": None if curve.bend is None else _plain(curve.bend),
        "residual": curve.residual,
        "doubled": _plain(curve.predict(curve.limits[1])),
        "line": [{"trials": float(n), **_plain(curve.predict(float(n)))} for n in amounts],
    }


def _plain(interval: Interval) -> dict[str, float]:
    return {"value": interval.value, "low": interval.low, "high": interval.high}
