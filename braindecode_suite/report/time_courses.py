"""What could be decoded when: courses over windows, maps of one time on another, and every jitter of a simulated study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import matplotlib
import numpy as np
import pandas as pd

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
from braindecode_suite.report.selection import pooled, where
from braindecode_suite.report.tables import Table
from braindecode_suite.report.wording import (
    DASH,
    integer,
    interval,
    metric_title,
    missing,
    model_title,
    number,
    p_text,
)

LEVEL_TITLES = {
    "single": "single trials",
    "mean-prediction": "predictions averaged over repeats",
    "early": "colours and edges by place",
    "late": "category and kind of place",
}


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
    graded = {
        "identification": "When images are told apart best",
        "features": "What is early and what is late",
    }
    for kind, title in graded.items():
        if kind in known:
            course = mapping(known[kind])
            parts.append(
                Part(title=title, figure=graded_figure(f"time-{kind}", course), table=peak_table(course))
            )
    if "generalisation" in known:
        figure = generalisation_figure(mapping(known["generalisation"]))
        parts.append(Part(title="Maps of one time on the samples of another", figure=figure))
    more = [part for part in (causal_part(results), jitter_part(results)) if part is not None]
    return Panel(slug="time", title="What could be decoded when", parts=[*parts, *more])


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
            band = (np.array(sequence(level[key]), float) for key in ("band_low", "band_high"))
            low, high = (np.clip(side, 0, 1) for side in band)  # of a share
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
        axis.legend(fontsize=9.5, loc="lower right", bbox_to_anchor=(1, 1), ncols=3)
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


def graded_figure(name: str, course: Mapping[str, Any]) -> FigureBlock:
    """Return shares of images that the truth beats, over time, with simultaneous bands."""
    times = np.array(sequence(course["times"]), float)
    levels = [mapping(level) for level in sequence(course["levels"])]
    metric = metric_title(str(course["metric"]))
    with matplotlib.rc_context(STYLE):
        figure = new_figure(8.4, 3.2)
        axis = figure.subplots()
        stop = float(course.get("picture_seconds") or 0.0)
        if stop:
            axis.axvspan(0, min(stop, times[-1]), color=SHADE, linewidth=0, zorder=0)
        axis.axvline(0, color=MUTED, linewidth=0.8)
        axis.axhline(float(course["chance"]), color=MUTED, linestyle="--", linewidth=1.2, label="chance")
        for k, level in enumerate(levels):
            colour = SERIES[k % len(SERIES)]
            low, high = (np.array(sequence(level[key]), float) for key in ("band_low", "band_high"))
            axis.fill_between(times, low, high, color=colour, alpha=0.18, linewidth=0)
            label = LEVEL_TITLES[str(level["level"])]
            axis.plot(times, sequence(level["value"]), color=colour, linewidth=1.7, label=label)
        axis.set_xlim(times[0], times[-1])
        axis.set_xlabel(str(course["axis"]))
        axis.set_ylabel("share of other images")
        axis.legend(fontsize=9.5, loc="lower right", bbox_to_anchor=(1, 1), ncols=3)
    peaks = "; ".join(
        f"{LEVEL_TITLES[str(level['level'])]}: most at {1000 * float(level['peak_time']):.0f} ms"
        for level in levels
    )
    features = course["metric"] == "feature_identification"
    what = (
        "Share of the other test images whose features are less like those predicted from a window than the truth's are. Colours and edges are taken "
        "without what categories say of them, and the other way round, by regressions on training images."
        if features
        else "Share of the other test images that are less similar to a window's prediction than the truth is: graded, where top-1 counts hits only."
    )
    return draw(
        name,
        figure,
        f"{metric} over time. {peaks}. Chance {number(course['chance'])}.",
        f"{what} {integer(course['gallery'])} images, predictions averaged over repeats; bands hold simultaneously over all windows "
        "(95\u00a0%, images drawn again). Shaded: the picture is on.",
        "low-level features first, categories later; both at chance before the picture."
        if features
        else "a peak after the picture comes on and, where it stays long enough, another after it goes off.",
    )


def peak_table(course: Mapping[str, Any]) -> Table:
    """Return a line a peak: when, its interval, and what was simulated."""
    rows, known = [], False
    for level in map(mapping, sequence(course["levels"])):
        for peak in map(mapping, sequence(level["peaks"])):
            low, high = (1000 * float(end) for end in sequence(peak["interval"]))
            simulated = DASH
            if "simulated" in peak:
                known = True
                where_it_is = "inside" if peak["inside"] else "outside"
                first, last = (f"{1000 * float(time):.0f}" for time in sequence(peak["simulated"]))
                simulated = f"{first if first == last else f'{first} to {last}'} ms, {where_it_is}"
            rows.append(
                [
                    LEVEL_TITLES[str(level["level"])],
                    str(peak["name"]),
                    number(peak["value"]),
                    f"{1000 * float(peak['time']):.0f} ms",
                    f"[{low:.0f}, {high:.0f}] ms",
                    f"no: {peak['doubt']}" if peak["doubt"] else "yes",
                    simulated,
                ]
            )
    headings = ["what", "when", "highest", "at", "95\u00a0% interval of its latency", "a peak"]
    return Table(
        caption="Peaks",
        headings=[*headings, "simulated"] if known else headings,
        rows=rows if known else [row[:-1] for row in rows],
        note=f"Chance {number(course['chance'])}. Not a peak: where the simultaneous band at the highest window reaches chance, a window beyond the "
        "range is higher, or the course begins or ends at its highest. All times are from the picture's onset, windows named by their centres."
        + (
            " Simulated: when the responses were made to peak, and whether the interval holds that; images differ in early and late responses, "
            "so that theirs is the time from one to the other, which the interval is to reach."
            if known
            else ""
        ),
    )


def course_table(course: Mapping[str, Any]) -> Table:
    """Return a line a level: before onset, when the score rises, the peak and its latency."""
    rows = []
    for level in map(mapping, sequence(course["levels"])):
        before, latency = mapping(level.get("before_onset")), sequence(level.get("peak_interval"))
        rows.append(
            [
                LEVEL_TITLES.get(str(level["level"]), str(level["level"])),
                number(course["chance"]),
                f"{number(before['highest'])} ({number(before['upper'])})" if before else DASH,
                onset_text(level),
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
            "half of its height from",
            "peak",
            "at",
            "95\u00a0% interval of its latency",
        ],
        rows=rows,
        note="Half of its height: the first of two windows in a row that reach half of the way from the mean before the picture to the peak, with its "
        "95\u00a0% interval over images; nothing where the band at the peak reaches chance."
        + (
            ""
            if least is None
            else f" Largest cluster: p {p_text(least)}, {integer(course['n_permutations'])} permutations."
        ),
    )


def onset_text(level: Mapping[str, Any]) -> str:
    """Return when a course rises to half of its peak, with the interval; a dash where it has none.

    Examples
    --------
    >>> onset_text({"onset_time": 0.12, "onset_interval": [0.1, None]}), onset_text({})
    ('120 ms [100, ∞]', '–')
    """
    if "onset_time" not in level:
        return DASH
    low, high = sequence(level["onset_interval"])
    latest = "\u221e" if high is None else f"{1000 * float(high):.0f}"
    return f"{1000 * float(level['onset_time']):.0f} ms [{1000 * float(low):.0f}, {latest}]"


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
    kept = mapping(known.get("off_diagonal"))
    share = (
        f" After the picture came on, maps on windows that do not overlap theirs keep {number(kept['value'])} "
        f"{interval(kept['low'], kept['high'])} of what maps decode from their own, chance taken off both (1: a pattern that does not change; "
        "95\u00a0%, images drawn again)."
        if kept
        else ""
    )
    return draw(
        "time-generalisation",
        figure,
        f"Temporal generalisation, {len(times)} by {len(times)} windows; highest {number(values.max())}, trained at {times[best[0]]:.0f} ms and tested at {times[best[1]]:.0f} ms.",
        f"{metric_title(str(known['metric']))} of ridge trained on one window and tested on another; predictions averaged over repeats. Chance {number(known['chance'])}.{share}",
        "a square: one pattern is held over that time. A diagonal alone: what carries the images changes from moment to moment.",
    )


METRIC = "retrieval_brain_to_image_top1"


def causal_part(results: Results) -> Part | None:
    """Return a table of the models on recordings filtered in both directions and forwards only, or None."""
    known = mapping(results.facts.get("causal"))
    if not known:
        return None
    lines = [("in both directions", results.protocol), ("forwards only", str(known["split"]))]
    table = compared(results, lines, "filtered", "What causal filtering costs")
    if table is None:
        return None
    cost = "; ".join(
        f"{model_title(model)} {number(one['value'])} {interval(one['low'], one['high'])}"
        for model, one in ((model, mapping(one)) for model, one in mapping(known.get("cost")).items())
    )
    note = (
        f"Forwards only, the signal is {float(known['delay_ms']):g} ms late, which an answer waits for, and models are of one seed, fitted for "
        "retrieval alone. The evidence of live decoding is calibrated on validation trials, which chose the epoch at which training stopped: it is "
        "slightly optimistic."
        + (f" Forwards only minus both directions, same seed, paired over images: {cost}." if cost else "")
    )
    return Part(
        title="Causal filters",
        table=replace(table, note=note),
        look_for="how far the row of forwards only lies below the others: a decoder that runs during the recording gives that up.",
    )


def jitter_part(results: Results) -> Part | None:
    """Return a table of models and oracle at every jitter of a simulated study, or None."""
    known = [mapping(line) for line in sequence(results.facts.get("jitters"))]
    lines = [(f"{float(line['jitter_ms']):g} ms", str(line["split"])) for line in known]
    table = compared(
        results,
        lines,
        "jitter",
        f"{metric_title(METRIC)} at every jitter of the simulated study: model recovery, not performance",
    )
    if table is None:
        return None
    note = (
        f"{table.note} The study's own jitter is the headline: a model of all heads, over all seeds. At the others one seed is fitted, for "
        "retrieval alone: compare models within a line, not lines."
    )
    return Part(
        title="Jitter of latencies",
        table=replace(table, note=note),
        look_for="whether the network keeps what the linear map on fixed samples loses when latencies vary.",
    )


def compared(results: Results, lines: Sequence[tuple[str, str]], heading: str, caption: str) -> Table | None:
    """Return the encoder's and the baseline's scores under several splits, or None where there are none.

    Parameters
    ----------
    results : Results
    lines : sequence of (str, str)
        What to call a line, and its split.
    heading, caption : str
    """
    metric = METRIC
    rows: list[list[str]] = []
    sizes: list[str] = []
    for label, split in lines:
        plain = where(results.scores, metric=metric, split=split, control="brain", scorer="cosine-centred")
        plain = plain[plain["candidates"].isin(["", "all"])]
        for level in ("mean-prediction", "single"):
            some = where(plain, level=level)
            some = some[some["gallery"] == some["gallery"].max()]
            deep, linear = (
                _of_one_seed(where(some, model=model, versus=""))
                for model in (results.primary, results.baseline)
            )
            if deep is None or linear is None:
                continue
            gap = _of_one_seed(where(some, model=results.primary, versus=results.baseline))
            sizes.append(
                f"{integer(deep['gallery'])} images, chance {number(deep['chance'])}, 95\u00a0% intervals over {deep['ci_over']}s"
            )
            oracle = deep["ceiling"]
            room = oracle - linear["value"]
            rows.append(
                [
                    label,
                    LEVEL_TITLES[level],
                    _with_interval(deep),
                    _with_interval(linear),
                    DASH if gap is None else _with_interval(gap),
                    DASH if missing(oracle) else number(oracle),
                    DASH
                    if missing(oracle) or room <= 0
                    else f"{100 * (deep['value'] - linear['value']) / room:.0f} %",
                ]
            )
    if not rows:
        return None
    return Table(
        caption=caption,
        headings=[
            heading,
            "level",
            model_title(results.primary),
            model_title(results.baseline),
            "difference",
            "oracle",
            "share of the gap to the oracle",
        ],
        rows=rows,
        note=f"{metric_title(metric)} of the whole gallery ({'; '.join(dict.fromkeys(sizes))}).",
    )


def _of_one_seed(rows: pd.DataFrame) -> pd.Series | None:
    """Return the row of all seeds together, or the only one there is."""
    if rows.empty:
        return None
    together = rows[rows["seed"].map(pooled)]
    return (together if len(together) else rows).iloc[0]


def _with_interval(row: pd.Series) -> str:
    return f"{number(row['value'])} {interval(row['ci_low'], row['ci_high'])}"
