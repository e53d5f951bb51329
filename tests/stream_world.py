"""A small MEG study in BIDS, and a model of growing windows fitted to it and saved with what live decoding needs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from braindecode_suite.core.epoch_steps import Baseline, Clip, RobustScale
from braindecode_suite.core.latents import Latents
from braindecode_suite.core.protocols import FitContext
from braindecode_suite.core.recipe import Recipe
from braindecode_suite.core.sensors import SensorSpace
from braindecode_suite.core.study import Cohort, Study
from braindecode_suite.datasets.bids_meg import BIDS_MEG
from braindecode_suite.encoders.meg_module import MegModule
from braindecode_suite.learning.synthetic import NumberedStimuli, TableTarget, make_latents
from braindecode_suite.workflows.stream_bundle import StreamBundle, read_stream_bundle, save_stream_bundle
from tests.meg_files import SENSORS, SFREQ, make_raw, write_run

N_IMAGES, N_REPEATS, EVERY = 30, 4, 0.6
OPTIONS = {
    "phase": "causal",
    "highpass": 0.5,
    "lowpass": 40.0,
    "sfreq": 120.0,
    "tmin": -0.1,
    "tmax": 0.4,
}


@dataclass(frozen=True)
class World:
    """The folder of the study, that of the model, and what is in them."""

    data_dir: Path
    model_dir: Path
    recording: Path
    study: Study
    rows: np.ndarray
    encoder: Any
    bundle: StreamBundle

    def load(self) -> tuple[StreamBundle, Any]:
        """Read the model as a live run does."""
        return read_stream_bundle(self.model_dir)


def make_world(folder: Path) -> World:
    """Write two sessions of pictures whose responses are linear in latents; fit to the first, calibrate on half of the second."""
    rng = np.random.default_rng(0)
    latents = make_latents(N_IMAGES, 1, 6)
    for session in (1, 2):
        order = np.concatenate([rng.permutation(N_IMAGES) for _ in range(N_REPEATS)])
        onsets = 0.75 + EVERY * np.arange(len(order))
        onsets = np.round((onsets + rng.uniform(0, 0.05, len(order))) * SFREQ) / SFREQ
        events = pd.DataFrame({"onset": onsets, "duration": 0.1, "stimulus_id": [f"{k}" for k in order]})
        path = write_run(
            folder / "study", make_raw(_record(latents[order, 0], onsets)), events, session=f"{session:02d}"
        )
    study = BIDS_MEG.open(folder / "study", "01", folder / "work", **OPTIONS)
    session = study.trials["session"].to_numpy()
    train = np.flatnonzero(session == "01")
    rows = np.flatnonzero(session == "02")
    assert isinstance(study.space, SensorSpace)
    times = study.space.times
    recipe = Recipe((RobustScale(), Baseline(times, None, 0.0), Clip(20.0)))
    fitted_on = np.concatenate([train, rows[: N_IMAGES // 2]])
    study = replace(study, stimuli=NumberedStimuli(N_IMAGES)).prepared(recipe, fitted_on)
    target = TableTarget("toy", latents)
    config = MegModule.preset("tiny")
    config = config.model_copy(
        update={
            "window": "growing",
            "channels": 12,
            "n_frequencies": 4,
            "hidden": 16,
            "features": 32,
            "dropout": 0.0,
            "training": config.training.model_copy(update={"epochs": 20, "batch_size": 32, "patience": 0}),
        }
    )
    encoder = MegModule(config, FitContext(work_dir=folder / "fit"))
    calibration = Cohort.of(study, rows[: 2 * N_IMAGES])
    encoder.fit(Cohort.of(study, train), calibration, {"retrieval": target})
    model_dir = folder / "model"
    encoder.save(model_dir)
    ids = [str(k) for k in range(N_IMAGES)]
    gallery = Latents(latents, np.array(ids, dtype=object), target.name, "true")
    pictures = np.broadcast_to(
        np.arange(N_IMAGES, dtype=np.uint8)[:, None, None, None] * 8, (N_IMAGES, 8, 8, 3)
    )
    save_stream_bundle(
        model_dir,
        encoder,
        calibration,
        gallery,
        target,
        model="meg-module",
        reference=Cohort.of(study, train),
        pictures=np.ascontiguousarray(pictures),
        chose_model=True,
        dataset_options=OPTIONS,
    )
    bundle, loaded = read_stream_bundle(model_dir)
    return World(folder / "study", model_dir, path, study, rows, loaded, bundle)


def _record(strengths: np.ndarray, onsets: np.ndarray) -> np.ndarray:
    """Return sensors of shape (sensors, samples) that respond to each onset for a third of a second, in femtotesla."""
    rng = np.random.default_rng(1)
    n = int(SFREQ * (onsets.max() + 1.5))
    data = np.cumsum(0.02 * rng.standard_normal((len(SENSORS), n)), axis=1) + rng.standard_normal(
        (len(SENSORS), n)
    )
    patterns = np.random.default_rng(2).standard_normal((len(SENSORS), strengths.shape[1]))
    lags = np.arange(int(0.35 * SFREQ)) / SFREQ
    courses = np.exp(-np.square((lags - np.linspace(0.1, 0.25, strengths.shape[1])[:, None]) / 0.03) / 2)
    for strength, onset in zip(strengths, onsets, strict=True):
        at = round(onset * SFREQ)
        data[:, at : at + len(lags)] += 3 * patterns @ ((strength - 0.5)[:, None] * courses)
    return 1e-13 * data + 2e-12
