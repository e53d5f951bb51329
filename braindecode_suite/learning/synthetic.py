"""Small random studies with a known answer, for tests and benchmarks: latents, and voxels that are a noisy function of them.

Nothing is drawn as an image here; see the catalogue's simulated datasets for that.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from braindecode_suite.core.features import Grid
from braindecode_suite.core.latents import Latents
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
