"""How the score grows with the minutes of recording that a model was trained on: a figure and a table, nothing extrapolated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from matplotlib.transforms import ScaledTranslation

from braindecode_suite.report.figures import MUTED, SERIES, STYLE, FigureBlock, draw, new_figure
from braindecode_suite.report.results import Results, mapping, sequence
from braindecode_suite.report.selection import pick, pooled, where
from braindecode_suite.report.tables import Table, interval_cell, without_idle_columns
from braindecode_suite.report.wording import (
    DASH,
    count,
    integer,
    listed,
    metric_title,
    missing,
    model_title,
    number,
    p_text,
    quantity,
)

HEADLINES = ("retrieval_brain_to_image_top1", "accuracy", "identification", "encoding_r")
DEFINING = ("scorer", "gallery", "candidates", "level", "stage", "split", "roi", "target")
LOGARITHMIC = 5.0
"""How many times the smallest amount the largest must be for a logarithmic axis."""
APART = 4.0
"""Points between the whiskers of one amount."""


@dataclass(frozen=True, kw_only=True)
class MinutesSection:
    """The section of a report that shows the score against minutes."""

    figure: FigureBlock
    table: Table
    notes: list[str]


@dataclass(frozen=True, kw_only=True, eq=False)
class Series:
    """One line of the figure: score rows in the order of their minutes; the last one may be all data."""

    label: str
    rows: pd.DataFrame


def minutes_section(results: Results) -> MinutesSection | None:
    """Return the section, or None where no score was made at the first minutes."""
    series = headline_series(results)
    if not series:
        return None
    facts = mapping(results.facts.get("minutes"))
    metric = series[0].rows.iloc[0]["metric"]
    return MinutesSection(
        figure=minutes_figure([replace(s, label=model_title(s.label)) for s in series], "minutes", metric),
        table=_table(results, series, facts),
        notes=[str(note) for note in sequence(facts.get("notes"))],
    )


def headline_series(results: Results) -> list[Series]:
    """Return, for each model, the headline's rows at the first minutes and at all data: of one fit, so that they compare."""
    rows = where(results.first_minutes, control="brain", versus="")
    metric = next((name for name in HEADLINES if (rows["metric"] == name).any()), None)
    if metric is None:
        return []
    headline = pick(results, metric, model=results.primary)
    fixed = (rows[rows["metric"] == metric].iloc[0] if headline is None else headline)[list(DEFINING)]
    rows, whole = (_alike(table, metric, fixed) for table in (rows, results.scores))
    all_minutes = mapping(mapping(results.facts.get("minutes")).get("all")).get("minutes")
    found = []
    for model in results.models:
        mine = rows[rows["model"] == model].sort_values("minutes")
        if mine.empty:
            continue
        last = where(whole, model=model, control="brain", versus="")
        same_fit = last[last["seed"] == mine.iloc[0]["seed"]]
        last = same_fit if len(same_fit) else last[last["seed"].map(pooled)]
        if len(last) and all_minutes is not None:
            mine = pd.concat([mine, last.iloc[:1].assign(minutes=float(all_minutes))])
        found.append(Series(label=model, rows=mine))
    return found


def _alike(table: pd.DataFrame, metric: str, fixed: pd.Series) -> pd.DataFrame:
    found = table[table["metric"] == metric]
    for column, value in fixed.items():
        found = found[found[column].isna() if pd.isna(value) else found[column] == value]
    return found


def minutes_figure(series: Sequence[Series], name: str, metric: str) -> FigureBlock:
    """Return scores against minutes, with intervals and chance.

    Parameters
    ----------
    series : sequence of Series
        A model or a subject each.
    name : str
        Unique on the page.
    metric : str
    """
    rows = pd.concat([one.rows for one in series])
    minutes = sorted(set(rows["minutes"]))
    logarithmic = minutes[-1] >= LOGARITHMIC * minutes[0]
    with matplotlib.rc_context(STYLE):
        figure = new_figure(7.4, 3.8)
        axis = figure.subplots()
        for k, one in enumerate(series):
            aside = ScaledTranslation(APART * (k - (len(series) - 1) / 2) / 72, 0, figure.dpi_scale_trans)
            drawn: Any = {"color": SERIES[k % len(SERIES)], "transform": axis.transData + aside}
            points = one.rows
            axis.plot(
                points["minutes"],
                points["value"],
                "o-",
                linewidth=1.7,
                markersize=5,
                label=one.label,
                **drawn,
            )
            for _, row in points.dropna(subset=["ci_low", "ci_high"]).iterrows():
                ends = [row["ci_low"], row["ci_high"]]
                axis.plot([row["minutes"]] * 2, ends, linewidth=1.2, alpha=0.7, **drawn)
        chance = rows["chance"].dropna()
        if len(chance):
            axis.axhline(float(chance.mean()), color=MUTED, linestyle="--", linewidth=1.2, label="chance")
        if logarithmic:
            axis.set_xscale("log")
            margin = (minutes[-1] / minutes[0]) ** 0.06
            axis.set_xlim(minutes[0] / margin, minutes[-1] * margin)
        else:
            margin = 0.06 * (minutes[-1] - minutes[0] or 1.0)
            axis.set_xlim(minutes[0] - margin, minutes[-1] + margin)
        values = rows[["value", "ci_low", "ci_high", "chance"]].to_numpy(float)
        low, high = float(np.nanmin(values)), float(np.nanmax(values))
        axis.set_ylim(low - 0.06 * (high - low or 1.0), high + 0.06 * (high - low or 1.0))
        axis.xaxis.set_major_locator(FixedLocator(minutes))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}"))
        axis.set_xlabel("minutes of training recording" + (" (logarithmic)" if logarithmic else ""))
        axis.set_ylabel(metric_title(metric))
        axis.legend(fontsize=9.5)
    lines = [
        f"{one.label} "
        + ", ".join(
            f"{quantity(metric, v)} at {m:.4g}"
            for m, v in zip(one.rows["minutes"], one.rows["value"], strict=True)
        )
        for one in series
    ]
    compared = metric.startswith("retrieval") and "ridge" in [one.label for one in series]
    over = listed(sorted({f"{unit}s" for unit in rows["ci_over"] if unit}))
    return draw(
        name,
        figure,
        f"{metric_title(metric)} against minutes of training recording: {'; '.join(lines)}.",
        f"{metric_title(metric)} of models trained on the first minutes of the recording, the last point on all of it; "
        + (f"95\u00a0% intervals over {over}, " if over else "")
        + "the same test rows everywhere.",
        "a curve that still rises at its end: more recordings would help, by how much is not said."
        + (" Where ridge lies above, the deep model needs more data than there was." if compared else ""),
    )


def _table(results: Results, series: Sequence[Series], facts: Mapping[str, Any]) -> Table:
    """Return a line an amount and model: what the amount holds, the score, and how far the first model is ahead."""
    amounts = {float(line["minutes"]): line for line in map(mapping, sequence(facts.get("amounts")))}
    whole = mapping(facts.get("all"))
    lead, first = series[0].label, series[0].rows.iloc[0]
    differences = where(results.table, control="brain", model=lead, seed=first["seed"])
    differences = _alike(differences, first["metric"], first[list(DEFINING)])
    cells = []
    for value in sorted({float(m) for one in series for m in one.rows["minutes"]}):
        line, asked = amounts.get(value, whole), mapping(amounts.get(value)).get("asked")
        amount = [
            count(value) if value in amounts else f"all ({count(value)})",
            DASH if missing(asked) or asked == value else count(asked),
            *[integer(line.get(key)) for key in ("trials", "stimuli", "units")],
        ]
        for one in series:
            for _, row in one.rows[one.rows["minutes"] == value].iterrows():
                ahead = where(differences, versus=one.label)
                ahead = ahead[ahead["minutes"] == value if value in amounts else ahead["minutes"].isna()]
                cells.append(
                    [
                        *amount,
                        model_title(one.label),
                        f"{number(row['value'])} {interval_cell(row)}",
                        number(row["chance"]),
                        p_text(row["p_value"]),
                        DASH
                        if ahead.empty
                        else f"{number(ahead.iloc[0]['value'])} {interval_cell(ahead.iloc[0])}",
                        integer(row["n"]),
                    ]
                )
    title = metric_title(first["metric"])
    headings = ["minutes", "asked", "trials", "stimuli", "units", "model", "score", "chance", "p"]
    headings += [f"{model_title(lead)} ahead by", "n"]
    table = Table(
        caption=f"{title} at the first minutes; trials and stimuli of training and validation",
        headings=headings,
        rows=cells,
        numeric=[heading not in ("minutes", "model") for heading in headings],
    )
    return without_idle_columns(table)
