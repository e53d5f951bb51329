"""The model folder's ``config.json`` and ``README.md``: what was fitted on what, and figures that ``bds verify`` can remake."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from braindecode_suite.core.protocols import DatasetCard
from braindecode_suite.core.score import Score
from braindecode_suite.core.split import Split
from braindecode_suite.workflows.encode_config import STACK
from braindecode_suite.workflows.facts import recipe_words
from braindecode_suite.workflows.fitting import Fitted

FIGURE_KEYS = ("model", "seed", "metric", "scorer", "gallery")


def figures(scores: Iterable[Score], protocol: str) -> list[dict[str, Any]]:
    """Return the centred top-1 of every single model and seed, at every gallery size, unrounded."""
    return [
        {**{key: getattr(score, key) for key in FIGURE_KEYS}, "value": score.value, "n": score.n}
        for score in scores
        if score.metric.endswith("_top1")
        and score.scorer == "cosine-centred"
        and (score.control, score.versus, score.candidates, score.level)
        == ("brain", "", "all", "mean-prediction")
        and score.split == protocol
        and score.minutes is None
        and score.time_start is None
        and "," not in score.seed
    ]


def image_figures(scores: Iterable[Score], protocol: str) -> list[dict[str, Any]]:
    """Return identification, SSIM and PixCorr of every model's reconstructions under one protocol, unrounded."""
    return [
        {**{key: getattr(score, key) for key in FIGURE_KEYS}, "value": score.value, "n": score.n}
        for score in scores
        if score.stage == "final"
        and (score.control, score.versus, score.split, score.seed) == ("brain", "", protocol, "")
        and score.candidates in ("", "within-class")
        and score.minutes is None
        and score.time_start is None
    ]


def encoding_figures(scores: Iterable[Score], features: str) -> list[dict[str, Any]]:
    """Return the mean r over all units of every single model and seed that was offered all features, unrounded."""
    return [
        {**{key: getattr(score, key) for key in FIGURE_KEYS}, "value": score.value, "n": score.n}
        for score in scores
        if (score.metric, score.scorer, score.roi, score.control, score.versus)
        == ("encoding_r", "mean over units", "", "brain", "")
        and score.target == features
        and score.model != STACK
        and score.minutes is None
        and score.time_start is None
        and "," not in score.seed
    ]


def figure_table(figures: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the figures of a card as the lines of a table."""
    lines = ["| model | seed | score | gallery | value | images |", "|---|---|---|---|---|---|"]
    for figure in figures:
        seed, gallery = figure["seed"] or "-", figure["gallery"] or "-"
        lines.append(
            f"| {figure['model']} | {seed} | {figure['metric']} | {gallery} | {figure['value']:.4f} | {figure['n']} |"
        )
    return lines


def model_config(models: Sequence[Fitted], run: Mapping[str, Any], scores: Iterable[Score]) -> dict[str, Any]:
    """Return the ``config.json`` of a folder that holds all fitted models, with what they were run on and the figures."""
    merged: dict[str, Any] = {}
    for model in models:
        if model.control != "brain":
            continue
        own = json.loads((model.folder / "config.json").read_text(encoding="utf-8"))
        merged = {**own, "models": {**merged.get("models", {}), **own["models"]}}
    images = [score for score in scores if score.target == run["target_names"]["retrieval"]]
    return {**merged, "run": dict(run), "figures": figures(images, str(run["protocol"]))}


def model_card(
    config: Mapping[str, Any],
    card: DatasetCard,
    study: Mapping[str, Any],
    split: Split,
    recipe: Sequence[Mapping[str, Any]],
) -> str:
    """Return the folder's ``README.md``; `recipe` has every step, filters of recordings too."""
    run = config["run"]
    kept = f", of which {study['n_kept']} are kept," if "n_kept" in study else ""
    lines = [
        f"# {run['workflow']}, sub-{run['subject']} of {card.name}",
        "",
        f"Models of one person's recordings: {', '.join(config['models'])}. They read {study['n_units']} {study.get('units', 'units')}{kept} "
        f"of sub-{run['subject']} ({study['unit']}) and predict latents of images; they are useless for anybody else's brain.",
        "",
        f"- data: {card.title}. Terms: {card.terms}",
        f"- split: {run['protocol']} ({run['split_hash']}), disjoint in {', '.join(sorted(split.disjoint))}",
        f"- preprocessing: {recipe_words(recipe) or 'none'}",
        *(f"- target ({role}): {name}" for role, name in run["target_names"].items()),
        "- intended use: research on decoding with the consent of the person recorded; not for reading anybody's mind",
    ]
    if card.simulated:
        lines.append("- simulated recordings: the figures show model recovery, never performance")
    lines += [
        "",
        "Centred cosine, predictions averaged over repeats; `bds verify` recomputes these figures from this folder and the data.",
        "",
        *figure_table(config["figures"]),
    ]
    return "\n".join(lines) + "\n"
