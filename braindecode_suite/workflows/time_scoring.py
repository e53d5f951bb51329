"""Windows to scores: a row of the table for each, and what the report draws of their course."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from braindecode_suite.core.score import Score
from braindecode_suite.core.study import Stimuli, Study
from braindecode_suite.core.windows import Window
from braindecode_suite.metrics.retrieval import chance_top_k, ranks
from braindecode_suite.metrics.time_clusters import ClusterTest, cluster_test
from braindecode_suite.metrics.time_courses import TimeCourse, ends_before_onset, peak_latency, time_course
from braindecode_suite.metrics.unique_variance import leading_components, unique_variance
from braindecode_suite.workflows.scoring import HEADLINE_SCORER, Settings
from braindecode_suite.workflows.time_resolved import Sliding

METRIC = "retrieval_brain_to_image_top1"
CORRECTION = "largest cluster over windows, whole images permuted"
GRID, EARLY_COMPONENTS = 4, 12
Named = Literal["centre", "end"]


def score_course(
    windows: Sequence[Window],
    similarity: np.ndarray,
    settings: Settings,
    *,
    model: str,
    target: str,
    seed: str = "",
    named: Named = "centre",
    n_repeats: float | None = None,
    single: np.ndarray | None = None,
    shown: np.ndarray | None = None,
) -> tuple[list[Score], dict[str, Any]]:
    """Score a model's windows on the whole gallery: averaged predictions and, where they are given, single trials.

    Parameters
    ----------
    windows : sequence of Window
    similarity : array of shape (windows, images, gallery)
        Image i's own place in the gallery is i.
    settings : Settings
    model, target, seed : str
    named : {'centre', 'end'}
        What a window is called by: its centre, or its end where all windows begin together.
    n_repeats : float, optional
        Trials averaged for an image, on average.
    single : array of int of shape (windows, trials), optional
        Rank of the truth for each trial alone.
    shown : array of int of shape (trials,), optional
        Image of each trial.

    Returns
    -------
    list of Score
    dict
        JSON-like, for `report.time_courses`.
    """
    n = similarity.shape[2]
    chance = chance_top_k(n)
    before = ends_before_onset(windows)
    times = np.array([w.centre if named == "centre" else w.time_stop for w in windows])
    values = {"mean-prediction": np.array([ranks(one, np.arange(n)) == 0 for one in similarity], np.float64)}
    if single is not None and shown is not None:
        counts = np.bincount(shown, minlength=n)
        values["single"] = np.array([np.bincount(shown, one == 0, n) / counts for one in single])
    courses = {
        level: time_course(
            some,
            times,
            chance=chance,
            before=before,
            units=settings.units,
            over=settings.unit,
            seed=settings.seed,
            n_resamples=settings.n_bootstrap,
        )
        for level, some in values.items()
    }
    test = cluster_test(similarity, seed=settings.seed, n_permutations=max(1000, settings.n_permutations))
    p_values = np.full(len(windows), np.nan)
    for cluster in test.clusters:
        p_values[cluster.first : cluster.last + 1] = cluster.p_value
    scores = [
        Score(
            subject=settings.subject,
            metric=METRIC,
            value=float(course.mean[k]),
            time_start=round(window.time_start, 6),
            time_stop=round(window.time_stop, 6),
            ci_low=float(course.low[k]),
            ci_high=float(course.high[k]),
            ci_over=settings.unit,
            chance=chance,
            p_value=float(p_values[k]) if level == "mean-prediction" and np.isfinite(p_values[k]) else None,
            p_correction=CORRECTION if level == "mean-prediction" and np.isfinite(p_values[k]) else "",
            n=n,
            n_repeats=n_repeats if level == "mean-prediction" else 1,
            n_subjects=1,
            gallery=n,
            candidates="all",
            level=level,
            scorer=HEADLINE_SCORER,
            model=model,
            target=target,
            seed=seed,
            split=settings.split,
        )
        for level, course in courses.items()
        for k, window in enumerate(windows)
    ]
    facts = {
        "model": model,
        "metric": METRIC,
        "gallery": n,
        "chance": chance,
        "times": times.tolist(),
        "n_permutations": len(test.null),
        "levels": [_level_facts(level, course) for level, course in courses.items()],
        "clusters": _cluster_facts(test, times),
    }
    return scores, facts


def feature_sets(stimuli: Stimuli, ids: Sequence[str]) -> dict[str, np.ndarray] | str:
    """Return what is early and what is late in images, for `metrics.unique_variance`, or why that is not known.

    Early are the leading components of colours averaged over a grid of 4 by 4, low-level and bound to their place; late are the
    category and, where it is known, the kind of place.
    """
    attributes = stimuli.attributes
    if attributes is None or "category" not in attributes.columns:
        return "the categories of the images are not known"
    images = stimuli.images(list(ids)).astype(np.float64)
    height, width = (size // GRID * GRID for size in images.shape[1:3])
    if not height or not width:
        return f"images of {images.shape[1]} x {images.shape[2]} pixels have no grid of {GRID} by {GRID}"
    blocks = images[:, :height, :width].reshape(len(images), GRID, height // GRID, GRID, width // GRID, 3)
    early = leading_components(blocks.mean(axis=(2, 4)).reshape(len(images), -1), EARLY_COMPONENTS)
    known = attributes.reindex([str(i) for i in ids])
    columns = [known[name].astype(str) for name in ("category", "place") if name in known.columns]
    late = np.concatenate([(c.to_numpy()[:, None] == np.unique(c)[None]) for c in columns], axis=1)
    return {"early": early, "late": late.astype(np.float64)}


def score_unique_variance(
    windows: Sequence[Window],
    predicted: np.ndarray,
    sets: Mapping[str, np.ndarray],
    settings: Settings,
    *,
    model: str,
    target: str,
) -> tuple[list[Score], dict[str, Any]]:
    """Score what early and late features explain of the predictions alone, window by window.

    Parameters
    ----------
    windows : sequence of Window
    predicted : array of shape (windows, images, latents)
    sets : mapping of ``early`` and ``late`` to array of shape (images, features)
    settings : Settings
    model, target : str

    Returns
    -------
    list of Score
    dict
        JSON-like, for `report.time_courses`.
    """
    found = unique_variance(predicted, sets["early"], sets["late"])
    times = np.array([w.centre for w in windows])
    courses = {
        name: time_course(
            values,
            times,
            chance=0.0,
            before=ends_before_onset(windows),
            units=settings.units,
            over=settings.unit,
            seed=settings.seed,
            n_resamples=settings.n_bootstrap,
        )
        for name, values in (("early", found.first), ("late", found.second))
    }
    scores = [
        Score(
            subject=settings.subject,
            metric=f"unique_variance_{name}",
            value=float(course.mean[k]),
            time_start=round(window.time_start, 6),
            time_stop=round(window.time_stop, 6),
            ci_low=float(course.low[k]),
            ci_high=float(course.high[k]),
            ci_over=settings.unit,
            chance=0.0,
            n=predicted.shape[1],
            n_subjects=1,
            candidates="all",
            level="mean-prediction",
            model=model,
            target=target,
            split=settings.split,
        )
        for name, course in courses.items()
        for k, window in enumerate(windows)
    ]
    facts = {
        "model": model,
        "metric": "unique_variance",
        "gallery": predicted.shape[1],
        "chance": 0.0,
        "times": times.tolist(),
        "levels": [_level_facts(name, course) for name, course in courses.items()],
        "n_features": list(found.n_features),
    }
    return scores, facts


def _level_facts(level: str, course: TimeCourse) -> dict[str, Any]:
    after = course.centres >= 0
    facts: dict[str, Any] = {
        "level": level,
        "value": course.mean.tolist(),
        "band_low": course.band_low.tolist(),
        "band_high": course.band_high.tolist(),
    }
    if after.any():
        peak = peak_latency(course)
        facts |= {
            "peak_time": peak.value,
            "peak_interval": [peak.low, peak.high],
            "peak_value": float(course.mean[after].max()),
        }
    if course.before.any():
        highest = float(course.mean[course.before].max())
        facts["before_onset"] = {
            "windows": int(course.before.sum()),
            "highest": highest,
            "upper": course.before_upper,
        }
    return facts


def _cluster_facts(test: ClusterTest, times: np.ndarray) -> list[dict[str, Any]]:
    return [
        {
            "time_start": float(times[cluster.first]),
            "time_stop": float(times[cluster.last]),
            "mass": cluster.mass,
            "p_value": cluster.p_value,
        }
        for cluster in test.clusters
    ]


def generalisation_facts(sliding: Sliding) -> dict[str, Any]:
    """Return the matrix of scores, maps of one window on the samples of another, for the report."""
    values = (sliding.ranks == 0).mean(axis=2)
    return {
        "metric": METRIC,
        "chance": chance_top_k(sliding.similarity.shape[2]),
        "times": [sliding.windows[k].centre for k in sliding.generalisation],
        "values": values.round(6).tolist(),
    }


def picture_seconds(study: Study) -> float | None:
    """Return how long a picture was shown, the median over trials; None where the dataset does not say."""
    if "duration" not in study.trials.columns:
        return None
    known = study.trials["duration"].astype(float).dropna()
    return float(known.median()) if len(known) else None
