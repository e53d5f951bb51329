"""What can be decoded when: ridge on windows that slide along the epoch, each tried on every other.

Every window has a map of its own, fitted on the training rows' samples of that window alone. A map costs a closed form, so that the
whole course is minutes where a network for every window would be a night.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from braindecode_suite.core.checks import check_shape
from braindecode_suite.core.config import Config
from braindecode_suite.core.files import data_hash
from braindecode_suite.core.latents import Latents
from braindecode_suite.core.sensors import SensorSpace
from braindecode_suite.core.study import Study
from braindecode_suite.core.windows import Window, growing_windows, sliding_windows, window_matrix
from braindecode_suite.encoders import ENCODERS
from braindecode_suite.learning.folds import group_folds
from braindecode_suite.learning.mapped_rows import BLOCK, map_rows, mapped_bytes
from braindecode_suite.learning.responses import read_blocks
from braindecode_suite.learning.ridge import RidgeFit, ridge_cv
from braindecode_suite.metrics.retrieval import TrainingReference, cosine_centred, ranks
from braindecode_suite.workflows.fitting import Fitted, Prepared
from braindecode_suite.workflows.steps import Arrays, Steps


class TimeResolvedConfig(Config):
    """Which windows are decoded.

    Attributes
    ----------
    width, stride : float
        Seconds of the sliding windows and between two of them; 0.1 and 0.025 are the paper's.
    generalisation_every : float
        Seconds between the windows that are tried on each other; 0 leaves temporal generalisation out.
    growing_every : float
        Seconds between the ends of growing windows, which begin with the epoch; 0 leaves them out.
    n_folds : int
        Folds of training images in which the penalties of a window are chosen.
    """

    width: PositiveFloat = 0.1
    stride: PositiveFloat = 0.025
    generalisation_every: NonNegativeFloat = 0.05
    growing_every: NonNegativeFloat = 0.05
    n_folds: PositiveInt = Field(default=5, ge=2)


@dataclass(frozen=True, kw_only=True, eq=False)
class Sliding:
    """What sliding windows say of the test images.

    Attributes
    ----------
    windows : list of Window
    similarity : array of float32 of shape (windows, images, gallery)
        Centred cosine of the mean prediction of each test image with every image of the gallery.
    single : array of int of shape (windows, trials)
        Distractors above the truth of each test trial alone.
    features : dict of name to array of float32 of shape (windows, images, features)
        Features of each test image as the same windows predict them, less the mean prediction of training images.
    generalisation : list of int
        Places in `windows` of those that were tried on each other.
    ranks : array of int of shape (trained, tested, images)
        Distractors above the truth, maps of one window on the samples of another.
    """

    windows: list[Window]
    similarity: np.ndarray
    single: np.ndarray
    features: dict[str, np.ndarray]
    generalisation: list[int]
    ranks: np.ndarray


def mean_response(study: Study, rows: np.ndarray) -> np.ndarray:
    """Return the mean of some trials, of shape (sensors, times); NaN where a sensor is never there."""
    total, count = np.zeros((2, *study.responses.shape[1:]))
    for _, block in read_blocks(study, rows, BLOCK):
        known = np.isfinite(block)
        total += np.where(known, block, 0).sum(axis=0, dtype=np.float64)
        count += known.sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


@dataclass(frozen=True, kw_only=True, eq=False)
class Growing:
    """What one network says of the test images as more and more of the epoch is seen.

    Attributes
    ----------
    windows : list of Window
        All from the first sample of the epoch.
    similarity : array of float32 of shape (windows, images, gallery)
    model : Fitted
    """

    windows: list[Window]
    similarity: np.ndarray
    model: Fitted


def map_epochs(steps: Steps, prepared: Prepared) -> np.ndarray:
    """Return the preprocessed epochs of the split's trials, memory-mapped: windows cut them many times over.

    Returns
    -------
    array of float32 of shape (trials, sensors, times)
        NaN in trials that are in no part of the split.

    Raises
    ------
    NoRoom
        If the disk does not hold them.
    """
    study, rows = prepared.study, np.arange(len(prepared.study.trials))
    path = steps.path("preprocessed epochs", prepared.identity, ".npy")
    used = np.isin(rows, prepared.split.rows[0])
    if path.is_file():
        return map_rows(path, study, rows, used)
    with steps.block("write preprocessed epochs") as notes:
        notes["mapped_gigabytes"] = round(mapped_bytes(study, rows) / 1e9, 3)
        return map_rows(path, study, rows, used)


def decode_sliding(
    steps: Steps,
    prepared: Prepared,
    epochs: np.ndarray,
    train_true: Latents,
    gallery: Latents,
    config: TimeResolvedConfig,
    features: Mapping[str, np.ndarray] | None = None,
) -> Sliding:
    """Fit a ridge to every window, rank the gallery by it, and predict further features of images by the same ridge.

    Parameters
    ----------
    steps : Steps
    prepared : Prepared
        Of one subject, with a `SensorSpace`.
    epochs : array of shape (trials, sensors, times)
        See `map_epochs`.
    train_true, gallery : Latents
        True latents of training images and of test images, each once.
    config : TimeResolvedConfig
    features : mapping of name to array of shape (training images, features), optional
        In the order of `train_true`. Each has a penalty of its own, as each latent has: they change nothing of the latents.
    """
    space = prepared.study.space
    assert isinstance(space, SensorSpace)
    features = features or {}
    windows = sliding_windows(space.times, width=config.width, stride=config.stride)
    every = round(config.generalisation_every / config.stride) if config.generalisation_every else 0
    crossed = list(range(0, len(windows), max(1, every))) if every or config.generalisation_every else []
    key = {
        **prepared.identity,
        "target": gallery.target,
        "windows": [[w.first, w.stop] for w in windows],
        "crossed": crossed,
        "n_folds": config.n_folds,
        "features": {name: data_hash(values) for name, values in features.items()},
    }

    def compute() -> tuple[Arrays, dict[str, Any]]:
        decoder = _WindowDecoder(prepared, epochs, train_true, gallery, config.n_folds, features)
        similarity = np.empty((len(windows), len(gallery), len(gallery)), np.float32)
        single = np.empty((len(windows), len(decoder.shown)), np.int32)
        further: dict[str, list[np.ndarray]] = {name: [] for name in features}
        fits: list[RidgeFit] = []
        for k, window in enumerate(windows):
            fit, others = decoder.fit(window)
            similarity[k], single[k] = decoder.similarity(fit, window), decoder.single(fit, window)
            for name, other in others.items():
                further[name].append(decoder.predicted(other, window))
            if k in crossed:
                fits.append(fit)
        found = np.empty((len(crossed), len(crossed), len(gallery)), np.int32)
        for j, k in enumerate(crossed):
            for i, matrix in enumerate(decoder.similarities(fits, windows[k])):
                found[i, j] = ranks(matrix, np.arange(len(gallery)))
        arrays: Arrays = {"similarity": similarity, "single": single, "ranks": found}
        return arrays | {f"features {name}": np.stack(parts) for name, parts in further.items()}, {}

    arrays, _ = steps.arrays("ridge on sliding windows", key, compute)
    return Sliding(
        windows=windows,
        similarity=arrays["similarity"],
        single=arrays["single"],
        features={name: arrays[f"features {name}"] for name in features},
        generalisation=crossed,
        ranks=arrays["ranks"],
    )


def decode_growing(
    steps: Steps,
    prepared: Prepared,
    fitted: Fitted,
    train_true: Latents,
    gallery: Latents,
    config: TimeResolvedConfig,
    device: str,
) -> Growing:
    """Ask a network that was trained on windows of random length what it says after each of them.

    Parameters
    ----------
    fitted : Fitted
        An encoder whose config has ``window: growing``.
    steps, prepared, train_true, gallery, config
        As for `decode_sliding`.
    device : str
    """
    space = prepared.study.space
    assert isinstance(space, SensorSpace)
    windows = growing_windows(space.times, first=config.width, stride=config.growing_every)
    key = {
        **prepared.identity,
        "target": gallery.target,
        "model": fitted.folder.parent.name,
        "stops": [w.stop for w in windows],
    }

    def compute() -> tuple[Arrays, dict[str, Any]]:
        encoder = ENCODERS[fitted.name].load(
            fitted.folder, prepared.cohort("test"), device, seed=int(fitted.seed)
        )
        similarity = np.empty((len(windows), len(gallery), len(gallery)), np.float32)
        for k, window in enumerate(windows):
            until = float(space.times[window.stop - 1])
            train, test = (
                encoder.predict(prepared.cohort(part), until=until)["retrieval"].mean_by_stimulus()
                for part in ("train", "test")
            )
            reference = TrainingReference(predicted=train.flat, true=train_true.flat)
            similarity[k] = cosine_centred(test.select(gallery.ids).flat, gallery.flat, reference)
        return {"similarity": similarity}, {}

    arrays, _ = steps.arrays(f"{fitted.name} on growing windows", key, compute)
    return Growing(windows=windows, similarity=arrays["similarity"], model=fitted)


class _WindowDecoder:
    """Ridge on single trials of one window; mean predictions of test images against the gallery, and of their features."""

    def __init__(
        self,
        prepared: Prepared,
        epochs: np.ndarray,
        train_true: Latents,
        gallery: Latents,
        n_folds: int,
        features: Mapping[str, np.ndarray],
    ) -> None:
        ids = prepared.study.stimulus_ids
        self.epochs, self.train, self.test = epochs, prepared.split.train[0], prepared.split.test[0]
        place = {stimulus_id: k for k, stimulus_id in enumerate(train_true.ids)}
        self.image = np.array([place[i] for i in ids[self.train]])
        self.latents = np.asarray(train_true.flat, np.float32)
        for name, values in features.items():
            check_shape(name, values, "images features", images=len(place))
        self.features = {name: np.asarray(values, np.float32) for name, values in features.items()}
        self.true_mean = self.latents.mean(axis=0, dtype=np.float64)
        self.folds = group_folds(self.image, min(n_folds, len(place)))
        self.gallery = np.asarray(gallery.flat, np.float64)
        column = {stimulus_id: k for k, stimulus_id in enumerate(gallery.ids)}
        self.shown = np.array([column[i] for i in ids[self.test]])

    def fit(self, window: Window) -> tuple[RidgeFit, dict[str, RidgeFit]]:
        """Return the map to latents and those to each set of features, fitted in one go: they share the decomposition."""
        X = window_matrix(self.epochs, window, self.train)
        targets = np.concatenate([self.latents, *self.features.values()], axis=1)
        fit = ridge_cv(X, targets[self.image], folds=self.folds)
        stops = np.cumsum([self.latents.shape[1], *(values.shape[1] for values in self.features.values())])
        parts = [_columns(fit, slice(start, stop)) for start, stop in pairwise([0, *stops])]
        return parts[0], dict(zip(self.features, parts[1:], strict=True))

    def similarity(self, fit: RidgeFit, window: Window) -> np.ndarray:
        """Return the similarity of one map's predictions, of shape (images, gallery)."""
        return self.similarities([fit], window)[0]

    def predicted(self, fit: RidgeFit, window: Window) -> np.ndarray:
        """Return the mean prediction of each test image, less that of training images, of shape (images, targets)."""
        test = _mean_rows(window_matrix(self.epochs, window, self.test), self.shown)
        return np.asarray(fit.predict(test) - fit.predict(self._centre(window)), np.float32)

    def single(self, fit: RidgeFit, window: Window) -> np.ndarray:
        """Return the rank of the truth for each test trial alone, of shape (trials,)."""
        matrix = self._compare([fit], window, window_matrix(self.epochs, window, self.test))[0]
        return ranks(matrix, self.shown)

    def similarities(self, fits: Sequence[RidgeFit], window: Window) -> list[np.ndarray]:
        """Return the similarities of several maps' predictions from the samples of one window."""
        # maps are linear: mean predictions are predictions of means
        return self._compare(
            fits, window, _mean_rows(window_matrix(self.epochs, window, self.test), self.shown)
        )

    def _compare(self, fits: Sequence[RidgeFit], window: Window, test: np.ndarray) -> list[np.ndarray]:
        train = self._centre(window)
        found = []
        for fit in fits:
            known = np.isfinite(fit.coef[0])
            predicted, centre = fit.predict(test)[:, known], fit.predict(train)[:, known]
            reference = TrainingReference(predicted=centre, true=self.true_mean[None, known])
            found.append(cosine_centred(predicted, self.gallery[:, known], reference))
        return found

    def _centre(self, window: Window) -> np.ndarray:
        """Return the mean of the training images' samples, of shape (1, samples)."""
        return _mean_rows(window_matrix(self.epochs, window, self.train), self.image).mean(axis=0)[None]


def _columns(fit: RidgeFit, part: slice) -> RidgeFit:
    """Return the map to some of the targets."""
    return RidgeFit(
        coef=fit.coef[:, part],
        intercept=fit.intercept[part],
        alpha=fit.alpha[part],
        alphas=fit.alphas,
        cv_r2=fit.cv_r2[:, part],
    )


def _mean_rows(X: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Return the mean of the rows of each group, 0 to the number of groups less one."""
    counts = np.bincount(group)
    starts = np.cumsum(counts) - counts
    sums = np.add.reduceat(X[np.argsort(group, kind="stable")], starts, axis=0, dtype=np.float64)
    return np.asarray((sums / counts[:, None]).astype(np.float32))
