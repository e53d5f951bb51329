"""Ridge regression on tokens pooled over the image: what a model knows that has lost where things are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from braindecode_suite.core.features import Grid, Rows
from braindecode_suite.encoders.image_model import ImageModel, Part, PenaltyConfig, SubjectData
from braindecode_suite.learning.regressors import Pool, fit_regressors, pool_tokens
from braindecode_suite.learning.ridge import ridge_cv


class PooledRidgeConfig(PenaltyConfig):
    """How tokens are pooled and how the penalty is chosen.

    Attributes
    ----------
    pools : tuple of {'mean', 'max', 'min'}
        Over the tokens that show the image; several stand side by side. The class token has no part.
    alphas, n_folds, standardise
        See `PenaltyConfig`.
    """

    pools: tuple[Literal["mean", "max", "min"], ...] = Field(default=("mean",), min_length=1)


@dataclass(frozen=True, eq=False)
class PooledMap:
    """A linear map from pooled tokens to units.

    Attributes
    ----------
    grids : mapping of source name to Grid
    pools : sequence of str
    coef : array of float32 of shape (regressors, modelled units)
        Of regressors as they are pooled; those of the first source first.
    intercept : array of float32 of shape (modelled units,)
    alpha : array of shape (modelled units,)
        Penalty of each unit.
    """

    grids: Mapping[str, Grid]
    pools: Sequence[Pool]
    coef: np.ndarray
    intercept: np.ndarray
    alpha: np.ndarray

    @property
    def n_parameters(self) -> int:
        """Number of coefficients and intercepts."""
        return self.coef.size + self.intercept.size

    def predict(self, features: Mapping[str, Rows]) -> np.ndarray:
        """Return z-scores of shape (images, modelled units)."""
        parts = [pool_tokens(features[name], grid, self.pools) for name, grid in self.grids.items()]
        return np.concatenate(parts, axis=1) @ self.coef + self.intercept

    def tensors(self) -> dict[str, Tensor]:
        """Return coefficients, intercepts and penalties."""
        return {key: torch.from_numpy(getattr(self, key)) for key in ("coef", "intercept", "alpha")}

    @classmethod
    def fit(cls, data: SubjectData, pools: Sequence[Pool], config: PenaltyConfig) -> PooledMap:
        """Fit ridge with a penalty for each unit, chosen on folds of training images."""
        grids = {name: source.grid for name, source in data.sources.items()}
        features = data.features(data.images)
        parts = [pool_tokens(features[name], grid, pools) for name, grid in grids.items()]
        scaler = fit_regressors(parts, standardise=config.standardise)
        X = scaler.apply(np.concatenate(parts, axis=1))
        fit = ridge_cv(X, data.responses(data.images), folds=data.folds(config.n_folds), alphas=config.alphas)
        coef = scaler.gain[:, None] * fit.coef
        intercept = fit.intercept - scaler.mean @ coef
        return cls(grids, pools, coef.astype(np.float32), intercept.astype(np.float32), fit.alpha)

    @classmethod
    def restore(
        cls, grids: Mapping[str, Grid], pools: Sequence[Pool], tensors: Mapping[str, Tensor]
    ) -> PooledMap:
        """Make the map from its tensors."""
        arrays = {key: tensors[key].numpy() for key in ("coef", "intercept", "alpha")}
        return cls(grids, pools, **arrays)


class PooledRidge(ImageModel[PooledRidgeConfig, PooledMap]):
    """Ridge from the mean, largest or smallest value of each feature over the image to each unit.

    The penalty of a unit has the least squared error on folds of training images. Validation rows are not used.

    Parameters
    ----------
    config : PooledRidgeConfig
    context : FitContext
    """

    name: ClassVar[str] = "pooled-ridge"
    config_class: ClassVar[type[PooledRidgeConfig]] = PooledRidgeConfig
    presets: ClassVar[Mapping[str, PooledRidgeConfig]] = {
        "tiny": PooledRidgeConfig(),
        "mean-max-min": PooledRidgeConfig(pools=("mean", "max", "min")),
    }
    PRESETS: ClassVar[tuple[str, ...]] = tuple(presets)
    needs: ClassVar[Part] = "places"

    def _fit_subject(self, number: int, data: SubjectData) -> PooledMap:
        return PooledMap.fit(data, self.config.pools, self.config)

    def _restore(self, subject: str, tensors: Mapping[str, Tensor]) -> PooledMap:
        return PooledMap.restore(self._grids, self.config.pools, tensors)
