"""Model folders: safetensors and one ``config.json``, with everything a model must match before it is used again.

A folder holds several models and seeds; ``config.json`` has one entry for each, named ``<model>_seed-<k>``. What all
subjects share lies in ``<model>_seed-<k>.safetensors``, what belongs to one in ``<model>_seed-<k>_sub-<label>.safetensors``.
An encoder hands `SavedModel.of` what it has learned to `save_model`, and gets it back from `open_model`.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from braindecode_suite import __version__
from braindecode_suite.core.checks import check_file, check_match, check_option
from braindecode_suite.core.config import Config, ConfigT, build
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.features import FeatureSource, check_known_sources
from braindecode_suite.core.files import write_aside, write_json, write_text
from braindecode_suite.core.latents import Target
from braindecode_suite.core.protocols import FitContext
from braindecode_suite.core.recipe import Recipe
from braindecode_suite.core.signal import SignalRecipe
from braindecode_suite.core.study import Cohort

FORMAT = "braindecode_suite-models-1"
MATCHED = ("dataset", "subjects", "spaces", "recipes", "signals")
RECIPE = "recipe."


@dataclass(frozen=True, kw_only=True)
class SavedModel:
    """One model of a folder.

    Attributes
    ----------
    name : str
        Catalogue name of the encoder.
    seed : int
    config : dict
        Of the encoder.
    facts : dict
        What it was fitted on: ``dataset, subjects, spaces, recipes, steps, signals, targets, split_hash`` and what the model adds.
    shared : dict of str to Tensor
        What all subjects share; may be empty.
    adapters : dict of str to dict of str to Tensor
        By subject.
    """

    name: str
    seed: int
    config: dict[str, Any]
    facts: dict[str, Any]
    shared: dict[str, Tensor]
    adapters: dict[str, dict[str, Tensor]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        name: str,
        config: Config,
        context: FitContext,
        facts: Mapping[str, Any],
        *,
        adapters: Mapping[str, Mapping[str, Tensor]],
        recipes: Mapping[str, Mapping[str, Tensor]],
        shared: Mapping[str, Tensor] | None = None,
    ) -> SavedModel:
        """Gather what a fitted encoder is made of.

        Parameters
        ----------
        name : str
        config : Config
        context : FitContext
            Of which the seed is kept.
        facts : mapping
        adapters : mapping of subject to mapping of str to Tensor
            Without the preprocessing...
        recipes : mapping of subject to mapping of str to Tensor
            ...which `recipe_tensors` returns, and which goes into the same file.
        shared : mapping of str to Tensor, optional
        """
        return cls(
            name=name,
            seed=context.seed,
            config=config.model_dump(mode="json"),
            facts=dict(facts),
            shared=dict(shared or {}),
            adapters={subject: {**tensors, **recipes[subject]} for subject, tensors in adapters.items()},
        )

    @property
    def recipes(self) -> dict[str, dict[str, Tensor]]:
        """The statistics of each subject's preprocessing, by subject, as `recipe_tensors` made them."""
        return {
            subject: {key: value for key, value in tensors.items() if key.startswith(RECIPE)}
            for subject, tensors in self.adapters.items()
        }

    def read_config(self, config_class: type[ConfigT], folder: Path) -> ConfigT:
        """Return the encoder's config; one that another version wrote and this one cannot read is an error that names the file."""
        return build(config_class, self.config, folder / "config.json")

    def context(self, folder: Path, device: str) -> FitContext:
        """Return the seed and the split that the model was fitted with, for use of it on `device`."""
        return FitContext(work_dir=folder, seed=self.seed, device=device, split_hash=self.facts["split_hash"])


def describe_fit(cohort: Cohort, targets: Mapping[str, Target], split_hash: str) -> dict[str, Any]:
    """Return the facts that a model carries: data, spaces, preprocessing, targets by role, split."""
    return {
        **cohort.describe(),
        "recipes": [None if study.recipe is None else study.recipe.hash for study in cohort.studies],
        "steps": [None if study.recipe is None else study.recipe.frozen()[0] for study in cohort.studies],
        "signals": [None if study.signal is None else study.signal.describe() for study in cohort.studies],
        "targets": {
            role: {"name": target.name, "tokens": target.tokens, "width": target.width}
            for role, target in targets.items()
        },
        "split_hash": split_hash,
        "version": __version__,
    }


def recipe_tensors(cohort: Cohort) -> dict[str, dict[str, Tensor]]:
    """Return the statistics of each subject's preprocessing, by subject; what is no number stands in the facts of `describe_fit`."""
    tensors: dict[str, dict[str, Tensor]] = {}
    for study in cohort.studies:
        numbers = {} if study.recipe is None else study.recipe.frozen()[1]
        tensors[study.subject] = {f"{RECIPE}{k}": torch.from_numpy(np.array(v)) for k, v in numbers.items()}
    return tensors


def restore_recipe(
    facts: Mapping[str, Any], tensors: Mapping[str, Tensor], subject: str
) -> tuple[SignalRecipe | None, Recipe | None]:
    """Return the preprocessing that a saved model was fitted through, frozen: of the signal, and of the epochs.

    Parameters
    ----------
    facts : dict
        Of the model, as `describe_fit` made them.
    tensors : dict of str to Tensor
        As `recipe_tensors` made them for this subject; others may be among them.
    subject : str
    """
    check_option("subject", subject, facts["subjects"])
    at = facts["subjects"].index(subject)
    numbers = {
        key.removeprefix(RECIPE): value.numpy() for key, value in tensors.items() if key.startswith(RECIPE)
    }
    signal, steps = facts["signals"][at], facts["steps"][at]
    return (
        None if signal is None else SignalRecipe.from_description(signal),
        None if steps is None else Recipe.from_frozen(steps, numbers),
    )


def check_cohort(facts: Mapping[str, Any], cohort: Cohort, where: str | Path) -> None:
    """Raise `InputError`, naming both sides, unless `cohort` is of the data that a model was fitted on.

    The cohort may hold fewer subjects than the model, never others.
    """
    here = describe_fit(cohort, {}, "")
    check_match(where, {"dataset": facts["dataset"]}, here)
    for k, subject in enumerate(here["subjects"]):
        if subject not in facts["subjects"]:
            check_match(where, {"subjects": facts["subjects"]}, here)
        at = facts["subjects"].index(subject)
        for key in ("spaces", "recipes", "signals"):
            if key in facts and here[key][k] != facts[key][at]:
                expected, found = facts[key][at], here[key][k]
                raise InputError(
                    where,
                    expected=f"sub-{subject} with {key[:-1]} {expected!r}",
                    found=f"{key[:-1]} {found!r}",
                )


def check_targets(facts: Mapping[str, Any], targets: Mapping[str, Target], where: str | Path) -> None:
    """Raise `InputError`, naming both sides, unless `targets` are those a model was fitted to."""
    for role, target in targets.items():
        known = facts["targets"].get(role, {}).get("name")
        if known != target.name:
            raise InputError(where, expected=f"target of role {role!r}: {known!r}", found=repr(target.name))


def save_model(folder: Path, model: SavedModel, card: Mapping[str, Any] | None = None) -> None:
    """Write one model into `folder`, beside those already there.

    Everything is written aside, then renamed; tensors and ``config.json`` carry the same token, so that a save that was
    killed between two renames is noticed on loading.

    Parameters
    ----------
    folder : Path
    model : SavedModel
    card : mapping, optional
        Text of ``README.md``: its entry ``text``, or a list of all entries.
    """
    entries = _read_entries(folder / "config.json") if (folder / "config.json").is_file() else {}
    key, token = f"{model.name}_seed-{model.seed}", uuid.uuid4().hex
    files = {"shared": f"{key}.safetensors"}
    adapters = {subject: f"{key}_sub-{subject}.safetensors" for subject in model.adapters}
    contents = {files["shared"]: model.shared} | {
        adapters[s]: tensors for s, tensors in model.adapters.items()
    }
    entries[key] = {
        "model": model.name,
        "seed": model.seed,
        "token": token,
        "files": {**files, "adapters": adapters},
        "config": model.config,
        "facts": model.facts,
    }
    with ExitStack() as renames:  # nothing is renamed before everything is written
        config = renames.enter_context(write_aside(folder / "config.json"))
        write_json(config, {"format": FORMAT, "models": entries})
        for name, tensors in contents.items():
            plain = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
            save_file(plain, renames.enter_context(write_aside(folder / name)), metadata={"token": token})
    if card is not None:
        write_text(folder / "README.md", _card_text(card))


def load_model(folder: Path, name: str, *, seed: int | None = None) -> SavedModel:
    """Read one model of a folder.

    Parameters
    ----------
    folder : Path
    name : str
        Catalogue name of the encoder.
    seed : int, optional
        Needed only where the folder holds several seeds of it.
    """
    path = folder / "config.json"
    entries = _read_entries(path)
    matching = {k: e for k, e in entries.items() if e["model"] == name and seed in (None, e["seed"])}
    if len(matching) != 1:
        wanted = f"one {name!r} model" + ("" if seed is None else f" of seed {seed}")
        hint = "say which seed" if matching else ""
        raise InputError(
            path, expected=wanted, found=", ".join(matching or entries) or "no models", hint=hint
        )
    (entry,) = matching.values()
    files = entry["files"]
    return SavedModel(
        name=name,
        seed=entry["seed"],
        config=entry["config"],
        facts=entry["facts"],
        shared=_read_tensors(folder / files["shared"], entry["token"]),
        adapters={s: _read_tensors(folder / file, entry["token"]) for s, file in files["adapters"].items()},
    )


def open_model(
    folder: Path,
    name: str,
    *,
    seed: int | None = None,
    cohort: Cohort | None = None,
    targets: Mapping[str, Target] | None = None,
    sources: Sequence[FeatureSource] = (),
) -> SavedModel:
    """Read one model of a folder that is to be used on some data.

    Parameters
    ----------
    folder, name, seed
        As in `load_model`.
    cohort : Cohort, optional
    targets : mapping of role to Target, optional
        Of an encoder from brain to latents.
    sources : sequence of FeatureSource
        Of an encoder from images to responses.

    Raises
    ------
    InputError
        If the model was fitted to other data, targets or features; both sides are named.
    """
    saved = load_model(folder, name, seed=seed)
    if cohort is not None:
        check_cohort(saved.facts, cohort, folder)
    check_targets(saved.facts, targets or {}, folder)
    check_known_sources(folder, saved.facts["targets"], sources)
    return saved


def _read_entries(path: Path) -> dict[str, Any]:
    check_file(path, "a saved model's config.json")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(path, expected="JSON", found=str(error)) from error
    found = data.get("format") if isinstance(data, dict) else type(data).__name__
    if found != FORMAT:
        raise InputError(path, expected=f"format {FORMAT!r}", found=repr(found))
    entries: dict[str, Any] = data["models"]
    return entries


def _read_tensors(path: Path, token: str) -> dict[str, Tensor]:
    check_file(path, "a safetensors file that config.json names")
    try:
        with safe_open(path, framework="pt") as file:
            found = (file.metadata() or {}).get("token")
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
    except SafetensorError as error:
        raise InputError(path, expected="a whole safetensors file", found=str(error)) from error
    if found != token:
        raise InputError(path, expected=f"the tensors of config.json (token {token})", found=f"token {found}")
    return tensors


def _card_text(card: Mapping[str, Any]) -> str:
    if "text" in card:
        return str(card["text"])
    return "# Model card\n\n" + "".join(f"- **{key}**: {value}\n" for key, value in card.items())
