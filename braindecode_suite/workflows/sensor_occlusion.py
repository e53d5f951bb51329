"""Where on the helmet a decoder reads: its score without the sensors around each of some places."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from braindecode_suite.core.latents import Latents
from braindecode_suite.core.sensors import SensorSpace
from braindecode_suite.core.study import Cohort, Responses, Study
from braindecode_suite.encoders import ENCODERS
from braindecode_suite.metrics.occlusion import Occlusion, neighbourhoods, occlude
from braindecode_suite.metrics.retrieval import TrainingReference, cosine_centred, ranks, relative_rank
from braindecode_suite.workflows.fitting import Fitted, Prepared
from braindecode_suite.workflows.scoring import Settings
from braindecode_suite.workflows.steps import Arrays, Steps

PLACES = 30
"""Places on the helmet that are masked, one after another."""
SHARE = 12
"""One sensor in so many is masked at a time."""


def spread_sensors(positions: np.ndarray, n: int) -> np.ndarray:
    """Return sensors that lie far from each other, each the farthest from those before (Gonzalez 1985).

    Parameters
    ----------
    positions : array of shape (sensors, 2)
        NaN for sensors without a place, which are never chosen.
    n : int
        At most all that have a place.

    Returns
    -------
    array of int of shape (chosen,)
    """
    known = np.flatnonzero(np.isfinite(positions).all(axis=1))
    where = positions[known]
    chosen = [int(np.linalg.norm(where - where.mean(axis=0), axis=1).argmin())]
    away = np.linalg.norm(where - where[chosen[0]], axis=1)
    while len(chosen) < min(n, len(known)):
        chosen.append(int(away.argmax()))
        away = np.minimum(away, np.linalg.norm(where - where[chosen[-1]], axis=1))
    return known[chosen]


class _Silent:
    """Responses in which some sensors have no values."""

    def __init__(self, responses: Responses, gone: np.ndarray) -> None:
        self.responses, self.gone = responses, gone
        self.shape, self.dtype = responses.shape, responses.dtype

    def __len__(self) -> int:
        return len(self.responses)

    def __getitem__(self, rows: Any) -> np.ndarray:
        values = np.array(self.responses[rows], np.float32)
        values[:, self.gone] = np.nan
        return values


def without_sensors(study: Study, gone: np.ndarray) -> Study:
    """Return the study as if these sensors had failed: they have neither values nor a place, in any session.

    They are silent before the recipe, so that a whitening has nothing of them to hand to their neighbours.
    """
    space = study.space
    assert isinstance(space, SensorSpace)
    positions = {
        session: np.where(gone[:, None], np.nan, where) for session, where in space.positions.items()
    }
    return replace(study, space=replace(space, positions=positions), responses=_Silent(study.responses, gone))


def occlude_sensors(
    steps: Steps,
    prepared: Prepared,
    fitted: Fitted,
    train_true: Latents,
    gallery: Latents,
    settings: Settings,
    device: str,
) -> tuple[np.ndarray, dict[str, Any]]:
    """Mask the sensors around each of some places, predict again, and see what the score loses.

    The score of an image is 1 minus its relative rank (1: first, 0.5: chance) in the whole gallery, by the mean prediction.

    Returns
    -------
    array of shape (sensors,)
        Mean loss over the places that each sensor was masked for, or that of the nearest sensor that was; NaN without a place.
    dict
        JSON-like, for the report.
    """
    space = prepared.study.space
    assert isinstance(space, SensorSpace)
    usable = np.array([space.usable(session) for session in space.positions])
    ever = np.asarray(usable.any(axis=0))
    where = np.where(ever[:, None], _mean_places(space), np.nan)
    centres = spread_sensors(where, PLACES)
    n_nearest = max(1, int(np.count_nonzero(np.isfinite(where).all(axis=1))) // SHARE)
    groups = neighbourhoods(where, n_nearest=n_nearest)[centres]
    key = {
        **prepared.identity,
        "target": gallery.target,
        "model": fitted.folder.parent.name,
        "centres": centres.tolist(),
        "n_nearest": n_nearest,
        "seed": settings.seed,
        "n": settings.n_bootstrap,
    }

    def compute() -> tuple[Arrays, dict[str, Any]]:
        encoder = ENCODERS[fitted.name].load(
            fitted.folder, prepared.cohort("test"), device, seed=int(fitted.seed)
        )
        reference = TrainingReference(predicted=fitted.train.flat, true=train_true.flat)
        truth = np.arange(len(gallery))

        def score_without(gone: np.ndarray) -> np.ndarray:
            cohort = Cohort((without_sensors(prepared.study, gone),), prepared.split.test)
            found = encoder.predict(cohort)["retrieval"].mean_by_stimulus().select(gallery.ids)
            matrix = cosine_centred(found.flat, gallery.flat, reference)
            return 1 - relative_rank(ranks(matrix, truth), len(gallery))

        found = occlude(
            score_without, groups, units=settings.units, seed=settings.seed, n_resamples=settings.n_bootstrap
        )
        return {"topography": _spread(found.topography, where)}, _facts(found, space, centres, n_nearest)

    arrays, facts = steps.arrays(f"{fitted.name} without sensors", key, compute)
    return arrays["topography"], facts


def _mean_places(space: SensorSpace) -> np.ndarray:
    stack = np.stack(list(space.positions.values()))
    known = np.isfinite(stack)
    count = known.sum(axis=0)
    return np.where(count > 0, np.where(known, stack, 0).sum(axis=0) / np.maximum(count, 1), np.nan)


def _spread(values: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Give sensors with a place but no value that of the nearest sensor with one."""
    full = values.copy()
    known = np.flatnonzero(np.isfinite(values))
    for k in np.flatnonzero(np.isnan(values) & np.isfinite(where).all(axis=1)):
        full[k] = values[known[np.linalg.norm(where[known] - where[k], axis=1).argmin()]]
    return full


def _facts(found: Occlusion, space: SensorSpace, centres: np.ndarray, n_nearest: int) -> dict[str, Any]:
    """Return what the report says; the place of the largest loss was not chosen beforehand, so that it takes the band over all places."""
    k = int(np.nanargmax(found.mean))
    return {
        "n_places": len(centres),
        "n_masked": n_nearest,
        "score": float(found.score.mean()),
        "n_read": int((found.band_low > 0).sum()),
        "most": {
            "sensor": space.names[int(centres[k])],
            "value": float(found.mean[k]),
            "ci_low": float(found.band_low[k]),
            "ci_high": float(found.band_high[k]),
        },
    }
