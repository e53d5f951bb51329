"""How well responses to images are predicted: regions by models, gaps between models, where attention goes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from braindecode_suite.report.encoding_figures import (
    SHOWN_REGIONS,
    gap_figure,
    objects_figure,
    routing_figure,
    routing_gallery,
)
from braindecode_suite.report.figures import FigureBlock
from braindecode_suite.report.results import Results, mapping, sequence
from braindecode_suite.report.routing_figures import ablation_figure, ablation_table, fields_figure
from braindecode_suite.report.selection import pick, where
from braindecode_suite.report.tables import Table, interval_cell, without_idle_columns
from braindecode_suite.report.wording import (
    DASH,
    integer,
    interval,
    listed,
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
SEVERAL = "2 or more objects"
CATEGORY_REGIONS = "category regions"
PLAIN = "own object over the others, per area, above the mean map"
RELATIVE = f"{PLAIN}, relative to regions of other categories"


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """The section of a report on encoding models."""

    regions: Table
    tests: Table | None
    normalised: list[Table]
    gaps: FigureBlock | None
    objects: FigureBlock | None
    stack: FigureBlock | None
    routing: FigureBlock | None
    routing_table: Table | None
    maps_table: Table | None
    fields: FigureBlock | None
    ablation: FigureBlock | None
    ablation_table: Table | None
    no_ablation: str
    galleries: list[tuple[FigureBlock, FigureBlock | None]]
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
        tests=tests_table(scores, results, order),
        normalised=normalised_tables(results, scores, order),
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
            {next(iter(names.values()), ""): where(scores, scorer=BEST_SINGLE)},
            order,
            "The stack minus the best single model",
            "mean r, minus that of the region's best single model",
            mark=ALLOWED_LOSS,
        ),
        routing=routing_figure(where(rows, metric="routing_ratio", scorer=RELATIVE), names),
        routing_table=routing_table(rows, names),
        maps_table=maps_table(rows, names),
        fields=fields_figure(rows, names, SHOWN_REGIONS),
        ablation=ablation_figure(rows, names),
        ablation_table=ablation_table(rows, names),
        no_ablation=results.reason("patch ablation") or "no region had enough images.",
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


def tests_table(scores: pd.DataFrame, results: Results, order: list[str]) -> Table | None:
    """Return the gap to the best rival of every region with its interval and p, and whose gap the stack's is."""
    features = next(iter(feature_names(results)), "")
    cells = []
    for roi in order:
        line = [roi]
        for scorer in (BEST_RIVAL, BEST_SINGLE):
            found = where(scores, scorer=scorer, roi=roi, target=features)
            if found.empty:
                line += [DASH] * 3
                continue
            row = found.iloc[0]
            line += [
                model_title(row["versus"]),
                f"{points('encoding_r', row['value'])} {interval_cell(row)}",
                p_text(row["p_value"]),
            ]
        if any(cell != DASH for cell in line[1:]):
            cells.append(line)
    if not cells:
        return None
    title = model_title(results.primary)
    headings = ["region", "best rival", f"{title} minus it", "p", "best single model", "stack minus it", "p"]
    table = Table(
        caption="Paired differences in mean r on the same images; rival and single model chosen on validation images",
        headings=headings,
        rows=cells,
        numeric=[False, False, True, True, False, True, True],
        note="p: two-sided, of regions corrected for their number (Benjamini and Hochberg); all units and groups are not.",
    )
    return without_idle_columns(table)


def normalised_tables(results: Results, scores: pd.DataFrame, order: list[str]) -> list[Table]:
    """Return the scores the ways they can be averaged and normalised: all units by model, then the headline by region."""
    features = next(iter(feature_names(results)), "")
    plain = where(scores, versus="", control="brain", target=features)
    plain = plain[plain["metric"].isin(["encoding_r", "encoding_r2_nc"]) & plain["ci_low"].notna()]
    columns = list(dict.fromkeys(zip(plain["metric"], plain["scorer"], strict=True)))
    if len(columns) < 2:
        return []
    headings = [*[score_heading(metric, scorer) for metric, scorer in columns], "p of r"]

    def cells(own: pd.DataFrame) -> list[str]:
        line = []
        for metric, scorer in columns:
            found = where(own, metric=metric, scorer=scorer).to_dict("records")
            line.append(DASH if not found else f"{number(found[0]['value'])} {interval_cell(found[0])}")
        return [*line, p_text(own["p_value"].iloc[0])]

    over_all = where(plain, roi=ALL_UNITS)
    of_models = [(name, where(over_all, model=name)) for name in results.models]
    of_regions = [(roi, where(plain, roi=roi, model=results.primary)) for roi in order]
    note = "r\u00b2/NC: r squared over the noise ceiling of the unit. Clipped: unit by unit, 0 to 1, then the mean. Else ratios of sums."
    tables = []
    for first, caption, parts in (
        ("model", "All units: means, medians, and the three ways of normalising", of_models),
        ("region", f"The same of {model_title(results.primary)}, by region", of_regions),
    ):
        tables.append(
            Table(
                caption=caption,
                headings=[first, *headings],
                rows=[
                    [name if first == "region" else model_title(name), *cells(own)]
                    for name, own in parts
                    if len(own)
                ],
                numeric=[False] + [True] * len(headings),
                note=note,
            )
        )
    return tables


def score_heading(metric: str, scorer: str) -> str:
    """Return a short heading for a score of units.

    Examples
    --------
    >>> score_heading("encoding_r2_nc", "clipped, mean over units")
    'r²/NC, clipped'
    """
    if metric == "encoding_r":
        return f"r, {scorer.removesuffix(' over units')}"
    kind, _, over = scorer.partition(", ")
    least = over.rpartition("ceiling of at least ")[2] if "ceiling of at least" in over else ""
    return f"r\u00b2/NC, {kind}" + (f", NC \u2265 {least}" if least else "")


def routing_table(rows: pd.DataFrame, names: Mapping[str, str]) -> Table | None:
    """Return both routing ratios of all category regions together, of the model and of its fit on shuffled pairs."""
    rows = where(rows, metric="routing_ratio", roi=CATEGORY_REGIONS)
    cells = []
    for target in dict.fromkeys(rows["target"]):
        for control, title in (("brain", "fitted"), ("shuffled-train", "fitted on shuffled pairs")):
            own = where(rows, target=target, control=control)
            if own.empty:
                continue
            line = [names.get(target, target), title, integer(own["n"].iloc[0])]
            for scorer in (PLAIN, RELATIVE):
                found = where(own, scorer=scorer).to_dict("records")
                line.append(DASH if not found else f"{found[0]['value']:.2f} {interval_cell(found[0])}")
            cells.append(line)
    if not cells:
        return None
    return Table(
        caption="Attention on the own object over that on the others, all category regions together",
        headings=["features", "model", "images", "ratio", "relative"],
        rows=cells,
        numeric=[False, False, True, True, True],
        note="Per area and above the mean map. Some objects draw any query, trained or not, so that the ratio of a model that knows "
        "nothing need not be 1. The relative ratio is divided by that of the regions that prefer other categories, on the same "
        "objects: 1 on average over models that know nothing. How single fits and regions scatter around it, the interval, over "
        "images, does not tell: the fit on shuffled pairs shows it.",
    )


MAP_MEASURES = {
    "routing_location_share": "by place",
    "routing_entropy": "entropy",
    "routing_left_minus_right": "left - right",
    "routing_upper_minus_lower": "upper - lower",
}

FIELD_MEASURES = ("routing_field_x", "routing_field_y", "routing_field_sd", "routing_field_explained")


def maps_table(rows: pd.DataFrame, names: Mapping[str, str]) -> Table | None:
    """Return what the maps of each region are like: tied to a place or to content, how wide, on which side, which Gaussian."""
    rows = where(rows, metric=[*MAP_MEASURES, *FIELD_MEASURES], scorer="")
    cells = []
    for target in dict.fromkeys(rows["target"]):
        for roi in dict.fromkeys(where(rows, target=target, control="brain")["roi"]):
            own = where(rows, target=target, roi=roi)
            line = [names.get(target, target), roi]
            for metric in MAP_MEASURES:
                found = where(own, metric=metric, control="brain").to_dict("records")
                line.append(DASH if not found else f"{found[0]['value']:.2f} {interval_cell(found[0])}")
            null = where(own, metric="routing_location_share", control="shuffled-train").to_dict("records")
            line.append(DASH if not null else f"{null[0]['value']:.2f}")
            fields = where(own, metric=list(FIELD_MEASURES), control="brain").set_index("metric")["value"]
            x, y, sd, explained = (fields.get(metric) for metric in FIELD_MEASURES)
            line.append(DASH if x is None else f"{x:.2f}, {y:.2f}, {sd:.2f}")
            line.append(DASH if explained is None else f"{explained:.2f}")
            cells.append(line)
    if not cells:
        return None
    return Table(
        caption="The maps of each region, 95\u00a0% intervals over images",
        headings=[
            "features",
            "region",
            *MAP_MEASURES.values(),
            "by place, shuffled",
            "field: x, y, sd",
            "explained",
        ],
        rows=cells,
        numeric=[False, False, *[True] * (3 + len(MAP_MEASURES))],
        note="By place: the share of the maps' deviation from an even map that their mean over images has. 1 is a region that looks at "
        "the same place in every image, near 0 one that follows what is shown. Entropy: 1 is attention to everything alike. Left - "
        "right and upper - lower: attention to one half of the image less that to the other, hemispheres together. Field: the Gaussian that "
        "fits the mean map best, in image widths from the upper left, and the share of that map's variance that it explains; intervals "
        "and hemispheres apart are in the table of all scores.",
    )


def encoding_headlines(results: Results) -> list[tuple[str, str, pd.Series | None]]:
    """Return title, meaning and score row of what the summary shows of encoding models."""
    known = mapping(results.facts.get("encoding"))
    if not known:
        return []
    pairs = [(ALL_UNITS, ""), *((name, name) for name in mapping(known.get("groups")))]
    features = next(iter(feature_names(results)), "")
    found: list[tuple[str, str, pd.Series | None]] = []
    for title, roi in pairs:
        row = pick(results, "encoding_r", model=results.primary, roi=roi, scorer=MEAN, target=features)
        meaning = "Correlation of predicted with measured responses to new images, mean over units."
        found.append((f"Predicts responses: {title}", meaning, row))
    return found


def rival_row(results: Results, row: pd.Series) -> pd.Series | None:
    """Return the paired difference between an encoding score and that of the best rival by validation, or None."""
    same = {name: row[name] for name in ("metric", "model", "roi", "target", "control")}
    found = where(results.scores, scorer=BEST_RIVAL, **same)
    return found.iloc[0] if row["metric"] == "encoding_r" and len(found) else None


def encoding_sentences(results: Results) -> list[str]:
    """Return what the intervals say, in sentences; none where no responses were predicted."""
    row = pick(results, "encoding_r", model=results.primary, scorer=MEAN)
    if row is None or not results.facts.get("encoding"):
        return []
    words = f"{model_title(row['model'])} predicts responses to {integer(row['n'])} new images with a mean r of {number(row['value'])}"
    words += f" {interval(row['ci_low'], row['ci_high'])} over all units"
    aside = (
        [] if missing(row["chance"]) else [f"chance {number(row['chance'])}, p = {p_text(row['p_value'])}"]
    )
    aside += [] if missing(row["ceiling"]) else [f"ceiling {number(row['ceiling'])}"]
    words += f" ({'; '.join(aside)})" if aside else ""
    best = rival_row(results, row)
    if best is not None:
        words += f", {_difference(best)} against the best rival by validation, {model_title(best['versus'])}"
    found = [f"{words}.", _layers_sentence(results), _stack_sentence(results), _routing_sentence(results)]
    return [f"{text[0].upper()}{text[1:]}" for text in found if text]


def _difference(row: Mapping[str, Any] | pd.Series) -> str:
    """Return a paired difference with its interval."""
    ends = interval(row["ci_low"], row["ci_high"], "encoding_r", signed=True)
    return f"{points('encoding_r', row['value'])} {ends}"


def _layers_sentence(results: Results) -> str:
    """Say how large the gap is on each layer alone, where scenes have several objects, in each group of regions."""
    _, *layers = feature_names(results).items() or [("", "")]
    found = []
    for group in list(mapping(mapping(results.facts.get("encoding")).get("groups")))[:1]:
        for target, name in layers:
            rows = where(
                results.scores,
                scorer=f"{BEST_RIVAL}, {SEVERAL}",
                roi=group,
                target=target,
                model=results.primary,
            )
            found += [f"{_difference(row)} on {name} alone" for row in rows.to_dict("records")]
        if found:
            return f"On scenes of {SEVERAL} the gap in the {group} is {listed(found)}."
    return ""


def _stack_sentence(results: Results) -> str:
    """Say what the stack gains, and in which region it may lose most."""
    rows = where(results.scores, scorer=BEST_SINGLE, target=next(iter(feature_names(results)), ""))
    regions = rows[rows["roi"].isin(regions_of(results))]
    over_all = rows[rows["roi"] == ""]
    if regions.empty or over_all.empty:
        return ""
    worst = regions.loc[regions["ci_low"].idxmin()]
    within = int((regions["ci_low"] >= ALLOWED_LOSS).sum())
    return (
        f"The stack of all models gains {_difference(over_all.iloc[0])} over all units against the best single model; the lower "
        f"end of the interval is at least {number(ALLOWED_LOSS)} in {within} of {len(regions)} regions, and lowest in {worst['roi']} "
        f"({number(worst['ci_low'])})."
    )


def _routing_sentence(results: Results) -> str:
    """Say how much more attention falls on the own object, beside what a fit on shuffled pairs gives."""
    rows = where(results.scores, metric="routing_ratio", roi=CATEGORY_REGIONS)
    names, found = feature_names(results), []
    for target in dict.fromkeys(rows["target"]):
        own = where(rows, target=target, control="brain", scorer=PLAIN).to_dict("records")
        fair = where(rows, target=target, control="brain", scorer=RELATIVE).to_dict("records")
        null = where(rows, target=target, control="shuffled-train", scorer=RELATIVE).to_dict("records")
        for row in own:
            words = f"{row['value']:.2f} {interval(row['ci_low'], row['ci_high'])} times on {names.get(target, target)}"
            aside = [
                f"{what} {other['value']:.2f} {interval(other['ci_low'], other['ci_high'])}"
                for what, some in (
                    ("relative to regions of other categories", fair),
                    ("fitted on shuffled pairs", null),
                )
                for other in some
            ]
            found.append(f"{words} ({', '.join(aside)})" if aside else words)
    if not found:
        return ""
    return (
        "Attention to the object of a region's own category, per area and above the mean map, over that to the other objects of "
        f"the same image: {listed(found)}."
    )
