"""How the score grows with training trials and with people: points, a line in the logarithm of the amount, and where it ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
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
MARGIN = 0.05
TIMES = {2: "twice", 10: "ten times"}


def curve_panel(results: Results) -> Panel | None:
    """Return the section on the amount of data, or None where neither a learning curve nor other people's trials were asked for."""
    known = mapping(results.facts.get("learning_curve"))
    parts = []
    if known:
        parts = [
            Part(
                title="Score against training trials",
                figure=curve_figure("learning-curve", [known], "shares of the training images"),
            ),
            Part(
                title="The fitted lines",
                table=line_table([known]),
                look_for="a bend whose interval leaves out 0: below, the curve flattens and the line promises too much; above, it steepens. Either way "
                "the line is not the whole story.",
            ),
        ]
    curves = [mapping(curve) for curve in sequence(results.facts.get("people_curves"))]
    if curves:
        parts += [
            Part(
                title="Score against people who train",
                figure=curve_figure("people-curve", curves, "one person after another"),
            ),
            Part(
                title="The fitted lines over people",
                table=line_table(curves),
                look_for="intervals above 0 of what twice the people add, and that they hold for these people alone.",
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


def curve_figure(name: str, curves: Sequence[Mapping[str, Any]], fitted: str) -> FigureBlock:
    """Return each model's scores with intervals, and its line with a band, to twice the data; several curves beside each other.

    Parameters
    ----------
    name : str
        Unique on the page.
    curves : sequence of mapping
        As the facts ``learning_curve``, of one metric.
    fitted : str
        What models were fitted to, in words.
    """
    first, several = curves[0], len(curves) > 1
    metric, chance, of = str(first["metric"]), float(first["chance"]), _of(curves)
    columns = 2 if several else 1
    rows = -(-len(curves) // columns)
    with matplotlib.rc_context(STYLE):
        figure = new_figure(8.5 if several else 7.4, 3.8 * rows)
        axes = list(figure.subplots(rows, columns, sharey=True, squeeze=False).flat)
        for axis, known in zip(axes, curves, strict=False):
            _draw_curve(axis, known)
            if known.get("title"):
                axis.set_title(str(known["title"]), fontsize=11)
        low, high = axes[0].get_ylim()
        axes[0].set_ylim(max(low, -MARGIN), min(high, 1 + MARGIN))  # shares, which a line may leave
        for axis in axes[::columns]:
            axis.set_ylabel(metric_title(metric))
        for axis in axes[len(curves) :]:
            axis.remove()
        axes[0].legend(fontsize=9.5, loc="upper left")
    return draw(
        name,
        figure,
        f"{metric_title(metric)} against {of}: {'; '.join(map(_told, curves))}. Chance {number(chance)}.",
        f"{metric_title(metric)} of {integer(first['gallery'])} images by models fitted to {fitted}, and the straight line in the "
        f"logarithm of the {first['unit']}; 95\u00a0% intervals over {first['over']}s. The line ends at twice the {first['unit']}.",
        "whether the points lie on the line, and which of the two is steeper.",
    )


def _draw_curve(axis: Axes, known: Mapping[str, Any]) -> None:
    amounts = [float(mapping(amount)["amount"]) for amount in sequence(known["amounts"])]
    models = [mapping(model) for model in sequence(known["models"])]
    for k, model in enumerate(models):
        colour = SERIES[k % len(SERIES)]
        line = _columns(model["line"])
        axis.fill_between(line["amount"], line["low"], line["high"], color=colour, alpha=0.14, linewidth=0)
        axis.plot(line["amount"], line["value"], color=colour, linewidth=1.4)
        shift = APART * (k - (len(models) - 1) / 2) / 72
        aside = ScaledTranslation(shift, 0, axis.figure.dpi_scale_trans)
        points, drawn = _columns(model["points"]), axis.transData + aside
        title = model_title(str(model["model"]))
        axis.plot(amounts, points["value"], "o", markersize=5, color=colour, transform=drawn, label=title)
        for n, low, high in zip(amounts, points["low"], points["high"], strict=True):
            axis.plot([n, n], [low, high], color=colour, linewidth=1.2, alpha=0.7, transform=drawn)
    axis.axhline(float(known["chance"]), color=MUTED, linestyle="--", linewidth=1.2, label="chance")
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(FixedLocator(amounts))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: integer(value)))
    axis.set_xlabel(f"{known['of']} (logarithmic)")


def _told(known: Mapping[str, Any]) -> str:
    """Return the points of a curve in words."""
    amounts = [mapping(amount)["amount"] for amount in sequence(known["amounts"])]
    told = "; ".join(
        f"{model_title(str(model['model']))} "
        + ", ".join(
            f"{number(mapping(point)['value'])} at {n:g}"
            for n, point in zip(amounts, sequence(model["points"]), strict=True)
        )
        for model in map(mapping, sequence(known["models"]))
    )
    return f"{known['title']}: {told}" if known.get("title") else told


def _of(curves: Sequence[Mapping[str, Any]]) -> str:
    """Return what there is more and more of along the curves."""
    return " or ".join(dict.fromkeys(str(known["of"]) for known in curves))


def line_table(curves: Sequence[Mapping[str, Any]]) -> Table:
    """Return what so many times the amount adds, the bend, and the line at twice the data, a line a model of each curve."""
    first = curves[0]
    titled = any(known.get("title") for known in curves)
    rows = []
    for known in curves:
        for model in map(mapping, sequence(known["models"])):
            bend = mapping(model.get("bend"))
            rows.append(
                [
                    *([str(known["title"])] if titled else []),
                    model_title(str(model["model"])),
                    _with_interval(mapping(model["adds"])),
                    _with_interval(bend) if bend else DASH,
                    number(model["residual"]),
                    _with_interval(mapping(model["doubled"])),
                ]
            )
    return Table(
        caption=f"{metric_title(str(first['metric']))} = a + b log10({_of(curves)})",
        headings=[
            *(["trained on others and"] if titled else []),
            "model",
            f"{TIMES[int(first['times'])]} the {first['unit']} add",
            "bend",
            "distance from the line",
            f"line at twice the {first['unit']}",
        ],
        rows=rows,
        numeric=[*([False] if titled else []), False, True, True, True, True],
        note=" ".join(dict.fromkeys(str(note) for known in curves for note in sequence(known.get("notes")))),
    )


def _columns(rows: Any) -> dict[str, np.ndarray]:
    found = [mapping(row) for row in sequence(rows)]
    return {key: np.array([row[key] for row in found], float) for key in found[0]}


def _with_interval(found: Mapping[str, Any]) -> str:
    return f"{number(found['value'])} [{number(found['low'])}, {number(found['high'])}]"
