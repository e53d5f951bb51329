"""How the score grows with training trials: points, a line in the logarithm of the trials, and where it ends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import matplotlib
import numpy as np
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from matplotlib.transforms import ScaledTranslation

from braindecode_suite.report.figures import MUTED, SERIES, STYLE, FigureBlock, draw, new_figure
from braindecode_suite.report.panels import Panel, Part
from braindecode_suite.report.results import Results, mapping, sequence
from braindecode_suite.report.tables import Table
from braindecode_suite.report.time_courses import compared
from braindecode_suite.report.wording import DASH, integer, listed, metric_title, model_title, number

APART = 4.0
"""Points between the whiskers of one amount."""


def curve_panel(results: Results) -> Panel | None:
    """Return the section on the amount of data, or None where neither a learning curve nor other people's trials were used."""
    known = mapping(results.facts.get("learning_curve"))
    parts = []
    if known:
        parts = [
            Part(title="Score against training trials", figure=curve_figure("learning-curve", known)),
            Part(
                title="The fitted lines",
                table=line_table(known),
                look_for="a bend whose interval leaves out 0: below, the curve flattens and the line promises too much; above, it steepens. Either way "
                "the line is not the whole story.",
            ),
        ]
    parts += [part for part in (people_part(results), gain_part(results)) if part is not None]
    if not parts:
        return None
    return Panel(slug="learning-curve", title="What more data add", parts=parts)


def people_part(results: Results) -> Part | None:
    """Return a table of models that were fitted to several people, or None."""
    known = [mapping(group) for group in sequence(results.facts.get("people"))]
    lines = [(str(group["title"]), str(group["split"])) for group in known]
    table = compared(results, lines, "training", "Trained on several people, tested on this one")
    if table is None:
        return None
    notes = [
        f"{group['title']}: "
        + ", ".join(f"{integer(n)} trials of sub-{who}" for who, n in mapping(group["trials"]).items())
        + "."
        for group in known
    ]
    transductive = {str(who) for group in known for who in sequence(group["transductive"])}
    if transductive:
        who = listed([f"sub-{one}" for one in sorted(transductive)])
        notes.append(
            f"Sessions of {who} without training trials are scaled by label-free statistics of their own (transductive)."
        )
    notes += dict.fromkeys(str(text) + "." for group in known for text in sequence(group["warnings"]))
    return Part(
        title="Several people",
        table=replace(table, note=" ".join(notes)),
        look_for="whether other people's trials help, and what is left where the person has not trained at all. Each line is of one fit, for "
        "retrieval alone; of several people ridge has one map.",
    )


def gain_part(results: Results) -> Part | None:
    """Return a table of how far each model is ahead of the same fitted to the subject alone, or None."""
    known = [mapping(group) for group in sequence(results.facts.get("people"))]
    rows = [
        [str(group["title"]), model_title(str(model)), _with_interval(mapping(found))]
        for group in known
        for model, found in mapping(group["gain"]).items()
    ]
    if not rows:
        return None
    table = Table(
        caption="Difference from the same model fitted to this person alone, paired over test images",
        headings=["training", "model", "ahead by"],
        rows=rows,
        numeric=[False, False, True],
    )
    return Part(title="What other people's trials add", table=table, look_for="intervals above 0.")


def curve_figure(name: str, known: Mapping[str, Any]) -> FigureBlock:
    """Return each model's scores with intervals, and its line with a band, to twice the data.

    Parameters
    ----------
    name : str
        Unique on the page.
    known : mapping
        The facts ``learning_curve``.
    """
    metric, chance = str(known["metric"]), float(known["chance"])
    trials = [int(mapping(amount)["trials"]) for amount in sequence(known["amounts"])]
    models = [mapping(model) for model in sequence(known["models"])]
    with matplotlib.rc_context(STYLE):
        figure = new_figure(7.4, 3.8)
        axis = figure.subplots()
        for k, model in enumerate(models):
            colour = SERIES[k % len(SERIES)]
            line = _columns(model["line"])
            axis.fill_between(
                line["trials"], line["low"], line["high"], color=colour, alpha=0.14, linewidth=0
            )
            axis.plot(line["trials"], line["value"], color=colour, linewidth=1.4)
            aside = ScaledTranslation(APART * (k - (len(models) - 1) / 2) / 72, 0, figure.dpi_scale_trans)
            points, drawn = _columns(model["points"]), axis.transData + aside
            axis.plot(
                trials,
                points["value"],
                "o",
                markersize=5,
                color=colour,
                transform=drawn,
                label=model_title(str(model["model"])),
            )
            for n, low, high in zip(trials, points["low"], points["high"], strict=True):
                axis.plot([n, n], [low, high], color=colour, linewidth=1.2, alpha=0.7, transform=drawn)
        axis.axhline(chance, color=MUTED, linestyle="--", linewidth=1.2, label="chance")
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(FixedLocator(trials))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: integer(value)))
        axis.set_xlabel("training trials (logarithmic)")
        axis.set_ylabel(metric_title(metric))
        axis.legend(fontsize=9.5, loc="upper left")
    told = "; ".join(
        f"{model_title(str(model['model']))} "
        + ", ".join(
            f"{number(mapping(point)['value'])} at {n}"
            for n, point in zip(trials, sequence(model["points"]), strict=True)
        )
        for model in models
    )
    return draw(
        name,
        figure,
        f"{metric_title(metric)} against training trials: {told}. Chance {number(chance)}.",
        f"{metric_title(metric)} of {integer(known['gallery'])} images by models fitted to shares of the training images, and the straight line in the "
        f"logarithm of the trials; 95\u00a0% intervals over {known['over']}s. The line ends at twice the data.",
        "whether the points lie on the line, and which of the two is steeper.",
    )


def line_table(known: Mapping[str, Any]) -> Table:
    """Return what ten times the trials add, the bend, and the line at twice the data, a line a model."""
    rows = []
    for model in map(mapping, sequence(known["models"])):
        bend = mapping(model.get("bend"))
        rows.append(
            [
                model_title(str(model["model"])),
                _with_interval(mapping(model["slope"])),
                _with_interval(bend) if bend else DASH,
                number(model["residual"]),
                _with_interval(mapping(model["doubled"])),
            ]
        )
    return Table(
        caption=f"{metric_title(str(known['metric']))} = a + b log10(training trials)",
        headings=[
            "model",
            "ten times the trials add",
            "bend",
            "distance from the line",
            "line at twice the trials",
        ],
        rows=rows,
        numeric=[False, True, True, True, True],
        note=" ".join(str(note) for note in sequence(known.get("notes"))),
    )


def _columns(rows: Any) -> dict[str, np.ndarray]:
    found = [mapping(row) for row in sequence(rows)]
    return {key: np.array([row[key] for row in found], float) for key in found[0]}


def _with_interval(found: Mapping[str, Any]) -> str:
    return f"{number(found['value'])} [{number(found['low'])}, {number(found['high'])}]"
