"""Score tables as text cells: the full table by metric, and the small ones of each section."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from braindecode_suite.core.score import COLUMNS
from braindecode_suite.report.results import Results
from braindecode_suite.report.selection import pick, pooled, versus_row
from braindecode_suite.report.wording import (
    CONTROL_NOTES,
    DASH,
    control_title,
    count,
    integer,
    listed,
    metric_title,
    missing,
    model_title,
    number,
    p_text,
    scorer_title,
)

NUMERIC = {"value", "ci_low", "ci_high", "chance", "ceiling", "time_start", "time_stop"}
COUNTS = {"n", "n_subjects", "gallery"}
FULL_ORDER = [
    "subject",
    "control",
    "versus",
    "stage",
    "model",
    "candidates",
    "scorer",
    "gallery",
    "split",
    "value",
    "ci_low",
    "ci_high",
    "ci_over",
    "chance",
    "p_value",
    "p_correction",
    "ceiling",
    "n",
    "n_repeats",
    "n_subjects",
    "level",
    "target",
    "seed",
    "roi",
    "time_start",
    "time_stop",
    "minutes",
]
HEADINGS = {
    "ci_low": "95\u00a0% from",
    "ci_high": "to",
    "ci_over": "over",
    "p_value": "p",
    "p_correction": "correction",
    "n_repeats": "repeats",
    "n_subjects": "subjects",
    "time_start": "from s",
    "time_stop": "to s",
}
PUBLISHED_EIGHT = ("pixcorr", "ssim", "alexnet2", "alexnet5", "inception", "clip", "effnet", "swav")
assert set(FULL_ORDER) | {"metric"} == set(COLUMNS)


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of text cells: the first column heads each row."""

    caption: str
    headings: list[str]
    rows: list[list[str]]
    numeric: list[bool] = field(default_factory=list)
    note: str = ""  # said under the table


@dataclass(frozen=True, kw_only=True)
class MetricGroup:
    """All rows of one metric."""

    title: str
    name: str
    table: Table


def full_table(scores: pd.DataFrame) -> list[MetricGroup]:
    """Return every score row, grouped by metric; columns that are empty for a whole group are left out."""
    groups = []
    for metric, rows in scores.groupby("metric", sort=False):
        constant_subject = rows["subject"].nunique() <= 1
        columns = [
            column
            for column in FULL_ORDER
            if column == "value"
            or (
                not (rows[column].isna() | (rows[column] == "")).all()
                and not (column == "subject" and constant_subject)
            )
        ]
        cells = [[_cell(column, row[column]) for column in columns] for row in rows.to_dict("records")]
        title = metric_title(str(metric))
        table = Table(
            caption=f"{title}: all {len(rows)} rows",
            headings=[HEADINGS.get(column, column.replace("_", " ")) for column in columns],
            rows=cells,
            numeric=[column in NUMERIC | COUNTS | {"p_value", "n_repeats", "minutes"} for column in columns],
        )
        groups.append(MetricGroup(title=title, name=str(metric), table=table))
    return groups


def _cell(column: str, value: object) -> str:
    if column == "p_value":
        return p_text(value)
    if column in COUNTS:
        return integer(value)
    if column in ("n_repeats", "minutes"):
        return count(value)
    if column in NUMERIC:
        return number(value)
    return DASH if missing(value) else str(value)


def ceiling_note(scores: pd.DataFrame, *, simulated: bool, reason: str = "") -> str:
    """Say which scores have a ceiling and why the others have none.

    Parameters
    ----------
    scores : DataFrame
        The score table.
    simulated : bool
    reason : str
        Why an oracle is missing, where a step says so.
    """
    known = scores[scores["ceiling"].notna()]
    if len(known):
        names = list(known["metric"].unique())
        oracle = simulated and not all(name.startswith("encoding") for name in names)
        what = "what the oracle reaches" if oracle else "the noise ceiling"
        titles = listed([metric_title(name) for name in names])
        return f"Ceiling: {what}, worked out for {titles}. It is empty for every other score, for which none is known."
    if simulated:
        return f"Ceiling: none; {reason or 'no oracle was asked.'}"
    return (
        "Ceiling: none. The model that generated real recordings is not known, so that nobody knows how well these scores "
        "could be at best; encoding scores and simulated studies have one."
    )


def retrieval_tables(results: Results) -> list[Table]:
    """Return the retrieval scores: first those of the headline's split and gallery, then all others.

    One line a score and model, the similarities side by side. Rows of single seeds are left to the full table where the
    same model has a row over all of them.
    """
    scores = results.scores
    named = scores["metric"].str.startswith("retrieval_") | (scores["metric"] == "median_relative_rank")
    rows = scores[named & (scores["versus"] == "") & (scores["roi"] == "")]
    if rows.empty:
        return []
    several = rows["seed"].map(pooled)
    rows = rows[several | ~rows["model"].isin(set(rows.loc[several, "model"]))]
    headline = pick(results, "retrieval_brain_to_image_top1", model=results.primary)
    first = pd.Series(True, index=rows.index)
    caption = "Models, similarities and directions"
    if headline is not None:
        same_gallery = (rows["gallery"] == headline["gallery"]) | (rows["metric"] == "median_relative_rank")
        first = same_gallery & (rows["split"] == headline["split"]) & rows["candidates"].isin(["", "all"])
        first &= rows["level"].isin(["", headline["level"]])
        if not missing(headline["gallery"]):
            caption += f", gallery of {integer(headline['gallery'])}"
    tables = [_retrieval_table(results, rows[first], caption, main=True)]
    if not first.all():
        tables.append(
            _retrieval_table(results, rows[~first], "Other galleries, levels and splits", main=False)
        )
    return tables


def _retrieval_table(results: Results, rows: pd.DataFrame, caption: str, *, main: bool) -> Table:
    known = [name for name in ("cosine-centred", "cosine", "csls") if (rows["scorer"] == name).any()]
    scorers = known + [name for name in rows["scorer"].unique() if name not in known]
    keys = ["split", "level", "candidates", "gallery", "metric", "model", "control", "seed"]
    models = {name: i for i, name in enumerate(results.models)}
    groups = sorted(
        rows.groupby(keys, dropna=False, sort=False),
        key=lambda item: (
            *map(str, item[0][:3]),
            item[0][3],
            item[0][4] == "median_relative_rank",
            _top_k(item[0][4]),
            item[0][6] != "brain",
            models.get(item[0][5], 0),
        ),
    )
    cells = []
    for (split, level, candidates, gallery, metric, model, control, seed), same in groups:
        name = model_title(model) + ("" if control == "brain" else f", {control_title(control).lower()}")
        line = [metric_title(metric).removeprefix("Retrieval, "), name]
        line[0] = line[0][:1].upper() + line[0][1:]
        by_scorer = {row["scorer"]: row for row in same.to_dict("records")}
        chosen = by_scorer.get(scorers[0], same.iloc[0].to_dict())
        line.append(number(chosen["chance"]))
        for scorer in scorers:
            row = by_scorer.get(scorer)
            line.append(DASH if row is None else f"{number(row['value'])} {interval_cell(row)}")
        line += [p_text(chosen["p_value"]), number(chosen["ceiling"])]
        line += [integer(chosen["n"]), seed or DASH]
        if not main:
            line += [integer(gallery), level or DASH, candidates or DASH, split or DASH]
        cells.append(line)
    titles = [scorer_title(scorer) or "score" for scorer in scorers]
    headings = ["query \u2192 gallery", "model", "chance", *titles, "p", "ceiling", "n", "seeds"]
    numeric = [False, False, True, *[True] * len(scorers), True, True, True, False]
    if not main:
        headings, numeric = (
            [*headings, "gallery", "level", "candidates", "split"],
            [*numeric, True, False, False, False],
        )
    note = ceiling_note(results.scores, simulated=results.simulated, reason=results.reason("oracle"))
    table = Table(caption=caption, headings=headings, rows=cells, numeric=numeric, note=note)
    return without_idle_columns(table, constant=("split", "candidates"))


def _top_k(metric: str) -> tuple[str, int]:
    """Return direction and k of a retrieval metric, for ordering."""
    direction, _, k = metric.partition("_top")
    return direction, int(k) if k.isdigit() else 0


def interval_cell(row: dict[str, object] | pd.Series) -> str:
    """Return an interval in the metric's own unit, for tables."""
    low, high = row["ci_low"], row["ci_high"]
    return DASH if missing(low) or missing(high) else f"[{number(low)}, {number(high)}]"


def differences_table(results: Results, metrics: Sequence[str], caption: str) -> Table | None:
    """Return the paired differences between models (not controls) of some metrics, the scorers side by side."""
    scores = results.scores
    rows = scores[
        scores["metric"].isin(metrics)
        & scores["versus"].isin(results.models)
        & (scores["control"] == "brain")
    ]
    if rows.empty:
        return None
    scorers = list(dict.fromkeys(rows["scorer"]))
    side_by_side = all(scorers)
    keys = ["metric", "stage", "candidates", "gallery", "model", "versus", "level", "split", "n", "seed"]
    cells = []
    for key, same in rows.groupby(keys, dropna=False, sort=False):
        metric, stage, candidates, gallery, model, versus, level, split, n, seed = key
        what = ", ".join(part for part in (stage, candidates) if part and part not in ("all", "final"))
        line = [
            f"{metric_title(metric)}{', ' if what else ''}{what}",
            integer(gallery),
            split or DASH,
            f"{model_title(model)} \u2212 {model_title(versus)}",
        ]
        by_scorer = {
            row["scorer"]: f"{number(row['value'])} {interval_cell(row)}" for row in same.to_dict("records")
        }
        rest = [integer(n), seed or DASH, level or DASH]
        if side_by_side:
            cells.append([*line, *[by_scorer.get(scorer, DASH) for scorer in scorers], *rest])
        else:
            cells += [[*line, value, scorer or DASH, *rest] for scorer, value in by_scorer.items()]
    values = [scorer_title(scorer) for scorer in scorers] if side_by_side else ["value", "judged by"]
    numeric = [True] * len(scorers) if side_by_side else [True, False]
    table = Table(
        caption=caption,
        headings=["score", "gallery", "split", "difference", *values, "n", "seeds", "level"],
        rows=cells,
        numeric=[False, True, False, False, *numeric, True, False, False],
    )
    return without_idle_columns(table, constant=("level", "split", "seeds"))


def hub_table(skewness: Mapping[str, Any]) -> Table | None:
    """Return hub skewness with one line a model and seed, the similarities side by side.

    Parameters
    ----------
    skewness : mapping
        ``<model>_seed-<k>_<similarity>`` to a number, or ``<model>`` to a mapping of similarities.
    """
    lines: dict[str, dict[str, Any]] = {}
    for name, value in skewness.items():
        if isinstance(value, Mapping):
            lines.setdefault(str(name), {}).update(value)
        else:
            run, _, scorer = str(name).rpartition("_")
            model, _, seed = run.partition("_seed-")
            lines.setdefault(model_title(model) + (f", seed {seed}" if seed else ""), {})[scorer] = value
    scorers = list(dict.fromkeys(scorer for line in lines.values() for scorer in line))
    if not lines:
        return None
    return Table(
        caption="Hub skewness of the gallery",
        headings=["model", *[scorer_title(scorer) for scorer in scorers]],
        rows=[
            [
                name or DASH,
                *[
                    number(line.get(scorer), 2) if _is_number(line.get(scorer)) else DASH
                    for scorer in scorers
                ],
            ]
            for name, line in lines.items()
        ],
        numeric=[False, *[True] * len(scorers)],
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def without_idle_columns(table: Table, constant: Sequence[str] = ()) -> Table:
    """Return a table without the columns that are empty in every line, or the same in every line of those named."""
    keep = [
        i
        for i, heading in enumerate(table.headings)
        if i == 0
        or not (
            all(row[i] in (DASH, "") for row in table.rows)
            or (heading in constant and len({row[i] for row in table.rows}) == 1)
        )
    ]
    return Table(
        caption=table.caption,
        headings=[table.headings[i] for i in keep],
        rows=[[row[i] for i in keep] for row in table.rows],
        numeric=[table.numeric[i] for i in keep],
        note=table.note,
    )


def image_statistics_table(results: Results) -> Table | None:
    """Return PixCorr and SSIM of the reconstructions beside the baselines that image statistics alone reach."""
    scores = results.scores
    lines: list[list[str]] = []
    rows = scores[scores["metric"].isin(["pixcorr", "ssim"]) & (scores["versus"] == "")]
    if rows.empty:
        return None
    order = [
        "brain",
        "true-latent",
        "nearest-train",
        "category-only",
        "null-condition",
        "shuffled-train",
        "shuffled-test",
    ]
    order += ["shuffled-within-class", "mean-image", "flat-grey", "blurred-truth", "true-image"]
    mine = (rows["control"] == "brain") | rows["model"].isin(["", results.primary])
    rows = rows[mine]
    conditions = list(dict.fromkeys(zip(rows["control"], rows["stage"], rows["model"], strict=True)))
    places = {name: i for i, name in enumerate(results.models)}
    conditions.sort(key=lambda c: (order.index(c[0]), c[1] == "low-level", places.get(c[2], 0)))
    for control, stage, model in conditions:
        name = control_title(control)
        name += f", {model_title(model)}" if model and control == "brain" and len(results.models) > 1 else ""
        line = [name + (", low-level" if stage == "low-level" else "")]
        found = False
        for metric in ("pixcorr", "ssim"):
            row = pick(results, metric, control=control, stage=stage, model=model)
            found = found or row is not None
            line.append(DASH if row is None else f"{number(row['value'])} {interval_cell(row)}")
        for metric in ("pixcorr", "ssim"):
            brain = pick(results, metric, control="brain", stage=stage or "final", model=results.primary)
            difference = (
                versus_row(results, brain, control) if brain is not None and control != "brain" else None
            )
            line.append(
                DASH if difference is None else f"{number(difference['value'])} {interval_cell(difference)}"
            )
        if found and line not in lines:
            lines.append(line)
    table = Table(
        caption="PixCorr and SSIM beside what image statistics alone reach",
        headings=[
            "image",
            "PixCorr",
            "SSIM",
            "brain \u2212 this, PixCorr",
            "brain \u2212 this, SSIM",
        ],
        rows=lines,
        numeric=[False, True, True, True, True],
    )
    return without_idle_columns(table)


def eight_table(results: Results) -> Table | None:
    """Return the published eight of the final reconstructions, where their networks were there."""
    lines = []
    for model in results.models:
        rows = [
            (metric, pick(results, metric, model=model, stage=["final", ""])) for metric in PUBLISHED_EIGHT
        ]
        if any(row is not None for metric, row in rows if metric not in ("pixcorr", "ssim")):
            lines.append(
                [model_title(model), *[DASH if row is None else number(row["value"]) for _, row in rows]]
            )
    if not lines:
        return None
    return Table(
        caption="The published eight metrics, final reconstructions",
        headings=["model", *[metric_title(metric) for metric in PUBLISHED_EIGHT]],
        rows=lines,
        numeric=[False, *[True] * len(PUBLISHED_EIGHT)],
    )


def scene_table(results: Results) -> Table | None:
    """Return errors of the decoded main object: category, colour, position, size."""
    scores = results.scores
    named = scores["metric"].str.contains("category|colour|position|size|place|object", case=False)
    rows = scores[named & (scores["versus"] == "")]
    if rows.empty:
        return None
    cells = [
        [
            metric_title(row["metric"]),
            control_title(row["control"]),
            row["stage"] or DASH,
            model_title(row["model"]) or DASH,
            number(row["value"]),
            interval_cell(row),
            number(row["chance"]),
            integer(row["n"]),
        ]
        for row in rows.to_dict("records")
    ]
    table = Table(
        caption="Main object of the decoded scene against the truth",
        headings=["score", "image", "stage", "model", "value", "95\u00a0% interval", "chance", "n"],
        rows=cells,
        numeric=[False, False, False, False, True, True, True, True],
    )
    return without_idle_columns(table)


def controls_legend(scores: pd.DataFrame) -> list[tuple[str, str, str]]:
    """Return name, title and meaning of every control that occurs in the scores."""
    present = set(scores["control"]) | set(scores["versus"])
    return [(name, control_title(name), note) for name, note in CONTROL_NOTES.items() if name in present]
