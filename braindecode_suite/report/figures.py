"""Figures as inline SVG that takes its colours from the page, so that it follows the light or dark scheme.

Every function returns SVG text; nothing touches matplotlib's global state. Colours are placeholders that
`svg_text` turns into the page's CSS variables.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from braindecode_suite.core.score import CONTROLS
from braindecode_suite.report.wording import control_title, integer, listed, model_title

INK, MUTED, LINE, SHADE = "#010203", "#010204", "#010205", "#010206"
SERIES = ("#010211", "#010212", "#010213", "#010214", "#010215", "#010216")
VARIABLES = {INK: "--ink", MUTED: "--muted", LINE: "--line", SHADE: "--shade"} | {
    colour: f"--series-{i}" for i, colour in enumerate(SERIES, start=1)
}
DASHES: tuple[Any, ...] = ("-", "--", ":", "-.")
WIDEST = 8.5  # inches at 100 dpi: 850 pixels
LEAST_SHOWN = -0.5
"""Of validation scores: explained variance is far below 0 before training, which would flatten all that follows."""
STYLE: Any = {
    "svg.fonttype": "path",
    "svg.hashsalt": "braindecode-suite",
    "font.size": 11,
    "font.family": "DejaVu Sans",
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 11.5,
    "axes.titlelocation": "left",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "axes.grid": True,
    "grid.color": LINE,
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "figure.facecolor": "none",
    "legend.frameon": False,
    "legend.labelcolor": INK,
}


@dataclass(frozen=True, kw_only=True)
class FigureBlock:
    """A figure of the report: its SVG, what it shows in words, and what to look for."""

    svg: Markup
    alt: str
    caption: str
    look_for: str


def new_figure(width: float, height: float) -> Figure:
    """Return a figure of at most 850 pixels in width that belongs to no window."""
    figure = Figure(figsize=(min(width, WIDEST), height), dpi=100, layout="constrained")
    FigureCanvasSVG(figure)
    return figure


def svg_text(figure: Figure, name: str, alt: str) -> Markup:
    """Return a figure as an inline ``<svg>``: labelled, with ids of its own and the page's colours.

    Parameters
    ----------
    figure : Figure
    name : str
        Unique on the page; put before every id.
    alt : str
        What a screen reader says.

    Returns
    -------
    Markup
    """
    stream = io.StringIO()
    figure.savefig(
        stream, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
    )
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = _own_ids(text, name)
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    box = re.search(r'viewBox="([^"]+)"', text)
    frame = box[1] if box else "0 0 612 300"
    opening = (
        f'<svg xmlns:xlink="http://www.w3.org/1999/xlink" xmlns="http://www.w3.org/2000/svg" viewBox="{frame}" '
        f'role="img" aria-label="{escape(alt)}" style="max-width:{100 * figure.get_figwidth():.0f}px">'
    )
    text = re.sub(r"\n\s*", "\n", text)
    return Markup(re.sub(r"<svg[^>]*>", lambda _: opening, text, count=1))


def _own_ids(text: str, name: str) -> str:
    """Number the ids of a drawing in order behind `name`: matplotlib's own differ from run to run and repeat on a page."""
    found = dict.fromkeys(re.findall(r'\bid="([^"]+)"', text))
    ids = {old: f"{name}-{i}" for i, old in enumerate(found)}

    def renamed(match: re.Match[str]) -> str:
        return f"{match[1]}{ids.get(match[2], match[2])}"

    return re.sub(r'(\bid="|\bhref="#|\burl\(#)([^")]+)', renamed, text)


def draw(name: str, figure: Figure, alt: str, caption: str, look_for: str) -> FigureBlock:
    """Return a drawn figure with its words."""
    return FigureBlock(svg=svg_text(figure, name, alt), alt=alt, caption=caption, look_for=look_for)


def ncsnr_histogram(values: np.ndarray) -> FigureBlock:
    """Return the histogram of a signal-to-noise map's finite values."""
    median, zero = float(np.median(values)), float(np.mean(values <= 0))
    with matplotlib.rc_context(STYLE):
        figure = new_figure(6.4, 2.7)
        axis = figure.subplots()
        axis.hist(values, bins=40, color=SERIES[0], alpha=0.85)
        axis.axvline(median, color=SERIES[1], linewidth=1.6)
        axis.annotate(
            f" median {median:.2f}",
            (median, 0.92),
            xycoords=("data", "axes fraction"),
            color=SERIES[1],
            fontsize=10.5,
        )
        axis.set_xlabel("ncsnr")
        axis.set_ylabel("units")
        axis.grid(axis="x", visible=False)
    alt = f"Histogram of ncsnr over {integer(len(values))} units: median {median:.2f}, {100 * zero:.0f} % at zero."
    caption = f"ncsnr of {integer(len(values))} units; {100 * zero:.0f} % are at zero, where it is cut off."
    return draw(
        "ncsnr-histogram",
        figure,
        alt,
        caption,
        "how far it reaches to the right: at 0.4 a seventh of a single trial's variance is signal, at 1 one half.",
    )


def learning_curves(history: pd.DataFrame) -> FigureBlock | None:
    """Return training and validation loss, and up to four validation scores, over epochs; None if there are none.

    Parameters
    ----------
    history : DataFrame
        Columns model, seed, epoch, and what was recorded: ``train_loss``, ``val_loss`` or ``validation_loss``, and
        ``val_...`` or ``validation_...`` scores.
    """
    for name in ("model", "seed"):
        if name not in history:
            history = history.assign(**{name: ""})
    numeric = [
        str(c)
        for c in history.columns
        if pd.api.types.is_numeric_dtype(history[c]) and history[c].notna().any()
    ]
    losses = [name for name in numeric if re.fullmatch(r"(train|training|val|validation)_loss", name)]
    scores = [name for name in numeric if name.startswith(("val_", "validation_")) and name not in losses][:4]
    panels = [names for names in (losses, scores) if names]
    if not panels:
        return None
    models = list(dict.fromkeys(history["model"]))
    runs = list(history.groupby(["model", "seed"], sort=False))
    cut = ""
    faint = 0.9 if len(runs) <= 6 else 0.25
    with matplotlib.rc_context(STYLE):
        figure = new_figure(8.5, 3.9)
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        for axis, names in zip(axes, panels, strict=True):
            by_model = names is losses  # losses: a colour for each model; scores: a colour for each score
            for (model, _), run in runs:
                run = run.sort_values("epoch")
                for k, name in enumerate(names):
                    colour, dash = (models.index(model), k) if by_model else (k, models.index(model))
                    shown = run[run[name].notna()]
                    axis.plot(
                        shown["epoch"],
                        shown[name],
                        DASHES[dash % 4],
                        color=SERIES[colour % 6],
                        alpha=faint,
                        linewidth=1.4,
                    )
            if not by_model and axis.get_ylim()[0] < LEAST_SHOWN:
                highest = history[names].max(axis=None)
                axis.set_ylim(LEAST_SHOWN, max(1.1 * float(highest), 0.1))
                cut = f" Scores below {LEAST_SHOWN:g} are not shown."
            axis.set_xlabel("epoch")
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
            axis.set_title("Loss" if by_model else "Validation scores")
            coloured, dashed = (models, names) if by_model else (names, models)
            _curve_legend(axis, [_curve_label(n) for n in coloured], [_curve_label(n) for n in dashed])
    ends = ", ".join(
        f"{model_title(str(m)) or 'model'} {int(run['epoch'].max())} epochs" for (m, _), run in runs[:3]
    )
    alt = f"Learning curves of {len(runs)} runs ({ends}{', ...' if len(runs) > 3 else ''})."
    caption = f"{listed(['Loss'] * bool(losses) + ['validation scores'] * bool(scores)).capitalize()} over epochs, one line a run ({len(runs)} runs: models and seeds).{cut}"
    look = "validation that levels off before training stops; if it worsens while the training loss falls, the model overfits."
    if any("shuffled" in str(model) for model in models):
        look += " A model fitted on shuffled pairs must not learn anything that validation confirms."
    return draw("learning-curves", figure, alt, caption, look)


def _curve_label(name: str) -> str:
    """Return what a line of the learning curves is called."""
    if name in ("train_loss", "training_loss"):
        return "training"
    if name in ("val_loss", "validation_loss"):
        return "validation"
    stripped = re.sub(r"^(val|validation)_", "", name)
    return (
        stripped.replace("top1", "top 1").replace("_r2", " R²").replace("_", " ")
        if stripped != name
        else model_title(name)
    )


def _curve_legend(axis: Axes, coloured: Sequence[str], dashed: Sequence[str]) -> None:
    """Explain colours and dashes, each only where there is more than one."""
    handles = [
        Line2D([], [], color=SERIES[i % 6], label=name)
        for i, name in enumerate(coloured)
        if len(coloured) > 1
    ]
    handles += [
        Line2D([], [], color=MUTED, linestyle=DASHES[i % 4], label=name)
        for i, name in enumerate(dashed)
        if len(dashed) > 1 or len(coloured) == 1
    ]
    axis.legend(
        handles=[handle for handle in handles if handle.get_label()],
        fontsize=9.5,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.2),
        ncols=2,
    )


def rank_figure(retrieval: pd.DataFrame, models: Sequence[str], scorer: str) -> FigureBlock | None:
    """Return where the seen image ranks: a histogram of relative ranks and the share found among the first k.

    Parameters
    ----------
    retrieval : DataFrame
        Rows of one scorer and one direction; ranks count from 0.
    models : sequence of str
    scorer : str
        For the caption.

    Returns
    -------
    FigureBlock or None
    """
    gallery = int(retrieval["gallery"].max())
    if gallery < 2:
        return None
    named = [model for model in models if (retrieval["model"] == model).any()] or [""]
    with matplotlib.rc_context(STYLE):
        figure = new_figure(8.5, 3.4)
        left, right = figure.subplots(1, 2)
        bins = np.linspace(0, 1, 21)
        ks = np.unique(np.round(np.geomspace(1, gallery, 60)).astype(int))
        found = []
        for colour, model in zip(SERIES, named, strict=False):
            rows = retrieval[retrieval["model"] == model] if model else retrieval
            ranks = rows["rank"].to_numpy(float)
            relative = ranks / (rows["gallery"].to_numpy(float) - 1)
            left.hist(
                relative,
                bins=list(bins),
                weights=np.full(len(rows), 1 / len(rows)),
                histtype="step",
                color=colour,
                linewidth=1.7,
                label=model_title(model),
            )
            curve = [(ranks < k).mean() for k in ks]
            right.plot(ks, curve, color=colour, linewidth=1.8, label=model_title(model))
            found.append(
                f"{model_title(model)}: {100 * curve[0]:.0f} % first, median rank {np.median(ranks) + 1:.0f}"
            )
        left.axhline(1 / 20, color=MUTED, linestyle="--", linewidth=1.2, label="chance")
        right.plot(ks, ks / gallery, color=MUTED, linestyle="--", linewidth=1.2, label="chance")
        left.set_title("Relative rank")
        left.set_xlabel("0 = first, 1 = last")
        left.set_ylabel("share of queries")
        right.set_title("Found among the first k")
        right.set_xscale("log")
        ticks = [k for k in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if k <= gallery]
        right.xaxis.set_major_locator(FixedLocator(ticks))
        right.xaxis.set_minor_locator(NullLocator())
        right.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        right.set_xlabel("k (logarithmic)")
        right.set_ylim(0, 1.02)
        right.legend(fontsize=9.5, loc="lower right")
        left.legend(fontsize=9.5)
    alt = f"Rank of the seen image among {gallery}. " + "; ".join(found) + "."
    caption = f"Rank of the seen image in the full gallery of {integer(gallery)} ({scorer}); queries of all seeds together."
    look = "a curve far above the dashed chance line on the right, and a histogram that is highest at the left edge."
    return draw("rank-histogram", figure, alt, caption, look)


def identification_forest(plain: pd.DataFrame, differences: pd.DataFrame, against: str) -> FigureBlock | None:
    """Return identification of each control, and the paired difference brain minus control, with their intervals.

    Parameters
    ----------
    plain : DataFrame
        Score rows of the brain and each control.
    differences : DataFrame
        Paired rows, `versus` being the control.
    against : str
        What the distractors are, for the caption.
    """
    if plain.empty and differences.empty:
        return None
    present = {*plain["control"], *differences["versus"]}
    order = [name for name in CONTROLS if name in present and name != "true-latent"]
    order += ["true-latent"] if "true-latent" in present else []
    height = {name: len(order) - 1 - i for i, name in enumerate(order)}
    with matplotlib.rc_context(STYLE):
        figure = new_figure(8.5, 1.35 + 0.36 * len(order))
        left, right = figure.subplots(1, 2, sharey=True)
        for _, row in plain.iterrows():
            whisker(left, row, height[row["control"]], SERIES[0] if row["control"] == "brain" else SERIES[5])
        chance = plain["chance"].dropna()
        level = float(chance.iloc[0]) if len(chance) else 0.5
        left.axvline(level, color=MUTED, linestyle="--", linewidth=1.2)
        left.set_title("Identification")
        left.set_xlabel(f"dashed: chance ({level:g})")
        for _, row in differences.iterrows():
            low = row["ci_low"]
            whisker(right, row, height[row["versus"]], SERIES[2] if pd.notna(low) and low > 0 else SERIES[1])
        right.axvline(0, color=MUTED, linestyle="--", linewidth=1.2)
        right.set_title("Brain minus control, paired")
        right.set_xlabel("right of the dashed line: brain is better")
        left.set_yticks(list(height.values()), [control_title(name) for name in height])
        left.set_ylim(-0.6, len(order) - 0.4)
        for axis in (left, right):
            axis.grid(axis="y", visible=False)
    beaten = int((differences["ci_low"] > 0).sum())
    alt = (
        f"Forest plot: identification of {len(plain)} conditions, and {len(differences)} paired differences "
        f"between brain and control, {beaten} of them with an interval above zero."
    )
    caption = f"Identification against {against}, with 95\u00a0% intervals; on the right the paired difference on the same images."
    look = "whole whiskers to the right of the dashed line on the right panel. A control that does as well as the brain means that the generator, not the recording, earned the score."
    return draw("identification-forest", figure, alt, caption, look)


def whisker(axis: Axes, row: pd.Series | Mapping[str, Any], y: float, colour: str) -> None:
    """Draw a score as a point at height `y`, with its interval as a line."""
    if pd.notna(row["ci_low"]) and pd.notna(row["ci_high"]):
        axis.plot(
            [row["ci_low"], row["ci_high"]], [y, y], color=colour, linewidth=2.2, solid_capstyle="round"
        )
    axis.plot([row["value"]], [y], "o", color=colour, markersize=6)


def subject_dots(
    rows: pd.DataFrame, group: pd.DataFrame, title: str, name: str, metric_label: str
) -> FigureBlock:
    """Return one score over subjects: each with its interval, and the group's mean where there is one.

    Parameters
    ----------
    rows : DataFrame
        One score row a subject.
    group : DataFrame
        Group rows of the same score; the first is drawn.
    title, name, metric_label : str
    """
    with matplotlib.rc_context(STYLE):
        figure = new_figure(7.2, 1.3 + 0.32 * (len(rows) + (1 if len(group) else 0)))
        axis = figure.subplots()
        labels, places = [], []
        for i, (_, row) in enumerate(rows.iterrows()):
            whisker(axis, row, -i, SERIES[0])
            labels.append(f"sub-{row['subject']}")
            places.append(-i)
        if len(group):
            whisker(axis, group.iloc[0], -len(rows), SERIES[1])
            labels.append("mean of subjects")
            places.append(-len(rows))
        chance = rows["chance"].dropna()
        if len(chance):
            axis.axvline(float(chance.iloc[0]), color=MUTED, linestyle="--", linewidth=1.2)
        axis.set_yticks(places, labels)
        axis.set_ylim(min(places) - 0.6, 0.6)
        axis.set_xlabel(metric_label + ("; dashed: chance" if len(chance) else ""))
        axis.grid(axis="y", visible=False)
    values = ", ".join(f"sub-{row['subject']} {row['value']:.3f}" for _, row in rows.iterrows())
    alt = f"{title} of {len(rows)} subjects: {values}."
    look = "every subject on its own, to the right of chance. A group mean above chance can come from one good subject."
    return draw(name, figure, alt, f"{title}: every subject with its 95\u00a0% interval.", look)
