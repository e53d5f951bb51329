"""How well responses to images are predicted: regions by models, gaps between models, where attention goes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from braindecode_suite.report.encoding_figures import (
    gap_figure,
    objects_figure,
    routing_figure,
    routing_gallery,
)
from braindecode_suite.report.figures import FigureBlock
from braindecode_suite.report.results import Results, mapping, sequence
from braindecode_suite.report.selection import pick, where
from braindecode_suite.report.tables import Table, interval_cell, without_idle_columns
from braindecode_suite.report.wording import (
    DASH,
    integer,
    interval,
    missing,
    model_title,
    number,
    p_text,
    points,
)

MEAN = "mean over units"
BEST_RIVAL, BEST_SINGLE = f"{MEAN}, best rival by validation", f"{MEAN}, best single model by validation"
ALLOWED_LOSS = -0.01
ALL_UNITS = "all units"


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """The section of a report on encoding models."""

    regions: Table
    normalised: Table | None
    gaps: FigureBlock | None
    objects: FigureBlock | None
    stack: FigureBlock | None
    routing: FigureBlock | None
    galleries: list[FigureBlock]
    no_gaps: str
    no_routing: str


def encoding(results: Results) -> Encoding | None:
    """Return the section, or None where no responses were predicted."""
    known = mapping(results.facts.get("encoding"))
    if not known or not (results.scores["metric"] == "encoding_r").any():
        return None
    names = feature_names(results)
    rows = results.scores[results.scores["roi"] != ""]
    order = [ALL_UNITS, *mapping(known.get("groups")), *regions_of(results)]
    scores = results.scores.assign(roi=results.scores["roi"].replace("", ALL_UNITS))
    first = scores[scores["model"] == str(known.get("encoder", results.primary))]
    gaps = {title: where(first, scorer=BEST_RIVAL, target=target) for target, title in names.items()}
    by_objects = first[first["scorer"].str.startswith(f"{BEST_RIVAL}, ")]
    shown = [ALL_UNITS, *mapping(known.get("groups"))]
    return Encoding(
        regions=region_table(results, scores, order),
        normalised=normalised_table(results),
        gaps=gap_figure(
            "gaps",
            {title: table for title, table in gaps.items() if len(table)},
            order,
            f"{model_title(results.primary)} minus the best rival",
            "mean r, minus that of the region's best rival",
        ),
        objects=objects_figure(by_objects, names, shown, f"{BEST_RIVAL}, "),
        stack=gap_figure(
            "stack",
            {"all features": where(scores, scorer=BEST_SINGLE)},
            order,
            "The stack minus the best single model",
            "mean r, minus that of the region's best single model",
            mark=ALLOWED_LOSS,
        ),
        routing=routing_figure(where(rows, metric="routing_ratio"), names),
        galleries=routing_gallery(results, names),
        no_gaps=results.reason("stack") or "there is no rival to compare with.",
        no_routing=results.reason("routing") or "no region had enough images with its object beside others.",
    )


def feature_names(results: Results) -> dict[str, str]:
    """Return what each set of features is called, as the run named it; all of them together come first."""
    known = {str(exact): str(name) for name, exact in mapping(results.facts.get("targets")).items()}
    wanted = [str(name) for name in sequence(mapping(results.facts.get("encoding")).get("features"))]
    return {name: known.get(name, "all features") for name in wanted}


def regions_of(results: Results) -> list[str]:
    """Return the regions that are scored, in the study's order, without groups."""
    groups = mapping(mapping(results.facts.get("encoding")).get("groups"))
    return [name for name in dict.fromkeys(results.scores["roi"]) if name and name not in groups]


def region_table(results: Results, scores: pd.DataFrame, order: list[str]) -> Table:
    """Return mean r of every model in every region, with its interval, beside the ceiling."""
    names = feature_names(results)
    rows = where(
        scores, metric="encoding_r", scorer=MEAN, versus="", control="brain", target=next(iter(names), "")
    )
    rows = rows[rows["ci_low"].notna()]
    units = mapping(mapping(results.facts.get("encoding")).get("units of each set"))
    models = [name for name in results.models if (rows["model"] == name).any()]
    cells = []
    for roi in order:
        own = rows[rows["roi"] == roi]
        if own.empty:
            continue
        by_model: dict[str, dict[str, Any]] = {str(row["model"]): row for row in own.to_dict("records")}
        line = [roi, integer(units.get("" if roi == ALL_UNITS else roi)), number(own["ceiling"].iloc[0])]
        line += [number(own["chance"].iloc[0])]
        for model in models:
            row = by_model.get(model)
            line.append(DASH if row is None else f"{number(row['value'])} {interval_cell(row)}")
        cells.append(line)
    table = Table(
        caption="Mean correlation of predicted with measured responses, by region and model",
        headings=["region", "units", "ceiling", "chance", *[model_title(name) for name in models]],
        rows=cells,
        numeric=[False] + [True] * (3 + len(models)),
    )
    return without_idle_columns(table)


def normalised_table(results: Results) -> Table | None:
    """Return the scores over all units the ways they can be averaged and normalised, a model a line."""
    names = feature_names(results)
    plain = where(results.scores, roi="", versus="", control="brain", target=next(iter(names), ""))
    plain = plain[plain["metric"].isin(["encoding_r", "encoding_r2_nc"]) & plain["ci_low"].notna()]
    columns = list(dict.fromkeys(zip(plain["metric"], plain["scorer"], strict=True)))
    if len(columns) < 2:
        return None
    cells = []
    for model in results.models:
        own = plain[plain["model"] == model]
        if own.empty:
            continue
        line = [model_title(model)]
        for metric, scorer in columns:
            found = where(own, metric=metric, scorer=scorer).to_dict("records")
            line.append(DASH if not found else f"{number(found[0]['value'])} {interval_cell(found[0])}")
        cells.append([*line, p_text(own["p_value"].iloc[0])])
    titles = {"encoding_r": "r", "encoding_r2_nc": "r\u00b2 over the noise ceiling"}
    return Table(
        caption="All units: means, medians, and the three ways of normalising",
        headings=["model", *[f"{titles[metric]}, {scorer}" for metric, scorer in columns], "p of r"],
        rows=cells,
        numeric=[False] + [True] * (len(columns) + 1),
    )


def encoding_sentence(results: Results) -> str:
    """Return the headline in words, empty where no responses were predicted."""
    row = pick(results, "encoding_r", model=results.primary, scorer=MEAN)
    if row is None or not results.facts.get("encoding"):
        return ""
    words = f"{model_title(row['model'])} predicts responses to {integer(row['n'])} new images with a mean r of {number(row['value'])}"
    words += f" {interval(row['ci_low'], row['ci_high'])} over all units"
    aside = (
        [] if missing(row["chance"]) else [f"chance {number(row['chance'])}, p = {p_text(row['p_value'])}"]
    )
    aside += [] if missing(row["ceiling"]) else [f"ceiling {number(row['ceiling'])}"]
    words += f" ({'; '.join(aside)})" if aside else ""
    gap = where(results.scores, scorer=BEST_RIVAL, roi="", target=row["target"], model=row["model"])
    if len(gap):
        best = gap.iloc[0]
        words += f", {points('encoding_r', best['value'])} {interval(best['ci_low'], best['ci_high'], 'encoding_r', signed=True)}"
        words += f" against the best rival by validation, {model_title(best['versus'])}"
    return words + "."
