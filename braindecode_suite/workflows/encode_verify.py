"""The figures of saved image encoders, made again from their files and the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from braindecode_suite.core.features import FeatureSource
from braindecode_suite.encoders import IMAGE_ENCODERS
from braindecode_suite.metrics.encoding_resampling import R_MEAN
from braindecode_suite.workflows.encode_fitting import EncodingData, features_of, flat, measured
from braindecode_suite.workflows.encode_scoring import ALL_UNITS, EncodingScores, Predictions, Settings
from braindecode_suite.workflows.fitting import Prepared

NO_ROWS = np.empty(0, np.int64)


def encoding_figures_again(
    model_dir: Path,
    config: Mapping[str, Any],
    prepared: Prepared,
    sources: Sequence[FeatureSource],
    device: str,
) -> list[dict[str, Any]]:
    """Return the mean r over units of every model and seed of a folder on test images.

    Parameters
    ----------
    model_dir : Path
    config : mapping
        The folder's ``config.json``.
    prepared : Prepared
        The study the models were fitted on.
    sources : sequence of FeatureSource
        What they were offered.
    device : str
    """
    data = EncodingData(prepared=prepared, stopping=NO_ROWS, choosing=NO_ROWS)
    truth, repeats = measured(data, "test")
    rows = features_of(data, sources, "test")
    models = []
    for entry in config["models"].values():
        encoder = IMAGE_ENCODERS[entry["model"]].load(
            model_dir, prepared.cohort("test"), device, seed=entry["seed"], features=sources
        )
        predicted = flat(encoder.predict({name: rows[name] for name in entry["facts"]["targets"]}))
        seed = str(entry["seed"]) if encoder.history_ else ""
        models.append(
            Predictions(model=entry["model"], target="", seeds=(seed,), test=(predicted,), choosing=())
        )
    noise = prepared.study.noise
    known = noise is not None and len(noise.ncsnr) == truth.shape[1]
    scores = EncodingScores(
        truth,
        repeats,
        noise.ceiling(repeats) if noise is not None and known else None,
        {ALL_UNITS: np.ones(truth.shape[1], bool)},
        models,
        Settings(subject=prepared.study.subject, split=prepared.split.protocol),
    )
    return [
        {
            "model": model.model,
            "seed": model.seeds[0],
            "metric": "encoding_r",
            "scorer": "mean over units",
            "gallery": None,
            "value": float(scores.observed(model)[R_MEAN][0, 0]),
        }
        for model in models
    ]
