"""What was decoded as which class: the confusion matrix and its table."""

from __future__ import annotations

from dataclasses import dataclass

import matplotlib
import numpy as np
import pandas as pd

from braindecode_suite.report.figures import STYLE, FigureBlock, draw, new_figure
from braindecode_suite.report.results import Results, mapping, sequence
from braindecode_suite.report.selection import pick
from braindecode_suite.report.tables import Table, ceiling_note, interval_cell, without_idle_columns
from braindecode_suite.report.wording import (
    control_title,
    integer,
    listed,
    model_title,
    number,
    p_text,
    percent,
    plain,
)

MOST_CLASSES = 40


@dataclass(frozen=True, kw_only=True)
class Classification:
    """The section of a report that shows classes."""

    confusion: FigureBlock
    scores: Table
    chance: list[str]
    searchlight: list[tuple[str, str]]
    facts: list[tuple[str, str]]


def classification(results: Results) -> Classification | None:
    """Return the section, or None where nothing was classified."""
    table = results.predictions
    if table is None:
        return None
    model = results.primary
    own = table[table["model"] == model]
    known = mapping(results.facts.get("classification"))
    apart = ("chance", "searchlight")
    return Classification(
        confusion=confusion_figure(own if len(own) else table, model_title(model)),
        scores=score_table(results),
        chance=[str(words) for words in sequence(known.get("chance"))],
        searchlight=[(str(key), plain(value)) for key, value in mapping(known.get("searchlight")).items()],
        facts=[
            (str(key), plain(value)) for key, value in known.items() if value is not None and key not in apart
        ],
    )


def confusion_figure(table: pd.DataFrame, model: str) -> FigureBlock:
    """Return the confusion matrix of one model: a true class a row, the share called each class in it.

    Parameters
    ----------
    table : DataFrame
        One row a test example, columns ``truth`` and ``predicted``.
    model : str
    """
    classes = sorted({*table["truth"], *table["predicted"]})
    counts = pd.crosstab(table["truth"], table["predicted"]).reindex(
        index=classes, columns=classes, fill_value=0
    )
    totals = counts.to_numpy().sum(axis=1, keepdims=True)
    share = counts.to_numpy() / np.maximum(totals, 1)
    size = min(8.0, 2.2 + 0.55 * len(classes))
    with matplotlib.rc_context(STYLE):
        figure = new_figure(size + 0.6, size)
        axis = figure.subplots()
        drawn = axis.imshow(share, cmap="viridis", vmin=0, vmax=1)
        axis.grid(visible=False)
        if len(classes) <= MOST_CLASSES:
            axis.set_xticks(range(len(classes)), classes, rotation=40, ha="right")
            axis.set_yticks(range(len(classes)), classes)
        if len(classes) <= 12:
            for i, j in np.ndindex(share.shape):
                if counts.iat[i, j]:
                    colour = "#000000" if share[i, j] > 0.6 else "#ffffff"
                    axis.text(
                        j, i, str(counts.iat[i, j]), ha="center", va="center", color=colour, fontsize=10
                    )
        axis.set_xlabel("called")
        axis.set_ylabel("was")
        bar = figure.colorbar(drawn, ax=axis, fraction=0.046, pad=0.03)
        bar.set_label("share of the true class")
        bar.outline.set_visible(False)
    mistakes = [
        (int(counts.iat[i, j]), f"{classes[i]} called {classes[j]} {counts.iat[i, j]} times")
        for i, j in np.ndindex(share.shape)
        if i != j and counts.iat[i, j]
    ]
    worst = [words for _, words in sorted(mistakes, reverse=True)[:3]]
    alt = f"Confusion matrix of {len(classes)} classes, {int(np.trace(counts.to_numpy()))} of {len(table)} examples right"
    alt += f"; most often {listed(worst)}." if worst else "."
    return draw(
        "confusion",
        figure,
        alt,
        f"What each class was called by {model}: counts of {integer(len(table))} test examples, every one decoded once.",
        "a bright diagonal. Bright cells off it are classes taken for one another; a bright column is a class that swallows the others.",
    )


def score_table(results: Results) -> Table:
    """Return the accuracies: all units, regions, nuisances, and differences from the other classifiers."""
    rows = results.scores[results.scores["metric"].isin(["accuracy", "balanced_accuracy"])]
    cells = []
    for row in rows.to_dict("records"):
        what = model_title(row["model"]) if row["control"] == "brain" else control_title(row["control"])
        what += (
            f" minus {model_title(row['versus']) if row['versus'] in results.models else control_title(row['versus'])}"
            if row["versus"]
            else ""
        )
        what += ", balanced" if row["metric"] == "balanced_accuracy" else ""
        what += ", new images" if row["split"].endswith("-new-images") else ""
        cells.append(
            [
                what,
                row["roi"] or "all units",
                number(row["value"]),
                interval_cell(row),
                row["ci_over"],
                number(row["chance"]),
                p_text(row["p_value"]),
                row["p_correction"],
                integer(row["n"]),
                row["split"],
            ]
        )
    table = Table(
        caption="Accuracy of classifiers, regions and nuisances",
        headings=[
            "decoder",
            "units",
            "accuracy",
            "95\u00a0% interval",
            "over",
            "chance",
            "p",
            "correction",
            "n",
            "split",
        ],
        rows=cells,
        numeric=[False, False, True, True, False, True, True, False, True, False],
        note=ceiling_note(rows, simulated=results.simulated),
    )
    return without_idle_columns(table, constant=("split",))


def verdict_sentence(results: Results) -> str:
    """Return the headline in words, empty where nothing was classified."""
    row = pick(results, "accuracy", model=results.primary)
    if row is None or results.predictions is None:
        return ""
    n_classes = results.predictions["truth"].nunique()
    words = f"{model_title(row['model'])} names the right one of {n_classes} classes in {percent(row['value'])} of {integer(row['n'])} test examples"
    if pd.notna(row["chance"]):
        words += f" (chance {percent(row['chance'])}, p = {p_text(row['p_value'])})"
        if pd.notna(row["ci_low"]) and row["ci_low"] <= row["chance"]:
            words += ", which its interval does not set apart from chance"
    new = f"{row['split']}-new-images"
    other = pick(results, "accuracy", model=results.primary, splits=[new])
    if other is not None:
        words += f"; where the images tested are left out of training, in {percent(other['value'])}"
        words += f" (chance {percent(other['chance'])}, p = {p_text(other['p_value'])})"
    return words + "."
