"""The group's report: every subject listed, the group's score table shown. A pure function of the results folder."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from braindecode_suite.core.errors import InputError
from braindecode_suite.core.files import write_text
from braindecode_suite.core.score import read_scores, scores_table
from braindecode_suite.metrics.groups import prevalence
from braindecode_suite.report.figures import FigureBlock, subject_dots
from braindecode_suite.report.minutes import headline_series, minutes_figure
from braindecode_suite.report.render import render
from braindecode_suite.report.results import (
    Results,
    desc_label,
    mapping,
    read_json,
    read_results,
    subjects_of,
)
from braindecode_suite.report.selection import pooled
from braindecode_suite.report.similarity import group_similarity_panel
from braindecode_suite.report.summary import headline_rows, warnings_of
from braindecode_suite.report.tables import ceiling_note, full_table
from braindecode_suite.report.wording import (
    DASH,
    integer,
    interval,
    listed,
    metric_title,
    missing,
    number,
    plain,
    quantity,
)

ALPHA = 0.05
GROUP = "group"
SAME = ("metric", "stage", "control", "versus", "scorer", "model", "gallery", "candidates", "split")


@dataclass(frozen=True, kw_only=True)
class SubjectLine:
    """One line of the table of subjects."""

    label: str
    report: str
    trials: str
    units: str
    scores: list[tuple[str, str]]
    warnings: list[str]


def write_group_report(output_dir: Path, workflow: str) -> Path:
    """Write ``OUTPUT_DIR/group.html`` from the subjects' results and the group's score table.

    Parameters
    ----------
    output_dir : Path
    workflow : str
        Catalogue name, e.g. ``mindeye``.

    Returns
    -------
    Path
        The report: one self-contained HTML file.

    Raises
    ------
    InputError
        If no subject has results of this workflow.
    """
    output_dir = Path(output_dir)
    path = output_dir / "group.html"
    write_text(path, render("group.html.j2", group_context(output_dir, workflow)))
    return path


def group_context(output_dir: Path, workflow: str) -> dict[str, Any]:
    """Return everything the template shows."""
    labels, empty = subjects_of(output_dir, workflow)
    if not labels:
        raise InputError(
            output_dir,
            expected=f"at least one sub-XX/decoding with results of workflow {workflow!r}",
            found="none",
            hint="run the participant level first",
        )
    subjects = [read_results(output_dir, label, workflow) for label in labels]
    file = output_dir / f"desc-{desc_label(workflow)}_scores.tsv"
    group = read_scores(file) if file.is_file() else scores_table([])
    facts_file = output_dir / f"desc-{desc_label(workflow)}_facts.json"
    facts = read_json(facts_file) if facts_file.is_file() else {}
    titles, rows = _headlines(subjects)
    lines = [_line(results, titles, rows) for results in subjects]
    lines += [
        SubjectLine(
            label=label,
            report="",
            trials=DASH,
            units=DASH,
            scores=[(DASH, "")] * len(titles),
            warnings=["no results of this workflow: see the logs folder"],
        )
        for label in empty
    ]
    figures, sentences = [], []
    for title in titles:
        found = rows[title]
        table = pd.DataFrame(list(found.values())).assign(subject=list(found))
        block, words = _headline(title, table, group, len(lines))
        figures.append((title, block, words[:1].upper() + words[1:]))
        sentences.append(f"{title}: {words}")
    growing = [
        replace(series[0], label=f"sub-{results.subject}")
        for results in subjects
        if (series := headline_series(results))
    ]
    if growing:
        metric = growing[0].rows.iloc[0]["metric"]
        block = minutes_figure(growing, "minutes", metric)
        figures.append(("Minutes of data", block, "Every subject by itself, the first model of each report."))
    n_warned = sum(bool(line.warnings) for line in lines)
    return {
        "workflow": workflow,
        "dataset_name": str(
            subjects[0].dataset.get("title") or subjects[0].dataset.get("name") or "unknown dataset"
        ),
        "simulated": any(results.simulated for results in subjects),
        "subjects": sorted(lines, key=lambda line: line.label),
        "score_titles": titles,
        "verdict": sentences[:3] or ["No headline score was found."],
        "warnings": [
            *([f"{n_warned} of {len(lines)} subjects carry warnings: see the table."] if n_warned else []),
            *([f"No results: {listed([f'sub-{label}' for label in empty])}."] if empty else []),
            *(["Fewer than four subjects: no interval over subjects is given."] if len(labels) < 4 else []),
        ],
        "figures": figures,
        "ceiling": ceiling_note(group, simulated=any(results.simulated for results in subjects)),
        "panels": [panel for panel in (group_similarity_panel(group, subjects, facts),) if panel is not None],
        "groups": full_table(group),
        "n_rows": len(group),
        "group_file": file.name,
        "no_group": f"{file.name} was not found; run the group level to write it.",
        "versions": [(name, plain(version)) for name, version in mapping(facts.get("versions")).items()],
        "command": f"bds run DATASET OUTPUT_DIR group --workflow {workflow}",
    }


def _headlines(subjects: list[Results]) -> tuple[list[str], dict[str, dict[str, pd.Series]]]:
    """Return headline titles and, for each, the row of every subject that has it."""
    rows: dict[str, dict[str, pd.Series]] = {}
    for results in subjects:
        for title, _, row in headline_rows(results):
            rows.setdefault(title, {})[results.subject] = row
    return list(rows), rows


def _line(results: Results, titles: list[str], rows: dict[str, dict[str, pd.Series]]) -> SubjectLine:
    cells = []
    for title in titles:
        row = rows[title].get(results.subject)
        cells.append((DASH, "") if row is None else _with_interval(row))
    report = results.output_dir / f"sub-{results.subject}.html"
    return SubjectLine(
        label=results.subject,
        report=report.name if report.is_file() else "",
        trials=integer(results.study.get("n_trials")),
        units=integer(results.study.get("n_units")),
        scores=cells,
        warnings=warnings_of(results),
    )


def _with_interval(row: pd.Series) -> tuple[str, str]:
    bounds = interval(row["ci_low"], row["ci_high"], row["metric"])
    return quantity(row["metric"], row["value"]), "" if bounds == DASH else bounds


def _headline(title: str, table: pd.DataFrame, group: pd.DataFrame, n_listed: int) -> tuple[FigureBlock, str]:
    """Return the figure of one score over subjects and what it says in words."""
    first = table.iloc[0]
    same = group[(group["subject"] == GROUP) & group["minutes"].isna()]
    for column in SAME:
        same = same[same[column].isna() if pd.isna(first[column]) else same[column] == first[column]]
    several = same[same["seed"].map(pooled)]
    same = several if len(several) else same
    metric = first["metric"]
    block = subject_dots(
        table,
        same,
        title,
        "subjects-" + "".join(c for c in title.lower() if c.isalnum()),
        metric_title(metric),
    )
    over = f"over {len(table)} subject{'' if len(table) == 1 else 's'}"
    over += f" ({n_listed - len(table)} without this score)" if n_listed > len(table) else ""
    words = f"mean {quantity(metric, table['value'].mean())} {over}"
    if len(same) and not missing(same.iloc[0]["ci_low"]):
        row = same.iloc[0]
        bounds = interval(row["ci_low"], row["ci_high"], metric)
        words = f"mean {quantity(metric, row['value'])}, 95\u00a0% interval {bounds} {over}"
    tested = table["p_value"].dropna()
    if len(tested):
        found = prevalence(int((tested <= ALPHA).sum()), len(tested), alpha=ALPHA)
        words += (
            f"; {found.k} of {found.n} significant at {found.alpha:g}; most probable prevalence {number(found.value, 2)}, "
            f"95\u00a0% [{number(found.low, 2)}, {number(found.high, 2)}]"
        )
    return block, words + "."
