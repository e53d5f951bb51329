"""Whose dissimilarities resemble the measured ones: models between noise ceilings, and the matrices themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
import pandas as pd
from scipy.stats import rankdata

from braindecode_suite.report.figures import MUTED, SERIES, SHADE, STYLE, FigureBlock, draw, new_figure
from braindecode_suite.report.panels import Panel, Part
from braindecode_suite.report.results import Results, desc_label, mapping, sequence
from braindecode_suite.report.selection import where
from braindecode_suite.report.tables import Table, interval_cell, without_idle_columns
from braindecode_suite.report.wording import DASH, integer, interval, missing, model_title, number, p_text

METHOD_TITLES = {"spearman": "Spearman's \u03c1", "kendall": "Kendall's \u03c4a", "pearson": "Pearson's r"}
CEILING = "rsa_noise_ceiling"


def similarity_panel(results: Results) -> Panel | None:
    """Return the section of one person, or None where no dissimilarities were compared."""
    known = mapping(results.facts.get("similarity"))
    if not known:
        return None
    scores, method = results.scores, str(known.get("method"))
    models = [str(name) for name in sequence(known.get("models"))]
    main = where(scores, metric="rsa", versus="", scorer=method)
    matrices = matrix_figure(results, models)
    return Panel(
        slug="similarity",
        title="Representational similarity",
        parts=[
            Part(
                title="Models between noise ceilings",
                figure=model_figure("similarity-models", main, _ceilings(scores, method), models, method),
                table=score_table(where(scores, metric="rsa", versus=""), models),
                look_for="intervals above chance, and how far below the lower ceiling they end: what is missing there is shared by people.",
            ),
            Part(title="Noise ceilings and reliability", table=ceiling_table(scores)),
            *gap_part(where(scores, metric="rsa"), models),
            *([Part(title="The matrices", figure=matrices)] if matrices else []),
        ],
    )


def group_similarity_panel(
    group: pd.DataFrame, subjects: Sequence[Results], facts: Mapping[str, object]
) -> Panel | None:
    """Return the section of all people together, or None where no dissimilarities were compared.

    Parameters
    ----------
    group : DataFrame
        The group's score table.
    subjects : sequence of Results
    facts : mapping
        Of the group.
    """
    known = mapping(facts.get("similarity"))
    if not known:
        return None
    method = str(known.get("method"))
    models = [str(name) for name in sequence(known.get("models"))]
    together = group[(group["subject"] == "group") & (group["ci_over"] != "subject")]
    both = together[together["scorer"].str.contains("drawn")]
    main = both[(both["versus"] == "") & both["scorer"].str.startswith(method)]
    each = pd.concat([where(r.scores, metric="rsa", versus="", scorer=method) for r in subjects])
    return Panel(
        slug="similarity",
        title="Representational similarity, all subjects together",
        parts=[
            Part(
                title="Models between noise ceilings",
                figure=model_figure(
                    "similarity-group", main, _ceilings(together, method), models, method, each
                ),
                table=score_table(both[both["versus"] == ""], models),
                look_for="intervals draw images and subjects together. With few subjects they are honest about these few, not about all people.",
            ),
            Part(title="Noise ceilings", table=ceiling_table(together)),
            *gap_part(both, models),
        ],
    )


def model_figure(
    name: str,
    rows: pd.DataFrame,
    ceilings: Mapping[str, pd.Series],
    models: Sequence[str],
    method: str,
    each: pd.DataFrame | None = None,
) -> FigureBlock:
    """Return each model's correlation with its interval, chance, the band between the ceilings, and each person's value."""
    order = [model for model in models if (rows["model"] == model).any()]
    with matplotlib.rc_context(STYLE):
        figure = new_figure(8.5, 1.5 + 0.55 * len(order))
        axis = figure.subplots()
        if {"lower", "upper"} <= set(ceilings):
            low, high = float(ceilings["lower"]["value"]), float(ceilings["upper"]["value"])
            axis.axvspan(low, high, color=SHADE, alpha=0.9, linewidth=0, label="between the noise ceilings")
        for k, model in enumerate(order):
            row, y = where(rows, model=model).iloc[0], len(order) - 1 - k
            axis.plot([row["ci_low"], row["ci_high"]], [y, y], color=SERIES[0], linewidth=2.6)
            axis.plot([row["value"]], [y], "o", color=SERIES[0], markersize=7)
            axis.plot(
                [row["chance"]],
                [y],
                "|",
                color=MUTED,
                markersize=14,
                markeredgewidth=1.8,
                label=None if k else "chance",
            )
            if each is not None:
                own = where(each, model=model)["value"]
                axis.plot(
                    own,
                    [y + 0.22] * len(own),
                    ".",
                    color=SERIES[1],
                    markersize=7,
                    label=None if k else "each subject",
                )
        axis.axvline(0, color=MUTED, linestyle="--", linewidth=1.0)
        axis.set_yticks(
            [len(order) - 1 - k for k in range(len(order))], [model_title(model) for model in order]
        )
        axis.set_ylim(-0.6, len(order) - 0.3)
        axis.set_xlabel(f"{METHOD_TITLES.get(method, method)} with the measured dissimilarities")
        axis.grid(axis="y", visible=False)
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, 1.22), ncols=3, fontsize=9.5)
    values = "; ".join(f"{model} {number(where(rows, model=model).iloc[0]['value'])}" for model in order)
    band = (
        f", noise ceilings {number(ceilings['lower']['value'])} and {number(ceilings['upper']['value'])}"
        if ceilings
        else ""
    )
    over = str(rows["ci_over"].iloc[0]) if len(rows) else "image"
    words = "images and subjects" if "subject" in over else "images"
    return draw(
        name,
        figure,
        f"Correlation of model and measured dissimilarities: {values}{band}.",
        f"Correlation with the measured dissimilarities, 95\u00a0% intervals over {words}; band: lower to upper noise ceiling; ticks: chance.",
        "intervals to the right of their tick. A model whose interval reaches the band explains what people share.",
    )


def _ceilings(scores: pd.DataFrame, method: str) -> dict[str, pd.Series]:
    rows = where(scores, metric=CEILING)
    return {
        str(row["scorer"]).removeprefix(f"{method}, "): row
        for _, row in rows.iterrows()
        if str(row["scorer"]).startswith(f"{method}, ")
    }


def score_table(rows: pd.DataFrame, models: Sequence[str]) -> Table:
    """Return every model's correlations, a model and a way of comparing a line."""
    cells = []
    for model in models:
        for row in where(rows, model=model).to_dict("records"):
            method = str(row["scorer"]).split(",")[0]
            cells.append(
                [
                    model_title(model),
                    METHOD_TITLES.get(method, method),
                    number(row["value"]),
                    interval_cell(row),
                    number(row["chance"]),
                    p_text(row["p_value"]),
                    number(row["ceiling"]),
                    integer(row["n"]),
                ]
            )
    return Table(
        caption="Correlation of model and measured dissimilarities",
        headings=["model", "by", "value", "95\u00a0% interval", "chance", "p", "lower ceiling", "images"],
        rows=cells,
        numeric=[False, False, True, True, True, True, True, True],
    )


def ceiling_table(scores: pd.DataFrame) -> Table:
    """Return both ceilings and, where there is one, the correlation between sessions."""
    rows = scores[scores["metric"].isin([CEILING, "rsa_between_sessions"])]
    cells = []
    for row in rows.to_dict("records"):
        method, _, which = str(row["scorer"]).partition(", ")
        what = f"noise ceiling, {which}" if row["metric"] == CEILING else "between the two sessions"
        cells.append([what, METHOD_TITLES.get(method, method), number(row["value"]), interval_cell(row)])
    table = Table(
        caption="Lower: with the mean of the others; upper: with the mean of all",
        headings=["", "by", "value", "95\u00a0% interval over images"],
        rows=cells or [[DASH, DASH, DASH, DASH]],
        numeric=[False, False, True, True],
    )
    return without_idle_columns(table)


def gap_part(rows: pd.DataFrame, models: Sequence[str]) -> list[Part]:
    """Return the first model minus each other, nothing where there is one model."""
    gaps = rows[rows["versus"] != ""]
    if gaps.empty:
        return []
    cells = [
        [
            f"{model_title(str(row['model']))} \u2212 {model_title(str(row['versus']))}",
            METHOD_TITLES.get(str(row["scorer"]).split(",")[0], str(row["scorer"])),
            number(row["value"]),
            interval_cell(row),
            p_text(row["p_value"]),
        ]
        for row in gaps.to_dict("records")
    ]
    table = Table(
        caption="Differences between models, on the same resamples",
        headings=["difference", "by", "value", "95\u00a0% interval", "p"],
        rows=cells,
        numeric=[False, False, True, True, True],
    )
    return [Part(title="Models against each other", table=table, look_for="intervals that leave zero out.")]


def matrix_figure(results: Results, models: Sequence[str]) -> FigureBlock | None:
    """Return the measured matrix and each model's, ranked, in the order of the images; None where they were not kept."""
    path = results.folder / f"sub-{results.subject}_desc-{desc_label(results.workflow)}_similarity.npz"
    if not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as stored:
        shown = {"measured": stored["measured"], **dict(zip(models, stored["model_rdms"], strict=True))}
    with matplotlib.rc_context(STYLE):
        figure = new_figure(8.5, 2.6)
        axes = figure.subplots(1, len(shown), squeeze=False)[0]
        for axis, (name, rdm) in zip(axes, shown.items(), strict=True):
            rows, columns = np.triu_indices(len(rdm), k=1)
            ranked = np.full(rdm.shape, np.nan)
            ranked[rows, columns] = ranked[columns, rows] = rankdata(rdm[rows, columns]) / len(rows)
            axis.imshow(ranked, cmap="viridis", vmin=0, vmax=1, interpolation="nearest")
            axis.set_title(model_title(name), fontsize=9.5)
            axis.set_xticks([])
            axis.set_yticks([])
            axis.grid(visible=False)
    return draw(
        "similarity-matrices",
        figure,
        f"Dissimilarity matrices of {len(shown)} systems, ranked: {', '.join(shown)}.",
        "Dissimilarities of all pairs of images in their order, each matrix ranked (dark: alike, bright: unlike).",
        "blocks that the measured matrix has and a model has not: categories that it does not keep apart.",
    )


def similarity_sentence(results: Results) -> str:
    """Return the headline in words, empty where no dissimilarities were compared."""
    known = mapping(results.facts.get("similarity"))
    names = [str(name) for name in sequence(known.get("models"))]
    rows = where(
        results.scores, metric="rsa", versus="", scorer=str(known.get("method")), model=names[:1] or [""]
    )
    if not known or rows.empty:
        return ""
    row = rows.iloc[0]
    method = METHOD_TITLES.get(str(row["scorer"]), str(row["scorer"]))
    words = f"{model_title(row['model'])} finds images alike as this person does with {method} {number(row['value'])} "
    words += f"{interval(row['ci_low'], row['ci_high'])} (chance {number(row['chance'])}, p = {p_text(row['p_value'])}"
    words += ")" if missing(row["ceiling"]) else f"; lower noise ceiling {number(row['ceiling'])})"
    return words + "."
