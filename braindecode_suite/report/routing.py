"""Which regions the queries of latents look at: a heat map and the same as a table, for each encoder that routes."""

from __future__ import annotations

from dataclasses import dataclass

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.image import AxesImage

from braindecode_suite.report.figures import STYLE, FigureBlock, draw, new_figure
from braindecode_suite.report.results import Results
from braindecode_suite.report.tables import Table
from braindecode_suite.report.wording import integer, listed, model_title, percent

MOST_REGIONS, MOST_NUMBERS = 40, 8
SHUFFLED = "-shuffled-train"
ROLE_TITLES = {"retrieval": "retrieval", "image": "image", "init": "low-level", "text": "text"}


@dataclass(frozen=True, kw_only=True)
class RoutingView:
    """The routing of one encoder."""

    title: str
    figure: FigureBlock
    table: Table


def routing_views(results: Results) -> list[RoutingView]:
    """Return the routing matrix of every encoder that has one, its seeds averaged."""
    if results.routing is None:
        return []
    rows = results.routing.assign(query_group=[_group(*pair) for pair in _pairs(results.routing)])
    names = [str(name) for name in rows["model"].unique() if not str(name).endswith(SHUFFLED)]
    return [_view(name, rows, len(names) > 1) for name in names]


def _pairs(rows: pd.DataFrame) -> list[tuple[str, str]]:
    return list(zip(rows["role"], rows["group"], strict=True))


def _group(role: str, group: str) -> str:
    """Return what a group of queries is called."""
    title = ROLE_TITLES.get(role, role)
    return title if group == "pooled" else f"{title}, {group}"


def _view(model: str, rows: pd.DataFrame, several: bool) -> RoutingView:
    own, shuffled = rows[rows["model"] == model], rows[rows["model"] == model + SHUFFLED]
    units = own.drop_duplicates("region").set_index("region")["units"]
    matrix = _matrix(own)
    order = matrix.max(axis=1).sort_values(ascending=False, kind="stable").index[:MOST_REGIONS]
    matrix = matrix.loc[[region for region in matrix.index if region in order]]
    control = None if shuffled.empty else _matrix(shuffled).reindex(matrix.index)
    change = None if own["change"].isna().all() else _matrix(own, "change").reindex(matrix.index)
    uniform = 1 / len(units)
    return RoutingView(
        title=model_title(model) if several else "",
        figure=_figure(model, matrix, control, change, uniform, own, len(units)),
        table=_table(matrix, control, change, units, uniform, own),
    )


def _matrix(rows: pd.DataFrame, column: str = "weight") -> pd.DataFrame:
    """Return means of a column, regions by groups of queries, both in the order in which they were written."""
    regions, groups = rows["region"].unique(), rows["query_group"].unique()
    means = rows.groupby(["region", "query_group"], sort=False)[column].mean().unstack()
    return means.reindex(index=regions, columns=groups)


def _figure(
    model: str,
    matrix: pd.DataFrame,
    control: pd.DataFrame | None,
    change: pd.DataFrame | None,
    uniform: float,
    rows: pd.DataFrame,
    n_regions: int,
) -> FigureBlock:
    panels = [(model_title(model), matrix)]
    if control is not None:
        panels.append(("on shuffled pairs", control))
    top = max(float(np.nanmax(panel.to_numpy())) for _, panel in panels)
    with matplotlib.rc_context(STYLE):
        figure = new_figure(8.5, 2.1 + 0.24 * len(matrix))
        n_panels = len(panels) + (change is not None)
        axes = figure.subplots(1, n_panels, sharey=True, squeeze=False)[0]
        bars = []
        for axis, (title, panel) in zip(axes, panels, strict=False):
            bars.append((_heat_map(axis, panel, title, top), list(axes[: len(panels)]), "attention, %"))
        if change is not None:
            most_changed = float(np.nanmax(change.to_numpy()))
            drawn = _heat_map(axes[-1], change, "change without it", most_changed)
            bars.append((drawn, [axes[-1]], "change, % of variance"))
        axes[0].set_yticks(range(len(matrix)), list(matrix.index), fontsize=9)
        for drawn, of, label in bars[len(panels) - 1 :]:
            bar = figure.colorbar(drawn, ax=of, fraction=0.05, pad=0.02)
            bar.set_label(label, fontsize=9)
            bar.ax.tick_params(labelsize=8)
            bar.outline.set_visible(False)
    most = [
        f"{group} at {matrix[group].idxmax()} ({percent(matrix[group].max())})" for group in matrix.columns
    ]
    seeds = rows["seed"].nunique()
    aside = (
        ""
        if change is None
        else " On the right, how much the prediction changes when its queries may not look at the region, relative to the "
        "prediction's variance."
    )
    shown = (
        ""
        if len(matrix) == n_regions
        else f" The {len(matrix)} regions most looked at of {integer(n_regions)}."
    )
    return draw(
        f"routing-{model}",
        figure,
        f"Heat map of {len(matrix)} regions by {matrix.shape[1]} groups of latent queries: most of {listed(most)}.",
        f"Where the queries of each group of latents look, in percent: mean over test trials, heads, queries of the group and "
        f"{seeds} seed{'' if seeds == 1 else 's'}; a column adds up to 100\u00a0%, an even look is {percent(uniform)}.{aside}{shown}",
        "regions far above the even share, and columns that differ from one another and from the fit on shuffled pairs. A weight "
        "says where a query looks; the change without the region, whether what it finds there matters.",
    )


def _heat_map(axis: Axes, panel: pd.DataFrame, title: str, top: float) -> AxesImage:
    """Draw shares in percent, with the numbers where there is room."""
    values = 100 * panel.to_numpy()
    drawn = axis.imshow(values, cmap="viridis", vmin=0, vmax=100 * top, aspect="auto")
    axis.set_title(title, fontsize=10)
    axis.grid(visible=False)
    axis.set_xticks(range(panel.shape[1]), list(panel.columns), rotation=60, ha="right", fontsize=8.5)
    if panel.shape[1] <= MOST_NUMBERS:
        for (i, j), value in np.ndenumerate(values):
            colour = "#000000" if value > 60 * top else "#ffffff"
            axis.text(j, i, f"{value:.0f}", ha="center", va="center", color=colour, fontsize=7.5)
    return drawn


def _table(
    matrix: pd.DataFrame,
    control: pd.DataFrame | None,
    change: pd.DataFrame | None,
    units: pd.Series,
    uniform: float,
    rows: pd.DataFrame,
) -> Table:
    headings = ["region", "units", *matrix.columns]
    if control is not None:
        headings.append("on shuffled pairs, all groups")
    if change is not None:
        headings.append("change without it, all groups")
    cells = []
    for region, weights in matrix.iterrows():
        row = [str(region), integer(units[region]), *(percent(weight) for weight in weights)]
        if control is not None:
            row.append(percent(control.loc[region].mean()))
        if change is not None:
            row.append(percent(change.loc[region].mean()))
        cells.append(row)
    spread = rows["spread"].mean()
    return Table(
        caption="Share of attention by region and group of latent queries",
        headings=headings,
        rows=cells,
        numeric=[False, *[True] * (len(headings) - 1)],
        note=f"An even look: {percent(uniform)}. Over test trials a weight has a standard deviation of {percent(spread)} on average. "
        "Every query by itself: the file routing.tsv beside this page.",
    )
