"""One fitted image encoder: fit or read back, its predictions for images it did not see, where it looks.

Validation images are halved: the first part is what models are given to stop and to tune by, the second chooses among models
and weighs them. Neither choice is then flattered by what stopped a training.
"""

from __future__ import annotations

import shutil
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from braindecode_suite.core.checks import check_option
from braindecode_suite.core.config import Config, build
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.features import FeatureSource, Rows
from braindecode_suite.core.files import data_hash
from braindecode_suite.core.protocols import FitContext
from braindecode_suite.core.study import Cohort, Study
from braindecode_suite.encoders import IMAGE_ENCODERS
from braindecode_suite.learning.responses import ImageRows, UnitScaler, flatten_times, image_means
from braindecode_suite.learning.ridge_warnings import RidgeWarning
from braindecode_suite.workflows.configuration import merge
from braindecode_suite.workflows.controls import shuffled_pairs
from braindecode_suite.workflows.fitting import Prepared, count_parameters
from braindecode_suite.workflows.steps import Arrays, Steps

PARTS = ("choosing", "test")
FEWEST_CHOOSING = 2


@dataclass(frozen=True, kw_only=True, eq=False)
class EncodingData:
    """One subject's prepared study with its validation images in two parts.

    Attributes
    ----------
    prepared : Prepared
    stopping : int array
        Validation rows that models are given.
    choosing : int array
        Validation rows that choose among models and weigh them.
    """

    prepared: Prepared
    stopping: np.ndarray
    choosing: np.ndarray

    def rows(self, part: str) -> np.ndarray:
        """Return the rows of ``choosing`` or ``test`` images."""
        return self.choosing if part == "choosing" else self.prepared.split.test[0]

    def ids(self, part: str) -> np.ndarray:
        """Return the ids of ``choosing`` or ``test`` images, each once, sorted."""
        return np.unique(self.prepared.study.stimulus_ids[self.rows(part)].astype(str)).astype(object)


def halve_validation(prepared: Prepared, share: float, seed: int) -> EncodingData:
    """Set a random share of the validation images aside, to choose among models by.

    Parameters
    ----------
    prepared : Prepared
    share : float
    seed : int

    Raises
    ------
    InputError
        If fewer than `FEWEST_CHOOSING` images would be left on either side.
    """
    rows = prepared.split.validation[0]
    ids = prepared.stimulus_ids["validation"]
    n = round(share * len(ids))
    if min(n, len(ids) - n) < FEWEST_CHOOSING:
        raise InputError(
            "validation images",
            expected=f"at least {FEWEST_CHOOSING} that stop models and as many that choose among them",
            found=f"{len(ids)} in all",
        )
    chosen = np.random.default_rng([seed, 3]).permutation(ids)[:n]
    aside = np.isin(prepared.study.stimulus_ids[rows].astype(str), chosen.astype(str))
    return EncodingData(prepared=prepared, stopping=rows[~aside], choosing=rows[aside])


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
        Of ``choosing`` and ``test`` images, in the order of `EncodingData.ids`.
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
    data: EncodingData,
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
    data : EncodingData
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
    split = data.prepared.split
    key = {
        **data.prepared.identity,
        "choosing": data_hash(data.choosing),
        "features": [source.name for source in sources],
        "encoder": name,
        "config": config.model_dump(mode="json"),
        "seed": context.seed,
        "shuffled": shuffled,
    }
    folder = steps.path(label, key)
    model_dir = folder / "model"

    def compute() -> tuple[Arrays, dict[str, Any]]:
        study = data.prepared.study
        if shuffled:
            study = shuffled_pairs(study, [split.train[0], data.stopping], context.seed)
        encoder = IMAGE_ENCODERS[name](
            config, replace(context, work_dir=folder / "training", split_hash=split.hash)
        )
        clock = time.perf_counter()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", RidgeWarning)
            encoder.fit(split.cohort("train", [study]), Cohort.of(study, data.stopping), sources)
        for warning in caught:
            if not issubclass(warning.category, RidgeWarning):
                warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
        seconds = time.perf_counter() - clock
        rows = {part: features_of(data, sources, part) for part in PARTS}
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
                {f"{name}: {w.message}" for w in caught if issubclass(w.category, RidgeWarning)}
            ),
            "departures": list(config.departures()) if hasattr(config, "departures") else [],
            "history": list(encoder.history_),
            "queries": queries,
        }
        shutil.rmtree(folder / "training", ignore_errors=True)
        return arrays, facts

    arrays, facts = steps.arrays(label, key, compute)
    attention = {
        source.name: arrays[f"attention_{k}"]
        for k, source in enumerate(sources)
        if f"attention_{k}" in arrays
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


def features_of(data: EncodingData, sources: Sequence[FeatureSource], part: str) -> dict[str, Rows]:
    """Return the features of the images of one part, by the name of their source."""
    stimuli, ids = Cohort.of(data.prepared.study).stimuli, list(data.ids(part))
    return {source.name: source.rows(stimuli, ids) for source in sources}


def mean_tokens(source: FeatureSource, study: Study) -> Callable[[Sequence[str]], np.ndarray]:
    """Return a function from image ids to the mean of their tokens, float32 of shape (images, width): what clusters are of."""
    stimuli = study.stimuli
    assert stimuli is not None

    def vectors_of(ids: Sequence[str]) -> np.ndarray:
        return np.asarray(source.rows(stimuli, list(ids))[:], np.float32).mean(axis=1)

    return vectors_of


def flat(responses: np.ndarray) -> np.ndarray:
    """Return responses as (images, units), the times of a channel side by side."""
    return np.asarray(responses, np.float32).reshape(len(responses), -1)


def measured(data: EncodingData, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the responses to the images of one part, averaged over their repeats, and the numbers of repeats.

    Returns
    -------
    responses : array of float32 of shape (images, units)
        In the order of `EncodingData.ids`; NaN in units that miss a response.
    repeats : array of int of shape (images,)
    """
    study, _ = flatten_times(data.prepared.study)
    images = ImageRows.of(study, data.rows(part))
    place = {stimulus_id: k for k, stimulus_id in enumerate(images.ids)}
    order = [place[stimulus_id] for stimulus_id in data.ids(part)]
    ordered = ImageRows(images.ids[order], [images.rows[k] for k in order])
    n_units = int(study.responses.shape[1])
    as_it_is = UnitScaler(np.zeros(n_units, np.float32), np.ones(n_units, np.float32))
    return image_means(study, ordered, as_it_is), np.array([len(group) for group in ordered.rows])
