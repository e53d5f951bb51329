"""The feature-weighted receptive field model (fwRF, St-Yves & Naselaris 2018, NeuroImage 180:188), in closed form.

Each unit looks at the image through one Gaussian, the same for all features and all sources of them, chosen from a grid of
candidates; what it sees there is weighed by ridge regression. The paper fits weights by gradient descent that is stopped
early; here each candidate has its ridge solution, with a penalty for each unit. Pooled features are z-scored, as in the paper;
its compressive nonlinearity is left out, so that all rivals see the same features.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from braindecode_suite.core.features import Grid, Rows
from braindecode_suite.encoders.image_model import ImageModel, Part, PenaltyConfig, SubjectData
from braindecode_suite.learning.receptive_fields import candidate_fields, field_weights, pool_by_fields
from braindecode_suite.learning.regressors import fit_regressors
from braindecode_suite.learning.ridge import ridge_cv
from braindecode_suite.learning.ridge_warnings import RidgeWarning

POOLED_BYTES = 1 << 30
TENSORS = ("fields", "field", "coef", "intercept", "alpha")


class ReceptiveFieldConfig(PenaltyConfig):
    """Candidates, and how the penalty is chosen.

    Attributes
    ----------
    n_centres : int
        Centres of the candidates along each side of the image.
    sigmas : tuple of float
        Their standard deviations, as shares of the image.
    alphas, n_folds, standardise
        See `PenaltyConfig`.
    """

    n_centres: PositiveInt = 8
    sigmas: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = (0.05, 0.1, 0.2, 0.4)


@dataclass(frozen=True, eq=False)
class FieldMap:
    """A field for each unit, and its weights of the features in it.

    Attributes
    ----------
    grids : mapping of source name to Grid
    fields : array of shape (fields, 3)
        x, y and sigma of all candidates.
    field : array of int of shape (modelled units,)
        Which of them each unit has.
    coef : array of float32 of shape (regressors, modelled units)
        Of pooled features; those of the first source first.
    intercept : array of float32 of shape (modelled units,)
    alpha : array of shape (modelled units,)
        Penalty of each unit.
    """

    grids: Mapping[str, Grid]
    fields: np.ndarray
    field: np.ndarray
    coef: np.ndarray
    intercept: np.ndarray
    alpha: np.ndarray

    @property
    def n_parameters(self) -> int:
        """Number of coefficients, intercepts and choices of a field."""
        return self.coef.size + self.intercept.size + self.field.size

    def predict(self, features: Mapping[str, Rows]) -> np.ndarray:
        """Return z-scores of shape (images, modelled units)."""
        used, which = np.unique(self.field, return_inverse=True)
        z = np.empty((len(next(iter(features.values()))), len(self.field)), np.float32)
        for first, pooled in _pool(features, self.grids, self.fields[used]):
            for k, X in enumerate(pooled):
                units = which == first + k
                z[:, units] = np.concatenate(X, axis=1) @ self.coef[:, units] + self.intercept[units]
        return z

    def tensors(self) -> dict[str, Tensor]:
        """Return candidates, choices and weights."""
        return {key: torch.from_numpy(getattr(self, key)) for key in TENSORS}


class ReceptiveField(ImageModel[ReceptiveFieldConfig, FieldMap]):
    """A Gaussian receptive field and feature weights for each unit.

    Candidate and penalty of a unit have the least squared error on folds of training images. Validation rows are not used.
    The class token has no place, and no part.

    Parameters
    ----------
    config : ReceptiveFieldConfig
    context : FitContext
    """

    name: ClassVar[str] = "receptive-field"
    config_class: ClassVar[type[ReceptiveFieldConfig]] = ReceptiveFieldConfig
    presets: ClassVar[Mapping[str, ReceptiveFieldConfig]] = {
        "tiny": ReceptiveFieldConfig(n_centres=4, sigmas=(0.1, 0.2, 0.4)),
        # The paper's sizes are in degrees of its own display and evenly spaced on a logarithmic scale; range and number are ours.
        "paper": ReceptiveFieldConfig(
            n_centres=10, sigmas=tuple(round(float(s), 4) for s in np.geomspace(0.04, 0.4, 8))
        ),
    }
    PRESETS: ClassVar[tuple[str, ...]] = tuple(presets)
    needs: ClassVar[Part] = "places"

    def receptive_fields(self, subject: str | None = None) -> np.ndarray:
        """Return x, y and sigma of the field of each unit, of shape (units, 3) or (channels, times, 3).

        Shares of the image from its top left; NaN for units that are not modelled.
        """
        subject = self._subject(subject)
        modelled, own = self._scalers[subject].gain > 0, self._maps[subject]
        fields = np.full((len(modelled), 3), np.nan)
        fields[modelled] = own.fields[own.field]
        return fields.reshape(*self.facts_["shapes"][subject], 3)

    def _fit_subject(self, number: int, data: SubjectData) -> FieldMap:
        config, grids = self.config, self._grids
        fields = candidate_fields(config.n_centres, config.sigmas)
        features, Y = data.features(data.images), data.responses(data.images)
        folds = data.folds(config.n_folds)
        field = _choose_fields(features, grids, fields, Y, folds, config)
        used, which = np.unique(field, return_inverse=True)
        width = sum(rows.shape[2] for rows in features.values())
        coef = np.zeros((width, Y.shape[1]), np.float32)
        intercept, alpha = np.zeros(Y.shape[1], np.float32), np.zeros(Y.shape[1])
        for first, pooled in _pool(features, grids, fields[used]):
            for k, parts in enumerate(pooled):
                units = which == first + k
                scaler = fit_regressors(parts, standardise=config.standardise)
                X = scaler.apply(np.concatenate(parts, axis=1))
                fit = ridge_cv(X, Y[:, units], folds=folds, alphas=config.alphas)
                weights = scaler.gain[:, None] * fit.coef
                coef[:, units], alpha[units] = weights, fit.alpha
                intercept[units] = fit.intercept - scaler.mean @ weights
        return FieldMap(grids, fields, field, coef, intercept, alpha)

    def _restore(self, subject: str, tensors: Mapping[str, Tensor]) -> FieldMap:
        return FieldMap(self._grids, *(tensors[key].numpy() for key in TENSORS))


def _pool(
    features: Mapping[str, Rows], grids: Mapping[str, Grid], fields: np.ndarray
) -> Iterator[tuple[int, list[tuple[np.ndarray, ...]]]]:
    """Yield (number of the first, what each of some fields pools): an array (images, width) for each source."""
    weights = {name: field_weights(grid, fields) for name, grid in grids.items()}
    n_bytes = sum(4 * len(features[name]) * features[name].shape[2] for name in grids)
    at_once = max(1, POOLED_BYTES // max(n_bytes, 1))
    for first in range(0, len(fields), at_once):
        some = slice(first, first + at_once)
        pooled = [pool_by_fields(features[name], weight[some]) for name, weight in weights.items()]
        yield first, list(zip(*pooled, strict=True))


def _choose_fields(
    features: Mapping[str, Rows],
    grids: Mapping[str, Grid],
    fields: np.ndarray,
    Y: np.ndarray,
    folds: np.ndarray,
    config: ReceptiveFieldConfig,
) -> np.ndarray:
    """Return the number of the field of each unit: the one with the least held-out error at its own best penalty."""
    best, field = np.full(Y.shape[1], -np.inf), np.zeros(Y.shape[1], np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", RidgeWarning
        )  # what `ridge_cv` has to say of the chosen ones is heard later
        for first, pooled in _pool(features, grids, fields):
            for k, parts in enumerate(pooled):
                scaler = fit_regressors(parts, standardise=config.standardise)
                X = scaler.apply(np.concatenate(parts, axis=1))
                r2 = ridge_cv(X, Y, folds=folds, alphas=config.alphas).cv_r2  # (alphas, units)
                score = np.where(np.isnan(r2), -np.inf, r2).max(axis=0)
                field[score > best] = first + k
                best = np.maximum(best, score)
    return field
