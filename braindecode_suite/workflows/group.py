"""The group level: every subject listed, a mean where it means something, and how common the effect is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from braindecode_suite.core.errors import InputError
from braindecode_suite.core.files import write_aside, write_json
from braindecode_suite.core.manifest import library_versions
from braindecode_suite.core.score import COLUMNS, IDENTITY, Score, read_scores, scores_table
from braindecode_suite.metrics.groups import group_summary
from braindecode_suite.workflows import WORKFLOWS
from braindecode_suite.workflows.job import GroupScored
from braindecode_suite.workflows.results import prepare_output, result_path

GROUP = "group"
SAME = [column for column in IDENTITY if column != "subject"]
"""Columns that say that two rows of different subjects are the same score."""


def run_group(output_dir: Path, workflow: str, label: str, seed: int = 0) -> int:
    """Summarise the subjects that have results, render ``group.html`` and return the exit code.

    Raises
    ------
    InputError
        If no subject has results.
    """
    from braindecode_suite.report.group import write_group_report

    tables = subject_tables(output_dir, label)
    if not tables:
        raise InputError(
            output_dir,
            expected=f"results of workflow {workflow!r}",
            found="none",
            hint="run the participant level first",
        )
    prepare_output(output_dir)
    table, prevalences = summarise(tables, seed=seed)
    more, told = _together(output_dir, workflow, sorted(tables), seed)
    if more:
        table = pd.concat([table, scores_table(more)], ignore_index=True)
    with write_aside(output_dir / f"desc-{label}_scores.tsv") as aside:
        table.to_csv(aside, sep="\t", index=False, float_format="%.6g")
    facts = {
        "workflow": workflow,
        "subjects": sorted(tables),
        "prevalence": prevalences,
        "versions": library_versions(),
        "warnings": _warnings(output_dir, label, sorted(tables)),
        **told,
    }
    write_json(output_dir / f"desc-{label}_facts.json", facts)
    print(
        f"{len(tables)} subject{'' if len(tables) == 1 else 's'}: report in {write_group_report(output_dir, workflow)}"
    )
    return 0


def subject_tables(output_dir: Path, label: str) -> dict[str, pd.DataFrame]:
    """Return the score table of every subject that has one."""
    found = {}
    for folder in sorted(output_dir.glob("sub-*")):
        path = result_path(output_dir, folder.name.removeprefix("sub-"), label, "scores.tsv")
        if path.is_file():
            found[folder.name.removeprefix("sub-")] = read_scores(path)
    return found


def summarise(tables: dict[str, pd.DataFrame], seed: int = 0) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """Return all subjects' rows followed by one group row for each score that at least two subjects share.

    A group row's value is the mean over subjects; its interval is Student's from 4 subjects and a bootstrap of subjects
    from 10. Rows differ in gallery or target between subjects where their studies do: such rows stay apart.

    Returns
    -------
    table : DataFrame
        Columns of the score table; `subject` is ``group`` in the group rows.
    prevalences : list of dict
        For each group row with p-values: its key, 'k of n significant' and the prevalence statement.
    """
    everything = pd.concat(tables.values(), ignore_index=True)
    rows, prevalences = [], []
    for _, same in everything.groupby(SAME, dropna=False, sort=False):
        one_each = same.drop_duplicates("subject")
        values = one_each["value"].to_numpy(float)
        if len(one_each) < 2 or not np.isfinite(values).all():
            continue
        p_values = one_each["p_value"].to_numpy(float)
        summary = group_summary(
            list(one_each["subject"]), values, p_values if np.isfinite(p_values).all() else None, seed=seed
        )
        row = {
            **{column: one_each.iloc[0][column] for column in SAME},
            "subject": GROUP,
            "value": summary.interval.value,
            "ci_low": summary.interval.low,
            "ci_high": summary.interval.high,
            "ci_over": "subject",
            "chance": one_each["chance"].mean(),
            "ceiling": one_each["ceiling"].mean(),
            "n": one_each["n"].sum(),
            "n_repeats": one_each["n_repeats"].mean(),
            "n_subjects": len(one_each),
        }
        rows.append(row)
        if summary.prevalence is not None:
            key = {
                column: one_each.iloc[0][column] for column in SAME if not pd.isna(one_each.iloc[0][column])
            }
            prevalences.append(
                {
                    **{k: v for k, v in key.items() if v != ""},
                    "subjects": list(summary.subjects),
                    "k": summary.prevalence.k,
                    "n": summary.prevalence.n,
                    "statement": str(summary.prevalence),
                    "method": summary.method,
                }
            )
    return pd.concat([everything, pd.DataFrame(rows, columns=list(COLUMNS))], ignore_index=True), prevalences


def _together(
    output_dir: Path, workflow: str, subjects: list[str], seed: int
) -> tuple[list[Score], dict[str, Any]]:
    """Return what the workflow itself says of its subjects together, if it does."""
    known = WORKFLOWS[workflow]
    return known.group_scores(output_dir, subjects, seed) if isinstance(known, GroupScored) else ([], {})


def _warnings(output_dir: Path, label: str, subjects: list[str]) -> dict[str, list[str]]:
    found = {}
    for subject in subjects:
        path = result_path(output_dir, subject, label, "facts.json")
        facts = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        found[subject] = list(facts.get("study", {}).get("warnings", []))
    return found
