"""How well responses are predicted from vectors of stimuli: regions by models, variance by set of vectors, leave-one-out beside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
import pandas as pd

from braindecode_suite.report.figures import MUTED, SERIES, STYLE, FigureBlock, draw, new_figure
from braindecode_suite.report.panels import Panel, Part
from braindecode_suite.report.results import Results, mapping
from braindecode_suite.report.selection import where
from braindecode_suite.report.tables import Table, interval_cell
from braindecode_suite.report.wording import (
    DASH,
    integer,
    interval,
    listed,
    model_title,
    number,
    p_text,
    percent,
)

ALL_UNITS = "all units"
ALPHA = 0.05
SHARE = ", share of "


def vectors_panel(results: Results) -> Panel | None:
    """Return the section, or None where responses were not predicted from vectors."""
    known = mapping(results.facts.get("vectors"))
    if not known:
        return None
    scores = results.scores.assign(roi=results.scores["roi"].replace("", ALL_UNITS))
    main = where(scores, split=str(known.get("protocol", "")))
    plain, order = where(main, versus="", control="brain"), list(dict.fromkeys(main["roi"]))
    r, shares = where(plain, metric="encoding_r"), where(plain, metric="encoding_r2")
    gaps = where(main, metric="encoding_r", model=results.primary)
    loo = where(scores, split=str(known.get("leave one out") or "none"))
    units = mapping(known.get("units of each set"))
    parts = [
        Part(
            title="Regions and models",
            figure=region_figure(r, order, results.models),
            table=region_table(r, order, results.models, units),
            look_for="values against their own chance, which lies below zero, and not against other regions: how well a region can be "
            "predicted at best is not known here.",
        )
    ]
    if (shares["scorer"].str.contains(SHARE)).any():
        parts.append(
            Part(
                title="Which vectors explain what",
                figure=share_figure(shares, order),
                table=share_table(shares, order),
            )
        )
    if (gaps["versus"] != "").any():
        parts.append(
            Part(
                title="All vectors against each set alone",
                table=gap_table(gaps[gaps["versus"] != ""], order),
                look_for="intervals above zero: what the other set adds. Below zero: what its weights cost where it has nothing to say.",
            )
        )
    parts.append(
        Part(
            title="Identification of the category",
            table=identification_table(where(plain, metric="pattern_identification"), order),
        )
    )
    if len(loo):
        parts.append(
            Part(
                title=f"{known['leave one out']}: leave one out, responses centred once",
                table=loo_table(loo, order),
                look_for="a chance near zero. The held-out category took part in the centring, without its label: transductive, and "
                "beside the headline, never in its place.",
            )
        )
    return Panel(slug="vectors", title="Responses predicted from vectors", parts=parts)


def region_figure(r: pd.DataFrame, order: Sequence[str], models: Sequence[str]) -> FigureBlock:
    """Return mean r by region, a colour for each model, with intervals and chance."""
    there = [name for name in models if (r["model"] == name).any()]
    offsets = np.linspace(0.24, -0.24, max(len(there), 2))
    with matplotlib.rc_context(STYLE):
        figure = new_figure(8.5, 1.3 + 0.52 * len(order))
        axis = figure.subplots()
        for k, name in enumerate(there):
            for place, roi in enumerate(order):
                own = where(r, model=name, roi=roi)
                if own.empty:
                    continue
                row, y = own.iloc[0], len(order) - 1 - place + offsets[k]
                axis.plot([row["ci_low"], row["ci_high"]], [y, y], color=SERIES[k % 6], linewidth=2.2)
                axis.plot(
                    [row["value"]],
                    [y],
                    "o",
                    color=SERIES[k % 6],
                    markersize=5.5,
                    label=model_title(name) if not place else None,
                )
                axis.plot(
                    [row["chance"]],
                    [y],
                    "|",
                    color=MUTED,
                    markersize=10,
                    markeredgewidth=1.6,
                    label="chance" if not place and not k else None,
                )
        axis.axvline(0, color=MUTED, linestyle="--", linewidth=1.0)
        axis.set_yticks([len(order) - 1 - k for k in range(len(order))], list(order))
        axis.set_xlabel("mean r over the region's voxels")
        axis.grid(axis="y", visible=False)
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, 1.12), ncols=len(there) + 1, fontsize=9.5)
    above = [roi for roi in order if (where(r, model=there[0], roi=roi)["p_value"] < ALPHA).any()]
    return draw(
        "vectors-regions",
        figure,
        f"Mean r of {len(there)} models in {len(order)} sets of voxels; {model_title(there[0])} above chance (p below {ALPHA:g}) in {listed(above) or 'none'}.",
        "Correlation of predicted with measured responses over held-out categories, with 95\u00a0% intervals over categories; upright ticks: "
        "chance, the mean over relabelled categories with everything fitted anew.",
        "whiskers that end to the right of their tick.",
    )


def region_table(
    r: pd.DataFrame, order: Sequence[str], models: Sequence[str], units: Mapping[str, object]
) -> Table:
    """Return mean r with interval, chance and p, a region a line."""
    there = [name for name in models if (r["model"] == name).any()]
    cells = []
    for roi in order:
        line = [roi, integer(units.get("" if roi == ALL_UNITS else roi))]
        for name in there:
            own = where(r, model=name, roi=roi)
            line += _value_cells(own.iloc[0]) if len(own) else [DASH, DASH, DASH]
        cells.append(line)
    headings = ["region", "voxels"]
    for name in there:
        headings += [model_title(name), "chance", "p"]
    return Table(
        caption="Mean r by region and model, with 95\u00a0% intervals over categories",
        headings=headings,
        rows=cells,
        numeric=[False] + [True] * (len(headings) - 1),
        note="p of regions is corrected for their number; that of all units is not.",
    )


def _value_cells(row: pd.Series) -> list[str]:
    return [f"{number(row['value'])} {interval_cell(row)}", number(row["chance"]), p_text(row["p_value"])]


def share_figure(shares: pd.DataFrame, order: Sequence[str]) -> FigureBlock:
    """Return the explained variance of each region, split over sets of vectors."""
    names = [s.split(SHARE)[1] for s in dict.fromkeys(shares["scorer"]) if SHARE in s]
    offsets = np.linspace(0.2, -0.2, len(names))
    with matplotlib.rc_context(STYLE):
        figure = new_figure(8.5, 1.3 + 0.42 * len(order))
        axis = figure.subplots()
        for k, name in enumerate(names):
            own = shares[shares["scorer"].str.endswith(SHARE + name)].set_index("roi").reindex(list(order))
            y = np.arange(len(order))[::-1] + offsets[k]
            axis.barh(
                y, own["value"], height=0.8 / len(names) * 0.9, color=SERIES[k % 6], alpha=0.85, label=name
            )
            axis.hlines(y, own["ci_low"], own["ci_high"], color=MUTED, linewidth=1.6)
        axis.axvline(0, color=MUTED, linewidth=1.0)
        axis.set_yticks(np.arange(len(order))[::-1], list(order))
        axis.set_xlabel("share of the variance over held-out categories")
        axis.grid(axis="y", visible=False)
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, 1.14), ncols=len(names), fontsize=9.5)
    first = {roi: max(names, key=lambda name: _share(shares, roi, name)) for roi in order if roi != ALL_UNITS}
    return draw(
        "vectors-shares",
        figure,
        "Explained variance split over sets of vectors; the larger share is "
        + ", ".join(f"{roi}: {name}" for roi, name in first.items())
        + ".",
        "Variance explained by the banded model, split over its sets of vectors (product measure; shares add up), with 95\u00a0% intervals over categories.",
        "which set carries which region. A share below zero makes up for the other set.",
    )


def _share(shares: pd.DataFrame, roi: str, name: str) -> float:
    return float(
        shares[(shares["roi"] == roi) & shares["scorer"].str.endswith(SHARE + name)]["value"].iloc[0]
    )


def share_table(shares: pd.DataFrame, order: Sequence[str]) -> Table:
    """Return the explained variance and its shares, a region a line."""
    scorers = list(dict.fromkeys(shares["scorer"]))
    cells = []
    for roi in order:
        line = [roi]
        for scorer in scorers:
            row = where(shares, roi=roi, scorer=scorer).iloc[0]
            line += [f"{number(row['value'])} {interval_cell(row)}", number(row["chance"])]
        cells.append(line)
    headings = ["region"]
    for scorer in scorers:
        headings += [scorer.split(SHARE)[1] if SHARE in scorer else "both together", "chance"]
    return Table(
        caption="Explained variance (R\u00b2 over held-out categories) and its shares",
        headings=headings,
        rows=cells,
        numeric=[False] + [True] * (len(headings) - 1),
    )


def gap_table(gaps: pd.DataFrame, order: Sequence[str]) -> Table:
    """Return paired differences, a region a line."""
    rivals = list(dict.fromkeys(gaps["versus"]))
    cells = []
    for roi in order:
        line = [roi]
        for rival in rivals:
            row = where(gaps, roi=roi, versus=rival).iloc[0]
            line += [f"{number(row['value'])} {interval_cell(row)}", p_text(row["p_value"])]
        cells.append(line)
    headings = ["region"]
    for rival in rivals:
        headings += [f"minus {model_title(rival)}", "p"]
    return Table(
        caption="Mean r of the banded model minus that of each set alone, same categories, paired",
        headings=headings,
        rows=cells,
        numeric=[False] + [True] * (len(headings) - 1),
    )


def identification_table(rows: pd.DataFrame, order: Sequence[str]) -> Table:
    """Return pattern identification by region and model."""
    models = list(dict.fromkeys(rows["model"]))
    cells = [
        [roi, *(cell for name in models for cell in _percent_cells(where(rows, roi=roi, model=name).iloc[0]))]
        for roi in order
    ]
    headings = ["voxels of"]
    for name in models:
        headings += [model_title(name), "chance", "p"]
    return Table(
        caption="How often a measured pattern is more like its own category's prediction than like another's",
        headings=headings,
        rows=cells,
        numeric=[False] + [True] * (len(headings) - 1),
    )


def _percent_cells(row: pd.Series) -> list[str]:
    bounds = interval(row["ci_low"], row["ci_high"], "pattern_identification")
    return [f"{percent(row['value'])} {bounds}", percent(row["chance"]), p_text(row["p_value"])]


def loo_table(rows: pd.DataFrame, order: Sequence[str]) -> Table:
    """Return r and identification of leave-one-out, a region a line."""
    r, found = where(rows, metric="encoding_r"), where(rows, metric="pattern_identification")
    cells = [
        [roi, *_value_cells(where(r, roi=roi).iloc[0]), *_percent_cells(where(found, roi=roi).iloc[0])]
        for roi in order
    ]
    model = model_title(str(r["model"].iloc[0]))
    return Table(
        caption=f"Leave one out by {model}: mean r, and identification of patterns",
        headings=["region", "mean r", "chance", "p", "identification", "chance", "p"],
        rows=cells,
        numeric=[False] + [True] * 6,
    )


def vectors_sentence(results: Results) -> str:
    """Return the headline in words, empty where responses were not predicted from vectors."""
    known = mapping(results.facts.get("vectors"))
    own = where(
        results.scores,
        metric="encoding_r",
        model=results.primary,
        versus="",
        split=str(known.get("protocol", "")),
    )
    every, rois = own[own["roi"] == ""], own[own["roi"] != ""]
    if not known or every.empty:
        return ""
    row, above = every.iloc[0], rois.loc[rois["p_value"] < ALPHA, "roi"].tolist()
    words = f"{model_title(results.primary)} predicts responses to {integer(row['n'])} held-out categories with a mean r of "
    words += f"{number(row['value'])} {interval(row['ci_low'], row['ci_high'])} over all voxels (chance {number(row['chance'])}, "
    words += f"p = {p_text(row['p_value'])})"
    if len(rois):
        words += f"; above chance in {len(above)} of {len(rois)} regions" + (
            f": {listed(above)}" if above else ""
        )
    return words + "."
