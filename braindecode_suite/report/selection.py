"""Choose rows of the score table: the one that a headline means, the pair that a comparison needs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from braindecode_suite.core.score import IDENTITY
from braindecode_suite.report.results import Results

KEYS = [column for column in IDENTITY if column != "seed"]
SCORERS = ("cosine-centred", "tiny-eval", "pixels", "csls", "cosine")
PHOTO_GALLERIES = (300, 200)
SIMULATED_GALLERIES = (200, 300)


def pooled(seed: Any) -> bool:
    """Say whether a seed cell stands for several seeds, or for a model without one.

    Examples
    --------
    >>> pooled("0"), pooled("0,1,2"), pooled("mean"), pooled("")
    (False, True, True, True)
    """
    return re.fullmatch(r"-?\d+", str(seed)) is None


def where(table: pd.DataFrame, **wanted: Any) -> pd.DataFrame:
    """Return the rows whose columns equal `wanted`; a list or tuple means any of them."""
    keep = pd.Series(True, index=table.index)
    for column, value in wanted.items():
        keep &= table[column].isin(list(value)) if isinstance(value, list | tuple) else table[column] == value
    return table[keep]


def prefer(table: pd.DataFrame, column: str, order: Sequence[Any]) -> pd.DataFrame:
    """Return the rows that have the first value of `order` found in `column`, or all rows if none is found."""
    for value in order:
        if isinstance(value, str):  # a scorer may carry a layer or a tag: `tiny-eval/penultimate`
            found = table[table[column].astype(str).str.fullmatch(rf"{re.escape(value)}(?:[/:@ ].*)?")]
        else:
            found = table[table[column] == value]
        if len(found):
            return found
    return table


def pick(
    results: Results, metric: str, *, splits: Sequence[str] | None = None, **wanted: Any
) -> pd.Series | None:
    """Return the one row that a headline means, or None.

    Plain score of the decoded recordings by default: give `control`, `versus`, `model` or `stage` for another one. Among
    several: the headline split, the strictest distractors, the centred similarity, the usual gallery, all seeds pooled.

    Parameters
    ----------
    results : Results
    metric : str
    splits : sequence of str, optional
        Only these protocols; by default the headline's where it is named.
    **wanted
        Columns and what they must be.

    Returns
    -------
    Series or None
    """
    found = where(results.scores, metric=metric, **({"control": "brain", "versus": "", "roi": ""} | wanted))
    if splits is not None:
        found = found[found["split"].isin(list(splits))]
    elif results.protocol:
        own = found[found["split"] == results.protocol]  # not its further test sets or variants, if it can be
        found = own if len(own) else prefer(found, "split", [results.protocol])
    found = prefer(
        found,
        "candidates",
        ["matched", "within-class", "all", ""] if metric == "identification" else ["all", ""],
    )
    found = prefer(found, "scorer", SCORERS)
    if found["gallery"].notna().any():
        found = found[found["gallery"].notna()]
        usual = SIMULATED_GALLERIES if results.simulated else PHOTO_GALLERIES
        found = prefer(found, "gallery", [*usual, float(found["gallery"].max())])
    found = prefer(found, "stage", ["final", "", "low-level"])
    found = prefer(found, "level", ["mean-prediction", "mean-signal", "single"])
    several = found[found["seed"].map(pooled)]
    found = several if len(several) else found
    return None if found.empty else found.iloc[0]


def partner(results: Results, row: pd.Series, **changed: Any) -> pd.Series | None:
    """Return the row like `row` in all that defines a score, but for `changed`; seed and n may differ."""
    table = results.scores
    for column in KEYS:
        wanted = changed.get(column, row[column])
        empty = pd.isna(wanted)
        table = table[table[column].isna() if empty else table[column] == wanted]
    several = table[table["seed"].map(pooled)] if pooled(row["seed"]) else table[table["seed"] == row["seed"]]
    table = several if len(several) else table
    return None if table.empty else table.iloc[0]


def seed_spread(results: Results, row: pd.Series) -> tuple[int, float, float] | None:
    """Return how many seeds were scored one by one, and their smallest and largest value."""
    table = results.scores
    for column in KEYS:
        table = table[table[column].isna() if pd.isna(row[column]) else table[column] == row[column]]
    table = table[~table["seed"].map(pooled)]
    if table["seed"].nunique() < 2:
        return None
    return int(table["seed"].nunique()), float(table["value"].min()), float(table["value"].max())


def versus_row(results: Results, row: pd.Series, versus: str) -> pd.Series | None:
    """Return the paired difference between what `row` scores and `versus`, on the same images.

    The two rows agree in everything that defines the score; target and level may be recorded on one of them only.
    """
    found = partner(results, row, versus=versus)
    if found is not None:
        return found
    table = results.scores[results.scores["versus"] == versus]
    for column in KEYS:
        if column not in ("versus", "target", "level"):
            wanted = row[column]
            table = table[table[column].isna() if pd.isna(wanted) else table[column] == wanted]
    for column in ("level", "target"):
        table = prefer(table, column, [row[column]])
    return None if table.empty else table.iloc[0]


def tone(difference: Mapping[str, Any] | pd.Series) -> str:
    """Return what a paired interval says: better, worse, unclear, or unknown without an interval."""
    low, high = difference["ci_low"], difference["ci_high"]
    if pd.isna(low) or pd.isna(high):
        return "unknown"
    return "better" if low > 0 else "worse" if high < 0 else "unclear"
