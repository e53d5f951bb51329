"""One fitted image encoder: fit or read back, its predictions for validation and test images, where it looks."""

from __future__ import annotations

import shutil
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from braindecode_suite.core.checks import check_option
from braindecode_suite.core.config import Config, build
from braindecode_suite.core.features import FeatureSource, Rows
from braindecode_suite.core.protocols import FitContext
from braindecode_suite.core.study import Study
from braindecode_suite.encoders import IMAGE_ENCODERS
from braindecode_suite.learning.responses import ImageRows, UnitScaler, flatten_times, image_means
from braindecode_suite.learning.ridge import GridEdgeWarning
from braindecode_suite.workflows.configuration import merge
from braindecode_suite.workflows.controls import shuffled_pairs
from braindecode_suite.workflows.fitting import Prepared, count_parameters
from braindecode_suite.workflows.steps import Arrays, Steps

PARTS = ("validation", "test")


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedImageEncoder:
    """A fitted image encoder and what it predicts.

    Attributes
    ----------
    name, seed : str
        `seed` is empty for a closed form.
    control : str
        ``brain`` or ``shuffled-train``.
    features : tuple of str
        Names of the sources that it was offered.
    predicted : dict of part to array of shape (images, units)
        Of validation and test images, in the order of `Prepared.stimulus_ids`.
    attention : dict of source name to array of shape (test images, queries, tokens)
        Empty where a model has none.
    queries : tuple of str
    folder : Path
        Where the model is saved.
    facts : dict
        n_parameters, seconds, warnings, departures, history.
    """

    name: str
    seed: str
    control: str
    features: tuple[str, ...]
    predicted: dict[str, np.ndarray]
    attention: dict[str, np.ndarray]
    queries: tuple[str, ...]
    folder: Path
    facts: dict[str, Any] = field(default_factory=dict)


def image_encoder_config(name: str, preset: str, settings: Mapping[str, Any]) -> Config:
    """Return an image encoder's config: a preset (its first by default), changed by settings; mistakes name the key."""
    encoder = IMAGE_ENCODERS[name]
    if preset:
        check_option(f"presets (of {name})", preset, encoder.PRESETS)
    start = encoder.preset(preset or encoder.PRESETS[0]).model_dump(mode="json")
    built: Config = build(
        encoder.config_class, merge(start, dict(settings)), f"settings of image encoder {name!r}"
    )
    return built


def fit_image_encoder(
    steps: Steps,
    prepared: Prepared,
    sources: Sequence[FeatureSource],
    *,
    name: str,
    config: Config,
    context: FitContext,
    label: str,
    shuffled: bool = False,
) -> FittedImageEncoder:
    """Fit one image encoder, or read back what an earlier run of the same step left.

    Parameters
    ----------
    steps : Steps
    prepared : Prepared
    sources : sequence of FeatureSource
    name : str
        Catalogue name of the image encoder.
    config : Config
    context : FitContext
        Its `work_dir` is replaced by the step's own folder, where an interrupted training goes on.
    label : str
        Name of the step.
    shuffled : bool
        Fit on shuffled pairs.
    """
    split = prepared.split
    key = {
        **prepared.identity,
        "features": [source.name for source in sources],
        "encoder": name,
        "config": config.model_dump(mode="json"),
        "seed": context.seed,
        "shuffled": shuffled,
    }
    folder = steps.path(label, key)
    model_dir = folder / "model"

    def compute() -> tuple[Arrays, dict[str, Any]]:
        study = prepared.study
        if shuffled:
            study = shuffled_pairs(study, [split.train[0], split.validation[0]], context.seed)
        encoder = IMAGE_ENCODERS[name](
            config, replace(context, work_dir=folder / "training", split_hash=split.hash)
        )
        clock = time.perf_counter()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", GridEdgeWarning)
            encoder.fit(split.cohort("train", [study]), split.cohort("validation", [study]), sources)
        for warning in caught:
            if not issubclass(warning.category, GridEdgeWarning):
                warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
        seconds = time.perf_counter() - clock
        rows = {part: features_of(prepared, sources, part) for part in PARTS}
        arrays: Arrays = {part: flat(encoder.predict(rows[part])) for part in PARTS}
        queries: list[str] = []
        if hasattr(encoder, "attention"):
            queries = list(encoder.query_names())
            for k, source in enumerate(sources):
                arrays[f"attention_{k}"] = encoder.attention(rows["test"], source=source.name)
        shutil.rmtree(model_dir, ignore_errors=True)
        encoder.save(model_dir)
        facts = {
            "n_parameters": count_parameters(encoder, model_dir),
            "seconds": round(seconds, 2),
            "warnings": sorted(
                {f"{name}: {w.message}" for w in caught if issubclass(w.category, GridEdgeWarning)}
            ),
            "departures": list(config.departures()) if hasattr(config, "departures") else [],
            "history": list(encoder.history_),
            "queries": queries,
        }
        shutil.rmtree(folder / "training", ignore_errors=True)
        return arrays, facts

    arrays, facts = steps.arrays(label, key, compute)
    attention = {
        source.name: arrays[f"attention_{k}"] for k, source in enumerate(sources) if f"attention_{k}" in arrays
    }
    return FittedImageEncoder(
        name=name,
        seed=str(context.seed) if facts["history"] else "",
        control="shuffled-train" if shuffled else "brain",
        features=tuple(source.name for source in sources),
        predicted={part: arrays[part] for part in PARTS},
        attention=attention,
        queries=tuple(facts["queries"]),
        folder=model_dir,
        facts=facts,
    )


def features_of(prepared: Prepared, sources: Sequence[FeatureSource], part: str) -> dict[str, Rows]:
    """Return the features of the images of one part, by the name of their source."""
    stimuli = prepared.cohort(part).stimuli
    ids = list(prepared.stimulus_ids[part])
    return {source.name: source.rows(stimuli, ids) for source in sources}


def flat(responses: np.ndarray) -> np.ndarray:
    """Return responses as (images, units), the times of a channel side by side."""
    return np.asarray(responses, np.float32).reshape(len(responses), -1)


def measured(prepared: Prepared, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the responses to the images of one part, averaged over their repeats, and the numbers of repeats.

    Returns
    -------
    responses : array of float32 of shape (images, units)
        In the order of `Prepared.stimulus_ids`; NaN in units that miss a response.
    repeats : array of int of shape (images,)
    """
    study, _ = flatten_times(prepared.study)
    images = ImageRows.of(study, prepared.cohort(part).rows[0])
    place = {stimulus_id: k for k, stimulus_id in enumerate(images.ids)}
    order = [place[stimulus_id] for stimulus_id in prepared.stimulus_ids[part]]
    ordered = ImageRows(images.ids[order], [images.rows[k] for k in order])
    return image_means(study, ordered, _as_it_is(study)), np.array([len(group) for group in ordered.rows])


def _as_it_is(study: Study) -> UnitScaler:
    n_units = int(study.responses.shape[1])
    return UnitScaler(np.zeros(n_units, np.float32), np.ones(n_units, np.float32))
