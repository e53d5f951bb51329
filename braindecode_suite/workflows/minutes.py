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
    "Smaller amounts are part of larger ones, and the test rows are the same everywhere. Nothing is extrapolated.",
)
FOLDS = "Trials and stimuli are counted in the first of {} folds; minutes are the mean over folds."
LAST_TRIAL = "The lengths of runs are not known: each is taken to end with its last trial."
TRANSDUCTIVE = (
    "Blocks without training rows within an amount are z-scored by label-free statistics of all their rows (transductive); the "
    "scores at all data use training rows alone."
)


def minutes_facts(
    splits: Sequence[Split],
    recipe: Recipe | None,
    amounts: Sequence[Amount],
    recipes: Sequence[Recipe | None],
    more: Sequence[str] = (),
) -> dict[str, Any]:
    """Return all data's minutes and each amount with its rows and units, and notes.

    Parameters
    ----------
    splits : sequence of Split
    recipe : Recipe or None
        At all data; of several folds the first one's, as everything that is counted.
    amounts : sequence of Amount
    recipes : sequence of Recipe or None
        Fitted preprocessing at each amount.
    more : sequence of str
        Notes of the workflow.
    """
    notes = [*NOTES, *more]
    if len(splits) > 1:
        notes.append(FOLDS.format(len(splits)))
    if not all(timeline(study).stated for study in splits[0].studies):
        notes.append(LAST_TRIAL)
    steps = [step for one in recipes if one is not None for step in one.describe()]
    whole = recipe is None or all(step.get("scope") != "heldout-block" for step in recipe.describe())
    if whole and any(step.get("scope") == "heldout-block" for step in steps):
        notes.append(TRANSDUCTIVE)
    return {
        "all": {"minutes": recorded_minutes(splits), **_counts(splits[0], recipe)},
        "amounts": [
            {"asked": amount.asked, "minutes": amount.minutes, **_counts(amount.splits[0], one)}
            for amount, one in zip(amounts, recipes, strict=True)
        ],
        "notes": notes,
    }


def _counts(split: Split, recipe: Recipe | None) -> dict[str, int]:
    """Count trials and stimuli of the training and validation parts together, and the units kept."""
    stimuli = split.keys("train", "stimulus") | split.keys("validation", "stimulus")
    trials = sum(map(len, (*split.train, *split.validation)))
    keep = None if recipe is None else recipe.keep
    return {"trials": trials, "stimuli": len(stimuli)} | ({} if keep is None else {"units": int(keep.sum())})
