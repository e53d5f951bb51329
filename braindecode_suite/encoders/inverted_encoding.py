"""Decode by turning an encoding model around: how images drive responses, read backwards with its noise.

Ridge from responses to latents asks every voxel the same question; an encoding model knows which voxels answer to images
at all, how noisy each is and which noise they share, and so weighs them by what they say about the image.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from braindecode_suite.core.checks import check_option
from braindecode_suite.core.config import Config
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.latents import ROLES, Latents, Target
from braindecode_suite.core.protocols import FitContext
from braindecode_suite.core.study import Cohort, Study
from braindecode_suite.learning.checkpoints import (
    SavedModel,
    check_cohort,
    describe_fit,
    open_model,
    recipe_tensors,
    save_model,
)
from braindecode_suite.learning.image_prior import (
    RELATIVE_PENALTIES,
    EncodingFit,
    LinearLikelihood,
    fit_encoding,
)
from braindecode_suite.learning.model_tensors import add_prefix, take_prefix
from braindecode_suite.learning.responses import ImageRows, UnitScaler, image_means, read_blocks

NAME = "inverted-encoding"


class InvertedEncodingConfig(Config):
    """What the encoding model may choose from.

    Attributes
    ----------
    shrinkage : float
        How far the noise covariance is drawn to its diagonal.
    min_r2 : float
        Units with less variance explained (leave-one-image-out) are left out...
    min_units : int
        ...but never all: this many of the best stay.
    penalties : tuple of float
        Of the ridge from latent to unit, relative to the mean squared norm of a centred latent.
    """

    shrinkage: Annotated[float, Field(gt=0, le=1)] = 0.9
    min_r2: Annotated[float, Field(lt=1)] = 0.02
    min_units: PositiveInt = 20
    penalties: tuple[PositiveFloat, ...] = RELATIVE_PENALTIES


class InvertedEncoding:
    """Linear encoding model with correlated noise and a Gaussian prior over latents, read backwards (a `BrainEncoder`).

    ``x = B z + noise`` is fitted by ridge, unit by unit, penalties by leave-one-image-out error; predicted latents are
    the posterior means of z under a Gaussian with the variances of the training latents (Schoenmakers et al. 2013,
    doi:10.1016/j.neuroimage.2013.07.043). They keep all that the responses say: with `likelihood_of` a prior of another
    shape can take the Gaussian's place. Memory grows with images squared and images times units: for a few thousand
    training images at most.

    Parameters
    ----------
    config : InvertedEncodingConfig
    context : FitContext

    Attributes
    ----------
    history_ : list
        Empty: the solution is in closed form.
    units_used_ : dict of str to dict of str to int
        Units kept, by subject and role.
    """

    config_class: ClassVar[type[InvertedEncodingConfig]] = InvertedEncodingConfig
    PRESETS: ClassVar[tuple[str, ...]] = ("default",)

    def __init__(self, config: InvertedEncodingConfig, context: FitContext) -> None:
        self.config, self.context = config, context
        self.history_: list[dict[str, float]] = []
        self._fits: dict[tuple[str, str], EncodingFit] = {}

    @classmethod
    def preset(cls, name: str) -> InvertedEncodingConfig:
        """Return the config of a preset."""
        check_option("preset", name, cls.PRESETS)
        return InvertedEncodingConfig()

    def fit(self, train: Cohort, validation: Cohort, targets: Mapping[str, Target]) -> InvertedEncoding:
        """Fit each subject on its training and validation rows: nothing is chosen on the latter.

        Parameters
        ----------
        train, validation : Cohort
            Of the same studies. The rows of an image are averaged first.
        targets : dict of role to Target
            Roles of one target share a fit.
        """
        for role in targets:
            check_option("role", role, ROLES)
        if not targets:
            raise InputError("`targets`", expected="at least one role", found="none")
        self._facts = describe_fit(train, targets, self.context.split_hash)
        self._recipes = recipe_tensors(train)
        self._fits = {}
        late = {study.subject: rows for study, rows in validation}
        for study, rows in train:
            rows = np.concatenate([rows, late.get(study.subject, rows[:0])])
            images = ImageRows.of(study, rows)
            as_is = UnitScaler(np.zeros(study.n_units, np.float32), np.ones(study.n_units, np.float32))
            responses = image_means(study, images, as_is)
            known: dict[str, EncodingFit] = {}
            for role, target in targets.items():
                if target.name not in known:
                    true = target.embed(train.stimuli, list(images.ids)).select(images.ids).flat
                    known[target.name] = self._fit_one(responses, true)
                self._fits[study.subject, role] = known[target.name]
        self.units_used_ = {
            subject: {role: len(fit.units) for (whose, role), fit in self._fits.items() if whose == subject}
            for subject in train.subjects
        }
        return self.shrink(self.config.shrinkage)

    def _fit_one(self, responses: np.ndarray, true: np.ndarray) -> EncodingFit:
        config = self.config
        return fit_encoding(
            responses, true, penalties=config.penalties, min_r2=config.min_r2, min_units=config.min_units
        )

    def shrink(self, shrinkage: float) -> InvertedEncoding:
        """Take another shrinkage of the noise covariance, without fitting again."""
        if not self._fits:
            raise InputError(NAME, expected="an encoder fitted here", found="none", hint="call fit")
        n_units = {study["subject"]: study["n_units"] for study in self._sizes()}
        self._maps = {key: _Map.of(fit, shrinkage, n_units[key[0]]) for key, fit in self._fits.items()}
        self.config = self.config.model_copy(update={"shrinkage": shrinkage})
        return self

    def _sizes(self) -> list[dict[str, Any]]:
        pairs = zip(self._facts["subjects"], self._facts["spaces"], strict=True)
        return [{"subject": subject, "n_units": space["n_units"]} for subject, space in pairs]

    def likelihood_of(self, role: str = "image", subject: str | None = None) -> LinearLikelihood:
        """Return what the predicted latents of a role mean; `subject` may be left out where there is only one."""
        self._check_fitted()
        subjects = self._facts["subjects"]
        if subject is None and len(subjects) > 1:
            raise InputError("`subject`", expected=f"one of {', '.join(subjects)}", found="nothing")
        subject = subjects[0] if subject is None else subject
        check_option("subject", subject, subjects)
        check_option("role", role, self._facts["targets"])
        return self._maps[subject, role].likelihood

    def predict(self, cohort: Cohort, seed: int = 0) -> dict[str, Latents]:
        """Return the Gaussian posterior mean of the latents of every row; `seed` changes nothing."""
        self._check_fitted()
        check_cohort(self._facts, cohort, f"model {NAME!r}")
        found = {}
        for role, target in self._facts["targets"].items():
            shape = (-1, target["tokens"], target["width"])
            parts = [np.empty((0, *shape[1:]), np.float32)]
            for study, rows in cohort:
                parts += [part.reshape(shape) for part in self._predict_study(study, rows, role)]
            found[role] = Latents(np.concatenate(parts), cohort.stimulus_ids, target["name"], "predicted")
        return found

    def _predict_study(self, study: Study, rows: np.ndarray, role: str) -> list[np.ndarray]:
        chosen = self._maps[study.subject, role]
        return [chosen.apply(block).astype(np.float32) for _, block in read_blocks(study, rows)]

    def save(self, folder: Path, card: Mapping[str, Any] | None = None) -> None:
        """Write the fitted arrays, the config and what the model was fitted on."""
        self._check_fitted()
        adapters: dict[str, dict[str, Tensor]] = {subject: {} for subject in self._facts["subjects"]}
        for (subject, role), one in self._maps.items():
            adapters[subject] |= add_prefix(f"{role}.", one.tensors())
        facts = {**self._facts, "units_used": self.units_used_}
        saved = SavedModel.of(
            NAME, self.config, self.context, facts, adapters=adapters, recipes=self._recipes
        )
        save_model(folder, saved, card)

    @classmethod
    def load(
        cls, folder: Path, cohort: Cohort | None = None, device: str = "cpu", *, seed: int | None = None
    ) -> InvertedEncoding:
        """Read a saved model; one of other data than `cohort` is an `InputError` naming both sides."""
        saved = open_model(folder, NAME, seed=seed, cohort=cohort)
        model = cls(saved.read_config(InvertedEncodingConfig, folder), saved.context(folder, device))
        model._facts, model._maps, model._recipes = dict(saved.facts), {}, saved.recipes
        model.units_used_ = model._facts.pop("units_used")
        for subject, tensors in saved.adapters.items():
            for role in saved.facts["targets"]:
                model._maps[subject, role] = _Map.from_tensors(take_prefix(f"{role}.", tensors))
        return model

    def _check_fitted(self) -> None:
        if not hasattr(self, "_maps"):
            raise InputError(NAME, expected="a fitted encoder", found="an unfitted one", hint="call fit")


@dataclass(frozen=True, eq=False)
class _Map:
    """Responses of one subject to evidence and estimates in one latent space.

    Attributes
    ----------
    mean, gain : array of shape (units,)
        The gain of units that are not used is zero.
    readout : array of shape (units, rank)
    likelihood : LinearLikelihood
    """

    mean: np.ndarray
    gain: np.ndarray
    readout: np.ndarray
    likelihood: LinearLikelihood

    @classmethod
    def of(cls, fit: EncodingFit, shrinkage: float, n_units: int) -> _Map:
        likelihood, kept = fit.likelihood(shrinkage)
        mean, gain, readout = np.zeros(n_units), np.zeros(n_units), np.zeros((n_units, kept.shape[1]))
        mean[fit.units], gain[fit.units], readout[fit.units] = fit.unit_mean, 1 / fit.unit_scale, kept
        return cls(mean, gain, readout, likelihood)

    def apply(self, responses: np.ndarray) -> np.ndarray:
        return self.likelihood.estimate(((responses - self.mean) * self.gain) @ self.readout)

    def tensors(self) -> dict[str, Tensor]:
        arrays = {
            "unit_mean": self.mean,
            "unit_gain": self.gain,
            "readout": self.readout,
            **vars(self.likelihood),
        }
        return {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> _Map:
        arrays = {key: tensor.numpy() for key, tensor in tensors.items()}
        mean, gain, readout = (arrays.pop(name) for name in ("unit_mean", "unit_gain", "readout"))
        return cls(mean, gain, readout, LinearLikelihood(**arrays))
