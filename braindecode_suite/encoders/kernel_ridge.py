"""Ridge regression on all tokens of an image side by side, in its dual form: linear, with every place and feature of its own.

Features of 961 tokens x 768 are 738,048 regressors. Their weights would be 117 GB for the 39,548 units of one subject of the
Natural Scenes Dataset; the dual form keeps the training images' features (14.5 GB in half precision, memory-mapped where they
are) and a weight for each training image and unit. A saved model holds both, and is as large.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from braindecode_suite.core.features import Rows
from braindecode_suite.encoders.image_model import ImageModel, Part, PenaltyConfig, SubjectData
from braindecode_suite.learning.kernel import inner_products, kernel_coordinates
from braindecode_suite.learning.regressors import FlatTokens
from braindecode_suite.learning.responses import UnitScaler
from braindecode_suite.learning.ridge import ridge_cv


class KernelRidgeConfig(PenaltyConfig):
    """How the penalty is chosen, see `PenaltyConfig`.

    Attributes
    ----------
    alphas : tuple of float
        Relative to the mean eigenvalue of the kernel, over as many as there are images less one.
    n_folds, standardise
        See `PenaltyConfig`; a regressor is one feature of one token.
    """


@dataclass(frozen=True, eq=False)
class KernelMap:
    """Inner products with training images, and a weight for each of them and each unit.

    Attributes
    ----------
    train : FlatTokens
        Training images; features stay where they are and are read in blocks.
    dual : array of float32 of shape (training images, modelled units)
    intercept : array of float32 of shape (modelled units,)
    alpha : array of shape (modelled units,)
        Penalty of each unit.
    device : str
    """

    train: FlatTokens
    dual: np.ndarray
    intercept: np.ndarray
    alpha: np.ndarray
    device: str

    @property
    def n_parameters(self) -> int:
        """Number of weights and intercepts."""
        return self.dual.size + self.intercept.size

    def predict(self, features: Mapping[str, Rows]) -> np.ndarray:
        """Return z-scores of shape (images, modelled units)."""
        own = {name: features[name] for name in self.train.features}
        images = FlatTokens(own, self.train.masks, self.train.scaler)
        products = inner_products(images, self.train, device=self.device)
        return products.astype(np.float32) @ self.dual + self.intercept

    def tensors(self) -> dict[str, Tensor]:
        """Return weights, penalties and the training images' features."""
        scaler = self.train.scaler
        assert scaler is not None
        features = {f"features.{name}": rows[:] for name, rows in self.train.features.items()}
        arrays = {
            "dual": self.dual,
            "intercept": self.intercept,
            "alpha": self.alpha,
            "token_mean": scaler.mean,
            "token_gain": scaler.gain,
            **features,
        }
        return {key: torch.from_numpy(np.ascontiguousarray(array)) for key, array in arrays.items()}


class KernelRidge(ImageModel[KernelRidgeConfig, KernelMap]):
    """Ridge from every feature of every token to each unit, solved in the space of the training images.

    The kernel is computed once, streamed over the features; the penalty of a unit has the least squared error on folds of
    training images. Validation rows are not used.

    Parameters
    ----------
    config : KernelRidgeConfig
    context : FitContext
    """

    name: ClassVar[str] = "kernel-ridge"
    config_class: ClassVar[type[KernelRidgeConfig]] = KernelRidgeConfig
    presets: ClassVar[Mapping[str, KernelRidgeConfig]] = {"tiny": KernelRidgeConfig()}
    PRESETS: ClassVar[tuple[str, ...]] = tuple(presets)
    needs: ClassVar[Part] = "tokens"

    def _fit_subject(self, number: int, data: SubjectData) -> KernelMap:
        config, device = self.config, self.context.device
        tokens = FlatTokens(data.features(data.images), self._masks()).fit(standardise=config.standardise)
        coordinates, projection = kernel_coordinates(inner_products(tokens, device=device))
        fit = ridge_cv(
            coordinates.astype(np.float32),
            data.responses(data.images),
            folds=data.folds(config.n_folds),
            alphas=config.alphas,
        )
        dual = (projection @ fit.coef).astype(np.float32)
        return KernelMap(tokens, dual, fit.intercept.astype(np.float32), fit.alpha, device)

    def _masks(self) -> dict[str, np.ndarray]:
        return {name: grid.mask for name, grid in self._grids.items()}

    def _restore(self, subject: str, tensors: Mapping[str, Tensor]) -> KernelMap:
        arrays = {key: tensor.numpy() for key, tensor in tensors.items()}
        features = {name: arrays[f"features.{name}"] for name in self._grids}
        scaler = UnitScaler(arrays["token_mean"], arrays["token_gain"])
        train = FlatTokens(features, self._masks(), scaler)
        return KernelMap(train, arrays["dual"], arrays["intercept"], arrays["alpha"], self.context.device)
