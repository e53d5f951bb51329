"""What the maps of an encoding model are worth: each head's map, the Gaussian of each region, what is lost without tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, sqrt

import matplotlib
import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.patches import Ellipse, Rectangle
from PIL import Image

from braindecode_suite.report.figures import (
    DASHES,
    INK,
    MUTED,
    SERIES,
    STYLE,
    FigureBlock,
    draw,
    new_figure,
    whisker,
)
from braindecode_suite.report.selection import where
from braindecode_suite.report.tables import Table, interval_cell
from braindecode_suite.report.wording import DASH, integer, model_title, number

MOST, RANDOM, LEAST = "most attended tokens", "random tokens", "least attended tokens"
MORE, LOSES_MORE = f"{MOST} over {RANDOM}", f"{MOST} minus {RANDOM}"
ROLES = {MOST: SERIES[0], RANDOM: SERIES[5], LEAST: SERIES[1]}
HEAD_REGIONS, FIELD_REGIONS = 4, 6
TILE, GAP = 48, 2
"""Pixels of one head's picture, and between two."""
LEAST_EXPLAINED = 0.2


def ablation_table(rows: pd.DataFrame, names: Mapping[str, str]) -> Table | None:
    """Return how much each region's prediction changes, and how much of its r is lost, without which tokens.

    Parameters
    ----------
    rows : DataFrame
        Score rows.
    names : mapping of target to title
    """
    cells = []
    found = rows[rows["metric"].str.startswith("routing_ablation_")]
    for target, roi in dict.fromkeys(zip(found["target"], found["roi"], strict=True)):
        own = where(found, target=target, roi=roi)
        line = [names.get(target, target), roi]
        ratio = where(own, metric="routing_ablation_ratio", scorer=MORE).to_dict("records")
        line.append(
            DASH
            if not ratio
            else f"{ratio[0]['value']:.2f} [{ratio[0]['ci_low']:.2f}, {ratio[0]['ci_high']:.2f}]"
        )
        for scorer in (MOST, LOSES_MORE):
            loss = where(own, metric="routing_ablation_loss", scorer=scorer).to_dict("records")
            line.append(DASH if not loss else f"{number(loss[0]['value'])} {interval_cell(loss[0])}")
        change = where(own, metric="routing_ablation_change").set_index("scorer")["value"]
        line += [
            DASH if change.get(scorer) is None else f"{change[scorer]:.3f}"
            for scorer in (MOST, RANDOM, LEAST)
        ]
        cells.append(line)
    if not cells:
        return None
    return Table(
        caption="What is lost without the tokens that a region's map gives most weight, 95\u00a0% intervals over images",
        headings=[
            "features",
            "region",
            "most over random",
            "r lost: most",
            "most minus random",
            "change: most",
            "random",
            "least",
        ],
        rows=cells,
        numeric=[False, False, *[True] * 6],
        note="Change: squared change of the predicted responses, over the variance of predictions over images. r lost: what mean r "
        "over units loses. One set of features is touched at a time; where the model hardly uses it, all changes are small, and the "
        "ratio is what to read. Attention is a weighted mean, so that a ratio above 1 is no surprise; r that is lost says that what was "
        "attended to helps.",
    )


def ablation_figure(rows: pd.DataFrame, names: Mapping[str, str]) -> FigureBlock | None:
    """Return the change of the prediction without three kinds of tokens, by region, a panel for each source of features."""
    rows = where(rows, metric="routing_ablation_change")
    if rows.empty:
        return None
    targets, regions = list(dict.fromkeys(rows["target"])), list(dict.fromkeys(rows["roi"]))
    height = {roi: len(regions) - 1 - k for k, roi in enumerate(regions)}
    with matplotlib.rc_context(STYLE):
        figure = new_figure(8.5, 1.7 + 0.34 * len(regions))
        axes = figure.subplots(1, len(targets), sharey=True, squeeze=False)[0]
        for axis, target in zip(axes, targets, strict=True):
            for scorer, (role, colour) in enumerate(ROLES.items()):
                for _, row in where(rows, target=target, scorer=role).iterrows():
                    whisker(axis, row, height[row["roi"]] + 0.22 * (1 - scorer), colour)
                axis.plot([], [], "o", color=colour, label=role.removesuffix(" tokens"))
            axis.set_xlim(left=0)
            axis.set_title(names.get(target, target), fontsize=10)
            axis.grid(axis="y", visible=False)
        axes[0].set_yticks(list(height.values()), list(height), fontsize=9)
        axes[0].set_ylim(-0.7, len(regions) - 0.3)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper right", ncols=3, fontsize=9)
        figure.supxlabel("change of the prediction, share of its variance over images", fontsize=10)
    ratios = rows.pivot_table(index=["target", "roi"], columns="scorer", values="value")
    more = int((ratios[MOST] > ratios[RANDOM]).sum())
    return draw(
        "routing-ablation",
        figure,
        f"Change of the prediction without three kinds of tokens in {len(regions)} regions from {len(targets)} sets of features: the "
        f"most attended change it more than random ones in {more} of {len(ratios)}.",
        f"What tokens are worth: predictions for {integer(rows['n'].iloc[0])} random test images after some of the image's tokens were "
        "replaced by the mean training token of their place; as many for each of the three; 95\u00a0% intervals over images.",
        "blue well to the right of grey: attention points at what the prediction rests on. Where blue and grey overlap a map says "
        "where a region looks, not why it is predicted to respond. Least attended tokens should hardly matter. Whether the prediction "
        "is any good is another question: see what r loses, in the table.",
    )


def fields_figure(rows: pd.DataFrame, names: Mapping[str, str], order: Sequence[str]) -> FigureBlock | None:
    """Return the Gaussians of some regions as circles on the frame of the image, a panel for each source of features.

    Parameters
    ----------
    rows : DataFrame
        Score rows ``routing_field_...``.
    names : mapping of target to title
    order : sequence of str
        Regions that are shown where there are many.
    """
    rows = rows[rows["metric"].str.startswith("routing_field_") & (rows["control"] == "brain")]
    if rows.empty:
        return None
    targets, there = list(dict.fromkeys(rows["target"])), list(dict.fromkeys(rows["roi"]))
    regions = ([roi for roi in order if roi in there] or there)[:FIELD_REGIONS]
    sides = [side for side in ("left hemisphere", "right hemisphere") if (rows["scorer"] == side).any()] or [
        ""
    ]
    wide = rows.pivot_table(index=["target", "roi", "scorer"], columns="metric", values="value")
    crossed = "the left hemisphere (solid) on the right of the image and the other way round; " * (
        len(sides) > 1
    )
    drawn = 0
    with matplotlib.rc_context(STYLE):
        figure = new_figure(min(3.3 * len(targets) + 2.0, 8.5), 3.5)
        axes = figure.subplots(1, len(targets), squeeze=False)[0]
        for axis, target in zip(axes, targets, strict=True):
            axis.add_patch(Rectangle((0, 0), 1, 1, fill=False, edgecolor=MUTED, linewidth=1.2))
            for k, roi in enumerate(regions):
                for dash, side in enumerate(sides):
                    if (target, roi, side) not in wide.index:
                        continue
                    x, y, sd, explained = (
                        wide.loc[(target, roi, side)].get(f"routing_field_{name}", np.nan)
                        for name in ("x", "y", "sd", "explained")
                    )
                    if not explained >= LEAST_EXPLAINED:
                        continue
                    colour, drawn = SERIES[k % 6], drawn + 1
                    circle = Ellipse((x, y), 2 * sd, 2 * sd, fill=False, edgecolor=colour, linewidth=1.6)
                    circle.set_linestyle(DASHES[dash])
                    axis.add_patch(circle)
                    axis.plot([x], [y], "+", color=colour, markersize=7)
            axis.set_xlim(-0.25, 1.25)
            axis.set_ylim(1.25, -0.25)
            axis.set_aspect("equal")
            axis.set_xticks([0, 0.5, 1])
            axis.set_yticks([0, 0.5, 1])
            axis.set_title(names.get(target, target), fontsize=10)
        for k, roi in enumerate(regions):
            axes[-1].plot([], [], color=SERIES[k % 6], label=roi)
        for dash, side in enumerate(sides):
            if len(sides) > 1:
                axes[-1].plot([], [], DASHES[dash], color=INK, label=side)
        axes[-1].legend(fontsize=8.5, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return draw(
        "routing-fields",
        figure,
        f"Gaussians of the mean routing maps of {len(regions)} regions in {len(targets)} sets of features: {drawn} explain at least "
        f"{LEAST_EXPLAINED:.0%} of their map's variance and are drawn.",
        f"Where regions look on average: a Gaussian fitted to each mean map, a circle of one standard deviation; the square is the image. "
        f"Those that explain less than {100 * LEAST_EXPLAINED:.0f}\u00a0% of their map are left out.",
        f"{crossed}small circles in early regions, where routing is retinotopic; wide circles about the centre, or none, where place does "
        "not decide. Compare the variance explained in the table: a mean map of a region that follows content has little to explain.",
    )


def heads_figure(
    name: str,
    source: str,
    queries: Sequence[str],
    heads: np.ndarray,
    pictures: Sequence[np.ndarray | None],
    ids: Sequence[str],
    order: Sequence[str],
) -> FigureBlock:
    """Return the map of each head of some regions on some images, all heads of one region and image in one panel.

    Parameters
    ----------
    name : str
        Unique on the page.
    source : str
    queries : sequence of str
    heads : array of shape (images, heads, queries, height, width)
    pictures : sequence of array or None
        Of the images.
    ids : sequence of str
    order : sequence of str
        Regions that are shown where there are many.
    """
    at: dict[str, list[int]] = {}
    for k, query in enumerate(queries):
        at.setdefault(query.removeprefix("lh.").removeprefix("rh."), []).append(k)
    regions = ([roi for roi in order if roi in at] or list(at))[:HEAD_REGIONS]
    n_heads = heads.shape[1]
    across = ceil(sqrt(n_heads + 1))
    down = ceil((n_heads + 1) / across)
    with matplotlib.rc_context(STYLE):
        width = 8.2 / len(ids)
        figure = new_figure(8.5, 0.5 + width * down / across * len(regions))
        axes = figure.subplots(len(regions), len(ids), squeeze=False)
        for row, roi in zip(axes, regions, strict=True):
            row[0].set_ylabel(roi, fontsize=9)
            for k, axis in enumerate(row):
                own = heads[k][:, at[roi]].mean(axis=1)  # (heads, height, width)
                axis.imshow(_mosaic([own.mean(axis=0), *own], pictures[k], across, down))
                edge = TILE + GAP - 1
                axis.add_patch(
                    Rectangle(
                        (-0.5, -0.5),
                        edge,
                        edge,
                        fill=False,
                        edgecolor=SERIES[1],
                        linewidth=1.6,
                        clip_on=False,
                    )
                )
                axis.set_xticks([])
                axis.set_yticks([])
                axis.grid(visible=False)
                for spine in axis.spines.values():
                    spine.set_visible(False)
        for axis, stimulus in zip(axes[0], ids, strict=True):
            axis.set_title(stimulus, fontsize=8.5)
    title = model_title("attention-routing")
    return draw(
        name,
        figure,
        f"Attention of each of {n_heads} heads in {len(regions)} regions on {len(ids)} random test images, from {source}: "
        f"{', '.join(regions)}.",
        f"The same by head, from {source}: the mean of all heads first (framed), then each of the {n_heads}; both hemispheres averaged, "
        f"{title} from its first seed only, since heads of different seeds have nothing to do with one another.",
        "heads that look at different things (the mean then hides what each does) against heads that repeat one another.",
    )


def _mosaic(maps: Sequence[np.ndarray], picture: np.ndarray | None, across: int, down: int) -> np.ndarray:
    """Lay maps out side by side over the grey image, each from 0 to its own largest value: (height, width, 4), 0 to 1."""
    size = TILE + GAP
    canvas = np.zeros((down * size - GAP, across * size - GAP, 4), np.float32)
    ground = None
    if picture is not None:
        small = Image.fromarray(picture).convert("L").resize((TILE, TILE), Image.Resampling.BILINEAR)
        ground = np.asarray(small, np.float32)[..., None] / 255
    for k, values in enumerate(maps):
        i, j = divmod(k, across)
        rows, columns = (np.arange(TILE) * side // TILE for side in values.shape)
        shown = values[np.ix_(rows, columns)] / max(float(values.max()), 1e-12)
        tile = np.asarray(colormaps["viridis"](shown), np.float32)
        if ground is not None:
            tile[..., :3] = 0.6 * tile[..., :3] + 0.4 * ground
        canvas[i * size : i * size + TILE, j * size : j * size + TILE] = tile
    return canvas
