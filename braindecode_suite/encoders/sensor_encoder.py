"""What the decoders of sensors share: single trials in, latents of every role out, a folder; each has a network of its own."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

import numpy as np
import torch
from torch import nn

from braindecode_suite.core.checks import check_match, check_option
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.files import data_hash
from braindecode_suite.core.latents import ROLES, Latents, Target
from braindecode_suite.core.protocols import FitContext
from braindecode_suite.core.study import Cohort, Study
from braindecode_suite.encoders.latent_task import TargetLatents
from braindecode_suite.encoders.meg_module_config import SensorTrainingConfig
from braindecode_suite.encoders.sensor_task import RoleTarget, SensorTask
from braindecode_suite.learning.checkpoints import (
    SavedModel,
    check_cohort,
    check_targets,
    describe_fit,
    open_model,
    recipe_tensors,
    save_model,
)
from braindecode_suite.learning.low_rank import LowRankLatents, principal_basis
from braindecode_suite.learning.model_tensors import (
    add_prefix,
    restore_target_scalers,
    take_prefix,
    target_scaler_tensors,
)
from braindecode_suite.learning.responses import read_blocks
from braindecode_suite.learning.sensor_trials import find_layouts, pad_sensors, sensor_space
from braindecode_suite.learning.training import train as run_training

BLOCK = 128

ConfigT = TypeVar("ConfigT", bound=SensorTrainingConfig)


class SensorWarning(UserWarning):
    """A prediction that rests on less than it seems: of a person that the model does not know, or of a trial without sensors."""


class SensorEncoder(ABC, Generic[ConfigT]):
    """Fits a network to single trials of sensors, each an item, and predicts each trial alone.

    Missing sensors (NaN, or without a place in a session) are masked. The role ``retrieval`` is trained by a contrast, all others by
    a squared error; see `SensorTrainingConfig`. After training the length of the retrieval predictions, which a contrast leaves
    free, is set by one number, the least-squares one on validation images.

    Parameters
    ----------
    config : SensorTrainingConfig
    context : FitContext

    Attributes
    ----------
    history_ : list of dict
        One row a validated epoch.
    best_epoch_, resumed_from_ : int
    network_ : nn.Module
    warnings_ : list of str
        What `predict` had to say.
    """

    name: ClassVar[str]
    by_place: ClassVar[bool] = True  # whether sensors are told apart by where they lie, else by their number
    config_class: ClassVar[type[SensorTrainingConfig]]
    PRESETS: ClassVar[tuple[str, ...]]

    def __init__(self, config: ConfigT, context: FitContext) -> None:
        self.config, self.context = config, context
        self.history_: list[dict[str, float]] = []
        self.warnings_: list[str] = []
        self.best_epoch_, self.resumed_from_ = 0, 0

    @abstractmethod
    def build_network(self, n_subjects: int, shape: tuple[int, int], widths: Mapping[str, int]) -> nn.Module:
        """Build the network.

        Parameters
        ----------
        n_subjects : int
        shape : (int, int)
            Sensors (of the person who has the most) and times.
        widths : mapping of role to int
            Width of each head.
        """

    @property
    def n_parameters(self) -> int:
        """Number of trained parameters."""
        self._check_fitted()
        return sum(parameter.numel() for parameter in self.network_.parameters())

    def fit(self, train: Cohort, validation: Cohort, targets: Mapping[str, Target]) -> Self:
        """Train on training rows, keep the weights that are best on validation images.

        Raises
        ------
        InputError
            Of an unknown role, no targets, no validation rows, a space that is not of sensors, people with different times.
        """
        for role in targets:
            check_option("role", role, ROLES)
        if not targets:
            raise InputError("`targets`", expected="at least one role", found="none")
        if not len(validation):
            raise InputError("`validation`", expected="validation rows to stop on", found="none")
        check_match("`validation`", {"subjects": train.subjects}, {"subjects": validation.subjects})
        spaces = [sensor_space(study) for study in train.studies]
        for study, space in zip(train.studies, spaces, strict=True):
            check_match(f"sub-{study.subject}", _clock(spaces[0].describe()), _clock(space.describe()))
        names = max((_names(study) for study in train.studies), key=len)
        for study in train.studies:
            self._check_names(f"sub-{study.subject}", study, names)
        facts = describe_fit(train, targets, self.context.split_hash)
        train_ids, validation_ids = list(train.stimulus_ids), list(validation.stimulus_ids)
        self._bases: dict[str, np.ndarray] = {}
        role_targets = {
            role: self._role_target(role, target, train, train_ids, validation_ids)
            for role, target in targets.items()
        }
        self._target_scalers = {role: target.latents.scaler for role, target in role_targets.items()}
        widths = {
            role: len(self._bases[role]) if role in self._bases else target.tokens * target.width
            for role, target in targets.items()
        }
        n_times = len(spaces[0].times)
        shape = (max(int(study.kept.sum()) for study in train.studies), n_times)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.context.seed)
            network = self.build_network(len(train.studies), shape, widths)
        task = SensorTask(
            network.to(self.context.device),
            self.config,
            train,
            validation,
            role_targets,
            int(np.ceil(self.config.shortest_window * spaces[0].sfreq)),
            self.context.device,
            self.context.maps_dir or self.context.work_dir / "trials",
        )
        rows = data_hash(
            *[np.asarray(r, np.int64) for r in (*train.rows, *validation.rows)], train_ids, validation_ids
        )
        result = run_training(
            task,
            self.config.training,
            work_dir=self.context.work_dir / self.name,
            seed=self.context.seed,
            device=self.context.device,
            precision=self.context.precision,
            progress=self.context.progress,
            identity={"facts": facts, "rows": rows, "config": self.config.model_dump(mode="json")},
        )
        self.network_, self.history_ = network, result.history
        self.best_epoch_, self.resumed_from_ = result.best_epoch, result.resumed_from
        gain = 1.0
        if "retrieval" in targets:
            gain = task.retrieval_gain(network.to(self.context.device))
            network.to("cpu")
        self.facts_ = facts | {
            "shape": list(shape),
            "sensors": names,
            "widths": widths,
            "absent_sensors": task.layouts.absent,
            "retrieval_gain": gain,
            "history": result.history,
            "best_epoch": result.best_epoch,
        }
        self._recipes = recipe_tensors(train)
        return self

    def _role_target(
        self, role: str, target: Target, train: Cohort, train_ids: list[str], validation_ids: list[str]
    ) -> RoleTarget:
        config = self.config
        each = config.standardise == "dimension" and role != "retrieval"
        latents = TargetLatents(target, train.stimuli, train_ids, validation_ids, each_dimension=each)
        wide = config.low_rank is not None and target.tokens * target.width > config.low_rank
        if not wide or role == "retrieval":
            return RoleTarget(latents, None, target.tokens)
        assert config.low_rank is not None
        images = list(dict.fromkeys(train_ids))

        def flat(rows: np.ndarray) -> np.ndarray:
            return latents.of([images[k] for k in rows]).reshape(len(rows), -1)

        basis = principal_basis(flat, len(images), config.low_rank)
        self._bases[role] = basis
        return RoleTarget(
            latents, LowRankLatents(latents.of, train_ids + validation_ids, basis), target.tokens
        )

    @torch.no_grad()
    def predict(self, cohort: Cohort, seed: int = 0, *, until: float | None = None) -> dict[str, Latents]:
        """Return one row of latents for each row of the cohort, in order, for every role it was fitted to.

        Parameters
        ----------
        cohort : Cohort
            Of the people that the model knows; of others too where the config says ``unknown_subjects='mean'``.
        seed : int
            Changes nothing.
        until : float, optional
            Seconds: samples after this time are not looked at. Needs a model of growing windows.
        """
        self._check_fitted()
        subjects = self._find_subjects(cohort, "cohort")
        n_times = self._window(cohort, until)
        network, device = self.network_, self.context.device
        if next(network.parameters()).device.type != torch.device(device).type:
            network.to(device)
        if network.training:  # `eval` forgets what attention keeps of the layout
            network.eval()
        parts: dict[str, list[np.ndarray]] = {role: [] for role in self.facts_["targets"]}
        layouts = find_layouts(cohort)
        n_sensors = max(layouts.n_sensors, self.facts_["shape"][0])
        positions = np.full((len(layouts.positions), n_sensors, 2), np.nan, np.float32)
        positions[:, : layouts.n_sensors] = layouts.positions
        where, empty = self._place(positions), 0
        for (study, rows), subject, of_trial in zip(cohort, subjects, layouts.of_trial, strict=True):
            for places, block in read_blocks(study, rows, BLOCK):
                empty += int(np.isnan(block[:, :, :n_times]).any(axis=2).all(axis=1).sum())
                x = torch.from_numpy(np.ascontiguousarray(pad_sensors([block], n_sensors)[:, :, :n_times]))
                layout = torch.from_numpy(of_trial[rows[places]]).to(device)
                who = torch.full((len(x),), subject, device=device)
                for role, values in network(x.to(device), where, layout, who).items():
                    parts[role].append(values.float().cpu().numpy())
        if empty:
            self._warn(
                f"{empty} of {len(cohort)} trials have no sensor without NaN: what is predicted is not theirs"
            )
        return {role: self._latents(role, blocks, cohort) for role, blocks in parts.items()}

    def _place(self, positions: np.ndarray) -> torch.Tensor:
        """Return the positions on the device: the same tensor again while they stay the same, so that attention keeps its weights."""
        device = torch.device(self.context.device)
        kept = getattr(self, "_placed", None)
        if (
            kept is None
            or not np.array_equal(kept[0], positions, equal_nan=True)
            or kept[1].device.type != device.type
        ):
            self._placed = positions, torch.from_numpy(positions).to(device)
        return self._placed[1]

    def _latents(self, role: str, blocks: list[np.ndarray], cohort: Cohort) -> Latents:
        target = self.facts_["targets"][role]
        width = self.facts_["widths"][role]
        values = np.concatenate([np.empty((0, width), np.float32), *blocks])
        if role in self._bases:
            values = values @ self._bases[role]
        if role == "retrieval":
            values = values * np.float32(self.facts_["retrieval_gain"])
        values = values.reshape(len(values), target["tokens"], target["width"])
        values = self._target_scalers[role].undo(values)
        return Latents(values, cohort.stimulus_ids, target["name"], "predicted")

    def _find_subjects(self, cohort: Cohort, where: str | Path) -> list[int]:
        """Return the number of each study's person, -1 for one that the model does not know, if that is allowed."""
        known = [study.subject in self.facts_["subjects"] for study in cohort.studies]
        if self.config.unknown_subjects == "refuse" or all(known):
            check_cohort(self.facts_, cohort, where)
            return [self.facts_["subjects"].index(study.subject) for study in cohort.studies]
        found = []
        for study, is_known in zip(cohort.studies, known, strict=True):
            if is_known:
                check_cohort(self.facts_, Cohort.of(study, np.empty(0, int)), where)
                found.append(self.facts_["subjects"].index(study.subject))
                continue
            check_match(where, {"dataset": self.facts_["dataset"]}, {"dataset": study.dataset})
            check_match(where, _clock(self.facts_["spaces"][0]), _clock(sensor_space(study).describe()))
            self._check_names(where, study, self.facts_["sensors"])
            self._warn(
                f"sub-{study.subject} is none of the people that the model was fitted to "
                f"({', '.join(self.facts_['subjects'])}): the mean of theirs stands in"
            )
            found.append(-1)
        return found

    def _check_names(self, where: str | Path, study: Study, names: list[str]) -> None:
        """Raise unless a network that tells sensors by their number finds those of the others, or the first of them."""
        own = _names(study)
        if self.by_place or own == names[: len(own)]:
            return
        k = next(k for k, name in enumerate(own) if [name] != names[k : k + 1])
        raise InputError(
            where,
            expected=f"sensor {k + 1} to be {names[k]!r}"
            if k < len(names)
            else f"at most {len(names)} sensors",
            found=repr(own[k]),
            hint=f"{self.name} tells sensors by their number; meg-module by their place",
        )

    def _window(self, cohort: Cohort, until: float | None) -> int:
        times = sensor_space(cohort.studies[0]).times
        if until is None:
            return len(times)
        if self.config.window != "growing":
            raise InputError("`until`", expected="a model of growing windows", found="one of whole trials")
        n_times = int((times <= until + 1e-9).sum())
        if n_times < 1:
            raise InputError("`until`", expected=f"at least {times[0]:g} seconds", found=f"{until:g}")
        return n_times

    def _warn(self, text: str) -> None:
        if text not in self.warnings_:
            self.warnings_.append(text)
        warnings.warn(text, SensorWarning, stacklevel=3)

    def save(self, folder: Path, card: Mapping[str, Any] | None = None) -> None:
        """Write what people share, one adapter a person, config.json and README.md."""
        self._check_fitted()
        shared = add_prefix("network.", self.network_.state_dict())
        own = shared.pop(f"network.{getattr(self.network_, 'SUBJECT_TENSOR', '')}", None)
        shared |= target_scaler_tensors(self._target_scalers)
        shared |= {f"basis.{role}": torch.from_numpy(basis) for role, basis in self._bases.items()}
        subjects = self.facts_["subjects"]
        saved = SavedModel.of(
            self.name,
            self.config,
            self.context,
            self.facts_,
            adapters={name: {} if own is None else {"own": own[k]} for k, name in enumerate(subjects)},
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
    ) -> Self:
        """Read a saved model; one of other data than `cohort` or of other `targets` is an error naming both sides."""
        saved = open_model(folder, cls.name, seed=seed)  # whether the cohort will do is up to the config
        facts, shared = saved.facts, saved.shared
        model = cls(saved.read_config(cls.config_class, folder), saved.context(folder, device))  # type: ignore[arg-type]
        model.facts_, model._recipes = facts, saved.recipes
        model.history_, model.best_epoch_ = facts["history"], facts["best_epoch"]
        if cohort is not None:
            model._find_subjects(cohort, folder)
        check_targets(facts, targets or {}, folder)
        model._target_scalers = restore_target_scalers(shared, facts["targets"])
        model._bases = {role: basis.numpy() for role, basis in take_prefix("basis.", shared).items()}
        n_sensors, n_times = facts["shape"]
        with torch.random.fork_rng(devices=[]):
            network = model.build_network(len(facts["subjects"]), (n_sensors, n_times), facts["widths"])
        state = take_prefix("network.", shared)
        own = [saved.adapters[subject].get("own") for subject in facts["subjects"]]
        if own[0] is not None:
            state[getattr(network, "SUBJECT_TENSOR", "")] = torch.stack(
                [tensor for tensor in own if tensor is not None]
            )
        network.load_state_dict(state)
        model.network_ = network.eval()
        return model

    def _check_fitted(self) -> None:
        if not hasattr(self, "network_"):
            raise InputError(self.name, expected="a fitted encoder", found="an unfitted one", hint="call fit")


def _names(study: Study) -> list[str]:
    """Return the names of the sensors that `Study.read` gives."""
    return [name for name, kept in zip(sensor_space(study).names, study.kept, strict=True) if kept]


def _clock(space: Mapping[str, Any]) -> dict[str, Any]:
    """Return what people must share whatever their sensors: sampling rate and times."""
    return {"sfreq": space["sfreq"], "times": space["times"]}
