"""The data card: recordings, regions, signal-to-noise, preprocessing, and what the split keeps apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from braindecode_suite.report.brain import BrainView, view
from braindecode_suite.report.figures import FigureBlock, ncsnr_histogram
from braindecode_suite.report.results import Results, mapping, sequence
from braindecode_suite.report.stat_maps import map_values
from braindecode_suite.report.tables import Table, without_idle_columns
from braindecode_suite.report.wording import DASH, count, integer, listed, missing, number, percent, plain

SPLITS_SHOWN = 3
SCOPE_NOTES = {
    "train": "fitted on training rows only",
    "heldout-block": "transductive: uses label-free statistics of the held-out block",
    "as-released": "as released by the dataset's authors, over whole sessions",
}


@dataclass(frozen=True, kw_only=True)
class SplitCard:
    """One split: sizes, what is proved apart, what is shared, near-duplicates, notes."""

    title: str
    hash: str
    sizes: Table
    proved: str
    shared: Table | None
    duplicates: str
    notes: list[str]


@dataclass(frozen=True, kw_only=True)
class DataCard:
    """Everything that section 2 shows."""

    facts: list[tuple[str, str]]
    rois: Table | None
    maps: list[FigureBlock]
    no_map: str
    splits: list[SplitCard]
    folds: Table | None
    recipe: Table | None
    terms: str
    citation: str
    provenance: list[tuple[str, str]]


def data_card(results: Results) -> DataCard:
    """Return the data card of one subject."""
    noise = view(results, results.maps["ncsnr"]) if "ncsnr" in results.maps else None
    splits = [mapping(split) for split in sequence(results.facts.get("splits"))]
    firsts: dict[str, Mapping[str, Any]] = {}
    for split in splits:
        firsts.setdefault(str(split.get("protocol", "")), split)
    shown = splits if len(splits) <= SPLITS_SHOWN else list(firsts.values())
    hidden = {"warnings", "terms"}
    return DataCard(
        facts=_facts(results),
        rois=_rois(results),
        maps=[] if noise is None else [*noise.figures, *_histogram(results)],
        no_map=_no_map(results, noise),
        splits=[_split_card(split, len(splits) > len(shown)) for split in shown],
        folds=_folds(splits) if len(splits) > len(shown) else None,
        recipe=_recipe(results),
        terms=str(results.dataset.get("terms", "")),
        citation=str(results.dataset.get("citation", "")),
        provenance=[
            (str(key), plain(value))
            for key, value in mapping(results.study.get("provenance")).items()
            if key not in hidden and value
        ],
    )


def _facts(results: Results) -> list[tuple[str, str]]:
    study, dataset = results.study, results.dataset
    repeats = mapping(study.get("repeats"))
    by_repeats = ", ".join(
        f"{integer(n)} images {times} time{'' if str(times) == '1' else 's'}" for times, n in repeats.items()
    )
    units, valid = study.get("n_units"), study.get("n_valid")
    lost = units - valid if isinstance(units, int) and isinstance(valid, int) else 0
    dropped = f" ({integer(lost)} constant or empty)" if lost else ""
    rows = [
        ("Dataset", " \u2013 ".join(str(dataset[key]) for key in ("name", "title") if dataset.get(key))),
        ("Modality", str(dataset.get("modality", ""))),
        ("Trials", integer(study.get("n_trials"))),
        ("Different images", integer(study.get("n_images"))),
        ("Repeats", by_repeats),
        ("Sessions", _sessions(study.get("sessions"))),
        ("Sensors" if results.evoked is not None else "Voxels or units", integer(units)),
        ("With a signal", DASH if missing(valid) else integer(valid) + dropped),
        ("Kept", _kept(results)),
        ("Unit of the responses", str(study.get("unit", ""))),
        ("Median ncsnr", number(study.get("ncsnr_median"))),
        ("ncsnr from", str(study.get("ncsnr_source") or "")),
    ]
    return [(name, text) for name, text in rows if text and text != DASH]


def _kept(results: Results) -> str:
    """Return how many units a filter of reliable units kept and why; empty without one."""
    for step in map(mapping, sequence(results.facts.get("recipe"))):
        if step.get("name") == "keep-reliable":
            kept = " to ".join(integer(n) for n in sequence(step.get("kept")))
            return (
                f"{kept} of {integer(step.get('of'))}: those whose single trials are signal to at least "
                f"{percent(step.get('threshold'))} of their variance, judged on repeats of training images"
            )
    return ""


def _sessions(value: Any) -> str:
    if isinstance(value, Mapping):
        each = [f"{key}: {plain(n)}" for key, n in value.items()]
        more = ", \u2026" if len(each) > 8 else ""
        return f"{len(value)} ({', '.join(each[:8])}{more})"
    if isinstance(value, list | tuple):
        return str(len(value))
    return DASH if missing(value) else count(value) if isinstance(value, int | float) else str(value)


def _rois(results: Results) -> Table | None:
    rois = mapping(results.study.get("rois"))
    if not rois:
        return None
    total = results.study.get("n_units") or 0
    rows = [
        [
            str(name),
            integer(n),
            f"{100 * n / total:.1f} %" if total and isinstance(n, int | float) else DASH,
            "" if n else "empty",
        ]
        for name, n in rois.items()
    ]
    table = Table(
        caption="Regions of interest; they may overlap",
        headings=["region", "voxels", "share", "remark"],
        rows=rows,
        numeric=[False, True, True, False],
    )
    return without_idle_columns(table)


def _histogram(results: Results) -> list[FigureBlock]:
    """Return the histogram of the signal-to-noise ratio over units, where any has one."""
    values = map_values(results.maps["ncsnr"], results.mask)
    return [ncsnr_histogram(values)] if len(values) else []


def _no_map(results: Results, noise: BrainView | None) -> str:
    if noise is not None:
        return noise.reason
    reason = results.reason("ncsnr", "noise")
    if reason:
        return f"No signal-to-noise map: {reason}"
    if results.evoked is not None:
        return "No signal-to-noise map: it is drawn of voxels. Where the sensors answer stands in the section Sensors."
    return "No signal-to-noise map: this dataset comes without ncsnr per voxel, or its units have no recorded place in the brain."


def _split_card(split: Mapping[str, Any], one_of_many: bool) -> SplitCard:
    trials, images = mapping(split.get("trials")), mapping(split.get("images"))
    parts = list(dict.fromkeys([*trials, *images]))
    sizes = Table(
        caption="Size of each part",
        headings=["part", "trials", "images"],
        rows=[[part, integer(trials.get(part)), integer(images.get(part))] for part in parts],
        numeric=[False, True, True],
    )
    proved = listed([str(name) for name in sequence(split.get("disjoint"))])
    near = mapping(split.get("near_duplicates"))
    duplicates = "Near-duplicates across the split were not counted."
    if "pairs" in near:
        tests = [str(name) for name in sequence(near.get("test_images"))]
        duplicates = "No near-duplicates (perceptual hash) across the split."
        if near["pairs"]:
            shown = ", ".join(tests[:20]) + (", \u2026" if len(tests) > 20 else "")
            duplicates = (
                f"{integer(near['pairs'])} near-duplicate pairs (perceptual hash) across the split, in {len(tests)} test "
                f"images ({shown})."
            )
    label = str(split.get("label", ""))
    title = (
        str(split.get("protocol", "split"))
        + (f", {label}" if label else "")
        + (" (one of its splits)" if one_of_many and label else "")
    )
    return SplitCard(
        title=title,
        hash=str(split.get("hash", "")),
        sizes=sizes,
        proved=f"Proved disjoint by {proved}." if proved else "The protocol declares nothing disjoint.",
        shared=_shared(mapping(split.get("shared"))),
        duplicates=duplicates,
        notes=[str(note) for note in sequence(split.get("notes"))],
    )


def _shared(shared: Mapping[str, Any]) -> Table | None:
    pairs = list(dict.fromkeys(pair for counts in shared.values() for pair in mapping(counts)))
    if not pairs:
        return None
    return Table(
        caption="What the parts share",
        headings=["kind", *[pair.replace("/", " / ") for pair in pairs]],
        rows=[
            [str(kind), *[integer(mapping(counts).get(pair)) for pair in pairs]]
            for kind, counts in shared.items()
        ],
        numeric=[False, *[True] * len(pairs)],
    )


def _folds(splits: list[Mapping[str, Any]]) -> Table:
    rows = []
    for split in splits:
        images = mapping(split.get("images"))
        shared = mapping(mapping(split.get("shared")).get("stimulus"))
        near = mapping(split.get("near_duplicates"))
        rows.append(
            [
                str(split.get("label") or split.get("protocol", "")),
                str(split.get("protocol", "")),
                *[integer(images.get(part)) for part in ("train", "validation", "test")],
                integer(shared.get("train/test")),
                integer(near.get("pairs")),
                str(split.get("hash", "")),
            ]
        )
    return Table(
        caption=f"All {len(splits)} splits",
        headings=[
            "split",
            "protocol",
            "train",
            "validation",
            "test",
            "shared images",
            "near-duplicates",
            "hash",
        ],
        rows=rows,
        numeric=[False, False, True, True, True, True, True, False],
    )


def _recipe(results: Results) -> Table | None:
    steps = [mapping(step) for step in sequence(results.facts.get("recipe"))]
    if not steps:
        return None
    rows = []
    for step in steps:
        scope = str(step.get("scope", ""))
        rest = {key: value for key, value in step.items() if key not in ("name", "scope")}
        rows.append([str(step.get("name", "step")), scope or DASH, SCOPE_NOTES.get(scope, DASH), plain(rest)])
    return Table(
        caption="Preprocessing, in order", headings=["step", "scope", "which means", "settings"], rows=rows
    )
