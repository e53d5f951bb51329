"""Ridge regression on the class token, the summary that a vision transformer makes of an image itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from braindecode_suite.encoders.image_model import ImageModel, Part, PenaltyConfig, SubjectData
from braindecode_suite.encoders.pooled_ridge import PooledMap


class ClsRidgeConfig(PenaltyConfig):
    """How the penalty is chosen, see `PenaltyConfig`."""


class ClsRidge(ImageModel[ClsRidgeConfig, PooledMap]):
    """Ridge from the class token to each unit; sources without one are left out.

    The penalty of a unit has the least squared error on folds of training images. Validation rows are not used.

    Parameters
    ----------
    config : ClsRidgeConfig
    context : FitContext
    """

    name: ClassVar[str] = "cls-ridge"
    config_class: ClassVar[type[ClsRidgeConfig]] = ClsRidgeConfig
    presets: ClassVar[Mapping[str, ClsRidgeConfig]] = {"tiny": ClsRidgeConfig()}
    PRESETS: ClassVar[tuple[str, ...]] = tuple(presets)
    needs: ClassVar[Part] = "cls"

    def _fit_subject(self, number: int, data: SubjectData) -> PooledMap:
        return PooledMap.fit(data, ("cls",), self.config)

    def _restore(self, subject: str, tensors: Mapping[str, Tensor]) -> PooledMap:
        return PooledMap.restore(self._grids, ("cls",), tensors)
