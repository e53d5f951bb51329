"""Pictures of the report: reconstructions drawn at random or picked, and retrieval examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from braindecode_suite.report.pictures import Picture, load_picture
from braindecode_suite.report.results import Results, sequence
from braindecode_suite.report.selection import SCORERS
from braindecode_suite.report.wording import (
    control_title,
    is_proportion,
    metric_title,
    model_title,
    number,
    percent,
)

PIXEL_IMAGES = ("mean-image", "flat-grey", "blurred-truth")
RANDOM_SHOWN, PICKED_SHOWN, RETRIEVALS_SHOWN = 12, 3, 8
COLUMN_ORDER = [
    "truth",
    "brain",
    "nearest-train",
    "null-condition",
    "shuffled-train",
    "shuffled-test",
    "category-only",
    "shuffled-within-class",
    "true-latent",
    "mean-image",
    "flat-grey",
    "blurred-truth",
]
PER_IMAGE = {"identification": "id.", "pixcorr": "r", "ssim": "SSIM"}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One image of a grid with its scores."""

    picture: Picture
    scores: list[str]


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Images in rows (stimuli) and columns (conditions)."""

    caption: str
    headings: list[str]
    rows: list[tuple[str, str, list[Cell]]]  # stimulus, tag, cells
    slug: str


@dataclass(frozen=True, kw_only=True)
class Reconstructions:
    """The random grid, the picked grids and how they were picked."""

    random: Grid | None
    picked: list[Grid]
    picked_by: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Retrieved:
    """One query: the seen image, its rank, and the first five of the gallery."""

    stimulus: str
    truth: Picture
    rank: int
    gallery: int
    top: list[tuple[str, Picture, bool]]


def random_ids(results: Results, available: Sequence[str], most: int) -> list[str]:
    """Return the stimuli drawn at random by the run that are available, in the order drawn.

    Where the run recorded none, the first of the table are taken: their order does not depend on any score.
    """
    drawn = [str(name) for name in sequence(results.facts.get("random_examples"))]
    there = set(available)
    chosen = [name for name in dict.fromkeys(drawn) if name in there]
    return (chosen or list(dict.fromkeys(available)))[:most]


def reconstructions(results: Results) -> Reconstructions:
    """Return random test images first, then best, median and worst by a score per image."""
    table = results.images
    if table is None or not (table["control"] == "brain").any():
        reason = results.reason("generat", "reconstruct", "image")
        return Reconstructions(random=None, picked=[], picked_by="", reason=reason)
    for column in ("stage", "model", "source", "seed"):
        table = table.assign(**{column: table[column].fillna("") if column in table else ""})
    brain = table[(table["control"] == "brain") & (table["stage"] != "low-level")]
    brain = brain if len(brain) else table[table["control"] == "brain"]
    chosen = random_ids(results, list(brain["stimulus_id"]), RANDOM_SHOWN)
    columns = _columns(results, table)
    random = _grid(
        results, table, columns, [(name, "") for name in chosen], "Random test images, not picked", "random"
    )
    picked, picked_by = _picked(results, table, brain, columns)
    return Reconstructions(random=random, picked=picked, picked_by=picked_by, reason="")


def _columns(results: Results, table: pd.DataFrame) -> list[tuple[str, str, str]]:
    """Return (control, stage, model) of every column that some image has, in a fixed order.

    Early stages are shown for the first model's brain only.
    """
    shown = table[table["control"].isin(COLUMN_ORDER)]
    own = (shown["control"] == "brain") & (shown["model"] == results.primary)
    shown = shown[own | (shown["stage"] != "low-level")]
    found = list(dict.fromkeys(zip(shown["control"], shown["stage"], shown["model"], strict=True)))
    found = list(dict.fromkeys((c, s, m if c not in ("truth",) else "") for c, s, m in found))
    rank = {name: i for i, name in enumerate(results.models)}

    def order(column: tuple[str, str, str]) -> tuple[int, int, int, bool]:
        control, stage, model = column
        if control in PIXEL_IMAGES:
            block = 3
        elif model in ("", results.primary):
            block = 0
        else:
            block = 1 if control == "brain" else 2
        return block, COLUMN_ORDER.index(control), rank.get(model, 99), stage == "low-level"

    return sorted(found, key=order)


def _heading(column: tuple[str, str, str], primary: str) -> str:
    control, stage, model = column
    text = "Low-level branch" if stage == "low-level" else control_title(control)
    if control == "brain" and model not in ("", primary):
        return f"By {model_title(model)}"
    return text if model in ("", primary) else f"{text} ({model_title(model)})"


def _grid(
    results: Results,
    table: pd.DataFrame,
    columns: list[tuple[str, str, str]],
    chosen: list[tuple[str, str]],
    caption: str,
    slug: str,
) -> Grid:
    headings = [_heading(column, results.primary) for column in columns]
    rows = []
    for stimulus, tag in chosen:
        mine = table[table["stimulus_id"] == stimulus]
        cells = []
        for column, heading in zip(columns, headings, strict=True):
            cells.append(_cell(results, mine, column, heading, stimulus))
        rows.append((stimulus, tag, cells))
    return Grid(caption=caption, headings=headings, rows=rows, slug=slug)


def _cell(
    results: Results, mine: pd.DataFrame, column: tuple[str, str, str], heading: str, stimulus: str
) -> Cell:
    control, stage, model = column
    rows = mine[(mine["control"] == control) & (mine["stage"] == stage)]
    rows = rows if control == "truth" else rows[rows["model"] == model]
    alt = f"{heading}, stimulus {stimulus}"
    if rows.empty:
        return Cell(picture=Picture(uri=None, alt=f"{alt}: not made"), scores=[])
    row = rows.iloc[0]
    shown = [str(row["source"])] if row["source"] else []
    for name in PER_IMAGE if control != "truth" else ():
        if name in row and pd.notna(row[name]):
            text = percent(row[name]) if is_proportion(name) else number(row[name], 2)
            shown.append(f"{PER_IMAGE[name]}\u00a0{text}")
    return Cell(picture=_open(results, str(row["path"]), alt), scores=shown)


def _open(results: Results, path: str, alt: str) -> Picture:
    """Load a picture of the results folder; a path that leads out of it is not followed."""
    file = (results.folder / path).resolve()
    if not file.is_relative_to(results.folder.resolve()):
        return Picture(uri=None, alt=f"{alt}: not in the results folder")
    return load_picture(file, alt)


def _picked(
    results: Results, table: pd.DataFrame, brain: pd.DataFrame, columns: list[tuple[str, str, str]]
) -> tuple[list[Grid], str]:
    own = brain[brain["model"] == results.primary] if (brain["model"] == results.primary).any() else brain
    for metric in PER_IMAGE:
        if metric in own and pd.to_numeric(own[metric], errors="coerce").notna().any():
            values = own.assign(score=pd.to_numeric(own[metric], errors="coerce")).dropna(subset=["score"])
            score = (
                values.groupby("stimulus_id", sort=False)["score"]
                .mean()
                .sort_values(ascending=False, kind="stable")
            )
            break
    else:
        return [], ""
    n = min(PICKED_SHOWN, max(1, len(score) // 3))
    middle = max((len(score) - n) // 2, 0)
    parts = {"best": score.index[:n], "median": score.index[middle : middle + n], "worst": score.index[-n:]}
    of = f"{metric_title(metric)} per image" + (
        f" of {model_title(results.primary)}" if results.primary else ""
    )
    grids = [
        _grid(
            results,
            table,
            columns,
            [
                (name, f"{percent(score[name]) if is_proportion(metric) else number(score[name])}")
                for name in ids
            ],
            f"Picked: {part} by {of}",
            part,
        )
        for part, ids in parts.items()
    ]
    return grids, f"{of} ({len(score)} images)"


def headline_queries(results: Results) -> tuple[pd.DataFrame | None, str]:
    """Return the retrieval rows of one direction (brain to image) and one similarity, and the similarity's name."""
    table = results.retrieval
    if table is None:
        return None, ""
    if "direction" in table and table["direction"].str.startswith("brain").any():
        table = table[table["direction"].str.startswith("brain")]
    for column in ("split", "control"):
        wanted = {"split": results.protocol, "control": "brain"}[column]
        if column in table and (table[column] == wanted).any():
            table = table[table[column] == wanted]
    if "model" not in table:
        table = table.assign(model=results.primary)
    scorer = ""
    if "scorer" in table:
        names = list(dict.fromkeys(table["scorer"]))
        scorer = next((name for name in SCORERS if name in names), names[0])
        table = table[table["scorer"] == scorer]
    return table, scorer


def retrieved(results: Results) -> list[Retrieved]:
    """Return random queries of the headline model with the first five images of the gallery."""
    table, _ = headline_queries(results)
    if table is None or "top1" not in table:
        return []
    own = table[table["model"] == results.primary] if (table["model"] == results.primary).any() else table
    first = own.drop_duplicates("stimulus_id")
    truth = {}
    if results.images is not None:
        rows = results.images[results.images["control"] == "truth"]
        truth = dict(zip(rows["stimulus_id"], rows["path"], strict=True))
    found = []
    for stimulus in random_ids(results, list(first["stimulus_id"]), RETRIEVALS_SHOWN):
        row = first[first["stimulus_id"] == stimulus].iloc[0]
        top = []
        for place in range(1, 6):
            name = row.get(f"top{place}", "")
            if isinstance(name, str) and name:
                seen = name == stimulus
                alt = f"{'the seen image' if seen else 'stimulus ' + name}, place {place}"
                top.append(
                    (
                        name,
                        _open(results, truth[name], alt) if name in truth else Picture(uri=None, alt=alt),
                        seen,
                    )
                )
        picture = _open(results, truth[stimulus], f"seen image {stimulus}") if stimulus in truth else None
        found.append(
            Retrieved(
                stimulus=stimulus,
                truth=picture or Picture(uri=None, alt=f"seen image {stimulus}: not saved"),
                rank=int(np.round(float(row["rank"]))) + 1,
                gallery=int(row["gallery"]),
                top=top,
            )
        )
    return found
