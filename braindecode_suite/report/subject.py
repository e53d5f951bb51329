"""One subject's report: a pure function of the results folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from braindecode_suite.core.files import write_text
from braindecode_suite.report.brain import brain_views, no_brain, reasons
from braindecode_suite.report.classification import classification
from braindecode_suite.report.data_card import data_card
from braindecode_suite.report.encoding import encoding
from braindecode_suite.report.examples import headline_queries, reconstructions, retrieved
from braindecode_suite.report.figures import FigureBlock, identification_forest, learning_curves, rank_figure
from braindecode_suite.report.learning_curve import curve_panel
from braindecode_suite.report.minutes import minutes_section
from braindecode_suite.report.panels import Panel
from braindecode_suite.report.render import render
from braindecode_suite.report.results import Results, mapping, read_results, sequence
from braindecode_suite.report.routing import routing_views
from braindecode_suite.report.selection import pick
from braindecode_suite.report.similarity import similarity_panel
from braindecode_suite.report.summary import control_differences, controls_of, summarise
from braindecode_suite.report.tables import (
    PUBLISHED_EIGHT,
    ceiling_note,
    controls_legend,
    differences_table,
    eight_table,
    full_table,
    hub_table,
    image_statistics_table,
    retrieval_tables,
    scene_table,
)
from braindecode_suite.report.time_courses import time_panel
from braindecode_suite.report.vectors import vectors_panel
from braindecode_suite.report.wording import (
    CANDIDATE_NOTES,
    integer,
    model_title,
    plain,
    scorer_title,
    seconds,
)

STATUS_SIGNS = {"done": "\u2713", "resumed": "\u21bb", "skipped": "\u2013", "failed": "\u2717"}


def write_subject_report(output_dir: Path, subject: str, workflow: str) -> Path:
    """Write ``OUTPUT_DIR/sub-XX.html`` from the results folder, whole or not at all.

    Parameters
    ----------
    output_dir : Path
    subject : str
        Label without ``sub-``.
    workflow : str
        Catalogue name, e.g. ``mindeye``.

    Returns
    -------
    Path
        The report: one self-contained HTML file.

    Raises
    ------
    InputError
        If the subject has no results of this workflow, or a file of them cannot be read.
    """
    results = read_results(Path(output_dir), subject, workflow)
    path = Path(output_dir) / f"sub-{subject}.html"
    write_text(path, render("subject.html.j2", subject_context(results)))
    return path


def sensors(results: Results) -> Panel | None:
    """Return the section on sensors; MNE is imported only where there are some."""
    if results.evoked is None:
        return None
    from braindecode_suite.report.sensors import sensor_panel

    return sensor_panel(results)


def _no_oracle(results: Results) -> str:
    if results.simulated:
        return "this workflow asks none; noise ceilings stand beside the scores that have one."
    return "the model that generated real recordings is not known, so there is no ceiling for retrieval and identification."


def subject_context(results: Results) -> dict[str, Any]:
    """Return everything the template shows."""
    facts = results.facts
    queries, scorer = headline_queries(results)
    recon = reconstructions(results)
    names, views = results.models, brain_views(results)
    return {
        "results": results,
        "title": f"sub-{results.subject}",
        "dataset_name": str(results.dataset.get("title") or results.dataset.get("name") or "unknown dataset"),
        "summary": summarise(results),
        "card": data_card(results),
        "curves": None if results.history is None else learning_curves(results.history),
        "no_curves": results.reason("train", "fit")
        or "no training history was written; closed-form models have none.",
        "routing": routing_views(results),
        "ranks": None if queries is None else rank_figure(queries, names, scorer_title(scorer)),
        "no_ranks": results.reason("retriev") or "no retrieval was run in this workflow.",
        "retrieval": retrieval_tables(results),
        "retrieval_pairs": differences_table(
            results, _retrieval_metrics(results), "Paired differences between models, same queries"
        ),
        "hubs": hub_table(mapping(facts.get("hub_skewness"))),
        "retrieved": retrieved(results),
        "recon": recon,
        "panels": [
            panel
            for panel in (
                vectors_panel(results),
                similarity_panel(results),
                sensors(results),
                time_panel(results),
                curve_panel(results),
            )
            if panel is not None
        ],
        "classes": classification(results),
        "encoding": encoding(results),
        "brain": views,
        "brain_reasons": [*reasons(views), *([no_brain(results)] if no_brain(results) else [])],
        "forest": _forest(results),
        "image_pairs": differences_table(
            results, ["identification", *PUBLISHED_EIGHT], "Paired differences between models, same images"
        ),
        "statistics": image_statistics_table(results),
        "eight": eight_table(results),
        "scenes": scene_table(results),
        "no_scenes": results.reason("scene", "position")
        or (
            "what the images show is not known object by object."
            if recon.random
            else "there are no reconstructions to judge."
        ),
        "scorers_missing": [str(note) for note in sequence(facts.get("scorers_missing"))],
        "generator": flat(mapping(facts.get("generator"))),
        "oracle": flat(mapping(facts.get("oracle"))),
        "no_oracle": results.reason("oracle") or _no_oracle(results),
        "ceiling": ceiling_note(results.scores, simulated=results.simulated, reason=results.reason("oracle")),
        "minutes": minutes_section(results),
        "groups": full_table(results.table),
        "n_rows": len(results.table),
        "legend": controls_legend(results.scores),
        "methods": [str(text) for text in sequence(facts.get("methods"))],
        "citations": [_citation(item) for item in sequence(facts.get("citations"))],
        "notes": [str(note) for note in sequence(facts.get("notes"))],
        "steps": [_step(mapping(step)) for step in sequence(facts.get("steps"))],
        "model_facts": [_model(mapping(model)) for model in sequence(facts.get("models"))],
        "targets": flat(mapping(facts.get("targets"))),
        "command": _command(facts.get("command")),
        "versions": flat(mapping(facts.get("versions"))),
        "seeds": plain(facts.get("seeds")),
        "config": facts.get("config") or {},
        "costs": _costs(facts),
    }


def flat(facts: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return nested facts as name and text, names joined by a slash."""
    rows: list[tuple[str, str]] = []
    for key, value in facts.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            rows += flat(value, f"{name} / ")
        else:
            rows.append((name, plain(value)))
    return rows


def _retrieval_metrics(results: Results) -> list[str]:
    return [name for name in results.scores["metric"].unique() if name.startswith("retrieval_")]


def _forest(results: Results) -> FigureBlock | None:
    row = pick(results, "identification", model=results.primary)
    if row is None:
        return None
    fixed = {name: row[name] for name in ("scorer", "candidates", "stage", "split", "level")}
    plain_rows = [row]
    for control in [*controls_of(results), "true-latent"]:
        found = pick(results, "identification", control=control, model=[results.primary, ""], **fixed)
        if found is None:
            wanted = {key: fixed[key] for key in ("scorer", "candidates")}
            found = pick(results, "identification", control=control, **wanted)
        if found is not None:
            plain_rows.append(found)
    against = CANDIDATE_NOTES.get(row["candidates"], "other test images")
    against += f", judged by {scorer_title(row['scorer'])}" if row["scorer"] else ""
    return identification_forest(pd.DataFrame(plain_rows), control_differences(results), against)


def _citation(item: Any) -> tuple[str, str]:
    if not isinstance(item, Mapping):
        return str(item), ""
    url = str(item.get("url") or "")
    return str(item.get("text") or url), url if url.startswith(("https://", "http://")) else ""


def _step(step: Mapping[str, Any]) -> tuple[str, str, str, str, str]:
    status = str(step.get("status", ""))
    figures = {
        key: value for key, value in step.items() if key not in ("name", "status", "seconds", "detail")
    }
    detail = "; ".join(
        text for text in (str(step.get("detail") or ""), plain(figures) if figures else "") if text
    )
    return (
        str(step.get("name", "")),
        status,
        STATUS_SIGNS.get(status, ""),
        seconds(step.get("seconds")),
        detail,
    )


def _model(model: Mapping[str, Any]) -> tuple[str, list[tuple[str, str]]]:
    name = model_title(str(model.get("name", "model")))
    seed = model.get("seed")
    title = name if seed is None or seed == "" else f"{name}, seed {seed}"
    rows = []
    for key, value in model.items():
        if key in ("name", "seed") or value is None or value == "":
            continue
        if key == "n_parameters":
            rows.append(("parameters", integer(value)))
        elif key == "seconds":
            rows.append(("fitted in", seconds(value)))
        elif isinstance(value, Mapping):
            rows += flat(value, f"{key} / ")
        else:
            rows.append((key.replace("_", " "), plain(value)))
    return title, rows


def _command(command: Any) -> str:
    if isinstance(command, list | tuple):
        parts = [str(part) for part in command]
        return " ".join(f"'{part}'" if set(part) & set(" \"'$;&|<>()") else part for part in parts)
    return str(command or "")


def _costs(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    named = {"device": "Device", "precision": "Precision", "code": "Code version"}
    rows = [(title, str(facts[key])) for key, title in named.items() if facts.get(key)]
    if facts.get("wall_s") is not None:
        rows.append(("Wall time", seconds(facts["wall_s"])))
    if facts.get("cpu_s") is not None:
        rows.append(("CPU time", seconds(facts["cpu_s"])))
    if facts.get("peak_anonymous_kb"):
        rows.append(("Peak anonymous memory", f"{facts['peak_anonymous_kb'] / 1024**2:.2f} GB"))
    return rows
