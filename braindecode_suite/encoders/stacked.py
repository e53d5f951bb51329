"""Several image encoders stacked: for each unit a convex combination of their predictions (see `learning.stacking`).

Attention routing wins in category-selective areas and loses in early visual ones (Adeli et al. 2025): a stack leaves the
choice to each unit. Its weights come from images that neither fitted nor stopped any member.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field

from braindecode_suite.core.checks import check_match, check_option, check_subject
from braindecode_suite.core.config import Config, build
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.features import FeatureSource, Rows, check_sources
from braindecode_suite.core.protocols import FitContext, ImageEncoder
from braindecode_suite.core.study import Cohort
from braindecode_suite.encoders import IMAGE_ENCODERS
from braindecode_suite.learning.checkpoints import (
    MATCHED,
    SavedModel,
    check_cohort,
    describe_fit,
    open_model,
    recipe_tensors,
    save_model,
)
from braindecode_suite.learning.folds import group_folds
from braindecode_suite.learning.responses import ImageRows, UnitScaler, flatten_times, image_means
from braindecode_suite.learning.stacking import combine, stacking_weights

IMAGES_AT_ONCE = 64
LEAST_IMAGES = 3


class MemberConfig(Config):
    """One model of a stack.

    Attributes
    ----------
    model : str
        Name in the catalogue of image encoders.
    preset : str
    settings : dict
        Entries of its config that differ from the preset's.
    """

    model: str
    preset: str = "tiny"
    settings: dict[str, Any] = Field(default_factory=dict)


class StackedConfig(Config):
    """Members, and where the weights come from.

    Attributes
    ----------
    members : tuple of MemberConfig
    weigh : {'validation', 'folds'}
        ``validation``: half of the validation images stops the members' training, the other half weighs them. ``folds``:
        members are fitted anew without each fold of the training images, and weighed by their predictions of it;
        validation images only stop.
    n_folds : int
        Folds of training images, for ``folds``.
    """

    members: tuple[MemberConfig, ...] = Field(min_length=1)
    weigh: Literal["validation", "folds"] = "validation"
    n_folds: int = Field(default=5, ge=2)


def _members(*names: str) -> tuple[MemberConfig, ...]:
    return tuple(MemberConfig(model=name) for name in names)


class Stacked:
    """A convex combination of image encoders, unit by unit.

    Parameters
    ----------
    config : StackedConfig
    context : FitContext

    Attributes
    ----------
    history_ : list of dict
        Rows of the members, with ``model`` by number.
    """

    config_class: ClassVar[type[StackedConfig]] = StackedConfig
    presets: ClassVar[Mapping[str, StackedConfig]] = {
        "tiny": StackedConfig(
            members=_members("pooled-ridge", "kernel-ridge", "receptive-field", "attention-routing")
        ),
        "linear": StackedConfig(
            members=_members("pooled-ridge", "kernel-ridge", "receptive-field"), weigh="folds"
        ),
    }
    PRESETS: ClassVar[tuple[str, ...]] = tuple(presets)

    def __init__(self, config: StackedConfig, context: FitContext) -> None:
        self.config, self.context = config, context
        self.history_: list[dict[str, float]] = []

    @classmethod
    def preset(cls, name: str) -> StackedConfig:
        """Return the config of a preset."""
        check_option("preset", name, cls.presets)
        return cls.presets[name]

    @property
    def n_parameters(self) -> int:
        """Number of parameters of all members, and of weights."""
        self._check_fitted()
        members = sum(model.n_parameters for model in self._models.values())  # type: ignore[attr-defined]
        return int(members + sum(weights.size for weights in self._weights.values()))

    def fit(self, train: Cohort, validation: Cohort, features: Sequence[FeatureSource]) -> Stacked:
        """Fit the members and weigh them, as the config says.

        Parameters
        ----------
        train, validation : Cohort
            Of the same studies.
        features : sequence of FeatureSource
            Offered to every member.
        """
        check_sources(features)
        check_match("`validation`", {"subjects": train.subjects}, {"subjects": validation.subjects})
        if self.config.weigh == "validation":
            stopping, weighing = _halve(validation, self.context.seed)
            models = self._fit_members(train, stopping, features, "all")
            weights = _weigh(models, weighing, features)
        else:
            held_out = _deal_out(train, self.config.n_folds)
            parts = []
            for fold, (others, rows) in enumerate(held_out):
                fitted = self._fit_members(others, validation, features, f"fold-{fold}")
                parts.append(_predictions(fitted, rows, features))
            weights = _solve(parts)
            models = self._fit_members(train, validation, features, "all")
        self._keep(models, weights, train, features)
        return self

    @classmethod
    def of_fitted(
        cls,
        models: Mapping[str, ImageEncoder],
        weighing: Cohort,
        features: Sequence[FeatureSource],
        context: FitContext,
    ) -> Stacked:
        """Stack models that are fitted already.

        Parameters
        ----------
        models : mapping of a name to ImageEncoder
            All of the same subjects; they may be of the same kind, and of different features.
        weighing : Cohort
            Rows of the subjects that neither fitted nor stopped any of the models: that is for the caller to see to.
        features : sequence of FeatureSource
            All that the models were fitted to.
        context : FitContext

        Raises
        ------
        InputError
            If the models are of different data.
        """
        check_sources(features)
        kinds = {name: _kind(model) for name, model in models.items()}
        stack = cls(
            StackedConfig(members=tuple(MemberConfig(model=kind) for kind in kinds.values())), context
        )
        for name, model in models.items():
            check_cohort(_facts(model), weighing, name)
        stack._keep(dict(models), _weigh(models, weighing, features), weighing, features)
        return stack

    def weights(self, subject: str | None = None) -> dict[str, np.ndarray]:
        """Return the weights of one subject's units by model, arrays of the shape of a response."""
        subject = self._subject(subject)
        shape = self.facts_["shapes"][subject]
        return {
            name: row.reshape(shape) for name, row in zip(self._models, self._weights[subject], strict=True)
        }

    def predict(self, images: np.ndarray | Mapping[str, Rows], subject: str | None = None) -> np.ndarray:
        """Predict the responses of one subject to images, or to features by the name of their source.

        Returns
        -------
        array of float32 of shape (images, units), or (images, channels, times)
        """
        subject = self._subject(subject)
        shape = self.facts_["shapes"][subject]
        if isinstance(images, Mapping):
            return self._combine(images, subject).reshape(-1, *shape)
        self._check_sources()
        blocks = [images[k : k + IMAGES_AT_ONCE] for k in range(0, len(images), IMAGES_AT_ONCE)]
        parts = [  # the members share what is read of an image
            self._combine(
                {
                    name: source.embed_images(block).astype(np.float16)
                    for name, source in self._sources.items()
                },
                subject,
            )
            for block in blocks
        ]
        return np.concatenate([np.empty((0, *shape), np.float32), *(p.reshape(-1, *shape) for p in parts)])

    def _combine(self, features: Mapping[str, Rows], subject: str) -> np.ndarray:
        weights = self._weights[subject]
        predicted = [model.predict(features, subject) for model in self._models.values()]
        return combine(weights, [p.reshape(len(p), weights.shape[1]) for p in predicted])

    def _check_sources(self) -> None:
        for name in self.facts_["targets"]:
            if name not in self._sources:
                raise InputError(
                    f"features {name!r}",
                    expected="a source to read images with",
                    found="none",
                    hint="give the model's features",
                )

    def _fit_members(
        self, train: Cohort, stopping: Cohort, features: Sequence[FeatureSource], part: str
    ) -> dict[str, ImageEncoder]:
        context = self.context
        fitted: dict[str, ImageEncoder] = {}
        for number, member in enumerate(self.config.members):
            check_option("model", member.model, IMAGE_ENCODERS)
            cls = IMAGE_ENCODERS[member.model]
            settings = cls.preset(member.preset).model_dump(mode="json") | member.settings
            config = build(cls.config_class, settings, f"settings of {member.model}")
            own = FitContext(
                **{
                    **vars(context),
                    "work_dir": context.work_dir / "stacked" / f"{part}_member-{number}",
                }
            )
            fitted[f"{number}-{member.model}"] = cls(config, own).fit(train, stopping, features)
        return fitted

    def _keep(
        self,
        models: dict[str, ImageEncoder],
        weights: dict[str, np.ndarray],
        cohort: Cohort,
        features: Sequence[FeatureSource],
    ) -> None:
        used = {name for model in models.values() for name in _facts(model)["targets"]}
        self._sources = {source.name: source for source in features if source.name in used}
        first = next(iter(models))
        for name, model in models.items():
            expected = {key: _facts(models[first])[key] for key in MATCHED}
            check_match(f"{name} and {first}", expected, _facts(model))
        self._models, self._weights, self._recipes = models, weights, recipe_tensors(cohort)
        self.history_ = [
            {"model": float(k)} | row for k, model in enumerate(models.values()) for row in model.history_
        ]
        self.facts_ = describe_fit(cohort, self._sources, self.context.split_hash)
        self.facts_ |= {
            "shapes": {s.subject: list(s.responses.shape[1:]) for s in cohort.studies},
            "models": {name: _kind(model) for name, model in models.items()},
            "features": {name: list(_facts(model)["targets"]) for name, model in models.items()},
        }

    def _subject(self, subject: str | None) -> str:
        self._check_fitted()
        return check_subject(subject, self._weights)

    def save(self, folder: Path, card: Mapping[str, Any] | None = None) -> None:
        """Write the members, each in a folder of its own, the weights, config.json and README.md.

        The members lie in a new folder until ``config.json`` names it; what an earlier save left is deleted then.
        """
        self._check_fitted()
        key = f"stacked_seed-{self.context.seed}_members"
        members = folder / f"{key}-{uuid.uuid4().hex[:12]}"
        for number, encoder in enumerate(self._models.values()):
            encoder.save(members / str(number))
        saved = SavedModel.of(
            "stacked",
            self.config,
            self.context,
            self.facts_ | {"members": members.name},
            adapters={s: {"weights": torch.from_numpy(weights)} for s, weights in self._weights.items()},
            recipes=self._recipes,
        )
        save_model(folder, saved, card)
        for old in folder.glob(f"{key}-*"):
            if old != members:
                shutil.rmtree(old)

    @classmethod
    def load(
        cls,
        folder: Path,
        cohort: Cohort | None = None,
        device: str = "cpu",
        *,
        seed: int | None = None,
        features: Sequence[FeatureSource] = (),
    ) -> Stacked:
        """Read a saved model; one of other data than `cohort` or of other `features` is an error naming both sides."""
        saved = open_model(folder, "stacked", seed=seed, cohort=cohort, sources=features)
        facts = saved.facts
        stack = cls(saved.read_config(StackedConfig, folder), saved.context(folder, device))
        stack._models, stack._recipes = {}, saved.recipes
        for number, (name, kind) in enumerate(facts["models"].items()):
            own = [source for source in features if source.name in facts["features"][name]]
            path = folder / facts["members"] / str(number)
            stack._models[name] = IMAGE_ENCODERS[kind].load(path, cohort, device, features=own)
        stack.facts_ = {key: value for key, value in facts.items() if key != "members"}
        stack.history_ = [
            {"model": float(k)} | row
            for k, model in enumerate(stack._models.values())
            for row in model.history_
        ]
        stack._sources = {source.name: source for source in features}
        stack._weights = {s: tensors["weights"].numpy() for s, tensors in saved.adapters.items()}
        return stack

    def _check_fitted(self) -> None:
        if not hasattr(self, "_models"):
            raise InputError("stacked", expected="a fitted encoder", found="an unfitted one", hint="call fit")


Predictions = dict[str, tuple[list[np.ndarray], np.ndarray]]
"""By subject: predictions (images, units) of each model, and the measured means."""


def _predictions(
    models: Mapping[str, ImageEncoder], cohort: Cohort, features: Sequence[FeatureSource]
) -> Predictions:
    """Predict the images of a cohort with each model, and average what was measured over their repeats."""
    found: Predictions = {}
    for study, rows in cohort:
        images = ImageRows.of(study, rows)
        if len(images) < LEAST_IMAGES:
            expected = f"at least {LEAST_IMAGES} images of sub-{study.subject} to weigh models with"
            raise InputError("stacked", expected=expected, found=str(len(images)))
        tokens = {source.name: source.rows(cohort.stimuli, list(images.ids)) for source in features}
        predicted = [model.predict(tokens, study.subject) for model in models.values()]
        flat, _ = flatten_times(study)
        n_units = flat.responses.shape[1]
        as_it_is = UnitScaler(np.zeros(n_units, np.float32), np.ones(n_units, np.float32))
        measured = image_means(flat, images, as_it_is)
        found[study.subject] = [p.reshape(len(p), -1) for p in predicted], measured
    return found


def _solve(parts: Sequence[Predictions]) -> dict[str, np.ndarray]:
    """Return the weights (models, units) of each subject from its predictions in all parts together."""
    weights = {}
    for subject in parts[0]:
        predicted = [
            np.concatenate(arrays) for arrays in zip(*(part[subject][0] for part in parts), strict=True)
        ]
        measured = np.concatenate([part[subject][1] for part in parts])
        weights[subject] = stacking_weights(predicted, measured)
    return weights


def _weigh(
    models: Mapping[str, ImageEncoder], cohort: Cohort, features: Sequence[FeatureSource]
) -> dict[str, np.ndarray]:
    return _solve([_predictions(models, cohort, features)])


def _halve(validation: Cohort, seed: int) -> tuple[Cohort, Cohort]:
    """Split a cohort in two by image; an image that several subjects saw goes to the same half for all."""
    ids = np.array(sorted(set(validation.stimulus_ids)), dtype=object)
    order = np.random.default_rng([seed, 3]).permutation(len(ids))
    first = set(ids[order[: len(ids) // 2]])
    return _pick(validation, lambda i: i in first), _pick(validation, lambda i: i not in first)


def _deal_out(train: Cohort, n_folds: int) -> list[tuple[Cohort, Cohort]]:
    """Return (the others, the fold) for each fold of images, the same for all subjects."""
    ids = sorted(set(train.stimulus_ids))
    fold_of = dict(zip(ids, group_folds(ids, n_folds), strict=True))
    return [
        (_pick(train, lambda i, k=k: fold_of[i] != k), _pick(train, lambda i, k=k: fold_of[i] == k))  # type: ignore[misc]
        for k in range(n_folds)
    ]


def _pick(cohort: Cohort, wanted: Callable[[str], bool]) -> Cohort:
    rows = [rows[[wanted(i) for i in study.stimulus_ids[rows]]] for study, rows in cohort]
    return Cohort(cohort.studies, tuple(rows))


def _facts(model: ImageEncoder) -> dict[str, Any]:
    facts: dict[str, Any] = model.facts_  # type: ignore[attr-defined]
    return facts


def _kind(model: ImageEncoder) -> str:
    """Return the name of a model in the catalogue."""
    for name in IMAGE_ENCODERS:
        if type(model) is IMAGE_ENCODERS[name]:
            return name
    raise InputError("`models`", expected="image encoders of the catalogue", found=type(model).__name__)
