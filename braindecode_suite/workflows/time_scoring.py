"""Windows to scores: a row of the table for each, and what the report draws of their course."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from braindecode_suite.core.score import Score
from braindecode_suite.core.study import Study
from braindecode_suite.core.windows import EDGE, Window
from braindecode_suite.metrics.peaks import find_peak
from braindecode_suite.metrics.retrieval import chance_top_k, cosine
from braindecode_suite.metrics.temporal_generalisation import generalise, off_diagonal
from braindecode_suite.metrics.time_clusters import ClusterTest, cluster_test, score_windows
from braindecode_suite.metrics.time_courses import (
    TimeCourse,
    ends_before_onset,
    onset_latency,
    peak_latency,
    time_course,
)
from braindecode_suite.metrics.unique_variance import unique_variance
from braindecode_suite.workflows.scoring import HEADLINE_SCORER, Settings
from braindecode_suite.workflows.time_resolved import Sliding

METRIC = "retrieval_brain_to_image_top1"
CORRECTION = "largest cluster over windows, whole {unit}s permuted"
IDENTIFICATION = "retrieval_identification"
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
    values = {"mean-prediction": score_windows(similarity)}
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
    n_permutations = max(1000, settings.n_permutations)
    test = cluster_test(similarity, units=settings.units, seed=settings.seed, n_permutations=n_permutations)
    corrected = CORRECTION.format(unit="image" if settings.units is None else settings.unit)
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
            p_correction=corrected if level == "mean-prediction" and np.isfinite(p_values[k]) else "",
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


def score_features(
    windows: Sequence[Window],
    decoded: Mapping[str, np.ndarray],
    true: Mapping[str, np.ndarray],
    settings: Settings,
    *,
    model: str,
    n_repeats: float | None = None,
    stop: float | None = None,
    simulated: Mapping[str, Sequence[float]] | None = None,
) -> tuple[list[Score], dict[str, Any]]:
    """Score the features that windows predict: the share of the other test images whose features are less like the predicted ones.

    Parameters
    ----------
    windows : sequence of Window
    decoded : mapping of name to array of shape (windows, images, features)
        Less the mean prediction of training images (`time_resolved.Sliding.features`).
    true : mapping of name to array of shape (images, features)
        Of mean 0 over training images, each set without what the others say (`image_features`).
    settings : Settings
    model : str
    n_repeats : float, optional
        Trials averaged for an image, on average.
    stop : float, optional
        Seconds that the picture was shown.
    simulated : mapping of name to (seconds, seconds), optional
        When the responses that carry a set peak in a simulated study, after the picture's onset and after it went off.
        A peak is right where its interval holds that.

    Returns
    -------
    list of Score
    dict
        JSON-like, for `report.time_courses`.
    """
    n = len(next(iter(true.values())))
    courses = {
        name: _course(windows, _identified(cosine(one, true[name]) for one in values), 0.5, settings)
        for name, values in decoded.items()
    }
    scores = [
        row
        for name, course in courses.items()
        for row in _rows(
            windows,
            course,
            settings,
            f"feature_identification_{name}",
            model=model,
            n_repeats=n_repeats,
            gallery=n,
        )
    ]
    facts = {
        "model": model,
        "metric": "feature_identification",
        "gallery": n,
        "chance": 0.5,
        "times": [w.centre for w in windows],
        "levels": [
            {**_level_facts(name, course), "peaks": _peak_facts(course, stop, _named(simulated, name))}
            for name, course in courses.items()
        ],
    }
    return scores, facts


def score_unique_variance(
    windows: Sequence[Window],
    decoded: Mapping[str, np.ndarray],
    true: Mapping[str, np.ndarray],
    settings: Settings,
    *,
    model: str,
    n_repeats: float | None = None,
) -> list[Score]:
    """Score the share of each decoded set's variance that the true set explains and the other does not.

    Of what is decoded, where `score_features` says how well it is: a regression over test images, adjusted for the number of features.

    Parameters
    ----------
    windows, decoded, true, settings, model, n_repeats
        As for `score_features`, of ``early`` and ``late``.
    """
    rows: list[Score] = []
    for name, values in decoded.items():
        found = unique_variance(values, true["early"], true["late"])
        share = found.first if name == "early" else found.second
        rows += _rows(
            windows,
            _course(windows, share, 0.0, settings),
            settings,
            f"unique_variance_{name}",
            model=model,
            n_repeats=n_repeats,
        )
    return [replace(row, chance=None) for row in rows]  # 0 on average, of no test


def score_identification(
    windows: Sequence[Window],
    similarity: np.ndarray,
    settings: Settings,
    *,
    model: str,
    target: str,
    n_repeats: float | None = None,
    stop: float | None = None,
    simulated: Mapping[str, Sequence[float]] | None = None,
) -> tuple[list[Score], dict[str, Any]]:
    """Score windows by the share of the gallery below the truth: graded, where top-1 is a hit or none, and so dates a peak better.

    Parameters
    ----------
    windows, similarity, settings, model, target, n_repeats
        As for `score_course`.
    stop
        As for `score_features`.
    simulated : mapping of name to (seconds, seconds), optional
        As there. Images differ in what all sets carry: a peak is right where its interval reaches between the first and the last of them.
    """
    n = similarity.shape[2]
    course = _course(windows, _identified(similarity), 0.5, settings)
    rows = _rows(windows, course, settings, IDENTIFICATION, model=model, n_repeats=n_repeats, gallery=n)
    facts = {
        "model": model,
        "metric": IDENTIFICATION,
        "gallery": n,
        "chance": 0.5,
        "times": course.centres.tolist(),
        "levels": [
            {
                **_level_facts("mean-prediction", course),
                "peaks": _peak_facts(course, stop, list((simulated or {}).values())),
            }
        ],
    }
    return [replace(row, target=target, scorer=HEADLINE_SCORER) for row in rows], facts


def _identified(similarity: Iterable[np.ndarray]) -> np.ndarray:
    """Return each image's share of the others that lose against the truth, of shape (windows, images)."""
    return score_windows(similarity, score="relative-rank")


def _course(windows: Sequence[Window], values: np.ndarray, chance: float, settings: Settings) -> TimeCourse:
    return time_course(
        values,
        np.array([w.centre for w in windows]),
        chance=chance,
        before=ends_before_onset(windows),
        units=settings.units,
        over=settings.unit,
        seed=settings.seed,
        n_resamples=settings.n_bootstrap,
    )


def _rows(
    windows: Sequence[Window],
    course: TimeCourse,
    settings: Settings,
    metric: str,
    *,
    model: str,
    n_repeats: float | None,
    gallery: int | None = None,
) -> list[Score]:
    return [
        Score(
            subject=settings.subject,
            metric=metric,
            value=float(course.mean[k]),
            time_start=round(window.time_start, 6),
            time_stop=round(window.time_stop, 6),
            ci_low=float(course.low[k]),
            ci_high=float(course.high[k]),
            ci_over=settings.unit,
            chance=course.chance,
            n=course.n_rows,
            n_repeats=n_repeats,
            n_subjects=1,
            gallery=gallery,
            candidates="all",
            level="mean-prediction",
            model=model,
            split=settings.split,
        )
        for k, window in enumerate(windows)
    ]


def _peak_facts(
    course: TimeCourse, stop: float | None, simulated: Sequence[Sequence[float]]
) -> list[dict[str, Any]]:
    """Return the peak while the picture is on and the one after it, or one where it is not known how long it was on."""
    parts = [("after onset", 0.0, np.inf)]
    if stop is not None:
        parts = [("after onset", 0.0, stop), ("after offset", stop + 2 * EDGE, np.inf)]
    found = []
    for k, (name, start, until) in enumerate(parts):
        peak = find_peak(course, start=start, stop=until)
        if peak is None:
            continue
        line: dict[str, Any] = {
            "name": name,
            "time": peak.latency.value,
            "interval": [peak.latency.low, peak.latency.high],
            "value": peak.value,
            "doubt": peak.doubt,
        }
        if simulated:
            times = [float(one[k]) + (stop or 0.0) * k for one in simulated]
            first, last = min(times), max(times)
            line |= {
                "simulated": [first, last],
                "inside": bool(peak.latency.low - EDGE <= last and first <= peak.latency.high + EDGE),
            }
        found.append(line)
    return found


def _named(simulated: Mapping[str, Sequence[float]] | None, name: str) -> list[Sequence[float]]:
    return [simulated[name]] if simulated and name in simulated else []


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
        onset, best = onset_latency(course), int(np.where(after, course.mean, -np.inf).argmax())
        if course.band_low[best] > course.chance and np.isfinite(onset.value):
            latest = onset.high if np.isfinite(onset.high) else None  # some draws have no onset
            facts |= {"onset_time": onset.value, "onset_interval": [onset.low, latest]}
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


def generalisation_facts(sliding: Sliding, settings: Settings) -> dict[str, Any]:
    """Return the matrix of scores, maps of one window on the samples of another, and what is kept off its diagonal, for the report."""
    windows = [sliding.windows[k] for k in sliding.generalisation]
    centres = np.array([window.centre for window in windows])
    drawn: dict[str, Any] = {
        "units": settings.units,
        "seed": settings.seed,
        "n_resamples": settings.n_bootstrap,
    }
    found = generalise(sliding.ranks, centres, sliding.similarity.shape[2], **drawn)
    facts: dict[str, Any] = {
        "metric": METRIC,
        "chance": found.chance,
        "times": centres.tolist(),
        "values": found.mean.round(6).tolist(),
    }
    width, after = windows[0].time_stop - windows[0].time_start, centres[centres >= -EDGE]
    if len(after) > 1 and after[-1] - after[0] >= width - EDGE:
        kept = off_diagonal(found, apart=width, over=settings.unit, **drawn)
        if np.isfinite(kept.value):
            facts["off_diagonal"] = {"value": kept.value, "low": kept.low, "high": kept.high}
    return facts


def picture_seconds(study: Study) -> float | None:
    """Return how long a picture was shown, the median over trials; None where the dataset does not say."""
    if "duration" not in study.trials.columns:
        return None
    known = study.trials["duration"].astype(float).dropna()
    return float(known.median()) if len(known) else None
