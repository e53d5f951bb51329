"""Small random studies with a known answer, for tests and benchmarks: latents, and voxels that are a noisy function of them.

Nothing is drawn as an image here; see the catalogue's simulated datasets for that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from braindecode_suite.core.features import Grid
from braindecode_suite.core.latents import Latents
from braindecode_suite.core.sensors import SensorSpace
from braindecode_suite.core.spaces import UnitSpace
from braindecode_suite.core.study import Noise, Stimuli, Study


class NumberedStimuli:
    """Stimuli ``0`` to ``n - 1``, each a grey image of its own level."""

    attributes: pd.DataFrame | None = None

    def __init__(self, n: int) -> None:
        self.ids: Sequence[str] = [str(i) for i in range(n)]
        self.fingerprint = f"numbered-{n}"

    def images(self, ids: Sequence[str]) -> np.ndarray:
        """Return uint8 images of shape (len(ids), 8, 8, 3)."""
        return np.stack([np.full((8, 8, 3), int(i) % 256, np.uint8) for i in ids])

    def captions(self, stimulus_id: str) -> list[str]:
        """Return one caption."""
        return [f"number {stimulus_id}"]

    def distractors(self, stimulus_id: str) -> np.ndarray | None:
        """Return None: no distractors are known."""
        return None


class TableTarget:
    """A target whose latents are given: row i belongs to stimulus ``str(i)``.

    Parameters
    ----------
    name : str
    latents : array of shape (stimuli, tokens, width)
    """

    def __init__(self, name: str, latents: np.ndarray) -> None:
        self.name, self.latents = name, np.asarray(latents, dtype=np.float32)
        self.tokens, self.width = self.latents.shape[1:]

    def embed(self, stimuli: Stimuli, ids: Sequence[str]) -> Latents:
        """Return one row for each different id, in order of first appearance."""
        unique = list(dict.fromkeys(ids))
        return Latents(
            self.latents[[int(i) for i in unique]], np.array(unique, dtype=object), self.name, "true"
        )

    def embed_images(self, images: np.ndarray) -> np.ndarray:
        """Return the latents of images whose grey level is their number."""
        return self.latents[images[:, 0, 0, 0].astype(int)]


class TableFeatures:
    """Image features that are given (a `FeatureSource`): row i belongs to stimulus ``str(i)``.

    Parameters
    ----------
    name : str
    features : array of shape (stimuli, tokens, width)
    grid : Grid
    """

    def __init__(self, name: str, features: np.ndarray, grid: Grid) -> None:
        self.table, self.grid = TableTarget(name, features), grid
        self.name, self.tokens, self.width = name, self.table.tokens, self.table.width

    def rows(self, stimuli: Stimuli, ids: Sequence[str]) -> np.ndarray:
        """Return one row for each of `ids`."""
        return self.table.latents[[int(i) for i in ids]]

    def embed(self, stimuli: Stimuli, ids: Sequence[str]) -> Latents:
        """Return one row for each different id, in order of first appearance."""
        return self.table.embed(stimuli, ids)

    def embed_images(self, images: np.ndarray) -> np.ndarray:
        """Return the features of images whose grey level is their number."""
        return self.table.embed_images(images)


def make_latents(n_images: int, tokens: int, width: int, *, seed: int = 0, rank: int = 20) -> np.ndarray:
    """Draw latents of shape (images, tokens, width) with a few strong dimensions, as embeddings of images have."""
    rng = np.random.default_rng(seed)
    strength = 1 / np.sqrt(1 + np.arange(rank))
    factors = rng.standard_normal((n_images, rank)) * strength
    mixed = factors @ rng.standard_normal((rank, tokens * width)) + 0.1 * rng.standard_normal(
        (n_images, tokens * width)
    )
    return (mixed.reshape(n_images, tokens, width) + 0.5).astype(np.float32)


def make_study(
    latents: np.ndarray,
    *,
    n_units: int,
    n_repeats: int = 3,
    ncsnr: float = 0.4,
    curvature: float = 0.0,
    subject: str = "01",
    seed: int = 0,
) -> Study:
    """Make a study of voxels that carry a noisy function of `latents`.

    Parameters
    ----------
    latents : array of shape (images, tokens, width)
    n_units, n_repeats : int
    ncsnr : float
        Standard deviation of a voxel's signal over that of its noise, on average; voxels differ.
    curvature : float
        0: voxels are linear in the latents; larger: increasingly rectified.
    subject : str
    seed : int

    Returns
    -------
    Study
        Trials repeat by repeat, in sessions of a repeat each; unit 0 is constant.
    """
    rng = np.random.default_rng([seed, 1])
    flat = latents.reshape(len(latents), -1)
    flat = (flat - flat.mean(axis=0)) / flat.std()
    drive = flat @ rng.standard_normal((flat.shape[1], n_units)) / np.sqrt(flat.shape[1])
    drive = drive / drive.std(axis=0)
    signal = drive + curvature * np.maximum(drive, 0) ** 2
    signal = (signal - signal.mean(axis=0)) / signal.std(axis=0)
    strength = ncsnr * rng.uniform(0.2, 1.8, n_units)
    image = np.concatenate([rng.permutation(len(latents)) for _ in range(n_repeats)])
    responses = signal[image] * strength + rng.standard_normal((len(image), n_units))
    responses[:, 0] = 2.0
    session = np.repeat(np.arange(1, n_repeats + 1), len(latents))
    trials = pd.DataFrame(
        {
            "stimulus_id": [str(i) for i in image],
            "session": session,
            "run": session,
            "repeat": session,
            "onset": np.arange(len(image), dtype=float),
        }
    )
    return Study(
        dataset="synthetic",
        subject=subject,
        responses=responses.astype(np.float32),
        trials=trials,
        stimuli=NumberedStimuli(len(latents)),
        space=UnitSpace(n_units),
        unit="z-score",
        noise=Noise(strength, "as drawn"),
    )


def rows_of(study: Study, first: int, last: int) -> np.ndarray:
    """Return the rows that show stimuli `first` to ``last - 1``."""
    numbers = study.trials["stimulus_id"].astype(int).to_numpy()
    return np.flatnonzero((numbers >= first) & (numbers < last))


def make_sensor_study(
    latents: np.ndarray,
    *,
    n_sensors: int = 20,
    n_times: int = 30,
    n_repeats: int = 3,
    snr: float = 1.0,
    jitter: float = 0.0,
    n_missing: int = 2,
    subject: str = "01",
    seed: int = 0,
    layout_seed: int = 0,
) -> Study:
    """Make an MEG study whose sensors carry a noisy function of `latents`, on a layout that all people of a seed share.

    Sources at places of the unit square have a smooth topography over the sensors around them and a time course of their own after
    the onset; their strength is linear in the latents.

    Parameters
    ----------
    latents : array of shape (images, tokens, width)
    n_sensors, n_times, n_repeats : int
        Sampled at 100 Hz from 0.05 s before the onset.
    snr : float
        Standard deviation of the signal over that of the noise, both over all sensors and times after the onset.
    jitter : float
        Standard deviation, in seconds, of the shift of a trial's response.
    n_missing : int
        Sensors that have no place, and NaN, in the last of the sessions (of a repeat each).
    subject : str
    seed, layout_seed : int

    Returns
    -------
    Study
        Trials repeat by repeat.
    """
    rng = np.random.default_rng([seed, 3])
    places = np.random.default_rng([layout_seed, 4]).uniform(0.05, 0.95, (n_sensors, 2))
    times = -0.05 + np.arange(n_times) / 100
    flat = latents.reshape(len(latents), -1)
    n_sources = min(flat.shape[1], 12)
    directions = rng.standard_normal((flat.shape[1], n_sources))
    strength = (flat - flat.mean(axis=0)) @ directions
    strength /= strength.std(axis=0)
    centres = rng.uniform(0, 1, (n_sources, 2))
    topography = np.exp(-np.square(places[:, None] - centres).sum(axis=2) / (2 * 0.25**2))
    topography *= rng.choice([-1, 1], n_sources)
    peak = rng.uniform(0.05, max(times[-1] - 0.05, 0.06), n_sources)
    image = np.concatenate([rng.permutation(len(latents)) for _ in range(n_repeats)])
    shift = jitter * rng.standard_normal(len(image))
    course = np.exp(-np.square((times - shift[:, None, None] - peak[:, None]) / 0.03) / 2) * (times > 0)
    signal = np.einsum("ik,sk,ikt->ist", strength[image], topography, course, optimize=True)
    signal *= snr / signal[:, :, times > 0].std()
    responses = (signal + rng.standard_normal(signal.shape)).astype(np.float32)
    session = np.repeat(np.arange(1, n_repeats + 1), len(latents))
    positions = {str(k): places.astype(np.float32) for k in range(1, n_repeats + 1)}
    if n_missing and n_repeats > 1:
        gone = rng.permutation(n_sensors)[:n_missing]
        positions[str(n_repeats)] = positions[str(n_repeats)].copy()
        positions[str(n_repeats)][gone] = np.nan
        responses[np.ix_(session == n_repeats, gone)] = np.nan
    trials = pd.DataFrame({"stimulus_id": image.astype(str), "session": session, "run": session})
    trials["repeat"], trials["onset"] = session, np.arange(len(image), dtype=float)
    return Study(
        dataset="synthetic",
        subject=subject,
        responses=responses,
        trials=trials,
        stimuli=NumberedStimuli(len(latents)),
        space=SensorSpace(
            names=tuple(f"S{k:03d}" for k in range(n_sensors)),
            kinds=("mag",) * n_sensors,
            positions=positions,
            sfreq=100.0,
            times=times,
            layout="drawn",
        ),
        unit="z-score",
    )


class RoutedStudy(NamedTuple):
    """What `make_routed_study` returns."""

    study: Study
    features: TableFeatures
    fixed: int
    marked: np.ndarray


def make_routed_study(
    n_images: int = 500,
    side: int = 5,
    width: int = 16,
    *,
    n_units: int = 20,
    noise: float = 0.5,
    seed: int = 0,
) -> RoutedStudy:
    """Make a study in which one region looks at a place and another at whatever is marked.

    Tokens are random; one of each image, at a random place, carries a marker in its first features. Units of region ``place``
    are linear in the other features of the token at one place, those of region ``content`` in those of the marked token.

    Parameters
    ----------
    n_images, side, width : int
        Images, rows and columns of the grid, features.
    n_units : int
        Of each region.
    noise : float
        Standard deviation of the noise; that of the signal is 1.
    seed : int

    Returns
    -------
    RoutedStudy
        ``study``, ``features``, ``fixed`` (the token that ``place`` looks at) and ``marked`` (the marked token of each image).
    """
    rng = np.random.default_rng(seed)
    tokens = rng.standard_normal((n_images, side * side, width))
    marked, fixed, n_marker = rng.integers(side * side, size=n_images), side * side // 3, width // 4
    tokens[np.arange(n_images), marked, :n_marker] += 3
    looked_at = (tokens[:, fixed, n_marker:], tokens[np.arange(n_images), marked, n_marker:])
    weights = rng.standard_normal((2, width - n_marker, n_units))
    weights /= np.linalg.norm(weights, axis=1, keepdims=True)
    signal = np.concatenate([x @ w for x, w in zip(looked_at, weights, strict=True)], axis=1)
    responses = signal + noise * rng.standard_normal(signal.shape)
    trials = pd.DataFrame({"stimulus_id": [str(i) for i in range(n_images)]})
    trials["session"] = trials["run"] = trials["repeat"] = 1
    trials["onset"] = np.arange(n_images, dtype=float)
    place = np.arange(2 * n_units) < n_units
    study = Study(
        dataset="synthetic",
        subject="01",
        responses=responses.astype(np.float32),
        trials=trials,
        stimuli=NumberedStimuli(n_images),
        space=UnitSpace(2 * n_units, {"place": place, "content": ~place}),
        unit="z-score",
    )
    return RoutedStudy(study, TableFeatures("tokens", tokens, Grid(side, side)), fixed, marked)


def make_regional_study(
    latents: np.ndarray, carriers: Sequence[int], *, n_units: int = 12, noise: float = 1.0, seed: int = 0
) -> Study:
    """Make a study in which region k, and no other, carries token ``carriers[k]`` of `latents`.

    Parameters
    ----------
    latents : array of shape (images, tokens, width)
    carriers : sequence of int
        Token of each region; -1 for a region of noise.
    n_units : int
        Of each region; they are linear in the token.
    noise : float
        Standard deviation of the noise; that of the signal is 1.
    seed : int

    Returns
    -------
    Study
        One trial an image; regions ``region-0``, ``region-1``...
    """
    rng = np.random.default_rng([seed, 2])
    n_images, _, width = latents.shape
    parts = []
    for token in carriers:
        signal = latents[:, max(token, 0)] @ rng.standard_normal((width, n_units))
        signal = (signal - signal.mean(axis=0)) / signal.std(axis=0)
        parts.append((token >= 0) * signal + noise * rng.standard_normal(signal.shape))
    trials = pd.DataFrame({"stimulus_id": [str(i) for i in range(n_images)]})
    trials["session"] = trials["run"] = trials["repeat"] = 1
    trials["onset"] = np.arange(n_images, dtype=float)
    region = np.repeat(np.arange(len(carriers)), n_units)
    return Study(
        dataset="synthetic",
        subject="01",
        responses=np.concatenate(parts, axis=1).astype(np.float32),
        trials=trials,
        stimuli=NumberedStimuli(n_images),
        space=UnitSpace(len(region), {f"region-{k}": region == k for k in range(len(carriers))}),
        unit="z-score",
    )
