"""One fitted model: fit or read back, predictions for test trials and the training part's images, the folder it is saved in."""

from __future__ import annotations

import shutil
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from braindecode_suite.core.checks import check_option
from braindecode_suite.core.config import Config, build
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.files import data_hash
from braindecode_suite.core.latents import Latents, Target
from braindecode_suite.core.protocols import FitContext
from braindecode_suite.core.recipe import Recipe, Step, ZScore
from braindecode_suite.core.reliability import KeepReliable
from braindecode_suite.core.sensors import SensorSpace
from braindecode_suite.core.split import Split
from braindecode_suite.core.step_levels import block_columns, level_keys
from braindecode_suite.core.study import Cohort, Study
from braindecode_suite.encoders import ENCODERS
from braindecode_suite.learning.ridge_warnings import RidgeWarning
from braindecode_suite.workflows.configuration import merge
from braindecode_suite.workflows.controls import shuffled_pairs
from braindecode_suite.workflows.scoring import Predicted
from braindecode_suite.workflows.sensor_recipe import SensorRecipe
from braindecode_suite.workflows.steps import Arrays, Steps

RETRIEVED = frozenset({"retrieval", "text"})
"""Roles whose predictions are ranked: single test trials are kept, and means of training and validation images."""
HASHED_ROWS = 512
"""Rows read at a time to tell whether responses are still the same."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Prepared:
    """One subject's study under one split, perhaps with other people's: read through recipes fitted on training rows.

    Attributes
    ----------
    study : Study
        Prepared.
    split : Split
        Of `study` and `others`, in this order.
    stimulus_ids : dict of part to object array
        Unique ids of each part, sorted.
    others : tuple of Study
        Prepared, of other people who train too.
    identities : dict
        What `study_identity` found of studies and their rows. Splits of the same prepared studies share one, so that their responses
        are read once.
    """

    study: Study
    split: Split
    stimulus_ids: dict[str, np.ndarray]
    others: tuple[Study, ...] = ()
    identities: dict[tuple[Study, bytes], dict[str, Any]] = field(default_factory=dict)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What results of this study under this split depend on, for the keys of steps: of responses those in a part of the split."""
        own, *others = (
            self._identity(study, rows)
            for study, rows in zip((self.study, *self.others), self.split.rows, strict=True)
        )
        return {"split": self.split.hash, **own, **({"others": others} if others else {})}

    def _identity(self, study: Study, rows: np.ndarray) -> dict[str, Any]:
        key = study, rows.tobytes()
        if key not in self.identities:
            self.identities[key] = study_identity(study, rows)
        return self.identities[key]

    def cohort(self, part: str) -> Cohort:
        """Return the rows of one part, read through the recipes; of several people those who have any."""
        return self._of(self.split.cohort(part, [self.study, *self.others]), part)

    def fitting(self, study: Study) -> tuple[Cohort, Cohort]:
        """Return training and validation rows of the people who train, with `study` in the place of the subject's own."""
        studies = [study, *self.others]
        train, validation = (
            self._of(self.split.cohort(part, studies), "train") for part in ("train", "validation")
        )
        return train, validation

    def _of(self, cohort: Cohort, part: str) -> Cohort:
        """Return a cohort without the people who have no rows in a part, unless nobody has any."""
        there = [k for k, rows in enumerate(getattr(self.split, part)) if len(rows)] or [0]
        return Cohort(tuple(cohort.studies[k] for k in there), tuple(cohort.rows[k] for k in there))


@dataclass(frozen=True, kw_only=True, eq=False)
class Fitted:
    """A fitted model and what it predicts.

    Attributes
    ----------
    name, seed : str
    control : str
        ``brain`` or ``shuffled-train``.
    test : dict of role to Latents
        One row a test trial for the roles that are `RETRIEVED`, one row a test image for the others.
    train, validation : Latents
        Role ``retrieval`` for the training and the validation images, averaged over trials.
    train_text, validation_text : Latents, optional
        Role ``text``, alike, of a model that was fitted to captions too.
    folder : Path
        Where the model is saved.
    facts : dict
        n_parameters, seconds, chosen, history.
    routing : list of dict
        Where the queries of latents look, averaged over test trials, of an encoder that routes; see `BrainRouting.routing_table`.
    """

    name: str
    seed: str
    control: str
    test: dict[str, Latents]
    train: Latents
    validation: Latents
    folder: Path
    train_text: Latents | None = None
    validation_text: Latents | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    routing: list[dict[str, Any]] = field(default_factory=list)

    @property
    def predicted(self) -> Predicted:
        """What is scored as retrieval."""
        return Predicted(
            model=self.name,
            seed=self.seed,
            test=self.test["retrieval"],
            train=self.train,
            validation=self.validation,
            control=self.control,
        )

    @property
    def predicted_text(self) -> Predicted | None:
        """What is scored as retrieval by captions, of a model that was fitted to them; its name says so."""
        if self.train_text is None:
            return None
        return Predicted(
            model=f"{self.name}, text",
            seed=self.seed,
            test=self.test["text"],
            train=self.train_text,
            validation=self.validation_text,
            control=self.control,
        )

    def means(self, role: str, ids: Sequence[str] | np.ndarray) -> Latents:
        """Return the mean prediction of test images, in the order of `ids`."""
        latents = self.test[role]
        averaged = latents.mean_by_stimulus() if role in RETRIEVED else latents
        return averaged.select(np.asarray(ids, dtype=object))


def study_identity(study: Study, rows: np.ndarray | None = None) -> dict[str, Any]:
    """Return what tells a study from another one, every response of `rows` (all by default) included, for the keys of steps."""
    rows = np.arange(len(study.trials)) if rows is None else rows
    blocks = [data_hash(study.read(part)) for part in np.array_split(rows, max(1, len(rows) // HASHED_ROWS))]
    return {
        "recipe": "" if study.recipe is None else study.recipe.hash,
        "space": study.space.describe(),
        "stimuli": "" if study.stimuli is None else study.stimuli.fingerprint,
        "responses": data_hash(blocks),
    }


def prepare(
    study: Study,
    split: Split,
    zscore_by: str | None,
    keep_reliable: float | None = None,
    sensors: SensorRecipe | None = None,
) -> Prepared:
    """Fit the preprocessing on the split's training rows.

    Parameters
    ----------
    study : Study
    split : Split
    zscore_by : str or None
        Block within which units are z-scored, session or run. Where the first minutes of a recording leave blocks without training rows,
        those blocks are normalised by label-free statistics of their own (transductive, and printed as such).
    keep_reliable : float or None
        Least single-trial noise ceiling of the units that are kept, from repeats of training images; None keeps all.
    sensors : SensorRecipe, optional
        What epochs of MEG or EEG go through instead of the z-scoring.
    """
    split.check_training_size()
    steps: list[Step] = []
    if isinstance(study.space, SensorSpace):
        if keep_reliable is not None:
            raise InputError("`keep_reliable`", expected="None for sensors", found=f"{keep_reliable:g}")
        sensors = sensors or SensorRecipe()
        scope = "train" if sensors.scale_by is None else _scope(study, split, sensors.scale_by)
        steps += sensors.steps(study.space, scope)
    elif zscore_by is not None:
        steps.append(ZScore(by=block_columns(zscore_by), scope=_scope(study, split, zscore_by)))
    if keep_reliable is not None:
        steps.append(KeepReliable(keep_reliable))
    recipe = Recipe(tuple(steps))
    prepared = study.prepared(recipe, split.train[0])
    ids = {
        part: np.array(sorted(split.keys(part, "stimulus")), dtype=object)
        for part in ("train", "validation", "test")
    }
    return Prepared(study=prepared, split=split, stimulus_ids=ids)


def prepare_sensors(study: Study, train: np.ndarray, read: np.ndarray, sensors: SensorRecipe) -> Study:
    """Return one of several people's study, preprocessed by its own training rows.

    Parameters
    ----------
    study : Study
    train, read : int arrays
        Training rows, none for a person who is left out, and all rows that will be read. Where a block that is read
        has fewer than two, those that have none are scaled, and those with fewer than two whitened, by label-free statistics of their own
        (transductive, and described as such).
    sensors : SensorRecipe
    """
    if not isinstance(study.space, SensorSpace):
        raise InputError(f"sub-{study.subject}", expected="recordings of sensors", found=str(study.space))
    blocks = level_keys(study.trials, block_columns(sensors.scale_by))
    known, counts = np.unique(blocks[train], return_counts=True)
    scope = "train" if np.isin(blocks[read], known[counts > 1]).all() else "heldout-block"
    return study.prepared(Recipe(tuple(sensors.steps(study.space, scope))), train)


def _scope(study: Study, split: Split, block: str) -> str:
    """Return how blocks are z-scored: by training rows, unless the first minutes leave some without."""
    if split.minutes is None:
        return "train"
    blocks = level_keys(study.trials, block_columns(block))
    known, counts = np.unique(blocks[split.train[0]], return_counts=True)
    read = np.concatenate([split.train[0], split.validation[0], split.test[0]])
    return "train" if np.isin(blocks[read], known[counts > 1]).all() else "heldout-block"


def encoder_config(name: str, preset: str, settings: Mapping[str, Any]) -> Config:
    """Return an encoder's config: a preset, changed by settings; mistakes name the key."""
    encoder = ENCODERS[name]
    if preset:
        check_option(f"encoder_preset (of {name})", preset, encoder.PRESETS)
    start = encoder.preset(preset or encoder.PRESETS[0]).model_dump(mode="json")
    built: Config = build(encoder.config_class, merge(start, dict(settings)), f"settings of encoder {name!r}")
    return built


def maps_folder(steps: Steps, prepared: Prepared) -> Path:
    """Return where models of all seeds find the trials of a study mapped that are too many for memory."""
    return steps.path("preprocessed trials", prepared.identity)


def fit_model(
    steps: Steps,
    prepared: Prepared,
    targets: Mapping[str, Target],
    *,
    name: str,
    config: Config,
    context: FitContext,
    label: str,
    seeded: bool = True,
    shuffled: bool = False,
    keep_maps: bool = True,
) -> Fitted:
    """Fit one encoder, or read back what an earlier run of the same step left.

    Parameters
    ----------
    steps : Steps
    prepared : Prepared
    targets : mapping of role to Target
    name : str
        Catalogue name of the encoder.
    config : Config
    context : FitContext
        Its `work_dir` is replaced by the step's own folder, where an interrupted training goes on, and its `maps_dir` by
        `maps_folder`.
    label : str
        Name of the step.
    seeded : bool
        Whether the seed changes anything (a closed form has none).
    shuffled : bool
        Fit on shuffled pairs.
    keep_maps : bool
        Whether other models will be fitted to the same trials, so that a map of them is worth its disk.
    """
    split, maps = prepared.split, maps_folder(steps, prepared)
    key = {
        **prepared.identity,
        "targets": {role: target.name for role, target in targets.items()},
        "encoder": name,
        "config": config.model_dump(mode="json"),
        "seed": context.seed,
        "shuffled": shuffled,
    }
    folder = steps.path(label, key)
    model_dir = folder / "model"

    def compute() -> tuple[Arrays, dict[str, Any]]:
        study, earlier = prepared.study, set(maps.glob("*.npy"))
        if shuffled:
            study = shuffled_pairs(study, [split.train[0], split.validation[0]], context.seed)
        encoder = ENCODERS[name](
            config,
            replace(
                context,
                work_dir=folder / "training",
                maps_dir=maps,
                split_hash=split.hash,
            ),
        )
        clock = time.perf_counter()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", RidgeWarning)
            encoder.fit(*prepared.fitting(study), targets)
        for warning in caught:
            if not issubclass(warning.category, RidgeWarning):
                warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
        seconds = time.perf_counter() - clock
        test = predict_trials(encoder, prepared.cohort("test"), context.seed)
        arrays: Arrays = {}
        for part in ("train", "validation"):
            seen = predict_trials(encoder, prepared.cohort(part), context.seed)
            for role in sorted(RETRIEVED & seen.keys()):
                mean = seen[role].mean_by_stimulus()
                arrays |= {f"{part}_{role}": mean.values, f"{part}_ids": mean.ids.astype(np.str_)}
        for role, latents in test.items():
            kept = latents if role in RETRIEVED else latents.mean_by_stimulus()
            arrays |= {f"test_{role}": kept.values, f"test_{role}_ids": kept.ids.astype(np.str_)}
        if hasattr(encoder, "routing_table"):
            table = encoder.routing_table(prepared.cohort("test"))
            arrays |= {f"routing_{name}": np.array(table[name].tolist()) for name in table}
        shutil.rmtree(model_dir, ignore_errors=True)
        encoder.save(model_dir)
        facts = {
            "n_parameters": count_parameters(encoder, model_dir),
            "seconds": round(seconds, 2),
            "warnings": sorted(
                {f"{name}: {w.message}" for w in caught if issubclass(w.category, RidgeWarning)}
                | {f"{name}: {text}" for text in getattr(encoder, "warnings_", ())}
            ),
            "departures": list(config.departures()) if hasattr(config, "departures") else [],
            "chosen": chosen(encoder),
            "resumed_from_epoch": int(getattr(encoder, "resumed_from_", 0)),
            "history": list(encoder.history_),
        }
        written = [path.stat().st_size for path in maps.glob("*.npy") if path not in earlier]
        if written:
            facts["figures"] = {"mapped_gigabytes": round(sum(written) / 1e9, 3)}
        shutil.rmtree(folder / "training", ignore_errors=True)
        return arrays, facts

    arrays, facts = steps.arrays(label, key, compute)
    if not keep_maps:
        shutil.rmtree(maps, ignore_errors=True)
    names = {role: target.name for role, target in targets.items()}

    def latents(kind: str, role: str, ids: str) -> Latents:
        return Latents(arrays[f"{kind}_{role}"], arrays[ids].astype(object), names[role], "predicted")

    return Fitted(
        name=name,
        seed=str(context.seed) if seeded else "",
        control="shuffled-train" if shuffled else "brain",
        test={role: latents("test", role, f"test_{role}_ids") for role in names if f"test_{role}" in arrays},
        train=latents("train", "retrieval", "train_ids"),
        validation=latents("validation", "retrieval", "validation_ids"),
        train_text=latents("train", "text", "train_ids") if "train_text" in arrays else None,
        validation_text=latents("validation", "text", "validation_ids")
        if "validation_text" in arrays
        else None,
        folder=model_dir,
        facts=facts,
        routing=_rows({k.removeprefix("routing_"): v for k, v in arrays.items() if k.startswith("routing_")}),
    )


def predict_trials(encoder: Any, cohort: Cohort, seed: int) -> dict[str, Latents]:
    """Return predictions; what the encoder keeps in `warnings_` is told with its facts, and not here."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found: dict[str, Latents] = encoder.predict(cohort, seed=seed)
    for warning in caught:
        if str(warning.message) not in getattr(encoder, "warnings_", ()):
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return found


def _rows(columns: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """Return a table's rows."""
    lists = [column.tolist() for column in columns.values()]
    return [dict(zip(columns, row, strict=True)) for row in zip(*lists, strict=True)]


def count_parameters(encoder: Any, model_dir: Path) -> int:
    """Count a model's numbers: what it says itself, or the tensors it saved."""
    if hasattr(encoder, "n_parameters"):
        told = encoder.n_parameters
        return int(told() if callable(told) else told)
    from safetensors import safe_open

    total = 0
    for path in sorted(model_dir.glob("*.safetensors")):
        with safe_open(path, framework="np") as file:
            keys = [key for key in file.keys() if not key.startswith(("penalties", "cv_r2", "recipe"))]  # noqa: SIM118
            total += sum(int(np.prod(file.get_slice(key).get_shape())) for key in keys)
    return total


def chosen(encoder: Any) -> dict[str, Any]:
    """Return what the fit chose on training or validation rows, as plain numbers."""
    found: dict[str, Any] = {}
    for name in ("best_epoch_", "best_epoch"):
        if hasattr(encoder, name):
            found["best_epoch"] = int(getattr(encoder, name))
    for role, penalties in getattr(encoder, "penalties_", {}).items():
        found[f"penalty_{role}"] = [float(v) for v in np.nanquantile(penalties, [0, 0.5, 1])]
    for role, r2 in getattr(encoder, "cv_r2_", {}).items():
        found[f"cv_r2_{role}_mean"] = float(np.nanmean(r2))
    return found
