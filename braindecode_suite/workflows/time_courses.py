"""What could be decoded when: sliding windows, graded scores with peaks, and one network on growing windows, scored and told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from braindecode_suite.core.latents import Target
from braindecode_suite.core.recipe import Recipe
from braindecode_suite.core.score import Score
from braindecode_suite.metrics.unique_variance import LEAST_IMAGES_PER_FEATURE
from braindecode_suite.workflows.configuration import merge
from braindecode_suite.workflows.decoding import Decoded, Decoding
from braindecode_suite.workflows.fitting import Fitted, Prepared
from braindecode_suite.workflows.image_features import ImageFeatures, image_features
from braindecode_suite.workflows.meg_config import MegWorkflowConfig
from braindecode_suite.workflows.sensor_recipe import sensor_by_sensor, unit_after
from braindecode_suite.workflows.steps import Steps
from braindecode_suite.workflows.time_resolved import (
    Sliding,
    decode_growing,
    decode_sliding,
    map_epochs,
    mean_response,
)
from braindecode_suite.workflows.time_scoring import (
    generalisation_facts,
    picture_seconds,
    score_course,
    score_features,
    score_identification,
    score_unique_variance,
)

NOT_CAUSAL = (
    "The recordings were filtered in both directions in time: what comes after a sample reaches into it, over about one period of the "
    "cut-off. The option phase=causal of the dataset filters forwards only."
)
WINDOW_MODEL = "ridge"
"""What sliding windows are decoded by, whatever stands as the baseline of whole epochs."""


def decode_over_time(
    steps: Steps, decoding: Decoding, config: MegWorkflowConfig, decoded: Decoded
) -> dict[str, Any]:
    """Add a score for every window; return what the report draws."""
    prepared = decoded.prepared
    epochs = map_epochs(steps, prepared)
    recipe = sensor_by_sensor(prepared.study.recipe or Recipe())
    evoked = mean_response(replace(prepared.study, recipe=recipe), prepared.split.train[0])
    decoded.results.evoked = {"mean of training trials": evoked}
    decoded.results.facts["sensors"] = {"unit": unit_after(recipe, prepared.study.unit)}
    words: dict[str, Any] = {"picture_seconds": picture_seconds(prepared.study)}
    signal = prepared.study.signal
    if signal is not None and not signal.causal:
        words["note"] = NOT_CAUSAL
    features = _features(steps, decoded)
    sliding = decode_sliding(
        steps,
        prepared,
        epochs,
        decoded.true["train"],
        decoded.true["test"],
        config.time,
        {name: made.train for name, made in features.sets.items()},
    )
    by_centre = {
        **words,
        "windows_are": f"windows of {1000 * config.time.width:g} ms, each with a map of its own",
        "axis": "centre of the window, seconds from the picture",
    }
    facts = {"sliding": {**_score_sliding(steps, decoded, sliding), **by_centre}}
    for kind, course in _score_graded(steps, decoded, sliding, features).items():
        facts[kind] = {**course, **by_centre}
    if len(sliding.generalisation) > 1:
        facts["generalisation"] = generalisation_facts(sliding, decoded.settings)
    if config.time.growing_every:
        facts["growing"] = {
            **_score_growing(steps, decoding, config, decoded),
            **words,
            "windows_are": "growing windows, one network for all of them",
            "axis": "end of the window, seconds from the picture",
        }
    return facts


def _score_sliding(steps: Steps, decoded: Decoded, sliding: Sliding) -> dict[str, Any]:
    """Add the scores of sliding windows, of averaged predictions and of single trials."""
    gallery, test = decoded.true["test"], decoded.prepared.split.test[0]
    column = {stimulus_id: k for k, stimulus_id in enumerate(gallery.ids)}
    with steps.block("score sliding windows"):
        rows, found = score_course(
            sliding.windows,
            sliding.similarity,
            decoded.settings,
            model=WINDOW_MODEL,
            target=gallery.target,
            n_repeats=_repeats(decoded),
            single=sliding.single,
            shown=np.array([column[i] for i in decoded.study.stimulus_ids[test]]),
        )
    decoded.results.scores += rows
    return found


def _features(steps: Steps, decoded: Decoded) -> ImageFeatures:
    """Return what windows are asked for beside the target; a skipped step for what is not known."""
    with steps.block("early and late features of images"):
        stimuli = decoded.prepared.cohort("test").stimuli
        ids = (list(decoded.true[part].ids) for part in ("train", "test"))
        features = image_features(stimuli, *ids)
    for name, reason in features.missing.items():
        steps.skip(f"{name} features of images over time", reason)
    return features


def _score_graded(
    steps: Steps, decoded: Decoded, sliding: Sliding, features: ImageFeatures
) -> dict[str, dict[str, Any]]:
    """Add graded scores of windows, for the target and for early and late features, with their peaks."""
    prepared, target = decoded.prepared, decoded.true["test"].target
    stop = picture_seconds(prepared.study)
    simulated = prepared.study.provenance.get("simulated_peaks", {})
    with steps.block("peaks of sliding windows"):
        rows, found = score_identification(
            sliding.windows,
            sliding.similarity,
            decoded.settings,
            model=WINDOW_MODEL,
            target=target,
            n_repeats=_repeats(decoded),
            stop=stop,
            simulated=simulated,
        )
        decoded.results.scores += rows
        facts = {"identification": found}
        if features.sets:
            rows, facts["features"] = score_features(
                sliding.windows,
                sliding.features,
                {name: made.test for name, made in features.sets.items()},
                decoded.settings,
                model=WINDOW_MODEL,
                n_repeats=_repeats(decoded),
                stop=stop,
                simulated=simulated,
            )
            decoded.results.scores += rows
            decoded.results.scores += _unique_variance(steps, decoded, sliding, features)
    return facts


def _unique_variance(
    steps: Steps, decoded: Decoded, sliding: Sliding, features: ImageFeatures
) -> list[Score]:
    """Return rows of unique variance; none, and a skipped step, where it cannot be told."""
    name, n = "unique variance of decoded features", len(decoded.true["test"])
    true = {kind: made.test for kind, made in features.sets.items()}
    n_features = sum(values.shape[1] for values in true.values())
    if len(true) < 2 or LEAST_IMAGES_PER_FEATURE * n_features > n:
        reason = "it takes two sets" if len(true) < 2 else f"{n} test images for {n_features} features"
        steps.skip(name, reason)
        return []
    return score_unique_variance(
        sliding.windows,
        sliding.features,
        true,
        decoded.settings,
        model=WINDOW_MODEL,
        n_repeats=_repeats(decoded),
    )


def _repeats(decoded: Decoded) -> float:
    """Return how many trials are averaged for a test image, on average."""
    return len(decoded.prepared.split.test[0]) / len(decoded.true["test"])


def _score_growing(
    steps: Steps, decoding: Decoding, config: MegWorkflowConfig, decoded: Decoded
) -> dict[str, Any]:
    """Fit one network to windows of random length and add its scores at each of them."""
    prepared, gallery = decoded.prepared, decoded.true["test"]
    fitted = fit_growing(steps, decoding, config, prepared, decoded.targets)
    growing = decode_growing(
        steps, prepared, fitted, decoded.true["train"], gallery, config.time, decoding.job.device
    )
    with steps.block("score growing windows"):
        rows, found = score_course(
            growing.windows,
            growing.similarity,
            decoded.settings,
            model=f"{fitted.name}, growing",
            target=gallery.target,
            seed=fitted.seed,
            named="end",
            n_repeats=_repeats(decoded),
        )
    decoded.results.scores += rows
    return found


def fit_growing(
    steps: Steps,
    decoding: Decoding,
    config: MegWorkflowConfig,
    prepared: Prepared,
    targets: Mapping[str, Target],
    where: str = "",
) -> Fitted:
    """Fit the encoder's first seed on windows of random length, for retrieval only."""
    settings = merge({"window": "growing"}, config.growing_settings)
    return decoding.fit_deep(
        steps,
        prepared,
        {"retrieval": targets["retrieval"]},
        decoding.seeds[0],
        where=f" on windows of random length{where}",
        changes=settings,
    )
