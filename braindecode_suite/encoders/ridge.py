"""Ridge regression from voxels, or from windows of sensors, to latents: the linear baseline, tuned as hard as the deep models beside it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import PositiveInt, model_validator

from braindecode_suite.core.checks import check_match, check_option
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
from braindecode_suite.learning.folds import group_folds
from braindecode_suite.learning.masked_rows import MaskedScaler, fit_masked_scaler, scratch_rows, write_rows
from braindecode_suite.learning.model_tensors import restore_unit_scaler, unit_scaler_tensors
from braindecode_suite.learning.penalties import RELATIVE_ALPHAS
from braindecode_suite.learning.responses import (
    ImageRows,
    UnitScaler,
    fit_scaler,
    flatten_times,
    image_means,
    read_blocks,
)
from braindecode_suite.learning.ridge import cached_ridge_cv
from braindecode_suite.learning.ridge_form import MAX_MEMORY
from braindecode_suite.learning.ridge_warnings import RidgeWarning


class RidgeConfig(Config):
    """How the ridge baseline is fitted.

    Attributes
    ----------
    alphas : tuple of float
        Penalties, relative to the mean eigenvalue of the Gram matrix; each target dimension takes its own.
    n_folds : int
        Folds of the cross-validation over training images that chooses them.
    repeats : {'mean', 'each'}
        Whether the repeats of a training image are averaged or are rows of their own (in one fold).
    weight_by_signal : bool
        Whether units are weighted by how well their repeats agree, see `learning.responses.fit_scaler`. Not done where responses
        have times.
    people : {'each', 'pooled'}
        Whether each person has a map, or all share one, fitted to the rows of all, each person's units standardised apart.
    unknown_subjects : {'refuse', 'mean'}
        What to do with a person that it was not fitted to: an error, or the shared map behind the mean standardisation of the people
        it knows, with a warning. Only where people are pooled.
    every : int
        So many neighbouring samples are averaged before the times of a sensor stand side by side as units.
    max_memory : int
        Bytes that the solver may take beyond data and results.
    """

    alphas: tuple[float, ...] = RELATIVE_ALPHAS
    n_folds: PositiveInt = 5
    repeats: Literal["mean", "each"] = "mean"
    weight_by_signal: bool = True
    people: Literal["each", "pooled"] = "each"
    unknown_subjects: Literal["refuse", "mean"] = "refuse"
    every: PositiveInt = 1
    max_memory: PositiveInt = MAX_MEMORY

    @model_validator(mode="after")
    def _one_map_for_strangers(self) -> RidgeConfig:
        if self.unknown_subjects == "mean" and self.people != "pooled":
            raise ValueError("unknown_subjects: 'mean' needs one map for all, people: pooled")
        return self


PRESETS: dict[str, RidgeConfig] = {
    "default": RidgeConfig(),
    "trials": RidgeConfig(repeats="each"),  # every single trial is a row
    "pooled": RidgeConfig(repeats="each", people="pooled"),
}


class RidgeEncoder:
    """One ridge regression per subject and role, with a penalty per latent dimension.

    Responses (rows, sensors, times) are flattened: every sample of a sensor is a unit. A sensor that is missing (NaN) in all
    training rows has no weight; one that is missing in some has the training mean there, and ``facts_['imputed']`` counts both.
    The solver takes the side of the rows or of the units, whichever is cheaper; rows that do not fit in memory lie in a file.

    Penalties are chosen by k-fold cross-validation over training images. Standardising the targets changes nothing here:
    every dimension has its own penalty, chosen by its own explained variance. Validation rows are not used.

    Parameters
    ----------
    config : RidgeConfig
    context : FitContext

    Attributes
    ----------
    history_ : list
        Empty: the solution is closed form.
    penalties_ : dict of str to array of shape (subjects, dimensions)
        Chosen penalties by role; NaN for a dimension that never varies.
    cv_r2_ : dict of str to array of shape (subjects, dimensions)
        Cross-validated share of variance explained, by role; NaN for a dimension that never varies.
    warnings_ : list of str
        What `predict` had to say.
    """

    config_class: ClassVar[type[RidgeConfig]] = RidgeConfig
    PRESETS: ClassVar[tuple[str, ...]] = tuple(PRESETS)

    def __init__(self, config: RidgeConfig, context: FitContext) -> None:
        self.config, self.context = config, context
        self.history_: list[dict[str, float]] = []
        self.warnings_: list[str] = []

    @classmethod
    def preset(cls, name: str) -> RidgeConfig:
        """Return the config of a preset: default, trials or pooled."""
        check_option("preset", name, PRESETS)
        return PRESETS[name]

    @property
    def n_parameters(self) -> int:
        """Number of fitted weights and intercepts."""
        self._check_fitted()
        maps = list(self._maps.values())[: 1 if self.config.people == "pooled" else None]
        return sum(mapping.coef.size + mapping.intercept.size for mapping in maps)

    def fit(self, train: Cohort, validation: Cohort, targets: Mapping[str, Target]) -> RidgeEncoder:
        """Fit one map per subject to all targets at once; roles of one target share it."""
        for role in targets:
            check_option("role", role, ROLES)
        if not targets:
            raise InputError("`targets`", expected="at least one role", found="none")
        self.facts_ = describe_fit(train, targets, self.context.split_hash)
        unique = {target.name: target for target in targets.values()}
        self._roles = {role: target.name for role, target in targets.items()}
        self._shapes = {name: (target.tokens, target.width) for name, target in unique.items()}
        self._maps: dict[str, _SubjectMap] = {}
        r2: dict[str, list[np.ndarray]] = {name: [] for name in unique}
        penalties: dict[str, list[np.ndarray]] = {name: [] for name in unique}
        imputed: dict[str, dict[str, int]] = {}
        pooled = self.config.people == "pooled"
        for cohort in [train] if pooled else [Cohort.of(study, rows) for study, rows in train]:
            seen = [ImageRows.of(study, rows) for study, rows in cohort]
            ids = np.array(list(dict.fromkeys(np.concatenate([images.ids for images in seen]))), dtype=object)
            Y = [_flat(target.embed(train.stimuli, list(ids)), ids) for target in unique.values()]
            fit = (
                self._fit_many if pooled or len(cohort.studies[0].responses.shape) == 3 else self._fit_subject
            )
            maps, fit_alpha, fit_r2 = fit(cohort, seen, ids, np.concatenate(Y, axis=1), imputed)
            self._maps |= dict(zip(cohort.subjects, maps, strict=True))
            start = 0
            for name, y in zip(unique, Y, strict=True):
                penalties[name].append(fit_alpha[start : start + y.shape[1]])
                r2[name].append(fit_r2[start : start + y.shape[1]])
                start += y.shape[1]
        if imputed:
            self.facts_["imputed"] = imputed
        self.penalties_ = {role: np.stack(penalties[name]) for role, name in self._roles.items()}
        self.cv_r2_ = {role: np.stack(r2[name]) for role, name in self._roles.items()}
        self._recipes = recipe_tensors(train)
        return self

    def _fit_subject(
        self,
        cohort: Cohort,
        seen: list[ImageRows],
        ids: np.ndarray,
        Y: np.ndarray,
        imputed: dict[str, dict[str, int]],
    ) -> tuple[list[_SubjectMap], np.ndarray, np.ndarray]:
        """Fit one person's map of (rows, units)."""
        study, images = cohort.studies[0], seen[0]
        scaler = fit_scaler(study, images, weight_by_signal=self.config.weight_by_signal)
        if self.config.repeats == "mean":
            X, image = image_means(study, images, scaler), np.arange(len(images))
        else:
            rows = np.concatenate(images.rows)
            X = np.concatenate([scaler.apply(block) for _, block in read_blocks(study, rows)])
            image = np.repeat(np.arange(len(images)), [len(group) for group in images.rows])
        folds = group_folds(image, min(self.config.n_folds, len(images)))
        fit = cached_ridge_cv(
            (self.context.cache_dir or self.context.work_dir) / "ridge",
            X,
            Y[image],
            folds=folds,
            alphas=self.config.alphas,
            max_memory=self.config.max_memory,
        )
        mapping = _SubjectMap(scaler, fit.coef, fit.intercept)
        return [mapping], fit.alpha, np.fmax.reduce(fit.cv_r2, axis=0)

    def _fit_many(
        self,
        cohort: Cohort,
        seen: list[ImageRows],
        ids: np.ndarray,
        Y: np.ndarray,
        imputed: dict[str, dict[str, int]],
    ) -> tuple[list[_SubjectMap], np.ndarray, np.ndarray]:
        """Fit one map to the flattened rows of all of a cohort's people, each standardised apart; an image lies in one fold."""
        self._check_poolable(cohort)
        mean, position = self.config.repeats == "mean", {i: k for k, i in enumerate(ids)}
        flat = [flatten_times(study, every=self.config.every)[0] for study in cohort.studies]
        scalers: list[MaskedScaler] = []
        for study, rows in zip(flat, cohort.rows, strict=True):
            scaler, missing = fit_masked_scaler(study, rows)
            scalers.append(scaler)
            imputed[study.subject] = {
                "units": len(missing),
                "missing_in_all": int((missing == len(rows)).sum()),
                "missing_in_some": int(((missing > 0) & (missing < len(rows))).sum()),
                "imputed_values": int(missing[missing < len(rows)].sum()),
            }
        sizes = [[1 if mean else len(group) for group in images.rows] for images in seen]
        image = np.concatenate(
            [np.repeat([position[i] for i in images.ids], n) for images, n in zip(seen, sizes, strict=True)]
        )
        folds = group_folds(image, min(self.config.n_folds, len(ids)))
        units = np.flatnonzero(np.any([scaler.gain > 0 for scaler in scalers], axis=0))
        if not len(units):
            raise InputError("responses", expected="units that vary over training rows", found="none")
        with scratch_rows(self.context.work_dir / "ridge", len(image), len(units)) as X:
            start = 0
            for study, images, scaler, n in zip(flat, seen, scalers, sizes, strict=True):
                write_rows(study, images, scaler, units, X[start : start + sum(n)], mean=mean)
                start += sum(n)
            fit = cached_ridge_cv(
                (self.context.cache_dir or self.context.work_dir) / "ridge",
                X,
                Y[image],
                folds=folds,
                alphas=self.config.alphas,
                max_memory=self.config.max_memory,
            )
        coef = np.zeros((len(scalers[0].mean), fit.coef.shape[1]), fit.coef.dtype)
        coef[units] = fit.coef
        maps = [_SubjectMap(scaler, coef, fit.intercept) for scaler in scalers]
        return maps, fit.alpha, np.fmax.reduce(fit.cv_r2, axis=0)

    def _check_poolable(self, cohort: Cohort) -> None:
        first, *others = (study.space.describe() for study in cohort.studies)
        for study, space in zip(cohort.studies[1:], others, strict=True):
            if space != first:
                raise InputError(
                    f"sub-{study.subject}",
                    expected=f"the units of sub-{cohort.subjects[0]}, {first}, so that people can share a map",
                    found=str(space),
                    hint="fit each person apart: people='each'",
                )

    def predict(self, cohort: Cohort, seed: int = 0) -> dict[str, Latents]:
        """Return one row of latents for each row of the cohort, in order; `seed` changes nothing."""
        self._check_fitted()
        known = [study.subject in self.facts_["subjects"] for study in cohort.studies]
        if self.config.unknown_subjects == "refuse" or all(known):
            check_cohort(self.facts_, cohort, "cohort")
        parts: list[np.ndarray] = []
        for study, rows in cohort:
            mapping = self._maps.get(study.subject)
            if mapping is None:
                mapping = self._stranger(study)
            else:
                check_cohort(self.facts_, Cohort.of(study, rows), "cohort")
            flat = flatten_times(study, every=self.config.every)[0]
            parts += [mapping.apply(block) for _, block in read_blocks(flat, rows)]
        width = sum(tokens * width for tokens, width in self._shapes.values())
        whole = np.concatenate(parts) if parts else np.empty((0, width), np.float32)
        latents, start = {}, 0
        for name, (tokens, width) in self._shapes.items():
            values = whole[:, start : start + tokens * width].reshape(len(whole), tokens, width)
            start += tokens * width
            for role in (role for role, of in self._roles.items() if of == name):
                latents[role] = Latents(values, cohort.stimulus_ids, name, "predicted")
        return {role: latents[role] for role in self._roles}

    def _stranger(self, study: Study) -> _SubjectMap:
        """Return the shared map behind the mean standardisation of the people it was fitted to, and say so."""
        where = f"sub-{study.subject}"
        check_match(where, {"dataset": self.facts_["dataset"]}, {"dataset": study.dataset})
        check_match(where, {"space": self.facts_["spaces"][0]}, {"space": study.space.describe()})
        text = (
            f"{where} is none of the people that the map was fitted to ({', '.join(self.facts_['subjects'])}): their mean "
            "standardisation stands in"
        )
        if text not in self.warnings_:
            self.warnings_.append(text)
        warnings.warn(text, RidgeWarning, stacklevel=3)
        maps = list(self._maps.values())
        mean, gain = (
            np.stack([getattr(one.scaler, name) for one in maps]).mean(axis=0, dtype=np.float32)
            for name in ("mean", "gain")
        )
        return _SubjectMap(type(maps[0].scaler)(mean, gain), maps[0].coef, maps[0].intercept)

    def save(self, folder: Path, card: Mapping[str, Any] | None = None) -> None:
        """Write safetensors (one file a subject), config.json and README.md."""
        self._check_fitted()
        adapters = {
            subject: {
                "coef": torch.from_numpy(mapping.coef),
                "intercept": torch.from_numpy(mapping.intercept),
                **unit_scaler_tensors(mapping.scaler),
            }
            for subject, mapping in self._maps.items()
        }
        shared = {f"penalties.{role}": torch.from_numpy(values) for role, values in self.penalties_.items()}
        shared |= {f"cv_r2.{role}": torch.from_numpy(values) for role, values in self.cv_r2_.items()}
        saved = SavedModel.of(
            "ridge",
            self.config,
            self.context,
            self.facts_,
            adapters=adapters,
            recipes=self._recipes,
            shared=shared,
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
        targets: Mapping[str, Target] | None = None,
    ) -> RidgeEncoder:
        """Read a saved model; one of other data than `cohort` or of other `targets` is an error naming both sides."""
        saved = open_model(folder, "ridge", seed=seed, cohort=cohort, targets=targets)
        model = cls(saved.read_config(RidgeConfig, folder), saved.context(folder, device))
        model.facts_, model._recipes = saved.facts, saved.recipes
        model._roles = {role: target["name"] for role, target in saved.facts["targets"].items()}
        model._shapes = {t["name"]: (t["tokens"], t["width"]) for t in saved.facts["targets"].values()}
        model.penalties_ = {role: saved.shared[f"penalties.{role}"].numpy() for role in model._roles}
        model.cv_r2_ = {role: saved.shared[f"cv_r2.{role}"].numpy() for role in model._roles}
        model._maps = {}
        for subject, tensors in saved.adapters.items():
            scaler = restore_unit_scaler(tensors, MaskedScaler if "imputed" in saved.facts else UnitScaler)
            model._maps[subject] = _SubjectMap(scaler, tensors["coef"].numpy(), tensors["intercept"].numpy())
        return model

    def _check_fitted(self) -> None:
        if not hasattr(self, "_maps"):
            raise InputError("ridge", expected="a fitted encoder", found="an unfitted one", hint="call fit")


class _SubjectMap:
    """Scaled units to the latents of all targets, side by side."""

    def __init__(self, scaler: UnitScaler, coef: np.ndarray, intercept: np.ndarray) -> None:
        self.scaler, self.coef, self.intercept = scaler, coef, intercept

    def apply(self, responses: np.ndarray) -> np.ndarray:
        return np.asarray(self.scaler.apply(responses) @ self.coef + self.intercept, dtype=np.float32)


def _flat(latents: Latents, ids: np.ndarray) -> np.ndarray:
    return np.asarray(latents.select(ids).flat, dtype=np.float32)
