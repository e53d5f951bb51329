"""Figures of encoding models: gaps by region, gaps by number of objects, routing ratios, routing maps on images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from PIL import Image

from braindecode_suite.report.figures import MUTED, SERIES, STYLE, FigureBlock, draw, new_figure, whisker
from braindecode_suite.report.results import Results, desc_label, mapping, sequence
from braindecode_suite.report.routing_figures import heads_figure
from braindecode_suite.report.wording import integer, model_title, number

ALPHA = 0.05
SHOWN_REGIONS = ("V1v", "V1d", "hV4", "FFA-1", "OFA", "EBA", "PPA", "VWFA-1")
HEADS_SHOWN = ("V1v", "FFA-1", "EBA", "PPA")
MOST_REGIONS, MOST_IMAGES = 6, 6
OBJECTS = ("1 object", "2 objects", "3 objects", "2 or more objects")


def gap_figure(
    name: str,
    tables: Mapping[str, pd.DataFrame],
    order: Sequence[str],
    title: str,
    label: str,
    mark: float | None = None,
) -> FigureBlock | None:
    """Return paired differences by region with their intervals, one panel for each set of features.

    Parameters
    ----------
    name : str
        Unique on the page.
    tables : mapping of title to DataFrame
        Score rows with `roi` and `versus`.
    order : sequence of str
        Regions from above.
    title, label : str
    mark : float, optional
        A further line, besides that at zero.
    """
    panels = {key: table for key, table in tables.items() if len(table)}
    if not panels:
        return None
    there = {roi for table in panels.values() for roi in table["roi"]}
    regions = [roi for roi in order if roi in there]
    height = {roi: len(regions) - 1 - k for k, roi in enumerate(regions)}
    with matplotlib.rc_context(STYLE):
        figure = new_figure(8.5, 1.5 + 0.24 * len(regions))
        axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axis, (heading, table) in zip(axes, panels.items(), strict=True):
            for _, row in table.iterrows():
                sure = pd.notna(row["p_value"]) and row["p_value"] < ALPHA
                whisker(axis, row, height[row["roi"]], _tone(row["value"]) if sure else SERIES[5])
            axis.axvline(0, color=MUTED, linestyle="--", linewidth=1.2)
            if mark is not None:
                axis.axvline(mark, color=MUTED, linestyle=":", linewidth=1.2)
            axis.set_title(heading, fontsize=10)
            axis.grid(axis="y", visible=False)
        axes[0].set_yticks(list(height.values()), list(height), fontsize=9)
        axes[0].set_ylim(-0.7, len(regions) - 0.3)
        figure.supxlabel(label, fontsize=10)
    counts = [
        f"{key}: {int(((t['value'] > 0) & (t['p_value'] < ALPHA)).sum())} above and "
        f"{int(((t['value'] < 0) & (t['p_value'] < ALPHA)).sum())} below zero of {len(t)}"
        for key, t in panels.items()
    ]
    alt = f"{title}, {len(regions)} regions and sets of units. At p below {ALPHA:g}, {'; '.join(counts)}."
    look = (
        "coloured points: differences with p below 0.05, corrected for the number of regions (all units and groups of regions are "
        "not corrected); green above zero, orange below. "
    )
    look += (
        f"Whole whiskers to the right of the dotted line at {number(mark)}: the stack costs next to nothing anywhere."
        if mark is not None
        else "A gap that is there on the early layer and gone on the late one says that the late layer has pooled already."
    )
    return draw(
        name, figure, alt, f"{title}, with 95\u00a0% intervals over images; same images, paired.", look
    )


def _tone(value: float) -> str:
    return SERIES[2] if value > 0 else SERIES[1]


def objects_figure(
    rows: pd.DataFrame, names: Mapping[str, str], sets: Sequence[str], prefix: str
) -> FigureBlock | None:
    """Return the gap to the best rival by the number of objects in the image, a panel for each set of units.

    Parameters
    ----------
    rows : DataFrame
        Score rows whose `scorer` ends in the number of objects, after `prefix`.
    names : mapping of target to title
    sets : sequence of str
        Values of `roi` that are shown.
    prefix : str
    """
    rows = rows.assign(objects=rows["scorer"].str.removeprefix(prefix))
    rows = rows[rows["objects"].isin(OBJECTS) & rows["roi"].isin(list(sets))]
    if rows.empty:
        return None
    shown = [roi for roi in sets if (rows["roi"] == roi).any()]
    there = [count for count in OBJECTS if (rows["objects"] == count).any()]
    offsets = np.linspace(-0.18, 0.18, max(len(names), 2))
    with matplotlib.rc_context(STYLE):
        figure = new_figure(8.5, 3.6)
        axes = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
        for axis, roi in zip(axes, shown, strict=True):
            for k, (target, title) in enumerate(names.items()):
                own = rows[(rows["roi"] == roi) & (rows["target"] == target)]
                x = [there.index(count) + offsets[k] for count in own["objects"]]
                middle = own["value"].to_numpy(float)
                spread = np.abs(np.stack([middle - own["ci_low"], own["ci_high"] - middle]).astype(float))
                axis.errorbar(
                    x,
                    middle,
                    yerr=spread,
                    fmt="o",
                    color=SERIES[k % 6],
                    markersize=5,
                    linewidth=2,
                    label=title,
                )
            axis.axhline(0, color=MUTED, linestyle="--", linewidth=1.2)
            axis.set_title(roi, fontsize=10)
            axis.set_xticks(
                range(len(there)),
                [count.replace(" or more", "+") for count in there],
                fontsize=8.5,
                rotation=20,
            )
            axis.grid(axis="x", visible=False)
        axes[0].set_ylabel("gap in mean r")
        axes[-1].legend(fontsize=8.5)
    counts = ", ".join(f"{integer(rows[rows['objects'] == c]['n'].iloc[0])} images with {c}" for c in there)
    return draw(
        "gap-by-objects",
        figure,
        f"Gap to the best rival by number of objects in {len(shown)} sets of units: {counts}.",
        f"Gap to the best rival by the number of objects in the image, with 95\u00a0% intervals ({counts}).",
        "intervals above zero with two or more objects, where there is something to choose between; a gap with one object has other "
        "reasons, such as what a network with a hidden layer can compute and a linear model cannot.",
    )


def routing_figure(rows: pd.DataFrame, names: Mapping[str, str]) -> FigureBlock | None:
    """Return the routing ratio of every region, and of the fit on shuffled pairs, a panel for each source of features.

    Parameters
    ----------
    rows : DataFrame
        Score rows of ``routing_ratio``.
    names : mapping of target to title
    """
    if rows.empty:
        return None
    targets = list(dict.fromkeys(rows["target"]))
    regions = list(dict.fromkeys(rows["roi"]))
    regions.sort(key=lambda roi: roi != "category regions")
    height = {roi: len(regions) - 1 - k for k, roi in enumerate(regions)}
    colours = {"brain": SERIES[0], "shuffled-train": SERIES[5]}
    with matplotlib.rc_context(STYLE):
        figure = new_figure(8.5, 1.6 + 0.34 * len(regions))
        axes = figure.subplots(1, len(targets), sharex=True, sharey=True, squeeze=False)[0]
        for axis, target in zip(axes, targets, strict=True):
            for _, row in rows[rows["target"] == target].iterrows():
                below = 0.16 if row["control"] != "brain" else -0.16
                whisker(axis, row, height[row["roi"]] - below, colours[row["control"]])
            axis.set_xscale("log")
            axis.xaxis.set_major_formatter("{x:g}")
            axis.xaxis.set_minor_formatter("")
            axis.axvline(1, color=MUTED, linestyle="--", linewidth=1.2)
            axis.axvline(2, color=MUTED, linestyle=":", linewidth=1.2)
            axis.set_title(names.get(target, target), fontsize=10)
            axis.grid(axis="y", visible=False)
        axes[0].set_yticks(list(height.values()), list(height), fontsize=9)
        axes[0].set_ylim(-0.7, len(regions) - 0.3)
        figure.supxlabel(
            "own object over the others, relative to other regions (grey: fitted on shuffled pairs)",
            fontsize=10,
        )
    brain = rows[rows["control"] == "brain"]
    alt = (
        f"Routing ratio of {len(regions)} regions from {len(targets)} layers: {int((brain['ci_low'] > 1).sum())} of {len(brain)} "
        f"intervals above 1, {int((brain['ci_low'] > 2).sum())} above 2."
    )
    return draw(
        "routing-ratio",
        figure,
        alt,
        "Attention on the object of the region's own category over that on the other objects of the same image, per area, after "
        "the mean map was subtracted, over the same ratio in the regions that prefer other categories; 95\u00a0% intervals over images.",
        "whiskers to the right of 1 (dashed) for the fitted model, and around 1 for the one fitted on shuffled pairs (grey).",
    )


def routing_gallery(
    results: Results, names: Mapping[str, str]
) -> list[tuple[FigureBlock, FigureBlock | None]]:
    """Return where the queries of some regions look on random test images, and each head: for each source of features."""
    routing = mapping(mapping(results.facts.get("encoding")).get("routing"))
    path = results.folder / f"sub-{results.subject}_desc-{desc_label(results.workflow)}_latents.npz"
    if not routing or not path.is_file() or results.images is None:
        return []
    queries = [str(name) for name in sequence(routing.get("queries"))]
    with np.load(path, allow_pickle=False) as stored:
        ids = stored["routing_ids"].astype(str)[:MOST_IMAGES]
        sources = [str(name) for name in sequence(routing.get("sources"))]
        looks = [(s, stored[f"routing_{k}"], stored[f"routing_{k}_mean"]) for k, s in enumerate(sources)]
        heads = [stored.get(f"routing_{k}_heads") for k in range(len(sources))]
    pictures = [_picture(results, stimulus) for stimulus in ids]
    blocks: list[tuple[FigureBlock, FigureBlock | None]] = []
    for k, (source, maps, mean) in enumerate(looks):
        title, own, each = names.get(source, source), heads[k], None
        if own is not None and own.shape[1] > 1:
            some = ids[: len(own)]
            each = heads_figure(f"heads-{k}", title, queries, own[: len(some)], pictures, some, HEADS_SHOWN)
        mean_of_heads = _gallery(f"routing-{k}", title, queries, maps[: len(ids)], mean, ids, pictures)
        blocks.append((mean_of_heads, each))
    return blocks


def _picture(results: Results, stimulus: str) -> np.ndarray | None:
    """Return a test image in grey, or None where its file is not in the results folder."""
    assert results.images is not None
    rows = results.images[
        (results.images["stimulus_id"] == stimulus) & (results.images["control"] == "truth")
    ]
    if rows.empty:
        return None
    path = Path(results.folder / str(rows["path"].iloc[0])).resolve()
    if not path.is_file() or not path.is_relative_to(results.folder.resolve()):
        return None
    with Image.open(path) as opened:
        return np.asarray(opened.convert("RGB"))


def _gallery(
    name: str,
    source: str,
    queries: Sequence[str],
    maps: np.ndarray,
    mean: np.ndarray,
    ids: Sequence[str],
    pictures: Sequence[np.ndarray | None],
) -> FigureBlock:
    """Draw images in columns and regions in rows, both hemispheres together; the last column is the mean map."""
    at: dict[str, list[int]] = {}
    for k, query in enumerate(queries):
        at.setdefault(query.removeprefix("lh.").removeprefix("rh."), []).append(k)
    regions = ([roi for roi in SHOWN_REGIONS if roi in at] or list(at))[:MOST_REGIONS]
    columns = len(ids) + 1
    with matplotlib.rc_context(STYLE):
        figure = new_figure(8.5, 8.0 / columns * (len(regions) + 1) + 0.4)
        axes = figure.subplots(len(regions) + 1, columns, squeeze=False)
        for axis in axes.flat:
            axis.set_xticks([])
            axis.set_yticks([])
            axis.grid(visible=False)
        for k, (stimulus, picture) in enumerate(zip(ids, pictures, strict=True)):
            axes[0, k].set_title(stimulus, fontsize=8.5)
            if picture is not None:
                axes[0, k].imshow(picture)
        axes[0, -1].set_axis_off()
        axes[1, -1].set_title("mean map", fontsize=8.5)
        for row, roi in zip(axes[1:], regions, strict=True):
            row[0].set_ylabel(roi, fontsize=9)
            for axis, picture, values in zip(row, [*pictures, None], [*maps, mean], strict=True):
                shown = values[at[roi]].mean(axis=0)
                height, width = (shown.shape if picture is None else picture.shape[:2])[:2]
                frame = (-0.5, width - 0.5, height - 0.5, -0.5)
                if picture is not None:
                    axis.imshow(picture.mean(axis=2), cmap="gray", vmin=0, vmax=255)
                axis.imshow(
                    shown,
                    cmap="viridis",
                    vmin=0,
                    vmax=shown.max(),
                    alpha=0.6,
                    extent=frame,
                    interpolation="nearest",
                )
    title = model_title("attention-routing")
    return draw(
        name,
        figure,
        f"Attention of {len(regions)} regions on {len(ids)} random test images, from {source}: {', '.join(regions)}.",
        f"Where {title} looks on random test images, not picked, from {source}; both hemispheres, heads and seeds averaged, each map "
        "from 0 to its own largest value.",
        "rows that differ from image to image (routing by content) against rows that repeat the mean map (routing by place).",
    )
