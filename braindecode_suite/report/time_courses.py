"""What could be decoded when: courses over windows, maps of one time on another, and every jitter of a simulated study."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np

from braindecode_suite.report.figures import (
    INK,
    MUTED,
    SERIES,
    SHADE,
    STYLE,
    FigureBlock,
    draw,
    new_figure,
)
from braindecode_suite.report.panels import Panel, Part
from braindecode_suite.report.results import Results, mapping, sequence
from braindecode_suite.report.selection import where
from braindecode_suite.report.tables import Table
from braindecode_suite.report.wording import (
    DASH,
    integer,
    interval,
    metric_title,
    model_title,
    number,
    p_text,
)

LEVEL_TITLES = {"single": "single trials", "mean-prediction": "predictions averaged over repeats"}


def time_panel(results: Results) -> Panel | None:
    """Return the section on time, or None where nothing was resolved in time."""
    known = mapping(results.facts.get("time"))
    courses = [mapping(known[kind]) for kind in ("sliding", "growing") if kind in known]
    if not courses:
        return None
    parts = []
    for k, course in enumerate(courses):
        title = f"{model_title(str(course['model']))}: {course['windows_are']}"
        parts.append(Part(title=title, figure=course_figure(f"time-{k}", course), table=course_table(course)))
    if "generalisation" in known:
        figure = generalisation_figure(mapping(known["generalisation"]))
        parts.append(Part(title="Maps of one time on the samples of another", figure=figure))
    jitter = jitter_part(results)
    return Panel(
        slug="time", title="What could be decoded when", parts=[*parts, *([jitter] if jitter else [])]
    )


def course_figure(name: str, course: Mapping[str, Any]) -> FigureBlock:
    """Return scores against the centre (or the end) of windows, with simultaneous bands and clusters."""
    levels = [mapping(level) for level in sequence(course["levels"])]
    times = np.array(sequence(course["times"]), float)
    metric, chance = str(course["metric"]), float(course["chance"])
    with matplotlib.rc_context(STYLE):
        figure = new_figure(8.4, 3.6)
        axis = figure.subplots()
        stop = float(course.get("picture_seconds") or 0.0)
        if stop:
            axis.axvspan(0, min(stop, times[-1]), color=SHADE, linewidth=0, zorder=0)
        axis.axvline(0, color=MUTED, linewidth=0.8)
        for k, level in enumerate(levels):
            colour = SERIES[k % len(SERIES)]
            low, high = (np.array(sequence(level[key]), float) for key in ("band_low", "band_high"))
            axis.fill_between(times, low, high, color=colour, alpha=0.18, linewidth=0)
            label = LEVEL_TITLES.get(str(level["level"]), str(level["level"]))
            axis.plot(times, sequence(level["value"]), color=colour, linewidth=1.7, label=label)
        axis.axhline(chance, color=MUTED, linestyle="--", linewidth=1.2, label="chance")
        bottom, top = axis.get_ylim()
        below = bottom - 0.05 * (top - bottom)
        for cluster in map(mapping, sequence(course.get("clusters"))):
            if cluster["p_value"] < 0.05:
                ends = [cluster["time_start"], cluster["time_stop"]]
                axis.plot(ends, [below, below], color=INK, linewidth=4, solid_capstyle="butt")
        axis.set_xlim(times[0], times[-1])
        axis.set_xlabel(str(course["axis"]))
        axis.set_ylabel(metric_title(metric))
        axis.legend(fontsize=9.5, loc="upper right")
    peak = "; ".join(
        f"{LEVEL_TITLES.get(str(level['level']), str(level['level']))}: highest {number(level['peak_value'])} at {1000 * float(level['peak_time']):.0f} ms"
        for level in levels
    )
    return draw(
        name,
        figure,
        f"{metric_title(metric)} over time. {peak}. Chance {number(chance)}.",
        f"{metric_title(metric)} of {integer(course['gallery'])} images, {course['windows_are']}; bands hold simultaneously over all windows "
        "(95\u00a0%, images drawn again). Shaded: the picture is on. Thick lines below: clusters of windows with p < 0.05, the same permutation of "
        "whole images at all windows; a cluster neither dates an onset nor says that the other windows are at chance."
        + (f" {course['note']}" if course.get("note") else ""),
        "a course at chance before 0. What rises before the picture is on is leakage, or a filter that reaches back.",
    )


def course_table(course: Mapping[str, Any]) -> Table:
    """Return a line a level: before onset, the peak and its latency."""
    rows = []
    for level in map(mapping, sequence(course["levels"])):
        before, latency = mapping(level.get("before_onset")), sequence(level.get("peak_interval"))
        rows.append(
            [
                LEVEL_TITLES.get(str(level["level"]), str(level["level"])),
                number(course["chance"]),
                f"{number(before['highest'])} ({number(before['upper'])})" if before else DASH,
                number(level["peak_value"]),
                f"{1000 * float(level['peak_time']):.0f} ms",
                f"[{1000 * float(latency[0]):.0f}, {1000 * float(latency[1]):.0f}] ms" if latency else DASH,
            ]
        )
    clusters = [mapping(c) for c in sequence(course.get("clusters"))]
    least = min((float(c["p_value"]) for c in clusters), default=None)
    return Table(
        caption="Before the picture, and the peak",
        headings=[
            "level",
            "chance",
            "highest before onset (upper end of the simultaneous band)",
            "peak",
            "at",
            "95\u00a0% interval of its latency",
        ],
        rows=rows,
        note=""
        if least is None
        else f"Largest cluster: p {p_text(least)}, {integer(course['n_permutations'])} permutations.",
    )


def generalisation_figure(known: Mapping[str, Any]) -> FigureBlock:
    """Return the matrix of scores, trained on the rows' time and tested on the columns'."""
    values = np.array(known["values"], float)
    times = 1000 * np.array(known["times"], float)
    step = (times[1] - times[0]) / 2
    with matplotlib.rc_context(STYLE):
        figure = new_figure(5.6, 4.6)
        axis = figure.subplots()
        shown = axis.imshow(
            values,
            origin="lower",
            cmap="viridis",
            extent=(times[0] - step, times[-1] + step, times[0] - step, times[-1] + step),
            vmin=min(float(known["chance"]), float(values.min())),
            interpolation="nearest",
        )
        axis.grid(False)
        for line in (axis.axvline, axis.axhline):
            line(0, color="white", linewidth=0.8)
        axis.plot(times[[0, -1]], times[[0, -1]], color="white", linewidth=0.8, linestyle=":")
        axis.set_xlabel("tested on the window around (ms)")
        axis.set_ylabel("trained on the window around (ms)")
        figure.colorbar(shown, ax=axis, label=metric_title(str(known["metric"])))
    best = np.unravel_index(values.argmax(), values.shape)
    return draw(
        "time-generalisation",
        figure,
        f"Temporal generalisation, {len(times)} by {len(times)} windows; highest {number(values.max())}, trained at {times[best[0]]:.0f} ms and tested at {times[best[1]]:.0f} ms.",
        f"{metric_title(str(known['metric']))} of ridge trained on one window and tested on another; predictions averaged over repeats. Chance {number(known['chance'])}.",
        "a square: one pattern is held over that time. A diagonal alone: what carries the images changes from moment to moment.",
    )


def jitter_part(results: Results) -> Part | None:
    """Return a table of models and oracle at every jitter of a simulated study, or None."""
    known = [mapping(line) for line in sequence(results.facts.get("jitters"))]
    if not known:
        return None
    metric, gallery = "retrieval_brain_to_image_top1", None
    rows: list[list[str]] = []
    for line in known:
        plain = where(
            results.scores, metric=metric, split=str(line["split"]), control="brain", scorer="cosine-centred"
        )
        plain = plain[plain["candidates"].isin(["", "all"])]
        for level in ("mean-prediction", "single"):
            some = where(plain, level=level)
            if some.empty:
                continue
            gallery = some["gallery"].min() if gallery is None else gallery
            some = some[some["gallery"] == some["gallery"].max()]
            scores = {
                model: where(some, model=model, versus="") for model in (results.primary, results.baseline)
            }
            first = [table.iloc[-1] for table in scores.values() if len(table)]
            if len(first) < 2:
                continue
            deep, linear = first
            gap = where(some, model=results.primary, versus=results.baseline)
            oracle = deep["ceiling"]
            share = (
                (deep["value"] - linear["value"]) / (oracle - linear["value"]) if oracle == oracle else np.nan
            )
            rows.append(
                [
                    f"{float(line['jitter_ms']):g} ms",
                    LEVEL_TITLES[level],
                    f"{number(deep['value'])} {interval(deep['ci_low'], deep['ci_high'])}",
                    f"{number(linear['value'])} {interval(linear['ci_low'], linear['ci_high'])}",
                    f"{number(gap.iloc[-1]['value'])} {interval(gap.iloc[-1]['ci_low'], gap.iloc[-1]['ci_high'])}"
                    if len(gap)
                    else DASH,
                    number(oracle) if oracle == oracle else DASH,
                    f"{100 * share:.0f}\u00a0%" if share == share else DASH,
                ]
            )
    if not rows:
        return None
    return Part(
        title="Jitter of latencies",
        table=Table(
            caption=f"{metric_title(metric)} at every jitter of the simulated study: model recovery, not performance",
            headings=[
                "jitter",
                "level",
                model_title(results.primary),
                model_title(results.baseline),
                "difference",
                "oracle",
                "share of the gap to the oracle",
            ],
            rows=rows,
        ),
        look_for="whether the network keeps what the linear map on fixed samples loses when latencies vary.",
    )
