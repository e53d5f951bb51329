"""What more people add: models fitted to one person after another, and a line in the logarithm of their number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from braindecode_suite.metrics.learning_curve import REACH
from braindecode_suite.workflows.learning_curve import Quantity, curve_facts
from braindecode_suite.workflows.people import Group, Scored, Series
from braindecode_suite.workflows.scoring import Settings

WITH_OWN = Quantity(name="people who train", unit="people", times=2, least=1)
LEFT_OUT = Quantity(name="others who train", unit="people", times=2, least=1)
NOTES = (
    "Every point is of one fit, for retrieval alone: the encoder's first seed, and the baseline. Every person brings trials of their own, so that "
    "more people are more trials, too.",
    "Intervals are over images, conditional on these models and these people: how much the curve would vary with which people were drawn, and "
    "in which order, is not in them.",
)
DRAWN_TO = f"The line is drawn from one person to {REACH:g} times as many as trained, and not beyond."
NO_BEND = "Two points have a slope, and no bend that could say whether the curve flattens."


def people_curves(
    found: Sequence[Series], scored: Mapping[Group, Scored], settings: Settings
) -> list[dict[str, Any]]:
    """Return a curve over the number of people for each series, as `curve_facts` does, each with a ``title``.

    Parameters
    ----------
    found : sequence of Series
        Of at least two groups each.
    scored : mapping of Group to Scored
    settings : Settings
    """
    curves = []
    for series in found:
        quantity = WITH_OWN if series.asked is None else LEFT_OUT
        results = [scored[group] for group in series.groups]
        points = [
            {"amount": people_in(series, group), **one.facts}
            for group, one in zip(series.groups, results, strict=True)
        ]
        facts = curve_facts(
            quantity,
            points,
            {model: np.stack([one.hits[model] for one in results]) for model in results[0].hits},
            settings.units,
            over=settings.unit,
            seed=settings.seed,
            notes=[order(series), *NOTES, *([NO_BEND] if len(points) == 2 else []), DRAWN_TO],
        )
        curves.append({"title": title(series), **facts})
    return curves


def people_in(series: Series, group: Group) -> int:
    """Return how many people a group is counted as: of a series without the subject's own trials the others alone."""
    return len(group.prepared.others) + (series.asked is None)


def title(series: Series) -> str:
    """Return what a series has of the subject, in words."""
    if series.asked is None:
        return "all of this person's trials"
    return f"this person's first {series.asked:g} min" if series.asked else "none of this person's trials"


def order(series: Series) -> str:
    """Return a note of the one order in which people were added."""
    names = ", ".join(f"sub-{study.subject}" for study in series.groups[-1].prepared.others)
    return f"Others are added in one order, that of `people`: {names}."
