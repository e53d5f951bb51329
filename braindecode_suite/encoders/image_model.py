"""What the rivals of the attention-routing encoder share: responses in, a map for each subject, predictions out, a folder.

All are fitted to the same numbers: responses averaged over the repeats of an image and z-scored by training rows, tokens that
show the image, and all sources of features that are offered. Several sources enter one model side by side, each with the same
total variance (`learning.regressors.fit_regressors`): nothing is spent on choosing among them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, Protocol, Self, TypeVar

import numpy as np
from pydantic import Field
from torch import Tensor

from braindecode_suite.core.checks import check_match, check_option, check_shape, check_subject
from braindecode_suite.core.config import Config
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.features import (
    FeatureSource,
    Grid,
    Rows,
    check_sources,
    rows_by_source,
)
from braindecode_suite.core.protocols import FitContext
from braindecode_suite.core.study import Cohort, Study
from braindecode_suite.learning.checkpoints import (
    SavedModel,
    describe_fit,
    open_model,
    recipe_tensors,
    save_model,
)
from braindecode_suite.learning.folds import group_folds
from braindecode_suite.learning.model_tensors import (
    add_prefix,
    grid_tensors,
    restore_grids,
    restore_unit_scaler,
    take_prefix,
    unit_scaler_tensors,
)
from braindecode_suite.learning.regressors import placed_tokens
from braindecode_suite.learning.responses import (
    ImageRows,
    UnitScaler,
    fit_scaler,
    flatten_times,
    image_means,
)

ALPHAS = tuple(float(alpha) for alpha in np.logspace(-5, 4, 19))
"""Tokens have a few strong dimensions and many weak ones: the best penalty may lie far below the mean eigenvalue."""

Part = Literal["cls", "places", "tokens"]
LACKING = {"cls": "a class token", "places": "tokens that lie on the image", "tokens": "tokens"}


class PenaltyConfig(Config):
    """How the penalty of a ridge regression is chosen, and what it penalises.

    Attributes
    ----------
    alphas : tuple of float
        Penalties, relative to the mean eigenvalue of the Gram matrix; each unit takes its own.
    n_folds : int
        Folds of the cross-validation over training images that chooses them.
    standardise : bool
        Whether every regressor has the same variance over training images; each source of features has in any case.
    """

    alphas: tuple[float, ...] = ALPHAS
    n_folds: int = Field(default=5, ge=2)
    standardise: bool = True


class UnitMap(Protocol):
    """From features of images to z-scores of one subject's modelled units."""

    @property
    def n_parameters(self) -> int:
        """Number of fitted numbers."""
        ...

    def predict(self, features: Mapping[str, Rows]) -> np.ndarray:
        """Return z-scores of shape (images, modelled units)."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """Return everything that `ImageModel._restore` needs to make the map again."""
        ...


@dataclass(frozen=True, eq=False)
class SubjectData:
    """What a model is fitted to in one subject.

    Attributes
    ----------
    study : Study
        Its units are channels with their times side by side, where it has times.
    rows, held_out_rows : int arrays
    images, held_out : ImageRows
        Training and validation images.
    scaler : UnitScaler
        Of responses, from training rows.
    modelled : array of bool of shape (units,)
        Units that vary and have no missing responses.
    n_times : int
    sources : mapping of source name to FeatureSource
    """

    study: Study
    rows: np.ndarray
    held_out_rows: np.ndarray
    images: ImageRows
    held_out: ImageRows
    scaler: UnitScaler
    modelled: np.ndarray
    n_times: int
    sources: Mapping[str, FeatureSource]

    def features(self, images: ImageRows) -> dict[str, Rows]:
        """Return the features of some images by source, read lazily."""
        stimuli = self.study.stimuli
        assert stimuli is not None
        features = {name: source.rows(stimuli, list(images.ids)) for name, source in self.sources.items()}
        for name, rows in features.items():
            grid, width = self.sources[name].grid, self.sources[name].width
            sizes = {"images": len(images), "tokens": grid.tokens, "width": width}
            check_shape(f"features {name}", rows, "images tokens width", **sizes)
        return features

    def responses(self, images: ImageRows) -> np.ndarray:
        """Return mean z-scored responses, float32 of shape (images, modelled units)."""
        return image_means(self.study, images, self.scaler)[:, self.modelled]

    def folds(self, n_folds: int) -> np.ndarray:
        """Deal training images out to folds."""
        n = len(self.images)
        if n < 2:
            raise InputError(f"subject {self.study.subject}", expected="2 training images", found=str(n))
        return group_folds(np.arange(n), min(n_folds, n))


ConfigT = TypeVar("ConfigT", bound=Config)
MapT = TypeVar("MapT", bound=UnitMap)


class ImageModel(ABC, Generic[ConfigT, MapT]):
    """An `ImageEncoder` that fits one map a subject; what the map is, is left to the models.

    Parameters
    ----------
    config : Config
    context : FitContext

    Attributes
    ----------
    history_ : list of dict
        One row a validated epoch, with ``subject`` by number; empty for closed forms.
    """

    name: ClassVar[str]
    config_class: ClassVar[type[Config]]
    presets: ClassVar[Mapping[str, Config]]
    needs: ClassVar[Part]

    def __init__(self, config: ConfigT, context: FitContext) -> None:
        self.config, self.context = config, context
        self.history_: list[dict[str, float]] = []

    @abstractmethod
    def _fit_subject(self, number: int, data: SubjectData) -> MapT:
        """Fit the map of one subject, the `number`-th."""

    @abstractmethod
    def _restore(self, subject: str, tensors: Mapping[str, Tensor]) -> MapT:
        """Make the map of one subject from its tensors."""

    @classmethod
    def preset(cls, name: str) -> Any:
        """Return the config of a preset."""
        check_option("preset", name, cls.presets)
        return cls.presets[name]

    @property
    def n_parameters(self) -> int:
        """Number of fitted parameters, of all subjects."""
        self._check_fitted()
        return sum(unit_map.n_parameters for unit_map in self._maps.values())

    def fit(self, train: Cohort, validation: Cohort, features: Sequence[FeatureSource]) -> Self:
        """Fit a map for each subject to its training rows; closed forms have no use for validation rows.

        Parameters
        ----------
        train, validation : Cohort
            Of the same studies.
        features : sequence of FeatureSource
            All that have what the model needs are used.
        """
        check_sources(features)
        check_match("`validation`", {"subjects": train.subjects}, {"subjects": validation.subjects})
        self._sources = {source.name: source for source in features if has_part(source.grid, self.needs)}
        if not self._sources:
            names = ", ".join(source.name for source in features)
            raise InputError("`features`", expected=f"a source with {LACKING[self.needs]}", found=names)
        self._grids = {name: source.grid for name, source in self._sources.items()}
        self.facts_ = describe_fit(train, self._sources, self.context.split_hash)
        self.facts_["grids"] = {name: grid.describe() for name, grid in self._grids.items()}
        self.facts_["shapes"] = {s.subject: list(s.responses.shape[1:]) for s in train.studies}
        self.facts_["queries"] = {}
        self.history_ = []
        self._scalers: dict[str, UnitScaler] = {}
        self._maps: dict[str, MapT] = {}
        for number, ((study, rows), held_out) in enumerate(zip(train, validation.rows, strict=True)):
            data = self._prepare(study, rows, held_out)
            self._maps[study.subject] = self._fit_subject(number, data)
            self._scalers[study.subject] = data.scaler
        self.facts_["history"] = self.history_
        self._recipes = recipe_tensors(train)
        return self

    def _prepare(self, study: Study, rows: np.ndarray, held_out: np.ndarray) -> SubjectData:
        if study.stimuli is None:
            raise InputError(f"subject {study.subject}", expected="stimuli", found="unlabelled recordings")
        flat, shape = flatten_times(study)
        images = ImageRows.of(study, rows)
        scaler = fit_scaler(flat, images, weight_by_signal=False)
        modelled = scaler.gain > 0
        if not modelled.any():
            raise InputError(
                f"subject {study.subject}",
                expected="a unit whose responses vary and are all there",
                found="none",
            )
        n_times = shape[1] if len(shape) == 2 else 1
        held = ImageRows.of(study, held_out)
        return SubjectData(flat, rows, held_out, images, held, scaler, modelled, n_times, self._sources)

    def predict(self, images: np.ndarray | Mapping[str, Rows], subject: str | None = None) -> np.ndarray:
        """Predict the responses of one subject to images, or to features by the name of their source.

        Units that are not modelled are predicted by their training mean (constant ones) or as NaN (missing ones).

        Returns
        -------
        array of float32 of shape (images, units), or (images, channels, times)
        """
        subject = self._subject(subject)
        targets = self.facts_["targets"]
        shapes = {name: (targets[name]["tokens"], targets[name]["width"]) for name in targets}
        rows = rows_by_source(images, shapes, self._sources)
        n_images, scaler = len(next(iter(rows.values()))), self._scalers[subject]
        responses = np.repeat(scaler.mean[None], n_images, axis=0)  # (images, units)
        modelled = scaler.gain > 0
        if n_images:
            responses[:, modelled] += self._maps[subject].predict(rows) / scaler.gain[modelled]
        return responses.reshape(n_images, *self.facts_["shapes"][subject])

    def _subject(self, subject: str | None) -> str:
        """Return the subject that is meant."""
        self._check_fitted()
        return check_subject(subject, self._maps)

    def save(self, folder: Path, card: Mapping[str, Any] | None = None) -> None:
        """Write the map of each subject, config.json and README.md."""
        self._check_fitted()
        adapters = {
            subject: unit_scaler_tensors(self._scalers[subject]) | add_prefix("map.", unit_map.tensors())
            for subject, unit_map in self._maps.items()
        }
        saved = SavedModel.of(
            self.name,
            self.config,
            self.context,
            self.facts_,
            adapters=adapters,
            recipes=self._recipes,
            shared=grid_tensors(self._grids),
        )
        save_model(folder, saved, card)

    @classmethod
    def load(
        cls,
        folder: Path,
        cohort: Cohort | None = None,
        device: str = "cpu",
        *,
        seed: int | None = None,
        features: Sequence[FeatureSource] = (),
    ) -> Self:
        """Read a saved model; one of other data than `cohort` or of other `features` is an error naming both sides.

        Sources that lack what the model needs are left out here as they were in `fit`.
        """
        usable = [source for source in features if has_part(source.grid, cls.needs)]
        saved = open_model(folder, cls.name, seed=seed, cohort=cohort, sources=usable)
        facts = saved.facts
        model = cls(saved.read_config(cls.config_class, folder), saved.context(folder, device))  # type: ignore[arg-type]
        model.facts_, model._recipes = facts, saved.recipes
        model.history_ = facts["history"]
        model._sources = {source.name: source for source in features if source.name in facts["targets"]}
        model._grids = restore_grids(saved.shared, facts["grids"])
        model._scalers, model._maps = {}, {}
        for subject, tensors in saved.adapters.items():
            model._scalers[subject] = restore_unit_scaler(tensors, UnitScaler)
            model._maps[subject] = model._restore(subject, take_prefix("map.", tensors))
        return model

    def _check_fitted(self) -> None:
        if not hasattr(self, "_recipes"):
            raise InputError(self.name, expected="a fitted encoder", found="an unfitted one", hint="call fit")


def has_part(grid: Grid, part: Part) -> bool:
    """Return whether a source has what a model needs: a class token, tokens with a place, or tokens of either kind."""
    if part == "cls":
        return grid.has_cls
    return bool(placed_tokens(grid).any()) or (part == "tokens" and grid.has_cls)
