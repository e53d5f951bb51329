"""What a report says of the scores at the first minutes of a recording."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from braindecode_suite.core.minutes import Amount, recorded_minutes, timeline
from braindecode_suite.core.recipe import Recipe
from braindecode_suite.core.split import Split

NOTES = (
    "Minutes are recording time of runs with training or validation rows, in the order of recording, blanks included. Whole runs "
    "that fit are taken; only a first run that is longer than the amount is cut.",
    "Smaller amounts are part of larger ones, the test rows are the same. Nothing is extrapolated.",
)
TRANSDUCTIVE = (
    "Blocks without training rows within an amount are z-scored by label-free statistics of all their rows (transductive); the "
    "scores at all data use training rows alone."
)


def minutes_facts(
    splits: Sequence[Split], amounts: Sequence[Amount], recipes: Sequence[Recipe | None]
) -> dict[str, Any]:
    """Return all data's minutes, each amount with its rows and units, and notes.

    Parameters
    ----------
    splits : sequence of Split
        Of all data.
    amounts : sequence of Amount
    recipes : sequence of Recipe or None
        Fitted preprocessing at each amount (of the first fold).
    """
    notes = list(NOTES)
    sources = {timeline(study).source for study in splits[0].studies}
    notes.append(f"The length of a run is taken from {' and '.join(sorted(sources))}.")
    steps = [step for recipe in recipes if recipe is not None for step in recipe.describe()]
    if any(step["name"] == "z-score" and step["scope"] == "heldout-block" for step in steps):
        notes.append(TRANSDUCTIVE)
    lines = []
    for amount, recipe in zip(amounts, recipes, strict=True):
        keep = None if recipe is None else recipe.keep
        lines.append(amount.describe() | ({} if keep is None else {"units": int(keep.sum())}))
    return {"all": recorded_minutes(splits), "amounts": lines, "notes": notes}
